"""What `rait watch` is told of, as events, and what it does then, as actions."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

from rait.domain.causes import Cause
from rait.domain.troubles import Lines

Outcome = Literal[
    "unchanged", "done", "partial", "failed", "stopped", "held", "pending", "misconfigured"
]
"""How a sync ended, as in ``Report.status``; or rait held what was taken back, waits for a
confirmation, or has a configuration that is wrong."""


# Events.


class Tick(Struct, frozen=True):
    """It is time, by ``wake_at``."""


class FilesChanged(Struct, frozen=True):
    """Files that count have changed; ``what`` names them, as "rait.conf"."""

    what: tuple[str, ...]


class Polled(Struct, frozen=True):
    """The poll has ended. ``problem`` says why it failed; ``chance`` is drawn from 0 to 1.

    Of a source that tells of changes, ``follow`` says whether to follow it has ``begun`` with this
    poll, goes on (``alive``), or has ended (``lost``), which may come at any time.
    """

    changed: bool = False
    problem: str = ""
    chance: float = 0.5
    follow: Literal["begun", "alive", "lost"] | None = None


class LookedUp(Struct, frozen=True):
    """The look-up of all names has ended; ``problem`` says why nothing could be looked up."""

    changed: bool = False
    problem: str = ""
    chance: float = 0.5


class SourceTold(Struct, frozen=True):
    """The source that is followed tells of another peers list, or why it has none to be used."""

    changed: bool = True
    problem: str = ""


class Published(Struct, frozen=True):
    """To publish this node's entry has ended; whether it ``changed``, and what is wrong."""

    changed: bool = False
    problem: str = ""
    chance: float = 0.5


class EntryOutdated(Struct, frozen=True):
    """The registry does not have this node's entry as it should be."""


class LinksTouched(Struct, frozen=True):
    """Interfaces of ours were deleted or changed; without names, any of them may have been."""

    names: tuple[str, ...] = ()
    deleted: bool = False


class Synced(Struct, frozen=True):
    """The sync has ended.

    ``problems`` say what is not as it should be, and ``warnings`` what else its user should know.
    ``disturbed`` are the links that others had changed. ``stale``: a link has sent, and there was
    no handshake for so long that its peer may have another address.
    """

    outcome: Outcome
    problems: Lines = ()
    warnings: Lines = ()
    disturbed: frozenset[str] = frozenset()
    stale: bool = False


Service = Literal["files", "links", "metrics"]


class Served(Struct, frozen=True):
    """Whether changes of files and of links are noticed, and metrics served as configured.

    ``problem`` says why not.
    """

    what: Service
    problem: str = ""


class Hangup(Struct, frozen=True):
    """SIGHUP: sync with everything read anew."""


class Terminate(Struct, frozen=True):
    """SIGTERM or SIGINT: end."""


Event = (
    Tick
    | FilesChanged
    | Polled
    | LookedUp
    | SourceTold
    | Published
    | EntryOutdated
    | LinksTouched
    | Synced
    | Served
    | Hangup
    | Terminate
)


# Actions.


class Sync(Struct, frozen=True):
    """Begin a sync, which ends with ``Synced``."""

    causes: tuple[Cause, ...]


class Poll(Struct, frozen=True):
    """Begin to ask for the peers list, which ends with ``Polled``.

    ``anew``: what is followed already is to be read once more too.
    """

    anew: bool = False


class LookUp(Struct, frozen=True):
    """Begin to look up all names, which ends with ``LookedUp``."""


class Publish(Struct, frozen=True):
    """Begin to publish this node's entry, which ends with ``Published``."""


class Say(Struct, frozen=True):
    """Tell the user these lines."""

    lines: Lines


class Notify(Struct, frozen=True):
    """Tell the service manager."""

    state: Literal["ready", "reloading", "stopping"]


class Exit(Struct, frozen=True):
    """End: no sync runs."""


Action = Sync | Poll | LookUp | Publish | Say | Notify | Exit

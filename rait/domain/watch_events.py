"""What `rait watch` is told of, as events, what it does then, as actions, and why it syncs."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from msgspec import Struct

from rait.domain.errands import ErrandName
from rait.domain.errors import few
from rait.domain.troubles import Lines

# Why there is a sync, as values and in words.

Kind = Literal["start", "file", "source", "names", "link", "look", "hangup"]
"""For metrics: one word of these few."""

MOST_CAUSES = 10
"""So many causes of one kind are kept to be told."""


class Cause(Struct, frozen=True):
    """Why there is to be a sync."""

    kind: Kind
    text: str


START = Cause("start", "start")
LOOK = Cause("look", "look")
HANGUP = Cause("hangup", "SIGHUP")
SOURCE = Cause("source", "peers list changed")
NAMES = Cause("names", "addresses of host names changed")
DELETED, CHANGED = "link deleted", "link changed"


def told(causes: Iterable[Cause]) -> str:
    """The causes in one line; a look is told only if there is no other.

    The kernel takes a link down before it deletes it: then only the latter is told.
    """
    texts: dict[str, list[str]] = {}
    for cause in causes:
        what, _, link = cause.text.partition(": ")
        texts.setdefault(what, []).extend([link] if link else [])
    if CHANGED in texts:
        texts[CHANGED] = [link for link in texts[CHANGED] if link not in texts.get(DELETED, ())]
        if not texts[CHANGED]:
            del texts[CHANGED]
    if len(texts) > 1:
        texts.pop(LOOK.text, None)
    return "; ".join(f"{what}: {few(links)}" if links else what for what, links in texts.items())


def main_kind(causes: Iterable[Cause]) -> Kind:
    """The first kind of the causes; a look only if there is no other."""
    return next((cause.kind for cause in causes if cause.kind != "look"), "look")


def touched(name: str, *, deleted: bool) -> Cause:
    """Somebody has done something to a link."""
    return Cause("link", f"{DELETED if deleted else CHANGED}: {name}")


def merged(some: tuple[Cause, ...], more: Iterable[Cause]) -> tuple[Cause, ...]:
    """Some causes and more, each once, and of one kind no more than MOST_CAUSES."""
    for cause in more:
        if cause not in some and sum(c.kind == cause.kind for c in some) < MOST_CAUSES:
            some = (*some, cause)
    return some


# Events.

Outcome = Literal[
    "unchanged", "done", "partial", "failed", "stopped", "held", "pending", "misconfigured"
]
"""How a sync ended, as in ``Report.status``; or rait held what was taken back, waits for a
confirmation, or has a configuration that is wrong."""


class Tick(Struct, frozen=True):
    """It is time, by ``wake_at``."""


class FilesChanged(Struct, frozen=True):
    """Files that count have changed; ``what`` names them, as "rait.conf"."""

    what: tuple[str, ...]


class Ended(Struct, frozen=True):
    """An errand has ended: whether there is something new, and why it failed.

    ``chance`` is drawn from 0 to 1. Of a source that tells of changes, ``follow`` says whether to
    follow it has ``begun`` with this poll, goes on (``alive``), or has ended (``lost``), which may
    come at any time.
    """

    errand: ErrandName
    changed: bool = False
    problem: str = ""
    chance: float = 0.5
    follow: Literal["begun", "alive", "lost"] | None = None


class SourceTold(Struct, frozen=True):
    """The source that is followed tells of another peers list, or why it has none to be used."""

    changed: bool = True
    problem: str = ""


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
    | Ended
    | SourceTold
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


class Begin(Struct, frozen=True):
    """Begin an errand, which ends with ``Ended``.

    ``anew``: what is followed already is to be read once more too.
    """

    errand: ErrandName
    anew: bool = False


class Say(Struct, frozen=True):
    """Tell the user these lines."""

    lines: Lines


class Notify(Struct, frozen=True):
    """Tell the service manager."""

    state: Literal["ready", "reloading", "stopping"]


class Exit(Struct, frozen=True):
    """End: no sync runs."""


Action = Sync | Begin | Say | Notify | Exit

"""What a use case has to say, for the CLI to render."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from msgspec import Struct

from rait.domain.events import Event
from rait.domain.guard import Removal

Status = Literal["unchanged", "planned", "stopped", "done", "partial", "failed"]
"""``stopped``: it would have removed too much; ``planned``: it was only asked about."""


class Failure(Struct, frozen=True):
    """A link that is not as it should be, and why.

    ``left`` says that the link stays as it is, as it is unknown what it should be.
    """

    link: str
    error: str
    left: bool = False


class Report(Struct, frozen=True, kw_only=True):
    """What a run did.

    ``events`` is what was to be done, ``drift`` what had changed on the machine since the last run
    of this configuration, ``left`` those of it that an earlier run left behind, which never said
    what became of them, and ``run`` the number of the run in the journal, None where nothing was
    to do: of an earlier one where this one did the same in vain. ``links`` is how many links there
    should now be, ``errors`` says what went wrong with which of the events, by their position, and
    ``half_done`` what these did all the same. ``ended`` are the links which a run that was cut off
    had left half made, and which this run ended before all else. ``extra_cmd_sent`` says that
    babeld took ``extra_cmd``, which an earlier run owed it, and that there was nothing else to do.
    ``losses`` are lines about links that go because an entry of the peers list was skipped.
    """

    command: str
    status: Status
    run: int | None = None
    events: tuple[Event, ...] = ()
    errors: Mapping[int, str] = {}
    half_done: tuple[Event, ...] = ()
    drift: tuple[Event, ...] = ()
    left: frozenset[Event] = frozenset()
    failures: tuple[Failure, ...] = ()
    warnings: tuple[str, ...] = ()
    links: int = 0
    ended: tuple[str, ...] = ()
    removal: Removal | None = None
    extra_cmd_sent: bool = False
    losses: tuple[str, ...] = ()

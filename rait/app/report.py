"""What a use case has to say, for the CLI to render."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Literal

from msgspec import Struct, structs

from rait.domain.errors import few
from rait.domain.events import Event, LinkPlaced
from rait.domain.guard import Removal
from rait.domain.ownership import Stranger
from rait.domain.reconcile import Change
from rait.domain.verdict import Failure, Results, Verdict, verdict

Status = Literal["unchanged", "planned", "stopped", "done", "partial", "failed"]
"""``stopped``: it would have removed too much; ``planned``: it was only asked about."""


class Report(Struct, frozen=True, kw_only=True):
    """What a run did.

    ``events`` is what was to be done, and ``drift`` what had changed on the machine since the last
    run of this configuration; ``leftover`` is what of that an earlier run brought about, which
    never said what became of it. ``run`` is the number of the run in the journal, None where
    nothing was to do: of an earlier one where this one did the same in vain. ``links`` is how many
    links there should now be, ``errors`` says what went wrong with which of the events, by their
    position, and ``half_done`` what these did all the same. ``ended`` are the links which a run
    that was cut off had left half made, and which this run ended before all else.
    ``extra_cmd_sent`` says that babeld took ``extra_cmd``, which an earlier run owed it, and that
    there was nothing else to do. ``losses`` are lines about links that go because an entry of the
    peers list was skipped.
    """

    command: str
    status: Status
    run: int | None = None
    events: tuple[Event, ...] = ()
    errors: Mapping[int, str] = {}
    half_done: tuple[Event, ...] = ()
    drift: tuple[Event, ...] = ()
    leftover: frozenset[Event] = frozenset()
    failures: tuple[Failure, ...] = ()
    warnings: tuple[str, ...] = ()
    links: int = 0
    ended: tuple[str, ...] = ()
    removal: Removal | None = None
    extra_cmd_sent: bool = False
    losses: tuple[str, ...] = ()


def report_on(
    command: str,
    status: Status,
    change: Change,
    warnings: Sequence[str] = (),
    removal: Removal | None = None,
) -> Report:
    """A report of what is to be done, and of the links that cannot be.

    ``removal`` is what it would cost, where that is too much.
    """
    named = {p.link for p in change.problems}
    strangers = [stranger for stranger in change.strangers if stranger.link not in named]
    wanted = change.desired.links.keys() | {p.link for p in change.problems if p.link is not None}
    return Report(
        command=command,
        status=status,
        events=change.events,
        # What rait learned of its own links is no change of theirs.
        drift=tuple(event for event in change.drift if not isinstance(event, LinkPlaced)),
        leftover=change.leftover,
        failures=verdict(change).failures,
        warnings=(
            *warnings,
            *(p.message for p in change.problems if p.link is None),
            *_left_alone(strangers),
        ),
        links=len(wanted),
        removal=removal,
        losses=change.losses,
    )


def _left_alone(strangers: Iterable[Stranger]) -> Iterator[str]:
    """A line for all links that are left for one reason: there may be a whole mesh of them."""
    names: dict[str, list[str]] = {}
    for stranger in strangers:
        names.setdefault(stranger.why, []).append(stranger.link)
    for why, links in names.items():
        what = "link" if len(links) == 1 else "links"
        yield f"rait leaves {what} {few(links)} alone: {why}"


def planned(
    command: str, change: Change, removal: Removal | None, warnings: Sequence[str] = ()
) -> Report:
    """A report of what a run would do, and whether it would be stopped.

    If links cannot be made, or babeld cannot be told of them, there is something to do, although
    no event is about it.
    """
    missing = change.babeld_problem or any(
        p.link and p.severity == "error" for p in change.problems
    )
    status: Status = "planned" if change.events or missing else "unchanged"
    return report_on(command, status, change, warnings, removal)


def carried_out(
    command: str, change: Change, results: Results, judged: Verdict, warnings: Sequence[str] = ()
) -> Report:
    """The report of a run that is over."""
    report = report_on(command, judged.outcome, change, warnings)
    return structs.replace(
        report,
        failures=judged.failures,
        errors=results.errors,
        half_done=results.half_done,
        ended=results.ended,
    )

"""The report of a run: what it did or would do, as values that rait/app/render.py prints."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Literal

from msgspec import Struct, structs

from rait.domain.change import Change, Failure, Results, Verdict, verdict
from rait.domain.errors import few
from rait.domain.events import Event, LinkPlaced
from rait.domain.hooks import CallResult
from rait.domain.ownership import Stranger

if TYPE_CHECKING:
    from rait.domain.guard import Removal

Status = Literal["unchanged", "planned", "stopped", "done", "partial", "failed"]
"""``stopped``: the run would have ended too many sessions; ``planned``: it was only shown."""


class Report(Struct, frozen=True, kw_only=True):
    """What a run did, or would do.

    ``run`` is its number in the journal: None if there was nothing to do, and the number of an
    earlier run if this one only repeated it in vain. ``events`` were to be done; ``errors`` has the
    reason for each that failed, by its position, and ``half_done`` are events that the failed ones
    brought about all the same. ``drift`` had changed on the machine since the last run of this
    configuration; ``leftover`` are the events in it that an unfinished run did. ``links`` is how
    many links there should now be. ``ended`` are links that an unfinished run had left half made,
    and this run ended. ``extra_cmd_sent``: all that this run did was to send babeld the
    ``extra_cmd`` that an earlier run owed. ``losses`` are lines about links that lose their peer
    because its entry in the peers list was skipped, and ``conflicts`` about peers that get no link
    because others have its name or port. ``old_list`` is a line about an old peers list that stood
    in for the newest, "" if that was used. ``calls`` are those of commands for links: what became
    of each, or those that a run would make. ``confirm_by``: the run is taken back at that unix time
    (in nanoseconds), unless somebody confirms it; 0 for a run that stays. ``held``: the run left
    the links as they were before a change that was taken back.
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
    conflicts: tuple[str, ...] = ()
    old_list: str = ""
    calls: tuple[CallResult, ...] = ()
    confirm_by: int = 0
    held: bool = False


def _report_on(
    command: str,
    status: Status,
    change: Change,
    judged: Verdict,
    warnings: Sequence[str],
    removal: Removal | None = None,
) -> Report:
    """A report of what is to be done, and of the links that cannot be.

    ``removal`` are the sessions that the change would end, if they are too many.
    """
    named = {p.link for p in change.problems}
    strangers = [stranger for stranger in change.strangers if stranger.link not in named]
    wanted = change.desired.links.keys() | {p.link for p in change.problems if p.link is not None}
    return Report(
        command=command,
        status=status,
        events=change.events,
        # A LinkPlaced records what rait learned of a link, and no change of the link.
        drift=tuple(event for event in change.drift if not isinstance(event, LinkPlaced)),
        leftover=change.leftover,
        failures=judged.failures,
        warnings=(
            *warnings,
            *(p.message for p in change.problems if p.link is None),
            *_left_alone(strangers),
        ),
        links=len(wanted),
        removal=removal,
        losses=change.losses,
        conflicts=change.goal.conflicts,
        old_list=change.goal.old.told if change.goal.old is not None else "",
    )


def _left_alone(strangers: Iterable[Stranger]) -> Iterator[str]:
    """A line for each reason to leave links alone: it may apply to a whole mesh of them."""
    names: dict[str, list[str]] = {}
    for stranger in strangers:
        names.setdefault(stranger.why, []).append(stranger.link)
    for why, links in names.items():
        what = "link" if len(links) == 1 else "links"
        yield f"rait leaves {what} {few(links)} alone: {why}"


def planned(
    command: str, change: Change, removal: Removal | None, warnings: Sequence[str] = ()
) -> Report:
    """A report of what a run would do, and whether the guard would stop it.

    A link that cannot be made, or babeld out of reach, is something to do, though without an event.
    """
    missing = (
        change.babeld_problem
        or change.goal.conflicts
        or any(p.link and p.severity == "error" for p in change.problems)
    )
    calls = tuple(call.result() for call in change.calls(change.events))
    status: Status = "planned" if change.events or missing or calls else "unchanged"
    report = _report_on(command, status, change, verdict(change), warnings, removal)
    return structs.replace(report, calls=calls)


def stopped(command: str, change: Change, removal: Removal, warnings: Sequence[str] = ()) -> Report:
    """The report of a run that the guard stopped."""
    return _report_on(command, "stopped", change, verdict(change), warnings, removal)


def carried_out(
    command: str, change: Change, results: Results, judged: Verdict, warnings: Sequence[str] = ()
) -> Report:
    """The report of a run that is over."""
    report = _report_on(command, judged.outcome, change, judged, warnings)
    return structs.replace(
        report,
        errors=results.errors,
        half_done=results.half_done,
        ended=results.ended,
        calls=results.calls,
    )

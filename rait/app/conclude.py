"""The last step of a run: carry its change out, or only show it; and the report of it.

rait/app/render.py prints reports.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from msgspec import Struct, structs

from rait import __version__
from rait.adapters import netns
from rait.adapters.journal.store import Journal
from rait.app import isolation
from rait.app.session import Session
from rait.app.whereabouts import is_of_this_boot
from rait.domain.change import NO_RESULTS, Change, Failure, Results, verdict
from rait.domain.errors import RaitError, UnmakeableError, counted, few
from rait.domain.events import Event, LinkAdded, LinkPlaced
from rait.domain.ownership import Stranger
from rait.domain.records import Instant, RunHeader, RunStatus
from rait.domain.topology import EMPTY, Link

if TYPE_CHECKING:
    from rait.domain.guard import Removal

Confirm = Callable[[Session, Change], Instant]
"""Arranges that a change is taken back at the instant that it gives, unless somebody confirms it.

Raises RaitError if that cannot be; then the change is not made.
"""


Status = Literal["unchanged", "planned", "stopped", "done", "partial", "failed"]
"""``stopped``: the run would have ended too many sessions; ``planned``: it was only shown."""


class Report(Struct, frozen=True, kw_only=True):
    """What a run did, or would do.

    ``run`` is its number in the journal: None if there was nothing to do, and the number of an
    earlier run if this one only repeated it in vain. ``results`` has what became of the ``change``;
    of a run that is only shown, the calls of commands that it would make. ``links`` is how many
    links there should now be, and ``removal`` the sessions that the run would end, if they are too
    many. ``extra_cmd_sent``: all that this run did was to send babeld the ``extra_cmd`` that an
    earlier run owed. ``old_list`` is a line about an old peers list that stood in for the newest,
    "" if that was used. ``confirm_by``: the run is taken back at that unix time (in nanoseconds),
    unless somebody confirms it; 0 for a run that stays. ``held``: the run left the links as they
    were before a change that was taken back.
    """

    command: str
    status: Status
    change: Change
    results: Results = NO_RESULTS
    run: int | None = None
    failures: tuple[Failure, ...] = ()
    warnings: tuple[str, ...] = ()
    links: int = 0
    removal: Removal | None = None
    extra_cmd_sent: bool = False
    old_list: str = ""
    confirm_by: int = 0
    held: bool = False

    @property
    def drift(self) -> tuple[Event, ...]:
        """What had changed on the machine since the last run of this configuration."""
        # A LinkPlaced records what rait learned of a link, and no change of the link.
        return tuple(event for event in self.change.drift if not isinstance(event, LinkPlaced))


def conclude(
    session: Session,
    command: str,
    change: Change,
    *,
    makes_target: bool = False,
    warnings: Sequence[str] = (),
    accepted: bool = False,
    confirm: Confirm | None = None,
    takes_back: int = 0,
    always: bool = False,
) -> Report:
    """Carry the change out; in a read-only session only report what would be done.

    First make the namespaces that new links need (the target in any case if ``makes_target``),
    so that the journal can say in which instance each link is made. Unless the user
    ``accepted`` whatever the run costs, the guard stops a run that costs too much. With
    ``confirm``, the run is to be confirmed; that is called right before anything is touched.
    ``takes_back`` is as in RunHeader, and ``always`` journals a run that has nothing to do too.
    Raises MachineError, with nothing touched, where a link's namespace can be neither found nor
    made, or a VRF cannot be made.
    """
    journal = session.journal
    if not isinstance(journal, Journal):
        require_places(change.events)
        return planned(command, change, _removal(session, change), warnings)
    if not accepted and (cost := _removal(session, change)) is not None:
        stopped = _report(command, change, warnings)
        return structs.replace(stopped, status="stopped", removal=cost)
    confirm_by = confirm(session, change) if confirm is not None and change.events else None
    change = _prepared(session, change, makes_target)
    report = _report(command, change, warnings)
    told = {"accepted": accepted, "confirm_by": confirm_by, "takes_back": takes_back}
    leaves_trace = always or bool(
        change.events or change.drift or change.leftover_links or change.calls(())
    )
    if leaves_trace or change.extra_cmd_owed:
        header = partial(_header, session, command, change, **told)
        report = _carried_out(session, journal, report, header, leaves_trace)
    return report if confirm is None else _with_deadline(session, report)


def _carried_out(
    session: Session,
    journal: Journal,
    report: Report,
    header: Callable[[], RunHeader],
    leaves_trace: bool,
) -> Report:
    """Journal the events, carry them out, and journal the outcomes.

    A run with nothing to do and no drift ``leaves_trace`` only if babeld took ``extra_cmd``. A run
    that fails just as the last one did is only counted in the journal.
    """
    from rait.app.execution import Execution

    change, warnings, run = report.change, report.warnings, None
    execution = Execution(session, change)
    if leaves_trace:
        run = journal.begin(header(), change.drift, change.events)
        execution.perform(run)
        # A run that only repeats an earlier one has the number of that one by now.
        warnings = (*warnings, *_prune(session, journal, run.id))
    elif execution.send_extra_cmd():
        run = journal.begin(header(), (), ())
        run.finish("done", extra_cmd="sent")
    judged = execution.verdict
    return structs.replace(
        report,
        status=judged.outcome,
        results=execution.results,
        run=None if run is None else run.id,
        failures=judged.failures,
        warnings=warnings,
        extra_cmd_sent=not leaves_trace and run is not None,
    )


def _removal(session: Session, change: Change) -> Removal | None:
    if not change.events:
        return None
    from rait.domain.guard import excessive_removal

    return excessive_removal(change, session.config.max_removals, session.recent_losses)


def _prepared(session: Session, change: Change, makes_target: bool) -> Change:
    """Make the namespaces, and complete the change with what is only known then."""
    require_places(change.events)
    isolation.require_vrfs(change.events)
    machine = session.machine
    specs = {e.link.origin.netns for e in change.events if isinstance(e, LinkAdded)}
    for spec in sorted(specs | {session.target} if makes_target else specs):
        netns.ensure_netns(spec)
    change = change.placed({spec: machine.instance_of(spec) for spec in specs})
    isolation.mark_ours(change.observed, change.known)
    return structs.replace(change, leftover_links=machine.leftovers(change.leftover_links))


def _prune(session: Session, journal: Journal, newest: int) -> Iterator[str]:
    """Drop runs older than ``journal_keep``; a warning if that fails."""
    keep = session.config.journal_keep
    if keep is None:
        return
    try:
        pruning = journal.prune_old(keep, newest)
    except RaitError as error:
        yield f"old runs stay in the journal: {error}"
    else:
        session.options.debug(f"{counted(pruning.runs, 'old run')} pruned from the journal")


def _with_deadline(session: Session, report: Report) -> Report:
    """The report of a run that was to be confirmed, if it turned out to need that."""
    session.forget()
    trial = session.known.trial
    if trial is not None and trial.header.confirm_by is not None and trial.run == report.run:
        return structs.replace(report, confirm_by=trial.header.confirm_by.at)
    nothing = "nothing was changed, so there is nothing to confirm"
    return structs.replace(report, warnings=(*report.warnings, nothing))


def record(
    session: Session,
    command: str,
    status: RunStatus = "done",
    problems: Mapping[str, str] | None = None,
    **settings: Any,
) -> None:
    """Journal a run that does nothing to the machine, with these settings in its header."""
    assert isinstance(session.journal, Journal)  # noqa: S101 - a mistake of ours, not of the user
    known = session.known
    nothing = Change(observed=EMPTY, desired=EMPTY, known=known, carried=known.leftover)
    header = structs.replace(_header(session, command, nothing, **settings), home="")
    session.journal.begin(header, (), ()).finish(status, problems)


def _header(session: Session, command: str, change: Change, **settings: Any) -> RunHeader:
    known, peers = change.known, session.inputs.registry
    hidden = {n for n, link in known.leftover_links.items() if _is_away(link, session)}
    hidden = {*change.leftover_links, *(hidden - change.observed.links.keys())}
    carried = frozenset(change.carried)
    return RunHeader(
        scope=session.name,
        command=command,
        version=__version__,
        uid=os.getuid(),
        started_at=time.time_ns(),
        public_key=session.public_key,
        config_digest=session.loaded.digest(),
        peers_digest=peers.digest() if peers is not None else "",
        source=peers.document.name if peers is not None else "",
        revision=peers.revision if peers is not None else 0,
        leftover_noticed=tuple(
            index for index, event in enumerate(change.drift) if event in change.leftover
        ),
        carried=tuple(
            event for event in known.leftover if event in carried or event.name in hidden
        ),
        leftover_links=change.leftover_links,
        home=isolation.home(session.config, known, session.machine.namespaces),
        spelt=session.spelt if session.spelt != session.name else "",
        cause=session.options.cause,
        signed=peers.signed if peers is not None else None,
        **settings,
    )


def _is_away(link: Link, session: Session) -> bool:
    """Whether a half-made link would be in a namespace where this run does not look."""
    if link.origin.backend == "kernel" or not is_of_this_boot(link):
        return False
    here = session.machine.namespace.is_open and session.machine.transit
    return link.origin.transit not in ("", here)


def require_places(events: Sequence[Event]) -> None:
    """Raise UnmakeableError if links are to be made in the namespace of a process that is gone."""
    for spec in sorted({e.link.origin.netns for e in events if isinstance(e, LinkAdded)}):
        if netns.lacks_process(spec):
            raise UnmakeableError(
                f"there is no process {spec}, so no network namespace to make links in: set "
                "`target` to the id of a running process in that namespace, or to a name"
            )


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
    report, results = _report(command, change, warnings), Results(calls=calls)
    return structs.replace(report, status=status, results=results, removal=removal)


def _report(command: str, change: Change, warnings: Sequence[str]) -> Report:
    """A report of a run that has done nothing as yet, and of the links that cannot be."""
    judged = verdict(change)
    named = {p.link for p in change.problems}
    strangers = [stranger for stranger in change.strangers if stranger.link not in named]
    wanted = change.desired.links.keys() | {p.link for p in change.problems if p.link is not None}
    return Report(
        command=command,
        status=judged.outcome,
        change=change,
        failures=judged.failures,
        warnings=(
            *warnings,
            *(p.message for p in change.problems if p.link is None),
            *_left_alone(strangers),
        ),
        links=len(wanted),
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

"""Carrying out a change: its events are applied, and what becomes of each is journaled."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, NoReturn

from msgspec import Struct, structs

from rait.app import isolation
from rait.app.machine import BABELD, Machine
from rait.app.report import Failure, Report, Status
from rait.domain.backend import Outcome
from rait.domain.endpoints import NO_NAMES, Names
from rait.domain.errors import MachineError, RaitError, few
from rait.domain.events import Event, LinkPlaced, ToBabeld, replay
from rait.domain.guard import Losses, Removal, excessive_removal, lost_sessions
from rait.domain.history import LastKnown
from rait.domain.reconcile import Settled, Stranger
from rait.domain.records import ExtraCmd
from rait.domain.records import Status as RunStatus
from rait.domain.topology import Topology

if TYPE_CHECKING:
    from rait.adapters.journal.store import Run
    from rait.app.routing import Routing

RECORD_SECONDS = 0.25
"""How long an outcome may wait for others to be written to the journal with it."""


class Change(Struct, frozen=True, kw_only=True):
    """What there is, what should be, what to do, and what had changed since the last run.

    ``left`` are those of ``drift`` that earlier runs brought about, which never said what became
    of them. ``strays`` are links that such a run may have left half made, ``carried`` what is still
    not known of it, ``losses`` tell of links that go with an entry of the peers list that was
    skipped, and ``dead`` are links that have no session to lose. ``routing_problem`` says why
    babeld could not be asked, and ``extra_cmd_owed`` that it has not taken ``extra_cmd`` yet since
    it was last told of a change. ``memory`` is what was known before; ``desired``, which is None
    for links as they are, and ``names`` are what ``settled`` was made with.
    """

    settled: Settled
    events: tuple[Event, ...]
    drift: tuple[Event, ...]
    memory: LastKnown = LastKnown()
    desired: Topology | None = None
    names: Names = NO_NAMES
    left: frozenset[Event] = frozenset()
    dead: frozenset[str] = frozenset()
    strays: tuple[str, ...] = ()
    carried: tuple[Event, ...] = ()
    losses: tuple[str, ...] = ()
    routing_problem: str | None = None
    extra_cmd_owed: bool = False

    def removal(self, max_removals: int | None, earlier: Callable[[], Losses]) -> Removal | None:
        """The removal that should not happen unasked, or None; see excessive_removal.

        ``earlier`` tells what recent runs cost, and is asked only if this one costs anything.
        """
        before, after, known = self.settled.observed, self.settled.desired, self.memory.topology
        if not lost_sessions(before, after, known, self.dead):
            return None
        return excessive_removal(
            before, after, max_removals, known=known, earlier=earlier(), dead=self.dead
        )


class Aftermath(Struct, frozen=True):
    """What a second look at the machine told of events that failed.

    ``half_done`` is what they did all the same, and ``unsure`` are those of them of which it could
    not tell.
    """

    half_done: tuple[Event, ...] = ()
    unsure: tuple[Event, ...] = ()


SecondLook = Callable[[Topology, Sequence[Event]], Aftermath]
"""Looks at the machine again, with the topology that is known now and the events that failed."""


class Execution:
    """A change under way: how far it is, and what failed."""

    def __init__(
        self,
        machine: Machine,
        change: Change,
        routing: Routing | None,
        debug: Callable[[str], None],
        *,
        look_again: SecondLook,
    ) -> None:
        self._machine = machine
        self._change = change
        self._routing = routing
        self._debug = debug
        self._look_again = look_again
        self._happened: list[Event] = []
        self._aftermath = Aftermath()
        self.ended: tuple[str, ...] = ()
        self._told_babeld = False
        self._errors: dict[int, str] = {}
        problems = change.settled.problems
        # What no outcome of an event tells of, for the journal.
        self._problems = {p.link: p.message for p in problems if p.link is not None}
        self._left = {p.link for p in problems if p.severity == "warning"}
        self._broken = self._problems.keys() - self._left
        if change.routing_problem is not None:
            self._problems[BABELD] = change.routing_problem
        self._failed = dict(self._problems)
        self._extra_cmd: ExtraCmd | None = None

    @property
    def failures(self) -> tuple[Failure, ...]:
        """The first thing that went wrong with each link."""
        return tuple(
            Failure(link, error, link in self._left) for link, error in self._failed.items()
        )

    @property
    def errors(self) -> dict[int, str]:
        """What went wrong with each event that failed, by its position."""
        return dict(self._errors)

    @property
    def half_done(self) -> tuple[Event, ...]:
        """What the events that failed did all the same."""
        return self._aftermath.half_done

    @property
    def status(self) -> Status:
        """How the change ended, for the report: not well where it cost links by a wrong entry."""
        did = self._change.events or self._failed or self.ended
        status = self._run_status if did else "unchanged"
        return "partial" if status == "done" and self._change.losses else status

    @property
    def _run_status(self) -> RunStatus:
        if not self._failed:
            return "done"
        # The tunnels do not wait for babeld; a sync that is of babeld alone fails with it.
        alone = self._routing is not None and self._routing.asked
        bad = self._failed.keys() if alone else self._broken
        good = self._change.settled.desired.links.keys() - bad
        return "partial" if good or self._happened or not bad else "failed"

    def perform(self, run: Run) -> None:
        """Do all that is to be done, in a run that the journal has. Raises MachineError."""
        self._require_vrfs(run)
        with ending_in_order():
            self._end_strays()
            self._apply_and_record(run)
        if self._told_babeld or self._change.extra_cmd_owed:
            self.send_extra_cmd()
        # Nothing failed in most runs, and these pay nothing.
        if self._errors:
            self._look_at_what_failed()
        events = self._change.events
        run.finish(
            self._run_status,
            self._problems,
            self._extra_cmd,
            half_done=self._aftermath.half_done,
            unsure=[i for i in self._errors if events[i] in self._aftermath.unsure],
            ended=self.ended,
        )

    def _end_strays(self) -> None:
        if not self._change.strays:
            return
        self.ended, stuck = self._machine.end_strays(self._change.strays)
        for name, error in stuck.items():
            self._problems.setdefault(name, error)
            self._failed.setdefault(name, error)
            self._broken |= {name}

    def _look_at_what_failed(self) -> None:
        change = self._change
        known = replay(change.memory.topology, (*change.drift, *self._happened))
        failed = [change.events[index] for index in self._errors]
        self._aftermath = self._look_again(known, failed)
        for event in self._aftermath.half_done:
            self._debug(f"{type(event).__name__} {event.name}: done by an event that failed")
        for event in self._aftermath.unsure:
            self._debug(f"{type(event).__name__} {event.name}: may be half done, which is unknown")

    def send_extra_cmd(self) -> bool:
        """Send ``extra_cmd`` to babeld, if there is any; whether it has taken it."""
        if self._routing is None or not self._routing.has_extra_cmd:
            return False
        try:
            self._routing.finish()
        except RaitError as error:
            self._problems[BABELD] = self._failed[BABELD] = str(error)
            self._extra_cmd = "owed"
            return False
        self._extra_cmd = "sent"
        return True

    def _require_vrfs(self, run: Run) -> None:
        try:
            isolation.require_vrfs(self._change.events)
        except MachineError as error:
            run.record([Outcome(i, str(error)) for i in range(len(self._change.events))])
            run.finish("failed")
            raise

    def _apply_and_record(self, run: Run) -> None:
        waiting = _Waiting(run)
        try:
            for outcome in self._apply():
                waiting.add(outcome)
        finally:
            # Whatever was raised, Ctrl-C among it: what is known is on disk first.
            waiting.record()

    def _apply(self) -> Iterator[Outcome]:
        events = self._change.events
        for outcome in self._machine.apply(events, self._routing) if events else ():
            event = events[outcome.index]
            error = outcome.error
            if error is None:
                self._happened.append(event)
                self._told_babeld |= isinstance(event, ToBabeld)
            else:
                error = _without_name(error, event.name)
                self._errors[outcome.index] = error
                if not isinstance(event, ToBabeld):
                    self._broken.add(event.name)
                self._failed.setdefault(event.name, error)
            verdict = "done" if error is None else f"failed: {error}"
            self._debug(f"{type(event).__name__} {event.name}: {verdict}")
            yield Outcome(outcome.index, error)


def _without_name(error: str, link: str) -> str:
    """What went wrong, to be told after the link's name, with which backends begin."""
    return error.removeprefix(f"link {link}").removeprefix(":").lstrip()


def report_on(command: str, status: Status, change: Change, warnings: Sequence[str] = ()) -> Report:
    """A report of what is to be done, and of the links that cannot be."""
    settled = change.settled
    told = {p.link for p in settled.problems}
    strangers = [stranger for stranger in settled.strangers if stranger.link not in told]
    wanted = settled.desired.links.keys() | {p.link for p in settled.problems if p.link is not None}
    failures = [
        Failure(p.link, p.message, p.severity == "warning")
        for p in settled.problems
        if p.link is not None
    ]
    if change.routing_problem is not None:
        failures.append(Failure(BABELD, change.routing_problem))
    return Report(
        command=command,
        status=status,
        events=change.events,
        # What rait learned of its own links is no change of theirs.
        drift=tuple(event for event in change.drift if not isinstance(event, LinkPlaced)),
        left=change.left,
        failures=tuple(failures),
        warnings=(
            *warnings,
            *(p.message for p in settled.problems if p.link is None),
            *_left_alone(strangers),
        ),
        links=len(wanted),
        losses=change.losses,
    )


def _left_alone(strangers: Iterable[Stranger]) -> Iterator[str]:
    """A line for all links that are left for one reason: there may be a whole mesh of them."""
    names: dict[str, list[str]] = {}
    for stranger in strangers:
        names.setdefault(stranger.why, []).append(stranger.link)
    for why, links in names.items():
        what = "link" if len(links) == 1 else "links"
        yield f"{what} {few(links)} {'is' if len(links) == 1 else 'are'} left alone: {why}"


def planned(
    command: str, change: Change, removal: Removal | None, warnings: Sequence[str] = ()
) -> Report:
    """A report of what a run would do, and whether it would be stopped.

    If links cannot be made, or babeld cannot be told of them, there is something to do, although
    no event is about it.
    """
    problems = change.settled.problems
    missing = change.routing_problem or any(p.link and p.severity == "error" for p in problems)
    status: Status = "planned" if change.events or missing else "unchanged"
    report = report_on(command, status, change, warnings)
    return structs.replace(report, removal=removal)


def stopped(
    command: str, change: Change, removal: Removal | None, warnings: Sequence[str] = ()
) -> Report | None:
    """The report of a run that must not go on unasked, as it would cost too much, or None."""
    if removal is None:
        return None
    return structs.replace(report_on(command, "stopped", change, warnings), removal=removal)


class _Waiting:
    """Outcomes on their way to the journal: those of a moment are written together."""

    def __init__(self, run: Run) -> None:
        self._run = run
        self._outcomes: list[Outcome] = []
        self._since = time.monotonic()

    def add(self, outcome: Outcome) -> None:
        """Take one more, and write down all of them if it is time."""
        self._outcomes.append(outcome)
        if time.monotonic() - self._since > RECORD_SECONDS:
            self.record()

    def record(self) -> None:
        """Write down what waits."""
        outcomes, self._outcomes = self._outcomes, []
        self._run.record(outcomes)
        self._since = time.monotonic()


class _TerminatedError(BaseException):
    """SIGTERM came."""


@contextmanager
def ending_in_order() -> Iterator[None]:
    """Let SIGTERM end the block as Ctrl-C does, and this process after it.

    Signals reach the main thread alone, so in any other nothing changes.
    """
    import threading

    if threading.current_thread() is not threading.main_thread():
        yield
        return

    import signal  # here, as only a run that has something to do needs it

    def end(*_: object) -> NoReturn:
        signal.signal(signal.SIGTERM, signal.SIG_IGN)  # once is enough
        raise _TerminatedError

    before = signal.getsignal(signal.SIGTERM)
    if before is not signal.SIG_IGN:
        signal.signal(signal.SIGTERM, end)
    try:
        yield
    except _TerminatedError:
        signal.signal(signal.SIGTERM, before)
        signal.raise_signal(signal.SIGTERM)
        raise KeyboardInterrupt from None  # whoever handles SIGTERM goes on after it
    finally:
        signal.signal(signal.SIGTERM, before)

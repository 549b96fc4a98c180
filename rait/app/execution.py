"""Carry out a change: apply its events, and journal the outcome of each."""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator, Sequence
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, NoReturn

from msgspec import structs

from rait.app import isolation
from rait.app.machine import Machine
from rait.domain.backend import Outcome
from rait.domain.change import Change, Results, Verdict, verdict
from rait.domain.errors import MachineError, RaitError
from rait.domain.events import Event, ToBabeld, replay
from rait.domain.hooks import Call, CallResult
from rait.domain.topology import Topology

if TYPE_CHECKING:
    from rait.adapters.journal.store import Run
    from rait.app.routing import Routing

RECORD_SECONDS = 0.25
"""How long an outcome may wait for others to be written to the journal with it."""


SecondLook = Callable[[Topology, Sequence[Event]], tuple[tuple[Event, ...], tuple[Event, ...]]]
"""Looks at the machine again, given the topology known now and the events that failed.

Gives the events that the failed ones brought about all the same, and the failed events of which
this look could not tell.
"""


MakeCalls = Callable[[Sequence[Call]], Generator[CallResult, None, None]]
"""Makes calls of commands for links, and gives the result of each when it has ended."""


class Execution:
    """A change that is being carried out; ``results`` has what became of it so far.

    ``babeld_alone`` is as in ``verdict``.
    """

    def __init__(
        self,
        machine: Machine,
        change: Change,
        routing: Routing | None,
        debug: Callable[[str], None],
        *,
        look_again: SecondLook,
        make_calls: MakeCalls,
        babeld_alone: bool = False,
    ) -> None:
        self._machine = machine
        self._change = change
        self._routing = routing
        self._debug = debug
        self._look_again = look_again
        self._make_calls = make_calls
        self._babeld_alone = babeld_alone
        self._happened: list[Event] = []
        self._errors: dict[int, str] = {}
        self.results = Results()

    @property
    def verdict(self) -> Verdict:
        """The verdict over the results so far."""
        return verdict(self._change, self.results, babeld_alone=self._babeld_alone)

    def perform(self, run: Run) -> None:
        """Carry the change out, and write its results to this run. Raises MachineError."""
        self._require_vrfs(run)
        with ending_in_order():
            self._end_leftover_links()
            self._apply_and_record(run)
        self._note(happened=tuple(self._happened), errors=self._errors)
        told_babeld = any(isinstance(event, ToBabeld) for event in self._happened)
        if told_babeld or self._change.extra_cmd_owed:
            self.send_extra_cmd()
        if self._errors:
            self._look_at_what_failed()
        self._call(run)
        events, results, judged = self._change.events, self.results, self.verdict
        unsure = frozenset(results.unsure)
        run.finish(
            judged.status,
            judged.problems,
            results.extra_cmd,
            half_done=results.half_done,
            unsure=[i for i in results.errors if events[i] in unsure],
            ended=results.ended,
        )

    def send_extra_cmd(self) -> bool:
        """Send ``extra_cmd`` to babeld, if rait.conf has one; whether babeld took it."""
        if self._routing is None or not self._routing.has_extra_cmd:
            return False
        try:
            self._routing.finish()
        except RaitError as error:
            self._note(extra_cmd="owed", extra_cmd_error=str(error))
            return False
        self._note(extra_cmd="sent")
        return True

    def _note(self, **results: object) -> None:
        self.results = structs.replace(self.results, **results)

    def _end_leftover_links(self) -> None:
        if self._change.leftover_links:
            ended, stuck = self._machine.end_leftovers(self._change.leftover_links)
            self._note(ended=ended, stuck=stuck)

    def _look_at_what_failed(self) -> None:
        change = self._change
        topology = replay(change.known.topology, (*change.drift, *self._happened))
        failed = [change.events[index] for index in self._errors]
        half_done, unsure = self._look_again(topology, failed)
        self._note(half_done=half_done, unsure=unsure)
        for event in half_done:
            self._debug(f"{type(event).__name__} {event.name}: done by an event that failed")
        for event in unsure:
            self._debug(f"{type(event).__name__} {event.name}: may be half done, which is unknown")

    def _call(self, run: Run) -> None:
        """Make the calls that are due, now that the links are as they will be after this run.

        A command may change a link, so this comes after the second look. Links do not wait for
        babeld, and neither do their commands.
        """
        events = [self._change.events[index] for index in self._errors]
        failed = {event.name for event in events if not isinstance(event, ToBabeld)}
        calls = self._change.calls(self._happened, failed)
        if not calls:
            return
        with ending_in_order(), closing(self._make_calls(calls)) as results:
            for result in results:
                run.record_call(result)
                self._note(calls=(*self.results.calls, result))
                what = "done" if result.error is None else f"failed: {result.error}"
                self._debug(f"command for {result.link}, {result.event}: {what}")

    def _require_vrfs(self, run: Run) -> None:
        try:
            isolation.require_vrfs(self._change.events)
        except MachineError as error:
            run.record([Outcome(i, str(error)) for i in range(len(self._change.events))])
            run.finish("failed")
            raise

    def _apply_and_record(self, run: Run) -> None:
        """Apply the events; outcomes of the same moment are written to the journal together."""
        waiting: list[Outcome] = []
        since = time.monotonic()
        try:
            for outcome in self._apply():
                waiting.append(outcome)
                if time.monotonic() - since > RECORD_SECONDS:
                    outcomes, waiting = waiting, []
                    run.record(outcomes)
                    since = time.monotonic()
        finally:
            # Whatever was raised, Ctrl-C too: first the known outcomes go to the disk.
            run.record(waiting)

    def _apply(self) -> Iterator[Outcome]:
        events = self._change.events
        for outcome in self._machine.apply(events, self._routing) if events else ():
            event = events[outcome.index]
            error = outcome.error
            if error is None:
                self._happened.append(event)
            else:
                self._errors[outcome.index] = error
            what = "done" if error is None else f"failed: {error}"
            self._debug(f"{type(event).__name__} {event.name}: {what}")
            yield Outcome(outcome.index, error)


class _TerminatedError(BaseException):
    """SIGTERM came."""


@contextmanager
def ending_in_order() -> Iterator[None]:
    """Let SIGTERM end the block as Ctrl-C does, and then the process.

    Only the main thread gets signals, so in another thread this does nothing.
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

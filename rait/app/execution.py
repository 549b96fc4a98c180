"""Carry out a change: apply its events, and journal the outcome of each."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from typing import TYPE_CHECKING, NoReturn

from msgspec import structs

from rait.app.inputs import lock_path
from rait.app.session import Session
from rait.domain.backend import Outcome
from rait.domain.change import Change, Results, Verdict, verdict
from rait.domain.errors import RaitError
from rait.domain.events import Event, ToBabeld, replay
from rait.domain.topology import Topology

if TYPE_CHECKING:
    from rait.adapters.journal.store import Run

RECORD_SECONDS = 0.25
"""How long an outcome may wait for others to be written to the journal with it."""


class Execution:
    """A change that is being carried out; ``results`` has what became of it so far."""

    def __init__(self, session: Session, change: Change) -> None:
        self._session = session
        self._debug = session.options.debug
        self._change = change
        self._happened: list[Event] = []
        self._errors: dict[int, str] = {}
        self.results = Results()

    @property
    def verdict(self) -> Verdict:
        """The verdict over the results so far."""
        return verdict(self._change, self.results)

    def perform(self, run: Run) -> None:
        """Carry the change out, and write its results to this run."""
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
        routing = self._session.routing
        if routing is None or not routing.has_extra_cmd:
            return False
        try:
            routing.finish()
        except RaitError as error:
            self._note(extra_cmd="owed", extra_cmd_error=str(error))
            return False
        self._note(extra_cmd="sent")
        return True

    def _note(self, **results: object) -> None:
        self.results = structs.replace(self.results, **results)

    def _end_leftover_links(self) -> None:
        if self._change.leftover_links:
            ended, stuck = self._session.machine.end_leftovers(self._change.leftover_links)
            self._note(ended=ended, stuck=stuck)

    def _look_at_what_failed(self) -> None:
        change = self._change
        topology = replay(change.known.topology, (*change.drift, *self._happened))
        failed = [change.events[index] for index in self._errors]
        half_done, unsure = self._second_look(topology, failed)
        self._note(half_done=half_done, unsure=unsure)
        for event in half_done:
            self._session.options.debug(
                f"{type(event).__name__} {event.name}: done by an event that failed"
            )
        for event in unsure:
            self._session.options.debug(
                f"{type(event).__name__} {event.name}: may be half done, which is unknown"
            )

    def _second_look(
        self, topology: Topology, failed: Sequence[Event]
    ) -> tuple[tuple[Event, ...], tuple[Event, ...]]:
        """Observe what failed events did all the same, and for which of them that stays unknown.

        ``topology`` is what is known after the events that happened. If the machine cannot be
        looked at, all failed events are unsure.
        """
        from rait.domain.aftermath import known_after_failures

        session, goal = self._session, self._change.goal
        known = known_after_failures(self._change.known, topology, failed)
        routing = session.routing if any(isinstance(e, ToBabeld) for e in failed) else None
        try:
            seen = session.decide(session.observe(known), goal, known, routing)
        except (RaitError, OSError) as error:
            session.options.debug(f"the machine could not be looked at again: {error}")
            return (), known.leftover
        # A half-made link may have no interface in the target yet, but a program in the transit
        # namespace.
        missing = [
            name
            for name in seen.leftover_links
            if known.leftover_links[name].origin.backend == "userspace"
        ]
        hidden, carried = frozenset(session.machine.leftovers(missing)), frozenset(seen.carried)
        unsure = (e for e in known.leftover if e in carried or e.name in hidden)
        half_done = (event for event in seen.drift if event in seen.leftover)
        return tuple(half_done), tuple(unsure)

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
        from rait.app.hooks import make  # here, as few runs call anything

        session = self._session
        made = make(
            calls,
            session.machine.namespaces,
            session.config.command_timeout,
            lock_path(session.config.journal),
            session.public_key,
        )
        with ending_in_order(), closing(made) as results:
            for result in results:
                run.record_call(result)
                self._note(calls=(*self.results.calls, result))
                what = "done" if result.error is None else f"failed: {result.error}"
                self._debug(f"command for {result.link}, {result.event}: {what}")

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
        events, session = self._change.events, self._session
        for outcome in session.machine.apply(events, session.routing) if events else ():
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
    """Let SIGTERM end the block as Ctrl-C does, and then the process; SIGHUP ends nothing.

    A terminal may hang up because of what the run does: links that are made again would stay away.
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
    hangup = signal.getsignal(signal.SIGHUP)
    if hangup is signal.SIG_DFL:  # and not SIG_IGN, which the programs that we start would inherit
        signal.signal(signal.SIGHUP, lambda *_: None)
    try:
        yield
    except _TerminatedError:
        signal.signal(signal.SIGTERM, before)
        signal.raise_signal(signal.SIGTERM)
        raise KeyboardInterrupt from None  # whoever handles SIGTERM goes on after it
    finally:
        signal.signal(signal.SIGTERM, before)
        signal.signal(signal.SIGHUP, hangup)

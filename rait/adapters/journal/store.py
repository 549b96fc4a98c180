"""The journal: every change of the tunnels, written down before it is made.

A run's events are on disk before the first of them takes effect; their outcomes follow. Together
they are one hash-chained log (domain/records.py) in SQLite. The import of sqlite3 takes 3 ms, so
import this module only where a journal is needed.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import TYPE_CHECKING, TypeVar

import msgspec
from msgspec import structs

from rait.adapters.closing import Closing
from rait.adapters.journal.file import explained, open_to_write
from rait.adapters.journal.reader import JournalReader, Log
from rait.domain import records
from rait.domain.backend import Outcome
from rait.domain.errors import HistoryError
from rait.domain.events import Event
from rait.domain.hooks import CallResult
from rait.domain.records import (
    Attempt,
    ExtraCmd,
    Finished,
    Named,
    Repeats,
    RunHeader,
    RunRecord,
    RunStatus,
)

if TYPE_CHECKING:
    from rait.adapters.journal.appender import Appender, Pruning

LEEWAY = 10
"""Runs are pruned by themselves only when the oldest is over its time by 1/LEEWAY of it."""

Answer = TypeVar("Answer")


class Journal(JournalReader, Closing):
    """The journal at a path, for writing and reading.

    Runs of one scope must not overlap: hold the lock (lock.py) from before ``last_known`` until
    after ``finish``. All methods raise MachineError where the file cannot be written.
    """

    def __init__(self, path: str, connection: sqlite3.Connection, clock: Callable[[], int]) -> None:
        super().__init__(path)
        self._connection = connection
        self._clock = clock

    @classmethod
    def open(cls, path: str | os.PathLike[str], clock: Callable[[], int] = time.time_ns) -> Journal:
        """Open the journal for writing. ``clock`` gives unix time in nanoseconds.

        Raises MachineError where the file cannot be written, and HistoryError if a newer rait wrote
        it.
        """
        path = os.fspath(path)
        return cls(path, open_to_write(path), clock)

    def close(self) -> None:
        """Close the file. SQLite then merges its -wal file, if nobody else uses that."""
        with explained(self.path, "close"):
            self._connection.close()

    def begin(self, header: RunHeader, noticed: Sequence[Event], intended: Sequence[Event]) -> Run:
        """Write a run's events down before its first effect; they are on disk when this returns.

        ``noticed`` are the events of drift: others caused them since the last run. ``intended`` are
        those that the run is about to carry out. A run that may repeat the last one (see Appender)
        has the last one's number, until it differs from that.
        """
        scope = header.scope
        with self.appending() as log:
            if header.spelt and log.aliases().get(header.spelt) != scope:
                log.add("named", 0, scope, Named(header.spelt))
            original = None if noticed else _repeatable(log, header, tuple(intended))
            if original is not None:
                known = log.repeats(scope) or Repeats(original.id)
                log.put_repeats(scope, structs.replace(known, attempt=Attempt(header)))
                return Run(self, original.id, scope, len(intended), original)
            log.end_repeats(scope)
            run = log.begin(header)
            log.add("noticed", run, scope, *noticed)
            log.add("intended", run, scope, *intended)
        return Run(self, run, scope, len(intended))

    def prune(self, keep_after: int) -> Pruning:
        """Drop runs from the front of the log, up to the first that must stay.

        A run must stay if its last entry is not older than ``keep_after`` (unix time in
        nanoseconds), or if it is the last of its scope and never finished. A snapshot keeps what
        replay needs. Raises HistoryError for a damaged journal, as pruning would drop the evidence.
        """
        return self._prune(keep_after, crashed=False)

    def prune_old(self, keep: int, newest: int | None = None) -> Pruning:
        """Drop runs that are older than ``keep`` nanoseconds, unless it is too early to look.

        Pruning reads the whole journal, so it waits until the oldest entry is over its time by a
        tenth. Unlike ``prune``, this drops runs that never finished too: else, such a run of a
        configuration that is used no more would keep all later runs.

        ``newest`` is the run that has just ended. If the clock is wrong, so is the time of that
        run; therefore the run before it bounds how much is dropped. Raises HistoryError for a
        damaged journal.
        """
        from rait.adapters.journal.appender import Pruning, droppable, oldest

        keep_after = self._clock() - keep
        log = Log(self._connection)
        with explained(self.path, "read"):
            first = oldest(log)
            if first is None or first >= keep_after - keep // LEEWAY:
                return Pruning()
            # If the clock has jumped ahead, not all runs must go.
            keep_after = min(keep_after, log.last_begun(newest) - keep // 2)
            if not droppable(log, keep_after, crashed=True)[1]:
                return Pruning()
        return self._prune(keep_after, crashed=True)

    @contextmanager
    def appending(self, run: Run | None = None) -> Iterator[Appender]:
        """One transaction: afterwards all that was added is on disk or, after an error, none of it.

        Raises HistoryError if a later run than ``run`` has begun in its scope: the events of runs
        that overlap would not add up to the topology.
        """
        from rait.adapters.journal.appender import Appender  # here, as most runs write nothing

        with explained(self.path, "write"):
            self._connection.execute("BEGIN IMMEDIATE")
            with self._connection:  # commits, or rolls back after an error
                log = Appender(self._connection, self._clock)
                latest = log.last_run(run.scope) if run is not None else None
                if run is not None and latest != run.id:
                    raise HistoryError(
                        f"run {latest} began before run {run.id} had finished: the lock was not "
                        "held"
                    )
                yield log
                log.write_head()

    def _prune(self, keep_after: int, *, crashed: bool) -> Pruning:
        from rait.adapters.journal.appender import drop_runs, require_sound

        with self.appending() as log:
            require_sound(log)
            report = drop_runs(log, keep_after, crashed=crashed)
        if report.entries:
            # VACUUM gives the space back, but takes as much space for a while. If the disk is full,
            # the file stays as large as it is, and entries to come use its free space.
            with explained(self.path, "shrink"), suppress(sqlite3.OperationalError):
                self._connection.execute("VACUUM")
        return report

    def _ask(self, question: Callable[[sqlite3.Connection], Answer]) -> Answer:
        with explained(self.path, "read"):
            self._connection.execute("BEGIN")
            with self._connection:
                return question(self._connection)


class Run:
    """A run under way; ``id`` is its number in the journal.

    ``original`` is the run that this one may repeat (see Appender). As long as all outcomes are
    those of ``original``, this run has its number, and holds them back.
    """

    def __init__(
        self,
        journal: Journal,
        run: int,
        scope: str,
        intended: int,
        original: RunRecord | None = None,
    ) -> None:
        self.id = run
        self.scope = scope
        self._journal = journal
        self._open = set(range(intended))
        self._original = original
        self._held: tuple[Outcome, ...] = ()

    def record(self, outcomes: Iterable[Outcome]) -> None:
        """Write down outcomes of intended events, in the order in which they came.

        May be called many times. Raises ValueError for an outcome of no intended event, or a second
        one of an event, and HistoryError if a later run has begun.
        """
        news = tuple(outcomes)
        indexes = [outcome.index for outcome in news]
        if not self._open.issuperset(indexes) or len(set(indexes)) < len(indexes):
            raise ValueError("an outcome of no intended event, or a second one of an event")
        if not news:
            return
        self._open.difference_update(indexes)
        if self._original is not None and _is_as_before(news, self._original):
            self._held += news
            return
        self._stop_repeating()
        with self._journal.appending(self) as log:
            log.add("outcomes", self.id, self.scope, news)

    def record_call(self, result: CallResult) -> None:
        """Write down what became of a call of a command."""
        self._stop_repeating()
        with self._journal.appending(self) as log:
            log.add("called", self.id, self.scope, result)

    def finish(
        self,
        status: RunStatus,
        problems: Mapping[str, str] | None = None,
        extra_cmd: ExtraCmd | None = None,
        *,
        half_done: Sequence[Event] = (),
        unsure: Sequence[int] = (),
        ended: Sequence[str] = (),
    ) -> None:
        """Write down how the run has ended. ``problems`` are those that belong to no event.

        ``half_done``, ``unsure`` and ``ended`` are as in RunRecord.
        """
        ending = Finished(status, problems or {}, extra_cmd, tuple(unsure), tuple(ended))
        alike = self._original is not None and not half_done and _ends_like(ending, self._original)
        if alike and not self._open:
            with self._journal.appending(self) as log:
                log.count_attempt(self.scope)
            return
        self._stop_repeating()
        with self._journal.appending(self) as log:
            log.add("half_done", self.id, self.scope, *half_done)
            last = log.add("run_finished", self.id, self.scope, ending)
            if log.has_outgrown_snapshot(self.scope):
                log.add("snapshot", last, self.scope, log.snapshot_at(self.scope, last))

    def _stop_repeating(self) -> None:
        """Make an attempt to repeat a run a run of its own, with a number of its own."""
        if self._original is None:
            return
        with self._journal.appending(self) as log:
            run = log.end_repeats(self.scope)
            if run is None:
                raise HistoryError(
                    f"the repetition of run {self.id} is gone: the lock was not held"
                )
            if self._held:
                log.add("outcomes", run, self.scope, self._held)
        self.id, self._original = run, None


def _repeatable(log: Log, header: RunHeader, intended: tuple[Event, ...]) -> RunRecord | None:
    """The scope's last run, if a run with this header and these events may repeat it."""
    known = log.repeats(header.scope)
    if known is not None and known.attempt is not None:
        return None  # the attempt was cut off, so nobody knows what it did
    latest = log.last_run(header.scope)
    if latest is None:
        return None
    # Counting events is cheap, so do that before comparing them.
    (number,) = log.connection.execute(
        "SELECT count(*) FROM entries WHERE run = ? AND kind = 'intended'", (latest,)
    ).fetchone()
    if number != len(intended):
        return None
    record = log.run(latest)
    return record if record.may_be_repeated_by(header, intended) else None


def _is_as_before(outcomes: Iterable[Outcome], original: RunRecord) -> bool:
    pairs = ((outcome, original.outcomes[outcome.index]) for outcome in outcomes)
    return all(records.encode((new,)) == records.encode((old,)) for new, old in pairs)


def _ends_like(ending: Finished, original: RunRecord) -> bool:
    before = msgspec.convert(original, Finished, from_attributes=True)
    return records.encode(ending) == records.encode(before)

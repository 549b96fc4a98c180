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
from typing import TypeVar

import msgspec
from msgspec import Struct, structs

from rait.adapters.closing import Closing
from rait.adapters.journal.file import explained, open_to_write, read_head, repeats_hash, write_head
from rait.adapters.journal.reader import JournalReader, Log
from rait.domain import records
from rait.domain.backend import Outcome
from rait.domain.errors import HistoryError
from rait.domain.events import Event
from rait.domain.hooks import CallResult
from rait.domain.records import (
    Attempt,
    Entry,
    ExtraCmd,
    Finished,
    Named,
    Pruned,
    Repeated,
    Repeats,
    RunHeader,
    RunRecord,
    RunStatus,
)

SNAPSHOT_EVERY = 200
"""A scope gets a new snapshot after so many entries, which bounds the time of ``last_known``."""

LEEWAY = 10
"""Runs are pruned by themselves only when the oldest is over its time by 1/LEEWAY of it."""

Answer = TypeVar("Answer")


class Pruning(Struct, frozen=True):
    """The number of runs and entries that were dropped."""

    runs: int = 0
    entries: int = 0


class Appender(Log):
    """Adds entries to the log, within a transaction that must end with ``write_head``.

    A run of a timer whose events fail, as a link cannot be made, would add the very same entries
    each minute. So a run that repeats the last run of its scope, event for event and error for
    error, is counted and not written again:

    1. The first such run is in the log like all others.
    2. A later run with equal events may be a repetition. Before its first effect, it is stored as
       the *attempt* in the scope's row of the table ``repeats``.
    3. If the run ends like the first one, the row's count goes up, and the attempt is dropped.
    4. If something differs, the attempt is written to the log as a run of its own. If rait is
       killed, the scope's next run does that, and nobody knows the outcomes.
    5. Before the scope's next other run, the count goes into the log as an entry of its own. So the
       log is only ever appended to. The head's seal covers the table ``repeats`` as well.
    """

    def __init__(self, connection: sqlite3.Connection, clock: Callable[[], int]) -> None:
        super().__init__(connection)
        self.head = read_head(connection)
        self._clock = clock

    def write_head(self) -> None:
        """Store the head, which says where the chain ends now."""
        write_head(self.connection, self.head)

    def begin(self, header: RunHeader) -> int:
        """Add the first entry of a run, and give its number, which is the run's as well."""
        return self.add("run_started", self.head.last_id + 1, header.scope, header)

    def add(self, kind: str, run: int, scope: str, *payloads: object) -> int:
        """Add entries of one kind, in order, and give the number of the last one."""
        return self._add(kind, run, scope, map(records.encode, payloads))

    def count_attempt(self, scope: str) -> None:
        """Count the attempt, which has ended like the run that it repeats."""
        known = self.repeats(scope)
        if known is None or known.attempt is None:
            raise records.damage(f"the repetition of a run of {scope} is gone")
        header = known.attempt.header
        total = Repeated(
            known.total.count + 1,
            max(self._now(), known.total.until),  # the clock may have been set back
            header.config_digest,
            header.peers_digest,
            header.source,
            header.revision,
        )
        self.put_repeats(scope, Repeats(known.run, total))

    def end_repeats(self, scope: str) -> int | None:
        """Move the count into the log, and an attempt as a run of its own, whose number this gives.

        None without an attempt. Call this before another run of the scope is added to the log.
        """
        known = self.repeats(scope)
        if known is None:
            return None
        if known.total.count:
            self.add("repeated", known.run, scope, known.total)
        run = None
        if known.attempt is not None:
            rows = self.connection.execute(
                "SELECT payload FROM entries WHERE run = ? AND kind = 'intended' ORDER BY id",
                (known.run,),
            ).fetchall()
            run = self.begin(known.attempt.header)
            self._add("intended", run, scope, (payload for (payload,) in rows))
        self.put_repeats(scope, None)
        return run

    def has_outgrown_snapshot(self, scope: str) -> bool:
        """Whether a scope is due a new snapshot.

        It is after SNAPSHOT_EVERY entries that take more bytes than its last snapshot: so however
        many links a node has, snapshots take no more than two thirds of its journal.
        """
        upto, size = self.connection.execute(
            "SELECT run, length(payload) FROM entries WHERE kind = 'snapshot' AND scope = ? "
            "ORDER BY run DESC, id DESC LIMIT 1",
            (scope,),
        ).fetchone() or (0, 0)
        if self.head.last_id - upto <= SNAPSHOT_EVERY:
            return False
        (grown,) = self.connection.execute(
            "SELECT sum(length(payload)) FROM entries NOT INDEXED "
            "WHERE id > ? AND scope = ? AND kind != 'snapshot'",
            (upto, scope),
        ).fetchone()
        return bool(grown > size)

    def put_repeats(self, scope: str, repeats: Repeats | None) -> None:
        """Store the scope's row of ``repeats``, or delete it."""
        self.connection.execute("DELETE FROM repeats WHERE scope = ?", (scope,))
        if repeats is not None:
            row = scope, records.encode(repeats)
            self.connection.execute("INSERT INTO repeats VALUES (?, ?)", row)
        self.head = structs.replace(self.head, repeats=repeats_hash(self.connection))

    def _add(self, kind: str, run: int, scope: str, payloads: Iterable[bytes]) -> int:
        now = self._now()
        number, before = self.head.last_id, self.head.hash
        rows = []
        for payload in payloads:
            number += 1
            before = records.entry_hash(before, Entry(number, run, kind, scope, now, payload))
            rows.append((number, run, kind, scope, now, payload, before))
        self.connection.executemany("INSERT INTO entries VALUES (?, ?, ?, ?, ?, ?, ?)", rows)
        self.head = structs.replace(self.head, count=self.head.count + len(rows), hash=before)
        return number

    def _now(self) -> int:
        """The clock's time or, if the clock was set back, that of the last entry."""
        row = self.connection.execute(
            "SELECT at FROM entries WHERE id = ?", (self.head.last_id,)
        ).fetchone()
        last = row[0] if row is not None and isinstance(row[0], int) else None
        return self._clock() if last is None else max(self._clock(), last)


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
        keep_after = self._clock() - keep
        log = Log(self._connection)
        with explained(self.path, "read"):
            oldest = _oldest(log)
            if oldest is None or oldest >= keep_after - keep // LEEWAY:
                return Pruning()
            # If the clock has jumped ahead, not all runs must go.
            keep_after = min(keep_after, log.last_begun(newest) - keep // 2)
            if not _droppable(log, keep_after, crashed=True)[1]:
                return Pruning()
        return self._prune(keep_after, crashed=True)

    @contextmanager
    def appending(self, run: Run | None = None) -> Iterator[Appender]:
        """One transaction: afterwards all that was added is on disk or, after an error, none of it.

        Raises HistoryError if a later run than ``run`` has begun in its scope: the events of runs
        that overlap would not add up to the topology.
        """
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
        with self.appending() as log:
            _require_sound(log)
            report = _drop_runs(log, keep_after, crashed=crashed)
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


# Pruning: old runs are dropped from the front of the log. The head keeps the hash of the last entry
# that was dropped, as the anchor of the chain, and snapshots keep what these entries add up to.


def _require_sound(log: Log) -> None:
    from rait.adapters.journal.verify import verify

    found = verify(log.connection, None)
    if not found.ok:
        raise HistoryError(
            f"{found.why}. Nothing was pruned, as the evidence would be lost: keep a copy of the "
            "journal, then move it aside to begin a new one"
        )


def _drop_runs(log: Appender, keep_after: int, *, crashed: bool) -> Pruning:
    """Drop the leading runs that ended before the time, within the caller's transaction.

    With ``crashed``, a scope's last run may go even if it never ended: the snapshots have what it
    intended, and may have done.
    """
    cut, runs = _droppable(log, keep_after, crashed=crashed)
    if not runs:
        return Pruning()
    snapshots = [(scope, log.snapshot_at(scope, cut)) for scope in _scopes(log, cut)]
    names = log.aliases()
    entries = _drop_entries(log, cut)
    for scope, repeats in log.all_repeats():
        if repeats.run <= cut:
            log.put_repeats(scope, None)
    for scope, snapshot in snapshots:
        log.add("snapshot", cut, scope, snapshot)
    kept = log.aliases()
    for path, scope in names.items():
        if kept.get(path) != scope:
            log.add("named", 0, scope, Named(path))
    return Pruning(runs, entries)


def _droppable(log: Log, keep_after: int, *, crashed: bool) -> tuple[int, int]:
    """The last entry to drop, and the number of runs that go.

    That entry is the last one before the first run that must stay; but runs of different scopes may
    overlap, and none is cut in two. A run that is repeated is as young as its last repetition, and
    stays while there is an attempt to repeat it.
    """
    rows = log.connection.execute(
        "SELECT run, max(id), max(at) - min(at), max(kind = 'run_finished'), scope FROM entries "
        "WHERE run > 0 AND kind != 'snapshot' GROUP BY run ORDER BY run"
    ).fetchall()
    latest = {scope: run for run, *_, scope in rows}
    repeated = {repeats.run: repeats for _, repeats in log.all_repeats()}
    begun = log.run_spans()
    cut = read_head(log.connection).last_id
    for run, _, took, finished, scope in rows:
        repeats = repeated.get(run, Repeats(run))
        last_at = max(begun[run].latest + took, repeats.total.until)
        is_unknown = latest[scope] == run and not finished and not crashed
        if last_at >= keep_after or is_unknown or repeats.attempt is not None:
            cut = run - 1
            break
    # From the last run to the first, each that the cut would go through moves it to the front.
    for run, last, *_ in reversed(rows):
        if run <= cut < last:
            cut = run - 1
    return cut, sum(run <= cut for run, *_ in rows)


def _scopes(log: Log, cut: int) -> list[str]:
    """The scopes of the entries to drop; the one with the most recent news comes last."""
    rows = log.connection.execute(
        "SELECT DISTINCT scope FROM entries WHERE kind IN ('run_started', 'snapshot') AND id <= ?",
        (cut,),
    ).fetchall()
    age = log.scopes()
    return sorted((scope for (scope,) in rows), key=lambda scope: age.get(scope, (0, 0)))


def _drop_entries(log: Appender, cut: int) -> int:
    (anchor,) = log.connection.execute("SELECT hash FROM entries WHERE id = ?", (cut,)).fetchone()
    entries = cut - log.head.dropped
    log.connection.execute("DELETE FROM entries WHERE id <= ?", (cut,))
    log.head = structs.replace(log.head, dropped=cut, anchor=anchor, count=log.head.count - entries)
    log.add("pruned", 0, "", Pruned(cut, anchor.hex()))
    return entries


def _oldest(log: Log) -> int | None:
    """The time of the first entry; None if there is no entry, or no time in it."""
    row = log.connection.execute("SELECT at FROM entries ORDER BY id LIMIT 1").fetchone()
    return row[0] if row is not None and isinstance(row[0], int) else None

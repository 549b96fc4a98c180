"""The journal: every change of the tunnels, written down before it is made.

A run's events are on disk before the first of them takes effect, and what became of each follows.
All of it is one hash-chained log (domain/records.py) in SQLite, which costs some 3 ms to import: so
import this module only where a journal is needed.
"""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from typing import TypeVar

from msgspec import Struct, structs

from rait.adapters.journal.file import explained, open_to_write, read_head, repeats_hash, write_head
from rait.adapters.journal.reader import JournalReader, Log
from rait.domain import records
from rait.domain.backend import Outcome
from rait.domain.errors import HistoryError
from rait.domain.events import Event
from rait.domain.records import (
    Attempt,
    Entry,
    ExtraCmd,
    Finished,
    Kind,
    Named,
    Payload,
    Pruned,
    Repeated,
    Repeats,
    RunHeader,
    RunRecord,
    RunStatus,
)

SNAPSHOT_EVERY = 2000
"""So many entries after its last snapshot a scope gets another: this bounds ``last_known``."""

LEEWAY = 10
"""What is to be pruned by itself stays longer by this part of the time it is kept."""

Answer = TypeVar("Answer")


class Pruning(Struct, frozen=True):
    """How many runs and entries were dropped."""

    runs: int = 0
    entries: int = 0


class Appender(Log):
    """Adds entries after the head, within a transaction that ``write_head`` must end.

    A run that repeats the last one of its scope in vain is counted, and not written again: a link
    that cannot be made fails at every run of a timer. The first such run is in the log like all
    others. The next ones are counted in the scope's row of the table ``repeats``, which the head's
    seal covers; the count goes into the log as an entry of its own before the scope's next run, so
    the log is still only ever appended to.

    Before its first effect, a run that may turn out to be a repetition is put into that row as an
    attempt. Where it turns out to be none, or never ends, it is written to the log like any other.
    """

    def __init__(self, connection: sqlite3.Connection, clock: Callable[[], int]) -> None:
        super().__init__(connection)
        self.head = read_head(connection)
        self._clock = clock

    def write_head(self) -> None:
        """Store where the chain ends now."""
        write_head(self.connection, self.head)

    def begin(self, header: RunHeader) -> int:
        """Add the first entry of a run, whose number is also the run's."""
        return self.add("run_started", self.head.last_id + 1, header.scope, header)

    def add(self, kind: Kind, run: int, scope: str, *payloads: Payload) -> int:
        """Add entries of one kind, in order, and give the number of the last entry."""
        return self._add(kind, run, scope, map(records.encode, payloads))

    def attempt(self, run: int, header: RunHeader) -> None:
        """Write down that the scope's last run is about to be repeated."""
        known = self.repeats(header.scope) or Repeats(run)
        self._put(header.scope, structs.replace(known, attempt=Attempt(header)))

    def add_to_attempt(self, scope: str, outcomes: Sequence[Outcome]) -> None:
        """Write down what became of events of the attempt."""
        known, attempt = self._attempted(scope)
        attempt = structs.replace(attempt, outcomes=(*attempt.outcomes, *outcomes))
        self._put(scope, structs.replace(known, attempt=attempt))

    def count_attempt(self, scope: str) -> None:
        """Write down that the attempt has ended just as the run that it repeats."""
        known, attempt = self._attempted(scope)
        total = Repeated(
            known.total.count + 1,
            max(self._now(), known.total.until),  # the clock may have been put back
            attempt.header.config_digest,
            attempt.header.peers_digest,
        )
        self._put(scope, Repeats(known.run, total))

    def end_repeats(self, scope: str) -> int | None:
        """Move into the log what is counted, and an attempt as a run of its own: its number.

        None without an attempt. So before any other run of the scope is added to the log.
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
            if known.attempt.outcomes:
                self.add("outcomes", run, scope, known.attempt.outcomes)
        self.forget_repeats(scope)
        return run

    def forget_repeats(self, scope: str) -> None:
        """Drop what is counted of the scope."""
        self.connection.execute("DELETE FROM repeats WHERE scope = ?", (scope,))
        self._cover_repeats()

    def _attempted(self, scope: str) -> tuple[Repeats, Attempt]:
        known = self.repeats(scope)
        if known is None or known.attempt is None:
            raise records.damage(f"the repetition of a run of {scope} is gone")
        return known, known.attempt

    def _put(self, scope: str, repeats: Repeats) -> None:
        payload = records.encode(repeats)
        self.connection.execute("REPLACE INTO repeats VALUES (?, ?)", (scope, payload))
        self._cover_repeats()

    def _cover_repeats(self) -> None:
        self.head = structs.replace(self.head, repeats=repeats_hash(self.connection))

    def _add(self, kind: Kind, run: int, scope: str, payloads: Iterable[bytes]) -> int:
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
        """The clock, but never a time before the last entry's: a clock may be set back."""
        row = self.connection.execute(
            "SELECT at FROM entries WHERE id = ?", (self.head.last_id,)
        ).fetchone()
        last = row[0] if row is not None and isinstance(row[0], int) else None
        return self._clock() if last is None else max(self._clock(), last)


class Journal(JournalReader):
    """The journal at a path, for writing (and reading).

    Runs of one scope must not overlap: hold the lock (lock.py) from before ``last_known`` to after
    ``finish``. All methods raise MachineError where the file cannot be written.
    """

    def __init__(self, path: str, connection: sqlite3.Connection, clock: Callable[[], int]) -> None:
        super().__init__(path)
        self._connection = connection
        self._clock = clock

    @classmethod
    def open(cls, path: str | os.PathLike[str], clock: Callable[[], int] = time.time_ns) -> Journal:
        """Open the journal for writing; errors as in ``open_to_write``.

        ``clock`` gives unix time in nanoseconds.
        """
        path = os.fspath(path)
        return cls(path, open_to_write(path), clock)

    def close(self) -> None:
        """Fold the -wal file in, if no one else uses it, and let go."""
        with explained(self.path, "close"):
            self._connection.close()

    def __enter__(self) -> Journal:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def begin(self, header: RunHeader, noticed: Sequence[Event], intended: Sequence[Event]) -> Run:
        """Write down a run before its first effect; all of it is on disk when this returns.

        ``noticed`` are events that others caused since the last run; they have happened already.
        A run that may turn out to repeat the last one in vain has that one's number until it does
        not.
        """
        scope = header.scope
        with self.appending() as log:
            if header.spelt and log.aliases().get(header.spelt) != scope:
                log.add("named", 0, scope, Named(header.spelt))
            again = None if noticed else _repeatable(log, header, tuple(intended))
            if again is not None:
                log.attempt(again.id, header)
                return Run(self, again.id, scope, len(intended), again)
            log.end_repeats(scope)
            run = log.begin(header)
            log.add("noticed", run, scope, *noticed)
            log.add("intended", run, scope, *intended)
        return Run(self, run, scope, len(intended))

    def prune(self, keep_after: int) -> Pruning:
        """Drop the runs whose last entry is older than this unix time in nanoseconds.

        Runs go from the front only, as far as all of them are old enough; an unfinished run that is
        its scope's latest stays, with all after it. What replay needs is kept as a snapshot.
        Raises HistoryError where the journal is not sound: what shows that would go with the runs.
        """
        return self._prune(keep_after, crashed=False)

    def prune_old(self, keep: int, newest: int | None = None) -> Pruning:
        """Drop what is older than so many nanoseconds, now and then; raises what ``prune`` does.

        Here a run that never finished goes too, or the one of a configuration that is used no more
        would keep all later runs. ``newest`` is the run that has just ended: it does not vouch for
        the clock that it had itself.

        Only once the oldest entry is older than that by a tenth: to drop runs takes a look at the
        whole journal, and that is not for every run to pay.
        """
        keep_after = self._clock() - keep
        log = Log(self._connection)
        with explained(self.path, "read"):
            oldest = _oldest(log)
            if oldest is None or oldest >= keep_after - keep // LEEWAY:
                return Pruning()
            # A clock that has jumped ahead must not cost all that there is.
            keep_after = min(keep_after, log.last_begun(newest) - keep // 2)
            if not _droppable(log, keep_after, crashed=True)[1]:
                return Pruning()
        return self._prune(keep_after, crashed=True)

    @contextmanager
    def appending(self, run: Run | None = None) -> Iterator[Appender]:
        """One transaction: all that is added is on disk afterwards, or none of it is there.

        Raises HistoryError where a later run of the scope has begun than the one given: runs that
        overlap would not add up to the topology that is.
        """
        with explained(self.path, "write"):
            self._connection.execute("BEGIN IMMEDIATE")
            # Commits, or rolls back after an error.
            with self._connection:
                log = Appender(self._connection, self._clock)
                latest = log.last_run(run.scope) if run is not None else None
                if run is not None and latest != run.id:
                    raise HistoryError(
                        f"run {latest} began before run {run.id} had finished: was the lock not "
                        "held?"
                    )
                yield log
                log.write_head()

    def _prune(self, keep_after: int, *, crashed: bool) -> Pruning:
        with self.appending() as log:
            _require_sound(log)
            report = _drop_runs(log, keep_after, crashed=crashed)
        if report.entries:
            # To give the space back takes as much again for a while. Where there is none, what was
            # dropped is dropped all the same, and its space is used for the entries to come.
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

    As long as all that becomes of it is what became of the run ``again``, it has that one's number,
    and where it ends like that one, it is counted and not written anew (see Appender).
    """

    def __init__(
        self, journal: Journal, run: int, scope: str, intended: int, again: RunRecord | None = None
    ) -> None:
        self.id = run
        self.scope = scope
        self._journal = journal
        self._open = set(range(intended))
        self._again = again

    def record(self, outcomes: Iterable[Outcome]) -> None:
        """Write down what became of intended events, by their index; in the order it happened.

        May be called many times; each event has one outcome. Raises ValueError otherwise, and
        HistoryError if a later run has begun.
        """
        news = tuple(outcomes)
        indexes = [outcome.index for outcome in news]
        if not self._open.issuperset(indexes) or len(set(indexes)) < len(indexes):
            raise ValueError("an outcome of no intended event, or a second one of the same")
        if not news:
            return
        self._open.difference_update(indexes)
        if self._again is not None and _is_as_before(news, self._again):
            with self._journal.appending(self) as log:
                log.add_to_attempt(self.scope, news)
            return
        self._stop_repeating()
        with self._journal.appending(self) as log:
            log.add("outcomes", self.id, self.scope, news)

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
        """Write down that the run has ended, and how; ``problems`` are those of no event.

        ``half_done``, ``unsure`` and ``ended`` are as in RunRecord.
        """
        ending = Finished(status, problems or {}, extra_cmd, tuple(unsure), tuple(ended))
        alike = self._again is not None and not half_done and _ends_like(ending, self._again)
        if alike and not self._open:
            with self._journal.appending(self) as log:
                log.count_attempt(self.scope)
            return
        self._stop_repeating()
        with self._journal.appending(self) as log:
            log.add("half_done", self.id, self.scope, *half_done)
            last = log.add("run_finished", self.id, self.scope, ending)
            if last - log.last_snapshot(self.scope)[0] > SNAPSHOT_EVERY:
                log.add("snapshot", last, self.scope, log.snapshot_at(self.scope, last))

    def _stop_repeating(self) -> None:
        """Write the attempt to repeat a run as a run of its own, which this is from here on."""
        if self._again is None:
            return
        with self._journal.appending(self) as log:
            run = log.end_repeats(self.scope)
        if run is None:
            raise HistoryError(f"the repetition of run {self.id} is gone: was the lock not held?")
        self.id, self._again = run, None


def _repeatable(log: Log, header: RunHeader, intended: tuple[Event, ...]) -> RunRecord | None:
    """The scope's last run, if one with this header that intends this may repeat it."""
    known = log.repeats(header.scope)
    if known is not None and known.attempt is not None:
        return None  # It was cut off, so nobody knows what it did.
    latest = log.last_run(header.scope)
    if latest is None:
        return None
    # Their number is cheap to know, before all of them are compared.
    (number,) = log.connection.execute(
        "SELECT count(*) FROM entries WHERE run = ? AND kind = 'intended'", (latest,)
    ).fetchone()
    if number != len(intended):
        return None
    record = log.run(latest)
    return record if record.may_be_repeated_by(header, intended) else None


def _is_as_before(outcomes: Iterable[Outcome], again: RunRecord) -> bool:
    pairs = ((outcome, again.outcomes[outcome.index]) for outcome in outcomes)
    return all(records.encode((new,)) == records.encode((old,)) for new, old in pairs)


def _ends_like(ending: Finished, again: RunRecord) -> bool:
    if again.status is None:
        return False
    before = Finished(again.status, again.problems, again.extra_cmd, again.unsure, again.ended)
    return records.encode(ending) == records.encode(before)


# Pruning: dropping old runs from the front of the journal, with the chain still anchored.


def _require_sound(log: Log) -> None:
    from rait.adapters.journal.verify import verify  # here, as it is for few runs

    found = verify(log.connection, None)
    if not found.ok:
        raise HistoryError(
            f"{found.why}. Nothing was pruned, as what tells of it would be lost: keep a copy of "
            "the journal, then move it aside to begin a new one"
        )


def _drop_runs(log: Appender, keep_after: int, *, crashed: bool) -> Pruning:
    """Drop all leading runs that ended before the time; within the caller's transaction.

    With ``crashed``, also those that never ended and have no successor: what they intended, and
    may have done, is in the snapshots.
    """
    cut, runs = _droppable(log, keep_after, crashed=crashed)
    if not runs:
        return Pruning()
    snapshots = [(scope, log.snapshot_at(scope, cut)) for scope in _scopes(log, cut)]
    names = log.aliases()
    entries = _drop_entries(log, cut)
    for scope, repeats in log.all_repeats():
        if repeats.run <= cut:
            log.forget_repeats(scope)
    for scope, snapshot in snapshots:
        log.add("snapshot", cut, scope, snapshot)
    kept = log.aliases()
    for path, scope in names.items():
        if kept.get(path) != scope:
            log.add("named", 0, scope, Named(path))
    return Pruning(runs, entries)


def _droppable(log: Log, keep_after: int, *, crashed: bool) -> tuple[int, int]:
    """The last entry to drop, before the first run to be kept and within no run; how many runs go.

    A run that is being repeated is as young as what repeats it, and stays until that ends.
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
    # Runs of different scopes may overlap; from the last to the first, each may move the cut.
    for run, last, *_ in reversed(rows):
        if run <= cut < last:
            cut = run - 1
    return cut, sum(run <= cut for run, *_ in rows)


def _scopes(log: Log, cut: int) -> list[str]:
    """The scopes of what is to be dropped, so that the one that ran last comes last."""
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
    """When the first entry was written; None where there is none, or no time in it."""
    row = log.connection.execute("SELECT at FROM entries ORDER BY id LIMIT 1").fetchone()
    return row[0] if row is not None and isinstance(row[0], int) else None

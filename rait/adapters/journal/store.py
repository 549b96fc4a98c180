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
from types import TracebackType
from typing import Concatenate, ParamSpec, TypeVar

from msgspec import Struct, structs

from rait.adapters.journal.file import explained, open_to_write
from rait.adapters.journal.reader import (
    JournalReader,
    aliases,
    last_begun,
    last_run,
    last_snapshot,
    run_record,
    run_spans,
    scopes_by_age,
    snapshot_at,
)
from rait.adapters.journal.tables import Appender, all_repeats, read_head, read_repeats
from rait.domain import records
from rait.domain.backend import Outcome
from rait.domain.errors import HistoryError
from rait.domain.events import Event
from rait.domain.records import (
    ExtraCmd,
    Finished,
    Named,
    Pruned,
    Repeats,
    RunHeader,
    RunRecord,
    Status,
)

SNAPSHOT_EVERY = 2000
"""So many entries after its last snapshot a scope gets another: this bounds ``last_known``."""

LEEWAY = 10
"""What is to be pruned by itself stays longer by this part of the time it is kept."""

Answer = TypeVar("Answer")
P = ParamSpec("P")


class Pruning(Struct, frozen=True):
    """How many runs and entries were dropped."""

    runs: int = 0
    entries: int = 0


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

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def begin(self, header: RunHeader, noticed: Sequence[Event], intended: Sequence[Event]) -> Run:
        """Write down a run before its first effect; all of it is on disk when this returns.

        ``noticed`` are events that others caused since the last run; they have happened already.
        A run that may turn out to repeat the last one in vain has that one's number until it does
        not.
        """
        scope = header.scope
        with self.appending() as log:
            if header.spelt and aliases(self._connection).get(header.spelt) != scope:
                log.add("named", 0, scope, Named(header.spelt))
            again = None if noticed else self._repeatable(header, tuple(intended))
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
        with explained(self.path, "read"):
            oldest = _oldest(self._connection)
            if oldest is None or oldest >= keep_after - keep // LEEWAY:
                return Pruning()
            # A clock that has jumped ahead must not cost all that there is.
            keep_after = min(keep_after, last_begun(self._connection, newest) - keep // 2)
            if not _droppable(self._connection, keep_after, crashed=True)[1]:
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
                latest = last_run(self._connection, run.scope) if run is not None else None
                if run is not None and latest != run.id:
                    raise HistoryError(
                        f"run {latest} began before run {run.id} had finished: was the lock not "
                        "held?"
                    )
                yield log
                log.write_head()

    def _repeatable(self, header: RunHeader, intended: tuple[Event, ...]) -> RunRecord | None:
        """The scope's last run, if one with this header that intends this may repeat it."""
        known = read_repeats(self._connection, header.scope)
        if known is not None and known.attempt is not None:
            return None  # It was cut off, so nobody knows what it did.
        latest = last_run(self._connection, header.scope)
        if latest is None:
            return None
        # Their number is cheap to know, before all of them are compared.
        (number,) = self._connection.execute(
            "SELECT count(*) FROM entries WHERE run = ? AND kind = 'intended'", (latest,)
        ).fetchone()
        if number != len(intended):
            return None
        record = run_record(self._connection, latest)
        return record if record.may_be_repeated_by(header, intended) else None

    def _prune(self, keep_after: int, *, crashed: bool) -> Pruning:
        with self.appending() as log:
            self._require_sound()
            report = _drop_runs(log, keep_after, crashed=crashed)
        if report.entries:
            # To give the space back takes as much again for a while. Where there is none, what was
            # dropped is dropped all the same, and its space is used for the entries to come.
            with explained(self.path, "shrink"), suppress(sqlite3.OperationalError):
                self._connection.execute("VACUUM")
        return report

    def _require_sound(self) -> None:
        from rait.adapters.journal.verify import verify  # here, as it is for few runs

        found = verify(self._connection, None)
        if not found.ok:
            raise HistoryError(
                f"{found.why}. Nothing was pruned, as what tells of it would be lost: keep a copy "
                "of the journal, then move it aside to begin a new one"
            )

    def _ask(
        self,
        question: Callable[Concatenate[sqlite3.Connection, P], Answer],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> Answer:
        with explained(self.path, "read"):
            self._connection.execute("BEGIN")
            with self._connection:
                return question(self._connection, *args, **kwargs)


class Run:
    """A run under way; ``id`` is its number in the journal.

    As long as all that becomes of it is what became of the run ``again``, it has that one's number,
    and where it ends like that one, it is counted and not written anew (see tables.py).
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
        status: Status,
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
            if last - last_snapshot(log.connection, self.scope)[0] > SNAPSHOT_EVERY:
                snapshot = snapshot_at(log.connection, self.scope, last)
                log.add("snapshot", last, self.scope, snapshot)

    def _stop_repeating(self) -> None:
        """Write the attempt to repeat a run as a run of its own, which this is from here on."""
        if self._again is None:
            return
        with self._journal.appending(self) as log:
            run = log.end_repeats(self.scope)
        if run is None:
            raise HistoryError(f"the repetition of run {self.id} is gone: was the lock not held?")
        self.id, self._again = run, None


def _is_as_before(outcomes: Iterable[Outcome], again: RunRecord) -> bool:
    pairs = ((outcome, again.outcomes[outcome.index]) for outcome in outcomes)
    return all(records.encode((new,)) == records.encode((old,)) for new, old in pairs)


def _ends_like(ending: Finished, again: RunRecord) -> bool:
    if again.status is None:
        return False
    before = Finished(again.status, again.problems, again.extra_cmd, again.unsure, again.ended)
    return records.encode(ending) == records.encode(before)


# Pruning: dropping old runs from the front of the journal, with the chain still anchored.


def _drop_runs(log: Appender, keep_after: int, *, crashed: bool) -> Pruning:
    """Drop all leading runs that ended before the time; within the caller's transaction.

    With ``crashed``, also those that never ended and have no successor: what they intended, and
    may have done, is in the snapshots.
    """
    cut, runs = _droppable(log.connection, keep_after, crashed=crashed)
    if not runs:
        return Pruning()
    scopes = _scopes(log.connection, cut)
    snapshots = [(scope, snapshot_at(log.connection, scope, cut)) for scope in scopes]
    names = aliases(log.connection)
    entries = _drop_entries(log, cut)
    for scope, repeats in all_repeats(log.connection):
        if repeats.run <= cut:
            log.forget_repeats(scope)
    for scope, snapshot in snapshots:
        log.add("snapshot", cut, scope, snapshot)
    kept = aliases(log.connection)
    for path, scope in names.items():
        if kept.get(path) != scope:
            log.add("named", 0, scope, Named(path))
    return Pruning(runs, entries)


def _droppable(
    connection: sqlite3.Connection, keep_after: int, *, crashed: bool
) -> tuple[int, int]:
    """The last entry to drop, before the first run to be kept and within no run; how many runs go.

    A run that is being repeated is as young as what repeats it, and stays until that ends.
    """
    rows = connection.execute(
        "SELECT run, max(id), max(at) - min(at), max(kind = 'run_finished'), scope FROM entries "
        "WHERE run > 0 AND kind != 'snapshot' GROUP BY run ORDER BY run"
    ).fetchall()
    latest = {scope: run for run, *_, scope in rows}
    repeated = {repeats.run: repeats for _, repeats in all_repeats(connection)}
    begun = run_spans(connection)
    cut = read_head(connection).last_id
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


def _scopes(connection: sqlite3.Connection, cut: int) -> list[str]:
    """The scopes of what is to be dropped, so that the one that ran last comes last."""
    rows = connection.execute(
        "SELECT DISTINCT scope FROM entries WHERE kind IN ('run_started', 'snapshot') AND id <= ?",
        (cut,),
    ).fetchall()
    age = scopes_by_age(connection)
    return sorted((scope for (scope,) in rows), key=lambda scope: age.get(scope, (0, 0)))


def _drop_entries(log: Appender, cut: int) -> int:
    (anchor,) = log.connection.execute("SELECT hash FROM entries WHERE id = ?", (cut,)).fetchone()
    entries = cut - log.head.dropped
    log.connection.execute("DELETE FROM entries WHERE id <= ?", (cut,))
    log.head = structs.replace(log.head, dropped=cut, anchor=anchor, count=log.head.count - entries)
    log.add("pruned", 0, "", Pruned(cut, anchor.hex()))
    return entries


def _oldest(connection: sqlite3.Connection) -> int | None:
    """When the first entry was written; None where there is none, or no time in it."""
    row = connection.execute("SELECT at FROM entries ORDER BY id LIMIT 1").fetchone()
    return row[0] if row is not None and isinstance(row[0], int) else None

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
from contextlib import contextmanager
from types import TracebackType
from typing import TypeVar

from rait.adapters.journal import file as journal_file
from rait.adapters.journal import prune as journal_prune
from rait.adapters.journal import repeats as journal_repeats
from rait.adapters.journal import verify as journal_verify
from rait.adapters.journal.reader import (
    JournalReader,
    aliases,
    last_run,
    last_snapshot,
    run_record,
    snapshot_at,
)
from rait.adapters.journal.schema import read_head
from rait.adapters.journal.write import Appender
from rait.domain import records
from rait.domain.backend import Outcome
from rait.domain.errors import HistoryError
from rait.domain.events import Event
from rait.domain.records import ExtraCmd, RunHeader, RunRecord, Status

SNAPSHOT_EVERY = 2000
"""So many entries after its last snapshot a scope gets another: this bounds ``memory``."""

LEEWAY = 10
"""What is to be pruned by itself stays longer by this part of the time it is kept."""

Answer = TypeVar("Answer")


class Journal(JournalReader):
    """The journal at a path, for writing (and reading).

    Runs of one scope must not overlap: hold the lock (lock.py) from before ``memory`` to after
    ``finish``. All methods raise MachineError where the file cannot be written.
    """

    def __init__(self, path: str, connection: sqlite3.Connection, clock: Callable[[], int]) -> None:
        super().__init__(path)
        self._connection = connection
        self._clock = clock

    @classmethod
    def open(cls, path: str | os.PathLike[str], clock: Callable[[], int] = time.time_ns) -> Journal:
        """Open the journal for writing; made (0600, in a directory of 0700) if not there.

        ``clock`` gives unix time in nanoseconds. Raises MachineError where it cannot be written,
        and HistoryError if a newer rait wrote it.
        """
        path = os.fspath(path)
        with journal_file.explained(path, "open"):
            return cls(path, journal_file.open_for_writing(path), clock)

    @staticmethod
    def check(path: str | os.PathLike[str]) -> None:
        """Raise MachineError or HistoryError for a file that is no journal. Writes nothing.

        So a lock beside a journal, say, is not put beside anything else.
        """
        path = os.fspath(path)
        with journal_file.explained(path, "open"):
            journal_file.refuse_strangers(path)

    def close(self) -> None:
        """Fold the -wal file in, if no one else uses it, and let go."""
        with journal_file.explained(self.path, "close"):
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
        with self._appending() as log:
            if header.spelt and aliases(self._connection).get(header.spelt) != header.scope:
                log.add("named", 0, header.scope, records.encode(records.Named(header.spelt)))
            again = None if noticed else self._repeatable(header, tuple(intended))
            if again is not None:
                journal_repeats.attempt(log, again.id, header)
                return Run(self, again.id, header.scope, len(intended), again)
            journal_repeats.reconcile(log, header.scope)
            run = log.begin(header)
            log.add_all("noticed", run, header.scope, map(records.encode, noticed))
            log.add_all("intended", run, header.scope, map(records.encode, intended))
        return Run(self, run, header.scope, len(intended))

    def _repeatable(self, header: RunHeader, intended: tuple[Event, ...]) -> RunRecord | None:
        """The scope's last run, if one with this header that intends this may repeat it."""
        known = journal_repeats.read(self._connection, header.scope)
        if known is not None and known.attempt is not None:
            return None  # It was cut off, so nobody knows what it did.
        latest = last_run(self._connection, header.scope)
        if latest is None or not journal_repeats.same_number(self._connection, latest, intended):
            return None
        record = run_record(self._connection, latest)
        return record if record.may_be_repeated_by(header, intended) else None

    def prune(self, keep_after: int) -> journal_prune.Pruning:
        """Drop the runs whose last entry is older than this unix time in nanoseconds.

        Runs go from the front only, as far as all of them are old enough; an unfinished run that is
        its scope's latest stays, with all after it. What replay needs is kept as a snapshot.
        Raises HistoryError where the journal is not sound: what shows that would go with the runs.
        """
        return self._prune(keep_after, crashed=False)

    def _prune(self, keep_after: int, *, crashed: bool) -> journal_prune.Pruning:
        with self._appending() as log:
            self._expect_sound()
            report = journal_prune.prune(log, keep_after, crashed=crashed)
        if report.entries:
            with journal_file.explained(self.path, "shrink"):
                journal_prune.shrink(self._connection)
        return report

    def prune_old(self, keep: int, newest: int | None = None) -> journal_prune.Pruning:
        """Drop what is older than so many nanoseconds, now and then; raises what ``prune`` does.

        Here a run that never finished goes too, or the one of a configuration that is used no more
        would keep all later runs. ``newest`` is the run that has just ended: it does not vouch for
        the clock that it had itself.

        Only once the oldest entry is older than that by a tenth: to drop runs takes a look at the
        whole journal, and that is not for every run to pay.
        """
        keep_after = self._clock() - keep
        with journal_file.explained(self.path, "read"):
            oldest = journal_prune.oldest(self._connection)
            if oldest is None or oldest >= keep_after - keep // LEEWAY:
                return journal_prune.Pruning()
            # A clock that has jumped ahead must not cost all that there is.
            before = journal_prune.last_before(self._connection, newest)
            keep_after = min(keep_after, before - keep // 2)
            if not journal_prune.is_due(self._connection, keep_after):
                return journal_prune.Pruning()
        return self._prune(keep_after, crashed=True)

    def _record(self, run: int, scope: str, outcomes: tuple[Outcome, ...]) -> None:
        with self._appending() as log:
            self._expect_latest(run, scope)
            log.add("outcomes", run, scope, records.encode(outcomes))

    def _finish(
        self, run: int, scope: str, ending: records.Finished, half_done: Sequence[Event]
    ) -> None:
        with self._appending() as log:
            self._expect_latest(run, scope)
            log.add_all("half_done", run, scope, map(records.encode, half_done))
            last = log.add("run_finished", run, scope, records.encode(ending))
            upto, _ = last_snapshot(self._connection, scope)
            if last - upto > SNAPSHOT_EVERY:
                snapshot = snapshot_at(self._connection, scope, last)
                log.add("snapshot", last, scope, records.encode(snapshot))

    def _record_attempt(self, run: int, scope: str, outcomes: tuple[Outcome, ...]) -> None:
        with self._appending() as log:
            self._expect_latest(run, scope)
            journal_repeats.add_outcomes(log, scope, outcomes)

    def _count_attempt(self, run: int, scope: str) -> None:
        with self._appending() as log:
            self._expect_latest(run, scope)
            journal_repeats.count(log, scope, log.now())

    def _tell_apart(self, run: int, scope: str) -> int:
        """Write the attempt to repeat a run as a run of its own, whose number this gives."""
        with self._appending() as log:
            self._expect_latest(run, scope)
            apart = journal_repeats.reconcile(log, scope)
        if apart is None:
            raise HistoryError(f"the repetition of run {run} is gone: was the lock not held?")
        return apart

    def _expect_sound(self) -> None:
        found = journal_verify.verify(self._connection, None)
        if not found.ok:
            raise HistoryError(
                f"{found.why}. Nothing was pruned, as what tells of it would be lost: keep a copy "
                "of the journal, then move it aside to begin a new one"
            )

    def _expect_latest(self, run: int, scope: str) -> None:
        """Overlapping runs would not add up to the topology that is."""
        latest = last_run(self._connection, scope)
        if latest != run:
            raise HistoryError(
                f"run {latest} began before run {run} had finished: was the lock not held?"
            )

    @contextmanager
    def _appending(self) -> Iterator[Appender]:
        """One transaction: all that is added is on disk afterwards, or none of it is there."""
        with journal_file.explained(self.path, "write"):
            self._connection.execute("BEGIN IMMEDIATE")
            # Commits, or rolls back after an error.
            with self._connection:
                log = Appender(self._connection, read_head(self._connection), self._clock)
                yield log
                log.write_head()

    def _ask(self, question: Callable[[sqlite3.Connection], Answer]) -> Answer:
        with journal_file.explained(self.path, "read"):
            self._connection.execute("BEGIN")
            with self._connection:
                return question(self._connection)


class Run:
    """A run under way; ``id`` is its number in the journal.

    As long as all that becomes of it is what became of the run ``again``, it has that one's number,
    and where it ends like that one, it is counted and not written anew (journal_repeats.py).
    """

    def __init__(
        self, journal: Journal, run: int, scope: str, intended: int, again: RunRecord | None = None
    ) -> None:
        self.id = run
        self._journal = journal
        self._scope = scope
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
        if self._again is not None and _as_before(news, self._again):
            self._journal._record_attempt(self.id, self._scope, news)
            return
        self._tell_apart()
        self._journal._record(self.id, self._scope, news)

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
        ending = records.Finished(status, problems or {}, extra_cmd, tuple(unsure), tuple(ended))
        alike = self._again is not None and not half_done and _ends_like(ending, self._again)
        if alike and not self._open:
            self._journal._count_attempt(self.id, self._scope)
            return
        self._tell_apart()
        self._journal._finish(self.id, self._scope, ending, half_done)

    def _tell_apart(self) -> None:
        """From here on it is a run of its own."""
        if self._again is not None:
            self.id = self._journal._tell_apart(self.id, self._scope)
            self._again = None


def _as_before(outcomes: Iterable[Outcome], again: RunRecord) -> bool:
    return all(records.encode((o,)) == records.encode((again.outcomes[o.index],)) for o in outcomes)


def _ends_like(ending: records.Finished, again: RunRecord) -> bool:
    if again.status is None:
        return False
    before = records.Finished(
        again.status, again.problems, again.extra_cmd, again.unsure, again.ended
    )
    return records.encode(ending) == records.encode(before)

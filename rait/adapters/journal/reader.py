"""Questions to the journal. None of them writes, and none of them waits for a writer."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import TYPE_CHECKING, Concatenate, ParamSpec, TypeVar

from msgspec import structs

from rait.adapters.journal import file as journal_file
from rait.domain import history, records
from rait.domain.errors import HistoryError
from rait.domain.history import LONG_AGO, LastKnown, Span, Start, fold, links_made, spans
from rait.domain.records import Entry, Named, Repeated, Repeats, RunHeader, RunRecord, Snapshot
from rait.domain.topology import Topology

if TYPE_CHECKING:
    from rait.adapters.journal.verify import VerifyReport

Answer = TypeVar("Answer")
Stored = TypeVar("Stored", Named, Repeated, RunHeader, Snapshot)
P = ParamSpec("P")

LEAST, MOST = -(2**63), 2**63 - 1
"""The integers that SQLite can be asked about."""

_SCOPES_OF_A_KIND = """
    WITH RECURSIVE found (scope) AS (
        SELECT min(scope) FROM entries WHERE kind = ?1
        UNION ALL
        SELECT (SELECT min(scope) FROM entries WHERE kind = ?1 AND scope > found.scope)
        FROM found WHERE found.scope IS NOT NULL
    )
    SELECT run, scope, id FROM entries NOT INDEXED WHERE id IN (
        SELECT (SELECT max(id) FROM entries WHERE kind = ?1 AND scope = found.scope)
        FROM found WHERE scope IS NOT NULL
    )
"""
"""The last entry of a kind of each scope, from scope to scope in the index.

To ask for the distinct scopes would read every run.
"""


class Log:
    """What one state of the journal holds, by way of a connection to it."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.connection = connection

    def last_known(self, scope: str) -> LastKnown:
        """What is known of the scope now."""
        _, start, runs = self._known(scope)
        return history.last_known(start, runs)

    def claims(self, scope: str, seen: Mapping[str, str]) -> Mapping[str, str]:
        """Those of the links that another scope knows, each with that scope.

        ``seen`` is as in ``links_made``. Where several know a link, this one among them, it is
        of the one that made it last: the others do not know yet that theirs is gone. This folds
        what every scope did, so it is to be asked only where it must be known.
        """
        scopes = self.scopes().keys()
        if scopes <= {scope}:
            return {}
        latest: dict[str, tuple[int, str]] = {}
        for each in sorted(scopes):
            upto, start, runs = self._known(each)
            for name, entry in links_made(start, runs, upto, seen).items():
                latest[name] = max(latest.get(name, (-1, "")), (entry, each))
        return {name: owner for name, (_, owner) in latest.items() if owner != scope}

    def scopes(self) -> Mapping[str, tuple[int, int]]:
        """All scopes: of two, what is known of the greater one is newer.

        Each comes with its last run, or the last entry that a snapshot of it sums up. The snapshots
        that a pruning leaves all sum up the same entries: the second number, of the snapshot
        itself, tells their order.
        """
        found: dict[str, tuple[int, int]] = {}
        for kind in ("run_started", "snapshot"):
            for run, scope, number in self.connection.execute(_SCOPES_OF_A_KIND, (kind,)):
                if isinstance(scope, str) and isinstance(run, int):
                    found[scope] = max((run, number), found.get(scope, (run, number)))
        return found

    def aliases(self) -> Mapping[str, str]:
        """Paths by which runs named their configuration, each with the scope they are filed under.

        Only where that is another name; of several scopes for a path, the last one counts.
        """
        found = self._payloads(Named, "WHERE kind = 'named' ORDER BY id")
        return {named.path: entry.scope for entry, named in found}

    def run_counts(self) -> Mapping[str, int]:
        """How many runs of each scope there are."""
        counts = "SELECT scope, count(*) FROM entries WHERE kind = 'run_started' GROUP BY scope"
        return dict(self.connection.execute(counts).fetchall())

    def runs(
        self,
        *,
        since: int | None = None,
        link: str | None = None,
        peer: str | None = None,
        scope: str | Collection[str] | None = None,
    ) -> tuple[RunRecord, ...]:
        """The runs that began at the time given or later (unix, in nanoseconds), oldest first.

        ``scope`` is one or several, None for all. ``link`` is the name of a link and ``peer`` a
        public key that a run must have touched.
        """
        conditions, values = ["kind = 'run_started'"], list[int | str]()
        if since is not None:
            begun = self.run_spans().items()
            first = next((run for run, span in begun if span.latest >= since), MOST)
            repeated = ", ".join(map(str, self._repeated_since(since)))
            conditions.append(f"(id >= ? OR id IN ({repeated}))")
            values.append(first)
        if scope is not None:
            scopes = (scope,) if isinstance(scope, str) else scope
            conditions.append(f"scope IN ({', '.join('?' * len(scopes))})")
            values += scopes
        wanted = f"SELECT id FROM entries WHERE {' AND '.join(conditions)}"  # noqa: S608 (constants)
        runs = self._gather(f"WHERE run IN ({wanted})", *values)
        return tuple(run for run in self._with_repeats(runs) if run.touches(link, peer))

    def run(self, run: int) -> RunRecord:
        """One run whole. Raises HistoryError if there is none of this number."""
        runs = self._gather("WHERE run = ?", run, hint="") if LEAST <= run <= MOST else ()
        if not runs:
            raise HistoryError(f"there is no run {run}{self._pruned_note(run)}")
        return self._with_repeats(runs)[0]

    def last_run(self, scope: str) -> int | None:
        """The number of the scope's last run; None where there is none."""
        (latest,) = self.connection.execute(
            "SELECT max(id) FROM entries WHERE kind = 'run_started' AND scope = ?", (scope,)
        ).fetchone()
        return latest if isinstance(latest, int) else None

    def last_begun(self, before: int | None = None) -> int:
        """When the last run began, or the last one before a run; LONG_AGO where there is none."""
        begun = self.run_spans().items()
        earlier = (span.earliest for run, span in reversed(begun) if before is None or run < before)
        return next(earlier, LONG_AGO)

    def run_spans(self) -> dict[int, Span]:
        """When each run began, as far as that can be told; in the order of the runs."""
        runs = list(self._payloads(RunHeader, "WHERE kind = 'run_started' ORDER BY id"))
        starts = [Start(records.time_of(entry), header.started_at) for entry, header in runs]
        found = spans(starts, time.time_ns())
        return {entry.id: span for (entry, _), span in zip(runs, found, strict=True)}

    def pruned(self) -> int:
        """The number of the last entry that was pruned, 0 for none."""
        return journal_file.read_head(self.connection).dropped

    def repeats(self, scope: str) -> Repeats | None:
        """What repeats the scope's last run, or None. Raises HistoryError where it is damaged."""
        row = self.connection.execute(
            "SELECT payload FROM repeats WHERE scope = ?", (scope,)
        ).fetchone()
        return None if row is None else records.decode_repeats(row[0], scope)

    def all_repeats(self) -> list[tuple[str, Repeats]]:
        """What repeats the last run of each scope. Raises HistoryError where it is damaged."""
        rows = self.connection.execute("SELECT scope, payload FROM repeats ORDER BY scope")
        return [(scope, records.decode_repeats(payload, scope)) for scope, payload in rows]

    def topology_at(
        self,
        scope: str,
        *,
        run: int | None = None,
        event: int | None = None,
        time: int | None = None,
    ) -> tuple[Topology, str]:
        """The scope's topology, and the public key it was made under ("" before the first run).

        As it was after a run; or after the event in the entry of that number; or at a unix time
        in nanoseconds, counting what was known to have happened; or else as it is now. Raises
        HistoryError for what is not, or no longer, in the journal.
        """
        if event is not None:
            snapshot = self._after_event(scope, event)
        elif run is not None:
            snapshot = self.snapshot_at(scope, self._run_of(scope, run).last_id)
        else:
            snapshot = self.snapshot_at(scope, None if time is None else self._last_entry_at(time))
        return snapshot.topology, snapshot.public_key

    def snapshot_at(self, scope: str, last: int | None) -> Snapshot:
        """The scope's topology after the entry of this number, None for the last one."""
        upto, start = self.last_snapshot(scope, last)
        return fold(start, self._scope_runs(scope, upto, last))

    def last_snapshot(self, scope: str, last: int | None = None) -> tuple[int, Snapshot]:
        """The last snapshot that sums up no more than the entries up to ``last``.

        With the number of the last entry that it does sum up; 0 and nothing where there is none.
        """
        found = self._payloads(
            Snapshot,
            "WHERE id = (SELECT id FROM entries WHERE kind = 'snapshot' AND scope = ? AND run <= ? "
            "ORDER BY run DESC, id DESC LIMIT 1)",
            scope,
            self._last_id() if last is None else last,
        )
        return next(((entry.run, snapshot) for entry, snapshot in found), (0, Snapshot()))

    def _known(self, scope: str) -> tuple[int, Snapshot, tuple[RunRecord, ...]]:
        """The last entry that the last snapshot sums up, that snapshot, and all runs since."""
        upto, start = self.last_snapshot(scope)
        runs = self._scope_runs(scope, upto, None)
        repeats = self.repeats(scope)
        if repeats is None or repeats.attempt is None:
            return upto, start, runs
        # The attempt to repeat a run is told as if it were a run in the log.
        run = self.run(repeats.run)
        outcomes = {outcome.index: outcome for outcome in repeats.attempt.outcomes}
        if not all(0 <= index < len(run.intended) for index in outcomes):
            raise records.damage(
                f"a repetition of run {run.id} names an event that the run does not have"
            )
        attempt = RunRecord(
            id=run.id,
            last_id=run.last_id,
            header=repeats.attempt.header,
            intended=run.intended,
            outcomes=outcomes,
        )
        return upto, start, (*runs, attempt)

    def _with_repeats(self, runs: tuple[RunRecord, ...]) -> tuple[RunRecord, ...]:
        """The runs, with what is counted of those that are still being repeated."""
        found = {run.id: run for run in runs}
        for _, repeats in self.all_repeats():
            if (run := found.get(repeats.run)) is not None:
                attempt = repeats.attempt
                found[run.id] = structs.replace(
                    run,
                    repeated=repeats.total if repeats.total.count else None,
                    retried_at=attempt.header.started_at if attempt is not None else None,
                )
        return tuple(found.values())

    def _repeated_since(self, since: int) -> list[int]:
        """The runs repeated at that time or later, so that what they tell of lasted till then."""
        still = ((repeats.run, repeats.total) for _, repeats in self.all_repeats())
        found = self._payloads(Repeated, "WHERE kind = 'repeated'")
        ended = ((entry.run, total) for entry, total in found)
        return [run for run, total in (*still, *ended) if total.until >= since]

    def _run_of(self, scope: str, run: int) -> RunRecord:
        record = self.run(run)
        if record.header.scope != scope:
            raise HistoryError(f"run {run} is of another scope, {record.header.scope!r}")
        return record

    def _after_event(self, scope: str, event: int) -> Snapshot:
        row = None
        if LEAST <= event <= MOST:
            row = self.connection.execute(
                "SELECT run, scope FROM entries "
                "WHERE id = ? AND kind IN ('noticed', 'intended', 'half_done')",
                (event,),
            ).fetchone()
        if row is None:
            raise HistoryError(f"there is no event {event}{self._pruned_note(event)}")
        run, owner = row
        if owner != scope:
            raise HistoryError(f"event {event} is of another scope, {owner!r}")
        upto, start = self.last_snapshot(scope, run)
        # Its outcome came later than the event itself, so its run has to be read to the end.
        runs = self._scope_runs(scope, upto, self.run(run).last_id)
        return fold(start, runs, through=event)

    def _last_entry_at(self, when: int) -> int:
        """The last entry that was there at a time.

        Within a run, the clock is taken to have been as good or as bad as at its start.
        """
        begun = self.run_spans()
        first: dict[int, int] = {}
        last: int | None = None
        reached: int | None = None
        for number, run, at in self.connection.execute(
            "SELECT id, run, at FROM entries ORDER BY id"
        ):
            if not isinstance(at, int):
                raise records.damage(f"entry {number} of the journal has no time")
            if (span := begun.get(run)) is not None:
                reached = span.earliest + at - first.setdefault(run, at)
            elif reached is None:
                reached = at
            if reached > when:
                break
            last = number
        if last is None and self.pruned():
            raise HistoryError("what the journal held of that time was pruned")
        return last or 0

    def _pruned_note(self, entry: int) -> str:
        dropped = self.pruned()
        return f": entries up to {dropped} were pruned" if 0 < entry <= dropped else ""

    def _last_id(self) -> int:
        return journal_file.read_head(self.connection).last_id

    def _scope_runs(self, scope: str, after: int, last: int | None) -> tuple[RunRecord, ...]:
        last = self._last_id() if last is None else last
        return self._gather("WHERE id > ? AND id <= ? AND scope = ?", after, last, scope)

    def _gather(
        self, where: str, *values: int | str, hint: str = "NOT INDEXED"
    ) -> tuple[RunRecord, ...]:
        where = f"{where} AND kind != 'snapshot' ORDER BY id"
        return records.gather(self._entries(where, *values, hint=hint))

    def _payloads(
        self, kind: type[Stored], where: str, *values: int | str
    ) -> Iterator[tuple[Entry, Stored]]:
        for entry in self._entries(where, *values):
            payload = records.decode(entry)
            if isinstance(payload, kind):
                yield entry, payload

    def _entries(
        self, where: str, *values: int | str, hint: str = "NOT INDEXED"
    ) -> tuple[Entry, ...]:
        # Without the hint SQLite takes the index on scope, which sorts all that the scope ever did.
        rows = f"SELECT id, run, kind, scope, at, payload FROM entries {hint} {where}"  # noqa: S608
        return tuple(Entry(*row) for row in self.connection.execute(rows, values))


def _asked(
    question: Callable[Concatenate[Log, P], Answer],
) -> Callable[Concatenate[JournalReader, P], Answer]:
    """The question to a log as a question to a reader, which finds the log for it."""

    def ask(reader: JournalReader, /, *args: P.args, **kwargs: P.kwargs) -> Answer:
        return reader._ask(lambda connection: question(Log(connection), *args, **kwargs))

    return ask


class JournalReader:
    """The journal at a path, for reading; its questions are those of Log, one state for each.

    A journal that is not there yet is an empty one. All methods raise MachineError where the file
    cannot be read, and HistoryError where it does not hold what was asked for, or holds what this
    rait does not know.
    """

    last_known = _asked(Log.last_known)
    claims = _asked(Log.claims)
    scopes = _asked(Log.scopes)
    aliases = _asked(Log.aliases)
    run_counts = _asked(Log.run_counts)
    runs = _asked(Log.runs)
    run = _asked(Log.run)
    last_begun = _asked(Log.last_begun)
    pruned = _asked(Log.pruned)
    topology_at = _asked(Log.topology_at)

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = os.fspath(path)

    def absence(self) -> str:
        """Why there is nothing to read: no file, or an empty one. "" where there is something."""
        return journal_file.absence(self.path)

    def last_at(self) -> int:
        """When the last run began, as far as its clock can be believed; 0 where there is none."""
        return max(0, self.last_begun())

    def verify(self, expect_head: str | None = None) -> VerifyReport:
        """Examine every row. ``expect_head`` is a head as it was at some time since.

        Damage is in the report. Raises MachineError if the file cannot be read at all.
        """
        from rait.adapters.journal import verify  # here, as only `rait log` needs it

        try:
            return self._ask(lambda connection: verify.verify(connection, expect_head))
        except HistoryError as error:
            return verify.VerifyReport(ok=False, head="", entries=0, why=str(error))

    def _ask(self, question: Callable[[sqlite3.Connection], Answer]) -> Answer:
        return journal_file.ask(self.path, question)

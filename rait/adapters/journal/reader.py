"""Questions to the journal. None of them writes, and none of them waits for a writer."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Callable, Collection, Mapping
from typing import TYPE_CHECKING, Concatenate, ParamSpec, TypeVar

from msgspec import structs

from rait.adapters.journal import file as journal_file
from rait.adapters.journal.tables import all_repeats, read_head, read_repeats
from rait.domain import records
from rait.domain.errors import HistoryError
from rait.domain.history import (
    LONG_AGO,
    LastKnown,
    Span,
    Start,
    fold,
    last_known,
    links_made,
    spans,
)
from rait.domain.records import (
    Attempt,
    Entry,
    Named,
    Repeated,
    RunHeader,
    RunRecord,
    Snapshot,
)
from rait.domain.topology import Topology

if TYPE_CHECKING:
    from rait.adapters.journal.verify import VerifyReport

Answer = TypeVar("Answer")
P = ParamSpec("P")

LEAST, MOST = -(2**63), 2**63 - 1
"""The integers that SQLite can be asked about."""

# Without the hint SQLite takes the index on scope, which sorts all that the scope ever did.
_COLUMNS = "SELECT id, run, kind, scope, at, payload FROM entries NOT INDEXED"


class JournalReader:
    """The journal at a path, for reading. A journal that is not there yet is an empty one.

    All methods raise MachineError where the file cannot be read, and HistoryError where it does
    not hold what was asked for, or holds what this rait does not know.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = os.fspath(path)

    def absence(self) -> str:
        """Why there is nothing to read: no file, or an empty one. "" where there is something."""
        return journal_file.absence(self.path)

    def last_known(self, scope: str) -> LastKnown:
        """What is known of the scope now."""
        return self._ask(_last_known, scope)

    def claims(self, scope: str, seen: Mapping[str, str]) -> Mapping[str, str]:
        """Those of the links that another scope knows, each with that scope.

        ``seen`` is as in ``links_made``. Where several know a link, this one among them, it is
        of the one that made it last: the others do not know yet that theirs is gone. This folds
        what every scope did, so it is to be asked only where it must be known.
        """
        return self._ask(_claims, scope, seen)

    def scopes(self) -> Mapping[str, tuple[int, int]]:
        """All scopes of the journal: of two, what is known of the greater one is newer."""
        return self._ask(scopes_by_age)

    def aliases(self) -> Mapping[str, str]:
        """Paths by which runs named their configuration, each with the scope they are filed under.

        Only where that is another name.
        """
        return self._ask(aliases)

    def run_counts(self) -> Mapping[str, int]:
        """How many runs of each scope there are."""
        return self._ask(_run_counts)

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
        scopes = (scope,) if isinstance(scope, str) else scope
        return tuple(run for run in self._ask(_runs, since, scopes) if run.touches(link, peer))

    def run(self, run: int) -> RunRecord:
        """One run whole. Raises HistoryError if there is none of this number."""
        return self._ask(run_record, run)

    def last_at(self) -> int:
        """When the last run began, as far as its clock can be believed; 0 where there is none."""
        return max(0, self._ask(last_begun))

    def pruned(self) -> int:
        """The number of the last entry that was pruned, 0 for none."""
        return self._ask(read_head).dropped

    def verify(self, expect_head: str | None = None) -> VerifyReport:
        """Examine every row. ``expect_head`` is a head as it was at some time since.

        Damage is in the report. Raises MachineError if the file cannot be read at all.
        """
        from rait.adapters.journal import verify  # here, as only `rait log` needs it

        try:
            return self._ask(verify.verify, expect_head)
        except HistoryError as error:
            return verify.VerifyReport(ok=False, head="", entries=0, why=str(error))

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
        snapshot = self._ask(_snapshot_then, scope, run, event, time)
        return snapshot.topology, snapshot.public_key

    def _ask(
        self,
        question: Callable[Concatenate[sqlite3.Connection, P], Answer],
        *args: P.args,
        **kwargs: P.kwargs,
    ) -> Answer:
        return journal_file.ask(self.path, lambda conn: question(conn, *args, **kwargs))


def _last_known(connection: sqlite3.Connection, scope: str) -> LastKnown:
    _, start, runs = _known(connection, scope)
    return last_known(start, runs)


def _known(
    connection: sqlite3.Connection, scope: str
) -> tuple[int, Snapshot, tuple[RunRecord, ...]]:
    """The last snapshot, the last entry that it sums up, and all runs since."""
    upto, start = last_snapshot(connection, scope)
    runs = _scope_runs(connection, scope, upto)
    repeats = read_repeats(connection, scope)
    if repeats is not None and repeats.attempt is not None:
        runs = (*runs, _attempted(connection, repeats.run, repeats.attempt))
    return upto, start, runs


def last_run(connection: sqlite3.Connection, scope: str) -> int | None:
    """The number of the scope's last run; None where there is none."""
    (latest,) = connection.execute(
        "SELECT max(id) FROM entries WHERE kind = 'run_started' AND scope = ?", (scope,)
    ).fetchone()
    return latest if isinstance(latest, int) else None


def _attempted(connection: sqlite3.Connection, run: int, attempt: Attempt) -> RunRecord:
    """The attempt to repeat a run, as if it were a run in the log."""
    repeated = run_record(connection, run)
    outcomes = {outcome.index: outcome for outcome in attempt.outcomes}
    if not all(0 <= index < len(repeated.intended) for index in outcomes):
        raise records.damage(f"a repetition of run {run} names an event that the run does not have")
    return RunRecord(
        id=repeated.id,
        last_id=repeated.last_id,
        header=attempt.header,
        intended=repeated.intended,
        outcomes=outcomes,
    )


def _with_repeats(
    connection: sqlite3.Connection, runs: tuple[RunRecord, ...]
) -> tuple[RunRecord, ...]:
    """The runs, with what is counted of those that are still being repeated."""
    found = {run.id: run for run in runs}
    for _, repeats in all_repeats(connection):
        if (run := found.get(repeats.run)) is not None:
            attempt = repeats.attempt
            found[run.id] = structs.replace(
                run,
                repeated=repeats.total if repeats.total.count else None,
                retried_at=attempt.header.started_at if attempt is not None else None,
            )
    return tuple(found.values())


def _claims(
    connection: sqlite3.Connection, scope: str, seen: Mapping[str, str]
) -> Mapping[str, str]:
    scopes = scopes_by_age(connection).keys()
    if scopes <= {scope}:
        return {}
    latest: dict[str, tuple[int, str]] = {}
    for each in sorted(scopes):
        upto, start, runs = _known(connection, each)
        for name, entry in links_made(start, runs, upto, seen).items():
            latest[name] = max(latest.get(name, (-1, "")), (entry, each))
    return {name: owner for name, (_, owner) in latest.items() if owner != scope}


def snapshot_at(connection: sqlite3.Connection, scope: str, last: int) -> Snapshot:
    """The scope's topology after the entry of this number."""
    upto, start = last_snapshot(connection, scope, last)
    return fold(start, _scope_runs(connection, scope, upto, last))


def last_snapshot(
    connection: sqlite3.Connection, scope: str, last: int | None = None
) -> tuple[int, Snapshot]:
    """The last snapshot that sums up no more than the entries up to ``last``.

    With the number of the last entry that it does sum up; 0 and nothing where there is none.
    """
    found = _entries(
        connection,
        "WHERE id = (SELECT id FROM entries WHERE kind = 'snapshot' AND scope = ? AND run <= ? "
        "ORDER BY run DESC, id DESC LIMIT 1)",
        (scope, read_head(connection).last_id if last is None else last),
    )
    for entry in found:
        payload = records.decode(entry)
        if isinstance(payload, Snapshot):
            return entry.run, payload
    return 0, Snapshot()


def _scope_runs(
    connection: sqlite3.Connection, scope: str, after: int, last: int | None = None
) -> tuple[RunRecord, ...]:
    last = read_head(connection).last_id if last is None else last
    return records.gather(
        _entries(
            connection,
            "WHERE id > ? AND id <= ? AND scope = ? AND kind != 'snapshot' ORDER BY id",
            (after, last, scope),
        )
    )


def _entries(
    connection: sqlite3.Connection, where: str, values: tuple[int | str, ...]
) -> tuple[Entry, ...]:
    return tuple(Entry(*row) for row in connection.execute(f"{_COLUMNS} {where}", values))


def _runs(
    connection: sqlite3.Connection, since: int | None, scopes: Collection[str] | None
) -> tuple[RunRecord, ...]:
    conditions, values = ["kind = 'run_started'"], list[int | str]()
    if since is not None:
        begun = run_spans(connection).items()
        first = next((run for run, span in begun if span.latest >= since), MOST)
        repeated = ", ".join(map(str, _repeated_since(connection, since)))
        conditions.append(f"(id >= ? OR id IN ({repeated}))")
        values.append(first)
    if scopes is not None:
        conditions.append(f"scope IN ({', '.join('?' * len(scopes))})")
        values += scopes
    wanted = f"SELECT id FROM entries WHERE {' AND '.join(conditions)}"  # noqa: S608 (constants)
    where = f"WHERE run IN ({wanted}) AND kind != 'snapshot' ORDER BY id"
    runs = records.gather(_entries(connection, where, tuple(values)))
    return _with_repeats(connection, runs)


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


def scopes_by_age(connection: sqlite3.Connection) -> Mapping[str, tuple[int, int]]:
    """Each scope with its last run, or the last entry that a snapshot of it sums up.

    The snapshots that a pruning leaves all sum up the same entries: the second number, of the
    snapshot itself, tells their order.
    """
    found: dict[str, tuple[int, int]] = {}
    for kind in ("run_started", "snapshot"):
        for run, scope, number in connection.execute(_SCOPES_OF_A_KIND, (kind,)):
            if isinstance(scope, str) and isinstance(run, int):
                found[scope] = max((run, number), found.get(scope, (run, number)))
    return found


def aliases(connection: sqlite3.Connection) -> Mapping[str, str]:
    """See JournalReader.aliases; of several scopes for a path, the last one counts."""
    found = {}
    for entry in _entries(connection, "WHERE kind = 'named' ORDER BY id", ()):
        payload = records.decode(entry)
        if isinstance(payload, Named):
            found[payload.path] = entry.scope
    return found


def _run_counts(connection: sqlite3.Connection) -> Mapping[str, int]:
    return dict(
        connection.execute(
            "SELECT scope, count(*) FROM entries WHERE kind = 'run_started' GROUP BY scope"
        ).fetchall()
    )


def last_begun(connection: sqlite3.Connection, before: int | None = None) -> int:
    """When the last run began, or the last one before a run; LONG_AGO where there is none."""
    begun = run_spans(connection).items()
    earlier = (span.earliest for run, span in reversed(begun) if before is None or run < before)
    return next(earlier, LONG_AGO)


def run_spans(connection: sqlite3.Connection) -> dict[int, Span]:
    """When each run began, as far as that can be told; in the order of the runs."""
    entries = _entries(connection, "WHERE kind = 'run_started' ORDER BY id", ())
    starts = [Start(records.time_of(entry), _clock_of(entry)) for entry in entries]
    found = spans(starts, time.time_ns())
    return {entry.id: span for entry, span in zip(entries, found, strict=True)}


def _clock_of(entry: Entry) -> int:
    header = records.decode(entry)
    return header.started_at if isinstance(header, RunHeader) else records.time_of(entry)


def _repeated_since(connection: sqlite3.Connection, since: int) -> list[int]:
    """The runs that were repeated at that time or later, so what they tell of lasted till then."""
    still = all_repeats(connection)
    found = [repeats.run for _, repeats in still if repeats.total.until >= since]
    for entry in _entries(connection, "WHERE kind = 'repeated'", ()):
        payload = records.decode(entry)
        if isinstance(payload, Repeated) and payload.until >= since:
            found.append(entry.run)
    return found


def run_record(connection: sqlite3.Connection, run: int) -> RunRecord:
    """One run whole. Raises HistoryError if there is none of this number."""
    if not LEAST <= run <= MOST:
        raise HistoryError(f"there is no run {run}")
    found = connection.execute(
        "SELECT id, run, kind, scope, at, payload FROM entries "
        "WHERE run = ? AND kind != 'snapshot' ORDER BY id",
        (run,),
    )
    gathered = records.gather(Entry(*row) for row in found)
    if not gathered:
        raise HistoryError(f"there is no run {run}{_pruned_note(connection, run)}")
    return _with_repeats(connection, gathered)[0]


def _snapshot_then(
    connection: sqlite3.Connection,
    scope: str,
    run: int | None,
    event: int | None,
    time: int | None,
) -> Snapshot:
    if run is not None:
        record = run_record(connection, run)
        if record.header.scope != scope:
            raise HistoryError(f"run {run} is of another scope, {record.header.scope!r}")
        return snapshot_at(connection, scope, record.last_id)
    if event is not None:
        return _after_event(connection, scope, event)
    if time is not None:
        return snapshot_at(connection, scope, _last_entry_at(connection, time))
    return snapshot_at(connection, scope, read_head(connection).last_id)


def _after_event(connection: sqlite3.Connection, scope: str, event: int) -> Snapshot:
    if not LEAST <= event <= MOST:
        raise HistoryError(f"there is no event {event}")
    row = connection.execute(
        "SELECT run, scope FROM entries "
        "WHERE id = ? AND kind IN ('noticed', 'intended', 'half_done')",
        (event,),
    ).fetchone()
    if row is None:
        raise HistoryError(f"there is no event {event}{_pruned_note(connection, event)}")
    if row[1] != scope:
        raise HistoryError(f"event {event} is of another scope, {row[1]!r}")
    upto, start = last_snapshot(connection, scope, row[0])
    # Its outcome came later than the event itself, so its run has to be read to the end.
    runs = _scope_runs(connection, scope, upto, run_record(connection, row[0]).last_id)
    return fold(start, runs, through=event)


def _last_entry_at(connection: sqlite3.Connection, when: int) -> int:
    """The last entry that was there at a time.

    Within a run, the clock is taken to have been as good or as bad as at its start.
    """
    begun = run_spans(connection)
    first: dict[int, int] = {}
    last: int | None = None
    reached: int | None = None
    for number, run, at in connection.execute("SELECT id, run, at FROM entries ORDER BY id"):
        if not isinstance(at, int):
            raise records.damage(f"entry {number} of the journal has no time")
        if (span := begun.get(run)) is not None:
            reached = span.earliest + at - first.setdefault(run, at)
        elif reached is None:
            reached = at
        if reached > when:
            break
        last = number
    if last is None and read_head(connection).dropped:
        raise HistoryError("what the journal held of that time was pruned")
    return last or 0


def _pruned_note(connection: sqlite3.Connection, entry: int) -> str:
    dropped = read_head(connection).dropped
    return f": entries up to {dropped} were pruned" if 0 < entry <= dropped else ""

"""Questions to the journal. None of them writes, or waits for a writer."""

from __future__ import annotations

import os
import sqlite3
import time
from collections.abc import Callable, Collection, Iterator, Mapping
from typing import TYPE_CHECKING, Any, Concatenate, ParamSpec, TypeVar

from msgspec import structs

from rait.adapters.journal import file as journal_file
from rait.domain import history, records
from rait.domain.errors import HistoryError
from rait.domain.history import LONG_AGO, LastKnown, fold, links_made
from rait.domain.records import Entry, Repeats, RunRecord, Snapshot
from rait.domain.topology import Topology

if TYPE_CHECKING:
    from rait.adapters.journal.verify import VerifyReport
    from rait.domain.spans import Span

Answer = TypeVar("Answer")
P = ParamSpec("P")

LEAST, MOST = -(2**63), 2**63 - 1
"""The integers that SQLite has (64 bits)."""

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
"""The last entry of one kind in each scope.

A recursive query goes from scope to scope by the index. SELECT DISTINCT would read every run.
"""


class Log:
    """Questions to one state of the journal, by a connection to its file."""

    def __init__(self, connection: sqlite3.Connection) -> None:
        self.connection = connection

    def last_known(self, scope: str) -> LastKnown:
        """What is last known of the scope."""
        _, start, runs = self._known(scope)
        return history.last_known(start, runs)

    def memory(self, scope: str) -> tuple[LastKnown, RunRecord | None]:
        """What is last known of the scope, and its last run, if it has any."""
        last = self.last_run(scope)
        return self.last_known(scope), None if last is None else self.run(last)

    def claims(self, scope: str, seen: Mapping[str, str]) -> Mapping[str, str]:
        """Those links in ``seen`` that another scope made last, each with that scope.

        ``seen`` is as in ``links_made``. Where several scopes know of a link, this one among them,
        the link belongs to the scope that made it last: the others do not know yet that theirs is
        gone. This folds the events of every scope, so ask only where the answer matters.
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
        """All scopes, each with a key to order them by: the one with more recent news is greater.

        The key's first number is the scope's last run, or the last entry that a snapshot of it sums
        up. Snapshots that one pruning wrote sum up the same entries; the second number, the entry
        of the snapshot itself, puts these in order.
        """
        found: dict[str, tuple[int, int]] = {}
        for kind in ("run_started", "snapshot"):
            for run, scope, number in self.connection.execute(_SCOPES_OF_A_KIND, (kind,)):
                if isinstance(scope, str) and isinstance(run, int):
                    found[scope] = max((run, number), found.get(scope, (run, number)))
        return found

    def aliases(self) -> Mapping[str, str]:
        """Paths by which runs named their configuration, each with the scope of these runs.

        Paths that are themselves the scope are left out. Of several scopes for a path, the last
        one counts.
        """
        found = self._payloads("WHERE kind = 'named' ORDER BY id")
        return {named.path: entry.scope for entry, named in found}

    def run_counts(self) -> Mapping[str, int]:
        """The number of runs of each scope."""
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
        """Runs, oldest first.

        ``since`` is the unix time in nanoseconds at which a run began, or was last repeated, at the
        earliest. ``link`` is the name of a link, and ``peer`` a public key, that a run must have
        touched. ``scope`` is one scope, or several, or None for all.
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
        runs = self._with_repeats(self._gather(f"WHERE run IN ({wanted})", *values))
        return tuple(run for run in self._settled(runs) if run.touches(link, peer))

    def run(self, run: int) -> RunRecord:
        """The run of this number. Raises HistoryError if there is none."""
        runs = self._gather("WHERE run = ?", run, hint="") if LEAST <= run <= MOST else ()
        if not runs:
            raise HistoryError(f"there is no run {run}{self._pruned_note(run)}")
        return self._settled(self._with_repeats(runs))[0]

    def last_run(self, scope: str) -> int | None:
        """The number of the scope's last run, or None."""
        (latest,) = self.connection.execute(
            "SELECT max(id) FROM entries WHERE kind = 'run_started' AND scope = ?", (scope,)
        ).fetchone()
        return latest if isinstance(latest, int) else None

    def last_begun(self, before: int | None = None) -> int:
        """When the last run before the run ``before``, or of all runs, began at the earliest.

        Unix time in nanoseconds; LONG_AGO if there is no such run.
        """
        begun = self.run_spans().items()
        earlier = (span.earliest for run, span in reversed(begun) if before is None or run < before)
        return next(earlier, LONG_AGO)

    def run_spans(self) -> dict[int, Span]:
        """The span of time within which each run began, by run, in order."""
        from rait.domain.spans import Start, spans

        runs = list(self._payloads("WHERE kind = 'run_started' ORDER BY id"))
        starts = [Start(records.time_of(entry), header.started_at) for entry, header in runs]
        found = spans(starts, time.time_ns())
        return {entry.id: span for (entry, _), span in zip(runs, found, strict=True)}

    def pruned(self) -> int:
        """The number of the last entry that was pruned, or 0."""
        return journal_file.read_head(self.connection).dropped

    def repeats(self, scope: str) -> Repeats | None:
        """The repetitions of the scope's last run, or None. Raises HistoryError if damaged."""
        row = self.connection.execute(
            "SELECT payload FROM repeats WHERE scope = ?", (scope,)
        ).fetchone()
        return None if row is None else records.decode_repeats(row[0], scope)

    def all_repeats(self) -> list[tuple[str, Repeats]]:
        """The repetitions of each scope's last run. Raises HistoryError if one is damaged."""
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
        """The scope's topology, and the public key it was made with ("" before the first run).

        The topology is that after ``run``, after the event in the entry of number ``event``, at
        ``time`` (unix, in nanoseconds) as far as was known then, or else that of now. Raises
        HistoryError for a run, event or time that is not, or no longer, in the journal.
        """
        if event is not None:
            snapshot = self._after_event(scope, event)
        elif run is not None:
            snapshot = self.snapshot_at(scope, self._run_of(scope, run).last_id)
        else:
            snapshot = self.snapshot_at(scope, None if time is None else self._last_entry_at(time))
        return snapshot.topology, snapshot.public_key

    def snapshot_at(self, scope: str, last: int | None) -> Snapshot:
        """The scope's topology after the entry of number ``last``, or after all entries."""
        upto, start = self.last_snapshot(scope, last)
        return fold(start, self._scope_runs(scope, upto, last))

    def last_snapshot(self, scope: str, last: int | None = None) -> tuple[int, Snapshot]:
        """The scope's last snapshot that sums up no entry after ``last``.

        Before it comes the number of the last entry that it sums up. Without a snapshot, these are
        0 and an empty one.
        """
        found = self._payloads(
            "WHERE id = (SELECT id FROM entries WHERE kind = 'snapshot' AND scope = ? AND run <= ? "
            "ORDER BY run DESC, id DESC LIMIT 1)",
            scope,
            self._last_id() if last is None else last,
        )
        return next(((entry.run, snapshot) for entry, snapshot in found), (0, Snapshot()))

    def _known(self, scope: str) -> tuple[int, Snapshot, tuple[RunRecord, ...]]:
        """The last entry that the last snapshot sums up, the snapshot, and all runs since."""
        upto, start = self.last_snapshot(scope)
        runs = self._scope_runs(scope, upto, None)
        repeats = self.repeats(scope)
        if repeats is None or repeats.attempt is None:
            return upto, start, runs
        # An attempt to repeat a run counts like a run of its own.
        run, header = self.run(repeats.run), repeats.attempt.header
        attempt = RunRecord(id=run.id, last_id=run.last_id, header=header, intended=run.intended)
        return upto, start, (*runs, attempt)

    def _with_repeats(self, runs: tuple[RunRecord, ...]) -> tuple[RunRecord, ...]:
        """The runs, with the repetitions that the table ``repeats`` counts of them."""
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

    def _settled(self, runs: tuple[RunRecord, ...]) -> tuple[RunRecord, ...]:
        """The runs, with what became of those that were to be confirmed."""
        first = next((run.id for run in runs if run.header.confirm_by is not None), None)
        if first is None:
            return runs
        later = self._payloads("WHERE kind = 'run_started' AND id > ? ORDER BY id DESC", first)
        ends = {h.confirms or h.takes_back: (entry.id, h) for entry, h in later}
        return tuple(structs.replace(run, settled_by=ends.get(run.id)) for run in runs)

    def _repeated_since(self, since: int) -> list[int]:
        """The runs that were repeated at that time or later."""
        still = ((repeats.run, repeats.total) for _, repeats in self.all_repeats())
        found = self._payloads("WHERE kind = 'repeated'")
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
        # The event's outcome comes later than the event, so read its run to the end.
        runs = self._scope_runs(scope, upto, self.run(run).last_id)
        return fold(start, runs, through=event)

    def _last_entry_at(self, when: int) -> int | None:
        """The last entry before the runs that began after a unix time in nanoseconds.

        None if no run did. A run counts whole from when it began, which ``run_spans`` tells even
        where a clock was wrong.
        """
        begun = self.run_spans()
        later = [run for run, span in begun.items() if span.earliest > when]
        if len(later) == len(begun) and self.pruned():
            # Where no run was kept, a snapshot of what had been pruned is the first entry.
            first = records.time_of(self._entries("ORDER BY id LIMIT 1")[0])
            if first > when:
                raise HistoryError("the entries of that time were pruned")
        return later[0] - 1 if later else None

    def _pruned_note(self, entry: int) -> str:
        dropped = self.pruned()
        return f": entries up to {dropped} were pruned" if 0 < entry <= dropped else ""

    def _last_id(self) -> int:
        return journal_file.read_head(self.connection).last_id

    def _scope_runs(self, scope: str, after: int, last: int | None) -> tuple[RunRecord, ...]:
        """The scope's runs that begin in these entries, each whole: those of others may overlap."""
        last = self._last_id() if last is None else last
        return self._gather("WHERE id > ? AND run <= ? AND scope = ?", after, last, scope)

    def _gather(
        self, where: str, *values: int | str, hint: str = "NOT INDEXED"
    ) -> tuple[RunRecord, ...]:
        where = f"{where} AND kind != 'snapshot' ORDER BY id"
        return records.gather(self._entries(where, *values, hint=hint))

    def _payloads(self, where: str, *values: int | str) -> Iterator[tuple[Entry, Any]]:
        return ((entry, records.decode(entry)) for entry in self._entries(where, *values))

    def _entries(
        self, where: str, *values: int | str, hint: str = "NOT INDEXED"
    ) -> tuple[Entry, ...]:
        # Without the hint, SQLite uses the index on scope, and sorts all entries of the scope.
        rows = f"SELECT id, run, kind, scope, at, payload FROM entries {hint} {where}"  # noqa: S608
        return tuple(Entry(*row) for row in self.connection.execute(rows, values))


def _as_method(
    question: Callable[Concatenate[Log, P], Answer],
) -> Callable[Concatenate[JournalReader, P], Answer]:
    """A method of Log as a method of JournalReader, which opens the journal for it."""

    def ask(reader: JournalReader, /, *args: P.args, **kwargs: P.kwargs) -> Answer:
        return reader._ask(lambda connection: question(Log(connection), *args, **kwargs))

    return ask


class JournalReader:
    """The journal at a path, for reading. Each method of Log opens it anew, for the newest state.

    A file that does not exist is an empty journal. All methods raise MachineError where the file
    cannot be read, and HistoryError where it is no journal, or lacks what the question is about.
    """

    last_known = _as_method(Log.last_known)
    memory = _as_method(Log.memory)
    claims = _as_method(Log.claims)
    scopes = _as_method(Log.scopes)
    aliases = _as_method(Log.aliases)
    run_counts = _as_method(Log.run_counts)
    runs = _as_method(Log.runs)
    run = _as_method(Log.run)
    last_begun = _as_method(Log.last_begun)
    pruned = _as_method(Log.pruned)
    topology_at = _as_method(Log.topology_at)

    def __init__(self, path: str | os.PathLike[str]) -> None:
        self.path = os.fspath(path)

    def absence(self) -> str:
        """Why there is no journal to read: no file, or an empty one; "" if there is one."""
        return journal_file.absence(self.path)

    def verify(self, expect_head: str | None = None) -> VerifyReport:
        """Examine every row, and report damage.

        ``expect_head`` is the hash of an entry (in hex) that the journal must contain. Raises
        MachineError if the file cannot be read at all.
        """
        from rait.adapters.journal import verify

        try:
            return self._ask(lambda connection: verify.verify(connection, expect_head))
        except HistoryError as error:
            return verify.VerifyReport(ok=False, head="", entries=0, why=str(error))

    def _ask(self, question: Callable[[sqlite3.Connection], Answer]) -> Answer:
        return journal_file.ask(self.path, question)

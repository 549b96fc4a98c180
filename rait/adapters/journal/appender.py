"""What is added to the journal's log, and what is pruned from its front.

Only a run that writes loads this module.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable

from msgspec import Struct, structs

from rait.adapters.journal.file import read_head, repeats_hash, write_head
from rait.adapters.journal.reader import Log
from rait.domain import records
from rait.domain.errors import HistoryError
from rait.domain.records import Entry, Named, Pruned, Repeated, Repeats, RunHeader

SNAPSHOT_EVERY = 200
"""A scope gets a new snapshot after so many entries, which bounds the time of ``last_known``."""


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


# Pruning: old runs are dropped from the front of the log. The head keeps the hash of the last entry
# that was dropped, as the anchor of the chain, and snapshots keep what these entries add up to.


def require_sound(log: Log) -> None:
    from rait.adapters.journal.verify import verify

    found = verify(log.connection, None)
    if not found.ok:
        raise HistoryError(
            f"{found.why}. Nothing was pruned, as the evidence would be lost: keep a copy of the "
            "journal, then move it aside to begin a new one"
        )


def drop_runs(log: Appender, keep_after: int, *, crashed: bool) -> Pruning:
    """Drop the leading runs that ended before the time, within the caller's transaction.

    With ``crashed``, a scope's last run may go even if it never ended: the snapshots have what it
    intended, and may have done.
    """
    cut, runs = droppable(log, keep_after, crashed=crashed)
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


def droppable(log: Log, keep_after: int, *, crashed: bool) -> tuple[int, int]:
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
        if run not in begun:
            raise records.damage(f"run {run} has no beginning")
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


def oldest(log: Log) -> int | None:
    """The time of the first entry; None if there is no entry, or no time in it."""
    row = log.connection.execute("SELECT at FROM entries ORDER BY id LIMIT 1").fetchone()
    return row[0] if row is not None and isinstance(row[0], int) else None

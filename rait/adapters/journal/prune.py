"""Dropping old runs from the front of the journal, with the chain still anchored."""

from __future__ import annotations

import sqlite3
from contextlib import suppress

from msgspec import Struct, structs

from rait.adapters.journal import repeats as journal_repeats
from rait.adapters.journal.reader import aliases, run_spans, scopes_by_age, snapshot_at
from rait.adapters.journal.schema import read_head
from rait.adapters.journal.write import Appender
from rait.domain import records
from rait.domain.history import LONG_AGO


class Pruning(Struct, frozen=True):
    """How many runs and entries were dropped."""

    runs: int = 0
    entries: int = 0


class _Span(Struct, frozen=True):
    """Where a run lies in the log, and when it, or what repeats it, wrote last."""

    first: int
    last: int
    last_at: int
    finished: bool
    latest: bool
    attempted: bool = False


def prune(log: Appender, keep_after: int, *, crashed: bool) -> Pruning:
    """Drop all leading runs that ended before the time; within the caller's transaction.

    With ``crashed``, also those that never ended and have no successor: what they intended, and
    may have done, is in the snapshots.
    """
    spans = _spans(log.connection)
    cut = _cut(spans, log.head.last_id, keep_after, crashed)
    runs = sum(span.first <= cut for span in spans)
    if not runs:
        return Pruning()
    snapshots = [
        (scope, snapshot_at(log.connection, scope, cut)) for scope in _scopes(log.connection, cut)
    ]
    names = [(s, path) for path, s in aliases(log.connection).items()]
    gone = [scope for scope, run in _repeated_runs(log.connection) if run <= cut]
    dropped = _drop(log, cut)
    for scope in gone:
        journal_repeats.forget(log, scope)
    for scope, snapshot in snapshots:
        log.add("snapshot", cut, scope, records.encode(snapshot))
    for scope, path in names:
        if aliases(log.connection).get(path) != scope:
            log.add("named", 0, scope, records.encode(records.Named(path)))
    return Pruning(runs, dropped)


def oldest(connection: sqlite3.Connection) -> int | None:
    """When the first entry was written; None where there is none, or no time in it."""
    row = connection.execute("SELECT at FROM entries ORDER BY id LIMIT 1").fetchone()
    return row[0] if row is not None and isinstance(row[0], int) else None


def last_before(connection: sqlite3.Connection, newest: int | None) -> int:
    """When the last run began that is before the newest one, or of all; the past if none is."""
    begun = run_spans(connection)
    return next(
        (begun[run].earliest for run in reversed(begun) if newest is None or run < newest),
        LONG_AGO,
    )


def is_due(connection: sqlite3.Connection, keep_after: int) -> bool:
    """Whether there is a run to drop, one that never ended or another."""
    spans = _spans(connection)
    cut = _cut(spans, read_head(connection).last_id, keep_after, crashed=True)
    return any(span.first <= cut for span in spans)


def shrink(connection: sqlite3.Connection) -> None:
    """Give the space back to the file system."""
    # It takes as much space again for a while. Where there is none, what was dropped is dropped
    # all the same, and its space is used for the entries to come.
    with suppress(sqlite3.OperationalError):
        connection.execute("VACUUM")


def _spans(connection: sqlite3.Connection) -> list[_Span]:
    rows = connection.execute(
        "SELECT run, max(id), max(at) - min(at), max(kind = 'run_finished'), scope FROM entries "
        "WHERE run > 0 AND kind != 'snapshot' GROUP BY run ORDER BY run"
    ).fetchall()
    latest = {scope: run for run, *_, scope in rows}
    repeats = journal_repeats.read_all(connection)
    begun = run_spans(connection)
    return [
        _repeated(
            _Span(run, last, begun[run].latest + took, bool(finished), latest[scope] == run),
            repeats.get(run),
        )
        for run, last, took, finished, scope in rows
    ]


def _repeated(span: _Span, repeats: records.Repeats | None) -> _Span:
    """A run that is being repeated is as young as what repeats it, and stays until that ends."""
    if repeats is None:
        return span
    return structs.replace(
        span,
        last_at=max(span.last_at, repeats.total.until),
        attempted=repeats.attempt is not None,
    )


def _repeated_runs(connection: sqlite3.Connection) -> list[tuple[str, int]]:
    rows = connection.execute("SELECT scope, payload FROM repeats ORDER BY scope").fetchall()
    return [(scope, records.decode_repeats(payload, scope).run) for scope, payload in rows]


def _scopes(connection: sqlite3.Connection, cut: int) -> list[str]:
    """The scopes of what is to be dropped, so that the one that ran last comes last."""
    rows = connection.execute(
        "SELECT DISTINCT scope FROM entries WHERE kind IN ('run_started', 'snapshot') AND id <= ?",
        (cut,),
    ).fetchall()
    age = scopes_by_age(connection)
    return sorted((scope for (scope,) in rows), key=lambda scope: age.get(scope, (0, 0)))


def _cut(spans: list[_Span], end: int, keep_after: int, crashed: bool) -> int:
    """The last entry to drop: before the first run to be kept, and within no run."""
    kept = [
        span.first
        for span in spans
        if span.last_at >= keep_after
        or (span.latest and not span.finished and not crashed)
        or span.attempted
    ]
    cut = min(kept, default=end + 1) - 1
    # Runs of different scopes may overlap; from the last to the first, each may move the cut.
    for span in reversed(spans):
        if span.first <= cut < span.last:
            cut = span.first - 1
    return cut


def _drop(log: Appender, cut: int) -> int:
    (anchor,) = log.connection.execute("SELECT hash FROM entries WHERE id = ?", (cut,)).fetchone()
    entries = cut - log.head.dropped
    log.connection.execute("DELETE FROM entries WHERE id <= ?", (cut,))
    log.head = structs.replace(log.head, dropped=cut, anchor=anchor, count=log.head.count - entries)
    log.add("pruned", 0, "", records.encode(records.Pruned(cut, anchor.hex())))
    return entries

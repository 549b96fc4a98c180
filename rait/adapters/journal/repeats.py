"""Runs that repeat the last run in vain: the journal counts them, and does not write them again.

A link that cannot be made fails at every run of a timer. The first such run is in the log like
all others. Its repetitions are counted in a row of the table ``repeats``, one for each scope,
which the head's seal covers. The count goes into the log as an entry of its own before the scope's
next run, so the log is still only ever appended to.

Before its first effect, a run that may turn out to be a repetition is put into that row as an
attempt. Where it turns out to be none, or never ends, it is written to the log like any other.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence

from msgspec import structs

from rait.adapters.journal.write import Appender
from rait.domain import records
from rait.domain.backend import Outcome
from rait.domain.digests import fast_sha256
from rait.domain.events import Event
from rait.domain.records import Attempt, Repeated, Repeats, RunHeader, row_hash


def read(connection: sqlite3.Connection, scope: str) -> Repeats | None:
    """What repeats the scope's last run, or None. Raises HistoryError where it is damaged."""
    row = connection.execute("SELECT payload FROM repeats WHERE scope = ?", (scope,)).fetchone()
    return None if row is None else records.decode_repeats(row[0], scope)


def read_all(connection: sqlite3.Connection) -> dict[int, Repeats]:
    """What repeats which run, by its number. Raises HistoryError where it is damaged."""
    rows = connection.execute("SELECT scope, payload FROM repeats ORDER BY scope").fetchall()
    found = (records.decode_repeats(payload, scope) for scope, payload in rows)
    return {repeats.run: repeats for repeats in found}


def digest(connection: sqlite3.Connection) -> bytes:
    """The hash of the whole table, for the head; empty where it holds nothing."""
    rows = connection.execute("SELECT scope, payload FROM repeats ORDER BY scope").fetchall()
    if not rows:
        return b""
    return fast_sha256()(b"".join(row_hash(b"repeats", tuple(row)) for row in rows)).digest()


def attempt(log: Appender, run: int, header: RunHeader) -> None:
    """Write down that the scope's last run is about to be repeated."""
    known = read(log.connection, header.scope) or Repeats(run)
    _write(log, header.scope, structs.replace(known, attempt=Attempt(header)))


def add_outcomes(log: Appender, scope: str, outcomes: Sequence[Outcome]) -> None:
    """Write down what became of events of the attempt."""
    known, under_way = _attempted(log, scope)
    more = structs.replace(under_way, outcomes=(*under_way.outcomes, *outcomes))
    _write(log, scope, structs.replace(known, attempt=more))


def count(log: Appender, scope: str, now: int) -> None:
    """Write down that the attempt has ended just as the run that it repeats."""
    known, ended = _attempted(log, scope)
    total = Repeated(
        known.total.count + 1,
        max(now, known.total.until),  # the clock may have been put back
        ended.header.config_digest,
        ended.header.peers_digest,
    )
    _write(log, scope, Repeats(known.run, total))


def reconcile(log: Appender, scope: str) -> int | None:
    """Move into the log what is counted, and an attempt as a run of its own: its number, or None.

    So before any other run of the scope is added to the log.
    """
    known = read(log.connection, scope)
    if known is None:
        return None
    if known.total.count:
        log.add("repeated", known.run, scope, records.encode(known.total))
    run = None
    if known.attempt is not None:
        run = log.begin(known.attempt.header)
        log.add_all("intended", run, scope, _intended(log.connection, known.run))
        if known.attempt.outcomes:
            log.add("outcomes", run, scope, records.encode(known.attempt.outcomes))
    forget(log, scope)
    return run


def forget(log: Appender, scope: str) -> None:
    """Drop what is counted of the scope."""
    log.connection.execute("DELETE FROM repeats WHERE scope = ?", (scope,))
    log.head = structs.replace(log.head, repeats=digest(log.connection))


def same_number(connection: sqlite3.Connection, run: int, intended: Sequence[Event]) -> bool:
    """Whether a run intended so many events: what is cheap to know before all are compared."""
    (number,) = connection.execute(
        "SELECT count(*) FROM entries WHERE run = ? AND kind = 'intended'", (run,)
    ).fetchone()
    return bool(number == len(intended))


def _attempted(log: Appender, scope: str) -> tuple[Repeats, Attempt]:
    known = read(log.connection, scope)
    if known is None or known.attempt is None:
        raise records.damage(f"the repetition of a run of {scope} is gone")
    return known, known.attempt


def _write(log: Appender, scope: str, repeats: Repeats) -> None:
    payload = records.encode(repeats)
    log.connection.execute("REPLACE INTO repeats VALUES (?, ?)", (scope, payload))
    log.head = structs.replace(log.head, repeats=digest(log.connection))


def _intended(connection: sqlite3.Connection, run: int) -> list[bytes]:
    rows = connection.execute(
        "SELECT payload FROM entries WHERE run = ? AND kind = 'intended' ORDER BY id", (run,)
    )
    return [payload for (payload,) in rows]

"""The tables of the journal, how they grow from one version to the next, and their head.

``entries`` is append-only and holds all that happened; ``head`` is its one row of bounds, and
``repeats`` counts runs that did nothing new (journal_repeats.py). The indexes hold nothing of their
own, and the verification compares them with their table.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Sequence

from msgspec import structs

from rait.domain.errors import HistoryError
from rait.domain.records import Head, Value, seal

Step = Callable[[sqlite3.Connection], None]


def _create(connection: sqlite3.Connection) -> None:
    connection.execute(
        """CREATE TABLE entries (
            id INTEGER PRIMARY KEY,
            run INTEGER NOT NULL,
            kind TEXT NOT NULL,
            scope TEXT NOT NULL,
            at INTEGER NOT NULL,
            payload BLOB NOT NULL,
            hash BLOB NOT NULL
        )"""
    )
    connection.execute("CREATE INDEX entries_by_run ON entries (run)")
    connection.execute("CREATE INDEX entries_by_kind ON entries (kind, scope)")
    # Every later version keeps this table's name and its version column: an older rait reads
    # them to know that it is older.
    connection.execute(
        """CREATE TABLE head (
            id INTEGER PRIMARY KEY CHECK (id = 1),
            version INTEGER NOT NULL,
            dropped INTEGER NOT NULL,
            anchor BLOB NOT NULL,
            count INTEGER NOT NULL,
            hash BLOB NOT NULL,
            seal BLOB NOT NULL
        )"""
    )
    head = Head(version=1)
    connection.execute(
        "INSERT INTO head VALUES (1, ?, ?, ?, ?, ?, ?)",
        (head.version, head.dropped, head.anchor, head.count, head.hash, seal(head)),
    )


def _add_repeats(connection: sqlite3.Connection) -> None:
    connection.execute("CREATE TABLE repeats (scope TEXT PRIMARY KEY, payload BLOB NOT NULL)")
    connection.execute("ALTER TABLE head ADD COLUMN repeats BLOB NOT NULL DEFAULT X''")


STEPS: tuple[Step, ...] = (_create, _add_repeats)
"""Step n takes a journal of version n to version n + 1; version 0 is an empty file."""


def version_of(connection: sqlite3.Connection) -> int:
    """The schema's version, 0 if there is no schema yet.

    Raises HistoryError for a newer one than this rait knows, and for what is no journal.
    """
    tables = {name for (name,) in connection.execute("SELECT name FROM sqlite_master")}
    if not tables:
        return 0
    if "head" not in tables:
        raise HistoryError("it is an SQLite database, but not a journal of rait")
    row = connection.execute("SELECT version FROM head").fetchone()
    if row is None:
        raise HistoryError("the journal's head is gone")
    version = row[0]
    if not isinstance(version, int) or version < 1:
        raise HistoryError(f"the journal's version, {version!r}, is none that ever was")
    if version > len(STEPS):
        raise HistoryError(
            f"the journal has version {version}, and this rait knows versions up to {len(STEPS)}: "
            "upgrade rait"
        )
    return version


def migrate(connection: sqlite3.Connection, steps: Sequence[Step]) -> None:
    """Bring the journal to the newest version, all or nothing; raises what ``version_of`` does."""
    if version_of(connection) == len(steps):
        return
    connection.execute("BEGIN IMMEDIATE")
    with connection:
        for step in steps[version_of(connection) :]:
            step(connection)
        write_head(connection, read_head(connection), version=len(steps))


def scaffold(steps: Sequence[Step]) -> sqlite3.Connection:
    """An empty journal in memory: what there is to read where there is no file."""
    connection = sqlite3.connect(":memory:", isolation_level=None)
    migrate(connection, steps)
    return connection


def read_head(connection: sqlite3.Connection) -> Head:
    """The head. Raises HistoryError if it is not what was written."""
    row = connection.execute(
        "SELECT version, dropped, anchor, count, hash, repeats, seal FROM head"
    ).fetchone()
    if row is None:
        raise HistoryError("the journal's head is gone; move the journal aside to begin a new one")
    head = Head(*row[:-1])
    if row[-1] != seal(head):
        # To append to it would bury the evidence.
        raise HistoryError("the journal's head was changed; move the journal aside to begin anew")
    return head


def write_head(connection: sqlite3.Connection, head: Head, version: int | None = None) -> None:
    """Store the head with its seal, within the caller's transaction."""
    if version is not None:
        head = structs.replace(head, version=version)
    connection.execute(
        "UPDATE head SET version = ?, dropped = ?, anchor = ?, count = ?, hash = ?, repeats = ?, "
        "seal = ?",
        (*structs.astuple(head), seal(head)),
    )


def layout(connection: sqlite3.Connection) -> list[tuple[Value, ...]]:
    """All that the database defines, to compare with what it should."""
    return connection.execute(
        "SELECT type, name, tbl_name, sql FROM sqlite_master ORDER BY name"
    ).fetchall()

"""The journal's tables: how they grow from version to version, their head, and adding to them.

``entries`` is append-only and holds all that happened; ``head`` is its one row of bounds. The
indexes hold nothing of their own, and the verification compares them with their table.

``repeats`` counts runs that repeat the last run of their scope in vain. A link that cannot be made
fails at every run of a timer: the first such run is in the log like all others, and the next ones
are counted in one row for the scope, which the head's seal covers. The count goes into the log as
an entry of its own before the scope's next run, so the log is still only ever appended to.

Before its first effect, a run that may turn out to be a repetition is put into that row as an
attempt. Where it turns out to be none, or never ends, it is written to the log like any other.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable, Sequence

from msgspec import structs

from rait.domain import records
from rait.domain.backend import Outcome
from rait.domain.errors import HistoryError
from rait.domain.records import Attempt, Entry, Head, Kind, Payload, Repeated, Repeats, RunHeader


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
        (head.version, head.dropped, head.anchor, head.count, head.hash, records.seal(head)),
    )


def _add_repeats(connection: sqlite3.Connection) -> None:
    connection.execute("CREATE TABLE repeats (scope TEXT PRIMARY KEY, payload BLOB NOT NULL)")
    connection.execute("ALTER TABLE head ADD COLUMN repeats BLOB NOT NULL DEFAULT X''")


STEPS: tuple[Callable[[sqlite3.Connection], None], ...] = (_create, _add_repeats)
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


def migrate(connection: sqlite3.Connection) -> None:
    """Bring the journal to the newest version, all or nothing; raises what ``version_of`` does."""
    if version_of(connection) == len(STEPS):
        return
    connection.execute("BEGIN IMMEDIATE")
    with connection:
        for step in STEPS[version_of(connection) :]:
            step(connection)
        write_head(connection, structs.replace(read_head(connection), version=len(STEPS)))


def empty_journal() -> sqlite3.Connection:
    """A journal in memory: what there is to read where there is no file."""
    connection = sqlite3.connect(":memory:", isolation_level=None)
    migrate(connection)
    return connection


def read_head(connection: sqlite3.Connection) -> Head:
    """The head. Raises HistoryError if it is not what was written."""
    row = connection.execute(
        "SELECT version, dropped, anchor, count, hash, repeats, seal FROM head"
    ).fetchone()
    if row is None:
        raise HistoryError("the journal's head is gone; move the journal aside to begin a new one")
    head = Head(*row[:-1])
    if row[-1] != records.seal(head):
        # To append to it would bury the evidence.
        raise HistoryError("the journal's head was changed; move the journal aside to begin anew")
    return head


def write_head(connection: sqlite3.Connection, head: Head) -> None:
    """Store the head with its seal, within the caller's transaction."""
    connection.execute(
        "UPDATE head SET version = ?, dropped = ?, anchor = ?, count = ?, hash = ?, repeats = ?, "
        "seal = ?",
        (*structs.astuple(head), records.seal(head)),
    )


def read_repeats(connection: sqlite3.Connection, scope: str) -> Repeats | None:
    """What repeats the scope's last run, or None. Raises HistoryError where it is damaged."""
    row = connection.execute("SELECT payload FROM repeats WHERE scope = ?", (scope,)).fetchone()
    return None if row is None else records.decode_repeats(row[0], scope)


def all_repeats(connection: sqlite3.Connection) -> list[tuple[str, Repeats]]:
    """What repeats the last run of each scope. Raises HistoryError where it is damaged."""
    rows = connection.execute("SELECT scope, payload FROM repeats ORDER BY scope").fetchall()
    return [(scope, records.decode_repeats(payload, scope)) for scope, payload in rows]


def repeats_hash(connection: sqlite3.Connection) -> bytes:
    """The hash of the whole table of repeats, for the head."""
    rows = connection.execute("SELECT scope, payload FROM repeats ORDER BY scope").fetchall()
    return records.repeats_hash(rows)


class Appender:
    """Adds entries after the head, within a transaction that ``write_head`` must end."""

    def __init__(self, connection: sqlite3.Connection, clock: Callable[[], int]) -> None:
        self.connection = connection
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
        known = read_repeats(self.connection, header.scope) or Repeats(run)
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
        known = read_repeats(self.connection, scope)
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
        known = read_repeats(self.connection, scope)
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

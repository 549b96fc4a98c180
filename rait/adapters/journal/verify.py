"""Whether the journal still is what was written.

Every stored column of every row is covered: those of the entries by their chain, those of the
head by its seal, the indexes by SQLite's own check, and the layout by comparison. This finds
accidents and careless hands. Who may write the file can also compute all hashes anew; only a head
hash that is kept elsewhere tells of that.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager

from msgspec import Struct

from rait.adapters.journal.file import empty_journal, repeats_hash
from rait.domain import records
from rait.domain.records import Entry, Head, Value, row_hash, seal


class VerifyReport(Struct, frozen=True, kw_only=True):
    """What an examination of the whole journal found.

    ``head`` is the hash of the last sound entry, ``entries`` how many there are up to it, and
    ``dropped`` how many were pruned before them. ``bad_entry`` is the number of the first entry
    that is wrong or missing, None where it is not an entry that is wrong, and ``why`` says what
    is the matter ("" when ``ok``).
    """

    ok: bool
    head: str
    entries: int
    dropped: int = 0
    bad_entry: int | None = None
    why: str = ""


class _FindingError(Exception):
    def __init__(self, why: str, entry: int | None = None) -> None:
        super().__init__(why)
        self.entry = entry


class _Walk:
    """How far the verification has come."""

    def __init__(self, head: Head) -> None:
        self.head = head
        self.hash = head.anchor
        self.count = 0
        self.seen = {head.anchor.hex()}
        self.anchor_stated = head.dropped == 0

    @property
    def next_id(self) -> int:
        return self.head.dropped + self.count + 1


def verify(connection: sqlite3.Connection, expect_head: str | None) -> VerifyReport:
    """Examine every row, and that the chain contains the hash ``expect_head`` (in hex)."""
    walk: _Walk | None = None
    try:
        with _raw_text(connection):
            walk = _Walk(_sound_head(connection))
            _walk_chain(connection, walk)
            _check_bounds(walk)
            _check_repeats(connection, walk)
            _check_layout(connection)
            _check_indexes(connection)
        _check_expected(walk, expect_head)
    except _FindingError as finding:
        return _report(walk, str(finding), finding.entry)
    except (sqlite3.DatabaseError, UnicodeDecodeError) as error:
        return _report(walk, f"SQLite cannot read it: {error}", walk.next_id if walk else None)
    return _report(walk, "", None)


def _report(walk: _Walk | None, why: str, entry: int | None) -> VerifyReport:
    return VerifyReport(
        ok=not why,
        head=walk.hash.hex() if walk else "",
        entries=walk.count if walk else 0,
        dropped=walk.head.dropped if walk else 0,
        bad_entry=entry,
        why=why,
    )


@contextmanager
def _raw_text(connection: sqlite3.Connection) -> Iterator[None]:
    """Take text that is not UTF-8 as it is: it is a finding, not a failure."""
    usual: Callable[[bytes], object] = connection.text_factory
    connection.text_factory = lambda raw: raw.decode("utf-8", "surrogateescape")
    try:
        yield
    finally:
        connection.text_factory = usual


def _sound_head(connection: sqlite3.Connection) -> Head:
    rows = connection.execute(
        "SELECT id, version, dropped, anchor, count, hash, repeats, seal FROM head"
    ).fetchall()
    if len(rows) != 1 or rows[0][0] != 1:
        raise _FindingError("the head is gone, or there is more than one")
    head = Head(*rows[0][1:-1])
    if rows[0][-1] != seal(head):
        raise _FindingError("the head was changed: its seal does not fit")
    return head


def _check_layout(connection: sqlite3.Connection) -> None:
    everything = "SELECT type, name, tbl_name, sql FROM sqlite_master ORDER BY name"
    with closing(empty_journal()) as wanted:
        layouts = [each.execute(everything).fetchall() for each in (connection, wanted)]
    if layouts[0] != layouts[1]:
        raise _FindingError("tables or indexes were added, removed or changed")


def _walk_chain(connection: sqlite3.Connection, walk: _Walk) -> None:
    rows = connection.execute(
        "SELECT id, run, kind, scope, at, payload, hash FROM entries NOT INDEXED ORDER BY id"
    )
    for row in rows:
        _step(walk, row[:-1], row[-1])


def _step(walk: _Walk, columns: tuple[Value, ...], stored: Value) -> None:
    number = walk.next_id
    if columns[0] != number:
        raise _FindingError(
            f"entry {number} is missing; entry {columns[0]!r} is in its place", number
        )
    if walk.count == walk.head.count:
        raise _FindingError(f"entry {number} is beyond the end that the head names", number)
    computed = row_hash(walk.hash, columns)
    if stored != computed:
        raise _FindingError(f"entry {number} was changed, or the one before it: wrong hash", number)
    walk.hash = computed
    walk.count += 1
    walk.seen.add(computed.hex())
    if columns[2] == "pruned":
        _note_pruning(walk, Entry(*columns))  # type: ignore[arg-type]  # its hash vouches for it


def _note_pruning(walk: _Walk, entry: Entry) -> None:
    payload = records.decode(entry)
    if isinstance(payload, records.Pruned):
        stated = (payload.dropped, payload.anchor)
        walk.anchor_stated = stated == (walk.head.dropped, walk.head.anchor.hex())


def _check_bounds(walk: _Walk) -> None:
    if walk.count != walk.head.count:
        missing = walk.head.count - walk.count
        many = f"{missing} entries are" if missing != 1 else "entry is"
        raise _FindingError(f"the last {many} missing", walk.next_id)
    if walk.hash != walk.head.hash:
        raise _FindingError("the head names another last entry", walk.next_id - 1)
    if not walk.anchor_stated:
        raise _FindingError("the first entries are missing, and no pruning accounts for them", 1)


def _check_repeats(connection: sqlite3.Connection, walk: _Walk) -> None:
    if repeats_hash(connection) != walk.head.repeats:
        raise _FindingError("the count of repeated runs was changed")


def _check_indexes(connection: sqlite3.Connection) -> None:
    (verdict,) = connection.execute("PRAGMA integrity_check(1)").fetchone()
    if verdict != "ok":
        raise _FindingError(f"the file is damaged: {verdict}")


def _check_expected(walk: _Walk, expect_head: str | None) -> None:
    if expect_head is not None and expect_head.strip().lower() not in walk.seen:
        raise _FindingError(
            "no entry has the expected head hash: the journal was rewritten, replaced or cut off"
            + (", or the entry was pruned since" if walk.head.dropped else "")
        )

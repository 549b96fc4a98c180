"""The verification finds any change of what is stored, and says where."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest
from msgspec import structs

from rait.adapters.journal.file import read_head, write_head
from rait.adapters.journal.reader import JournalReader
from rait.adapters.journal.store import Journal
from rait.adapters.journal.verify import verify
from rait.domain.backend import Outcome
from rait.domain.errors import HistoryError
from rait.domain.events import LinkAdded
from rait.domain.records import GENESIS
from tests.unit.test_journal_store import SCOPE, add, entries_of, header, link

Row = tuple[str, int, str, object]


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """A journal with an anchor, snapshots, and two runs."""
    path = tmp_path / "journal.db"
    with Journal.open(path) as journal:
        add(journal, "a")
        journal.prune(2**62)
        add(journal, "b")
        add(journal, "c")
    return path


@pytest.fixture
def connection(path: Path) -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(path, isolation_level=None)) as opened:
        # Someone who edits the file is not kept from anything by its constraints.
        opened.execute("PRAGMA ignore_check_constraints = ON")
        yield opened


def cells(connection: sqlite3.Connection) -> list[Row]:
    """Every stored value: its table, row, column, and itself."""
    found: list[Row] = []
    for table in ("entries", "head", "repeats"):
        rows = connection.execute(f"SELECT rowid, * FROM {table}")  # noqa: S608
        names = [column[0] for column in rows.description[1:]]
        for rowid, *values in rows.fetchall():
            found += [(table, rowid, name, v) for name, v in zip(names, values, strict=True)]
    return found


def changes(value: object) -> Iterator[tuple[type, bytes]]:
    """The value with each of its bytes changed, and the value as another type."""
    if isinstance(value, int):
        raw = value.to_bytes(8, "big", signed=True)
    else:
        raw = value.encode() if isinstance(value, str) else bytes(value)
    for position in range(len(raw)):
        changed = bytearray(raw)
        changed[position] ^= 1 << position % 8
        yield type(value), bytes(changed)
    if not isinstance(value, int):
        yield (bytes if isinstance(value, str) else str), raw


def update(connection: sqlite3.Connection, row: Row, kind: object, raw: bytes) -> bool:
    """Put a changed value in its place; False where SQLite itself cannot hold it."""
    table, rowid, column, _ = row
    value: object = int.from_bytes(raw, "big", signed=True) if kind is int else raw
    spelling = "CAST(? AS TEXT)" if kind is str else "?"
    try:
        statement = f"UPDATE {table} SET {column} = {spelling} WHERE rowid = ?"  # noqa: S608
        connection.execute(statement, (value, rowid))
    except sqlite3.IntegrityError:
        return False
    return True


@pytest.fixture
def repeated(path: Path) -> None:
    """A run that was repeated, and is just being so once more; it comes before the connection."""
    with Journal.open(path) as journal:
        for _ in range(3):
            run = journal.begin(header(), (), [LinkAdded(link("d"))])
            run.record([Outcome(0, "EBUSY")])
            run.finish("failed")
        journal.begin(header(), (), [LinkAdded(link("d"))])


@pytest.mark.usefixtures("repeated")
@pytest.mark.parametrize(
    "change",
    [
        "DELETE FROM repeats",
        "UPDATE repeats SET scope = 'other'",
        "INSERT INTO repeats SELECT 'other', payload FROM repeats",
        "UPDATE head SET repeats = X''",
    ],
)
def test_what_is_counted_is_covered_too(connection: sqlite3.Connection, change: str) -> None:
    assert verify(connection, None).ok
    connection.execute(change)
    report = verify(connection, None)
    assert not report.ok
    assert "head was changed" in report.why or "the count of repeated runs" in report.why


@pytest.mark.usefixtures("repeated")
def test_a_count_that_goes_together_with_its_hash_is_missed(
    connection: sqlite3.Connection,
) -> None:
    connection.execute("DELETE FROM repeats")
    connection.execute("UPDATE head SET repeats = X''")
    report = verify(connection, None)
    assert not report.ok
    assert "head was changed" in report.why


@pytest.mark.usefixtures("repeated")
def test_every_single_byte_change_of_any_stored_column_is_found(
    connection: sqlite3.Connection,
) -> None:
    assert verify(connection, None).ok
    tried = 0
    for row in cells(connection):
        for kind, raw in changes(row[3]):
            connection.execute("BEGIN")
            if update(connection, row, kind, raw):
                tried += 1
                assert not verify(connection, None).ok, (row, kind, raw)
            connection.execute("ROLLBACK")
    assert tried > 1500
    assert verify(connection, None).ok


def numbers(connection: sqlite3.Connection) -> list[int]:
    return [number for (number,) in connection.execute("SELECT id FROM entries ORDER BY id")]


def test_each_entry_that_is_removed_is_named(connection: sqlite3.Connection) -> None:
    for number in numbers(connection):
        connection.execute("BEGIN")
        connection.execute("DELETE FROM entries WHERE id = ?", (number,))
        report = verify(connection, None)
        assert (report.ok, report.bad_entry) == (False, number)
        connection.execute("ROLLBACK")


def test_a_tail_that_is_cut_off_is_found(connection: sqlite3.Connection) -> None:
    for number in numbers(connection):
        connection.execute("BEGIN")
        connection.execute("DELETE FROM entries WHERE id >= ?", (number,))
        report = verify(connection, None)
        assert (report.ok, report.bad_entry) == (False, number)
        assert "missing" in report.why
        lost = read_head(connection).count - len(numbers(connection))
        assert report.why.startswith("the last entry is" if lost == 1 else f"the last {lost} ent")
        connection.execute("ROLLBACK")


def test_entries_that_trade_places_are_found(connection: sqlite3.Connection) -> None:
    first, *others = numbers(connection)
    for other in others:
        connection.execute("BEGIN")
        for old, new in ((first, -1), (other, first), (-1, other)):
            connection.execute("UPDATE entries SET id = ? WHERE id = ?", (new, old))
        report = verify(connection, None)
        assert (report.ok, report.bad_entry) == (False, first)
        connection.execute("ROLLBACK")


def test_an_entry_that_was_slipped_in_is_named(connection: sqlite3.Connection) -> None:
    last = numbers(connection)[-1]
    connection.execute(
        "INSERT INTO entries SELECT id + 1, run, kind, scope, at, payload, hash FROM entries "
        "WHERE id = ?",
        (last,),
    )
    report = verify(connection, None)
    assert (report.ok, report.bad_entry) == (False, last + 1)


@pytest.mark.parametrize(
    "change",
    [
        "DROP INDEX entries_by_run",
        "CREATE TABLE notes (text)",
        "CREATE TRIGGER t AFTER INSERT ON entries BEGIN DELETE FROM entries; END",
        "DELETE FROM head",
        "DROP TABLE entries",
        "DROP TABLE head",
        "INSERT INTO head SELECT 2, version, dropped, anchor, count, hash, seal, repeats FROM head",
    ],
)
def test_a_changed_layout_is_found(connection: sqlite3.Connection, path: Path, change: str) -> None:
    connection.execute(change)
    connection.close()
    assert not JournalReader(path).verify().ok


def test_entries_are_sound_whatever_was_added_beside_them(
    connection: sqlite3.Connection, path: Path
) -> None:
    entries = JournalReader(path).verify().entries
    connection.execute("CREATE TABLE notes (text)")
    report = JournalReader(path).verify()
    assert (report.ok, report.entries) == (False, entries)
    assert "tables or indexes were added" in report.why


def test_a_front_that_is_cut_off_with_a_matching_head_is_found(
    connection: sqlite3.Connection, path: Path
) -> None:
    head = read_head(connection)
    cut = numbers(connection)[2]
    (anchor,) = connection.execute("SELECT hash FROM entries WHERE id = ?", (cut,)).fetchone()
    connection.execute("DELETE FROM entries WHERE id <= ?", (cut,))
    gone = cut - head.dropped
    write_head(
        connection,
        structs.replace(head, dropped=cut, anchor=anchor, count=head.count - gone),
    )
    report = JournalReader(path).verify()
    assert not report.ok
    assert "no pruning accounts" in report.why


def test_an_index_that_disagrees_with_its_table_is_found(
    connection: sqlite3.Connection, path: Path
) -> None:
    connection.execute("PRAGMA writable_schema = ON")
    (page,) = connection.execute(
        "SELECT rootpage FROM sqlite_master WHERE name = 'entries_by_kind'"
    ).fetchone()
    (size,) = connection.execute("PRAGMA page_size").fetchone()
    connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    connection.close()
    content = bytearray(path.read_bytes())
    position = content.index(b"run_started", (page - 1) * size, page * size)
    content[position] ^= 1
    path.write_bytes(content)
    report = JournalReader(path).verify()
    assert (report.ok, report.bad_entry) == (False, None)
    assert "damaged" in report.why


def test_a_head_kept_elsewhere_tells_of_a_rewrite(path: Path, tmp_path: Path) -> None:
    head = JournalReader(path).verify().head
    with Journal.open(path) as journal:
        add(journal, "d")
        assert journal.verify(head).ok
        assert journal.verify(head.upper()).ok
    forged = tmp_path / "forged.db"
    with Journal.open(forged) as journal:
        add(journal, "a")
        assert journal.verify().ok
        report = journal.verify(head)
    assert not report.ok
    assert "expected head" in report.why


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("UPDATE entries SET at = at - 1 WHERE id = 7", "entry 7 was changed"),
        ("DELETE FROM entries WHERE id = 8", "entry 8 is missing"),
        ("UPDATE entries SET payload = 5 WHERE id = 8", "entry 8 was changed"),
        ("DELETE FROM entries WHERE id > 10", "are missing"),
        ("UPDATE head SET count = 1", "head was changed"),
        ("CREATE TABLE notes (text)", "tables or indexes were added"),
    ],
)
def test_pruning_buries_no_evidence(
    connection: sqlite3.Connection, path: Path, change: str, says: str
) -> None:
    connection.execute(change)
    before = list(connection.iterdump())
    report = JournalReader(path).verify()
    with Journal.open(path) as journal, pytest.raises(HistoryError, match=says):
        journal.prune(2**62)
    assert JournalReader(path).verify() == report
    assert not report.ok
    assert list(connection.iterdump()) == before


def test_a_report_says_how_much_is_sound(path: Path) -> None:
    report = JournalReader(path).verify()
    assert report.head == JournalReader(path).verify().head != GENESIS.hex()
    assert report.dropped == 4
    assert report.entries == entries_of(JournalReader(path))[-1].id - 4
    assert JournalReader(path).last_known(SCOPE).topology.links.keys() == {"a", "b", "c"}

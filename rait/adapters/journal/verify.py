"""The verification of the journal: whether it still is what rait wrote.

Every column of every row is covered: in ``entries`` by the hash chain, in ``head`` by its seal, in
``repeats`` by a hash in the head. SQLite checks the indexes, and the layout is compared with that
of a new journal. This finds accidents and careless edits. Somebody who may write the file can also
compute all hashes anew; only a head hash that was kept elsewhere shows that.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager

from msgspec import Struct

from rait.adapters.journal.file import empty_journal, repeats_hash
from rait.domain import records
from rait.domain.records import Entry, Head, Pruned, Value, row_hash, seal


class VerifyReport(Struct, frozen=True, kw_only=True):
    """The result of a verification.

    ``head`` is the hash of the last sound entry, ``entries`` the number of entries up to that one,
    and ``dropped`` the number of entries that were pruned before them. ``bad_entry`` is the number
    of the first entry that is wrong or missing, None where something else is wrong. ``why`` says
    what is wrong ("" if ``ok``).
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


def verify(connection: sqlite3.Connection, expect_head: str | None) -> VerifyReport:
    """Examine every row, and whether an entry has the hash ``expect_head`` (in hex)."""
    chain: _Chain | None = None
    try:
        with _raw_text(connection):
            chain = _Chain(_sound_head(connection))
            rows = connection.execute(
                "SELECT id, run, kind, scope, at, payload, hash FROM entries NOT INDEXED "
                "ORDER BY id"
            )
            for *columns, stored in rows:
                chain.follow(tuple(columns), stored)
            chain.check_bounds()
            _check_the_rest(connection, chain.head)
        chain.check_contains(expect_head)
    except _FindingError as finding:
        return _report(chain, str(finding), finding.entry)
    except (sqlite3.DatabaseError, UnicodeDecodeError) as error:
        return _report(chain, f"SQLite cannot read it: {error}", chain.next_id if chain else None)
    return _report(chain, "", None)


class _Chain:
    """The chain of the entries that were examined so far, which are sound."""

    def __init__(self, head: Head) -> None:
        self.head = head
        self.hash = head.anchor
        self.count = 0
        self._hashes = {head.anchor.hex()}
        self._accounts_for_pruning = head.dropped == 0

    @property
    def next_id(self) -> int:
        return self.head.dropped + self.count + 1

    def follow(self, columns: tuple[Value, ...], stored: Value) -> None:
        number = self.next_id
        if columns[0] != number:
            raise _FindingError(
                f"entry {number} is missing; entry {columns[0]!r} is in its place", number
            )
        if self.count == self.head.count:
            raise _FindingError(f"entry {number} is beyond the end that the head names", number)
        computed = row_hash(self.hash, columns)
        if stored != computed:
            raise _FindingError(
                f"entry {number} was changed, or the one before it: wrong hash", number
            )
        self.hash = computed
        self.count += 1
        self._hashes.add(computed.hex())
        if columns[2] == "pruned":
            pruned = records.decode(Entry(*columns))  # type: ignore[arg-type]  # its hash vouches
            stated = Pruned(self.head.dropped, self.head.anchor.hex())
            self._accounts_for_pruning = pruned == stated

    def check_bounds(self) -> None:
        if self.count != self.head.count:
            missing = self.head.count - self.count
            many = f"{missing} entries are" if missing != 1 else "entry is"
            raise _FindingError(f"the last {many} missing", self.next_id)
        if self.hash != self.head.hash:
            raise _FindingError("the head names another last entry", self.next_id - 1)
        if not self._accounts_for_pruning:
            raise _FindingError(
                "the first entries are missing, and no pruning accounts for them", 1
            )

    def check_contains(self, expect_head: str | None) -> None:
        if expect_head is not None and expect_head.strip().lower() not in self._hashes:
            raise _FindingError(
                "no entry has the expected head hash: the journal was rewritten, replaced or cut "
                "off" + (", or the entry was pruned since" if self.head.dropped else "")
            )


def _report(chain: _Chain | None, why: str, entry: int | None) -> VerifyReport:
    if chain is None:
        return VerifyReport(ok=False, head="", entries=0, why=why)
    return VerifyReport(
        ok=not why,
        head=chain.hash.hex(),
        entries=chain.count,
        dropped=chain.head.dropped,
        bad_entry=entry,
        why=why,
    )


@contextmanager
def _raw_text(connection: sqlite3.Connection) -> Iterator[None]:
    """Read text that is not UTF-8 too: that is damage to report, and not an error."""
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


def _check_the_rest(connection: sqlite3.Connection, head: Head) -> None:
    """Examine what the chain does not cover: the table ``repeats``, the layout and the indexes."""
    if repeats_hash(connection) != head.repeats:
        raise _FindingError("the count of repeated runs was changed")
    everything = "SELECT type, name, tbl_name, sql FROM sqlite_master ORDER BY name"
    with closing(empty_journal()) as wanted:
        layouts = [each.execute(everything).fetchall() for each in (connection, wanted)]
    if layouts[0] != layouts[1]:
        raise _FindingError("tables or indexes were added, removed or changed")
    (verdict,) = connection.execute("PRAGMA integrity_check(1)").fetchone()
    if verdict != "ok":
        raise _FindingError(f"the file is damaged: {verdict}")

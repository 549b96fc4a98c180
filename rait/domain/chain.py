"""The journal's hash chain: each entry's hash covers the one before it.

A hash is SHA-256 over fields that are tagged with type and length, so that no two rows of
different values can be spelt alike.
"""

from __future__ import annotations

from hashlib import sha256

from msgspec import Struct

GENESIS = bytes(32)
"""What stands before the first entry."""

Value = int | str | bytes | float | None
"""What SQLite may give back for a column, whatever was put there."""


class Entry(Struct, frozen=True):
    """One row of the journal, less its hash.

    ``id`` counts from 1 without gaps. ``run`` is the number of the entry that began the run; a
    snapshot's is that of the last entry it sums up; it is 0 for what belongs to no run. ``at`` is
    unix time in nanoseconds, and ``payload`` what codec.py makes of it.
    """

    id: int
    run: int
    kind: str
    scope: str
    at: int
    payload: bytes


class Head(Struct, frozen=True):
    """Where the chain begins and ends, so that neither end can be cut off unseen.

    ``version`` is the schema's. ``dropped`` entries were pruned from the front, the last of which
    had the hash ``anchor``; then come ``count`` entries, the last of which has ``hash``.
    ``repeats`` is the hash of what is counted beside them, empty where nothing is.
    """

    version: int
    dropped: int = 0
    anchor: bytes = GENESIS
    count: int = 0
    hash: bytes = GENESIS
    repeats: bytes = b""

    @property
    def last_id(self) -> int:
        """The number of the last entry."""
        return self.dropped + self.count


def entry_hash(before: bytes, entry: Entry) -> bytes:
    """The hash of an entry that follows one with the hash ``before``."""
    return row_hash(before, (entry.id, entry.run, entry.kind, entry.scope, entry.at, entry.payload))


def seal(head: Head) -> bytes:
    """The hash that covers the head itself."""
    columns = (head.version, head.dropped, head.anchor, head.count, head.hash)
    # A journal of version 1 had no repeats, so a head without any is sealed as it was there.
    return row_hash(b"head", (*columns, head.repeats) if head.repeats else columns)


def row_hash(before: bytes, columns: tuple[Value, ...]) -> bytes:
    """The hash of a row's columns as SQLite gives them, for rows that may hold anything."""
    return sha256(b"".join([_spelt(before), *map(_spelt, columns)])).digest()


def _spelt(value: Value) -> bytes:
    if isinstance(value, bytes):
        return b"b%d:%b" % (len(value), value)
    if isinstance(value, str):
        # Text that is not UTF-8 must not pass for other text, nor stop the verification.
        raw = value.encode("utf-8", "surrogateescape")
        return b"s%d:%b" % (len(raw), raw)
    raw = repr(value).encode()
    return b"%b%d:%b" % (type(value).__name__[:1].encode(), len(raw), raw)

"""Appending to the journal's chain, within one transaction."""

from __future__ import annotations

import sqlite3
from collections.abc import Callable, Iterable

from msgspec import structs

from rait.adapters.journal import schema as journal_schema
from rait.domain import records
from rait.domain.records import Entry, Head, RunHeader, entry_hash

_INSERT = "INSERT INTO entries VALUES (?, ?, ?, ?, ?, ?, ?)"


class Appender:
    """Adds entries after the head; ``write_head`` must follow in the same transaction."""

    def __init__(
        self, connection: sqlite3.Connection, head: Head, clock: Callable[[], int]
    ) -> None:
        self.connection = connection
        self.head = head
        self._clock = clock

    def begin(self, header: RunHeader) -> int:
        """Add the first entry of a run, whose number is also the run's."""
        run = self.head.last_id + 1
        return self.add("run_started", run, header.scope, records.encode(header))

    def add(self, kind: records.Kind, run: int, scope: str, payload: bytes) -> int:
        """Add one entry and give its number."""
        self.add_all(kind, run, scope, (payload,))
        return self.head.last_id

    def add_all(self, kind: records.Kind, run: int, scope: str, payloads: Iterable[bytes]) -> None:
        """Add entries of one kind, in order."""
        now = self.now()
        number, before = self.head.last_id, self.head.hash
        rows = []
        for payload in payloads:
            number += 1
            before = entry_hash(before, Entry(number, run, kind, scope, now, payload))
            rows.append((number, run, kind, scope, now, payload, before))
        self.connection.executemany(_INSERT, rows)
        count = self.head.count + len(rows)
        self.head = structs.replace(self.head, count=count, hash=before)

    def now(self) -> int:
        """The clock, but never a time before the last entry's: a clock may be set back."""
        row = self.connection.execute(
            "SELECT at FROM entries WHERE id = ?", (self.head.last_id,)
        ).fetchone()
        last = row[0] if row is not None and isinstance(row[0], int) else None
        return self._clock() if last is None else max(self._clock(), last)

    def write_head(self) -> None:
        """Store where the chain ends now."""
        journal_schema.write_head(self.connection, self.head)

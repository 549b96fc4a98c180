"""A journal that was damaged is read as far as it goes, or refused with a reason; never a crash."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from rait.adapters.journal.reader import JournalReader
from rait.adapters.journal.store import Journal
from rait.cli import main
from rait.commands.log import Query, run_json, run_lines, run_whole
from rait.domain.backend import Outcome
from rait.domain.errors import HistoryError, RaitError
from rait.domain.events import LinkAdded, PeerAdded
from rait.domain.topology import LinkPeer
from tests.unit.command_line import CONF, PRIVATE
from tests.unit.test_journal_store import SCOPE, header, link
from tests.unit.test_journal_verify import cells, changes, update

VERIFY = "`rait log verify`"

NEGATIVE = """
    UPDATE entries SET payload = CAST(replace(CAST(payload AS TEXT), '"key":', '"key":-') AS BLOB)
    WHERE id = 3
"""
"""What makes a number in an event less than nothing."""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Run 1 is entries 1 to 7, with its events in 2 to 5; run 8 never finished."""
    path = tmp_path / "journal.db"
    with Journal.open(path) as journal:
        events = [LinkAdded(link("b")), LinkAdded(link("c")), PeerAdded("c", LinkPeer("far"))]
        run = journal.begin(header(), [LinkAdded(link("a"))], events)
        run.record([Outcome(0), Outcome(1), Outcome(2, "EBUSY")])
        run.finish("partial")
        journal.begin(header(), [LinkAdded(link("d"))], [LinkAdded(link("e"))])
    return path


@pytest.fixture
def connection(path: Path) -> Iterator[sqlite3.Connection]:
    with closing(sqlite3.connect(path, isolation_level=None)) as opened:
        yield opened


def read_all(path: Path) -> None:
    """Everything that commands ask of a journal. Raises RaitError."""
    reader = JournalReader(path)
    reader.last_known(SCOPE)
    reader.topology_at(SCOPE, event=3)
    reader.topology_at(SCOPE, time=2**62)
    for run in (*reader.runs(), reader.run(1)):
        run_lines(run, Query(), brief=False)
        run_whole(run)
        run_json(run, Query())


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ("DELETE FROM entries WHERE id = 2", "entry 2 .*, an event of run 1, is missing"),
        ("DELETE FROM entries WHERE id = 4", "entry 4 .*, an event of run 1, is missing"),
        ("DELETE FROM entries WHERE id = 5", "entry 6 .* an event that run 1 does not have"),
        ("DELETE FROM entries WHERE id = 1", "entry 2 .* of no run that it holds"),
        ("UPDATE entries SET payload = 5 WHERE id = 3", r"entry 3 \(intended\) .* cannot be read"),
        ("UPDATE entries SET payload = 1.5 WHERE id = 6", r"entry 6 \(outcomes\) .*cannot be read"),
        (
            "UPDATE entries SET payload = CAST('[{\"index\":-1}]' AS BLOB) WHERE id = 6",
            "entry 6 .* an event that run 1 does not have",
        ),
        (
            "UPDATE entries SET payload = CAST(replace(CAST(payload AS TEXT), '\"started_at\":1', "
            "'\"started_at\":1000000000000000000000000000000') AS BLOB) WHERE id = 1",
            r"entry 1 \(run_started\) .* cannot be read",
        ),
        (NEGATIVE.replace("key", "mtu"), r"entry 3 .*\(run 1\) cannot be read: .*>= 0.*mtu"),
        (NEGATIVE.replace("key", "group"), r"entry 3 .*\(run 1\) cannot be read: .*>= 0.*group"),
        (NEGATIVE.replace("key", "listen_port"), r"entry 3 .*cannot be read: .*>= 0.*listen_port"),
        ("UPDATE entries SET at = 'noon' WHERE id = 7", "entry 7 .* has no time"),
        ("UPDATE entries SET kind = 'bogus' WHERE id = 3", "entry 3 .*'bogus'.*upgrade rait"),
    ],
)
def test_damage_is_named_and_log_verify_is_pointed_to(
    connection: sqlite3.Connection, path: Path, change: str, says: str
) -> None:
    read_all(path)
    connection.execute(change)
    with pytest.raises(HistoryError, match=says) as caught:
        read_all(path)
    assert VERIFY in str(caught.value)


@pytest.mark.parametrize("command", ["log", "replay", "rollback", "plan", "up", "export-state"])
def test_no_command_trips_over_a_lost_event(
    connection: sqlite3.Connection,
    path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    command: str,
) -> None:
    conf = path.with_name("rait.conf")
    conf.write_text(f'private_key = "{PRIVATE}"\n{CONF}')
    conf.chmod(0o600)
    path.with_name("peers.conf").write_text("peers = []\n")
    monkeypatch.setattr("rait.app.session.scope_name", lambda *_: SCOPE)
    monkeypatch.setattr("rait.app.scopes.scope_name", lambda *_: SCOPE)
    monkeypatch.setattr("rait.commands.log.scope_name", lambda *_: SCOPE)
    connection.execute("DELETE FROM entries WHERE id = 4")
    assert main(["-c", str(conf), command]) == 1
    said = capsys.readouterr()
    assert said.out == ""
    assert str(path) in said.err
    assert VERIFY in said.err


def test_no_single_byte_that_is_changed_makes_a_reader_crash(
    connection: sqlite3.Connection, path: Path
) -> None:
    connection.execute("PRAGMA synchronous = OFF")
    whole = "\n".join(connection.iterdump())
    refused: list[str] = []
    for row in cells(connection):
        table, rowid, column, value = row
        if column in ("hash", "anchor", "seal"):
            continue
        for kind, raw in changes(value):
            if not update(connection, row, kind, raw):
                continue
            try:
                read_all(path)
            except RaitError as error:
                refused.append(str(error))
            number = int.from_bytes(raw, "big", signed=True)
            now = number if column == "id" else rowid
            connection.execute(
                f"UPDATE {table} SET {column} = ? WHERE rowid = ?",  # noqa: S608
                (value, now),
            )
    assert "\n".join(connection.iterdump()) == whole
    assert len(refused) > 500
    assert all(str(path) in text for text in refused)

"""What is named as the journal and is none is refused, and left just as it was."""

from __future__ import annotations

import errno
import os
import socket
import sqlite3
import stat
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from rait.adapters.journal.file import explained
from rait.adapters.journal.reader import JournalReader
from rait.adapters.journal.store import Journal
from rait.app.inputs import lock_path
from rait.cli import main
from rait.domain.errors import MachineError, RaitError
from rait.domain.history import LastKnown
from tests.unit.command_line import CONF, PRIVATE
from tests.unit.test_journal_store import SCOPE, add


def text(path: Path) -> None:
    path.write_text("127.0.0.1 localhost\n")


def database(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE TABLE theirs (value)")


def device(path: Path) -> None:
    """A copy of /dev/null: that one itself is everyone's."""
    try:
        os.mknod(path, stat.S_IFCHR, os.makedev(1, 3))
    except PermissionError:
        pytest.skip("this user may not make a device")


def server(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind(str(path))


STRANGERS = [
    (text, "not an SQLite database"),
    (database, "not a journal of rait"),
    (device, "it is a device"),
    (os.mkfifo, "it is a FIFO"),
    (server, "it is a socket"),
    (Path.mkdir, "it is a directory"),
]


def state(directory: Path) -> dict[str, tuple[int, int, int]]:
    """All that is there: what it is, with which mode, and when it was changed."""
    found = {path.name: path.lstat() for path in directory.iterdir()}
    return {name: (s.st_mode, s.st_ino, s.st_ctime_ns) for name, s in found.items()}


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    place = tmp_path / "place"
    place.mkdir()
    return place


@pytest.mark.parametrize("linked", [False, True])
@pytest.mark.parametrize(("make", "says"), STRANGERS)
def test_what_is_no_journal_is_refused_and_left_as_it_was(
    directory: Path,
    capsys: pytest.CaptureFixture[str],
    make: Callable[[Path], None],
    says: str,
    linked: bool,
) -> None:
    named = directory / "named"
    make(named)
    named.chmod(0o666)
    if linked:
        (directory / "link").symlink_to("named")
        named = directory / "link"
    conf = directory.parent / "rait.conf"
    conf.write_text(f'private_key = "{PRIVATE}"\n{CONF}'.replace("journal.db", str(named)))
    conf.chmod(0o600)
    before = state(directory)
    for use in (Journal.open, lambda path: JournalReader(path).last_known(SCOPE)):
        with pytest.raises(RaitError, match=says):
            use(named)
    for command in (["down"], ["rollback"], ["log", "prune", "--keep", "1s"], ["log"]):
        assert main(["-c", str(conf), *command]) == 1
        said = capsys.readouterr()
        assert str(named) in said.err
        assert says in said.err
        assert "aside" not in said.err, "what is not rait's is no matter of ours"
    assert state(directory) == before, "neither its mode, nor a lock or anything else beside it"


def test_a_journal_that_is_missing_or_empty_is_begun(directory: Path) -> None:
    (directory / "empty.db").touch()
    (directory / "link.db").symlink_to("linked.db")
    for name in ("missing.db", "new/missing.db", "empty.db", "link.db"):
        with Journal.open(directory / name) as journal:
            add(journal, "a")
            assert journal.verify().ok
        assert (directory / name).stat().st_mode & 0o777 == 0o600
    assert (directory / "linked.db").is_file()


def test_a_journal_is_used_from_a_directory_that_is_gone(
    tmp_path: Path, directory: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = tmp_path / "here"
    here.mkdir()
    monkeypatch.chdir(here)
    here.rmdir()
    path = directory / "journal.db"
    with Journal.open(path) as journal:
        run = add(journal)
    assert JournalReader(path).run(run).id == run


def test_what_is_in_the_way_of_a_journal_is_named(directory: Path) -> None:
    (directory / "file").touch()
    (directory / "dangling").symlink_to("nowhere/journal.db")
    for path, says in (
        (directory / "file" / "journal.db", f"{directory}/file is not a directory"),
        (directory / "file" / "deep" / "journal.db", f"{directory}/file is not a directory"),
        (directory / "dangling", "is a link to nowhere/journal.db, which is not there"),
        (directory / "dangling" / "journal.db", "is a link to nowhere/journal.db, which is not"),
        (Path(f"{directory}/journal\0.db"), "NUL"),
    ):
        with pytest.raises(RaitError, match=says):
            Journal.open(path)


def test_who_names_a_journal_by_a_link_sees_what_a_crash_left(directory: Path) -> None:
    path, link = directory / "journal.db", directory / "link"
    script = "import os, sys; from tests.unit.test_journal_store import *\n"
    script += "add(Journal.open(sys.argv[1]), 'a'); os._exit(0)"
    subprocess.run([sys.executable, "-c", script, str(path)], check=True)
    link.symlink_to(path.name)
    assert set(JournalReader(link).last_known(SCOPE).topology.links) == {"a"} != LastKnown()
    assert lock_path(link) == lock_path(path), "and waits for who names the file itself"


def test_half_a_write_without_a_log_of_writes_does_not_keep_the_next_run_out(
    directory: Path,
) -> None:
    """So where a file system cannot do WAL: SQLite rolls it back when it may write."""
    path = directory / "journal.db"
    with Journal.open(path) as journal:
        add(journal, *(f"l{number}" for number in range(50)))
    script = """
import os, sqlite3, sys
connection = sqlite3.connect(sys.argv[1], isolation_level=None)
connection.execute("PRAGMA journal_mode = DELETE")
connection.execute("PRAGMA cache_size = 1")
connection.execute("BEGIN IMMEDIATE")
connection.execute("UPDATE entries SET payload = zeroblob(5000)")
os._exit(0)
"""
    subprocess.run([sys.executable, "-c", script, str(path)], check=True)
    assert path.with_name("journal.db-journal").stat().st_size
    with Journal.open(path) as journal:
        assert journal.verify().ok
        assert len(journal.last_known(SCOPE).topology.links) == 50


@pytest.mark.parametrize("suffix", ["-wal", "-shm", "-journal"])
def test_a_link_beside_the_journal_leads_to_no_other_file(directory: Path, suffix: str) -> None:
    path, theirs = directory / "journal.db", directory / "theirs"
    with Journal.open(path) as journal:
        add(journal, "a")
    theirs.write_text("precious")
    theirs.chmod(0o644)
    (directory / f"journal.db{suffix}").symlink_to("theirs")
    before = state(directory)
    with pytest.raises(RaitError):
        Journal.open(path)
    assert state(directory) == before
    assert theirs.read_text() == "precious"


def test_a_journal_that_others_can_read_is_closed_to_them_through_a_link_too(
    directory: Path,
) -> None:
    path = directory / "journal.db"
    with Journal.open(path) as journal:
        add(journal, "a")
    path.chmod(0o644)
    (directory / "link.db").symlink_to("journal.db")
    with Journal.open(directory / "link.db"):
        assert path.stat().st_mode & 0o777 == 0o600


def test_who_may_not_read_the_journal_is_told_what_to_do(tmp_path: Path) -> None:
    refused = PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    path = str(tmp_path / "journal.db")
    with pytest.raises(MachineError, match="run rait as root"), explained(path, "read"):
        raise refused

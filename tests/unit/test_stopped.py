"""The line about a run that the guard stopped: where it is kept, and whose file counts."""

from __future__ import annotations

import os
import stat
from pathlib import Path
from typing import cast

import pytest
from msgspec import structs

from rait.app.conclude import Report
from rait.app.load import Loaded
from rait.app.options import Options
from rait.app.session import Session
from rait.app.stopped import note, stopped
from rait.domain.change import Change
from rait.domain.config.schema import Config, Transport
from rait.domain.guard import Removal
from rait.domain.history import LastKnown
from rait.domain.topology import EMPTY

CONF = "/etc/rait/rait.conf"
NOTHING = Change(observed=EMPTY, desired=EMPTY, known=LastKnown())
DONE = Report(command="up", status="done", change=NOTHING)
REMOVAL = Removal(links=("a", "b", "c"), of=4, limit=2)
STOPPED = Report(command="up", status="stopped", change=NOTHING, removal=REMOVAL)


class Node:
    """A configuration with its journal, as far as notes are about it."""

    def __init__(self, journal: Path, conf: str = CONF) -> None:
        transport = Transport(address_family="ip4", send_port=1, mtu=1400, ifprefix="r")
        self.config = Config(transports=(transport,), journal=str(journal))
        self.options = Options(config=conf)
        self.public_key = "our key"
        self.loaded = Loaded(config=self.config, source=conf, digest=str)

    def note(self, report: Report) -> None:
        note(cast("Session", self), report)

    def told(self) -> list[str]:
        return list(stopped(self.options, self.loaded, self.public_key))


@pytest.fixture
def node(tmp_path: Path) -> Node:
    return Node(tmp_path / "journal.db")


def file_of(directory: Path) -> Path:
    (found,) = directory.iterdir()
    return found


def test_a_stopped_run_is_told_until_another_one_ends(node: Node, tmp_path: Path) -> None:
    assert node.told() == []
    node.note(STOPPED)
    Path(f"{file_of(tmp_path)}.new").write_text("of a run that was killed")
    node.note(STOPPED)
    (line,) = node.told()
    assert "it would remove 3 of 4 links (a, b, c)" in line
    file = file_of(tmp_path)
    assert file.name.startswith("journal.db.stopped-")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    node.note(DONE)
    assert (node.told(), list(tmp_path.iterdir())) == ([], [])


def test_each_configuration_has_a_line_of_its_own(tmp_path: Path) -> None:
    one, other = (Node(tmp_path / "journal.db", f"/etc/rait/{name}") for name in "ab")
    one.note(STOPPED)
    other.note(DONE)
    assert (len(one.told()), other.told()) == (1, [])


def test_a_file_that_may_be_of_anybody_is_not_shown(node: Node, tmp_path: Path) -> None:
    node.note(STOPPED)
    file = file_of(tmp_path)
    file.chmod(0o644)
    assert node.told() == []
    file.unlink()
    os.mkfifo(file, 0o600)
    assert node.told() == []
    file.unlink()
    file.symlink_to("/etc/hostname")
    assert node.told() == []
    node.note(STOPPED)
    assert len(node.told()) == 1
    file.write_bytes(b"x" * 70_000)
    assert node.told() == []


def test_a_line_that_cannot_be_kept_fails_no_run(tmp_path: Path) -> None:
    node = Node(tmp_path / "nowhere" / "journal.db")
    node.note(STOPPED)
    node.note(structs.replace(STOPPED, status="done", removal=None))
    assert node.told() == []


def test_a_working_directory_that_is_gone_fails_no_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    node = Node(tmp_path / "journal.db", "rait.conf")
    node.note(STOPPED)
    assert node.told() == []

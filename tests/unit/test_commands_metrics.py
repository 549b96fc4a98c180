"""``rait metrics``: to standard output, and to the file that node_exporter reads."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from msgspec import structs

from rait.app.status import StatusReader
from rait.cli import main
from rait.domain.errors import ConfigError, MachineError
from rait.domain.status import Status
from tests.unit.test_commands_status import ALL


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> list[Status | Exception]:
    """What each look finds, the last one for ever."""
    found: list[Status | Exception] = [ALL]

    def read(_: StatusReader) -> Status:
        if isinstance(found[-1], Exception):
            raise found[-1]
        return found[-1]

    monkeypatch.setattr(StatusReader, "read", read)
    return found


Looks = list[Status | Exception]


@pytest.mark.usefixtures("looks")
def test_by_default_they_are_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["metrics"]) == 0
    out = capsys.readouterr().out
    assert "\nrait_links_wanted 5.0\n" in out
    assert "rait_last_sync" not in out
    assert "rait_runs" not in out
    assert not out.endswith("\n\n")


@pytest.mark.usefixtures("looks")
def test_a_file_is_written_whole_for_all_to_read(tmp_path: Path) -> None:
    path = tmp_path / "rait.prom"
    path.write_text("old")
    path.chmod(0o600)
    umask = os.umask(0o077)
    try:
        assert main(["metrics", "--output", str(path)]) == 0
    finally:
        os.umask(umask)
    assert path.stat().st_mode & 0o777 == 0o644
    assert path.read_text().endswith("\n")
    assert "rait_links_wanted 5.0\n" in path.read_text()
    assert [each.name for each in tmp_path.iterdir()] == ["rait.prom"]


@pytest.mark.parametrize(
    ("found", "status", "says"),
    [
        (MachineError("no process 7"), 1, "no process 7"),
        (OSError(24, "Too many open files"), 1, "Too many open files"),
        (ConfigError("rait.conf: line 3: no"), 2, "line 3"),
        (structs.replace(ALL, problem="no permission"), 1, "missing is not known: no permission"),
    ],
)
def test_what_cannot_be_looked_at_is_in_the_file_too(
    looks: Looks,
    found: Status | Exception,
    status: int,
    says: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    looks.append(found)
    path = tmp_path / "rait.prom"
    assert main(["metrics", "--output", str(path)]) == status
    assert says in capsys.readouterr().err
    assert "rait_up 0.0\n" in path.read_text()
    assert "rait_links_wanted" not in path.read_text()


@pytest.mark.usefixtures("looks")
@pytest.mark.parametrize(
    ("output", "status", "says"),
    [
        ("folder", 2, "is no regular file"),
        ("link", 2, "is no regular file"),
        ("missing/rait.prom", 1, "cannot be written: No such file or directory"),
        ("https://example.org/rait.prom", 2, "--output takes the path of a file"),
    ],
)
def test_what_is_no_file_stays_as_it_is(
    output: str,
    status: int,
    says: str,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "folder").mkdir()
    (tmp_path / "other").write_text("other")
    (tmp_path / "link").symlink_to("other")
    assert main(["metrics", "--output", output]) == status
    assert says in capsys.readouterr().err
    assert (tmp_path / "other").read_text() == "other"
    assert (tmp_path / "link").is_symlink()

"""Files that a command writes: whole, and never through what somebody else put there."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from rait.adapters import output


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o000])
def test_a_file_is_whole_and_all_may_read_it(tmp_path: Path, umask: int) -> None:
    path = tmp_path / "x"
    path.write_text("before, and longer")
    path.chmod(0o600)
    before = os.umask(umask)
    try:
        output.replace_file(str(path), "text é\n".encode())
    finally:
        os.umask(before)
    assert path.read_text() == "text é\n"
    assert path.stat().st_mode & 0o777 == 0o644
    assert list(tmp_path.iterdir()) == [path]


def test_a_failure_leaves_what_there_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "x"
    path.write_text("before")

    def full(_: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="No space"):
        output.replace_file(str(path), b"after")
    assert path.read_text() == "before"
    assert list(tmp_path.iterdir()) == [path]


def test_only_a_file_may_be_replaced(tmp_path: Path) -> None:
    file, link, pipe = tmp_path / "file", tmp_path / "link", tmp_path / "pipe"
    assert output.may_replace(str(file))
    file.touch()
    link.symlink_to(file)
    os.mkfifo(pipe)
    assert output.may_replace(str(file))
    assert not any(map(output.may_replace, map(str, (link, pipe, tmp_path, "/dev/null"))))


@pytest.mark.parametrize(("mode", "may"), [(0o600, False), (0o640, True), (0o604, True)])
def test_who_may_read_a_file(tmp_path: Path, mode: int, may: bool) -> None:
    path = tmp_path / "x"
    with path.open("w") as file:
        path.chmod(mode)
        assert output.others_may_read(file.fileno()) == may


def test_a_pipe_is_nobody_elses() -> None:
    ends = os.pipe()
    try:
        assert not output.others_may_read(ends[1])
    finally:
        for end in ends:
            os.close(end)
    assert not output.others_may_read(ends[1])

"""The lock: one at a time, named to those who wait, gone with its process."""

from __future__ import annotations

import errno
import os
import signal
import stat
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from rait.adapters.lock import HeldError, hold, stamp
from rait.domain.errors import MachineError

HOLDER = """
import sys, time
from pathlib import Path
from rait.adapters.lock import hold
with hold(Path(sys.argv[1]), "rait sync", 0):
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "run" / "rait.lock"


@pytest.fixture
def holder(path: Path):
    process = subprocess.Popen(
        [sys.executable, "-c", HOLDER, str(path)], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "held\n"
    yield process
    process.kill()
    process.wait()
    process.stdout.close()


def test_who_waits_in_vain_is_told_for_whom(path: Path, holder: subprocess.Popen[str]) -> None:
    with pytest.raises(MachineError) as caught, hold(path, "rait up", 0.1):
        pass
    assert f"rait sync (process {holder.pid}, since 20" in str(caught.value)
    assert str(path) in str(caught.value)


def test_the_lock_goes_with_its_process(path: Path, holder: subprocess.Popen[str]) -> None:
    holder.send_signal(signal.SIGKILL)
    holder.wait()
    with hold(path, "rait up", 0):
        pass


def test_waiting_ends_when_the_lock_is_free(path: Path, holder: subprocess.Popen[str]) -> None:
    killer = subprocess.Popen(["sh", "-c", f"sleep 0.2; kill -9 {holder.pid}"])
    with hold(path, "rait up", 30):
        pass
    killer.wait()


def test_an_error_inside_lets_go(path: Path) -> None:
    with pytest.raises(KeyError), hold(path, "rait up", 0):
        raise KeyError
    with hold(path, "rait up", 0):
        pass


def test_a_disk_that_fails_meanwhile_hides_no_error(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> None:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    monkeypatch.setattr(os, "ftruncate", fail)
    with pytest.raises(KeyError), hold(path, "rait up", 0):
        raise KeyError


def test_a_program_that_is_started_does_not_inherit_the_lock(path: Path) -> None:
    with hold(path, "rait up", 0):
        child = subprocess.Popen(["sleep", "60"], close_fds=False)
    try:
        with hold(path, "rait down", 0):
            pass
    finally:
        child.kill()
        child.wait()


def test_no_one_else_can_read_or_take_it(path: Path) -> None:
    umask = os.umask(0)
    try:
        with hold(path, "rait up", 0):
            assert path.stat().st_mode & 0o777 == 0o600
            assert path.parent.stat().st_mode & 0o777 == 0o700
    finally:
        os.umask(umask)


def test_a_place_that_cannot_be_is_an_error_with_a_reason(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with (
        pytest.raises(MachineError, match=r"cannot open the lock .*file/rait\.lock"),
        hold(tmp_path / "file" / "rait.lock", "rait up", 0),
    ):
        pass


@pytest.mark.usefixtures("holder")
def test_a_holder_without_a_note_is_another_process(path: Path) -> None:
    path.write_text("")
    with pytest.raises(MachineError, match="another process holds"), hold(path, "rait up", 0):
        pass


def _link(path: Path) -> None:
    path.with_name("theirs").write_text("precious")
    path.symlink_to("theirs")


def _dangling(path: Path) -> None:
    path.symlink_to("theirs")


def _device(path: Path) -> None:
    """A copy of /dev/null: that one itself is everyone's."""
    try:
        os.mknod(path, stat.S_IFCHR | 0o600, os.makedev(1, 3))
    except PermissionError:
        pytest.skip("this user may not make a device")


@pytest.mark.parametrize(
    ("make", "says"),
    [
        (_link, "is a symbolic link"),
        (_dangling, "is a symbolic link"),
        (_device, "is a device"),
        (os.mkfifo, "is a FIFO"),
        (Path.mkdir, "is a directory"),
        (lambda path: path.write_text("precious"), "holds something that is no lock"),
        (lambda path: path.write_text("12 apostles\n"), "holds something that is no lock"),
        (lambda path: path.write_bytes(b"12 34 up" + b"\n" * 600), "holds something that is no"),
    ],
)
def test_what_is_no_lock_is_refused_and_left_as_it_was(
    path: Path, make: Callable[[Path], object], says: str
) -> None:
    path.parent.mkdir()
    make(path)
    before = {p.name: (p.lstat().st_mode, p.lstat().st_ctime_ns) for p in path.parent.iterdir()}
    with pytest.raises(MachineError, match=says) as caught, hold(path, "rait up", 0):
        pass
    assert str(path) in str(caught.value)
    after = {p.name: (p.lstat().st_mode, p.lstat().st_ctime_ns) for p in path.parent.iterdir()}
    assert after == before, "neither written to, nor made"


@pytest.mark.parametrize("left", [b"", b"\0" * 40, b"123 1769875500 rait up", b"1 2 rait l\nog"])
def test_what_a_holder_that_died_left_of_its_note_is_a_lock(path: Path, left: bytes) -> None:
    path.parent.mkdir()
    path.write_bytes(left)
    with hold(path, "rait up", 0):
        assert path.read_text().startswith(f"{os.getpid()} ")


def test_who_waited_for_a_lock_that_was_removed_takes_the_one_that_is_there(path: Path) -> None:
    """Or two would have the lock: who waited that of the old file, who came then the new one."""
    waits = threading.Event()
    taken: list[bool] = []

    def wait() -> None:
        waits.set()
        with hold(path, "rait up", 60):
            with pytest.raises(HeldError), hold(path, "rait down", 0):
                pass
            taken.append(True)

    waiting = threading.Thread(target=wait)
    with hold(path, "rait up", 0):
        waiting.start()
        assert waits.wait(60)
        path.unlink()
    waiting.join(60)
    assert taken == [True]


def test_the_stamp_tells_that_somebody_had_the_lock(path: Path) -> None:
    """Before Linux 6.13 the times of files are those of the last tick, up to 10 ms ago."""
    assert stamp(path) is None
    with hold(path, "rait up", 0) as found:
        assert found is None
    before = stamp(path)
    with hold(path, "rait up", 0) as found:
        assert found == before
    deadline = time.monotonic() + 60
    while found == before:
        assert time.monotonic() < deadline, "the stamp never changes"
        with hold(path, "rait up", 0) as found:
            pass

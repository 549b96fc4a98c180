"""One rait at a time: a lock that goes with the process that holds it, however it ends."""

from __future__ import annotations

import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rait.domain.problem import MachineError

_POLL_SECONDS = 0.05
_MAX_NOTE = 512


class HeldError(MachineError):
    """Another process held the lock all the time; ``holder`` says who, where, and how long."""

    def __init__(self, holder: str) -> None:
        self.holder = holder
        super().__init__(f"{holder}; try again when it is done")


@contextmanager
def hold(path: Path, what: str, timeout: float) -> Iterator[None]:
    """Hold the lock at the path (made, 0600, if not there), waiting up to ``timeout`` seconds.

    ``what`` is the command that holds it, for the message to those who wait in vain. The lock is
    a flock(2): the kernel lets go of it when the process ends. Programs that are started while it
    is held do not inherit it. Raises HeldError when the time is up,
    and MachineError where there can be no lock.
    """
    fd = _opened(path)
    try:
        _acquire(fd, path, timeout)
        _write_note(fd, f"{os.getpid()} {int(time.time())} {what}")
        try:
            yield
        finally:
            os.ftruncate(fd, 0)
    finally:
        os.close(fd)


def _opened(path: Path) -> int:
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError as error:
        raise MachineError(f"cannot open the lock {path}: {error.strerror}") from None


def _acquire(fd: int, path: Path, timeout: float) -> None:
    deadline = time.monotonic() + timeout
    while True:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            left = deadline - time.monotonic()
            if left <= 0:
                raise HeldError(
                    f"{_holder(fd)} holds the lock {path}, and did so for {timeout:g} s"
                ) from None
            # Polled, because a blocking flock has no timeout but by way of signals.
            time.sleep(min(_POLL_SECONDS, left))
        except OSError as error:
            raise MachineError(f"cannot take the lock {path}: {error.strerror}") from None
        else:
            return


def _write_note(fd: int, note: str) -> None:
    try:
        os.ftruncate(fd, 0)
        os.pwrite(fd, note.encode("utf-8", "backslashreplace")[:_MAX_NOTE], 0)
    except OSError:
        # A full disk must not keep rait from its work; the holder then has no name.
        return


def _holder(fd: int) -> str:
    pid, _, rest = os.pread(fd, _MAX_NOTE, 0).decode("utf-8", "replace").partition(" ")
    since, _, what = rest.partition(" ")
    if not (pid.isdigit() and since.isdigit()):
        return "another process"
    clock = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(int(since)))
    return f"{what} (process {pid}, since {clock})"

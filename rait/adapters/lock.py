"""One rait at a time: a lock that goes with the process that holds it, however it ends."""

from __future__ import annotations

import fcntl
import os
import re
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress

from rait.domain.errors import MachineError

_POLL_SECONDS = 0.05
_MAX_NOTE = 512
_KINDS = {
    stat.S_IFLNK: "a symbolic link",
    stat.S_IFDIR: "a directory",
    stat.S_IFCHR: "a device",
    stat.S_IFBLK: "a device",
    stat.S_IFIFO: "a FIFO",
    stat.S_IFSOCK: "a socket",
}
_NOTE = rb"\d+ \d+ .*"


class HeldError(MachineError):
    """Another process held the lock all the time; ``holder`` says who, where, and how long."""

    def __init__(self, holder: str) -> None:
        self.holder = holder
        super().__init__(f"{holder}; try again when it is done")


Stamp = tuple[int, ...] | None
"""What changes each time that somebody takes or lets go of a lock; None where there is none yet."""


def stamp(path: str) -> Stamp:
    """The lock's stamp as it is now, to compare with what ``hold`` found."""
    try:
        return _stamp_of(os.stat(path))
    except (OSError, ValueError):
        return None


@contextmanager
def hold(path: str, what: str, timeout: float) -> Iterator[Stamp]:
    """Hold the lock at the path (made, 0600, if not there), waiting up to ``timeout`` seconds.

    ``what`` is the command that holds it, for the message to those who wait in vain. The lock is
    a flock(2): the kernel lets go of it when the process ends. Programs that are started while it
    is held do not inherit it. Gives the stamp that it had when it became ours. Raises HeldError
    when the time is up, and MachineError where there can be no lock.
    """
    fd, found = _taken(path, timeout)
    try:
        _write_note(fd, f"{os.getpid()} {int(time.time())} {what}")
        try:
            yield found
        finally:
            os.ftruncate(fd, 0)
    finally:
        os.close(fd)


def _taken(path: str, timeout: float) -> tuple[int, Stamp]:
    """The open lock, which is ours, and its stamp before that."""
    deadline = time.monotonic() + timeout
    while True:
        fd, is_new = _opened(path)
        try:
            at_first = _stamp_of(os.fstat(fd)) if is_new else None
            _acquire(fd, path, timeout, deadline)
            found = _stamp_of(os.fstat(fd))
            if _is_at(path, fd):
                return fd, None if found == at_first else found
        except BaseException:
            os.close(fd)
            raise
        # Somebody removed the file, so that others who lock do not meet us there.
        os.close(fd)


def _is_at(path: str, fd: int) -> bool:
    try:
        return os.path.samestat(os.lstat(path), os.fstat(fd))
    except OSError:
        return False


def _stamp_of(status: os.stat_result) -> Stamp:
    # Both to write a note and to empty it change these times, on a full disk too.
    return status.st_dev, status.st_ino, status.st_mtime_ns, status.st_ctime_ns


def _opened(path: str) -> tuple[int, bool]:
    """Open the lock's file, and tell whether it was made here. What is no lock is not touched."""
    try:
        os.makedirs(os.path.dirname(path) or ".", mode=0o700, exist_ok=True)
        # To open a device may do something to it, so it is looked at before.
        with suppress(FileNotFoundError):
            if kind := kind_of_file(os.lstat(path).st_mode):
                raise _no_lock(path, f"is {kind}")
        fd, is_new = _made_or_opened(path)
    except OSError as error:
        raise MachineError(f"cannot open the lock {path}: {error.strerror}") from None
    except ValueError:
        raise MachineError("a path must not hold a NUL byte") from None
    try:
        if reason := _why_no_lock(fd):
            raise _no_lock(path, reason)
    except BaseException:
        os.close(fd)
        raise
    return fd, is_new


def _made_or_opened(path: str) -> tuple[int, bool]:
    # Not through a link, which may lead to any file; and what came in between must not block.
    how = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY
    try:
        return os.open(path, how | os.O_EXCL, 0o600), True
    except FileExistsError:
        return os.open(path, how, 0o600), False


def _no_lock(path: str, reason: str) -> MachineError:
    return MachineError(
        f"cannot take {path} as the lock: it {reason}; it was left as it is. Move it away, "
        "and run rait again"
    )


def kind_of_file(mode: int) -> str:
    """What a file of this mode (stat(2)) is, in words; "" for a regular one."""
    return "" if stat.S_ISREG(mode) else _KINDS.get(stat.S_IFMT(mode), "no file")


def _why_no_lock(fd: int) -> str:
    """Why a file that is open is no lock of rait, and so not to be written to; "" for a lock.

    A lock is empty or holds one note; zeros are what a power failure may leave of a note.
    """
    status = os.fstat(fd)
    if not stat.S_ISREG(status.st_mode):
        return "is not a regular file"
    content = os.pread(fd, _MAX_NOTE, 0)
    is_note = not content.strip(b"\0") or re.fullmatch(_NOTE, content, re.DOTALL)
    is_ours = is_note and status.st_size <= _MAX_NOTE
    return "" if is_ours else "holds something that is no lock of rait"


def _acquire(fd: int, path: str, timeout: float, deadline: float) -> None:
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

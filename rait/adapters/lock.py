"""The lock that lets one rait run at a time. It ends with the process that holds it."""

from __future__ import annotations

import fcntl
import os
import re
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from functools import partial

from rait.adapters.closing import closed, on_error
from rait.domain.errors import MachineError

HELD_VARIABLE = "RAIT_LOCK"
"""The variable by which a command that rait calls gets the path of the lock that rait holds."""

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
_NOTE = rb"(\d+) (\d+) (.*)"


class HeldError(MachineError):
    """Another process held the lock to the end of the timeout.

    ``holder`` says which process, which lock, and how long rait waited.
    """

    def __init__(self, holder: str) -> None:
        self.holder = holder
        super().__init__(f"{holder}; try again when that process is done")


Stamp = tuple[int, ...] | None
"""Changes each time that a process takes or releases a lock. None stands for no lock file."""


def stamp(path: str) -> Stamp:
    """The present stamp of the lock, to compare with the one that ``hold`` gives."""
    try:
        return _stamp_of(os.stat(path))
    except (OSError, ValueError):
        return None


@contextmanager
def hold(path: str, what: str, timeout: float) -> Iterator[Stamp]:
    """Hold the lock at the path, and make its file (0600) if there is none.

    ``timeout`` is how many seconds to wait for another holder, and ``what`` the command that others
    are told of if they wait in vain. Gives the stamp that the lock had just before.

    The lock is a flock(2): the kernel releases it when the process ends, and programs started
    meanwhile do not inherit it. Raises HeldError when the time is up, and MachineError where the
    file cannot be a lock, or where the holder waits for us to end.
    """
    if os.environ.get(HELD_VARIABLE) == path:
        raise MachineError(
            f"an up_command or down_command of rait.conf calls `{what}`, and the rait that waits "
            f"for this command to end holds the lock {path} meanwhile; run `{what}` later"
        )
    taken, found = _taken(path, timeout)
    with closed(taken) as fd:
        _write_note(fd, f"{os.getpid()} {int(time.time())} {what}")
        try:
            yield found
        finally:
            _write_note(fd, "")


def holder(path: str) -> str | None:
    """Who holds the lock at the path, in words; None if nobody does, or there is no such lock."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY)
    except (OSError, ValueError):
        return None
    try:
        fcntl.flock(fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return _holder(fd)
    except OSError:
        return None
    finally:
        os.close(fd)
    return None


def _taken(path: str, timeout: float) -> tuple[int, Stamp]:
    """Open and take the lock; gives its descriptor, and the stamp that it had before."""
    deadline = time.monotonic() + timeout
    while True:
        fd, is_new = _opened(path)
        with on_error(partial(os.close, fd)):
            at_first = _stamp_of(os.fstat(fd)) if is_new else None
            _acquire(fd, path, timeout, deadline)
            found = _stamp_of(os.fstat(fd))
            if _is_at(path, fd):
                return fd, None if found == at_first else found
        # Somebody removed or replaced the file: other processes would lock a different one.
        os.close(fd)


def _is_at(path: str, fd: int) -> bool:
    try:
        return os.path.samestat(os.lstat(path), os.fstat(fd))
    except OSError:
        return False


def _stamp_of(status: os.stat_result) -> Stamp:
    # Both writing and emptying the note change these times, even on a full disk.
    return status.st_dev, status.st_ino, status.st_mtime_ns, status.st_ctime_ns


def _opened(path: str) -> tuple[int, bool]:
    """Open the lock's file, and say whether it is new. A file that is no lock stays as it is."""
    try:
        os.makedirs(os.path.dirname(path) or ".", mode=0o700, exist_ok=True)
        # Opening a device may have effects, so look before opening.
        with suppress(FileNotFoundError):
            if kind := kind_of_file(os.lstat(path).st_mode):
                raise _no_lock(path, f"is {kind}")
        fd, is_new = _made_or_opened(path)
    except OSError as error:
        raise MachineError(f"cannot open the lock {path}: {error.strerror}") from None
    except ValueError:
        raise MachineError("a path must not hold a NUL byte") from None
    with on_error(partial(os.close, fd)):
        if reason := _why_no_lock(fd):
            raise _no_lock(path, reason)
    return fd, is_new


def _made_or_opened(path: str) -> tuple[int, bool]:
    # Never through a symbolic link, which may lead to any file, and never waiting, as on a FIFO:
    # either may have come here since the look.
    how = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY
    try:
        return os.open(path, how | os.O_EXCL, 0o600), True
    except FileExistsError:
        return os.open(path, how, 0o600), False


def _no_lock(path: str, reason: str) -> MachineError:
    return MachineError(
        f"cannot take {path} as the lock: it {reason}. rait left it as it is; move it away, "
        "and run rait again"
    )


def kind_of_file(mode: int) -> str:
    """The kind of a file by its mode (stat(2)), in words; "" for a regular file."""
    return "" if stat.S_ISREG(mode) else _KINDS.get(stat.S_IFMT(mode), "no file")


def _why_no_lock(fd: int) -> str:
    """Why an open file is no lock of rait, so that rait must not write to it; "" for a lock.

    A lock is empty or holds one note. A power failure may leave zeros in place of a note.
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
                    f"{_holder(fd)} holds the lock {path}, and rait waited {timeout:g} s for it"
                ) from None
            # Polled, because only a signal can end a blocking flock after some time.
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
        # A disk that is full or fails must not stop rait, nor hide what it has to say. Others are
        # then told of no holder by name.
        return


def _holder(fd: int) -> str:
    note = re.fullmatch(_NOTE, os.pread(fd, _MAX_NOTE, 0), re.DOTALL)
    if note is None:
        return "another process"
    pid, since, what = (part.decode("utf-8", "replace") for part in note.groups())
    clock = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(int(since)))
    return f"{what} (process {pid}, since {clock})"

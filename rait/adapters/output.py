"""Files that are written whole: for the user of a command, and for a later run."""

from __future__ import annotations

import os
import stat
from contextlib import suppress

from rait.domain.errors import SourceError

_READABLE = 0o644


def may_replace(path: str) -> bool:
    """Whether there is a regular file or nothing: no link, device, pipe or directory."""
    try:
        return stat.S_ISREG(os.lstat(path).st_mode)
    except (OSError, ValueError):
        return True


def replace_file(
    path: str, content: bytes, *, new: str = "", mode: int = _READABLE, at: int | None = None
) -> None:
    """Write a file whole or not at all, with this mode, in the place of what is there.

    Until it is whole, the file has the path ``new``, which is for one writer at a time; by default
    its name is one that no other process takes. ``at`` is the time of its last change in unix
    nanoseconds, None for now. Raises OSError.
    """
    if new:
        with suppress(FileNotFoundError):
            os.unlink(new)  # of a run that was killed
    else:
        new = f"{path}.{os.urandom(8).hex()}"
    try:
        fd = os.open(
            new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600
        )
        with os.fdopen(fd, "wb") as file:
            file.write(content)
            file.flush()
            os.fchmod(fd, mode)
            if at is not None:
                os.utime(fd, ns=(at, at))
            os.fsync(fd)
        os.replace(new, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(new)
        raise


def read_own_file(path: str, most: int) -> tuple[bytes, int]:
    """What a run kept for a later one, up to ``most`` bytes, and when: unix nanoseconds.

    A file that is not ours, or not closed to all others, may be of anybody. Raises ValueError for
    such a one and for a larger one, and OSError.
    """
    # Neither through a symbolic link, nor waiting for the other end of a FIFO.
    how = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC
    with open(os.open(path, how), "rb") as file:
        found = os.fstat(file.fileno())
        is_ours = stat.S_ISREG(found.st_mode) and found.st_uid == os.geteuid()
        if not is_ours or found.st_mode & 0o077:
            raise ValueError("it is no file that this user alone may read and write")
        raw = file.read(most + 1)
    if len(raw) > most:
        raise ValueError("it is damaged")
    return raw, found.st_mtime_ns


def write_file(path: str, name: str, content: bytes) -> None:
    """Write a file that a user named, as ``replace_file``. Raises SourceError."""
    try:
        replace_file(path, content)
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else str(error)
        raise SourceError(f"{name}: cannot be written: {why}") from None


def others_may_read(descriptor: int) -> bool:
    """Whether a descriptor is of a file to which its group or all users have any access."""
    try:
        mode = os.fstat(descriptor).st_mode
    except OSError:
        return False
    return stat.S_ISREG(mode) and bool(mode & (stat.S_IRWXG | stat.S_IRWXO))

"""Files that a command writes for its user."""

from __future__ import annotations

import os
import stat
from contextlib import suppress

_READABLE = 0o644


def may_replace(path: str) -> bool:
    """Whether there is a regular file or nothing: no link, device, pipe or directory."""
    try:
        return stat.S_ISREG(os.lstat(path).st_mode)
    except (OSError, ValueError):
        return True


def replace_file(path: str, text: str) -> None:
    """Write a file whole or not at all, with mode 0644, in the place of what is there.

    Raises OSError.
    """
    new = f"{path}.{os.urandom(8).hex()}"
    try:
        fd = os.open(
            new, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600
        )
        with os.fdopen(fd, "w", encoding="utf-8") as file:
            file.write(text)
            file.flush()
            os.fchmod(fd, _READABLE)
            os.fsync(fd)
        os.replace(new, path)
    except BaseException:
        with suppress(OSError):
            os.unlink(new)
        raise


def others_may_read(descriptor: int) -> bool:
    """Whether a descriptor is of a file to which its group or all users have any access."""
    try:
        mode = os.fstat(descriptor).st_mode
    except OSError:
        return False
    return stat.S_ISREG(mode) and bool(mode & (stat.S_IRWXG | stat.S_IRWXO))

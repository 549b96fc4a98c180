"""Small files of plain data that rait keeps for the next run, in a directory that only we write to.

A damaged file counts as missing. Nothing here fails: without its caches, rait is slower.
"""

from __future__ import annotations

import os
import stat
from contextlib import suppress
from hashlib import sha256
from pathlib import Path

from rait.adapters.config import caches

_ROOT_CACHE = "/var/cache/rait"
_DIGEST_BYTES = 32
_FAILURES = (OSError, ValueError)


def cache_directory() -> Path | None:
    """A directory for what is kept that only we can write to, or None.

    Whoever writes to it decides who the peers are. So the directory must be ours, closed to all
    others, no symbolic link, and in a directory where others cannot replace it.
    """
    if os.geteuid() == 0:
        path = Path(_ROOT_CACHE)
    else:
        base = os.environ.get("XDG_CACHE_HOME") or os.environ.get("HOME", "") + "/.cache"
        path = Path(base) / "rait"
    return path if is_safe_directory(path) else None


def is_safe_directory(path: Path) -> bool:
    """Make the directory if need be and may be; whether it may hold what we will later believe."""
    if not path.is_absolute():
        return False
    try:
        if caches.may_be_written():
            path.parent.mkdir(mode=0o700, exist_ok=True)
            path.mkdir(mode=0o700, exist_ok=True)
        own, parent = path.lstat(), path.parent.stat()
    except OSError:
        return False
    open_to_others = stat.S_IWGRP | stat.S_IWOTH
    sticky = bool(parent.st_mode & stat.S_ISVTX)
    return (
        stat.S_ISDIR(own.st_mode)
        and own.st_uid == os.geteuid()
        and not own.st_mode & 0o077
        and parent.st_uid in (0, os.geteuid())
        and (sticky or not parent.st_mode & open_to_others)
        and os.access(path, os.W_OK)
    )


def read(path: Path) -> bytes | None:
    """The content that was written; None if there is none, or it is not ours, or is damaged."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        with os.fdopen(fd, "rb") as file:
            if os.fstat(fd).st_uid != os.geteuid():
                return None
            digest, content = file.read(_DIGEST_BYTES), file.read()
    except _FAILURES:
        return None
    return content if sha256(content).digest() == digest else None


def write(path: Path, content: bytes, most: int) -> None:
    """Keep the content for the next run, and of the files with this suffix the newest ``most``."""
    if not caches.may_be_written():
        return
    new = path.with_name(f"{path.name}.{os.getpid()}")
    with suppress(*_FAILURES):
        try:
            fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
            with os.fdopen(fd, "wb") as file:
                file.write(sha256(content).digest() + content)
            new.replace(path)
        finally:
            new.unlink(missing_ok=True)
        _forget(path, most)


def _forget(path: Path, most: int) -> None:
    # With what a killed run left of its own file.
    files = [(f.stat().st_mtime_ns, f) for f in path.parent.glob(f"*{path.suffix}*")]
    for _, file in sorted(files, reverse=True)[most:]:
        file.unlink(missing_ok=True)

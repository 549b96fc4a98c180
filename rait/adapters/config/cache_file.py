"""Small files of plain data that rait keeps for the next run, in a directory of our user alone.

A file's name is a digest of what its content was made from, and it begins with a digest of its name
and content. A damaged file counts as missing, and so does one of another version of rait. No
function here raises: without its cache files, rait is slower.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import TypeVar

import msgspec

from rait import __version__
from rait.domain.digests import blake2b

Content = TypeVar("Content")

KEPT, KEPT_BYTES = 64, 128 * 2**20
"""How many files of one kind are kept, and how much they hold, for all nodes on this machine: the
newest. A node writes one for each new text, and those of a large list take megabytes."""

_ROOT_CACHE = "/var/cache/rait"
_DIGEST_BYTES = 32
_FAILURES = (OSError, ValueError, TypeError, msgspec.MsgspecError)
_may_be_written = False


@contextmanager
def keeping() -> Iterator[None]:
    """Let ``keep`` write files within this block.

    Outside of it, in commands that only look, cache files are read and none is written.
    """
    global _may_be_written
    before, _may_be_written = _may_be_written, True
    try:
        yield
    finally:
        _may_be_written = before


def find(kind: str, content: type[Content], *made_from: str) -> Content | None:
    """What ``keep`` stored for these texts; None if that is missing, damaged or not ours."""
    path = _path(kind, made_from)
    if path is None:
        return None
    with suppress(*_FAILURES):
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        with os.fdopen(fd, "rb") as file:
            digest, packed = file.read(_DIGEST_BYTES), file.read()
            if os.fstat(fd).st_uid == os.geteuid() and _seal(path, packed) == digest:
                return msgspec.msgpack.decode(packed, type=content)
    return None


def keep(kind: str, content: object, *made_from: str) -> None:
    """Store what was made from these texts, and remove all but the newest files of this kind."""
    path = _path(kind, made_from)
    if path is None or not _may_be_written:
        return
    new = f"{path}.{os.getpid()}"
    with suppress(*_FAILURES):
        packed = msgspec.msgpack.encode(content)
        try:
            fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
            with os.fdopen(fd, "wb") as file:
                file.write(_seal(path, packed) + packed)
            os.replace(new, path)
        finally:
            with suppress(FileNotFoundError):
                os.unlink(new)
        _forget(os.path.dirname(path), kind)


def cache_directory() -> str | None:
    """The directory of the cache files, or None if others might write to it.

    Whoever writes to it decides who the peers are.
    """
    if os.geteuid() == 0:
        path = _ROOT_CACHE
    else:
        base = os.environ.get("XDG_CACHE_HOME") or os.environ.get("HOME", "") + "/.cache"
        path = os.path.join(base, "rait")
    return path if is_safe_directory(path) else None


def is_safe_directory(path: str) -> bool:
    """Make the directory if it is missing and may be made; whether it is safe from other users.

    It must be ours, closed to all others, no symbolic link, and in a directory where others cannot
    replace it.
    """
    if not os.path.isabs(path):
        return False
    above = os.path.dirname(path)
    try:
        if _may_be_written:
            for directory in (above, path):
                with suppress(FileExistsError):
                    os.mkdir(directory, 0o700)
        own, parent = os.lstat(path), os.stat(above)
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


def _path(kind: str, made_from: tuple[str, ...]) -> str | None:
    directory = cache_directory()
    if directory is None:
        return None
    # No text that rait reads holds a NUL, so different lists of texts give different wholes.
    whole = "\0".join((__version__, *made_from)).encode("utf-8", "surrogatepass")
    return os.path.join(directory, f"{_digest(whole).hex()}.{kind}")


def _seal(path: str, packed: bytes) -> bytes:
    """What a file begins with, so that neither its content nor its name can be another one."""
    return _digest(os.path.basename(path).encode("ascii") + packed)


def _digest(content: bytes) -> bytes:
    return blake2b(content, digest_size=_DIGEST_BYTES).digest()


def _forget(directory: str, kind: str) -> None:
    # Files that a killed run had not renamed yet have the kind within their names.
    files = [
        ((found := file.stat(follow_symlinks=False)).st_mtime_ns, found.st_size, file.path)
        for file in os.scandir(directory)
        if f".{kind}" in file.name
    ]
    left = KEPT_BYTES
    for number, (_, size, path) in enumerate(sorted(files, reverse=True)):
        left -= size
        if number >= KEPT or left < 0:
            with suppress(FileNotFoundError):
                os.unlink(path)

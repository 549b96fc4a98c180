"""Small files of plain data that rait keeps for the next run, in a directory that only we write to.

What is damaged is as good as not there. Nothing here fails: without its caches, rait is slower.
"""

from __future__ import annotations

import os
from contextlib import suppress
from hashlib import sha256
from pathlib import Path

from rait.adapters import caches

_DIGEST_BYTES = 32
_FAILURES = (OSError, ValueError)


def read(path: Path) -> bytes | None:
    """The content as it was written, None where there is none, or it is not ours, or damaged."""
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

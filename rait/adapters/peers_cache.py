"""Peers lists in HCL that were parsed before, kept by their content.

Parsing takes two milliseconds for each peer, and a list seldom changes. Only peers lists are kept,
never a configuration, which may hold a private key. What is kept lies in a directory that only we
can write to; it is plain data, and what is damaged or of another version of rait is as good as not
there. Nothing here fails: without the cache, parsing is merely slow.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from typing import Any

import msgspec

from rait import __version__
from rait.adapters.hcl import cache_directory
from rait.domain.problem import Path as DocumentPath

KEPT = 8
"""So many lists are kept: the newest of all nodes on this machine."""

Parsed = tuple[dict[str, Any], dict[DocumentPath, int]]
"""As hcl.parse gives it: the document, and the lines of what is in it."""

_FORMAT = "1"
_SUFFIX = ".peers"
_DIGEST_BYTES = 32
_Content = tuple[dict[str, Any], list[tuple[DocumentPath, int]]]
_UNFIT = (OSError, ValueError, OverflowError, RecursionError, msgspec.MsgspecError)


def find(text: str) -> Parsed | None:
    """What this text was parsed to before, None where that is not known."""
    path = _path(text)
    if path is None:
        return None
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        with os.fdopen(fd, "rb") as file:
            if os.fstat(fd).st_uid != os.geteuid():
                return None
            digest, content = file.read(_DIGEST_BYTES), file.read()
        if sha256(content).digest() != digest:
            return None
        data, lines = msgspec.msgpack.decode(content, type=_Content)
    except _UNFIT:
        return None
    return data, dict(lines)


def keep(text: str, data: Mapping[str, Any], lines: Mapping[DocumentPath, int]) -> None:
    """Keep what the text was parsed to, in the place of the oldest."""
    path = _path(text)
    if path is None:
        return
    with suppress(*_UNFIT):
        content = msgspec.msgpack.encode((data, list(lines.items())))
        new = path.with_name(f"{path.name}.{os.getpid()}")
        try:
            fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
            with os.fdopen(fd, "wb") as file:
                file.write(sha256(content).digest() + content)
            new.replace(path)
        finally:
            new.unlink(missing_ok=True)
        _forget(path.parent)


def _forget(directory: Path) -> None:
    files = [(file.stat().st_mtime_ns, file) for file in directory.glob(f"*{_SUFFIX}*")]
    for _, file in sorted(files, reverse=True)[KEPT:]:
        file.unlink(missing_ok=True)


def _path(text: str) -> Path | None:
    directory = cache_directory()
    if directory is None:
        return None
    key = f"{_FORMAT}\0{__version__}\0{text}"
    return directory / (sha256(key.encode("utf-8", "surrogatepass")).hexdigest() + _SUFFIX)

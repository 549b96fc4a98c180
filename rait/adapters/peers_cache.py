"""Peers lists that were decoded before, kept by their content.

To parse a list takes 2 ms for each peer in HCL, and it seldom changes. Only what a peers list says
is kept, never a configuration, which may hold a private key. It lies in a directory that only we
can write to; it is plain data, and what is damaged or of another version of rait is as good as not
there. Nothing here fails: without the cache, rait is merely slower.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from contextlib import suppress
from hashlib import sha256
from pathlib import Path

import msgspec
from msgspec import Struct

from rait import __version__
from rait.adapters.hcl import cache_directory
from rait.domain.peers import Peer
from rait.domain.problem import Path as DocumentPath
from rait.domain.problem import Problem

KEPT = 8
"""So many lists are kept: the newest of all nodes on this machine."""

_FORMAT = "1"
_SUFFIX = ".peers"
_DIGEST_BYTES = 32
_FAILURES = (OSError, ValueError, msgspec.MsgspecError)


class Known(Struct, frozen=True):
    """What a peers list said, and what was wrong with it."""

    peers: tuple[Peer, ...]
    problems: tuple[Problem, ...]
    packed_lines: msgspec.Raw

    def lines(self) -> Mapping[DocumentPath, int] | None:
        """The lines of what is in the list, None where they were not known."""
        pairs = msgspec.msgpack.decode(
            self.packed_lines, type=list[tuple[DocumentPath, int]] | None
        )
        return None if pairs is None else dict(pairs)


def find(text: str, name: str) -> Known | None:
    """What the text of this name (which may tell its format) said before."""
    path = _path(text, name)
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
        return msgspec.msgpack.decode(content, type=Known)
    except _FAILURES:
        return None


def keep(
    text: str,
    name: str,
    peers: tuple[Peer, ...],
    problems: tuple[Problem, ...],
    lines: Mapping[DocumentPath, int] | None,
) -> None:
    """Keep what the text said, in the place of the oldest that is kept."""
    path = _path(text, name)
    if path is None:
        return
    pairs = None if lines is None else list(lines.items())
    with suppress(*_FAILURES):
        packed = msgspec.Raw(msgspec.msgpack.encode(pairs))
        content = msgspec.msgpack.encode(Known(peers, problems, packed))
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


def _path(text: str, name: str) -> Path | None:
    directory = cache_directory()
    if directory is None:
        return None
    key = "\0".join((_FORMAT, __version__, name, text)).encode("utf-8", "surrogatepass")
    return directory / (sha256(key).hexdigest() + _SUFFIX)

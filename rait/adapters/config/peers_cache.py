"""Peers lists that were decoded before, kept by their content.

A list seldom changes, and to parse a long one is most of what a run with nothing to do has to do.
Only what a peers list says is kept, never a configuration, which may hold a private key. What is of
another version of rait is as good as not there.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress
from hashlib import sha256
from pathlib import Path

import msgspec
from msgspec import Struct

from rait import __version__
from rait.adapters.config import cache_file
from rait.adapters.config.cache_file import cache_directory
from rait.domain.config.peers import Peer
from rait.domain.errors import Path as DocumentPath
from rait.domain.errors import Problem

KEPT = 8
"""So many lists are kept: the newest of all nodes on this machine."""

_FORMAT = "2"
_SUFFIX = ".peers"
_FAILURES = (ValueError, msgspec.MsgspecError)


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
    content = cache_file.read(path)
    try:
        return None if content is None else msgspec.msgpack.decode(content, type=Known)
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
        cache_file.write(path, msgspec.msgpack.encode(Known(peers, problems, packed)), KEPT)


def _path(text: str, name: str) -> Path | None:
    directory = cache_directory()
    if directory is None:
        return None
    key = "\0".join((_FORMAT, __version__, name, text)).encode("utf-8", "surrogatepass")
    return directory / (sha256(key).hexdigest() + _SUFFIX)

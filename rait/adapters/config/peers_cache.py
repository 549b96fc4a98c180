"""Peers lists that were decoded before, kept by their content.

A list seldom changes, and to parse a long one is most of what a run with nothing to do has to do.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import suppress

import msgspec
from msgspec import Struct

from rait.adapters.config import cache_file
from rait.domain.config.schema import Peer
from rait.domain.errors import Path as DocumentPath
from rait.domain.errors import Problem

_KIND = "peers"
_FORMAT = "3"
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
    content = cache_file.find(_KIND, _FORMAT, name, text)
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
    """Keep what the text said."""
    pairs = None if lines is None else list(lines.items())
    with suppress(*_FAILURES):
        packed = msgspec.Raw(msgspec.msgpack.encode(pairs))
        content = msgspec.msgpack.encode(Known(peers, problems, packed))
        cache_file.keep(_KIND, content, _FORMAT, name, text)

"""Texts that were read, and whether they have changed since."""

from __future__ import annotations

import os
import stat
from typing import Protocol

from rait.adapters.config import source
from rait.domain.errors import SourceError


class Read(Protocol):
    """``source.read``, or what stands in for it."""

    def __call__(self, url: str, *, limit: int = ...) -> str:
        """Read the text behind a URL of at most ``limit`` bytes. Raises SourceError."""
        ...


class Texts:
    """Reads texts as ``source.read`` does, and can tell later which of them changed since.

    A source that gives its text only once (standard input, a pipe of the shell's ``<(...)``) is
    read once, and its text is kept.
    """

    def __init__(self) -> None:
        self._once: dict[str, str] = {}
        self._files: dict[str, tuple[int, str]] = {}
        self._remote = False

    @property
    def has_remote(self) -> bool:
        """Whether a text came over the network, so that only another transfer shows a change."""
        return self._remote

    def forget(self) -> None:
        """Begin anew: read each text again, unless it can be read only once."""
        self._files.clear()
        self._remote = False

    def read(self, url: str, *, limit: int = source.LIMIT) -> str:
        """The text behind a URL of at most ``limit`` bytes. Raises SourceError."""
        if url in self._once:
            return self._once[url]
        again = _is_file(url)
        text = source.read(url, limit=limit)
        if again:
            self._files[url] = limit, text
        elif url == source.STDIN or source.is_path(url):
            self._once[url] = text
        else:
            self._remote = True
        return text

    def unchanged(self) -> bool:
        """Whether each file that was read holds now what it held then."""
        return all(_holds(url, limit, text) for url, (limit, text) in self._files.items())


def _holds(url: str, limit: int, text: str) -> bool:
    try:
        return source.read(url, limit=limit) == text
    except SourceError:
        return False


def _is_file(url: str) -> bool:
    """Whether the URL is the path of what can be read again, or may come to be there."""
    if not source.is_path(url):
        return False
    try:
        return stat.S_ISREG(os.stat(url).st_mode)
    except (OSError, ValueError):
        return True  # to read it is an error that says why

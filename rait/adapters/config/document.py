"""A parsed text, and where in it things stand."""

from __future__ import annotations

from collections.abc import Callable, Mapping

from rait.domain.errors import Path


class Document:
    """A parsed text. ``data`` is plain mappings, lists and values.

    ``lines`` finds the lines of what is in it, which may be known already.
    """

    def __init__(
        self,
        name: str,
        data: Mapping[str, object],
        lines: Callable[[], Mapping[Path, int]],
        known: Mapping[Path, int] | None = None,
    ) -> None:
        self.name = name
        self.data = data
        self.known_lines = known
        self._find = lines

    def locate(self, path: Path) -> int | None:
        """The line, from 1, of what a path leads to, or of the nearest thing around it."""
        lines = self.lines()
        while path:
            if path in lines:
                return lines[path]
            path = path[:-1]
        return None

    def lines(self) -> Mapping[Path, int]:
        """The lines, from 1, by the path of what stands there."""
        if self.known_lines is None:
            self.known_lines = self._find()
        return self.known_lines

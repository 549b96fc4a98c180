"""A parsed text, and how messages name a place in it: by file, line and key."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from msgspec import Struct, structs

from rait.domain.config.keytext import brief
from rait.domain.config.schema import is_live
from rait.domain.errors import Path, Problem

MOST_PROBLEMS = 50
_LONGEST_KEY = 80


class Place(Struct, frozen=True):
    """A file or a URL, the line in it from 1 (None if it has none), and what is meant there.

    ``entry`` are the keys that lead there, with indexes from 0: ``peers[1].SendPort``.
    """

    file: str
    line: int | None = None
    entry: str = ""

    def __str__(self) -> str:
        return self.file if self.line is None else f"{self.file}:{self.line}"


class Document:
    """A parsed text: ``data`` is plain mappings, lists and values.

    ``find_lines`` gives the line, from 1, of each path in it. It is called when a message first
    needs a line; ``known_lines`` is None until then. ``text`` is needed of a list from a registry
    of many keys: each of its lines is what is under one key.
    """

    def __init__(
        self,
        name: str,
        data: Mapping[str, object],
        find_lines: Callable[[], Mapping[Path, int]],
        text: str = "",
    ) -> None:
        self.name = name
        self.data = data
        self.known_lines: Mapping[Path, int] | None = None
        self._find_lines = find_lines
        self._text = text
        self._split: list[str] | None = None

    def lines(self) -> Mapping[Path, int]:
        """The line, from 1, of each path."""
        if self.known_lines is None:
            self.known_lines = self._find_lines()
        return self.known_lines

    def locate(self, path: Path) -> int | None:
        """The line, from 1, of a path or, if unknown, of the nearest path above it."""
        lines = self.lines()
        while path:
            if path in lines:
                return lines[path]
            path = path[:-1]
        return None

    def spelt(self, path: Path) -> Path | None:
        """A path whose keys are the schema's, as this document spells it; None if it lacks it.

        A block that stands alone may be a list of one block, or that block itself.
        """
        from rait.domain.config.decoding import means

        node: object = self.data
        found: Path = ()
        for part in path:
            if isinstance(node, list):
                index = part if isinstance(part, int) else 0
                if index >= len(node):
                    return None
                node, found = node[index], (*found, index)
            if isinstance(part, str):
                keys = node if isinstance(node, Mapping) else ()
                key = next((key for key in keys if means(str(key), part)), None)
                if key is None:
                    return None
                node, found = keys[key], (*found, key)
        return found

    def place(self, path: Path) -> Place:
        """Where a path leads."""
        at = self.at(self.locate(path) if path else None)
        if not is_live(self.name):
            return structs.replace(at, entry=_path_text(path))
        # The list and its indexes are nothing that the user has ever seen.
        return at if at.file == self.name else structs.replace(at, entry=_path_text(path[2:]))

    def at(self, line: int | None) -> Place:
        """The place of a line, from 1; in a list from a registry of many keys, the key."""
        if not is_live(self.name):
            return Place(self.name, line)
        from rait.domain.replica import key_at  # here, as few lists have keys

        if self._split is None:
            self._split = self._text.split("\n")
        key = "" if line is None else key_at(self._split, line)
        return Place(f"{self.name}/{key}" if key else self.name)

    def location(self, path: Path) -> str:
        """``FILE:LINE: key`` or ``URL/PART: key`` for a path, without a line if it is unknown."""
        place = self.place(path)
        return f"{place}: {place.entry}" if place.entry else f"{place}"

    def describe(self, problem: Problem) -> str:
        """``FILE:LINE: key: message``, without line or key if these are unknown."""
        return f"{self.location(problem.path)}: {problem.message}"

    def describe_all(self, problems: Sequence[Problem]) -> tuple[str, ...]:
        """A line of text for each of the first problems, and one that counts the rest."""
        lines = [self.describe(problem) for problem in problems[:MOST_PROBLEMS]]
        more = len(problems) - len(lines)
        return (*lines, f"{self.name}: and {more} more") if more else tuple(lines)


def _path_text(path: Iterable[str | int]) -> str:
    """A path as text, with indexes from 0: ``transport[1].mtu``."""
    text = ""
    for part in path:
        if isinstance(part, int):
            text += f"[{part}]"
        else:
            shown = "".join(c if c.isprintable() else "?" for c in brief(part, _LONGEST_KEY))
            text += f".{shown}" if text else shown
    return text

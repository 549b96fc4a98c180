"""Finds the line of each key, block and item of a list in TOML and JSON, for messages.

The libraries that parse these texts tell no places. What is here checks nothing: it reads texts
that parse, once from start to end.
"""

from __future__ import annotations

import re

from rait.adapters.config.bounds import MAX_PLACED
from rait.domain.errors import Path

_PART = r"""(?:[\w-]++|"[^"\n]*+"|'[^'\n]*+')"""
_HEADER = re.compile(r"[ \t]*+(\[\[?)([^\]#\n]++)\]")
_KEY = re.compile(rf"[ \t]*+({_PART}(?:[ \t]*+\.[ \t]*+{_PART})*)[ \t]*+=[ \t]*+")
_KEY_PART = re.compile(_PART)
_TOKEN = re.compile(
    r"""
      [ \t\r]++ | \#[^\n]*+
    | (?P<line>\n)
    | (?P<opened>[\[{]) | (?P<closed>[\]}]) | (?P<comma>,) | (?P<is>[:=])
    | (?P<other>
        \"\"\"(?:[^"\\]++|\\[^\0]|"(?!""))*(?:\"\"\"|\Z)
      | '''(?:[^']++|'(?!''))*(?:'''|\Z)
      | "(?:[^"\\\n]++|\\.)*"
      | '[^'\n]*+'
      | [^\s\[\]{},:=\#"']++
      | [^\0]
      )
    """,
    re.VERBOSE,
)


def json_lines(text: str) -> dict[Path, int]:
    """The line, from 1, of each key and item in JSON text, by its path."""
    found: dict[Path, int] = {}
    begin = text.index("{")
    _read_value(text, begin, (), text.count("\n", 0, begin) + 1, found)
    return found


class TomlScan:
    """The line, from 1, of each table, key and item in TOML text, by its path.

    ``last`` is the line and the text of the last key of a line.
    """

    def __init__(self, text: str) -> None:
        self.lines: dict[Path, int] = {}
        self.last = (0, "")
        self._lengths: dict[Path, int] = {}
        table: Path = ()
        offset, line = 0, 1
        while offset < len(text):
            if header := _HEADER.match(text, offset):
                table = self._enter(_parts(header[2]), is_list=header[1] == "[[", line=line)
            elif key := _KEY.match(text, offset):
                self.last = (line, key[1])
                path = (*table, *_parts(key[1]))
                self.lines.setdefault(path, line)
                offset, line = _read_value(text, key.end(), path, line, self.lines)
            offset = (text.find("\n", offset) + 1) or len(text)
            line += 1

    def _enter(self, parts: list[str], *, is_list: bool, line: int) -> Path:
        """The path of the content of a table with this header."""
        path: Path = ()
        for part in parts[:-1]:
            path = (*path, part)
            if path in self._lengths:
                path = (*path, self._lengths[path] - 1)
        path = (*path, parts[-1]) if parts else path
        self.lines.setdefault(path, line)
        if is_list:
            index = self._lengths.get(path, 0)
            self._lengths[path] = index + 1
            path = (*path, index)
        self.lines.setdefault(path, line)
        return path


def _read_value(
    text: str, offset: int, path: Path, line: int, lines: dict[Path, int]
) -> tuple[int, int]:
    """Read the value with this path that begins at an offset in this line; where it ends."""
    # The parts of the path below each bracket that is open: a key, or the number of an item.
    opened: list[Path] = []
    is_key = False
    for token in _TOKEN.finditer(text, offset):
        kind = token.lastgroup
        if not opened and kind in ("line", "closed", "comma"):
            return token.start(), line
        if kind == "line":
            line += 1
        elif kind == "closed":
            opened.pop()
            is_key = False
        elif kind == "comma":
            last = opened[-1][-1:]
            number = last[0] if last else None
            opened[-1] = (number + 1,) if isinstance(number, int) else ()
            is_key = not isinstance(number, int)
        elif kind == "is":
            is_key = False
        elif kind is not None:
            line_of = line
            line += token[0].count("\n")
            if is_key:
                opened[-1] = (*opened[-1], *_parts(token[0]))
            if len(opened) < MAX_PLACED:
                here = (*path, *(part for parts in opened for part in parts))
                lines.setdefault(here, line_of)
            if kind == "opened":
                is_key = token[0] == "{"
                opened.append(() if is_key else (0,))
    return len(text), line


def _parts(text: str) -> list[str]:
    return [part.strip("\"'") for part in _KEY_PART.findall(text)]

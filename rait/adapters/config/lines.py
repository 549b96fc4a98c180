"""Finds the line of each key, block and item of a list in TOML and JSON, for messages.

The libraries that parse these texts tell no places. What is here checks nothing: it reads texts
that parse, once from start to end.
"""

from __future__ import annotations

import re

from rait.adapters.config.bounds import MAX_PLACED
from rait.domain.errors import Path

_HEADER = re.compile(r"\s*(\[\[?)([^\]#]+)\]")
_KEY = re.compile(
    r"""\s*((?:[\w-]+|"[^"]*"|'[^']*')(?:\s*\.\s*(?:[\w-]+|"[^"]*"|'[^']*'))*)\s*=[ \t]*"""
)
_KEY_PART = re.compile(r"""[\w-]+|"[^"]*"|'[^']*'""")
_TOKEN = re.compile(
    r"""
      [ \t\r]++ | \#[^\n]*+
    | (?P<line>\n)
    | (?P<opened>[\[{]) | (?P<closed>[\]}]) | (?P<comma>,) | (?P<is>[:=])
    | (?P<other>
        \"\"\"(?:[^"\\]++|\\[^\0]|"(?!""))*\"\"\"
      | '''(?:[^']++|'(?!''))*'''
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
    _read_nested(text, 0, (), 1, found)
    return found


def toml_lines(text: str) -> dict[Path, int]:
    """The line, from 1, of each table, key and item in TOML text, by its path."""
    scan = TomlScan()
    offset, nested_until = 0, 0
    for number, line in enumerate(text.split("\n"), 1):
        if number > nested_until:
            scan.read(line, number)
            value = offset + scan.value_at
            if scan.last[0] == number and text[value : value + 1] in ("[", "{"):
                nested_until = _read_nested(text, value, scan.path, number, scan.lines)
                scan.open_string = ""  # one that began in this line ended within the brackets
        offset += len(line) + 1
    return scan.lines


def _read_nested(text: str, offset: int, path: Path, line: int, lines: dict[Path, int]) -> int:
    """Read the list or the object that begins at an offset in this line; the line in which it ends.

    ``path`` is its own.
    """
    # The parts of the path below each bracket that is open: a key, or the number of an item.
    opened: list[Path] = []
    is_key = False
    for token in _TOKEN.finditer(text, offset):
        kind = token.lastgroup
        if kind == "line":
            line += 1
        elif kind == "closed":
            opened.pop()
            if not opened:
                break
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
    return line


class TomlScan:
    """A scan of TOML text line by line, for the lines of its keys; it checks nothing.

    ``last`` is the line and the text of the last key, ``path`` leads to it, and in that line the
    value begins at ``value_at``. ``open_string`` are the quotes of a string that goes on.
    """

    def __init__(self) -> None:
        self.lines: dict[Path, int] = {}
        self.last = (0, "")
        self.path: Path = ()
        self.value_at = 0
        self._lengths: dict[Path, int] = {}
        self._table: Path = ()
        self.open_string = ""

    def read(self, line: str, number: int) -> None:
        if self._inside_string(line):
            return
        header = _HEADER.match(line)
        if header:
            self._enter(_parts(header[2]), is_list=header[1] == "[[", number=number)
            return
        key = _KEY.match(line)
        if key:
            self.last, self.value_at = (number, key[1]), key.end()
            self.path = (*self._table, *_parts(key[1]))
            self.lines.setdefault(self.path, number)

    def _inside_string(self, line: str) -> bool:
        """Whether the line begins within a multi-line string."""
        before = self.open_string
        if not before and '"""' not in line and "'''" not in line:
            return False
        for mark in ('"""', "'''"):
            if self.open_string in ("", mark) and line.count(mark) % 2:
                self.open_string = "" if self.open_string else mark
        return bool(before)

    def _enter(self, parts: list[str], *, is_list: bool, number: int) -> None:
        path: Path = ()
        for part in parts[:-1]:
            path = (*path, part)
            if path in self._lengths:
                path = (*path, self._lengths[path] - 1)
        path = (*path, parts[-1]) if parts else path
        self.lines.setdefault(path, number)
        if is_list:
            index = self._lengths.get(path, 0)
            self._lengths[path] = index + 1
            path = (*path, index)
        self.lines.setdefault(path, number)
        self._table = path


def _parts(text: str) -> list[str]:
    return [part.strip("\"'") for part in _KEY_PART.findall(text)]

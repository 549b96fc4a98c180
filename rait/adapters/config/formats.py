"""Parses text in HCL, TOML or JSON to a plain document, and finds the lines of paths in it.

The suffix .hcl, .toml or .json of a name tells the format. Without one, the text does: JSON begins
with a brace, HCL has blocks (``name {``), and any other text is TOML.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from rait.adapters.config.bounds import (
    MAX_DIGITS,
    MAX_DOTS,
    MAX_ITEMS,
    MAX_LEVELS,
    MAX_PARTS,
    MAX_PLACED,
)
from rait.adapters.config.document import Document
from rait.domain.config.keytext import brief, shown
from rait.domain.config.schema import is_live
from rait.domain.errors import Path, SourceError

_TWICE = "Cannot overwrite a value"
"""How tomli's message begins for a key that is given twice."""

# Possessive on character classes, and bounded on groups, as others' texts are matched whole: so no
# text makes them slow.
_BLOCK = re.compile(
    r'^[ \t]*+[A-Za-z_][\w-]*+(?:[ \t]++(?:"[^"\n]*+"|[\w-]++)){0,20}[ \t]*+\{', re.MULTILINE
)
_TABLE = re.compile(r"^[ \t]*+\[", re.MULTILINE)
_HEADING = re.compile(r"^[ \t]*+\[\[?[A-Za-z][\w.-]*+\]", re.MULTILINE)
_PART = r"""(?:[\w-]++|"(?:[^"\\\n]++|\\.){0,1000}"|'[^'\n]*+')"""
_DOT = r"[ \t]*+\.[ \t]*+"
_DOTS = re.compile(rf"\.[ \t]*+(?:{_PART}{_DOT}){{{MAX_PARTS - 1}}}")
_DOTTED = re.compile(
    rf"(?:^|[\[{{,])[ \t]*+{_PART}(?:{_DOT}{_PART}){{1,{MAX_PARTS}}}", re.MULTILINE
)
_LONG_NUMBER = re.compile(rf"""(?<![\w"'])(?:0[xob])?[0-9A-Fa-f][0-9A-Fa-f_]{{{MAX_DIGITS}}}""")

# What finds lines checks nothing: it reads texts that parse, once from start to end.
_HEADER = re.compile(r"[ \t]*+(\[\[?)([^\]#\n]++)\]")
_KEY = re.compile(rf"[ \t]*+({_PART}(?:{_DOT}{_PART}){{0,{MAX_PARTS}}})[ \t]*+=[ \t]*+")
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


def parse(text: str, name: str) -> Document:
    """Parse ``text``, which came from the file or URL ``name``.

    Raises SourceError with name, line and column of what cannot be parsed. The message quotes
    nothing of the text but keys.
    """
    if text.lstrip().startswith("<"):
        raise SourceError(
            f"{name}:1: this is a web page (HTML or XML), and no HCL, TOML or JSON: a URL has to "
            "lead to the file itself"
        )
    # The prefix of keys in etcd may end in anything.
    suffixes = {} if is_live(name) else _PARSERS
    parsers = (parser for suffix, parser in suffixes.items() if name.lower().endswith(suffix))
    try:
        return next(parsers, _guess)(text, name)
    except RecursionError:
        raise _too_deep(name) from None


def _guess(text: str, name: str) -> Document:
    if text.lstrip().startswith("{"):
        return _json(text, name)
    if _BLOCK.search(text):
        likely, other = _hcl, _toml
    elif _TABLE.search(text):
        return _toml(text, name)
    else:
        # A text of attributes alone is mostly TOML too, and TOML is parsed faster.
        likely, other = _toml, _hcl
    try:
        return likely(text, name)
    except SourceError as error:
        try:
            return other(text, name)
        except SourceError:
            if _BLOCK.search(text) and _HEADING.search(text):
                # As where what `rait pub` prints was put below a list of the other format.
                why = "it has tables of TOML and blocks of HCL: write all of it in one of the two"
                raise SourceError(f"{error}; {why}") from None
            raise error from None


def _hcl(text: str, name: str) -> Document:
    from rait.adapters.config import hcl

    try:
        data = hcl.parse(text)
    except hcl.HclError as error:
        raise _error(name, str(error), error.line, error.column) from None
    return Document(name, data, lambda: hcl.lines(text))


def _toml(text: str, name: str) -> Document:
    # Not tomllib: tomli is compiled, so faster on long lists, and its errors have line and column.
    import tomli

    _check_items(text, name)
    _check_toml(text, name)
    try:
        data = tomli.loads(text)
    except tomli.TOMLDecodeError as error:
        if error.msg.startswith(_TWICE):
            raise _given_twice(text, name, error.lineno) from None
        raise _error(name, f"not valid TOML: {error.msg}", error.lineno, error.colno) from None
    except ValueError:
        raise SourceError(f"{name}: not valid TOML: a number is too large") from None
    _check_depth(data, name)
    return Document(name, data, lambda: _TomlScan(text).lines)


def _check_items(text: str, name: str) -> None:
    """Raise SourceError for a text of too many items, before parsing puts them all in memory."""
    if sum(map(text.count, "\n,[{")) > MAX_ITEMS:
        raise SourceError(
            f"{name}: more than {MAX_ITEMS} lines, commas and brackets, the most that rait reads"
        )


def _check_toml(text: str, name: str) -> None:
    """Raise SourceError for a text that costs tomli much time or memory.

    Each check begins with a quick look, which shows that a real registry is harmless.
    """
    if max(map(len, text.split("\n"))) > MAX_DIGITS and (found := _LONG_NUMBER.search(text)):
        raise _too_much(text, name, found.start(), f"a number of more than {MAX_DIGITS} digits")
    if _DOTS.search(text):
        for found in _DOTTED.finditer(text):
            if found[0].count(".") >= MAX_PARTS:
                what = f"a key of more than {MAX_PARTS} parts"
                raise _too_much(text, name, found.start(), what)
    if (
        text.count(".") > MAX_DOTS
        and sum(d[0].count(".") for d in _DOTTED.finditer(text)) > MAX_DOTS
    ):
        raise SourceError(f"{name}: more than {MAX_DOTS} dots in keys, the most that rait reads")


def _check_depth(data: object, name: str) -> None:
    level: list[Any] = [data]
    for _ in range(MAX_LEVELS):
        insides = (each.values() if isinstance(each, dict) else each for each in level)
        level = [each for inside in insides for each in inside if isinstance(each, dict | list)]
        if not level:
            return
    raise _too_deep(name)


def _too_deep(name: str) -> SourceError:
    return SourceError(f"{name}: lists or blocks are nested too deep")


def _too_much(text: str, name: str, offset: int, what: str) -> SourceError:
    line = text.count("\n", 0, offset) + 1
    return SourceError(f"{name}:{line}: {what}, the most that rait reads")


def _given_twice(text: str, name: str, line: int) -> SourceError:
    """An error that names the key; tomli tells only the line where its second value ends."""
    number, key = _TomlScan("\n".join(text.split("\n")[:line])).last
    return SourceError(f"{name}:{number}: not valid TOML: {shown(key)} is given twice")


def _json(text: str, name: str) -> Document:
    import json

    _check_items(text, name)
    try:
        data = json.loads(text, object_pairs_hook=lambda pairs: _json_object(pairs, name))
    except json.JSONDecodeError as error:
        raise _error(name, f"not valid JSON: {error.msg}", error.lineno, error.colno) from None
    except ValueError:
        raise SourceError(f"{name}: not valid JSON: a number is too large") from None
    if not isinstance(data, dict):
        raise SourceError(f"{name}: the JSON text must be an object, in braces")
    _check_depth(data, name)
    return Document(name, data, lambda: _json_lines(text), text)


def _json_object(pairs: list[tuple[str, object]], name: str) -> dict[str, object]:
    """A JSON object. Raises SourceError for a key given twice: json would take the last value."""
    found = dict(pairs)
    if len(found) < len(pairs):
        last = {key: position for position, (key, _) in enumerate(pairs)}
        twice = next(key for position, (key, _) in enumerate(pairs) if last[key] != position)
        raise SourceError(f"{name}: not valid JSON: {shown(twice)} is given twice")
    return found


_PARSERS: dict[str, Callable[[str, str], Document]] = {
    ".hcl": _hcl,
    ".toml": _toml,
    ".json": _json,
}


def _error(name: str, message: str, line: int | None, column: int | None) -> SourceError:
    place = name if line is None or line < 1 else f"{name}:{line}:{column}"
    return SourceError(f"{place}: {brief(message, _LONGEST_MESSAGE)}")


_LONGEST_MESSAGE = 200


def _json_lines(text: str) -> dict[Path, int]:
    """The line, from 1, of each key and item in JSON text, by its path."""
    found: dict[Path, int] = {}
    begin = text.index("{")
    _read_value(text, begin, (), text.count("\n", 0, begin) + 1, found)
    return found


class _TomlScan:
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

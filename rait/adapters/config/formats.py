"""Parses text in HCL, TOML or JSON to a plain document, and finds the lines of paths in it.

The suffix .hcl, .toml or .json of a name tells the format. Without one, the text does: JSON begins
with a brace, HCL has blocks (``name {``), and any other text is TOML.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from rait.adapters.config.bounds import MAX_DIGITS, MAX_DOTS, MAX_ITEMS, MAX_PARTS
from rait.adapters.config.document import Document, part_finder
from rait.adapters.config.lines import TomlScan, json_lines
from rait.domain.config.keytext import brief, shown
from rait.domain.config.schema import is_live
from rait.domain.errors import SourceError

_TWICE = "Cannot overwrite a value"
"""How tomli's message begins for a key that is given twice."""

# Possessive on character classes, and bounded on groups, as others' texts are matched whole: so no
# text makes them slow.
_BLOCK = re.compile(
    r'^[ \t]*+[A-Za-z_][\w-]*+(?:[ \t]++(?:"[^"\n]*+"|[\w-]++)){0,20}[ \t]*+\{', re.MULTILINE
)
_TABLE = re.compile(r"^[ \t]*+\[", re.MULTILINE)
_PART = r"""(?:[\w-]++|"(?:[^"\\\n]++|\\.){0,1000}"|'[^'\n]*+')"""
_DOT = r"[ \t]*+\.[ \t]*+"
_DOTS = re.compile(rf"\.[ \t]*+(?:{_PART}{_DOT}){{{MAX_PARTS - 1}}}")
_DOTTED = re.compile(
    rf"(?:^|[\[{{,])[ \t]*+{_PART}(?:{_DOT}{_PART}){{1,{MAX_PARTS}}}", re.MULTILINE
)
_LONG_NUMBER = re.compile(rf"""(?<![\w"'])(?:0[xob])?[0-9A-Fa-f][0-9A-Fa-f_]{{{MAX_DIGITS}}}""")


def parse(text: str, name: str) -> Document:
    """Parse ``text``, which came from the file or URL ``name``.

    Raises SourceError with name, line and column of what cannot be parsed. The message quotes
    nothing of the text but keys.
    """
    # The prefix of keys in etcd may end in anything.
    suffixes = {} if is_live(name) else _PARSERS
    parsers = (parser for suffix, parser in suffixes.items() if name.lower().endswith(suffix))
    try:
        return next(parsers, _guess)(text, name)
    except RecursionError:
        raise SourceError(f"{name}: lists or blocks are nested too deep") from None


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
    return Document(name, data, lambda: TomlScan(text).lines)


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


def _too_much(text: str, name: str, offset: int, what: str) -> SourceError:
    line = text.count("\n", 0, offset) + 1
    return SourceError(f"{name}:{line}: {what}, the most that rait reads")


def _given_twice(text: str, name: str, line: int) -> SourceError:
    """An error that names the key; tomli tells only the line where its second value ends."""
    number, key = TomlScan("\n".join(text.split("\n")[:line])).last
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
    return Document(name, data, lambda: json_lines(text), part_finder(text, name))


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

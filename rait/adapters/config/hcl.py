"""Parses HCL text to a plain document.

Of HCL's native syntax (hclsyntax/spec.md of HashiCorp's HCL), rait reads what needs no evaluation:
blocks without labels, attributes, and literal values, which are text, heredocs, numbers, true,
false, null, lists and objects. For an expression, the error names the key.

Others write a peers list, so the time to parse it must grow with its length and no faster. The text
is read once from start to end, by patterns that never backtrack: each repetition is of one
character class, and possessive (``*+``). Groups are not repeated possessively, as Python before
3.11.5 does that wrong (python/cpython#106052).
"""

from __future__ import annotations

import re
from typing import Any

from rait.adapters.config.bounds import MAX_DEPTH, MAX_DIGITS, MAX_ITEMS, MAX_PLACED
from rait.domain.config.keytext import shown
from rait.domain.errors import Path

_NAME = r"[A-Za-z_][A-Za-z0-9_-]*+"
_SPACE = r"[ \t\r]*+"
_SPACE_OR_LINES = r"[ \t\r\n]*+"

_spaces = re.compile(_SPACE_OR_LINES).match
_comment = re.compile(rf"{_SPACE_OR_LINES}(?:\#[^\n]*+|//[^\n]*+|/\*[^\0]*?\*/)").match
_inline_comment = re.compile(rf"{_SPACE}/\*[^\0]*?\*/").match
_item = re.compile(
    rf"{_SPACE_OR_LINES}(?P<name>{_NAME}){_SPACE}"
    rf"(?:(?P<equals>=)(?![=>])|{_SPACE_OR_LINES}(?P<brace>\{{))"
).match
_named = re.compile(_NAME).match
_equals = re.compile(rf"{_SPACE}=(?![=>])").match
_with_colon = re.compile(rf"{_NAME}{_SPACE}:").match
_labelled = re.compile(
    rf'(?P<name>{_NAME})(?:{_SPACE}(?:{_NAME}|"[^"\n]*+")){{1,20}}{_SPACE_OR_LINES}\{{'
).match
_value = re.compile(
    rf"""
      {_SPACE}
      (?: "(?P<text>[^"\\\n$%]*+)"
        | (?P<quote>")
        | (?P<number>-?[0-9]++(?:\.[0-9]++)?(?:[eE][+-]?[0-9]++)?)(?![\w.:])
        | (?P<word>true|false|null)(?![\w-])
        | (?P<list>\[)
        | (?P<object>\{{)
        | <<(?P<trim>-?)(?P<mark>[A-Za-z][A-Za-z0-9._-]*+)\r?\n
      )
    """,
    re.VERBOSE,
).match
_member = re.compile(rf'(?:(?P<name>{_NAME})|"(?P<text>[^"\\\n$%]*+)"|(?P<quote>"))').match
_assigned = re.compile(rf"{_SPACE}(?:=(?![=>])|:(?!:))").match
_operator = re.compile(rf"{_SPACE}(?:[-+*%<>&|?.(\[!]|==|/(?![/*]))").match
_plain = re.compile(r'[^"\\\n]*+').match
_escapes = re.compile(
    r"""
      \\(?: u(?P<short>[0-9A-Fa-f]{4}) | U(?P<long>[0-9A-Fa-f]{8}) | (?P<character>.) )
    | (?P<doubled> \$\$(?=\{) | %%(?=\{) )
    | (?P<template> [$%]\{ )
    """,
    re.VERBOSE,
).finditer
_expression = re.compile(rf"[-!(]|for[ \t]|{_NAME}(?=[ \t\r]*+(?:[\n\#,}}\]?.(\[]|/[/*]|\Z))").match
_bare = re.compile(r'[^\s,}"=\[\]{<(][^\s,}"]*+').match
_hexadecimal = re.compile(r"-?0[xX]").match

_WORDS = {"true": True, "false": False, "null": None}
_ESCAPED = {"n": "\n", "r": "\r", "t": "\t", '"': '"', "\\": "\\"}
_SURROGATES = range(0xD800, 0xE000)
_MAX_CHARACTER = 0x10FFFF


class HclError(ValueError):
    """The text is not HCL, or holds an expression. ``line`` and ``column`` count from 1."""

    def __init__(self, message: str, line: int, column: int) -> None:
        super().__init__(message)
        self.line = line
        self.column = column


def parse(text: str) -> dict[str, Any]:
    """The document in ``text``. All blocks of one name become one list of mappings.

    Raises HclError, whose message never quotes a value.
    """
    return _Reader(text, None).body((), None)


def lines(text: str) -> dict[Path, int]:
    """The line, from 1, of each attribute and block by its path, in a text that parses."""
    found: dict[Path, int] = {}
    _Reader(text, found).body((), None)
    return found


class _Reader:
    """Reads a text from start to end; all before ``_position`` is done.

    Fills ``lines`` in if it is given. ``parse`` does not give it, as it takes more memory than the
    document, and only a message needs it.
    """

    def __init__(self, text: str, lines: dict[Path, int] | None) -> None:
        self._text = text
        self._position = 0
        self._items = 0
        self._depth = 0
        self._lines = lines
        self._line = 1
        self._counted = 0

    def body(self, path: Path, opened: int | None) -> dict[str, Any]:
        """Read the content of the block that begins at ``opened``, or of the text if it is None."""
        found: dict[str, Any] = {}
        blocks: set[str] = set()
        while (item := self._next_item()) is not None:
            key, start, is_block = item
            if not is_block:
                if key in found:
                    raise self._error(f"{shown(key)} is given twice", start)
                self._found((*path, key), start)
                found[key] = self._value(key, (*path, key))
                continue
            if key in found and key not in blocks:
                raise self._error(f"{shown(key)} is given as a value and as a block", start)
            blocks.add(key)
            same = found.setdefault(key, [])
            same.append(self._block((*path, key), len(same), start))
        self._end(opened)
        return found

    def _next_item(self) -> tuple[str, int, bool] | None:
        """The key of the next attribute or block, its offset, and whether it is a block.

        None where there is neither. The position is then after the equals sign or brace.
        """
        item = _item(self._text, self._position)
        if item is not None:
            self._position = item.end()
            return item["name"], item.start("name"), item["equals"] is None
        # Comments may stand before the key, or between key and sign.
        self._skip_gap()
        start = self._position
        name = _named(self._text, start)
        if name is None:
            return None
        self._position = name.end()
        self._skip_inline()
        if equals := _equals(self._text, self._position):
            self._position = equals.end()
        elif not self._takes("{"):
            self._position = start
            return None
        return name[0], start, equals is None

    def _block(self, path: Path, index: int, start: int) -> dict[str, Any]:
        self._count(start)
        self._found(path, start)
        self._found((*path, index), start)
        self._enter(start)
        body = self.body((*path, index), start)
        self._depth -= 1
        return body

    def _end(self, opened: int | None) -> None:
        """Read a block's closing brace, or the end of the text. Raises HclError for all else."""
        self._skip_gap()
        if opened is not None and self._text.startswith("}", self._position):
            self._position += 1
            return
        if self._position < len(self._text):
            raise self._fault()
        if opened is not None:
            raise self._error("the text ends too early: the block here is not closed", opened)

    def _value(self, key: str, path: Path) -> Any:
        found = _value(self._text, self._position)
        if found is None:
            self._skip_inline()
            found = _value(self._text, self._position)
        if found is None:
            raise self._no_value(key)
        kind = found.lastgroup or ""
        start = found.start(kind)
        self._count(start)
        self._position = found.end()
        if kind == "text":
            value: Any = found["text"]
        elif kind == "number":
            value = self._number(found["number"], key, start)
        elif kind == "word":
            value = _WORDS[found["word"]]
        elif kind == "quote":
            value = self._quoted(key, start)
        elif kind == "mark":
            value = self._heredoc(key, found.start("trim") - 2, found["mark"], trim=found["trim"])
        else:
            self._enter(start)
            value = self._list(key, path) if kind == "list" else self._object(key, path)
            self._depth -= 1
        if _operator(self._text, self._position):
            raise self._is_expression(key, start)
        return value

    def _number(self, text: str, key: str, start: int) -> int | float:
        if len(text) > MAX_DIGITS:  # int() of thousands of digits is slow, and then an error
            raise self._error(f"{shown(key)} is a huge number", start)
        return int(text) if text.lstrip("-").isdecimal() else float(text)

    def _list(self, key: str, path: Path) -> list[Any]:
        values: list[Any] = []
        while not self._takes("]"):
            item = (*path, len(values))
            self._found(item, self._position)
            values.append(self._value(key, item))
            if not self._takes(","):
                if not self._takes("]"):
                    raise self._fault()
                break
        return values

    def _object(self, key: str, path: Path) -> dict[str, Any]:
        found: dict[str, Any] = {}
        while not self._takes("}"):
            start = self._position
            name = self._name(key)
            if name in found:
                raise self._error(f"{shown(name)} is given twice", start)
            self._found((*path, name), start)
            found[name] = self._value(name, (*path, name))
            self._takes(",")
        return found

    def _name(self, key: str) -> str:
        """Read the name of an object's member and the sign after it."""
        start = self._position
        found = _member(self._text, start)
        if found is None:
            raise self._no_value(key)
        self._position = found.end()
        name = self._quoted(key, start) if found["quote"] else found["name"] or found["text"] or ""
        sign = _assigned(self._text, self._position)
        if sign is None:
            raise self._is_expression(key, start)
        self._position = sign.end()
        return name

    def _quoted(self, key: str, start: int) -> str:
        """Read text in quotes that began at ``start``, and resolve its escapes."""
        end = self._end_of_quoted(start)
        if end is None:
            raise self._open_quote(start)
        self._position = end
        content = self._text[start + 1 : end - 1]
        parts: list[str] = []
        done = 0
        for escape in _escapes(content):
            if escape["template"]:
                raise self._is_expression(key, start)
            self._count(start)
            parts += content[done : escape.start()], _resolved(escape)
            done = escape.end()
        return "".join([*parts, content[done:]])

    def _end_of_quoted(self, start: int) -> int | None:
        """The offset after the quote that closes the one at ``start``; None if none does."""
        position = start + 1
        while (plain := _plain(self._text, position)) is not None:
            position = plain.end()
            sign = self._text[position : position + 1]
            if sign == '"':
                return position + 1
            if sign != "\\" or self._text[position + 1 : position + 2] in ("", "\n"):
                break
            self._count(start)
            position += 2
        return None

    def _heredoc(self, key: str, start: int, mark: str, *, trim: str) -> str:
        body: list[str] = []
        while (line := self._take_line(start)).strip(" \t\r") != mark:
            self._count(start)
            body.append(line.removesuffix("\r"))
        if any("${" in line or "%{" in line for line in body):
            raise self._is_expression(key, start)
        if trim:
            filled = [line for line in body if line.strip()]
            indent = min((len(line) - len(line.lstrip()) for line in filled), default=0)
            body = [line[indent:] for line in body]
        return "".join(f"{line}\n" for line in body)

    def _take_line(self, start: int) -> str:
        """Read the next line of the heredoc that began at ``start``."""
        position = self._position
        if position > len(self._text):
            raise self._error("the text ends too early: the heredoc here is not closed", start)
        end = self._text.find("\n", position)
        end = len(self._text) if end < 0 else end
        self._position = end + 1
        return self._text[position:end]

    def _takes(self, sign: str) -> bool:
        """Read a sign, and say whether it came next."""
        self._skip_gap()
        if not self._text.startswith(sign, self._position):
            return False
        self._position += 1
        return True

    def _skip_gap(self) -> None:
        """Skip white space, newlines and comments."""
        while comment := _comment(self._text, self._position):
            self._position = comment.end()
        spaces = _spaces(self._text, self._position)
        self._position = spaces.end() if spaces else self._position

    def _skip_inline(self) -> None:
        """Skip comments within a line."""
        while comment := _inline_comment(self._text, self._position):
            self._position = comment.end()

    def _found(self, path: Path, start: int) -> None:
        if self._lines is None or len(path) > MAX_PLACED:
            return
        self._line += self._text.count("\n", self._counted, start)
        self._counted = start
        self._lines.setdefault(path, self._line)

    def _count(self, start: int) -> None:
        self._items += 1
        if self._items > MAX_ITEMS:
            message = f"more than {MAX_ITEMS} keys, blocks and values, the most that rait reads"
            raise self._error(message, start)

    def _enter(self, start: int) -> None:
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise self._error("lists or blocks are nested too deep", start)

    def _error(self, message: str, offset: int) -> HclError:
        line = self._text.count("\n", 0, offset) + 1
        return HclError(message, line, offset - self._text.rfind("\n", 0, offset))

    def _is_expression(self, key: str, start: int) -> HclError:
        message = f"{shown(key)} is an expression; write out its value (text in quotes)"
        return self._error(message, start)

    def _open_quote(self, start: int) -> HclError:
        return self._error("the line ends too early: the quote here is not closed", start)

    def _fault(self) -> HclError:
        """The error for text that is neither an attribute, nor a block, nor an end."""
        text, start = self._text, self._position
        if text.startswith("/*", start):
            return self._error("the text ends too early: the comment here is not closed", start)
        if labelled := _labelled(text, start):
            message = f"the block {shown(labelled['name'])} has a label, which means nothing here"
            return self._error(message, start)
        hint = ": after a key comes =, not :" if _with_colon(text, start) else ""
        hint = ": a line ends without a ;" if text.startswith(";", start) else hint
        return self._error(f"this is not valid HCL here{hint}", start)

    def _no_value(self, key: str) -> HclError:
        """The error for text that is no value, where a value belongs."""
        start = self._position
        while self._text[start : start + 1] in (" ", "\t", "\r"):
            start += 1
        if _expression(self._text, start):
            return self._is_expression(key, start)
        bare = _bare(self._text, start)
        if bare is None:
            self._position = start
            return self._fault()
        if self._text.startswith('"', bare.end()) and self._end_of_quoted(bare.end()) is None:
            return self._open_quote(bare.end())
        if _hexadecimal(bare[0]):
            what = "has a hexadecimal number, which HCL does not have: write it in decimal"
        else:
            what = "has a value that is not valid HCL: text belongs in double quotes"
        return self._error(f"{shown(key)} {what}", start)


def _resolved(escape: re.Match[str]) -> str:
    """The text that an escape stands for; an escape unknown to HCL stands for itself."""
    if escape["doubled"]:
        return escape["doubled"][0]
    digits = escape["short"] or escape["long"]
    if digits is None:
        return _ESCAPED.get(escape["character"], escape[0])
    code = int(digits, 16)
    return escape[0] if code > _MAX_CHARACTER or code in _SURROGATES else chr(code)

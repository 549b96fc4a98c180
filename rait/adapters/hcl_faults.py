"""Where a mistake in HCL text is, which is seldom where the parser stumbles over it.

The parser reads an open quote on to the next one, lines below, and takes what follows a value for
the next key. So this looks at the text again, by rougher rules, up to where the parser gave up.
"""

from __future__ import annotations

import re
from typing import NamedTuple

from rait.domain.keytext import shown

_PIECE = re.compile(
    r"""
      (?P<comment> \#[^\n]* | //[^\n]* | /\*(?s:.*?)(?:\*/|\Z) )
    | (?P<heredoc> <<-?(?P<mark>[A-Za-z][\w.-]*)\r?\n (?:[^\n]*\n)*? [ \t]*(?P=mark)(?=\r?\n|\Z) )
    | (?P<text> "(?:[^"\\\n]|\\[^\n])*" )
    | (?P<open> " )
    """,
    re.VERBOSE,
)
_BARE = re.compile(
    r"""(?P<key>[A-Za-z_][\w-]*)[ \t]*=(?![=>])[ \t]*(?P<value>[^\s"\[\]{<(,}=][^\s,}]*)"""
)
_ANY = re.compile(r"[^\n]")
_LITERAL = re.compile(r"true|false|null|-?\d+(?:\.\d+)?(?:[eE][+-]?\d+)?")
_HEX = re.compile(r"-?0[xX]")


class Fault(NamedTuple):
    """What is wrong, and where: line and column from 1."""

    message: str
    line: int
    column: int


def find(text: str, line: int, column: int) -> Fault | None:
    """The mistake that made the parser give up at a line and column, if it can be told.

    The message names keys, and never a value.
    """
    end = _offset(text, line, column)
    code, opening = _code(text, end)
    if opening is not None and opening <= end:
        return _fault(text, opening, "the line ends too early: the quote here is not closed")
    last = None
    for found in _BARE.finditer(code):
        last = found if found.start() < end else last
    if last is None or _LITERAL.fullmatch(last["value"]):
        return None
    if _HEX.match(last["value"]):
        what = "has a hexadecimal number, which HCL has not: write it in decimal"
    else:
        what = "has a value that is not valid HCL: text belongs in double quotes"
    return _fault(text, last.start("value"), f"{shown(last['key'])} {what}")


def _code(text: str, end: int) -> tuple[str, int | None]:
    """The text to the end of the line of ``end``, with comments and quoted text overwritten.

    And the first quote that is left open, if any: there it ends.
    """
    stop = text.find("\n", end)
    stop = len(text) if stop < 0 else stop
    parts, position = [], 0
    for piece in _PIECE.finditer(text, 0, stop):
        parts.append(text[position : piece.start()])
        if piece["open"]:
            return "".join(parts), piece.start()
        # Places stay as they are, and what is quoted a value in quotes.
        parts.append(_ANY.sub(" " if piece["comment"] else '"', piece[0]))
        position = piece.end()
    parts.append(text[position:stop])
    return "".join(parts), None


def _offset(text: str, line: int, column: int) -> int:
    start = 0
    for _ in range(line - 1):
        start = text.find("\n", start) + 1
    return start + column - 1


def _fault(text: str, offset: int, message: str) -> Fault:
    line = text.count("\n", 0, offset) + 1
    return Fault(message, line, offset - text.rfind("\n", 0, offset))

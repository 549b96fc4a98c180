"""What all commands share of the terminal: exit statuses, and the only way by which text leaves.

Names, paths, reasons and keys come from registries, servers, journals and other programs. Whatever
of them a terminal would obey or hide is spelt out here, so that nothing can fake a line of ours,
move the cursor or reorder what is read. Who renders text gives lines: a line feed that is inside
one is not ours.
"""

from __future__ import annotations

import codecs
import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

DONE, FAILED, WRONG, PARTIAL, STOPPED = 0, 1, 2, 3, 4
"""Done; failed; wrong usage or configuration; partly done; too much would have been removed."""

CHANGES = 2
"""What ``plan --detailed-exitcode`` gives where there is something to do."""

_ESCAPES = "rait.escapes"
_BEYOND_16_BITS = 0x10000
_HARMLESS = frozenset("\u00a0\u3000\u200c\u200d")
"""Not printable to Python, and yet parts of names: two spaces, and what joins or parts letters."""


class OutputError(Exception):
    """A result could not be written to standard output; the text says why."""


class ReaderGoneError(OutputError):
    """Whoever read our output wants no more of it, so there is nobody to tell."""


def prepare() -> None:
    """Make standard output and error fit for whatever a name may hold, and for being closed."""
    if sys.stderr is None:  # closed by who started us: else what we say there goes to stdout
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115 - until the process ends
    codecs.register_error(_ESCAPES, _escaped)
    reconfigure = getattr(sys.stdout, "reconfigure", None)
    if reconfigure is not None:
        reconfigure(errors=_ESCAPES)


def clean(line: str) -> str:
    """Spell out all that is not printable as \\uXXXX, which in JSON means the character itself.

    That is control characters (C0 with line feeds and tabs, DEL, C1), separators of lines and
    paragraphs, what turns the direction of text, invisible characters, and bytes that are no text
    (lone surrogates).
    """
    if line.isprintable():
        return line
    return "".join(map(_visible, line))


def warn(text: str) -> None:
    """Print a line that is no result to standard error, and go on if that cannot be written."""
    _say(f"rait: {clean(text)}\n")


def warn_of(error: BaseException) -> None:
    """Print what an error says to standard error, a line for each of its arguments."""
    for argument in error.args:
        warn(str(argument))


def warn_text(text: str) -> None:
    """Print text to standard error whose line feeds are all our own: usage, or a traceback."""
    _say(_clean_lines(text))


def warn_of_crash() -> None:
    """Print the traceback of the exception that is being handled to standard error."""
    import traceback

    warn_text(traceback.format_exc())


def print_result(*lines: str) -> None:
    """Print the lines of a result, at once. Raises OutputError where they cannot be written."""
    _print("\n".join(map(clean, lines)))


def print_text(text: str) -> None:
    """``print_result`` for text whose line feeds are all our own: JSON, or help."""
    _print(_clean_lines(text))


def print_json(value: object) -> None:
    """``print_result`` for programs, indented for people to read as well."""
    print_text(to_json(value))


def to_json(value: object, *, indent: int = 2) -> str:
    """JSON text; in one line if ``indent`` is 0.

    Bytes of a path that are no text are spelt out, as JSON takes none.
    """
    from msgspec import json, to_builtins  # here, as help and usage need it not

    try:
        text = json.encode(value)
    except UnicodeEncodeError:
        text = json.encode(_storable(to_builtins(value)))
    return (json.format(text, indent=indent) if indent else text).decode()


def _storable(value: object) -> object:
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, dict):
        return {_storable(key): _storable(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_storable(item) for item in value]
    return value


def table(rows: Iterable[Sequence[str]]) -> list[str]:
    """The rows as lines, their columns aligned."""
    # Clean before they are measured: what is spelt out takes more room.
    cells = [list(map(clean, row)) for row in rows]
    widths = [max(map(_width, column)) for column in zip(*cells, strict=True)]
    return [
        "  ".join(map(_padded, row, widths)).rstrip(" ")  # and no other space: it may be a name's
        for row in cells
    ]


def _padded(text: str, width: int) -> str:
    return text + " " * (width - _width(text))


def _width(text: str) -> int:
    """How many columns of a terminal a text takes (UAX #11): wide characters two, marks none."""
    if text.isascii():
        return len(text)
    # Only for names that need it, so that its tables are not loaded otherwise.
    from unicodedata import category, east_asian_width

    marks = ("Mn", "Me", "Cf")
    return sum(
        0 if category(c) in marks else 2 if east_asian_width(c) in ("W", "F") else 1 for c in text
    )


def _clean_lines(text: str) -> str:
    return "\n".join(map(clean, text.split("\n")))


def _say(text: str) -> None:
    try:
        print(text, end="", file=sys.stderr, flush=True)
    except OSError:
        return


def _print(text: str) -> None:
    if sys.stdout is None:
        raise OutputError("it is closed")
    try:
        print(text)
        sys.stdout.flush()
    except OSError as error:
        raise _given_up(error) from None


def report_lost(error: OutputError) -> None:
    """Print that a result could not be written, unless whoever read it wanted no more."""
    if not isinstance(error, ReaderGoneError):
        warn(f"the result could not be written to standard output: {error}")


def _given_up(error: OSError) -> OutputError:
    # The interpreter writes what is left at its end, and must not fail at that once more.
    from contextlib import suppress

    with suppress(OSError, ValueError):
        descriptor = sys.stdout.fileno()
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, descriptor)
        os.close(null)
    kind = ReaderGoneError if isinstance(error, BrokenPipeError) else OutputError
    return kind(error.strerror or str(error))


def _escaped(error: UnicodeError) -> tuple[str, int]:
    """What the terminal's encoding lacks, as \\uXXXX, which in JSON means the character itself."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    points = map(ord, error.object[error.start : error.end])
    return "".join(map(_escape, points)), error.end


def _visible(character: str) -> str:
    shown = character.isprintable() or character in _HARMLESS
    return character if shown else _escape(ord(character))


def _escape(point: int) -> str:
    if point < _BEYOND_16_BITS:
        return f"\\u{point:04x}"
    rest = point - _BEYOND_16_BITS
    return f"\\u{0xD800 + (rest >> 10):04x}\\u{0xDC00 + (rest & 0x3FF):04x}"

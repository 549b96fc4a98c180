"""What all commands share of the terminal: exit statuses, and the only way by which text leaves.

Names, paths, reasons and keys come from registries, servers, journals and other programs. Their
characters that a terminal would obey or hide are spelt out here, so that nothing can fake a line of
ours, move the cursor or reorder what is read. Callers give lines, so a line feed within a line is
spelt out too.
"""

from __future__ import annotations

import codecs
import os
import sys

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

DONE, FAILED, WRONG, PARTIAL, STOPPED, WAITING = 0, 1, 2, 3, 4, 5
"""Done; failed; wrong usage or configuration; partly done; too much would have been removed; an
earlier change waits for its confirmation."""

CHANGES = 2
"""The exit status of ``plan --detailed-exitcode`` if there is something to do."""

INTERRUPTED = 5
"""The exit status of ``fleet plan`` if the change interrupts a tunnel."""

_ESCAPES = "rait.escapes"
_BEYOND_16_BITS = 0x10000
_AT_ONCE = 400
"""So many characters go to standard error at once: less than 4096 bytes, however they are encoded.
A pipe that has room takes these without waiting (PIPE_BUF in pipe(7))."""

_ROOM_SECONDS = 1.0
_HARMLESS = frozenset("\u00a0\u3000\u200c\u200d")
"""Not printable to Python, yet parts of names: two spaces, and two that join or part letters."""


_lost: bool | None = None
"""Whether standard error has lost lines since it had room last; None where rait waits instead."""


class OutputError(Exception):
    """A result could not be written to standard output; the text says why."""


class ReaderGoneError(OutputError):
    """The program that read our output has ended, so nobody misses the rest."""


def prepare() -> None:
    """Prepare standard output and error for any character of a name, and for being closed."""
    if sys.stderr is None:  # closed by the parent process; without this, warnings go to stdout
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115 - until the process ends
    codecs.register_error(_ESCAPES, _escaped)
    reconfigure = getattr(sys.stdout, "reconfigure", None)
    if reconfigure is not None:
        reconfigure(errors=_ESCAPES)


def lose_what_nobody_reads() -> None:
    """From now on drop what standard error has no room for, as a pipe that nobody reads.

    For a daemon, which must not stand still because its log does.
    """
    global _lost
    _lost = False


def clean(line: str) -> str:
    """Spell out each unprintable character as \\uXXXX, which in JSON means the character itself.

    Unprintable are control characters (C0 with line feeds and tabs, DEL, C1), separators of lines
    and paragraphs, marks that turn the direction of text, invisible characters, and bytes that are
    no text (lone surrogates).
    """
    if line.isprintable():
        return line
    return "".join(map(_visible, line))


def bounded(text: str, most: int) -> str:
    """A line as ``clean`` makes it, of so many characters at the most: names may be very long."""
    text = clean(text)
    return text if len(text) <= most else f"{text[: most - 1]}…"


def warn(*texts: str) -> None:
    """Print lines to standard error, and go on if they cannot be written."""
    note(*(f"rait: {text}" for text in texts))


def warn_of(error: BaseException) -> None:
    """Print an error to standard error, a line for each of its arguments."""
    warn(*map(str, error.args))


def note(*lines: str) -> None:
    """Print lines to standard error as they are, and go on if they cannot be written."""
    _say("".join(f"{clean(line)}\n" for line in lines))


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
    """Print text whose line feeds are all our own (JSON, help). Raises OutputError."""
    _print(_clean_lines(text))


def print_json(value: object) -> None:
    """Print a result for programs, indented for people to read as well. Raises OutputError."""
    print_text(to_json(value))


def print_either(value: object, lines: Iterable[str], *, as_json: bool) -> None:
    """Print a result that is small: the value for programs, or the lines for people.

    Raises OutputError.
    """
    if as_json:
        print_json(value)
    else:
        print_result(*lines)


def to_json(value: object, *, indent: int = 2) -> str:
    """JSON text; in one line if ``indent`` is 0.

    Bytes of a path that are no text are spelt out, as JSON cannot hold them.
    """
    from msgspec import json, to_builtins  # here, as --help and --version do not need it

    try:
        text = json.encode(value)
    except UnicodeEncodeError:
        from rait.domain.records import as_text

        text = json.encode(as_text(to_builtins(value)))
    return (json.format(text, indent=indent) if indent else text).decode()


class Drawing:
    """Standard output as a file, for a library that draws on a terminal.

    What is drawn goes through ``clean`` before, as control characters of its own are to pass here.
    """

    encoding = "utf-8"

    def isatty(self) -> bool:
        return True

    def write(self, text: str) -> int:
        """Write to standard output. Raises OutputError."""
        try:
            return sys.stdout.write(text)
        except OSError as error:
            raise _given_up(error) from None

    def flush(self) -> None:
        """Hand over what was written. Raises OutputError."""
        try:
            sys.stdout.flush()
        except OSError as error:
            raise _given_up(error) from None


def is_terminal() -> bool:
    """Whether standard output is a terminal on which a library can draw."""
    out = sys.stdout
    return out is not None and out.isatty() and os.environ.get("TERM", "dumb") not in ("dumb", "")


def table(rows: Iterable[Sequence[str]]) -> list[str]:
    """The rows as lines, their columns aligned."""
    # Cleaned before they are measured: a character that is spelt out takes more room.
    cells = [list(map(clean, row)) for row in rows]
    widths = [max(map(_width, column)) for column in zip(*cells, strict=True)]
    return [
        "  ".join(map(_padded, row, widths)).rstrip(" ")  # no other white space: a name may end so
        for row in cells
    ]


def _padded(text: str, width: int) -> str:
    return text + " " * (width - _width(text))


def _width(text: str) -> int:
    """How many columns of a terminal a text takes (UAX #11): wide characters two, marks none."""
    if text.isascii():
        return len(text)
    # Its tables are large, and most names are ASCII.
    from unicodedata import category, east_asian_width

    marks = ("Mn", "Me", "Cf")
    return sum(
        0 if category(c) in marks else 2 if east_asian_width(c) in ("W", "F") else 1 for c in text
    )


def _clean_lines(text: str) -> str:
    return "\n".join(map(clean, text.split("\n")))


def _say(text: str) -> None:
    global _lost
    if _lost and text:
        text = f"\nrait: what was to be told here is lost, as nobody has read it\n{text}"
    step = _AT_ONCE if _lost is not None else max(len(text), 1)
    try:
        for start in range(0, len(text), step):
            if _lost is not None and (_lost := not _has_room(0.0 if _lost else _ROOM_SECONDS)):
                return
            print(text[start : start + step], end="", file=sys.stderr, flush=True)
    except OSError:
        return


def _has_room(seconds: float) -> bool:
    """Wait until standard error can be written to, or nobody can read it any more."""
    from select import POLLOUT, poll

    asking = poll()
    asking.register(sys.stderr, POLLOUT)
    return bool(asking.poll(seconds * 1000))


def _print(text: str) -> None:
    if sys.stdout is None:
        raise OutputError("it is closed")
    try:
        print(text)
        sys.stdout.flush()
    except OSError as error:
        raise _given_up(error) from None


def report_lost(error: OutputError) -> None:
    """Warn that a result could not be written, unless the program that read it has ended."""
    if not isinstance(error, ReaderGoneError):
        warn(f"the result could not be written to standard output: {error}")


def _given_up(error: OSError) -> OutputError:
    # The interpreter writes the rest of the buffer when it ends, and must not fail once more.
    from contextlib import suppress

    with suppress(OSError, ValueError):
        descriptor = sys.stdout.fileno()
        null = os.open(os.devnull, os.O_WRONLY)
        os.dup2(null, descriptor)
        os.close(null)
    kind = ReaderGoneError if isinstance(error, BrokenPipeError) else OutputError
    return kind(error.strerror or str(error))


def _escaped(error: UnicodeError) -> tuple[str, int]:
    """Spell out characters that the terminal's encoding lacks as \\uXXXX, as ``clean`` does."""
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

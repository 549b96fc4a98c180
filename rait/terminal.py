"""What all commands share of the terminal: exit statuses, and a word to the user."""

from __future__ import annotations

import codecs
import os
import sys
from contextlib import suppress

DONE, FAILED, WRONG, PARTIAL, STOPPED = 0, 1, 2, 3, 4
"""Done; failed; wrong usage or configuration; partly done; too much would have been removed."""

CHANGES = 2
"""What ``plan --detailed-exitcode`` gives where there is something to do."""

_ESCAPES = "rait.escapes"
_BEYOND_16_BITS = 0x10000


class OutputError(Exception):
    """A result could not be written to standard output; the text says why."""


class ReaderGoneError(OutputError):
    """Whoever read our output wants no more of it, so there is nobody to tell."""


def prepare() -> None:
    """Make standard output and error fit for whatever a name may hold, and for being closed."""
    if sys.stderr is None:  # closed by who started us: else what we say there goes to stdout
        sys.stderr = open(os.devnull, "w")  # noqa: SIM115, PTH123 - until the process ends
    codecs.register_error(_ESCAPES, _escaped)
    reconfigure = getattr(sys.stdout, "reconfigure", None)
    if reconfigure is not None:
        reconfigure(errors=_ESCAPES)


def complain(text: str) -> None:
    """Tell the user something that is no result; if nobody can be told, it is left at that."""
    with suppress(OSError):
        print(f"rait: {text}", file=sys.stderr)


def tell(text: str) -> None:
    """Print a result, at once. Raises OutputError where it cannot be written."""
    if sys.stdout is None:
        raise OutputError("it is closed")
    try:
        print(text)
        sys.stdout.flush()
    except OSError as error:
        raise _given_up(error) from None


def report_lost(error: OutputError) -> None:
    """Tell the user that a result could not be written, unless it was not wanted any more."""
    if not isinstance(error, ReaderGoneError):
        complain(f"the result could not be written to standard output: {error}")


def _given_up(error: OSError) -> OutputError:
    # The interpreter writes what is left at its end, and must not fail at that once more.
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


def _escape(point: int) -> str:
    if point < _BEYOND_16_BITS:
        return f"\\u{point:04x}"
    rest = point - _BEYOND_16_BITS
    return f"\\u{0xD800 + (rest >> 10):04x}\\u{0xDC00 + (rest & 0x3FF):04x}"

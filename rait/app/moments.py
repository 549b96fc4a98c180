"""Points in time and spans of it, as people type them."""

from __future__ import annotations

from datetime import datetime

from rait.domain.config.keytext import shown
from rait.domain.config.schema import SECOND, parse_span
from rait.domain.errors import ConfigError


def span(text: str) -> int:
    """A span such as ``90d`` or ``12h``, in nanoseconds. Raises ConfigError (wrong usage)."""
    found = parse_span(text)
    if found is None:
        raise ConfigError(f"{shown(text)} is no span of time; write it as 30m, 12h, 90d or 2w")
    return found


def moment(text: str, now: int) -> int:
    """A point in time, in unix nanoseconds: a span before ``now``, or a date and time.

    A date and time are ISO 8601, local where no zone is given. Raises ConfigError.
    """
    ago = parse_span(text)
    if ago is not None:
        return now - ago
    try:
        when = datetime.fromisoformat(text)
        return int(when.timestamp()) * SECOND + when.microsecond * 1000
    except (ValueError, OverflowError, OSError):
        raise ConfigError(
            f"{shown(text)} is no time; write 2h (ago), 2026-01-31, or 2026-01-31T17:05:00+01:00"
        ) from None


def written(nanoseconds: int) -> str:
    """The text of a point in time, local, to the second, with its offset from UTC.

    A time outside of the calendar gives the calendar's first or last moment.
    """
    try:
        when = datetime.fromtimestamp(nanoseconds // SECOND).astimezone()
    except (ValueError, OverflowError, OSError):
        when = datetime.min if nanoseconds < 0 else datetime.max
    return when.isoformat(sep=" ", timespec="seconds")

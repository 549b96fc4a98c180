"""Spans of time, as people write them: ``30m``, ``12h``, ``90d``, ``2w``."""

from __future__ import annotations

import re

SECOND = 1_000_000_000
"""In nanoseconds, as all spans and times of the journal are."""

DAY = 86400 * SECOND

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
_SPAN = re.compile(r"(\d{1,9})([smhdw])", re.ASCII)


def parse_span(text: str) -> int | None:
    """A span in nanoseconds, or None for text that is not a span."""
    match = _SPAN.fullmatch(text)
    return None if match is None else int(match[1]) * _UNITS[match[2]] * SECOND

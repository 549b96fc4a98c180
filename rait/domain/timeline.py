"""When runs began, by a clock that may have been wrong.

A machine without a battery begins in 1970 at each start, until somebody tells it the time; one with
a bad battery may begin in 2099. The journal's order is certain, so a time that does not fit into it
is worth less than its place: such a run was after the one before it and before the one after it.
"""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct

SLACK = 60 * 10**9
"""Nanoseconds from a run's start until it is written down, unless one of the two is not true."""

FLOOR = 1_735_689_600 * 10**9
"""The first of January 2025: rait wrote no journal before, so a clock with less is not set."""

EVER = 2**63 - 1
LONG_AGO = -EVER
"""Later and earlier than all times."""


class Start(Struct, frozen=True):
    """The first entry of a run: when it was written, which never goes back, and the clock then."""

    at: int
    clock: int


class Span(Struct, frozen=True):
    """When a run began: not before ``earliest``, not after ``latest`` (unix, in nanoseconds)."""

    earliest: int
    latest: int

    @property
    def is_certain(self) -> bool:
        """Whether the clock fits into the order of the runs."""
        return self.earliest == self.latest


def spans(starts: Sequence[Start], now: int) -> tuple[Span, ...]:
    """When each of the runs began, which are in their order; ``now`` is the caller's clock."""
    now = _credible(starts, now)
    floor = FLOOR if any(start.clock >= FLOOR for start in starts) else LONG_AGO
    earliest: list[int] = []
    certain: list[bool] = []
    last = LONG_AGO
    for start in starts:
        # What comes after a time in the future is written down with that time, and a run that was
        # taken for a repetition is written down late.
        is_late = start.at > now or start.at - start.clock > SLACK
        time = start.clock if is_late else start.at
        fits = max(last, floor) <= time <= now
        last = max(last, time) if time <= now else last
        earliest.append(last)
        certain.append(fits)
    found: list[Span] = []
    latest = EVER
    for time, fits in zip(reversed(earliest), reversed(certain), strict=True):
        latest = time if fits else latest
        found.append(Span(time, latest))
    return tuple(reversed(found))


def _credible(starts: Sequence[Start], now: int) -> int:
    """``now``, unless most of the runs are later: then ``now`` itself is wrong."""
    later = sum(start.clock > now for start in starts)
    return EVER if later * 2 > len(starts) else now

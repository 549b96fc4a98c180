"""When the runs of a journal began, whatever the clock showed.

Clocks may be wrong. A machine without a battery begins in 1970 at each start, until somebody sets
its clock; one with a bad battery may begin in 2099. The order of the runs in the journal is
certain. So a run whose time does not fit into that order counts as between its neighbours.
"""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import Struct

from rait.domain.history import EVER, LONG_AGO
from rait.domain.records import FIRST_JOURNAL

SLACK = 60 * 10**9
"""At most so many nanoseconds after its start a run is written down; else one time is wrong."""


class Start(Struct, frozen=True):
    """The first entry of a run, in unix nanoseconds.

    ``at`` is the time that the entry bears, which is never before that of the entry before it, and
    ``clock`` what the machine's clock showed.
    """

    at: int
    clock: int


class Span(Struct, frozen=True):
    """When a run began: not before ``earliest``, not after ``latest`` (unix, in nanoseconds)."""

    earliest: int
    latest: int


def spans(starts: Sequence[Start], now: int) -> tuple[Span, ...]:
    """When each of the runs, in order, began; ``now`` is the caller's clock (unix nanoseconds).

    The way forwards finds ``earliest``: no run began before the runs before it. The way back finds
    ``latest``: no run began after the next run whose clock fits into the order. A run whose own
    clock fits began when the clock said, so both are that time.
    """
    now = _credible(starts, now)
    floor = FIRST_JOURNAL if any(start.clock >= FIRST_JOURNAL for start in starts) else LONG_AGO
    earliest: list[int] = []
    certain: list[bool] = []
    last = LONG_AGO
    for start in starts:
        # An entry after one from the future bears the time of that one, and a run that seemed to
        # repeat the one before it is written down late: then the clock is nearer to the truth.
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

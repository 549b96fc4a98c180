"""What is done in the network again and again beside syncs, and when it is due.

It is due at its interval, with a random part of a tenth, so that the nodes of a fleet do not all
come at once. After a failure it is due soon, and then within spans that grow, at a random time in
them: else the nodes that failed together would all come together. Somebody may ask for it before
its time. Times are in seconds of a monotonic clock.
"""

from __future__ import annotations

from math import inf
from typing import Literal

from msgspec import Struct, structs

ErrandName = Literal["poll", "names", "publish"]
"""To ask for the peers list, to look all names up, and to publish this node's entry."""

ASKED_GAP = 1.0
"""So long after it ended last it may begin before its time."""

FIRST_RETRY, LONGEST_RETRY = 5.0, 5
"""After a failure: seconds to the next time at first, or the interval if that is less; and at last,
so many intervals."""


class Errand(Struct, frozen=True):
    """What is done again and again.

    ``ended`` is when it ended last, ``failures`` how often in a row it failed since, and ``chance``
    a random number from 0 to 1. ``asked_for`` is when it is to begin before its time, and
    ``again`` says that it was asked for while ``busy``. ``unproven``: it does well after
    that, but perhaps not for long, which the next time shows.
    """

    ended: float
    asked_for: float | None = None
    busy: bool = False
    again: bool = False
    failures: int = 0
    unproven: bool = False
    chance: float = 0.5

    def due(self, interval: float | None, retry: float | None = None) -> float:
        """When it is to begin; inf while it is busy, or where there is nothing to fetch.

        With ``retry``, it is tried again that long after each failure.
        """
        if self.busy or interval is None:
            return inf
        span, more = interval, 0.0
        if self.failures:
            span = retry or min(FIRST_RETRY, interval)
            if not retry and not self.unproven:
                more = min(grown(span, self.failures), LONGEST_RETRY * interval) - span
        at = self.ended + span * (0.9 + 0.2 * self.chance) + more * self.chance
        return at if self.asked_for is None else min(at, self.asked_for)

    def asked(self, now: float, gap: float = ASKED_GAP) -> Errand:
        """To begin now, or ``gap`` seconds after it ended last."""
        if self.busy:
            return structs.replace(self, again=True)
        at = max(now, self.ended + gap)
        soonest = at if self.asked_for is None else min(at, self.asked_for)
        return structs.replace(self, asked_for=soonest)

    def begun(self) -> Errand:
        return structs.replace(self, busy=True, asked_for=None)

    @property
    def is_asked_for(self) -> bool:
        """Whether somebody asked for one that has not begun yet."""
        return self.again or self.asked_for is not None

    def over(self, now: float, chance: float, *, failed: bool | None) -> Errand:
        """It has ended; None for ``failed`` if the next time shows it."""
        return Errand(
            ended=now,
            asked_for=now + ASKED_GAP if self.again else self.asked_for,
            failures=self.failures if failed is None else self.failures + 1 if failed else 0,
            unproven=failed is None and self.failures > 0,
            chance=min(max(chance, 0.0), 1.0),
        )


def grown(first: float, count: int) -> float:
    """The span after so many failures in a row, which doubles with each."""
    return first * 2.0 ** min(count - 1, 32)

"""Who else changes our links again and again, and how long rait pauses before it sets them right.

Times are in seconds of a monotonic clock.
"""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import Struct

from rait.domain.errands import grown
from rait.domain.errors import few

FIRST_PAUSE, LONGEST_PAUSE = 1.0, 60.0
MEMORY = 300.0
FREE = 2
"""So many times in a row a link is set right at once."""


class Fight(Struct, frozen=True):
    """Somebody else changes a link of ours: how often in a row, and until when it has to wait."""

    count: int
    last: float
    until: float


Fights = Mapping[str, Fight]
"""The fights by the name of the link."""


def fought(fights: Fights, disturbed: frozenset[str], now: float) -> tuple[Fights, tuple[str, ...]]:
    """Remember whose links others had changed; gives lines to tell of new fights."""
    after = {name: fight for name, fight in fights.items() if now - fight.last < MEMORY}
    new = []
    for name in sorted(disturbed):
        count = after[name].count + 1 if name in after else 1
        beyond = count - FREE
        pause = min(grown(FIRST_PAUSE, beyond + 1), LONGEST_PAUSE) if beyond >= 0 else 0.0
        after[name] = Fight(count, now, now + pause)
        if beyond == 1:
            new.append(name)
    text = (
        f"somebody else changes or removes {few(new)} again and again; rait sets it right each "
        f"time, and pauses longer and longer before it does, up to {LONGEST_PAUSE:g} s"
    )
    return after, (text,) if new else ()

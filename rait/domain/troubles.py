"""Which troubles a process that runs for long tells, and when it tells them again.

1. A trouble is told when it comes, and again at growing intervals as long as it lasts.
2. When nothing is wrong with its subject any more, that is told once, if the trouble was told.
3. A trouble that comes and goes is not told more often than one that lasts: the intervals go on
   growing until it has been away for as long as the last of them.
4. One that comes back is told at once, where somebody has just changed something, and waits to see
   what comes of it.
"""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import Struct, structs

FIRST_SECONDS = 60.0
LONGEST_SECONDS = 86400.0

MOST_REMEMBERED = 1000
"""So many troubles of one subject are remembered while they are away."""

Lines = tuple[str, ...]


class Trouble(Struct, frozen=True):
    """One trouble: whether it ``lasts``, and whether it was ``told`` since all was well.

    It may be told again at ``next_at``, ``interval`` seconds after it was told last.
    """

    next_at: float
    interval: float
    lasts: bool = True
    told: bool = True


Troubles = Mapping[str, Mapping[str, Trouble]]
"""The troubles by their subject and by what is told."""


def hear(
    troubles: Troubles,
    subject: str,
    lines: Lines,
    now: float,
    *,
    over: Lines = (),
    at_once: bool = False,
    as_one: bool = False,
) -> tuple[Troubles, Lines]:
    """Take all that is wrong with a subject, nothing if all is well; gives what to tell now.

    ``over`` is what to tell when all is well again; ``at_once``: somebody has just changed
    something. Each line is a trouble of its own, unless they are ``as_one``, however they differ.
    """
    known, tell = troubles.get(subject, {}), []
    after: dict[str, Trouble] = {}
    for line in lines:
        key = "" if as_one else line
        after[key], is_told = _heard(known.get(key), now, at_once=at_once)
        tell += [line] if is_told else []
    all_well = not lines and any(trouble.told for trouble in known.values())
    away = {key: trouble for key, trouble in known.items() if key not in after}
    if len(away) <= MOST_REMEMBERED:
        for key, trouble in away.items():
            told = trouble.told and not all_well
            if told or now < trouble.next_at + trouble.interval:
                after[key] = structs.replace(trouble, lasts=False, told=told)
    return {**troubles, subject: after}, over if all_well else tuple(tell)


def _heard(known: Trouble | None, now: float, *, at_once: bool) -> tuple[Trouble, bool]:
    """A trouble that is there, and whether to tell it."""
    if known is None:
        return Trouble(now + FIRST_SECONDS, FIRST_SECONDS), True
    if now >= known.next_at:
        interval = min(2 * known.interval, LONGEST_SECONDS)
        return Trouble(now + interval, interval), True
    is_told = at_once and not known.lasts
    return structs.replace(known, lasts=True, told=known.told or is_told), is_told

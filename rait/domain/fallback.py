"""Whether the last good peers list may stand in for one that cannot be had, and what is told of it.

A list that stands in is old: it shows who was there, and not who has left since. What becomes of
the links that it would cost is in doubt.py.
"""

from __future__ import annotations

from msgspec import Struct

from rait.domain.config.schema import ALWAYS, SECOND, Fallback
from rait.domain.errors import counted
from rait.domain.records import FIRST_JOURNAL

_UNITS = (("day", 86400), ("hour", 3600), ("minute", 60), ("second", 1))


class OldList(Struct, frozen=True):
    """A peers list that stands in for one that cannot be had, and ``why`` that cannot be.

    At ``confirmed``, a moment in words, it was the newest. ``age`` is in nanoseconds, None if it is
    unknown.
    """

    age: int | None
    confirmed: str
    why: str

    @property
    def problem(self) -> str:
        """What the journal has of it: the same for each run that is like this one."""
        return f"the list of {self.confirmed} stood in: {self.why}"

    @property
    def told(self) -> str:
        """A line for the user."""
        return self._line(f"{_of_age(self.age)} (of {self.confirmed})")

    @property
    def lasting(self) -> str:
        """The same, in words that stay as long as the list does."""
        return self._line(f"of {self.confirmed}")

    def _line(self, old: str) -> str:
        return (
            f"the peers list is {old}, as there is no newer one: {self.why}; nothing is removed "
            "because of an old list"
        )

    @property
    def refusal(self) -> str:
        """Why a list of this age may not stand in."""
        what = f"the one that was kept is {_of_age(self.age)} (of {self.confirmed})"
        if self.age is None:
            return f'{what}, as a clock was not set: only peers_fallback = "always" allows that'
        return f"{what}, more than peers_fallback in rait.conf allows"


def age_of(confirmed_at: int, now: int) -> int | None:
    """The age of a list that was the newest at this time; None where a clock was not set."""
    return now - confirmed_at if FIRST_JOURNAL <= confirmed_at <= now else None


def may_stand_in(age: int | None, allowed: Fallback) -> bool:
    """Whether a list of this age may stand in, as ``peers_fallback`` allows."""
    return allowed == ALWAYS or (age is not None and age <= allowed)


def _of_age(age: int | None) -> str:
    return "of unknown age" if age is None else f"{_spelt(age)} old"


def _spelt(span: int) -> str:
    """A span of nanoseconds in its largest unit."""
    seconds = span // SECOND
    unit, size = next((pair for pair in _UNITS if seconds >= pair[1]), _UNITS[-1])
    return counted(seconds // size, unit)

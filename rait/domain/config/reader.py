"""Reads a block of configuration key by key, and remembers what was wrong with it.

Keys match without regard to case and underscores. Each key that nobody asked for is unknown, and
``finish`` says so, with the known one that is like it if there is any.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypeVar

from rait.domain.config.keytext import is_key, kind_of, shown
from rait.domain.errors import Path, Problem, Severity

Choice = TypeVar("Choice", bound=str)


def key_id(key: str) -> str:
    """What two spellings of one key have in common."""
    return key.replace("_", "").lower()


UNKNOWN = "unknown key"
"""How the message about a key that nobody asked for begins."""

_MOST_HINTS = 100
_ALIKE = 0.6
"""From this ratio of difflib on, one key may be meant by another; below, no hint is better."""


class Reader:
    """One block: ``document`` was found at ``path``; findings are appended to ``problems``.

    Each getter gives its default when the key is missing or wrong; a wrong one is a problem.
    """

    def __init__(
        self, document: Mapping[str, object], problems: list[Problem], path: Path = ()
    ) -> None:
        self.path = path
        self._problems = problems
        self._values: dict[str, tuple[str, object]] = {}
        self._known: list[str] = []
        for key, value in document.items():
            first = self._values.setdefault(key_id(str(key)), (str(key), value))
            if first[0] != str(key):
                message = f"is given twice, also as {shown(first[0])}"
                problems.append(Problem(message, "error", (*path, str(key))))

    def report(self, message: str, key: str | None = None, severity: Severity = "error") -> None:
        """Add a problem with ``key``, or with the block as a whole."""
        path = self.path if key is None else (*self.path, self.spelling(key))
        self._problems.append(Problem(message, severity, path))

    def spelling(self, key: str) -> str:
        """How the document spells a key."""
        return self._values.get(key_id(key), (key, None))[0]

    def has(self, *keys: str) -> bool:
        """Whether any of these keys is there."""
        return any(key_id(key) in self._values for key in keys)

    def value(self, key: str) -> object:
        """The raw value, or None; from now on the key is known."""
        self._known.append(key)
        return self._values.get(key_id(key), ("", None))[1]

    def alias(self, key: str, *others: str) -> str:
        """The one of several names for a key that the document uses, ``key`` if none.

        Two of them with different values are a problem.
        """
        self._known.extend((key, *others))
        used = [name for name in (key, *others) if self.has(name)]
        for name in used[1:]:
            if self._values[key_id(name)][1] != self._values[key_id(used[0])][1]:
                self.report(f"contradicts {self.spelling(used[0])}, which means the same", name)
        return used[0] if used else key

    def require(self, key: str, meaning: str) -> None:
        """Report a key that must be there and is not."""
        if not self.has(key):
            self.report(f"{key} is missing: {meaning}")

    def text(
        self, key: str, default: str | None = None, *, key_allowed: bool = False
    ) -> str | None:
        """Text without control characters but line feeds and tabs; it may be empty.

        Names and paths are shown in messages, so a WireGuard key in such a place, which may be the
        private one, is refused unless ``key_allowed``.
        """
        value = self.value(key)
        if not self.has(key):
            return default
        if not isinstance(value, str):
            self.report(f"must be text in quotes, not {kind_of(value)}", key)
            return default
        if any(not (c.isprintable() or c in "\n\t") for c in value):
            self.report("holds a control character", key)
            return default
        if not key_allowed and is_key(value):
            self.report("is a key itself; only private_key may be one", key)
            return default
        return value

    def filled(
        self, key: str, default: str | None = None, *, key_allowed: bool = False
    ) -> str | None:
        """One line of text that is not empty; ``key_allowed`` is that of text."""
        value = self.text(key, default, key_allowed=key_allowed)
        if value is not None and self.has(key) and (not value.strip() or "\n" in value):
            self.report("must be one line of text and not be empty", key)
            return default
        return value

    def integer(
        self, key: str, low: int, high: int, default: int | None = None, why: str = ""
    ) -> int | None:
        """A whole number from ``low`` to ``high``; ``why`` is added when it is not."""
        value = self.value(key)
        if not self.has(key):
            return default
        if isinstance(value, bool) or not isinstance(value, int):
            quoted = isinstance(value, str) and value.strip().isdecimal()
            hint = " (leave out the quotes)" if quoted else ""
            self.report(f"must be a whole number, not {kind_of(value)}{hint}", key)
            return default
        if not low <= value <= high:
            reason = f": {why}" if why else ""
            self.report(f"{shown(value)} is not from {low} to {high}{reason}", key)
            return default
        return value

    def boolean(self, key: str, default: bool) -> bool:
        """True or false, without quotes."""
        value = self.value(key)
        if not self.has(key):
            return default
        if not isinstance(value, bool):
            self.report(f"must be true or false, without quotes, not {kind_of(value)}", key)
            return default
        return value

    def choice(self, key: str, choices: Sequence[Choice], default: Choice | None) -> Choice | None:
        """One of a few words."""
        value = self.value(key)
        if not self.has(key):
            return default
        for choice in choices:
            if value == choice:
                return choice
        given = shown(value) if isinstance(value, str) else kind_of(value)
        self.report(f"{given} is not one of {', '.join(choices)}", key)
        return default

    def blocks(self, key: str) -> list[Reader]:
        """The blocks of this name: HCL gives a list of them, TOML a list or a single one."""
        value = self.value(key)
        if not self.has(key):
            return []
        path = (*self.path, self.spelling(key))
        if isinstance(value, Mapping):
            return [Reader(value, self._problems, path)]
        if not isinstance(value, list | tuple):
            self.report(f"must be a block, not {kind_of(value)}", key)
            return []
        found = []
        for index, item in enumerate(value):
            if isinstance(item, Mapping):
                found.append(Reader(item, self._problems, (*path, index)))
            else:
                message = f"must be a block, not {kind_of(item)}"
                self._problems.append(Problem(message, "error", (*path, index)))
        return found

    def block(self, key: str) -> Reader | None:
        """The only block of this name, or None; a second one is a problem."""
        found = self.blocks(key)
        for extra in found[1:]:
            extra.report(f"there is more than one {key} block")
        return found[0] if found else None

    def finish(self) -> None:
        """Report all keys that nobody asked for."""
        known = {key_id(key): key for key in self._known}
        for key, (spelt, _) in self._values.items():
            if key not in known:
                self._unknown(spelt, list(known.values()))

    def _unknown(self, spelt: str, known: list[str]) -> None:
        # The search is slow, and where so much is wrong nobody needs it.
        hint = _hint(spelt, known) if len(self._problems) < _MOST_HINTS else ""
        self._problems.append(Problem(f"{UNKNOWN}{hint}", "error", (*self.path, spelt)))


def _hint(spelt: str, known: list[str]) -> str:
    """The known key that was meant, if one is near."""
    # Only on the way to an error, so its import is not paid for otherwise.
    from difflib import get_close_matches

    by_id = {key_id(name): name for name in known}
    near = get_close_matches(key_id(spelt)[:64], by_id, n=1, cutoff=_ALIKE)
    return f"; did you mean {by_id[near[0]]}?" if near else ""

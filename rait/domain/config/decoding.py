"""Decodes a block of a document to the struct that describes it, and reports every mistake.

1. Fold: keys match without regard to case and underscores, and some have a second name.
2. Convert: msgspec checks the values by the types and limits of the struct's fields (limits.py).
   It stops at the first mistake, so each field is tried by itself.
3. Report: a message uses the words that the field's limits have for what its value must be. No
   message shows a key, or more than the beginning of a value.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import cache
from typing import Any, Generic, TypeVar, get_args

from msgspec import Struct, ValidationError, convert, structs

from rait.domain.config.keytext import is_key, kind_of, shown
from rait.domain.config.limits import LIMITS
from rait.domain.errors import Path, Problem, Severity

Kind = TypeVar("Kind", bound=Struct)
Other = TypeVar("Other", bound=Struct)
Value = TypeVar("Value")

ALIASES = {"transport": "transports", "policy": "policies", "random_port": "dynamic_port"}
"""Other names of keys, each with the field that it means."""

UNKNOWN = "unknown key"
"""The beginning of each message about a key that rait does not know."""

_WRONG = (ValidationError, UnicodeError)
"""msgspec raises UnicodeError for text that is no UTF-8, which JSON may hold."""

_MAY_HAVE_LINES = ("extra_cmd",)
_MAY_BE_KEYS = ("name", "public_key")
"""Keys whose value may be a WireGuard key: the name of a node may be its public key."""

_NO_KEY = "path"
"""The field of a struct that leads to its block is no key of the block."""

MOST_HINTS = 100
_ALIKE = 0.6
"""The least likeness (a ratio of difflib) of an unknown key and the known one in its hint."""


def key_id(key: str) -> str:
    """What two spellings of one key have in common."""
    return key.replace("_", "").lower()


def means(spelt: str, field: str) -> bool:
    """Whether a key of a document, however it is spelt, is the field of this name."""
    spelt = key_id(spelt)
    return spelt == key_id(field) or any(
        spelt == key_id(other) for other, name in ALIASES.items() if name == field
    )


class Block(Generic[Kind]):
    """One block of a document, to become a struct of this ``kind``.

    ``values`` are the values of the document by field, without those that were refused, and
    ``path`` leads to the block. Call ``check_values`` and ``read`` before ``decoded``.
    """

    def __init__(
        self,
        kind: type[Kind],
        document: Mapping[str, object],
        problems: list[Problem],
        path: Path = (),
    ) -> None:
        self.values: dict[str, object] = {}
        self.path = path
        self._kind = kind
        self._problems = problems
        self._spelt: dict[str, str] = {}
        self._given: dict[str, object] = {}
        known = _spellings(kind)
        for key, value in document.items():
            found = known.get(key_id(str(key)))
            if found is None:
                self._report_unknown(str(key))
            else:
                self._take(ALIASES.get(found, found), str(key), value)

    def _take(self, name: str, spelt: str, value: object) -> None:
        first = self._spelt.setdefault(name, spelt)
        if first == spelt:
            self._given[name] = value
            self.values[name] = value
        elif key_id(first) == key_id(spelt):
            self._report_at(spelt, f"is given twice, also as {shown(first)}")
        elif value != self._given[name]:
            self._report_at(spelt, f"contradicts {shown(first)}, which means the same")

    def has(self, name: str) -> bool:
        """Whether the document has the key, even with a wrong value."""
        return name in self._spelt

    def report(self, message: str, name: str | None = None, severity: Severity = "error") -> None:
        """Add a problem with a key, or with the block as a whole."""
        if name is None:
            self._problems.append(Problem(message, severity, self.path))
        else:
            self._report_at(self._spelt.get(name, name), message, severity)

    def refuse(self, message: str, name: str) -> None:
        """Report the value of a key, and leave it out of ``values``."""
        self.report(message, name)
        del self.values[name]

    def require(self, name: str, meaning: str) -> None:
        """Report the key if the block does not have it; ``meaning`` says what it is for."""
        if not self.has(name):
            self.report(f"{name} is missing: {meaning}")

    def check_values(self) -> None:
        """Refuse null, and texts that can be no name, path or address.

        Messages show names and paths, so they must not be WireGuard keys: one may be private.
        """
        for name, value in list(self.values.items()):
            if value is None:
                self.refuse(_refusal(_fields(self._kind)[name][0], None), name)
                continue
            texts = value if isinstance(value, list | tuple) else (value,)
            problems = (_text_problem(name, text) for text in texts if isinstance(text, str))
            problem = next(filter(None, problems), None)
            if problem is not None:
                self.refuse(problem, name)

    def read(self, name: str, kind: type[Value], meaning: Callable[[Value], object]) -> None:
        """Replace a value of this type by its meaning, which ``decoded`` then checks.

        ``meaning`` raises ValueError, with the message to report, for a value that has none.
        """
        value = self.values.get(name)
        if name in self.values and isinstance(value, kind):
            try:
                self.values[name] = meaning(value)
            except ValueError as error:
                self.refuse(str(error), name)

    def blocks(self, name: str, kind: type[Other]) -> list[Block[Other]]:
        """Take out the blocks of this name; HCL gives a list of them, TOML a list or one block."""
        value = self.values.pop(name, [])
        path = (*self.path, self._spelt.get(name, name))
        if isinstance(value, Mapping):
            return [Block(kind, value, self._problems, path)]
        if not isinstance(value, list | tuple):
            self.report(f"must be a block, not {kind_of(value)}", name)
            return []
        found = []
        for index, item in enumerate(value):
            if isinstance(item, Mapping):
                found.append(Block(kind, item, self._problems, (*path, index)))
            else:
                message = f"must be a block, not {kind_of(item)}"
                self._problems.append(Problem(message, "error", (*path, index)))
        return found

    def block(self, name: str, kind: type[Other]) -> Block[Other]:
        """Take out the block of this name, an empty one for none; a second one is a problem."""
        found = self.blocks(name, kind)
        for extra in found[1:]:
            extra.report(f"there is more than one {name} block")
        return found[0] if found else Block(kind, {}, self._problems, (*self.path, name))

    def decoded(self) -> Kind | None:
        """The struct, without values that are wrong; None if a required field is among them."""
        for name, message in mistakes(self._kind, self.values).items():
            if name in self.values:
                self.refuse(message, name)
            elif not self.has(name):
                self.report(message)
        try:
            return convert(self.values, self._kind)
        except ValidationError:
            return None

    def _report_at(self, spelt: str, message: str, severity: Severity = "error") -> None:
        self._problems.append(Problem(message, severity, (*self.path, spelt)))

    def _report_unknown(self, spelt: str) -> None:
        # The search is slow, and nobody reads more than the first hints.
        is_searched = len(self._problems) < MOST_HINTS
        near = nearest(spelt, _spellings(self._kind)) if is_searched else None
        self._report_at(spelt, f"{UNKNOWN}; did you mean {near}?" if near else UNKNOWN)


def mistakes(kind: type[Struct], values: Mapping[str, object]) -> dict[str, str]:
    """The fields that are missing or wrong, each with a message that says what it must be."""
    found = {}
    for name, (limited, required) in _fields(kind).items():
        if name not in values:
            if required:
                found[name] = f"{name} is missing: {_words(limited)}"
        elif not _takes(limited, values[name]):
            found[name] = _refusal(limited, values[name])
    return found


@cache
def _fields(kind: type[Struct]) -> Mapping[str, tuple[Any, bool]]:
    """The type of each field, with its limits, and whether the field is required."""
    limits = LIMITS.get(kind, {})
    return {f.name: (limits.get(f.name, f.type), f.required) for f in structs.fields(kind)}


def _takes(kind: Any, value: object, *, strict: bool = True) -> bool:
    try:
        convert(value, kind, strict=strict)
    except _WRONG:
        return False
    return True


def _refusal(kind: Any, value: object) -> str:
    quoted = isinstance(value, str) and _takes(kind, value, strict=False)
    hint = " (leave out the quotes)" if quoted else ""
    return f"must be {_words(kind)}, not {shown(value)}{hint}"


@cache
def _words(kind: Any) -> str:
    """The description of a type, or of the type that it is an optional or a list of."""
    own = [meta.description for meta in getattr(kind, "__metadata__", ()) if meta.description]
    return own[-1] if own else next(filter(None, map(_words, get_args(kind))), "")


@cache
def _spellings(kind: type[Struct]) -> Mapping[str, str]:
    """The keys that a block of this kind may have, by what all their spellings have in common."""
    names = [name for name in kind.__struct_fields__ if name != _NO_KEY]
    return {key_id(key): key for key in (*names, *(a for a in ALIASES if ALIASES[a] in names))}


def _text_problem(name: str, text: str) -> str | None:
    if any(not (c.isprintable() or c in "\n\t") for c in text):
        return "holds a control character"
    if name not in _MAY_HAVE_LINES and ("\n" in text or text.isspace()):
        return "must be one line of text, and not be blank"
    if name not in _MAY_BE_KEYS and is_key(text):
        return "is a key itself; only private_key may be one"
    return None


def nearest(spelt: str, known: Mapping[str, str]) -> str | None:
    """The known key that an unknown one is most like; ``known`` are spellings by their key_id."""
    from difflib import get_close_matches

    near = get_close_matches(key_id(spelt)[:64], known, cutoff=_ALIKE)
    return known[near[0]] if near else None

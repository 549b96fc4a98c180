"""What a registry remarks of a peer, as text that policies and commands can use.

Others write the registry, and for people first: a remark that is no short line of text is left out
without a word, and so is one that holds a key, which may be a private one.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import lru_cache

from rait.domain.config.keytext import without_whole_keys

MOST_REMARKS = 64
MAX_KEY = 64
MAX_VALUE = 255
"""In characters, as many as a name may have."""

Remarks = tuple[tuple[str, str], ...]
"""Pairs of key and text, in the order of the keys."""


def remarks_of(value: object, known: Remarks = ()) -> Remarks:
    """The remarks in a block, besides those that are known; HCL gives a list of blocks."""
    found = dict(known)
    for block in value if isinstance(value, list | tuple) else (value,):
        for key, content in block.items() if isinstance(block, (dict, Mapping)) else ():
            if len(found) >= MOST_REMARKS:
                return tuple(sorted(found.items()))
            if key not in found and _is_key(key) and (text := remark_text(content)) is not None:
                found[key] = text
    return tuple(sorted(found.items()))


def remark_text(value: object) -> str | None:
    """The text of a remark, as HCL and TOML write it; None for a value that is no remark."""
    if isinstance(value, str):
        return value if _is_line(value, MAX_VALUE) else None
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, int):
        # Digits of a huge number take long to work out, and Python refuses them past 4300.
        return str(value) if value.bit_length() <= 64 else None
    return str(value) if isinstance(value, float) else None


@lru_cache
def _is_key(key: str) -> bool:
    return _is_line(key, MAX_KEY)


def _is_line(text: str, most: int) -> bool:
    return len(text) <= most and text.isprintable() and without_whole_keys(text) == text

"""Numbers and lists, as messages speak of them."""

from __future__ import annotations

from collections.abc import Sequence

FEW = 5
"""How many names of a list a message has; the list may have thousands."""


def counted(number: int, what: str, several: str = "") -> str:
    """``1 link``, ``2 links``; ``several`` is the plural where that is not made by an s."""
    return f"{number} {what if number == 1 else several or f'{what}s'}"


def few(names: Sequence[str], most: int = FEW) -> str:
    """The first of the names, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more

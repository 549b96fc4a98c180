"""Why `rait watch` syncs, as values and in words."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from msgspec import Struct

from rait.domain.errors import few

Kind = Literal["start", "file", "source", "names", "link", "look", "hangup"]
"""For metrics: one word of these few."""

MOST_CAUSES = 10
"""So many causes of one kind are kept to be told."""


class Cause(Struct, frozen=True):
    """Why there is to be a sync."""

    kind: Kind
    text: str


START = Cause("start", "start")
LOOK = Cause("look", "look")
HANGUP = Cause("hangup", "SIGHUP")
SOURCE = Cause("source", "peers list changed")
NAMES = Cause("names", "addresses of host names changed")
DELETED, CHANGED = "link deleted", "link changed"


def told(causes: Iterable[Cause]) -> str:
    """The causes in one line; a look is told only if there is no other.

    The kernel takes a link down before it deletes it: then only the latter is told.
    """
    texts: dict[str, list[str]] = {}
    for cause in causes:
        what, _, link = cause.text.partition(": ")
        texts.setdefault(what, []).extend([link] if link else [])
    if CHANGED in texts:
        texts[CHANGED] = [link for link in texts[CHANGED] if link not in texts.get(DELETED, ())]
        if not texts[CHANGED]:
            del texts[CHANGED]
    if len(texts) > 1:
        texts.pop(LOOK.text, None)
    return "; ".join(f"{what}: {few(links)}" if links else what for what, links in texts.items())


def main_kind(causes: Iterable[Cause]) -> Kind:
    """The first kind of the causes; a look only if there is no other."""
    return next((cause.kind for cause in causes if cause.kind != "look"), "look")


def touched(name: str, *, deleted: bool) -> Cause:
    """Somebody has done something to a link."""
    return Cause("link", f"{DELETED if deleted else CHANGED}: {name}")


def merged(some: tuple[Cause, ...], more: Iterable[Cause]) -> tuple[Cause, ...]:
    """Some causes and more, each once, and of one kind no more than MOST_CAUSES."""
    for cause in more:
        if cause not in some and sum(c.kind == cause.kind for c in some) < MOST_CAUSES:
            some = (*some, cause)
    return some

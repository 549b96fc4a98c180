"""Whether a sync would take the node off the mesh."""

from __future__ import annotations

from msgspec import Struct

from rait.domain.topology import Topology

MIN_LINKS = 4
"""Fewer links than this may all go: a small mesh changes by halves in ordinary use."""


class Removal(Struct, frozen=True):
    """Links that a sync would remove, of how many, and the limit that this is over."""

    links: tuple[str, ...]
    of: int
    limit: int


def excessive_removal(
    before: Topology, after: Topology, max_removals: int | None = None
) -> Removal | None:
    """The removal that should not happen unasked, or None.

    Without ``max_removals`` the limit is half of the live links, if these are at least MIN_LINKS:
    a peers list that is empty or cut short looks just like many peers that left. A link that is
    remade is not removed.
    """
    gone = tuple(sorted(before.links.keys() - after.links.keys()))
    if max_removals is not None:
        limit = max_removals
    elif len(before.links) >= MIN_LINKS:
        limit = len(before.links) // 2
    else:
        return None
    return Removal(gone, len(before.links), limit) if len(gone) > limit else None

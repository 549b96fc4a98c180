"""What a change from one topology to another would cost too much, for the tests of the guard."""

from __future__ import annotations

from rait.domain import guard
from rait.domain.change import Change
from rait.domain.guard import Losses, Reason, Removal
from rait.domain.history import LastKnown
from rait.domain.topology import EMPTY, Topology


def excessive_removal(
    before: Topology,
    after: Topology,
    max_removals: int | None = None,
    *,
    known: Topology = EMPTY,
    earlier: Losses | None = None,
    dead: frozenset[str] = frozenset(),
) -> Removal | None:
    """What the guard says of the change, where ``earlier`` is what recent runs cost."""
    change = change_between(before, after, known, dead)
    return guard.excessive_removal(change, max_removals, lambda: earlier or {})


def lost_sessions(before: Topology, after: Topology) -> dict[str, Reason]:
    return guard.lost_sessions(change_between(before, after))


def change_between(
    before: Topology,
    after: Topology,
    known: Topology = EMPTY,
    dead: frozenset[str] = frozenset(),
) -> Change:
    return Change(observed=before, desired=after, known=LastKnown(topology=known), dead=dead)

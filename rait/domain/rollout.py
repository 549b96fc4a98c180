"""Smaller changes of a fleet, one after the other, that interrupt nobody.

What is said here is tried out in the model of fleet.py, step by step, and never taken for granted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

from msgspec import structs

from rait.domain.fleet import fleet_change
from rait.domain.fleet_nodes import FleetNode, Member, matched

MOST_STEPS = 8
"""So many nodes that change are tried one by one: each try looks at the whole fleet."""


def split(old: Sequence[Member], new: Sequence[Member]) -> tuple[tuple[str, ...], ...] | None:
    """Smaller changes, one after the other, that lead to the new version and interrupt nobody.

    Each is described by lines for the user. None where neither of two ways is one: to change one
    node at a time, or to have the new entries beside the old ones for a while, which takes a second
    configuration on each of these nodes (docs/rotation.md). Both are tried out, in the model.
    """
    nodes = [node for node in matched(old, new) if node.changed]
    if len(nodes) > MOST_STEPS:
        return None
    if len(nodes) > 1 and (turns := _one_by_one(old, nodes)) is not None:
        return turns
    if not _can_stand_beside(old, new, nodes):
        return None
    return (
        tuple(f"add the new entry of {node.name} beside the old one" for node in nodes),
        ("when all nodes have synced, and routing has moved over, remove the old entries",),
    )


def _can_stand_beside(
    old: Sequence[Member], new: Sequence[Member], nodes: Sequence[FleetNode]
) -> bool:
    """Whether the new entries, beside the old ones, have tunnels to all before the old ones go."""
    moved = [n.members["new"] for n in nodes if n.members["old"] and n.members["new"]]
    second = [_nameless(member) for member in moved if member is not None]
    beside = [*old, *second]
    if len({member.peer.public_key for member in beside}) < len(beside):
        return False
    first, last = fleet_change(old, beside), fleet_change(beside, new)
    if any(change.interrupted for change in (first, last)):
        return False
    made = Counter(name for pair in first.pairs if pair.outcome == "made" for name in pair.nodes)
    return all(made[member.peer.public_key] >= len(old) - 1 for member in second)


def _one_by_one(
    old: Sequence[Member], nodes: Sequence[FleetNode]
) -> tuple[tuple[str, ...], ...] | None:
    """The nodes in an order in which each may be changed alone."""
    left, now, turns = list(nodes), list(old), []
    while left:
        for node in left:
            then = _with_new(now, node)
            if not _interrupts(now, then):
                break
        else:
            return None
        left.remove(node)
        now = then
        turns.append((f"change {node.name} alone, and wait until all nodes have synced",))
    return tuple(turns)


def _with_new(now: Iterable[Member], node: FleetNode) -> list[Member]:
    """The fleet with one node as the new version has it."""
    before, after = node.members["old"], node.members["new"]
    then = [after if member is before and after is not None else member for member in now]
    if after is None:
        return [member for member in then if member is not before]
    return then if before is not None else [*then, after]


def _nameless(member: Member) -> Member:
    """A member that is not taken for another one of its name."""
    return structs.replace(member, peer=structs.replace(member.peer, name=None))


def _interrupts(old: Sequence[Member], new: Sequence[Member]) -> bool:
    change = fleet_change(old, new)
    return bool(change.interrupted) and not change.order

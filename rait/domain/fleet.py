"""What a change of the registry does to a whole fleet: to each node, and to each pair of nodes.

Theory of operation.

1. A fleet is a registry, and the rait.conf of each node. Where a node's rait.conf is not known, its
   entry implies one (fleet_nodes.py, which plans a node in both versions).
2. Nodes sync at different times, so a pair of nodes is judged in each combination of versions
   (fleet_pairs.py).
3. Nodes that are alike in all that counts are planned and judged once for all of them (alike.py).
4. A node is *near* a change if one of its group changes (alike.py). Two nodes that are not near any
   change have the same links to each other in both versions. So only near nodes plan the whole
   registry; each other node plans the near entries alone. The work grows with the number of nodes
   times the number of changes.
5. If one combination breaks a pair, its two ends have to sync in a certain order. All such orders
   together make a graph, whose topological order is an order of nodes that breaks nothing.
6. Where there is no such order, smaller changes one after the other may do (``split``). They are
   tried out in this same model, and never taken for granted.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Container, Iterable, Iterator, Sequence
from functools import partial
from itertools import chain

from msgspec import Struct, structs

from rait.domain.alike import grouped, like, standing_for, weight, with_those_beside
from rait.domain.config.schema import Peer
from rait.domain.errors import SourceError
from rait.domain.events import Event
from rait.domain.fleet_nodes import (
    VERSIONS,
    FleetNode,
    Group,
    Member,
    Registries,
    matched,
    own_addresses,
    planned,
)
from rait.domain.fleet_pairs import PairChange, judged
from rait.domain.guard import most_losses
from rait.domain.plan import count_wanted
from rait.domain.topology import Family


class NodeChange(Struct, frozen=True):
    """What the next `rait up` of a node does; ``name`` is how messages call the node.

    ``planned`` gives the events, as many as ``count``. So many links lose their session, ``lost``,
    of all that there were, ``links``. ``stops``: these are more than the node's guard allows,
    unless its user gives --yes.
    """

    name: str
    public_key: str
    planned: Callable[[int | None], tuple[Event, ...]]
    count: int
    lost: int
    links: int
    stops: bool

    @property
    def events(self) -> tuple[Event, ...]:
        return self.planned(None)

    def some(self, number: int) -> tuple[Event, ...]:
        """So many of the events, which are found without all of a large fleet."""
        return self.planned(number)[:number]


class FleetChange(Struct, frozen=True):
    """What a change of a registry does: to nodes that have something to do, and to pairs.

    ``nodes`` counts all nodes, and ``kept`` the pairs whose tunnel is not touched at either end.
    ``order`` are groups of nodes that may sync one group after the other so that no pair is
    interrupted; None where there is no such order, and () where any order will do.
    """

    nodes: int
    node_changes: tuple[NodeChange, ...]
    pairs: tuple[PairChange, ...]
    kept: int
    order: tuple[tuple[str, ...], ...] | None = ()

    @property
    def interrupted(self) -> tuple[PairChange, ...]:
        return tuple(pair for pair in self.pairs if pair.outcome == "interrupted")


MOST_PAIRS = 10_000_000
"""So many pairs of nodes are judged in 1 GB; twice as many nodes have four times as many."""


def fleet_change(old: Sequence[Member], new: Sequence[Member]) -> FleetChange:
    """What becomes of each node and pair when all nodes go from one version to the other.

    Raises SourceError for a change of more than MOST_PAIRS.
    """
    nodes = matched(old, new)
    registries: Registries = {"old": [m.peer for m in old], "new": [m.peer for m in new]}
    planning = _Planning(nodes, registries)
    still = sum(not node.group.is_near for node in nodes)
    far = still * (still - 1) // 2
    if (near := len(nodes) * (len(nodes) - 1) // 2 - far) > MOST_PAIRS:
        raise SourceError(
            f"the change is of {near} pairs of nodes, and rait judges {MOST_PAIRS} at the most: "
            "change fewer nodes at once"
        )
    pairs = list(judged(nodes))
    changes = (pair for pair in pairs if pair.outcome != "kept")
    return FleetChange(
        nodes=len(nodes),
        node_changes=tuple(planning.changes()),
        pairs=tuple(changes),
        kept=far + sum(pair.outcome == "kept" for pair in pairs),
        order=_order(pairs),
    )


class _Planning:
    """Plans the nodes of a fleet: those near a change by the whole registry, others by a part.

    Of entries that are alike, two are planned for all.
    """

    def __init__(self, nodes: Sequence[FleetNode], registries: Registries) -> None:
        self._nodes = nodes
        self._addresses = own_addresses(chain(*registries.values()))
        groups = grouped(nodes, registries)
        near = [group for group in groups if group.is_near]
        close = {key for group in near for node in group.nodes for key in node.keys}
        self._groups = {key: node.group for node in nodes for key in node.keys}
        every, few = _peers_of(standing_for(groups)), _peers_of(standing_for(near))
        for node in nodes:
            peers = every if node.group.is_near else few
            node.plan = partial(planned, node, peers, self._addresses)
        self._tally = _Tally(registries["old"], close)

    def changes(self) -> Iterator[NodeChange]:
        """What nodes do that have something to do."""
        known: dict[FleetNode, tuple[int, int, int]] = {}
        for node in self._nodes:
            first = like(node)
            if first not in known:
                known[first] = self._counted(first)
            count, lost, links = known[first]
            if count:
                member = node.members["old"]
                limit = most_losses(links, member.config.max_removals if member else None)
                yield NodeChange(
                    node.name,
                    node.key("new") or node.key("old"),
                    partial(self._events, node),
                    count,
                    lost,
                    links,
                    limit is not None and lost > limit,
                )

    def _counted(self, node: FleetNode) -> tuple[int, int, int]:
        """How many events a node has, how many links lose their session, and of how many."""
        found = node.planned
        links = Counter({key: len(ends) for key, ends in found.ends["old"].items()})
        count, lost, near = (
            sum(
                number * (weight(node, self._groups[key]) if key else 1)
                for key, number in each.items()
            )
            for each in (found.counts, found.lost, links)
        )
        return count, lost, near + self._tally.links_of(node)

    def _events(self, node: FleetNode, most: int | None) -> tuple[Event, ...]:
        """The events of a node, about so many groups of each kind, or about all."""
        first = like(node)
        touched = [self._groups[key] for key in first.planned.counts if key]
        if first is node and all(len(group.kind) == 1 for group in touched):
            return node.planned.events
        kinds = {id(group.kind): group.kind for group in touched}.values()
        others = ([each for each in kind if each is not node.group][:most] for kind in kinds)
        groups = with_those_beside(chain([node.group], *others))
        return planned(node, _peers_of(groups), self._addresses).events


def _peers_of(groups: Sequence[Group]) -> Registries:
    return {v: [peer for group in groups for peer in group.peers[v]] for v in VERSIONS}


class _Tally:
    """Counts the links that nodes had in the old version, which most nodes plan only in part."""

    def __init__(self, registry: Iterable[Peer], near: Container[str]) -> None:
        self._far = [peer for peer in registry if peer.public_key not in near]
        self._ports: dict[Family, Counter[int]] = {"ip4": Counter(), "ip6": Counter()}
        for peer in self._far:
            for family, port in {(e.address_family, e.send_port) for e in peer.endpoints}:
                self._ports[family][port] += 1

    def links_of(self, node: FleetNode) -> int:
        """How many links to far nodes the node had that it did not plan."""
        member = node.members["old"]
        if member is None or node.group.is_near:
            return 0
        config = member.config
        if config.policies or config.port_range:
            return count_wanted(config, member.peer.public_key, self._far)
        own = {(e.address_family, e.send_port) for e in member.peer.endpoints}
        alone = Counter(f for f, port in own if self._ports[f][port] == 1)
        families = [transport.address_family for transport in config.transports]
        return sum(len(self._ports[f]) - alone[f] for f in families)


def _order(pairs: Iterable[PairChange]) -> tuple[tuple[str, ...], ...] | None:
    """Groups of nodes to sync one after the other, so that no pair is interrupted; see above.

    () where any order will do, None where none does. Nodes that may sync at any time are left out.
    """
    after: dict[FleetNode, set[FleetNode]] = {}
    for pair in pairs:
        if pair.outcome != "interrupted":
            continue
        _, one_waits, other_waits, last = (how != "never" for how in pair.grades)
        if not last or not (one_waits or other_waits):
            return None
        first, second = (pair.one, pair.other) if not one_waits else (pair.other, pair.one)
        after.setdefault(second, set()).add(first)
        after.setdefault(first, set())
    groups = []
    while after:
        ready = [node for node, before in after.items() if not before]
        if not ready:
            return None
        groups.append(tuple(sorted(node.name for node in ready)))
        after = {n: before.difference(ready) for n, before in after.items() if before}
    return tuple(groups)


# Smaller changes, one after the other.

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
    moved = (n.members["new"] for n in nodes if n.members["old"])
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

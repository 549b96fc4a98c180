"""Which nodes of a fleet are alike: what is found out about one of them is true of all.

1. Nodes come into each other's way by SendPorts, and one takes another for itself by its name. So
   nodes that share a SendPort or a name in one version are of one *group*, as are those that share
   one with these, and so on. What links a node has to a group depends on no node outside of it.
2. A SendPort may be another node's in the other version. Then a link that stays gets another peer:
   two events, as many as for one link that goes and one that comes. But where the node's own key
   changes as well, the link that stays has one more. So where any key changes, nodes that share a
   SendPort or a name are of one group in whatever versions they do.
3. Of nodes whose rait.conf is implied, keys, names, addresses and ports decide nothing but by being
   those of others or not. So groups that differ in nothing else are of one *kind*.
4. Two groups of each kind, the first two, stand for all of it: the first one for what its nodes are
   to each other and to other kinds, and both for what nodes of two groups are to each other.
5. A node whose rait.conf is known, with policies that may be about anything in a peer's entry, is
   like no other one, and so is its group.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import count

from rait.domain.config.schema import Peer
from rait.domain.fleet_nodes import VERSIONS, FleetNode, Group, Version


def grouped(
    nodes: Sequence[FleetNode], registries: Mapping[Version, Iterable[Peer]]
) -> list[Group]:
    """The groups of nodes, each with its kind."""
    found = [Group(each) for each in _connected(nodes)]
    having: dict[int, dict[Group, None]] = {}
    groups = {key: node.group for node in nodes for key in node.keys}
    for version, peers in registries.items():
        for peer in peers:
            group = groups[peer.public_key]
            group.peers[version].append(peer)
            for endpoint in peer.endpoints:
                having.setdefault(endpoint.send_port, {})[group] = None
    for beside in having.values():
        for group in beside:
            group.beside.extend(beside)
    kinds: dict[object, list[Group]] = {}
    for group in found:
        kind = kinds.setdefault(_form(group), [])
        kind.append(group)
        group.kind = kind
    return found


def with_those_beside(groups: Iterable[Group]) -> list[Group]:
    """These groups, those with which they share SendPorts in whatever versions, and so on."""
    found = dict.fromkeys(groups)
    waiting = list(found)
    while waiting:
        for group in waiting.pop().beside:
            if group not in found:
                found[group] = None
                waiting.append(group)
    return list(found)


def standing_for(groups: Iterable[Group]) -> list[Group]:
    """The groups that stand for all of these."""
    kinds = {id(group.kind): group.kind for group in groups}
    return [group for kind in kinds.values() for group in kind[:2]]


def like(node: FleetNode) -> FleetNode:
    """The node that stands for this one."""
    return node.group.kind[0].nodes[node.index]


def like_pair(one: FleetNode, other: FleetNode) -> tuple[FleetNode, FleetNode]:
    """The nodes that stand for two of them."""
    if not (one.is_implied and other.is_implied):
        return one, other
    is_second = one.group is not other.group and one.group.kind is other.group.kind
    return like(one), other.group.kind[is_second].nodes[other.index]


def weight(node: FleetNode, group: Group) -> int:
    """For how many groups a group stands, seen from a node that stands for others."""
    if not node.is_implied or group is node.group:
        return 1
    if group.kind is not node.group.kind:
        return len(group.kind) if group is group.kind[0] else 0
    return len(group.kind) - 1


def _connected(nodes: Sequence[FleetNode]) -> Iterator[list[FleetNode]]:
    """The nodes that share signs, directly or by way of others."""
    is_any_rekeyed = any(len(node.keys) > 1 for node in nodes)
    signs = {node: set(_signs(node, apart=not is_any_rekeyed)) for node in nodes}
    having: dict[object, list[FleetNode]] = {}
    for node, own in signs.items():
        for sign in own:
            having.setdefault(sign, []).append(node)
    seen: set[FleetNode] = set()
    for node in nodes:
        members, waiting = [], [node]
        while waiting:
            each = waiting.pop()
            if each not in seen:
                seen.add(each)
                members.append(each)
                for sign in signs[each]:
                    waiting += having.pop(sign, ())
        if members:
            yield members


def _signs(node: FleetNode, *, apart: bool) -> Iterator[object]:
    """The SendPorts and names of a node, in each version ``apart`` or in either."""
    for version, member in node.members.items():
        if member is not None:
            which = version if apart else None
            yield from ((which, endpoint.send_port) for endpoint in member.peer.endpoints)
            yield from ((which, n) for n in (member.peer.name, member.config.name) if n is not None)


def _form(group: Group) -> object:
    """What groups of one kind have in common; a group of its own kind is its own form."""
    if not all(node.is_implied for node in group.nodes):
        return group
    places = {key: node.index for node in group.nodes for key in node.keys}
    numbers: Mapping[str | int, int] = defaultdict(count().__next__)
    entries = (
        tuple((places[peer.public_key], _numbered(peer, numbers)) for peer in group.peers[version])
        for version in VERSIONS
    )
    return group.is_near, len(group.nodes), *entries


def _numbered(peer: Peer, numbers: Mapping[str | int, int]) -> object:
    """An entry with a number for each key, name, port and address: equal ones have the same."""
    return (
        numbers[peer.public_key],
        peer.name and numbers[peer.name],
        *(
            (
                endpoint.address_family,
                numbers[endpoint.send_port],
                endpoint.address and (numbers[endpoint.address], numbers[endpoint.address.lower()]),
            )
            for endpoint in peer.endpoints
        ),
    )

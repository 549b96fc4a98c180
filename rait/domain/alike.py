"""Which nodes of a fleet are alike: what is found out about one of them is true of all.

1. Nodes come into each other's way by SendPorts, and one takes another for itself by its name. So
   nodes that share a SendPort or a name in one version are of one *group*, as are those that share
   one with these, and so on. What links a node has to a group depends on no node outside of it.
2. A SendPort may be another node's in the other version. Then a link that stays gets another peer:
   two events, as many as for one link that goes and one that comes. But a link that stays has more
   of them where it also gets another key of the node's own, or other settings. So where a key or a
   configuration changes, or policies give links to two peers settings that are not the same, nodes
   that share a SendPort or a name are of one group in whatever versions they do.
3. Keys, names, addresses and ports decide by being those of others or not. Beside that, they decide
   what a configuration makes of a peer: by policies that fit it, by ``port_range``, and where the
   name of its link is that of the VRF, or begins as links of another transport do. So groups are of
   one *kind* that differ in nothing else, of which all nodes have configurations that differ in
   nothing else, and of which each configuration of the fleet makes the same.
4. Two groups of each kind, the first two, stand for all of it: the first one for what its nodes are
   to each other and to other kinds, and both for what nodes of two groups are to each other.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Collection, Hashable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from itertools import count

from msgspec import Struct, structs

from rait.domain.config.schema import Config, Peer, PeerEndpoint, Transport
from rait.domain.fleet_nodes import VERSIONS, FleetNode, Group, Member, Version
from rait.domain.plan import is_in_port_range
from rait.domain.policy import Policies, addresses_of, notes_of

_Numbers = Mapping[Hashable, int]


def grouped(
    nodes: Sequence[FleetNode], registries: Mapping[Version, Iterable[Peer]]
) -> list[Group]:
    """The groups of nodes, each with its kind."""
    templates = {node: tuple(map(_template, node.members.values())) for node in nodes}
    configs = _configs(templates)
    found = [Group(each) for each in _connected(templates, configs)]
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
    eyes = [_Eye(config, Policies(config.policies)) for config in configs]
    for alike in _equal(found, partial(_form, templates)):
        for kind in _equal(alike, partial(_look, eyes)):
            for group in kind:
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
    is_second = one.group is not other.group and one.group.kind is other.group.kind
    return like(one), other.group.kind[is_second].nodes[other.index]


def weight(node: FleetNode, group: Group) -> int:
    """For how many groups a group stands, seen from a node that stands for others."""
    if group is node.group:
        return 1
    if group.kind is not node.group.kind:
        return len(group.kind) if group is group.kind[0] else 0
    return len(group.kind) - 1


def _template(member: Member | None) -> Hashable:
    """What configurations have in common that differ in keys, names, addresses and ports alone.

    None where the entry implies the configuration.
    """
    if member is None or member.is_implied:
        return None
    config = member.config
    transports = tuple(
        structs.replace(t, send_port=0, address=None, bind_addr=None) for t in config.transports
    )
    limits = config.port_range, config.max_removals
    return transports, config.isolation, repr(config.policies), config.babeld.param, limits


def _configs(templates: Mapping[FleetNode, Sequence[Hashable]]) -> Collection[Config]:
    """Configurations that are known, one of each template."""
    return {
        template: member.config
        for node, both in templates.items()
        for template, member in zip(both, node.members.values(), strict=True)
        if member is not None and not member.is_implied
    }.values()


def _equal(groups: list[Group], what: Callable[[Group], object]) -> Collection[list[Group]]:
    """The groups, together with those in which the same is found."""
    if len(groups) == 1:
        return [groups]
    found: dict[object, list[Group]] = {}
    for group in groups:
        found.setdefault(what(group), []).append(group)
    return found.values()


def _connected(
    templates: Mapping[FleetNode, Sequence[Hashable]], configs: Collection[Config]
) -> Iterator[list[FleetNode]]:
    """The nodes that share signs, directly or by way of others."""
    prefixes = {transport.ifprefix for config in configs for transport in config.transports}
    # One prefix and a port may be as another prefix and another port.
    if not any(prefix[-1:].isdecimal() for prefix in prefixes):
        prefixes.clear()
    is_apart = not (
        prefixes
        or any(config.policies for config in configs)
        or any(len(node.keys) > 1 or old != new for node, (old, new) in templates.items())
    )
    signs = {node: set(_signs(node, prefixes, apart=is_apart)) for node in templates}
    having: dict[object, list[FleetNode]] = {}
    for node, own in signs.items():
        for sign in own:
            having.setdefault(sign, []).append(node)
    seen: set[FleetNode] = set()
    for node in templates:
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


def _signs(node: FleetNode, prefixes: Iterable[str], *, apart: bool) -> Iterator[object]:
    """The SendPorts and names of a node, in each version ``apart`` or in either.

    With the names of links to it where these may be those of links to others.
    """
    for version, member in node.members.items():
        if member is not None:
            which = version if apart else None
            for each in member.places:
                yield which, each.send_port
                yield from ((which, f"{prefix}{each.send_port}", "") for prefix in prefixes)
            yield from ((which, n) for n in (member.peer.name, member.config.name) if n is not None)


def _form(templates: Mapping[FleetNode, object], group: Group) -> object:
    """What the nodes of a group and their entries are, with numbers for what is of them alone."""
    places = {key: node.index for node in group.nodes for key in node.keys}
    numbers: _Numbers = defaultdict(count().__next__)
    configs = (
        (
            templates[node],
            *(_own(m.config, numbers) for m in node.members.values() if m and not m.is_implied),
        )
        for node in group.nodes
    )
    entries = (
        tuple((places[peer.public_key], _numbered(peer, numbers)) for peer in group.peers[version])
        for version in VERSIONS
    )
    return group.is_near, *configs, *entries


def _numbered(peer: Peer, numbers: _Numbers) -> object:
    """An entry with a number for each key, name, port and address: equal ones have the same."""
    return (
        numbers[peer.public_key],
        peer.name and numbers[peer.name],
        *(_place(endpoint, numbers) for endpoint in peer.endpoints),
    )


def _own(config: Config, numbers: _Numbers) -> object:
    """What of a configuration is the node's own."""
    return (
        config.name and numbers[config.name],
        *(_place(transport, numbers) for transport in config.transports),
    )


def _place(place: PeerEndpoint | Transport, numbers: _Numbers) -> object:
    return (
        place.address_family,
        numbers[place.send_port],
        place.address and (numbers[place.address], numbers[place.address.lower()]),
    )


class _Eye(Struct, frozen=True):
    """A configuration that may treat one peer in another way than others."""

    config: Config
    policies: Policies

    def sees(self, peer: Peer, numbers: _Numbers) -> Iterator[object]:
        """What decides about links to a peer, beside what the peer shares with others."""
        config = self.config
        for endpoint in peer.endpoints:
            family, port = endpoint.address_family, endpoint.send_port
            given = self.policies.resolve(peer, family).settings
            yield (
                self.policies.fitting(peer, family),
                numbers[given.addresses and addresses_of(given.addresses, peer)[0]],
                numbers[notes_of(given, peer, config.babeld.param)],
                is_in_port_range(config.port_range, port),
            )
            for name in (t.link_name(port) for t in config.transports):
                fitting = tuple(name.startswith(t.ifprefix) for t in config.transports)
                yield name == config.isolation.target_vrf, fitting


def _look(eyes: Sequence[_Eye], group: Group) -> object:
    """What the configurations of the fleet make of the entries of a group."""
    numbers: _Numbers = defaultdict(count().__next__)
    return tuple(
        tuple(eye.sees(peer, numbers))
        for eye in eyes
        for version in VERSIONS
        for peer in group.peers[version]
    )

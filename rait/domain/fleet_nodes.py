"""The nodes of a fleet in two versions, and what each of them plans and does.

A node that *runs* a version of the fleet has that version's registry and its own rait.conf of that
version. Its links follow from ``plan``, as on the node itself, and what its next `rait up` does
from ``reconcile``. Who has a port keeps it, so the new version is planned on the old one.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from typing import Literal

from msgspec import Struct, structs

from rait.domain.backend import Observation, ObservedLink, ObservedVrf
from rait.domain.change import Change, Goal
from rait.domain.config.schema import Config, Peer, PeerEndpoint, Transport
from rait.domain.events import DeviceUpdated, Event, LinkAdded, PeerAdded, peers_named
from rait.domain.guard import lost_sessions
from rait.domain.history import LastKnown
from rait.domain.ownership import scope_of
from rait.domain.pairs import End
from rait.domain.plan import Addresses, Node, Plan, plan
from rait.domain.reconcile import reconcile
from rait.domain.topology import EMPTY, Family, Link, Origin, Topology

Version = Literal["old", "new"]

VERSIONS: tuple[Version, Version] = ("old", "new")
_ORIGIN = Origin("kernel")
_MTU = 1420
"""An implied link's, in bytes: WireGuard's own default."""


class Member(Struct, frozen=True):
    """A node of one version of a fleet: its entry in the registry, and its rait.conf.

    ``is_implied``: nobody knows its rait.conf, so the entry has implied one.
    """

    peer: Peer
    config: Config
    is_implied: bool

    @property
    def places(self) -> tuple[PeerEndpoint | Transport, ...]:
        """The ports and addresses of the node, by its entry and by a rait.conf that is known."""
        endpoints = self.peer.endpoints
        return endpoints if self.is_implied else (*endpoints, *self.config.transports)


def implied_config(peer: Peer) -> Config:
    """The rait.conf that a node may have whose entry this is: a transport for each family."""
    transports: dict[Family, Transport] = {}
    for endpoint in peer.endpoints:
        transports.setdefault(
            endpoint.address_family,
            Transport(
                address_family=endpoint.address_family,
                send_port=endpoint.send_port,
                mtu=_MTU,
                ifprefix=f"rait{endpoint.address_family[-1]}x",
                address=endpoint.address,
            ),
        )
    return Config(transports=tuple(transports.values()), name=peer.name)


def fleet_of(peers: Iterable[Peer], configs: Mapping[str, Config] | None = None) -> list[Member]:
    """The nodes of a registry; ``configs`` are their rait.conf by public key, where known."""
    known = configs or {}
    # The place of an endpoint in its file says nothing of the node.
    return [
        Member(
            structs.replace(
                peer, endpoints=tuple(structs.replace(e, path=()) for e in peer.endpoints)
            ),
            known.get(peer.public_key) or implied_config(peer),
            peer.public_key not in known,
        )
        for peer in peers
    ]


def planned_by(
    member: Member, peers: Iterable[Peer], addresses: Addresses, applied: Topology = EMPTY
) -> Plan:
    """What a node plans that reads these peers, and has the ``applied`` links."""
    node = Node(public_key=member.peer.public_key, origin=_ORIGIN)
    return plan(member.config, node, peers, addresses, applied)


def own_addresses(peers: Iterable[Peer]) -> Addresses:
    """Addresses for a plan without a look-up: a host name stands for its own address."""
    return {
        (endpoint.address, endpoint.address_family): (endpoint.address,)
        for peer in peers
        for endpoint in peer.endpoints
        if endpoint.address is not None
    }


Registries = Mapping[Version, Sequence[Peer]]


class Planned(Struct, frozen=True):
    """A node's links in both versions, as ends of tunnels by the public key of the far side.

    ``touched`` are the keys of peers that an event is about, and ``remade`` of those whose link is
    made again, under whatever name. ``counts`` has the number of events by a peer that they are
    about, "" if there is none, and ``lost`` that of the links that lose their session.
    """

    ends: Mapping[Version, Mapping[str, Sequence[End]]]
    events: tuple[Event, ...]
    touched: frozenset[str]
    remade: frozenset[str]
    counts: Counter[str]
    lost: Counter[str]


class FleetNode:
    """One node of both versions. ``plan`` plans it, when somebody first asks.

    It is one of a ``group`` of nodes, at the place ``index``.
    """

    def __init__(self, old: Member | None, new: Member | None) -> None:
        self.members: Mapping[Version, Member | None] = {"old": old, "new": new}
        self.changed = old != new
        self.plan: Callable[[], Planned]
        self.group: Group
        self.index: int
        member = new or old
        assert member is not None  # noqa: S101 - a node is in one of the versions
        self.name = member.peer.name or member.peer.public_key

    @cached_property
    def planned(self) -> Planned:
        return self.plan()

    @cached_property
    def keys(self) -> frozenset[str]:
        """The node's public keys."""
        return frozenset(m.peer.public_key for m in self.members.values() if m is not None)

    def key(self, version: Version) -> str:
        """The node's public key in a version; "" where the node is not in it."""
        member = self.members[version]
        return "" if member is None else member.peer.public_key


class Group:
    """Nodes that may come into each other's way, as SendPorts and names are shared among them.

    What links a node has to them depends on no node outside of the group. It is *near* a change if
    one of its nodes changes. ``peers`` are the entries of its nodes, in the order of the registry,
    ``kind`` are all groups that are like this one (alike.py), and ``beside`` those that have one of
    its SendPorts in the other version.
    """

    def __init__(self, nodes: Sequence[FleetNode]) -> None:
        self.nodes = nodes
        self.is_near = any(node.changed for node in nodes)
        self.peers: Mapping[Version, list[Peer]] = {"old": [], "new": []}
        self.kind: Sequence[Group] = (self,)
        self.beside: list[Group] = []
        for index, node in enumerate(nodes):
            node.group, node.index = self, index


def matched(old: Sequence[Member], new: Sequence[Member]) -> list[FleetNode]:
    """The nodes of both versions; a node with another key is found by its name, or its address."""
    signs: tuple[Callable[[Member], Iterable[object]], ...] = (
        lambda member: (member.peer.public_key,),
        lambda member: (member.peer.name,) if member.peer.name is not None else (),
        lambda member: (
            (e.address_family, e.send_port, e.address)
            for e in member.peer.endpoints
            if e.address is not None
        ),
    )
    left_old = {member.peer.public_key: member for member in old}
    left_new = {member.peer.public_key: member for member in new}
    found: list[tuple[Member | None, Member | None]] = []
    for sign in signs:
        by_sign = {each: member for member in left_new.values() for each in sign(member)}
        for key, member in list(left_old.items()):
            match = next((by_sign[each] for each in sign(member) if each in by_sign), None)
            if match is not None and match.peer.public_key in left_new:
                found.append((member, match))
                del left_old[key], left_new[match.peer.public_key]
    found += ((member, None) for member in left_old.values())
    found += ((None, member) for member in left_new.values())
    return [FleetNode(before, after) for before, after in found]


def planned(node: FleetNode, registries: Registries, addresses: Addresses) -> Planned:
    """Plan a node's links in both versions, and decide what leads from the old to the new."""
    links: dict[Version, Topology] = {"old": EMPTY, "new": EMPTY}
    members = {version: m for version, m in node.members.items() if m is not None}
    for version, member in members.items():
        links[version] = planned_by(member, registries[version], addresses, links["old"]).topology
    change = _next_up(node, links["old"], links["new"])
    links["new"] = change.desired
    fresh = frozenset(event.name for event in change.events if _ends_session(event))
    ends: dict[Version, dict[str, list[End]]] = {"old": {}, "new": {}}
    for version, member in members.items():
        for link in links[version].links.values():
            end = end_of(link, member, version == "new" and link.name in fresh)
            ends[version].setdefault(end.peer, []).append(end)
    new, old = (
        {name: link.peers[0].public_key for name, link in links[v].links.items()}
        for v in ("new", "old")
    )
    names = {event.name for event in change.events}
    return Planned(
        ends,
        change.events,
        frozenset(keys[name] for keys in (old, new) for name in names & keys.keys()),
        frozenset(key for name in fresh if (key := new[name]) in ends["old"]),
        Counter(next(iter(peers_named(e)), new.get(e.name, "")) for e in change.events),
        Counter(old[name] for name in lost_sessions(change)),
    )


def _ends_session(event: Event) -> bool:
    """Whether a link has no session with its peer after the event, which is there."""
    match event:
        case LinkAdded() | PeerAdded():
            return True
        case DeviceUpdated(_, before, after):
            return before.public_key != after.public_key
        case _:
            return False


def _next_up(node: FleetNode, links: Topology, planned: Topology) -> Change:
    """What the next `rait up` of a node does that has these links."""
    observation = Observation(
        now=0,
        links={name: ObservedLink(link=link) for name, link in links.links.items()},
        vrfs={name: ObservedVrf(table) for name, table in links.vrfs.items()},
    )
    scope = scope_of(Config(), node.key("new"))  # any will do, as the journal knows all links
    return reconcile(observation, Goal(planned), LastKnown(topology=links), scope)


def end_of(link: Link, member: Member, fresh: bool) -> End:
    """One end of a tunnel, as this link of a node is it."""
    (far,) = link.peers
    fitting = (t for t in member.config.transports if link.name.startswith(t.ifprefix))
    # One prefix may begin as another one does.
    family = max(fitting, key=lambda transport: len(transport.ifprefix)).address_family
    return End(
        family,
        link.device.public_key,
        far.public_key,
        link.device.listen_port,
        far.endpoint,
        _addresses(member, family),
        fresh,
    )


def _addresses(member: Member, family: Family) -> frozenset[str]:
    """Where a node can be reached, as its own version of the registry says."""
    return frozenset(
        endpoint.address
        for endpoint in member.peer.endpoints
        if endpoint.address_family == family and endpoint.address is not None
    )

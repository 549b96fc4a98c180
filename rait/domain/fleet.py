"""What a change of the registry does to a whole fleet: to each node, and to each pair of nodes.

Theory of operation.

1. A fleet is a registry, and the rait.conf of each node. Where a node's rait.conf is not known, its
   entry implies one (``implied_config``).
2. A node that *runs* a version of the fleet has that version's registry and its own rait.conf of
   that version. Its links follow from ``plan``, as on the node itself, and what its next `rait up`
   does from ``reconcile``. Who has a port keeps it, so the new version is planned on the old one.
3. Nodes sync at different times. So for a pair of nodes there are four combinations of versions,
   and for each the two ends of the tunnel say how it carries traffic (pairs.py).
4. Nodes come into each other's way by SendPorts alone. So a node is *near* a change if it changes
   itself, or if it shares a SendPort, in either version, with a node that is near. Two nodes that
   are not near any change have the same links to each other in both versions. Only near nodes plan
   the whole registry; each other node plans the near entries alone. The work grows with the number
   of nodes times the number of changes.
5. If one combination breaks a pair, its two ends have to sync in a certain order. All such orders
   together make a graph, whose topological order is an order of nodes that breaks nothing.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Container, Iterable, Iterator, Mapping, Sequence, Set
from functools import cached_property, partial
from itertools import chain
from typing import Literal

from msgspec import Struct, structs

from rait.domain.backend import Observation, ObservedLink, ObservedVrf
from rait.domain.config.schema import Config, Peer, PeerEndpoint, Transport
from rait.domain.events import DeviceUpdated, Event, LinkAdded, PeerAdded
from rait.domain.guard import lost_sessions, most_losses
from rait.domain.history import LastKnown
from rait.domain.ownership import scope_of
from rait.domain.pairs import End, Grade, grade
from rait.domain.plan import Addresses, Node, Plan, count_wanted, plan
from rait.domain.reconcile import Change, Goal, reconcile
from rait.domain.topology import EMPTY, Family, Link, Origin, Topology

Version = Literal["old", "new"]
Outcome = Literal["kept", "made", "removed", "changed", "remade", "interrupted"]

GRADES: tuple[Grade, ...] = (
    "at once",
    "once one end sends",
    "after WireGuard's timers",
    "never",
)
"""From best to worst."""

VERSIONS: tuple[Version, Version] = ("old", "new")
COMBINATIONS: tuple[tuple[Version, Version], ...] = (
    ("old", "old"),
    ("old", "new"),
    ("new", "old"),
    ("new", "new"),
)
_ORIGIN = Origin("kernel")
_MTU = 1420
"""An implied link's, in bytes: WireGuard's own default."""


class Member(Struct, frozen=True):
    """A node of one version of a fleet: its entry in the registry, and its rait.conf.

    ``is_implied``: nobody knows its rait.conf, so the entry has implied one.
    """

    peer: Peer
    config: Config
    is_implied: bool = False


class NodeChange(Struct, frozen=True):
    """What the next `rait up` of a node does; ``name`` is how messages call the node.

    ``planned`` gives the events, as many as ``count``. So many links lose their session, ``lost``,
    of all that there were, ``links``. ``stops``: these are more than the node's guard allows,
    unless its user gives --yes.
    """

    name: str
    public_key: str
    planned: Callable[[], tuple[Event, ...]]
    count: int
    lost: int
    links: int
    stops: bool

    @property
    def events(self) -> tuple[Event, ...]:
        return self.planned()


class PairChange(Struct, frozen=True):
    """What becomes of the tunnel between two nodes.

    ``grades`` are in the order of COMBINATIONS, of which the first version is that of the first
    node. ``why`` gives, for each combination that breaks the pair, the reason.
    """

    nodes: tuple[str, str]
    outcome: Outcome
    grades: tuple[Grade, ...]
    why: Callable[[], Mapping[str, str]]

    @property
    def reasons(self) -> Mapping[str, str]:
        return self.why()


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


def _bare(endpoint: PeerEndpoint) -> PeerEndpoint:
    """An endpoint without its place in the file, which says nothing of the node."""
    return structs.replace(endpoint, path=())


def fleet_of(peers: Iterable[Peer], configs: Mapping[str, Config] | None = None) -> list[Member]:
    """The nodes of a registry; ``configs`` are their rait.conf by public key, where known."""
    known = configs or {}
    return [
        Member(
            structs.replace(peer, endpoints=tuple(_bare(e) for e in peer.endpoints)),
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


class _Planned(Struct, frozen=True):
    """A node's links in both versions, as ends of tunnels by the public key of the far side.

    ``touched`` are the keys of peers that an event is about, and ``remade`` of those whose link is
    made again, under whatever name. ``lost`` links lose their session.
    """

    ends: Mapping[Version, Mapping[str, Sequence[End]]]
    events: tuple[Event, ...]
    touched: frozenset[str]
    remade: frozenset[str]
    lost: int


class FleetNode:
    """One node of both versions. ``plan`` plans it, when somebody first asks."""

    def __init__(self, old: Member | None, new: Member | None) -> None:
        self.members: Mapping[Version, Member | None] = {"old": old, "new": new}
        self.changed = old != new
        self.plan: Callable[[], _Planned]
        member = new or old
        assert member is not None  # noqa: S101 - a node is in one of the versions
        self.name = member.peer.name or member.peer.public_key
        self.is_implied = all(m is None or m.is_implied for m in (old, new))

    @cached_property
    def planned(self) -> _Planned:
        return self.plan()

    def key(self, version: Version) -> str | None:
        """The node's public key in a version; None where the node is not in it."""
        member = self.members[version]
        return None if member is None else member.peer.public_key

    def is_among(self, keys: Container[str | None]) -> bool:
        """Whether these public keys have the node's, of either version."""
        return self.key("old") in keys or self.key("new") in keys

    def change(self, like: FleetNode, links: int) -> NodeChange:
        """What the node does, which had so many links, and does as much as another one."""
        member = self.members["old"]
        lost, count = like.planned.lost, len(like.planned.events)
        limit = most_losses(links, member.config.max_removals if member is not None else None)
        stops = limit is not None and lost > limit
        key = self.key("new") or self.key("old") or ""
        return NodeChange(self.name, key, lambda: self.planned.events, count, lost, links, stops)


def _planned(
    node: FleetNode, registries: Mapping[Version, Sequence[Peer]], addresses: Addresses
) -> _Planned:
    """Plan a node's links in both versions, and decide what leads from the old to the new."""
    links: dict[Version, Topology] = {"old": EMPTY, "new": EMPTY}
    for version, member in node.members.items():
        if member is not None:
            planned = planned_by(member, registries[version], addresses, links["old"])
            links[version] = planned.topology
    change = _next_up(node, links["old"], links["new"])
    links["new"] = change.desired
    fresh = frozenset(event.name for event in change.events if _ends_session(event))
    names = {event.name for event in change.events}
    ends: dict[Version, dict[str, list[End]]] = {"old": {}, "new": {}}
    for version, member in node.members.items():
        if member is None:
            continue
        for link in links[version].links.values():
            end = end_of(link, member, version == "new" and link.name in fresh)
            ends[version].setdefault(end.peer, []).append(end)
    return _Planned(
        ends,
        change.events,
        frozenset(_peers_of(names, *links.values())),
        frozenset(key for key in _peers_of(fresh, links["new"]) if key in ends["old"]),
        len(lost_sessions(change)),
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
    member = node.members["new"]
    config = member.config if member is not None else Config()
    observation = Observation(
        now=0,
        links={name: ObservedLink(link=link) for name, link in links.links.items()},
        vrfs={name: ObservedVrf(table, marked=True) for name, table in links.vrfs.items()},
    )
    scope = scope_of(config, node.key("new") or "")
    return reconcile(observation, Goal(planned), LastKnown(topology=links), scope)


def _peers_of(names: Set[str], *topologies: Topology) -> Iterator[str]:
    """The public keys of the peers of links of these names."""
    for topology in topologies:
        for name in names & topology.links.keys():
            yield from (peer.public_key for peer in topology.links[name].peers)


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


def fleet_change(old: Sequence[Member], new: Sequence[Member]) -> FleetChange:
    """What becomes of each node and pair when all nodes go from one version to the other."""
    nodes = matched(old, new)
    changed = [node for node in nodes if node.changed]
    registries: dict[Version, Sequence[Member]] = {"old": old, "new": new}
    users = _users_of_ports(chain(old, new))
    near = _near(changed, users)
    involved = [node for node in nodes if node.is_among(near)]
    _have_planned(nodes, registries, near)
    alike = _Alike(involved, users)
    judged = list(_judged(involved, nodes, alike))
    tally = _Tally(old, near)
    still = len(nodes) - len(involved)
    kept = still * (still - 1) // 2 + sum(pair.outcome == "kept" for pair in judged)
    doing = ((node, alike.to(node)) for node in nodes)
    return FleetChange(
        nodes=len(nodes),
        node_changes=tuple(
            node.change(like, tally.links_of(node, like))
            for node, like in doing
            if like.planned.events
        ),
        pairs=tuple(change for pair in judged if (change := pair.change()) is not None),
        kept=kept,
        order=_order(judged),
    )


class _Alike:
    """Finds for a node another one whose links to the involved nodes are like its own.

    Of nodes that are near no change, whose ports no other node has and whose rait.conf are implied,
    those with as many endpoints of the same kind differ in keys, addresses and ports alone. So what
    becomes of the tunnels of one of them becomes of those of all.
    """

    def __init__(self, involved: Sequence[FleetNode], users: Mapping[int, Set[str]]) -> None:
        self._involved = frozenset(involved)
        there = [m for node in involved for m in node.members.values() if m is not None]
        self._names = {name for m in there for name in (m.peer.name, m.config.name)}
        self._users = users
        self._first: dict[object, FleetNode] = {}

    def to(self, node: FleetNode) -> FleetNode:
        """The first node that is like this one; the node itself if there was none before it."""
        member = node.members["new"]
        if member is None or node in self._involved or not node.is_implied:
            return node
        if member.peer.name is not None and member.peer.name in self._names:
            return node
        endpoints = member.peer.endpoints
        ports = [endpoint.send_port for endpoint in endpoints]
        if any(len(self._users[port]) > 1 for port in ports):
            return node
        shape = tuple(
            (e.address_family, ports.index(e.send_port), e.address is None) for e in endpoints
        )
        return self._first.setdefault(shape, node)


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


def _have_planned(
    nodes: Iterable[FleetNode],
    registries: Mapping[Version, Sequence[Member]],
    near: Set[str],
) -> None:
    """Tell each node how it is planned: near a change by the whole registry, else by a part."""
    few = {v: [m.peer for m in registries[v] if m.peer.public_key in near] for v in VERSIONS}
    whole = {v: [m.peer for m in registries[v]] for v in VERSIONS}
    addresses = own_addresses(chain(*whole.values()))
    for node in nodes:
        node.plan = partial(_planned, node, whole if node.is_among(near) else few, addresses)


class _Tally:
    """Counts the links that nodes had in the old version, which most nodes plan only in part."""

    def __init__(self, registry: Sequence[Member], near: Set[str]) -> None:
        self._far = [member.peer for member in registry if member.peer.public_key not in near]
        self._ports: dict[Family, Counter[int]] = {"ip4": Counter(), "ip6": Counter()}
        for peer in self._far:
            for endpoint in peer.endpoints:
                self._ports[endpoint.address_family][endpoint.send_port] += 1
        self._near = near

    def links_of(self, node: FleetNode, like: FleetNode) -> int:
        """How many links the node had, which is like another one."""
        member, planned = node.members["old"], sum(map(len, like.planned.ends["old"].values()))
        if member is None or member.peer.public_key in self._near:
            return planned
        config = member.config
        if config.policies or config.port_range:
            return planned + count_wanted(config, member.peer.public_key, self._far)
        own = {(e.address_family, e.send_port) for e in member.peer.endpoints}
        alone = Counter(f for f, port in own if self._ports[f][port] == 1)
        families = [transport.address_family for transport in config.transports]
        return planned + sum(len(self._ports[f]) - alone[f] for f in families)


def _users_of_ports(members: Iterable[Member]) -> dict[int, set[str]]:
    """The public keys of the nodes that have each SendPort, in either family and version."""
    users: dict[int, set[str]] = {}
    for member in members:
        for endpoint in member.peer.endpoints:
            users.setdefault(endpoint.send_port, set()).add(member.peer.public_key)
    return users


def _near(changed: Iterable[FleetNode], users: Mapping[int, Set[str]]) -> frozenset[str]:
    """The public keys of the nodes that change, and of those with a port of one of them, and so on.

    Another node's links to all others are the same in both versions, and free of conflicts.
    """
    shared = {port: keys for port, keys in users.items() if len(keys) > 1}
    ports: dict[str, list[int]] = {}
    for port, keys in shared.items():
        for key in keys:
            ports.setdefault(key, []).append(port)
    near: set[str] = set()
    waiting = [own for node in changed for v in VERSIONS if (own := node.key(v)) is not None]
    while waiting:
        key = waiting.pop()
        if key not in near:
            near.add(key)
            waiting += (other for port in ports.get(key, ()) for other in shared.pop(port, ()))
    return frozenset(near)


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


class _Judged(Struct, frozen=True):
    """A pair, how its tunnel carries traffic in each combination, and what becomes of it."""

    one: FleetNode
    other: FleetNode
    grades: tuple[Grade, ...]
    outcome: Outcome | None

    def change(self) -> PairChange | None:
        if self.outcome in (None, "kept"):
            return None
        return PairChange((self.one.name, self.other.name), self.outcome, self.grades, self.why)

    def why(self) -> Mapping[str, str]:
        """For each combination that breaks the pair, the reason."""
        if self.outcome != "interrupted":
            return {}
        return {
            f"{mine}/{theirs}": _why_broken(self.one, self.other, mine, theirs)
            for (mine, theirs), how in zip(COMBINATIONS, self.grades, strict=True)
            if how == "never"
        }


def _judged(
    some: Sequence[FleetNode], nodes: Sequence[FleetNode], alike: _Alike
) -> Iterator[_Judged]:
    """Each pair with one of some nodes, once."""
    done: set[FleetNode] = set()
    for node in some:
        done.add(node)
        known: dict[FleetNode, _Judged] = {}
        for other in nodes:
            if other in done:
                continue
            like = alike.to(other) if node.is_implied else other
            if like not in known:
                known[like] = _judge(node, like)
            judged = known[like]
            yield judged if like is other else structs.replace(judged, other=other)


def _judge(one: FleetNode, other: FleetNode) -> _Judged:
    grades = tuple(_grade(one, other, mine, theirs) for mine, theirs in COMBINATIONS)
    return _Judged(one, other, grades, _outcome(one, other, grades))


def _outcome(one: FleetNode, other: FleetNode, grades: Sequence[Grade]) -> Outcome | None:
    """What becomes of a pair; None where it has no tunnel in either version."""
    first, *between, last = (how != "never" for how in grades)
    if not first:
        return "made" if last else None
    if not (_ends(one, other, "new") or _ends(other, one, "new")):
        return "removed"
    if not last or not all(between):
        return "interrupted"
    if one.is_among(other.planned.remade) or other.is_among(one.planned.remade):
        return "remade"
    if one.is_among(other.planned.touched) or other.is_among(one.planned.touched):
        return "changed"
    return "kept"


def _ends(one: FleetNode, other: FleetNode, version: Version) -> Sequence[End]:
    """The ends of a node's tunnels to another one, in one version."""
    key = other.key(version)
    return one.planned.ends[version].get(key, ()) if key is not None else ()


def _grade(one: FleetNode, other: FleetNode, mine: Version, theirs: Version) -> Grade:
    """The best grade of the tunnels of two nodes that run these versions."""
    grades = [
        grade(end, far)
        for end in _ends(one, other, mine)
        for far in _ends(other, one, theirs)
        if end.family == far.family
    ]
    return min(grades, key=GRADES.index, default="never")


def _why_broken(one: FleetNode, other: FleetNode, mine: Version, theirs: Version) -> str:
    """Why neither of two nodes that run these versions reaches the other."""
    both = (
        _why_not_reached(one, other, mine, theirs),
        _why_not_reached(other, one, theirs, mine),
    )
    return "; ".join(dict.fromkeys(both))


def _why_not_reached(node: FleetNode, far: FleetNode, mine: Version, theirs: Version) -> str:
    """Why what a node sends does not arrive at another one."""
    ends, others = _ends(node, far, mine), _ends(far, node, theirs)
    if not ends:
        return f"{node.name} has no link to {far.name}"
    end = ends[0]
    theirs_of = [other for other in others if other.family == end.family]
    if end.peer != far.key(theirs):
        return f"{node.name} has another key of {far.name}"
    if end.sends_to is None:
        return f"{node.name} has no address of {far.name}"
    if not theirs_of:
        return f"{far.name} has no link to {node.name}"
    other = theirs_of[0]
    if other.peer != end.key:
        return f"{far.name} has another key of {node.name}"
    if end.sends_to.address not in other.addresses:
        return f"{node.name} sends to {end.sends_to.address}, where {far.name} is not"
    listens = f"port {other.listens}" if other.listens else "a port of the kernel's choice"
    return (
        f"{node.name} sends to port {end.sends_to.port} of {far.name}, which listens for it on "
        f"{listens}"
    )


def _order(judged: Iterable[_Judged]) -> tuple[tuple[str, ...], ...] | None:
    """Groups of nodes to sync one after the other, so that no pair is interrupted; see above.

    () where any order will do, None where none does. Nodes that may sync at any time are left out.
    """
    after: dict[FleetNode, set[FleetNode]] = {}
    for pair in judged:
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

"""The laws of the design, each as a property."""

from __future__ import annotations

from collections import Counter

from hypothesis import assume, given, settings
from hypothesis import strategies as st
from msgspec import structs

from rait.domain.config.schema import MAX_IFNAME, Config, Peer, PeerEndpoint, Transport
from rait.domain.diff import diff
from rait.domain.errors import Problem
from rait.domain.events import evolve, replay
from rait.domain.fleet_nodes import Member, fleet_of
from rait.domain.plan import Addresses, plan
from rait.domain.topology import Device, Link, LinkSettings, Topology
from rait.testing import laws
from tests.property import strategies as some

fewer = settings(max_examples=settings().max_examples // 2)
"""For properties that plan many times in each example."""


def shared_ports(topology: Topology) -> list[int]:
    """Listen ports that more than one link has, in whatever families: WireGuard binds both."""
    count = Counter(link.device.listen_port for link in topology.links.values())
    return [port for port, links in count.items() if port and links > 1]


# Law 1


@given(some.topologies(), some.topologies())
def test_what_diff_says_leads_from_one_topology_to_the_other(
    before: Topology, after: Topology
) -> None:
    assert replay(before, diff(before, after)) == after


# Law 2


@given(some.topologies())
def test_nothing_has_to_happen_for_a_topology_to_stay_as_it_is(topology: Topology) -> None:
    assert diff(topology, topology) == ()


# Law 3


@given(some.topologies(), some.topologies())
def test_events_can_be_taken_back(before: Topology, after: Topology) -> None:
    laws.can_be_taken_back("a node", before, after)


# Law 4


@given(some.topologies(), some.topologies())
def test_no_two_links_hold_one_port_at_any_moment(before: Topology, after: Topology) -> None:
    now = before
    for event in diff(before, after):
        now = evolve(now, event)
        assert shared_ports(now) == []
        assert all(name == link.name for name, link in now.links.items())


@given(st.permutations(some.PORTS), st.sets(st.sampled_from(some.NAMES)))
def test_ports_change_hands_without_being_shared(shuffled: list[int], dynamic: set[str]) -> None:
    """As above, where all links stay: chains and circles of ports are the rule here."""
    link = Link("", some.node.origin, LinkSettings(1420, 54), Device(some.OWN_KEY))
    before = Topology(
        {n: with_port(link, n, p) for n, p in zip(some.NAMES, some.PORTS, strict=True)}
    )
    wanted = {n: 0 if n in dynamic else p for n, p in zip(some.NAMES, shuffled, strict=True)}
    after = Topology({n: with_port(link, n, p) for n, p in wanted.items()})
    now = before
    events = diff(before, after)
    for event in events:
        now = evolve(now, event)
        assert shared_ports(now) == []
    assert now == after
    moved = sum(before.links[n] != after.links[n] for n in some.NAMES)
    assert len(events) <= moved + moved // 2, "each circle is to be broken just once"


def with_port(link: Link, name: str, port: int) -> Link:
    return Link(name, link.origin, link.settings, Device(some.OWN_KEY, port))


# Law 5

ANY_TEXT = st.text(max_size=8)


@given(
    st.builds(
        Config,
        transports=st.lists(
            some.transports
            | st.builds(
                Transport,
                address_family=some.families,
                send_port=st.integers(1, 65535),
                mtu=st.integers(1280, 65455),
                ifprefix=ANY_TEXT,
            ),
            max_size=3,
        ).map(tuple),
        isolation=some.isolations,
    ),
    st.lists(
        some.peers()
        | st.builds(
            Peer,
            public_key=ANY_TEXT,
            endpoints=st.lists(
                st.builds(
                    PeerEndpoint,
                    address_family=some.families,
                    send_port=st.integers(1, 65535),
                    address=st.none() | ANY_TEXT,
                ),
                max_size=3,
            ).map(tuple),
        ),
        max_size=4,
    ),
    some.addresses,
    some.mere_links,
)
def test_plan_is_total(
    config: Config,
    peers: list[Peer],
    addresses: Addresses,
    applied: Topology,
) -> None:
    """No input makes it raise, and what it gives is sound: even for transports that collide."""
    planned = plan(config, some.node, peers, addresses, applied)
    assert shared_ports(planned.topology) == []
    for name, link in planned.topology.links.items():
        assert link.name == name
        assert len(name.encode()) <= MAX_IFNAME
        assert [peer.public_key for peer in link.peers] != [some.OWN_KEY]
    assert planned == plan(config, some.node, peers, addresses, applied)


# Law 6


@fewer
@given(some.configs(), some.peers_lists(), some.addresses, st.data())
def test_the_order_of_peers_only_decides_conflicts(
    config: Config,
    peers: list[Peer],
    addresses: Addresses,
    data: st.DataObject,
) -> None:
    shuffled = data.draw(st.permutations(peers))
    candidates = possible_links(config, peers, addresses)
    plans = [plan(config, some.node, order, addresses) for order in (peers, shuffled)]
    for planned in plans:
        links = planned.topology.links.values()
        assert all(link in candidates for link in links)
        skipped = [problem for problem in planned.problems if problem.skipped]
        assert len(skipped) == count_routes(config, peers) - len(links)
        lost = [link for link in candidates if link not in links]
        assert {link.name for link in lost} <= names_of(planned.problems)
        assert all(any(are_rivals(link, other) for other in links) for link in lost)
    if not any(problem.skipped for problem in plans[0].problems):
        assert plans[0].topology == plans[1].topology
        assert set(plans[0].problems) == set(plans[1].problems)


# Law 11


@fewer
@given(
    some.configs(),
    some.peers_lists(),
    some.peers_lists(),
    some.addresses,
    st.data(),
)
def test_who_has_a_link_keeps_it_whoever_comes(
    config: Config,
    peers: list[Peer],
    newcomers: list[Peer],
    addresses: Addresses,
    data: st.DataObject,
) -> None:
    """Also where an entry that comes has the key of a peer that is there."""
    there = plan(config, some.node, peers, addresses).topology
    by_key = {peer.public_key: peer.endpoints for peer in peers}
    known = [
        Peer(public_key=new.public_key, endpoints=new.endpoints + by_key.pop(new.public_key, ()))
        for new in newcomers
    ]
    rest = [Peer(public_key=key, endpoints=endpoints) for key, endpoints in by_key.items()]
    registry = data.draw(st.permutations(known + rest))
    planned = plan(config, some.node, registry, addresses, there).topology
    for name, link in there.links.items():
        assert planned.links[name].peers == link.peers


def possible_links(config: Config, peers: list[Peer], addresses: Addresses) -> list[Link]:
    """Each link that there would be, were it the only one."""
    found: list[Link] = []
    for peer in peers:
        for endpoint in peer.endpoints:
            for transport in config.transports:
                alone = Config(transports=(transport,), isolation=config.isolation)
                only = Peer(public_key=peer.public_key, endpoints=(endpoint,))
                found += plan(alone, some.node, [only], addresses).topology.links.values()
    return found


def count_routes(config: Config, peers: list[Peer]) -> int:
    return sum(
        transport.address_family == endpoint.address_family
        for peer in peers
        if peer.public_key != some.OWN_KEY
        for endpoint in peer.endpoints
        for transport in config.transports
    )


def are_rivals(one: Link, other: Link) -> bool:
    """Whether only one of the two can be: for its name, its port, or the way to its peer."""
    same_peer = one.peers[0].public_key == other.peers[0].public_key
    return (
        one.name == other.name
        or one.device.listen_port == other.device.listen_port != 0
        or (same_peer and one.name[:-5] == other.name[:-5])
    )


def names_of(problems: tuple[Problem, ...]) -> set[str]:
    return {problem.link for problem in problems if problem.link is not None}


# Law 7


@st.composite
def meshes(draw: st.DrawFn) -> list[Member]:
    """Nodes of one mesh, whose rait.conf follows from their entry, with policies of their own."""
    fleet = []
    for number, key in enumerate(some.PEER_KEYS[: draw(st.integers(2, 4))]):
        chosen = draw(st.sampled_from((("ip4",), ("ip6",), ("ip4", "ip6"), ("ip6", "ip4"))))
        address = {"ip4": f"192.0.2.{number}", "ip6": f"2001:db8::{number}"}
        endpoints = tuple(
            PeerEndpoint(
                address_family=family,
                send_port=draw(some.ports),
                address=draw(st.sampled_from((None, address[family]))),
            )
            for family in chosen
        )
        member = fleet_of([Peer(public_key=key, endpoints=endpoints)])[0]
        transports = tuple(
            structs.replace(t, dynamic_port=draw(st.booleans())) for t in member.config.transports
        )
        policies = draw(some.policy_lists) if draw(st.booleans()) else ()
        config = structs.replace(member.config, transports=transports, policies=policies)
        fleet.append(structs.replace(member, config=config))
    return fleet


@given(meshes())
def test_nodes_with_one_registry_agree(fleet: list[Member]) -> None:
    """Whatever policies some of them have: each decides alone what its links are like."""
    laws.every_pair_agrees(fleet)


# Law 8


@fewer
@given(some.configs(), some.peers_lists() | some.calm_registries(), some.addresses, st.data())
def test_one_peer_touches_only_its_own_links(
    config: Config,
    peers: list[Peer],
    addresses: Addresses,
    data: st.DataObject,
) -> None:
    """And where peers want the same, links that plan names as lost before or after."""
    assume(peers)
    index = data.draw(st.integers(0, len(peers) - 1))
    changed = data.draw(st.none() | some.peers(st.just(peers[index].public_key)))
    replaced = list(peers)
    replaced[index : index + 1] = [changed] if changed is not None else []
    old = plan(config, some.node, peers, addresses)
    new = plan(config, some.node, replaced, addresses, old.topology)
    laws.only_its_own("the node", {peers[index].public_key}, old, new)

"""What a whole fleet is told of a change is what each of its nodes would find out by itself."""

from __future__ import annotations

import base64

from hypothesis import given
from hypothesis import strategies as st

from rait.domain.config.schema import Peer, PeerEndpoint
from rait.domain.diff import diff
from rait.domain.events import Event
from rait.domain.fleet import Member, fleet_change, fleet_of, implied_config
from rait.domain.plan import Node, plan
from rait.domain.topology import EMPTY, Origin, Topology

PORTS = st.integers(50001, 50003) | st.integers(50001, 50040)
HOSTS = st.sampled_from([None, "192.0.2.1", "192.0.2.2", "host.example"])
FAMILIES = st.sampled_from(["ip4", "ip6"])
endpoints = st.builds(
    PeerEndpoint,
    address_family=FAMILIES,
    send_port=PORTS,
    address=HOSTS.filter(lambda host: host is None or "." in host),
)


def key(number: int) -> str:
    return base64.b64encode(bytes([number]) * 32).decode()


@st.composite
def registries(draw: st.DrawFn) -> list[Peer]:
    """A few nodes, some with a port of others."""
    numbers = draw(st.lists(st.integers(1, 7), unique=True, max_size=6))
    return [
        Peer(
            public_key=key(number),
            name=draw(st.sampled_from([None, f"n{number}"])),
            endpoints=tuple(draw(st.lists(endpoints, min_size=1, max_size=2))),
        )
        for number in numbers
    ]


@st.composite
def edits(draw: st.DrawFn, before: list[Peer]) -> list[Peer]:
    """The registry with some entries exchanged for others."""
    other = {peer.public_key: peer for peer in draw(registries())}
    kept = [peer for peer in before if draw(st.booleans()) or peer.public_key not in other]
    there = {peer.public_key for peer in kept}
    return draw(st.permutations([*kept, *(p for k, p in other.items() if k not in there)]))


def alone(member: Member, registry: list[Member], applied: Topology) -> Topology:
    """What one node plans by itself."""
    addresses = {
        (e.address, e.address_family): (e.address,)
        for other in registry
        for e in other.peer.endpoints
        if e.address is not None
    }
    node = Node(public_key=member.peer.public_key, origin=Origin("kernel"))
    peers = [other.peer for other in registry]
    return plan(member.config, node, peers, addresses, applied=applied).topology


@given(st.data())
def test_each_node_would_do_by_itself_what_the_fleet_is_told(data: st.DataObject) -> None:
    before = data.draw(registries())
    old, new = fleet_of(before), fleet_of(data.draw(edits(before)))
    found = {node.public_key: node.events for node in fleet_change(old, new).node_changes}
    was = {member.peer.public_key: member for member in old}
    for member in new:
        own = member.peer.public_key
        if own not in was:
            continue
        then = alone(was[own], old, EMPTY)
        events: tuple[Event, ...] = diff(then, alone(member, new, then))
        assert found.get(own, ()) == events


@given(registries())
def test_a_version_leads_to_itself_by_nothing(peers: list[Peer]) -> None:
    change = fleet_change(fleet_of(peers), fleet_of(peers))
    assert (change.pairs, change.node_changes, change.order) == ((), (), ())


@given(st.data())
def test_an_order_that_is_named_interrupts_nobody(data: st.DataObject) -> None:
    before = data.draw(registries())
    change = fleet_change(fleet_of(before), fleet_of(data.draw(edits(before))))
    if not change.order:
        return
    turn = {name: turn for turn, group in enumerate(change.order) for name in group}
    for pair in change.interrupted:
        one, other = pair.nodes
        _, other_first, one_first, last = (how != "never" for how in pair.grades)
        assert last
        assert turn[one] != turn[other]
        assert one_first if turn[one] < turn[other] else other_first


@given(st.data())
def test_nodes_that_are_alike_are_told_what_each_would_be_told_alone(data: st.DataObject) -> None:
    """A node whose rait.conf is known is looked at by itself, and has the same links."""
    before = data.draw(registries())
    after = data.draw(edits(before))
    exact = [{p.public_key: implied_config(p) for p in each} for each in (before, after)]
    alike = fleet_change(fleet_of(before), fleet_of(after))
    alone = fleet_change(fleet_of(before, exact[0]), fleet_of(after, exact[1]))
    assert [(p.nodes, p.outcome, p.grades) for p in alike.pairs] == [
        (p.nodes, p.outcome, p.grades) for p in alone.pairs
    ]
    assert alike.order == alone.order

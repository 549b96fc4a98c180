"""What a whole fleet is told of a change is what each of its nodes would find out by itself."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from itertools import chain

from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from rait.domain.alike import grouped
from rait.domain.backend import Observation, ObservedLink
from rait.domain.change import Goal
from rait.domain.config.schema import Config, Isolation, Match, Peer, Policy, Transport
from rait.domain.fleet import FleetChange, fleet_change
from rait.domain.fleet_nodes import (
    FleetNode,
    Member,
    Registries,
    fleet_of,
    matched,
    own_addresses,
    planned,
)
from rait.domain.fleet_pairs import PairChange, judged
from rait.domain.guard import most_losses
from rait.domain.history import LastKnown
from rait.domain.ownership import Scope
from rait.domain.plan import count_wanted
from rait.domain.reconcile import reconcile
from rait.testing.laws import plan_of
from rait.testing.strategies import EDITS, FREE_PORTS, key_of
from tests.property import strategies as some

registries = some.registries(clashes=True)
CASES = (str, str.upper)


@st.composite
def edits(draw: st.DrawFn, before: list[Peer]) -> list[Peer]:
    """The registry with some entries exchanged for others, or with single changes."""
    if draw(st.booleans()):
        return draw(some.edits(before))
    other = {peer.public_key: peer for peer in draw(registries)}
    kept = [peer for peer in before if draw(st.booleans()) or peer.public_key not in other]
    there = {peer.public_key for peer in kept}
    return draw(st.permutations([*kept, *(p for k, p in other.items() if k not in there)]))


@given(st.data())
def test_the_fleet_is_told_of_each_node_what_its_own_plan_tells(data: st.DataObject) -> None:
    """By the decisions of a real run, which looks at the machine and at the journal."""
    before = data.draw(registries)
    old, new = fleet_of(before), fleet_of(data.draw(edits(before)))
    found = {node.public_key: node.events for node in fleet_change(old, new).node_changes}
    was = {member.peer.public_key: member for member in old}
    for member in new:
        own = member.peer.public_key
        if own not in was:
            continue
        then = plan_of(was[own], old).topology
        seen = {name: ObservedLink(link=link) for name, link in then.links.items()}
        change = reconcile(
            Observation(now=0, links=seen),
            Goal(plan_of(member, new, then).topology),
            LastKnown(topology=then),
            Scope(public_key=own, netns="", ifgroup=member.config.isolation.ifgroup),
        )
        assert found.get(own, ()) == change.events


@given(registries)
def test_a_version_leads_to_itself_by_nothing(peers: list[Peer]) -> None:
    change = fleet_change(fleet_of(peers), fleet_of(peers))
    assert (change.pairs, change.node_changes, change.order) == ((), (), ())


@given(st.data())
def test_an_order_that_is_named_interrupts_nobody(data: st.DataObject) -> None:
    before = data.draw(registries)
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


@st.composite
def untidy(draw: st.DrawFn, peers: list[Peer]) -> list[Peer]:
    """The entries with names that may be those of others, capital letters, and remarks."""
    names = st.sampled_from((None, "n1", "n2"))
    return [
        structs.replace(
            peer,
            name=draw(names),
            remarks=draw(st.sampled_from(((), (("site", "x"),)))),
            endpoints=tuple(
                structs.replace(e, address=e.address and draw(st.sampled_from(CASES))(e.address))
                for e in peer.endpoints
            ),
        )
        if draw(st.booleans())
        else peer
        for peer in peers
    ]


def renumbered(peers: list[Peer], by: int) -> list[Peer]:
    """All nodes with another SendPort, which may be the former one of another node."""
    return [
        structs.replace(
            peer,
            endpoints=tuple(structs.replace(e, send_port=e.send_port + by) for e in peer.endpoints),
        )
        for peer in peers
    ]


@st.composite
def large_changes(draw: st.DrawFn) -> tuple[list[Peer], list[Peer]]:
    """Two versions of a registry of so many nodes that some of them are alike."""
    nodes = draw(st.integers(4, 12))
    before = draw(some.registries(nodes=nodes, clashes=draw(st.booleans())))
    after = before
    if draw(st.booleans()):
        after = renumbered(before, draw(st.sampled_from((1, 2, 1000))))
    if draw(st.booleans()):
        kinds = draw(st.sets(st.sampled_from(sorted(EDITS)), min_size=1, max_size=2))
        after = draw(some.edits(after, sorted(kinds), most=nodes))
    if draw(st.booleans()):
        return draw(untidy(before)), draw(untidy(after))
    return before, after


PREFIXES = (("r4x", "r6x"), ("r4x", "r6x", "s"), ("r", "r2000", "r5000"), ("w",))
"""Links to two nodes have one name for some of these, whatever their SendPorts are."""
GLOBS = ("*", "n1*", "n2", "alpha")


@st.composite
def templates(draw: st.DrawFn) -> Config:
    """What the rait.conf of several nodes have in common."""
    transports = tuple(
        Transport(
            address_family=draw(some.families),
            send_port=1,
            mtu=draw(st.sampled_from((1280, 1420))),
            ifprefix=prefix,
            fwmark=draw(st.sampled_from((0, 54))),
            keepalive=draw(st.sampled_from((0, 25))),
            dynamic_port=draw(st.booleans()),
        )
        for prefix in draw(st.sampled_from(PREFIXES))
    )
    link_name = transports[0].link_name(draw(st.sampled_from((*FREE_PORTS[2:10], 50001))))
    vrf = Isolation(type="vrf", target=draw(st.sampled_from(("vrf0", link_name))), table=7)
    return Config(
        transports=transports,
        isolation=draw(st.sampled_from((Isolation(), Isolation(target="ns", ifgroup=7), vrf))),
        policies=draw(st.just(()) | policies),
        port_range=draw(st.sampled_from(((), ((20000, 20010), (50001, 50003))))),
        max_removals=draw(st.sampled_from((None, 0, 2))),
    )


policies = st.lists(
    st.builds(
        Policy,
        match=st.builds(
            Match,
            name=st.sets(st.sampled_from(GLOBS), max_size=1).map(tuple),
            public_key=st.sets(st.sampled_from((key_of(1), key_of(2))), max_size=1).map(tuple),
            address_family=st.sampled_from(((), ("ip6",))),
            remarks=st.sampled_from(({}, {"site": ("*",)}, {"site": ("x",)})),
        ),
        skip=st.sampled_from((None, None, None, True, False)),
        keepalive=st.sampled_from((None, 5)),
        mtu=st.sampled_from((None, 1300, "auto")),
        fwmark=st.sampled_from((None, 9)),
        addresses=st.sampled_from((None, ("10.0.0.1/24",), ("fe80::{remarks.id}/64", "{name}"))),
        preshared_key_file=st.sampled_from((None, None, None, "/psk")),
        up_command=st.sampled_from((None, ("hook",))),
        babeld_param_add=st.sampled_from((None, "rxcost 96")),
    ),
    min_size=1,
    max_size=3,
).map(tuple)


@st.composite
def known(draw: st.DrawFn, peers: list[Peer], shared: Sequence[Config]) -> dict[str, Config]:
    """The rait.conf of some nodes, of few templates; most agree with what the list says of them."""
    found: dict[str, Config] = {}
    for peer in peers:
        template = draw(st.sampled_from((None, *shared)))
        if template is None:
            continue
        own = {each.address_family: each for each in reversed(peer.endpoints)}
        other = draw(st.sampled_from(peers)) if not draw(st.integers(0, 5)) else peer
        places = {each.address_family: each for each in reversed(other.endpoints)} or own
        found[peer.public_key] = structs.replace(
            template,
            name=draw(st.sampled_from((peer.name, peer.name, other.name, None))),
            transports=tuple(
                structs.replace(transport, send_port=place.send_port, address=place.address)
                for transport in template.transports
                if (place := places.get(transport.address_family))
            ),
        )
    return found


@st.composite
def fleets(draw: st.DrawFn) -> tuple[list[Member], list[Member]]:
    """Two versions of a fleet of which some nodes have a rait.conf that is known."""
    before, after = draw(large_changes())
    shared = draw(st.lists(templates(), max_size=2))
    old = draw(known(before, shared))
    if draw(st.booleans()):
        return fleet_of(before, old), fleet_of(after, old)
    if draw(st.booleans()):
        shared = draw(st.lists(templates(), max_size=2))
    return fleet_of(before, old), fleet_of(after, draw(known(after, shared)))


def told(change: FleetChange) -> object:
    """What a user can be told of a change."""
    nodes = [(n.name, n.count, n.lost, n.links, n.stops, n.events) for n in change.node_changes]
    return change.kept, nodes, [_pair(pair) for pair in change.pairs]


def _pair(pair: PairChange) -> object:
    return pair.nodes, pair.outcome, pair.grades, pair.reasons


def told_alone(old: list[Member], new: list[Member]) -> object:
    """The same where each node plans all there is by itself, and each pair is judged."""
    nodes = matched(old, new)
    registries: Registries = {"old": [m.peer for m in old], "new": [m.peer for m in new]}
    addresses = own_addresses(chain(*registries.values()))
    for group in grouped(nodes, registries):
        group.kind = [group]
    for node in nodes:
        node.plan = partial(planned, node, registries, addresses)
    pairs = list(judged(nodes))
    far = [node for node in nodes if not node.group.is_near]
    kept = len(far) * (len(far) - 1) // 2 + sum(pair.outcome == "kept" for pair in pairs)
    found = [_alone(node, far) for node in nodes if node.planned.events]
    for node in far:
        node.group.is_near = True
    assert {pair.outcome for pair in judged(far)} <= {"kept"}
    return kept, found, [_pair(pair) for pair in pairs if pair.outcome != "kept"]


def _alone(node: FleetNode, far: list[FleetNode]) -> object:
    """What a node is told; those of its links count to nodes that are not near that it asks for."""
    ends, lost = node.planned.ends["old"], node.planned.lost.total()
    links, member = sum(map(len, ends.values())), node.members["old"]
    if member is not None and node in far:
        peers = [each.peer for other in far if (each := other.members["old"]) is not None]
        links -= sum(len(ends.get(peer.public_key, ())) for peer in peers)
        links += count_wanted(member.config, member.peer.public_key, peers)
    limit = most_losses(links, member.config.max_removals if member else None)
    stops = limit is not None and lost > limit
    return node.name, len(node.planned.events), lost, links, stops, node.planned.events


@given(fleets())
def test_nodes_that_are_alike_are_told_what_each_would_be_told_alone(
    versions: tuple[list[Member], list[Member]],
) -> None:
    """Those that are not near a change have the same tunnels to each other as before."""
    alike = fleet_change(*versions)
    assert told(alike) == told_alone(*versions)
    for node in alike.node_changes:
        few = node.some(2)
        assert len(few) == min(2, node.count)
        assert set(few) <= set(node.events)

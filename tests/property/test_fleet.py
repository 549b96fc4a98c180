"""What a whole fleet is told of a change is what each of its nodes would find out by itself."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from rait.domain.backend import Observation, ObservedLink
from rait.domain.change import Goal
from rait.domain.config.schema import Peer
from rait.domain.fleet import FleetChange, fleet_change
from rait.domain.fleet_nodes import fleet_of, implied_config
from rait.domain.history import LastKnown
from rait.domain.ownership import Scope
from rait.domain.reconcile import reconcile
from rait.testing.laws import plan_of
from rait.testing.strategies import EDITS
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


def told(change: FleetChange) -> object:
    """All that a user can be told of a change."""
    nodes = [(n.name, n.count, n.lost, n.links, n.stops, n.events) for n in change.node_changes]
    pairs = [(p.nodes, p.outcome, p.grades, p.reasons) for p in change.pairs]
    return change.nodes, change.kept, change.order, pairs, nodes


@given(large_changes())
def test_nodes_that_are_alike_are_told_what_each_would_be_told_alone(
    versions: tuple[list[Peer], list[Peer]],
) -> None:
    """A node whose rait.conf is known is looked at by itself, and has the same links."""
    exact = [{peer.public_key: implied_config(peer) for peer in each} for each in versions]
    alike = fleet_change(*map(fleet_of, versions))
    alone = fleet_change(*map(fleet_of, versions, exact))
    assert told(alike) == told(alone)
    for node in alike.node_changes:
        assert len(node.events) == node.count
        few = node.some(2)
        assert len(few) == min(2, node.count)
        assert set(few) <= set(node.events)

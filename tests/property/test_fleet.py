"""What a whole fleet is told of a change is what each of its nodes would find out by itself."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from rait.domain.backend import Observation, ObservedLink
from rait.domain.config.schema import Peer
from rait.domain.fleet import fleet_change, fleet_of, implied_config
from rait.domain.history import LastKnown
from rait.domain.ownership import Scope
from rait.domain.reconcile import Goal, reconcile
from rait.testing.laws import plan_of
from tests.property import strategies as some

registries = some.registries(clashes=True)


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


@given(st.data())
def test_nodes_that_are_alike_are_told_what_each_would_be_told_alone(data: st.DataObject) -> None:
    """A node whose rait.conf is known is looked at by itself, and has the same links."""
    before = data.draw(registries)
    after = data.draw(edits(before))
    exact = [{p.public_key: implied_config(p) for p in each} for each in (before, after)]
    alike = fleet_change(fleet_of(before), fleet_of(after))
    alone = fleet_change(fleet_of(before, exact[0]), fleet_of(after, exact[1]))
    assert [(p.nodes, p.outcome, p.grades) for p in alike.pairs] == [
        (p.nodes, p.outcome, p.grades) for p in alone.pairs
    ]
    assert alike.order == alone.order

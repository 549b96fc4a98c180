"""Of VRFs and rules only ours are removed, and a run leaves what was wanted, whatever was there."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from rait.domain.backend import Observation, ObservedVrf
from rait.domain.change import Change, Goal
from rait.domain.diff import diff
from rait.domain.events import Event, RuleAdded, RuleRemoved, VrfAdded, VrfRemoved, replay
from rait.domain.history import LastKnown
from rait.domain.ownership import Scope
from rait.domain.reconcile import reconcile
from rait.domain.topology import EMPTY, Rule, Topology

SCOPE = Scope(public_key="our key", netns="", ifgroup=54)
VRFS = ("mesh", "other", "under")
TABLES = (100, 200)
GUESTS = ("eth0", "eth1")
RULES = tuple(Rule(family, 54, table, 900) for family in ("ip4", "ip6") for table in TABLES)

vrfs = st.dictionaries(st.sampled_from(VRFS), st.sampled_from(TABLES))
rules = st.sets(st.sampled_from(RULES)).map(lambda found: {rule.name: rule for rule in found})
topologies = st.builds(Topology, vrfs=vrfs, rules=rules)
memories = st.builds(
    LastKnown,
    topology=topologies,
    leftover_vrfs=vrfs,
    leftover_rules=rules.map(frozenset),
)


@st.composite
def observations(draw: st.DrawFn) -> Observation:
    """A namespace with any VRFs and rules, and with interfaces of others in the VRFs."""
    found = draw(vrfs)
    members: dict[str, list[str]] = {name: [] for name in found}
    for guest in GUESTS:
        home = draw(st.sampled_from((None, *found)))
        if home is not None:
            members[home].append(guest)
    observed = {name: ObservedVrf(table, tuple(members[name])) for name, table in found.items()}
    others = dict.fromkeys(observed, "vrf") | dict.fromkeys(GUESTS, "")
    taken = draw(st.sampled_from((None, *VRFS)))
    if taken is not None:
        others.setdefault(taken, "bridge")
    return Observation(now=0, vrfs=observed, rules=draw(rules), others=others)


def carried_out(observation: Observation, events: tuple[Event, ...]) -> Observation:
    """The namespace after the events, which the kernel must be able to carry out one by one."""
    found, marked = dict(observation.vrfs), dict(observation.rules)
    others = dict(observation.others)
    for event in events:
        match event:
            case VrfAdded(name, table):
                assert name not in others, "EEXIST"
                found[name], others[name] = ObservedVrf(table), "vrf"
            case VrfRemoved(name, table):
                assert found[name] == ObservedVrf(table), "and no interface is let out by it"
                del found[name], others[name]
            case RuleAdded(rule):
                assert rule.name not in marked, "EEXIST"
                marked[rule.name] = rule
            case RuleRemoved(rule):
                del marked[rule.name]
    return structs.replace(observation, vrfs=found, rules=marked, others=others)


def is_forbidden(change: Change) -> bool:
    return any(p.severity == "error" and p.link is None for p in change.problems)


def known(memory: LastKnown) -> set[str]:
    topology = memory.topology
    return {*topology.vrfs, *topology.rules, *memory.leftover_vrfs, *memory.leftover_rules}


@given(observations(), topologies, memories)
def test_a_run_leaves_what_was_wanted_and_the_next_has_nothing_to_do(
    there: Observation, desired: Topology, memory: LastKnown
) -> None:
    change = reconcile(there, Goal(desired), memory, SCOPE)
    if is_forbidden(change):
        return
    events = change.events
    then = carried_out(there, events)
    for name, table in desired.vrfs.items():
        assert then.vrfs[name].table == table
    assert desired.rules.keys() <= then.rules.keys()
    remembered = replay(replay(memory.topology, diff(memory.topology, change.observed)), events)
    again = reconcile(then, Goal(desired), LastKnown(topology=remembered), SCOPE)
    assert again.events == ()
    assert again.observed == remembered, "the journal tells what there is of ours"


@given(observations(), topologies, memories)
def test_only_ours_is_removed(there: Observation, desired: Topology, memory: LastKnown) -> None:
    change = reconcile(there, Goal(desired), memory, SCOPE)
    if is_forbidden(change):
        return
    gone = [event.name for event in change.events if isinstance(event, VrfRemoved | RuleRemoved)]
    assert set(gone) <= known(memory)
    assert not set(gone) & (desired.vrfs.keys() | desired.rules.keys())
    warned = " ".join(problem.message for problem in change.problems)
    for name, vrf in there.vrfs.items():
        if name in change.observed.vrfs and name not in desired.vrfs and name not in gone:
            assert vrf.members
            assert all(member in warned for member in vrf.members)


@given(observations(), memories)
def test_down_and_up_leave_what_is_of_others_as_it_was(
    there: Observation, memory: LastKnown
) -> None:
    change = reconcile(there, Goal(EMPTY), memory, SCOPE)
    then = carried_out(there, change.events)
    for name, vrf in there.vrfs.items():
        if name not in change.observed.vrfs:
            assert then.vrfs[name] == vrf
    for name in there.rules.keys() - change.observed.rules.keys():
        assert name in then.rules


@given(observations(), topologies)
def test_it_is_forbidden_just_where_a_name_is_taken_by_something_else(
    there: Observation, desired: Topology
) -> None:
    change = reconcile(there, Goal(desired), LastKnown(), SCOPE)
    taken = [
        name
        for name, table in desired.vrfs.items()
        if name in there.others and (name not in there.vrfs or there.vrfs[name].table != table)
    ]
    assert is_forbidden(change) == bool(taken)

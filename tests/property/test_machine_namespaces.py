"""However namespaces come and go, no link is forgotten that may be there, nor is one made twice.

The state machine of test_machine.py, on a machine whose target namespace is deleted, made anew and
used again, and may be out of sight with links in it.
"""

from __future__ import annotations

import copy

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import invariant, precondition, rule
from msgspec import structs

from rait.domain.backend import Observation
from rait.domain.config.schema import Peer, PeerEndpoint, Policy, Transport
from rait.domain.events import LinkAdded
from rait.domain.history import LastKnown
from rait.domain.topology import EMPTY, Endpoint, Topology
from rait.testing.machine import Wire
from tests.property import strategies as some
from tests.property.machine_namespaces import MachineWithNamespaces
from tests.property.test_machine import Endpoints, OneNode, Run, anyone

fates = st.sampled_from(("gone", "in sight", "in sight", "hidden"))
"""What becomes of a namespace that loses its name."""


class NamespacesComeAndGo(OneNode):
    machine: MachineWithNamespaces

    def __init__(self) -> None:
        super().__init__()
        self.foreign: dict[str, dict[str, Wire | str]] = {}
        """What is not ours in former namespaces, as it was left there."""
        self.known: dict[str, set[str]] = {}
        """The links in former namespaces that the journal knew when these lost their name."""
        self.torn: set[str] = set()
        """Links that a killed run was remaking in another namespace: either place may have them.

        If nobody can look at either, only one of the two can be remembered.
        """

    other_configuration_s_turn = None
    """That another configuration's links are not ours, test_machine.py shows."""

    def new_machine(self, seed: int) -> MachineWithNamespaces:
        machine = MachineWithNamespaces(seed)
        self.arrive(machine)
        return machine

    # What becomes of namespaces

    @rule(fate=fates)
    def target_is_made_anew(self, fate: str) -> None:
        self.leave(fate)
        self.machine.make()
        self.arrive(self.machine)

    @rule(fate=fates)
    def target_is_deleted_and_up_makes_it(self, fate: str) -> None:
        self.leave(fate)
        self.arrive(self.machine)
        self.finish(self.begin_run(self.plan()))
        self.make_if_missing()

    @rule(fate=fates)
    def target_is_deleted_before_down(self, fate: str) -> None:
        self.leave(fate)
        self.arrive(self.machine)
        self.finish(self.begin_run(EMPTY))
        self.make_if_missing()

    @precondition(lambda self: self.machine.former)
    @rule(who=anyone)
    def former_target_is_found_or_lost(self, who: int) -> None:
        instance = self.one_of_former(who)
        there = self.machine.former[instance]
        there.in_sight = not there.in_sight
        self.touched |= self.remembered_in(instance) | there.wires.keys()

    @precondition(lambda self: self.machine.former)
    @rule(who=anyone)
    def former_target_is_destroyed(self, who: int) -> None:
        instance = self.one_of_former(who)
        self.touched |= self.remembered_in(instance)
        del self.machine.former[instance]
        self.foreign.pop(instance)
        self.known.pop(instance)

    @precondition(lambda self: self.machine.former)
    @rule(who=anyone)
    def former_target_gets_its_name_back(self, who: int) -> None:
        instance = self.one_of_former(who)
        self.touched |= self.remembered_in(instance) | self.machine.former[instance].wires.keys()
        self.note_what_is_left("in sight")
        self.machine.take_back(instance)
        self.not_ours = self.foreign.pop(instance)
        self.known.pop(instance)
        self.arrive(self.machine)

    @rule()
    def machine_restarts(self) -> None:
        super().machine_restarts()
        memory = self.journal.last_known(self.me)
        self.touched |= memory.topology.links.keys() | memory.leftover_links.keys()
        self.machine.restart()
        self.foreign, self.known = {}, {}
        self.arrive(self.machine)

    def make_if_missing(self) -> None:
        """A run with nothing to make there makes it all the same, or somebody else does."""
        if not self.machine.instance:
            self.machine.make()
            self.arrive(self.machine)

    def leave(self, fate: str) -> None:
        self.note_what_is_left(fate)
        self.machine.delete(kept=fate != "gone", in_sight=fate == "in sight")
        self.not_ours = {}

    def note_what_is_left(self, fate: str) -> None:
        instance = self.machine.instance
        if fate == "gone":
            self.touched |= self.machine.wires.keys()
            return
        self.foreign[instance] = copy.copy(self.not_ours)
        self.known[instance] = self.remembered_in(instance) & {*self.ours()}
        memory = self.journal.last_known(self.me)
        self.torn |= {
            name
            for name, link in memory.leftover_links.items()
            if name in memory.topology.links and memory.topology.links[name].origin != link.origin
        }

    def arrive(self, machine: MachineWithNamespaces) -> None:
        origin = structs.replace(self.node.origin, instance=machine.instance)
        self.node = structs.replace(self.node, origin=origin)

    # What a run does about it

    def observe(self, memory: LastKnown) -> Observation:
        links = (*memory.topology.links.values(), *memory.leftover_links.values())
        return self.machine.observe_among({link.origin.instance for link in links})

    def prepare(self, run: Run) -> Run:
        if self.machine.instance or not any(isinstance(e, LinkAdded) for e in run.events):
            return run
        self.machine.make()
        self.arrive(self.machine)
        change = run.change.placed({some.NETNS: self.machine.instance})
        desired = self.born_today(run.desired)
        if run.desired is self.planned.topology:
            self.planned = structs.replace(self.planned, topology=desired)
        return Run(desired, change)

    def born_today(self, goal: Topology) -> Topology:
        instance = self.machine.instance
        links = {
            name: structs.replace(link, origin=structs.replace(link.origin, instance=instance))
            for name, link in goal.links.items()
        }
        return structs.replace(goal, links=links)

    def unreachable(self) -> set[str]:
        hidden = {i for i, there in self.machine.former.items() if not there.in_sight}
        return {name for instance in hidden for name in self.remembered_in(instance)}

    def wires_of_ours(self) -> list[Wire]:
        far = [
            there.wires[name]
            for instance, there in self.machine.former.items()
            for name in sorted(self.ours_in(instance))
        ]
        return [*super().wires_of_ours(), *far]

    def port_of(self, name: str) -> int:
        if name in self.machine.wires:
            return super().port_of(name)
        places = (there.wires for there in self.machine.former.values())
        return next(wires[name].link.device.listen_port for wires in places if name in wires)

    def check_links(self, run: Run, failed: set[str], known: Endpoints) -> None:
        super().check_links(run, failed, known)
        # A link stays where it is while something else has its name in the target.
        kept_out = failed | {problem.link for problem in run.change.problems}
        for instance, there in self.machine.former.items():
            if there.in_sight:
                left = self.known[instance] & self.ours_in(instance)
                assert left <= kept_out | self.unreachable(), "they should be here, or nowhere"

    @invariant()
    def no_link_is_forgotten(self) -> None:
        for instance, names in self.known.items():
            assert names & self.ours_in(instance) - self.torn <= self.remembered_in(instance)

    @invariant()
    def what_is_not_ours_elsewhere_is_as_it_was(self) -> None:
        for instance, things in self.foreign.items():
            there = self.machine.former[instance]
            for name, thing in things.items():
                where = there.others if isinstance(thing, str) else there.wires
                assert where[name] == thing

    # Names

    def one_of_former(self, who: int) -> str:
        instances = sorted(self.machine.former)
        return instances[who % len(instances)]

    def ours_in(self, instance: str) -> set[str]:
        wires = self.machine.former[instance].wires
        return {name for name in wires if name not in self.foreign[instance]}

    def remembered_in(self, instance: str) -> set[str]:
        memory = self.journal.last_known(self.me)
        links = (*memory.topology.links.values(), *memory.leftover_links.values())
        return {link.name for link in links if link.origin.instance == instance}


def one_passive_peer() -> NamespacesComeAndGo:
    """A node with one link of a random port to a peer that has to contact it."""
    node = NamespacesComeAndGo()
    transport = Transport(
        address_family="ip4", send_port=50001, mtu=1280, ifprefix="r4x", dynamic_port=True
    )
    peer = Peer(
        public_key=some.PEER_KEYS[0],
        endpoints=(PeerEndpoint(address_family="ip4", send_port=50001),),
    )
    node.begin(seed=0, found=[transport], registry=[peer], addresses={}, commands=Policy())
    return node


def test_a_link_whose_name_another_has_in_the_target_stays_where_it_is() -> None:
    node = one_passive_peer()
    node.sync(blind=False, refused={})
    node.someone_takes_a_link(who=0)
    node.target_is_deleted_and_up_makes_it(fate="in sight")
    node.former_target_gets_its_name_back(who=0)
    node.sync_twice()
    node.no_link_is_forgotten()


def test_a_new_link_does_not_take_the_endpoint_of_one_that_is_not_ours_any_more() -> None:
    node = one_passive_peer()
    node.sync(blind=False, refused={})
    node.peer_is_heard(endpoint=Endpoint("192.0.2.1", 1000), who=0)
    node.someone_takes_a_link(who=0)
    node.target_is_deleted_and_up_makes_it(fate="in sight")
    assert [peer.endpoint for wire in node.machine.wires.values() for peer in wire.link.peers] == [
        None
    ]


TestNamespacesComeAndGo = NamespacesComeAndGo.TestCase
TestNamespacesComeAndGo.settings = settings(max_examples=max(40, settings().max_examples // 2))

"""Who has a port keeps it, whatever comes into the registry and wherever in the list."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs

from rait.domain.change import Change, Goal
from rait.domain.config.schema import Config, Isolation, Peer
from rait.domain.endpoints import depart
from rait.domain.events import Event, LinkAdded, LinkRemoved, PeerRemoved, replay
from rait.domain.history import LastKnown
from rait.domain.ownership import Scope
from rait.domain.plan import Addresses, Plan, plan
from rait.domain.reconcile import reconcile
from rait.domain.topology import EMPTY, Link, Topology
from tests.property import strategies as some
from tests.property.machine import Machine

thousand = settings(max_examples=max(1000, settings().max_examples))
SCOPE = Scope(public_key=some.OWN_KEY, netns=some.NETNS, ifgroup=some.IFGROUP)
configs = st.builds(
    Config,
    transports=some.transport_sets,
    isolation=st.just(Isolation(ifgroup=some.IFGROUP, target=some.NETNS)),
    name=st.sampled_from((None, "gate")),
)


def never(_: int) -> bool:
    return False


class RunningNode:
    """A node with its machine and what its journal knows."""

    def __init__(self, config: Config, addresses: Addresses, seed: int) -> None:
        self.config, self.addresses = config, addresses
        self.machine = Machine(seed)
        self.known = LastKnown()

    def plan(self, registry: Sequence[Peer]) -> Plan:
        known = self.known
        return plan(
            self.config, some.node, registry, self.addresses, known.topology, known.departed
        )

    def decide(self, registry: Sequence[Peer]) -> Change:
        planned = self.plan(registry)
        goal = Goal(planned.topology, planned.names)
        return reconcile(self.machine.observe(), goal, self.known, SCOPE)

    def carry_out(self, change: Change, fails: Callable[[int], bool] = never) -> None:
        outcomes = self.machine.apply(change.events, fails)
        done = [change.events[o.index] for o in outcomes if o.error is None]
        happened = (*change.drift, *done)
        topology = replay(self.known.topology, happened)
        departed = depart(self.known.departed, happened)
        self.known = LastKnown(topology=topology, departed=departed)

    def up(self, registry: Sequence[Peer]) -> tuple[Event, ...]:
        """Run until there is nothing to do: a port may be one that the kernel chose for another."""
        events: tuple[Event, ...] = ()
        for _ in range(5):
            change = self.decide(registry)
            if not change.events:
                return events
            events += change.events
            self.carry_out(change)
        raise AssertionError("it does not come to rest")

    def down(self) -> None:
        self.carry_out(reconcile(self.machine.observe(), Goal(EMPTY), self.known, SCOPE))

    def restart(self) -> None:
        self.machine.wires.clear()


def peers_of(topology: Topology) -> dict[str, str]:
    return {name: link.peers[0].public_key for name, link in topology.links.items()}


def merged(registry: list[Peer], newcomers: list[Peer]) -> list[Peer]:
    """The registry with the newcomers, whose endpoints come first where a key is there already."""
    by_key = {peer.public_key: peer for peer in registry}
    for new in newcomers:
        old = by_key.get(new.public_key)
        both = new if old is None else structs.replace(old, endpoints=new.endpoints + old.endpoints)
        by_key[new.public_key] = both
    return list(by_key.values())


def unchanged(registry: list[Peer], after: list[Peer]) -> set[str]:
    """The keys whose endpoints are still in the registry, whatever else is."""
    now = {peer.public_key: peer.endpoints for peer in after}
    return {p.public_key for p in registry if {*p.endpoints} <= {*now.get(p.public_key, ())}}


@st.composite
def changed(draw: st.DrawFn, registry: list[Peer]) -> list[Peer]:
    """The registry after some peers left and others came, in any order."""
    left = draw(st.sets(st.sampled_from([p.public_key for p in registry]))) if registry else set()
    stay = [peer for peer in registry if peer.public_key not in left]
    return draw(st.permutations(merged(stay, draw(some.peers_lists()))))


@thousand
@given(configs, some.peers_lists(), some.addresses, st.integers(0, 99), st.data())
def test_who_has_a_port_keeps_it(
    config: Config, registry: list[Peer], addresses: Addresses, seed: int, data: st.DataObject
) -> None:
    node = RunningNode(config, addresses, seed)
    node.up(registry)
    before = node.known.topology
    wires = dict(node.machine.wires)
    after = data.draw(changed(registry))
    listed = unchanged(registry, after)
    incumbents = {name: link for name, link in before.links.items() if _key(link) in listed}
    planned = node.plan(after)
    events = node.up(after)
    ended = {e.name for e in events if isinstance(e, LinkAdded | LinkRemoved | PeerRemoved)}
    assert not ended & incumbents.keys()
    for name, link in incumbents.items():
        assert node.machine.wires[name] is wires[name]
        assert node.known.topology.links[name].peers == link.peers
    check_reports(config, planned, after)


@given(
    configs,
    some.peers_lists(),
    some.addresses,
    st.sampled_from(("restart", "failed start", "down", "down and restart")),
    st.data(),
)
def test_and_gets_it_back(
    config: Config, registry: list[Peer], addresses: Addresses, between: str, data: st.DataObject
) -> None:
    node = RunningNode(config, addresses, 0)
    node.up(registry)
    before = peers_of(node.known.topology)
    after = data.draw(changed(registry))
    if "down" in between:
        node.down()
    if "start" in between:
        node.restart()
    if "failed" in between:
        node.carry_out(node.decide(after), lambda _: True)
        assert not node.known.topology.links
    listed = unchanged(registry, after)
    node.up(after)
    now = peers_of(node.known.topology)
    for name, key in before.items():
        if key in listed:
            assert now[name] == key


@given(configs, some.peers_lists(), some.addresses, st.data())
def test_the_order_of_others_is_nothing_to_those_that_are_there(
    config: Config, registry: list[Peer], addresses: Addresses, data: st.DataObject
) -> None:
    there = plan(config, some.node, registry, addresses).topology
    after = data.draw(changed(registry))
    listed = unchanged(registry, after)
    one, other = (
        plan(config, some.node, order, addresses, there)
        for order in (after, data.draw(st.permutations(after)))
    )
    for name, link in there.links.items():
        if _key(link) in listed:
            assert one.topology.links[name] == other.topology.links[name]
    assert one == plan(config, some.node, after, addresses, there)


def check_reports(config: Config, planned: Plan, registry: list[Peer]) -> None:
    """Each peer without a link is named, as a conflict if it is one; and nobody who has a link."""
    links = {
        (_key(link), transport.ifprefix)
        for link in planned.topology.links.values()
        for transport in config.transports
        if link.name.removeprefix(transport.ifprefix).isdecimal()
    }
    conflicts = [p for p in planned.problems if p.severity == "error"]
    for transport in config.transports:
        told = {
            entry.public_key
            for problem in conflicts
            for entry in problem.skipped
            if f"{transport.ifprefix}{entry.send_port}" == problem.link
        }
        for peer in registry:
            key, family = peer.public_key, transport.address_family
            wanted = [e for e in peer.endpoints if e.address_family == family]
            if key == some.OWN_KEY or not wanted or (key, transport.ifprefix) in links:
                assert key not in told
                continue
            assert any(key in problem.message for problem in planned.problems)
            is_own = config.name is not None and peer.name == config.name
            too_long = len(f"{transport.ifprefix}50001".encode()) > 15
            in_its_own_way = any(
                _key(link) == key and link.device.listen_port in {e.send_port for e in wanted}
                for link in planned.topology.links.values()
            )
            assert key in told or is_own or too_long or in_its_own_way


def _key(link: Link) -> str:
    return link.peers[0].public_key

"""A fleet whose nodes sync, lag behind, crash, roll back and roam, as a state machine."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from rait.domain.change import Change, Goal
from rait.domain.config.schema import Peer
from rait.domain.events import replay
from rait.domain.fleet_nodes import Member, end_of, fleet_of, matched
from rait.domain.history import LastKnown
from rait.domain.ownership import scope_of
from rait.domain.pairs import End, grade
from rait.domain.reconcile import reconcile
from rait.domain.topology import Endpoint, Topology
from rait.testing.laws import Fleet, carry_out, decide, plan_of
from rait.testing.machine import Machine
from rait.testing.strategies import edits, registries


class Host:
    """One node: its machine, what its journal knows, and the version of the fleet that it runs.

    ``wanted`` is what the newest registry has of it, None if it is not in there any more. It is
    ``settled`` if its last run was a sync that came to its end.
    """

    def __init__(self, wanted: Member | None) -> None:
        self.machine = Machine(seed=0)
        self.known = LastKnown()
        self.wanted = wanted
        self.runs: Fleet = ()
        self.me: Member | None = None
        self.before: Topology | None = None
        self.settled = False

    def decide(self, fleet: Fleet) -> Change:
        """What a sync would do now."""
        assert self.wanted is not None
        planned = plan_of(self.wanted, fleet, self.known.topology)
        return decide(self.machine, self.wanted, planned, self.known)

    def carry_out(self, change: Change) -> None:
        """Carry a change out to its end; nothing of it may fail."""
        assert self.me is not None
        self.known = carry_out(self.machine, self.me, change)
        self.before = change.observed

    def ends(self) -> Mapping[str, Sequence[End]]:
        """The ends of its tunnels, by the public key of the far side, as its journal has them."""
        found: dict[str, list[End]] = {}
        assert self.me is not None
        for link in self.known.topology.links.values():
            end = end_of(link, self.me, fresh=False)
            found.setdefault(end.peer, []).append(end)
        return found


class FleetMachine(RuleBasedStateMachine):
    """Nodes of one registry, each of which runs a version of it of its own.

    ``FleetMachine.TestCase`` is a test. A subclass may have a ``start`` of its own, which calls
    ``begin``, and add rules and invariants.
    """

    hosts: list[Host]
    fleet: Fleet
    peers: list[Peer]

    @initialize(peers=registries(nodes=3))
    def start(self, peers: list[Peer]) -> None:
        self.begin(peers)

    def begin(self, peers: Sequence[Peer]) -> None:
        """Begin with a registry that no node has read yet."""
        self.peers, self.fleet = list(peers), fleet_of(peers)
        self.hosts = [Host(member) for member in self.fleet]

    @rule(data=st.data())
    def edit(self, data: st.DataObject) -> None:
        """The registry changes; the nodes lag behind until they sync."""
        self.peers = data.draw(edits(self.peers))
        fleet = fleet_of(self.peers)
        hosts = {id(host.wanted): host for host in self.hosts if host.wanted is not None}
        for pair in matched(self.fleet, fleet):
            old, new = pair.members["old"], pair.members["new"]
            if old is None:
                self.hosts.append(Host(new))
            else:
                hosts[id(old)].wanted = new
        self.fleet = fleet

    @precondition(lambda self: self.fleet)
    @rule(data=st.data())
    def sync(self, data: st.DataObject) -> None:
        """A node runs `rait up`; a second one would do nothing."""
        host = data.draw(st.sampled_from([h for h in self.hosts if h.wanted is not None]))
        change = host.decide(self.fleet)
        host.me, host.runs, host.settled = host.wanted, self.fleet, True
        host.carry_out(change)
        again = host.decide(self.fleet)
        assert (again.drift, again.events) == ((), ())

    @precondition(lambda self: self.fleet)
    @rule(data=st.data())
    def crash(self, data: st.DataObject) -> None:
        """A sync is killed before one of its events."""
        host = data.draw(st.sampled_from([h for h in self.hosts if h.wanted is not None]))
        change = host.decide(self.fleet)
        if not change.events:
            return
        at = data.draw(st.integers(0, len(change.events) - 1))
        done, left = change.events[:at], change.events[at:]
        host.machine.apply(done)
        known = replay(host.known.topology, (*change.drift, *done))
        host.known = LastKnown(topology=known).having_leftover(left)
        host.before, host.settled = None, False

    @precondition(lambda self: any(host.before is not None for host in self.hosts))
    @rule(data=st.data())
    def roll_back(self, data: st.DataObject) -> None:
        """A node takes its last sync back, and then has the links that it had before."""
        host = data.draw(st.sampled_from([h for h in self.hosts if h.before is not None]))
        assert host.me is not None
        assert host.before is not None
        own = {link.device.public_key for link in host.before.links.values()}
        if own - {host.me.peer.public_key}:
            return  # rait refuses to: the former private key is gone
        scope = scope_of(host.me.config, host.me.peer.public_key)
        goal, then = Goal(host.before), host.before
        host.carry_out(reconcile(host.machine.observe(), goal, host.known, scope))
        assert host.known.topology.links.keys() == then.links.keys()
        host.before, host.settled = None, False

    @precondition(lambda self: any(host.machine.wires for host in self.hosts))
    @rule(data=st.data(), port=st.integers(1024, 1034))
    def roam(self, data: st.DataObject, port: int) -> None:
        """A packet of a peer comes from elsewhere, and WireGuard answers to there."""
        host = data.draw(st.sampled_from([h for h in self.hosts if h.machine.wires]))
        wire = host.machine.wires[data.draw(st.sampled_from(sorted(host.machine.wires)))]
        for peer in wire.link.peers:
            where = Endpoint("198.51.100.77", port)
            host.machine.packet_from(wire.link.name, peer.public_key, where)

    @rule(seconds=st.sampled_from([5, 200]))
    def time_passes(self, seconds: int) -> None:
        """Sessions grow old, and die after 180 s."""
        for host in self.hosts:
            host.machine.now += seconds

    @invariant()
    def no_two_links_of_a_node_listen_on_one_port(self) -> None:
        for host in getattr(self, "hosts", ()):
            ports = [
                wire.link.device.listen_port
                for wire in host.machine.wires.values()
                if wire.link.settings.up
            ]
            assert len(ports) == len(set(ports))

    @invariant()
    def nodes_that_run_the_newest_version_reach_each_other(self) -> None:
        """Of two such nodes, if one has an address of the other in a family of both."""
        current = [h for h in getattr(self, "hosts", ()) if h.settled and h.runs is self.fleet]
        for index, one in enumerate(current):
            for other in current[index + 1 :]:
                assert one.me is not None
                assert other.me is not None
                if not _can_reach(one.me.peer, other.me.peer):
                    continue
                there = one.ends().get(other.me.peer.public_key, ())
                back = other.ends().get(one.me.peer.public_key, ())
                assert any(grade(end, far) != "never" for end in there for far in back)


def _can_reach(one: Peer, other: Peer) -> bool:
    """Whether one of two nodes has an address of the other, in a family of both.

    Nodes of one name take each other for themselves.
    """
    if one.name is not None and one.name == other.name:
        return False
    families = {endpoint.address_family for endpoint in one.endpoints}
    both = families.intersection(endpoint.address_family for endpoint in other.endpoints)
    return any(
        endpoint.address is not None and endpoint.address_family in both
        for endpoint in (*one.endpoints, *other.endpoints)
    )

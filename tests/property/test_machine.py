"""Whatever happens to a machine and however runs end, a sync makes it what the plan says.

A state machine changes configuration, registry and machine at random, has runs fail and be killed
at any event, and looks at the machine after each run as a whole.
"""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)
from msgspec import Struct, structs

from rait.domain.backend import REJECT_AFTER_SECONDS, Outcome
from rait.domain.config import PRIVATE_GROUPS, Config, Isolation, Transport
from rait.domain.diff import diff
from rait.domain.events import Event
from rait.domain.history import Memory, RunHeader, RunRecord, Snapshot, remember
from rait.domain.peers import Peer
from rait.domain.plan import Addresses, plan
from rait.domain.settle import Scope, Settled, settle
from rait.domain.topology import (
    EMPTY,
    Device,
    Endpoint,
    Link,
    LinkPeer,
    LinkSettings,
    Topology,
)
from tests.property import strategies as some
from tests.property.machine_model import MachineModel, RefusedError, Wire

FOREIGN_GROUP = 7
STRANGE_KEY = "a key from elsewhere"
PREFIXES = ("r4x", "r6x", "w")
LINK_NAMES = tuple(f"{prefix}{port}" for prefix in PREFIXES for port in some.PORTS[:3])
HEADER = RunHeader(scope="", command="up", version="", uid=0, started_at=0, public_key=some.OWN_KEY)

transports = st.sampled_from(
    [
        Transport(
            address_family=family,
            send_port=port,
            mtu=mtu,
            ifprefix=prefix,
            fwmark=fwmark,
            dynamic_port=dynamic,
        )
        for family in some.FAMILIES
        for port in some.PORTS
        for mtu, fwmark in ((1280, 0), (1420, 54))
        for prefix in PREFIXES
        for dynamic in (False, True)
    ]
)
transport_sets = st.lists(transports, min_size=1, max_size=2, unique_by=lambda t: t.ifprefix)
registries = some.registries() | some.calm_registries()
anyone = st.integers(0, 99)
"""Picks one of however many there are."""

Endpoints = dict[tuple[str, str], Endpoint | None]
"""By link name and peer key."""


class Journal:
    """What the journal keeps of each run, and what it remembers of them all."""

    def __init__(self) -> None:
        self._runs: list[RunRecord] = []

    def memory(self) -> Memory:
        return remember(Snapshot(EMPTY, some.OWN_KEY), self._runs)

    def write(
        self,
        drift: tuple[Event, ...],
        events: tuple[Event, ...],
        outcomes: list[Outcome],
        finished: bool,
    ) -> None:
        start = self._runs[-1].last_id + 1 if self._runs else 1
        self._runs.append(
            RunRecord(
                id=start,
                last_id=start + len(drift) + len(events) + len(outcomes) + finished,
                header=HEADER,
                noticed=drift,
                intended=events,
                outcomes={outcome.index: outcome for outcome in outcomes},
                status="done" if finished else None,
            )
        )


class Run(Struct):
    """What a run decided before it did anything."""

    desired: Topology
    settled: Settled
    drift: tuple[Event, ...]
    events: tuple[Event, ...]


class OneNode(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.registry: list[Peer] = []
        self.transports: tuple[Transport, ...] = ()
        self.addresses: Addresses = {}
        self.isolation = Isolation(ifgroup=54)
        self.node = some.node
        self.journal = Journal()
        self.killed = False
        self.not_ours: dict[str, Wire | str] = {}

    @initialize(
        seed=st.integers(0, 999),
        found=transport_sets,
        registry=registries,
        addresses=some.addresses,
    )
    def begin(
        self, seed: int, found: list[Transport], registry: list[Peer], addresses: Addresses
    ) -> None:
        self.machine = MachineModel(seed)
        self.transports = tuple(found)
        self.registry = registry
        self.addresses = addresses

    # What a person changes

    @rule(found=transport_sets)
    def change_transports(self, found: list[Transport]) -> None:
        self.transports = tuple(found)

    @rule(registry=registries)
    def change_registry(self, registry: list[Peer]) -> None:
        self.registry = registry

    @rule(peer=some.peers())
    def change_one_peer(self, peer: Peer) -> None:
        others = [p for p in self.registry if p.public_key != peer.public_key]
        self.registry = [*others, peer]

    @rule(addresses=some.addresses)
    def change_names(self, addresses: Addresses) -> None:
        self.addresses = addresses

    @rule(transit=st.sampled_from(some.TRANSITS))
    def change_transit(self, transit: str) -> None:
        origin = structs.replace(self.node.origin, transit=transit)
        self.node = structs.replace(self.node, origin=origin)

    @rule()
    def change_backend(self) -> None:
        other = "userspace" if self.node.origin.backend == "kernel" else "kernel"
        origin = structs.replace(self.node.origin, backend=other)
        self.node = structs.replace(self.node, origin=origin)

    @rule(key=st.sampled_from((some.OWN_KEY, "second key")))
    def change_key(self, key: str) -> None:
        self.node = structs.replace(self.node, public_key=key)

    @precondition(lambda self: not self.killed)
    @rule(group=st.sampled_from((54, 55)))
    def change_group(self, group: int) -> None:
        """Not right after a run was killed: what it left would be in a group that nobody knows.

        Nor when a link has another's key: out of our group, only the key tells that it is ours.
        """
        links = [self.machine.wires[name].link for name in self.ours()]
        if all(link.device.public_key != STRANGE_KEY for link in links):
            self.isolation = Isolation(ifgroup=group)

    # What happens on the machine meanwhile

    @rule(seconds=st.sampled_from((1, 100, REJECT_AFTER_SECONDS, 4000)))
    def time_passes(self, seconds: int) -> None:
        self.machine.now += seconds

    @rule(who=anyone, endpoint=st.none() | some.underlay)
    def peer_is_heard(self, who: int, endpoint: Endpoint | None) -> None:
        """A handshake, from where the peer was or from elsewhere."""
        pairs = [(n, p.public_key) for n in self.ours() for p in self.machine.wires[n].link.peers]
        if pairs:
            self.machine.packet_from(*pairs[who % len(pairs)], endpoint)

    @rule(
        who=anyone,
        change=st.sampled_from(
            (
                {"mtu": 1300},
                {"master": "vrf9"},
                {"address": None},
                {"address": "fe80::77/64"},
                {"up": False},
            )
        ),
    )
    def someone_changes_an_interface(self, who: int, change: dict[str, object]) -> None:
        if name := self.one_of_ours(who):
            self.machine.change_settings(name, **change)

    @rule(
        who=anyone,
        change=st.builds(lambda port: {"listen_port": port}, some.ports)
        | st.sampled_from(({"fwmark": 99}, {"public_key": STRANGE_KEY})),
    )
    def someone_changes_a_device(self, who: int, change: dict[str, object]) -> None:
        name = self.one_of_ours(who)
        if name and self.machine.wires[name].link.settings.group < PRIVATE_GROUPS:
            try:
                self.machine.change_device(name, **change)
            except RefusedError:
                return

    @rule(who=anyone, peers=some.peer_tuples)
    def someone_changes_peers(self, who: int, peers: tuple[LinkPeer, ...]) -> None:
        if name := self.one_of_ours(who):
            wire = self.machine.wires[name]
            wire.link = structs.replace(wire.link, peers=peers)

    @rule(who=anyone, psk=st.sampled_from(("one digest", "another digest")))
    def someone_sets_a_preshared_key(self, who: int, psk: str) -> None:
        if (name := self.one_of_ours(who)) and self.machine.wires[name].link.peers:
            peer, *_ = self.machine.wires[name].link.peers
            self.machine.set_psk(name, peer.public_key, psk)

    @rule(who=anyone)
    def someone_removes_a_link(self, who: int) -> None:
        if name := self.one_of_ours(who):
            del self.machine.wires[name]

    @rule(who=anyone)
    def someone_takes_a_link(self, who: int) -> None:
        """Moved out of our group, it is ours no more."""
        if name := self.one_of_ours(who):
            self.machine.change_settings(name, group=FOREIGN_GROUP)
            self.not_ours[name] = structs.replace(self.machine.wires[name])

    @rule(name=st.sampled_from(LINK_NAMES), kind=st.sampled_from(("veth", "")))
    def foreign_interface_comes(self, name: str, kind: str) -> None:
        if name not in self.machine.wires:
            self.machine.others[name] = kind
            self.not_ours[name] = kind

    @rule(name=st.sampled_from((*LINK_NAMES, "wg0")), port=some.ports)
    def foreign_link_comes(self, name: str, port: int) -> None:
        link = Link(
            name,
            self.node.origin,
            LinkSettings(1420, FOREIGN_GROUP),
            Device("foreign key", port),
            (LinkPeer(some.PEER_KEYS[0]),),
        )
        try:
            self.machine.add_link(link)
        except RefusedError:
            return
        self.not_ours[name] = structs.replace(self.machine.wires[name])

    @rule(who=anyone)
    def foreign_thing_goes(self, who: int) -> None:
        if self.not_ours:
            name = sorted(self.not_ours)[who % len(self.not_ours)]
            del self.not_ours[name]
            self.machine.wires.pop(name, None)
            self.machine.others.pop(name, None)

    # Runs

    @rule(refused=st.just(frozenset()) | st.frozensets(st.integers(0, 12), max_size=3))
    def sync(self, refused: frozenset[int]) -> None:
        self.finish(self.decide(self.plan()), refused)

    @rule()
    def sync_twice(self) -> None:
        for _ in range(2):
            self.finish(self.decide(self.plan()), frozenset())

    @rule(refused=st.just(frozenset()) | st.frozensets(st.integers(0, 12), max_size=3))
    def down(self, refused: frozenset[int]) -> None:
        failed = self.finish(self.decide(EMPTY), refused)
        assert set(self.ours()) <= failed

    @rule(at=st.integers(0, 15), unrecorded=st.integers(0, 4), halfway=st.booleans())
    def killed_sync(self, at: int, unrecorded: int, halfway: bool) -> None:
        """Killed before, in or after an event; the outcomes of the last ones are not written."""
        run = self.decide(self.plan())
        outcomes = self.machine.apply(run.events[:at], lambda _: False)
        failed = {run.events[outcome.index].name for outcome in outcomes if outcome.error}
        if halfway and at < len(run.events) and run.events[at].name not in failed:
            self.machine.half_happen(run.events[at])
        known = outcomes[: max(0, len(outcomes) - unrecorded)]
        self.journal.write(run.drift, run.events, known, finished=False)
        self.killed = True

    def plan(self) -> Topology:
        config = Config(transports=self.transports, isolation=self.isolation)
        memory = self.journal.memory()
        return plan(config, self.node, self.registry, self.addresses, memory.topology).topology

    def decide(self, desired: Topology) -> Run:
        memory = self.journal.memory()
        settled = settle(self.machine.observe(), desired, memory, self.scope())
        return Run(
            desired,
            settled,
            diff(memory.topology, settled.before),
            diff(settled.before, settled.after),
        )

    def finish(self, run: Run, refused: frozenset[int]) -> set[str]:
        """Carry out a run, and see that all is as it should be; the names of failed links."""
        self.machine.refusals.clear()
        known = {
            (name, peer.public_key): peer.endpoint
            for name, wire in self.machine.wires.items()
            for peer in wire.link.peers
        }
        outcomes = self.machine.apply(run.events, lambda index: index in refused)
        failed = {run.events[outcome.index].name for outcome in outcomes if outcome.error}
        self.journal.write(run.drift, run.events, outcomes, finished=True)
        self.killed = False
        self.check_refusals(failed)
        self.check_journal(run.desired)
        self.check_second_run(run.desired, failed)
        self.check_links(run, failed, known)
        return failed

    def check_refusals(self, failed: set[str]) -> None:
        """No port was taken by a link of ours that had been let down by nothing else."""
        for refusal in self.machine.refusals:
            if refusal.holder is not None:
                holder = self.machine.wires.get(refusal.holder)
                assert (
                    refusal.holder in self.not_ours
                    or refusal.holder in failed
                    or holder is None
                    or holder.chosen
                )

    def check_journal(self, desired: Topology) -> None:
        """What the journal adds up to is what there is."""
        again = self.decide(desired)
        assert again.drift == ()
        assert again.settled.before == self.journal.memory().topology

    def check_second_run(self, desired: Topology, failed: set[str]) -> None:
        """A run right after this one would do nothing, or try again what was refused."""
        names = {event.name for event in self.decide(desired).events}
        wanted = {desired.links[name].device.listen_port for name in failed & desired.links.keys()}
        in_the_way = (
            {name for name in names if self.machine.wires[name].link.device.listen_port in wanted}
            if names - failed
            else set()
        )
        assert names <= failed | in_the_way
        assert failed or not names

    def check_links(self, run: Run, failed: set[str], known: Endpoints) -> None:
        """Whatever could be had is there, just as planned, and nothing more."""
        troubled = failed | {problem.link for problem in run.settled.problems}
        assert troubled - failed <= self.not_ours.keys()
        assert set(self.ours()) - run.desired.links.keys() <= failed
        for name, wanted in run.desired.links.items():
            if name not in troubled:
                self.check_link(self.machine.wires[name], wanted, known)

    def check_link(self, wire: Wire, wanted: Link, known: Endpoints) -> None:
        link = wire.link
        assert link.origin == wanted.origin
        assert link.settings.address is not None
        assert structs.replace(link.settings, address=wanted.settings.address) == wanted.settings
        assert link.device.public_key == wanted.device.public_key
        assert link.device.fwmark == wanted.device.fwmark
        assert link.device.listen_port
        if wanted.device.listen_port:
            assert link.device.listen_port == wanted.device.listen_port
        (peer,), (goal,) = link.peers, wanted.peers
        assert peer.public_key == goal.public_key
        assert sorted(peer.allowed_ips) == sorted(goal.allowed_ips)
        assert peer.keepalive == goal.keepalive
        assert peer.psk_digest == goal.psk_digest
        if goal.endpoint is None:
            assert peer.endpoint == known.get((link.name, peer.public_key))
        elif peer.endpoint != goal.endpoint:
            assert peer.endpoint is not None
            assert self.machine.is_fresh(link.name, peer.public_key)

    @invariant()
    def what_is_not_ours_is_as_it_was(self) -> None:
        for name, thing in self.not_ours.items():
            if isinstance(thing, str):
                assert self.machine.others[name] == thing
            else:
                assert self.machine.wires[name] == thing

    # Names

    def scope(self) -> Scope:
        return Scope(
            public_key=self.node.public_key,
            netns=some.NETNS,
            ifgroup=self.isolation.ifgroup,
        )

    def ours(self) -> list[str]:
        """The names of links in our group, or on their way out of it."""
        return sorted(
            name
            for name, wire in self.machine.wires.items()
            if name not in self.not_ours
            and (
                wire.link.settings.group == self.isolation.ifgroup
                or wire.link.settings.group >= PRIVATE_GROUPS
            )
        )

    def one_of_ours(self, who: int) -> str | None:
        names = self.ours()
        return names[who % len(names)] if names else None


TestOneNode = OneNode.TestCase

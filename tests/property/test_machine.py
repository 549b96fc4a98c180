"""Whatever happens to a machine and however runs end, a sync makes it what the plan says.

A state machine changes configuration, registry and machine at random, has runs fail and be killed
at any event, and looks at the machine after each run as a whole. What a run does is what reconcile
decides; there is no adapter, and no other decision, in between.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from hypothesis import strategies as st
from hypothesis.stateful import (
    RuleBasedStateMachine,
    initialize,
    invariant,
    precondition,
    rule,
)
from msgspec import Struct, structs

from rait.domain.aftermath import known_after_failures
from rait.domain.backend import REJECT_AFTER_SECONDS, Observation, Outcome
from rait.domain.change import Change, Goal, Results
from rait.domain.config.schema import (
    PRIVATE_GROUPS,
    Config,
    Isolation,
    Match,
    Peer,
    Policy,
    Transport,
)
from rait.domain.endpoints import NO_NAMES, Names
from rait.domain.events import (
    DeviceUpdated,
    Event,
    LinkAdded,
    LinkRemoved,
    PeerAdded,
    PeerRemoved,
    PeerUpdated,
    replay,
)
from rait.domain.history import LastKnown, done_events, fold, last_known, links_made, with_leftovers
from rait.domain.hooks import Call
from rait.domain.ownership import Scope, doubtful
from rait.domain.plan import Addresses, KeyFiles, Node, Plan, plan
from rait.domain.reconcile import reconcile
from rait.domain.records import RunHeader, RunRecord, Snapshot
from rait.domain.rollback import touched, undo
from rait.domain.topology import (
    EMPTY,
    Device,
    Endpoint,
    Link,
    LinkPeer,
    LinkSettings,
    Topology,
)
from rait.testing.machine import RefusedError, Wire
from tests.property import strategies as some
from tests.property.machine import Machine, psk_digest, psk_of

FOREIGN_GROUP = 7
STRANGE_KEY = "a key from elsewhere"
PREFIXES = ("r4x", "r6x", "w")
LINK_NAMES = tuple(f"{prefix}{port}" for prefix in PREFIXES for port in some.PORTS[:3])
HEADER = RunHeader(scope="", command="up", version="", uid=0, started_at=0, public_key=some.OWN_KEY)

transports = some.transports_named(PREFIXES)
transport_sets = st.lists(transports, min_size=1, max_size=2, unique_by=lambda t: t.ifprefix)
registries = some.peers_lists() | some.calm_registries()
parts = st.integers(0, 15)
"""What of an event is done before it fails; see Machine.half_happen."""
NONE: Mapping[int, int | None] = {}
refusals = st.just({}) | st.dictionaries(st.integers(0, 12), st.none() | parts, max_size=3)
"""The events that fail, by their position, and what of them is done all the same."""
psks = st.sampled_from(("one psk", "another psk"))
KEY_FILE, MISSING = "psk", "missing"
preshared_keys = st.dictionaries(st.sampled_from(some.PEER_KEYS), psks | st.just(MISSING))
some_commands = st.builds(
    Policy,
    up_command=st.sampled_from((None, ("up",), ("up", "again"))),
    down_command=st.sampled_from((None, ("down",))),
)
blindness = st.sampled_from((False, False, False, True))
"""Whether nobody can look at the machine a second time."""
anyone = st.integers(0, 99)
"""Picks one of however many there are."""

NOTHING = Snapshot(topology=EMPTY, public_key=some.OWN_KEY)
KEYS = {"one": (some.OWN_KEY, "second key"), "other": ("third key", "fourth key")}
"""The configurations on the machine, and the keys that each may have."""

Endpoints = dict[tuple[str, str], Endpoint | None]
"""By link name and peer key."""


class Journal:
    """What the journal keeps of each run of each configuration, and remembers of them all."""

    def __init__(self) -> None:
        self._last = 0
        self._runs: dict[str, list[RunRecord]] = {}

    def last_known(self, scope: str) -> LastKnown:
        return last_known(NOTHING, self.runs(scope))

    def claims(self, scope: str, seen: Mapping[str, str]) -> Mapping[str, str]:
        """Whose each link is, if another's: of who made it last."""
        latest = dict.fromkeys(seen, (0, scope))
        for each, runs in self._runs.items():
            for name, entry in links_made(NOTHING, runs, 0, seen).items():
                latest[name] = max(latest[name], (entry, each))
        return {name: owner for name, (_, owner) in latest.items() if owner != scope}

    def write(
        self,
        scope: str,
        drift: tuple[Event, ...],
        events: tuple[Event, ...],
        outcomes: list[Outcome],
        finished: bool,
        results: Results = Results(),  # noqa: B008 (immutable)
        carried: tuple[Event, ...] = (),
        leftover: frozenset[Event] = frozenset(),
    ) -> None:
        if not (drift or events or results.calls):
            return  # rait leaves no trace of such a run
        start = self._last + 1
        seen_from = start + len(drift) + len(events) + len(outcomes) + finished
        left = tuple(index for index, event in enumerate(drift) if event in leftover)
        self._last = seen_from + len(results.half_done)
        self._runs.setdefault(scope, []).append(
            RunRecord(
                id=start,
                last_id=self._last,
                header=structs.replace(HEADER, scope=scope, carried=carried, leftover_noticed=left),
                noticed=drift,
                intended=events,
                outcomes={outcome.index: outcome for outcome in outcomes},
                status="done" if finished else None,
                half_done=dict(enumerate(results.half_done, seen_from)),
                calls=results.calls,
                unsure=unsure_of(results, events, outcomes),
            )
        )

    def runs(self, scope: str) -> Sequence[RunRecord]:
        return self._runs.get(scope, ())

    def topology_after(self, run: RunRecord) -> Topology:
        runs = self.runs(run.header.scope)
        return fold(NOTHING, runs[: runs.index(run) + 1]).topology


def unsure_of(
    results: Results, events: Sequence[Event], outcomes: Sequence[Outcome]
) -> tuple[int, ...]:
    """The events that nobody could look at after they had failed, by index."""
    failed = (outcome.index for outcome in outcomes if outcome.error is not None)
    return tuple(index for index in failed if events[index] in results.unsure)


def lasting(peer: LinkPeer) -> tuple[object, ...]:
    """What a peer is to have again after a rollback: all but its endpoint, which may move."""
    return peer.public_key, peer.keepalive, {*peer.allowed_ips}, psk_of(peer.psk_digest)


class Run(Struct):
    """What a run decided before it did anything."""

    desired: Topology
    change: Change

    @property
    def events(self) -> tuple[Event, ...]:
        return self.change.events

    @property
    def others(self) -> tuple[Event, ...]:
        """What of the drift is the doing of others."""
        change = self.change
        return tuple(event for event in change.drift if event not in change.leftover)


class Side(Struct):
    """A configuration that shares machine, ifgroup, target and journal with another one."""

    name: str
    node: Node
    registry: list[Peer] = []
    transports: tuple[Transport, ...] = ()
    addresses: Addresses = {}
    isolation: Isolation = Isolation(ifgroup=54)
    killed: bool = False
    touched: set[str] = set()
    roamed: set[str] = set()


class OneNode(RuleBasedStateMachine):
    def __init__(self) -> None:
        super().__init__()
        self.me = "one"
        self.away = Side("other", structs.replace(some.node, public_key=KEYS["other"][0]))
        self.theirs: dict[str, Wire] = {}
        self.registry: list[Peer] = []
        self.transports: tuple[Transport, ...] = ()
        self.addresses: Addresses = {}
        self.psks: dict[str, str] = {}
        """The preshared keys that policies give, by peer, in both configurations."""
        self.commands = Policy()
        """The commands of all links, in both configurations."""
        self.planned = Plan(EMPTY)
        self.told: dict[tuple[str, str, str], Endpoint] = {}
        """The last endpoint that the journal told of, by configuration, link name and peer key."""
        self.told_until: dict[str, int] = {}
        self.isolation = Isolation(ifgroup=54)
        self.node = some.node
        self.journal = Journal()
        self.killed = False
        self.not_ours: dict[str, Wire | str] = {}
        self.touched: set[str] = set()
        """What others changed since a run looked."""
        self.roamed: set[str] = set()
        """The links with peers elsewhere than told: a run may see that only when they are stale."""

    @initialize(
        seed=st.integers(0, 999),
        found=transport_sets,
        registry=registries,
        addresses=some.addresses,
        commands=some_commands,
    )
    def begin(
        self,
        seed: int,
        found: list[Transport],
        registry: list[Peer],
        addresses: Addresses,
        commands: Policy,
    ) -> None:
        self.commands = commands
        self.machine = self.new_machine(seed)
        self.machine.maker = self.me
        self.transports = self.away.transports = tuple(found)
        self.registry = registry
        self.addresses = addresses

    # Another configuration

    @rule(registry=registries)
    def other_configuration_s_turn(self, registry: list[Peer]) -> None:
        """All that happens from now on is of the other one, and this one's links are not its."""
        here = Side(
            self.me,
            self.node,
            self.registry,
            self.transports,
            self.addresses,
            self.isolation,
            self.killed,
            self.touched,
            self.roamed,
        )
        there, self.away = self.away, here
        self.me, self.node, self.killed = there.name, there.node, there.killed
        self.registry = there.registry or registry
        self.transports, self.addresses = there.transports, there.addresses
        self.isolation, self.touched, self.roamed = there.isolation, there.touched, there.roamed
        self.machine.maker = self.me
        self.theirs = {
            name: structs.replace(wire)
            for name, wire in self.machine.wires.items()
            if wire.maker == self.away.name and name not in self.not_ours
        }

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

    @rule()
    def names_fail(self) -> None:
        self.addresses = {}

    @rule(psks=preshared_keys)
    def change_preshared_keys(self, psks: dict[str, str]) -> None:
        self.psks = psks

    @rule(turn=anyone)
    def names_rotate(self, turn: int) -> None:
        """Each name has another address than before, and never more than one."""
        self.addresses = {
            (host, family): (some.LITERALS[family][turn % len(some.LITERALS[family])],)
            for host in some.HOSTS
            for family in some.FAMILIES
        }

    @rule(transit=st.sampled_from(some.TRANSITS))
    def change_transit(self, transit: str) -> None:
        origin = structs.replace(self.node.origin, transit=transit)
        self.node = structs.replace(self.node, origin=origin)

    @rule()
    def change_backend(self) -> None:
        other = "userspace" if self.node.origin.backend == "kernel" else "kernel"
        origin = structs.replace(self.node.origin, backend=other)
        self.node = structs.replace(self.node, origin=origin)

    @rule(which=st.integers(0, 1))
    def change_key(self, which: int) -> None:
        self.node = structs.replace(self.node, public_key=KEYS[self.me][which])

    @precondition(lambda self: not self.killed)
    @rule(group=st.sampled_from((54, 55)))
    def change_group(self, group: int) -> None:
        """Not right after a run was killed: what it left would be in a group that nobody knows.

        Nor when a link has another's key: out of our group, only the key tells that it is ours.
        """
        links = [wire.link for wire in self.wires_of_ours()]
        if all(link.device.public_key != STRANGE_KEY for link in links):
            self.isolation = Isolation(ifgroup=group)

    # What happens on the machine meanwhile

    @rule(seconds=st.sampled_from((1, 100, REJECT_AFTER_SECONDS, 4000)))
    def time_passes(self, seconds: int) -> None:
        self.machine.now += seconds

    @rule(now=st.sampled_from((60, 999_000, 1_000_000, 4_000_000_000)))
    def clock_jumps(self, now: int) -> None:
        self.machine.now = now

    @rule()
    def machine_restarts(self) -> None:
        """No link outlives that, and the clock may not be set yet."""
        self.touched |= self.machine.wires.keys()
        self.away.touched |= self.machine.wires.keys()
        self.theirs.clear()
        self.machine.wires.clear()
        self.machine.others = {"lo": ""}
        self.not_ours.clear()
        self.machine.now = 60

    @rule(who=anyone, endpoint=st.none() | some.underlay)
    def peer_is_heard(self, who: int, endpoint: Endpoint | None) -> None:
        """A handshake, from where the peer was or from elsewhere."""
        pairs = [(n, p.public_key) for n in self.ours() for p in self.machine.wires[n].link.peers]
        if pairs:
            name, key = pairs[who % len(pairs)]
            self.machine.packet_from(name, key, endpoint)
            self.roamed.add(name)
            self.touched.add(name)

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
            self.roamed.add(name)

    @rule(who=anyone, psk=psks)
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

    @rule(refused=refusals, blind=blindness)
    def sync(self, refused: Mapping[int, int | None], blind: bool) -> None:
        self.finish(self.begin_run(self.plan()), refused, blind)

    @rule()
    def sync_twice(self) -> None:
        for _ in range(2):
            self.finish(self.begin_run(self.plan()))

    @rule(refused=refusals, blind=blindness)
    def down(self, refused: Mapping[int, int | None], blind: bool) -> None:
        failed = self.finish(self.begin_run(EMPTY), refused, blind)
        assert set(self.ours()) <= failed

    @rule(turn=anyone)
    def sync_while_names_rotate(self, turn: int) -> None:
        """All peers were heard just now, from where they were, and each name has moved."""
        for name in self.ours():
            for peer in self.machine.wires[name].link.peers:
                self.machine.packet_from(name, peer.public_key, None)
        self.names_rotate(turn)
        self.sync_twice()

    @rule()
    def sync_after_a_restart_without_names(self) -> None:
        self.machine_restarts()
        self.names_fail()
        self.sync_twice()

    @rule(at=st.integers(0, 15), unrecorded=st.integers(0, 4), half=st.none() | parts)
    def killed_sync(self, at: int, unrecorded: int, half: int | None) -> None:
        """Killed before, in or after an event; the outcomes of the last ones are not written."""
        run = self.begin_run(self.plan())
        outcomes = self.machine.apply(run.events[:at])
        failed = {run.events[outcome.index].name for outcome in outcomes if outcome.error}
        if half is not None and at < len(run.events) and run.events[at].name not in failed:
            self.machine.half_happen(run.events[at], half)
        known = outcomes[: max(0, len(outcomes) - unrecorded)]
        self.write(run, known, finished=False)
        self.killed = True
        # An endpoint that was written and not told of is seen as one that the peer roamed to.
        moved = {
            event.name
            for event in run.events[len(known) : at + 1]
            if isinstance(event, PeerUpdated) and event.before.endpoint != event.after.endpoint
        }
        self.roamed |= moved
        self.touched |= moved

    @rule(refused=refusals)
    def killed_before_the_second_look(self, refused: Mapping[int, int | None]) -> None:
        run = self.begin_run(self.plan())
        outcomes = self.apply(run.events, refused)
        self.write(run, outcomes, finished=False)
        self.killed = True

    @rule(refused=refusals)
    def failing_sync_is_taken_back(self, refused: Mapping[int, int | None]) -> None:
        """What a run did, of events that were half done as well, is undone by a rollback."""
        run = self.begin_run(self.plan())
        self.finish(run, refused)
        self.roll_back(run)

    @rule(who=anyone)
    def sync_while_a_link_cannot_be_read(self, who: int) -> None:
        """What an earlier run did to it is no better known after this one."""
        names = [
            n for n in self.ours() if self.machine.wires[n].link.settings.group < PRIVATE_GROUPS
        ]
        self.machine.hidden = {names[who % len(names)]} if names else set()
        run = self.begin_run(self.plan())
        outcomes = self.machine.apply(run.events)
        results = self.look_again(run, outcomes, blind=False)
        self.write(run, outcomes, finished=True, results=results)
        change = run.change
        self.killed = self.killed and bool(change.carried or not (change.drift or change.events))
        self.machine.hidden.clear()

    def begin_run(self, desired: Topology) -> Run:
        """What a run decides; it blames others for nothing that they did not touch."""
        self.note_told()
        run = self.prepare(self.decide(desired))
        blamed = {event.name for event in run.others if not self.chosen_port(event)}
        assert blamed <= self.touched
        self.touched = self.roamed | (self.touched & self.machine.hidden)
        return run

    def of_endpoint_elsewhere(self, event: Event) -> bool:
        """Whether it tells of nothing but the endpoint of a peer that was heard from elsewhere.

        The next run plans with the endpoint that this one applied; the plan of this one does not.
        """
        if not isinstance(event, PeerUpdated) or event.name not in self.roamed:
            return False
        return structs.replace(event.before, endpoint=event.after.endpoint) == event.after

    def chosen_port(self, event: Event) -> bool:
        """Whether it tells of a port that the kernel chose, and that another link is to have."""
        return isinstance(event, DeviceUpdated) and event.before == structs.replace(
            event.after, listen_port=0
        )

    def apply(self, events: Sequence[Event], refused: Mapping[int, int | None]) -> list[Outcome]:
        halves = {index: part for index, part in refused.items() if part is not None}
        return self.machine.apply(events, lambda index: index in refused, halves)

    def look_again(self, run: Run, outcomes: Sequence[Outcome], blind: bool) -> Results:
        """As a run does where events failed; ``blind`` if it cannot."""
        failed = [run.events[outcome.index] for outcome in outcomes if outcome.error]
        if not failed:
            return Results()
        happened = [run.events[outcome.index] for outcome in outcomes if not outcome.error]
        topology = replay(run.change.known.topology, (*run.change.drift, *happened))
        known = known_after_failures(run.change.known, topology, failed)
        if blind:
            return Results(unsure=known.leftover)
        seen = self.reconcile(run.change.goal, known)
        half_done = tuple(event for event in seen.drift if event in seen.leftover)
        return Results(half_done=half_done, unsure=seen.carried)

    def roll_back(self, run: Run) -> None:
        """Take the last run back, where nothing stands in the way."""
        runs = self.journal.runs(self.me)
        record = runs[-1] if runs else None
        if record is None or record.intended != run.events or not done_events(record):
            return
        memory = self.journal.last_known(self.me)
        now = memory.topology
        names = touched(record)
        goal = undo(now, record, self.journal.topology_after(record))
        restored = [link for name, link in goal.links.items() if name in names]
        origin = self.node.origin
        if any(
            link.device.public_key != self.node.public_key
            or (link.origin.backend, link.origin.transit) != (origin.backend, origin.transit)
            for link in restored
        ):
            return
        back = self.decide(self.born_today(goal), names)
        blamed = {event.name for event in back.others if not self.chosen_port(event)}
        assert blamed <= self.touched
        assert not back.change.leftover
        assert {event.name for event in back.events} <= names
        outcomes = self.machine.apply(back.events)
        results = self.look_again(back, outcomes, blind=False)
        self.write(back, outcomes, finished=True, results=results)
        self.check_journal(self.born_today(goal), results)
        failed = {back.events[outcome.index].name for outcome in outcomes if outcome.error}
        found = run.change.observed.links
        for name in names - failed - {problem.link for problem in back.change.problems}:
            self.check_taken_back(found.get(name), self.machine.wires.get(name))

    def check_taken_back(self, found: Link | None, wire: Wire | None) -> None:
        """A link is as the run had found it, but for an address, which stays if there is one."""
        assert (wire is None) == (found is None)
        if wire is None or found is None:
            return
        link = wire.link
        address = {"address": link.settings.address}
        assert link.settings == structs.replace(found.settings, **address)
        assert link.device.fwmark == found.device.fwmark
        assert found.device.listen_port in (0, link.device.listen_port)
        assert [*map(lasting, link.peers)] == [*map(lasting, found.peers)]

    def plan(self) -> Topology:
        match = Match(public_key=tuple(self.psks))
        policies = (Policy(match=match, preshared_key_file=KEY_FILE),) if self.psks else ()
        policies += (self.commands,)
        config = Config(transports=self.transports, isolation=self.isolation, policies=policies)
        memory = self.journal.last_known(self.me)
        topology, departed = with_leftovers(memory), memory.departed
        files = KeyFiles(
            {
                (KEY_FILE, key): psk_digest(psk, self.node.public_key)
                for key, psk in self.psks.items()
                if psk != MISSING
            }
        )
        self.machine.psks.update((key, digest) for (_, key), digest in files.digests.items())
        self.planned = plan(
            config,
            self.node,
            self.registry,
            self.addresses,
            topology,
            departed,
            key_files=files,
        )
        return self.planned.topology

    def names_of(self, desired: Topology) -> Names:
        """Which links have a peer with a name, where that was planned."""
        return self.planned.names if desired is self.planned.topology else NO_NAMES

    def decide(self, desired: Topology, only: frozenset[str] | None = None) -> Run:
        psks = frozenset(self.machine.psks)
        flaws = self.planned.flaws if desired is self.planned.topology else ()
        goal = Goal(desired, self.names_of(desired), only=only, psks=psks, flaws=flaws)
        return Run(desired, self.reconcile(goal, self.journal.last_known(self.me)))

    def write(
        self,
        run: Run,
        outcomes: list[Outcome],
        *,
        finished: bool,
        results: Results = Results(),  # noqa: B008 (immutable)
    ) -> None:
        self.journal.write(
            self.me,
            run.change.drift,
            run.events,
            outcomes,
            finished=finished,
            results=results,
            carried=run.change.carried,
            leftover=run.change.leftover,
        )

    def reconcile(self, goal: Goal, known: LastKnown) -> Change:
        self.machine.private_key = self.node.public_key
        seen, scope = self.observe(known), self.scope()
        claimed = self.journal.claims(self.me, doubtful(seen, known, scope))
        return reconcile(seen, goal, known, structs.replace(scope, claimed=claimed))

    def finish(
        self, run: Run, refused: Mapping[int, int | None] = NONE, blind: bool = False
    ) -> set[str]:
        """Carry out a run, and see that all is as it should be; the names of failed links."""
        self.machine.refusals.clear()
        known = {
            (wire.link.name, peer.public_key): peer.endpoint
            for wire in (*self.wires_of_ours(), *self.machine.wires.values())
            for peer in wire.link.peers
        }
        outcomes = self.apply(run.events, refused)
        failed = {run.events[outcome.index].name for outcome in outcomes if outcome.error}
        happened = [run.events[outcome.index] for outcome in outcomes if not outcome.error]
        calls = run.change.calls(happened, failed)
        results = self.look_again(run, outcomes, blind)
        results = structs.replace(results, calls=tuple(call.result() for call in calls))
        self.write(run, outcomes, finished=True, results=results)
        self.killed = bool(results.unsure or run.change.carried)
        self.check_calls(run, happened, failed, calls, results)
        self.check_refusals(failed)
        self.check_journal(run.desired, results)
        self.check_links(run, failed, known)
        # A link that was made again may have an endpoint from then on that the plan did not know.
        planned = run.desired is self.planned.topology and run.desired is not EMPTY
        self.check_second_run(self.plan_again() if planned else run.desired, failed)
        return failed

    def check_calls(
        self,
        run: Run,
        happened: Sequence[Event],
        failed: set[str],
        calls: Sequence[Call],
        results: Results,
    ) -> None:
        """Each command is called that is due by now, of runs that were killed before as well."""
        ours = [*(e for e in run.change.drift if e in run.change.leftover), *happened]
        up = {call.link.name for call in calls if call.event != "removed"}
        assert up <= {*self.ours()} - failed
        waiting = failed | {problem.link for problem in run.change.problems}
        waiting |= {event.name for event in run.change.carried}
        for event in ours:
            if isinstance(event, LinkRemoved) and event.link.notes.down_command:
                assert Call("removed", event.link) in calls
            if isinstance(event, LinkAdded) and event.link.notes.up_command:
                gone = event.name not in self.machine.wires
                assert event.name in up or event.name in waiting or gone
        owed = self.journal.last_known(self.me).calls_owed
        assert results.half_done or not owed.down
        assert owed.up.keys() <= waiting

    def plan_again(self) -> Topology:
        """The plan of a second run, unless the first one noticed what makes it want other links.

        Who has a port keeps it: where others took a link of ours, its port is another peer's then.
        """
        was = self.planned
        if self.plan().links.keys() != was.topology.links.keys():
            self.planned = was
        return self.planned.topology

    def check_refusals(self, failed: set[str]) -> None:
        """No port was taken by a link of ours that had been let down by nothing else."""
        for refusal in self.machine.refusals:
            if refusal.holder is not None:
                holder = self.machine.wires.get(refusal.holder)
                assert (
                    refusal.holder in self.not_ours
                    or refusal.holder in self.theirs
                    or refusal.holder in failed
                    or holder is None
                    or holder.chosen
                )

    def check_journal(self, desired: Topology, results: Results) -> None:
        """What the journal adds up to is what there is, or others are not blamed for it."""
        again = self.decide(desired)
        others = [event for event in again.others if not self.of_endpoint_elsewhere(event)]
        assert all(map(self.chosen_port, others))
        if results.unsure or again.others:
            return
        assert not again.change.leftover
        assert again.change.observed == self.journal.last_known(self.me).topology

    def check_second_run(self, desired: Topology, failed: set[str]) -> None:
        """A run right after this one would do nothing, or try again what was refused."""
        events = self.decide(desired).events
        names = {event.name for event in events if not self.of_endpoint_elsewhere(event)}
        wanted = {desired.links[name].device.listen_port for name in failed & desired.links.keys()}
        in_the_way = {name for name in names - failed if self.port_of(name) in wanted}
        assert names <= failed | in_the_way, self.decide(desired).events
        assert failed or not names

    def check_links(self, run: Run, failed: set[str], known: Endpoints) -> None:
        """Whatever could be had is there, just as planned, and nothing more."""
        troubled = failed | {problem.link for problem in run.change.problems}
        unready = {flaw.link for flaw in run.change.goal.flaws}
        if unready & run.change.observed.links.keys():
            # They keep their ports, which other links may want.
            unready |= {p.link for p in run.change.problems if "would listen" in p.message}
        assert not unready & {event.name for event in run.events}, "without its key none is touched"
        elsewhere = self.not_ours.keys() | self.theirs.keys() | self.unreachable()
        assert troubled - failed <= elsewhere | unready
        assert set(self.ours()) - run.desired.links.keys() <= failed | unready
        for name, wanted in run.desired.links.items():
            if name not in troubled:
                self.check_link(self.machine.wires[name], wanted)
                self.check_endpoint(run, self.machine.wires[name], wanted, known)

    def check_link(self, wire: Wire, wanted: Link) -> None:
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
        assert psk_of(peer.psk_digest) == psk_of(goal.psk_digest)

    def check_endpoint(self, run: Run, wire: Wire, wanted: Link, known: Endpoints) -> None:
        link, resolved = wire.link, self.names_of(run.desired).get(wire.link.name)
        (peer,), (goal,) = link.peers, wanted.peers
        was = known.get((link.name, peer.public_key))
        told = self.told.get((self.me, link.name, peer.public_key))
        fresh = self.machine.is_fresh(link.name, peer.public_key)
        if goal.endpoint is None:
            assert peer.endpoint == was
        elif peer.endpoint != goal.endpoint:
            assert peer.endpoint is not None
            assert fresh or (resolved is False and peer.endpoint == was)
        told_port = None if told is None else told.port
        if resolved and fresh and was and told_port in (None, goal.endpoint.port):
            assert peer.endpoint == was, "a name moved the endpoint of a live session"
        if resolved is False and told is not None:
            (transport,) = (t for t in self.transports if link.name.startswith(t.ifprefix))
            if (":" in told.address) == (transport.address_family == "ip6"):
                assert peer.endpoint is not None, "what was last applied is not tried"

    def note_told(self) -> None:
        """Read in the journal what endpoints there were."""
        for run in self.journal.runs(self.me):
            if run.id > self.told_until.get(self.me, 0):
                self.told_until[self.me] = run.id
                for _, event in run.happened():
                    self.note_endpoints(event)

    def note_endpoints(self, event: Event) -> None:
        match event:
            case LinkAdded(link) | LinkRemoved(link):
                peers = link.peers
            case PeerAdded(_, peer) | PeerRemoved(_, peer):
                peers = (peer,)
            case PeerUpdated(_, before, after):
                peers = (before, after)
            case _:
                peers = ()
        for peer in peers:
            if peer.endpoint is not None:
                self.told[self.me, event.name, peer.public_key] = peer.endpoint

    @invariant()
    def what_is_not_ours_is_as_it_was(self) -> None:
        for name, thing in self.not_ours.items():
            if isinstance(thing, str):
                assert self.machine.others[name] == thing
            else:
                assert self.machine.wires[name] == thing

    @invariant()
    def what_is_another_configuration_s_is_as_it_was(self) -> None:
        assert self.theirs.items() <= self.machine.wires.items()

    # Where links are; test_machine_namespaces.py has more than one place for them

    def new_machine(self, seed: int) -> Machine:
        return Machine(seed)

    def observe(self, memory: LastKnown) -> Observation:  # noqa: ARG002
        """What a run sees that remembers this."""
        return self.machine.observe()

    def prepare(self, run: Run) -> Run:
        """What a run makes before it writes down what it is to do; the run with what came of it."""
        return run

    def born_today(self, goal: Topology) -> Topology:
        """The topology as a rollback wants it now."""
        return goal

    def unreachable(self) -> set[str]:
        """The names of links that cannot be had, as they may be where nobody can look."""
        return set()

    def wires_of_ours(self) -> list[Wire]:
        return [self.machine.wires[name] for name in self.ours()]

    def port_of(self, name: str) -> int:
        return self.machine.wires[name].link.device.listen_port

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
            and wire.maker == self.me
            and (
                wire.link.settings.group == self.isolation.ifgroup
                or wire.link.settings.group >= PRIVATE_GROUPS
            )
        )

    def one_of_ours(self, who: int) -> str | None:
        """The name of a link that somebody is about to change."""
        names = self.ours()
        if not names:
            return None
        name = names[who % len(names)]
        self.touched.add(name)
        return name


TestOneNode = OneNode.TestCase

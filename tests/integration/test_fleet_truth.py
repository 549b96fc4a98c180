"""The model of two ends of a tunnel, against nodes that run `rait up` one after the other.

Hypothesis draws stories: a registry, edits of it, and the order in which the nodes sync. Many
fleets live their stories side by side, one sync at a time. After each sync both ends of each tunnel
send, and the tunnel has to carry traffic if, and only if, the model says that it does.

The model of rait/domain/pairs.py says what an end is by its registry. Here each end has besides
what its WireGuard learned of where the other is (``Fleet.ends``), by the rule of
rait/domain/endpoints.py. Where it has learned nothing else, `rait fleet plan` has to say the same.
"""

from __future__ import annotations

import itertools
import json
import os
import random
import subprocess
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import pytest
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st
from msgspec import structs

from rait.domain.config.schema import Peer, PeerEndpoint
from rait.domain.diff import diff
from rait.domain.endpoints import Departed, depart, endpoint_views, is_fresh, last_endpoint
from rait.domain.fleet import fleet_change
from rait.domain.fleet_nodes import end_of, fleet_of
from rait.domain.fleet_pairs import COMBINATIONS
from rait.domain.pairs import End, Grade, grade
from rait.domain.plan import Node as Here
from rait.domain.plan import plan
from rait.domain.topology import EMPTY, Endpoint, Family, Origin, Topology
from rait.terminal import DONE, PARTIAL
from tests.integration import machine
from tests.integration.command import Running
from tests.integration.conftest import MakeMesh
from tests.integration.harness import Mesh, ping

pytestmark = [pytest.mark.userspace, pytest.mark.kernel]

STORIES = {"userspace": 10, "kernel": 2}
STEPS = {"userspace": 60, "kernel": 10}
NODES = 4
SILENCE = 2.5
"""Seconds in which an end that wakes its tunnel would have been heard."""
TIMERS = 17
"""Seconds until WireGuard has given up its session and shaken hands: 15 s, and up to 1/3 s more."""
QUIET = 14
"""Seconds after which an end that was sent to has sent its keepalive, so that both know of the
other that it is there (KEEPALIVE_TIMEOUT, 10 s, and more on a busy machine)."""
YOUNG = 100
"""Seconds up to which a session does not shake hands again by itself (REKEY_AFTER_TIME, 120 s)."""

Pair = tuple[int, int]
"""Two nodes by their numbers: the lower one first, or the one whose end it is."""


class Entry(NamedTuple):
    """A node in a registry; ``key`` and ``address`` are numbers that stand for one."""

    key: int
    port: int
    address: int | None


Registry = dict[int, Entry]


class Step(NamedTuple):
    """The sync of a node to a version, before which NATs may forget where packets came from.

    Of each tunnel the end with the lower number sends first, or else the other.
    """

    node: int
    version: int
    forgets: bool
    lower_first: bool


class Story(NamedTuple):
    """Versions of a registry, of which all nodes of the first have synced to it already."""

    family: Family
    versions: list[Registry]
    steps: list[Step]


Kind = Literal["add", "remove", "renumber", "rekey", "readdress"]
KINDS: tuple[Kind, ...] = ("renumber", "readdress", "rekey", "add", "remove")
ports = st.integers(50001, 50009)


def addresses(node: int) -> st.SearchStrategy[int | None]:
    """None is a node behind NAT; each node has addresses of its own."""
    return st.one_of(st.none(), st.integers(node * 20 + 1, node * 20 + 9))


@st.composite
def edited(draw: st.DrawFn, before: Registry) -> Registry:
    after = dict(before)
    for kind in draw(st.lists(st.sampled_from(KINDS), min_size=1, max_size=2)):
        node = draw(st.sampled_from(sorted(after)))
        entry = after[node]
        absent = sorted(set(range(NODES)) - after.keys())
        match kind:
            case "renumber":
                after[node] = entry._replace(port=draw(ports))
            case "readdress":
                after[node] = entry._replace(address=draw(addresses(node)))
            case "rekey":
                after[node] = entry._replace(key=entry.key + 1)
            case "remove" if len(after) > 2:
                del after[node]
            case "add" if absent:
                new = draw(st.sampled_from(absent))
                after[new] = Entry(10 * len(before), draw(ports), draw(addresses(new)))
    return after


@st.composite
def stories(draw: st.DrawFn) -> Story:
    numbers = draw(st.permutations(range(NODES)))[:3]
    taken = draw(st.lists(ports, min_size=3, max_size=3, unique=True))
    first = {
        node: Entry(0, port, draw(addresses(node)))
        for node, port in zip(numbers, taken, strict=True)
    }
    second = draw(edited(first))
    versions = [first, second, draw(edited(second))]
    steps: list[Step] = []
    for number, (old, new) in enumerate(itertools.pairwise(versions), start=1):
        order = draw(st.permutations(sorted(old.keys() | new.keys())))
        steps += (Step(n, number, draw(st.booleans()), draw(st.booleans())) for n in order)
    return Story(draw(st.sampled_from(["ip4", "ip6"])), versions, steps)


def drawn(count: int, steps: int, number: int) -> list[Story]:
    """So many different stories, with so many steps at least; of one number always the same.

    Of a number that draws too few, they are those of the next one.
    """
    found: list[Story] = []

    @seed(number)
    @settings(
        max_examples=4 * count,
        phases=[Phase.generate],
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(stories())
    def collect(story: Story) -> None:
        if len({str(version) for version in story.versions}) == 3:
            found.append(story)

    collect()
    choices = (found[end - count : end] for end in range(len(found), count - 1, -1))
    long = (some for some in choices if sum(len(each.steps) for each in some) >= steps)
    return next(long, None) or drawn(count, steps, number + 1)


class Fleet:
    """Nodes that live a story, and what the model knows of them.

    ``ends`` are by the node and the far one, as they are, and ``planned`` as the registry has
    them; ``links`` are their names. ``calling`` are ends that sent without an answer: they may
    shake hands by themselves at any time. ``heard`` says when a tunnel carried traffic last;
    ``alive`` are those that do, and ``alive_before`` those that did before the first node went to
    this version. ``started`` is when the last node began to sync, and ``fresh`` are the links whose
    sessions were alive then: its end may be seen much later, after those of others.
    """

    def __init__(self, mesh: Mesh, story: Story) -> None:
        self.mesh, self.story = mesh, story
        self.keys: dict[tuple[int, int], tuple[str, str]] = {}
        self.runs: dict[int, int] = {}
        self.places: dict[int, int] = {}
        self.topologies: dict[int, Topology] = {}
        self.departed: dict[int, Departed] = {}
        self.fresh: set[str] = set()
        self.started = 0.0
        self.ends: dict[Pair, End] = {}
        self.planned: dict[Pair, End] = {}
        self.links: dict[Pair, str] = {}
        self.calling: set[Pair] = set()
        self.heard: dict[Pair, float] = {}
        self.alive: set[Pair] = set()
        self.alive_before: set[Pair] = set()
        self.peers = [[self._peer(*each) for each in v.items()] for v in story.versions]
        members = [fleet_of(peers) for peers in self.peers]
        self.members = [{int(m.peer.name): m for m in version} for version in members]
        both = zip([[], *members], members, strict=False)
        self.changes = [{p.nodes: p for p in fleet_change(*each).pairs} for each in both]
        for number, node in enumerate(mesh.nodes):
            machine.ip_batch([f"netns add {node.target}"])
            with machine.inside(node.target):  # so that links send nothing by themselves
                path = Path("/proc/sys/net/ipv6/conf/default/router_solicitations")
                path.write_text("0")
            self._move(number, number * 20 + 20)

    def _key(self, node: int, number: int) -> tuple[str, str]:
        if (node, number) not in self.keys:
            self.keys[node, number] = machine.genkey()
        return self.keys[node, number]

    def _peer(self, node: int, entry: Entry) -> Peer:
        address = None if entry.address is None else self._text(entry.address)
        endpoint = PeerEndpoint(
            address_family=self.story.family, send_port=entry.port, address=address
        )
        public_key = self._key(node, entry.key)[1]
        return Peer(public_key=public_key, name=str(node), endpoints=(endpoint,))

    def _text(self, place: int) -> str:
        return f"192.0.2.{place}" if self.story.family == "ip4" else f"2001:db8::{place}"

    def _move(self, number: int, place: int) -> None:
        """Give a node another address on the underlay."""
        before = self.places.get(number, number + 1)  # as the mesh made it
        if before != place:
            length, nodad = ("/24", "") if self.story.family == "ip4" else ("/64", "nodad")
            lines = [
                f"addr del {self._text(before)}{length} dev underlay",
                f"addr add {self._text(place)}{length} dev underlay {nodad}",
            ]
            machine.ip_batch(lines, self.mesh.nodes[number].netns)
        self.places[number] = place

    def _hide(self, node: int) -> None:
        """Another address, that no registry has and nobody learned, as a NAT may give one."""
        self._move(node, node * 20 + 11 + (self.places[node] + 1) % 10)

    def start(self, step: Step) -> Running:
        """Have a node sync, as its user would."""
        self.started = time.monotonic()
        for number, version in self.runs.items() if step.forgets else ():
            known = self.story.versions[version].get(number)
            if known is not None and known.address is None:
                self._hide(number)
        node, entry = self.mesh.nodes[step.node], self.story.versions[step.version].get(step.node)
        now = int(time.time())
        self.fresh = {n for n, state in node.state().items() if is_fresh(now, state.handshake)}
        if entry is None:
            return node.start("down")
        if entry.address is not None:
            self._move(step.node, entry.address)
        elif self.places[step.node] in range(step.node * 20 + 1, step.node * 20 + 10):
            self._hide(step.node)
        node.private_key, node.public_key = self._key(step.node, entry.key)
        node.ports[self.story.family] = entry.port
        node.write_conf()
        node.write_peers(map(written, self.peers[step.version]))
        return node.start("up", "--yes")

    def finish(self, step: Step, running: Running) -> None:
        """What the model knows after the sync of a node."""
        result = running.wait()
        assert result.status in (DONE, PARTIAL), (result, self.story, step)
        here = step.node
        if step.version not in self.runs.values():
            self.alive_before = set(self.alive)
        self.runs[here] = step.version
        before, departed = self.topologies.get(here, EMPTY), self.departed.get(here, {})
        member, topology = self.members[step.version].get(here), EMPTY
        if member is not None:
            node = Here(public_key=member.peer.public_key, origin=Origin("kernel"))
            peers = self.peers[step.version]
            planned = plan(member.config, node, peers, applied=before, departed=departed)
            topology = planned.topology
        was = {self.links[pair]: (pair, self.ends[pair]) for pair in self.ends if pair[0] == here}
        calling = {pair for pair in self.calling if pair[0] == here}
        self.calling -= calling
        for pair, _ in was.values():
            del self.ends[pair], self.planned[pair], self.links[pair]
        for name, link in topology.links.items():
            end = end_of(link, member, True)
            pair = here, self._who(end.peer)
            self.planned[pair], self.links[pair] = end, name
            if name in was and was[name][1].peer == end.peer:
                last = last_endpoint(name, end.peer, before, departed)
                end = _updated(was[name][1], end, last, self.real(here, name) in self.fresh)
                self.calling |= calling & {pair}
            self.ends[pair] = end
        self.departed[here] = depart(departed, diff(before, topology))
        self.topologies[here] = topology

    def _who(self, public_key: str) -> int:
        return next(node for (node, _), both in self.keys.items() if both[1] == public_key)

    def real(self, node: int, name: str) -> str:
        """What a link is called on the machine, whose ifprefix differs from the implied one."""
        return f"{self.mesh.nodes[node].tag}{self.story.family[2]}{name.partition('x')[2]}"

    def tunnels(self) -> list[Pair]:
        return sorted({(min(pair), max(pair)) for pair in self.ends})

    def end(self, pair: Pair) -> End | None:
        """The first node's end of its tunnel to the second, which is reached where it is."""
        end, place = self.ends.get(pair), self._text(self.places[pair[0]])
        return None if end is None else structs.replace(end, addresses=frozenset({place}))

    def grade(self, pair: Pair) -> Grade:
        return grade(self.end(pair), self.end(pair[::-1]))

    def met(self, pair: Pair) -> None:
        """The ends have shaken hands, so each has learned where the other is."""
        for here, far in (pair, pair[::-1]):
            there = Endpoint(self._text(self.places[far]), self.ends[far, here].listens)
            end = self.ends[here, far]
            self.ends[here, far] = structs.replace(end, sends_to=there, fresh=False)
            self.calling.discard((here, far))
        self.heard[pair] = time.monotonic()
        self.alive.add(pair)

    def is_learned(self, pair: Pair) -> bool:
        """Whether an end sends elsewhere than the registry says."""
        ends = [(self.ends[p], self.planned[p]) for p in (pair, pair[::-1]) if p in self.ends]
        return any(end.sends_to != planned.sends_to for end, planned in ends)

    def is_shared(self, step: Step, pair: Pair) -> bool:
        """Whether a node of the pair shared its port: the old list does not say who has links."""
        old = self.story.versions[step.version - 1] if step.version else {}
        ports = [entry.port for entry in old.values()]
        return any(ports.count(old[node].port) > 1 for node in pair if node in old)

    def told(self, step: Step, pair: Pair) -> tuple[Grade, bool] | None:
        """What `rait fleet plan` says of a pair now; None where nothing becomes of it.

        And whether the two nodes run different versions.
        """
        changes = self.changes[step.version]
        names = str(pair[0]), str(pair[1])
        change = changes.get(names) or changes.get(names[::-1])
        if change is None:
            return None
        versions = ["new" if self.runs.get(int(n)) == step.version else "old" for n in change.nodes]
        grade = change.grades[COMBINATIONS.index((versions[0], versions[1]))]
        return grade, versions[0] != versions[1]

    def addresses(self) -> dict[Pair, str]:
        """The link-local address of each end."""
        found = {}
        for node in {node for node, _ in self.ends}:
            target = self.mesh.nodes[node].target
            shown = json.loads(machine.run(["ip", "-json", "-6", "address"], target))
            local = {each["ifname"]: each["addr_info"][0]["local"] for each in shown if each}
            for pair, name in self.links.items():
                if pair[0] == node:
                    found[pair] = local[self.real(node, name)]
        return found

    def ping(self, pair: Pair, addresses: dict[Pair, str]) -> subprocess.Popen[str]:
        """Send from an end, also where the other end is none."""
        address = addresses.get(pair[::-1], "fe80::1")
        name = self.real(pair[0], self.links[pair])
        return ping(self.mesh.nodes[pair[0]].target, name, address)


def written(peer: Peer) -> str:
    (endpoint,) = peer.endpoints
    lines = [
        "[[Peers]]",
        f'PublicKey = "{peer.public_key}"',
        f'Name = "{peer.name}"',
        f"SendPort = {endpoint.send_port}",
        f'AddressFamily = "{endpoint.address_family}"',
    ]
    if endpoint.address is not None:
        lines.append(f'Endpoint = "{endpoint.address}"')
    return "\n".join(lines) + "\n"


def _updated(was: End, end: End, last: Endpoint | None, alive: bool) -> End:
    """An end whose link stays: what was learned stands, unless the registry has other news."""
    seen, wanted = endpoint_views(was.sends_to, end.sends_to, last, fresh=alive, resolved=None)
    sends_to = was.sends_to if seen == wanted else wanted
    return structs.replace(end, sends_to=sends_to, fresh=was.fresh or was.key != end.key)


class Probe:
    """One tunnel after a step: which end sends first, and what the model expects of it."""

    def __init__(self, fleet: Fleet, step: Step, pair: Pair) -> None:
        self.fleet, self.step, self.pair = fleet, step, pair
        self.both = pair, pair[::-1]
        self.sender = self.both[0 if step.lower_first else 1]
        self.pings: list[subprocess.Popen[str]] = []
        one, other = fleet.end(self.sender), fleet.end(self.sender[::-1])
        self.grade = fleet.grade(pair)
        self.wakes = one is not None and other is not None and one.wakes(other)
        # Who has sent in vain may shake hands at any time; so may one whose last packet nobody
        # answered, and an answer from another place is learned. A young session is not renewed by
        # itself.
        heard = fleet.heard.get(pair, 0)
        settled = heard + QUIET < fleet.started and time.monotonic() < heard + YOUNG
        is_calling = fleet.calling & {pair, pair[::-1]}
        self.is_in_vain = not self.wakes and settled and not is_calling

    def send(self, senders: Sequence[Pair], addresses: dict[Pair, str]) -> None:
        """Have these ends send, those of them that there are, and the others no more."""
        self.stop()
        senders = [end for end in senders if end in self.fleet.ends]
        self.fleet.calling.update(senders)
        self.pings = [self.fleet.ping(end, addresses) for end in senders]

    def answered(self) -> bool:
        return any(each.poll() == 0 for each in self.pings)

    def stop(self) -> None:
        for each in self.pings:
            each.kill()
            each.wait()

    def __str__(self) -> str:
        fleet = self.fleet
        ends = "\n".join(f"  {p}: {fleet.end(p)}" for p in (self.pair, self.pair[::-1]))
        return (
            f"{fleet.story}\nin {self.step}, {self.sender} first: {self.pair} {self.grade}, "
            f"calling {fleet.calling}, alive before {fleet.alive_before}\n{ends}"
        )


def watch(probes: Sequence[Probe], due: Sequence[Probe], until: float) -> list[Probe]:
    """Wait until all that is due was answered, and at least until then; gives what was not."""
    begin, left = time.monotonic(), list(probes)
    while True:
        for probe in [probe for probe in left if probe.answered()]:
            probe.fleet.met(probe.pair)
            left.remove(probe)
        late = [str(probe) for probe in due if probe in left]
        now = time.monotonic()
        if now >= until and not late:
            return left
        assert now - begin < machine.PATIENCE, "\n".join(["unanswered:", *late])
        time.sleep(0.05)


def observe(probes: Sequence[Probe]) -> None:
    """Have one end of each tunnel send, and then, where that was in vain, both.

    Where nothing can get through, both send from the beginning. Tunnels have nothing to do with
    each other: while an end wakes one, which may take it as long as to give up a session, the
    others go on.
    """
    addresses = {id(probe.fleet): probe.fleet.addresses() for probe in probes}
    never = [probe for probe in probes if probe.grade == "never"]
    others = [probe for probe in probes if not probe.wakes and probe not in never]
    try:
        for probe in probes:
            probe.fleet.alive.discard(probe.pair)
            senders = probe.both if probe in never else [probe.sender]
            probe.send(senders, addresses[id(probe.fleet)])
        begin = time.monotonic()
        left = watch(probes, [], begin + SILENCE if others else begin)
        early = [str(probe) for probe in others if probe.is_in_vain and probe not in left]
        assert not early, "\n".join(["the wrong end was heard:", *early])
        for probe in (probe for probe in others if probe in left):
            probe.send(probe.both, addresses[id(probe.fleet)])
        due = [probe for probe in left if probe not in never]
        left = watch(left, due, begin + TIMERS if never else begin)
        heard = [str(probe) for probe in never if probe not in left]
        assert not heard, "\n".join(["the model says never:", *heard])
    finally:
        for probe in probes:
            probe.stop()


def check_plan(probe: Probe) -> bool:
    """Whether `rait fleet plan` said it; not where WireGuard has learned something else.

    Of two nodes that both have synced it takes for granted that nobody sent in between.
    """
    fleet, said = probe.fleet, probe.fleet.told(probe.step, probe.pair)
    if said is None or fleet.is_learned(probe.pair) or fleet.is_shared(probe.step, probe.pair):
        return False
    told, is_mixed = said
    if is_mixed and probe.pair in fleet.alive_before:
        assert told == probe.grade, f"rait fleet plan says {told}: {probe}"
    assert (told == "never") == (probe.grade == "never"), f"rait fleet plan says {told}: {probe}"
    return True


def rounds(lives: Sequence[Fleet]) -> Iterator[list[tuple[Fleet, Step]]]:
    """The first step of each fleet, then the second, and so on."""
    for number in range(max(len(fleet.story.steps) for fleet in lives)):
        yield [(f, f.story.steps[number]) for f in lives if number < len(f.story.steps)]


def sync(syncs: Sequence[tuple[Fleet, Step]]) -> list[Probe]:
    """Have nodes sync, each of another fleet or in the first version."""
    running = [fleet.start(step) for fleet, step in syncs]
    for (fleet, step), each in zip(syncs, running, strict=True):
        fleet.finish(step, each)
    last = {id(fleet): (fleet, step) for fleet, step in syncs}
    return [Probe(*each, pair) for each in last.values() for pair in each[0].tunnels()]


def test_real_nodes_do_what_the_model_says(make_mesh: MakeMesh, tier: str) -> None:
    is_free = tier == "userspace" and "CI" not in os.environ
    number = int(os.environ.get("RAIT_SEED") or (is_free and random.getrandbits(32)))
    print(f"RAIT_SEED={number} repeats this")
    told = drawn(STORIES[tier], STEPS[tier], number)
    lives = [Fleet(make_mesh(NODES), story) for story in told]
    observe(sync([(f, Step(n, 0, False, True)) for f in lives for n in f.story.versions[0]]))
    steps = compared = 0
    for syncs in rounds(lives):
        probes = sync(syncs)
        compared += sum(check_plan(probe) for probe in probes)
        observe(probes)
        steps += len(syncs)
    assert steps >= STEPS[tier]
    # In few stories, and in those of some numbers, WireGuard learns something in nearly each step.
    if tier == "userspace":
        assert compared, "the plan of the fleet is held against nothing"

"""A link's addresses over many runs: rait's own come and go, and those of others are left alone.

One link, whose addresses rait and other people change in turns. Runs end, fail at an address that
the machine refuses, or are killed between any two writes.
"""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs

from rait.domain.aftermath import known_after_failures
from rait.domain.backend import Observation, ObservedLink
from rait.domain.change import Change, Goal
from rait.domain.events import Event, LinkUpdated, replay
from rait.domain.history import LastKnown
from rait.domain.ownership import Scope
from rait.domain.plan import link_local
from rait.domain.reconcile import reconcile
from rait.domain.topology import (
    Device,
    Link,
    LinkPeer,
    LinkSettings,
    Origin,
    Topology,
    is_link_local,
)
from rait.domain.views import own_settings
from tests.property import strategies as some

DERIVED = link_local(some.OWN_KEY, some.PEER_KEYS[0], "ip4")
POOL = (
    "172.20.0.1/24",
    "172.20.0.1 peer 172.20.0.2/32",
    "2001:db8::1/64",
    "2001:db8::1 peer 2001:db8::2/128",
    "fe80::5/64",
    "fe80::6/64",
)
SCOPE = Scope(public_key=some.OWN_KEY, netns=some.NETNS, ifgroup=some.IFGROUP)
LINK = Link(
    "w1",
    Origin("kernel", some.NETNS, "transit"),
    LinkSettings(1420, some.IFGROUP, None, True, DERIVED),
    Device(some.OWN_KEY, 50001),
    (LinkPeer(some.PEER_KEYS[0]),),
)

some_addresses = st.frozensets(st.sampled_from(POOL), max_size=4)


def planned(addresses: frozenset[str]) -> Topology:
    chosen = any(map(is_link_local, addresses))
    address = None if chosen else DERIVED
    changed = structs.replace(LINK.settings, address=address, addresses=tuple(sorted(addresses)))
    return Topology({"w1": structs.replace(LINK, settings=changed)})


class Node:
    """The link's addresses, newest first as the kernel has them, and the journal."""

    def __init__(self) -> None:
        self.there = [DERIVED]
        self.known = LastKnown(topology=planned(frozenset()))
        self.tried: frozenset[str] = frozenset()
        """What rait has set, or may have set, and did not take away since."""
        self.meddled: set[str] = set()
        """What others ever added or removed."""

    def seen(self) -> Link:
        local = [each for each in self.there if is_link_local(each)]
        first = local[0] if local else None
        rest = tuple(sorted(each for each in self.there if each != first))
        there = structs.replace(LINK.settings, address=first, addresses=rest)
        return structs.replace(LINK, settings=there, origin=Origin("kernel", some.NETNS))

    def look(self, goal: Topology | None, known: LastKnown) -> Change:
        observation = Observation(now=0, links={"w1": ObservedLink(link=self.seen())})
        return reconcile(observation, Goal(goal), known, SCOPE)

    def write(self, change: Change, bad: str | None, until: int) -> tuple[list[Event], bool]:
        """What a backend does, at most ``until`` writes of it; the events that failed."""
        failed: list[Event] = []
        for event in change.events:
            assert isinstance(event, LinkUpdated)
            old, new = event.before.all_addresses, event.after.all_addresses
            comes = [each for each in new if each not in old]
            goes = [each for each in old if each not in new]
            if bad in comes:
                failed.append(event)
                goes = []
            for address in [*comes, *goes][:until]:
                if address in goes:
                    self.there.remove(address)
                elif address != bad and address not in self.there:
                    self.there.insert(0, address)
            if len(comes) + len(goes) > until:
                return [event], True
        return failed, False

    def run(self, wanted: frozenset[str], bad: str | None = None, until: int = 99) -> None:
        goal = planned(wanted)
        before, tried = list(self.there), self.tried
        change = self.look(goal, self.known)
        for event in change.drift:
            assert isinstance(event, LinkUpdated)
            differing = {*event.before.all_addresses} ^ {*event.after.all_addresses}
            assert event in change.leftover or differing <= self.meddled
        failed, killed = self.write(change, bad, until)
        topology = replay(self.known.topology, change.drift)
        of_others = [a for a in before if a not in tried | wanted | {DERIVED}]
        assert [a for a in self.there if a in of_others] == of_others
        if killed:
            self.known = LastKnown(topology=topology).having_leftover(tuple(failed))
            self.tried = _addresses(topology) | wanted
            return
        done = [event for event in change.events if event not in failed]
        topology = replay(topology, done)
        if failed:
            second = self.look(goal, known_after_failures(self.known, topology, failed))
            half_done = [event for event in second.drift if event in second.leftover]
            topology = replay(topology, half_done)
        self.known = LastKnown(topology=topology)
        self.tried = _addresses(topology)
        if not failed:
            self.assert_as(wanted, tried)

    def assert_as(self, wanted: frozenset[str], tried: frozenset[str]) -> None:
        assert wanted <= {*self.there}
        assert not (tried - wanted) & {*self.there}
        local = [each for each in self.there if is_link_local(each)]
        assert local
        if any(map(is_link_local, wanted)):
            assert DERIVED not in local
        again = self.look(planned(wanted), self.known)
        assert (again.events, again.drift) == ((), ())

    def meddle(self, address: str) -> None:
        """Somebody else adds or removes an address."""
        self.meddled.add(address)
        if address in self.there:
            self.there.remove(address)
        else:
            self.there.insert(0, address)


def _addresses(topology: Topology) -> frozenset[str]:
    return frozenset(topology.links["w1"].settings.addresses)


pool = st.sampled_from(POOL)
steps = st.one_of(
    st.tuples(st.just("run"), some_addresses),
    st.tuples(st.just("refused"), some_addresses, pool),
    st.tuples(st.just("killed"), some_addresses, st.integers(0, 4)),
    st.tuples(st.just("meddle"), pool | st.just(DERIVED)),
)


@settings(max_examples=300)
@given(st.lists(steps, max_size=10), some_addresses)
def test_addresses_come_and_go_and_those_of_others_stay(
    drawn: Sequence[tuple[object, ...]], wanted: frozenset[str]
) -> None:
    node = Node()
    for what, *given_ in drawn:
        match what, given_:
            case "run", [frozenset() as some_wanted]:
                node.run(some_wanted)
            case "refused", [frozenset() as some_wanted, str() as bad]:
                node.run(some_wanted, bad=bad)
            case "killed", [frozenset() as some_wanted, int() as until]:
                node.run(some_wanted, until=until)
            case "meddle", [str() as address]:
                node.meddle(address)
    node.run(wanted)


@given(some_addresses.filter(lambda wanted: not any(map(is_link_local, wanted))))
def test_what_need_not_be_looked_at_closely_is_as_a_close_look_has_it(
    wanted: frozenset[str],
) -> None:
    (last,) = planned(wanted).links.values()
    node = Node()
    node.there = [*wanted, DERIVED]
    link = node.seen()
    assert link.settings == last.settings  # which reconcile takes for settled
    assert own_settings(link, last, last, frozenset()) == last.settings

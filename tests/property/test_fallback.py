"""Nothing is removed on the word of an old peers list, whatever there is and whatever is known."""

from __future__ import annotations

from collections import Counter

from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from rait.domain.babel import BabeldState
from rait.domain.backend import Observation, ObservedLink, ObservedVrf
from rait.domain.change import Change, Doubt, Doubts, Goal
from rait.domain.config.schema import Transport
from rait.domain.errors import Problem, SkippedEntry
from rait.domain.events import (
    BabelInterfaceFlushed,
    LinkAdded,
    LinkRemoved,
    PeerRemoved,
    RuleRemoved,
    VrfRemoved,
    replay,
)
from rait.domain.fallback import OldList
from rait.domain.history import LastKnown
from rait.domain.ownership import Scope
from rait.domain.reconcile import reconcile
from rait.domain.topology import Endpoint, Topology
from tests.property import strategies as some

REMOVING = LinkRemoved | PeerRemoved | VrfRemoved | RuleRemoved | BabelInterfaceFlushed
SCOPE = Scope(public_key=some.OWN_KEY, netns=some.NETNS, ifgroup=some.IFGROUP)
OLD = OldList(1, "yesterday", "it is out of reach")
TRANSPORTS = (Transport(address_family="ip4", send_port=1, mtu=1420, ifprefix="w"),)

memories = st.builds(
    LastKnown,
    topology=some.topologies(),
    leftover_links=st.just({}) | some.mere_links.map(lambda found: found.links),
    leftover_vrfs=some.vrfs,
)
interfaces = st.sampled_from((*some.NAMES, "eth0"))
babelds = st.none() | st.builds(
    BabeldState,
    present=st.frozensets(interfaces).map(tuple),
    problem=st.sampled_from((None, None, None, "no babeld")),
    param=st.sampled_from(("rxcost 32", "rxcost 96")),
    ifprefixes=st.just(("w",)),
)
skipped = st.builds(
    Doubt,
    st.builds(SkippedEntry, some.peer_keys, st.none(), st.none()),
    st.just(Problem("wrong", "warning")),
)


@st.composite
def observations(draw: st.DrawFn) -> Observation:
    """Links wherever they may be, some of others, and VRFs and rules."""
    found = draw(some.topologies())
    elsewhere = draw(some.topologies())
    vrfs = draw(some.vrfs)
    return Observation(
        now=1000,
        links={name: ObservedLink(link=link) for name, link in found.links.items()},
        doubles=tuple(ObservedLink(link=link) for link in elsewhere.links.values()),
        vrfs={name: ObservedVrf(table, (), draw(st.booleans())) for name, table in vrfs.items()},
        rules=draw(some.rules),
        others=draw(st.dictionaries(interfaces, st.just("veth"), max_size=1)),
    )


@st.composite
def wishes(draw: st.DrawFn) -> Topology:
    """What a plan may ask for, with VRFs and rules."""
    links = draw(some.wanted_topologies() | some.topologies()).links
    return Topology(links, {}, draw(some.vrfs), draw(some.rules))


def change_for(
    there: Observation,
    wanted: Topology,
    known: LastKnown,
    babeld: BabeldState | None,
    old: OldList | None,
    found: tuple[Doubt, ...] = (),
    max_links: int = 1000,
) -> Change:
    doubts = Doubts(found, TRANSPORTS, lambda problem: problem.message, max_links, old)
    return reconcile(there, Goal(wanted, doubts=doubts), known, SCOPE, babeld)


def clashes(topology: Topology) -> set[int]:
    """The ports that two links have."""
    ports = Counter(link.device.listen_port for link in topology.links.values())
    return {port for port, count in ports.items() if port and count > 1}


@given(
    there=observations(),
    wanted=wishes(),
    known=memories,
    babeld=babelds,
    found=st.lists(skipped, max_size=2).map(tuple),
)
def test_nothing_is_removed_on_the_word_of_an_old_list(
    there: Observation,
    wanted: Topology,
    known: LastKnown,
    babeld: BabeldState | None,
    found: tuple[Doubt, ...],
) -> None:
    change = change_for(there, wanted, known, babeld, OLD, found)
    assert [event for event in change.events if isinstance(event, REMOVING)] == []
    assert replay(change.observed, change.events) == change.desired
    newest = change_for(there, wanted, known, babeld, None, found)
    assert clashes(change.desired) <= clashes(change.observed) | clashes(newest.desired)


@given(there=observations(), wanted=wishes(), known=memories, babeld=babelds)
def test_what_would_be_lost_is_told_and_all_else_is_done(
    there: Observation, wanted: Topology, known: LastKnown, babeld: BabeldState | None
) -> None:
    newest = change_for(there, wanted, known, babeld, None)
    change = change_for(there, wanted, known, babeld, OLD)
    told = {problem.link for problem in change.problems}
    lost = {e.name for e in newest.events if isinstance(e, LinkRemoved | PeerRemoved)}
    assert lost <= told
    assert all(change.desired.links[name] == change.observed.links[name] for name in lost)
    made = {e.name for e in change.events if isinstance(e, LinkAdded)}
    to_make = {e.name for e in newest.events if isinstance(e, LinkAdded)} - lost
    assert made <= to_make <= made | told
    if not any(isinstance(event, REMOVING) for event in newest.events):
        assert change.events == newest.events


@given(wanted=some.wanted_topologies(), applied=some.underlay, seen=some.underlay)
def test_a_live_session_keeps_the_address_that_works(
    wanted: Topology, applied: Endpoint, seen: Endpoint
) -> None:
    """The list may be older than what was applied, by another list or by hand."""

    def having(endpoint: Endpoint) -> Topology:
        links = wanted.links.items()
        return Topology(
            {
                name: structs.replace(
                    link, peers=tuple(structs.replace(p, endpoint=endpoint) for p in link.peers)
                )
                for name, link in links
            }
        )

    there = Observation(
        now=1000,
        links={
            name: ObservedLink(link=link, handshakes={p.public_key: 900 for p in link.peers})
            for name, link in having(seen).links.items()
        },
    )
    change = change_for(there, wanted, LastKnown(topology=having(applied)), None, OLD)
    moved = {event.name for event in change.events}
    for name, link in wanted.links.items():
        (peer,) = link.peers
        if peer.endpoint is None or peer.endpoint.port == applied.port:
            assert name not in moved


@given(there=observations(), wanted=wishes(), known=memories, most=st.integers(0, 6))
def test_links_that_stay_count_for_the_limit(
    there: Observation, wanted: Topology, known: LastKnown, most: int
) -> None:
    change = change_for(there, wanted, known, None, OLD, max_links=most)
    if any(isinstance(event, LinkAdded) for event in change.events) and change.refusal is None:
        assert len(change.desired.links) <= most

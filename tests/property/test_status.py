"""Laws of the status: whatever the machine, the journal, babeld and the clock say, there is one."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from rait.app.status import status_object
from rait.domain.babel import BabelNeighbour
from rait.domain.backend import Observation, ObservedLink, Outcome, UnreadLink
from rait.domain.diff import diff
from rait.domain.events import LinkRemoved
from rait.domain.history import LastKnown
from rait.domain.ownership import Scope
from rait.domain.records import Repeated, RunHeader, RunRecord
from rait.domain.status import STATES, Seen, Status, peers_age, rates, status_of
from rait.terminal import to_json
from tests.property import strategies as some

names = st.sampled_from(some.NAMES)
keys = st.sampled_from((some.OWN_KEY, *some.PEER_KEYS))
times = st.one_of(
    st.integers(-(2**63), 2**63 - 1),
    st.integers(-400, 400).map(lambda offset: 1_800_000_000 + offset),
    st.just(0),
)
counts = st.integers(0, 2**64 - 1)
SCOPES = [
    Scope(public_key=key, netns=some.NETNS, ifgroup=some.IFGROUP) for key in (some.OWN_KEY, "")
]


@st.composite
def observations(draw: st.DrawFn) -> Observation:
    """Any links with any figures, some twice or unreadable, at any time."""
    links = {
        name: ObservedLink(
            link=link,
            handshakes=draw(st.dictionaries(keys, times, max_size=2)),
            received=draw(st.dictionaries(keys, counts, max_size=2)),
            sent=draw(st.dictionaries(keys, counts, max_size=2)),
            renamed=draw(st.booleans()),
            dead=draw(st.booleans()),
        )
        for name, link in draw(some.mere_links).links.items()
    }
    unread = UnreadLink(some.NETNS, some.IFGROUP, "no answer")
    return Observation(
        now=draw(times),
        links=links,
        doubles=tuple(links.values())[: draw(st.integers(0, 1))],
        unread=draw(st.dictionaries(names, st.just(unread), max_size=2)),
    )


@st.composite
def memories(draw: st.DrawFn) -> LastKnown:
    """What a journal may know, with any of the known links leftover as removed."""
    known = draw(some.memories())
    removed = draw(st.sets(st.sampled_from(sorted(known.topology.links) or ["w1"]), max_size=2))
    events = tuple(
        LinkRemoved(known.topology.links[n]) for n in removed if n in known.topology.links
    )
    return structs.replace(known, leftover=events)


@st.composite
def runs(draw: st.DrawFn) -> RunRecord:
    events = diff(draw(some.mere_links), draw(some.wanted_topologies()))
    outcomes = {
        index: Outcome(index, draw(st.sampled_from((None, "no memory"))))
        for index in range(len(events))
        if draw(st.booleans())
    }
    started = draw(st.integers(-(2**63), 2**63 - 1))
    header = RunHeader(
        scope="s", command="up", version="1", uid=0, started_at=started, public_key=some.OWN_KEY
    )
    return RunRecord(
        id=1,
        last_id=9,
        header=header,
        intended=events,
        outcomes=outcomes,
        status=draw(st.sampled_from((None, "done", "partial", "failed"))),
        finished_at=draw(st.none() | st.integers(-(2**63), 2**63 - 1)),
        repeated=draw(st.none() | st.integers(-(2**63), 2**63 - 1).map(lambda at: Repeated(2, at))),
    )


metrics = st.integers(0, 2**32 - 1)
neighbours = st.lists(
    st.builds(
        BabelNeighbour,
        interface=names,
        address=st.sampled_from(("fe80::1", "fe80::2")),
        reach=st.integers(0, 0xFFFF),
        rxcost=metrics,
        txcost=metrics,
        cost=metrics,
        rtt=st.none() | st.floats(0, 1e6),
    ),
    max_size=4,
)


@st.composite
def sights(draw: st.DrawFn) -> Seen:
    at, now = draw(st.none() | times), draw(times)
    return Seen(
        observation=draw(observations()),
        known=draw(memories()),
        scope=draw(st.sampled_from(SCOPES)),
        peers=draw(st.none() | st.dictionaries(keys, st.sampled_from(("", "gate")), max_size=3)),
        failures=draw(st.none() | st.dictionaries(names, st.just("a conflict"), max_size=2)),
        neighbours=draw(st.none() | neighbours),
        list_age=draw(st.none() | st.just(peers_age(at, now, draw(st.none() | counts)))),
        last=draw(st.none() | runs()),
    )


@given(sights())
def test_each_wanted_link_is_there_just_once_and_no_age_is_negative(seen: Seen) -> None:
    status = status_of(seen)
    told = [link.name for link in status.links]
    assert told == sorted(set(told))
    removed = {event.name for event in seen.known.leftover}
    assert seen.known.topology.links.keys() - removed <= set(told)
    assert seen.known.leftover_links.keys() <= set(told)
    ages = [link.age for link in status.links]
    ages += [status.peers.age if status.peers is not None else None]
    ages += [status.last_change.age if status.last_change is not None else None]
    assert all(age is None or age >= 0 for age in ages)
    assert sum(status.counts().values()) == len(told)


@given(sights())
def test_a_state_says_what_there_is(seen: Seen) -> None:
    status = status_of(seen)
    there = seen.observation.links
    for link in status.links:
        assert link.state in STATES
        if link.state in ("live", "stale", "never"):
            assert link.name in there
            assert not there[link.name].dead
            assert there[link.name].link.settings.up
            assert link.why == ""
        else:
            assert link.why
        assert (link.state == "never") <= (link.handshake <= 0)
        assert (link.state == "live") <= link.healthy
        assert (link.state in ("failed", "missing")) <= (not link.healthy)
        if link.state == "never":
            assert link.healthy == (link.endpoint is None and link.received == 0)
    assert status.healthy == (
        all(link.healthy for link in status.links)
        and not (status.peers is not None and status.peers.too_old)
    )


@given(sights())
def test_what_cannot_be_read_is_never_missing(seen: Seen) -> None:
    unread = {
        name
        for name, each in seen.observation.unread.items()
        if (each.netns, each.group) == (seen.scope.netns, seen.scope.ifgroup)
    }
    states = {link.name: link.state for link in status_of(seen).links}
    assert all(states[name] == "failed" for name in unread)


@given(sights())
def test_any_status_can_be_told_to_programs(seen: Seen) -> None:
    to_json(status_object(status_of(seen)))


@given(sights(), sights(), st.floats(-1, 1e9))
def test_no_rate_is_negative(before: Seen, after: Seen, seconds: float) -> None:
    first, second = status_of(before), status_of(after)
    found = rates(first, second, seconds)
    assert found.keys() <= set(_named(first)) & set(_named(second))
    assert all(rate.received >= 0 and rate.sent >= 0 for rate in found.values())


def _named(status: Status) -> list[str]:
    return [link.name for link in status.links]

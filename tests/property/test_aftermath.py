"""Laws of telling, by a look at the machine, what failed and unfinished events did."""

from __future__ import annotations

from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from rait.domain.aftermath import known_after_failures, told_apart
from rait.domain.diff import diff
from rait.domain.events import Event, may_be_half_done, replay
from rait.domain.history import LastKnown
from rait.domain.topology import Topology
from tests.property import strategies as some


def half_done(known: Topology, seen: Topology, failed: Sequence[Event]) -> tuple[Event, ...]:
    """What the failed events did all the same, as the second look of a run finds it."""
    return told_apart(known, seen, known_after_failures(LastKnown(), known, failed).leftover)[0]


def split(data: st.DataObject, events: tuple[Event, ...]) -> tuple[list[Event], list[Event]]:
    """Those that are done, and those that are not: all of a name, as later ones fail with it."""
    names = sorted({event.name for event in events})
    failing = data.draw(st.frozensets(st.sampled_from(names)) if names else st.just(frozenset()))
    return (
        [event for event in events if event.name not in failing],
        [event for event in events if event.name in failing],
    )


@given(some.topologies(), some.topologies(), st.data())
def test_an_event_that_happened_although_it_failed_is_found_whole(
    before: Topology, after: Topology, data: st.DataObject
) -> None:
    done, failed = split(data, diff(before, after))
    known = replay(before, done)
    assert half_done(known, known, failed) == ()
    found = replay(known, half_done(known, after, failed))
    assert found.links == after.links
    assert found.babel == after.babel
    removals = [event for event in failed if may_be_half_done(event)]
    assert all(event.name not in found.vrfs or event.name in after.vrfs for event in removals)
    assert all(event.name not in found.rules for event in removals if event.name not in after.rules)


@given(some.topologies(), some.topologies(), some.topologies(), st.data())
def test_whatever_is_seen_only_what_failed_events_are_about_is_theirs(
    known: Topology, wanted: Topology, seen: Topology, data: st.DataObject
) -> None:
    _, failed = split(data, diff(known, wanted))
    found = half_done(known, seen, failed)
    replay(known, found)
    assert {event.name for event in found} <= {event.name for event in failed}


@given(some.topologies(), some.topologies(), some.topologies(), st.data())
def test_what_is_told_apart_adds_up_to_what_is_seen(
    known: Topology, wanted: Topology, seen: Topology, data: st.DataObject
) -> None:
    _, undecided = split(data, diff(known, wanted))
    left, others = told_apart(known, seen, undecided)
    assert replay(known, (*left, *others)) == seen
    assert told_apart(known, seen, ()) == ((), diff(known, seen))
    if seen == known:
        assert left == others == ()


@given(some.topologies(), some.topologies())
def test_a_run_that_never_finished_and_did_all_of_it_blames_nobody(
    before: Topology, after: Topology
) -> None:
    left, others = told_apart(before, after, diff(before, after))
    assert (left, others) == (diff(before, after), ())

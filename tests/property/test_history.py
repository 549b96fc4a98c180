"""Laws of taking a run back, and of the removals that go unasked."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from rait.domain.backend import Outcome
from rait.domain.diff import diff
from rait.domain.events import Event, inverted, replay
from rait.domain.guard import MIN_LINKS
from rait.domain.history import done_events
from rait.domain.records import RunHeader, RunRecord
from rait.domain.rollback import conflicts, touched, undo
from rait.domain.topology import Topology
from tests.property import strategies as some
from tests.removals import excessive_removal, lost_sessions

# Each draws two or three topologies, which takes its time; the laws they build on get more.
fewer = settings(max_examples=max(100, settings().max_examples // 4))

HEADER = RunHeader(scope="", command="up", version="", uid=0, started_at=0, public_key="")


def record(
    number: int,
    intended: tuple[Event, ...],
    noticed: tuple[Event, ...] = (),
    good: frozenset[str] | None = None,
) -> RunRecord:
    """A run in which all events of the names in ``good`` (None: of all) happened, others failed."""
    return RunRecord(
        id=number,
        last_id=number + 999,
        header=HEADER,
        noticed=noticed,
        intended=intended,
        outcomes={
            index: Outcome(index, None if good is None or event.name in good else "EBUSY")
            for index, event in enumerate(intended)
        },
        status="done",
    )


def parts(topology: Topology, names: frozenset[str]) -> list[dict[str, object]]:
    """What the topology has under these names."""
    return [
        {name: value for name, value in part.items() if name in names}
        for part in (topology.links, topology.babel, topology.vrfs, topology.rules)
    ]


def names_in(topology: Topology) -> frozenset[str]:
    return frozenset().union(topology.links, topology.babel, topology.vrfs, topology.rules)


@fewer
@given(some.topologies(), some.topologies())
def test_a_rollback_undoes_a_run_and_another_undoes_the_rollback(
    before: Topology, after: Topology
) -> None:
    run = record(1, diff(before, after))
    rolled_back = undo(after, run, after)
    assert rolled_back == before
    rollback = record(1001, diff(after, rolled_back))
    assert undo(rolled_back, rollback, rolled_back) == after
    assert replay(rolled_back, run.intended) == after, "the same run could happen again"


@fewer
@given(some.topologies(), some.topologies(), some.topologies(), st.data())
def test_only_what_the_run_did_is_taken_back(
    remembered: Topology, found: Topology, wanted: Topology, data: st.DataObject
) -> None:
    """Not what it noticed, nor what it failed to do."""
    events = diff(found, wanted)
    names = sorted({event.name for event in events})
    good = data.draw(st.frozensets(st.sampled_from(names)) if names else st.just(frozenset()))
    run = record(1, events, diff(remembered, found), good)
    after = replay(found, done_events(run))
    assert undo(after, run, after) == found


@fewer
@given(some.topologies(), some.topologies(), some.topologies())
def test_a_run_whose_links_nothing_has_touched_since_is_taken_back_by_inverted_events(
    before: Topology, after: Topology, later: Topology
) -> None:
    run = record(1, diff(before, after))
    names = touched(run)
    following = tuple(event for event in diff(after, later) if event.name not in names)
    now = replay(after, following)
    assert conflicts(run, [run, record(1001, following)]) == ()
    assert undo(now, run, after) == replay(now, inverted(done_events(run)))


@fewer
@given(some.topologies(), some.topologies(), some.topologies())
def test_with_force_each_link_of_the_run_is_as_it_was_before_it(
    before: Topology, after: Topology, now: Topology
) -> None:
    run = record(1, diff(before, after))
    later = record(1001, diff(after, now))
    names = touched(run)
    goal = undo(now, run, after)
    assert parts(goal, names) == parts(before, names)
    others = (names_in(now) | names_in(goal)) - names
    assert parts(goal, others) == parts(now, others), "and no other is touched"
    named = {conflict.link for conflict in conflicts(run, [run, later])}
    of_babel = ("BabelInterfaceAdded", "BabelInterfaceFlushed")
    shaped = {event.name for event in later.intended if type(event).__name__ not in of_babel}
    assert named == names & shaped, "what stands in the way is said"
    unnamed = names - named
    links, _, vrfs, rules = parts(now, unnamed)
    links_after, _, vrfs_after, rules_after = parts(after, unnamed)
    assert (links, vrfs, rules) == (links_after, vrfs_after, rules_after)


@fewer
@given(some.topologies(), some.topologies(), st.none() | st.integers(0, 5))
def test_what_may_be_removed_unasked(before: Topology, after: Topology, limit: int | None) -> None:
    gone = sorted(lost_sessions(before, after))
    assert set(gone) >= before.links.keys() - after.links.keys()
    removal = excessive_removal(before, after, limit)
    if limit is not None:
        assert (removal is not None) == (len(gone) > limit)
    else:
        assert (removal is not None) == (
            len(before.links) >= MIN_LINKS and 2 * len(gone) > len(before.links)
        )
    if removal is not None:
        assert list(removal.links) == gone
        assert removal.of == len(before.links)
        assert excessive_removal(before, after, len(gone)) is None, "a limit that lets it go on"


@fewer
@given(some.topologies(least=MIN_LINKS))
def test_an_empty_registry_never_takes_a_mesh_down_unasked(before: Topology) -> None:
    assert excessive_removal(before, Topology()) is not None

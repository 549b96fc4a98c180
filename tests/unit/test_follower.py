"""How a registry of many keys is followed, step by step."""

from __future__ import annotations

import pytest

from rait.domain.follower import (
    PATIENCE,
    Action,
    Answered,
    Ask,
    Event,
    Failed,
    Leave,
    Listed,
    State,
    Tell,
    Told,
    Turn,
    step,
)
from rait.domain.replica import Change, Replica

BEGUN = State(name="etcd://m1,m2/p", members=2, heard_at=100.0)
KNOWN = Replica(7, 10, {"A": "a", "B": "b"}, {"A": 4, "B": 8})
LAST = Change("B", "b", 8)
LISTEN = (Ask("changes", 10), Ask("revision"))
ALL, PAST, BEAT, NEWER = Ask("all"), Ask("past", 10), Ask("revision", 10), Ask("newer", 10)
CHANGES = Ask("changes", 10)
SILENT = "m1: it does not tell of changes"


def played(*events: Event, state: State = BEGUN, now: float = 101.0) -> State:
    for event in events:
        state, _ = step(state, event, now)
    return state


FOLLOWING = played(Turn("m1"), Listed(KNOWN, "m1"))
LEFT = played(Failed(CHANGES, "down"), state=FOLLOWING)


def actions(event: Event, state: State = FOLLOWING, now: float = 102.0) -> tuple[Action, ...]:
    return step(state, event, now)[1]


def answer(
    ask: Ask, revision: int = 10, cluster: int = 7, count: int = 2, newest: Change | None = None
) -> Answered:
    return Answered(ask, cluster, revision, count, newest)


def test_all_is_read_once_and_then_changes_are_heard() -> None:
    assert actions(Turn("m1"), BEGUN) == (ALL,)
    begun = played(Turn("m1"))
    assert actions(Listed(KNOWN, "m1"), begun) == (Tell(KNOWN, is_new=True), *LISTEN)


def test_an_empty_registry_is_told_as_well() -> None:
    empty = Replica(7, 10, {})
    assert actions(Listed(empty, "m1"), played(Turn("m1")))[0] == Tell(empty, is_new=True)


def test_a_change_is_told() -> None:
    changed = KNOWN.told((Change("A", "a2", 11),))
    assert actions(Told((Change("A", "a2", 11),))) == (Tell(changed, is_new=True),)
    assert played(Told((Change("A", "a2", 11),)), state=FOLLOWING).replica == changed


def test_a_change_that_leaves_the_list_as_it_was_confirms_it() -> None:
    again = KNOWN.told((Change("A", "a", 11),))
    assert actions(Told((Change("A", "a", 11),))) == (Tell(again, is_new=False),)


def test_a_message_without_changes_says_nothing() -> None:
    assert step(FOLLOWING, Told(()), 500.0) == (FOLLOWING, ())


def test_compacted_changes_have_all_read_anew() -> None:
    state, done = step(FOLLOWING, Told(None), 102.0)
    assert done == (Leave(),)
    assert actions(Turn("m2"), state) == (ALL,)


def test_the_next_member_is_asked_for_the_past() -> None:
    assert actions(Failed(CHANGES, "down")) == (Leave(),)
    assert actions(Turn("m2"), LEFT) == (PAST,)


@pytest.mark.parametrize(
    ("event", "then"),
    [
        (answer(PAST, newest=LAST), (Tell(KNOWN, is_new=False), *LISTEN)),
        (answer(PAST, 11, newest=LAST), LISTEN),
        (answer(PAST, cluster=8, newest=LAST), (ALL,)),
        (answer(PAST, count=3, newest=LAST), (ALL,)),
        (answer(PAST, newest=Change("B", "b", 7)), (ALL,)),
        (Failed(PAST, "compacted", is_refusal=True), (ALL,)),
        (Failed(PAST, "down"), (Leave(),)),
    ],
)
def test_it_goes_on_from_its_own_past_alone(event: Event, then: tuple[Action, ...]) -> None:
    assert actions(event, played(Turn("m2"), state=LEFT)) == then


@pytest.mark.parametrize(
    ("event", "then"),
    [
        (answer(BEAT, count=0), (Tell(KNOWN, is_new=False), Ask("revision"))),
        (answer(BEAT, 11, count=0), (NEWER,)),
        (answer(BEAT, 9, count=0), (Leave(),)),
        (answer(BEAT, 10, cluster=8, count=0), (Leave(),)),
        (answer(NEWER, 12), (Tell(KNOWN.told((), 12), is_new=False), Ask("revision"))),
        (answer(NEWER, 12, newest=Change("C", "c", 11)), (Ask("revision"),)),
        (answer(NEWER, 12, count=1), (Ask("revision"),)),
        (Failed(BEAT, "down"), (Leave(),)),
        (Failed(NEWER, "denied", is_refusal=True), (Leave(),)),
    ],
)
def test_a_heartbeat_finds_whether_all_was_told(event: Event, then: tuple[Action, ...]) -> None:
    assert actions(event) == then


@pytest.mark.parametrize("found", [answer(BEAT, 9, count=0), answer(BEAT, 10, cluster=8, count=0)])
def test_another_registry_is_read_anew(found: Event) -> None:
    assert actions(Turn("m2"), played(found, state=FOLLOWING)) == (ALL,)


def test_what_is_told_while_a_heartbeat_is_answered_answers_it() -> None:
    state = played(Told((Change("A", "a2", 11),)), state=FOLLOWING)
    assert actions(answer(BEAT, 11, count=0), state) == (Ask("revision"),)
    assert actions(answer(NEWER, 12, newest=Change("A", "a2", 11)), state) == (Ask("revision"),)


def test_a_member_that_does_not_tell_by_the_next_heartbeat_is_left() -> None:
    more = answer(NEWER, 12, newest=Change("C", "c", 11))
    state, done = step(played(more, state=FOLLOWING), more, 102.0)
    assert done == (Leave(),)
    assert state.why == SILENT
    assert actions(Turn("m2"), state) == (ALL,)
    # The next one has its own time.
    assert actions(more, played(Turn("m2"), Listed(KNOWN, "m2"), state=state)) == (Ask("revision"),)


def test_a_member_that_had_told_all_may_tell_more_a_moment_after_a_heartbeat() -> None:
    more = answer(NEWER, 12, newest=Change("C", "c", 11))
    assert actions(more, played(answer(BEAT, count=0), state=FOLLOWING)) == (Ask("revision"),)
    in_between = played(more, answer(BEAT, count=0), state=FOLLOWING)
    assert actions(more, in_between) == (Ask("revision"),)


@pytest.mark.parametrize("ask", [ALL, CHANGES])
def test_a_refusal_ends_all(ask: Ask) -> None:
    refusal = Failed(ask, "name: permission denied", is_refusal=True)
    assert actions(refusal) == (Leave("name: permission denied"),)


def test_what_comes_late_means_nothing() -> None:
    for late in (Told(None), Listed(KNOWN, "m1"), Failed(CHANGES, "x", is_refusal=True)):
        assert step(LEFT, late, 500.0) == (LEFT, ())
    refused = played(Failed(ALL, "no", is_refusal=True), state=FOLLOWING)
    assert step(refused, Told(None), 500.0) == (refused, ())


def ended(state: State, *times: float) -> list[str]:
    """The errors of turns that fail at these times."""
    errors = []
    for number, now in enumerate(times):
        member = f"m{number % 2 + 1}"
        state = played(Turn(member), state=state, now=now)
        state, done = step(state, Failed(PAST, "down"), now)
        assert isinstance(done[0], Leave)
        errors.append(done[0].error)
    return errors


def test_following_ends_after_a_while_without_a_word_once_each_member_was_asked() -> None:
    late, error = 101.0 + PATIENCE, "etcd://m1,m2/p: no member tells of changes: "
    assert ended(LEFT, late) == [""]
    assert ended(LEFT, late + 1) == [f"{error}m1: down"]  # after the one that was left
    assert ended(FOLLOWING, late + 1, late + 2) == ["", f"{error}m2: down"]
    assert ended(BEGUN, 101.0, 111.0) == ["", f"{error}m2: down"]


@pytest.mark.parametrize(
    "event",
    [answer(BEAT, count=0), answer(NEWER, 12), Told((Change("A", "a", 11),)), Listed(KNOWN, "m2")],
)
def test_whoever_is_heard_gives_all_members_their_time_anew(event: Event) -> None:
    state = played(Turn("m2"), state=LEFT)
    state, _ = step(state, event, 200.0)
    state, done = step(state, Failed(CHANGES, "down"), 500.0)
    assert done == (Leave(),)
    assert ended(state, 501.0)[0].endswith("m1: down")
    assert ended(state, 200.0 + PATIENCE) == [""]


def test_the_past_alone_is_no_word() -> None:
    """A member that ends each stream at once answers this too."""
    state = played(Turn("m2"), answer(PAST, newest=LAST), state=LEFT, now=500.0)
    assert actions(Failed(CHANGES, "it ended the stream"), state, 500.0) == (
        Leave("etcd://m1,m2/p: no member tells of changes: m2: it ended the stream"),
    )


def test_the_member_that_gave_all_keys_is_named() -> None:
    state = played(Turn("m1"), Listed(KNOWN, "m2"), Failed(CHANGES, "down"), state=BEGUN)
    assert state.why == "m2: down"

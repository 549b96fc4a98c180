"""A follower of a registry of many keys, whatever happens to the registry and to who tells of it.

The registry here is etcd as a follower sees it. Each question is answered as of some moment between
when it was asked and when the answer comes, and what happens meanwhile is drawn.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import partial

from hypothesis import assume, given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule
from msgspec import structs

from rait.domain import follower
from rait.domain.follower import (
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
)
from rait.domain.replica import Change, Replica

KEYS = "ABCD"
MEMBERS = 3
keys = st.sampled_from(KEYS)
some_keys = st.sets(keys, min_size=1, max_size=3)
kinds = st.sampled_from(["put", "delete", "elsewhere"])
writes = st.tuples(kinds, some_keys)


class Registry:
    """What was written, and at which revision. No two values are the same."""

    def __init__(self) -> None:
        self.cluster = self.revision = 1
        self.compacted = 0
        self._changes: list[Change] = []
        self._values = 0

    def write(self, kind: str, keys: Iterable[str]) -> None:
        if kind == "delete":
            self.delete(keys)
        else:
            self.put(keys if kind == "put" else ())

    def put(self, keys: Iterable[str]) -> None:
        """A transaction, all of one revision."""
        self.revision += 1
        for key in sorted(keys):
            self._values += 1
            self._changes.append(Change(key, f"{key}{self._values}", self.revision))

    def delete(self, keys: Iterable[str]) -> None:
        """Also as a lease that ends."""
        gone = sorted(set(keys) & set(self.at(self.revision).lines))
        self.revision += bool(gone)
        self._changes.extend(Change(key, None, self.revision) for key in gone)

    def restore(self, revision: int, *, renamed: bool) -> None:
        self.cluster += renamed
        self.revision, self.compacted = revision, min(self.compacted, revision)
        self._changes = [each for each in self._changes if each.revision <= revision]

    def at(self, revision: int) -> Replica:
        """What a plain read gives."""
        last = {each.key: each for each in self._changes if each.revision <= revision}
        found = {key: each for key, each in last.items() if each.line is not None}
        lines = {key: each.line for key, each in found.items() if each.line is not None}
        return Replica(self.cluster, revision, lines, {k: c.revision for k, c in found.items()})

    def since(self, revision: int) -> list[list[Change]]:
        """The changes after a revision, those of each in a list."""
        later = [each for each in self._changes if each.revision > revision]
        return [
            [each for each in later if each.revision == at]
            for at in sorted({each.revision for each in later})
        ]

    def answer(self, ask: Ask) -> Event:
        if ask.what == "all":
            return Listed(self.at(self.revision), "m")
        if ask.what == "past":
            if not self.compacted <= ask.revision <= self.revision:
                return Failed(ask, "refused", is_refusal=True)
            found = self.at(ask.revision)
        else:
            found = self.at(self.revision)
        newest = max(found.revisions, key=found.revisions.__getitem__, default=None)
        count = len(found.lines)
        if ask.what == "revision":
            newest, count = None, 0
        if ask.what == "newer" and newest and found.revisions[newest] <= ask.revision:
            newest = None
        key = newest and Change(newest, found.lines[newest], found.revisions[newest])
        return Answered(ask, self.cluster, self.revision, count, key or None)


class Following:
    """Does what the adapter does, and holds all that it is told to the truth."""

    def __init__(self, registry: Registry) -> None:
        self.registry = registry
        self.now = 0.0
        self.is_held_back = False
        self.begin()

    def begin(self) -> None:
        self.state = State(name="name", members=MEMBERS, heard_at=self.now)
        self.told: Replica | None = None
        self.error = ""
        self.heard_at = self.now
        self.turns_since = 0
        self.all_asked = 0
        self._end_turn()

    def _end_turn(self) -> None:
        self.asked: list[Ask] = []
        self.coming: list[Event] = []
        self.stream: int | None = None
        self.is_new_stream = False
        self.is_stale = False
        self.is_on = False

    def take(self, event: Event) -> None:
        self.state, actions = follower.step(self.state, event, self.now)
        if isinstance(event, Turn):
            self.is_on = True
        if not self.is_on:
            assert actions == ()
        for action in actions:
            match action:
                case Ask("changes", revision):
                    assert self.stream is None
                    self.stream, self.is_new_stream = revision, True
                case Ask():
                    assert [each.what for each in self.asked] in ([], ["revision"])
                    self.asked.append(action)
                    self.all_asked += action.what == "all"
                case Tell():
                    self._hold(action, event)
                case Leave(error):
                    self._left(event, error)

    def _hold(self, tell: Tell, event: Event) -> None:
        """Each list that is told is the exact history at its revision."""
        assert tell.replica == self.registry.at(tell.replica.revision)
        if tell.is_new:
            assert self.told is None or (self.told.cluster, self.told.lines) != (
                tell.replica.cluster,
                tell.replica.lines,
            )
        else:
            assert self.told is not None
            assert self.told.lines == tell.replica.lines
        self.told = tell.replica
        if not (isinstance(event, Answered) and event.ask.what == "past"):
            self.heard_at, self.turns_since = self.now, 0

    def _left(self, event: Event, error: str) -> None:
        self.turns_since += 1
        is_long_ago = self.now > self.heard_at + follower.PATIENCE
        is_refused = (
            isinstance(event, Failed) and event.is_refusal and event.ask.what in ("all", "changes")
        )
        assert bool(error) == (is_refused or (is_long_ago and self.turns_since >= MEMBERS))
        self.error = error
        self._end_turn()

    def beat(self) -> None:
        """The heartbeat is over: the member is asked now."""
        self.asked = [
            structs.replace(each, revision=self.state.replica.revision)
            if each == Ask("revision")
            else each
            for each in self.asked
        ]

    def serve(self) -> None:
        """Each question is answered as of now, but the answers are still to come."""
        waiting = [ask for ask in self.asked if ask == Ask("revision")]
        for ask in self.asked:
            if ask not in waiting:
                event = self.registry.answer(ask)
                if isinstance(event, Answered) and ask.what == "past":
                    self._is_not_unnoticed(event)
                self.coming.append(event)
        self.asked = waiting

    def _is_not_unnoticed(self, event: Answered) -> None:
        """A restored registry that differs in what was deleted alone is taken for the former."""
        known, found = self.state.replica, self.registry.at(event.ask.revision)
        newest = event.newest or Change("", None, 0)
        is_newest = newest.revision == max(known.revisions.values(), default=0)
        is_same = is_newest and known.lines.get(newest.key) == newest.line
        assume(known.lines == found.lines or len(known.lines) != len(found.lines) or not is_same)

    def come(self) -> None:
        while self.coming:
            self.take(self.coming.pop(0))

    def hear(self, most: int) -> None:
        """The stream tells of so many revisions at the most."""
        if self.stream is None or self.is_held_back or self.is_stale:
            return
        to_tell = self.registry.since(self.stream)
        is_lost = bool(to_tell) and to_tell[0][0].revision <= self.registry.compacted
        is_lost |= self.is_new_stream and self.stream < self.registry.compacted
        self.is_new_stream = False
        if is_lost:
            self.take(Told(None))
        elif not to_tell:
            self.take(Told(()))
        else:
            self.stream = to_tell[: max(most, 1)][-1][0].revision
            self.take(Told(tuple(each for changes in to_tell[:most] for each in changes)))

    def answer(self) -> None:
        """All that was asked for is answered, and the stream tells all."""
        for _ in range(3):
            self.serve()
            self.come()
            self.hear(1000)

    def settle(self) -> None:
        """So it is for a few heartbeats."""
        for _ in range(6):
            if self.error:
                self.begin()
            if not self.is_on:
                self.take(Turn("m"))
            self.answer()
            self.now += follower.PATIENCE
            self.beat()


class Story(RuleBasedStateMachine):
    """Whoever writes, compacts and restores, and whatever becomes of connections."""

    @initialize(before=some_keys, at_once=st.booleans())
    def start(self, before: set[str], at_once: bool) -> None:
        self.registry = Registry()
        self.registry.put(before)
        self.follower = Following(self.registry)
        if at_once:
            self.follower.settle()

    @rule(kind=kinds, keys=some_keys)
    def write(self, kind: str, keys: set[str]) -> None:
        self.registry.write(kind, keys)

    @rule()
    def compact(self) -> None:
        self.registry.compacted = self.registry.revision

    @rule(
        back=st.integers(1, 6),
        how=st.sampled_from(["same name", "renamed", "renamed behind a proxy"]),
        writes=st.lists(writes, max_size=8),
    )
    def restore(self, back: int, how: str, writes: list[tuple[str, set[str]]]) -> None:
        """It takes longer than any answer, so all connections end, if not those to a proxy."""
        follower = self.follower
        if how == "renamed behind a proxy":
            follower.come()
            follower.is_stale = True
        elif follower.is_on:
            follower.take(Failed(Ask("changes"), "gone"))
        self.registry.restore(max(1, self.registry.revision - back), renamed=how != "same name")
        for kind, keys in writes:
            self.registry.write(kind, keys)

    @rule()
    def turn(self) -> None:
        if self.follower.error:
            self.follower.begin()
        if not self.follower.is_on:
            self.follower.take(Turn("m"))

    @rule()
    def go_on(self) -> None:
        """For a while nothing is in its way."""
        self.turn()
        self.follower.answer()

    @rule()
    def beat(self) -> None:
        self.follower.beat()

    @rule()
    def serve(self) -> None:
        self.follower.serve()

    @rule()
    def come(self) -> None:
        self.follower.come()

    @rule(most=st.integers(1, 4))
    def hear(self, most: int) -> None:
        self.follower.hear(most)

    @rule(is_held_back=st.booleans())
    def hold_back(self, is_held_back: bool) -> None:
        """As a proxy may, in all streams."""
        self.follower.is_held_back = is_held_back

    @rule(is_refusal=st.sampled_from([False, False, True]), data=st.data())
    def fail(self, is_refusal: bool, data: st.DataObject) -> None:
        follower = self.follower
        changes = [] if follower.stream is None else [Ask("changes", follower.stream)]
        if not (asked := [*follower.asked, *changes]):
            return
        ask = data.draw(st.sampled_from(asked))
        if ask in follower.asked:
            follower.asked.remove(ask)
        follower.take(Failed(ask, "down", is_refusal))

    @rule(late=st.sampled_from([Told((Change("A", "late", 1000),)), Told(None)]))
    def tell_too_late(self, late: Told) -> None:
        """Of a turn that is over."""
        if not self.follower.is_on:
            self.follower.take(late)

    @rule(seconds=st.sampled_from([0.2, 5.0, 11.0]))
    def wait(self, seconds: float) -> None:
        self.follower.now += seconds

    @rule()
    def settle(self) -> None:
        """The last list that is told is what a plain read gives, and known to be the newest."""
        self.follower.settle()
        assert self.follower.told == self.registry.at(self.registry.revision)

    def teardown(self) -> None:
        if hasattr(self, "follower"):
            self.settle()


TestStory = Story.TestCase


def begun(registry: Registry) -> Following:
    """A follower that knows what there is."""
    following = Following(registry)
    following.take(Turn("m"))
    following.answer()
    return following


@given(st.lists(writes, max_size=3), st.integers(1, 3), st.lists(writes, max_size=3))
def test_a_registry_that_was_restored_under_its_name_is_told_as_it_is(
    before: list[tuple[str, set[str]]], back: int, after: list[tuple[str, set[str]]]
) -> None:
    """Most of all where it is at the known revision again, with another history."""
    registry = Registry()
    for key in KEYS:
        registry.put(key)
    for write in before:
        registry.write(*write)
    following = begun(registry)
    following.take(Failed(Ask("changes"), "gone"))
    registry.restore(max(1, registry.revision - back), renamed=False)
    for write in after:
        registry.write(*write)
    following.settle()
    assert following.told == registry.at(registry.revision)


@given(st.lists(st.tuples(kinds | st.just("cut"), some_keys, st.integers(0, 5))))
def test_all_is_read_once_if_each_member_tells_soon_after_a_heartbeat(
    drawn: list[tuple[str, set[str], int]],
) -> None:
    """What is written just before a heartbeat may be told just after it."""
    registry = Registry()
    registry.put(KEYS)
    following = begun(registry)
    answer = [following.serve, following.come]
    for kind, keys, told_at in drawn:
        if kind == "cut":
            following.take(Failed(Ask("changes"), "cut"))
            following.take(Turn("m"))
        else:
            registry.write(kind, keys)
        heartbeat = [*answer, following.beat, *answer, *answer]
        heartbeat.insert(told_at + 2, partial(following.hear, 1000))
        for do in heartbeat:
            do()
    assert following.is_on
    assert following.all_asked == 1
    assert following.told == registry.at(registry.revision)

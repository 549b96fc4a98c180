"""When `rait watch` does what, whatever happens and when, in virtual time."""

from __future__ import annotations

import math
from collections.abc import Iterable
from itertools import pairwise
from typing import Literal, get_args

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from msgspec import structs

from rait.domain import errands, fights, watch
from rait.domain import watch_events as causes
from rait.domain.watch import Settings
from rait.domain.watch_events import (
    Action,
    Begin,
    Ended,
    EntryOutdated,
    Event,
    Exit,
    FilesChanged,
    Hangup,
    LinksTouched,
    Notify,
    Outcome,
    Say,
    SourceTold,
    Sync,
    Synced,
    Terminate,
    Tick,
)

KINDS = ("sync", "poll", "names", "publish")
LINKS = ("rait450001", "rait450002", "rait450003")
MOMENT = 1e-6
LEAST_SYNC_GAP = watch.QUIET[1]
MOST_WAKES = 1000

intervals = st.sampled_from((1.0, 5.0, 60.0, 3600.0))
settings_ = st.builds(
    Settings,
    look=intervals,
    poll=st.none() | intervals,
    names=st.none() | intervals,
    publish=st.none() | st.sampled_from((5.0, 20.0, 3600.0)),
)
outcomes: st.SearchStrategy[Outcome] = st.sampled_from(
    ("unchanged", "done", "partial", "failed", "stopped", "held", "pending", "misconfigured")
)
chances = st.floats(0, 1)
links = st.frozensets(st.sampled_from(LINKS))
problems = st.sampled_from((("broken",), ("broken", "too"), ()))
synced = st.builds(
    Synced,
    outcome=outcomes,
    problems=problems,
    warnings=problems,
    disturbed=links,
    stale=st.booleans(),
)
touched = st.builds(
    LinksTouched,
    names=st.lists(st.sampled_from(LINKS), unique=True).map(tuple),
    deleted=st.booleans(),
)
changed = st.just(FilesChanged(("rait.conf",)))
calls = changed | touched | st.just(SourceTold()) | st.just(Hangup())
source_tells = st.builds(SourceTold, st.booleans(), st.sampled_from(("", "no key")))
LOST = Ended("poll", problem="gone", follow="lost")


class World:
    """A clock, and what `rait watch` has under way; it wakes as ``wake_at`` says."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.now = 1000.0
        self.state = watch.begin(self.now)
        self.begun: dict[str, list[float]] = {kind: [] for kind in KINDS}
        self.ended: dict[str, list[float]] = {kind: [] for kind in KINDS}
        self.busy: set[str] = set()
        self.synced: list[Sync] = []
        self.anew: list[bool] = []
        self.said: list[tuple[float, str]] = []
        self.notified: list[str] = []
        self.exits: list[float] = []
        self.tell(Tick())

    def tell(self, event: Event) -> None:
        kind = event.errand if isinstance(event, Ended) else "sync" * isinstance(event, Synced)
        if kind in self.busy:
            self.busy.remove(kind)
            self.ended[kind].append(self.now)
        else:  # what is followed may end at any time
            assert not kind or (isinstance(event, Ended) and event.follow == "lost")
        self.state, actions = watch.step(self.state, event, self.now, self.settings)
        for action in actions:
            self._do(action)

    def _do(self, action: Action) -> None:
        assert not self.exits, "nothing comes after the end"
        match action:
            case Begin(errand, anew):
                self._begin(errand)
                if errand == "poll":
                    self.anew.append(anew)
            case Sync(reasons):
                self._begin("sync")
                assert reasons
                assert causes.told(reasons)
                self.synced.append(action)
            case Say(lines):
                assert lines
                self.said += [(self.now, line) for line in lines]
            case Notify(state):
                self.notified.append(state)
            case Exit():
                assert "sync" not in self.busy
                self.exits.append(self.now)

    def _begin(self, kind: str) -> None:
        assert kind not in self.busy, f"two of {kind}"
        self.busy.add(kind)
        self.begun[kind].append(self.now)

    def wait(self, seconds: float) -> None:
        """Let time pass, and wake whenever it is time."""
        until = self.now + seconds
        for _ in range(MOST_WAKES + int(4 * seconds)):
            at = watch.wake_at(self.state, self.settings)
            if at > until or self.exits:
                self.now = until
                return
            assert at > self.now, "a busy loop"
            self.now = at
            self.tell(Tick())
        raise AssertionError("it wakes too often")

    def live(self, seconds: float, synced: Synced, polled: Ended, took: float = 0.1) -> None:
        """Let time pass, while each sync, poll and look-up ends with the same answer."""
        until = self.now + seconds
        while self.now < until and not self.exits:
            at = watch.wake_at(self.state, self.settings)
            if self.busy:
                self.wait(min(took, until - self.now))
                self.end(synced, polled)
            else:
                self.wait(min(until, at) - self.now)

    def end(
        self,
        synced: Synced,
        polled: Ended = Ended("poll"),  # noqa: B008
        published: Ended = Ended("publish"),  # noqa: B008
    ) -> None:
        """End all that is under way."""
        answers = {"sync": synced, "poll": polled, "names": Ended("names"), "publish": published}
        for kind in tuple(self.busy):
            self.tell(answers[kind])

    def settle(self) -> None:
        """Until it is calm, with nothing left to do but the next look."""
        state = self.state
        while state.pending or state.gated or state.retry or self.busy or self.now < state.calm_at:
            self.live(0.2, Synced("unchanged"), Ended("poll"))
            state = self.state


class Watching(RuleBasedStateMachine):
    """Events of any kind at any time; syncs, polls and look-ups end when they like."""

    def __init__(self) -> None:
        super().__init__()
        self.world: World | None = None
        self.since: list[tuple[float, float]] = []  # when a change came, and how long it may wait
        self.hung_up: list[float] = []
        self.meanwhile = False

    @rule(settings=settings_)
    def begin_or_reconfigure(self, settings: Settings) -> None:
        if self.world is None:
            self.world = World(settings)
            self.note()
        else:
            self.world.settings = settings
            self.world.tell(Tick())

    @precondition(lambda self: self.world)
    @rule(seconds=st.floats(0, 2) | st.floats(0, 200))
    def time_passes(self, seconds: float) -> None:
        self.world.wait(seconds)

    @precondition(lambda self: self.world)
    @rule(event=changed | touched)
    def something_changes(self, event: FilesChanged | LinksTouched) -> None:
        # A link that somebody changes again and again may have to wait longer.
        fought = isinstance(event, LinksTouched) and event.names
        if not (fought and any(name in self.world.state.fights for name in event.names)):
            if isinstance(event, LinksTouched) and "sync" in self.world.busy:
                self.meanwhile = True
            else:
                self.note()
        self.tell(event)

    @precondition(lambda self: self.world)
    @rule()
    def hangup(self) -> None:
        self.hung_up.append(self.world.now)
        self.tell(Hangup())

    @precondition(lambda self: self.world)
    @rule(event=source_tells)
    def source_told(self, event: SourceTold) -> None:
        if event.changed:
            self.note()
        self.tell(event)

    @precondition(lambda self: self.world)
    @rule(problem=st.sampled_from(("", "gone")), chance=chances)
    def source_is_lost(self, problem: str, chance: float) -> None:
        self.tell(Ended("poll", problem=problem, chance=chance, follow="lost"))

    @precondition(lambda self: self.world and "sync" in self.world.busy)
    @rule(event=synced)
    def sync_ends(self, event: Synced) -> None:
        if event.outcome == "failed" and not self.world.state.stopping:
            self.note(watch.LONGEST_RETRY)
        elif self.meanwhile:
            self.note(fights.LONGEST_PAUSE)  # a look, once the sync is over
        self.meanwhile = False
        self.tell(event)

    @precondition(lambda self: self.world and "poll" in self.world.busy)
    @rule(
        changed=st.booleans(),
        problem=st.sampled_from(("", "no answer")),
        chance=chances,
        follow=st.sampled_from((None, "begun", "alive")),
    )
    def poll_ends(
        self, changed: bool, problem: str, chance: float, follow: Literal["begun", "alive"] | None
    ) -> None:
        if changed:
            self.note()
        self.tell(Ended("poll", changed, problem, chance, follow))

    @precondition(lambda self: self.world and "names" in self.world.busy)
    @rule(changed=st.booleans(), problem=st.sampled_from(("", "no answer")), chance=chances)
    def look_up_ends(self, changed: bool, problem: str, chance: float) -> None:
        if changed:
            self.note()
        self.tell(Ended("names", changed, problem, chance))

    @precondition(lambda self: self.world)
    @rule()
    def entry_is_lost(self) -> None:
        self.tell(EntryOutdated())

    @precondition(lambda self: self.world and "publish" in self.world.busy)
    @rule(changed=st.booleans(), problem=st.sampled_from(("", "no answer")), chance=chances)
    def publish_ends(self, changed: bool, problem: str, chance: float) -> None:
        self.tell(Ended("publish", changed, problem, chance))

    @precondition(lambda self: self.world and len(self.world.begun["sync"]) > 5)
    @rule()
    def terminate(self) -> None:
        self.tell(Terminate())

    def note(self, longer: float = 0.0) -> None:
        self.since.append((self.world.now, longer + watch.LONGEST_QUIET[-1]))

    def tell(self, event: Event) -> None:
        self.world.tell(event)

    @invariant()
    def it_sleeps_until_there_is_something_to_do(self) -> None:
        if self.world is not None:
            at = watch.wake_at(self.world.state, self.world.settings)
            assert at > self.world.now

    @invariant()
    def each_change_is_synced_within_its_bound(self) -> None:
        if self.world is None or self.world.state.stopping:
            return
        world = self.world
        last = world.begun["sync"][-1] if world.begun["sync"] else -math.inf
        self.since = [(at, span) for at, span in self.since if at > last]
        self.hung_up = [
            at for at in self.hung_up if not any(at <= begun for begun in self._hangup_syncs())
        ]
        if "sync" in world.busy:
            return
        free = world.ended["sync"][-1] if world.ended["sync"] else -math.inf
        gate = 0.0 if world.begun["sync"] else watch.GATE_SECONDS
        for at, span in self.since:
            latest = max(at + gate + span, free + watch.QUIET[0])
            assert world.now <= latest + MOMENT, "a change waits too long"
        for at in self.hung_up:
            latest = at + watch.GATE_SECONDS + watch.LONGEST_QUIET[-1]
            assert world.now <= max(latest, free + watch.QUIET[0]) + MOMENT

    def _hangup_syncs(self) -> Iterable[float]:
        both = zip(self.world.begun["sync"], self.world.synced, strict=True)
        return [at for at, sync in both if causes.HANGUP in sync.causes]

    @invariant()
    def nothing_begins_too_often(self) -> None:
        if self.world is None:
            return
        for kind in KINDS[1:]:
            begun = self.world.begun[kind]
            assert all(b - a >= 0.9 - MOMENT for a, b in pairwise(begun)), kind
        # Right after a look there may be a sync for a change.
        syncs = self.world.begun["sync"]
        assert all(b - a >= LEAST_SYNC_GAP - MOMENT for a, b in zip(syncs, syncs[2:], strict=False))

    @invariant()
    def the_end_comes_with_the_end_of_the_sync(self) -> None:
        if self.world is not None and self.world.state.stopping:
            assert bool(self.world.exits) == ("sync" not in self.world.busy)

    @invariant()
    def what_is_remembered_is_bounded(self) -> None:
        if self.world is not None:
            state = self.world.state
            most = len(get_args(causes.Kind)) * causes.MOST_CAUSES
            assert max(len(state.pending), len(state.running)) <= most
            assert len(state.fights) <= len(LINKS)
            assert len(state.later) <= len(LINKS)

    @invariant()
    def the_service_manager_hears_ready_after_each_reload(self) -> None:
        if self.world is not None:
            told = [state for state in self.world.notified if state != "stopping"]
            assert all(a != b for a, b in pairwise(told)), told
            assert told[:1] in ([], ["ready"])
            assert self.world.notified.count("stopping") <= 1


TestWatching = Watching.TestCase


@given(took=st.floats(0.01, 0.4), deleted=st.booleans())
def test_syncs_that_touch_links_themselves_are_no_loop(took: float, deleted: bool) -> None:
    """As where the kernel tells of a link whenever somebody reads it."""
    world = ready(SLOW)
    begin = world.now
    world.tell(FilesChanged(("rait.conf",)))
    while world.now < begin + 60:
        world.wait(took if "sync" in world.busy else 0.1)
        if "sync" in world.busy:
            world.tell(LinksTouched(LINKS, deleted))
            world.end(Synced("unchanged"))
    assert len(world.begun["sync"]) < 60 / watch.QUIET[-1] + 10


def ready(settings: Settings) -> World:
    """A world in which the first sync is over, and it is calm."""
    world = World(settings)
    world.settle()
    return world


SLOW = Settings(look=3600.0, poll=3600.0, names=3600.0)


@given(
    gaps=st.lists(st.floats(0, 0.012), min_size=1, max_size=50).map(
        lambda some: (some * 1000)[:1000]
    ),
    took=st.floats(0.01, 3),
    event=st.sampled_from((FilesChanged(("peers list",)), LinksTouched(("wg",)))),
)
def test_a_burst_of_a_thousand_is_three_syncs_at_the_most(
    gaps: list[float], took: float, event: Event
) -> None:
    world = ready(SLOW)
    before = len(world.synced)
    ends: float | None = None
    for gap in gaps:
        world.wait(gap)
        world.tell(event)
        if "sync" in world.busy and ends is None:
            ends = world.now + took
        if ends is not None and world.now >= ends:
            world.tell(Synced("done"))
            ends = None
    world.settle()
    assert 1 <= len(world.synced) - before <= 3


@given(event=calls, settings=settings_)
def test_after_a_calm_a_change_is_synced_at_once(event: Event, settings: Settings) -> None:
    world = ready(settings)
    began, polls, before = world.now, len(world.begun["poll"]), len(world.synced)
    world.tell(event)
    if not isinstance(event, Hangup):
        world.wait(watch.QUIET[0])
        assert world.synced[before:]
        assert world.begun["sync"][-1] == began + watch.QUIET[0]
    elif settings.poll is not None:
        world.wait(errands.ASKED_GAP)
        assert len(world.begun["poll"]) > polls


def test_a_change_that_comes_while_a_look_is_due_does_not_wait_for_that_look() -> None:
    world = ready(Settings(look=10))
    world.wait(10)
    world.tell(LinksTouched(LINKS[:1]))  # by the look itself, so there is to be another one
    world.end(Synced("unchanged"))
    assert world.state.pending == (causes.LOOK,)
    world.tell(FilesChanged(("rait.conf",)))
    world.wait(watch.QUIET[0])
    assert "sync" in world.busy


@given(deleted=st.lists(st.floats(0, 1), min_size=1, max_size=2), took=st.floats(0.01, 0.5))
def test_a_link_that_is_deleted_is_back_within_two_seconds(
    deleted: list[float], took: float
) -> None:
    world = ready(SLOW)
    for gap in deleted:
        world.live(gap, Synced("unchanged"), Ended("poll"), took)
        at, begun = world.now, len(world.begun["sync"])
        world.tell(LinksTouched(("rait450001",), deleted=True))
        # Our own messages come while it is made again.
        while len(world.begun["sync"]) == begun:
            world.live(0.05, Synced("done", disturbed=frozenset(LINKS[:1])), Ended("poll"), took)
            world.tell(LinksTouched(("rait450001",)))
        assert world.begun["sync"][begun] + took <= at + 2


@given(gap=st.floats(0.05, 0.49), took=st.floats(0.01, 1))
def test_who_changes_the_list_all_the_time_puts_off_no_others_changes(
    gap: float, took: float
) -> None:
    """One node with an entry in etcd could keep all the others from each other."""
    world = ready(SLOW)
    while world.now < 1200:
        world.live(gap, Synced("unchanged"), Ended("poll"), took)
        world.tell(SourceTold(changed=True))
    begun = [at for at in world.begun["sync"] if at > 1050]
    assert max(later - earlier for earlier, later in pairwise(begun)) <= 5 + took + gap
    assert len(begun) <= 150 / 0.5, "and costs no sync for each"


@given(rounds=st.integers(5, 40), look=st.sampled_from((300.0, 3600.0)))
def test_who_deletes_a_link_again_and_again_meets_growing_pauses(rounds: int, look: float) -> None:
    world = ready(Settings(look=look))
    back: list[float] = []
    for _ in range(rounds):
        world.tell(LinksTouched(LINKS[:1], deleted=True))
        at = world.now
        while "sync" not in world.busy:
            world.wait(0.1)
        back.append(world.now - at)
        world.end(Synced("done", disturbed=frozenset(LINKS[:1])))
    pauses = back[: fights.FREE]
    assert max(pauses) <= 2
    for earlier, later in pairwise(back[fights.FREE :]):
        assert later >= min(1.9 * earlier, fights.LONGEST_PAUSE) - 0.2
    assert max(back) <= fights.LONGEST_PAUSE + 1
    assert len(world.said) == 1
    # Another link does not wait for it.
    world.wait(watch.CALM)
    world.tell(LinksTouched(LINKS[1:2], deleted=True))
    world.wait(watch.DELETED_SECONDS)
    assert "sync" in world.busy


def check_retries(gaps: list[float], interval: float, chance: float) -> None:
    """Each is within a span that doubles, at a random time in all of it, and never very soon."""
    first = min(errands.FIRST_RETRY, interval)
    for count, gap in enumerate(gaps, 1):
        span = min(errands.grown(first, count), errands.LONGEST_RETRY * interval)
        assert max(0.9 * first, chance * span) <= gap <= 1.1 * first + chance * span + 0.2
        assert gap <= 1.1 * span + 0.2


@given(interval=intervals, chance=chances)
def test_a_poll_that_fails_is_tried_again_at_growing_intervals_with_bounds(
    interval: float, chance: float
) -> None:
    world = World(Settings(look=3600.0, poll=interval))
    world.live(
        interval * 60, Synced("unchanged"), Ended("poll", problem="no answer", chance=chance), 0.1
    )
    gaps = [b - a for a, b in pairwise(world.begun["poll"])]
    check_retries(gaps, interval, chance)
    assert all(b >= a - 0.2 for a, b in pairwise(gaps))
    world.live(gaps[-1] + 2, Synced("unchanged"), Ended("poll", chance=chance))
    ended = world.ended["poll"][-1]
    world.live(1.1 * interval + 1, Synced("unchanged"), Ended("poll", chance=chance))
    assert interval * 0.9 <= next(at for at in world.begun["poll"] if at > ended) - ended
    assert world.said[-1][1] == "the peers list can be fetched again"


FOLLOWED = Settings(look=3600.0, poll=60.0)


def followed() -> World:
    """A world in which a source is followed, and it is calm."""
    world = World(FOLLOWED)
    world.live(0.2, Synced("done"), Ended("poll", changed=True, follow="begun"))
    world.live(300, Synced("unchanged"), Ended("poll", follow="alive"))
    world.said.clear()
    return world


def lose(world: World) -> float:
    """Lose what is followed; gives how long it takes until it is to be followed again."""
    at = world.now
    world.tell(LOST)
    while "poll" not in world.busy:
        if "sync" in world.busy:
            world.tell(Synced("unchanged"))
        world.wait(watch.wake_at(world.state, world.settings) - world.now)
    return world.now - at


@given(lasts=st.lists(st.floats(0, 4), min_size=10, max_size=20), chance=chances)
def test_a_follow_that_ends_again_and_again_is_begun_at_growing_intervals(
    lasts: list[float], chance: float
) -> None:
    world = followed()
    gaps = []
    for seconds in lasts:
        gaps.append(lose(world))
        world.tell(Ended("poll", chance=chance, follow="begun"))
        world.wait(seconds)
    check_retries(gaps, 60.0, LOST.chance)
    bad = [at for at, line in world.said if line == "gone"]
    assert all(b - a >= 59 for a, b in pairwise(bad))
    assert len(bad) <= 3 + math.log2(1 + sum(gaps) / 60)
    assert len(world.said) == len(bad), "it is not good again"


@given(failures=st.integers(0, 20), lasts=st.floats(2 * errands.FIRST_RETRY, 200))
def test_a_follow_that_has_lasted_is_begun_soon(failures: int, lasts: float) -> None:
    world = followed()
    lose(world)
    for _ in range(failures):
        lose(world)
    world.tell(Ended("poll", follow="begun"))
    world.live(lasts, Synced("unchanged"), Ended("poll", follow="alive"))
    assert lose(world) <= 1.1 * errands.FIRST_RETRY
    lines = [line for _, line in world.said]
    assert lines.count("the peers list can be fetched again") >= 1


@given(hours=st.floats(0.1, 10))
def test_a_source_without_a_list_is_told_of_rarely_and_heard_at_once(hours: float) -> None:
    world = followed()
    world.tell(SourceTold(changed=False, problem="no key"))
    world.live(3600 * hours, Synced("unchanged"), Ended("poll", problem="no key", follow="alive"))
    assert 1 <= len(world.said) <= 2 + math.log2(1 + 60 * hours) + hours / 24
    before = len(world.synced)
    world.tell(SourceTold())
    world.wait(watch.QUIET[1])
    assert causes.SOURCE in world.synced[before].causes
    assert world.said[-1][1] == "the peers list can be fetched again"
    assert lose(world) <= 1.1 * errands.FIRST_RETRY


@given(
    look=intervals,
    answers=st.lists(st.sampled_from(("", "this", "that")), min_size=1, max_size=100),
)
def test_what_fails_is_told_once_then_at_growing_intervals_and_once_when_it_is_good(
    look: float, answers: list[str]
) -> None:
    world = ready(Settings(look=look))
    for answer in answers:
        lines = (answer,) if answer else ()
        world.live(look, Synced("partial" if lines else "unchanged", lines), Ended("poll"))
    start = world.now
    for line in ("this", "that"):
        told = [at for at, text in world.said if text == line]
        if len(told) > 2:
            # 60 s, 120 s, 240 s, ... of a trouble that comes and goes as of one that lasts.
            assert all(b - a >= 59 for a, b in pairwise(told))
            gone = 2 * (told[-1] - told[0])
            assert len(told) <= 3 + math.log2(1 + gone / 60) + (start - 1000) / 300
    good = [text for _, text in world.said if text == "all is as it should be again"]
    bad = [text for _, text in world.said if text in ("this", "that")]
    assert len(good) <= len(bad)
    if bad:
        world.live(3 * look, Synced("unchanged"), Ended("poll"))
        assert world.said[-1][1] == "all is as it should be again"


def test_what_fails_for_days_is_told_rarely() -> None:
    days = 10
    world = ready(Settings(look=600.0))
    world.live(86400.0 * days, Synced("partial", ("broken",)), Ended("poll"))
    assert 11 <= len(world.said) <= 11 + days
    world.live(1200, Synced("unchanged"), Ended("poll"))
    world.live(1200, Synced("unchanged"), Ended("poll"))
    assert [line for _, line in world.said if line != "broken"] == ["all is as it should be again"]


def test_a_sync_that_fails_is_tried_again_for_its_causes() -> None:
    world = ready(SLOW)
    before = len(world.synced)
    world.tell(FilesChanged(("rait.conf",)))
    world.live(600, Synced("failed", ("no space",)), Ended("poll"))
    tries = world.synced[before:]
    assert all(causes.told(sync.causes) == "rait.conf changed" for sync in tries)
    gaps = [b - a for a, b in pairwise(world.begun["sync"][before:])]
    assert gaps[0] <= 2 * watch.FIRST_RETRY
    assert all(b >= a - 0.2 for a, b in pairwise(gaps))
    assert watch.LONGEST_RETRY <= gaps[-1] <= watch.LONGEST_RETRY + 1


@given(outcome=st.sampled_from(("stopped", "held", "pending", "misconfigured", "partial")))
def test_what_only_the_user_can_mend_is_tried_when_something_changes(outcome: Outcome) -> None:
    world = ready(Settings(look=300.0))
    before = len(world.synced)
    world.tell(FilesChanged(("rait.conf",)))
    world.live(290, Synced(outcome, ("why",)), Ended("poll"))
    assert len(world.synced) == before + 1
    world.tell(FilesChanged(("rait.conf",)))
    world.live(1, Synced("done"), Ended("poll"))
    assert len(world.synced) == before + 2
    assert [line for _, line in world.said] == ["why", "all is as it should be again"]


@given(
    settings=st.sampled_from((SLOW, Settings(look=5.0))),
    events=st.lists(calls, max_size=10),
    running=st.booleans(),
    wait=st.floats(0, 100),
)
def test_it_ends_when_the_sync_has_ended_and_does_nothing_more(
    settings: Settings, events: list[Event], running: bool, wait: float
) -> None:
    world = ready(settings)
    if running:
        world.tell(FilesChanged(("rait.conf",)))
        world.wait(watch.QUIET[0])
    polls, syncs = len(world.begun["poll"]), len(world.begun["sync"])
    for event in (Terminate(), *events, Terminate()):
        world.tell(event)
    world.wait(wait)
    assert world.exits == ([] if running else world.exits[:1])
    if running:
        world.tell(Synced("failed", ("interrupted",)))
    assert len(world.exits) == 1
    assert (len(world.begun["poll"]), len(world.begun["sync"])) == (polls, syncs)
    assert world.notified == ["ready", "stopping"]


@given(settings=settings_, busy=st.booleans(), took=st.floats(0.1, 30))
def test_a_hangup_syncs_with_everything_read_anew(
    settings: Settings, busy: bool, took: float
) -> None:
    world = ready(settings)
    if busy:
        begun = {**world.state.errands, "poll": world.state.errands["poll"].asked(world.now)}
        world.state = structs.replace(world.state, errands=begun)
        world.tell(Tick())
        world.wait(errands.ASKED_GAP)
    at = world.now
    world.tell(Hangup())
    world.live(watch.GATE_SECONDS + 10 * took + 5, Synced("unchanged"), Ended("poll"), took)
    begun = next(
        begun
        for begun, sync in zip(world.begun["sync"], world.synced, strict=True)
        if causes.HANGUP in sync.causes
    )
    assert begun <= at + watch.GATE_SECONDS + watch.LONGEST_QUIET[-1] + took
    if took < 10:
        for kind, interval in (("poll", settings.poll), ("names", settings.names)):
            fetched = zip(world.begun[kind], world.ended[kind], strict=False)
            assert interval is None or any(at <= one and end <= begun for one, end in fetched)
        polls = zip(world.begun["poll"], world.anew, strict=True)
        assert settings.poll is None or any(at <= one and anew for one, anew in polls)
    assert world.notified[:3] == ["ready", "reloading", "ready"]


def test_a_hangup_waits_for_the_list_however_late_it_comes_and_no_longer_for_a_second_one() -> None:
    world = World(Settings(look=36000.0, poll=3600.0))
    world.settle()
    world.wait(10 * watch.GATE_SECONDS)
    count = len(world.synced)
    world.tell(Hangup())
    world.wait(watch.GATE_SECONDS / 2)
    world.tell(Hangup())
    assert ("poll" in world.busy, world.anew[-1], len(world.synced)) == (True, True, count)
    world.wait(watch.GATE_SECONDS / 2 - MOMENT)
    assert len(world.synced) == count
    world.wait(1.0)
    assert [causes.HANGUP in sync.causes for sync in world.synced[count:]] == [True]


@pytest.mark.parametrize("is_ready", [True, False])
def test_the_service_manager_hears_of_a_reload_and_of_its_end_once(is_ready: bool) -> None:
    world = World(Settings(look=3600.0, poll=3600.0))
    if is_ready:
        world.settle()
    world.tell(Hangup())
    for _ in range(3):
        world.settle()
        world.tell(FilesChanged(("rait.conf",)))
        world.live(5.0, Synced("done"), Ended("poll"))
    assert world.notified == (["ready", "reloading", "ready"] if is_ready else ["ready"])


@given(lease=st.sampled_from((5.0, 60.0, 3600.0)), away=st.floats(0, 0.85), chance=chances)
def test_an_entry_outlives_what_is_shorter_than_its_lease(
    lease: float, away: float, chance: float
) -> None:
    interval, took = lease / 3, 0.01
    world = World(Settings(look=3600.0, publish=interval))
    good, bad = (
        Ended("publish", chance=chance),
        Ended("publish", problem="no answer", chance=chance),
    )

    def publish(until: float, answer: Ended) -> None:
        while world.now < until:
            at = watch.wake_at(world.state, world.settings)
            world.wait(took if world.busy else min(at, until) - world.now)
            world.end(Synced("unchanged"), published=answer)

    publish(world.now + 2 * lease, good)
    heard = world.ended["publish"][-1]
    publish(heard + away * lease, bad)
    was_told = bool(world.said)
    back, count = world.now, len(world.ended["publish"])
    publish(back + interval * 1.1 + 2 * took, good)
    again = world.ended["publish"][count]
    assert again <= max(heard + 1.1 * interval, back + 1.1 * interval / watch.RETRIES) + 2 * took
    assert again < heard + lease
    lines = [line for _, line in world.said]
    assert bool(lines.count("no answer")) == was_told
    assert lines.count("this node's entry is in the registry again") == was_told


def test_a_publication_that_fails_is_tried_again_four_times_in_an_interval() -> None:
    world = World(Settings(look=3600.0, publish=20.0))
    world.end(Synced("unchanged"))
    fails = Ended("publish", problem="no answer", chance=0.5)
    for _ in range(9):
        world.wait(watch.wake_at(world.state, world.settings) - world.now)
        world.end(Synced("unchanged"), published=fails)
    gaps = [later - earlier for earlier, later in pairwise(world.begun["publish"])]
    assert gaps[-4:] == [5.0] * 4


@pytest.mark.parametrize(
    ("is_changed", "problem", "asks"), [(True, "no key", 1), (True, "", 0), (False, "no key", 0)]
)
def test_a_new_entry_in_a_registry_that_had_none_lets_the_list_be_fetched(
    is_changed: bool, problem: str, asks: int
) -> None:
    world = World(Settings(look=3600.0, poll=3600.0, publish=20.0))
    world.live(10.0, Synced("unchanged"), Ended("poll", problem=problem))
    world.tell(EntryOutdated())
    world.wait(errands.ASKED_GAP)
    polls = len(world.begun["poll"])
    world.end(Synced("unchanged"), published=Ended("publish", changed=is_changed))
    world.wait(errands.ASKED_GAP)
    assert len(world.begun["poll"]) == polls + asks


def test_an_entry_is_published_at_once_for_a_cause() -> None:
    world = World(Settings(look=3600.0, poll=60.0, publish=20.0))
    assert "publish" in world.busy, "at the start"
    for event in (FilesChanged(("rait.conf",)), EntryOutdated(), Hangup()):
        world.live(5.0, Synced("unchanged"), Ended("poll"))
        count = len(world.begun["publish"])
        world.tell(event)
        world.wait(errands.ASKED_GAP)
        assert len(world.begun["publish"]) == count + 1, event
    # A registry that was empty is read once there is an entry.
    world.live(30.0, Synced("unchanged"), Ended("poll", problem="no key"))
    polls = len(world.begun["poll"])
    world.tell(EntryOutdated())
    world.wait(errands.ASKED_GAP)
    world.end(Synced("unchanged"), published=Ended("publish", changed=True))
    world.wait(errands.ASKED_GAP)
    assert len(world.begun["poll"]) == polls + 1


@given(took=st.floats(0, 100), dead=st.booleans())
def test_the_first_sync_waits_for_the_first_list(took: float, dead: bool) -> None:
    world = World(Settings(look=60.0, poll=60.0, names=60.0))
    world.tell(FilesChanged(("rait.conf",)))
    world.tell(LinksTouched(LINKS, deleted=True))
    world.wait(min(took, watch.GATE_SECONDS - 1))
    assert not world.synced
    if dead:
        world.wait(watch.GATE_SECONDS)
    else:
        world.tell(Ended("poll", changed=True))
        world.wait(watch.LONGEST_QUIET[-1])
    assert causes.START in world.synced[0].causes


def test_what_changed_in_a_long_sync_waits_for_what_the_sync_itself_has_touched() -> None:
    world = ready(SLOW)
    world.tell(FilesChanged(("rait.conf",)))
    world.wait(watch.QUIET[0])
    world.tell(FilesChanged(("peers list",)))
    world.wait(watch.LONGEST_QUIET[-1])
    world.tell(Synced("done"))
    assert "sync" not in world.busy
    world.wait(watch.QUIET[0])
    assert "sync" in world.busy


def test_a_sync_tells_whether_the_list_or_a_name_has_changed() -> None:
    for errand, cause in (("poll", causes.SOURCE), ("names", causes.NAMES)):
        world = ready(Settings(look=3600.0, poll=60.0, names=60.0))
        while errand not in world.busy:
            world.wait(1.0)
        world.tell(Ended(errand, changed=True))
        world.wait(watch.QUIET[1])
        assert world.synced[-1].causes == (cause,)


@given(stale=st.lists(st.booleans(), min_size=1, max_size=50))
@example(stale=[True] * 20)
def test_names_of_peers_that_do_not_answer_are_looked_up_sooner(stale: list[bool]) -> None:
    world = ready(Settings(look=5.0, names=3600.0))
    for each in stale:
        world.live(5.0, Synced("unchanged", stale=each), Ended("poll"))
    begun = world.begun["names"]
    assert all(b - a >= watch.STALE_GAP for a, b in pairwise(begun))
    if all(stale) and len(stale) > 14:
        assert len(begun) >= len(stale) * 5 // 40
    if not any(stale):
        assert not begun


def test_a_link_that_is_deleted_is_not_told_to_have_changed_as_well() -> None:
    world = ready(Settings(look=60.0))
    world.tell(LinksTouched(("wg1", "wg2")))
    world.tell(LinksTouched(("wg1", "wg3"), deleted=True))
    world.wait(watch.LONGEST_QUIET[0])
    said = causes.told(world.synced[-1].causes)
    assert said == "link changed: wg2; link deleted: wg1, wg3"

"""When `rait watch` does what: events in, actions out, and time as a value.

1. There is never more than one sync at a time, one poll of the peers list, one look-up of names.
2. What calls for a sync is a cause. Causes that come together are merged: a sync begins when there
   was none for QUIET seconds, soon after a calm, and later while syncs follow each other. So any
   burst is a few syncs. LONGEST_QUIET is how long causes can put a sync off; a changed list waits
   no longer than its second span, and a deleted link for a second at the most.
3. A cause that comes while a sync runs may have come too late for it, and leads to another one.
   What is done to links meanwhile is most likely done by the sync itself, so it leads to a look.
4. The peers list and the addresses of names are fetched outside of syncs (``Errand``), each at its
   interval; a peers list that cannot be had is asked for again soon, and then at growing intervals.
   A source that tells of changes is followed: a poll begins that, or finds that it still goes on.
   What ends again as soon as it has begun is begun at growing intervals too.
5. The first sync waits for the first poll, and the sync of a SIGHUP for a poll and a look-up that
   begin after it; GATE_SECONDS at the most.
6. A sync that failed is tried again, soon and then at growing intervals, for its own causes. What
   only the user can mend (rait.conf is wrong, the guard stopped the run, a change waits for its
   confirmation) is not: it is tried when something changes, and at the next look.
7. Whoever changes a link of ours again and again (fights.py) meets growing pauses: rait sets the
   link right at once the first times, and later when its pause is over.
8. This node's entry is published at the start, when its files change and when the registry lost it;
   and at an interval by which its lease stays alive. Soon after a failure it is tried again, as
   long as that takes.
9. After a SIGTERM nothing begins any more. The end comes when the sync that runs has ended.

``step`` and ``wake_at`` are all that there is to call; times are in seconds of a monotonic clock.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from msgspec import Struct, structs

from rait.domain.causes import (
    HANGUP,
    LOOK,
    NAMES,
    SOURCE,
    START,
    Cause,
    merged,
    touched,
)
from rait.domain.errands import Errand, grown
from rait.domain.fights import Fights, fought
from rait.domain.troubles import Lines, Troubles, hear
from rait.domain.watch_events import (
    Action,
    EntryOutdated,
    Event,
    Exit,
    FilesChanged,
    Hangup,
    LinksTouched,
    LookedUp,
    LookUp,
    Notify,
    Poll,
    Polled,
    Publish,
    Published,
    Say,
    Served,
    Service,
    SourceTold,
    Sync,
    Synced,
    Terminate,
    Tick,
)

QUIET = (0.02, 0.5, 1.0, 2.0, 4.0, 8.0)
"""So long there must be no cause before a look: the first after a calm, the second and so on. Syncs
for other causes wait no longer than the second."""

LONGEST_QUIET = (0.5, 5.0, 10.0, 20.0, 30.0, 30.0)
"""So long causes can put these syncs off."""

CALM = 1.0
"""So long after the last sync it is calm again."""

DELETED_SECONDS = 1.0
GATE_SECONDS = 60.0
STALE_GAP = 30.0
"""So long after the last look-up another may begin because a link's peer does not answer."""

FIRST_RETRY, LONGEST_RETRY = 1.0, 60.0

RETRIES = 4
"""So many attempts to publish there are in an interval, while it fails: the lease must not end."""


class Settings(Struct, frozen=True):
    """The intervals in seconds; None for what there is not: a list from a URL, names, an entry."""

    look: float
    poll: float | None = None
    names: float | None = None
    publish: float | None = None


# The state.


class State(Struct, frozen=True, kw_only=True):
    """What is under way, and what is to come.

    The last sync ended at ``synced_at``. It is calm from ``calm_at`` on, until there is a cause:
    looks disturb only looks.
    ``running`` are the causes of the sync that runs, none if none does. ``pending`` are those of
    the next one; the latest of them came at ``last``, and it begins by ``by`` at the latest;
    ``rush`` is how many syncs there were without a calm. ``gated`` are causes that wait for the
    errands in ``gate``, until ``gate_by``. ``retry`` are those of a sync that failed, due again at
    ``retry_at``. ``later`` are links that were touched while a sync ran or within their pause, each
    with the time when that counts.
    """

    poll: Errand
    names: Errand
    publish: Errand
    synced_at: float
    calm_at: float
    running: tuple[Cause, ...] = ()
    pending: tuple[Cause, ...] = ()
    last: float = 0.0
    by: float = 0.0
    rush: int = 0
    gated: tuple[Cause, ...] = ()
    gate: frozenset[str] = frozenset()
    gate_by: float = 0.0
    retry: tuple[Cause, ...] = ()
    retry_at: float = 0.0
    failures: int = 0
    later: Mapping[str, float] = {}
    fights: Fights = {}
    troubles: Troubles = {}
    ready: bool = False
    reloading: bool = False
    stopping: bool = False
    over: bool = False


def begin(now: float) -> State:
    """The state at the start. The first ``step`` takes a Tick."""
    return State(
        poll=Errand(now, asked_for=now),
        names=Errand(now),  # the first sync looks names up by itself
        publish=Errand(now, asked_for=now),
        synced_at=now,
        calm_at=now,
        gated=(START,),
        gate=frozenset(("poll",)),
        gate_by=now + GATE_SECONDS,
    )


def step(
    state: State, event: Event, now: float, settings: Settings
) -> tuple[State, tuple[Action, ...]]:
    """What is to be done about an event, and the state after it."""
    if state.over or (state.stopping and not isinstance(event, Synced)):
        return state, ()
    state, actions = _HANDLERS[type(event)](state, event, now)
    if state.stopping:
        ends = not state.running
        return structs.replace(state, over=ends), (*actions, *((Exit(),) if ends else ()))
    state = _ripe(state, now, settings)
    for due, start in _STARTS:
        at = due(state, settings)
        if at is not None and at <= now:
            state, action = start(state)
            actions = (*actions, action)
    return state, actions


def wake_at(state: State, settings: Settings) -> float | None:
    """When the next Tick is due, if no other event comes before; None to wait for events alone."""
    if state.stopping:
        return None
    times = [
        _poll_at(state, settings),
        _names_at(state, settings),
        _publish_at(state, settings),
        _sync_at(state, settings),
        _look_at(state, settings),
        state.gate_by if state.gated else None,
        state.retry_at if state.retry else None,
        None if state.running else min(state.later.values(), default=None),
    ]
    return min((at for at in times if at is not None), default=None)


# When things are due.


def _poll_at(state: State, settings: Settings) -> float | None:
    return state.poll.due(settings.poll)


def _names_at(state: State, settings: Settings) -> float | None:
    return state.names.due(settings.names)


def _publish_at(state: State, settings: Settings) -> float | None:
    return state.publish.due(settings.publish, (settings.publish or 0.0) / RETRIES)


def _sync_at(state: State, _: Settings) -> float | None:
    if state.running or not state.pending or START in state.gated:
        return None
    is_look = state.pending == (LOOK,)
    at = min(state.last + QUIET[state.rush if is_look else min(state.rush, 1)], state.by)
    # What a sync itself touched is told within a moment, and needs no second sync.
    return max(at, state.synced_at + QUIET[0])


def _look_at(state: State, settings: Settings) -> float | None:
    """A sync is a look too, so the next one is due that long after it."""
    if state.running or state.pending or state.gated:
        return None
    return state.synced_at + settings.look


def _ripe(state: State, now: float, settings: Settings) -> State:
    """The state with the causes pending whose time has come."""
    ripe = [name for name, at in state.later.items() if at <= now and not state.running]
    if ripe:
        later = {name: at for name, at in state.later.items() if at > now}
        causes = [touched(name, deleted=False) if name in state.fights else LOOK for name in ripe]
        state = _caused(structs.replace(state, later=later), now, *causes)
    if state.retry and state.retry_at <= now:
        state = _caused(structs.replace(state, retry=()), now, *state.retry)
    if state.gated and (state.gate_by <= now or not _closed(state, settings)):
        gated, state = state.gated, structs.replace(state, gated=(), gate=frozenset())
        state = _caused(state, now, *gated)
    look_at = _look_at(state, settings)
    if look_at is not None and look_at <= now:
        state = _caused(state, now, LOOK)
    return state


def _closed(state: State, settings: Settings) -> bool:
    return any(getattr(settings, errand) is not None for errand in state.gate)


# What begins.


def _poll(state: State) -> tuple[State, Action]:
    return structs.replace(state, poll=state.poll.begun()), Poll(anew=HANGUP in state.gated)


def _look_up(state: State) -> tuple[State, Action]:
    return structs.replace(state, names=state.names.begun()), LookUp()


def _publish(state: State) -> tuple[State, Action]:
    return structs.replace(state, publish=state.publish.begun()), Publish()


def _sync(state: State) -> tuple[State, Action]:
    """Begin a sync, which does all that there is to do, whatever caused it."""
    causes = merged(state.retry, state.pending)
    return structs.replace(state, running=causes, pending=(), retry=(), later={}), Sync(causes)


_STARTS = (
    (_poll_at, _poll),
    (_names_at, _look_up),
    (_publish_at, _publish),
    (_sync_at, _sync),
)


# What events do.


def _caused(state: State, now: float, *causes: Cause, within: float = LONGEST_QUIET[-1]) -> State:
    """There is to be a sync, at the latest ``within`` seconds (while none runs)."""
    by, rush, is_look = state.by, state.rush, set(causes) == {LOOK}
    if not state.pending or (state.pending == (LOOK,) and not is_look):
        calm_at = state.synced_at + CALM if is_look else state.calm_at
        is_calm = state.running in ((), (LOOK,)) and now >= calm_at
        rush = 0 if is_calm else min(rush + 1, len(QUIET) - 1)
        by = now + LONGEST_QUIET[rush]
    pending = merged(state.pending, causes)
    return structs.replace(state, pending=pending, last=now, by=min(by, now + within), rush=rush)


_Handled = tuple[State, tuple[Action, ...]]


def _tick(state: State, _: Tick, __: float) -> _Handled:
    return state, ()


def _files_changed(state: State, event: FilesChanged, now: float) -> _Handled:
    state = structs.replace(state, publish=state.publish.asked(now))
    return _caused(state, now, *(Cause("file", f"{what} changed") for what in event.what)), ()


def _source_told(state: State, event: SourceTold, now: float) -> _Handled:
    return _news(state, "poll", event, SOURCE, now)


def _polled(state: State, event: Polled, now: float) -> _Handled:
    # What has begun may end at once.
    failed = {"begun": None, "alive": False}.get(event.follow or "", bool(event.problem))
    return _fetched(state, "poll", event, SOURCE, now, failed=failed)


def _looked_up(state: State, event: LookedUp, now: float) -> _Handled:
    # Without growing intervals, as there is no one server to be spared.
    return _fetched(state, "names", event, NAMES, now, failed=False)


def _published(state: State, event: Published, now: float) -> _Handled:
    publish = state.publish.over(now, event.chance, failed=bool(event.problem))
    # A registry that was empty has an entry now.
    is_missed = event.changed and state.poll.failures > 0
    poll = state.poll.asked(now) if is_missed else state.poll
    state = structs.replace(state, publish=publish, poll=poll)
    lines = (event.problem,) if event.problem else ()
    over = ("this node's entry is in the registry again",)
    return _heard(state, "publish", lines, now, over=over, as_one=True)


def _entry_outdated(state: State, _: EntryOutdated, now: float) -> _Handled:
    return structs.replace(state, publish=state.publish.asked(now)), ()


_FETCHED_AGAIN = {
    "poll": "the peers list can be fetched again",
    "names": "host names can be looked up again",
}


def _fetched(
    state: State,
    errand: str,
    event: Polled | LookedUp,
    cause: Cause,
    now: float,
    *,
    failed: bool | None,
) -> _Handled:
    before: Errand = getattr(state, errand)
    over = {errand: before.over(now, event.chance, failed=failed)}
    gate = state.gate if before.is_asked_for else state.gate - {errand}
    return _news(structs.replace(state, gate=gate, **over), errand, event, cause, now)


def _news(
    state: State, errand: str, event: Polled | LookedUp | SourceTold, cause: Cause, now: float
) -> _Handled:
    if START in state.gated:
        return state, ()  # the first sync takes what there is, and tells what is wrong
    problem = event.problem
    # One node that changes its entry all the time must not put off what others change.
    state = _caused(state, now, cause, within=LONGEST_QUIET[1]) if event.changed else state
    if not problem and getattr(state, errand).unproven:
        return state, ()  # it is not over yet
    syncs = state.troubles.get("sync", {})
    if problem and any(trouble.lasts and problem in line for line, trouble in syncs.items()):
        return state, ()  # syncs tell
    lines = (problem,) if problem else ()
    return _heard(state, errand, lines, now, over=(_FETCHED_AGAIN[errand],), as_one=True)


def _heard(state: State, subject: str, lines: Lines, now: float, **how: Any) -> _Handled:
    troubles, tell = hear(state.troubles, subject, lines, now, **how)
    return structs.replace(state, troubles=troubles), (Say(tell),) if tell else ()


def _links_touched(state: State, event: LinksTouched, now: float) -> _Handled:
    if not event.names:
        cause = LOOK if state.running else Cause("link", "links may have changed")
        return _caused(state, now, cause), ()
    later = dict(state.later)
    causes = []
    for name in event.names:
        fight = state.fights.get(name)
        if fight is not None and fight.until > now:
            later[name] = fight.until
        elif state.running:
            later[name] = now
        else:
            causes.append(touched(name, deleted=event.deleted))
    state = structs.replace(state, later=later)
    if not causes:
        return state, ()
    within = DELETED_SECONDS if event.deleted else LONGEST_QUIET[-1]
    return _caused(state, now, *causes, within=within), ()


_MENDED: Mapping[str, Lines] = {"sync": ("all is as it should be again",), "warnings": ()}


def _synced(state: State, event: Synced, now: float) -> _Handled:
    # Whoever has changed something waits to see what comes of it.
    at_once = any(cause.kind not in ("look", "link") for cause in state.running)
    failed = event.outcome == "failed"
    failures = state.failures + 1 if failed else 0
    retry = state.running if failed else ()
    retry_at = now + min(grown(FIRST_RETRY, failures), LONGEST_RETRY)
    hangs = HANGUP in (*state.gated, *state.pending)
    is_told = state.stopping or (state.ready and (hangs or not state.reloading))
    notify = () if is_told else (Notify("ready"),)
    names = state.names
    if event.stale and not names.busy:
        names = names.asked(now, STALE_GAP)
    state = structs.replace(
        state,
        names=names,
        synced_at=now,
        calm_at=state.calm_at if state.running == (LOOK,) else now + CALM,
        running=(),
        retry=retry,
        retry_at=retry_at,
        failures=failures,
        ready=True,
        reloading=state.reloading and hangs,
    )
    actions: tuple[Action, ...] = ()
    for subject, lines in (("sync", event.problems), ("warnings", event.warnings)):
        over = _MENDED[subject]
        state, tell = _heard(state, subject, lines, now, over=over, at_once=at_once)
        actions += tell
    state, tell = _fought(state, event.disturbed, now)
    return state, (*actions, *tell, *notify)


def _fought(state: State, disturbed: frozenset[str], now: float) -> _Handled:
    fights, lines = fought(state.fights, disturbed, now)
    # Links that were touched while the sync ran have their pause as well.
    later = {n: max(at, fights[n].until if n in fights else at) for n, at in state.later.items()}
    state = structs.replace(state, fights=fights, later=later)
    return state, (Say(lines),) if lines else ()


_SERVED_AGAIN: Mapping[Service, str] = {
    "files": "changes of files are noticed again",
    "links": "changes of links are noticed again",
    "metrics": "metrics and the health page are served again",
}


def _served(state: State, event: Served, now: float) -> _Handled:
    lines = (event.problem,) if event.problem else ()
    over = (_SERVED_AGAIN[event.what],)
    return _heard(state, event.what, lines, now, over=over, as_one=True)


def _hangup(state: State, _: Hangup, now: float) -> _Handled:
    notify = () if state.reloading or not state.ready else (Notify("reloading"),)
    state = structs.replace(
        state,
        poll=state.poll.asked(now),
        names=state.names.asked(now),
        publish=state.publish.asked(now),
        gated=merged(state.gated, (HANGUP,)),
        gate=state.gate | {"poll", "names"},
        gate_by=state.gate_by if state.gated else now + GATE_SECONDS,
        reloading=state.ready,
    )
    return state, notify


def _terminate(state: State, _: Terminate, __: float) -> _Handled:
    return structs.replace(state, stopping=True), (Notify("stopping"),)


_HANDLERS: Mapping[type[Event], Callable[[State, Any, float], _Handled]] = {
    Tick: _tick,
    FilesChanged: _files_changed,
    Polled: _polled,
    LookedUp: _looked_up,
    SourceTold: _source_told,
    Published: _published,
    EntryOutdated: _entry_outdated,
    LinksTouched: _links_touched,
    Synced: _synced,
    Served: _served,
    Hangup: _hangup,
    Terminate: _terminate,
}

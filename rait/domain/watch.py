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

from collections.abc import Mapping
from math import inf

from msgspec import Struct, structs

from rait.domain.errands import Errand, ErrandName, grown
from rait.domain.fights import Fights, fought
from rait.domain.troubles import Lines, Troubles, hear
from rait.domain.watch_events import (
    HANGUP,
    LOOK,
    NAMES,
    SOURCE,
    START,
    Action,
    Begin,
    Cause,
    Ended,
    EntryOutdated,
    Event,
    Exit,
    FilesChanged,
    Hangup,
    LinksTouched,
    Notify,
    Say,
    Served,
    SourceTold,
    Sync,
    Synced,
    Terminate,
    Tick,
    merged,
    touched,
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

    def every(self, errand: ErrandName) -> float | None:
        """The interval of an errand."""
        interval: float | None = getattr(self, errand)
        return interval


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

    errands: Mapping[ErrandName, Errand]
    synced_at: float
    calm_at: float
    running: tuple[Cause, ...] = ()
    pending: tuple[Cause, ...] = ()
    last: float = 0.0
    by: float = 0.0
    rush: int = 0
    gated: tuple[Cause, ...] = ()
    gate: frozenset[ErrandName] = frozenset()
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
        errands={
            "poll": Errand(now, asked_for=now),
            "names": Errand(now),  # the first sync looks names up by itself
            "publish": Errand(now, asked_for=now),
        },
        synced_at=now,
        calm_at=now,
        gated=(START,),
        gate=frozenset[ErrandName](("poll",)),
        gate_by=now + GATE_SECONDS,
    )


def step(
    state: State, event: Event, now: float, settings: Settings
) -> tuple[State, tuple[Action, ...]]:
    """What is to be done about an event, and the state after it."""
    if state.over or (state.stopping and not isinstance(event, Synced)):
        return state, ()
    state, actions = _handled(state, event, now)
    if state.stopping:
        ends = not state.running
        return structs.replace(state, over=ends), (*actions, *((Exit(),) if ends else ()))
    state = _ripe(state, now, settings)
    for name, errand in state.errands.items():
        if _errand_at(state, name, settings) <= now:
            state = _with_errand(state, name, errand.begun())
            actions = (*actions, Begin(name, anew=HANGUP in state.gated))
    if _sync_at(state) <= now:
        causes = merged(state.retry, state.pending)
        state = structs.replace(state, running=causes, pending=(), retry=(), later={})
        actions = (*actions, Sync(causes))
    return state, actions


def wake_at(state: State, settings: Settings) -> float:
    """When the next Tick is due, if no other event comes before; inf to wait for events alone."""
    if state.stopping:
        return inf
    return min(
        *(_errand_at(state, name, settings) for name in state.errands),
        _sync_at(state),
        _look_at(state, settings),
        state.gate_by if state.gated else inf,
        state.retry_at if state.retry else inf,
        inf if state.running else min(state.later.values(), default=inf),
    )


# When things are due; inf for what is not.


def _errand_at(state: State, name: ErrandName, settings: Settings) -> float:
    interval = settings.every(name)
    retry = interval / RETRIES if name == "publish" and interval else None
    return state.errands[name].due(interval, retry)


def _sync_at(state: State) -> float:
    if state.running or not state.pending or START in state.gated:
        return inf
    is_look = state.pending == (LOOK,)
    at = min(state.last + QUIET[state.rush if is_look else min(state.rush, 1)], state.by)
    # What a sync itself touched is told within a moment, and needs no second sync.
    return max(at, state.synced_at + QUIET[0])


def _look_at(state: State, settings: Settings) -> float:
    """A sync is a look too, so the next one is due that long after it."""
    if state.running or state.pending or state.gated:
        return inf
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
    closed = any(settings.every(errand) is not None for errand in state.gate)
    if state.gated and (state.gate_by <= now or not closed):
        gated, state = state.gated, structs.replace(state, gated=(), gate=frozenset())
        state = _caused(state, now, *gated)
    return _caused(state, now, LOOK) if _look_at(state, settings) <= now else state


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


def _with_errand(state: State, name: ErrandName, errand: Errand) -> State:
    return structs.replace(state, errands={**state.errands, name: errand})


def _asked(state: State, now: float, *names: ErrandName) -> State:
    for name in names:
        state = _with_errand(state, name, state.errands[name].asked(now))
    return state


_Handled = tuple[State, tuple[Action, ...]]


def _handled(state: State, event: Event, now: float) -> _Handled:
    match event:
        case Tick():
            return state, ()
        case FilesChanged(what):
            causes = (Cause("file", f"{each} changed") for each in what)
            return _caused(_asked(state, now, "publish"), now, *causes), ()
        case Ended():
            return _ended(state, event, now)
        case SourceTold():
            return _news(state, "poll", event, now)
        case EntryOutdated():
            return _asked(state, now, "publish"), ()
        case LinksTouched():
            return _links_touched(state, event, now)
        case Synced():
            return _synced(state, event, now)
        case Served(what, problem):
            return _heard(state, what, problem, now)
        case Hangup():
            return _hangup(state, now)
        case Terminate():
            return structs.replace(state, stopping=True), (Notify("stopping"),)


def _ended(state: State, event: Ended, now: float) -> _Handled:
    name, errand = event.errand, state.errands[event.errand]
    # What has begun may end at once. For names, there is no one server to be spared.
    sure = {"begun": None, "alive": False}
    failed = name != "names" and sure.get(event.follow or "", bool(event.problem))
    state = _with_errand(state, name, errand.over(now, event.chance, failed=failed))
    if not errand.is_asked_for:
        state = structs.replace(state, gate=state.gate - {name})
    if name != "publish":
        return _news(state, name, event, now)
    if event.changed and state.errands["poll"].failures:
        state = _asked(state, now, "poll")  # a registry that was empty has an entry now
    return _heard(state, name, event.problem, now)


def _news(state: State, errand: ErrandName, event: Ended | SourceTold, now: float) -> _Handled:
    if START in state.gated:
        return state, ()  # the first sync takes what there is, and tells what is wrong
    if event.changed:
        # One node that changes its entry all the time must not put off what others change.
        cause = NAMES if errand == "names" else SOURCE
        state = _caused(state, now, cause, within=LONGEST_QUIET[1])
    problem = event.problem
    if not problem and state.errands[errand].unproven:
        return state, ()  # it is not over yet
    syncs = state.troubles.get("sync", {})
    if problem and any(trouble.lasts and problem in line for line, trouble in syncs.items()):
        return state, ()  # syncs tell
    return _heard(state, errand, problem, now)


_MENDED: Mapping[str, str] = {
    "poll": "the peers list can be fetched again",
    "names": "host names can be looked up again",
    "publish": "this node's entry is in the registry again",
    "files": "changes of files are noticed again",
    "links": "changes of links are noticed again",
    "metrics": "metrics and the health page are served again",
}


def _heard(state: State, subject: str, problem: str, now: float) -> _Handled:
    """Hear what is wrong with an errand or a service, "" for nothing."""
    lines, over = (problem,) if problem else (), (_MENDED[subject],)
    return _told(state, *hear(state.troubles, subject, lines, now, over=over, as_one=True))


def _told(state: State, troubles: Troubles, lines: Lines) -> _Handled:
    return structs.replace(state, troubles=troubles), (Say(lines),) if lines else ()


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
    names = state.errands["names"]
    if event.stale and not names.busy:
        state = _with_errand(state, "names", names.asked(now, STALE_GAP))
    state = structs.replace(
        state,
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
    for subject, lines, over in (
        ("sync", event.problems, ("all is as it should be again",)),
        ("warnings", event.warnings, ()),
    ):
        heard = hear(state.troubles, subject, lines, now, over=over, at_once=at_once)
        state, tell = _told(state, *heard)
        actions += tell
    state, tell = _fought(state, event.disturbed, now)
    return state, (*actions, *tell, *notify)


def _fought(state: State, disturbed: frozenset[str], now: float) -> _Handled:
    fights, lines = fought(state.fights, disturbed, now)
    # Links that were touched while the sync ran have their pause as well.
    later = {n: max(at, fights[n].until if n in fights else at) for n, at in state.later.items()}
    state = structs.replace(state, fights=fights, later=later)
    return state, (Say(lines),) if lines else ()


def _hangup(state: State, now: float) -> _Handled:
    notify = () if state.reloading or not state.ready else (Notify("reloading"),)
    state = structs.replace(
        _asked(state, now, "poll", "names", "publish"),
        gated=merged(state.gated, (HANGUP,)),
        gate=frozenset[ErrandName](("poll", "names")),
        gate_by=state.gate_by if state.gated else now + GATE_SECONDS,
        reloading=state.ready,
    )
    return state, notify

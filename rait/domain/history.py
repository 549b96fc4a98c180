"""What the journal tells: what is known of a scope, when its runs began, and how to take one back.

A scope's topology is the fold of the events that are known to have happened. What a run intended
and never told the outcome of is left over: it may have happened too.

Clocks may be wrong. A machine without a battery begins in 1970 at each start, until somebody tells
it the time; one with a bad battery may begin in 2099. The journal's order is certain, so a time
that does not fit into it is worth less than its place: such a run was after the one before it and
before the one after it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from msgspec import Struct, field, structs

from rait.domain.endpoints import Departed, depart
from rait.domain.errors import ConfigError, HistoryError
from rait.domain.events import (
    Event,
    LinkAdded,
    LinkPlaced,
    MismatchError,
    PeerAdded,
    RuleAdded,
    ToBabeld,
    VrfAdded,
    evolve,
    inverted,
    replay,
)
from rait.domain.records import FIRST_JOURNAL, RunRecord, Snapshot
from rait.domain.topology import EMPTY, BackendKind, Link, Origin, Topology

SLACK = 60 * 10**9
"""Nanoseconds from a run's start until it is written down, unless one of the two is not true."""

EVER = 2**63 - 1
LONG_AGO = -EVER
"""Later and earlier than all times."""


class LastKnown(Struct, frozen=True, kw_only=True):
    """What the journal knows of one scope.

    ``topology`` folds all events known to have happened. ``leftover`` is all that runs intended
    and that may have happened, or may be half done, as they never said what became of it (a crash).
    ``leftover_links``, ``leftover_vrfs`` (name to table) and ``leftover_rules`` (names) are what
    those would have made, so they may exist.
    ``extra_cmd_owed`` says that babeld was told of a change, and has not taken ``extra_cmd`` since.
    ``departed`` are endpoints that outlive their links, and ``home`` is that of the last run that
    told it (see RunHeader), "" if none did.
    """

    topology: Topology = EMPTY
    leftover_links: Mapping[str, Link] = field(default_factory=dict, name="pending")
    leftover_vrfs: Mapping[str, int] = field(default_factory=dict, name="pending_vrfs")
    leftover_rules: frozenset[str] = field(default=frozenset(), name="pending_rules")
    leftover: tuple[Event, ...] = field(default=(), name="undecided")
    extra_cmd_owed: bool = False
    departed: Departed = {}
    home: str = ""

    def links(self) -> tuple[Link, ...]:
        """All links that there may be: those that were made, and those that are left over."""
        return (*self.topology.links.values(), *self.leftover_links.values())


def fold(start: Snapshot, runs: Iterable[RunRecord], through: int | None = None) -> Snapshot:
    """Add up what the runs of one scope, in order, made of a topology.

    With ``through``, only the events in entries up to that number count. Raises HistoryError,
    which names the run and the event, where an event does not fit.
    """
    limit = EVER if through is None else through
    told = [run for run in runs if run.id <= limit]
    happened = [(number, e) for run in told for number, e in run.happened() if number <= limit]
    events = [event for _, event in happened]
    try:
        topology = replay(start.topology, events)
    except MismatchError:
        raise _misfit(start.topology, happened, told) from None
    owed, home = start.extra_cmd_owed, start.home
    for run in told:
        owed = _owed_after(run, owed)
        home = run.header.home or home
    return Snapshot(
        topology=topology,
        public_key=told[-1].header.public_key if told else start.public_key,
        extra_cmd_owed=owed,
        leftover=tuple(told[-1].leftover()) if told else start.leftover,
        departed=depart(start.departed, events),
        home=home,
    )


def last_known(start: Snapshot, runs: Iterable[RunRecord]) -> LastKnown:
    """What is known after these runs of one scope, in order; errors as in ``fold``.

    What a crashed run left over is forgotten once a later run has looked at the machine.
    """
    now = fold(start, runs)
    return LastKnown(
        topology=now.topology,
        extra_cmd_owed=now.extra_cmd_owed,
        leftover_links={e.name: e.link for e in now.leftover if isinstance(e, LinkAdded)},
        leftover_vrfs={e.name: e.table for e in now.leftover if isinstance(e, VrfAdded)},
        leftover_rules=frozenset(e.name for e in now.leftover if isinstance(e, RuleAdded)),
        leftover=now.leftover,
        departed=now.departed,
        home=now.home,
    )


def with_leftovers(known: LastKnown) -> Topology:
    """What is known, with the links and peers that a run which was cut off may have made.

    For a plan: who may have a port keeps it, and an endpoint that may have been applied is better
    than none. In journals of before, a new link has its peers by events of their own.
    """
    if not known.leftover:
        return known.topology
    links = dict(known.topology.links)
    for event in known.leftover:
        link = links.get(event.name)
        if isinstance(event, LinkAdded) and link is None:
            links[event.name] = event.link
        elif isinstance(event, PeerAdded) and link is not None and not link.peers:
            links[event.name] = structs.replace(link, peers=(event.peer,))
    return structs.replace(known.topology, links=links)


def links_made(
    start: Snapshot, runs: Iterable[RunRecord], upto: int, seen: Mapping[str, str]
) -> dict[str, int]:
    """Those of the links that are known after these runs of one scope, with the entry of each.

    ``start`` sums up the entries up to ``upto``, which stands for all of those. A link that a run
    which was cut off may have made counts. ``seen`` tells by name in which instance of a namespace
    each link is ("" where nobody knows): one that is known in another is not that link. Raises
    HistoryError as ``fold`` does.
    """
    sequence = tuple(runs)
    known = last_known(start, sequence).links()
    entries = {link.name: upto for link in known if _may_be_in(link, seen.get(link.name))}
    for run in sequence:
        intended = ((run.intended_id(i), event) for i, event in enumerate(run.intended))
        leftover = run.leftover_links()
        unsure = [(n, e) for n, e in intended if isinstance(e, LinkAdded) and e.name in leftover]
        for number, event in (*run.happened(), *unsure):
            if isinstance(event, LinkAdded) and event.name in entries:
                entries[event.name] = max(entries[event.name], number)
    return entries


def _may_be_in(link: Link, instance: str | None) -> bool:
    return instance is not None and (not instance or link.origin.instance in ("", instance))


def _owed_after(run: RunRecord, before: bool) -> bool:
    """A run that was cut off may have told babeld of a change, and nothing after it."""
    if run.extra_cmd is not None:
        return run.extra_cmd == "owed"
    if run.status is not None:
        return before
    return before or any(isinstance(event, ToBabeld) for event in run.intended)


def _misfit(
    topology: Topology, happened: Iterable[tuple[int, Event]], runs: Sequence[RunRecord]
) -> HistoryError:
    """Say which event it was; slower than one replay of all, so it is left until it is needed."""
    for number, event in happened:
        try:
            topology = evolve(topology, event)
        except MismatchError as error:
            run = max(run.id for run in runs if run.id <= number)
            return HistoryError(
                f"the journal contradicts itself: entry {number} of run {run}: {error}. `rait log "
                "verify` tells whether it was changed, and if it was not, this is a bug of rait to "
                "report. To begin a new journal, move this one aside"
            )
    raise AssertionError("a replay that fails has an event that fails")


class Start(Struct, frozen=True):
    """The first entry of a run: when it was written, which never goes back, and the clock then."""

    at: int
    clock: int


class Span(Struct, frozen=True):
    """When a run began: not before ``earliest``, not after ``latest`` (unix, in nanoseconds)."""

    earliest: int
    latest: int


def spans(starts: Sequence[Start], now: int) -> tuple[Span, ...]:
    """When each of the runs began, which are in their order; ``now`` is the caller's clock.

    Forwards, no run began before those before it; backwards, none began after the next one whose
    clock fits in. A run with a clock that fits began when that says.
    """
    now = _credible(starts, now)
    floor = FIRST_JOURNAL if any(start.clock >= FIRST_JOURNAL for start in starts) else LONG_AGO
    earliest: list[int] = []
    certain: list[bool] = []
    last = LONG_AGO
    for start in starts:
        # What comes after a time in the future is written down with that time, and a run that was
        # taken for a repetition is written down late.
        is_late = start.at > now or start.at - start.clock > SLACK
        time = start.clock if is_late else start.at
        fits = max(last, floor) <= time <= now
        last = max(last, time) if time <= now else last
        earliest.append(last)
        certain.append(fits)
    found: list[Span] = []
    latest = EVER
    for time, fits in zip(reversed(earliest), reversed(certain), strict=True):
        latest = time if fits else latest
        found.append(Span(time, latest))
    return tuple(reversed(found))


def _credible(starts: Sequence[Start], now: int) -> int:
    """``now``, unless most of the runs are later: then ``now`` itself is wrong."""
    later = sum(start.clock > now for start in starts)
    return EVER if later * 2 > len(starts) else now


class Conflict(Struct, frozen=True):
    """A later run that touched a link which is to be taken back.

    ``noticed`` tells that the run itself did nothing to the link: it found it changed by others.
    """

    link: str
    run: int
    command: str
    noticed: bool = False


def done_events(run: RunRecord) -> tuple[Event, ...]:
    """The events that the run itself brought about, in the order in which they happened.

    What it merely noticed is not its doing, so it is not taken back with it.
    """
    first = run.intended_id(0)
    return tuple(event for number, event in run.happened() if number >= first)


def conflicts(run: RunRecord, later: Iterable[RunRecord]) -> tuple[Conflict, ...]:
    """The later runs that touched, or noticed a change of, links that this run touched.

    What babeld was told of a link does not count: babeld follows the links.
    """
    names = touched(run)
    return tuple(
        Conflict(name, other.id, other.header.command, name not in _shaped(done_events(other)))
        for other in later
        if other.id > run.id
        for name in sorted(_shaped(event for _, event in other.happened()) & names)
    )


def only_told_babeld(run: RunRecord) -> bool:
    """Whether all that the run did was to tell babeld of links."""
    return not _shaped(done_events(run))


def touched(run: RunRecord) -> frozenset[str]:
    """The names of what the run itself changed."""
    return frozenset(event.name for event in done_events(run))


def undo(now: Topology, run: RunRecord, after: Topology) -> Topology:
    """``now`` without what the run did; ``after`` is as it was right after the run.

    Each link that the run touched becomes what the inverted events make of it: what it was before
    them, whatever has happened to it since. Raises MismatchError if ``after`` is of another run.
    """
    before = replay(after, inverted(done_events(run)))
    return now.with_parts_of(before, touched(run))


def as_made_now(topology: Topology, origins: Mapping[str, Origin]) -> Topology:
    """The topology with its links as they would be made now; ``origins`` are by target namespace.

    A restart of the machine gives namespaces new identities, and may bring another backend;
    neither is a reason to make again what is already there, or to refuse.
    """
    links = {
        name: structs.replace(link, origin=origins[link.origin.netns])
        for name, link in topology.links.items()
    }
    return structs.replace(topology, links=links)


def require_own_key(own_key: str, run_key: str, links: Iterable[Link], what: str) -> None:
    """Refuse to bring links back that had another key: their peers would not know this node.

    ``run_key`` alone does not tell: a run that changes the key is itself made under the new one.
    Raises ConfigError.
    """
    for public_key in (run_key, *(link.device.public_key for link in links)):
        if public_key not in ("", own_key):
            raise ConfigError(
                f"{what} was made under another key: public key {public_key}, and the "
                f"configuration's private key is of {own_key}. The journal holds no "
                "private keys; put the old one back into the configuration to restore it"
            )


def require_own_setup(run: RunRecord, after: Topology, backend: BackendKind, transit: str) -> None:
    """Refuse to take back what rait.conf decides alone: where new links are made, and of what kind.

    To make the links as they would be made today would leave them as the run has made them.
    ``after`` is as it was right after the run. A move to another target can be taken back. Raises
    ConfigError, and MismatchError as ``undo``.
    """
    before = replay(after, inverted(done_events(run))).links
    pairs = (
        (name, before[name].origin, after.links[name].origin)
        for name in sorted(touched(run) & before.keys() & after.links.keys())
    )
    made_again = [pair for pair in pairs if _setup(pair[1]) != _setup(pair[2])]
    for name, old, new in made_again:
        if _setup(old) != (backend, transit):
            what = "transit namespace" if old.transit != new.transit else "backend"
            number = len(made_again)
            links = f"the link {name}" if number == 1 else f"{number} links, {name} among them,"
            raise ConfigError(
                f"run {run.id} made {links} again, because the "
                f"{what} had changed. rait.conf sets it, and a rollback does not change rait.conf; "
                f"nothing was touched. Change the {what} back in rait.conf, and run `rait up`"
            )


def _setup(origin: Origin) -> tuple[BackendKind, str]:
    return origin.backend, origin.transit


def _shaped(events: Iterable[Event]) -> frozenset[str]:
    return frozenset(e.name for e in events if not isinstance(e, ToBabeld | LinkPlaced))

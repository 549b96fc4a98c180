"""What follows from a journal: what is known of a scope, when runs began, how to take one back.

A scope's topology is the fold of the events that are known to have happened. An event that a run
intended, and whose outcome it never recorded, is leftover: it may have happened too.

Clocks may be wrong. A machine without a battery begins in 1970 at each start, until somebody sets
its clock; one with a bad battery may begin in 2099. The order of the runs in the journal is
certain. So a run whose time does not fit into that order counts as between its neighbours.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from msgspec import Struct, field, structs

from rait.domain.endpoints import depart
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
    links_added,
    replay,
)
from rait.domain.hooks import Ledger, Owed
from rait.domain.records import FIRST_JOURNAL, Known, RunRecord, Snapshot
from rait.domain.topology import BackendKind, Link, Origin, Topology

SLACK = 60 * 10**9
"""At most so many nanoseconds after its start a run is written down; else one time is wrong."""

EVER = 2**63 - 1
LONG_AGO = -EVER
"""Later and earlier than all times."""


class LastKnown(Known, frozen=True, kw_only=True):
    """What the journal knows of one scope, now.

    ``leftover_links``, ``leftover_vrfs`` (name to table) and ``leftover_rules`` (names) may exist,
    as a leftover event was to make them.
    """

    leftover_links: Mapping[str, Link] = field(default_factory=dict, name="pending")
    leftover_vrfs: Mapping[str, int] = field(default_factory=dict, name="pending_vrfs")
    leftover_rules: frozenset[str] = field(default=frozenset(), name="pending_rules")

    def links(self) -> tuple[Link, ...]:
        """All links that there may be: those that were made, and the leftover ones."""
        return (*self.topology.links.values(), *self.leftover_links.values())

    def having_leftover(self, leftover: tuple[Event, ...]) -> LastKnown:
        """What is known if these events, and no others, are leftover."""
        return structs.replace(
            self,
            leftover=leftover,
            leftover_links=links_added(leftover),
            leftover_vrfs={e.name: e.table for e in leftover if isinstance(e, VrfAdded)},
            leftover_rules=frozenset(e.name for e in leftover if isinstance(e, RuleAdded)),
        )


def fold(start: Snapshot, runs: Iterable[RunRecord], through: int | None = None) -> Snapshot:
    """Sum up a snapshot and the runs of its scope that followed, in order.

    With ``through``, only the events in entries up to that number count. Raises HistoryError,
    which names the run and the entry, where an event does not fit.
    """
    limit = EVER if through is None else through
    for run in runs:
        if run.id <= limit:
            start = _after(start, run, limit)
    return start


def _after(known: Snapshot, run: RunRecord, limit: int) -> Snapshot:
    all_happened = tuple(run.happened())
    happened = [(number, event) for number, event in all_happened if number <= limit]
    events = [event for _, event in happened]
    try:
        topology = replay(known.topology, events) if events else known.topology
    except MismatchError:
        raise _misfit(known.topology, happened, run.id) from None
    header, trial = run.header, known.trial
    if trial is not None or header.confirm_by is not None:
        from rait.domain.confirm import trial_after  # here, as few runs are to be confirmed

        trial = trial_after(known, run)
    in_force = trial.config_before if trial is not None else header.config_digest
    return Snapshot(
        topology=topology,
        public_key=header.public_key,
        extra_cmd_owed=_owed_after(run, known.extra_cmd_owed),
        leftover=tuple(run.leftover()),
        departed=depart(known.departed, events) if events else known.departed,
        home=header.home or known.home,
        calls_owed=_calls_after(known, run, all_happened),
        trial=trial,
        config_digest=in_force or known.config_digest,
        signed=header.signed or known.signed,
    )


def last_known(start: Snapshot, runs: Iterable[RunRecord]) -> LastKnown:
    """What is known after these runs of one scope, in order. Raises HistoryError.

    The leftover of an unfinished run counts until a later run has looked at the machine.
    """
    now = fold(start, runs)
    known = LastKnown(**{name: getattr(now, name) for name in Known.__struct_fields__})
    return known.having_leftover(now.leftover)


def with_leftovers(known: LastKnown) -> Topology:
    """The known topology, with the links and peers that an unfinished run may have made.

    A plan needs them: a peer that may have a port keeps it, and an endpoint that may have been
    applied is better than none. Journals of earlier versions add a link's peers in events of their
    own.
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
    """Which of the seen links these runs of one scope made, each with the number of its entry.

    ``start`` sums up the entries up to ``upto``, which is the number for all links made in them.
    Links that an unfinished run may have made count. ``seen`` maps the name of each link to the
    instance of its namespace ("" where it is unknown): a link that is known in another instance is
    another link. Raises HistoryError where an event does not fit.
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
    """Whether babeld is still to take ``extra_cmd`` after a run; ``before``: was before the run.

    An unfinished run may have changed babeld's interfaces, and sent nothing after that.
    """
    if run.extra_cmd is not None:
        return run.extra_cmd == "owed"
    if run.status is not None:
        return before
    return before or any(isinstance(event, ToBabeld) for event in run.intended)


def _calls_after(known: Snapshot, run: RunRecord, happened: Iterable[tuple[int, Event]]) -> Owed:
    """The calls to come after a run: its events come before its calls."""
    ledger = Ledger(known.calls_owed, known.topology.links)
    of_others = {*range(len(run.noticed))} - {*run.header.leftover_noticed}
    foreign = {run.noticed_id(index) for index in of_others}
    for number, event in happened:
        ledger.happened(event, ours=number not in foreign)
    for result in run.calls:
        ledger.ended(result)
    return ledger.owed


def _misfit(topology: Topology, happened: Iterable[tuple[int, Event]], run: int) -> HistoryError:
    """Find the event that does not fit; slower than one replay of all, so only done then."""
    for number, event in happened:
        try:
            topology = evolve(topology, event)
        except MismatchError as error:
            return HistoryError(
                f"the journal contradicts itself: entry {number} of run {run}: {error}. `rait log "
                "verify` tells whether it was changed, and if it was not, this is a bug of rait to "
                "report. To begin a new journal, move this one aside"
            )
    raise AssertionError("a replay that fails has an event that fails")


class Start(Struct, frozen=True):
    """The first entry of a run, in unix nanoseconds.

    ``at`` is the time that the entry bears, which is never before that of the entry before it, and
    ``clock`` what the machine's clock showed.
    """

    at: int
    clock: int


class Span(Struct, frozen=True):
    """When a run began: not before ``earliest``, not after ``latest`` (unix, in nanoseconds)."""

    earliest: int
    latest: int


def spans(starts: Sequence[Start], now: int) -> tuple[Span, ...]:
    """When each of the runs, in order, began; ``now`` is the caller's clock (unix nanoseconds).

    The way forwards finds ``earliest``: no run began before the runs before it. The way back finds
    ``latest``: no run began after the next run whose clock fits into the order. A run whose own
    clock fits began when the clock said, so both are that time.
    """
    now = _credible(starts, now)
    floor = FIRST_JOURNAL if any(start.clock >= FIRST_JOURNAL for start in starts) else LONG_AGO
    earliest: list[int] = []
    certain: list[bool] = []
    last = LONG_AGO
    for start in starts:
        # An entry after one from the future bears the time of that one, and a run that seemed to
        # repeat the one before it is written down late: then the clock is nearer to the truth.
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

    ``noticed``: the run did nothing to the link itself, but found that others had changed it.
    """

    link: str
    run: int
    command: str
    noticed: bool = False


def done_events(run: RunRecord) -> tuple[Event, ...]:
    """The events that the run itself brought about, in the order in which they happened.

    Events that the run merely noticed are not among them, and are not taken back with the run.
    """
    first = run.intended_id(0)
    return tuple(event for number, event in run.happened() if number >= first)


def conflicts(run: RunRecord, later: Iterable[RunRecord]) -> tuple[Conflict, ...]:
    """The later runs that touched links of this run, or noticed a change of one.

    Events for babeld do not count: babeld follows the links.
    """
    names = touched(run)
    found: list[Conflict] = []
    for other in later:
        if other.id > run.id:
            changed = _shaped(done_events(other))
            clashes = sorted(_shaped(event for _, event in other.happened()) & names)
            command = other.header.command
            found += (Conflict(name, other.id, command, name not in changed) for name in clashes)
    return tuple(found)


def only_told_babeld(run: RunRecord) -> bool:
    """Whether the run changed nothing but babeld's interfaces, or nothing at all."""
    return not _shaped(done_events(run))


def touched(run: RunRecord) -> frozenset[str]:
    """The names of the links, VRFs and rules that the run itself changed."""
    return frozenset(event.name for event in done_events(run))


def undo(now: Topology, run: RunRecord, after: Topology) -> Topology:
    """``now`` without what the run did; ``after`` is the topology right after the run.

    Each link that the run touched becomes what it was before the run, whatever has happened to it
    since. Raises MismatchError if ``after`` is of another run.
    """
    before = replay(after, inverted(done_events(run)))
    return now.with_parts_of(before, touched(run))


def as_made_now(topology: Topology, now: Callable[[Origin], Origin]) -> Topology:
    """The topology with its links as they would be made now; ``now`` gives the new origin of each.

    A restart of the machine gives namespaces new instances, and may bring another backend. Neither
    is a reason to make again a link that is there, or to refuse.
    """
    links = {
        name: structs.replace(link, origin=now(link.origin))
        for name, link in topology.links.items()
    }
    return structs.replace(topology, links=links)


def require_own_key(own_key: str, run_key: str, links: Iterable[Link], what: str) -> None:
    """Raise ConfigError for links that had another private key: their peers would not know us.

    ``run_key`` is not enough to know: a run that changes the key is made under the new key. For the
    message, ``what`` says what is to be brought back.
    """
    for public_key in (run_key, *(link.device.public_key for link in links)):
        if public_key not in ("", own_key):
            raise ConfigError(
                f"{what} was made under another key: public key {public_key}, and the "
                f"configuration's private key is of {own_key}. The journal holds no "
                "private keys; put the old one back into the configuration to restore it"
            )


def require_own_setup(run: RunRecord, after: Topology, backend: BackendKind, transit: str) -> None:
    """Raise ConfigError for a run that made links again because transit or backend had changed.

    rait.conf alone decides over these two, so a rollback would leave the links as the run made
    them. A move to another target can be taken back. ``after`` is the topology right after the
    run; raises MismatchError if it is of another run.
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

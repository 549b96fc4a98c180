"""What the journal remembers: runs, their events and outcomes, and the topology they add up to."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import Annotated, Literal

from msgspec import Meta, Struct, field, structs

from rait.domain.backend import Outcome
from rait.domain.endpoints import Departed, depart
from rait.domain.errors import RaitError
from rait.domain.events import (
    Event,
    LinkAdded,
    MismatchError,
    PeerAdded,
    RuleAdded,
    ToBabeld,
    VrfAdded,
    evolve,
    may_be_half_done,
    peers_named,
    replay,
)
from rait.domain.timeline import FLOOR
from rait.domain.topology import EMPTY, Link, Topology

Status = Literal["done", "partial", "failed"]
"""How a run ended: all its events happened, some of them, or none."""

ExtraCmd = Literal["sent", "owed"]
"""What became of babeld's ``extra_cmd`` in a run: it was taken, or is still to be sent."""


class HistoryError(RaitError):
    """The journal does not hold what was asked of it, or holds what this rait cannot read."""


class RunHeader(Struct, frozen=True, kw_only=True):
    """Who changes what, and why.

    ``scope`` keeps apart the meshes that share one journal, ``started_at`` is unix time in
    nanoseconds, and the digests are SHA-256 in hex of the configuration and peers as read
    ("" where there was none). A time out of SQLite's range is no time that a run wrote.
    ``leftover_noticed`` are those of the run's noticed events, by their index, that an earlier run
    brought about, which never said what became of them. ``accepted`` tells that the user asked for
    whatever the run costs (``--yes``, or ``rait down``), so that it begins a new count for the
    guard. ``carried`` are events of earlier runs of which nobody knows what became, and this run
    could not find out. ``leftover_links`` are links that an earlier run left half made, and that
    this one ends before all else.
    ``spelt`` is the path of the configuration as this run had it, where the scope is another one.
    ``home`` is the instance of the network namespace that the run was in, where VRFs and rules are;
    one that tells it has marked the VRFs that it made, or knew.
    """

    scope: str
    command: str
    version: str
    uid: int
    started_at: Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
    public_key: str
    config_digest: str = ""
    peers_digest: str = ""
    leftover_noticed: tuple[int, ...] = field(default=(), name="left")
    accepted: bool = False
    carried: tuple[Event, ...] = ()
    leftover_links: tuple[str, ...] = field(default=(), name="strays")
    spelt: str = ""
    home: str = ""


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


class Snapshot(Struct, frozen=True):
    """A scope's topology, and the public key of the run that last shaped it ("" for none).

    ``extra_cmd_owed``, ``leftover``, ``departed`` and ``home`` are as in LastKnown.
    """

    topology: Topology = EMPTY
    public_key: str = ""
    extra_cmd_owed: bool = False
    leftover: tuple[Event, ...] = field(default=(), name="undecided")
    departed: Departed = {}
    home: str = ""


class Repeated(Struct, frozen=True):
    """How often a run was repeated: the same events, outcomes and problems, and nothing happened.

    The last repetition ended at ``until`` (unix time in nanoseconds), and had read a configuration
    and peers with these digests.
    """

    count: int = 0
    until: int = 0
    config_digest: str = ""
    peers_digest: str = ""


class RunRecord(Struct, frozen=True, kw_only=True):
    """One run as the journal has it.

    ``id`` is the number of its first entry and ``last_id`` of its last. ``outcomes`` are by index
    into ``intended``, in the order in which they came in. ``status`` and ``finished_at`` (unix
    time in nanoseconds) are None while it is under way, and for ever after a crash. ``problems``
    say, by link or for "babeld", what went wrong that is of no intended event. ``half_done``, by
    the numbers of their entries, are what failed events had done all the same when the run looked
    at the machine again, and ``unsure`` the failed events, by index, of which it could not tell.
    ``ended`` are those of ``header.leftover_links`` that are ended now.
    ``repeated`` counts later runs that did the same in vain, and ``retried_at`` when one began
    that has not ended. ``recorded_at`` is when the run was written down, which never goes back.
    """

    id: int
    last_id: int
    header: RunHeader
    noticed: tuple[Event, ...] = ()
    intended: tuple[Event, ...] = ()
    outcomes: Mapping[int, Outcome] = {}
    status: Status | None = None
    finished_at: int | None = None
    problems: Mapping[str, str] = {}
    extra_cmd: ExtraCmd | None = None
    repeated: Repeated | None = None
    retried_at: int | None = None
    recorded_at: int | None = None
    half_done: Mapping[int, Event] = {}
    unsure: tuple[int, ...] = ()
    ended: tuple[str, ...] = ()

    def noticed_id(self, index: int) -> int:
        """The entry that holds the noticed event: a run's events follow its first entry."""
        return self.id + 1 + index

    def intended_id(self, index: int) -> int:
        """The entry that holds the intended event."""
        return self.id + 1 + len(self.noticed) + index

    @property
    def done(self) -> int:
        """How many of the intended events happened."""
        return sum(outcome.error is None for outcome in self.outcomes.values())

    @property
    def failed(self) -> int:
        """How many of the intended events failed."""
        return len(self.outcomes) - self.done

    @property
    def unknown(self) -> int:
        """How many of the intended events nobody knows the outcome of."""
        return len(self.intended) - len(self.outcomes)

    @property
    def clock_was_unset(self) -> bool:
        """Whether the clock showed a time before all journals, though earlier runs did not."""
        return self.header.started_at < FLOOR <= (self.recorded_at or 0)

    def may_be_repeated_by(self, header: RunHeader, intended: tuple[Event, ...]) -> bool:
        """Whether a run that noticed nothing may turn out to be this one again.

        That is if this one noticed nothing, and nothing happened in it. Which configuration and
        peers were read does not matter where they ask for the same.
        """
        idle = not self.noticed and not self.half_done and self.failed == len(self.intended)
        idle = idle and self.extra_cmd != "sent" and not self.ended
        ended = self.status is not None
        return (
            ended
            and idle
            and self._bare(self.header) == self._bare(header)
            and (self.intended == intended)
        )

    @staticmethod
    def _bare(header: RunHeader) -> RunHeader:
        return structs.replace(header, started_at=0, config_digest="", peers_digest="", spelt="")

    def events(self) -> Iterator[Event]:
        """All events of the run, whatever their outcome."""
        yield from self.noticed
        yield from self.intended
        yield from self.half_done.values()

    def touches_link(self, name: str) -> bool:
        """Whether an event of this run is about the link."""
        return name in self.header.leftover_links or any(
            event.name == name for event in self.events()
        )

    def touches_peer(self, public_key: str) -> bool:
        """Whether an event of this run is about a peer with the key."""
        return any(public_key in peers_named(event) for event in self.events())

    def happened(self) -> Iterator[tuple[int, Event]]:
        """The events known to have happened, in order, each with the number of its entry."""
        for index, event in enumerate(self.noticed):
            yield self.noticed_id(index), event
        for outcome in self.outcomes.values():
            if outcome.error is None:
                yield self.intended_id(outcome.index), self.intended[outcome.index]
        yield from self.half_done.items()

    def leftover_links(self) -> Mapping[str, Link]:
        """The links that may have been made, as far as the run does not know."""
        return {e.name: e.link for e in self.leftover() if isinstance(e, LinkAdded)}

    def leftover(self) -> Iterator[Event]:
        """The events that may have happened, or may be half done, as far as the run does not know.

        While it has not finished, those are all but those that are done. What it could not find out
        of earlier runs is among them.
        """
        yield from (event for event in self.header.carried if event.name not in self.ended)
        for index, event in enumerate(self.intended):
            outcome = self.outcomes.get(index)
            if self.status is not None:
                if index in self.unsure:
                    yield event
            elif outcome is None or (outcome.error is not None and may_be_half_done(event)):
                yield event


class VerifyReport(Struct, frozen=True, kw_only=True):
    """What an examination of the whole journal found.

    ``head`` is the hash of the last sound entry, ``entries`` how many there are up to it, and
    ``dropped`` how many were pruned before them. ``bad_entry`` is the number of the first entry
    that is wrong or missing, None where it is not an entry that is wrong, and ``why`` says what
    is the matter ("" when ``ok``).
    """

    ok: bool
    head: str
    entries: int
    dropped: int = 0
    bad_entry: int | None = None
    why: str = ""


def fold(start: Snapshot, runs: Iterable[RunRecord], through: int | None = None) -> Snapshot:
    """Add up what the runs of one scope, in order, made of a topology.

    With ``through``, only the events in entries up to that number count. Raises HistoryError,
    which names the run and the event, where an event does not fit.
    """
    topology, public_key, owed = start.topology, start.public_key, start.extra_cmd_owed
    leftover = start.leftover
    departed = start.departed
    home = start.home
    for run in runs:
        if through is not None and run.id > through:
            break
        events = [e for number, e in run.happened() if through is None or number <= through]
        try:
            topology = replay(topology, events)
        except MismatchError:
            raise _misfit(topology, run) from None
        departed = depart(departed, events)
        public_key = run.header.public_key
        owed = _owed_after(run, owed)
        leftover = tuple(run.leftover())
        home = run.header.home or home
    return Snapshot(topology, public_key, owed, leftover, departed, home)


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


def with_leftovers(memory: LastKnown) -> Topology:
    """What is known, with the links and peers that a run which was cut off may have made.

    For a plan: who may have a port keeps it, and an endpoint that may have been applied is better
    than none. In journals of before, a new link has its peers by events of their own.
    """
    if not memory.leftover:
        return memory.topology
    links = dict(memory.topology.links)
    for event in memory.leftover:
        link = links.get(event.name)
        if isinstance(event, LinkAdded) and link is None:
            links[event.name] = event.link
        elif isinstance(event, PeerAdded) and link is not None and not link.peers:
            links[event.name] = structs.replace(link, peers=(event.peer,))
    return structs.replace(memory.topology, links=links)


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
    memory = last_known(start, sequence)
    known = (*memory.topology.links.values(), *memory.leftover_links.values())
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


def _misfit(topology: Topology, run: RunRecord) -> HistoryError:
    """Say which event it was; slower than one replay of all, so it is left until it is needed."""
    for number, event in run.happened():
        try:
            topology = evolve(topology, event)
        except MismatchError as error:
            return HistoryError(
                f"the journal contradicts itself: entry {number} of run {run.id}: {error}. `rait "
                "log verify` tells whether it was changed, and if it was not, this is a bug of "
                "rait to report. To begin a new journal, move this one aside"
            )
    raise AssertionError("a replay that fails has an event that fails")

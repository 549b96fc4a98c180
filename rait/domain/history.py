"""What follows from a journal: what is known of a scope now, or was then.

A scope's topology is the fold of the events that are known to have happened. An event that a run
intended, and whose outcome it never recorded, is leftover: it may have happened too.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from msgspec import field, structs

from rait.domain.endpoints import depart
from rait.domain.errors import HistoryError
from rait.domain.events import (
    Event,
    LinkAdded,
    MismatchError,
    PeerAdded,
    RuleAdded,
    ToBabeld,
    VrfAdded,
    evolve,
    links_added,
    replay,
)
from rait.domain.hooks import Ledger, Owed
from rait.domain.records import Known, RunRecord, Snapshot
from rait.domain.topology import Link, Origin, Topology

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


def done_events(run: RunRecord) -> tuple[Event, ...]:
    """The events that the run itself brought about, in the order in which they happened.

    Events that the run merely noticed are not among them, and are not taken back with the run.
    """
    first = run.intended_id(0)
    return tuple(event for number, event in run.happened() if number >= first)


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

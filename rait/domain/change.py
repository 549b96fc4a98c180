"""A change: what a run wants, what there is and shall be, and what became of it.

``reconcile`` makes a Change (reconcile.py). When the run has carried it out, ``verdict`` judges the
run by the change and the outcomes of its events.
"""

from __future__ import annotations

from collections.abc import Callable, Container, Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Literal

from msgspec import Struct, structs

from rait.domain.endpoints import NO_NAMES, Names
from rait.domain.errors import Problem, SkippedEntry
from rait.domain.events import Event, LinkAdded, ToBabeld, replay
from rait.domain.history import LastKnown
from rait.domain.hooks import Call, CallResult, Ledger, Owed, due
from rait.domain.ownership import Stranger
from rait.domain.records import BABELD, PEERS_LIST, ExtraCmd, RunStatus
from rait.domain.topology import EMPTY, Link, Topology

if TYPE_CHECKING:
    from rait.domain.config.schema import Transport
    from rait.domain.fallback import OldList

Ending = RunStatus | Literal["unchanged"]


Describe = Callable[[Problem], str]
"""Makes one line of a problem, with its place in the registry."""


class Doubt(Struct, frozen=True):
    """An entry that was skipped, and the problem with it.

    ``readable``: all of the entry could be read, but its link cannot be made.
    """

    entry: SkippedEntry
    problem: Problem
    readable: bool = False


class Doubts(Struct, frozen=True):
    """The entries of a registry that were skipped, and the transports that they may be for.

    No new links are made beyond ``max_links``, counting the links that stay because of a doubt.
    ``old`` is None where the registry is the newest.
    """

    entries: Sequence[Doubt]
    transports: Sequence[Transport]
    describe: Describe
    max_links: int
    old: OldList | None = None


def doubts_of(problems: Iterable[Problem], *, readable: bool = False) -> tuple[Doubt, ...]:
    """The entries that were skipped because of these problems."""
    return tuple(
        Doubt(entry, problem, readable) for problem in problems for entry in problem.skipped
    )


class Goal(Struct, frozen=True):
    """What a run wants; where ``topology`` is None, it wants the links as they are.

    ``names`` are the host names of the plan, and ``doubts`` the entries of the peers list that
    were skipped, or that the whole list is old. ``conflicts`` are lines about peers that get no
    link, as others have what it needs. ``only`` names all that may change; None stands for
    everything. ``psks`` are the preshared keys that can be set, as pairs of a peer and a digest.
    ``flaws`` say which links lack something that a policy sets; of these, links that are not in the
    topology stay as they are.
    """

    topology: Topology | None
    names: Names = NO_NAMES
    doubts: Doubts | None = None
    conflicts: tuple[str, ...] = ()
    only: frozenset[str] | None = None
    psks: frozenset[tuple[str, str]] = frozenset()
    flaws: tuple[Problem, ...] = ()

    @property
    def old(self) -> OldList | None:
        """The old peers list that the goal is from, if it is from one."""
        return None if self.doubts is None else self.doubts.old


class Change(Struct, frozen=True, kw_only=True):
    """What there is of ours, what shall be, what to do about it, and what had changed.

    ``problems`` say what cannot be, and ``strangers`` are links that look like ours and are left
    alone. ``leftover`` are the events in ``drift`` that unfinished runs did; ``leftover_links``
    are links that such a run may have left half made, and ``carried`` its events of which nobody
    knows yet whether they happened. ``losses`` are lines for the user about links that lose their
    peer because its entry was skipped, and ``dead`` are links that have no session to lose.
    ``babeld_problem`` says why babeld could not be asked. ``extra_cmd_owed`` is True while babeld
    has not taken ``extra_cmd`` after a change of its interfaces. ``goal`` and ``known`` are the
    arguments of ``reconcile``.
    """

    observed: Topology
    desired: Topology
    events: tuple[Event, ...] = ()
    drift: tuple[Event, ...] = ()
    problems: tuple[Problem, ...] = ()
    strangers: tuple[Stranger, ...] = ()
    leftover: frozenset[Event] = frozenset()
    leftover_links: tuple[str, ...] = ()
    carried: tuple[Event, ...] = ()
    losses: tuple[str, ...] = ()
    dead: frozenset[str] = frozenset()
    babeld_problem: str | None = None
    extra_cmd_owed: bool = False
    goal: Goal = Goal(EMPTY)
    known: LastKnown = LastKnown()

    @property
    def refusal(self) -> str | None:
        """Why nothing at all may be touched, or None."""
        errors = (p.message for p in self.problems if p.link is None and p.severity == "error")
        return next(errors, None)

    def calls(self, happened: Sequence[Event], failed: Container[str] = ()) -> tuple[Call, ...]:
        """The calls that are due once these events have happened (hooks.py).

        The up_command of a link that ``failed``, or that cannot be as it should, waits: it may take
        for granted that the link works. A run that is not about the links calls nothing.
        """
        if self.goal.topology is None:
            return ()
        ledger = Ledger(self.known.calls_owed, self.known.topology.links)
        for event in self.drift:
            ledger.happened(event, ours=event in self.leftover)
        for event in happened:
            ledger.happened(event)
        if ledger.owed == Owed():
            return ()
        troubled = {problem.link for problem in self.problems if problem.severity == "error"}
        links = replay(self.known.topology, (*self.drift, *happened)).links
        only = links.keys() if self.goal.only is None else self.goal.only
        held = {name for name in links if name in troubled or name in failed or name not in only}
        return due(ledger.owed, links, held)

    def placed(self, instances: Mapping[str, str]) -> Change:
        """Fill in the instance of each new link's namespace, now that the namespace was made.

        ``instances`` are by the namespace's spelling.
        """
        links = dict(self.desired.links)
        events = list(self.events)
        for index, event in enumerate(events):
            if isinstance(event, LinkAdded) and not event.link.origin.instance:
                instance = instances[event.link.origin.netns]
                events[index] = LinkAdded(_in_instance(event.link, instance))
                links[event.name] = _in_instance(links[event.name], instance)
        desired = structs.replace(self.desired, links=links)
        return structs.replace(self, desired=desired, events=tuple(events))


class Failure(Struct, frozen=True):
    """A link that is not as it should be, and why.

    ``kept``: the link stays as it is, as nobody knows what it should be.
    """

    link: str
    error: str
    kept: bool = False


class Results(Struct, frozen=True, kw_only=True):
    """What became of a change.

    ``happened`` are the events that happened, and ``errors`` has the reason for each that failed,
    by its position in the change. ``half_done`` are events that the failed ones brought about all
    the same, as a second look has shown, and ``unsure`` the failed events of which that look could
    not tell. ``ended`` are the leftover links that were ended, and ``stuck`` says why others could
    not be. ``extra_cmd_error`` says why babeld has not taken ``extra_cmd``. ``calls`` are those of
    commands for links.
    """

    happened: tuple[Event, ...] = ()
    errors: Mapping[int, str] = {}
    half_done: tuple[Event, ...] = ()
    unsure: tuple[Event, ...] = ()
    ended: tuple[str, ...] = ()
    stuck: Mapping[str, str] = {}
    extra_cmd: ExtraCmd | None = None
    extra_cmd_error: str | None = None
    calls: tuple[CallResult, ...] = ()


NO_RESULTS = Results()


class Verdict(Struct, frozen=True):
    """How a run ended, and the first thing that went wrong with each link.

    ``status`` is for the journal. ``outcome`` is for the user: "unchanged" if there was nothing to
    do, and "partial" if the peers list is to be mended: a link lost its peer by a mistake in it, or
    a peer has no link by a conflict. ``problems`` are those that belong to no event, by link, for
    babeld or for the peers list.
    """

    status: RunStatus
    outcome: Ending
    failures: tuple[Failure, ...]
    problems: Mapping[str, str]


def verdict(change: Change, results: Results = NO_RESULTS) -> Verdict:
    """Judge a run by its change and what became of it.

    A run has failed if no link is as it should be, and nothing happened. The tunnels do not wait
    for babeld, so a run that failed in babeld alone is "partial", unless the run is about babeld.
    """
    problems = {p.link: p.message for p in change.problems if p.link is not None}
    kept = {p.link for p in change.problems if p.severity == "warning"}
    broken = problems.keys() - kept | results.stuck.keys()
    if change.babeld_problem is not None:
        problems[BABELD] = change.babeld_problem
    for name, error in results.stuck.items():
        problems.setdefault(name, error)
    failed = dict(problems)
    for index, error in results.errors.items():
        event = change.events[index]
        failed.setdefault(event.name, error)
        if not isinstance(event, ToBabeld):
            broken.add(event.name)
    if results.extra_cmd_error is not None:
        problems[BABELD] = failed[BABELD] = results.extra_cmd_error
    bad = failed.keys() if change.goal.topology is None else broken
    good = change.desired.links.keys() - bad
    if change.goal.old is not None:
        problems[PEERS_LIST] = change.goal.old.problem
    status: RunStatus = "done"
    if failed or problems:
        status = "partial" if good or results.happened or not bad else "failed"
    elif any(call.error is not None for call in results.calls):
        status = "partial"  # the links themselves are as they should be
    outcome: Ending = status
    if not (change.events or failed or problems or results.ended or results.calls):
        outcome = "unchanged"
    if outcome in ("done", "unchanged") and (change.losses or change.goal.conflicts):
        outcome = "partial"
    failures = tuple(Failure(link, error, link in kept) for link, error in failed.items())
    return Verdict(status, outcome, failures, problems)


def _in_instance(link: Link, instance: str) -> Link:
    return structs.replace(link, origin=structs.replace(link.origin, instance=instance))

"""How a run ended, judged by its change and the outcomes of its events."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from msgspec import Struct

from rait.domain.events import Event, ToBabeld
from rait.domain.hooks import CallResult
from rait.domain.reconcile import Change
from rait.domain.records import BABELD, PEERS_LIST, ExtraCmd, RunStatus

Ending = RunStatus | Literal["unchanged"]


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


def verdict(
    change: Change, results: Results = NO_RESULTS, *, babeld_alone: bool = False
) -> Verdict:
    """Judge a run by its change and what became of it.

    A run has failed if no link is as it should be, and nothing happened. The tunnels do not wait
    for babeld, so a run that failed in babeld alone is "partial", unless the run is about
    ``babeld_alone``.
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
    bad = failed.keys() if babeld_alone else broken
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

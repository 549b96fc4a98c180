"""Runs that are taken back unless somebody confirms them in time.

Such a run says in its header until when it is to be confirmed. What became of it follows from the
runs after it in the journal:

1. A run that ended and changed nothing leaves nothing to confirm.
2. A run that confirms it settles it: from then on it is like any other run.
3. When the time is over, or a run has begun to take it back, it cannot be confirmed any more. It is
   overdue until a run that takes it back has ended; a run that was killed meanwhile does not count.
4. A run that was taken back is remembered, as a timer's next `rait up` would do the same again. So
   `rait up` holds the links as they were before, until what it is asked for has changed, or it is
   told to go on. A later `rait up` that did change something ends the memory.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal

from msgspec import structs

from rait.domain.diff import diff
from rait.domain.events import Event, LinkAdded, LinkRemoved, ToBabeld, replay
from rait.domain.records import Instant, RunRecord, Snapshot, Trial
from rait.domain.topology import Origin, Topology

_NOWHERE = Origin("kernel")

BACK = "confirm --back"
OVERDUE = "confirm --overdue"
"""The commands of runs that take a run back: because somebody said so, or nobody confirmed it."""

TrialState = Literal["none", "pending", "overdue", "taken back"]


def state_of(trial: Trial | None, now: Instant) -> TrialState:
    """Whether a run waits for its confirmation, is to be taken back now, or was taken back."""
    if trial is None or trial.header.confirm_by is None:
        return "none"
    if trial.taken_back:
        return "taken back"
    return "overdue" if trial.begun or trial.header.confirm_by.is_over(now) else "pending"


def trial_after(known: Snapshot, run: RunRecord) -> Trial | None:
    """The trial after a run of the scope; ``known`` is what was known before it."""
    header, trial = run.header, known.trial
    if header.confirm_by is not None:
        if not _may_have_changed(run):
            return trial
        return Trial(
            run=run.id,
            header=header,
            before=_before(known.topology, run),
            did=tuple(e for e in run.intended if not isinstance(e, ToBabeld)),
            config_before=known.config_digest,
        )
    if trial is None or header.confirms == trial.run:
        return None
    if header.takes_back == trial.run:
        return _taken_back(trial, run)
    superseded = trial.taken_back and header.peers_digest and _may_have_changed(run)
    return None if superseded else trial


def rejects(
    trial: Trial, config_digest: str, peers_digest: str, before: Topology, desired: Topology
) -> bool:
    """Whether a `rait up` on these inputs would do what was taken back once more.

    If rait.conf had changed before that run, this holds until rait.conf changes again. Otherwise
    the peers list was to blame, and this holds until rait.conf changes, or the list does, so that
    to get from ``before`` to ``desired`` does not take all that the run did. ``before`` is as in
    the trial, with each link as it would be made now. What other commands did is nothing that
    `rait up` repeats.
    """
    header = trial.header
    if not header.peers_digest or header.config_digest != config_digest:
        return False
    if trial.config_before != config_digest or header.peers_digest == peers_digest:
        return True
    # A list that many write to changes often, for reasons that have nothing to do with this node.
    return bool(trial.did) and _anywhere(trial.did) <= _anywhere(diff(before, desired))


def _anywhere(events: Iterable[Event]) -> frozenset[Event]:
    """The events, whatever instance of a namespace their links are in."""
    return frozenset(
        structs.replace(event, link=structs.replace(event.link, origin=_NOWHERE))
        if isinstance(event, LinkAdded | LinkRemoved)
        else event
        for event in events
    )


def _taken_back(trial: Trial, run: RunRecord) -> Trial:
    if run.status is None or trial.taken_back:
        return structs.replace(trial, begun=True)
    at = run.header.started_at
    return structs.replace(trial, taken_back=run.id, taken_back_at=at)


def _may_have_changed(run: RunRecord) -> bool:
    """Whether a run changed anything, or may have, as it was cut off or could not find out."""
    return bool(run.status is None or run.done or run.half_done or run.unsure)


def _before(known: Topology, run: RunRecord) -> Topology:
    """What there was right before the run, with the links that the machine had lost.

    ``known`` is what the journal knew before the run. What others had changed by hand stays so.
    Links that are gone, as after a restart, belong to the mesh all the same.
    """
    there = replay(known, run.noticed)
    ours = frozenset(run.header.leftover_noticed)
    lost = {
        event.name: event.link
        for index, event in enumerate(run.noticed)
        if isinstance(event, LinkRemoved) and index not in ours
    }
    if not lost:
        return there
    return structs.replace(
        there,
        links={**lost, **there.links},
        vrfs={**known.vrfs, **there.vrfs},
        rules={**known.rules, **there.rules},
    )

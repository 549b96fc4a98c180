"""Taking a run back."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from msgspec import Struct

from rait.domain.events import Event, MismatchError, inverted, replay
from rait.domain.history import RunRecord
from rait.domain.topology import Topology


class Conflict(Struct, frozen=True):
    """A later run that touched a link which is to be taken back."""

    link: str
    run: int
    command: str


def done_events(run: RunRecord) -> tuple[Event, ...]:
    """The events that the run itself brought about, in the order in which they happened.

    What it merely noticed is not its doing, so it is not taken back with it.
    """
    first = run.intended_id(0)
    return tuple(event for number, event in run.happened() if number >= first)


def conflicts(run: RunRecord, later: Iterable[RunRecord]) -> tuple[Conflict, ...]:
    """The later runs that touched, or noticed a change of, links that this run touched."""
    names = {event.name for event in done_events(run)}
    found = (
        Conflict(name, other.id, other.header.command)
        for other in later
        if other.id > run.id
        for name in sorted({event.name for _, event in other.happened()} & names)
    )
    return tuple(found)


def undo(now: Topology, events: Sequence[Event], before: Topology) -> Topology:
    """``now`` without what the events did to it; ``before`` is as it was when they had not been.

    Where nothing has touched those links since, this is the replay of the inverted events. Where
    something has, each link that the events touched becomes what it was before them.
    """
    try:
        return replay(now, inverted(events))
    except MismatchError:
        return _as_before(now, events, before)


def _as_before(now: Topology, events: Sequence[Event], before: Topology) -> Topology:
    names = {event.name for event in events}
    links = {name: link for name, link in now.links.items() if name not in names}
    links |= {name: link for name, link in before.links.items() if name in names}
    babel = {name: param for name, param in now.babel.items() if name not in names}
    babel |= {name: param for name, param in before.babel.items() if name in names}
    vrfs = {name: table for name, table in now.vrfs.items() if name not in names}
    vrfs |= {name: table for name, table in before.vrfs.items() if name in names}
    rules = {name: rule for name, rule in now.rules.items() if name not in names}
    rules |= {name: rule for name, rule in before.rules.items() if name in names}
    return Topology(links, babel, vrfs, rules)

"""Taking a run back."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TypeVar

from msgspec import Struct, structs

from rait.domain.errors import Problem
from rait.domain.events import (
    BabelInterfaceAdded,
    BabelInterfaceFlushed,
    Event,
    LinkPlaced,
    inverted,
    replay,
)
from rait.domain.history import RunRecord
from rait.domain.topology import Link, Origin, Topology

T = TypeVar("T")


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
    names = touched(run)
    before = replay(after, inverted(done_events(run)))
    return Topology(
        only(names, now.links, before.links),
        only(names, now.babel, before.babel),
        only(names, now.vrfs, before.vrfs),
        only(names, now.rules, before.rules),
    )


def recreated(run: RunRecord, after: Topology) -> dict[str, tuple[Origin, Origin]]:
    """Where links were born that the run made again, before it and after it, by name.

    ``after`` is as it was right after the run. A move to another target is none of these: that
    can be taken back. Raises as ``undo``.
    """
    before = replay(after, inverted(done_events(run))).links
    pairs = {
        name: (before[name].origin, after.links[name].origin)
        for name in touched(run)
        if name in before and name in after.links
    }
    return {name: (old, new) for name, (old, new) in pairs.items() if _birth(old) != _birth(new)}


def without_unknown_psks(
    before: Mapping[str, Link], after: Mapping[str, Link]
) -> tuple[dict[str, Link], tuple[Problem, ...]]:
    """The links of ``after`` with no preshared key that would have to be brought back.

    With an error for each link that was to have one. Of a preshared key that somebody had set the
    journal has only the digest; one that is still there may stay.
    """
    links: dict[str, Link] = {}
    problems: list[Problem] = []
    for name, link in after.items():
        old = before.get(name)
        there = old.peers if old is not None and old.origin == link.origin else ()
        known = {(peer.public_key, peer.psk_digest) for peer in there}
        lost = [p for p in link.peers if p.psk_digest and (p.public_key, p.psk_digest) not in known]
        peers = tuple(structs.replace(p, psk_digest="") if p in lost else p for p in link.peers)
        links[name] = structs.replace(link, peers=peers) if lost else link
        problems += (_unknown_psk(name, peer.public_key) for peer in lost)
    return links, tuple(problems)


def _unknown_psk(name: str, public_key: str) -> Problem:
    text = (
        f"the preshared key that peer {public_key} had cannot be brought back: somebody else had "
        "set it, and the journal holds no keys"
    )
    return Problem(text, "error", (), name)


def only(names: frozenset[str], now: Mapping[str, T], goal: Mapping[str, T]) -> dict[str, T]:
    """What there is now, but what has one of these names as it is in the goal."""
    kept = {name: value for name, value in now.items() if name not in names}
    return kept | {name: value for name, value in goal.items() if name in names}


def _birth(origin: Origin) -> tuple[str, str]:
    return origin.backend, origin.transit


def _shaped(events: Iterable[Event]) -> frozenset[str]:
    other = BabelInterfaceAdded | BabelInterfaceFlushed | LinkPlaced
    return frozenset(event.name for event in events if not isinstance(event, other))

"""Whether a sync would take the node off the mesh.

A mesh is lost with its sessions, whatever becomes of the interfaces: so what counts is each link
that loses its session, and not only one that goes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Literal

from msgspec import Struct

from rait.domain.events import Event, LinkRemoved, PeerRemoved, peers_named
from rait.domain.history import done_events
from rait.domain.records import RunRecord
from rait.domain.topology import Link, Topology

if TYPE_CHECKING:
    from rait.domain.reconcile import Change

MIN_LINKS = 4
"""Fewer links than this may all go: a small mesh changes by halves in ordinary use."""

WINDOW_HOURS = 24
"""How long the losses of one run count for later runs too."""

Reason = Literal["removed", "made again", "another peer", "another private key"]
"""How a link loses its session. A device with another key is one that no peer knows."""

Losses = Mapping[str, frozenset[str]]
"""Links that lost the sessions with these peers, by name and public key."""

NO_LOSSES: Losses = {}


class Removal(Struct, frozen=True, omit_defaults=True):
    """Links that a sync would cost their sessions, of how many, and the limit that this is over.

    ``reasons`` has those of the links that are not removed, but lose their session otherwise.
    ``earlier`` are links that went in the last WINDOW_HOURS and are not back: with ``links`` they
    are over the limit. They, and those that come back, are among the number that it is taken of.
    """

    links: tuple[str, ...]
    of: int
    limit: int
    reasons: Mapping[str, Reason] = {}
    earlier: tuple[str, ...] = ()


def excessive_removal(
    change: Change, max_removals: int | None, recent: Callable[[], Losses]
) -> Removal | None:
    """What the change would cost that it must not without being asked for, or None.

    Without ``max_removals`` the limit is half of the links, if these are at least MIN_LINKS: a
    peers list that is empty or cut short looks just like many peers that left. ``recent`` tells
    what recent runs cost, and is asked only if this one costs anything, as a run that costs nothing
    is never stopped for what others did.
    """
    reasons = lost_sessions(change)
    if not reasons:
        return None
    desired = change.desired
    earlier = merged(recent(), losses_of(change.leftover))
    gone = _still_lost(earlier, desired) - reasons.keys()
    back = earlier.keys() & desired.links.keys()
    of = len(change.observed.links.keys() | gone | back)
    if max_removals is not None:
        limit = max_removals
    elif of >= MIN_LINKS:
        limit = of // 2
    else:
        return None
    if len(reasons) + len(gone) <= limit:
        return None
    return Removal(
        tuple(sorted(reasons)),
        of,
        limit,
        {name: why for name, why in sorted(reasons.items()) if why != "removed"},
        tuple(sorted(gone)),
    )


def lost_sessions(change: Change) -> dict[str, Reason]:
    """The links that lose their session, and how.

    Links that are dead have none to lose. Where somebody else gave a link another key or another
    peer than the journal knows, its session is lost already, and what takes that back costs
    nothing.
    """
    known = change.known.topology.links
    found = {}
    for name, link in change.observed.links.items():
        new = change.desired.links.get(name)
        if new is link or name in change.dead:
            continue
        why = _loss(link, new, known.get(name))
        if why is not None:
            found[name] = why
    return found


def recent_losses(runs: Iterable[RunRecord]) -> Losses:
    """What these runs of one scope, in order, cost since the last run that the user accepted.

    For a run that was cut off, the losses that the next run found count.
    """
    lost: Losses = {}
    for run in runs:
        left = (
            run.noticed[index] for index in run.header.leftover_noticed if index < len(run.noticed)
        )
        lost = {} if run.header.accepted else merged(lost, losses_of((*left, *done_events(run))))
    return lost


def merged(one: Losses, other: Losses) -> Losses:
    """What both cost."""
    return {**one, **{name: one.get(name, frozenset()) | peers for name, peers in other.items()}}


def losses_of(events: Iterable[Event]) -> Losses:
    """The sessions that ended with these events."""
    lost: dict[str, frozenset[str]] = {}
    for event in events:
        if isinstance(event, LinkRemoved | PeerRemoved):
            lost[event.name] = lost.get(event.name, frozenset()) | peers_named(event)
    return lost


def _loss(link: Link, new: Link | None, known: Link | None) -> Reason | None:
    if new is None:
        return "removed"
    if not link.origin.may_become(new.origin):
        return "made again"
    own = link.device.public_key
    if new.device.public_key != own and own and known_key(known, own):
        return "another private key"
    peers = {peer.public_key for peer in link.peers} - {peer.public_key for peer in new.peers}
    if known is not None:
        peers &= {peer.public_key for peer in known.peers}
    return "another peer" if peers and new.peers else None


def known_key(known: Link | None, public_key: str) -> bool:
    """Whether a device's key is, as far as the journal knows, the one that we gave it."""
    return known is None or known.device.public_key == public_key


def _still_lost(earlier: Losses, desired: Topology) -> frozenset[str]:
    """Those that are not back: a peer that has another link now is not lost."""
    there = {peer.public_key for link in desired.links.values() for peer in link.peers}
    return frozenset(name for name, peers in earlier.items() if not peers <= there)

"""Whether a sync would take the node off the mesh.

A mesh is lost with its sessions, whatever becomes of the interfaces. So each link counts that loses
its session, and not only a link that is removed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Literal

from msgspec import Struct

from rait.domain.change import Change
from rait.domain.events import Event, LinkRemoved, PeerRemoved, peers_named
from rait.domain.history import done_events
from rait.domain.records import RunRecord
from rait.domain.topology import Link

MIN_LINKS = 4
"""Fewer links than this may all go: a small mesh changes by halves in ordinary use."""

WINDOW_HOURS = 24
"""How long the losses of one run count for later runs too."""

Reason = Literal["removed", "made again", "another peer", "another private key"]
"""How a link loses its session. A device with another key is one that no peer knows."""

Losses = Mapping[str, frozenset[str]]
"""Links that lost the sessions with these peers, by name and public key."""


class Removal(Struct, frozen=True, omit_defaults=True):
    """Too many links that would lose their sessions: ``links``, ``of`` how many, and the ``limit``.

    ``reasons`` says how a link loses its session that is not removed. ``earlier`` are links that
    lost theirs in the last WINDOW_HOURS and are not back; ``links`` and ``earlier`` together are
    over the limit. ``of`` counts the live links, the earlier ones, and those that come back now.
    """

    links: tuple[str, ...]
    of: int
    limit: int
    reasons: Mapping[str, Reason] = {}
    earlier: tuple[str, ...] = ()


def excessive_removal(
    change: Change, max_removals: int | None, recent: Callable[[], Losses]
) -> Removal | None:
    """The sessions that the change would end, if they are more than a run may end; or None.

    Without ``max_removals`` the limit is half of the links, if these are at least MIN_LINKS: a
    peers list that is empty or cut short looks just like many peers that left. ``recent`` gives
    the losses of recent runs, and is called only if this run costs a session: a run that costs
    none is never stopped.
    """
    reasons = lost_sessions(change)
    if not reasons:
        return None
    desired = change.desired.links
    earlier = losses_of(change.leftover, recent())
    # A peer that is back, on whatever link, is lost no more.
    there = {peer.public_key for link in desired.values() for peer in link.peers}
    gone = {name for name, peers in earlier.items() if not peers <= there} - reasons.keys()
    back = earlier.keys() & desired.keys()
    of = len(change.observed.links.keys() | gone | back)
    limit = most_losses(of, max_removals)
    if limit is None or len(reasons) + len(gone) <= limit:
        return None
    return Removal(
        tuple(sorted(reasons)),
        of,
        limit,
        {name: why for name, why in sorted(reasons.items()) if why != "removed"},
        tuple(sorted(gone)),
    )


def most_losses(of: int, max_removals: int | None) -> int | None:
    """How many of so many links may lose their sessions; None if all may."""
    if max_removals is not None:
        return max_removals
    return of // 2 if of >= MIN_LINKS else None


def lost_sessions(change: Change) -> dict[str, Reason]:
    """The links that lose their session, and how.

    Dead links have none to lose. Where somebody else gave a link another key or another peer than
    the journal knows, its session is lost already, and to give the link its own again costs none.
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
    """The sessions that these runs of one scope, in order, ended since the last accepted run.

    For an unfinished run, the losses that the next run found count.
    """
    lost: Losses = {}
    for run in runs:
        found = (
            run.noticed[index] for index in run.header.leftover_noticed if index < len(run.noticed)
        )
        lost = {} if run.header.accepted else losses_of((*found, *done_events(run)), lost)
    return lost


def losses_of(events: Iterable[Event], earlier: Losses) -> Losses:
    """The sessions that ended with these events, and the earlier ones."""
    lost = dict(earlier)
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
    is_from_us = known is None or known.device.public_key == own
    if new.device.public_key != own and own and is_from_us:
        return "another private key"
    peers = {peer.public_key for peer in link.peers} - {peer.public_key for peer in new.peers}
    if known is not None:
        peers &= {peer.public_key for peer in known.peers}
    return "another peer" if peers and new.peers else None

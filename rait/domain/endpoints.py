"""The endpoint that a peer gets: the one that works, as long as it works.

Three endpoints may disagree: the wanted one (from the peers list, by way of names), the last
applied one (from the journal), and the seen one (WireGuard follows a peer that moves).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from rait.domain.backend import REJECT_AFTER_SECONDS, Observation
from rait.domain.events import Event, LinkAdded, LinkRemoved, PeerAdded, PeerRemoved, PeerUpdated
from rait.domain.topology import Endpoint, LinkPeer, Topology

Departed = Mapping[str, Mapping[str, Endpoint | None]]
"""The endpoints last applied of peers that are gone, by link name and public key; None for none.

Of the peers of one link name, the one that went last is the last.
"""

Names = Mapping[str, bool]
"""The links whose peer has a host name, and whether that resolved."""

NO_NAMES: Names = {}
NONE_DEPARTED: Departed = {}

MOST_DEPARTED = 16
"""For a link name, so many peers that are gone are remembered."""


def is_fresh(now: int, handshake: int) -> bool:
    """Whether a session is alive; ``handshake`` is its last one, both in unix seconds (0: never).

    A handshake may seem to be in the future, where the clock was set back since. A live session
    has a new handshake every two minutes, so a handshake that lies further ahead than a session
    lives is of a dead one.
    """
    return handshake > 0 and abs(now - handshake) <= REJECT_AFTER_SECONDS


def is_stale(observation: Observation) -> bool:
    """Whether a link has sent, and its peer does not answer: it may have another address."""
    now = observation.now
    return any(
        sent and not is_fresh(now, link.handshakes.get(key, 0))
        for link in observation.links.values()
        for key, sent in link.sent.items()
    )


def endpoint_views(
    seen: Endpoint | None,
    wanted: Endpoint | None,
    last: Endpoint | None,
    *,
    fresh: bool,
    resolved: bool | None,
) -> tuple[Endpoint | None, Endpoint | None]:
    """The observed and the desired endpoint for ``diff``: equal if nothing is to be written.

    ``seen`` is WireGuard's, ``last`` was last applied, ``fresh`` says whether the session is
    alive, and ``resolved`` whether the peer's host name has an address now (None: no host name).
    """
    if wanted is None:
        return last, last
    if seen == wanted:
        return wanted, wanted
    if resolved is False and seen is not None:
        return last, last  # a name without an address wants nothing new
    is_same_port = last is None or last.port == wanted.port
    if fresh and resolved and seen is not None and is_same_port:
        # A name may have another address at each look-up: no reason to leave one that works.
        return last, last
    # An endpoint learned by roaming is seen as the one last applied while it works: it stands where
    # nothing new is wanted.
    return (last if fresh and seen is not None else seen), wanted


def assumed_last(
    seen: Endpoint | None, wanted: Endpoint | None, resolved: bool | None
) -> Endpoint | None:
    """The endpoint to take for the last applied one of a peer that the journal does not know.

    For an IP address in the list, that is the wanted endpoint. A name may have had another address
    before, so that is the seen endpoint; but an endpoint with another port was not applied by us.
    """
    if wanted is None or seen is None:
        return seen
    if resolved is None:
        return wanted
    return seen if seen.port == wanted.port else None


def last_endpoint(
    name: str, public_key: str, applied: Topology | None, departed: Departed
) -> Endpoint | None:
    """The endpoint that rait last gave to a link's peer, even if the link is gone since."""
    link = applied.links.get(name) if applied is not None else None
    peer = link.peer(public_key) if link is not None else None
    if peer is not None and peer.endpoint is not None:
        return peer.endpoint
    return departed.get(name, {}).get(public_key)


def last_departed(name: str, departed: Departed) -> tuple[str, ...]:
    """The public key of the peer that had a link of this name last; none if there was no link."""
    return tuple(departed[name])[-1:] if name in departed else ()


def depart(before: Departed, events: Iterable[Event]) -> Departed:
    """The departed peers after these events, from those before them."""
    after = dict(before)
    for event in events:
        match event:
            case LinkAdded(link):
                _forget(after, link.name, link.peers)
            case LinkRemoved(link):
                _remember(after, link.name, link.peers)
            case PeerRemoved(name, peer):
                _remember(after, name, (peer,))
            case PeerUpdated(name, old, new) if new.endpoint is None:
                _remember(after, name, (old,))
            case PeerUpdated(name, _, peer) | PeerAdded(name, peer):
                _forget(after, name, (peer,))
    return after


def _remember(
    departed: dict[str, Mapping[str, Endpoint | None]], name: str, peers: Iterable[LinkPeer]
) -> None:
    before = departed.get(name, {})
    new = {p.public_key: p.endpoint or before.get(p.public_key) for p in peers}
    if new:
        both = {key: before[key] for key in before if key not in new} | new
        departed[name] = both if len(both) <= MOST_DEPARTED else new


def _forget(
    departed: dict[str, Mapping[str, Endpoint | None]], name: str, peers: Iterable[LinkPeer]
) -> None:
    """Drop the endpoints of peers that the topology has again."""
    if name in departed:
        known = {peer.public_key for peer in peers if peer.endpoint is not None}
        left = {key: value for key, value in departed.pop(name).items() if key not in known}
        if left:
            departed[name] = left

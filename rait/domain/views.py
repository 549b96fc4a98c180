"""A link of ours beside the one that is wanted in its place, in the form in which diff sees both.

Step 3 of reconcile.py, for the links that are not just as they were: nearly all are, in nearly all
runs, which do not load this module.
"""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import Struct, structs

from rait.domain.backend import ObservedLink
from rait.domain.endpoints import assumed_last, endpoint_views, is_fresh
from rait.domain.topology import (
    ANYWHERE,
    NO_NOTES,
    Device,
    Link,
    LinkNotes,
    LinkPeer,
    LinkSettings,
    Origin,
    is_link_local,
)
from rait.domain.vrf import FAMILIES


class Pair(Struct, frozen=True, kw_only=True):
    """A link of ours beside the one that is ``wanted`` in its place; None if the link is to go.

    ``last`` is the link as the journal knows it, and ``leftover`` as an unfinished run may have
    made it. ``resolved`` says whether its peer's host name has an address now; None if the peer
    has no host name. ``own_key`` is the node's public key now. ``added`` are addresses that an
    unfinished run may have given to the link, and ``psks`` digests of preshared keys, by link and
    peer.
    """

    observed: ObservedLink
    wanted: Link | None
    last: Link | None
    leftover: Link | None
    resolved: bool | None
    own_key: str
    added: frozenset[str]
    psks: Mapping[tuple[str, str], str]

    def views(self, now: int, wanted_ports: Mapping[int, str]) -> tuple[Link, Link | None]:
        """The link as diff shall see it, and what the link shall become; None if it is to go."""
        link, wanted = self.observed.link, self.wanted
        peers = self._peer_views(now)
        observed = structs.replace(
            link,
            origin=self._origin(),
            settings=own_settings(link, self.last, wanted, self.added),
            device=self._device(wanted_ports),
            peers=tuple(seen for seen, _ in peers),
            notes=self._notes(),
        )
        if wanted is None:
            return observed, None
        if observed.origin != wanted.origin:
            return observed, self._replacement(wanted)
        goals = {goal.public_key: goal for _, goal in peers if goal is not None}
        settings = wanted.settings
        if observed.settings.address is not None and not _gives_link_local(settings):
            settings = structs.replace(settings, address=observed.settings.address)
        become = tuple(goals.get(peer.public_key, peer) for peer in wanted.peers)
        return observed, structs.replace(wanted, settings=settings, peers=become)

    def _notes(self) -> LinkNotes:
        """What the journal remembers of the link; the machine does not show it."""
        source = self.last if self.last is not None else self.leftover
        return NO_NOTES if source is None else source.notes

    def _origin(self) -> Origin:
        """The link's origin; the journal, else the plan fills in an unknown transit namespace.

        If an unfinished run was making the link again in another transit namespace, nobody can tell
        in which of the two this link is. Then the transit stays unknown, so that the link is made
        again. So is a link whose program listens under a former name.
        """
        seen = self.observed.link.origin
        if self.observed.renamed:
            return structs.replace(seen, transit="")
        if seen.transit:
            return seen
        made = [link for link in (self.last, self.leftover) if link is not None]
        assumed = [] if self.wanted is None else [self.wanted]
        origins = (link.origin for link in made or assumed)
        transits = {origin.transit for origin in origins if origin.backend == seen.backend}
        return structs.replace(seen, transit=transits.pop()) if len(transits) == 1 else seen

    def _device(self, wanted_ports: Mapping[int, str]) -> Device:
        """The device, with port 0 for a port that the kernel chose and no other link wants."""
        link, device = self.observed.link, self.observed.link.device
        if wanted_ports.get(device.listen_port, link.name) != link.name:
            return device
        was = None if self.last is None else self.last.device.listen_port
        wanted = None if self.wanted is None else self.wanted.device.listen_port
        if wanted == 0:
            chosen = was != device.listen_port  # else rait had set it
        else:
            # That the kernel chose a port is nobody's change. If it chose the wanted one, nothing
            # is to be written.
            chosen = was == 0 and wanted != device.listen_port
        return structs.replace(device, listen_port=0) if chosen else device

    def _peer_views(self, now: int) -> list[tuple[LinkPeer, LinkPeer | None]]:
        """Each peer that is there as diff shall see it, and what it shall become (None: it goes).

        A peer that is wanted and not there is not among them.
        """
        views = []
        for peer in self.observed.link.peers:
            key = peer.public_key
            goal = self.wanted.peer(key) if self.wanted is not None else None
            last = self.last.peer(key) if self.last is not None else None
            fresh = is_fresh(now, self.observed.handshakes.get(key, 0))
            views.append(self._peer_view(self._comparable(peer, last), goal, last, fresh))
        return views

    def _comparable(self, seen: LinkPeer, last: LinkPeer | None) -> LinkPeer:
        """The peer, with the known digest if that was made with another private key of ours.

        A digest is keyed with the private key, so after a rotation nobody can tell whether the
        preshared key is still the same one. If one is wanted, it is written once more.
        """
        if last is None or self.last is None or self.last.device.public_key == self.own_key:
            return seen
        given = self.psks.get((self.observed.link.name, seen.public_key), "")
        known = last.psk_digest or given
        return structs.replace(seen, psk_digest=known) if seen.psk_digest and known else seen

    def _peer_view(
        self, seen: LinkPeer, wanted: LinkPeer | None, last: LinkPeer | None, fresh: bool
    ) -> tuple[LinkPeer, LinkPeer | None]:
        allowed = _in_known_order(seen.allowed_ips, last, wanted)
        if wanted is None:
            endpoint = seen.endpoint if last is None else last.endpoint
            return structs.replace(seen, endpoint=endpoint, allowed_ips=allowed), None
        if last is not None:
            applied = last.endpoint
        else:
            applied = assumed_last(seen.endpoint, wanted.endpoint, self.resolved)
        as_seen, wished = endpoint_views(
            seen.endpoint, wanted.endpoint, applied, fresh=fresh, resolved=self.resolved
        )
        seen = structs.replace(seen, endpoint=as_seen, allowed_ips=allowed)
        return seen, structs.replace(wanted, endpoint=wished)

    def _replacement(self, wanted: Link) -> Link:
        """The link that takes the place of this one, with this one's endpoint for want of a better.

        A wanted endpoint is no better if it is of a host name that does not resolve now.
        """
        there = {peer.public_key: peer.endpoint for peer in self.observed.link.peers}
        peers = (
            structs.replace(peer, endpoint=there.get(peer.public_key) or peer.endpoint)
            if peer.endpoint is None or self.resolved is False
            else peer
            for peer in wanted.peers
        )
        return structs.replace(wanted, peers=tuple(peers))


def own_settings(
    seen: Link, last: Link | None, wanted: Link | None, added: frozenset[str]
) -> LinkSettings:
    """The settings of a link with those addresses that are ours; what others add is not seen.

    ``last`` is the link as the journal knows it, and ``added`` are addresses that an unfinished run
    may have given to it.

    1. An address is ours if it is wanted, if the journal knows it, or if it is among those added.
       So what rait sets and is not wanted any more goes, and what others add stays.
    2. The link-local address that rait makes up (``LinkSettings.address``) is another matter:
       whichever is there is kept, as a user may want their own. Of several, the one that the
       journal knows is seen, else the wanted one, else the first.
    3. Where a policy gives a link-local address, it is one of ``LinkSettings.addresses``, by rule
       1. Then the one that rait had made up goes, and those of others stay.
    """
    nothing = structs.replace(seen.settings, address=None, addresses=())
    known = nothing if last is None else last.settings
    goal = nothing if wanted is None else wanted.settings
    there, ours = seen.settings.all_addresses, added.union(known.addresses, goal.addresses)
    rest = [each for each in there if is_link_local(each) and each not in ours]
    if _gives_link_local(goal):
        rest = [each for each in rest if each in _made_up(seen)]
    best = (each for each in (known.address, goal.address, *rest) if each in rest)
    mine = tuple(sorted(ours.intersection(there)))
    return structs.replace(seen.settings, address=next(best, None), addresses=mine)


def _gives_link_local(settings: LinkSettings) -> bool:
    """Whether a policy gives a link-local address, instead of the one that rait makes up."""
    return any(map(is_link_local, settings.addresses))


def _made_up(link: Link) -> frozenset[str]:
    """The link-local addresses that rait makes up for a link with these keys."""
    from rait.domain.plan import link_local

    own = link.device.public_key
    return frozenset(link_local(own, peer.public_key, f) for peer in link.peers for f in FAMILIES)


def _in_known_order(allowed: tuple[str, ...], *peers: LinkPeer | None) -> tuple[str, ...]:
    """Allowed IPs in the order in which they were set: the machine shows them in its own order."""
    for order in (ANYWHERE, *(peer.allowed_ips for peer in peers if peer is not None)):
        if set(allowed) == set(order):
            allowed = order
    return allowed

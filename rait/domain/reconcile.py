"""What to do about what there is: all that rait decides about a node, as one pure function.

``reconcile`` gets what the machine shows, what a run wants, what the journal last knew and which
links are this node's. It gives a Change: the topology that there is of ours, the one that shall
be, and the events between the two. Every command goes through ``reconcile``. ``up`` wants the
planned topology, ``down`` none, ``replay`` and ``rollback`` one of the past, and ``babeld sync``
the links as they are. ``plan``, also for another node's exported state, only shows the Change.
After a run in which events failed, ``reconcile`` runs once more, as if that run were unfinished:
the leftover that it finds then is what the failed events did.

Theory of operation. ``diff`` is strict: whatever differs between two topologies is an event. But
not every difference is to be written, so both topologies are made to agree wherever nothing is to
be done. The steps, in their order:

1. *Ours* is sorted out from what is of others (ownership.py). A link of ours that cannot be read
   counts as the journal knows it, in both topologies.
2. *Occupied* names are found (ownership.py). Where something that is not ours has the name of a
   wanted link, the link cannot be, and a problem says why.
3. Each link of ours is put into the form in which diff shall see it (_Pair). Its transit namespace
   is the one in the journal where the machine cannot tell. A port that the kernel chose is port 0.
   Notes are as the journal has them, and so is the digest of a preshared key that was made with
   another private key of ours. A link-local address that is there is kept, unless a policy gives
   one, and addresses that others added are not seen (own_settings). An endpoint differs only
   where the wanted one is not the one last applied, or where the session is dead (endpoints.py). A
   link that has to be made again takes its endpoint along, if no better one is known.
4. VRFs and rules come and go with the links that need them (vrf.py).
5. A link for which a policy wants a preshared key that is not to be had stays as it is, or is not
   made. A link whose entry in the peers list was skipped stays if the entry cannot be read, and all
   that there is stays while an old list stands in for the newest (doubt.py).
6. babeld's interfaces shall be the links that are up (babel.py). In a run that does not ask
   babeld, both topologies have the interfaces that the journal knows.
7. What differs from the journal's last knowledge is *drift*. The part of it that an unfinished run
   did is *leftover* (aftermath.py); others did the rest. Events of an unfinished run that cannot be
   looked at now either are *carried* on to the next run.
8. A rollback changes no other links than the run did that it takes back.
9. A preshared key of which the run has only the digest cannot be set, so it is not desired
   (preshared.py).
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from typing import TYPE_CHECKING

from msgspec import Struct, structs

from rait.domain.backend import Observation, ObservedLink
from rait.domain.change import Change, Goal
from rait.domain.diff import diff
from rait.domain.endpoints import assumed_last, endpoint_views, is_fresh
from rait.domain.errors import Problem
from rait.domain.events import Event, LinkAdded, LinkUpdated, PeerUpdated, ToBabeld
from rait.domain.history import LastKnown
from rait.domain.ownership import Holdings, Scope, holdings, is_in_place, occupied
from rait.domain.topology import (
    ANYWHERE,
    EMPTY,
    NO_NOTES,
    Device,
    Link,
    LinkNotes,
    LinkPeer,
    LinkSettings,
    Origin,
    is_link_local,
)
from rait.domain.vrf import FAMILIES, reconcile_isolation, with_needs_of

if TYPE_CHECKING:
    from rait.domain.babel import BabeldState


def reconcile(
    observation: Observation,
    goal: Goal,
    known: LastKnown,
    scope: Scope,
    babeld: BabeldState | None = None,
) -> Change:
    """Decide what to do for what is observed to become what is wanted; see the steps above.

    ``babeld`` is None in a run that does not ask babeld.
    """
    ours = holdings(observation, known, scope)
    change = _compare(observation, goal, known, ours, scope.public_key)
    if goal.flaws or goal.doubts is not None:
        from rait.domain.doubt import with_kept

        change = with_kept(change)
    if babeld is not None:
        change = _with_babeld(change, babeld, scope.claimed)
    is_babeld_asked = babeld is not None and babeld.problem is None
    change = _with_drift(change, ours.unknown, is_babeld_asked)
    if goal.only is not None:
        change = _confined(change, goal.only)
    if any(peer.psk_digest for link in change.desired.links.values() for peer in link.peers):
        from rait.domain.preshared import with_known

        change = with_known(change)
    return structs.replace(change, events=diff(change.observed, change.desired))


def concerns_babeld(observation: Observation, goal: Goal, known: LastKnown, scope: Scope) -> bool:
    """Whether to ask babeld: not where there are no links of ours, there were none, and none is
    wanted."""
    if known.topology.babel or (goal.topology is not None and goal.topology.links):
        return True
    ours = holdings(observation, known, scope)
    return bool(ours.links or ours.unknown)


def _compare(
    observation: Observation, goal: Goal, known: LastKnown, ours: Holdings, own_key: str
) -> Change:
    """Steps 2 to 4: the links, VRFs and rules that there are, and those that shall be."""
    wanted = goal.topology or EMPTY
    found = occupied(wanted.links, ours, observation)
    problems = (*found, *(_unread(name, why) for name, why in ours.unknown.items()))
    links, desired_links = _link_views(observation, goal, known, ours, problems, own_key)
    there, desired, hints = reconcile_isolation(observation, wanted, known, desired_links, links)
    unread = (link for name, link in links.items() if name in ours.unknown)
    desired, babel = with_needs_of(unread, there, desired), known.topology.babel
    observed = structs.replace(there, links=links, babel=babel)
    desired = structs.replace(desired, links=desired_links, babel=babel)
    as_it_is = goal.topology is None
    return Change(
        observed=observed,
        desired=observed if as_it_is else desired,
        problems=() if as_it_is else (*hints, *goal.flaws, *problems),
        strangers=ours.strangers,
        dead=frozenset(name for name, seen in observation.links.items() if seen.dead),
        leftover_links=tuple(sorted(known.leftover_links.keys() - links.keys())),
        goal=goal,
        known=known,
    )


def _with_babeld(change: Change, babeld: BabeldState, claimed: Container[str]) -> Change:
    """Step 6. Where babeld could not be asked, the tunnels come and go all the same.

    The interfaces of ``claimed`` links are another configuration's, even if we had them before.
    """
    if babeld.problem is not None:
        return structs.replace(change, babeld_problem=babeld.problem)
    has, shall_have = babeld.compare(change.known.topology, change.desired.links)
    if not babeld.exclusive:
        has = {name: param for name, param in has.items() if name not in claimed}
    if change.goal.old is not None:
        shall_have = {**shall_have, **has}  # to change parameters, an interface has to go as well
    return structs.replace(
        change,
        observed=structs.replace(change.observed, babel=has),
        desired=structs.replace(change.desired, babel=shall_have),
        extra_cmd_owed=change.known.extra_cmd_owed,
    )


def _with_drift(change: Change, unknown: Container[str], is_babeld_asked: bool) -> Change:
    """Step 7; ``unknown`` are the links that cannot be looked at."""
    known = change.known
    if not known.leftover:  # as in nearly all runs, none of which pays for the import
        return structs.replace(change, drift=diff(known.topology, change.observed))
    from rait.domain.aftermath import told_apart

    leftover, others = told_apart(known.topology, change.observed, known.leftover)
    carried = tuple(
        event
        for event in known.leftover
        if (not is_babeld_asked if isinstance(event, ToBabeld) else event.name in unknown)
    )
    drift = (*leftover, *others)
    return structs.replace(change, drift=drift, leftover=frozenset(leftover), carried=carried)


def _confined(change: Change, only: frozenset[str]) -> Change:
    """Step 8. Leave each entry of another name as it is: a later run finds what changed there."""
    carried = frozenset(change.carried)
    return structs.replace(
        change,
        desired=change.observed.with_parts_of(change.desired, only),
        problems=tuple(p for p in change.problems if p.link is None or p.link in only),
        drift=tuple(event for event in change.drift if event.name in only),
        carried=tuple(
            event for event in change.known.leftover if event in carried or event.name not in only
        ),
    )


def _unread(name: str, why: str) -> Problem:
    return Problem(f"it cannot be read, so it is left as it is: {why}", "error", (), name)


def _link_views(
    observation: Observation,
    goal: Goal,
    known: LastKnown,
    ours: Holdings,
    problems: Iterable[Problem],
    own_key: str,
) -> tuple[dict[str, Link], dict[str, Link]]:
    """Step 3: the links that there are, and the links that shall be, by name."""
    impossible = {problem.link for problem in problems}
    observed = {name: link for name, link in known.topology.links.items() if name in ours.unknown}
    wanted = goal.topology.links if goal.topology is not None else {}
    desired = {name: link for name, link in wanted.items() if name not in impossible} | observed
    ports = {link.device.listen_port: name for name, link in desired.items()}
    given, psks = _addresses_given_by(known.leftover), _psks_given_by(known.leftover)
    # An address in an old list is no better than a name's: no reason to leave one that works.
    resolved = None if goal.old is None else True
    for name, seen in ours.links.items():
        last = _last(seen, known.topology.links.get(name))
        leftover, added = known.leftover_links.get(name), given.get(name, frozenset())
        want = desired.get(name)
        is_settled = leftover is None and not added
        if want is not None and want == last and is_settled and _is_as(seen.link, last):
            observed[name] = want  # as nearly all links are in nearly all runs
            continue
        pair = _Pair(
            observed=seen,
            wanted=want,
            last=last,
            leftover=leftover,
            resolved=goal.names.get(name, resolved),
            own_key=own_key,
            added=added,
            psks=psks,
        )
        observed[name], become = pair.views(observation.now, ports)
        if become is not None:
            desired[name] = become
        elif name in impossible:
            desired[name] = observed[name]  # the link is elsewhere, and cannot come here
    return observed, desired


def _addresses_given_by(events: Iterable[Event]) -> dict[str, frozenset[str]]:
    """The addresses that events give to each link, by its name."""
    found: dict[str, frozenset[str]] = {}
    for event in events:
        if isinstance(event, LinkAdded | LinkUpdated):
            after = event.after if isinstance(event, LinkUpdated) else event.link.settings
            found[event.name] = found.get(event.name, frozenset()).union(after.addresses)
    return found


def _psks_given_by(events: Iterable[Event]) -> dict[tuple[str, str], str]:
    """The digests of preshared keys that events change, by link and peer."""
    return {
        (event.name, event.after.public_key): event.after.psk_digest
        for event in events
        if isinstance(event, PeerUpdated)
    }


def _last(observed: ObservedLink, link: Link | None) -> Link | None:
    """The link as the journal knows it, or None if that is another link of the name."""
    if link is None or not is_in_place(observed.link, link):
        return None
    return link if link.origin.backend == observed.link.origin.backend else None


def _is_as(seen: Link, last: Link) -> bool:
    """Whether all that can be seen of a link is as the journal knows it.

    Not every machine shows the transit namespace of a link.
    """
    return (
        structs.replace(seen, origin=last.origin, notes=last.notes) == last
        and seen.origin.instance == last.origin.instance
        and seen.origin.transit in ("", last.origin.transit)
    )


class _Pair(Struct, frozen=True, kw_only=True):
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

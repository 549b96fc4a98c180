"""What to do about what there is: all that rait decides about a node, as one pure function.

``reconcile`` is given what the machine shows, what a run wants, what the journal last knew and
which links are this node's. It gives a Change: what there is of ours, what shall be, and the
events between the two. Every command goes through it. ``up`` wants what is planned, ``down``
nothing, ``replay`` and ``rollback`` the past, and ``babeld sync`` the links as they are; ``plan``,
also for another node's exported state, asks the same and leaves it at that. After a run in which
events failed it is asked once more, as if that run had been cut off: what is leftover then is
what the failed events did.

Theory of operation. ``diff`` is strict: whatever differs between two topologies is an event. Not
all that differs is to be written, so both topologies are made to agree wherever nothing is to be
done. The steps, in the order in which they are taken:

1. *Ours* is sorted out from what is of others (ownership.py). A link of ours that cannot be read
   is taken to be as it is remembered, and stays so.
2. *Occupied* names are found. Where something that is not ours has the name of a link, the link
   cannot be, and there is a problem that says why.
3. Each link of ours is seen as diff shall see it (_Pair). Its transit namespace is what the
   journal says where the machine cannot tell. A port that the kernel chose is port 0. A link-local
   address that is there is kept. An endpoint differs only where the wanted one is not the one last
   applied, or where the session is dead (endpoints.py). A link that has to be made again takes
   its endpoint along, if no better one is known.
4. VRFs and rules come and go with the links that need them (vrf.py).
5. Links whose entry in the peers list was skipped stay if it cannot be read (doubt.py).
6. babeld's interfaces shall be the links that are up (babel.py). If babeld is not asked, they are
   left as they are remembered: only babeld itself can say more.
7. What changed since the journal last knew is *drift*. Of that, what an earlier run brought about
   that never said what became of it is *leftover* (aftermath.py); others did the rest. What of
   such a run cannot be looked at now either is *carried* on to the next run.
8. A run that takes another one back touches no other links than that one did.
9. A preshared key of which only the digest is known cannot be brought back, so it is not wanted.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

from msgspec import Struct, structs

from rait.domain.backend import Observation, ObservedLink
from rait.domain.diff import diff
from rait.domain.doubt import Doubts, keep_doubtful
from rait.domain.endpoints import NO_NAMES, Names, assumed_last, endpoint_views, is_fresh
from rait.domain.errors import Problem
from rait.domain.events import Event, LinkAdded, ToBabeld
from rait.domain.history import LastKnown
from rait.domain.ownership import (
    Holdings,
    Scope,
    Stranger,
    holdings,
    is_in_one_place,
    is_in_place,
    is_ours,
    unread_of_ours,
)
from rait.domain.topology import (
    ANYWHERE,
    EMPTY,
    Device,
    Endpoint,
    Link,
    LinkPeer,
    Origin,
    Topology,
)
from rait.domain.vrf import isolation_of, reconcile_isolation

if TYPE_CHECKING:
    from rait.domain.babel import BabeldState


class Goal(Struct, frozen=True):
    """What a run wants; where ``topology`` is None, it wants the links as they are.

    ``names`` are those of the plan, and ``doubts`` the entries of the peers list that were
    skipped. ``only`` names all that may change, None for everything.
    """

    topology: Topology | None
    names: Names = NO_NAMES
    doubts: Doubts | None = None
    only: frozenset[str] | None = None


class Change(Struct, frozen=True, kw_only=True):
    """What there is of ours, what shall be, what to do about it, and what had changed.

    ``problems`` say what cannot be, and ``strangers`` are links that look like ours and are left
    alone. ``leftover`` are those of the events in ``drift`` that earlier runs brought about, which
    never said what became of them; ``leftover_links`` are links that such a run may have left half
    made, and ``carried`` what is still not known of it. ``losses`` tell of links that go with an
    entry of the peers list that was skipped, and ``dead`` are links that have no session to lose.
    ``babeld_problem`` says why babeld could not be asked, and ``extra_cmd_owed`` that it has not
    taken ``extra_cmd`` yet since it was last told of a change. ``goal`` and ``known`` are what
    ``reconcile`` was given.
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
    goal: Goal = Goal(None)
    known: LastKnown = LastKnown()

    @property
    def refusal(self) -> str | None:
        """Why nothing at all may be touched, or None."""
        errors = (p.message for p in self.problems if p.link is None and p.severity == "error")
        return next(errors, None)

    def placed(self, instances: Mapping[str, str]) -> Change:
        """This change with each new link in the instance that its namespace has by now.

        ``instances`` are by spelling. Before, those of namespaces that were still to be made were
        not known.
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


def reconcile(
    observation: Observation,
    goal: Goal,
    known: LastKnown,
    scope: Scope,
    babeld: BabeldState | None = None,
) -> Change:
    """Decide what to do for what is observed to become what is wanted; see the steps above.

    ``babeld`` is None where babeld is not asked.
    """
    ours = holdings(observation, known, scope)
    change = _compare(observation, goal, known, ours)
    if goal.doubts is not None:
        change = _with_doubtful_kept(change, goal.doubts)
    if babeld is not None:
        change = _with_babeld(change, babeld)
    is_babeld_asked = babeld is not None and babeld.problem is None
    change = _with_drift(change, ours.unknown, is_babeld_asked)
    if goal.only is not None:
        change = _confined(change, goal.only)
    change = _without_unknown_psks(change)
    return structs.replace(change, events=diff(change.observed, change.desired))


def concerns_babeld(observation: Observation, goal: Goal, known: LastKnown, scope: Scope) -> bool:
    """Whether babeld is to be asked: it is left in peace where there are no links, nor were any."""
    if known.topology.babel or (goal.topology is not None and goal.topology.links):
        return True
    seen = (*observation.links.values(), *observation.doubles)
    return bool(unread_of_ours(observation, known, scope)) or any(
        is_ours(each, known, scope) for each in seen
    )


def _compare(observation: Observation, goal: Goal, known: LastKnown, ours: Holdings) -> Change:
    """Steps 2 to 4: the links, VRFs and rules that there are, and those that shall be."""
    wanted = goal.topology or EMPTY
    occupied = _occupied(wanted.links, ours, observation)
    problems = (*occupied, *(_unread(name, why) for name, why in ours.unknown.items()))
    links, desired_links = _link_views(observation, goal, known, ours, problems)
    isolation = reconcile_isolation(observation, wanted, known, desired_links, links)
    was, will_be = isolation.observed, isolation.desired
    if ours.unknown:
        staying = [link for name, link in links.items() if name in ours.unknown]
        became = structs.replace(wanted, vrfs=will_be.vrfs, rules=will_be.rules)
        will_be = isolation_of(staying, Topology(vrfs=was.vrfs, rules=was.rules), became)
    babel = known.topology.babel
    observed = Topology(links, babel, was.vrfs, was.rules)
    desired = Topology(desired_links, babel, will_be.vrfs, will_be.rules)
    as_it_is = goal.topology is None
    return Change(
        observed=observed,
        desired=observed if as_it_is else desired,
        problems=() if as_it_is else (*isolation.problems, *problems),
        strangers=ours.strangers,
        dead=frozenset(name for name, seen in observation.links.items() if seen.dead),
        leftover_links=tuple(sorted(known.leftover_links.keys() - links.keys())),
        goal=goal,
        known=known,
    )


def _with_doubtful_kept(change: Change, doubts: Doubts) -> Change:
    kept = keep_doubtful(change.observed, change.desired, doubts)
    return structs.replace(
        change,
        desired=kept.desired,
        problems=(*change.problems, *kept.problems),
        losses=kept.losses,
    )


def _with_babeld(change: Change, babeld: BabeldState) -> Change:
    """Without babeld the tunnels come and go all the same."""
    if babeld.problem is not None:
        return structs.replace(change, babeld_problem=babeld.problem)
    has, shall_have = babeld.compare(change.known.topology, change.desired.links)
    return structs.replace(
        change,
        observed=structs.replace(change.observed, babel=has),
        desired=structs.replace(change.desired, babel=shall_have),
        extra_cmd_owed=change.known.extra_cmd_owed,
    )


def _with_drift(change: Change, unknown: Container[str], is_babeld_asked: bool) -> Change:
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
    """Leave all that has another name as it is: what changed there is for a later run to find."""
    return structs.replace(
        change,
        desired=change.observed.with_parts_of(change.desired, only),
        problems=tuple(p for p in change.problems if p.link is None or p.link in only),
        drift=tuple(event for event in change.drift if event.name in only),
        carried=tuple(
            event
            for event in change.known.leftover
            if event in change.carried or event.name not in only
        ),
    )


def _without_unknown_psks(change: Change) -> Change:
    """Of a preshared key that somebody had set the journal has only the digest.

    One that is still there may stay; for each that would have to be set there is a problem.
    """
    links: dict[str, Link] = {}
    problems: list[Problem] = []
    for name, link in change.desired.links.items():
        old = change.observed.links.get(name)
        if old is link or not any(peer.psk_digest for peer in link.peers):
            continue
        there = old.peers if old is not None and old.origin == link.origin else ()
        known = {(peer.public_key, peer.psk_digest) for peer in there}
        lost = [p for p in link.peers if p.psk_digest and (p.public_key, p.psk_digest) not in known]
        if lost:
            peers = (structs.replace(p, psk_digest="") if p in lost else p for p in link.peers)
            links[name] = structs.replace(link, peers=tuple(peers))
            problems += (_unknown_psk(name, peer.public_key) for peer in lost)
    if not links:
        return change
    desired = structs.replace(change.desired, links={**change.desired.links, **links})
    return structs.replace(change, desired=desired, problems=(*change.problems, *problems))


def _unknown_psk(name: str, public_key: str) -> Problem:
    text = (
        f"the preshared key that peer {public_key} had cannot be brought back: somebody else had "
        "set it, and the journal holds no keys"
    )
    return Problem(text, "error", (), name)


def _unread(name: str, why: str) -> Problem:
    return Problem(f"it cannot be read, so it is left as it is: {why}", "error", (), name)


def _occupied(
    wanted: Mapping[str, Link], ours: Holdings, observation: Observation
) -> Iterator[Problem]:
    """The links that cannot be where something that is not ours has their name."""
    strangers = {stranger.link: stranger.why for stranger in ours.strangers}
    for name, link in wanted.items():
        there = ours.links.get(name)
        if name in ours.unknown or (there is not None and is_in_one_place(there.link, link)):
            continue
        kind = observation.others.get(name)
        foreign = observation.links.get(name)
        if foreign is not None and not is_in_one_place(foreign.link, link):
            foreign = None
        if foreign is not None and name in strangers:
            text = (
                f"a WireGuard interface that is not ours already has this name ({strangers[name]})"
                "; rename or remove it"
            )
        elif kind is not None:
            text = f"an interface of kind {kind or 'physical'} already has this name; rename it"
        elif foreign is not None:
            text = (
                f"a WireGuard interface of group {foreign.link.settings.group}, so not of ours, "
                "already has this name; rename it, or move it into our ifgroup"
            )
        else:
            continue
        yield Problem(f"{text}, or use another ifprefix", "error", (), name)


def _link_views(
    observation: Observation,
    goal: Goal,
    known: LastKnown,
    ours: Holdings,
    problems: Iterable[Problem],
) -> tuple[dict[str, Link], dict[str, Link]]:
    """The links that there are, and those that shall be, by name."""
    impossible = {problem.link for problem in problems}
    observed = {name: link for name, link in known.topology.links.items() if name in ours.unknown}
    wanted = goal.topology.links if goal.topology is not None else {}
    desired = {name: link for name, link in wanted.items() if name not in impossible} | observed
    ports = {link.device.listen_port: name for name, link in desired.items()}
    for name, seen in ours.links.items():
        last = _last(seen, known.topology.links.get(name))
        leftover = known.leftover_links.get(name)
        want = desired.get(name)
        if want is not None and want == last and leftover is None and _is_as(seen.link, last):
            observed[name] = want  # as nearly all links are in nearly all runs
            continue
        pair = _Pair(seen, want, last, leftover, goal.names.get(name))
        observed[name], become = pair.views(observation.now, ports)
        if become is not None:
            desired[name] = become
        elif name in impossible:
            desired[name] = observed[name]  # it is elsewhere, and cannot come here
    return observed, desired


def _last(observed: ObservedLink, link: Link | None) -> Link | None:
    """What we last knew of this very link, if it is the same one."""
    if link is None or not is_in_place(observed.link, link):
        return None
    return link if link.origin.backend == observed.link.origin.backend else None


def _is_as(seen: Link, last: Link) -> bool:
    """Whether all that can be seen of a link is as we last knew it.

    Not every machine shows its transit namespace.
    """
    return (
        seen.settings == last.settings
        and seen.device == last.device
        and seen.peers == last.peers
        and seen.origin.instance == last.origin.instance
        and seen.origin.transit in ("", last.origin.transit)
    )


class _Pair(Struct, frozen=True):
    """A link of ours beside the one that is wanted in its place, which is None if it is to go.

    ``last`` is what we last knew of it, and ``leftover`` what a run that was cut off may have made
    of it. ``resolved`` says whether its peer's host name has an address now, None if it is no name.
    """

    observed: ObservedLink
    wanted: Link | None
    last: Link | None
    leftover: Link | None
    resolved: bool | None

    def views(self, now: int, wanted_ports: Mapping[int, str]) -> tuple[Link, Link | None]:
        """The link as diff shall see it, and what it shall become (None: it goes)."""
        link, wanted = self.observed.link, self.wanted
        peers = self._peer_views(now)
        observed = structs.replace(
            link,
            origin=self._origin(),
            device=self._device(wanted_ports),
            peers=tuple(seen for seen, _ in peers),
        )
        if wanted is None:
            return observed, None
        if observed.origin != wanted.origin:
            return observed, self._replacement(wanted)
        goals = {goal.public_key: goal for _, goal in peers if goal is not None}
        settings = wanted.settings
        if link.settings.address is not None:
            settings = structs.replace(settings, address=link.settings.address)
        become = tuple(goals.get(peer.public_key, peer) for peer in wanted.peers)
        return observed, structs.replace(wanted, settings=settings, peers=become)

    def _origin(self) -> Origin:
        """Where the machine cannot tell the transit namespace, the journal does, else the plan.

        After a run that was cut off while it made the link again in another transit namespace,
        nobody can tell which of the two this is. Then it stays unknown, so that the link is made
        again, and so is one whose program listens under a former name.
        """
        seen = self.observed.link.origin
        if self.observed.renamed:
            return structs.replace(seen, transit="")
        if seen.transit:
            return seen
        told = [source.origin for source in (self.last, self.leftover) if source is not None]
        if not told and self.wanted is not None:
            told = [self.wanted.origin]
        transits = {origin.transit for origin in told if origin.backend == seen.backend}
        return structs.replace(seen, transit=transits.pop()) if len(transits) == 1 else seen

    def _device(self, wanted_ports: Mapping[int, str]) -> Device:
        """The device, with port 0 for a port that the kernel chose and nobody else wants."""
        link, device = self.observed.link, self.observed.link.device
        if wanted_ports.get(device.listen_port, link.name) != link.name:
            return device
        was = None if self.last is None else self.last.device.listen_port
        chosen = was == 0
        if self.wanted is not None:
            wanted = self.wanted.device.listen_port
            if wanted == 0:
                chosen = was != device.listen_port  # else we had set it
            else:
                # To give the link a port of its own is our doing; that the kernel had chosen one
                # is nobody's.
                chosen = chosen and wanted != device.listen_port
        return structs.replace(device, listen_port=0) if chosen else device

    def _peer_views(self, now: int) -> list[tuple[LinkPeer, LinkPeer | None]]:
        """Each peer that is there as diff shall see it, and what it shall become."""
        views = []
        for peer in self.observed.link.peers:
            key = peer.public_key
            goal = self.wanted.peer(key) if self.wanted is not None else None
            last = self.last.peer(key) if self.last is not None else None
            fresh = is_fresh(now, self.observed.handshakes.get(key, 0))
            views.append(self._peer_view(peer, goal, last, fresh))
        return views

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
        return seen, _with_endpoint(wanted, wished)

    def _replacement(self, wanted: Link) -> Link:
        """The link that takes the place of this one, with its endpoint if it has no better one."""
        there = {peer.public_key: peer.endpoint for peer in self.observed.link.peers}
        peers = tuple(
            _with_endpoint(peer, endpoint)
            if (peer.endpoint is None or self.resolved is False)
            and (endpoint := there.get(peer.public_key)) is not None
            else peer
            for peer in wanted.peers
        )
        return structs.replace(wanted, peers=peers)


def _in_known_order(allowed: tuple[str, ...], *peers: LinkPeer | None) -> tuple[str, ...]:
    """Allowed IPs in the order in which they were set: the machine tells them in its own."""
    for order in (ANYWHERE, *(peer.allowed_ips for peer in peers if peer is not None)):
        if set(allowed) == set(order):
            allowed = order
    return allowed


def _with_endpoint(peer: LinkPeer, endpoint: Endpoint | None) -> LinkPeer:
    return peer if peer.endpoint == endpoint else structs.replace(peer, endpoint=endpoint)


def _in_instance(link: Link, instance: str) -> Link:
    return structs.replace(link, origin=structs.replace(link.origin, instance=instance))

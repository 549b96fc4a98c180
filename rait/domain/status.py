"""How the links are: what ``rait status``, the metrics and the health page show.

A link is *wanted* if the last runs made it, or were to make it. Its state is the first that fits:

1. failed: the last run could not make it, or it cannot be read or used. ``why`` says more.
2. missing: it was made, and is not there any more, or its peer is not.
3. live: the last handshake is at most REJECT_AFTER_SECONDS old, so the session carries traffic.
4. never: there was no handshake since the link was made.
5. stale: there was one, and the session has ended since.

A link is *unhealthy* if it is failed or missing, or if it is not live and its peer can be reached:
there is an endpoint to send to, or the peer was heard once. A peer without an address that never
called is no fault. WireGuard makes a handshake only for traffic (whitepaper, section 6): so a link
is live all the time only with a keepalive, or the hellos of a routing daemon.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Mapping
from typing import Literal, get_args

from msgspec import Struct

from rait.domain.babel import BabelNeighbour
from rait.domain.backend import REJECT_AFTER_SECONDS, Observation, ObservedLink
from rait.domain.config.schema import SECOND
from rait.domain.endpoints import is_fresh
from rait.domain.events import LinkAdded, LinkRemoved
from rait.domain.fallback import age_of
from rait.domain.history import LastKnown
from rait.domain.ownership import Scope, holdings
from rait.domain.records import Repeated, RunRecord
from rait.domain.signed import Signed
from rait.domain.topology import Endpoint, Link, LinkPeer

State = Literal["failed", "missing", "stale", "never", "live"]
STATES: tuple[State, ...] = get_args(State)
"""From what most needs to be looked at to what least does."""

EndpointIs = Literal["configured", "roamed", "waiting"]


class LinkStatus(Struct, frozen=True, kw_only=True):
    """One link. ``peer`` is the name that the registry has for the peer, "" if that is unknown.

    ``endpoint_is`` says how the endpoint came: ``configured`` is the one that rait gave,
    ``roamed`` one that WireGuard learned from the peer, and with ``waiting`` there is none until
    the peer calls; None if that is unknown. ``handshake`` is the unix time of the last handshake in
    seconds, 0 for never, and ``age`` the seconds since then: never negative, and None for never, or
    if a clock was set back since. ``received`` and ``sent`` are bytes since the link was made.
    ``why`` has more about a link that is failed or missing.
    """

    name: str
    state: State
    healthy: bool
    peer: str = ""
    public_key: str = ""
    endpoint: Endpoint | None = None
    endpoint_is: EndpointIs | None = None
    handshake: int = 0
    age: int | None = None
    received: int = 0
    sent: int = 0
    babel: BabelNeighbour | None = None
    why: str = ""


class PeersAge(Struct, frozen=True):
    """How long ago, in seconds, a server last said that the peers list is its newest.

    None if that is unknown: no list was kept yet, or a clock was not set. ``revision`` is that of
    the list in etcd, 0 for other sources.
    """

    age: int | None
    too_old: bool = False
    revision: int = 0


class LastChange(Struct, frozen=True, kw_only=True):
    """The last run in the journal. A run that has nothing to do leaves no trace there.

    ``at`` is when it ended, or began if it did not end: unix time in seconds; ``age`` are the
    seconds since. ``outcome`` is "unfinished" while it is under way, and for ever after a crash.
    ``cause`` is why `rait watch` began it. ``repeated`` counts the runs that ended just so since.
    ``source``, ``revision``, ``peers_digest`` and ``signed`` are as in RunHeader.
    """

    run: int
    command: str
    at: int
    age: int
    outcome: Literal["done", "partial", "failed", "unfinished"]
    cause: str = ""
    repeated: int = 0
    source: str = ""
    revision: int = 0
    peers_digest: str = ""
    signed: Signed | None = None


class Status(Struct, frozen=True, kw_only=True):
    """All links that are ours or wanted, by name, at unix time ``now`` in seconds.

    ``peers`` is None for a list that does not come from a URL. ``babeld`` says whether it answered.
    ``problem`` says why the journal cannot be read, "" if it can: without the journal, nobody knows
    which links are missing. ``waiting`` are lines about a change that waits: for its confirmation,
    or as the guard stopped it or it failed.
    """

    now: int
    links: tuple[LinkStatus, ...] = ()
    peers: PeersAge | None = None
    last_change: LastChange | None = None
    babeld: bool = False
    problem: str = ""
    waiting: tuple[str, ...] = ()

    def counts(self) -> dict[State, int]:
        """How many links there are in each state."""
        found = dict.fromkeys(STATES, 0)
        for link in self.links:
            found[link.state] += 1
        return found

    def worst_first(self) -> list[LinkStatus]:
        """The links, first those that most need a look."""
        return sorted(self.links, key=lambda link: (link.healthy, STATES.index(link.state)))

    @property
    def healthy(self) -> bool:
        """Whether all is known, no link is unhealthy, and the peers list is not too old."""
        too_old = self.peers is not None and self.peers.too_old
        return not self.problem and not too_old and all(link.healthy for link in self.links)


class Seen(Struct, frozen=True, kw_only=True):
    """All that a status is made of.

    ``failures`` are the links that could not be made, each with the reason; None if only the
    journal knows. ``peers`` has the names of the registry's peers by public key, "" for a peer
    without one; None if it cannot be read. ``neighbours`` are babeld's, None if it did not answer.
    ``last`` is the last run in the journal; ``problem`` and ``waiting`` are as in Status.
    """

    observation: Observation
    known: LastKnown
    scope: Scope
    peers: Mapping[str, str] | None = None
    failures: Mapping[str, str] | None = None
    neighbours: Iterable[BabelNeighbour] | None = None
    list_age: PeersAge | None = None
    last: RunRecord | None = None
    problem: str = ""
    waiting: tuple[str, ...] = ()


def status_of(seen: Seen) -> Status:
    """What there is to say of the links. Total: whatever is given, each link is there just once."""
    held, known = holdings(seen.observation, seen.known, seen.scope), seen.known
    tried = _failed_to_make(seen.last, seen.peers)
    failures = seen.failures
    if failures is None:
        failures = {name: why for name, (_, why) in tried.items()}
    failed = {name: why for name, why in failures.items() if name not in held.links}
    failed |= held.unknown
    last = {name: link for name, (link, _) in tried.items()}
    last |= {**known.leftover_links, **known.topology.links}
    removed = {event.name for event in known.leftover if isinstance(event, LinkRemoved)}
    wanted = (known.topology.links.keys() - removed) | known.leftover_links.keys()
    look = _Look(seen.observation.now, seen.peers or {}, _by_interface(seen.neighbours or ()))
    return Status(
        now=seen.observation.now,
        links=tuple(
            look.link(name, held.links.get(name), last.get(name), failed.get(name, ""))
            for name in sorted({*held.links, *wanted, *failed})
        ),
        peers=seen.list_age,
        last_change=_last_change(seen.last, seen.observation.now),
        babeld=seen.neighbours is not None,
        problem=seen.problem,
        waiting=seen.waiting,
    )


def peers_age(confirmed_at: int | None, now: int, most: int | None) -> PeersAge:
    """The age of a list that a server confirmed then; all in nanoseconds, None for never.

    With ``most``, a list of more than that age is too old, and so is one of unknown age.
    """
    age = None if confirmed_at is None else age_of(confirmed_at, now)
    too_old = most is not None and (age is None or age > most)
    return PeersAge(None if age is None else age // SECOND, too_old)


class Rates(Struct, frozen=True):
    """Bytes a second that a link has received and sent of late."""

    received: float
    sent: float


def rates(before: Status, after: Status, seconds: float) -> dict[str, Rates]:
    """The rates between two looks, so many seconds apart, of links that were there all the time.

    A link whose counters went back was made again.
    """
    found: dict[str, Rates] = {}
    earlier = {link.name: link for link in before.links}
    for link in after.links if seconds > 0 else ():
        was = earlier.get(link.name)
        if was is None or was.public_key != link.public_key:
            continue
        received, sent = link.received - was.received, link.sent - was.sent
        if received >= 0 and sent >= 0:
            found[link.name] = Rates(received / seconds, sent / seconds)
    return found


class _Look(Struct, frozen=True):
    """What a link is seen with: the present, the names of peers, and babeld's neighbours."""

    now: int
    peers: Mapping[str, str]
    neighbours: Mapping[str, BabelNeighbour]

    def link(
        self, name: str, seen: ObservedLink | None, last: Link | None, failed: str
    ) -> LinkStatus:
        """One link: as it is seen, and as rait last made it or was to make it."""
        made = next(iter(last.peers), None) if last is not None else None
        there = _peer_of(seen, made)
        peer = there or made
        key = peer.public_key if peer is not None else ""
        handshake = seen.handshakes.get(key, 0) if seen is not None else 0
        received = seen.received.get(key, 0) if seen is not None else 0
        state, why = self._state(failed, seen, there, handshake)
        reachable = peer is not None and (peer.endpoint is not None or received or handshake)
        return LinkStatus(
            name=name,
            state=state,
            healthy=state == "live" or (state in ("stale", "never") and not reachable),
            peer=self.peers.get(key, "") or (last.notes.peer_name if last is not None else ""),
            public_key=key,
            endpoint=peer.endpoint if peer is not None else None,
            endpoint_is=_endpoint_is(peer, made),
            handshake=handshake,
            age=self._age(handshake),
            received=received,
            sent=seen.sent.get(key, 0) if seen is not None else 0,
            babel=self.neighbours.get(name),
            why=why,
        )

    def _state(
        self, failed: str, seen: ObservedLink | None, there: LinkPeer | None, handshake: int
    ) -> tuple[State, str]:
        """The state of a link, and more about one that is failed or missing."""
        if failed:
            return "failed", failed
        if seen is None:
            return "missing", "there is no such interface"
        if seen.dead:
            return "failed", "its UDP socket is gone, with the network namespace that it was in"
        if seen.renamed:
            return "failed", "somebody renamed it, and its program listens under the former name"
        if there is None:
            return "missing", "it has lost its peer"
        if not seen.link.settings.up:
            return "failed", "somebody set it down; `rait up` sets it up again"
        if is_fresh(self.now, handshake):
            return "live", ""
        return "stale" if handshake > 0 else "never", ""

    def _age(self, handshake: int) -> int | None:
        if handshake <= 0 or handshake - self.now > REJECT_AFTER_SECONDS:
            return None
        return max(self.now - handshake, 0)


def _peer_of(seen: ObservedLink | None, made: LinkPeer | None) -> LinkPeer | None:
    """The peer that a link has now: the one that rait gave it, else its first."""
    if seen is None:
        return None
    if made is None:
        return next(iter(seen.link.peers), None)
    return seen.link.peer(made.public_key)


def _endpoint_is(peer: LinkPeer | None, made: LinkPeer | None) -> EndpointIs | None:
    if peer is None:
        return None
    if peer.endpoint is None:
        return "waiting"
    if made is None:
        return None
    return "configured" if peer.endpoint == made.endpoint else "roamed"


def _by_interface(neighbours: Iterable[BabelNeighbour]) -> dict[str, BabelNeighbour]:
    """The best neighbour on each interface: an old one lingers for a while after a restart."""
    ranked = sorted(neighbours, key=lambda each: (-each.cost, each.reach, each.address))
    return {neighbour.interface: neighbour for neighbour in ranked}


def _failed_to_make(
    last: RunRecord | None, peers: Container[str] | None
) -> dict[str, tuple[Link, str]]:
    """The links that the last run failed to make, with the reason, unless the peer has gone since.

    A run that has nothing to do, as the peer is not in the list any more, is not in the journal.
    """
    if last is None:
        return {}
    return {
        event.name: (event.link, outcome.error)
        for outcome in last.outcomes.values()
        if outcome.error is not None
        and isinstance(event := last.intended[outcome.index], LinkAdded)
        and (peers is None or any(peer.public_key in peers for peer in event.link.peers))
    }


def _last_change(last: RunRecord | None, now: int) -> LastChange | None:
    if last is None:
        return None
    header, read = last.header, last.repeated or last.header
    repeated = last.repeated or Repeated()
    at = (repeated.until or last.finished_at or header.started_at) // SECOND
    return LastChange(
        run=last.id,
        command=header.command,
        at=at,
        age=max(now - at, 0),
        outcome=last.status or "unfinished",
        cause=header.cause,
        repeated=repeated.count,
        source=read.source,
        revision=read.revision,
        peers_digest=read.peers_digest,
        signed=header.signed,
    )

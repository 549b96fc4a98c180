"""What is ours of all that was observed, and what of it to leave alone.

``diff`` is strict: it would write whatever differs. Some differences are not to be written: an
endpoint that the kernel learned by roaming, a port that the kernel chose, a link-local address
that was there already. ``reconcile`` turns observation and plan into two topologies that differ in
just what should be written.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence

from msgspec import Struct, structs

from rait.domain.backend import Observation, ObservedLink, UnreadLink
from rait.domain.config.schema import PRIVATE_GROUPS
from rait.domain.endpoints import NO_NAMES, Names, assumed_last, endpoint_views, is_fresh
from rait.domain.errors import Problem
from rait.domain.events import Event, LinkAdded, LinkRemoved
from rait.domain.history import LastKnown
from rait.domain.topology import ANYWHERE, Device, Endpoint, Link, LinkPeer, Origin, Topology
from rait.domain.vrf import isolation_of, reconcile_isolation


class Scope(Struct, frozen=True, kw_only=True):
    """Which links are this node's: those in its ifgroup in its target namespace, with its key.

    Several configurations may share the group and the namespace, so ``claimed`` names the links
    that the journal knows to be another one's, each with that configuration. ``public_key`` is ""
    where nobody asked for the private key.
    """

    public_key: str
    netns: str
    ifgroup: int
    claimed: Mapping[str, str] = {}


class Stranger(Struct, frozen=True):
    """A WireGuard link where ours are that is not ours, and why not.

    ``claimed`` tells that the journal knows whose it is.
    """

    link: str
    why: str
    claimed: bool


class Settled(Struct, frozen=True):
    """``observed`` is what there is of ours, ``desired`` what should be, ``problems`` what cannot.

    An error that is of no link means that nothing at all may be touched. ``strangers`` are the
    links that look like ours, and are left alone.
    """

    observed: Topology
    desired: Topology
    problems: tuple[Problem, ...] = ()
    strangers: tuple[Stranger, ...] = ()


def reconcile(
    observation: Observation,
    desired: Topology,
    memory: LastKnown,
    scope: Scope,
    names: Names = NO_NAMES,
) -> Settled:
    """Compare what is with what should be, and let stand what stands well.

    The rules: a port left to the kernel is whatever it is. A link-local address that is there is
    kept. An endpoint differs only where the wanted one is not the one last applied, or where no
    handshake was made for REJECT_AFTER_SECONDS and the kernel's is not the wanted one; of the
    links in ``names`` it is left alone longer, see endpoint_views. A link of
    ours that could not be read is as it is remembered, and stays so. babeld's interfaces are left
    as they are remembered: only babeld itself can say more.
    """
    unread = unread_of_ours(observation, memory, scope)
    ours, twice = _ours(observation, memory, scope, unread)
    unread |= twice
    strangers = strangers_among(observation, memory, scope)
    foreign = {stranger.link: stranger.why for stranger in strangers}
    movable = {name: link for name, link in desired.links.items() if name not in unread}
    occupied = _occupied(movable, ours, observation, foreign)
    problems = (*occupied, *(_unread(name, why) for name, why in unread.items()))
    impossible = {problem.link for problem in problems}
    before = {n: link for n, link in memory.topology.links.items() if n in unread}
    after = {name: link for name, link in desired.links.items() if name not in impossible}
    after |= before
    wanted_ports = {link.device.listen_port: name for name, link in after.items()}
    for name, observed in ours.items():
        known = _remembered(name, observed, memory)
        wanted = after.get(name)
        pending = memory.leftover_links.get(name)
        view, goal = _views(
            observed, wanted, known, pending, observation.now, wanted_ports, names.get(name)
        )
        before[name] = view
        if goal is not None:
            after[name] = goal
        elif name in impossible:
            after[name] = view  # it is elsewhere, and cannot come here
    babel = memory.topology.babel
    isolation = reconcile_isolation(observation, desired, memory, after, before)
    was, goes = isolation.observed, isolation.desired
    if unread:
        staying = [link for name, link in before.items() if name in unread]
        became = structs.replace(desired, vrfs=goes.vrfs, rules=goes.rules)
        goes = isolation_of(staying, Topology(vrfs=was.vrfs, rules=was.rules), became)
    return Settled(
        Topology(before, babel, was.vrfs, was.rules),
        Topology(after, babel, goes.vrfs, goes.rules),
        (*isolation.problems, *problems),
        strangers,
    )


def _lost(observation: Observation, memory: LastKnown) -> Iterator[Link]:
    """The links that are, or may be, in a namespace that could not be looked at."""
    for source in (memory.leftover_links, memory.topology.links):
        for name, link in source.items():
            if link.origin.instance in observation.lost and not _was_remade(
                name, observation, memory
            ):
                yield link


def _was_remade(name: str, observation: Observation, memory: LastKnown) -> bool:
    """Whether a run that was cut off had made the link anew, in a place that can be looked at.

    Then it had removed the former one before.
    """
    new = memory.leftover_links.get(name)
    if new is None or not any(
        isinstance(e, LinkRemoved) and e.name == name for e in memory.leftover
    ):
        return False
    return any(_are_in_one_place(seen.link, new) for seen in observation.named(name))


def _ours(
    observation: Observation, memory: LastKnown, scope: Scope, unread: Collection[str]
) -> tuple[dict[str, ObservedLink], dict[str, str]]:
    """Our links by name, and the names that two of ours have, with what to do about that."""
    ours: dict[str, ObservedLink] = {}
    twice: dict[str, str] = {}
    for seen in (*observation.links.values(), *observation.doubles):
        name = seen.link.name
        if name in unread or not is_ours(seen, memory, scope):
            continue
        if name in ours:
            places = sorted(each.link.origin.instance for each in (ours[name], seen))
            twice[name] = (
                f"there are two links of this name, in the namespaces {' and '.join(places)}: "
                "remove the one that is not in the target"
            )
        ours.setdefault(name, seen)
    return {name: seen for name, seen in ours.items() if name not in twice}, twice


def is_ours(observed: ObservedLink, memory: LastKnown, scope: Scope) -> bool:
    """Whether a WireGuard link may be touched.

    It is where ours are, and it is remembered, or has a key that is or was ours; and it is not
    known to be another configuration's.
    """
    return _is_among_ours(observed, memory, scope) and not _why_not_ours(observed, memory, scope)


def strangers_among(
    observation: Observation, memory: LastKnown, scope: Scope
) -> tuple[Stranger, ...]:
    """The links that are where ours are, and are not ours."""
    found = (
        Stranger(name, _why_not_ours(seen, memory, scope), name in scope.claimed)
        for name, seen in sorted(observation.links.items())
        if _is_among_ours(seen, memory, scope)
    )
    return tuple(stranger for stranger in found if stranger.why)


def doubtful(observation: Observation, memory: LastKnown, scope: Scope) -> dict[str, str]:
    """The links that another configuration may have made, for all that our own memory says.

    In nearly all runs there are none. Of these the rest of the journal has to be asked. Each is
    told with the instance of the namespace in which it is, "" where that is not known, or where
    there are several of the name.
    """
    known = memory.topology.links
    found: dict[str, str] = {}
    for seen in (*observation.links.values(), *observation.doubles):
        name, instance = seen.link.name, seen.link.origin.instance
        if (
            not _is_as_made(seen.link, known.get(name))
            and _is_among_ours(seen, memory, scope)
            and not _is_remembered(seen, memory, scope)
        ):
            found[name] = instance if name not in found else ""
    for name, unread in observation.unread.items():
        if name not in known and _may_be_ours(name, unread, memory, scope):
            found[name] = ""
    return found


def _is_as_made(link: Link, known: Link | None) -> bool:
    """Whether we made it, and it has its key: true of nearly all links in nearly all runs."""
    return (
        known is not None
        and known.device.public_key == link.device.public_key != ""
        and _is_in_place(link, known)
    )


def _is_remembered(observed: ObservedLink, memory: LastKnown, scope: Scope) -> bool:
    """Whether we made a link of this name here, and it has a key that we gave it.

    Without a key it may be what another configuration left half made under a name that was ours.
    """
    link, key = observed.link, observed.link.device.public_key
    known = _known_as(link, memory) if key else ()
    return any(
        key in (each.device.public_key, scope.public_key) and _is_in_place(link, each)
        for each in known
    )


def _is_in_place(link: Link, known: Link) -> bool:
    """Whether a link is where the one that we know was made, as far as we know where that is."""
    here, there = link.origin, known.origin
    return here.netns == there.netns and there.instance in ("", here.instance)


def _known_as(link: Link, memory: LastKnown) -> list[Link]:
    sources = (memory.topology.links, memory.leftover_links)
    found = (known for source in sources if (known := source.get(link.name)) is not None)
    return [known for known in found if known.origin.netns == link.origin.netns]


def _why_not_ours(observed: ObservedLink, memory: LastKnown, scope: Scope) -> str:
    """Why a link that is where ours are is not ours; "" if it is."""
    link = observed.link
    claimant = scope.claimed.get(link.name)
    # Of several links of one name, the claim is not on the one that we made.
    if claimant is not None and not _is_remembered(observed, memory, scope):
        return f"made by another configuration, {claimant}, according to the journal"
    if scope.public_key in ("", link.device.public_key) or _known_as(link, memory):
        return ""
    known = (*memory.topology.links.values(), *memory.leftover_links.values())
    if any(link.device.public_key == each.device.public_key != "" for each in known):
        return ""
    key = link.device.public_key
    if not key:
        return "without a key, and the journal does not say that this configuration made it"
    return f"public key {key} is neither this node's key nor a former one in the journal"


def _is_among_ours(observed: ObservedLink, memory: LastKnown, scope: Scope) -> bool:
    """Whether a link is in our group in our target, or was when we made it."""
    link = observed.link
    if link.origin.netns == scope.netns and link.settings.group == scope.ifgroup:
        return True
    leaving = link.settings.group >= PRIVATE_GROUPS
    if leaving and link.origin.netns == scope.netns and link.device.public_key == scope.public_key:
        return True
    return any(
        known.origin.netns == link.origin.netns
        and (leaving or link.settings.group == known.settings.group)
        and link.device.public_key in ("", known.device.public_key, scope.public_key)
        for source in (memory.topology.links, memory.leftover_links)
        if (known := source.get(link.name)) is not None
    )


def unread_of_ours(observation: Observation, memory: LastKnown, scope: Scope) -> dict[str, str]:
    """The links that are ours as far as one can tell without reading them, and why one cannot."""
    return {
        name: unread.why
        for name, unread in observation.unread.items()
        if name not in scope.claimed and _may_be_ours(name, unread, memory, scope)
    } | {link.name: observation.lost[link.origin.instance] for link in _lost(observation, memory)}


def _may_be_ours(name: str, unread: UnreadLink, memory: LastKnown, scope: Scope) -> bool:
    if unread.netns == scope.netns and unread.group == scope.ifgroup:
        return True
    return any(
        known.origin.netns == unread.netns and known.settings.group == unread.group
        for source in (memory.topology.links, memory.leftover_links)
        if (known := source.get(name)) is not None
    )


def _unread(name: str, why: str) -> Problem:
    return Problem(f"it cannot be read, so it is left as it is: {why}", "error", (), name)


def _remembered(name: str, observed: ObservedLink, memory: LastKnown) -> Link | None:
    """What we last knew of this very link, if it is the same one."""
    known = memory.topology.links.get(name)
    if known is None or known.origin.netns != observed.link.origin.netns:
        return None
    if known.origin.instance not in ("", observed.link.origin.instance):
        return None
    if known.origin.backend != observed.link.origin.backend:
        return None
    return known


def _occupied(
    wanted: Mapping[str, Link],
    ours: Mapping[str, ObservedLink],
    observation: Observation,
    strangers: Mapping[str, str],
) -> list[Problem]:
    problems = []
    for name, link in wanted.items():
        if name in ours and _are_in_one_place(ours[name].link, link):
            continue
        kind = observation.others.get(name)
        foreign = observation.links.get(name)
        if foreign is not None and not _are_in_one_place(foreign.link, link):
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
        problems.append(Problem(f"{text}, or use another ifprefix", "error", (), name))
    return problems


def _are_in_one_place(one: Link, other: Link) -> bool:
    return (one.origin.netns, one.origin.instance) == (other.origin.netns, other.origin.instance)


def _views(
    observed: ObservedLink,
    wanted: Link | None,
    known: Link | None,
    pending: Link | None,
    now: int,
    wanted_ports: Mapping[int, str],
    resolved: bool | None,
) -> tuple[Link, Link | None]:
    """The link as diff shall see it, and what it shall become (None: it goes)."""
    link = observed.link
    if wanted is not None and wanted == known and pending is None and _is_as(link, wanted):
        return wanted, wanted  # as nearly all links are in nearly all runs
    origin = _origin(link.origin, wanted, known, pending)
    if observed.renamed:
        origin = structs.replace(origin, transit="")  # so that it is made again
    device = _device(link, wanted, known, wanted_ports)
    before_peers, after_peers = [], []
    wanted_peers = {peer.public_key: peer for peer in wanted.peers} if wanted else {}
    for peer in link.peers:
        last = known.peer(peer.public_key) if known else None
        goal = wanted_peers.pop(peer.public_key, None)
        fresh = is_fresh(now, observed.handshakes.get(peer.public_key, 0))
        seen, goal = _peer_views(peer, goal, last, fresh, resolved)
        before_peers.append(seen)
        if goal is not None:
            after_peers.append(goal)
    before = structs.replace(link, origin=origin, device=device, peers=tuple(before_peers))
    if wanted is None:
        return before, None
    if origin != wanted.origin:
        return before, _heir(link, wanted, resolved)
    after_peers += wanted_peers.values()
    after_peers.sort(key=_public_key)
    settings = wanted.settings
    if link.settings.address is not None:
        settings = structs.replace(settings, address=link.settings.address)
    return before, structs.replace(wanted, settings=settings, peers=tuple(after_peers))


def _is_as(seen: Link, wanted: Link) -> bool:
    """Whether all that can be seen of a link is as wanted; not every machine shows its transit."""
    origin = seen.origin
    return (
        seen.settings == wanted.settings
        and seen.device == wanted.device
        and seen.peers == wanted.peers
        and origin.backend == wanted.origin.backend
        and origin.netns == wanted.origin.netns
        and origin.instance == wanted.origin.instance
        and origin.transit in ("", wanted.origin.transit)
    )


def _heir(link: Link, wanted: Link, resolved: bool | None) -> Link:
    """The link that takes the place of another, with its endpoint where no better one is known."""
    peers = tuple(
        _with_endpoint(peer, old.endpoint)
        if (peer.endpoint is None or resolved is False)
        and (old := link.peer(peer.public_key)) is not None
        and old.endpoint is not None
        else peer
        for peer in wanted.peers
    )
    return structs.replace(wanted, peers=peers)


def _origin(seen: Origin, wanted: Link | None, known: Link | None, pending: Link | None) -> Origin:
    """Where the machine cannot tell the transit namespace, the journal does, else the plan.

    After a run that was cut off while it remade the link in another transit namespace, nobody
    can tell which of the two this is: then it stays unknown, so that the link is made again.
    """
    if seen.transit:
        return seen
    told = [source.origin for source in (known, pending) if source is not None]
    if not told and wanted is not None:
        told = [wanted.origin]
    transits = {origin.transit for origin in told if origin.backend == seen.backend}
    return structs.replace(seen, transit=transits.pop()) if len(transits) == 1 else seen


def _device(
    link: Link, wanted: Link | None, known: Link | None, wanted_ports: Mapping[int, str]
) -> Device:
    """The device, with port 0 for a port that the kernel chose and nobody else wants."""
    device = link.device
    if wanted_ports.get(device.listen_port, link.name) != link.name:
        return device
    dynamic = known is not None and known.device.listen_port == 0
    if wanted is not None:
        static = known is not None and known.device.listen_port == device.listen_port
        if wanted.device.listen_port == 0:
            dynamic = not static
        else:
            # To give it a port of its own is our doing; that the kernel had chosen one is nobody's.
            dynamic = dynamic and device.listen_port != wanted.device.listen_port
    return structs.replace(device, listen_port=0) if dynamic else device


def _peer_views(
    seen: LinkPeer,
    wanted: LinkPeer | None,
    known: LinkPeer | None,
    fresh: bool,
    resolved: bool | None,
) -> tuple[LinkPeer, LinkPeer | None]:
    endpoint, allowed = seen.endpoint, seen.allowed_ips
    # The order in which the machine tells allowed IPs is its own.
    for told in (ANYWHERE, *(peer.allowed_ips for peer in (known, wanted) if peer is not None)):
        if set(allowed) == set(told):
            allowed = told
    if wanted is None:
        if known is not None:
            endpoint = known.endpoint
        return structs.replace(seen, endpoint=endpoint, allowed_ips=allowed), None
    if known is not None:
        last = known.endpoint
    else:
        last = assumed_last(endpoint, wanted.endpoint, resolved)
    before, after = endpoint_views(endpoint, wanted.endpoint, last, fresh=fresh, resolved=resolved)
    seen = structs.replace(seen, endpoint=before, allowed_ips=allowed)
    return seen, _with_endpoint(wanted, after)


def _with_endpoint(peer: LinkPeer, endpoint: Endpoint | None) -> LinkPeer:
    return peer if peer.endpoint == endpoint else structs.replace(peer, endpoint=endpoint)


def _public_key(peer: LinkPeer) -> str:
    return peer.public_key


def placed(
    settled: Settled, events: Sequence[Event], instances: Mapping[str, str]
) -> tuple[Settled, tuple[Event, ...]]:
    """What is to be, and to be done, with new links in the instances that their namespaces have.

    ``instances`` are by spelling. Before, those of namespaces that were still to be made were not
    known.
    """
    links = dict(settled.desired.links)
    found: list[Event] = []
    for event in events:
        if isinstance(event, LinkAdded) and not event.link.origin.instance:
            instance = instances[event.link.origin.netns]
            event = LinkAdded(_in_instance(event.link, instance))
            links[event.name] = _in_instance(links[event.name], instance)
        found.append(event)
    after = structs.replace(settled.desired, links=links)
    return structs.replace(settled, desired=after), tuple(found)


def _in_instance(link: Link, instance: str) -> Link:
    return structs.replace(link, origin=structs.replace(link.origin, instance=instance))

"""Facts about a topology, and what each does to it.

The rules of this module:

1. An event is a past-tense fact and holds all that is needed to apply it and to take it back.
2. No event holds a private key.
3. ``replay`` is the only way from one topology to another; ``evolve`` is a replay of one.
4. Applying an event to a topology it does not fit is an error, never a guess.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from msgspec import Struct, structs

from rait.domain.errors import RaitError
from rait.domain.topology import Device, Link, LinkPeer, LinkSettings, Rule, Topology


class _Event(Struct, frozen=True, tag=True, gc=False):
    pass


class LinkAdded(_Event, frozen=True, gc=False):
    """A link came to be, with all its peers.

    In journals of before, it has none, and a PeerAdded follows for each.
    """

    link: Link

    @property
    def name(self) -> str:
        return self.link.name


class LinkRemoved(_Event, frozen=True, gc=False):
    """A link went, with all its peers."""

    link: Link

    @property
    def name(self) -> str:
        return self.link.name


class LinkUpdated(_Event, frozen=True, gc=False):
    """An interface's settings changed."""

    name: str
    before: LinkSettings
    after: LinkSettings


class LinkPlaced(_Event, frozen=True, gc=False):
    """It became known in which instance of its target namespace a link lives (see Origin)."""

    name: str
    before: str
    after: str


class DeviceUpdated(_Event, frozen=True, gc=False):
    """A WireGuard device's key, listen port or fwmark changed."""

    name: str
    before: Device
    after: Device


class PeerAdded(_Event, frozen=True, gc=False):
    """A link got a peer."""

    name: str
    peer: LinkPeer


class PeerRemoved(_Event, frozen=True, gc=False):
    """A link lost a peer."""

    name: str
    peer: LinkPeer


class PeerUpdated(_Event, frozen=True, gc=False):
    """A peer's endpoint, keepalive, allowed IPs or preshared key changed."""

    name: str
    before: LinkPeer
    after: LinkPeer


class BabelInterfaceAdded(_Event, frozen=True, gc=False):
    """babeld was told to speak on an interface, with these parameters."""

    name: str
    param: str


class BabelInterfaceFlushed(_Event, frozen=True, gc=False):
    """babeld was told to forget an interface, which it had with these parameters."""

    name: str
    param: str


class VrfAdded(_Event, frozen=True, gc=False):
    """A VRF interface came to be, with its routing table."""

    name: str
    table: int


class VrfRemoved(_Event, frozen=True, gc=False):
    """A VRF interface that rait had made went."""

    name: str
    table: int


class RuleAdded(_Event, frozen=True, gc=False):
    """A policy routing rule came to be."""

    rule: Rule

    @property
    def name(self) -> str:
        return self.rule.name


class RuleRemoved(_Event, frozen=True, gc=False):
    """A policy routing rule that rait had made went."""

    rule: Rule

    @property
    def name(self) -> str:
        return self.rule.name


ToBabeld = BabelInterfaceAdded | BabelInterfaceFlushed
IsolationEvent = VrfAdded | VrfRemoved | RuleAdded | RuleRemoved

Event = (
    LinkAdded
    | LinkRemoved
    | LinkUpdated
    | LinkPlaced
    | DeviceUpdated
    | PeerAdded
    | PeerRemoved
    | PeerUpdated
    | BabelInterfaceAdded
    | BabelInterfaceFlushed
    | VrfAdded
    | VrfRemoved
    | RuleAdded
    | RuleRemoved
)


class MismatchError(RaitError):
    """An event does not fit the topology that it is applied to."""


def replay(topology: Topology, events: Iterable[Event]) -> Topology:
    """Fold the events, in order, into the topology.

    Raises MismatchError where an event's own idea of the state before it is wrong.
    """
    links = dict(topology.links)
    babel = dict(topology.babel)
    vrfs = dict(topology.vrfs)
    rules = dict(topology.rules)
    for event in events:
        if isinstance(event, (BabelInterfaceAdded, BabelInterfaceFlushed)):
            _apply_to_babel(babel, event)
        elif isinstance(event, (VrfAdded, VrfRemoved)):
            _apply_to_vrfs(vrfs, event)
        elif isinstance(event, (RuleAdded, RuleRemoved)):
            _apply_to_rules(rules, event)
        else:
            _apply_to_links(links, event)
    return Topology(links, babel, vrfs, rules)


def evolve(topology: Topology, event: Event) -> Topology:
    """The topology after one event. Raises MismatchError as ``replay`` does."""
    return replay(topology, (event,))


def invert(event: Event) -> Event:
    """The event that takes this one back."""
    match event:
        case LinkAdded(link):
            return LinkRemoved(link)
        case LinkRemoved(link):
            return LinkAdded(link)
        case LinkUpdated(name, before, after):
            return LinkUpdated(name, after, before)
        case LinkPlaced(name, instance_before, instance_after):
            return LinkPlaced(name, instance_after, instance_before)
        case DeviceUpdated(name, device_before, device_after):
            return DeviceUpdated(name, device_after, device_before)
        case PeerAdded(name, peer):
            return PeerRemoved(name, peer)
        case PeerRemoved(name, peer):
            return PeerAdded(name, peer)
        case PeerUpdated(name, peer_before, peer_after):
            return PeerUpdated(name, peer_after, peer_before)
        case BabelInterfaceAdded(name, param):
            return BabelInterfaceFlushed(name, param)
        case BabelInterfaceFlushed(name, param):
            return BabelInterfaceAdded(name, param)
        case VrfAdded(name, table):
            return VrfRemoved(name, table)
        case VrfRemoved(name, table):
            return VrfAdded(name, table)
        case RuleAdded(rule):
            return RuleRemoved(rule)
        case RuleRemoved(rule):
            return RuleAdded(rule)


def inverted(events: Sequence[Event]) -> tuple[Event, ...]:
    """The events that take all of these back, in the order in which they must happen."""
    return tuple(invert(event) for event in reversed(events))


def may_be_half_done(event: Event) -> bool:
    """Whether something of the event may be there although it failed.

    A VRF and a rule are each made by one request, which the kernel carries out whole or not at
    all. So one that is there after that failed is somebody else's.
    """
    return not isinstance(event, VrfAdded | RuleAdded)


def peers_named(event: Event) -> frozenset[str]:
    """The public keys of the peers that an event is about."""
    match event:
        case LinkAdded(link) | LinkRemoved(link):
            return frozenset(peer.public_key for peer in link.peers)
        case PeerAdded(_, peer) | PeerRemoved(_, peer):
            return frozenset((peer.public_key,))
        case PeerUpdated(_, before, _):
            return frozenset((before.public_key,))
        case _:
            return frozenset()


def _apply_to_links(
    links: dict[str, Link],
    event: LinkAdded
    | LinkRemoved
    | LinkUpdated
    | LinkPlaced
    | DeviceUpdated
    | PeerAdded
    | PeerRemoved
    | PeerUpdated,
) -> None:
    name = event.name
    link = links.get(name)
    if isinstance(event, LinkAdded):
        if link is not None:
            raise MismatchError(f"link {name} was added, but it is already there")
        links[name] = event.link
        return
    if link is None:
        raise MismatchError(f"{type(event).__name__} for link {name}, which is not there")
    if isinstance(event, LinkRemoved):
        _expect(link == event.link, event)
        del links[name]
    elif isinstance(event, LinkUpdated):
        _expect(link.settings == event.before, event)
        links[name] = structs.replace(link, settings=event.after)
    elif isinstance(event, LinkPlaced):
        _expect(link.origin.instance == event.before, event)
        origin = structs.replace(link.origin, instance=event.after)
        links[name] = structs.replace(link, origin=origin)
    elif isinstance(event, DeviceUpdated):
        _expect(link.device == event.before, event)
        links[name] = structs.replace(link, device=event.after)
    else:
        links[name] = structs.replace(link, peers=_peers_after(link, event))


def _peers_after(link: Link, event: PeerAdded | PeerRemoved | PeerUpdated) -> tuple[LinkPeer, ...]:
    peers = {peer.public_key: peer for peer in link.peers}
    if isinstance(event, PeerAdded):
        _expect(event.peer.public_key not in peers, event)
        peers[event.peer.public_key] = event.peer
    elif isinstance(event, PeerRemoved):
        _expect(peers.get(event.peer.public_key) == event.peer, event)
        del peers[event.peer.public_key]
    else:
        _expect(peers.get(event.before.public_key) == event.before, event)
        _expect(event.after.public_key == event.before.public_key, event)
        peers[event.after.public_key] = event.after
    return tuple(peers[key] for key in sorted(peers))


def _apply_to_babel(
    babel: dict[str, str], event: BabelInterfaceAdded | BabelInterfaceFlushed
) -> None:
    if isinstance(event, BabelInterfaceAdded):
        _expect(event.name not in babel, event)
        babel[event.name] = event.param
    else:
        _expect(babel.get(event.name) == event.param, event)
        del babel[event.name]


def _apply_to_vrfs(vrfs: dict[str, int], event: VrfAdded | VrfRemoved) -> None:
    if isinstance(event, VrfAdded):
        _expect(event.name not in vrfs, event)
        vrfs[event.name] = event.table
    else:
        _expect(vrfs.get(event.name) == event.table, event)
        del vrfs[event.name]


def _apply_to_rules(rules: dict[str, Rule], event: RuleAdded | RuleRemoved) -> None:
    if isinstance(event, RuleAdded):
        _expect(event.name not in rules, event)
        rules[event.name] = event.rule
    else:
        _expect(rules.get(event.name) == event.rule, event)
        del rules[event.name]


def _expect(fits: bool, event: Event) -> None:
    if not fits:
        raise MismatchError(f"{type(event).__name__} for {event.name} does not fit its state")

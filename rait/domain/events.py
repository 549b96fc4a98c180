"""Facts about a topology, and what each does to it.

The rules of this module:

1. An event is a past-tense fact and holds all that is needed to apply it and to take it back.
2. No event holds a private key.
3. ``replay`` is the only way from one topology to another; ``evolve`` is a replay of one.
4. Applying an event to a topology it does not fit is an error, never a guess.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal, TypeVar

from msgspec import Struct, structs

from rait.domain.errors import RaitError
from rait.domain.topology import (
    U32,
    Device,
    Link,
    LinkNotes,
    LinkPeer,
    LinkSettings,
    Rule,
    Topology,
)

S = TypeVar("S", bound=Struct)


class _Event(Struct, frozen=True, tag=True, gc=False):
    pass


class _OfLink(_Event, frozen=True, gc=False):
    link: Link

    @property
    def name(self) -> str:
        return self.link.name


class LinkAdded(_OfLink, frozen=True, gc=False):
    """A link came to be, with all its peers.

    Journals of earlier versions have the link without peers, and then a PeerAdded for each.
    """


class LinkRemoved(_OfLink, frozen=True, gc=False):
    """A link went, with all its peers."""


class LinkUpdated(_Event, frozen=True, gc=False):
    """An interface's settings changed."""

    name: str
    before: LinkSettings
    after: LinkSettings


class LinkPlaced(_Event, frozen=True, gc=False):
    """The instance of the namespace in which a link lives became known (see Origin)."""

    name: str
    before: str
    after: str


class NotesUpdated(_Event, frozen=True, gc=False):
    """What is remembered of a link changed; the machine does not show it."""

    name: str
    before: LinkNotes
    after: LinkNotes


class DeviceUpdated(_Event, frozen=True, gc=False):
    """A WireGuard device's key, listen port or fwmark changed."""

    name: str
    before: Device
    after: Device


class _OfPeer(_Event, frozen=True, gc=False):
    name: str
    peer: LinkPeer


class PeerAdded(_OfPeer, frozen=True, gc=False):
    """A link got a peer."""


class PeerRemoved(_OfPeer, frozen=True, gc=False):
    """A link lost a peer."""


class PeerUpdated(_Event, frozen=True, gc=False):
    """A peer's endpoint, keepalive, allowed IPs or preshared key changed."""

    name: str
    before: LinkPeer
    after: LinkPeer


class ToBabeld(_Event, frozen=True, gc=False):
    """An interface of babeld's was added or flushed; ``param`` are its parameters."""

    name: str
    param: str


class BabelInterfaceAdded(ToBabeld, frozen=True, gc=False):
    """babeld was given an interface, with these parameters."""


class BabelInterfaceFlushed(ToBabeld, frozen=True, gc=False):
    """babeld was told to forget an interface, which had these parameters."""


class _OfVrf(_Event, frozen=True, gc=False):
    name: str
    table: U32


class VrfAdded(_OfVrf, frozen=True, gc=False):
    """A VRF interface came to be, with its routing table."""


class VrfRemoved(_OfVrf, frozen=True, gc=False):
    """A VRF interface that rait had made went."""


class _OfRule(_Event, frozen=True, gc=False):
    rule: Rule

    @property
    def name(self) -> str:
        return self.rule.name


class RuleAdded(_OfRule, frozen=True, gc=False):
    """A policy routing rule came to be."""


class RuleRemoved(_OfRule, frozen=True, gc=False):
    """A policy routing rule that rait had made went."""


LinkEvent = LinkAdded | LinkRemoved | LinkUpdated | LinkPlaced | NotesUpdated | DeviceUpdated
PeerEvent = PeerAdded | PeerRemoved | PeerUpdated
IsolationEvent = VrfAdded | VrfRemoved | RuleAdded | RuleRemoved
Event = LinkEvent | PeerEvent | BabelInterfaceAdded | BabelInterfaceFlushed | IsolationEvent


Table = Literal["links", "babel", "vrfs", "rules"]
"""A field of Topology."""


class Kind(Struct, frozen=True, gc=False):
    """What the events of one type do.

    Such an event changes an entry of ``table``, or only one ``part`` of a link. ``before`` and
    ``after`` are the fields of the event that hold what was there and what is there now, None
    where nothing was or is. ``inverse`` is the type of the event that takes it back.
    """

    table: Table
    part: Literal["", "settings", "instance", "notes", "device", "peers"]
    before: str | None
    after: str | None
    inverse: type[Event]


KINDS: Mapping[type[Event], Kind] = {
    LinkAdded: Kind("links", "", None, "link", LinkRemoved),
    LinkRemoved: Kind("links", "", "link", None, LinkAdded),
    LinkUpdated: Kind("links", "settings", "before", "after", LinkUpdated),
    LinkPlaced: Kind("links", "instance", "before", "after", LinkPlaced),
    NotesUpdated: Kind("links", "notes", "before", "after", NotesUpdated),
    DeviceUpdated: Kind("links", "device", "before", "after", DeviceUpdated),
    PeerAdded: Kind("links", "peers", None, "peer", PeerRemoved),
    PeerRemoved: Kind("links", "peers", "peer", None, PeerAdded),
    PeerUpdated: Kind("links", "peers", "before", "after", PeerUpdated),
    BabelInterfaceAdded: Kind("babel", "", None, "param", BabelInterfaceFlushed),
    BabelInterfaceFlushed: Kind("babel", "", "param", None, BabelInterfaceAdded),
    VrfAdded: Kind("vrfs", "", None, "table", VrfRemoved),
    VrfRemoved: Kind("vrfs", "", "table", None, VrfAdded),
    RuleAdded: Kind("rules", "", None, "rule", RuleRemoved),
    RuleRemoved: Kind("rules", "", "rule", None, RuleAdded),
}


class MismatchError(RaitError):
    """An event does not fit the topology that it is applied to."""


def replay(topology: Topology, events: Iterable[Event]) -> Topology:
    """Fold the events, in order, into the topology.

    Raises MismatchError where an event names another state before it than there is.
    """
    tables = topology.tables()
    for event in events:
        kind = KINDS[type(event)]
        _apply(event, kind, tables[kind.table])
    return Topology(**tables)


def evolve(topology: Topology, event: Event) -> Topology:
    """The topology after one event. Raises MismatchError where the event does not fit it."""
    return replay(topology, (event,))


def invert(event: Event) -> Event:
    """The event that takes this one back."""
    fields = structs.asdict(event)
    if "before" in fields:
        fields["before"], fields["after"] = fields["after"], fields["before"]
    return KINDS[type(event)].inverse(**fields)


def inverted(events: Sequence[Event]) -> tuple[Event, ...]:
    """The events that take all of these back, in the order in which they must happen."""
    return tuple(invert(event) for event in reversed(events))


def links_added(events: Iterable[Event]) -> dict[str, Link]:
    """The links that the events make, by name."""
    return {event.name: event.link for event in events if isinstance(event, LinkAdded)}


def may_be_half_done(event: Event) -> bool:
    """Whether an event that failed may have done a part of its work.

    A VRF and a rule are each made by one request, which the kernel carries out whole or not at
    all: a VRF that is there after its event failed is somebody else's.
    """
    return not isinstance(event, VrfAdded | RuleAdded)


def peers_named(event: Event) -> frozenset[str]:
    """The public keys of the peers that an event is about."""
    match event:
        case LinkAdded(link) | LinkRemoved(link):
            return frozenset(peer.public_key for peer in link.peers)
        case PeerAdded(_, peer) | PeerRemoved(_, peer) | PeerUpdated(_, peer, _):
            return frozenset((peer.public_key,))
        case _:
            return frozenset()


def _apply(event: Event, kind: Kind, table: dict[str, Any]) -> None:
    name = event.name
    before = None if kind.before is None else getattr(event, kind.before)
    after = None if kind.after is None else getattr(event, kind.after)
    is_new = before is None and not kind.part
    if is_new == (name in table):
        what = "is already there" if is_new else "is not there"
        raise MismatchError(f"{type(event).__name__} for {name}, which {what}")
    if not kind.part:
        _replace_entry(table, name, before, after, event)
    elif kind.part == "peers":
        table[name] = _with_peer(table[name], before, after, event)
    elif kind.part == "instance":
        origin = _with_field(table[name].origin, "instance", before, after, event)
        table[name] = structs.replace(table[name], origin=origin)
    else:
        table[name] = _with_field(table[name], kind.part, before, after, event)


def _with_peer(link: Link, before: LinkPeer | None, after: LinkPeer | None, event: Event) -> Link:
    peers = {peer.public_key: peer for peer in link.peers}
    key, *others = {peer.public_key for peer in (before, after) if peer is not None}
    _expect(not others, event)
    _replace_entry(peers, key, before, after, event)
    return link.with_peers(peers)


def _replace_entry(
    entries: dict[str, Any], key: str, before: object, after: object, event: Event
) -> None:
    """Put ``after`` in the place of ``before``; None stands for no entry."""
    _expect(entries.get(key) == before, event)
    if after is None:
        del entries[key]
    else:
        entries[key] = after


def _with_field(whole: S, field: str, before: object, after: object, event: Event) -> S:
    _expect(getattr(whole, field) == before, event)
    return structs.replace(whole, **{field: after})


def _expect(fits: bool, event: Event) -> None:
    if not fits:
        raise MismatchError(f"{type(event).__name__} for {event.name} does not fit its state")

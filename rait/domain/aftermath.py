"""What the machine shows of events that failed, or whose outcome is unknown.

Most events take more than one write, so an event that fails, or whose run is killed, may be half
done: a fwmark is set and the listen port is not; a link is in the group of links on their way out
and still there. Only the machine can tell which part was done. These functions compare what the
journal knows with what is seen, and distinguish what such events did from what others did.

The rule: an event may have given a field its intended value, or a value that the field passes
through on the way there. Any other difference has another cause.

So ``told_apart`` walks from what is known to what is seen in two steps, by way of a topology
between the two. That one begins as a copy of what is known. Each leftover event may change it in
what the event is about: a field that the event was to change takes the seen value if the rule
allows it, and keeps the known value otherwise. What then differs from the known topology was done
by the events, and what differs from the seen one was done by others. An example: the journal knows
mtu 1420 and group 54, and a killed run was to set mtu 1280. Seen are mtu 1280 and group 7. The
topology between has mtu 1280 and group 54: the run set the mtu, and somebody else the group.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypeVar

from msgspec import Struct, structs

from rait.domain.config.schema import PRIVATE_GROUPS
from rait.domain.diff import diff
from rait.domain.events import (
    KINDS,
    DeviceUpdated,
    Event,
    LinkAdded,
    LinkPlaced,
    LinkRemoved,
    LinkUpdated,
    NotesUpdated,
    PeerAdded,
    PeerEvent,
    PeerRemoved,
    PeerUpdated,
    may_be_half_done,
    peers_named,
)
from rait.domain.history import LastKnown
from rait.domain.topology import Device, Link, LinkPeer, LinkSettings, Topology

T = TypeVar("T")
S = TypeVar("S", bound=Struct)


def told_apart(
    known: Topology, seen: Topology, leftover: Sequence[Event]
) -> tuple[tuple[Event, ...], tuple[Event, ...]]:
    """The events between ``known`` and ``seen``: those that are leftover, and those of others.

    The second part follows the first.
    """
    between = _with_traces(known, seen, leftover)
    return diff(known, between), diff(between, seen)


def known_after_failures(
    known: LastKnown, topology: Topology, failed: Sequence[Event]
) -> LastKnown:
    """What the journal knows after a run in which these events failed and may be half done."""
    leftover = tuple(filter(may_be_half_done, failed))
    return structs.replace(known, topology=topology).having_leftover(leftover)


def _with_traces(known: Topology, seen: Topology, events: Iterable[Event]) -> Topology:
    """The known topology, with all of the seen one that the events may have brought about."""
    tables = known.tables()
    for event in events:
        name, table = event.name, KINDS[type(event)].table
        value = getattr(seen, table).get(name)
        if table == "links":
            value = _link(event, tables[table].get(name), value)
        _put(tables[table], name, value)
    return Topology(**tables)


def _put(where: dict[str, T], name: str, value: T | None) -> None:
    if value is None:
        where.pop(name, None)
    else:
        where[name] = value


def _link(event: Event, known: Link | None, seen: Link | None) -> Link | None:
    """The seen link as far as the event may have made it so, and else the known one."""
    if isinstance(event, LinkAdded):
        # While another link of the name was there, this one was not begun.
        return seen if known is None else known
    if isinstance(event, LinkRemoved):
        return _leaving(known, seen)
    if known is None or seen is None:
        return known
    match event:
        case LinkPlaced() if known.origin.is_placed_by(seen.origin):
            return structs.replace(known, origin=seen.origin)
        case NotesUpdated() if seen.notes == event.after:
            return structs.replace(known, notes=seen.notes)
        case LinkUpdated(_, before, after):
            settings = _settings(before, after, known.settings, seen.settings)
            return structs.replace(known, settings=settings)
        case DeviceUpdated(_, old, new):
            return structs.replace(known, device=_device(old, new, known.device, seen.device))
        case PeerAdded() | PeerRemoved() | PeerUpdated():
            return known.with_peers(_peers(event, known, seen))
        case _:
            return known


def _leaving(known: Link | None, seen: Link | None) -> Link | None:
    """A link that was to go: None if it is gone, or if a link of another origin has its name."""
    if known is None or seen is None:
        return None
    if not known.origin.may_become(seen.origin):
        return None
    if seen.settings.group < PRIVATE_GROUPS:
        return known
    settings = structs.replace(known.settings, group=seen.settings.group)
    return structs.replace(known, settings=settings)


def _settings(
    before: LinkSettings, after: LinkSettings, known: LinkSettings, seen: LinkSettings
) -> LinkSettings:
    merged = _reached(before, after, known, seen)
    # To enter or leave a VRF, a link goes down and up again. A link that goes down loses its IPv6
    # addresses, and gets them back at last.
    moves = before.master != after.master
    if moves and not seen.up:
        merged = structs.replace(merged, up=False)
    bounces = moves or before.up != after.up
    if seen.address != merged.address and (bounces or before.address != after.address):
        merged = structs.replace(merged, address=None)
    # Each address comes and goes by itself.
    changed = {*before.addresses} ^ {*after.addresses}
    lost = {a for a in known.addresses if a in changed or (bounces and ":" in a)}
    addresses = {*known.addresses} - lost | {*seen.addresses} & (lost | changed)
    return structs.replace(merged, addresses=tuple(sorted(addresses)))


def _device(before: Device, after: Device, known: Device, seen: Device) -> Device:
    merged = _reached(before, after, known, seen)
    if before.listen_port != after.listen_port:
        # A change of port that fails may leave the device with any port.
        return structs.replace(merged, listen_port=seen.listen_port)
    return merged


def _peers(event: PeerEvent, known: Link, seen: Link) -> dict[str, LinkPeer]:
    (key,) = peers_named(event)
    last, there = known.peer(key), seen.peer(key)
    match event:
        case PeerAdded():
            become = there if last is None else last
        case PeerRemoved():
            become = None if there is None else last
        case PeerUpdated(_, before, after):
            become = None if last is None else _peer(before, after, last, there)
    peers = {peer.public_key: peer for peer in known.peers}
    _put(peers, key, become)
    return peers


def _peer(
    before: LinkPeer, after: LinkPeer, known: LinkPeer, seen: LinkPeer | None
) -> LinkPeer | None:
    if before.endpoint is not None and after.endpoint is None:
        return seen  # to lose its endpoint, a peer is removed and added again
    if seen is None:
        return known
    merged = _reached(before, after, known, seen)
    # Allowed IPs are replaced one after the other, so some of the new ones may be missing.
    if before.allowed_ips != after.allowed_ips and {*seen.allowed_ips} <= {*after.allowed_ips}:
        return structs.replace(merged, allowed_ips=seen.allowed_ips)
    return merged


def _reached(before: S, after: S, known: S, seen: S) -> S:
    """``known``, with each field that was to change and is seen with its intended value."""
    reached = {
        field: getattr(after, field)
        for field in before.__struct_fields__
        if getattr(before, field) != getattr(after, field) == getattr(seen, field)
    }
    return structs.replace(known, **reached)

"""What the machine shows of events that failed, or whose outcome is unknown.

Most events take more than one write, so an event that fails, or whose run is killed, may be half
done: a fwmark is set and the listen port is not; a link is in the group of links on their way out
and still there. Only the machine can tell which part was done. These functions compare what the
journal knows with what is seen, and distinguish what such events did from what others did.

The rule: an event may have left any value in a field that it was to change, or that passes through
another value on the way. Every other difference has another cause.

So ``told_apart`` walks from what is known to what is seen in two steps, by way of a topology
between the two. That one begins as a copy of what is known. Each leftover event may change it in
what the event is about: a field takes the seen value if the rule allows it, and keeps the known
value otherwise. What then differs from the known topology was done by the events, and what differs
from the seen one was done by others. An example: the journal knows
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
from rait.domain.topology import Link, LinkPeer, Topology

T = TypeVar("T")
S = TypeVar("S", bound=Struct)
_Update = LinkUpdated | DeviceUpdated | NotesUpdated | PeerUpdated


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
        case LinkUpdated() | DeviceUpdated() | NotesUpdated():
            part = KINDS[type(event)].part
            merged = _merged(event, getattr(known, part), getattr(seen, part))
            return structs.replace(known, **{part: merged})
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


def _peers(event: PeerEvent, known: Link, seen: Link) -> dict[str, LinkPeer]:
    (key,) = peers_named(event)
    last, there = known.peer(key), seen.peer(key)
    match event:
        case PeerAdded():
            become = there if last is None else last
        case PeerRemoved():
            become = None if there is None else last
        case PeerUpdated(_, before, after) if (
            before.endpoint is not None and after.endpoint is None
        ):
            become = there  # to lose its endpoint, a peer is removed and added again
        case PeerUpdated():
            become = last if last is None or there is None else _merged(event, last, there)
    peers = {peer.public_key: peer for peer in known.peers}
    _put(peers, key, become)
    return peers


def _merged(event: _Update, known: S, seen: S) -> S:
    """``known``, with what is seen of each field that the update may have changed."""
    before, after = event.before, event.after
    fields = {f for f in before.__struct_fields__ if getattr(before, f) != getattr(after, f)}
    if "master" in fields:
        fields.add("up")  # to enter or leave a VRF, a link goes down and up again
    if "up" in fields:
        fields |= {"address", "addresses"}  # a link that is down has no IPv6 address
    return structs.replace(known, **{field: getattr(seen, field) for field in fields})

"""The events that lead from one topology to another, in an order in which each can happen.

First babeld forgets the interfaces that go. VRFs and rules come before the links that need them;
then links go, ports change hands, links come, settings and peers change; rules and VRFs go after
the links that needed them. At last babeld gets the interfaces that come. One whose parameters
change is flushed and added before the next, so no more than one is ever out of babeld's routing.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from typing import TypeVar

from msgspec import structs

from rait.domain.events import (
    BabelInterfaceAdded,
    BabelInterfaceFlushed,
    DeviceUpdated,
    Event,
    LinkAdded,
    LinkPlaced,
    LinkRemoved,
    LinkUpdated,
    NotesUpdated,
    PeerAdded,
    PeerRemoved,
    PeerUpdated,
    RuleAdded,
    RuleRemoved,
    VrfAdded,
    VrfRemoved,
)
from rait.domain.topology import Device, Link, Topology

T = TypeVar("T")


def diff(before: Topology, after: Topology) -> tuple[Event, ...]:
    """What must happen for ``before`` to become ``after``; nothing if they are equal.

    No two links ever hold one listen port on the way, if neither topology has such a pair. Links
    with a port of the kernel's choice come last, so that the kernel chooses none that is wanted. A
    link whose origin differs is removed and added, as a living link keeps its origin; but where
    only its instance became known, one LinkPlaced says so.
    """
    events: list[Event] = []
    events += _gone(before.babel, after.babel, BabelInterfaceFlushed)
    events += _come(before.vrfs, after.vrfs, VrfRemoved, VrfAdded)
    events += (RuleAdded(after.rules[name]) for name in _missing(before.rules, after.rules))
    removed, added, kept = _sort_out(before.links, after.links)
    events += (LinkRemoved(before.links[name]) for name in removed)
    changed = [(before.links[name], after.links[name]) for name in kept]
    for old, new in changed:
        if old.origin != new.origin:
            events.append(LinkPlaced(old.name, old.origin.instance, new.origin.instance))
    events += _PortMoves(changed).events()
    for name in sorted(added, key=lambda name: after.links[name].device.listen_port == 0):
        events.append(LinkAdded(after.links[name]))
    for old, new in changed:
        if old.settings != new.settings:
            events.append(LinkUpdated(old.name, old.settings, new.settings))
    for old, new in changed:
        events += _peer_changes(old, new)
    for old, new in changed:
        if old.notes != new.notes:
            events.append(NotesUpdated(old.name, old.notes, new.notes))
    events += (RuleRemoved(before.rules[name]) for name in _missing(after.rules, before.rules))
    events += _gone(before.vrfs, after.vrfs, VrfRemoved)
    events += _come(before.babel, after.babel, BabelInterfaceFlushed, BabelInterfaceAdded)
    return tuple(events)


def _sort_out(
    before: Mapping[str, Link], after: Mapping[str, Link]
) -> tuple[list[str], list[str], list[str]]:
    """Names that go, names that come, and names that stay but differ (a remade link does both)."""
    differ = {name for name, link in before.items() if after.get(name, link) != link}
    remade = {n for n in differ if not before[n].origin.may_become(after[n].origin)}
    removed = [*remade, *(name for name in before if name not in after)]
    added = [*remade, *(name for name in after if name not in before)]
    return sorted(removed), sorted(added), sorted(differ - remade)


def _peer_changes(old: Link, new: Link) -> Iterator[Event]:
    before = {peer.public_key: peer for peer in old.peers}
    after = {peer.public_key: peer for peer in new.peers}
    for key in sorted(before.keys() - after.keys()):
        yield PeerRemoved(old.name, before[key])
    for key in sorted(before.keys() & after.keys()):
        if before[key] != after[key]:
            yield PeerUpdated(old.name, before[key], after[key])
    for key in sorted(after.keys() - before.keys()):
        yield PeerAdded(old.name, after[key])


class _PortMoves:
    """Orders device updates so that a port is free before another link takes it.

    A link waits for the one that holds the port it wants. Of a chain (a wants b's port, b wants
    c's, c wants a free one) the last goes first: c, b, a. Where they wait in a circle, one of them
    lets go of its port first (0 is the kernel's choice) and takes the new one later: for a and b
    that swap ports 1 and 2, a gets 0, then b gets 1, then a gets 2.
    """

    def __init__(self, changed: Iterable[tuple[Link, Link]]) -> None:
        pairs = [(old, new) for old, new in changed if old.device != new.device]
        self._now = {old.name: old.device for old, _ in pairs}
        self._after = {new.name: new.device for _, new in pairs}
        self._holder = {old.device.listen_port: old.name for old, _ in pairs}
        self._holder.pop(0, None)
        self._wanting = {new.device.listen_port: new.name for _, new in pairs}
        self._events: list[Event] = []

    def events(self) -> list[Event]:
        waiting = dict.fromkeys(sorted(self._after))
        ready = [name for name in waiting if self._is_free(name)]
        while waiting:
            if not ready:
                ready = self._break_circle(waiting) or list(waiting)
            name = ready.pop()
            if name in waiting:
                del waiting[name]
                ready += self._set(name, self._after[name])
        return self._events

    def _is_free(self, name: str) -> bool:
        return self._holder.get(self._after[name].listen_port, name) == name

    def _break_circle(self, waiting: Collection[str]) -> list[str]:
        """Give one link of a circle port 0, and return the link that may then go on.

        Each waiting link waits for another. So from any of them, as many steps along "waits for"
        as there are waiting links end within a circle.
        """
        name: str | None = next(iter(waiting))
        for _ in range(len(waiting) + 1):
            if name is None:
                return []  # two links want one port: no order helps, so the machine shall say no
            circular, name = name, self._holder.get(self._after[name].listen_port)
        return self._set(circular, structs.replace(self._now[circular], listen_port=0))

    def _set(self, name: str, device: Device) -> list[str]:
        """Record an update, and return the link that waited for the port which is free now."""
        old = self._now[name]
        self._now[name] = device
        self._events.append(DeviceUpdated(name, old, device))
        self._holder.pop(old.listen_port, None)
        # A link that is told twice to go on, or wants port 0 and never waited, does so once.
        waiting = self._wanting.get(old.listen_port)
        return [waiting] if waiting is not None else []


def _come(
    before: Mapping[str, T],
    after: Mapping[str, T],
    removed: Callable[[str, T], Event],
    added: Callable[[str, T], Event],
) -> Iterator[Event]:
    """What is new; what differs is removed first, as a VRF keeps the table it was made with."""
    for name in sorted(after):
        if before.get(name) == after[name]:
            continue
        if name in before:
            yield removed(name, before[name])
        yield added(name, after[name])


def _gone(
    before: Mapping[str, T], after: Mapping[str, T], removed: Callable[[str, T], Event]
) -> Iterator[Event]:
    return (removed(name, before[name]) for name in _missing(after, before))


def _missing(where: Mapping[str, T], names: Mapping[str, T]) -> list[str]:
    return sorted(names.keys() - where.keys())

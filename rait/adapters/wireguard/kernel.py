"""Links of the kernel's WireGuard: observed and changed many at a time."""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress

from rait.adapters.keys import KeyPair
from rait.adapters.netlink import rtnl
from rait.adapters.netlink import wireguard as wg
from rait.adapters.netlink.socket import NETLINK_ROUTE, NetlinkError, NetlinkSocket, Request
from rait.adapters.netns import Netns, describe, entered
from rait.adapters.wireguard.sockets import (
    Sockets,
    check_is_for,
    first_update,
    name_is_taken,
    perform,
    port_is_taken,
    update_settings,
)
from rait.domain.backend import DeviceState, Interface, ObservedLink, UnreadLink, observed
from rait.domain.config.schema import PRIVATE_GROUPS
from rait.domain.errors import MachineError, RaitError
from rait.domain.events import (
    DeviceUpdated,
    Event,
    LinkAdded,
    LinkRemoved,
    LinkUpdated,
    PeerEvent,
    peers_named,
)
from rait.domain.topology import Link, Origin

Errors = dict[str, str]
"""By the name of a link, why a change of it failed. A link that is not in here is done."""

_UDP_TABLES = ("/proc/thread-self/net/udp", "/proc/thread-self/net/udp6")
_GROUPS = 16
"""The number of groups that links are removed in, side by side."""

_FEW_REMOVALS = 2
"""The most links that are removed one by one."""


class KernelBackend:
    """WireGuard links of the kernel with one key pair, whose UDP sockets are in ``transit``."""

    def __init__(self, transit: Sockets, key: KeyPair) -> None:
        self._transit = transit
        self._key = key

    def observe(
        self, via: Sockets, interfaces: Mapping[str, Interface]
    ) -> tuple[dict[str, ObservedLink], dict[str, UnreadLink]]:
        """See Backend. Raises MachineError if the kernel does not list the links."""
        wanted = [each for each in interfaces.values() if each.kind == rtnl.WIREGUARD]
        if not wanted:
            return {}, {}
        origin = Origin("kernel", via.ns.spec, instance=via.ns.instance)
        states = self._read(via, [each.name for each in wanted])
        links = {
            # A link loses its carrier when the namespace that it was made in is destroyed.
            each.name: observed(each, origin, state, dead=each.up and not each.carrier)
            for each, state in zip(wanted, states, strict=True)
            if state is not None
        }
        return links, {}

    def trace(self, via: Sockets, wanted: Mapping[str, Link]) -> dict[str, ObservedLink]:
        """Those of the wanted links that somebody moved to this namespace. Raises MachineError.

        An interface is the wanted link if it has the name, and the link's last known key or our
        own: nobody else can give an interface one of these.
        """
        there = rtnl.read_interfaces(via.rtnl)
        found, _ = self.observe(via, {name: there[name] for name in wanted.keys() & there.keys()})
        return {
            name: seen
            for name, seen in found.items()
            if seen.link.device.public_key in (wanted[name].device.public_key, self._key.public)
        }

    def sign_of_life(self, link: Link) -> str:
        """See Backend: a socket on the link's listen port in the transit namespace."""
        port, transit = link.device.listen_port, self._transit.ns
        if not (port and link.settings.up and transit.is_open):
            return ""
        if link.origin.transit not in ("", transit.identity) or port not in _udp_ports(transit):
            return ""
        return f"its listen port {port} is still taken in {describe(transit.spec)}"

    def apply(self, via: Sockets | None, events: Sequence[Event]) -> list[str | None]:
        """See Backend.

        Listen port 0 of a new link is the kernel's choice, made when the link is raised.
        """
        errors = {} if via is None else self._change(via, events)
        return [errors.get(event.name) for event in events]

    def _change(self, via: Sockets, events: Sequence[Event]) -> Errors:
        match events[0]:
            case LinkRemoved():
                return _remove(via, [event.name for event in events])
            case LinkAdded():
                return self._add(via, [e for e in events if isinstance(e, LinkAdded)])
            case LinkUpdated():
                return self._update(via, [e for e in events if isinstance(e, LinkUpdated)])
        return self._write(via, [e for e in events if isinstance(e, DeviceUpdated | PeerEvent)])

    def _add(self, via: Sockets, events: Sequence[LinkAdded]) -> Errors:
        writes, errors = self._requests(via, events)
        links = {event.name: event.link for event in events if event.name in writes}
        made = _Addition(via, self._transit, links).carry_out(writes)
        return {name: str(error) for name, error in errors.items()} | made

    def _update(self, via: Sockets, events: Sequence[LinkUpdated]) -> Errors:
        errors = update_settings(via, rtnl.WIREGUARD, events)
        return {name: self._not_updated(via, name, error) for name, error in errors.items()}

    def _not_updated(self, via: Sockets, name: str, error: MachineError) -> str:
        if _has_code(error, errno.EADDRINUSE):
            (state,) = self._read(via, [name])
            if state is not None:
                return port_is_taken(state.device.listen_port, self._transit.ns)
        return f"its settings could not be changed: {error}"

    def _write(self, via: Sockets, events: Sequence[DeviceUpdated | PeerEvent]) -> Errors:
        requests, errors = self._requests(via, events)
        errors |= perform(via.wireguard, requests)
        return {e.name: self._not_written(e, errors[e.name]) for e in events if e.name in errors}

    def _not_written(self, event: DeviceUpdated | PeerEvent, error: RaitError) -> str:
        if not isinstance(event, DeviceUpdated):
            return f"peer {', '.join(peers_named(event))} could not be set: {error}"
        if _has_code(error, errno.EADDRINUSE):
            return port_is_taken(event.after.listen_port, self._transit.ns)
        return f"WireGuard's settings could not be set: {error}"

    def _requests(
        self, via: Sockets, events: Sequence[LinkAdded | DeviceUpdated | PeerEvent]
    ) -> tuple[dict[str, list[Request]], dict[str, RaitError]]:
        """By link, the requests that write what an event changes; or why it cannot be written."""
        from rait.domain.writes import NOTHING, write_of

        requests: dict[str, list[Request]] = {}
        errors: dict[str, RaitError] = {}
        for event in events:
            try:
                if isinstance(event, LinkAdded):
                    check_is_for(event.link, self._transit.ns, self._key)
                write = write_of(event, self._key.psks)
                secret = self._key.secret_of(write.public_key)
                requests[event.name] = (
                    [] if write == NOTHING else wg.set_device(via.family, event.name, write, secret)
                )
            except RaitError as error:
                errors[event.name] = error
        return requests, errors

    def _read(self, via: Sockets, names: Sequence[str]) -> list[DeviceState | None]:
        """The devices, in order; None for one that is gone, or is no WireGuard device any more."""
        states: list[DeviceState | None] = []
        requests = [wg.get_device(via.family, name) for name in names]
        for answer in via.wireguard.dump_each(requests):
            if not isinstance(answer, NetlinkError):
                states.append(wg.decode_device(answer, self._key.psk_digest))
            elif answer.code in (errno.ENODEV, errno.EOPNOTSUPP):
                states.append(None)
            else:
                raise answer
        return states


class _Addition:
    """New links, made in three steps of one batch each; those that fail are deleted at the end."""

    def __init__(self, via: Sockets, transit: Sockets, links: Mapping[str, Link]) -> None:
        self._via = via
        self._transit = transit
        self._links = links
        self._made: dict[str, int] = {}
        self._errors: Errors = {}

    def carry_out(self, writes: Mapping[str, Sequence[Request]]) -> Errors:
        """Make the links, and write to their devices; gives the errors of those that failed."""
        try:
            self._make()
            self._configure(writes)
            self._set_up()
        except MachineError as error:
            for name in self._links:
                self._errors.setdefault(name, str(error))
        failed = {name: index for name, index in self._made.items() if name in self._errors}
        for name, text in _remove_one_by_one(self._via, failed).items():
            self._errors[name] += f"; {text}"
        return self._errors

    def _make(self) -> None:
        """Make the interfaces in the target namespace, with UDP sockets in the transit one."""
        requests: dict[str, list[Request]] = {}
        for name, link in self._links.items():
            wanted = link.settings
            try:
                master = None if wanted.master is None else self._via.master(wanted.master)
            except MachineError as error:
                self._errors[name] = str(error)
                continue
            fd = self._via.ns.fd
            requests[name] = [rtnl.new_wireguard(name, fd, wanted.mtu, wanted.group, master)]
        for name, refused in perform(self._transit.rtnl, requests).items():
            self._errors[name] = self._not_made(refused)
        made = [name for name in requests if name not in self._errors]
        self._made = self._via.indexes(made, rtnl.WIREGUARD)
        for name in made:
            if name not in self._made:
                self._errors[name] = "somebody else deleted it as soon as it was made"

    def _configure(self, writes: Mapping[str, Sequence[Request]]) -> None:
        alive = {name: writes[name] for name in self._alive()}
        for name, error in perform(self._via.wireguard, alive).items():
            self._errors[name] = f"WireGuard's settings could not be set: {error}"

    def _set_up(self) -> None:
        """Raise the links, when the kernel binds their listen ports, and give them addresses."""
        alive = self._alive()
        updates = [first_update(self._links[n], self._links[n].settings.master) for n in alive]
        for name, error in update_settings(self._via, rtnl.WIREGUARD, updates, alive).items():
            if _has_code(error, errno.EADDRINUSE):
                port = self._links[name].device.listen_port
                self._errors[name] = port_is_taken(port, self._transit.ns)
            else:
                self._errors[name] = f"its settings could not be changed: {error}"

    def _alive(self) -> dict[str, int]:
        return {name: index for name, index in self._made.items() if name not in self._errors}

    def _not_made(self, error: MachineError) -> str:
        if _has_code(error, errno.EEXIST):
            return f"it could not be made: {name_is_taken(self._via.ns)}"
        return f"it could not be made in {describe(self._via.ns.spec)}: {error}"


def _remove(via: Sockets, names: Sequence[str]) -> Errors:
    """Remove links; one that is gone already counts as removed.

    The kernel waits for a grace period in each request to delete, so one request deletes many
    links: a whole group of interfaces. The user's group may hold links that are not ours, so the
    links are first moved to private groups, a few of which are then deleted side by side. What was
    not moved or not deleted is deleted link by link, which also says why it fails.
    """
    found = via.indexes(names, rtnl.WIREGUARD)
    if len(found) <= _FEW_REMOVALS:
        return _remove_one_by_one(via, found)
    private = _private_groups()
    groups = {name: private[i % len(private)] for i, name in enumerate(found)}
    moves = {n: [rtnl.set_link(index, group=groups[n])] for n, index in found.items()}
    unmoved = perform(via.rtnl, moves)
    undeleted = _remove_groups(via, {g for n, g in groups.items() if n not in unmoved})
    rest = {n: i for n, i in found.items() if n in unmoved or groups[n] in undeleted}
    return _remove_one_by_one(via, rest)


def _private_groups() -> range:
    """Groups for links that are about to be deleted, which no other rait that runs now has.

    If a run is killed, a later one finds links in such a group; see domain/reconcile.py.
    """
    first = PRIVATE_GROUPS + os.getpid() % 4096 * _GROUPS
    return range(first, first + _GROUPS)


def _remove_one_by_one(via: Sockets, found: Mapping[str, int]) -> Errors:
    requests = {name: [rtnl.delete_link(index)] for name, index in found.items()}
    errors = perform(via.rtnl, requests)
    return {name: f"it could not be removed: {error}" for name, error in errors.items()}


def _udp_ports(ns: Netns) -> frozenset[int]:
    try:
        with entered(ns.fd):
            return frozenset(port for table in _UDP_TABLES for port in _ports_in(table))
    except OSError:
        return frozenset()


def _ports_in(table: str) -> Iterator[int]:
    """The local ports in a table of sockets (proc_pid_net(5)): hex digits in the second field."""
    with open(table, encoding="utf-8") as file:
        for line in file.readlines()[1:]:
            yield int(line.split()[1].rpartition(":")[2], 16)


def _has_code(error: RaitError, code: int) -> bool:
    return isinstance(error, NetlinkError) and error.code == code


def _remove_groups(via: Sockets, groups: set[int]) -> set[int]:
    """Delete the links of the groups, and give the groups for which that failed.

    Each request has a socket and a thread, so that the kernel waits for all grace periods at once.
    """
    from concurrent.futures import ThreadPoolExecutor

    def is_left(group: int) -> bool:
        with suppress(MachineError), NetlinkSocket(via.ns, NETLINK_ROUTE) as own:
            return any(own.perform([rtnl.delete_group(group)]))
        return True

    with ThreadPoolExecutor(_GROUPS) as pool:
        return {
            group for group, left in zip(groups, pool.map(is_left, groups), strict=True) if left
        }

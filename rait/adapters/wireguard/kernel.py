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

_GONE = "somebody else deleted it as soon as it was made"
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
                return self._add(via, {e.name: e for e in events if isinstance(e, LinkAdded)})
            case LinkUpdated():
                return self._update(via, [e for e in events if isinstance(e, LinkUpdated)])
        writes = {e.name: e for e in events if isinstance(e, DeviceUpdated | PeerEvent)}
        errors = perform(via.wireguard, writes, lambda name: self._requests(via, writes[name]))
        return {name: self._not_written(writes[name], error) for name, error in errors.items()}

    def _add(self, via: Sockets, events: Mapping[str, LinkAdded]) -> Errors:
        """Make new links in steps of one batch each; those that fail are deleted at the end."""
        links = {name: event.link for name, event in events.items()}
        writes: dict[str, list[Request]] = {}
        made: dict[str, int] = {}
        errors: Errors = {}

        def interface(name: str) -> list[Request]:
            check_is_for(links[name], self._transit.ns, self._key)
            writes[name] = self._requests(via, events[name])
            return [self._interface(via, links[name])]

        def alive() -> dict[str, int]:
            return {name: index for name, index in made.items() if name not in errors}

        try:
            refused = perform(self._transit.rtnl, links, interface)
            errors |= {name: self._not_made(via, error) for name, error in refused.items()}
            made = via.indexes([name for name in links if name not in errors], rtnl.WIREGUARD)
            errors = dict.fromkeys(links.keys() - made.keys(), _GONE) | errors
            refused = perform(via.wireguard, alive(), lambda name: writes[name])
            errors |= {name: _not_set(error) for name, error in refused.items()}
            # A link that is raised binds its listen port.
            first = [first_update(links[name], links[name].settings.master) for name in alive()]
            errors |= self._update(via, first, alive())
        except MachineError as error:
            errors = dict.fromkeys(links, str(error)) | errors
        failed = {name: index for name, index in made.items() if name in errors}
        for name, text in _remove_one_by_one(via, failed).items():
            errors[name] += f"; {text}"
        return errors

    def _interface(self, via: Sockets, link: Link) -> Request:
        """The request for an interface in the target namespace; who sends it has the UDP socket."""
        wanted = link.settings
        master = None if wanted.master is None else via.master(wanted.master)
        return rtnl.new_wireguard(link.name, via.ns.fd, wanted.mtu, wanted.group, master)

    def _not_made(self, via: Sockets, error: RaitError) -> str:
        if not isinstance(error, NetlinkError):
            return str(error)
        if error.code == errno.EEXIST:
            return f"it could not be made: {name_is_taken(via.ns)}"
        return f"it could not be made in {describe(via.ns.spec)}: {error}"

    def _update(
        self, via: Sockets, events: Sequence[LinkUpdated], indexes: Mapping[str, int] | None = None
    ) -> Errors:
        errors = update_settings(via, rtnl.WIREGUARD, events, indexes)
        return {name: self._not_updated(via, name, error) for name, error in errors.items()}

    def _not_updated(self, via: Sockets, name: str, error: RaitError) -> str:
        if _is_taken(error):
            (state,) = self._read(via, [name])
            if state is not None:
                return port_is_taken(state.device.listen_port, self._transit.ns)
        return f"its settings could not be changed: {error}"

    def _not_written(self, event: DeviceUpdated | PeerEvent, error: RaitError) -> str:
        if not isinstance(event, DeviceUpdated):
            return f"peer {', '.join(peers_named(event))} could not be set: {error}"
        if _is_taken(error):
            return port_is_taken(event.after.listen_port, self._transit.ns)
        return _not_set(error)

    def _requests(
        self, via: Sockets, event: LinkAdded | DeviceUpdated | PeerEvent
    ) -> list[Request]:
        """The requests that write to a device what an event changes. Raises RaitError."""
        from rait.domain.writes import NOTHING, write_of

        write = write_of(event, self._key.psks)
        secret = self._key.secret_of(write.public_key)
        return [] if write == NOTHING else wg.set_device(via.family, event.name, write, secret)

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
    unmoved = perform(via.rtnl, found, lambda n: [rtnl.set_link(found[n], group=groups[n])])
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
    errors = perform(via.rtnl, found, lambda name: [rtnl.delete_link(found[name])])
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


def _not_set(error: RaitError) -> str:
    return f"WireGuard's settings could not be set: {error}"


def _is_taken(error: RaitError) -> bool:
    """Whether the kernel refused a listen port that something else has."""
    return isinstance(error, NetlinkError) and error.code == errno.EADDRINUSE


def _remove_groups(via: Sockets, groups: set[int]) -> set[int]:
    """Delete the links of the groups, and give the groups for which that failed.

    Each request has a socket and a thread, so that the kernel waits for all grace periods at once.
    """
    from concurrent.futures import ThreadPoolExecutor

    def is_left(group: int) -> bool:
        with suppress(MachineError), NetlinkSocket(via.ns, NETLINK_ROUTE) as own:
            return any(own.perform([rtnl.delete_group(group)]))
        return True

    try:
        with ThreadPoolExecutor(_GROUPS) as pool:
            left = pool.map(is_left, groups)
        return {group for group, is_so in zip(groups, left, strict=True) if is_so}
    except RuntimeError:  # the system starts no more threads
        return groups

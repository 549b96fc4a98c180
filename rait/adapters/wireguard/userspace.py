"""Links of WireGuard programs in userspace, for machines whose kernel has no WireGuard.

A program is started in the transit namespace, where its UDP socket stays; then its tun is moved to
the target namespace. wireguard-go notices a new mtu in its own namespace alone, so the mtu is set
before the move. One that changes later costs at most 15 bytes of padding in each packet.

Interfaces in two namespaces may share a name, but the whole machine shares the directory of the
programs' sockets: so two nodes on one machine need different ifprefixes.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from typing import Protocol

from msgspec import structs

from rait.adapters.keys import KeyPair
from rait.adapters.netlink import rtnl
from rait.adapters.netlink.socket import NetlinkError
from rait.adapters.netns import Namespaces, Netns, entered, reason
from rait.adapters.wireguard import process as programs
from rait.adapters.wireguard import uapi
from rait.adapters.wireguard.sockets import TUN, Sockets, update_settings
from rait.domain.backend import Interface, ObservedLink, UnreadLink, observed
from rait.domain.errors import MachineError, RaitError
from rait.domain.events import (
    DeviceUpdated,
    Event,
    LinkAdded,
    LinkRemoved,
    LinkUpdated,
    PeerEvent,
    PeerUpdated,
)
from rait.domain.topology import Endpoint, Link, LinkPeer, Origin

_AT_ONCE = 64
"""The number of programs that start at a time: each must answer within START_SECONDS."""

_ENDING_SECONDS = 3.0
"""The time that a program has to end after it hung up in the middle of an answer."""


class UserspaceBackend:
    """Links of userspace programs with one key pair, whose UDP sockets are in ``transit``."""

    def __init__(self, transit: Sockets, key: KeyPair) -> None:
        self._transit = transit
        self._key = key
        self._made_as: dict[str, str] = {}

    def observe(
        self, via: Sockets, interfaces: Mapping[str, Interface]
    ) -> tuple[dict[str, ObservedLink], dict[str, UnreadLink]]:
        """See Backend. Raises MachineError if there is no way to look at any link.

        A tun is a WireGuard link if the program that holds it answers on the tun's socket, and is
        none if nobody listens there.
        """
        found: dict[str, ObservedLink] = {}
        unread: dict[str, UnreadLink] = {}
        for tun in interfaces.values():
            if tun.kind != TUN:
                continue
            try:
                link = self._link_of(tun, via.ns, tun.name)
            except (OSError, uapi.UapiError) as error:
                unread[tun.name] = UnreadLink(via.ns.spec, tun.group, _why_unread(tun, error))
            else:
                if link is not None:
                    found[tun.name] = link
        return found, unread

    def trace(self, link: Link, namespaces: Namespaces) -> ObservedLink | None:
        """A link that somebody moved or renamed, as it is now; None if it is gone or not ours.

        The link's program, which still listens under the name that the link was made with, leads
        to its tun. Raises OSError or RaitError where rait cannot tell.
        """
        for home, name in programs.tuns_served(link.name, link.origin.netns):
            ns = namespaces.keep(home)
            tun = rtnl.interfaces(ns).get(name)
            seen = None if tun is None else self._link_of(tun, ns, link.name)
            ours = ("", link.device.public_key, self._key.public)
            if seen is not None and seen.link.device.public_key in ours:
                self._made_as[name] = link.name
                return seen
        return None

    def _link_of(self, tun: Interface, ns: Netns, made_as: str) -> ObservedLink | None:
        """The link of a tun; None if the tun is no WireGuard link.

        ``made_as`` is the name that the link was made with. Raises OSError or UapiError where rait
        cannot tell.
        """
        try:
            client = uapi.Client(made_as)
        except uapi.NOBODY:
            return None
        with client:
            held = programs.hold_owner(tun.name, client.pid, lambda o: o.is_home_in(ns))
            if held is None:
                return None
            process, owner = held
            with process:
                try:
                    state = client.get(self._key)
                except uapi.UapiError as error:
                    if process.ended(_ENDING_SECONDS):
                        return None
                    raise uapi.UapiError(
                        f"{error}; process {process.pid} serves it: let that process go on "
                        f"(`kill -CONT {process.pid}`), or end it (`kill -KILL {process.pid}`)"
                    ) from None
        if owner.transit == self._transit.ns.identity:
            state = structs.replace(state, peers=tuple(map(self._numbered, state.peers)))
        origin = Origin("userspace", ns.spec, owner.transit, ns.instance)
        return observed(tun, origin, state, renamed=made_as != tun.name)

    def _numbered(self, peer: LinkPeer) -> LinkPeer:
        """A peer with its endpoint's zone as the number of an interface, as the kernel has it."""
        address, _, zone = peer.endpoint.address.partition("%") if peer.endpoint else ("", "", "")
        if peer.endpoint is None or not zone or zone.isdecimal():
            return peer
        try:
            with entered(self._transit.ns.fd):
                index = socket.if_nametoindex(zone)
        except OSError:  # the interface is gone
            return peer
        endpoint = Endpoint(f"{address}%{index}", peer.endpoint.port)
        return structs.replace(peer, endpoint=endpoint)

    def apply(self, via: Sockets | None, events: Sequence[Event]) -> Iterator[str | None]:
        """See Backend. Programs of new links start together, those of old links end together."""
        if via is None or isinstance(events[0], LinkRemoved):
            names = [(event.name, self._made_as.get(event.name, event.name)) for event in events]
            yield from _side_by_side([_Removal(name, made_as, via) for name, made_as in names])
        elif isinstance(events[0], LinkUpdated):
            updates = [event for event in events if isinstance(event, LinkUpdated)]
            errors = update_settings(via, TUN, updates)
            yield from (str(errors[e.name]) if e.name in errors else None for e in events)
        elif isinstance(events[0], LinkAdded):
            from rait.adapters.wireguard.userspace_setup import Setup

            links = [event.link for event in events if isinstance(event, LinkAdded)]
            for start in range(0, len(links), _AT_ONCE):
                some = links[start : start + _AT_ONCE]
                yield from _side_by_side([Setup(x, self._key, self._transit, via) for x in some])
        else:
            writes = [e for e in events if isinstance(e, DeviceUpdated | PeerEvent)]
            yield from (_failure(partial(self._write, event)) for event in writes)

    def may_be_leftover(self, name: str) -> bool:
        """Whether a killed run left, or may have left, a half-made link of this name."""
        from rait.adapters.wireguard.userspace_setup import find_leftover

        try:
            process = find_leftover(name, self._transit, self._key)
        except RaitError:
            return True
        if process is not None:
            process.close()
        return process is not None

    def end_leftover(self, name: str) -> bool:
        """Remove the half-made link of this name, and say whether there was one.

        Raises RaitError.
        """
        from rait.adapters.wireguard.userspace_setup import end_leftover

        return end_leftover(name, self._transit, self._key)

    def _write(self, event: DeviceUpdated | PeerEvent) -> None:
        """Have the link's program write what an event changes. Raises RaitError."""
        from rait.domain.writes import NOTHING, write_of

        write = write_of(event, self._key.psks)
        secret = self._key.secret_of(write.public_key)
        with _client(event.name) as client:
            if isinstance(event, PeerUpdated):
                # A program ignores an update of a peer that it does not have, without an error.
                known = {peer.public_key for peer in client.get(self._key).peers}
                if event.before.public_key not in known:
                    raise RaitError(f"it has no peer {event.before.public_key}")
            rest = structs.replace(write, listen_port=None)
            if rest != NOTHING:
                client.set(rest, secret)
            if write.listen_port is not None:
                self._change_port(client, write.listen_port)

    def _change_port(self, client: uapi.Client, port: int) -> None:
        from rait.adapters.wireguard.userspace_setup import set_port
        from rait.domain.writes import DeviceWrite

        # Not the event's old port, which is 0 if the program chose the port.
        old = client.get(self._key).device.listen_port
        try:
            set_port(client, port, self._transit.ns)
        except RaitError:
            # The program closed its old socket before it failed to open the new one.
            with suppress(RaitError):
                client.set(DeviceWrite(listen_port=old))
            raise


def _why_unread(tun: Interface, error: OSError | uapi.UapiError) -> str:
    """Why a tun's link cannot be read. Raises MachineError if no other one could be read either."""
    if isinstance(error, uapi.UapiError):
        return str(error)
    if error.errno in (errno.EMFILE, errno.ENFILE):
        raise MachineError(f"cannot look at interface {tun.name}: {reason(error)}") from error
    return f"{uapi.socket_path(tun.name)}: {reason(error)}"


def _client(name: str) -> uapi.Client:
    try:
        return uapi.Client(name)
    except uapi.NOBODY:
        raise RaitError(
            f"no program serves {uapi.socket_path(name)}: it ended; run rait again to remake it"
        ) from None


class _Task(Protocol):
    """Something that ``begin`` starts and that goes on by itself until ``finish`` waits for it.

    ``close`` takes back what was begun and not finished, and is harmless otherwise.
    """

    def begin(self) -> None: ...
    def finish(self) -> None: ...
    def close(self) -> None: ...


def _side_by_side(tasks: Sequence[_Task]) -> Iterator[str | None]:
    """Begin all tasks, then finish one after the other. Gives for each its error, or None.

    Tasks are closed at the end, even if the caller does not iterate that far.
    """
    try:
        begun = [_failure(task.begin) for task in tasks]
        for task, error in zip(tasks, begun, strict=True):
            yield error or _failure(task.finish)
    finally:
        for task in tasks:
            task.close()


def _failure(action: Callable[[], None]) -> str | None:
    try:
        action()
    except RaitError as error:
        return str(error)
    except OSError as error:
        return reason(error)
    return None


class _Removal:
    """The removal of a link, whose namespace is None if that is gone, with the tun in it.

    The program gets a signal, and its tun goes with it: programs end side by side, whereas the
    kernel deletes one tun after the other, with a grace period for each.
    """

    def __init__(self, name: str, made_as: str, via: Sockets | None) -> None:
        self._name = name
        self._made_as = made_as
        self._via = via
        self._process: programs.Process | None = None

    def begin(self) -> None:
        """Send the program SIGTERM, without waiting. Raises RaitError."""
        if self._via is None:
            return
        found = self._via.find(self._name)
        if found is None:
            self._via = None
        elif found.kind != TUN:
            raise RaitError(f"it is of kind {found.kind or 'physical'} now, so it is left alone")
        else:
            self._process = _process_of(self._name, self._made_as, self._via.ns)
            if self._process is not None:
                self._process.signal(programs.SIGTERM)

    def finish(self) -> None:
        """Wait until nothing is left of the link, after SIGKILL if need be. Raises RaitError."""
        if self._process is not None:
            programs.end(self._made_as, self._process, programs.END_SECONDS)
        if self._via is not None:
            _delete_tun(self._name, self._via)
        programs.listening(self._made_as)

    def close(self) -> None:
        if self._process is not None:
            self._process.close()


def _delete_tun(name: str, via: Sockets) -> None:
    """Delete a tun that is still there after its program has ended."""
    found = via.find(name)
    if found is None or found.kind != TUN:
        return
    try:
        via.rtnl.ask(rtnl.delete_link(found.index))
    except NetlinkError as error:
        if error.code != errno.ENODEV:
            raise


def _process_of(name: str, made_as: str, ns: Netns) -> programs.Process | None:
    """The process of the program that holds a tun; None if there is none.

    The program on the socket may hold the tun of a link in another namespace. None too where rait
    cannot tell: a program ends by itself when its tun is deleted.
    """
    try:
        with uapi.Client(made_as) as client:
            pid = client.pid
        held = programs.hold_owner(name, pid, lambda owner: owner.is_home_in(ns))
    except (OSError, uapi.UapiError):
        return None
    return None if held is None else held[0]

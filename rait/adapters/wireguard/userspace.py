"""WireGuard links of a program in userspace, for machines whose kernel has no WireGuard.

A link is made in the transit namespace, where its program keeps the UDP socket, and its tun is
then moved to the target one. wireguard-go learns of a new mtu in its own namespace alone, so the
mtu is set before the move; one that is changed later costs at most 15 bytes of padding too many.

The programs' sockets are machine-wide, while interface names are not: two nodes on one machine
need distinct ifprefixes.
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
"""Programs started at a time; each has START_SECONDS to answer, while it shares the processors."""

_ENDING_SECONDS = 3.0
"""A program that hung up in the middle of a talk is given so long to end: then it is no link."""


class UserspaceBackend:
    """Links of userspace programs with their UDP sockets in ``transit``, all with one key."""

    def __init__(self, transit: Sockets, key: KeyPair) -> None:
        self._transit = transit
        self._key = key
        self._made_as: dict[str, str] = {}

    def observe(
        self, via: Sockets, interfaces: Mapping[str, Interface]
    ) -> tuple[dict[str, ObservedLink], dict[str, UnreadLink]]:
        """See Backend. Raises MachineError where nothing can be told at all.

        A tun is WireGuard if the program that holds it answers on its socket, and it is not if
        nobody listens there.
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
        """A link that is no longer where it was, or has another name there: as it is now.

        Its program tells, which listens under the name that the link was made with. None where
        there is none, or it is not ours. Raises OSError or RaitError where one cannot tell.
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
        """The link that a tun is; None if it is none. Raises OSError or UapiError: one cannot say.

        ``made_as`` is the name that it was made with.
        """
        try:
            client = uapi.Client(made_as)
        except (FileNotFoundError, ConnectionRefusedError):
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
                        f"{error}; process {process.pid} serves it: let that one go on "
                        f"(`kill -CONT {process.pid}`), or end it (`kill -KILL {process.pid}`)"
                    ) from None
        if owner.transit == self._transit.ns.identity:
            state = structs.replace(state, peers=tuple(map(self._numbered, state.peers)))
        origin = Origin("userspace", ns.spec, owner.transit, ns.instance)
        return observed(tun, origin, state, renamed=made_as != tun.name)

    def _numbered(self, peer: LinkPeer) -> LinkPeer:
        """The peer whose endpoint has its zone's index for its name, as the kernel's has it."""
        address, _, zone = peer.endpoint.address.partition("%") if peer.endpoint else ("", "", "")
        if peer.endpoint is None or not zone or zone.isdecimal():
            return peer
        try:
            with entered(self._transit.ns):
                index = socket.if_nametoindex(zone)
        except OSError:  # the interface is gone
            return peer
        endpoint = Endpoint(f"{address}%{index}", peer.endpoint.port)
        return structs.replace(peer, endpoint=endpoint)

    def apply(self, via: Sockets | None, events: Sequence[Event]) -> Iterator[str | None]:
        """See Backend. New links start together, and removed ones end together."""
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
        """Whether a killed run left a half-made link of this name, or may have."""
        from rait.adapters.wireguard.userspace_setup import find_leftover

        try:
            process = find_leftover(name, self._transit, self._key)
        except RaitError:
            return True
        if process is not None:
            process.close()
        return process is not None

    def end_leftover(self, name: str) -> bool:
        """End the half-made link of this name; whether there was one. Raises RaitError."""
        from rait.adapters.wireguard.userspace_setup import end_leftover

        return end_leftover(name, self._transit, self._key)

    def _write(self, event: DeviceUpdated | PeerEvent) -> None:
        """Have the program of a link carry out what an event changes. Raises RaitError."""
        from rait.domain.writes import NOTHING, write_of

        write = write_of(event)
        secret = self._key.secret_of(write.public_key)
        with _client(event.name) as client:
            if isinstance(event, PeerUpdated):
                # A program passes over an update of a peer that it does not have, and says nothing.
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

        # The event's own idea of it may be 0, for a port that the program chose.
        old = client.get(self._key).device.listen_port
        try:
            set_port(client, port, self._transit.ns)
        except RaitError:
            # The program gave its old socket up before it knew that it gets no new one.
            with suppress(RaitError):
                client.set(DeviceWrite(listen_port=old))
            raise


def _why_unread(tun: Interface, error: OSError | uapi.UapiError) -> str:
    """Why one cannot say. Raises MachineError where the next one would fare no better."""
    if isinstance(error, uapi.UapiError):
        return str(error)
    if error.errno in (errno.EMFILE, errno.ENFILE):
        raise MachineError(f"cannot look at interface {tun.name}: {reason(error)}") from error
    return f"{uapi.socket_path(tun.name)}: {reason(error)}"


def _client(name: str) -> uapi.Client:
    try:
        return uapi.Client(name)
    except (FileNotFoundError, ConnectionRefusedError):
        raise RaitError(
            f"no program serves {uapi.socket_path(name)}: it ended; the next sync makes it anew"
        ) from None


class _Task(Protocol):
    """Something that takes a while, and no work of ours meanwhile. ``close`` is harmless twice."""

    def begin(self) -> None: ...
    def finish(self) -> None: ...
    def close(self) -> None: ...


def _side_by_side(tasks: Sequence[_Task]) -> Iterator[str | None]:
    """Begin all the tasks, then finish one after the other; why each failed.

    One that is not finished, as this one is not iterated to its end, is taken back.
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
    """A link on its way out; without a namespace if that went before it, and its tun with it.

    Its program is told to end, and its tun goes with it: programs end side by side, whereas the
    kernel deletes one tun after the other, with a grace period for each.
    """

    def __init__(self, name: str, made_as: str, via: Sockets | None) -> None:
        self._name = name
        self._made_as = made_as
        self._via = via
        self._process: programs.Process | None = None

    def begin(self) -> None:
        """Tell the program to end and do not wait for it. Raises RaitError."""
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
        """Wait until nothing is left of it, by force if need be. Raises RaitError."""
        if self._process is not None:
            programs.end(self._made_as, self._process, programs.END_SECONDS)
        if self._via is not None:
            _delete_tun(self._name, self._via)
        programs.listening(self._made_as)

    def close(self) -> None:
        """Let go of the process."""
        if self._process is not None:
            self._process.close()


def _delete_tun(name: str, via: Sockets) -> None:
    """Delete a tun that its program did not take along, or that had no program any more."""
    found = via.find(name)
    if found is None or found.kind != TUN:
        return
    try:
        via.perform(rtnl.delete_link(found.index))
    except NetlinkError as error:
        if error.code != errno.ENODEV:
            raise


def _process_of(name: str, made_as: str, ns: Netns) -> programs.Process | None:
    """The program whose tun this is, or None: its socket may belong to a link elsewhere.

    None where one cannot tell, too: a program ends by itself when its tun is deleted.
    """
    try:
        with uapi.Client(made_as) as client:
            pid = client.pid
        held = programs.hold_owner(name, pid, lambda owner: owner.is_home_in(ns))
    except (OSError, uapi.UapiError):
        return None
    return None if held is None else held[0]

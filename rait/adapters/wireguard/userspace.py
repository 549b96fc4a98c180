"""WireGuard links of a program in userspace, for machines whose kernel has no WireGuard.

A link is born in the transit namespace, where its program keeps the UDP socket, and its tun is
then moved to the target one. wireguard-go learns of a new mtu in its own namespace alone, so the
mtu is set before the move; one that is changed later costs at most 15 bytes of padding too many.

The programs' sockets are machine-wide, while interface names are not: two nodes on one machine
need distinct ifprefixes.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Literal

from msgspec import structs

from rait.adapters.namespaces import Namespaces, Where
from rait.adapters.netlink import rtnl
from rait.adapters.netns import Netns, describe, entered, reason
from rait.adapters.wireguard import traces, uapi
from rait.adapters.wireguard import userspace_process as programs
from rait.adapters.wireguard.userspace_birth import (
    ANSWER_SECONDS,
    TUN,
    Key,
    awaited_half_born,
    end_half_born,
)
from rait.adapters.wireguard.userspace_session import Session, Step
from rait.domain.backend import Interface, ObservedLink, Outcome, UnreadLink
from rait.domain.config.schema import Secret
from rait.domain.errors import MachineError
from rait.domain.events import Event, LinkAdded, LinkRemoved
from rait.domain.topology import Device, Endpoint, Link, LinkPeer, LinkSettings, Origin

_MOST_STARTS = 64
"""Programs started at a time; each has START_SECONDS to answer, while it shares the processors."""

_ENDING_SECONDS = 3.0
"""A program that hung up in the middle of a talk is given so long to end: then it is no link."""


def available() -> bool:
    """Whether userspace links can be made here; ``why_not`` tells what is missing."""
    return not why_not()


def why_not() -> str:
    """What is missing for userspace links, and how to get it; "" if nothing is."""
    return programs.why_not()


class UserspaceBackend:
    """Links of userspace programs with their UDP sockets in ``transit``, all with one key.

    ``public_key`` belongs to ``secret``; without a secret, links can be neither made nor given a
    key. ``transit`` and ``namespaces`` stay the caller's to close.
    """

    kind: Literal["userspace"] = "userspace"

    def __init__(
        self,
        transit: Netns,
        secret: Secret | None,
        public_key: str,
        namespaces: Namespaces | None = None,
    ) -> None:
        self._transit = transit
        self._key = Key(secret, public_key)
        self._namespaces = namespaces or Namespaces()
        self._where: dict[str, Where] = {}
        self._served: dict[str, str] = {}

    def observe(self, ns: Netns, interfaces: Mapping[str, Interface]) -> Mapping[str, ObservedLink]:
        """See Backend, and ``look``."""
        return self.look(ns, interfaces)[0]

    def look(
        self, ns: Netns, interfaces: Mapping[str, Interface]
    ) -> tuple[dict[str, ObservedLink], dict[str, UnreadLink]]:
        """What ``observe`` finds, and the tuns of which it cannot tell whether they are links.

        A tun is WireGuard if the program that holds it answers on its socket, and it is not if
        nobody listens there. Raises MachineError where nothing can be told at all.
        """
        found: dict[str, ObservedLink] = {}
        unread: dict[str, UnreadLink] = {}
        tuns = [interface for interface in interfaces.values() if interface.kind == TUN]
        for tun in tuns:
            try:
                link = _observed(tun, ns, self._transit, self._key)
            except (OSError, uapi.UapiError) as error:
                unread[tun.name] = UnreadLink(ns.spec, tun.group, _why_unread(tun, error))
            else:
                if link is not None:
                    found[tun.name] = link
        self._where.update(dict.fromkeys(found, (ns.spec, ns.instance)))
        return found, unread

    def trace(self, link: Link) -> ObservedLink | None:
        """A link that is no longer where it was, or has another name there: as it is now.

        Its program tells, which listens under the name that the link was made with. None where
        there is none, or it is not ours. Raises OSError or UapiError where one cannot tell.
        """
        for home, name in traces.tuns_served(link.name, link.origin.netns):
            ns = self._namespaces.keep(home)
            tun = rtnl.interfaces(ns).get(name)
            seen = None if tun is None else _observed(tun, ns, self._transit, self._key, link.name)
            if seen is not None and seen.link.device.public_key in ("", *self._keys_of(link)):
                self._where[name] = (ns.spec, ns.instance)
                self._served[name] = link.name
                return seen
        return None

    def _keys_of(self, link: Link) -> tuple[str, str]:
        return link.device.public_key, self._key.public

    def apply(self, events: Sequence[Event]) -> Iterator[Outcome]:
        """See Backend. New links start together, and removed ones end together."""
        if not events:
            return
        places = self._where, self._namespaces, self._served
        session = Session(self._transit, self._key, *places)
        try:
            for run in _runs(events):
                yield from session.carry_out(run)
        finally:
            session.close()

    def strays(self, names: Iterable[str]) -> Mapping[str, str]:
        """Those of the names for which a killed run left a half-made link, and what it is.

        That is a program in our transit namespace with its tun still there, in no group, and with
        no key or ours. Once the tun is in the target namespace, ``observe`` sees the link.
        """
        found = {}
        for name in names:
            process = awaited_half_born(name, self._transit, self._key)
            if process is not None:
                process.close()
                found[name] = f"process {process.pid} in {describe(self._transit.spec)}"
        return found

    def end_stray(self, name: str) -> bool:
        """End the half-made link of this name; whether there was one. Raises RaitError."""
        return end_half_born(name, self._transit, self._key)


def _observed(
    tun: Interface, target: Netns, transit: Netns, key: Key, made_as: str | None = None
) -> ObservedLink | None:
    """The link that a tun is; None if it is none. Raises OSError or UapiError if one cannot say.

    ``made_as`` is the name that it was made with, if that is another one.
    """
    try:
        client = uapi.Client(made_as or tun.name, ANSWER_SECONDS)
    except (FileNotFoundError, ConnectionRefusedError):
        return None
    with client:
        held = programs.hold_owner(tun.name, client.pid, lambda o: o.is_home_in(target))
        if held is None:
            return None
        process, owner = held
        with process:
            try:
                state = client.get()
            except uapi.UapiError as error:
                if process.ended(_ENDING_SECONDS):
                    return None
                raise uapi.UapiError(
                    f"{error}; process {owner.pid} serves it: let that one go on "
                    f"(`kill -CONT {owner.pid}`), or end it (`kill -KILL {owner.pid}`)"
                ) from None
    return ObservedLink(
        link=Link(
            name=tun.name,
            origin=Origin("userspace", target.spec, owner.transit, target.instance),
            settings=LinkSettings(tun.mtu, tun.group, tun.master, tun.up, tun.address),
            device=Device(key.public_of(state.private_key), state.listen_port, state.fwmark),
            peers=_peers(state, key, transit if owner.transit == transit.identity else None),
        ),
        handshakes={peer.public_key: peer.handshake for peer in state.peers},
        received={peer.public_key: peer.received for peer in state.peers},
        sent={peer.public_key: peer.sent for peer in state.peers},
        renamed=made_as not in (None, tun.name),
    )


def _why_unread(tun: Interface, error: OSError | uapi.UapiError) -> str:
    """Why one cannot say. Raises MachineError where the next one would fare no better."""
    if isinstance(error, uapi.UapiError):
        return str(error)
    if error.errno in (errno.EMFILE, errno.ENFILE):
        raise MachineError(f"cannot look at interface {tun.name}: {reason(error)}") from error
    return f"{uapi.socket_path(tun.name)}: {reason(error)}"


def _peers(state: uapi.DeviceState, key: Key, transit: Netns | None) -> tuple[LinkPeer, ...]:
    peers = [
        LinkPeer(
            peer.public_key,
            _numbered(peer.endpoint, transit),
            peer.keepalive,
            peer.allowed_ips,
            key.psk_digest(peer.public_key, peer.psk),
        )
        for peer in state.peers
    ]
    return tuple(sorted(peers, key=lambda peer: peer.public_key))


def _numbered(endpoint: Endpoint | None, transit: Netns | None) -> Endpoint | None:
    """The endpoint with the index of its zone for its name, as the kernel's WireGuard has it."""
    if endpoint is None or transit is None:
        return endpoint
    address, _, zone = endpoint.address.partition("%")
    if not zone or zone.isdecimal():
        return endpoint
    try:
        with entered(transit):
            return structs.replace(endpoint, address=f"{address}%{socket.if_nametoindex(zone)}")
    except OSError:  # the interface is gone
        return endpoint


def _runs(events: Iterable[Event]) -> Iterator[list[Step]]:
    """Cut the events, in their order, into what is done together.

    Removals go together, and so do new links; anything else goes alone.
    """
    run: list[Step] = []
    names: set[str] = set()
    for step in enumerate(events):
        if run and not _joins(run, step[1], names):
            yield run
            run, names = [], set()
        run.append(step)
        names.add(step[1].name)
    if run:
        yield run


def _joins(run: Sequence[Step], event: Event, names: set[str]) -> bool:
    first = run[0][1]
    if isinstance(first, LinkRemoved):
        return isinstance(event, LinkRemoved) and event.name not in names
    if isinstance(first, LinkAdded):
        fits = event.name not in names and len(names) < _MOST_STARTS
        return isinstance(event, LinkAdded) and fits
    return False

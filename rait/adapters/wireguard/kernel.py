"""The kernel's WireGuard: what is there, and how events are carried out in batches."""

from __future__ import annotations

import errno
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Literal

from rait.adapters import keys
from rait.adapters.namespaces import Namespaces, Where, where_of
from rait.adapters.netlink import rtnl
from rait.adapters.netlink import wireguard as wg
from rait.adapters.netlink.socket import (
    NETLINK_GENERIC,
    NETLINK_ROUTE,
    NetlinkError,
    NetlinkSocket,
    Request,
)
from rait.adapters.netns import Netns, open_netns
from rait.adapters.wireguard import kernel_place as places
from rait.adapters.wireguard.kernel_place import Errors, Place
from rait.adapters.wireguard.kernel_writes import link_requests
from rait.domain.backend import Interface, ObservedLink, Outcome
from rait.domain.config.schema import Secret
from rait.domain.errors import MachineError, RaitError
from rait.domain.events import (
    DeviceUpdated,
    Event,
    LinkAdded,
    LinkRemoved,
    LinkUpdated,
    PeerAdded,
    PeerUpdated,
)
from rait.domain.topology import Device, Link, LinkSettings, Origin
from rait.domain.writes import NOTHING, PeerEvent, write_of

Step = tuple[int, Event]


def available() -> bool:
    """Whether this kernel has WireGuard; its module is loaded if need be."""
    try:
        with open_netns("") as here, NetlinkSocket(here, NETLINK_GENERIC) as generic:
            wg.find_family(generic)
    except MachineError:
        return False
    return True


class KernelBackend:
    """WireGuard links of the kernel, born in ``transit``, all with the key ``secret``.

    ``public_key`` belongs to ``secret``; without a secret devices can be neither made nor given
    a key. ``transit`` and ``namespaces`` stay the caller's to close.
    """

    kind: Literal["kernel"] = "kernel"

    def __init__(
        self,
        transit: Netns,
        secret: Secret | None,
        public_key: str,
        namespaces: Namespaces | None = None,
    ) -> None:
        self._transit = transit
        self._secret = secret
        self._public_key = public_key
        self._namespaces = namespaces or Namespaces()
        self._where: dict[str, Where] = {}

    def observe(self, ns: Netns, interfaces: Mapping[str, Interface]) -> Mapping[str, ObservedLink]:
        """See Backend. Raises MachineError where the namespace or WireGuard is out of reach."""
        wanted = [each for each in interfaces.values() if each.kind == rtnl.WIREGUARD]
        if not wanted:
            return {}
        with NetlinkSocket(ns, NETLINK_GENERIC) as generic:
            states = self._read(generic, [each.name for each in wanted])
        found = {
            interface.name: _observed(ns, interface, state)
            for interface, state in zip(wanted, states, strict=True)
            if state is not None
        }
        self._where.update(dict.fromkeys(found, (ns.spec, ns.instance)))
        return found

    def _read(self, generic: NetlinkSocket, names: Sequence[str]) -> list[wg.DeviceState | None]:
        psk_digest = partial(keys.psk_digest, self._secret)
        return _read(generic, places.find_family(generic), names, psk_digest)

    def trace(self, ns: Netns, wanted: Mapping[str, Link]) -> dict[str, ObservedLink]:
        """Those of these links that somebody moved to this namespace. Raises MachineError.

        One is the same if it has the key that it had, or ours: nobody else can give it those.
        """
        there = rtnl.interfaces(ns)
        found = self.observe(ns, {name: there[name] for name in wanted.keys() & there.keys()})
        return {
            name: seen
            for name, seen in found.items()
            if seen.link.device.public_key in (wanted[name].device.public_key, self._public_key)
        }

    def apply(self, events: Sequence[Event]) -> Iterator[Outcome]:
        """See Backend. Outcomes come as each batch is done; no events, no system call.

        A link that is removed but is gone already counts as removed. Listen port 0 of a new link
        is the kernel's choice, made when the link is raised.
        """
        if not events:
            return
        key = self._secret, self._public_key
        session = _Session(self._transit, *key, self._where, self._namespaces)
        try:
            for run in _runs(events):
                yield from session.carry_out(run)
        finally:
            session.close()


def _runs(events: Iterable[Event]) -> Iterator[list[Step]]:
    """Cut the events, in their order, into batches.

    A batch has one event for each link, so that a link's later events can see that it failed.
    """
    run: list[Step] = []
    names: set[str] = set()
    for step in enumerate(events):
        if run and not _joins(run[0][1], step[1], names):
            yield run
            run, names = [], set()
        run.append(step)
        names.add(step[1].name)
    if run:
        yield run


def _joins(first: Event, event: Event, names: set[str]) -> bool:
    if isinstance(first, PeerEvent):
        return isinstance(event, PeerEvent) and event.name not in names
    return type(event) is type(first) and event.name not in names


class _Session:
    """One apply: its open namespaces, and the links that failed so far."""

    def __init__(
        self,
        transit: Netns,
        secret: Secret | None,
        public_key: str,
        where: dict[str, Where],
        namespaces: Namespaces,
    ) -> None:
        self._transit = transit
        self._secret = secret
        self._public_key = public_key
        self._where = where
        self._namespaces = namespaces
        self._failed: set[str] = set()
        self._places: dict[Where, Place] = {}
        self._maker: NetlinkSocket | None = None

    def close(self) -> None:
        """Close all that was opened."""
        for place in self._places.values():
            place.close()
        if self._maker is not None:
            self._maker.close()

    def carry_out(self, run: Sequence[Step]) -> Iterator[Outcome]:
        """Apply one batch; its outcomes in order."""
        late = frozenset(self._failed)
        errors: Errors = {}
        for where, events in self._by_place(event for _, event in run if event.name not in late):
            try:
                errors |= self._dispatch(where, events)
            except MachineError as error:
                errors |= {event.name: f"link {event.name}: {error}" for event in events}
        self._failed |= errors.keys()
        for index, event in run:
            if event.name in late:
                text = f"link {event.name}: left alone after an earlier change of it failed"
                yield Outcome(index, text)
            else:
                yield Outcome(index, errors.get(event.name))

    def _by_place(self, events: Iterable[Event]) -> list[tuple[Where, list[Event]]]:
        found: dict[Where, list[Event]] = {}
        for event in events:
            if isinstance(event, LinkAdded):
                self._where[event.name] = where_of(event.link)
            if isinstance(event, LinkRemoved):
                where = where_of(event.link)
            else:
                where = self._where.get(event.name, ("", ""))
            found.setdefault(where, []).append(event)
        return list(found.items())

    def _dispatch(self, where: Where, events: Sequence[Event]) -> Errors:
        first = events[0]
        if isinstance(first, LinkRemoved):
            return self._remove(where, [event.name for event in events])
        place = self._place(where)
        if isinstance(first, LinkAdded):
            return self._add(place, [e.link for e in events if isinstance(e, LinkAdded)])
        if isinstance(first, LinkUpdated):
            return self._update_links(place, [e for e in events if isinstance(e, LinkUpdated)])
        if isinstance(first, DeviceUpdated):
            return self._update_devices(place, [e for e in events if isinstance(e, DeviceUpdated)])
        if isinstance(first, PeerEvent):
            return _update_peers(place, [e for e in events if isinstance(e, PeerEvent)])
        return {event.name: f"{type(event).__name__} is no change of WireGuard" for event in events}

    def _place(self, where: Where) -> Place:
        if where not in self._places:
            self._places[where] = Place(self._namespaces.open(*where))
        return self._places[where]

    def _remove(self, where: Where, names: Sequence[str]) -> Errors:
        if self._namespaces.is_gone(*where):
            return {}
        return places.remove(self._place(where), names)

    def _add(self, place: Place, links: Sequence[Link]) -> Errors:
        errors = {
            link.name: f"link {link.name}: {why}" for link in links if (why := self._unfit(link))
        }
        fit = [link for link in links if link.name not in errors]
        adding = places.Adding(place, self._transit, self._via_transit(), fit)
        try:
            adding.make()
            adding.configure({link.name: self._device_of(place, link) for link in fit})
            adding.raise_up()
        except MachineError as error:
            return errors | adding.abandon(str(error))
        return errors | adding.finish()

    def _unfit(self, link: Link) -> str | None:
        transit = link.origin.transit
        if transit not in ("", self._transit.identity):
            return "its UDP socket belongs in another network namespace, which this run is not for"
        return self._foreign_key(link.device) or _unfit_peer(link)

    def _foreign_key(self, device: Device) -> str | None:
        if self._secret is None:
            return "there is no private key to give it"
        if device.public_key != self._public_key:
            return (
                f"it is to have public key {device.public_key}, "
                f"but the private key at hand belongs to {self._public_key}"
            )
        return None

    def _via_transit(self) -> NetlinkSocket:
        if self._maker is None:
            self._maker = NetlinkSocket(self._transit, NETLINK_ROUTE)
        return self._maker

    def _device_of(self, place: Place, link: Link) -> list[Request]:
        return wg.set_device(place.family, link.name, write_of(LinkAdded(link)), self._secret)

    def _update_devices(self, place: Place, events: Sequence[DeviceUpdated]) -> Errors:
        errors: Errors = {}
        requests = {}
        for event in events:
            before, after = event.before, event.after
            rekeyed = after.public_key != before.public_key
            error = self._foreign_key(after) if rekeyed else None
            if error:
                errors[event.name] = f"link {event.name}: {error}"
            elif before != after:
                write = write_of(event)
                requests[event.name] = wg.set_device(place.family, event.name, write, self._secret)
        ports = {event.name: event.after.listen_port for event in events}
        for name, refused in places.perform(place.wireguard, requests).items():
            if refused.code == errno.EADDRINUSE:
                errors[name] = places.port_is_taken(name, ports[name], self._transit)
            else:
                errors[name] = f"link {name}: WireGuard's settings could not be set: {refused}"
        return errors

    def _update_links(self, place: Place, events: Sequence[LinkUpdated]) -> Errors:
        found = place.indexes([event.name for event in events])
        errors: Errors = {}
        requests: dict[str, list[Request]] = {}
        for event in events:
            try:
                if event.name not in found:
                    raise MachineError("it is gone")
                requests[event.name] = link_requests(
                    found[event.name], event, _new_master(place, event)
                )
            except MachineError as error:
                errors[event.name] = f"link {event.name}: {error}"
        # An address that someone took away before is what we want, too.
        ignored = (errno.EADDRNOTAVAIL,)
        for name, refused in places.perform(place.rtnl, requests, ignored).items():
            errors[name] = self._not_set(place, name, refused)
        return errors

    def _not_set(self, place: Place, name: str, error: NetlinkError) -> str:
        if error.code == errno.EADDRINUSE:
            digest = partial(keys.psk_digest, self._secret)
            (state,) = _read(place.wireguard, place.family, [name], digest)
            if state is not None:
                return places.port_is_taken(name, state.device.listen_port, self._transit)
        return f"link {name}: its settings could not be changed: {error}"


def _read(
    generic: NetlinkSocket, family: int, names: Sequence[str], psk_digest: wg.PskDigest
) -> list[wg.DeviceState | None]:
    """The devices, in order; None for one that went, or became something else, meanwhile."""
    states: list[wg.DeviceState | None] = []
    for answer in generic.dump_each([wg.get_device(family, name) for name in names]):
        if not isinstance(answer, NetlinkError):
            states.append(wg.decode_device(answer, psk_digest))
        elif answer.code in (errno.ENODEV, errno.EOPNOTSUPP):
            states.append(None)
        else:
            raise answer
    return states


def _observed(ns: Netns, interface: Interface, state: wg.DeviceState) -> ObservedLink:
    return ObservedLink(
        link=Link(
            name=interface.name,
            origin=Origin("kernel", ns.spec, instance=ns.instance),
            settings=LinkSettings(
                mtu=interface.mtu,
                group=interface.group,
                master=interface.master,
                up=interface.up,
                address=interface.address,
            ),
            device=state.device,
            peers=state.peers,
        ),
        handshakes=state.handshakes,
        received=state.received,
        sent=state.sent,
        # WireGuard takes the carrier away with the namespace in which the link was born.
        dead=interface.up and not interface.carrier,
    )


def _unfit_peer(link: Link) -> str | None:
    """Why a peer of the link cannot be written, so that it costs no other link."""
    for peer in link.peers:
        try:
            wg.set_device(0, link.name, write_of(PeerAdded(link.name, peer)))
        except RaitError as error:
            return f"peer {peer.public_key}: {error}"
    return None


def _new_master(place: Place, event: LinkUpdated) -> int | None:
    wanted = event.after.master
    if wanted == event.before.master:
        return None
    return 0 if wanted is None else place.master(wanted)


def _update_peers(place: Place, events: Sequence[PeerEvent]) -> Errors:
    requests: dict[str, list[Request]] = {}
    errors: dict[str, RaitError] = {}
    for event in events:
        try:
            write = write_of(event)
            if write != NOTHING:
                requests[event.name] = wg.set_device(place.family, event.name, write)
        except RaitError as error:
            errors[event.name] = error
    errors |= places.perform(place.wireguard, requests)
    peers = {event.name: _peer_key(event) for event in events}
    return {
        name: f"link {name}: peer {peers[name]} could not be set: {error}"
        for name, error in errors.items()
    }


def _peer_key(event: PeerEvent) -> str:
    return event.after.public_key if isinstance(event, PeerUpdated) else event.peer.public_key

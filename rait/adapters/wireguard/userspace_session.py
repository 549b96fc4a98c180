"""Events carried out on userspace links."""

from __future__ import annotations

import errno
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial

from msgspec import structs

from rait.adapters.namespaces import Namespaces, Where, where_of
from rait.adapters.netlink import rtnl
from rait.adapters.netlink.socket import NetlinkError, Request
from rait.adapters.netns import Netns
from rait.adapters.wireguard import uapi
from rait.adapters.wireguard import userspace_process as programs
from rait.adapters.wireguard.userspace_birth import TUN, Birth, Key, Place, set_port
from rait.domain.backend import Outcome
from rait.domain.errors import RaitError
from rait.domain.events import (
    DeviceUpdated,
    Event,
    LinkAdded,
    LinkRemoved,
    LinkUpdated,
    PeerAdded,
    PeerRemoved,
    PeerUpdated,
)
from rait.domain.topology import Link
from rait.domain.writes import NOTHING, DeviceWrite, write_of

Step = tuple[int, Event]


class Session:
    """One apply: its open namespaces, and the links that failed so far."""

    def __init__(
        self,
        transit: Netns,
        key: Key,
        where: dict[str, Where],
        namespaces: Namespaces,
        served: Mapping[str, str],
    ) -> None:
        self._transit = transit
        self._birthplace: Place | None = None
        self._key = key
        self._where = where
        self._namespaces = namespaces
        self._served = served
        self._failed: set[str] = set()
        self._places: dict[Where, Place] = {}

    def close(self) -> None:
        """Close all that was opened."""
        if self._birthplace is not None:
            self._birthplace.close()
        for place in self._places.values():
            place.close()

    def carry_out(self, run: Sequence[Step]) -> Iterator[Outcome]:
        """Apply what goes together; its outcomes in order."""
        first = run[0][1]
        if isinstance(first, LinkRemoved):
            yield from self._remove(run)
        elif isinstance(first, LinkAdded):
            yield from self._add(run)
        else:
            for index, event in run:
                yield self._outcome(index, event, partial(self._change, event))

    def _outcome(self, index: int, event: Event, action: Callable[[], None]) -> Outcome:
        name = event.name
        if name in self._failed:
            return Outcome(index, f"link {name}: left alone after an earlier change of it failed")
        try:
            action()
        except RaitError as error:
            text = str(error)
        except OSError as error:
            text = error.strerror or str(error)
        else:
            return Outcome(index)
        self._failed.add(name)
        return Outcome(index, text if text.startswith(f"link {name}") else f"link {name}: {text}")

    def _place(self, where: Where) -> Place:
        if where not in self._places:
            self._places[where] = Place(self._namespaces.open(*where))
        return self._places[where]

    def _where_born(self) -> Place:
        if self._birthplace is None:
            self._birthplace = Place(self._transit)
        return self._birthplace

    def _add(self, run: Sequence[Step]) -> Iterator[Outcome]:
        births: dict[str, Birth] = {}
        begun: dict[str, Outcome] = {}
        try:
            for index, event in run:
                if isinstance(event, LinkAdded):
                    birth = Birth(event.link, self._key, self._where_born())
                    births[event.name] = birth
                    begun[event.name] = self._outcome(index, event, birth.begin)
            for index, event in run:
                if begun[event.name].error is not None:
                    yield begun[event.name]
                elif isinstance(event, LinkAdded):
                    finish = partial(self._finish, births[event.name], event.link)
                    yield self._outcome(index, event, finish)
        finally:
            for birth in births.values():
                birth.abandon()

    def _finish(self, birth: Birth, link: Link) -> None:
        birth.finish(self._place(where_of(link)))
        self._where[link.name] = where_of(link)

    def _remove(self, run: Sequence[Step]) -> Iterator[Outcome]:
        removals: dict[str, Removal] = {}
        begun: dict[str, Outcome] = {}
        try:
            for index, event in run:
                if isinstance(event, LinkRemoved):
                    removal = Removal(event.name, self._served.get(event.name, event.name))
                    removals[event.name] = removal
                    begin = partial(self._begin_removal, removal, event.link)
                    begun[event.name] = self._outcome(index, event, begin)
            for index, event in run:
                if begun[event.name].error is not None:
                    yield begun[event.name]
                else:
                    yield self._outcome(index, event, removals[event.name].finish)
        finally:
            for removal in removals.values():
                removal.close()

    def _begin_removal(self, removal: Removal, link: Link) -> None:
        where = where_of(link)
        if self._namespaces.is_gone(*where):
            return  # the tun went with its namespace
        removal.begin(self._place(where))

    def _change(self, event: Event) -> None:
        """Carry out an event of a link that is there. Raises RaitError."""
        if isinstance(event, LinkUpdated):
            place = self._place(self._where.get(event.name, ("", "")))
            place.perform(_link_requests(place, event))
        elif isinstance(event, DeviceUpdated):
            with _client(event.name) as client:
                self._change_device(client, event)
        elif isinstance(event, (PeerAdded, PeerRemoved, PeerUpdated)):
            with _client(event.name) as client:
                _change_peer(client, event)
        else:
            raise RaitError(f"{type(event).__name__} is no change of WireGuard")

    def _change_device(self, client: uapi.Client, event: DeviceUpdated) -> None:
        before, after = event.before, event.after
        write = structs.replace(write_of(event), listen_port=None)
        if write != NOTHING:
            client.set(write, self._key.needed(after) if write.public_key else None)
        if after.listen_port != before.listen_port:
            self._change_port(client, event)

    def _change_port(self, client: uapi.Client, event: DeviceUpdated) -> None:
        # The event's own idea of it may be 0, for a port that the program chose.
        old = client.get().listen_port
        try:
            set_port(client, event.name, event.after.listen_port, self._transit)
        except RaitError:
            # The program gave its old socket up before it knew that it gets no new one.
            with suppress(RaitError):
                client.set(DeviceWrite(listen_port=old))
            raise


class Removal:
    """A link on its way out.

    Its program is told to end, and its tun goes with it: programs end side by side, whereas the
    kernel deletes one tun after the other, with a grace period for each.
    """

    def __init__(self, name: str, made_as: str) -> None:
        self._name = name
        self._made_as = made_as
        self._place: Place | None = None
        self._process: programs.Process | None = None

    def begin(self, place: Place) -> None:
        """Tell the program to end and do not wait for it. Raises RaitError."""
        found = place.find(self._name)
        if found is None:
            return
        if found[1] != TUN:
            raise RaitError(f"it is of kind {found[1] or 'physical'} now, so it is left alone")
        self._place = place
        self._process = _process_of(self._name, self._made_as, place)
        if self._process is not None:
            self._process.signal(programs.SIGTERM)

    def finish(self) -> None:
        """Wait until nothing is left of it, by force if need be. Raises RaitError."""
        if self._process is not None:
            programs.end(self._made_as, self._process, programs.END_SECONDS)
        if self._place is not None:
            _delete_tun(self._name, self._place)
        programs.listening(self._made_as)

    def close(self) -> None:
        """Let go of the process; harmless when that was done already."""
        if self._process is not None:
            self._process.close()


def _delete_tun(name: str, place: Place) -> None:
    """Delete a tun that its program did not take along, or that had no program any more."""
    found = place.find(name)
    if found is None or found[1] != TUN:
        return
    try:
        place.perform([rtnl.delete_link(found[0])])
    except NetlinkError as error:
        if error.code != errno.ENODEV:
            raise


def _process_of(name: str, made_as: str, place: Place) -> programs.Process | None:
    """The program whose tun this is, or None: its socket may belong to a link elsewhere.

    None where one cannot tell, too: a program ends by itself when its tun is deleted.
    """
    try:
        with uapi.Client(made_as) as client:
            pid = client.pid
    except (OSError, uapi.UapiError):
        return None
    try:
        held = programs.hold_owner(name, pid, lambda owner: owner.is_home_in(place.ns))
    except OSError:
        return None
    return None if held is None else held[0]


def _client(name: str) -> uapi.Client:
    try:
        return uapi.Client(name)
    except (FileNotFoundError, ConnectionRefusedError):
        raise RaitError(
            f"no program serves {uapi.socket_path(name)}: it ended; the next sync makes it anew"
        ) from None


def _link_requests(place: Place, event: LinkUpdated) -> list[Request]:
    before, after = event.before, event.after
    index = place.tun(event.name)
    requests = [rtnl.no_generated_address(index)] if after.up and not before.up else []
    master: int | None = None
    if after.master != before.master:
        master = place.master(after.master) or 0
    if structs.replace(after, address=before.address) != before:
        requests.append(
            rtnl.set_link(
                index,
                up=after.up if after.up != before.up else None,
                mtu=after.mtu if after.mtu != before.mtu else None,
                group=after.group if after.group != before.group else None,
                master=master,
            )
        )
    # The kernel takes the address away when a link goes down, which a change of VRF makes it do.
    lost = master is not None or before.up != after.up
    if before.address is not None and after.address != before.address and not lost:
        requests.append(rtnl.delete_address(index, before.address))
    if after.address is not None and (lost or after.address != before.address):
        requests.append(rtnl.add_address(index, after.address))
    return requests


def _change_peer(client: uapi.Client, event: PeerAdded | PeerRemoved | PeerUpdated) -> None:
    if isinstance(event, PeerUpdated):
        # A program passes over an update of a peer that it does not have, and calls that success.
        known = {peer.public_key for peer in client.get().peers}
        if event.before.public_key not in known:
            raise RaitError(f"it has no peer {event.before.public_key}")
    write = write_of(event)
    if write != NOTHING:
        client.set(write)

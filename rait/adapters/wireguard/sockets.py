"""What both WireGuard backends do by netlink in one network namespace, many links at a time.

Changes are given by the links' names, and so are the errors: a link that is not among these is
done. No change stops for one link that fails.
"""

from __future__ import annotations

import errno
from collections.abc import Collection, Iterable, Mapping, Sequence
from functools import cached_property

from msgspec import Struct, structs

from rait.adapters.keys import KeyPair
from rait.adapters.netlink import rtnl
from rait.adapters.netlink import wireguard as wg
from rait.adapters.netlink.socket import (
    NETLINK_GENERIC,
    NETLINK_ROUTE,
    NetlinkError,
    NetlinkSocket,
    Request,
)
from rait.adapters.netns import Netns, describe, open_netns
from rait.domain.errors import MachineError
from rait.domain.events import LinkUpdated
from rait.domain.topology import Link, LinkSettings

TUN = "tun"

_FEW = 8
"""Up to this many links are looked up one by one; for more a list of all is cheaper."""


class Found(Struct, frozen=True):
    """An interface that was looked up by its name; ``kind`` is "" for physical ones."""

    index: int
    kind: str
    group: int


def kernel_has_wireguard() -> bool:
    """Whether this kernel has WireGuard; its module is loaded if need be."""
    try:
        with open_netns("") as here, Sockets(here) as sockets:
            return sockets.family > 0
    except MachineError:
        return False


class Sockets:
    """A network namespace and the netlink sockets in it, each opened when it is first used."""

    def __init__(self, ns: Netns) -> None:
        self.ns = ns
        self._masters: dict[str, int] = {}

    @cached_property
    def rtnl(self) -> NetlinkSocket:
        """For interfaces and addresses, rtnetlink(7). Raises MachineError."""
        return NetlinkSocket(self.ns, NETLINK_ROUTE)

    @cached_property
    def wireguard(self) -> NetlinkSocket:
        """For the kernel's WireGuard devices. Raises MachineError."""
        return NetlinkSocket(self.ns, NETLINK_GENERIC)

    @cached_property
    def family(self) -> int:
        """The number of WireGuard's netlink family. Raises MachineError, and says what to do."""
        try:
            return wg.find_family(self.wireguard)
        except NetlinkError as error:
            if error.code != errno.ENOENT:
                raise
            raise MachineError(
                "this kernel has no WireGuard: `modprobe wireguard`, or install a kernel that has "
                "it"
            ) from error

    def __enter__(self) -> Sockets:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the sockets; the namespace stays open."""
        for opened in vars(self).values():
            if isinstance(opened, NetlinkSocket):
                opened.close()

    def find(self, name: str) -> Found | None:
        """An interface, or None where it does not exist. Raises MachineError."""
        try:
            (body,) = self.rtnl.ask(rtnl.get_link(name))
        except NetlinkError as error:
            if error.code == errno.ENODEV:
                return None
            raise
        index, _, attributes = rtnl.attributes_of_link(body)
        return Found(index, rtnl.kind_of(attributes), attributes.get(rtnl.IFLA_GROUP, 0))

    def indexes(self, names: Collection[str], kind: str) -> dict[str, int]:
        """The indexes of those that exist and are of this kind. Raises MachineError."""
        if len(names) > _FEW:
            every, wanted = rtnl.indexes(self.rtnl, kind), frozenset(names)
            return {name: index for name, index in every if name in wanted}
        found = {name: self.find(name) for name in names}
        return {name: each.index for name, each in found.items() if each and each.kind == kind}

    def master(self, name: str) -> int:
        """The index of the VRF that links are enslaved to. Raises MachineError."""
        if name not in self._masters:
            found = self.find(name)
            if found is None:
                raise MachineError(f"VRF {name} does not exist in {describe(self.ns.spec)}")
            self._masters[name] = found.index
        return self._masters[name]

    def perform(self, *requests: Request) -> None:
        """Send requests of rtnetlink. Raises the NetlinkError of the first that failed."""
        for error in self.rtnl.perform(requests):
            if error is not None:
                raise error


def perform(
    via: NetlinkSocket, requests: Mapping[str, Iterable[Request]], ignored: Sequence[int] = ()
) -> dict[str, NetlinkError]:
    """Send all requests; the first error of each name whose errno is not ``ignored``."""
    owners = [(name, request) for name, own in requests.items() for request in own]
    errors: dict[str, NetlinkError] = {}
    for (name, _), error in zip(owners, via.perform([r for _, r in owners]), strict=True):
        if error is not None and error.code not in ignored:
            errors.setdefault(name, error)
    return errors


def update_settings(
    via: Sockets, kind: str, events: Sequence[LinkUpdated], indexes: Mapping[str, int] | None = None
) -> dict[str, MachineError]:
    """Change interfaces of one kind: of each no more than what differs. Raises MachineError.

    Their indexes are looked up where the caller does not know them.
    """
    if indexes is None:
        indexes = via.indexes([event.name for event in events], kind)
    errors: dict[str, MachineError] = {}
    requests: dict[str, list[Request]] = {}
    for event in events:
        try:
            if event.name not in indexes:
                raise MachineError("it is gone")
            index, master = indexes[event.name], _new_master(via, event)
            requests[event.name] = _requests(index, kind, event.before, event.after, master)
        except MachineError as error:
            errors[event.name] = error
    # An address that someone took away before is what we want, too.
    return errors | perform(via.rtnl, requests, (errno.EADDRNOTAVAIL,))


def _new_master(via: Sockets, event: LinkUpdated) -> int | None:
    """The index of the new VRF, 0 for none, and None where it does not change."""
    wanted = event.after.master
    if wanted == event.before.master:
        return None
    return 0 if wanted is None else via.master(wanted)


def _requests(
    index: int, kind: str, before: LinkSettings, after: LinkSettings, master: int | None
) -> list[Request]:
    requests = []
    if kind == TUN and after.up and not before.up:
        requests.append(rtnl.no_generated_address(index))
    if before.address is not None and after.address != before.address:
        requests.append(rtnl.delete_address(index, before.address))
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
    # Going down takes the address away, and a link that is up goes down to change its VRF.
    lost = master is not None or before.up != after.up
    if after.address is not None and (lost or after.address != before.address):
        requests.append(rtnl.add_address(index, after.address))
    return requests


def first_update(link: Link, master: str | None) -> LinkUpdated:
    """What is left to do for a new interface, which is down, has no address, and this master."""
    wanted = link.settings
    bare = structs.replace(wanted, master=master, up=False, address=None)
    return LinkUpdated(link.name, bare, wanted)


def check_is_for(link: Link, transit: Netns, key: KeyPair) -> None:
    """Raise MachineError where a run from this namespace, with this key, cannot make the link."""
    if link.origin.transit not in ("", transit.identity):
        raise MachineError(
            "its UDP socket belongs in another network namespace, which this run is not for"
        )
    key.secret_of(link.device.public_key)


def port_is_taken(port: int, transit: Netns) -> str:
    """The text for EADDRINUSE, which comes when a link is raised or its port is changed."""
    spec = transit.spec
    inside = (
        f"nsenter -t {spec} -n " if spec.isdigit() else f"ip netns exec {spec} " if spec else ""
    )
    return (
        f"listen port {port} is taken in {describe(spec)}; "
        f"`{inside}ss -ulpn sport = :{port}` shows by whom "
        "(where it shows no process, by another WireGuard link)"
    )


def name_is_taken(ns: Netns) -> str:
    """The text for EEXIST, which comes when a link is to get into a namespace."""
    return (
        f"an interface that is not ours has this name in {describe(ns.spec)}; rename or remove "
        "that one, or choose another ifprefix"
    )

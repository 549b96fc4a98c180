"""What both WireGuard backends do by netlink in one network namespace, with many links at a time.

Functions take changes by the name of a link, and give errors by name: a link without an error is
done. A link that fails does not stop the others.
"""

from __future__ import annotations

import errno
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from functools import cached_property

from msgspec import structs

from rait.adapters.closing import Closing
from rait.adapters.keys import KeyPair
from rait.adapters.netlink import rtnl
from rait.adapters.netlink.rtnl import FoundInterface
from rait.adapters.netlink.socket import (
    NETLINK_GENERIC,
    NETLINK_ROUTE,
    NetlinkError,
    NetlinkSocket,
    Request,
    find_family,
)
from rait.adapters.netns import Netns, describe, is_pid, open_netns
from rait.domain.errors import MachineError, RaitError
from rait.domain.events import LinkUpdated
from rait.domain.topology import Link

TUN = "tun"

_WITHOUT_IPV6 = (errno.EACCES, errno.EOPNOTSUPP)
"""What the kernel says to an address where IPv6 is disabled; older kernels say no more."""
_ALLOW_IPV6 = "enable IPv6 there: links need it (`sysctl net.ipv6.conf.all.disable_ipv6=0`)"

_FEW = 8
"""The most links that are looked up one by one. For more, a list of all links is cheaper."""


def kernel_has_wireguard() -> bool:
    """Whether this kernel has WireGuard. The question makes the kernel load its module."""
    try:
        with open_netns("") as here, Sockets(here) as sockets:
            return sockets.family > 0
    except MachineError:
        return False


class Sockets(Closing):
    """A network namespace and netlink sockets in it, each opened on first use."""

    def __init__(self, ns: Netns) -> None:
        self.ns = ns
        self._masters: dict[str, int] = {}

    @cached_property
    def rtnl(self) -> NetlinkSocket:
        """The socket for interfaces and addresses (rtnetlink(7)). Raises MachineError."""
        return NetlinkSocket(self.ns, NETLINK_ROUTE)

    @cached_property
    def wireguard(self) -> NetlinkSocket:
        """The socket for the kernel's WireGuard devices. Raises MachineError."""
        return NetlinkSocket(self.ns, NETLINK_GENERIC)

    @cached_property
    def family(self) -> int:
        """The number of WireGuard's netlink family. Raises MachineError without WireGuard."""
        try:
            return find_family(self.wireguard, rtnl.WIREGUARD)
        except NetlinkError as error:
            if error.code != errno.ENOENT:
                raise
            raise MachineError(
                "this kernel has no WireGuard: try `modprobe wireguard`, or install a kernel that "
                "has WireGuard"
            ) from error

    def close(self) -> None:
        """Close the sockets; the namespace stays open."""
        for opened in vars(self).values():
            if isinstance(opened, NetlinkSocket):
                opened.close()

    def find(self, name: str) -> FoundInterface | None:
        """An interface of the namespace, or None. Raises MachineError."""
        return rtnl.find(self.rtnl, name)

    def indexes(self, names: Collection[str], kind: str) -> dict[str, int]:
        """The indexes of those interfaces that exist and are of this kind. Raises MachineError."""
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


def perform(
    via: NetlinkSocket, names: Iterable[str], make: Callable[[str], list[Request]]
) -> dict[str, RaitError]:
    """Send the requests that ``make`` gives for each name, and give by name the first error.

    What ``make`` raises is an error of its name. To delete what is gone already is none.
    """
    owners: list[tuple[str, Request]] = []
    errors: dict[str, RaitError] = {}
    for name in names:
        try:
            owners += [(name, request) for request in make(name)]
        except RaitError as error:
            errors[name] = error
    for (name, request), refused in zip(owners, via.perform([r for _, r in owners]), strict=True):
        if refused is not None and refused.code != request.gone:
            errors.setdefault(name, _explained(request, refused))
    return errors


def _explained(request: Request, refused: NetlinkError) -> MachineError:
    if not request.about:
        return refused
    is_off = request.kind == rtnl.RTM_NEWADDR and refused.code in _WITHOUT_IPV6
    hint = f"; {_ALLOW_IPV6}" if is_off else ""
    return MachineError(f"{request.about}: {refused}{hint}")


def update_settings(
    via: Sockets, kind: str, events: Sequence[LinkUpdated], indexes: Mapping[str, int] | None = None
) -> dict[str, RaitError]:
    """Change interfaces of one kind, each in no more than what differs, and give errors by name.

    ``indexes`` are looked up if they are not given. Raises MachineError if that fails.
    """
    updates = {event.name: event for event in events}
    found = via.indexes(updates, kind) if indexes is None else indexes

    def change(name: str) -> list[Request]:
        if name not in found:
            raise MachineError("it is gone")
        return _changes(found[name], kind, updates[name], _new_master(via, updates[name]))

    errors = perform(via.rtnl, updates, change)
    # Addresses go once the new ones are there, so that what can do without them goes on working.
    rest = [name for name in updates if name not in errors]
    return errors | perform(via.rtnl, rest, lambda name: _farewells(found[name], updates[name]))


def _new_master(via: Sockets, event: LinkUpdated) -> int | None:
    """The index of the VRF that the link goes to, 0 for none, or None if the VRF stays."""
    wanted = event.after.master
    if wanted == event.before.master:
        return None
    return 0 if wanted is None else via.master(wanted)


def _changes(index: int, kind: str, event: LinkUpdated, master: int | None) -> list[Request]:
    """All that changes but the addresses that go."""
    before, after = event.before, event.after
    requests = []
    if kind == TUN and after.up and not before.up:
        requests.append(rtnl.no_generated_address(index))
    change = {
        field: getattr(after, field)
        for field in ("up", "mtu", "group")
        if getattr(after, field) != getattr(before, field)
    }
    if change or master is not None:
        requests.append(rtnl.set_link(index, **change, master=master))
    # The kernel deletes the IPv6 addresses of a link that goes down, and has a link that is up go
    # down for a moment when its VRF changes.
    lost = master is not None or before.up != after.up
    new = [a for a in after.all_addresses if a not in before.all_addresses or (lost and ":" in a)]
    return [*requests, *(rtnl.add_address(index, address) for address in new)]


def _farewells(index: int, event: LinkUpdated) -> list[Request]:
    """Take away the addresses that go.

    To the kernel, two addresses may be one although their prefix lengths or peers differ: then the
    new one can only be added after the old one is gone.
    """
    before, after = event.before, event.after
    going = [a for a in before.all_addresses if a not in after.all_addresses]
    if not going:
        return []
    new = [a for a in after.all_addresses if a not in before.all_addresses]
    requests = [rtnl.promote_secondaries(index)] if not all(":" in a for a in going) else []
    requests += [rtnl.delete_address(index, address) for address in going]
    return [*requests, *(rtnl.add_address(index, address) for address in new)]


def first_update(link: Link, master: str | None) -> LinkUpdated:
    """The update that a new interface needs, which is down and has this master and no address."""
    wanted = link.settings
    bare = structs.replace(wanted, master=master, up=False, address=None, addresses=())
    return LinkUpdated(link.name, bare, wanted)


def check_is_for(link: Link, transit: Netns, key: KeyPair) -> None:
    """Raise MachineError if a run with this transit namespace and key cannot make the link."""
    if link.origin.transit not in ("", transit.identity):
        raise MachineError(
            "its UDP socket belongs in another network namespace than the transit of this run"
        )
    key.secret_of(link.device.public_key)


def port_is_taken(port: int, transit: Netns) -> str:
    """The message for EADDRINUSE from raising a link or changing its listen port."""
    spec = transit.spec
    inside = f"nsenter -t {spec} -n " if is_pid(spec) else f"ip netns exec {spec} " if spec else ""
    return (
        f"listen port {port} is taken in {describe(spec)}; "
        f"`{inside}ss -ulpn sport = :{port}` shows by which process "
        "(if it shows none, by another WireGuard link)"
    )


def name_is_taken(ns: Netns) -> str:
    """The message for EEXIST from making a link in a namespace, or moving one to it."""
    return (
        f"an interface that is not ours has this name in {describe(ns.spec)}; rename or delete "
        "that one, or choose another ifprefix"
    )

"""Changes to the kernel's WireGuard links in one network namespace, many links at a time.

Every function here takes what to do by link name and gives the errors by link name: a link that
is not among them is done. None of them stops for one link that fails.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterable, Mapping, Sequence

from rait.adapters.netlink import rtnl
from rait.adapters.netlink import wireguard as wg
from rait.adapters.netlink.socket import (
    NETLINK_GENERIC,
    NETLINK_ROUTE,
    NetlinkError,
    NetlinkSocket,
    Request,
)
from rait.adapters.netns import Netns, describe
from rait.domain.config.schema import PRIVATE_GROUPS
from rait.domain.errors import MachineError
from rait.domain.topology import Link

Errors = dict[str, str]

_AT_ONCE = 16
"""So many groups of links are removed side by side."""

_FEW = 8
"""Up to this many links are looked up one by one; for more a list of all is cheaper."""
_FEW_REMOVALS = 2


class Place:
    """A target namespace with the sockets that change it, for the length of one apply."""

    def __init__(self, ns: Netns) -> None:
        self.ns = ns
        self.rtnl = NetlinkSocket(ns, NETLINK_ROUTE)
        try:
            self.wireguard = NetlinkSocket(ns, NETLINK_GENERIC)
        except BaseException:
            self.rtnl.close()
            raise
        try:
            self.family = find_family(self.wireguard)
        except BaseException:
            self.rtnl.close()
            self.wireguard.close()
            raise
        self._masters: dict[str, int] = {}

    def close(self) -> None:
        """Close the sockets; the namespace stays open."""
        self.rtnl.close()
        self.wireguard.close()

    def indexes(self, names: Sequence[str]) -> dict[str, int]:
        """Indexes by name of those that exist and are WireGuard links. Raises MachineError."""
        if len(names) > _FEW:
            wanted = frozenset(names)
            return {name: index for name, index in rtnl.indexes(self.rtnl) if name in wanted}
        found = {}
        for name in names:
            link = self._find(name)
            if link and link[1] == rtnl.WIREGUARD:
                found[name] = link[0]
        return found

    def master(self, name: str) -> int:
        """The index of the interface that links are enslaved to. Raises MachineError."""
        if name not in self._masters:
            link = self._find(name)
            if link is None:
                raise MachineError(f"VRF {name} does not exist in {describe(self.ns.spec)}")
            self._masters[name] = link[0]
        return self._masters[name]

    def _find(self, name: str) -> tuple[int, str] | None:
        try:
            bodies = self.rtnl.ask(rtnl.get_link(name))
        except NetlinkError as error:
            if error.code == errno.ENODEV:
                return None
            raise
        for body in bodies:
            index, _, found = rtnl.attributes_of_link(body)
            return index, rtnl.kind_of(found)
        return None


def find_family(generic: NetlinkSocket) -> int:
    """WireGuard's generic netlink family. Raises MachineError that says what is missing."""
    try:
        return wg.find_family(generic)
    except NetlinkError as error:
        if error.code != errno.ENOENT:
            raise
        raise MachineError(
            "this kernel has no WireGuard: `modprobe wireguard`, or install a kernel that has it"
        ) from error


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


def port_is_taken(name: str, port: int, transit: Netns) -> str:
    """The text for EADDRINUSE, which comes when a link is raised or its port is changed."""
    spec = transit.spec
    inside = (
        f"nsenter -t {spec} -n " if spec.isdigit() else f"ip netns exec {spec} " if spec else ""
    )
    return (
        f"link {name}: listen port {port} is taken in {describe(spec)}; "
        f"`{inside}ss -ulpn sport = :{port}` shows by whom "
        "(where it shows no process, by another WireGuard link)"
    )


def remove(place: Place, names: Sequence[str]) -> Errors:
    """Remove links; one that is gone already counts as removed."""
    found = place.indexes(names)
    if len(found) <= _FEW_REMOVALS:
        return _remove_one_by_one(place, found)
    private = _private_groups()
    groups = {name: private[i % len(private)] for i, name in enumerate(found)}
    # A group can be removed in one request, but the user's group may hold links that are not ours.
    moves = {n: [rtnl.set_link(index, group=groups[n])] for n, index in found.items()}
    unmoved = perform(place.rtnl, moves)
    stubborn = _remove_groups(place.ns, {g for n, g in groups.items() if n not in unmoved})
    rest = {n: i for n, i in found.items() if n in unmoved or groups[n] in stubborn}
    return _remove_one_by_one(place, rest)


def _private_groups() -> range:
    """Groups for links on their way out: this process's own, as another rait may be removing too.

    A link that is found in one later was left behind by a removal that was killed (reconcile.py).
    """
    first = PRIVATE_GROUPS + os.getpid() % 4096 * _AT_ONCE
    return range(first, first + _AT_ONCE)


def _remove_one_by_one(place: Place, found: Mapping[str, int]) -> Errors:
    requests = {name: [rtnl.delete_link(index)] for name, index in found.items()}
    return {
        name: f"link {name} could not be removed: {error}"
        for name, error in perform(place.rtnl, requests, (errno.ENODEV,)).items()
    }


def _remove_groups(ns: Netns, groups: Iterable[int]) -> set[int]:
    """Remove the links of the groups; the groups for which that failed.

    The kernel waits for a grace period in each request, and waits for several sockets at once.
    """
    stubborn: set[int] = set()

    def remove_group(via: NetlinkSocket, group: int) -> None:
        try:
            if any(via.perform([rtnl.delete_group(group)])):
                stubborn.add(group)
        except MachineError:
            stubborn.add(group)

    from threading import Thread

    sockets: list[NetlinkSocket] = []
    try:
        threads = []
        for group in groups:
            sockets.append(NetlinkSocket(ns, NETLINK_ROUTE))
            threads.append(Thread(target=remove_group, args=(sockets[-1], group)))
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    finally:
        for via in sockets:
            via.close()
    return stubborn


class Adding:
    """The making of new links, step by step; ``errors`` are those that failed so far.

    ``finish`` takes back what was made of these.
    """

    def __init__(
        self, place: Place, transit: Netns, via: NetlinkSocket, links: Iterable[Link]
    ) -> None:
        self.errors: Errors = {}
        self._place = place
        self._transit = transit
        self._via = via
        self._links = {link.name: link for link in links}
        self._made: dict[str, int] = {}

    def make(self) -> None:
        """Make the interfaces in the target namespace, their UDP sockets in the transit one."""
        requests: dict[str, list[Request]] = {}
        for name, link in self._links.items():
            wanted = link.settings
            try:
                master = None if wanted.master is None else self._place.master(wanted.master)
            except MachineError as error:
                self.errors[name] = f"link {name}: {error}"
                continue
            fd = self._place.ns.fd
            requests[name] = [rtnl.new_wireguard(name, fd, wanted.mtu, wanted.group, master)]
        for name, refused in perform(self._via, requests).items():
            self.errors[name] = self._not_made(name, refused)
        made = [name for name in requests if name not in self.errors]
        found = self._place.indexes(made) if made else {}
        for name in made:
            if name in found:
                self._made[name] = found[name]
            else:
                self.errors[name] = (
                    f"link {name} was removed by someone else as soon as it was made"
                )

    def configure(self, requests: Mapping[str, Sequence[Request]]) -> None:
        """Write keys, ports and peers; ``requests`` are those of ``set_device`` by link name."""
        wanted = {name: requests[name] for name in self._alive()}
        self._note("WireGuard's settings", perform(self._place.wireguard, wanted))
        addresses = {
            name: [rtnl.add_address(index, address)]
            for name, index in self._alive().items()
            if (address := self._links[name].settings.address) is not None
        }
        self._note("its link-local address", perform(self._place.rtnl, addresses))

    def raise_up(self) -> None:
        """Raise the links, which is when the kernel binds their listen ports."""
        requests = {
            name: [rtnl.set_link(index, up=True)]
            for name, index in self._alive().items()
            if self._links[name].settings.up
        }
        for name, error in perform(self._place.rtnl, requests).items():
            if error.code == errno.EADDRINUSE:
                port = self._links[name].device.listen_port
                self.errors[name] = port_is_taken(name, port, self._transit)
            else:
                self.errors[name] = f"link {name} could not be raised: {error}"

    def finish(self) -> Errors:
        """Remove the links that failed on the way; all errors."""
        failed = {name: index for name, index in self._made.items() if name in self.errors}
        if failed:
            for name, text in _remove_one_by_one(self._place, failed).items():
                self.errors[name] += f"; {text}"
        return self.errors

    def abandon(self, reason: str) -> Errors:
        """Fail all links that have not failed yet, and take back what was made; all errors."""
        for name in self._links:
            self.errors.setdefault(name, f"link {name}: {reason}")
        return self.finish()

    def _alive(self) -> dict[str, int]:
        return {name: index for name, index in self._made.items() if name not in self.errors}

    def _note(self, what: str, errors: Mapping[str, NetlinkError]) -> None:
        for name, error in errors.items():
            self.errors[name] = f"link {name}: {what} could not be set: {error}"

    def _not_made(self, name: str, error: NetlinkError) -> str:
        where = describe(self._place.ns.spec)
        if error.code == errno.EEXIST:
            return (
                f"link {name} could not be made: an interface that is not ours has this name in "
                f"{where}; rename or remove that one, or choose another ifprefix"
            )
        return f"link {name} could not be made in {where}: {error}"

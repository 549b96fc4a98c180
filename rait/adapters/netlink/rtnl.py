"""Interfaces and their addresses, by rtnetlink(7)."""

from __future__ import annotations

import errno
import socket
import struct
from collections.abc import Iterator, Sequence
from functools import lru_cache
from struct import Struct
from typing import Any

from msgspec import Struct as Record

from rait.adapters.netlink.picker import BYTES, U32, Picker
from rait.adapters.netlink.socket import (
    NETLINK_ROUTE,
    NLM_F_CREATE,
    NLM_F_EXCL,
    NLM_F_REPLACE,
    MalformedError,
    NetlinkError,
    NetlinkSocket,
    Request,
    attribute,
    attributes,
    nested,
    number,
    number_in,
)
from rait.adapters.netns import Netns
from rait.domain.backend import Interface
from rait.domain.config.hosts import ifname_bytes, ifname_text
from rait.domain.errors import MachineError, counted
from rait.domain.topology import is_link_local

# linux/rtnetlink.h, linux/if_link.h, linux/if_addr.h, linux/if.h
RTM_NEWLINK = 16
RTM_DELLINK = 17
RTM_GETLINK = 18
RTM_SETLINK = 19
RTM_NEWADDR = 20
RTM_DELADDR = 21
RTM_GETADDR = 22
IFLA_IFNAME = 3
IFLA_MTU = 4
IFLA_MASTER = 10
IFLA_LINKINFO = 18
IFLA_IFALIAS = 20
IFLA_AF_SPEC = 26
IFLA_GROUP = 27
IFLA_NET_NS_FD = 28
IFLA_EXT_MASK = 29
IFLA_INFO_KIND = 1
IFLA_INFO_DATA = 2
IFLA_VRF_TABLE = 1
IFLA_INET6_ADDR_GEN_MODE = 8
IN6_ADDR_GEN_MODE_NONE = 1
IFA_ADDRESS = 1
IFA_LOCAL = 2
IFA_FLAGS = 8
IFA_F_NODAD = 0x02
IFA_F_PERMANENT = 0x80
RT_SCOPE_UNIVERSE = 0
IFLA_INET_CONF = 1
IPV4_DEVCONF_PROMOTE_SECONDARIES = 20
IFF_UP = 0x1
IFF_LOWER_UP = 0x10000
RTEXT_FILTER_SKIP_STATS = 0x8
WIREGUARD = "wireguard"
VRF = "vrf"

_IFINFO = Struct("=BxHiII")
_IFADDR = Struct("=BBBBI")
_SKIP_STATS = number(IFLA_EXT_MASK, RTEXT_FILTER_SKIP_STATS)
_of_link = Picker(
    {
        IFLA_IFNAME: BYTES,
        IFLA_MTU: U32,
        IFLA_MASTER: U32,
        IFLA_LINKINFO: BYTES,
        IFLA_GROUP: U32,
        IFLA_IFALIAS: BYTES,
    },
    _IFINFO.size,
)
_of_address = Picker({IFA_ADDRESS: BYTES, IFA_LOCAL: BYTES}, _IFADDR.size)
_SIZES = {socket.AF_INET: 4, socket.AF_INET6: 16}


class FoundInterface(Record, frozen=True, gc=False):
    """An interface that was looked up by name; ``kind`` is "" for a physical one.

    ``table`` is the routing table of a VRF, None for any other interface.
    """

    index: int
    kind: str
    group: int
    table: int | None = None


def find(rtnl: NetlinkSocket, name: str) -> FoundInterface | None:
    """An interface of the socket's namespace, or None. Raises MachineError."""
    try:
        (body,) = rtnl.ask(get_link(name))
    except NetlinkError as error:
        if error.code == errno.ENODEV:
            return None
        raise
    index, _, found = attributes_of_link(body)
    return FoundInterface(index, kind_of(found), found.get(IFLA_GROUP, 0), vrf_table(found))


def interfaces(ns: Netns) -> dict[str, Interface]:
    """All interfaces of a namespace by name. Raises MachineError."""
    with NetlinkSocket(ns, NETLINK_ROUTE) as rtnl:
        return read_interfaces(rtnl)


def read_interfaces(rtnl: NetlinkSocket) -> dict[str, Interface]:
    """All interfaces of the socket's namespace, by name. Raises MachineError."""
    links = [attributes_of_link(body) for body in rtnl.dump(list_links())]
    addresses: dict[int, list[str]] = {}
    for body in rtnl.dump(list_addresses()):
        index, address = decode_address(body)
        if address is not None:
            addresses.setdefault(index, []).append(address)
    names = {index: _text(found[IFLA_IFNAME]) for index, _, found in links if IFLA_IFNAME in found}
    return {
        names[index]: _interface(index, flags, found, names, addresses.get(index, ()))
        for index, flags, found in links
        if index in names
    }


def list_links(kind: str | None = None) -> Request:
    """A request for a dump of all interfaces, or of those of one kind."""
    only = nested(IFLA_LINKINFO, [attribute(IFLA_INFO_KIND, kind.encode())]) if kind else b""
    return Request(RTM_GETLINK, 0, _ifinfo() + _SKIP_STATS + only)


def get_link(name: str) -> Request:
    """A request for one interface by its name."""
    return Request(RTM_GETLINK, 0, _ifinfo() + _SKIP_STATS + _name(name))


def get_link_at(index: int) -> Request:
    """A request for one interface by its index."""
    return Request(RTM_GETLINK, 0, _ifinfo(index) + _SKIP_STATS)


def list_addresses() -> Request:
    """A request for a dump of all addresses."""
    return Request(RTM_GETADDR, 0, _IFADDR.pack(socket.AF_UNSPEC, 0, 0, 0, 0))


def new_wireguard(name: str, target_fd: int, mtu: int, group: int, master: int | None) -> Request:
    """Make a WireGuard interface in the namespace behind ``target_fd``.

    Its UDP socket lives in the namespace of the netlink socket that sends this request. ``master``
    is the index of a VRF in the target namespace; if the kernel cannot enslave the interface to
    it, no interface is left.
    """
    numbers = _numbers(
        (IFLA_MTU, mtu), (IFLA_GROUP, group), (IFLA_NET_NS_FD, target_fd), (IFLA_MASTER, master)
    )
    kind = nested(IFLA_LINKINFO, [attribute(IFLA_INFO_KIND, WIREGUARD.encode())])
    body = _ifinfo() + _name(name) + numbers + kind
    return Request(RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, body)


def set_link(
    index: int,
    *,
    up: bool | None = None,
    mtu: int | None = None,
    group: int | None = None,
    master: int | None = None,
) -> Request:
    """Change what is not None of an interface; ``master`` 0 takes it out of its VRF."""
    head = _ifinfo(index, IFF_UP if up else 0, 0 if up is None else IFF_UP)
    numbers = _numbers((IFLA_MTU, mtu), (IFLA_GROUP, group), (IFLA_MASTER, master))
    return Request(RTM_SETLINK, 0, head + numbers)


def move_link(index: int, target_fd: int, mtu: int, group: int) -> Request:
    """Move an interface into the namespace behind ``target_fd``, where it arrives down.

    The request also keeps the kernel from adding a link-local address of its own, as it does for a
    tun that is raised: the interface shall have no other one than ours.
    """
    numbers = _numbers((IFLA_NET_NS_FD, target_fd), (IFLA_MTU, mtu), (IFLA_GROUP, group))
    return Request(RTM_SETLINK, 0, _ifinfo(index) + numbers + _no_generated_address())


def no_generated_address(index: int) -> Request:
    """Keep the kernel from giving an interface a link-local address of its own (addrconf.c)."""
    return Request(RTM_SETLINK, 0, _ifinfo(index) + _no_generated_address())


def delete_link(index: int) -> Request:
    """Delete one interface."""
    return Request(RTM_DELLINK, 0, _ifinfo(index), gone=errno.ENODEV)


def delete_group(group: int) -> Request:
    """Delete all interfaces of a group in the socket's namespace."""
    return Request(RTM_DELLINK, 0, _ifinfo() + number(IFLA_GROUP, group))


def add_address(index: int, address: str) -> Request:
    """Add an address (see LinkSettings); one that is there is no error.

    There is no duplicate address detection, as nobody else on a tunnel chooses this address. Raises
    MachineError for a text that is no address.
    """
    flags = number(IFA_FLAGS, IFA_F_PERMANENT | IFA_F_NODAD) if ":" in address else b""
    body = _address(index, address) + flags
    return Request(RTM_NEWADDR, NLM_F_CREATE | NLM_F_REPLACE, body, about=f"address {address}")


def delete_address(index: int, address: str) -> Request:
    """Delete an address (see LinkSettings)."""
    body, about = _address(index, address), f"address {address}"
    return Request(RTM_DELADDR, 0, body, gone=errno.EADDRNOTAVAIL, about=about)


def promote_secondaries(index: int) -> Request:
    """Have the kernel keep the other IPv4 addresses of a subnet when it deletes the first one.

    By default it deletes all of the subnet with the first (ip-sysctl.rst, promote_secondaries).
    """
    conf = nested(IFLA_INET_CONF, [number(IPV4_DEVCONF_PROMOTE_SECONDARIES, 1)])
    spec = nested(IFLA_AF_SPEC, [nested(socket.AF_INET, [conf])])
    return Request(RTM_SETLINK, 0, _ifinfo(index) + spec)


def attributes_of_link(body: bytes) -> tuple[int, int, dict[int, Any]]:
    """Index, flags (netdevice(7)) and wanted attributes in a message about an interface.

    Raises MalformedError.
    """
    found = _of_link(body)
    _, _, index, flags, _ = _IFINFO.unpack_from(body)
    return index, flags, found


def decode_name(body: bytes) -> tuple[int, str]:
    """Index and name in a message about an interface. Raises MalformedError.

    The name comes first, so this takes a tenth of the time of ``attributes_of_link`` where messages
    about interfaces of many kinds come one by one.
    """
    if len(body) < _IFINFO.size:
        raise MalformedError(f"an interface has a body of {counted(len(body), 'byte')}")
    _, _, index, _, _ = _IFINFO.unpack_from(body)
    found = attributes(body, _IFINFO.size)
    return index, next((_text(value) for kind, value in found if kind == IFLA_IFNAME), "")


def decode_address(body: bytes) -> tuple[int, str | None]:
    """The interface's index in a message about an address, and the address; None for no IP one."""
    found = _of_address(body)
    family, prefix, _, _, index = _IFADDR.unpack_from(body)
    far = found.get(IFA_ADDRESS, b"")
    own = found.get(IFA_LOCAL, far)
    size = _SIZES.get(family)
    if len(own) != size:
        return index, None
    if own == far or len(far) != size:
        return index, f"{socket.inet_ntop(family, own)}/{prefix}"
    peer = socket.inet_ntop(family, far)
    return index, f"{socket.inet_ntop(family, own)} peer {peer}/{prefix}"


def indexes(rtnl: NetlinkSocket, kind: str) -> Iterator[tuple[str, int]]:
    """Names and indexes of the interfaces of one kind in the socket's namespace."""
    for body in rtnl.dump(list_links(kind)):
        index, _, found = attributes_of_link(body)
        # Kernels before 4.6 do not filter.
        if IFLA_IFNAME in found and kind_of(found) == kind:
            yield _text(found[IFLA_IFNAME]), index


def kind_of(found: dict[int, Any]) -> str:
    """The kind of an interface (IFLA_INFO_KIND), as "wireguard" or "vrf"; "" if it has none."""
    info = found.get(IFLA_LINKINFO)
    return _kind_in(info) if info else ""


@lru_cache(maxsize=64)  # all interfaces of a kind without settings have the same bytes
def _kind_in(info: bytes) -> str:
    return _text(dict(attributes(info)).get(IFLA_INFO_KIND, b""))


def vrf_table(found: dict[int, Any]) -> int | None:
    """The routing table of an interface that is a VRF, None for any other."""
    if kind_of(found) != VRF:
        return None
    info = dict(attributes(found[IFLA_LINKINFO]))
    data = dict(attributes(info.get(IFLA_INFO_DATA, b"")))
    return number_in(data, IFLA_VRF_TABLE, 0)


def _interface(
    index: int, flags: int, found: dict[int, Any], names: dict[int, str], addresses: Sequence[str]
) -> Interface:
    master = found.get(IFLA_MASTER)
    kind = kind_of(found)
    first = next(filter(is_link_local, addresses), None)
    rest = [each for each in addresses if each != first]
    return Interface(
        name=names[index],
        index=index,
        kind=kind,
        mtu=found.get(IFLA_MTU, 0),
        group=found.get(IFLA_GROUP, 0),
        up=bool(flags & IFF_UP),
        carrier=bool(flags & IFF_LOWER_UP),
        master=names.get(master) if master else None,
        address=first,
        table=vrf_table(found) if kind == VRF else None,
        alias=_text(found.get(IFLA_IFALIAS, b"")) if kind == VRF else "",
        addresses=tuple(sorted(rest)) if rest else (),
    )


def _ifinfo(index: int = 0, flags: int = 0, change: int = 0) -> bytes:
    return _IFINFO.pack(socket.AF_UNSPEC, 0, index, flags, change)


def _no_generated_address() -> bytes:
    """IFLA_AF_SPEC that sets IN6_ADDR_GEN_MODE_NONE (linux/if_link.h)."""
    mode = attribute(IFLA_INET6_ADDR_GEN_MODE, bytes([IN6_ADDR_GEN_MODE_NONE]))
    return nested(IFLA_AF_SPEC, [nested(socket.AF_INET6, [mode])])


def _numbers(*pairs: tuple[int, int | None]) -> bytes:
    return b"".join(number(kind, value) for kind, value in pairs if value is not None)


def _name(name: str) -> bytes:
    return attribute(IFLA_IFNAME, ifname_bytes(name) + b"\0")


def _address(index: int, address: str) -> bytes:
    own, _, peer = address.partition(" peer ")
    far, _, prefix = (peer or own).partition("/")
    family = socket.AF_INET6 if ":" in far else socket.AF_INET
    try:
        raw = socket.inet_pton(family, far)
        local = socket.inet_pton(family, own) if peer else raw
        header = _IFADDR.pack(family, int(prefix), 0, RT_SCOPE_UNIVERSE, index)
    except (OSError, ValueError, struct.error) as error:
        raise MachineError(f"address {address} is none that ip-address(8) has") from error
    return header + attribute(IFA_LOCAL, local) + attribute(IFA_ADDRESS, raw)


def _text(data: bytes) -> str:
    return ifname_text(data.rstrip(b"\0"))

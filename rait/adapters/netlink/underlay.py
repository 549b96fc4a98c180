"""What the underlay takes in one packet towards an endpoint, by rtnetlink(7).

The kernel is asked for the route that packets with a fwmark take to an address; the route and its
device tell the MTU. A path MTU that the kernel learned on the way does not count: it forgets it
after some minutes (ip-sysctl.rst, mtu_expires), and the MTU of a link shall not jump.
"""

from __future__ import annotations

import socket
import sys
from collections.abc import Collection, Iterable
from struct import Struct

from msgspec import Struct as Record

from rait.adapters.netlink import rtnl
from rait.adapters.netlink.socket import (
    MalformedError,
    NetlinkError,
    NetlinkSocket,
    Request,
    attribute,
    attributes,
    number,
    number_in,
)
from rait.domain.errors import counted
from rait.domain.plan import Way, link_mtu

# linux/rtnetlink.h
RTM_GETROUTE = 26
RTM_F_FIB_MATCH = 0x2000
RTN_UNICAST = 1
RTN_LOCAL = 2
RTA_DST = 1
RTA_OIF = 4
RTA_METRICS = 8
RTA_MULTIPATH = 9
RTA_MARK = 16
RTAX_MTU = 2

_ROUTE = Struct("=BBBBBBBBI")


class Route(Record, frozen=True, gc=False):
    """The indexes of the devices by which packets may leave, and the MTU that the route sets."""

    devices: tuple[int, ...]
    mtu: int | None = None


def link_mtus(via: NetlinkSocket, ways: Iterable[Way], vrf: str = "") -> dict[Way, int]:
    """What links over these ways can have for their MTU; ways that lead nowhere are left out.

    ``via`` is in the namespace of the underlay. ``vrf`` is the VRF that carries it, "" if none
    does: the rules that lead marked packets there need not be there yet. Raises MachineError.
    """
    found = rtnl.find(via, vrf) if vrf else None
    asked = sorted(ways)
    requests = [get_route(way, 0 if found is None else found.index) for way in asked]
    routes = {
        way: route
        for way, answer in zip(asked, via.ask_each(requests), strict=True)
        for body in (() if isinstance(answer, NetlinkError) else answer)
        if (route := decode_route(body)) is not None
    }
    of_devices = _device_mtus(via, {each for route in routes.values() for each in route.devices})
    mtus = {}
    for way, route in routes.items():
        limits = [of_devices[each] for each in route.devices if each in of_devices]
        if limits:
            mtus[way] = link_mtu(way[0], min(*limits, route.mtu or limits[0]))
    return mtus


def _device_mtus(via: NetlinkSocket, indexes: Collection[int]) -> dict[int, int]:
    """The MTUs of devices; not those of VRFs, as a packet leaves by another device in the end."""
    answers = via.ask_each([rtnl.get_link_at(index) for index in indexes])
    told = (body for answer in answers if not isinstance(answer, NetlinkError) for body in answer)
    links = map(rtnl.attributes_of_link, told)
    mtus = {i: found.get(rtnl.IFLA_MTU) for i, _, found in links if rtnl.kind_of(found) != rtnl.VRF}
    return {index: mtu for index, mtu in mtus.items() if mtu}


def get_route(way: Way, vrf: int = 0) -> Request:
    """A request for the route of a way, which begins in a VRF if the index of one is given."""
    address, mark = way
    host, _, zone = address.partition("%")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    raw = socket.inet_pton(family, host)
    head = _ROUTE.pack(family, 8 * len(raw), 0, 0, 0, 0, 0, 0, RTM_F_FIB_MATCH)
    device = int(zone) if zone.isdecimal() else vrf
    fields = number(RTA_MARK, mark) + (number(RTA_OIF, device) if device else b"")
    return Request(RTM_GETROUTE, 0, head + attribute(RTA_DST, raw) + fields)


def decode_route(body: bytes) -> Route | None:
    """The route in an answer, None if it leads nowhere. Raises MalformedError."""
    if len(body) < _ROUTE.size:
        raise MalformedError(f"a route has a body of {counted(len(body), 'byte')}")
    kind = _ROUTE.unpack_from(body)[7]
    found = dict(attributes(body, _ROUTE.size))
    if kind not in (RTN_UNICAST, RTN_LOCAL):
        return None
    metrics = dict(attributes(found.get(RTA_METRICS, b"")))
    device = number_in(found, RTA_OIF, 0)
    # A struct rtnexthop is laid out as an attribute whose value begins with the device's index.
    hops = attributes(found.get(RTA_MULTIPATH, b""))
    several = tuple(int.from_bytes(hop[:4], sys.byteorder, signed=True) for _, hop in hops)
    return Route(several or (device,), number_in(metrics, RTAX_MTU, 0) or None)

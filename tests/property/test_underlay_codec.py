"""What rait asks of the underlay's routes, and makes of the answers; pyroute2 is the oracle."""

from __future__ import annotations

import socket
from collections.abc import Mapping, Sequence
from typing import Any, cast

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg
from pyroute2.netlink.rtnl.rtmsg import rtmsg

from rait.adapters.netlink import rtnl, underlay
from rait.adapters.netlink.socket import MalformedError, NetlinkError, NetlinkSocket, Request
from rait.adapters.netlink.underlay import Route, decode_route, get_route, link_mtus
from rait.domain.config.schema import MAX_MTU, MIN_MTU
from rait.domain.plan import Way, link_mtu
from tests.property.test_netlink_codec import as_dict, body_of, indexes, read, u32

HERE, FAR = ("192.0.2.1", 54), ("2001:db8::1", 0)
mtus = st.integers(68, 2**31 - 1)


def answer(*attrs: tuple[str, Any], kind: int = underlay.RTN_UNICAST) -> bytes:
    message = rtmsg()
    message["family"], message["type"] = socket.AF_INET, kind
    message["attrs"] = list(attrs)
    return body_of(message)


@given(st.sampled_from([HERE, FAR]), u32, st.just(0) | indexes)
def test_pyroute2_reads_what_we_ask_for(way: Way, mark: int, vrf: int) -> None:
    address = way[0]
    message = read(rtmsg, get_route((address, mark), vrf))
    assert message["flags"] == underlay.RTM_F_FIB_MATCH
    is_ip6 = ":" in address
    assert message["family"] == (socket.AF_INET6 if is_ip6 else socket.AF_INET)
    assert message["dst_len"] == (128 if is_ip6 else 32)
    fields = {"RTA_DST": address, "RTA_MARK": mark} | ({"RTA_OIF": vrf} if vrf else {})
    assert as_dict(message) == fields


def test_a_zone_is_where_the_route_begins() -> None:
    message = read(rtmsg, get_route(("fe80::1%7", 0), 3))
    assert (message.get_attr("RTA_DST"), message.get_attr("RTA_OIF")) == ("fe80::1", 7)


@given(indexes, st.none() | mtus)
def test_we_read_a_route_that_pyroute2_writes(device: int, mtu: int | None) -> None:
    metrics = [("RTA_METRICS", {"attrs": [("RTAX_MTU", mtu), ("RTAX_ADVMSS", 9)]})] if mtu else []
    assert decode_route(answer(("RTA_OIF", device), *metrics)) == Route((device,), mtu)


@given(st.lists(indexes, min_size=1, max_size=4))
def test_we_read_the_next_hops_that_pyroute2_writes(devices: list[int]) -> None:
    hops = [{"oif": device, "attrs": [("RTA_GATEWAY", "192.0.2.9")]} for device in devices]
    assert decode_route(answer(("RTA_MULTIPATH", hops))) == Route(tuple(devices))


@pytest.mark.parametrize("kind", [6, 7, 8])  # blackhole, unreachable, prohibit
def test_a_route_that_leads_nowhere_is_none(kind: int) -> None:
    assert decode_route(answer(("RTA_OIF", 1), kind=kind)) is None


@given(st.binary(max_size=80))
def test_no_answer_of_a_kernel_is_trusted(body: bytes) -> None:
    try:
        route = decode_route(body)
    except MalformedError:
        return
    assert route is None or route.devices


class Underlay:
    """In place of a NetlinkSocket: routes by destination, and devices by index."""

    def __init__(self, routes: Mapping[str, bytes], devices: Mapping[int, tuple[int, str]]) -> None:
        self._routes = routes
        self._devices = devices
        self.batches = 0

    def ask_each(self, requests: Sequence[Request]) -> list[list[bytes] | NetlinkError]:
        self.batches += bool(requests)
        return [self._answer(request) or NetlinkError(101) for request in requests]

    def _answer(self, request: Request) -> list[bytes] | None:
        if request.kind == underlay.RTM_GETROUTE:
            route = self._routes.get(read(rtmsg, request).get_attr("RTA_DST"))
            return None if route is None else [route]
        index = read(ifinfmsg, request)["index"]
        if index not in self._devices:
            return None
        message = ifinfmsg()
        mtu, kind = self._devices[index]
        message["index"] = index
        message["attrs"] = [
            ("IFLA_MTU", mtu),
            ("IFLA_LINKINFO", {"attrs": [("IFLA_INFO_KIND", kind)]}),
        ]
        return [body_of(message)]


def measured(routes: Mapping[str, bytes], devices: Mapping[int, tuple[int, str]]) -> dict[Way, int]:
    there = Underlay(routes, devices)
    found = link_mtus(cast(NetlinkSocket, there), [HERE, FAR])
    assert there.batches <= 2
    return found


@given(mtus, st.none() | mtus)
def test_the_lesser_of_route_and_device_decides(device: int, route: int | None) -> None:
    metrics = [("RTA_METRICS", {"attrs": [("RTAX_MTU", route)]})] if route else []
    found = measured({HERE[0]: answer(("RTA_OIF", 7), *metrics)}, {7: (device, "veth")})
    assert found == {HERE: link_mtu(HERE[0], min(device, route or device))}


def test_of_several_next_hops_the_narrowest_decides() -> None:
    route = answer(("RTA_MULTIPATH", [{"oif": 7}, {"oif": 8}, {"oif": 9}]))
    devices = {7: (9000, "veth"), 8: (1480, "sit")}
    assert measured({HERE[0]: route, FAR[0]: route}, devices) == {HERE: 1420, FAR: 1400}


def test_what_is_unknown_is_left_out() -> None:
    gone, vrf = answer(("RTA_OIF", 6)), answer(("RTA_OIF", 7))
    assert measured({HERE[0]: gone, FAR[0]: vrf}, {7: (65575, rtnl.VRF)}) == {}


@given(st.sampled_from([HERE[0], FAR[0]]), st.integers(0, 2**32 - 1))
def test_an_mtu_is_within_bounds_and_leaves_room_for_the_headers(address: str, mtu: int) -> None:
    found = link_mtu(address, mtu)
    assert MIN_MTU <= found <= MAX_MTU
    headers = 80 if ":" in address else 60
    assert found + headers <= mtu or found == MIN_MTU
    assert found + headers == mtu or found in (MIN_MTU, MAX_MTU)

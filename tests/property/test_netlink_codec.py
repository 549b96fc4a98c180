"""Our netlink codec against pyroute2's, both ways, and against what a kernel really sent.

The dumps in tests/data were taken from a Linux 6.1 kernel; their private keys are zeroed.
"""

from __future__ import annotations

import base64
import contextlib
import ipaddress
import itertools
import json
import socket
from pathlib import Path
from random import Random
from types import SimpleNamespace
from typing import Any, cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import structs
from pyroute2.netlink import ctrlmsg
from pyroute2.netlink.generic.wireguard import wgmsg
from pyroute2.netlink.rtnl.ifaddrmsg import ifaddrmsg
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg

from rait.adapters.netlink import rtnl
from rait.adapters.netlink import socket as netlink
from rait.adapters.netlink import wireguard as wg
from rait.adapters.netlink.socket import Request, decode, encode
from rait.domain.backend import Interface
from rait.domain.config.schema import NO_PSK, Secret
from rait.domain.errors import MachineError
from rait.domain.topology import Device, Endpoint, LinkPeer
from rait.domain.writes import DeviceWrite, PeerWrite

DATA = Path(__file__).parent.parent / "data"

u32 = st.integers(0, 2**32 - 1)
ports = st.integers(0, 65535)
indexes = st.integers(1, 2**31 - 1)
names = st.text("abcdefghijklmnopqrstuvwxyz0123456789.-_", min_size=1, max_size=15)
keys = (
    st.binary(min_size=32, max_size=32)
    .filter(lambda raw: raw != bytes(32))
    .map(lambda raw: base64.b64encode(raw).decode())
)
link_locals = st.binary(min_size=8, max_size=8).map(
    lambda low: f"{socket.inet_ntop(socket.AF_INET6, bytes.fromhex('fe80000000000000') + low)}/64"
)


def address_text(raw: bytes) -> str:
    return socket.inet_ntop(socket.AF_INET if len(raw) == 4 else socket.AF_INET6, raw)


addresses = st.one_of(st.binary(min_size=4, max_size=4), st.binary(min_size=16, max_size=16)).map(
    address_text
)
endpoints = st.builds(Endpoint, addresses, ports)


@st.composite
def networks(draw: st.DrawFn) -> str:
    address = draw(addresses)
    return f"{address}/{draw(st.integers(0, 128 if ':' in address else 32))}"


allowed = st.lists(networks(), max_size=5, unique=True).map(lambda each: tuple(sorted(each)))
# Here the digest is the key itself, so that the tests see what was read.
psks = st.just("") | st.binary(min_size=32, max_size=32).filter(any).map(bytes.hex)
peers = st.builds(LinkPeer, keys, st.none() | endpoints, st.integers(0, 65535), allowed, psks)
peer_lists = st.lists(peers, max_size=5, unique_by=lambda peer: peer.public_key).map(
    lambda each: tuple(sorted(each, key=lambda peer: peer.public_key))
)


def digest_of(_: str, psk: bytes) -> str:
    return psk.hex()


def psk_of(peer: LinkPeer) -> Secret | None:
    raw = bytes.fromhex(peer.psk_digest)
    return Secret(base64.b64encode(raw).decode()) if raw else None


def read(kind: Any, request: Request) -> Any:
    message = kind(encode(request, 9, netlink.NLM_F_ACK))
    message.decode()
    header = message["header"]
    assert (header["type"], header["sequence_number"]) == (request.kind, 9)
    assert header["flags"] == netlink.NLM_F_REQUEST | netlink.NLM_F_ACK | request.flags
    return message


def body_of(message: Any) -> bytes:
    message.encode()
    (reply,) = decode(bytes(message.data))
    return reply.body


def as_dict(message: Any) -> dict[str, Any]:
    return dict(message["attrs"])


@given(names, st.integers(3, 1000), u32, u32, st.none() | indexes)
def test_pyroute2_reads_a_new_link(
    name: str, fd: int, mtu: int, group: int, master: int | None
) -> None:
    message = read(ifinfmsg, rtnl.new_wireguard(name, fd, mtu, group, master))
    found = as_dict(message)
    assert (message["index"], message["flags"], message["change"]) == (0, 0, 0)
    assert message.get_nested("IFLA_LINKINFO", "IFLA_INFO_KIND") == "wireguard"
    del found["IFLA_LINKINFO"]
    expected = {"IFLA_IFNAME": name, "IFLA_MTU": mtu, "IFLA_GROUP": group, "IFLA_NET_NS_FD": fd}
    assert found == expected | ({} if master is None else {"IFLA_MASTER": master})


@given(indexes, st.none() | st.booleans(), st.none() | u32, st.none() | u32, st.none() | u32)
def test_pyroute2_reads_changed_settings(
    index: int, up: bool | None, mtu: int | None, group: int | None, master: int | None
) -> None:
    message = read(ifinfmsg, rtnl.set_link(index, up=up, mtu=mtu, group=group, master=master))
    assert message["index"] == index
    assert (message["flags"], message["change"]) == (int(up or 0), int(up is not None))
    settings = {"IFLA_MTU": mtu, "IFLA_GROUP": group, "IFLA_MASTER": master}
    assert as_dict(message) == {k: v for k, v in settings.items() if v is not None}


@given(indexes, st.integers(3, 1000), u32, u32)
def test_pyroute2_reads_a_move(index: int, fd: int, mtu: int, group: int) -> None:
    kept_from = read(ifinfmsg, rtnl.no_generated_address(index))
    moved = read(ifinfmsg, rtnl.move_link(index, fd, mtu, group))
    for message in (kept_from, moved):
        assert (message["header"]["type"], message["index"]) == (rtnl.RTM_SETLINK, index)
        assert (message["flags"], message["change"]) == (0, 0)
        (family,) = message.get_attr("IFLA_AF_SPEC")["attrs"]
        assert family[0] == "AF_INET6"
        assert as_dict(family[1]) == {"IFLA_INET6_ADDR_GEN_MODE": 1}, "none"
    found = as_dict(moved)
    del found["IFLA_AF_SPEC"]
    assert found == {"IFLA_NET_NS_FD": fd, "IFLA_MTU": mtu, "IFLA_GROUP": group}
    assert as_dict(kept_from).keys() == {"IFLA_AF_SPEC"}


@given(indexes, u32)
def test_pyroute2_reads_removals(index: int, group: int) -> None:
    one = read(ifinfmsg, rtnl.delete_link(index))
    assert (one["index"], as_dict(one)) == (index, {})
    many = read(ifinfmsg, rtnl.delete_group(group))
    assert (many["index"], as_dict(many)) == (0, {"IFLA_GROUP": group})


@given(names)
def test_pyroute2_reads_what_we_ask_for(name: str) -> None:
    assert as_dict(read(ifinfmsg, rtnl.get_link(name))) == {
        "IFLA_EXT_MASK": rtnl.RTEXT_FILTER_SKIP_STATS,
        "IFLA_IFNAME": name,
    }
    every = read(ifinfmsg, rtnl.list_links())
    assert (every["family"], every["index"]) == (socket.AF_UNSPEC, 0)
    assert as_dict(every) == {"IFLA_EXT_MASK": rtnl.RTEXT_FILTER_SKIP_STATS}
    only = read(ifinfmsg, rtnl.list_links("wireguard"))
    assert only.get_nested("IFLA_LINKINFO", "IFLA_INFO_KIND") == "wireguard"
    assert read(ifaddrmsg, rtnl.list_addresses())["family"] == socket.AF_UNSPEC
    device = read(wgmsg, wg.get_device(30, name))
    assert (device["cmd"], as_dict(device)) == (wg.WG_CMD_GET_DEVICE, {"WGDEVICE_A_IFNAME": name})


@st.composite
def link_addresses(draw: st.DrawFn) -> str:
    """An address of a link, as LinkSettings has it."""
    size = draw(st.sampled_from([4, 16]))
    raw = st.binary(min_size=size, max_size=size)
    own, peer = draw(raw), draw(st.none() | raw)
    prefix = draw(st.integers(0, 8 * size))
    peer_part = f" peer {address_text(peer)}" if peer not in (None, own) else ""
    return f"{address_text(own)}{peer_part}/{prefix}"


def parts(address: str) -> tuple[int, str, str, int]:
    """Family, our address, the peer's (or ours again) and the prefix length."""
    own, _, peer = address.partition(" peer ")
    far, _, prefix = (peer or own).partition("/")
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    return family, own if peer else far, far, int(prefix)


@given(indexes, link_addresses())
def test_pyroute2_reads_addresses(index: int, address: str) -> None:
    family, own, far, prefix = parts(address)
    for request in (rtnl.add_address(index, address), rtnl.delete_address(index, address)):
        message = read(ifaddrmsg, request)
        head = [message[field] for field in ("family", "prefixlen", "index", "scope")]
        assert head == [family, prefix, index, rtnl.RT_SCOPE_UNIVERSE]
        found = as_dict(message)
        assert (found["IFA_LOCAL"], found["IFA_ADDRESS"]) == (own, far)
        is_new_ip6 = request.kind == rtnl.RTM_NEWADDR and family == socket.AF_INET6
        flags = rtnl.IFA_F_NODAD | rtnl.IFA_F_PERMANENT
        assert found.get("IFA_FLAGS") == (flags if is_new_ip6 else None)


@pytest.mark.parametrize(
    "text", ["", "x/24", "10.0.0.1", "10.0.0.1/x", "10.0.0.1/256", "::1 peer /1"]
)
def test_what_is_no_address_is_refused_by_name(text: str) -> None:
    with pytest.raises(MachineError, match=f"address {text} is none"):
        rtnl.add_address(1, text)


@given(names, indexes, u32, u32, u32, st.booleans(), st.sampled_from(["wireguard", "vrf", ""]))
def test_we_read_links_that_pyroute2_writes(
    name: str, index: int, mtu: int, group: int, master: int, up: bool, kind: str
) -> None:
    message = ifinfmsg()
    message["index"], message["flags"] = index, 0x1000 | int(up)
    message["attrs"] = [("IFLA_IFNAME", name), ("IFLA_MTU", mtu), ("IFLA_GROUP", group)]
    message["attrs"].append(("IFLA_MASTER", master))
    if kind:
        message["attrs"].append(("IFLA_LINKINFO", {"attrs": [("IFLA_INFO_KIND", kind)]}))
    read_index, flags, found = rtnl.attributes_of_link(body_of(message))
    assert (read_index, flags & rtnl.IFF_UP) == (index, int(up))
    assert rtnl.kind_of(found) == kind
    numbers = [found[each] for each in (rtnl.IFLA_MTU, rtnl.IFLA_GROUP, rtnl.IFLA_MASTER)]
    assert numbers == [mtu, group, master]


class Dumps:
    """In place of a NetlinkSocket: what is there, as pyroute2 writes it."""

    def __init__(self, *messages: tuple[int, Any]) -> None:
        self._bodies = [(kind, body_of(message)) for kind, message in messages]

    def dump(self, request: Request) -> list[bytes]:
        return [body for kind, body in self._bodies if kind == request.kind]


def link_message(index: int, name: str, *attrs: tuple[str, Any], flags: int = 0) -> tuple[int, Any]:
    message = ifinfmsg()
    message["index"], message["flags"] = index, flags
    message["attrs"] = [("IFLA_IFNAME", name), *attrs]
    return rtnl.RTM_GETLINK, message


def address_message(index: int, address: str) -> tuple[int, Any]:
    message = ifaddrmsg()
    message["family"], own, far, message["prefixlen"] = parts(address)
    message["index"] = index
    message["attrs"] = [("IFA_ADDRESS", far)]
    # IPv6 tells our own address apart only where there is a peer.
    if message["family"] == socket.AF_INET or own != far:
        message["attrs"].append(("IFA_LOCAL", own))
    return rtnl.RTM_GETADDR, message


@given(st.lists(names, min_size=2, max_size=2, unique=True), u32, u32, u32, names, link_locals)
def test_we_read_the_interfaces_of_a_namespace_that_pyroute2_writes(
    both: list[str], mtu: int, group: int, table: int, alias: str, address: str
) -> None:
    name, of_vrf = both
    kind = ("IFLA_LINKINFO", {"attrs": [("IFLA_INFO_KIND", "wireguard")]})
    data = ("IFLA_INFO_DATA", {"attrs": [("IFLA_VRF_TABLE", table)]})
    vrf_kind = ("IFLA_LINKINFO", {"attrs": [("IFLA_INFO_KIND", "vrf"), data]})
    numbers = ("IFLA_MTU", mtu), ("IFLA_GROUP", group)
    described = ("IFLA_IFALIAS", alias)
    there = Dumps(
        link_message(7, name, *numbers, ("IFLA_MASTER", 8), kind, described, flags=0x10001),
        link_message(8, of_vrf, *numbers, vrf_kind, described),
        link_message(9, "lo", ("IFLA_MASTER", 10)),
        address_message(7, "192.0.2.1/24"),
        address_message(7, address),
        address_message(7, "fe80::ffff/64"),
        address_message(7, "2001:db8::1/64"),
    )
    common = {"mtu": mtu, "group": group}
    assert rtnl.read_interfaces(cast(netlink.NetlinkSocket, there)) == {
        name: Interface(
            name=name,
            index=7,
            kind="wireguard",
            up=True,
            master=of_vrf,
            address=address,
            addresses=("192.0.2.1/24", "2001:db8::1/64", "fe80::ffff/64"),
            **common,
        ),
        of_vrf: Interface(
            name=of_vrf,
            index=8,
            kind="vrf",
            up=False,
            carrier=False,
            table=table,
            alias=alias,
            **common,
        ),
        # Its master is in another namespace, or just came.
        "lo": Interface(name="lo", index=9, kind="", mtu=0, group=0, up=False, carrier=False),
    }


@given(st.integers(16, 65535))
def test_the_number_of_wireguards_family_is_asked_for_and_read(number: int) -> None:
    def answer(request: Request) -> list[bytes]:
        asked = read(ctrlmsg, request)
        assert (asked["cmd"], asked["version"]) == (netlink.CTRL_CMD_GETFAMILY, 1)
        assert as_dict(asked) == {"CTRL_ATTR_FAMILY_NAME": "wireguard"}
        told = ctrlmsg()
        told["cmd"], told["version"] = 1, 2
        name = ("CTRL_ATTR_FAMILY_NAME", "wireguard")
        told["attrs"] = [name, ("CTRL_ATTR_FAMILY_ID", number), ("CTRL_ATTR_VERSION", 1)]
        return [body_of(told)]

    generic = SimpleNamespace(ask=answer)
    assert netlink.find_family(cast(netlink.NetlinkSocket, generic), "wireguard") == number


@given(indexes, link_addresses())
def test_we_read_addresses_that_pyroute2_writes(index: int, address: str) -> None:
    _, message = address_message(index, address)
    assert rtnl.decode_address(body_of(message)) == (index, address)


def test_an_address_of_another_family_is_none() -> None:
    message = ifaddrmsg()
    message["family"], message["prefixlen"], message["index"] = socket.AF_BRIDGE, 64, 7
    message["attrs"] = [("IFA_ADDRESS", "2001:db8::1")]
    assert rtnl.decode_address(body_of(message)) == (7, None)


zones = st.integers(1, 2**32 - 1)


@given(st.binary(min_size=8, max_size=8), zones, ports)
def test_the_zone_of_a_link_local_endpoint_is_kept(low: bytes, zone: int, port: int) -> None:
    address = address_text(bytes.fromhex("fe80000000000000") + low)
    endpoint = Endpoint(f"{address}%{zone}", port)
    peer = PeerWrite("KJJXmDtAXSrMGuIJVy/2eP65gXm1PTy7vCR/4O/vEEI=", endpoint=endpoint)
    (request,) = wg.set_device(30, "w1", DeviceWrite(peers=(peer,)))
    (entry,) = as_dict(read(wgmsg, request))["WGDEVICE_A_PEERS"]
    told = as_dict(entry)["WGPEER_A_ENDPOINT"]
    # Not its scope_id, which it takes for a number in network order; ipv6(7) has it in the host's.
    assert (told["addr"], told["port"]) == (address, port)
    state = wg.decode_device([request.body], digest_of)
    assert state.peers[0].endpoint == endpoint


@given(
    st.builds(
        Endpoint,
        st.text()
        | st.builds("{}%{}".format, addresses, st.text() | st.integers(-1, 2**33).map(str)),
        st.integers(-1, 70000),
    )
)
def test_any_endpoint_is_written_or_refused(endpoint: Endpoint) -> None:
    with contextlib.suppress(MachineError):
        assert len(wg.encode_endpoint(endpoint)) in (16, 28)


def pyroute2_peer(entry: Any) -> PeerWrite:
    found = as_dict(entry)
    endpoint = found.get("WGPEER_A_ENDPOINT")
    psk = found.get("WGPEER_A_PRESHARED_KEY")
    flags = found.get("WGPEER_A_FLAGS", 0)
    replaced = tuple(each["addr"] for each in found.get("WGPEER_A_ALLOWEDIPS", ()))
    remove = bool(flags & wg.WGPEER_F_REMOVE_ME)
    assert not remove or flags & wg.WGPEER_F_UPDATE_ONLY, "nothing is made to be removed"
    return PeerWrite(
        found["WGPEER_A_PUBLIC_KEY"].decode(),
        update_only=bool(flags & wg.WGPEER_F_UPDATE_ONLY),
        remove=remove,
        psk=None if psk is None else Secret(psk.decode()),
        endpoint=Endpoint(endpoint["addr"], endpoint["port"]) if endpoint else None,
        keepalive=found.get("WGPEER_A_PERSISTENT_KEEPALIVE_INTERVAL"),
        allowed_ips=replaced if flags & wg.WGPEER_F_REPLACE_ALLOWEDIPS else None,
    )


peer_writes = st.builds(
    lambda peer, update_only, remove, changed: PeerWrite(
        peer.public_key,
        update_only=update_only or remove,
        remove=remove,
        psk=psk_of(peer),
        endpoint=peer.endpoint,
        keepalive=peer.keepalive if changed else None,
        allowed_ips=peer.allowed_ips if changed else None,
    ),
    peers,
    st.booleans(),
    st.booleans(),
    st.booleans(),
)


@given(
    names,
    st.none() | keys,
    st.none() | ports,
    st.none() | u32,
    st.lists(peer_writes, max_size=5).map(tuple),
)
def test_pyroute2_reads_a_device_with_peers(
    name: str,
    private: str | None,
    port: int | None,
    fwmark: int | None,
    writes: tuple[PeerWrite, ...],
) -> None:
    public = None if private is None else "ours"
    secret = Secret(private or "never written")
    (request,) = wg.set_device(30, name, DeviceWrite(public, port, fwmark, writes), secret)
    message = read(wgmsg, request)
    assert (message["cmd"], message["version"]) == (wg.WG_CMD_SET_DEVICE, 1)
    found = as_dict(message)
    assert tuple(map(pyroute2_peer, found.pop("WGDEVICE_A_PEERS", []))) == writes
    if private is not None:
        assert found.pop("WGDEVICE_A_PRIVATE_KEY").decode() == private
    expected = {"WGDEVICE_A_LISTEN_PORT": port, "WGDEVICE_A_FWMARK": fwmark}
    assert found == {"WGDEVICE_A_IFNAME": name} | {
        key: value for key, value in expected.items() if value is not None
    }


def pyroute2_peer_entry(peer: LinkPeer) -> dict[str, Any]:
    attrs: list[Any] = [
        ["WGPEER_A_PUBLIC_KEY", {"value": peer.public_key}],
        ["WGPEER_A_PERSISTENT_KEEPALIVE_INTERVAL", peer.keepalive],
        ["WGPEER_A_RX_BYTES", 2**40 + peer.keepalive],
        ["WGPEER_A_TX_BYTES", peer.keepalive],
        ["WGPEER_A_LAST_HANDSHAKE_TIME", {"tv_sec": 1700000000, "tv_nsec": 5}],
    ]
    psk = psk_of(peer) or NO_PSK  # the kernel always tells it
    attrs.append(["WGPEER_A_PRESHARED_KEY", {"value": psk.reveal()}])
    if peer.endpoint is not None:
        value = {"addr": peer.endpoint.address, "port": peer.endpoint.port}
        if ":" in peer.endpoint.address:
            value |= {"flowinfo": 0, "scope_id": 0}
        attrs.append(["WGPEER_A_ENDPOINT", value])
    return {"attrs": [*attrs, ["WGPEER_A_ALLOWEDIPS", list(map(allowed_entry, peer.allowed_ips))]]}


def allowed_entry(network: str) -> dict[str, Any]:
    address, _, prefix = network.partition("/")
    raw = ipaddress.ip_address(address).packed
    return {
        "attrs": [
            ["WGALLOWEDIP_A_FAMILY", socket.AF_INET if len(raw) == 4 else socket.AF_INET6],
            ["WGALLOWEDIP_A_IPADDR", raw],
            ["WGALLOWEDIP_A_CIDR_MASK", int(prefix)],
        ]
    }


def pyroute2_device(attrs: list[Any], entries: list[Any]) -> bytes:
    message = wgmsg()
    message["cmd"], message["version"] = wg.WG_CMD_GET_DEVICE, 1
    message["attrs"] = [*attrs, ["WGDEVICE_A_PEERS", entries]]
    return body_of(message)


@given(names, keys, keys, ports, u32, peer_lists, st.data())
def test_we_read_a_device_that_pyroute2_writes_however_it_is_split(
    name: str,
    private: str,
    public: str,
    port: int,
    fwmark: int,
    wanted: tuple[LinkPeer, ...],
    data: st.DataObject,
) -> None:
    head = [
        ["WGDEVICE_A_IFNAME", name],
        ["WGDEVICE_A_PRIVATE_KEY", {"value": private}],
        ["WGDEVICE_A_PUBLIC_KEY", {"value": public}],
        ["WGDEVICE_A_LISTEN_PORT", port],
        ["WGDEVICE_A_FWMARK", fwmark],
    ]
    entries = []
    for peer in wanted:
        cut = data.draw(st.integers(0, len(peer.allowed_ips)))
        first = structs.replace(peer, allowed_ips=peer.allowed_ips[:cut])
        entries.append(pyroute2_peer_entry(first))
        rest = [["WGPEER_A_PUBLIC_KEY", {"value": peer.public_key}]]
        if cut < len(peer.allowed_ips):
            rest.append(["WGPEER_A_ALLOWEDIPS", list(map(allowed_entry, peer.allowed_ips[cut:]))])
            entries.append({"attrs": rest})
    cut = data.draw(st.integers(0, len(entries)))
    bodies = [
        pyroute2_device(head, entries[:cut]),
        pyroute2_device([["WGDEVICE_A_IFNAME", name]], entries[cut:]),
    ]
    state = wg.decode_device(bodies, digest_of)
    assert state.device == Device(public, port, fwmark)
    assert state.peers == wanted
    assert state.received == {p.public_key: 2**40 + p.keepalive for p in wanted}
    assert state.sent == {p.public_key: p.keepalive for p in wanted}
    assert state.handshakes == {p.public_key: 1700000000 for p in wanted}


@settings(max_examples=30)  # Each is a hundred times larger than one of the others.
@given(st.integers(1, 1300), st.integers(1, 40), st.randoms(use_true_random=False))
def test_messages_that_split_a_device_add_up(size: int, others: int, random: Random) -> None:
    many = tuple(sorted(f"10.{n // 256}.{n % 256}.0/24" for n in range(size)))
    few = ("10.0.0.0/8", *(f"192.0.2.{n}/32" for n in range(99)))
    wanted = [LinkPeer(key_of(n), None, n, few) for n in range(1, others)]
    wanted.insert(random.randrange(others), LinkPeer(key_of(0), None, 0, many))
    replace = wg.WGPEER_F_REPLACE_ALLOWEDIPS
    requests = wg.set_device(
        30,
        "rt0",
        DeviceWrite(
            fwmark=3,
            peers=tuple(
                PeerWrite(p.public_key, keepalive=p.keepalive, allowed_ips=p.allowed_ips)
                for p in wanted
            ),
        ),
    )
    assert all(len(request.body) < 65536 for request in requests)
    state = wg.decode_device([request.body for request in requests], digest_of)
    assert {p.public_key: sorted(p.allowed_ips) for p in state.peers} == {
        p.public_key: sorted(p.allowed_ips) for p in wanted
    }
    entries = [entry for request in requests for entry in peer_entries(request)]
    replaced = [
        entry[wg.WGPEER_A_PUBLIC_KEY]
        for entry in entries
        if int.from_bytes(entry.get(wg.WGPEER_A_FLAGS, b""), "little") & replace
    ]
    assert replaced == [base64.b64decode(peer.public_key) for peer in wanted]


def key_of(number: int) -> str:
    return base64.b64encode(bytes([number + 1]) * 32).decode()


def peer_entries(request: Request) -> list[dict[int, bytes]]:
    device = dict(netlink.attributes(request.body, 4))
    return [dict(netlink.attributes(e)) for _, e in netlink.attributes(device[wg.WGDEVICE_A_PEERS])]


@given(st.binary(max_size=200))
def test_noise_is_refused_and_never_read_past(noise: bytes) -> None:
    for read_it in (
        lambda: [netlink.failure(reply) for reply in decode(noise)],
        lambda: rtnl.attributes_of_link(noise),
        lambda: rtnl.decode_address(noise),
        lambda: wg.decode_device([noise], digest_of),
    ):
        with contextlib.suppress(netlink.MalformedError):
            read_it()


def captured() -> dict[str, Any]:
    return json.loads((DATA / "netlink_dumps.json").read_text())


@pytest.mark.parametrize("what", ["links", "addresses", "device"])
def test_a_captured_dump_cut_within_a_message_is_refused(what: str) -> None:
    for text in captured()[what]:
        datagram = bytes.fromhex(text)
        ends = list(itertools.accumulate((len(r.body) + 19) & ~3 for r in decode(datagram)))
        for end in range(1, len(datagram), 7):
            if end not in ends:
                with pytest.raises(netlink.MalformedError):
                    decode(datagram[:end])


def bodies(what: str) -> list[bytes]:
    return [
        reply.body
        for text in captured()[what]
        for reply in decode(bytes.fromhex(text))
        if reply.kind != netlink.NLMSG_DONE
    ]


def test_captured_links_read_as_pyroute2_reads_them() -> None:
    found = []
    for text in captured()["links"]:
        for reply in decode(bytes.fromhex(text)):
            if reply.kind == netlink.NLMSG_DONE:
                continue
            index, flags, attributes = rtnl.attributes_of_link(reply.body)
            oracle = ifinfmsg(encode(Request(reply.kind, 0, reply.body), 1))
            oracle.decode()
            assert (index, flags) == (oracle["index"], oracle["flags"])
            name = attributes[rtnl.IFLA_IFNAME].rstrip(b"\0").decode()
            assert name == oracle.get_attr("IFLA_IFNAME")
            assert attributes[rtnl.IFLA_MTU] == oracle.get_attr("IFLA_MTU")
            kind = rtnl.kind_of(attributes)
            assert kind == (oracle.get_nested("IFLA_LINKINFO", "IFLA_INFO_KIND") or "")
            found.append((name, kind))
    assert found == [tuple(each) for each in captured()["expected"]["links"]]


def test_captured_addresses_are_read() -> None:
    found = [rtnl.decode_address(body)[1] for body in bodies("addresses")]
    assert [each for each in found if each] == captured()["expected"]["addresses"]


def test_a_captured_device_is_read() -> None:
    state = wg.decode_device(bodies("device"), digest_of)
    expected = captured()["expected"]["device"]
    assert state.device == Device(*expected["device"])
    assert len(state.peers) == expected["peers"]
    first = state.peers[0]
    assert first.endpoint == Endpoint(*expected["endpoint"])
    assert first.keepalive == expected["keepalive"]
    assert len(first.allowed_ips) == expected["allowed_ips"]

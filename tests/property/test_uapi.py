"""Laws of the userspace protocol's codec."""

from __future__ import annotations

import base64
import contextlib
import ipaddress

from hypothesis import given
from hypothesis import strategies as st

from rait.adapters.wireguard.uapi import (
    DeviceState,
    PeerState,
    UapiError,
    clamped,
    decode_get,
    decode_set,
    encode_set,
)
from rait.domain.config.schema import Secret
from rait.domain.topology import Endpoint
from rait.domain.writes import DeviceWrite, PeerWrite

# Built from integers: hypothesis draws these far faster than its own bytes and IP addresses.
raw_keys = st.integers(1, 2**256 - 1).map(lambda number: number.to_bytes(32, "big"))
keys = raw_keys.map(lambda raw: base64.b64encode(raw).decode())
addresses4 = st.integers(0, 2**32 - 1).map(ipaddress.IPv4Address)
addresses6 = st.integers(0, 2**128 - 1).map(ipaddress.IPv6Address)
zones = st.sampled_from(["3", "eth0", "a-b.7"])
link_locals = st.builds("fe80::{:x}%{}".format, st.integers(1, 0xFFFF), zones)
endpoints = st.builds(
    Endpoint, (addresses4 | addresses6).map(str) | link_locals, st.integers(0, 0xFFFF)
)


def _texts(address4: ipaddress.IPv4Address, address6: ipaddress.IPv6Address, cut: int) -> list[str]:
    return [
        str(ipaddress.ip_network((address4, cut % 33), strict=False)),
        str(ipaddress.ip_network((address6, cut), strict=False)),
    ]


pairs = st.builds(_texts, addresses4, addresses6, st.integers(0, 128))
networks = st.tuples(pairs, st.integers(0, 2), st.integers(0, 2)).map(
    lambda drawn: tuple(drawn[0][min(drawn[1:]) : max(drawn[1:])])
)
counters = st.integers(0, 2**63 - 1)
peers = st.builds(
    PeerState,
    public_key=keys,
    psk=st.none() | keys.map(Secret),
    endpoint=st.none() | endpoints,
    keepalive=st.integers(0, 0xFFFF),
    allowed_ips=networks,
    handshake=counters,
    received=counters,
    sent=counters,
)
devices = st.builds(
    DeviceState,
    private_key=st.none() | keys.map(Secret),
    listen_port=st.integers(0, 0xFFFF),
    fwmark=st.integers(0, 0xFFFFFFFF),
    peers=st.lists(peers, max_size=2).map(tuple),
)


def whole(device: DeviceState) -> DeviceWrite:
    return DeviceWrite(
        public_key=None if device.private_key is None else "ours",
        listen_port=device.listen_port,
        fwmark=device.fwmark,
        peers=tuple(
            PeerWrite(
                public_key=peer.public_key,
                psk=peer.psk,
                endpoint=peer.endpoint,
                keepalive=peer.keepalive,
                allowed_ips=peer.allowed_ips,
            )
            for peer in device.peers
        ),
    )


def without_counters(device: DeviceState) -> DeviceState:
    return DeviceState(
        private_key=device.private_key,
        listen_port=device.listen_port,
        fwmark=device.fwmark,
        peers=tuple(
            PeerState(
                public_key=peer.public_key,
                psk=peer.psk,
                endpoint=peer.endpoint,
                keepalive=peer.keepalive,
                allowed_ips=peer.allowed_ips,
            )
            for peer in device.peers
        ),
    )


def render(device: DeviceState) -> bytes:
    """The answer of a program that has this device, counters and all."""
    lines = encode_set(whole(device), device.private_key).decode().splitlines()[1:-1]
    answer: list[str] = []
    left = list(device.peers)
    for line in lines:
        answer.append(line)
        if line.startswith("public_key="):
            peer = left.pop(0)
            answer += [
                f"last_handshake_time_sec={peer.handshake}",
                f"rx_bytes={peer.received}",
                f"tx_bytes={peer.sent}",
            ]
    return ("\n".join([*answer, "errno=0"]) + "\n\n").encode()


@given(devices)
def test_what_was_written_is_read_back(device: DeviceState) -> None:
    request = encode_set(whole(device), device.private_key).decode()
    echoed = request.removeprefix("set=1\n").removesuffix("\n") + "errno=0\n\n"

    # On a device that lives, this would end every session; and a false boolean is to be left out.
    assert "replace_peers" not in request
    assert "=false" not in request
    assert decode_get(echoed.encode()) == without_counters(device)
    assert decode_get(render(device)) == device


@given(st.binary(max_size=300))
def test_any_bytes_are_read_or_refused(answer: bytes) -> None:
    for decode in (decode_get, decode_set):
        with contextlib.suppress(UapiError):
            decode(answer)


line_like = st.builds(
    lambda key, value: f"{key}={value}",
    st.sampled_from(
        ["private_key", "listen_port", "fwmark", "public_key", "endpoint", "allowed_ip", "rx_bytes"]
    )
    | st.text(max_size=5),
    st.one_of(
        st.text(max_size=12),
        raw_keys.map(bytes.hex),
        st.integers().map(str),
        endpoints.map(str),
        st.text("0123456789abcdef:.[]%/-", max_size=24),
    ),
)


@given(st.lists(line_like, max_size=8))
def test_lines_of_any_content_are_read_or_refused(lines: list[str]) -> None:
    answer = "\n".join([*lines, "errno=0"]) + "\n\n"
    with contextlib.suppress(UapiError):
        decode_get(answer.encode(errors="surrogatepass"))


@given(devices, st.data())
def test_an_answer_cut_anywhere_is_refused(device: DeviceState, data: st.DataObject) -> None:
    answer = render(device)
    cut = answer[: data.draw(st.integers(0, len(answer) - 1))]

    try:
        decode_get(cut)
    except UapiError:
        return
    raise AssertionError(cut)


@given(raw_keys)
def test_clamping_is_x25519s(raw: bytes) -> None:
    key = clamped(Secret(base64.b64encode(raw).decode()))

    assert key[0] % 8 == 0
    assert key[31] & 0xC0 == 0x40
    assert clamped(Secret(base64.b64encode(key).decode())) == key

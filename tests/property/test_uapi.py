"""Laws of the userspace protocol's codec."""

from __future__ import annotations

import base64
import contextlib
import ipaddress

from hypothesis import given
from hypothesis import strategies as st
from msgspec import Struct, structs

from rait.adapters.keys import KeyPair, clamped
from rait.adapters.wireguard.uapi import UapiError, decode_get, decode_set, encode_set
from rait.domain.backend import DeviceState
from rait.domain.config.schema import Secret
from rait.domain.topology import Device, Endpoint, LinkPeer
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
peers = st.builds(LinkPeer, keys, st.none() | endpoints, st.integers(0, 0xFFFF), networks)
OWN = KeyPair(Secret(base64.b64encode(bytes(range(32))).decode()), "ours")


class Told(Struct, frozen=True):
    """What a program tells of a device: all of it, and the preshared keys of peers that have one.

    ``counts`` are the time of a peer's last handshake, and its bytes received and sent.
    """

    device: Device
    peers: tuple[LinkPeer, ...]
    psks: dict[str, bytes]
    counts: dict[str, tuple[int, int, int]]

    def written(self) -> DeviceWrite:
        """What makes a device so."""
        return DeviceWrite(
            self.device.public_key or None,
            self.device.listen_port,
            self.device.fwmark,
            tuple(
                PeerWrite(
                    peer.public_key,
                    psk=self.psk(peer),
                    endpoint=peer.endpoint,
                    keepalive=peer.keepalive,
                    allowed_ips=peer.allowed_ips,
                )
                for peer in self.peers
            ),
        )

    def psk(self, peer: LinkPeer) -> Secret | None:
        raw = self.psks.get(peer.public_key)
        return None if raw is None else Secret(base64.b64encode(raw).decode())

    def state(self, counts: dict[str, tuple[int, int, int]]) -> DeviceState:
        """What is to be read of it, with these counts."""
        known = sorted(self.peers, key=lambda peer: peer.public_key)
        handshakes, received, sent = (
            {peer.public_key: counts.get(peer.public_key, (0, 0, 0))[i] for peer in known}
            for i in range(3)
        )
        told = tuple(
            structs.replace(peer, psk_digest=OWN.psk_digest(peer.public_key, self.psks[key]))
            if (key := peer.public_key) in self.psks
            else peer
            for peer in known
        )
        return DeviceState(self.device, told, handshakes, received, sent)


@st.composite
def tellings(draw: st.DrawFn) -> Told:
    device = draw(
        st.builds(
            Device,
            st.sampled_from(("", "ours")),
            st.integers(0, 0xFFFF),
            st.integers(0, 0xFFFFFFFF),
        )
    )
    own = draw(st.lists(peers, max_size=2, unique_by=lambda peer: peer.public_key))
    names = [peer.public_key for peer in own]
    psks = {name: draw(raw_keys) for name in names if draw(st.booleans())}
    counts = {name: draw(st.tuples(counters, counters, counters)) for name in names}
    return Told(device, tuple(own), psks, counts)


def render(told: Told) -> bytes:
    """The answer of a program that has this device, counters and all."""
    lines = encode_set(told.written(), OWN.secret).decode().splitlines()[1:-1]
    answer: list[str] = []
    left = list(told.peers)
    for line in lines:
        answer.append(line)
        if line.startswith("public_key="):
            handshake, received, sent = told.counts[left.pop(0).public_key]
            answer += [
                f"last_handshake_time_sec={handshake}",
                f"rx_bytes={received}",
                f"tx_bytes={sent}",
            ]
    return ("\n".join([*answer, "errno=0"]) + "\n\n").encode()


@given(tellings())
def test_what_was_written_is_read_back(told: Told) -> None:
    request = encode_set(told.written(), OWN.secret).decode()
    echoed = request.removeprefix("set=1\n").removesuffix("\n") + "errno=0\n\n"

    # On a device that lives, this would end every session; and a false boolean is to be left out.
    assert "replace_peers" not in request
    assert "=false" not in request
    assert decode_get(echoed.encode(), OWN) == told.state({})
    assert decode_get(render(told), OWN) == told.state(told.counts)


@given(st.binary(max_size=300))
def test_any_bytes_are_read_or_refused(answer: bytes) -> None:
    with contextlib.suppress(UapiError):
        decode_get(answer, OWN)
    with contextlib.suppress(UapiError):
        decode_set(answer)


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
        decode_get(answer.encode(errors="surrogatepass"), OWN)


@given(tellings(), st.data())
def test_an_answer_cut_anywhere_is_refused(told: Told, data: st.DataObject) -> None:
    answer = render(told)
    cut = answer[: data.draw(st.integers(0, len(answer) - 1))]

    try:
        decode_get(cut, OWN)
    except UapiError:
        return
    raise AssertionError(cut)


@given(raw_keys)
def test_clamping_is_x25519s(raw: bytes) -> None:
    key = clamped(raw)

    assert key[0] % 8 == 0
    assert key[31] & 0xC0 == 0x40
    assert key[1:31] == raw[1:31]
    assert clamped(key) == key

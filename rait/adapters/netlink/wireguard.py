"""WireGuard's generic netlink interface, as linux/wireguard.h documents it."""

from __future__ import annotations

import binascii
import socket
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import lru_cache
from itertools import chain
from struct import Struct
from struct import error as StructError  # noqa: N812 - it is a class
from typing import TYPE_CHECKING, Any

from rait.adapters.keys import raw_key
from rait.adapters.netlink.picker import BYTES, U16, U32, U64, Picker
from rait.adapters.netlink.socket import (
    GENL,
    MalformedError,
    Request,
    attribute,
    attributes,
    chunks,
    nested,
    number,
)
from rait.domain.backend import DeviceState
from rait.domain.config.hosts import ifname_bytes
from rait.domain.config.schema import Secret
from rait.domain.errors import MachineError, counted
from rait.domain.topology import Device, Endpoint, LinkPeer

if TYPE_CHECKING:
    from rait.domain.writes import DeviceWrite, PeerWrite

# linux/wireguard.h
WG_CMD_GET_DEVICE = 0
WG_CMD_SET_DEVICE = 1
WG_KEY_LEN = 32
WGDEVICE_A_IFNAME = 2
WGDEVICE_A_PRIVATE_KEY = 3
WGDEVICE_A_PUBLIC_KEY = 4
WGDEVICE_A_LISTEN_PORT = 6
WGDEVICE_A_FWMARK = 7
WGDEVICE_A_PEERS = 8
WGPEER_F_REMOVE_ME = 1
WGPEER_F_REPLACE_ALLOWEDIPS = 2
WGPEER_F_UPDATE_ONLY = 4
WGPEER_A_PUBLIC_KEY = 1
WGPEER_A_PRESHARED_KEY = 2
WGPEER_A_FLAGS = 3
WGPEER_A_ENDPOINT = 4
WGPEER_A_PERSISTENT_KEEPALIVE_INTERVAL = 5
WGPEER_A_LAST_HANDSHAKE_TIME = 6
WGPEER_A_RX_BYTES = 7
WGPEER_A_TX_BYTES = 8
WGPEER_A_ALLOWEDIPS = 9
WGALLOWEDIP_A_FAMILY = 1
WGALLOWEDIP_A_IPADDR = 2
WGALLOWEDIP_A_CIDR_MASK = 3

_U16 = Struct("=H")
_SOCKADDR_IN = Struct("=H2s4s8x")
_SOCKADDR_IN6 = Struct("=H2s4x16sI")
# The private key is not picked, so it stays in the kernel's message. A preshared key becomes a
# digest as soon as it is read.
_of_device = Picker(
    {
        WGDEVICE_A_PUBLIC_KEY: BYTES,
        WGDEVICE_A_LISTEN_PORT: U16,
        WGDEVICE_A_FWMARK: U32,
        WGDEVICE_A_PEERS: BYTES,
    },
    GENL.size,
)
_of_peer = Picker(
    {
        WGPEER_A_PUBLIC_KEY: BYTES,
        WGPEER_A_PRESHARED_KEY: BYTES,
        WGPEER_A_ENDPOINT: BYTES,
        WGPEER_A_PERSISTENT_KEEPALIVE_INTERVAL: U16,
        WGPEER_A_LAST_HANDSHAKE_TIME: "q8x",  # struct __kernel_timespec, without its nanoseconds
        WGPEER_A_RX_BYTES: U64,
        WGPEER_A_TX_BYTES: U64,
        WGPEER_A_ALLOWEDIPS: BYTES,
    }
)
_NO_KEY = bytes(WG_KEY_LEN)

PskDigest = Callable[[str, bytes], str]
"""A function from a peer's public key and its preshared key to a digest: see adapters/keys.py."""

_ALLOWED_IPS_AT_ONCE = 512
_PEERS_BYTES = 32 << 10
"""The peers of one message. An attribute ends at 64 KiB, and one part of a peer takes up to 20."""


def get_device(family: int, name: str) -> Request:
    """A request for a dump of one device."""
    return Request(family, 0, GENL.pack(WG_CMD_GET_DEVICE, 1, 0) + _ifname(name))


def set_device(
    family: int, name: str, write: DeviceWrite, secret: Secret | None = None
) -> list[Request]:
    """The requests that write to a device, with ``secret`` for the private key.

    Peers that ``write`` does not name stay as they are. There is more than one request where the
    peers do not fit into one. Raises MachineError for a malformed key or endpoint.
    """
    head = GENL.pack(WG_CMD_SET_DEVICE, 1, 0) + _ifname(name)
    body = head
    if write.public_key is not None and secret is not None:
        body += attribute(WGDEVICE_A_PRIVATE_KEY, _secret_key(secret, "the private key"))
    if write.listen_port is not None:
        body += attribute(WGDEVICE_A_LISTEN_PORT, _U16.pack(write.listen_port))
    if write.fwmark is not None:
        body += number(WGDEVICE_A_FWMARK, write.fwmark)
    requests = []
    entries = chain.from_iterable(map(_encode_peer, write.peers))
    for part in chunks(entries, len, _PEERS_BYTES):
        requests.append(Request(family, 0, body + nested(WGDEVICE_A_PEERS, part)))
        body = head
    return requests or [Request(family, 0, body)]


def decode_device(bodies: Iterable[bytes], psk_digest: PskDigest) -> DeviceState:
    """The device that the messages of one dump add up to. Raises MalformedError.

    Only the first message describes the device itself. A peer that does not fit into one message
    continues in the next one, under the same key and with the rest of its allowed IPs.
    """
    device: dict[int, Any] = {}
    peers: dict[bytes, dict[int, Any]] = {}
    for body in bodies:
        found = _of_device(body)
        for _, entry in attributes(found.get(WGDEVICE_A_PEERS, b"")):
            peer = _of_peer(entry)
            peer[WGPEER_A_ALLOWEDIPS] = _allowed_ips(peer.get(WGPEER_A_ALLOWEDIPS, b""))
            first = peers.setdefault(peer.get(WGPEER_A_PUBLIC_KEY, b""), peer)
            if first is not peer:
                first[WGPEER_A_ALLOWEDIPS] += peer[WGPEER_A_ALLOWEDIPS]
        device = found | device
    by_key = {_key_text(key): peer for key, peer in peers.items()}
    return _device_state(device, by_key, psk_digest)


def _device_state(
    device: dict[int, Any], found: dict[str, dict[int, Any]], psk_digest: PskDigest
) -> DeviceState:
    peers: list[LinkPeer] = []
    handshakes, received, sent = dict[str, int](), dict[str, int](), dict[str, int]()
    for name in sorted(found):
        peer = found[name]
        endpoint = _decode_endpoint(peer.get(WGPEER_A_ENDPOINT, b""))
        keepalive = peer.get(WGPEER_A_PERSISTENT_KEEPALIVE_INTERVAL, 0)
        psk = peer.get(WGPEER_A_PRESHARED_KEY, _NO_KEY)
        digest = "" if psk == _NO_KEY else psk_digest(name, psk)
        networks = _in_order(peer[WGPEER_A_ALLOWEDIPS])
        peers.append(LinkPeer(name, endpoint, keepalive, networks, digest))
        handshakes[name] = peer.get(WGPEER_A_LAST_HANDSHAKE_TIME, 0)
        received[name] = peer.get(WGPEER_A_RX_BYTES, 0)
        sent[name] = peer.get(WGPEER_A_TX_BYTES, 0)
    own = Device(
        _key_text(device.get(WGDEVICE_A_PUBLIC_KEY, b"")),
        device.get(WGDEVICE_A_LISTEN_PORT, 0),
        device.get(WGDEVICE_A_FWMARK, 0),
    )
    return DeviceState(own, tuple(peers), handshakes, received, sent)


def _encode_peer(peer: PeerWrite) -> Iterator[bytes]:
    key = raw_key(peer.public_key)
    if key is None:
        raise MachineError(f"{peer.public_key!r} is not a WireGuard key")
    head = attribute(WGPEER_A_PUBLIC_KEY, key)
    flags = WGPEER_F_REMOVE_ME if peer.remove else 0
    if peer.remove or peer.update_only:
        flags |= WGPEER_F_UPDATE_ONLY
    first = head
    if peer.allowed_ips is not None:
        first += number(WGPEER_A_FLAGS, flags | WGPEER_F_REPLACE_ALLOWEDIPS)
    elif flags:
        first += number(WGPEER_A_FLAGS, flags)
    if peer.psk is not None:
        first += attribute(WGPEER_A_PRESHARED_KEY, _secret_key(peer.psk, "a preshared key"))
    if peer.endpoint is not None:
        first += attribute(WGPEER_A_ENDPOINT, encode_endpoint(peer.endpoint))
    if peer.keepalive is not None:
        first += attribute(WGPEER_A_PERSISTENT_KEEPALIVE_INTERVAL, _U16.pack(peer.keepalive))
    networks = peer.allowed_ips or ()
    yield _peer_entry(first, networks[:_ALLOWED_IPS_AT_ONCE])
    # The messages for the rest of the allowed IPs add to those of the first.
    rest = head + (number(WGPEER_A_FLAGS, flags) if flags else b"")
    for start in range(_ALLOWED_IPS_AT_ONCE, len(networks), _ALLOWED_IPS_AT_ONCE):
        yield _peer_entry(rest, networks[start : start + _ALLOWED_IPS_AT_ONCE])


def _peer_entry(head: bytes, networks: Sequence[str]) -> bytes:
    if networks:
        head += _encode_networks(tuple(networks))
    return nested(0, [head])


# Nearly all peers of a mesh have the same allowed IPs.
@lru_cache(maxsize=64)
def _encode_networks(networks: tuple[str, ...]) -> bytes:
    return nested(WGPEER_A_ALLOWEDIPS, map(_encode_network, networks))


def _encode_network(network: str) -> bytes:
    address, _, prefix = network.partition("/")
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    raw = socket.inet_pton(family, address)
    return nested(
        0,
        (
            attribute(WGALLOWEDIP_A_FAMILY, _U16.pack(family)),
            attribute(WGALLOWEDIP_A_IPADDR, raw),
            attribute(WGALLOWEDIP_A_CIDR_MASK, bytes((int(prefix or len(raw) * 8),))),
        ),
    )


@lru_cache(maxsize=64)
def _in_order(networks: tuple[str, ...]) -> tuple[str, ...]:
    return tuple(sorted(networks))


@lru_cache(maxsize=64)
def _allowed_ips(data: bytes) -> tuple[str, ...]:
    networks = []
    for _, entry in attributes(data):
        found = dict(attributes(entry))
        raw = found.get(WGALLOWEDIP_A_IPADDR, b"")
        mask = found.get(WGALLOWEDIP_A_CIDR_MASK, b"")
        if len(raw) not in (4, 16) or len(mask) != 1:
            raise MalformedError("an allowed IP is neither IPv4 nor IPv6")
        family = socket.AF_INET if len(raw) == 4 else socket.AF_INET6
        networks.append(f"{socket.inet_ntop(family, raw)}/{mask[0]}")
    return tuple(networks)


def encode_endpoint(endpoint: Endpoint) -> bytes:
    """An endpoint as struct sockaddr. Raises MachineError for one that does not fit."""
    address, _, zone = endpoint.address.partition("%")
    try:
        port = endpoint.port.to_bytes(2, "big")
        if ":" not in address:
            raw = socket.inet_pton(socket.AF_INET, endpoint.address)
            return _SOCKADDR_IN.pack(socket.AF_INET, port, raw)
        raw = socket.inet_pton(socket.AF_INET6, address)
        return _SOCKADDR_IN6.pack(socket.AF_INET6, port, raw, int(zone or 0))
    except (OSError, OverflowError, ValueError, StructError):
        raise MachineError(
            f"the kernel does not take {endpoint} as an endpoint: an endpoint has an IP address, "
            "a port and, as zone (%), the number of an interface"
        ) from None


def _decode_endpoint(data: bytes) -> Endpoint | None:
    if len(data) == _SOCKADDR_IN.size:
        _, port, raw = _SOCKADDR_IN.unpack(data)
        return Endpoint(socket.inet_ntop(socket.AF_INET, raw), int.from_bytes(port, "big"))
    if len(data) == _SOCKADDR_IN6.size:
        _, port, raw, scope = _SOCKADDR_IN6.unpack(data)
        address = socket.inet_ntop(socket.AF_INET6, raw)
        return Endpoint(f"{address}%{scope}" if scope else address, int.from_bytes(port, "big"))
    if data:
        raise MalformedError(f"an endpoint has {counted(len(data), 'byte')}")
    return None


def _secret_key(secret: Secret, what: str) -> bytes:
    key = raw_key(secret.reveal())
    if key is None:
        raise MachineError(f"{what} is not 32 bytes in base64")
    return key


def _key_text(raw: bytes) -> str:
    if not raw or raw == _NO_KEY:
        return ""
    return binascii.b2a_base64(raw, newline=False).decode()


def _ifname(name: str) -> bytes:
    return attribute(WGDEVICE_A_IFNAME, ifname_bytes(name) + b"\0")

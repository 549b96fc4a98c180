"""WireGuard's cross-platform userspace protocol (UAPI), https://www.wireguard.com/xplatform/.

A program such as wireguard-go serves it on /var/run/wireguard/NAME.sock. A request is lines of
``key=value`` and then an empty line, and so is the answer, whose last key is ``errno``. WireGuard
keys are lowercase hexadecimal, and a boolean is ``true`` or left out.

An answer is checked like any other input from outside: its size, its form and each value. rait
writes a private key only to a process of root or of its own user. A private key in an answer goes
no further than to the node's KeyPair, which derives the public key.
"""

from __future__ import annotations

import binascii
import errno
import os
import socket
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rait.adapters.closing import Closing, on_error
from rait.adapters.keys import KeyPair, raw_key
from rait.domain.backend import DeviceState
from rait.domain.config.hosts import ifname_bytes, ip_literal
from rait.domain.config.keytext import KEY_BYTES, shown
from rait.domain.config.schema import Secret
from rait.domain.errors import RaitError
from rait.domain.topology import Device, Endpoint, LinkPeer

if TYPE_CHECKING:
    from rait.domain.writes import DeviceWrite, PeerWrite

DIRECTORY = "/var/run/wireguard"
MAX_ANSWER = 16 * 2**20
"""The most bytes of an answer: enough for some 50,000 peers."""

NOBODY = (FileNotFoundError, ConnectionRefusedError)
"""What connecting to a program raises if none listens."""

TRUSTED_USERS = frozenset({0})
"""The users, besides our own, whose programs may get a private key: root."""

ANSWER_SECONDS = 5.0
"""The time for one request and its answer. On a busy machine a program may wait for a processor; a
program that hangs holds each run up for so long."""

_NO_KEY = "00" * KEY_BYTES
_ALL_ADDRESSES = frozenset({"0.0.0.0/0", "::/0"})
"""The allowed IPs of each of our peers."""

_UCRED = struct.Struct("iII")


class UapiError(RaitError):
    """A program cannot be reached, or does not follow the protocol."""


class RefusedError(UapiError):
    """A program answered a request with an error; ``errno`` is as in errno(3)."""

    def __init__(self, text: str, number: int) -> None:
        super().__init__(text)
        self.errno = number


def encode_set(write: DeviceWrite, secret: Secret | None = None) -> bytes:
    """The ``set=1`` request for a write, with ``secret`` for the private key.

    Raises UapiError for a malformed key or value.
    """
    lines = ["set=1"]
    if write.public_key is not None and secret is not None:
        lines.append(f"private_key={_hex_key(secret.reveal())}")
    if write.listen_port is not None:
        lines.append(f"listen_port={write.listen_port}")
    if write.fwmark is not None:
        lines.append(f"fwmark={write.fwmark}")
    for peer in write.peers:
        lines.extend(_peer_lines(peer))
    if any("\n" in line for line in lines):
        # Such as an endpoint of a journal: the program would read a second line.
        raise UapiError("a value to write must not hold a line feed")
    return ("\n".join(lines) + "\n\n").encode()


def decode_set(answer: bytes) -> None:
    """Check the answer to ``set=1``. Raises RefusedError for its errno, UapiError if malformed."""
    pairs = list(_pairs(answer))
    if pairs:
        raise UapiError(f"the answer to set=1 holds {shown(pairs[0][0])} besides errno")


def decode_get(answer: bytes, key: KeyPair) -> DeviceState:
    """The device in the answer to ``get=1``; ``key`` derives its public key and digests.

    Unknown keys of the protocol are ignored, as the protocol demands. Raises RefusedError for the
    answer's errno, and UapiError for a malformed answer.
    """
    fields = device = dict[str, str]()
    peers: dict[str, dict[str, str]] = {}
    allowed: dict[str, list[str]] = {}
    peer = ""
    for name, value in _pairs(answer):
        if name == "public_key":
            peer = _text_key(value)
            fields = peers.setdefault(peer, {})
            allowed.setdefault(peer, [])
        elif name == "allowed_ip" and peer:
            allowed[peer].append(value)
        else:
            fields[name] = value
    return DeviceState(
        Device(
            key.public_of(_raw_key("private_key", device.get("private_key", _NO_KEY))),
            _number(device, "listen_port", 0xFFFF),
            _number(device, "fwmark", 0xFFFFFFFF),
        ),
        tuple(_peer(name, peers[name], allowed[name], key) for name in sorted(peers)),
        _numbers(peers, "last_handshake_time_sec", 2**63 - 1),
        _numbers(peers, "rx_bytes", 2**64 - 1),
        _numbers(peers, "tx_bytes", 2**64 - 1),
    )


def socket_path(name: str) -> str:
    """The path of the socket for interface ``name``, for messages. Raises UapiError."""
    if not name or "/" in name or "\0" in name:
        raise UapiError(f"{name!r} cannot be the name of an interface")
    return f"{DIRECTORY}/{name}.sock"


def socket_file(name: str) -> bytes:
    """The path of the socket for interface ``name``, for system calls. Raises UapiError."""
    socket_path(name)
    return b"%b/%b.sock" % (os.fsencode(DIRECTORY), ifname_bytes(name))


class Client(Closing):
    """A connection to the program of one interface.

    Raises an error of NOBODY if no program listens, and UapiError if the program belongs to another
    user.
    """

    pid: int

    def __init__(self, name: str) -> None:
        self._name = name
        path = socket_path(name)
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        with on_error(self._socket.close):
            self._socket.settimeout(ANSWER_SECONDS)
            self._socket.connect(socket_file(name))
            credentials = self._socket.getsockopt(
                socket.SOL_SOCKET, socket.SO_PEERCRED, _UCRED.size
            )
            self.pid, uid, _ = _UCRED.unpack(credentials)
            if uid not in TRUSTED_USERS and uid != os.geteuid():
                raise UapiError(f"{path} belongs to user {uid}, who must not get a private key")

    def close(self) -> None:
        self._socket.close()

    def get(self, key: KeyPair) -> DeviceState:
        """Read the device; ``key`` is the node's own key pair. Raises UapiError."""
        with self._explained():
            return decode_get(self._exchange(b"get=1\n\n"), key)

    def set(self, write: DeviceWrite, secret: Secret | None = None) -> None:
        """Write to the device. Raises RefusedError if the program refuses, else UapiError."""
        with self._explained():
            decode_set(self._exchange(encode_set(write, secret)))

    def listen_on(self, port: int) -> None:
        """Set the listen port, 0 for any. Raises as ``set`` does."""
        from rait.domain.writes import DeviceWrite  # here, as a run with nothing to do writes none

        self.set(DeviceWrite(listen_port=port))

    @contextmanager
    def _explained(self) -> Iterator[None]:
        try:
            yield
        except RefusedError as error:
            raise RefusedError(f"{self._name}: {error}", error.errno) from None
        except UapiError as error:
            raise UapiError(f"{socket_path(self._name)}: {error}") from None

    def _exchange(self, request: bytes) -> bytes:
        deadline = time.monotonic() + ANSWER_SECONDS
        try:
            self._socket.settimeout(ANSWER_SECONDS)
            self._socket.sendall(request)
            return self._answer(deadline)
        except (TimeoutError, BlockingIOError):
            raise UapiError(f"no answer within {ANSWER_SECONDS:g} s") from None
        except OSError as error:
            raise UapiError(f"the connection broke: {error.strerror or error}") from None

    def _answer(self, deadline: float) -> bytes:
        answer = bytearray()
        while not answer.endswith(b"\n\n"):
            # What is there is read, also if rait itself was stopped until after the deadline.
            self._socket.settimeout(max(0.0, deadline - time.monotonic()))
            chunk = self._socket.recv(65536)
            if not chunk:
                raise UapiError("the program hung up before its answer was complete")
            answer += chunk
            if len(answer) > MAX_ANSWER:
                raise UapiError(f"the answer is over {MAX_ANSWER} bytes")
        return bytes(answer)


def _peer_lines(peer: PeerWrite) -> Iterator[str]:
    yield f"public_key={_hex_key(peer.public_key)}"
    if peer.remove:
        yield "remove=true"
        return
    if peer.update_only:
        yield "update_only=true"
    if peer.psk is not None:
        yield f"preshared_key={_hex_key(peer.psk.reveal())}"
    if peer.endpoint is not None:
        yield f"endpoint={peer.endpoint}"
    if peer.keepalive is not None:
        yield f"persistent_keepalive_interval={peer.keepalive}"
    if peer.allowed_ips is not None:
        yield "replace_allowed_ips=true"
        yield from (f"allowed_ip={network}" for network in peer.allowed_ips)


def _pairs(answer: bytes) -> Iterator[tuple[str, str]]:
    """Keys and values of an answer, without errno, which must be last.

    Raises RefusedError if errno is not 0, and UapiError for a malformed answer.
    """
    try:
        text = answer.decode("ascii")
    except UnicodeDecodeError:
        raise UapiError("the answer holds bytes that are not ASCII") from None
    if not text.endswith("\n\n"):
        raise UapiError("the answer is cut off")
    *lines, last = text[:-2].split("\n")
    _check_errno(last)
    for line in lines:
        key, equals, value = line.partition("=")
        if not equals or not key or key == "errno":
            raise UapiError(f"the answer holds the malformed line {shown(key)}")
        yield key, value


def _check_errno(line: str) -> None:
    key, _, value = line.partition("=")
    if key != "errno":
        raise UapiError("the answer does not end in errno")
    number = abs(_integer("errno", value, -0x7FFFFFFF, 0x7FFFFFFF))
    if number:
        name = errno.errorcode.get(number, "unknown")
        raise RefusedError(f"refused with errno {number} ({name}, {os.strerror(number)})", number)


def _peer(
    public_key: str, fields: dict[str, str], allowed_ips: list[str], key: KeyPair
) -> LinkPeer:
    psk = _raw_key("preshared_key", fields.get("preshared_key", _NO_KEY))
    return LinkPeer(
        public_key,
        _endpoint(fields["endpoint"]) if "endpoint" in fields else None,
        _number(fields, "persistent_keepalive_interval", 0xFFFF),
        _networks(allowed_ips),
        key.psk_digest(public_key, psk),
    )


def _hex_key(text: str) -> str:
    if (key := raw_key(text)) is None:
        raise UapiError(f"a WireGuard key is {KEY_BYTES} bytes in base64")
    return key.hex()


def _raw_key(field: str, value: str) -> bytes:
    # The value may be a private key, so no message quotes it.
    if len(value) != 2 * KEY_BYTES or not value.isalnum():
        raise UapiError(f"{field} is not {2 * KEY_BYTES} hexadecimal digits")
    try:
        return bytes.fromhex(value)
    except ValueError:
        raise UapiError(f"{field} is not {2 * KEY_BYTES} hexadecimal digits") from None


def _text_key(value: str) -> str:
    return binascii.b2a_base64(_raw_key("public_key", value), newline=False).decode()


def _numbers(peers: dict[str, dict[str, str]], field: str, most: int) -> dict[str, int]:
    return {key: _number(fields, field, most) for key, fields in peers.items()}


def _number(fields: dict[str, str], key: str, most: int) -> int:
    return _integer(key, fields.get(key, "0"), 0, most)


def _integer(key: str, value: str, least: int, most: int) -> int:
    digits = value.removeprefix("-")
    if not digits.isdecimal() or len(digits) > 20:
        raise UapiError(f"{key} is {shown(value)}, not a number")
    number = int(value)
    if not least <= number <= most:
        raise UapiError(f"{key} is {number}, out of range")
    return number


def _endpoint(value: str) -> Endpoint:
    host, _, port = value.rpartition(":")
    address = _address(host)
    if address is None:
        raise UapiError(f"{shown(value)} is not an endpoint")
    return Endpoint(address, _integer("an endpoint's port", port, 0, 0xFFFF))


def _address(host: str) -> str | None:
    """The canonical text of an endpoint's IP address; IPv6 is in brackets, and may have a zone."""
    if not (host.startswith("[") and host.endswith("]")):
        literal = ip_literal(host)
        return literal[1] if literal is not None and literal[0] == "ip4" else None
    from ipaddress import IPv6Address

    try:
        return str(IPv6Address(host[1:-1]))
    except ValueError:
        return None


def _networks(values: list[str]) -> tuple[str, ...]:
    """Allowed IPs sorted, IPv4 first: a program gives them in the order of its tree."""
    if _ALL_ADDRESSES.issuperset(values):
        return tuple(sorted(values))
    import ipaddress  # for networks that others set

    try:
        networks = [ipaddress.ip_network(value) for value in values]
    except ValueError:
        raise UapiError("an allowed_ip is not a network") from None
    networks.sort(key=lambda n: (n.version, int(n.network_address), n.prefixlen))
    return tuple(map(str, networks))

"""A stand-in for the kernel's netlink, for machines whose kernel has no WireGuard.

It answers in datagrams as the kernel's are, made from those that were captured of a real one, so
what rait does with them costs what it costs with real ones. What the kernel itself takes is not in
it: an answer is kept until something is written. There is one namespace, with WireGuard alone.
"""

from __future__ import annotations

import errno
import json
import socket
import time
from binascii import a2b_base64
from struct import Struct, pack
from typing import Any

import measure

from rait.adapters.netlink import rtnl
from rait.adapters.netlink import socket as netlink
from rait.adapters.netlink import wireguard as wg
from rait.adapters.netlink.socket import attribute, attributes, nested, number
from rait.adapters.netns import Netns

_FAMILY = 30
_UP = rtnl.IFF_UP | rtnl.IFF_LOWER_UP
_HEADER = Struct("=IHHII")
_IFINFO = Struct("=BxHiII")
_IFADDR = Struct("=BBBBI")
_DATAGRAM = 32 << 10  # of a dump, as in af_netlink.c
_CAPTURED = measure.REPO / "tests" / "data" / "netlink_dumps.json"
_READS = {(netlink.NETLINK_ROUTE, rtnl.RTM_GETLINK), (netlink.NETLINK_ROUTE, rtnl.RTM_GETADDR)}

Link = dict[str, Any]
Answer = tuple[int, list[bytes]]
"""The type and the bodies of the messages of an answer."""


class PlayedKernel:
    """The links, and when the last message was sent (``time.perf_counter``)."""

    def __init__(self, public_key: str) -> None:
        self.links: dict[int, Link] = {}
        self.last_sent = 0.0
        self._public_key = a2b_base64(public_key)
        self._template = _captured_link()
        self._answers: dict[tuple[int, int, bool, bytes], Answer | int] = {}

    def install(self) -> None:
        """Have rait's netlink sockets lead here, once they are made as they always are."""
        real = netlink.NetlinkSocket.__init__

        def init(own: netlink.NetlinkSocket, ns: Netns, protocol: int) -> None:
            real(own, ns, protocol)
            own._socket.close()
            own._socket = _Socket(self, protocol)  # type: ignore[assignment]

        netlink.NetlinkSocket.__init__ = init  # type: ignore[method-assign]

    def answer(self, protocol: int, kind: int, dump: bool, body: bytes) -> Answer | int:
        """The answer to a request, or an errno."""
        self.last_sent = time.perf_counter()
        key = protocol, kind, dump, body
        if key in self._answers:
            return self._answers[key]
        if protocol == netlink.NETLINK_GENERIC:
            is_read = kind == netlink.GENL_ID_CTRL or body[0] == wg.WG_CMD_GET_DEVICE
            answer = self._of_wireguard(kind, body)
        else:
            is_read = (protocol, kind) in _READS
            answer = self._of_interfaces(kind, dump, body)
        if is_read:
            self._answers[key] = answer
        else:
            self._answers.clear()
        return answer

    def _of_interfaces(self, kind: int, dump: bool, body: bytes) -> Answer | int:
        given = dict(attributes(body, _IFADDR.size if kind >= rtnl.RTM_NEWADDR else _IFINFO.size))
        if kind == rtnl.RTM_GETADDR:
            return rtnl.RTM_NEWADDR, [_address(x) for x in self.links.values() if "address" in x]
        if kind == rtnl.RTM_NEWADDR:
            self.links[_IFADDR.unpack_from(body)[-1]]["address"] = given[rtnl.IFA_LOCAL]
            return 0, []
        if kind == rtnl.RTM_GETLINK and dump:
            return rtnl.RTM_NEWLINK, [self._link(each) for each in self.links.values()]
        _, _, index, flags, changed = _IFINFO.unpack_from(body)
        if kind == rtnl.RTM_NEWLINK:
            index = len(self.links) + 10
            self.links[index] = {"index": index, "flags": 0, "peer": {}}
        link = self.links.get(index) or self._named(given[rtnl.IFLA_IFNAME])
        if link is None:
            return errno.ENODEV
        if kind == rtnl.RTM_GETLINK:
            return rtnl.RTM_NEWLINK, [self._link(link)]
        link.update({"flags": _UP if flags & rtnl.IFF_UP else 0} if changed else {})
        link.update({key: given[key] for key in given.keys() & _SETTINGS})
        return 0, []

    def _of_wireguard(self, kind: int, body: bytes) -> Answer | int:
        if kind == netlink.GENL_ID_CTRL:
            number_of_it = attribute(netlink.CTRL_ATTR_FAMILY_ID, pack("=H", _FAMILY))
            return netlink.GENL_ID_CTRL, [body[:4] + number_of_it]
        given = dict(attributes(body, 4))
        link = self._named(given[wg.WGDEVICE_A_IFNAME])
        if link is None:
            return errno.ENODEV
        if body[0] == wg.WG_CMD_GET_DEVICE:
            return _FAMILY, [self._device(link)]
        for _, peer in attributes(given.pop(wg.WGDEVICE_A_PEERS, b"")):
            link["peer"].update(attributes(peer))
        link["device"] = link.get("device", {}) | given
        return 0, []

    def _named(self, name: bytes) -> Link | None:
        return next((x for x in self.links.values() if x[rtnl.IFLA_IFNAME] == name), None)

    def _link(self, link: Link) -> bytes:
        body = _IFINFO.pack(0, 65534, link["index"], link["flags"], 0)
        return body + b"".join(attribute(k, link.get(k, v)) for k, v in self._template)

    def _device(self, link: Link) -> bytes:
        device, given = link["device"], link["peer"]
        peer = {
            wg.WGPEER_A_PRESHARED_KEY: bytes(32),
            wg.WGPEER_A_PERSISTENT_KEEPALIVE_INTERVAL: bytes(2),
            wg.WGPEER_A_LAST_HANDSHAKE_TIME: bytes(16),
            wg.WGPEER_A_RX_BYTES: bytes(8),
            wg.WGPEER_A_TX_BYTES: bytes(8),
        } | {kind: data for kind, data in given.items() if kind != wg.WGPEER_A_FLAGS}
        shown = {wg.WGDEVICE_A_PUBLIC_KEY: self._public_key, **device}
        parts = [number(1, link["index"]), *(attribute(k, v) for k, v in sorted(shown.items()))]
        entry = nested(0, [attribute(k, v) for k, v in sorted(peer.items())])
        return pack("=BBH", 0, 1, 0) + b"".join(parts) + nested(wg.WGDEVICE_A_PEERS, [entry])


_SETTINGS = {rtnl.IFLA_IFNAME, rtnl.IFLA_MTU, rtnl.IFLA_GROUP}


class _Socket:
    """As much of a netlink socket as rait uses."""

    def __init__(self, kernel: PlayedKernel, protocol: int) -> None:
        self._kernel = kernel
        self._protocol = protocol
        self._datagrams: list[bytes] = []

    def close(self) -> None: ...

    def send(self, data: bytes) -> None:
        for asked in netlink.decode(data):
            self._answer(asked.kind, asked.flags, asked.sequence, asked.body)

    def recv_into(self, buffer: bytearray, *_: object) -> int:
        datagram = self._datagrams.pop(0)
        buffer[: len(datagram)] = datagram
        return len(datagram)

    def _answer(self, kind: int, flags: int, sequence: int, body: bytes) -> None:
        dump = flags & netlink.NLM_F_DUMP == netlink.NLM_F_DUMP
        answer = self._kernel.answer(self._protocol, kind, dump, body)
        end = netlink.NLMSG_ERROR, pack("=i", 0) + bytes(16)
        if isinstance(answer, int):
            messages = [(netlink.NLMSG_ERROR, pack("=i", -answer) + bytes(16))]
        else:
            messages = [(answer[0], each) for each in answer[1]]
            if dump:
                messages.append((netlink.NLMSG_DONE, bytes(4)))
            elif flags & netlink.NLM_F_ACK:
                messages.append(end)
        datagram = b""
        for type_, each in messages:
            message = _HEADER.pack(_HEADER.size + len(each), type_, 0, sequence, 0)
            message += each + bytes(-len(each) % 4)
            if datagram and len(datagram) + len(message) > _DATAGRAM:
                self._datagrams.append(datagram)
                datagram = b""
            datagram += message
        self._datagrams += [datagram] if datagram else []


def _captured_link() -> list[tuple[int, bytes]]:
    """The attributes of a WireGuard interface in a real dump."""
    for text in json.loads(_CAPTURED.read_text())["links"]:
        for reply in netlink.decode(bytes.fromhex(text)):
            if len(reply.body) > _IFINFO.size:
                found = rtnl.attributes_of_link(reply.body)[2]
                if rtnl.kind_of(found) == rtnl.WIREGUARD:
                    return list(attributes(reply.body, _IFINFO.size))
    raise AssertionError("there is a WireGuard link in the captured dump")


def _address(link: Link) -> bytes:
    index: int = link["index"]
    head = _IFADDR.pack(socket.AF_INET6, 64, rtnl.IFA_F_PERMANENT, 253, index)
    return head + attribute(rtnl.IFA_ADDRESS, link["address"]) + attribute(6, bytes(16))

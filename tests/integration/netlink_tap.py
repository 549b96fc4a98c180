"""Captures all netlink messages in a namespace by an nlmon interface (kernel tier only)."""

from __future__ import annotations

import socket
import struct
from typing import NamedTuple

from tests.integration import machine

_ETH_P_ALL = 3  # linux/if_ether.h
_NLM_F_REQUEST = 1  # linux/netlink.h
_NETLINK_ROUTE = 0
_NETLINK_GENERIC = 16
_GENL_ID_CTRL = 16  # linux/genetlink.h
_RTM_BASE = 16  # linux/rtnetlink.h: types come in fours, NEW DEL GET SET
_GET = 2
_SO_RCVBUFFORCE = 33
_HEADER = struct.Struct("=IHHII")


class Request(NamedTuple):
    """A message that a program sent: its netlink family, type, and generic netlink command."""

    protocol: int
    type: int
    command: int | None = None

    @property
    def writes(self) -> bool:
        """Whether the request changes anything. WireGuard's GET_DEVICE is 0 and SET_DEVICE is 1."""
        if self.protocol == _NETLINK_ROUTE:
            return self.type >= _RTM_BASE and (self.type - _RTM_BASE) % 4 != _GET
        return self.type != _GENL_ID_CTRL and self.command != 0


class Tap:
    """An open capture; the interface stays until its namespace goes."""

    def __init__(self, netns: str) -> None:
        machine.ip_batch(["link add tap0 type nlmon", "link set tap0 up"], netns)
        self._socket = machine.socket_in(netns, socket.AF_PACKET, socket.SOCK_RAW)
        self._socket.setsockopt(socket.SOL_SOCKET, _SO_RCVBUFFORCE, 16 << 20)
        self._socket.bind(("tap0", _ETH_P_ALL))
        self._socket.setblocking(False)

    def requests(self) -> list[Request]:
        """The requests of rtnetlink and generic netlink since the last call."""
        found: list[Request] = []
        while True:
            try:
                data, address = self._socket.recvfrom(1 << 20)
            except BlockingIOError:
                return found
            if address[1] in (_NETLINK_ROUTE, _NETLINK_GENERIC):
                found += _requests(address[1], data)

    def close(self) -> None:
        self._socket.close()


def _requests(protocol: int, data: bytes) -> list[Request]:
    found = []
    at = 0
    while at + _HEADER.size <= len(data):
        length, kind, flags, _, _ = _HEADER.unpack_from(data, at)
        if length < _HEADER.size:
            break
        if flags & _NLM_F_REQUEST and kind >= _RTM_BASE:
            generic = protocol == _NETLINK_GENERIC
            found.append(Request(protocol, kind, data[at + _HEADER.size] if generic else None))
        at += (length + 3) & ~3
    return found

"""The floor: what raw, batched netlink takes to make, read and remove N WireGuard links.

Usage, as root where the kernel has WireGuard: floor.py N [--sockets K]

The links are made in a namespace of their own with their UDP sockets in the current one, as rait
makes them, and removed by group from K sockets at once (default 1). Prints JSON: seconds by step,
and how many messages went each way. It shares no code with rait, checks no names and explains no
errors: it is what rait's times are held against.
"""

from __future__ import annotations

import argparse
import ctypes
import json
import os
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from struct import pack, unpack_from

# linux/netlink.h, linux/rtnetlink.h, linux/if_link.h, linux/genetlink.h, linux/wireguard.h
REQUEST, ACK, EXCL, CREATE, DUMP = 0x1, 0x4, 0x200, 0x400, 0x300
ERROR, DONE, CTRL, GENERIC = 2, 3, 16, 16
NEWLINK, DELLINK, GETLINK, SETLINK, NEWADDR, GETADDR = 16, 17, 18, 19, 20, 22
NESTED = 0x8000
IFNAME, MTU, LINKINFO, GROUP, NET_NS_FD = 3, 4, 18, 27, 28
BATCH = 64
OURS, LEAVING = 54, 0x7FFF0000
PORTS = 10000


class Socket:
    """A netlink socket that sends many messages in one datagram, and counts them."""

    def __init__(self, protocol: int = socket.NETLINK_ROUTE) -> None:
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, protocol)
        self._socket.setsockopt(socket.SOL_SOCKET, 33, 16 << 20)  # SO_RCVBUFFORCE
        self._socket.setsockopt(socket.SOL_SOCKET, 32, 8 << 20)  # SO_SNDBUFFORCE
        self._socket.setsockopt(270, 10, 1)  # SOL_NETLINK, NETLINK_CAP_ACK
        self._socket.bind((0, 0))
        self.sent = self.received = 0

    def perform(self, messages: list[bytes]) -> None:
        for start in range(0, len(messages), BATCH):
            batch = messages[start : start + BATCH]
            self._socket.send(b"".join(batch))
            self.sent += len(batch)
            answered = 0
            while answered < len(batch):
                for kind, body in self._receive():
                    if kind == ERROR:
                        answered += 1
                        code = unpack_from("i", body)[0]
                        if code:
                            raise OSError(-code, os.strerror(-code))

    def ask(self, message: bytes) -> list[bytes]:
        """What answers one message, up to its end."""
        self._socket.send(message)
        self.sent += 1
        bodies: list[bytes] = []
        while True:
            for kind, body in self._receive():
                if kind in (ERROR, DONE):
                    return bodies
                bodies.append(body)

    def _receive(self) -> list[tuple[int, bytes]]:
        data = self._socket.recv(1 << 18)
        found, offset = [], 0
        while offset < len(data):
            size, kind = unpack_from("IH", data, offset)
            found.append((kind, data[offset + 16 : offset + size]))
            offset += (size + 3) & ~3
        self.received += len(found)
        return found


def message(kind: int, flags: int, body: bytes) -> bytes:
    return pack("IHHII", 16 + len(body), kind, REQUEST | flags, 0, 0) + body


def attribute(kind: int, data: bytes) -> bytes:
    return pack("HH", 4 + len(data), kind) + data + bytes(-len(data) % 4)


def number(kind: int, value: int) -> bytes:
    return attribute(kind, pack("I", value))


def link(index: int = 0, flags: int = 0, change: int = 0) -> bytes:
    return pack("BxHiII", 0, 0, index, flags, change)


def new_link(name: str, target: int) -> bytes:
    body = link() + attribute(IFNAME, name.encode() + b"\0")
    body += number(MTU, 1420) + number(GROUP, OURS) + number(NET_NS_FD, target)
    body += attribute(LINKINFO, attribute(1, b"wireguard\0"))
    return message(NEWLINK, ACK | CREATE | EXCL, body)


def set_device(family: int, index: int, key: bytes, port: int) -> bytes:
    endpoint = pack("=H", socket.AF_INET) + pack(">H", 50153) + bytes((10, 0, 0, 1)) + bytes(8)
    anywhere = b"".join(
        attribute(
            NESTED, attribute(1, pack("H", af)) + attribute(2, bytes(size)) + attribute(3, b"\0")
        )
        for af, size in ((socket.AF_INET, 4), (socket.AF_INET6, 16))
    )
    peer = attribute(1, os.urandom(32)) + attribute(4, endpoint) + attribute(9 | NESTED, anywhere)
    body = pack("BBH", 1, 1, 0) + number(1, index) + attribute(3, key)
    body += attribute(6, pack("H", port)) + number(7, OURS)
    body += attribute(8 | NESTED, attribute(NESTED, peer))
    return message(family, ACK, body)


def new_address(index: int) -> bytes:
    address = b"\xfe\x80" + bytes(6) + os.urandom(8)
    body = pack("BBBBi", socket.AF_INET6, 64, 0, 253, index)
    body += attribute(1, address) + attribute(2, address) + number(8, 0x82)
    return message(NEWADDR, ACK | CREATE | EXCL, body)


def links(via: Socket) -> dict[int, str]:
    """Names by index, without lo."""
    found = {}
    for body in via.ask(message(GETLINK, DUMP, link())):
        offset = 16
        while offset + 4 <= len(body):
            size, kind = unpack_from("HH", body, offset)
            if kind == IFNAME:
                found[unpack_from("i", body, 4)[0]] = body[offset + 4 : offset + size - 1].decode()
                break
            offset += (size + 3) & ~3
    return {index: name for index, name in found.items() if name != "lo"}


def family_of(generic: Socket) -> int:
    name = attribute(2, b"wireguard\0")
    (body,) = generic.ask(message(CTRL, ACK, pack("BBH", 3, 1, 0) + name))
    offset = 4
    while True:
        size, kind = unpack_from("HH", body, offset)
        if kind == 1:
            return int(unpack_from("H", body, offset + 4)[0])
        offset += (size + 3) & ~3


def enter(fd: int) -> None:
    if ctypes.CDLL(None, use_errno=True).setns(fd, 0x40000000):
        raise OSError(ctypes.get_errno(), "setns")


class Floor:
    """N links in a namespace of their own, step by step; ``seconds`` by step."""

    def __init__(self, target: str) -> None:
        transit = os.open("/proc/self/ns/net", os.O_RDONLY)
        self._target = os.open(f"/run/netns/{target}", os.O_RDONLY)
        self._maker = Socket()
        enter(self._target)
        self._sockets = [Socket(), Socket(GENERIC)]
        self._transit = transit
        enter(transit)
        self._route, self._generic = self._sockets
        self._sockets.append(self._maker)
        self._family = family_of(self._generic)
        self.seconds: dict[str, float] = {}

    def measure(self, count: int, sockets: int) -> dict[str, object]:
        self._timed("make", lambda: self._make(count))
        self._timed("read", lambda: self._read(count))
        self._timed("remove", lambda: self._remove(sockets))
        return {
            "seconds": self.seconds,
            "sockets": sockets,
            "sent": sum(each.sent for each in self._sockets),
            "received": sum(each.received for each in self._sockets),
        }

    def _timed(self, name: str, step: Callable[[], None]) -> None:
        start = time.perf_counter()
        step()
        self.seconds[name] = time.perf_counter() - start

    def _make(self, count: int) -> None:
        names = [f"floor{PORTS + i}" for i in range(count)]
        self._maker.perform([new_link(name, self._target) for name in names])
        found, key = links(self._route), os.urandom(32)
        self._generic.perform(
            [set_device(self._family, i, key, int(name[5:])) for i, name in found.items()]
        )
        self._route.perform([new_address(index) for index in found])
        self._route.perform([message(NEWLINK, ACK, link(0, 1, 1) + number(GROUP, OURS))])

    def _read(self, count: int) -> None:
        """As rait reads: a dump of the links, one of their addresses, and each device."""
        found = links(self._route)
        self._route.ask(message(GETADDR, DUMP, pack("BBBBi", socket.AF_INET6, 0, 0, 0, 0)))
        for index in found:
            body = pack("BBH", 0, 1, 0) + number(1, index)
            self._generic.ask(message(self._family, DUMP, body))
        if len(found) != count:
            raise RuntimeError(f"{len(found)} links of {count} are there")

    def _remove(self, sockets: int) -> None:
        groups = [LEAVING + i for i in range(sockets)]
        moves = [link(index) for index in links(self._route)]
        self._route.perform(
            [
                message(SETLINK, ACK, move + number(GROUP, groups[i % sockets]))
                for i, move in enumerate(moves)
            ]
        )
        enter(self._target)
        removers = [Socket() for _ in groups]
        enter(self._transit)
        self._sockets += removers
        threads = [
            threading.Thread(
                target=via.perform, args=([message(DELLINK, ACK, link() + number(GROUP, group))],)
            )
            for via, group in zip(removers, groups, strict=True)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if links(self._route):
            raise RuntimeError("links are left")


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("links", type=int)
    parser.add_argument("--sockets", type=int, default=1)
    arguments = parser.parse_args()
    target = f"floor{os.getpid()}"
    subprocess.run(["ip", "netns", "add", target], check=True)
    try:
        print(json.dumps(Floor(target).measure(arguments.links, arguments.sockets)))
    finally:
        subprocess.run(["ip", "netns", "delete", target], check=True)


if __name__ == "__main__":
    main()

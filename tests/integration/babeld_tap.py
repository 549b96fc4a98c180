"""Control sockets in place of babeld's: one that records commands, and ones that misbehave."""

from __future__ import annotations

import contextlib
import fcntl
import socket
import socketserver
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from tests.integration import machine

SIOCGIFINDEX = 0x8933  # linux/sockios.h
IFREQ = struct.Struct("16s24x")  # struct ifreq, netdevice(7)


class Said(NamedTuple):
    """A command to babeld, and whether the interface that it names existed when it came."""

    command: str
    there: bool


class Tap:
    """The commands that rait sends to babeld over ``socket``, without those that change nothing."""

    def __init__(self, path: str) -> None:
        self.socket = path
        self.said: list[Said] = []

    @property
    def commands(self) -> list[str]:
        return [said.command for said in self.said]

    def take(self) -> list[Said]:
        """The commands since the last call."""
        said, self.said = self.said, []
        return said


@contextmanager
def tapped(babeld: str, netns: str, directory: Path) -> Iterator[Tap]:
    """Serve a control socket that passes everything on to babeld's, and record the commands."""
    tap = Tap(str(directory / "tap.ctl"))

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            with socket.socket(socket.AF_UNIX) as server, contextlib.suppress(ConnectionError):
                server.connect(babeld)
                answers = threading.Thread(target=_copy, args=(server, self.connection))
                answers.start()
                for line in self.rfile:
                    command = line.decode().rstrip("\n")
                    if command != "dump":
                        tap.said.append(Said(command, _is_there(probe, _interface(command))))
                    server.sendall(line)
                server.shutdown(socket.SHUT_WR)
                answers.join()

    with (
        machine.socket_in(netns, socket.AF_INET, socket.SOCK_DGRAM) as probe,
        _served(tap, Handler),
    ):
        yield tap


@contextmanager
def model(path: Path, talk: Callable[[socket.socket], None]) -> Iterator[str]:
    """Serve a control socket by this function, and give the socket's path."""

    class Handler(socketserver.BaseRequestHandler):
        def handle(self) -> None:
            with contextlib.suppress(ConnectionError):
                talk(self.request)

    tap = Tap(str(path))
    with _served(tap, Handler):
        yield tap.socket


@contextmanager
def _served(tap: Tap, handler: type[socketserver.BaseRequestHandler]) -> Iterator[None]:
    class Server(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
        daemon_threads = True

    with Server(tap.socket, handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            yield
        finally:
            server.shutdown()
            thread.join()
            Path(tap.socket).unlink()


def _copy(source: socket.socket, target: socket.socket) -> None:
    with contextlib.suppress(OSError):
        while data := source.recv(65536):
            target.sendall(data)
        target.shutdown(socket.SHUT_WR)


def _interface(command: str) -> str:
    words = command.removeprefix("flush ").split()
    return words[1] if words[0] == "interface" and len(words) > 1 else ""


def _is_there(probe: socket.socket, name: str) -> bool:
    try:
        fcntl.ioctl(probe, SIOCGIFINDEX, IFREQ.pack(name.encode()))
    except OSError:
        return False
    return True

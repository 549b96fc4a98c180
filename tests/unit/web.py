"""A web server of the tests' own, and a client that says exactly what it is told to."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import contextmanager

from anyio.from_thread import start_blocking_portal

from rait.adapters.web_server import Answering, listen, serve

SECONDS = 60.0
"""More than anything takes."""


@contextmanager
def serving(answer: Answering, host: str = "127.0.0.1") -> Iterator[int]:
    """Serve on a port that is free, as long as the context lasts, and give its number."""
    with start_blocking_portal() as portal, listen(host, 0) as listener:
        served = portal.start_task_soon(serve, listener, answer)
        try:
            yield listener.getsockname()[1]
        finally:
            served.cancel()


def connect(port: int, host: str = "127.0.0.1") -> socket.socket:
    return socket.create_connection((host, port), timeout=SECONDS)


def rest(connection: socket.socket) -> bytes:
    """All that a server still says."""
    return b"".join(iter(lambda: connection.recv(65536), b""))


def ask(port: int, request: str, host: str = "127.0.0.1") -> tuple[int, dict[str, str], bytes]:
    """The status, header and body that a server answers to these lines."""
    with connect(port, host) as connection:
        connection.sendall((request.replace("\n", "\r\n") + "\r\n\r\n").encode())
        return parted(rest(connection))


def get(port: int, path: str, *fields: str) -> tuple[int, dict[str, str], bytes]:
    """The status, header and body that a server on this machine answers to a GET."""
    return ask(port, "\n".join((f"GET {path} HTTP/1.1", "Host: localhost", *fields)))


def parted(answer: bytes) -> tuple[int, dict[str, str], bytes]:
    head, _, body = answer.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    fields = dict(line.split(": ", 1) for line in lines)
    return int(first.split()[1]), {name.lower(): value for name, value in fields.items()}, body

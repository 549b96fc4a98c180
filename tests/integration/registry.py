"""A registry of peers and a name server on a namespace's loopback, which can fail in many ways."""

from __future__ import annotations

import http.server
import socket
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Literal

from tests.integration import machine

Mood = Literal["good", "cut", "drip", "silent"]
"""What the registry does with a request: it sends its page, half of it, a byte now and then, or
not a thing."""


class Registry:
    """A web server; it may die, and come back at the same port.

    It has ``signature`` beside its page, if that is not empty.
    """

    def __init__(self, netns: str) -> None:
        self.page = ""
        self.signature = ""
        self.status = 200
        self.mood: Mood = "good"
        self.answers: list[int] = []
        self._netns = netns
        self._server: http.server.ThreadingHTTPServer | None = None
        self._thread = threading.Thread()
        self._over = threading.Event()
        self._port = 0

    @property
    def url(self) -> str:
        return f"http://me:password@127.0.0.1:{self._port}/peers.toml?token=secret"

    def start(self) -> None:
        registry = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                with suppress(OSError):  # whoever asked has gone
                    registry.answer(self)

            def log_message(self, *_: object) -> None:
                pass

        self._over.clear()
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler, False)
        server.daemon_threads = True
        server.socket.close()
        server.socket = machine.socket_in(self._netns, socket.AF_INET, socket.SOCK_STREAM)
        server.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        server.socket.bind(("127.0.0.1", self._port))
        server.server_activate()
        self._port = server.socket.getsockname()[1]
        self._server, self._thread = server, threading.Thread(target=server.serve_forever)
        self._thread.start()

    def answer(self, request: http.server.BaseHTTPRequestHandler) -> None:
        page = self.page.encode()  # before the others: a test sets it after them
        mood, status = self.mood, self.status
        etag = f'"{hash(page):x}"'
        if request.path.partition("?")[0].endswith(".minisig"):
            page = self.signature.encode()
            status, etag = (status, '"signature"') if page else (404, "")
        if status == 200 and mood == "good" and request.headers.get("If-None-Match") == etag:
            status, page = 304, b""
        self.answers.append(status)
        if mood == "silent":
            self._over.wait()
            return
        request.send_response(status)
        request.send_header("ETag", etag)
        request.send_header("Content-Length", str(len(page)))
        request.end_headers()
        if mood == "drip":
            for byte in page:
                if self._over.wait(0.3):
                    return
                request.wfile.write(bytes([byte]))
        else:
            request.wfile.write(page[: len(page) // 2] if mood == "cut" else page)

    def die(self) -> None:
        self._over.set()
        if self._server is not None:
            self._server.shutdown()
            self._thread.join()
            self._server.server_close()
            self._server = None

    def asked(self, times: int = 1) -> None:
        """Wait until it was asked so often from now on."""
        seen, deadline = len(self.answers), time.monotonic() + machine.PATIENCE
        while len(self.answers) < seen + times:
            assert time.monotonic() < deadline, "nobody asks the registry"
            time.sleep(0.02)


@contextmanager
def answering(netns: str, page: str) -> Iterator[Registry]:
    """A registry with this page, which dies with the block."""
    registry = Registry(netns)
    registry.page = page
    registry.start()
    try:
        yield registry
    finally:
        registry.die()


class NameServer:
    """A DNS server (RFC 1035) that knows one name, by its ``addresses`` in each family.

    While it is ``silent``, it answers no question.
    """

    def __init__(self, netns: str, name: str) -> None:
        self.addresses: dict[str, str] = {}
        self.silent = False
        self.questions = 0
        parts = (*name.split("."), "")
        self._name = b"".join(bytes([len(part)]) + part.encode() for part in parts)
        self._socket = machine.socket_in(netns, socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.1", 53))
        self._socket.settimeout(0.1)
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._serve)

    @contextmanager
    def serving(self) -> Iterator[NameServer]:
        self._thread.start()
        try:
            yield self
        finally:
            self._over.set()
            self._thread.join()
            self._socket.close()

    def _serve(self) -> None:
        while not self._over.is_set():
            with suppress(TimeoutError):
                question, asker = self._socket.recvfrom(512)
                self.questions += 1
                if not self.silent:
                    self._socket.sendto(self._answer(question), asker)

    def _answer(self, message: bytes) -> bytes:
        name, _, _ = message[12:].partition(b"\0")
        question = message[12 : 12 + len(name) + 5]
        kind = int.from_bytes(question[-4:-2], "big")
        family = {1: "ip4", 28: "ip6"}.get(kind, "")
        records = b""
        if name + b"\0" == self._name and family in self.addresses:
            version = socket.AF_INET if family == "ip4" else socket.AF_INET6
            address = socket.inet_pton(version, self.addresses[family])
            # The name as in the question, its type and class, to be kept for 0 s.
            records = b"\xc0\x0c" + question[-4:] + bytes(4) + len(address).to_bytes(2, "big")
            records += address
        flags = b"\x81\x80" if self.addresses else b"\x81\x83"
        counts = b"\0\1" + (b"\0\1" if records else b"\0\0") + bytes(4)
        return message[:2] + flags + counts + question + records

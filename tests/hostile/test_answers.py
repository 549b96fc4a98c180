"""Whatever a web server answers: a text that is whole, or one clear error, within the bounds."""

from __future__ import annotations

import re
import socket
import threading
from collections.abc import Iterator
from contextlib import suppress
from urllib.parse import quote, unquote

import pytest

from tests.hostile import answers
from tests.hostile.conftest import Measure

PLENTY = 60.0
"""Seconds for what ends by itself, on however busy a machine."""


class Server:
    """Sends, byte for byte, the answer that the path of a request names."""

    def __init__(self, known: dict[str, answers.Answer]) -> None:
        self._known = known
        self._closing = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.port = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def close(self) -> None:
        self._closing.set()
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self._thread.join()

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                connection = self._listener.accept()[0]
                threading.Thread(target=self._answer, args=(connection,), daemon=True).start()

    def _answer(self, connection: socket.socket) -> None:
        with connection, suppress(OSError):
            request = b""
            while b"\r\n\r\n" not in request:
                request += connection.recv(65536)
            head, _, body = request.partition(b"\r\n\r\n")
            announced = re.search(rb"(?i)^content-length: *(\d+)", head, re.MULTILINE)
            while announced and len(body) < int(announced[1]):
                body += connection.recv(65536)
            path = unquote(request.split()[1].decode().partition("?")[0])
            for part in self._known.get(path[1:], answers.MISSING):
                if isinstance(part, bytes):
                    connection.sendall(part)
                elif self._closing.wait(part):
                    return
            # What is unread must not turn the end of the answer into a reset.
            connection.shutdown(socket.SHUT_WR)


@pytest.fixture(scope="module")
def server() -> Iterator[Server]:
    bad = {name: answer for name, (answer, _) in answers.BAD.items()}
    server = Server(answers.GOOD | bad | answers.SLOW)
    yield server
    server.close()


@pytest.mark.parametrize("name", answers.GOOD)
def test_a_good_answer(name: str, server: Server, measure: Measure) -> None:
    found = measure(url=f"http://127.0.0.1:{server.port}/{quote(name)}", timeout=PLENTY)
    assert found.get("text") == answers.TEXT.decode(), found


@pytest.mark.parametrize("name", answers.BAD)
def test_a_bad_answer(name: str, server: Server, measure: Measure) -> None:
    url = f"http://127.0.0.1:{server.port}/{quote(name)}"
    error = measure(url=url, timeout=PLENTY).get("error", "no error")
    assert error.startswith(f"{url}: ")
    assert answers.BAD[name][1].format(port=server.port) in error
    assert "secret" not in error
    assert len(error) < 2000


@pytest.mark.parametrize("name", answers.SLOW)
def test_an_answer_without_end(name: str, server: Server, measure: Measure) -> None:
    url = f"http://127.0.0.1:{server.port}/{quote(name)}"
    error = measure(url=url, timeout=1).get("error", "no error")
    assert error.startswith(f"{url}: ")
    assert "within 1 seconds" in error

"""A small HTTP server for what can be read: GET and HEAD, one request for each connection.

What it costs has bounds, whoever asks: how many connections there are, how long one lasts, how
large a request is. When there are too many, the oldest one is closed, first of those that have not
asked yet; so a client that opens many and says nothing keeps no other out. HTTP is h11's (RFC
9112). On a loopback address the server answers only to a Host that is one (RFC 9110, section 7.2):
else a web page could have its own name lead here, and read the answer (DNS rebinding).
"""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable
from contextlib import suppress
from ipaddress import ip_address
from itertools import count

import anyio
import h11
from msgspec import Struct

from rait.adapters.closing import on_error
from rait.domain.errors import MachineError

MAX_CONNECTIONS = 32
MAX_HEAD = 8192
"""In bytes: the line and the header of a request. Browsers stay below 4 KiB."""

HEAD_SECONDS = 5.0
"""How long a client may take to say its request."""

TALK_SECONDS = 30.0
"""How long a connection lasts at most, with the time until the client has read the answer."""

_LINGER_SECONDS = 1.0
_LINGER_CHUNKS = 16
_BUSY_SECONDS = 0.1
_CHUNK = 4096
_BACKLOG = 128
_TEXT = "text/plain; charset=utf-8"

_HEADERS = {
    "Connection": "close",
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
}


class Asked(Struct, frozen=True):
    """A request: its path without the query, and the header field Accept, "" if there is none."""

    path: str
    accept: str = ""


class Answer(Struct, frozen=True):
    """An answer. ``headers`` come in place of the server's own of the same names."""

    body: bytes
    content_type: str = _TEXT
    status: int = 200
    headers: dict[str, str] = {}


Answering = Callable[[Asked], Awaitable[Answer]]


def plain(status: int, text: str, **headers: str) -> Answer:
    """An answer for people, in one line of text."""
    return Answer(f"{text}\n".encode(), status=status, headers=headers)


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens at an IP address. Raises MachineError."""
    where = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    try:
        listener = socket.socket(
            socket.AF_INET6 if ":" in host else socket.AF_INET,
            socket.SOCK_STREAM | socket.SOCK_NONBLOCK,
        )
        with on_error(listener.close):
            # A port that an earlier process had a moment ago can be had at once (socket(7)).
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind((host, port))
            listener.listen(_BACKLOG)
    except OSError as error:
        raise MachineError(
            f"nothing can be served at {where}: {error.strerror or error}: set another address in "
            f'`metrics`, or end the program that has it ("ss -ltnp sport = {port}" names it)'
        ) from None
    return listener


async def serve(listener: socket.socket, answer: Answering) -> None:
    """Answer what is asked at a socket that listens, until it is closed or this is cancelled.

    ``answer`` must not raise. Nothing that a client does is told to anybody else.
    """
    if listener.fileno() < 0:
        return
    talks: dict[int, _Talk] = {}
    only_local = ip_address(listener.getsockname()[0]).is_loopback
    async with anyio.create_task_group() as group:
        for number in count():
            connection = await _accepted(listener)
            if connection is None:
                return
            talk = _Talk(connection, answer, only_local=only_local)
            if len(talks) >= MAX_CONNECTIONS:
                oldest = min(talks, key=lambda each: (talks[each].has_asked, each))
                talks.pop(oldest).scope.cancel()
            talks[number] = talk
            group.start_soon(_held, talks, number)


async def _accepted(listener: socket.socket) -> socket.socket | None:
    """The next connection; None if the listener is closed."""
    while listener.fileno() >= 0:
        try:
            await anyio.wait_readable(listener)
            connection, _ = listener.accept()
        except BlockingIOError:
            continue
        except ValueError:  # it was closed before anyio could look at it
            continue
        except OSError:  # the client is gone already, or this process has too many files open
            await anyio.sleep(_BUSY_SECONDS)
            continue
        connection.setblocking(False)
        return connection
    return None


async def _held(talks: dict[int, _Talk], number: int) -> None:
    talk = talks[number]
    try:
        with talk.scope, suppress(Exception):  # whatever it says, a client ends its own talk alone
            await talk.run()
    finally:
        talk.connection.close()
        talks.pop(number, None)


class _Talk:
    """One connection, with the one request that it is for."""

    def __init__(self, connection: socket.socket, answer: Answering, *, only_local: bool) -> None:
        self.connection = connection
        self.scope = anyio.CancelScope(deadline=anyio.current_time() + TALK_SECONDS)
        self.has_asked = False
        self._answer = answer
        self._only_local = only_local
        self._http = h11.Connection(h11.SERVER, max_incomplete_event_size=MAX_HEAD)

    async def run(self) -> None:
        """Read the request and answer it. Raises OSError."""
        try:
            with anyio.fail_after(HEAD_SECONDS):
                request = await self._request()
        except TimeoutError:
            return
        except h11.RemoteProtocolError as error:
            await self._send(plain(error.error_status_hint, "this is no request of HTTP/1.1"))
        else:
            if request is None:
                return
            self.has_asked = True
            answer = self._refusal(request) or await self._answer(_asked(request))
            await self._send(answer, whole=request.method != b"HEAD")
        await self._linger()

    async def _request(self) -> h11.Request | None:
        while (event := self._http.next_event()) is h11.NEED_DATA:
            self._http.receive_data(await self._received())
        return event if isinstance(event, h11.Request) else None

    def _refusal(self, request: h11.Request) -> Answer | None:
        if request.method not in (b"GET", b"HEAD"):
            return plain(405, "only GET and HEAD are answered", Allow="GET, HEAD")
        if self._only_local and not _is_loopback(_field(request, b"host")):
            return plain(403, "this address answers only to localhost, 127.0.0.1 and [::1]")
        return None

    async def _send(self, answer: Answer, *, whole: bool = True) -> None:
        headers = {
            **_HEADERS,
            "Content-Type": answer.content_type,
            "Content-Length": str(len(answer.body)),
            **answer.headers,
        }
        head = h11.Response(status_code=answer.status, headers=list(headers.items()))
        data = memoryview((self._http.send(head) or b"") + (answer.body if whole else b""))
        while data:
            await anyio.wait_writable(self.connection)
            with suppress(BlockingIOError):
                data = data[self.connection.send(data) :]

    async def _linger(self) -> None:
        """Wait until the client has all: a close with data unread would take the answer back."""
        self.connection.shutdown(socket.SHUT_WR)
        with anyio.move_on_after(_LINGER_SECONDS):
            for _ in range(_LINGER_CHUNKS):
                if not await self._received():
                    return

    async def _received(self) -> bytes:
        while True:
            await anyio.wait_readable(self.connection)
            with suppress(BlockingIOError):
                return self.connection.recv(_CHUNK)


def _asked(request: h11.Request) -> Asked:
    path = request.target.partition(b"?")[0].decode("latin-1")
    return Asked(path, _field(request, b"accept"))


def _field(request: h11.Request, name: bytes) -> str:
    return dict(request.headers).get(name, b"").decode("latin-1")


def _is_loopback(host: str) -> bool:
    """Whether a Host names this machine's loopback, whatever its port."""
    name = host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]
    if name.lower() == "localhost":
        return True
    try:
        return ip_address(name).is_loopback
    except ValueError:
        return False

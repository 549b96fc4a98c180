"""The client over real sockets, against servers that behave and servers that do not."""

from __future__ import annotations

import contextlib
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest

from rait.adapters.babeld import (
    BabeldClient,
    BabeldReadOnlyError,
    BabeldUnreachableError,
    Timeouts,
    parse_tcp_address,
)
from rait.domain.babel import BabeldError, BabeldRefusedError, BabelInterface, Limits
from rait.domain.config.schema import Babeld

BANNER = b"BABEL 1.0\nversion babeld-1.12.1\nhost a\nmy-id 60:96:2a:d9:a5:63:32:d9\nok\n"
PATIENT = Timeouts(connect=10, answer=20, total=30)
SHORT = Timeouts(connect=30, answer=2, total=60)

Handler = Callable[[socket.socket], None]


class Server:
    """Serves each connection by a handler; closes all when the test ends."""

    def __init__(self, listening: socket.socket, handler: Handler) -> None:
        self.connections = 0
        self.received: list[bytes] = []
        self._listening = listening
        self._handler = handler
        self._open: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def _accept(self) -> None:
        while True:
            try:
                connection, _ = self._listening.accept()
            except OSError:
                return
            self.connections += 1
            self._open.append(connection)
            thread = threading.Thread(target=self._serve, args=[connection])
            self._threads.append(thread)
            thread.start()

    def _serve(self, connection: socket.socket) -> None:
        with contextlib.suppress(OSError):
            self._handler(connection)

    def stop(self) -> None:
        for each in (self._listening, *self._open):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(10)
        for each in (self._listening, *self._open):
            each.close()


Serve = Callable[[Handler], Server]


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "babeld.ctl")


@pytest.fixture
def serve(path: str) -> Iterator[Serve]:
    servers: list[Server] = []

    def start(handler: Handler) -> Server:
        listening = socket.socket(socket.AF_UNIX)
        listening.bind(path)
        listening.listen()
        servers.append(Server(listening, handler))
        return servers[-1]

    yield start
    for server in servers:
        server.stop()


def client(
    path: str,
    timeouts: Timeouts = PATIENT,
    limits: Limits = Limits(),  # noqa: B008
) -> BabeldClient:
    return BabeldClient(Babeld(socket_addr=path), timeouts=timeouts, limits=limits)


def answering(answers: dict[bytes, bytes], heard: list[bytes] | None = None) -> Handler:
    """A babeld that gives these answers, ``ok`` to other commands, and hangs up on quit."""

    def handle(connection: socket.socket) -> None:
        connection.sendall(BANNER)
        for line in connection.makefile("rb"):
            if heard is not None:
                heard.append(line.rstrip(b"\n"))
            if line == b"quit\n":
                connection.shutdown(socket.SHUT_WR)
                return
            connection.sendall(answers.get(line.rstrip(b"\n"), b"ok\n"))

    return handle


def saying(*chunks: bytes, hang_up: bool = False) -> Handler:
    """A server that says all this on connection, then keeps silent or hangs up."""

    def handle(connection: socket.socket) -> None:
        for chunk in chunks:
            connection.sendall(chunk)
        if hang_up:
            connection.shutdown(socket.SHUT_WR)

    return handle


def test_interfaces_are_told_on_a_connection_of_their_own(path: str, serve: Serve) -> None:
    heard: list[bytes] = []
    dump = b"add interface v0 up true ipv6 fe80::1\nadd route 1 prefix ::/0\nok\n"
    server = serve(answering({b"dump": dump}, heard))
    with client(path) as babeld:
        assert babeld.interfaces() == (BabelInterface("v0", up=True, ipv6="fe80::1"),)
        babeld.flush("v0")
        babeld.add("v1", "type tunnel rxcost 32")
        babeld.command("redistribute local deny")
    assert babeld.banner is not None
    assert babeld.banner.version == "babeld-1.12.1"
    assert server.connections == 2
    assert heard == [
        b"dump",
        b"flush interface v0",
        b"interface v1 type tunnel rxcost 32",
        b"redistribute local deny",
    ]


def test_flushing_what_babeld_does_not_have_is_no_error(path: str, serve: Serve) -> None:
    serve(answering({b"flush interface v0": b"no No such interface\n"}))
    with client(path) as babeld:
        assert babeld.flush("v0") is False
        assert babeld.flush("v1") is True


def test_a_command_that_has_data_for_an_answer(path: str, serve: Serve) -> None:
    serve(answering({b"monitor": b"add interface v0 up false\nok\n"}))
    with client(path) as babeld:
        assert babeld.command("monitor") == ("add interface v0 up false",)


def test_after_quit_the_next_command_finds_a_new_connection(path: str, serve: Serve) -> None:
    server = serve(answering({}))
    with client(path) as babeld:
        assert babeld.command("quit") == ()
        babeld.add("v0", "")
    assert server.connections == 2


@pytest.mark.parametrize("reply", [b"no never\n", b"no\n", b"bad\n"])
def test_a_refused_command_is_named_and_the_next_goes_on(
    path: str, serve: Serve, reply: bytes
) -> None:
    probe = b"flush interface rait-no-such-interface"
    serve(answering({b"interface v0 rxcost x": reply, probe: b"no No such interface\n"}))
    with client(path) as babeld:
        with pytest.raises(BabeldRefusedError, match="'interface v0 rxcost x'") as caught:
            babeld.add("v0", "rxcost x")
        assert not isinstance(caught.value, BabeldReadOnlyError)
        assert repr(reply.decode().strip()) in str(caught.value)
        babeld.add("v1", "")


def test_a_read_only_socket_is_told_from_a_bad_command(path: str, serve: Serve) -> None:
    probe = b"flush interface rait-no-such-interface"
    serve(answering({b"interface v0": b"bad\n", probe: b"bad\n"}))
    with client(path) as babeld, pytest.raises(BabeldReadOnlyError, match="-G PATH") as caught:
        babeld.add("v0", "")
    assert "`-g PATH`" in str(caught.value)
    assert path in str(caught.value)


def test_a_refused_dump(path: str, serve: Serve) -> None:
    serve(answering({b"dump": b"no not today\n"}))
    with client(path) as babeld, pytest.raises(BabeldRefusedError, match=r"'dump'.*not today"):
        babeld.interfaces()


@pytest.mark.parametrize(
    ("name", "param"),
    [
        ("v0\nflush interface eth0", ""),
        ("v0", "rxcost 32\nflush interface eth0"),
        ("v0", "rxcost 32\r"),
        ("v0", 'key "id'),
        ("v0", "\x00"),
        ("v 0", ""),
        ("", ""),
    ],
)
def test_nothing_is_smuggled_in(path: str, serve: Serve, name: str, param: str) -> None:
    server = serve(answering({}))
    with client(path) as babeld, pytest.raises(BabeldError):
        babeld.add(name, param)
    assert server.connections == 0


def flood(connection: socket.socket) -> None:
    while True:
        connection.sendall(b"add route 1 prefix ::/0\n" * 1000)


def drip(connection: socket.socket) -> None:
    while True:
        connection.sendall(b"B")
        threading.Event().wait(0.05)


MISBEHAVING = {
    "silent": (saying(), "did not send its banner within 2 s; it serves four"),
    "hangs up": (saying(hang_up=True), "closed the connection before its banner"),
    "another protocol": (saying(b"220 mail.example.org ESMTP\n"), "is not babeld"),
    "banner without end": (saying(BANNER[:-3]), "did not send its banner within"),
    "banner cut in mid-line": (saying(BANNER[:-9], hang_up=True), "in mid-line after b'my-id"),
    "banner of no": (saying(b"BABEL 1.0\nno room\n"), "turned us away"),
    "binary": (saying(bytes(range(256))), "line of over|no text"),
    "one long line": (saying(b"x" * 3_000_000), "line of over 4096 bytes"),
    "banner of megabytes": (saying(b"BABEL 1.0\n", b"a b\n" * 500_000), "over 1000000 bytes"),
    "a byte now and then": (drip, "did not send its banner within"),
    "answer: silent": (saying(BANNER), "did not send the answer to 'dump' within 2 s$"),
    "answer: hangs up": (saying(BANNER, hang_up=True), "before the answer to 'dump'"),
    "answer: cut in mid-line": (
        saying(BANNER + b"add interf", hang_up=True),
        "in mid-line after b'add interf'",
    ),
    "answer: binary": (saying(BANNER + b"\x7fELF\x00\n"), "no text in the answer to 'dump'"),
    "answer: no": (saying(BANNER, b"no\n"), "refused the command 'dump'|nobody had asked"),
    "answer: bad": (saying(BANNER, b"bad\n"), "refused the command 'dump'|nobody had asked"),
    "answer: unknown interface line": (
        answering({b"dump": b"add interface v0 is fine\nok\n"}),
        "in an unknown way: 'add interface v0 is fine'",
    ),
}


@pytest.mark.parametrize("how", MISBEHAVING)
def test_a_misbehaving_server_ends_in_a_clear_error(path: str, serve: Serve, how: str) -> None:
    handler, message = MISBEHAVING[how]
    serve(handler)
    timeouts = SHORT if "within" in message else PATIENT
    limits = Limits(answer=1_000_000)
    with (
        client(path, timeouts, limits) as babeld,
        pytest.raises(BabeldError, match=message) as caught,
    ):
        babeld.interfaces()
    assert str(caught.value).isprintable()


def test_an_answer_of_megabytes_ends_at_the_limit(path: str, serve: Serve) -> None:
    def handle(connection: socket.socket) -> None:
        connection.sendall(BANNER)
        connection.recv(100)
        flood(connection)

    serve(handle)
    limits = Limits(answer=1_000_000)
    with (
        client(path, limits=limits) as babeld,
        pytest.raises(BabeldError, match="over 1000000 bytes for the answer to 'dump'"),
    ):
        babeld.interfaces()


def test_a_slow_answer_ends_at_the_total_time(path: str, serve: Serve) -> None:
    serve(saying(BANNER))
    hasty = Timeouts(connect=10, answer=10, total=0.3)
    with (
        client(path, hasty) as babeld,
        pytest.raises(BabeldError, match=r"within 0\.3 s for everything"),
    ):
        babeld.add("v0", "")


def test_time_in_which_nothing_is_asked_of_it_does_not_count(
    path: str, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Making a thousand links takes longer than babeld is given, and is no fault of babeld's."""
    ahead = [0.0]
    clock = SimpleNamespace(monotonic=lambda: time.monotonic() + ahead[0])
    monkeypatch.setattr("rait.adapters.babeld.time", clock)
    serve(answering({}))
    with client(path) as babeld:
        babeld.flush("v0")
        ahead[0] = PATIENT.total + 1
        babeld.add("v1", "")


def test_after_a_broken_answer_a_new_connection_is_made(path: str, serve: Serve) -> None:
    turns = iter([saying(BANNER, hang_up=True), answering({})])
    server = serve(lambda connection: next(turns)(connection))
    with client(path) as babeld:
        with pytest.raises(BabeldError, match="'interface v0'"):
            babeld.add("v0", "")
        babeld.add("v0", "")
    assert server.connections == 2


def test_a_large_dump_is_read_whole(path: str, serve: Serve) -> None:
    routes = b"add route 55d0c0 prefix 2001:db8::/32 from ::/0 installed no\n" * 50_000
    dump = b"add interface v0 up false\n" + routes + b"ok\n"
    serve(answering({b"dump": dump}))
    with client(path) as babeld:
        assert babeld.interfaces() == (BabelInterface("v0", up=False),)


def test_no_socket_says_how_to_start_babeld(path: str) -> None:
    with pytest.raises(BabeldUnreachableError, match="there is no babeld control socket at") as e:
        client(path).interfaces()
    assert f"babeld -G {path}" in str(e.value)


def test_a_socket_left_behind(path: str) -> None:
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(path)
    with pytest.raises(BabeldUnreachableError, match=r"does not run any more .* remove the file"):
        client(path).add("v0", "")


def test_a_file_that_is_no_socket(path: str) -> None:
    Path(path).write_text("")
    with pytest.raises(BabeldUnreachableError, match="it is not a socket"):
        client(path).interfaces()


@pytest.mark.skipif(os.geteuid() != 0, reason="a user must be become that lacks the right")
def test_a_socket_that_we_may_not_use(path: str, serve: Serve) -> None:
    serve(answering({}))
    Path(path).chmod(0o600)
    child = os.fork()
    if child == 0:
        status = 1
        with contextlib.suppress(BaseException):
            for parent in Path(path).parents[:3]:
                parent.chmod(0o755)
            os.setgid(65534)
            os.setuid(65534)
            try:
                client(path).interfaces()
            except BabeldUnreachableError as error:
                status = 0 if "permission denied; run rait as root" in str(error) else 2
        os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@pytest.mark.parametrize("path_text", ["", "x" * 108, "/run/\0"])
def test_what_can_be_no_unix_socket(path_text: str) -> None:
    with pytest.raises(BabeldUnreachableError, match="no unix socket's path"):
        client(path_text).interfaces()


def tcp(listening: socket.socket) -> Babeld:
    return Babeld(socket_type="tcp", socket_addr=f"127.0.0.1:{listening.getsockname()[1]}")


def test_tcp() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        server = Server(listening, answering({b"dump": b"add interface v0 up false\nok\n"}))
        try:
            with BabeldClient(tcp(listening), timeouts=PATIENT) as babeld:
                assert babeld.interfaces() == (BabelInterface("v0", up=False),)
        finally:
            server.stop()


def test_tcp_sockets_are_made_where_the_caller_says() -> None:
    made: list[int] = []

    def make(family: int) -> socket.socket:
        made.append(family)
        return socket.socket(family, socket.SOCK_STREAM)

    with socket.create_server(("127.0.0.1", 0)) as listening:
        server = Server(listening, answering({}))
        try:
            with BabeldClient(tcp(listening), timeouts=PATIENT, make_socket=make) as babeld:
                babeld.add("v0", "")
        finally:
            server.stop()
    assert made == [socket.AF_INET]


def test_tcp_where_nobody_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        closed = tcp(listening)
    with pytest.raises(BabeldUnreachableError, match=r"nobody listens there; .*babeld -G \d+"):
        BabeldClient(closed, timeouts=PATIENT).interfaces()


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("33123", ("::1", 33123)),
        ("[::1]:33123", ("::1", 33123)),
        ("localhost:33123", ("::1", 33123)),
        ("127.0.0.1:65535", ("127.0.0.1", 65535)),
        ("[fe80::1%lo]:1", ("fe80::1%lo", 1)),
    ],
)
def test_tcp_addresses(text: str, address: tuple[str, int]) -> None:
    assert parse_tcp_address(text) == address


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":",
        ":33123",
        "::1:33123",
        "[::1]",
        "[::1]:",
        "[]:1",
        "h:0",
        "h:65536",
        "h:1234567",
        "h:x",
    ],
)
def test_what_is_no_tcp_address(text: str) -> None:
    with pytest.raises(BabeldUnreachableError, match="socket_addr"):
        parse_tcp_address(text)


def test_host_names_are_not_looked_up() -> None:
    babeld = Babeld(socket_type="tcp", socket_addr="router.example.org:33123")
    with pytest.raises(BabeldUnreachableError, match=r"router\.example\.org:33123.*socket_addr"):
        BabeldClient(babeld, timeouts=PATIENT).interfaces()

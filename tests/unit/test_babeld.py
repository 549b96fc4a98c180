"""What is said to babeld and what is made of its answers.

First byte by byte, then over real sockets, against servers that behave and servers that do not.
"""

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

from rait.adapters import babeld as module
from rait.adapters.babeld import (
    MAX_COMMAND,
    Answer,
    BabeldClient,
    BabeldError,
    BabeldRefusedError,
    Connection,
    encode_command,
    parse_interface,
    parse_neighbour,
    parse_tcp_address,
)
from rait.domain.babel import BabelInterface, BabelNeighbour
from rait.domain.config.schema import Babeld
from tests.babeld_model import BANNER, NEVER, Pieces, connection

PATIENCE = 30.0
"""Seconds, for a busy machine."""

Handler = Callable[[socket.socket], None]


# Byte by byte


def greeted(*pieces: bytes) -> tuple[Connection, Pieces]:
    made, socket = connection(BANNER, *pieces)
    made.greet(NEVER)
    return made, socket


def answered(*pieces: bytes, command: str = "dump") -> Answer:
    return greeted(*pieces)[0].ask(command, NEVER)


@pytest.mark.parametrize(
    ("data", "answer"),
    [
        (b"ok\n", Answer("ok")),
        (b"bad\n", Answer("bad")),
        (b"no\n", Answer("no")),
        (b"no No such interface\n", Answer("no No such interface")),
        (b"add interface v0 up false\nok\n", Answer("ok", ("add interface v0 up false",))),
        (b"notable\nok\n", Answer("ok")),
    ],
)
def test_answers(data: bytes, answer: Answer) -> None:
    assert answered(data) == answer
    assert answered(*(bytes([byte]) for byte in data)) == answer


def test_only_the_lines_of_interfaces_and_neighbours_are_kept() -> None:
    neighbour = b"add neighbour 5 address fe80::1 if v0"
    data = b"add interface v0 up false\n" + neighbour + b"\nadd xroute 192.0.2.0/24-::/0\nok\n"
    assert answered(data) == Answer("ok", ("add interface v0 up false",), (neighbour,))


def test_freed_memory_in_a_line_about_a_neighbour_does_no_harm() -> None:
    line = b"add neighbour 5 address fe80::1 if \x01\xff\x7f"
    data = b"add interface v0 up false\n" + line + b"\nok\n"
    assert answered(data) == Answer("ok", ("add interface v0 up false",), (line,))
    assert parse_neighbour(line) is None


HEARD = b"add neighbour 55d if %b reach ffff ureach 0000 rxcost 32 txcost 96 rtt 0.512 rttcost 0 "
SEEN = BabelNeighbour("v0", "fe80::1", 0xFFFF, 32, 96, 128, 0.512)


@pytest.mark.parametrize(
    ("line", "neighbour"),
    [
        (HEARD + b"cost 128 address fe80::1", SEEN),
        (
            b"add neighbour 5 address fe80::1 if v0 reach 8000 ureach 0000 rxcost 32 txcost 65535 "
            b"cost 65535",
            BabelNeighbour("v0", "fe80::1", 0x8000, 32, 65535, 65535),
        ),
        (HEARD + b"cost -1 address fe80::1", None),
        (HEARD + b"cost 4294967296 address fe80::1", None),
        (HEARD + b"cost 1e3 address fe80::1", None),
        (HEARD + b"cost 128", None),
        (HEARD + b"cost 128 address", None),
        (HEARD + b"cost 128 address fe80::1\x1b[2J", None),
        (HEARD.replace(b"0.512", b"nan") + b"cost 128 address fe80::1", None),
        (HEARD.replace(b"0.512", b"1e400") + b"cost 128 address fe80::1", None),
        (HEARD.replace(b"ffff", b"f" * 9999) + b"cost 128 address fe80::1", None),
        (HEARD.replace(b"%b", b"a/b") + b"cost 128 address fe80::1", None),
        (b"add neighbour ", None),
    ],
)
def test_a_neighbour_in_a_dump(line: bytes, neighbour: BabelNeighbour | None) -> None:
    assert parse_neighbour(line.replace(b"%b", b"v0")) == neighbour


def test_each_answer_belongs_to_its_own_command() -> None:
    babeld, socket = greeted(b"add interface x up true\nok\n", b"bad\n", b"no way\n")
    found = [babeld.ask("dump", NEVER) for _ in range(3)]
    assert [answer.verdict for answer in found] == ["ok", "bad", "no way"]
    assert [len(answer.lines) for answer in found] == [1, 0, 0]
    assert socket.sent == [b"dump\n"] * 3


def test_an_answer_that_nobody_asked_for_is_not_taken_for_the_next() -> None:
    babeld, socket = greeted(b"ok\nok\n")
    babeld.ask("dump", NEVER)
    with pytest.raises(BabeldError, match="before rait sent"):
        babeld.ask("flush interface v0", NEVER)
    assert socket.sent == [b"dump\n"]


def test_notifications_between_commands_are_no_answer() -> None:
    babeld, _ = greeted(b"ok\nchange interface v0 up true\nchange neigh", b"bour 5\nok\n")
    assert [babeld.ask(text, NEVER).verdict for text in ("monitor", "unmonitor")] == ["ok", "ok"]


def test_quit_is_answered_by_the_end_of_the_connection() -> None:
    assert answered(command="quit") == Answer("ok")


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"HTTP/1.1 400 Bad Request\r\n", "no text|not babeld"),
        (b"220 mail.example.org ESMTP\n", "not babeld: it greets with '220 mail"),
        (b"ok\n", "not babeld"),
        (b"BABEL 1.0\nno more\n", "turned us away: its banner ends in 'no more'"),
        (b"BABEL 1.0\nbad\n", "turned us away"),
        (b"\x00\x01\x02\n", r"no text in its banner: b'\\x00"),
        (b"", "closed the connection before its banner was complete$"),
        (BANNER[:-5], "in mid-line after b'my-id 60:"),
    ],
)
def test_what_is_not_a_banner(data: bytes, message: str) -> None:
    with pytest.raises(BabeldError, match=message):
        connection(data)[0].greet(NEVER)


def test_binary_in_an_answer_names_the_command() -> None:
    with pytest.raises(BabeldError, match=r"no text in the answer to 'dump': b'\\x7fELF"):
        answered(b"\x7fELF\n")


def test_a_foreign_name_that_is_no_utf8_is_not_held_against_babeld() -> None:
    (line,) = answered(b"add interface \xff0 up false\nok\n").lines
    assert parse_interface(line) == BabelInterface("\\xff0", up=False)


@pytest.mark.parametrize("piece", [b"add route 1\n", b"x"])
def test_an_answer_without_end_is_cut_off(piece: bytes, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_BYTES", 1000)
    with pytest.raises(BabeldError, match="more than 1000 bytes for the answer to 'dump'"):
        answered(*[piece] * 1001)


def test_many_small_answers_are_not_one_large_one(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "MOST_BYTES", 100)
    babeld, _ = greeted(*[b"add interface v0 up false\nok\n"] * 20)
    for _ in range(20):
        babeld.ask("dump", NEVER)


def test_an_answer_cut_short_in_mid_line() -> None:
    with pytest.raises(BabeldError, match=r"before the answer to 'dump'.* after b'add interf'"):
        answered(b"add interface v0 up true\nadd interf")


@pytest.mark.parametrize(
    "command",
    [
        "interface v0\nflush interface eth0",
        "interface v0\rflush interface eth0",
        "interface v0\x00",
        "interface v0\u2028dump",
        "interface \ud800",
        'interface "v0',
        'interface "v0\\"',
        "#" * MAX_COMMAND,
    ],
)
def test_commands_that_must_not_be_sent(command: str) -> None:
    babeld, socket = greeted()
    with pytest.raises(BabeldError):
        babeld.ask(command, NEVER)
    assert socket.sent == []


def test_commands_that_may_be_sent() -> None:
    assert encode_command('key id x type hmac-sha256 value "a\\"b"').endswith(b'"a\\"b"\n')
    assert len(encode_command("#" * (MAX_COMMAND - 1))) == MAX_COMMAND


@pytest.mark.parametrize(
    ("line", "interface"),
    [
        ("add interface lo up false", BabelInterface("lo", up=False)),
        (
            "add interface v0 up true ipv6 fe80::1 ipv4 192.0.2.1",
            BabelInterface("v0", up=True, ipv6="fe80::1", ipv4="192.0.2.1"),
        ),
        (
            "add interface v1 up true ipv6 fe80::2",
            BabelInterface("v1", up=True, ipv6="fe80::2"),
        ),
        # babeld can be talked into a nameless one
        ("add interface  up false", BabelInterface("", up=False)),
    ],
)
def test_an_interface_in_a_dump(line: str, interface: BabelInterface) -> None:
    assert parse_interface(line) == interface


@pytest.mark.parametrize("line", ["add interface v0", "add interface v0 up maybe"])
def test_an_interface_told_in_an_unknown_way(line: str) -> None:
    with pytest.raises(BabeldError, match="unknown way: 'add interface v0"):
        parse_interface(line)


# Over real sockets


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


@pytest.fixture(autouse=True)
def _patient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "ANSWER_SECONDS", PATIENCE)


def alone(path: str) -> BabeldClient:
    return BabeldClient(Babeld(socket_addr=path))


def client(path: str) -> contextlib.closing[BabeldClient]:
    return contextlib.closing(alone(path))


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
        babeld.flush("v0")
        babeld.flush("v1")


def test_a_command_that_has_data_for_an_answer(path: str, serve: Serve) -> None:
    serve(answering({b"monitor": b"add interface v0 up false\nok\n"}))
    with client(path) as babeld:
        babeld.command("monitor")


def test_after_quit_the_next_command_finds_a_new_connection(path: str, serve: Serve) -> None:
    server = serve(answering({}))
    with client(path) as babeld:
        babeld.command("quit")
        babeld.add("v0", "")
    assert server.connections == 2


@pytest.mark.parametrize("reply", [b"no never\n", b"no\n", b"bad\n"])
def test_a_refused_command_is_named_and_the_next_goes_on(
    path: str, serve: Serve, reply: bytes
) -> None:
    serve(answering({b"interface v0 rxcost x": reply}))
    with client(path) as babeld:
        with pytest.raises(BabeldRefusedError, match="'interface v0 rxcost x'") as caught:
            babeld.add("v0", "rxcost x")
        said = str(caught.value)
        assert path in said
        assert repr(reply.decode().strip()) in said
        assert ("read-only: start babeld with `-G`" in said) == (reply == b"bad\n")
        babeld.add("v1", "")


def test_neighbours_are_told_within_the_time_that_there_is(path: str, serve: Serve) -> None:
    line = HEARD.replace(b"%b", b"v0") + b"cost 128 address fe80::1\n"
    server = serve(answering({b"dump": line + line.replace(b"v0", b"\xff") + b"ok\n"}))
    with client(path) as babeld:
        assert babeld.neighbours() == (SEEN,)
    server.stop()
    Path(path).unlink()
    serve(saying(BANNER))
    with pytest.raises(BabeldError, match="did not send"):
        BabeldClient(Babeld(socket_addr=path), seconds=0.2).neighbours()


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
    "silent": (saying(), "did not send its banner within 2 s; babeld serves four"),
    "hangs up": (saying(hang_up=True), "closed the connection before its banner"),
    "another protocol": (saying(b"220 mail.example.org ESMTP\n"), "is not babeld"),
    "banner without end": (saying(BANNER[:-3]), "did not send its banner within"),
    "banner cut in mid-line": (saying(BANNER[:-9], hang_up=True), "in mid-line after b'my-id"),
    "banner of no": (saying(b"BABEL 1.0\nno room\n"), "turned us away"),
    "binary": (saying(bytes(range(256))), "no text"),
    "one long line": (
        saying(b"x" * 3_000_000),
        "more than 1000000 bytes for its banner.*check that it is babeld",
    ),
    "banner of megabytes": (saying(b"BABEL 1.0\n", b"a b\n" * 500_000), "more than 1000000 bytes"),
    "a byte now and then": (drip, "did not send its banner within"),
    "answer: silent": (saying(BANNER), "did not send the answer to 'dump' within 2 s$"),
    "answer: hangs up": (saying(BANNER, hang_up=True), "before the answer to 'dump'"),
    "answer: cut in mid-line": (
        saying(BANNER + b"add interf", hang_up=True),
        "in mid-line after b'add interf'",
    ),
    "answer: binary": (saying(BANNER + b"\x7fELF\x00\n"), "no text in the answer to 'dump'"),
    "answer: no": (saying(BANNER, b"no\n"), "refused the command 'dump'|before rait sent"),
    "answer: bad": (saying(BANNER, b"bad\n"), "refused the command 'dump'|before rait sent"),
    "answer: unknown interface line": (
        answering({b"dump": b"add interface v0 is fine\nok\n"}),
        "in an unknown way: 'add interface v0 is fine'",
    ),
}


@pytest.mark.parametrize("how", MISBEHAVING)
def test_a_misbehaving_server_ends_in_a_clear_error(
    path: str, serve: Serve, how: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    handler, message = MISBEHAVING[how]
    serve(handler)
    monkeypatch.setattr(module, "MOST_BYTES", 1_000_000)
    if "within" in message:
        monkeypatch.setattr(module, "ANSWER_SECONDS", 2)
    with client(path) as babeld, pytest.raises(BabeldError, match=message) as caught:
        babeld.interfaces()
    assert str(caught.value).isprintable()


def test_an_answer_of_megabytes_ends_at_the_limit(
    path: str, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    def handle(connection: socket.socket) -> None:
        connection.sendall(BANNER)
        connection.recv(100)
        flood(connection)

    serve(handle)
    monkeypatch.setattr(module, "MOST_BYTES", 1_000_000)
    with (
        client(path) as babeld,
        pytest.raises(BabeldError, match="more than 1000000 bytes for the answer to 'dump'"),
    ):
        babeld.interfaces()


def test_a_babeld_that_is_slow_each_time_is_asked_no_more(
    path: str, serve: Serve, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = serve(saying(BANNER))
    monkeypatch.setattr(module, "ANSWER_SECONDS", 0.3)
    monkeypatch.setattr(module, "TOTAL_SECONDS", 0.5)
    late, over = r"within 0\.3 s", r"took more than 0\.5 s .* rait sends it no more"
    with client(path) as babeld:
        # On a busy machine even the banner may come too late, and the first may take all the time.
        for told in (late, f"{late}|{over}", over):
            with pytest.raises(BabeldError, match=told):
                babeld.add("v0", "")
    assert server.connections <= 2


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
        ahead[0] = module.TOTAL_SECONDS + 1
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
    with pytest.raises(BabeldError, match="there is no babeld control socket at") as e:
        alone(path).interfaces()
    assert f"babeld -G {path}" in str(e.value)


def test_a_socket_left_behind(path: str) -> None:
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(path)
    with pytest.raises(BabeldError, match=r"does not run any more .* remove the file"):
        alone(path).add("v0", "")


def test_a_file_that_is_no_socket(path: str) -> None:
    Path(path).write_text("")
    with pytest.raises(BabeldError, match="it is not a socket"):
        alone(path).interfaces()


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
                alone(path).interfaces()
            except BabeldError as error:
                status = 0 if "permission denied; run rait as root" in str(error) else 2
        os._exit(status)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0


@pytest.mark.parametrize("path_text", ["", "x" * 108, "/run/\0"])
def test_what_can_be_no_unix_socket(path_text: str) -> None:
    with pytest.raises(BabeldError, match="no unix socket's path"):
        alone(path_text).interfaces()


def tcp(listening: socket.socket) -> Babeld:
    return Babeld(socket_type="tcp", socket_addr=f"127.0.0.1:{listening.getsockname()[1]}")


def test_tcp() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        server = Server(listening, answering({b"dump": b"add interface v0 up false\nok\n"}))
        try:
            with contextlib.closing(BabeldClient(tcp(listening))) as babeld:
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
            with contextlib.closing(BabeldClient(tcp(listening), make)) as babeld:
                babeld.add("v0", "")
        finally:
            server.stop()
    assert made == [socket.AF_INET]


def test_tcp_where_nobody_listens() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listening:
        closed = tcp(listening)
    with pytest.raises(BabeldError, match=r"nobody listens there; .*babeld -G \d+"):
        BabeldClient(closed).interfaces()


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
    with pytest.raises(BabeldError, match="socket_addr"):
        parse_tcp_address(text)


def test_host_names_are_not_looked_up() -> None:
    babeld = Babeld(socket_type="tcp", socket_addr="router.example.org:33123")
    with pytest.raises(BabeldError, match=r"router\.example\.org:33123.*socket_addr"):
        BabeldClient(babeld).interfaces()

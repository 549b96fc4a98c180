"""The web server: what it answers, what it refuses, and what a client can make it spend."""

from __future__ import annotations

import resource
import socket
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import anyio
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from rait.adapters import web_server
from rait.adapters.web_server import MAX_CONNECTIONS, Answer, Asked, listen
from rait.domain.errors import MachineError
from tests.unit.web import SECONDS, ask, connect, get, rest, serving

LARGE = 64 * 1024 * 1024
"""More than sockets hold of what their reader does not read."""


async def echo(asked: Asked) -> Answer:
    if asked.path == "/large":
        return Answer(bytes(LARGE))
    return Answer(f"{asked.path} {asked.accept}".encode())


@pytest.fixture
def port() -> Iterator[int]:
    with serving(echo) as port:
        yield port


def test_get_is_answered_and_the_connection_ends(port: int) -> None:
    status, fields, body = get(port, "/some/path?query", "Accept: text/plain")
    assert (status, body) == (200, b"/some/path text/plain")
    assert fields["content-length"] == str(len(body))
    assert fields["connection"] == "close"


def test_head_gets_all_but_the_body(port: int) -> None:
    status, fields, body = ask(port, "HEAD /path HTTP/1.1\nHost: localhost")
    assert (status, fields["content-length"], body) == (200, "6", b"")


def test_no_page_of_somebody_else_may_use_an_answer(port: int) -> None:
    _, fields, _ = get(port, "/")
    assert fields["content-security-policy"].startswith("default-src 'none'")
    assert fields["x-content-type-options"] == "nosniff"
    assert fields["referrer-policy"] == "no-referrer"
    assert fields["cross-origin-resource-policy"] == "same-origin"
    assert not [name for name in fields if name.startswith("access-control")]


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "OPTIONS", "PATCH", "X"])
def test_other_methods_are_refused_in_words_whatever_comes_with_them(
    port: int, method: str
) -> None:
    body = "x" * 5000
    status, fields, text = ask(
        port, f"{method} / HTTP/1.1\nHost: localhost\nContent-Length: {len(body)}\n\n{body}"
    )
    assert (status, fields["allow"]) == (405, "GET, HEAD")
    assert b"only GET and HEAD" in text
    assert fields["content-type"].startswith("text/plain")


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        ("nonsense", 400),
        ("GET / HTTP/1.1", 400),  # no Host
        ("GET / HTTP/1.1\nHost: localhost\nHost: evil.example", 400),
        ("GET / HTTP/1.1\nHost: localhost\nX: " + "x" * 20000, 431),
        ("GET /" + "x" * 20000 + " HTTP/1.1\nHost: localhost", 431),
        ("\x16\x03\x01\x02", 400),  # somebody speaks TLS
    ],
)
def test_what_is_no_request_is_refused(port: int, request_: str, status: int) -> None:
    assert ask(port, request_)[0] == status


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200),
        ("LocalHost:9586", 200),
        ("127.0.0.1:9586", 200),
        ("127.1.2.3", 200),
        ("[::1]:9586", 200),
        ("evil.example", 403),
        ("127.0.0.1.evil.example", 403),
        ("localhost.evil.example:9586", 403),
        ("192.0.2.1", 403),
        ("[2001:db8::1]", 403),
        ("", 403),
        ("\u00e9", 403),
    ],
)
def test_a_name_of_somebody_else_is_no_way_to_loopback(port: int, host: str, status: int) -> None:
    assert ask(port, f"GET / HTTP/1.1\nHost: {host}")[0] == status


def test_an_old_client_that_names_no_host_is_refused_on_loopback(port: int) -> None:
    assert ask(port, "GET / HTTP/1.0")[0] == 403


def test_elsewhere_than_on_loopback_any_name_may_lead_here() -> None:
    with serving(echo, "0.0.0.0") as port:  # noqa: S104 - for as long as this test
        assert ask(port, "GET / HTTP/1.1\nHost: node.example")[0] == 200


def test_ipv6_too() -> None:
    with serving(echo, "::1") as port:
        assert ask(port, "GET / HTTP/1.1\nHost: [::1]", "::1")[0] == 200


def test_a_port_that_another_program_has_is_named_with_what_to_do() -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        with pytest.raises(MachineError, match=f"127.0.0.1:{port}: Address already in use: set"):
            listen("127.0.0.1", port)


def test_the_port_of_a_server_that_has_just_ended_can_be_had_at_once() -> None:
    with serving(echo) as port:
        assert get(port, "/")[0] == 200
    listen("127.0.0.1", port).close()


@pytest.mark.parametrize("when", ["before it is served", "before it is waited for"])
def test_a_listener_that_is_closed_ends_its_server(
    when: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Who moves to another port closes the former one, whatever its server is at."""
    wait = anyio.wait_readable

    async def late(listener: socket.socket) -> None:
        listener.close()
        await wait(listener)

    with listen("127.0.0.1", 0) as listener:
        if when == "before it is served":
            listener.close()
        monkeypatch.setattr(anyio, "wait_readable", late)
        anyio.run(web_server.serve, listener, echo)


def test_a_thousand_connections_that_say_nothing_keep_nobody_out(port: int) -> None:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(4096, hard), hard))
    try:
        with ExitStack() as stack:
            before = descriptors()
            for _ in range(1000):
                stack.enter_context(connect(port))
            assert get(port, "/")[0] == 200
            # A thousand are ours, and the rest is the server's, which closes the oldest.
            deadline = time.monotonic() + SECONDS
            while descriptors() - before - 1000 > MAX_CONNECTIONS:
                assert time.monotonic() < deadline
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


def test_who_has_asked_is_not_closed_for_those_who_say_nothing(port: int) -> None:
    with ExitStack() as stack, connect(port) as asked:
        asked.sendall(b"GET /large HTTP/1.1\r\nHost: localhost\r\n\r\n")
        first = asked.recv(1)
        for _ in range(3 * MAX_CONNECTIONS):
            stack.enter_context(connect(port))
        assert get(port, "/")[0] == 200
        assert len(first + rest(asked)) > LARGE


def test_a_byte_at_a_time_is_no_way_to_stay(port: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(web_server, "HEAD_SECONDS", 0.5)
    with connect(port) as slow, pytest.raises(ConnectionError):
        _say_slowly(slow, port)
    while not answered(port):
        pass


def _say_slowly(slow: socket.socket, port: int) -> None:
    deadline = time.monotonic() + SECONDS
    while time.monotonic() < deadline:
        slow.sendall(b"G")
        answered(port)


def answered(port: int) -> bool:
    """Whether we are answered; on a busy machine, we may be as slow as those who are cut off."""
    try:
        return get(port, "/")[0] == 200
    except (ConnectionError, IndexError):
        return False


def test_who_never_reads_is_closed_and_keeps_nobody_waiting(
    port: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(web_server, "TALK_SECONDS", 0.5)
    before = descriptors()
    with connect(port) as deaf:
        deaf.sendall(b"GET /large HTTP/1.1\r\nHost: localhost\r\n\r\n")
        deadline = time.monotonic() + SECONDS
        while descriptors() > before + 1:
            assert time.monotonic() < deadline
            answered(port)
    while not answered(port):
        pass


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


@given(st.binary(max_size=300), st.sampled_from([b"", b"GET / HTTP/1.1\r\nHost: localhost\r\n"]))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_whatever_a_client_says_the_next_one_is_answered(
    port: int, noise: bytes, head: bytes
) -> None:
    with connect(port) as rude:
        rude.sendall(head + noise)
        rude.shutdown(socket.SHUT_WR)
        answer = rest(rude)
        assert not answer or answer.startswith(b"HTTP/1.1 ")
    assert get(port, "/")[0] == 200

"""How members are spoken to, against a server of the test's own."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import anyio
import pytest

from rait.adapters.config import source
from rait.adapters.config.etcd import client
from rait.adapters.config.etcd.messages import Range
from rait.adapters.config.etcd.target import Target, parse
from rait.domain.errors import SourceError
from tests.hostile.answers import SLOW
from tests.hostile.test_answers import Server

EMPTY = '{"header":{"cluster_id":"1","revision":"2"}}'
ONE = '"kvs":[{"key":"L3AvYQ==","value":"e30=","mod_revision":"2"}],"count":"1"'
"""What an answer has with one key, which is no public key."""


@contextmanager
def member(body: str, status: int = 200, asked: list[str] | None = None) -> Iterator[str]:
    """A member that answers this, as HOST:PORT, and notes what is ``asked``."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            if asked is not None:
                asked.append(self.path)
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(status)
            self.send_header("Content-Length", str(len(body.encode())))
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, *_: object) -> None:
            pass

    with serving(Handler) as host:
        yield host


@contextmanager
def serving(handler: type[BaseHTTPRequestHandler]) -> Iterator[str]:
    """A server, as HOST:PORT."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


ANSWERS = {
    EMPTY: (200, "there is no key under this prefix"),
    "<html>It works!</html>": (200, "not one of etcd's JSON gateway"),
    "<html>Not found</html>": (404, "not one of etcd's JSON gateway"),
    '{"error":"etcdserver: permission denied","code":7}': (403, "the role of the user"),
    '{"error":"etcdserver: user name is empty","code":3}': (400, "etcd wants a user"),
    '{"error":"etcdserver: no leader","code":14}': (503, "etcdserver: no leader"),
}


@pytest.mark.parametrize("body", ANSWERS)
def test_an_answer_that_is_no_list_is_an_error_that_says_why(body: str) -> None:
    status, why = ANSWERS[body]
    with member(body, status) as host, pytest.raises(SourceError) as caught:
        source.read(f"etcd://{host}/p")
    assert str(caught.value).startswith(f"etcd://{host}/p: ")
    assert why in str(caught.value)


def test_the_next_member_answers_for_one_that_cannot() -> None:
    with member("<html>") as first, member(f"{EMPTY[:-1]},{ONE}}}") as second:
        assert "unreadable" in source.read(f"etcd://{first},{second}/p")


def test_a_member_that_cannot_answer_is_not_asked_again_and_again() -> None:
    """Each time may cost seconds, as many as a lease has."""
    asked: list[str] = []
    with member("<html>", asked=asked) as bad:
        with member(f"{EMPTY[:-1]},{ONE}}}") as good:
            for _ in range(3):
                assert "unreadable" in source.read(f"etcd://{bad},{good}/p")
            assert len(asked) == 1
        with pytest.raises(SourceError, match="not one of etcd's JSON gateway"):
            source.read(f"etcd://{bad},{good}/p")
        assert len(asked) == 2, "it is asked where the others fail"


@pytest.mark.parametrize("how", ["silence", "a head that drips", "a body that drips"])
def test_a_member_that_drips_is_left_for_the_next(how: str, monkeypatch) -> None:
    monkeypatch.setattr(client, "MEMBER_SECONDS", 2.0)  # which the good one has too
    slow = Server({"v3/kv/range": SLOW[how]})
    try:
        with member(f"{EMPTY[:-1]},{ONE}}}") as good:
            assert "unreadable" in source.read(f"etcd://127.0.0.1:{slow.port},{good}/p")
    finally:
        slow.close()


def test_members_that_fail_alike_are_told_together() -> None:
    with member("<html>") as one, member("<html>") as two, pytest.raises(SourceError) as caught:
        source.read(f"etcd://{one},{two}/p")
    assert f"http://{one}, http://{two}: its answer is not" in str(caught.value)


def test_two_whose_token_is_old_at_the_same_time_both_log_in(tmp_path, monkeypatch) -> None:
    """As a publisher and a follower, whose requests are under way when etcd forgets the token."""
    monkeypatch.setattr(client, "MEMBER_SECONDS", 60.0)
    under_way = threading.Barrier(2)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            status, body = 200, EMPTY
            if self.path == "/v3/auth/authenticate":
                body = '{"token":"new"}'
            elif self.headers["Authorization"] != "new":
                under_way.wait(60)
                status, body = 401, '{"error":"etcdserver: invalid auth token","code":16}'
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, *_: object) -> None:
            pass

    (tmp_path / "password").write_text("secret\n")
    revisions: list[int] = []

    async def both(target: Target) -> None:
        async def ask() -> None:
            found = await asker.ask("/v3/kv/range", {}, Range)
            revisions.append(found.header.revision)

        async with client.Client(target, "etcd") as asker, anyio.create_task_group() as tasks:
            tasks.start_soon(ask)
            tasks.start_soon(ask)

    with serving(Handler) as host:
        target = parse(f"etcd://me@{host}/p?password_file={tmp_path}/password", "etcd")
        client._tokens[target] = "old"
        anyio.run(both, target)
    assert revisions == [2, 2]


HANGING = """
import socket, threading
socket.getaddrinfo = lambda *_, **__: threading.Event().wait()
from rait.adapters.config import source
from rait.adapters.config.etcd import client
client.MEMBER_SECONDS = 0.1
try:
    source.read("etcd://name.invalid/p")
except Exception as error:
    print(error)
"""


def test_a_look_up_that_hangs_keeps_no_process() -> None:
    command = [sys.executable, "-c", HANGING]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert "no answer within" in ended.stdout
    assert ended.stderr == ""

"""How members are spoken to, against a server of the test's own."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from rait.adapters.config import source
from rait.domain.errors import SourceError

EMPTY = '{"header":{"cluster_id":"1","revision":"2"}}'


@contextmanager
def member(body: str, status: int = 200) -> Iterator[str]:
    """A member that answers this, as HOST:PORT."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(status)
            self.send_header("Content-Length", str(len(body.encode())))
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, *_: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
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
    kv = '"kvs":[{"key":"L3AvYQ==","value":"e30=","mod_revision":"2"}],"count":"1"'
    with member("<html>") as first, member(f"{EMPTY[:-1]},{kv}}}") as second:
        assert "unreadable" in source.read(f"etcd://{first},{second}/p")

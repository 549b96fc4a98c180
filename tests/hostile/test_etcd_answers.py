"""Whatever a member of etcd answers: one clear error, within the bounds."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.hostile import answers
from tests.hostile.conftest import Measure
from tests.hostile.test_answers import PLENTY, Server

HEADER = '"header":{"cluster_id":"1","revision":"5"}'
NO_ETCD = "is not one of etcd's JSON gateway"
MOST = 24 * answers.MIB


def told(text: str | bytes, *fields: str, status: str = "200 OK") -> answers.Answer:
    return answers.whole(text.encode() if isinstance(text, str) else text, *fields, status=status)


def keys(count: int) -> str:
    """So many keys of few bytes, each another one."""
    found = ",".join(f'{{"key":"{number:08d}"}}' for number in range(count))
    return f'{{{HEADER},"kvs":[{found}],"count":"{count}"}}'


BAD: dict[str, tuple[answers.Answer, str]] = {
    "a page": (told("<html>It works!"), f"its answer {NO_ETCD}"),
    "no page": (
        told("<html>Not found", status="404 Not Found"),
        f"its answer (HTTP 404) {NO_ETCD}",
    ),
    "moved": (answers.moved("http://127.0.0.1:1/v3/kv/range"), f"(HTTP 302) {NO_ETCD}"),
    "nothing": (told(""), NO_ETCD),
    "an error without a word": (told("{}", status="500 x"), f"(HTTP 500) {NO_ETCD}"),
    "an error that is large": (
        answers.endless(
            answers.head("Transfer-Encoding: chunked", status="500 x"),
            then=b"10000\r\n" + b"x" * 65536 + b"\r\n",
        ),
        "an answer of more than 1048576 bytes",
    ),
    "an error for a terminal": (
        told(json.dumps({"error": "\x1b[2J", "code": 7}), status="403 x"),
        r"etcd says",
    ),
    "deep": (told("[" * 100_000), NO_ETCD),
    "deep in what is not known": (told('{"x":' + "[" * 100_000), NO_ETCD),
    "another type": (told('{"header":[]}'), NO_ETCD),
    "keys of another type": (told(f'{{{HEADER},"kvs":[1]}}'), NO_ETCD),
    "no base64": (told(f'{{{HEADER},"kvs":[{{"key":"?"}}]}}'), NO_ETCD),
    "no UTF-8": (told(b'{"error":"\xff"}', status="500 x"), NO_ETCD),
    "a negative revision": (told('{"header":{"revision":"-1"}}'), NO_ETCD),
    "a large revision": (told(f'{{"header":{{"revision":"{2**63}"}}}}'), NO_ETCD),
    "a number of many digits": (told(f'{{"header":{{"revision":"{"9" * 9999}"}}}}'), NO_ETCD),
    "compressed": (told(answers.GZIP, "Content-Encoding: gzip"), NO_ETCD),
    "cut off": (told(f'{{{HEADER},"kvs":['), NO_ETCD),
    "cut off by its end": ([answers.head("Content-Length: 99"), b"{"], "peer closed connection"),
    "endless": (
        answers.endless(
            answers.head("Transfer-Encoding: chunked"), then=b"10000\r\n" + b" " * 65536 + b"\r\n"
        ),
        f"an answer of more than {MOST} bytes",
    ),
    "many keys": (told(keys(1_000_000)), "more than 100000 keys, the most that rait reads"),
    "keys that are none": (told(keys(90_000)), "larger than 8388608 bytes"),
    "a large list": (
        told(f'{{{HEADER},"kvs":[{",".join(["{}"] * 5_000_000)}]}}'),
        NO_ETCD,
    ),
    "no keys": (told(f"{{{HEADER}}}"), "there is no key under this prefix"),
    "cookies": (told("<", *["Set-Cookie: " + "a=\"b;' ," * 1000] * 8), NO_ETCD),
    "a status for a terminal": (
        [b"HTTP/1.1 404 \x1b[2J\rx\r\n\r\n"],
        r"illegal status line: 'HTTP/1.1 404 \x1b[2J\rx'",
    ),
    "moved to no URL": (answers.moved("http://[::1\x7f"), "Invalid"),
    "an endless head": (answers.endless(b"HTTP/1.1 200 OK\r\na: ", then=b"x" * 65536), ""),
}


@contextmanager
def member(answer: answers.Answer) -> Iterator[str]:
    """The URL of etcd with a member that answers so."""
    server = Server({"v3/kv/range": answer})
    try:
        yield f"etcd://127.0.0.1:{server.port}/p"
    finally:
        server.close()


@pytest.mark.parametrize("name", BAD)
def test_a_bad_answer(name: str, measure: Measure) -> None:
    answer, why = BAD[name]
    with member(answer) as url:
        error = measure(url=url, timeout=PLENTY).get("error", "no error")
    assert error.startswith(f"{url}: ")
    assert why in error
    assert "\x1b" not in error
    assert len(error) < 2000


@pytest.mark.parametrize("name", answers.SLOW)
def test_an_answer_without_end(name: str, measure: Measure) -> None:
    with member(answers.SLOW[name]) as url:
        error = measure(url=url, timeout=1).get("error", "no error")
    assert error.startswith(f"{url}: ")
    # Where the machine is busy, so much may have come at once that h11 takes no more.
    assert "within 1 seconds" in error or "Receive buffer too long" in error

"""The messages of etcd's JSON gateway, as Debian's etcd 3.4.23 sends them."""

from __future__ import annotations

import msgspec
import pytest

from rait.adapters.config.etcd.messages import (
    Changes,
    Failure,
    Lease,
    Range,
    Streamed,
    decoded,
    encoded,
)

HEADER = '"header":{"cluster_id":"14841639068965178418","revision":"7","raft_term":"2"}'


def test_a_range() -> None:
    raw = f'{{{HEADER},"kvs":[{{"key":"L2E=","mod_revision":"5","value":"eA=="}}],"count":"1"}}'
    found = decoded(Range, raw.encode())
    assert found.header.cluster_id == 14841639068965178418
    assert (found.header.revision, found.count) == (7, 1)
    assert (found.kvs[0].key, found.kvs[0].value, found.kvs[0].lease) == (b"/a", b"x", 0)


def test_a_stream() -> None:
    raw = f'{{"result":{{{HEADER},"events":[{{"type":"DELETE","kv":{{"key":"L2E="}}}}]}}}}'
    found = decoded(Streamed, raw.encode()).result
    assert isinstance(found, Changes)
    assert (found.events[0].type, found.events[0].kv.value) == ("DELETE", b"")


def test_what_is_left_out_has_its_default() -> None:
    assert decoded(Lease, b'{"ID":"5"}') == Lease(5, 0, 0)
    assert decoded(Failure, b'{"error":"e","code":14}').code == 14


@pytest.mark.parametrize("raw", [b"", b"<html>", b"[]", b"{}", b'{"header":1}', b'{"header":{}'])
def test_what_is_no_message(raw: bytes) -> None:
    with pytest.raises((msgspec.MsgspecError, UnicodeError)):
        decoded(Range, raw)


def test_bytes_are_sent_in_base64() -> None:
    assert encoded({"key": b"/a", "limit": 1}) == b'{"key":"L2E=","limit":1}'

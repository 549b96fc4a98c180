"""What a node puts under its own key, in any format, costs the list of all the others nothing."""

from __future__ import annotations

import json

from hypothesis import given
from hypothesis import strategies as st

from rait.adapters.config import formats
from rait.adapters.config.etcd.entries import MAX_ITEMS, MAX_VALUE, line_of
from rait.domain.config.decode_peers import read_entries
from rait.domain.replica import Replica

KEY = "OYZ3yXLTXE5z6zLcHYY8v1vcH4hLnX+TlIZ6pPQ3dWM="
OTHER = "KJJXmDtAXSrMGuIJVy/2eP65gXm1PTy7vCR/4O/vEEI="
ENDPOINT = {"address_family": "ip4", "send_port": 20001, "address": "192.0.2.1"}

NAMES = st.sampled_from(["peers", "Peers", "public_key", "endpoint", "remarks", "unreadable"])
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9) | st.just(KEY),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(NAMES | st.text(max_size=4), inner),
    max_leaves=9,
)
IN_JSON = st.dictionaries(NAMES, VALUES).map(lambda value: json.dumps(value).encode())
DEEP = st.integers(1, 1500).map(lambda depth: b'{"a":' + b"[" * depth + b"]" * depth + b"}")
MANY = st.builds(
    lambda what, times, end: b'{"peers":[' + what * times + end,
    st.sampled_from([b"{},", b"1,", b'"\\u0001",', b"[],"]),
    st.integers(0, 6000),
    st.sampled_from([b"{}]}", b"]}", b"0]}"]),
)
IN_HCL = st.lists(
    st.sampled_from(["peers = []", "peers {}", "peers {", "}", "a = 1", 'b = "\x01"', "peers = 1"])
).map(lambda lines: "\n".join(lines).encode())


@given(st.binary() | IN_JSON | DEEP | MANY | IN_HCL)
def test_whatever_a_node_writes_the_entries_of_others_are_read(value: bytes) -> None:
    line = line_of(KEY, value)
    assert line
    assert "\n" not in line
    assert len(line) <= MAX_VALUE
    assert sum(map(line.count, ",[{")) <= MAX_ITEMS
    good = line_of(OTHER, json.dumps({"endpoint": [ENDPOINT]}).encode())
    text = Replica(1, 1, {KEY: line, OTHER: good}).text
    peers, _ = read_entries(formats.parse(text, "etcd").data)
    assert OTHER in {peer.public_key for peer in peers}
    assert {peer.public_key for peer in peers} <= {KEY, OTHER}

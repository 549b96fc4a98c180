"""A node's own entry, and a SendPort that no other node has."""

from __future__ import annotations

from base64 import b64encode
from datetime import date
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rait.domain.config.schema import Config, Transport
from rait.domain.entry import PORTS, flat, free_port, own_entry, plain

A, B = (b64encode(bytes([n]) * 32).decode() for n in (1, 2))


def transport(family: str, port: int, prefix: str, address: str | None = None) -> Transport:
    return Transport(
        address_family=family, send_port=port, mtu=1400, ifprefix=prefix, address=address
    )


BOTH = transport("ip4", 20001, "a", "9.9.9.9"), transport("ip6", 20002, "b")


def test_an_entry_is_what_a_configuration_has():
    config = Config(transports=BOTH, name="gate", remarks={"operator": "me"})
    entry, left_out = own_entry(config, A)
    assert left_out == ()
    assert entry == {
        "public_key": A,
        "name": "gate",
        "endpoint": [
            {"address_family": "ip4", "send_port": 20001, "address": "9.9.9.9"},
            {"address_family": "ip6", "send_port": 20002},
        ],
        "remarks": {"operator": "me"},
    }
    first, second = flat(entry)
    assert first == {
        "PublicKey": A,
        "Name": "gate",
        "AddressFamily": "ip4",
        "SendPort": 20001,
        "Endpoint": "9.9.9.9",
        "Remarks": {"operator": "me"},
    }
    assert second == {
        "PublicKey": A,
        "Name": "gate",
        "AddressFamily": "ip6",
        "SendPort": 20002,
    }


def test_what_others_would_leave_out_is_left_out():
    config = Config(transports=(*BOTH, transport("ip4", 20003, "c")), name="x" * 256)
    entry, (name, third) = own_entry(config, A)
    assert "name" not in entry
    assert "255 characters, so it is left out" in name
    assert "the transport c is left out" in third
    assert [e["send_port"] for e in entry["endpoint"]] == [20001, 20002]


def listed(*ports: int, key: str = B) -> list[dict[str, Any]]:
    each = ({"address_family": "ip4", "send_port": port, "public_key": key} for port in ports)
    return [{"peers": list(each)}]


KEYS = st.none() | st.sampled_from([A, B])


@given(st.sets(st.integers(20000, 20005)), KEYS, st.sampled_from(["ip4", "ip6"]), st.integers(0))
def test_a_free_port_is_in_the_range_and_nobodys(taken, key, family, start):
    port = free_port(listed(*taken), key, family, (20000, 20005), start)
    free = set(range(20000, 20006)) - (set() if key == B else taken)
    if port is None:
        assert len(free) < (2 if family == "ip6" else 1)
    else:
        assert port in free


@pytest.mark.parametrize(("start", "port"), [(0, 10000), (22767, 32767), (22768, 10000)])
def test_the_ports_are_those_that_neither_services_nor_the_kernel_have(start, port):
    assert free_port(listed(), None, "ip4", PORTS, start) == port


@pytest.mark.parametrize(
    ("value", "same"),
    [
        (2**63 - 1, 2**63 - 1),
        (2**63, str(2**63)),
        ([True, None, 1.5, "x"], [True, None, 1.5, "x"]),
        ({"a": (float("inf"), date(2026, 1, 2))}, {"a": ["inf", "2026-01-02"]}),
    ],
)
def test_a_value_is_what_each_format_has_or_text(value, same):
    assert plain(value) == same


@given(st.sets(st.integers(*PORTS), max_size=30), st.integers(0), st.integers(0))
def test_a_key_has_one_port_for_each_family(taken, one, other):
    documents = listed(*taken)
    ports = [free_port(documents, A, family, PORTS, one) for family in ("ip4", "ip6")]
    assert ports[0] != ports[1]
    # Whatever the start, and once the node is in the list itself.
    documents += listed(*ports, key=A)
    assert [free_port(documents, A, f, PORTS, other) for f in ("ip4", "ip6")] == ports


def test_the_port_of_a_key_is_the_same_in_each_version_of_rait():
    """Whoever makes a node anew by its key finds the port that its entry has."""
    ports = [free_port(listed(), A, family, PORTS, 0) for family in ("ip4", "ip6")]
    assert ports == [12709, 12710]


def test_a_port_that_is_taken_is_passed_over():
    first = free_port(listed(), A, "ip4", PORTS, 0)
    assert free_port(listed(first), A, "ip4", PORTS, 0) == first + 1


@pytest.mark.parametrize("wrong", [{"public_key": "x"}, {"address_family": "ip5"}, {"address": 7}])
def test_the_port_of_an_entry_that_is_skipped_is_taken(wrong: dict[str, Any]) -> None:
    entry = {"public_key": B, "address_family": "ip4", "send_port": 20000, "endpoint": "x"}
    entry |= {"endpoint": 7} if "address" in wrong else wrong
    for reader in (A, None):
        assert free_port([{"peers": [entry]}], reader, "ip4", (20000, 20000), 0) is None
    if entry["public_key"] == B:
        assert free_port([{"peers": [entry]}], B, "ip4", (20000, 20000), 0) == 20000, "its own"

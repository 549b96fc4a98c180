"""What is wrong with a registry: each rule, where the fault is, and what is no fault."""

from __future__ import annotations

from base64 import b64encode
from typing import Any

import pytest

from rait.domain.check import RULES, Finding, examine
from rait.domain.errors import Path

A, B, C = (b64encode(bytes([n]) * 32).decode() for n in (1, 2, 3))


def node(key: str = A, **changes: Any) -> dict[str, Any]:
    base = {"PublicKey": key, "SendPort": 20000 + ord(key[1]), "AddressFamily": "ip4"}
    base["Endpoint"] = f"9.9.9.{ord(key[1])}"
    return {k: v for k, v in {**base, **changes}.items() if v is not ...}


def found(*entries: Any, **top: Any) -> tuple[Finding, ...]:
    return examine({**top, "peers": list(entries)}).findings


def told(*entries: Any, **top: Any) -> list[tuple[str, Path]]:
    """The rule and the place of each finding, without the number of the document and the list."""
    return [(item.rule, item.path[2:]) for item in found(*entries, **top)]


def test_a_right_registry_has_no_finding():
    nested = {
        "public_key": C,
        "name": "c",
        "endpoint": [
            {"address_family": "ip4", "send_port": 23000, "address": "c.example.org"},
            {"address_family": "ip6", "send_port": 23001},
        ],
        "remarks": [{"anything": {"Publik_Key": [1, None]}}],
    }
    assert found(node(A), node(B, Name="b"), nested) == ()
    assert found() == ()
    assert found(node(AddressFamily="ip6", Endpoint="2606:4700::1111")) == ()


@pytest.mark.parametrize(
    ("entry", "rule", "path"),
    [
        (7, "entry", (0,)),
        (node(PublicKey=...), "entry", (0,)),
        (node(SendPort=...), "entry", (0,)),
        (node(sendport=7), "send-port", (0, "sendport")),
        ({"public_key": A}, "entry", (0,)),
        ({"public_key": A, "endpoint": [7]}, "entry", (0, "endpoint", 0)),
        (node("AAAA"), "public-key", (0, "PublicKey")),
        (node(SendPort=0), "send-port", (0, "SendPort")),
        (node(SendPort=65536), "send-port", (0, "SendPort")),
        (node(SendPort="20001"), "send-port", (0, "SendPort")),
        (node(AddressFamily="ip5"), "address-family", (0, "AddressFamily")),
        (node(Endpoint="2001::1"), "address", (0, "Endpoint")),
        (node(Endpoint="224.0.0.1"), "address", (0, "Endpoint")),
        (node(Endpoint="0.0.0.1"), "address", (0, "Endpoint")),
        (node(AddressFamily="ip6", Endpoint="ff02::1"), "address", (0, "Endpoint")),
        (node(AddressFamily="ip6", Endpoint="::ffff:9.9.9.9"), "address", (0, "Endpoint")),
        (node(Name="a\nb"), "name", (0, "Name")),
        (node(SendPort=1023), "privileged-port", (0, "SendPort")),
        (node(SendPort=32768), "ephemeral-port", (0, "SendPort")),
        (node(SendPort=60999), "ephemeral-port", (0, "SendPort")),
        (node(Endpoint="127.0.0.1"), "unreachable", (0, "Endpoint")),
        (node(Endpoint="169.254.1.1"), "unreachable", (0, "Endpoint")),
        (node(Endpoint="203.0.113.9"), "unreachable", (0, "Endpoint")),
        (node(Endpoint="localhost"), "unreachable", (0, "Endpoint")),
        (node(Endpoint="a.LOCAL."), "unreachable", (0, "Endpoint")),
        (node(AddressFamily="ip6", Endpoint="::1"), "unreachable", (0, "Endpoint")),
        (node(AddressFamily="ip6", Endpoint="fe80::1"), "unreachable", (0, "Endpoint")),
        (node(AddressFamily="ip6", Endpoint="[2001:db8::1]"), "unreachable", (0, "Endpoint")),
        (node(Endpoint="10.0.0.1"), "private-address", (0, "Endpoint")),
        (node(Endpoint="100.64.0.1"), "private-address", (0, "Endpoint")),
        (node(AddressFamily="ip6", Endpoint="fd00::1"), "private-address", (0, "Endpoint")),
        (node(AddressFamily="ip6", Endpoint="fec0::1"), "private-address", (0, "Endpoint")),
        (node(SendPrt=7), "misspelt-key", (0, "SendPrt")),
        (node(Operator="x"), "unknown-key", (0, "Operator")),
    ],
)
def test_a_fault_has_one_finding_at_its_key(entry: Any, rule: str, path: Path) -> None:
    assert told(entry, node(B)) == [(rule, path)]


@pytest.mark.parametrize("port", [1024, 32767, 61000, 65535])
def test_the_ports_beside_those_that_are_told_of(port: int) -> None:
    assert found(node(SendPort=port)) == ()


@pytest.mark.parametrize("family", ["ip4", "ip6"])
def test_one_port_of_two_nodes(family):
    (item,) = found(node(A, Name="a"), node(B, SendPort=20081, AddressFamily=family, Endpoint=...))
    assert (item.rule, item.severity, item.peer) == ("port-taken", "error", B)
    assert item.path == (0, "peers", 1, "SendPort")
    assert item.other == (0, "peers", 0, "SendPort")
    assert "already that of peer a (ip4)" in item.message


def test_one_port_of_one_node_in_both_families():
    (item,) = found(node(), node(AddressFamily="ip6", Endpoint=...))
    assert (item.rule, item.path) == ("port-taken", (0, "peers", 1, "SendPort"))
    assert "this very node" in item.message


def test_two_endpoints_of_one_node_in_one_family():
    assert told(node(), node(SendPort=20001), node(B)) == [("endpoint-twice", (1, "AddressFamily"))]
    assert told(node(), node(), node(B)) == [("endpoint-twice", (1,))]


def test_an_endpoint_that_gets_no_link_takes_no_port():
    entries = node(), node(SendPort=20001), node(B, SendPort=20001)
    assert told(*entries) == [("endpoint-twice", (1, "AddressFamily"))]


def test_one_name_of_two_nodes():
    both = node(A, Name="x"), node(A, AddressFamily="ip6", SendPort=20001, Endpoint=..., Name="x")
    assert found(*both) == ()
    far = node(B, name="x"), node(B, AddressFamily="ip6", SendPort=20002, Endpoint=..., Name="x")
    (item,) = found(*both, *far)
    assert (item.rule, item.severity) == ("name-twice", "warning")
    assert (item.path, item.other) == ((0, "peers", 2, "name"), (0, "peers", 0, "Name"))


def test_a_second_name_of_one_node_is_nobodys():
    both = node(A, Name="x"), node(A, AddressFamily="ip6", SendPort=20001, Endpoint=..., Name="y")
    assert found(*both, node(B, Name="y")) == ()


def test_all_entries_are_told_where_none_can_be_used():
    assert told(node(SendPort=0), node(B, SendPort=0)) == [
        ("send-port", (0, "SendPort")),
        ("send-port", (1, "SendPort")),
    ]
    assert [item.peer for item in found(7, node(SendPort=0))] == ["", A]


@pytest.mark.parametrize("document", [{}, {"pears": []}, {"peers": 7}, {"version": 1}])
def test_what_is_no_list_is_one_error(document: dict[str, Any]) -> None:
    errors = [item for item in examine(document).findings if item.severity == "error"]
    assert [item.rule for item in errors] == ["list"]


def test_the_nearest_known_key_is_told():
    hints = {item.path[-1]: item.message for item in found(node(SendPrt=7, endpiont="x"), Peesr=[])}
    assert hints == {
        key: f'"{key}" is no key of rait, but {near} is one'
        for key, near in (("SendPrt", "send_port"), ("endpiont", "endpoint"), ("Peesr", "peers"))
    }
    endpoint = {"address_family": "ip4", "send_port": 20001, "adress": "9.9.9.9", "endpoint": 1}
    near, unknown = found({"public_key": A, "endpoint": [endpoint]})
    assert near.message.endswith("but address is one")
    assert (near.path[-1], unknown.path[-1]) == ("adress", "endpoint")


def test_what_etcd_has_of_an_entry_is_no_key_to_write():
    (unknown,) = found(node(unreadabel="x"))
    assert (unknown.rule, unknown.message) == ("unknown-key", '"unreadabel" is no key of rait')


def test_no_more_than_a_hundred_unknown_keys_get_a_hint():
    keys = {f"SendPort{n}": n for n in range(101)}
    rules = [item.rule for item in found(node(**keys), node(B, **keys))]
    assert (rules.count("misspelt-key"), rules.count("unknown-key")) == (200, 2)


def test_parts_of_one_registry_clash():
    first, second = {"peers": [node(A, Name="x")]}, {"peers": [node(B, SendPort=20081, Name="x")]}
    assert examine(first).findings == examine(second).findings == ()
    findings = examine(first, second).findings
    assert {item.rule for item in findings} == {"port-taken", "name-twice"}
    assert {(item.path[0], item.other[0]) for item in findings} == {(1, 0)}


def test_more_links_than_a_node_allows():
    keys = (b64encode(n.to_bytes(32, "big")).decode() for n in range(1, 4098))
    entries = [node(key, SendPort=10000 + n, Endpoint=...) for n, key in enumerate(keys)]
    assert found(*entries[:-1]) == ()
    assert told(*entries) == [("too-many", (4096, "SendPort"))]


def test_no_finding_shows_a_key_in_the_wrong_place():
    secret = "KJJXmDtAXSrMGuIJVy/2eP65gXm1PTy7vCR/4O/vEEI="
    entry = node(**{"SendPort": secret, "Endpoint": secret, "Name": secret, secret: secret})
    assert secret not in str([(i.message, i.peer) for i in found(entry, node(Endpoint=secret))])


def test_every_rule_says_what_to_do():
    assert all(rule.advice and rule.title for rule in RULES.values())


def test_what_etcd_has_and_nobody_can_read_is_a_rule_of_its_own() -> None:
    mine = {"public_key": B, "unreadable": "the value is not text in UTF-8"}
    nobodys = {"unreadable": 'the key "x" does not end in a public key alone'}
    assert told(node(), mine, nobodys) == [("unreadable", (1,)), ("unreadable", (2,))]
    of_b, of_nobody = found(node(), mine, nobodys)
    assert (of_b.message, of_b.peer) == ("the value is not text in UTF-8", B)
    assert of_nobody.peer == ""
    assert told(node(), {**mine, "endpoint": [{}]}) == [("unreadable", (1,))]
    (near,) = found(node(unreachable=True))
    assert near.rule == "unknown-key", "nobody is told to write that key"

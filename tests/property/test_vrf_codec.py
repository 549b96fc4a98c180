"""Our messages about VRFs and rules against pyroute2's, both ways, and against any bytes."""

from __future__ import annotations

import contextlib
import socket
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from pyroute2.netlink.rtnl.fibmsg import fibmsg
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg
from pyroute2.netlink.rtnl.rtmsg import rtmsg

from rait.adapters import vrf
from rait.adapters.netlink import rtnl
from rait.adapters.netlink import socket as netlink
from rait.adapters.netlink.socket import MalformedError, Request, decode, encode
from rait.domain.topology import Rule

FAMILIES = {"ip4": socket.AF_INET, "ip6": socket.AF_INET6}
u32 = st.integers(0, 2**32 - 1)
tables = st.integers(1, 2**32 - 1) | st.sampled_from((1, 255, 256))
names = st.text("abcdefghijklmnopqrstuvwxyz0123456789.-_", min_size=1, max_size=15)
rules = st.builds(Rule, st.sampled_from(sorted(FAMILIES)), u32, tables, st.integers(1, 2**32 - 1))


def read(kind: Any, request: Request) -> Any:
    message = kind(encode(request, 9))
    message.decode()
    header = message["header"]
    assert header["type"] == request.kind
    assert header["flags"] == netlink.NLM_F_REQUEST | request.flags
    return message


def written(kind: Any, fields: dict[str, int], attrs: list[tuple[str, Any]]) -> bytes:
    message = kind()
    for key, value in fields.items():
        message[key] = value
    message["attrs"] = attrs
    message.encode()
    (reply,) = decode(bytes(message.data))
    return reply.body


def rule_attrs(rule: Rule) -> list[tuple[str, Any]]:
    """As the kernel tells a rule."""
    return [
        ("FRA_TABLE", rule.table),
        ("FRA_SUPPRESS_PREFIXLEN", 0xFFFFFFFF),
        ("FRA_PROTOCOL", 3),
        ("FRA_PRIORITY", rule.priority),
        ("FRA_FWMARK", rule.fwmark),
        ("FRA_FWMASK", 0xFFFFFFFF),
    ]


def rule_head(rule: Rule) -> dict[str, int]:
    table = rule.table if rule.table < 256 else 252
    return {"family": FAMILIES[rule.family], "action": 1, "table": table}


@given(rules, st.sampled_from((vrf.RTM_NEWRULE, vrf.RTM_DELRULE)))
def test_pyroute2_reads_a_rule(rule: Rule, kind: int) -> None:
    message = read(fibmsg, vrf.change_rule(kind, rule))
    assert (message["family"], message["action"]) == (FAMILIES[rule.family], vrf.FR_ACT_TO_TBL)
    assert (message["dst_len"], message["src_len"], message["tos"]) == (0, 0, 0)
    assert dict(message["attrs"]) == {
        "FRA_PRIORITY": rule.priority,
        "FRA_FWMARK": rule.fwmark,
        "FRA_FWMASK": 0xFFFFFFFF,
        "FRA_TABLE": rule.table,
        "FRA_PROTOCOL": vrf.PROTOCOL,
    }


@given(rules)
def test_we_read_a_rule_that_pyroute2_writes(rule: Rule) -> None:
    assert vrf.decode_rule(written(fibmsg, rule_head(rule), rule_attrs(rule))) == rule


@given(rules)
def test_we_read_what_we_write(rule: Rule) -> None:
    assert vrf.decode_rule(vrf.change_rule(vrf.RTM_NEWRULE, rule).body) == rule


OTHERWISE = st.sampled_from(
    (
        ({}, [("FRA_IIFNAME", "eth0")]),
        ({}, [("FRA_OIFNAME", "eth0")]),
        ({}, [("FRA_L3MDEV", 1)]),
        ({}, [("FRA_IP_PROTO", 17)]),
        ({}, [("FRA_GOTO", 7)]),
        ({}, [("FRA_TUN_ID", 7)]),
        ({"tos": 8}, []),
        ({"flags": 2}, []),
        ({"action": 6}, []),
        ({"dst_len": 8}, []),
        ({"src_len": 8}, []),
        ({"family": 128}, []),
    )
)


@given(rules, OTHERWISE)
def test_a_rule_with_more_to_it_is_not_one_of_our_kind(
    rule: Rule, more: tuple[dict[str, int], list[tuple[str, Any]]]
) -> None:
    fields, attrs = more
    body = written(fibmsg, rule_head(rule) | fields, rule_attrs(rule) + attrs)
    assert vrf.decode_rule(body) is None


@given(rules, st.sampled_from(("FRA_FWMASK", "FRA_SUPPRESS_PREFIXLEN")), st.integers(0, 2**32 - 2))
def test_neither_is_one_with_a_partial_mask_or_suppression(
    rule: Rule, kind: str, value: int
) -> None:
    attrs = [(k, value if k == kind else v) for k, v in rule_attrs(rule)]
    assert vrf.decode_rule(written(fibmsg, rule_head(rule), attrs)) is None


@given(names, tables)
def test_pyroute2_reads_a_new_vrf(name: str, table: int) -> None:
    message = read(ifinfmsg, rtnl.new_vrf(name, table))
    assert (message["index"], message["flags"], message["change"]) == (0, 1, 1)
    assert message.get_attr("IFLA_IFNAME") == name
    assert message.get_nested("IFLA_LINKINFO", "IFLA_INFO_KIND") == "vrf"
    assert message.get_nested("IFLA_LINKINFO", "IFLA_INFO_DATA", "IFLA_VRF_TABLE") == table


@given(names, tables)
def test_we_read_the_table_of_a_vrf_that_pyroute2_writes(name: str, table: int) -> None:
    info = {
        "attrs": [
            ("IFLA_INFO_KIND", "vrf"),
            ("IFLA_INFO_DATA", {"attrs": [("IFLA_VRF_TABLE", table)]}),
        ]
    }
    body = written(ifinfmsg, {"index": 7}, [("IFLA_IFNAME", name), ("IFLA_LINKINFO", info)])
    _, _, found = rtnl.attributes_of_link(body)
    assert rtnl.vrf_table(found) == table


@given(names)
def test_a_link_of_another_kind_has_no_table(name: str) -> None:
    info = {"attrs": [("IFLA_INFO_KIND", "bridge")]}
    body = written(ifinfmsg, {"index": 7}, [("IFLA_IFNAME", name), ("IFLA_LINKINFO", info)])
    assert rtnl.vrf_table(rtnl.attributes_of_link(body)[2]) is None


@given(st.sampled_from(sorted(FAMILIES)), tables)
def test_pyroute2_reads_the_last_route(family: Any, table: int) -> None:
    message = read(rtmsg, vrf.change_last_route(vrf.RTM_NEWROUTE, family, table))
    assert message["family"] == FAMILIES[family]
    assert (message["dst_len"], message["proto"], message["type"]) == (0, vrf.PROTOCOL, 7)
    assert message.get_attr("RTA_TABLE") == table
    assert message.get_attr("RTA_PRIORITY") == vrf.LAST_METRIC


@given(st.binary(max_size=80))
def test_no_bytes_break_the_reading_of_rules(body: bytes) -> None:
    with contextlib.suppress(MalformedError):
        assert vrf.decode_rule(body) is None or isinstance(vrf.decode_rule(body), Rule)

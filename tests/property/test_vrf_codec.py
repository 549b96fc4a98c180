"""What pyroute2 is told to send for VRFs and rules, and how we read them, against any bytes too."""

from __future__ import annotations

import contextlib
import socket
from collections.abc import Iterator, Sequence
from typing import Any

import pyroute2
import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs
from pyroute2.netlink.rtnl.fibmsg import fibmsg
from pyroute2.netlink.rtnl.ifinfmsg import ifinfmsg
from pyroute2.netlink.rtnl.rtmsg import rtmsg

from rait.adapters import vrf
from rait.adapters.netlink import rtnl
from rait.adapters.netlink import socket as netlink
from rait.adapters.netlink.socket import MalformedError, Reply, decode
from rait.domain.backend import Outcome
from rait.domain.events import Event, RuleAdded, RuleRemoved, VrfAdded, VrfRemoved
from rait.domain.topology import Rule

FAMILIES = {"ip4": socket.AF_INET, "ip6": socket.AF_INET6}
RTM_NEWROUTE, RTM_DELROUTE, RTM_NEWRULE, RTM_DELRULE = 24, 25, 32, 33
CHANGE = netlink.NLM_F_REQUEST | netlink.NLM_F_ACK
EXCLUSIVE = CHANGE | netlink.NLM_F_CREATE | netlink.NLM_F_EXCL
u32 = st.integers(0, 2**32 - 1)
tables = st.integers(1, 2**32 - 1) | st.sampled_from((1, 255, 256))
names = st.text("abcdefghijklmnopqrstuvwxyz0123456789.-_äß", min_size=1, max_size=7)
rules = st.builds(Rule, st.sampled_from(sorted(FAMILIES)), u32, tables, st.integers(1, 2**32 - 1))


@pytest.fixture(scope="module", autouse=True)
def batch() -> Iterator[None]:
    """In place of pyroute2's socket, one that collects what would be sent, and never refuses."""
    with pytest.MonkeyPatch.context() as patch, pyroute2.IPBatch() as own:
        patch.setattr(pyroute2, "IPRoute", lambda **_: contextlib.nullcontext(own))
        yield


def sent(*events: Event) -> Sequence[Reply]:
    """The messages that are sent for the events."""
    with pyroute2.IPRoute() as own:
        own.reset()
        assert vrf.apply(events) == [Outcome(index) for index in range(len(events))]
        return decode(bytes(own.batch))


def read(kind: Any, message: Reply) -> Any:
    found = kind(netlink.encode(netlink.Request(message.kind, message.flags, message.body), 1))
    found.decode()
    return found


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


@given(rules, st.booleans())
def test_a_rule_is_sent_with_all_that_tells_it_from_others(rule: Rule, added: bool) -> None:
    (message,) = sent(RuleAdded(rule) if added else RuleRemoved(rule))
    kind = (RTM_NEWRULE, EXCLUSIVE) if added else (RTM_DELRULE, CHANGE)
    assert (message.kind, message.flags) == kind
    found = read(fibmsg, message)
    assert {key: found[key] for key in rule_head(rule)} == rule_head(rule)
    assert (found["dst_len"], found["src_len"], found["tos"], found["flags"]) == (0, 0, 0, 0)
    assert dict(found["attrs"]) == {
        "FRA_PRIORITY": rule.priority,
        "FRA_FWMARK": rule.fwmark,
        "FRA_FWMASK": 0xFFFFFFFF,
        "FRA_TABLE": rule.table,
        "FRA_PROTOCOL": vrf.PROTOCOL,
    }


@given(rules)
def test_all_rules_are_asked_for_and_told_apart_by_who_made_them(rule: Rule) -> None:
    other = structs.replace(rule, fwmark=rule.fwmark ^ 1)
    (made,) = sent(RuleAdded(rule))
    bodies = [made.body, written(fibmsg, rule_head(other), rule_attrs(other)), b"x" * 12]

    def dump(_: object, request: netlink.Request) -> list[bytes]:
        found = fibmsg(netlink.encode(request, 1))
        found.decode()
        assert (request.kind, found["family"], found["attrs"]) == (34, socket.AF_UNSPEC, [])
        return bodies

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(netlink.NetlinkSocket, "dump", dump)
        seen, of_others = vrf.rules()
    assert seen == {each.name: each for each in (rule, other)}
    assert of_others == {other.name}


@given(rules)
def test_we_read_a_rule_that_pyroute2_writes(rule: Rule) -> None:
    assert vrf.decode_rule(written(fibmsg, rule_head(rule), rule_attrs(rule))) == rule


@given(rules)
def test_we_read_what_we_have_sent(rule: Rule) -> None:
    (message,) = sent(RuleAdded(rule))
    assert vrf.decode_rule(message.body) == rule


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
def test_a_vrf_is_sent_after_the_end_of_its_table_and_marked_at_once(name: str, table: int) -> None:
    *ends, made, marked = sent(VrfAdded(name, table))
    assert [read(rtmsg, end)["family"] for end in ends] == [*FAMILIES.values()]
    assert [(end.kind, end.flags) for end in ends] == [(RTM_NEWROUTE, EXCLUSIVE)] * 2
    for end in ends:
        check_last_route(read(rtmsg, end), table)
    assert (made.kind, made.flags) == (rtnl.RTM_NEWLINK, EXCLUSIVE)
    found = read(ifinfmsg, made)
    assert (found["index"], found["flags"], found["change"]) == (0, 1, 1)
    assert found.get_attr("IFLA_IFNAME") == name
    assert found.get_nested("IFLA_LINKINFO", "IFLA_INFO_KIND") == "vrf"
    assert found.get_nested("IFLA_LINKINFO", "IFLA_INFO_DATA", "IFLA_VRF_TABLE") == table
    assert (marked.kind, marked.flags) == (rtnl.RTM_NEWLINK, CHANGE), "it makes no link"
    found = read(ifinfmsg, marked)
    assert (found["index"], found["flags"], found["change"]) == (0, 0, 0)
    assert dict(found["attrs"]) == {"IFLA_IFNAME": name, "IFLA_IFALIAS": "made by rait"}


@given(tables)
def test_with_a_vrf_that_is_gone_the_end_of_its_table_goes(table: int) -> None:
    ends = sent(VrfRemoved("not-there", table))
    assert [(end.kind, end.flags) for end in ends] == [(RTM_DELROUTE, CHANGE)] * 2
    assert [read(rtmsg, end)["family"] for end in ends] == [*FAMILIES.values()]
    for end in ends:
        check_last_route(read(rtmsg, end), table)


def check_last_route(found: Any, table: int) -> None:
    assert (found["dst_len"], found["src_len"], found["tos"], found["scope"]) == (0, 0, 0, 0)
    assert (found["proto"], found["type"], found["flags"]) == (vrf.PROTOCOL, 7, 0)
    assert dict(found["attrs"]) == {"RTA_TABLE": table, "RTA_PRIORITY": vrf.LAST_METRIC}


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


@given(st.binary(max_size=80))
def test_no_bytes_break_the_reading_of_rules(body: bytes) -> None:
    with contextlib.suppress(MalformedError):
        assert vrf.decode_rule(body) is None or isinstance(vrf.decode_rule(body), Rule)

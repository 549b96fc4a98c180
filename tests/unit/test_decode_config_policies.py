"""What a person may write in a policy, and what is said of what they may not."""

from __future__ import annotations

from typing import Any

import pytest

from rait.domain.config.decode_config import decode_config
from rait.domain.config.schema import Match, Policy
from rait.domain.errors import Problem

KEY = "KJJXmDtAXSrMGuIJVy/2eP65gXm1PTy7vCR/4O/vEEI="
OTHER = "+Y23l1qr9oEM4WlqPvp4IG2TPXdNCa11twipDvOHT3w="
TRANSPORT = {"address_family": "ip4", "send_port": 50153, "mtu": 1420, "ifprefix": "rait4x"}


def decode(*policies: Any, **changes: Any) -> tuple[tuple[Policy, ...] | None, list[Problem]]:
    document = {"private_key": KEY, "transport": [TRANSPORT], "policy": list(policies), **changes}
    config, problems = decode_config(document)
    return None if config is None else config.policies, list(problems)


def decoded(**policy: Any) -> Policy:
    policies, problems = decode(policy)
    assert policies is not None, problems
    assert problems == []
    return policies[0]


def problem(*policies: Any, **changes: Any) -> Problem:
    _, (found,) = decode(*policies, **changes)
    return found


def test_everything_that_can_be_said() -> None:
    policy = decoded(
        match=[
            {
                "name": ["core*", "hub"],
                "public_key": OTHER,
                "address_family": "ip4",
                "remarks": [{"place": ["ams*", "fra"], "asn": 64512, "dn42": True}],
            }
        ],
        keepalive=25,
        mtu="auto",
        fwmark="0x36",
        addresses=["172.20.0.1 peer {remarks.ip}", "fe80::1"],
        preshared_key_file="psk",
        babeld_param="type wired",
        babeld_param_add="",
        skip=False,
        up_command=["/usr/bin/logger", "up"],
        down_command=["logger"],
        command_netns="current",
    )
    assert policy == Policy(
        match=Match(
            name=("core*", "hub"),
            public_key=(OTHER,),
            address_family=("ip4",),
            remarks={"place": ("ams*", "fra"), "asn": ("64512",), "dn42": ("true",)},
        ),
        keepalive=25,
        mtu="auto",
        fwmark=0x36,
        addresses=("172.20.0.1 peer {remarks.ip}", "fe80::1"),
        preshared_key_file="psk",
        babeld_param="type wired",
        babeld_param_add="",
        skip=False,
        up_command=("/usr/bin/logger", "up"),
        down_command=("logger",),
        command_netns="current",
        path=("policy", 0),
    )


def test_what_an_earlier_policy_sets_can_be_taken_back() -> None:
    policy = decoded(
        keepalive="off", fwmark="off", addresses="off", up_command="off", down_command="off"
    )
    assert (policy.keepalive, policy.fwmark) == (0, 0)
    assert policy.addresses == policy.up_command == policy.down_command == ()


def test_policies_stay_in_their_order_and_know_their_place() -> None:
    policies, _ = decode(
        {"keepalive": "off", "preshared_key_file": "off"}, {"skip": True}, {"mtu": 1400}
    )
    assert policies == (
        Policy(keepalive=0, preshared_key_file="", path=("policy", 0)),
        Policy(skip=True, path=("policy", 1)),
        Policy(mtu=1400, path=("policy", 2)),
    )


def test_a_transport_has_a_keepalive_too() -> None:
    config, _ = decode_config({"private_key": KEY, "transport": [{**TRANSPORT, "keepalive": 25}]})
    assert config is not None
    assert config.transports[0].keepalive == 25
    assert config.policies == ()


@pytest.mark.parametrize(
    ("setting", "value", "message"),
    [
        ("keepalive", 65536, "from 0 to 65535"),
        ("keepalive", "on", 'or "off"'),
        ("keepalive", "25", "leave out the quotes"),
        ("mtu", 1279, 'from 1280 to 65455, or "auto"'),
        ("mtu", "automatic", 'or "auto"'),
        ("fwmark", "x", "a mark"),
        ("fwmark", 2**32, "a mark"),
        ("addresses", [], "not an empty list"),
        ("addresses", 1, "an address"),
        ("addresses", ["192.0.2.1/24", "192.0.2.1/33"], '"192.0.2.1/33": the length'),
        ("addresses", "{remark.x}", "in braces stands {name} or {remarks.KEY}"),
        ("preshared_key_file", "-", "a file on this machine"),
        ("preshared_key_file", "", "a path"),
        ("preshared_key_file", KEY, "is a key itself"),
        ("babeld_param", "", "one line"),
        ("babeld_param", "a\nb", "one line"),
        ("skip", 1, "true or false"),
        ("up_command", [], "not an empty list"),
        ("up_command", "logger up", "a list of texts"),
        ("up_command", ["./hook"], "an absolute path"),
        ("down_command", ["hook", 1], "a list of texts"),
        ("down_command", ["hook", KEY], "is a key itself"),
        ("command_netns", "transit", "target or current"),
        ("match", [], "not an empty list"),
        ("match", "x", "must be a block"),
        ("keepalive", None, "not null"),
        ("path", ["policy"], "unknown key"),
        ("keep_alive_", 1, ""),
        ("kepalive", 1, "did you mean keepalive?"),
    ],
)
def test_a_mistake_in_a_policy_is_told_by_its_key(setting: str, value: Any, message: str) -> None:
    if not message:  # another spelling of a key
        assert decoded(**{setting: value}).keepalive == value
        return
    found = problem({"skip": True}, {"skip": True, setting: value})
    assert found.path[:3] == ("policy", 1, setting)
    assert found.severity == "error"
    assert message in found.message
    assert KEY not in found.message


@pytest.mark.parametrize(
    ("setting", "value", "message"),
    [
        ("name", [], "not an empty list"),
        ("name", "", "a glob"),
        ("name", 5, "a glob"),
        ("public_key", "x", "not a WireGuard key"),
        ("public_key", [OTHER, 5], "must be a key"),
        ("address_family", "ip5", 'not "ip5"'),
        ("address_family", [["ip4"]], "ip4 or ip6"),
        ("remarks", "x", "must be one block"),
        ("remarks", {}, "must be one block"),
        ("remarks", [{"a": "b"}, {"c": "d"}], "must be one block"),
        ("remarks", {"a": []}, '"a" must be a glob'),
        ("remarks", {"a": ["b", {}]}, '"a" must be a glob'),
        ("nam", "x", "did you mean name?"),
        ("name", None, "not null"),
        ("name", "a\x1b*", "a control character"),
    ],
)
def test_a_mistake_in_a_match_is_told_by_its_key(setting: str, value: Any, message: str) -> None:
    found = problem({"skip": True, "match": [{setting: value}]})
    assert found.path == ("policy", 0, "match", 0, setting)
    assert found.severity == "error"
    assert message in found.message


def test_there_is_one_match_block() -> None:
    found = problem({"skip": True, "match": [{"name": "a"}, {"name": "b"}]})
    assert "more than one match block" in found.message


def test_what_has_no_effect_is_a_warning() -> None:
    found = problem({"match": {"name": "x"}})
    assert (found.severity, found.path) == ("warning", ("policy", 0))
    assert "sets nothing" in found.message
    found = problem({"match": {"address_family": "ip6"}, "skip": True})
    assert (found.severity, found.path) == ("warning", ("policy", 0, "match", "address_family"))
    assert "no transport is of this family" in found.message
    policies, problems = decode({"match": {"address_family": ["ip4", "ip6"]}, "skip": True})
    assert policies
    assert not problems


def test_with_a_vrf_as_transit_no_policy_takes_the_mark_away() -> None:
    vrf = {"type": "vrf", "target": "mesh", "table": 100, "transit": "under"}
    marked = [{**TRANSPORT, "fwmark": 54}]
    found = problem({"fwmark": "off"}, isolation=vrf, transport=marked)
    assert (found.severity, found.path) == ("error", ("policy", 0, "fwmark"))
    assert "by their mark" in found.message
    policies, problems = decode({"fwmark": 55}, isolation=vrf, transport=marked)
    assert policies
    assert not problems

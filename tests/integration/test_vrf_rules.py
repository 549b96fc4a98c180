"""Policy routing rules against a kernel; any kernel has these, with VRFs or without."""

from __future__ import annotations

import pytest

from rait.adapters import vrf
from rait.domain.backend import Outcome
from rait.domain.events import RuleAdded, RuleRemoved
from rait.domain.topology import Rule
from tests.integration import machine
from tests.integration.routing import namespaces

pytestmark = [pytest.mark.userspace, pytest.mark.kernel]

OURS = [
    Rule("ip4", 54, 200, 900),
    Rule("ip6", 54, 70000, 900),
    Rule("ip4", 2**32 - 1, 255 + 1, 900),
]


def test_rules_are_read_added_and_removed() -> None:
    with namespaces(1) as (netns,), machine.inside(netns):
        assert vrf.rules() == ({}, frozenset())
        added = [RuleAdded(rule) for rule in OURS]
        assert list(vrf.VrfBackend().apply(added)) == [Outcome(0), Outcome(1), Outcome(2)]
        assert vrf.rules() == ({rule.name: rule for rule in OURS}, frozenset())
        assert "900: from all fwmark 0x36 lookup 70000" in shown(netns, "-6")
        removed = [RuleRemoved(rule) for rule in OURS]
        assert list(vrf.VrfBackend().apply(removed)) == [Outcome(0), Outcome(1), Outcome(2)]
        assert vrf.rules() == ({}, frozenset())
        assert all(outcome.error is None for outcome in vrf.VrfBackend().apply(removed))


def test_rules_of_others_are_told_apart_and_never_removed() -> None:
    with namespaces(1) as (netns,), machine.inside(netns):
        machine.ip_batch(
            [
                "rule add pref 900 fwmark 54 lookup 200",
                "rule add pref 8 fwmark 54/0xff lookup 200",
                "rule add pref 9 iif lo fwmark 54 lookup 200",
                "rule add pref 10 not fwmark 54 lookup 200",
                "rule add pref 11 from 192.0.2.1 fwmark 54 lookup 200",
                "rule add pref 12 fwmark 54 blackhole",
            ],
            netns,
        )
        before = shown(netns, "-4")
        seen, of_others = vrf.rules()
        assert list(seen) == [OURS[0].name], "the others have more to them"
        assert of_others == {OURS[0].name}
        (outcome,) = vrf.VrfBackend().apply([RuleRemoved(OURS[0])])
        assert outcome.error is None
        assert shown(netns, "-4") == before, "the same rule, but not made by rait"


def shown(netns: str, family: str) -> str:
    return machine.run(["ip", family, "rule"], netns).replace("\t", " ")

"""Policy routing rules against a kernel; any kernel has these, with VRFs or without."""

from __future__ import annotations

from typing import Any

import pytest

from rait.adapters import vrf
from rait.domain.backend import Outcome
from rait.domain.events import RuleAdded, RuleRemoved, VrfAdded
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
        assert vrf.apply(added) == [Outcome(0), Outcome(1), Outcome(2)]
        assert vrf.rules() == ({rule.name: rule for rule in OURS}, frozenset())
        assert "900: from all fwmark 0x36 lookup 70000" in shown(netns, "-6")
        removed = [RuleRemoved(rule) for rule in OURS]
        assert vrf.apply(removed) == [Outcome(0), Outcome(1), Outcome(2)]
        assert vrf.rules() == ({}, frozenset())
        assert all(outcome.error is None for outcome in vrf.apply(removed))


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
        (outcome,) = vrf.apply([RuleRemoved(OURS[0])])
        assert outcome.error is None
        assert shown(netns, "-4") == before, "the same rule, but not made by rait"


def test_a_vrf_is_made_after_its_table_and_not_at_all_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    seen: list[str] = []
    with namespaces(1) as (netns,), machine.inside(netns):
        machine.ip_batch(["link set lo up"], netns)

        add_vrf = vrf._add_vrf

        def look_and_add(route: Any, name: str, **table: int) -> None:
            seen.extend(routes(netns, family, 77) for family in ("-4", "-6"))
            add_vrf(route, name, **table)

        with monkeypatch.context() as patch:
            patch.setattr(vrf, "_add_vrf", look_and_add)
            (outcome,) = vrf.apply([VrfAdded("lo", 77)])
        assert outcome.error is not None, "the name is taken, and this kernel may have no VRFs"
        assert all("unreachable default" in text for text in seen)
        assert len(seen) == 2
        assert not [text for text in (routes(netns, "-4", 77), routes(netns, "-6", 77)) if text]

        machine.ip_batch(["route add unreachable default metric 4278198272 table 78"], netns)
        (outcome,) = vrf.apply([VrfAdded("lo", 78)])
        assert outcome.error is not None
        assert "unreachable default" in routes(netns, "-4", 78), "it was there before"
        assert not routes(netns, "-6", 78)


def routes(netns: str, family: str, table: int) -> str:
    """The routes in a table, which need not exist."""
    text = machine.run(["ip", family, "route", "show", "table", "all"], netns)
    return "\n".join(line for line in text.splitlines() if f"table {table}" in line)


def shown(netns: str, family: str) -> str:
    return machine.run(["ip", family, "rule"], netns).replace("\t", " ")

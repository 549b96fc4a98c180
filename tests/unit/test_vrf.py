"""VRF isolation: what is planned, what counts as ours, and what is left alone."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from msgspec import structs

from rait.app.render import describe, event_object, report_lines
from rait.domain.backend import (
    Interface,
    Observation,
    ObservedLink,
    ObservedVrf,
    Outcome,
    UnreadLink,
)
from rait.domain.change import Goal
from rait.domain.config.schema import Config, Isolation, Transport
from rait.domain.diff import diff
from rait.domain.events import (
    LinkAdded,
    LinkRemoved,
    LinkUpdated,
    RuleAdded,
    RuleRemoved,
    VrfAdded,
    VrfRemoved,
)
from rait.domain.history import LastKnown, last_known
from rait.domain.ownership import Scope
from rait.domain.plan import Node, plan
from rait.domain.reconcile import reconcile
from rait.domain.records import RunHeader, RunRecord, Snapshot
from rait.domain.rollback import undo
from rait.domain.topology import (
    EMPTY,
    Device,
    Link,
    LinkSettings,
    Origin,
    Rule,
    Topology,
)
from rait.domain.vrf import VRF_MARK, has_transit, missing_transit, vrfs_among, wanted_vrfs
from tests.unit.command_line import report

KEY = "our key"
SCOPE = Scope(public_key=KEY, netns="", ifgroup=54)
MESH = Topology(vrfs={"mesh": 100})
RULE = Rule("ip4", 54, 200, 900)
HEADER = RunHeader(scope="", command="up", version="", uid=0, started_at=0, public_key=KEY)
RULES = Topology(rules={RULE.name: RULE})


def transport(prefix: str, fwmark: int) -> Transport:
    return Transport(
        address_family="ip4", send_port=50001, mtu=1420, ifprefix=prefix, fwmark=fwmark
    )


def config(transit: str = "", marks: tuple[int, ...] = (54,)) -> Config:
    return Config(
        transports=tuple(transport(f"w{n}x", mark) for n, mark in enumerate(marks)),
        isolation=Isolation(type="vrf", target="mesh", transit=transit, table=100),
    )


def node(table: int | None = None) -> Node:
    return Node(public_key=KEY, origin=Origin("kernel"), transit_table=table)


def link(name: str, master: str | None = "mesh") -> Link:
    return Link(name, Origin("kernel"), LinkSettings(1420, 54, master), Device(KEY, 50001))


def seen(*links: Link, **fields: object) -> Observation:
    observed = {each.name: ObservedLink(link=each) for each in links}
    return structs.replace(Observation(now=0, links=observed), **fields)


def remembered(topology: Topology) -> LastKnown:
    return LastKnown(topology=topology)


def test_the_target_is_planned_with_its_table() -> None:
    assert plan(config(), node(), []).topology == MESH


def interface(name: str, **fields: Any) -> Interface:
    common = {"index": 1, "kind": "", "mtu": 1500, "group": 0, "up": True}
    return Interface(name=name, **common | fields)


def test_vrfs_are_told_with_their_members_and_by_whom_they_were_made() -> None:
    there = [
        interface("mesh", kind="vrf", table=100, alias=VRF_MARK),
        interface("w2", master="mesh"),
        interface("under", kind="vrf", table=200, alias="the underlay", master="mesh"),
        interface("br0", kind="bridge"),
        interface("w1", master="mesh"),
        interface("tap0", master="br0"),
    ]
    assert vrfs_among(there) == {
        "mesh": ObservedVrf(100, ("under", "w1", "w2"), marked=True),
        "under": ObservedVrf(200),
    }


@pytest.mark.parametrize(("type_", "table"), [("netns", 100), ("vrf", None)])
def test_only_vrf_isolation_with_a_table_wants_a_vrf(type_: str, table: int | None) -> None:
    isolation = Isolation(type=type_, target="mesh", table=table)
    assert wanted_vrfs(Config(isolation=isolation)) == {}


def test_a_transport_without_a_mark_has_no_rule() -> None:
    assert plan(config("under", (0,)), node(200), []).topology.rules == {}


def test_our_rule_goes_with_our_links_that_have_its_mark() -> None:
    own = structs.replace(link("w1"), device=Device(KEY, 50001, RULE.fwmark))
    change = reconcile(seen(own, rules=RULES.rules), Goal(EMPTY), remembered(RULES), SCOPE)
    assert [type(event) for event in change.events] == [LinkRemoved, RuleRemoved]
    assert change.problems == ()


def test_netns_isolation_plans_neither_vrf_nor_rule() -> None:
    isolation = Isolation(type="netns", target="mesh", transit="under")
    planned = plan(Config(transports=(transport("w", 54),), isolation=isolation), node(200), [])
    assert planned.topology == EMPTY


def test_each_mark_finds_the_transit_vrf_in_both_families() -> None:
    planned = plan(config("under", (54, 55, 54)), node(200), [])
    found = {(r.family, r.fwmark, r.table, r.priority) for r in planned.topology.rules.values()}
    assert found == {(f, mark, 200, 900) for f in ("ip4", "ip6") for mark in (54, 55)}


def test_without_a_transit_vrf_there_are_no_rules() -> None:
    assert plan(config(""), node(None), []).topology.rules == {}


def test_vrf_and_rule_come_first_and_go_last() -> None:
    there = Topology({"w1": link("w1")}, {}, MESH.vrfs, RULES.rules)
    kinds = [type(event) for event in diff(EMPTY, there)]
    assert kinds == [VrfAdded, RuleAdded, LinkAdded]
    kinds = [type(event) for event in diff(there, EMPTY)]
    assert kinds == [LinkRemoved, RuleRemoved, VrfRemoved]


def test_another_target_moves_links_between_the_coming_and_the_going_vrf() -> None:
    before = Topology({"w1": link("w1")}, {}, MESH.vrfs)
    after = Topology({"w1": link("w1", "other")}, {}, {"other": 101})
    kinds = [type(event) for event in diff(before, after)]
    assert kinds == [VrfAdded, LinkUpdated, VrfRemoved]


def test_a_missing_vrf_is_to_be_made() -> None:
    change = reconcile(seen(), Goal(MESH), LastKnown(), SCOPE)
    assert change.events == (VrfAdded("mesh", 100),)


def test_a_vrf_that_is_not_ours_is_used_and_left() -> None:
    there = seen(vrfs={"mesh": ObservedVrf(100)})
    assert reconcile(there, Goal(MESH), LastKnown(), SCOPE).events == ()
    assert reconcile(there, Goal(EMPTY), LastKnown(), SCOPE).events == ()


def test_a_vrf_that_others_made_in_the_place_of_ours_is_used_and_left() -> None:
    known = LastKnown(topology=MESH, home="boot/1")
    there = seen(vrfs={"mesh": ObservedVrf(100, marked=False)})
    for wanted in (MESH, EMPTY):
        change = reconcile(there, Goal(wanted), known, SCOPE)
        assert change.events == ()
        assert change.observed.vrfs == {}
    marked = seen(vrfs={"mesh": ObservedVrf(100, marked=True)})
    assert reconcile(marked, Goal(EMPTY), known, SCOPE).events == (VrfRemoved("mesh", 100),)


def test_a_vrf_of_a_run_that_was_cut_off_before_it_was_marked_is_ours() -> None:
    known = LastKnown(leftover_vrfs={"mesh": 100}, home="boot/1")
    there = seen(vrfs={"mesh": ObservedVrf(100, marked=False)})
    assert reconcile(there, Goal(EMPTY), known, SCOPE).events == (VrfRemoved("mesh", 100),)


def test_a_rule_that_others_made_in_the_place_of_ours_is_used_and_left() -> None:
    (name, *_) = RULES.rules
    there = structs.replace(seen(rules=RULES.rules), rules_of_others=frozenset((name,)))
    change = reconcile(there, Goal(EMPTY), remembered(RULES), SCOPE)
    assert name not in {event.name for event in change.events}
    assert change.observed.rules.keys() == RULES.rules.keys() - {name}


def test_our_vrf_goes_with_our_links() -> None:
    there = seen(link("w1"), vrfs={"mesh": ObservedVrf(100, ("w1",))})
    change = reconcile(there, Goal(EMPTY), remembered(MESH), SCOPE)
    assert [type(event) for event in change.events] == [LinkRemoved, VrfRemoved]
    assert change.problems == ()


def test_our_rule_stays_while_a_link_of_ours_that_cannot_be_read_has_its_mark() -> None:
    """It is left as it is, so what its packets need is left too."""
    hidden = structs.replace(link("w1"), device=Device(KEY, 50001, RULE.fwmark))
    unread = {"w1": UnreadLink("", 54, "it does not answer")}
    there = seen(unread=unread, rules=RULES.rules)
    known = remembered(structs.replace(RULES, links={"w1": hidden}))
    other = Rule("ip4", 55, 200, 900)
    for wanted in (EMPTY, Topology(rules={other.name: other})):
        change = reconcile(there, Goal(wanted), known, SCOPE)
        assert change.desired.rules == {**RULES.rules, **wanted.rules}
        assert change.desired.links == {"w1": hidden}


def test_our_vrf_stays_while_others_are_in_it() -> None:
    there = seen(link("w1"), vrfs={"mesh": ObservedVrf(100, ("guest", "w1"))})
    change = reconcile(there, Goal(EMPTY), remembered(MESH), SCOPE)
    assert [type(event) for event in change.events] == [LinkRemoved]
    assert change.desired.vrfs == MESH.vrfs, "it stays ours"
    (problem,) = change.problems
    assert (problem.severity, problem.link) == ("warning", None)
    assert "guest" in problem.message
    assert "w1" not in problem.message


def test_our_vrf_stays_while_a_link_of_ours_stays_in_it() -> None:
    there = seen(link("w1"), vrfs={"mesh": ObservedVrf(100, ("w1",))})
    change = reconcile(there, Goal(Topology({"w1": link("w1")})), remembered(MESH), SCOPE)
    assert change.events == ()
    assert change.desired.vrfs == MESH.vrfs


def test_our_vrf_goes_when_its_links_move_elsewhere() -> None:
    there = seen(link("w1"), vrfs={"mesh": ObservedVrf(100, ("w1",)), "other": ObservedVrf(101)})
    change = reconcile(there, Goal(Topology({"w1": link("w1", "other")})), remembered(MESH), SCOPE)
    assert [type(event) for event in change.events] == [LinkUpdated, VrfRemoved]


@pytest.mark.parametrize(
    ("there", "named"),
    [
        (seen(vrfs={"mesh": ObservedVrf(77)}, others={"mesh": "vrf"}), "77"),
        (seen(others={"mesh": "bridge"}), "bridge"),
        (seen(others={"mesh": ""}), "physical"),
        (seen(link("mesh", None)), "wireguard"),
    ],
)
def test_what_is_in_the_way_of_a_vrf_forbids_everything(there: Observation, named: str) -> None:
    (problem,) = (
        p for p in reconcile(there, Goal(MESH), LastKnown(), SCOPE).problems if p.link is None
    )
    assert problem.severity == "error"
    assert named in problem.message
    assert "mesh" in problem.message


def test_a_vrf_made_anew_by_another_with_another_table_is_not_ours_any_more() -> None:
    change = reconcile(seen(vrfs={"mesh": ObservedVrf(77)}), Goal(EMPTY), remembered(MESH), SCOPE)
    assert change.observed.vrfs == {}
    assert change.events == ()


def test_what_vanished_is_noticed_and_made_again() -> None:
    both = Topology(vrfs=MESH.vrfs, rules=RULES.rules)
    change = reconcile(seen(), Goal(both), remembered(both), SCOPE)
    assert diff(both, change.observed) == (RuleRemoved(RULE), VrfRemoved("mesh", 100))
    assert change.events == (VrfAdded("mesh", 100), RuleAdded(RULE))


def test_our_rule_goes_and_the_same_of_another_stays() -> None:
    there = seen(rules=RULES.rules)
    assert reconcile(there, Goal(EMPTY), remembered(RULES), SCOPE).events == (RuleRemoved(RULE),)
    assert reconcile(there, Goal(EMPTY), LastKnown(), SCOPE).events == ()
    assert reconcile(there, Goal(RULES), LastKnown(), SCOPE).events == ()


def test_our_rule_stays_while_a_link_that_is_not_ours_has_its_mark() -> None:
    """Another configuration found the rule there, and made none."""
    device = Device("another's key", 50002, RULE.fwmark)
    other = structs.replace(link("other"), device=device)
    there = seen(link("w1"), other, rules=RULES.rules)
    change = reconcile(there, Goal(EMPTY), remembered(RULES), SCOPE)
    assert [event.name for event in change.events] == ["w1"]
    assert change.desired.rules == RULES.rules, "it stays ours"
    (problem,) = change.problems
    assert (problem.severity, problem.link) == ("warning", None)
    assert "other" in problem.message
    assert RULE.name in problem.message
    moved = Topology(rules={(new := Rule("ip4", 54, 300, 900)).name: new})
    assert reconcile(there, Goal(moved), remembered(RULES), SCOPE).events[-1] == RuleRemoved(RULE)
    unmarked = structs.replace(other, device=Device("another's key", 50002))
    there = seen(unmarked, rules=RULES.rules)
    assert reconcile(there, Goal(EMPTY), remembered(RULES), SCOPE).events == (RuleRemoved(RULE),)


def test_what_a_killed_run_made_is_ours() -> None:
    intended = (VrfAdded("mesh", 100), RuleAdded(RULE))
    killed = RunRecord(id=1, last_id=3, header=HEADER, intended=intended)
    memory = last_known(Snapshot(), [killed])
    there = seen(vrfs={"mesh": ObservedVrf(100)}, rules=RULES.rules)
    assert reconcile(there, Goal(EMPTY), memory, SCOPE).events == (
        RuleRemoved(RULE),
        VrfRemoved("mesh", 100),
    )
    told = structs.replace(killed, outcomes={0: Outcome(0, "refused"), 1: Outcome(1, "refused")})
    assert reconcile(there, Goal(EMPTY), last_known(Snapshot(), [told]), SCOPE).events == ()


def test_undo_takes_back_vrfs_and_rules_whatever_else_has_changed() -> None:
    intended = (VrfAdded("mesh", 100), RuleAdded(RULE))
    done = {0: Outcome(0), 1: Outcome(1)}
    run = RunRecord(id=1, last_id=3, header=HEADER, intended=intended, outcomes=done)
    now = Topology({"w1": link("w1")}, {}, {"mesh": 101, "other": 102}, RULES.rules)
    after = Topology(vrfs=MESH.vrfs, rules=RULES.rules)
    assert undo(now, run, after) == Topology({"w1": link("w1")}, {}, {"other": 102})


def test_a_journal_from_before_vrfs_still_reads() -> None:
    old = b'{"topology": {"links": {}, "babel": {"w1": "rxcost 32"}}, "public_key": "k"}'
    assert msgspec.json.decode(old, type=Snapshot).topology == Topology(babel={"w1": "rxcost 32"})


def test_each_event_is_told_in_one_line_and_as_an_object() -> None:
    assert describe(VrfAdded("mesh", 100)) == "+ vrf mesh table 100"
    assert describe(VrfRemoved("mesh", 100)) == "- vrf mesh table 100"
    assert describe(RuleAdded(RULE)) == "+ rule ip4 pref 900 fwmark 54 lookup 200"
    assert describe(RuleRemoved(RULE)) == "- rule ip4 pref 900 fwmark 54 lookup 200"
    assert event_object(VrfAdded("mesh", 100)) == {"type": "VrfAdded", "vrf": "mesh", "table": 100}
    rule = {"family": "ip4", "fwmark": 54, "table": 200, "priority": 900}
    assert event_object(RuleAdded(RULE)) == {"type": "RuleAdded", "rule": rule}


def test_the_summary_does_not_count_vrfs_as_links() -> None:
    events = (VrfAdded("mesh", 100), RuleAdded(RULE), LinkAdded(link("w1")))
    lines = report_lines(report(*events, links=1))
    assert lines[-1] == ("rait up: 1 added, 1 VRF added, 1 rule added; 1 link wanted")


def test_a_missing_transit_vrf_is_told_with_the_commands_that_make_it() -> None:
    assert "ip link add under type vrf table" in missing_transit("under", None)
    assert "bridge" in missing_transit("under", "bridge")
    assert "physical" in missing_transit("under", "")


def test_only_vrf_isolation_with_a_transit_has_its_underlay_in_a_vrf() -> None:
    assert has_transit(config("under"))
    assert not has_transit(config(""))
    assert not has_transit(Config(isolation=Isolation(type="netns", transit="under")))

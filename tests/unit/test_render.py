"""What a user reads, and what a program does."""

from __future__ import annotations

import json
from argparse import Namespace
from typing import Any

import pytest
from msgspec import structs

from rait.app.conclude import Report
from rait.app.render import (
    describe,
    event_lines,
    event_object,
    print_report,
    removal_text,
    report_lines,
    report_object,
    summary,
)
from rait.domain.change import Failure
from rait.domain.events import (
    BabelInterfaceAdded,
    BabelInterfaceFlushed,
    DeviceUpdated,
    Event,
    LinkAdded,
    LinkPlaced,
    LinkRemoved,
    LinkUpdated,
    NotesUpdated,
    PeerAdded,
    PeerRemoved,
    PeerUpdated,
    RuleAdded,
    RuleRemoved,
    VrfAdded,
    VrfRemoved,
)
from rait.domain.guard import Removal
from rait.domain.hooks import Call
from rait.domain.topology import (
    Device,
    Endpoint,
    Link,
    LinkNotes,
    LinkPeer,
    LinkSettings,
    Origin,
    Rule,
)
from rait.terminal import PARTIAL, to_json
from tests.unit.command_line import report

PEER = LinkPeer("KEY", Endpoint("192.0.2.1", 50153))
PASSIVE = LinkPeer("KEY")
KEYED = structs.replace(PEER, keepalive=25, psk_digest="5e7d")
REKEYED = structs.replace(KEYED, psk_digest="d1ff")
BARE = Link("w1", Origin("kernel", "raitns", "1"), LinkSettings(1420, 54), Device("own", 50221))
LINK = Link("w1", BARE.origin, BARE.settings, BARE.device, (PEER,))
DYNAMIC = Link("w2", BARE.origin, BARE.settings, Device("own"))
REMADE = Link("w1", Origin("kernel", "raitns", "2"), BARE.settings, BARE.device)
RULE = Rule("ip4", 54, 100, 32000)


def jsonable(value: object) -> Any:
    """The value as a program reads it."""
    return json.loads(to_json(value))


EVENTS: list[tuple[Event, str]] = [
    (LinkAdded(BARE), "+ w1 port 50221"),
    (LinkAdded(LINK), "+ w1 port 50221 peer KEY endpoint 192.0.2.1:50153"),
    (LinkAdded(DYNAMIC), "+ w2 port dynamic"),
    (LinkRemoved(LINK), "- w1 peer KEY"),
    (LinkRemoved(BARE), "- w1"),
    (
        LinkUpdated("w1", LinkSettings(1420, 54), LinkSettings(1300, 54, "vrf0", False)),
        "~ w1 mtu 1420 -> 1300, master none -> vrf0, up yes -> no",
    ),
    (LinkPlaced("w1", "", "boot/7"), "~ w1 is in namespace boot/7"),
    (
        NotesUpdated("w1", LinkNotes(), LinkNotes(up_command=("hook", "-v"))),
        "~ w1 up command none -> hook -v",
    ),
    (
        NotesUpdated("w1", LinkNotes(), LinkNotes(remarks=(("asn", "64512"), ("role", "a hub")))),
        "~ w1 remarks none -> asn=64512 role=a hub",
    ),
    (DeviceUpdated("w1", Device("own", 1), Device("own", 2)), "~ w1 listen port 1 -> 2"),
    (PeerAdded("w1", PEER), "~ w1 + peer KEY endpoint 192.0.2.1:50153"),
    (PeerAdded("w1", PASSIVE), "~ w1 + peer KEY passive"),
    (
        PeerAdded("w1", KEYED),
        "~ w1 + peer KEY endpoint 192.0.2.1:50153 keepalive 25 with a preshared key",
    ),
    (PeerRemoved("w1", PEER), "~ w1 - peer KEY"),
    (PeerUpdated("w1", PEER, KEYED), "~ w1 peer KEY keepalive 0 -> 25, preshared key set"),
    (PeerUpdated("w1", KEYED, REKEYED), "~ w1 peer KEY preshared key changed"),
    (PeerUpdated("w1", KEYED, PEER), "~ w1 peer KEY keepalive 25 -> 0, preshared key removed"),
    (
        PeerUpdated("w1", PASSIVE, LinkPeer("KEY", Endpoint("2001:db8::1", 5), 25, ("::/0",))),
        "~ w1 peer KEY endpoint none -> [2001:db8::1]:5, keepalive 0 -> 25, "
        "allowed ips 0.0.0.0/0 ::/0 -> ::/0",
    ),
    (BabelInterfaceAdded("w1", "rxcost 32"), "+ babel w1"),
    (BabelInterfaceFlushed("w1", "rxcost 32"), "- babel w1"),
    (VrfAdded("vrf0", 100), "+ vrf vrf0 table 100"),
    (VrfRemoved("vrf0", 100), "- vrf vrf0 table 100"),
    (RuleAdded(RULE), f"+ rule {RULE.name}"),
    (RuleRemoved(RULE), f"- rule {RULE.name}"),
]


@pytest.mark.parametrize(("event", "line"), EVENTS, ids=[line for _, line in EVENTS])
def test_each_event_is_a_line_and_an_object(event: Event, line: str) -> None:
    assert describe(event) == line
    told = json.loads(json.dumps(event_object(event)))
    assert told["type"] == type(event).__name__
    if "rule" in told:
        assert told["rule"] == {"family": "ip4", "fwmark": 54, "table": 100, "priority": 32000}
    else:
        assert told.get("link", told.get("vrf")) == event.name


def test_a_new_link_tells_its_peers_and_one_that_comes_later_has_its_own_line() -> None:
    """As in journals of before, where a link was added without its peers."""
    both = structs.replace(LINK, peers=(PEER, LinkPeer("OTHER")))
    events = [LinkAdded(both), LinkAdded(BARE), PeerAdded("w1", PEER)]
    assert list(event_lines(events)) == [
        "+ w1 port 50221 peer KEY endpoint 192.0.2.1:50153 peer OTHER passive",
        "+ w1 port 50221",
        "~ w1 + peer KEY endpoint 192.0.2.1:50153",
    ]


def test_a_link_that_is_remade_says_why() -> None:
    lines = list(event_lines([LinkRemoved(LINK), LinkAdded(REMADE)]))
    assert lines[0] == "- w1 peer KEY (to be remade: its transit is another namespace now)"
    assert lines[1].startswith("+ w1 ")


@pytest.mark.parametrize(
    ("spec", "why"),
    [
        ("raitns", "its namespace is no longer raitns"),
        ("123", "its namespace is no longer that of process 123"),
        ("", "its namespace is not the current one"),
    ],
)
def test_a_link_in_a_namespace_that_lost_its_name_is_remade_and_that_is_said(
    spec: str, why: str
) -> None:
    old, new = (
        structs.replace(LINK, origin=Origin("kernel", spec, "1", f"boot/{number}"))
        for number in (1, 2)
    )
    line, _ = event_lines([LinkRemoved(old), LinkAdded(new)])
    assert line == f"- w1 peer KEY (to be remade: {why})"


@pytest.mark.parametrize(
    ("told", "line"),
    [
        (report(status="unchanged", links=1), "rait up: nothing to do; 1 link"),
        (report(ended=("w1", "w2")), "rait up: 2 half-made links ended"),
        (
            report(LinkAdded(LINK), links=2),
            "rait up: 1 added; 2 links wanted",
        ),
        (
            report(LinkAdded(BARE), LinkRemoved(DYNAMIC), status="planned", links=1),
            "rait up: 1 to be added, 1 to be removed; 1 link wanted",
        ),
        (
            report(BabelInterfaceFlushed("w1", "a"), BabelInterfaceAdded("w1", "b"), links=1),
            "rait up: 1 babel interface added, 1 babel interface flushed; 1 link wanted",
        ),
        (
            report(LinkAdded(BARE), BabelInterfaceAdded("w1", "a"), links=1),
            "rait up: 1 added, 1 babel interface added; 1 link wanted",
        ),
        (
            report(LinkRemoved(LINK), LinkAdded(REMADE), links=1),
            "rait up: 1 remade; 1 link wanted",
        ),
        (
            report(
                LinkAdded(BARE),
                LinkAdded(DYNAMIC),
                status="partial",
                links=2,
                failures=(Failure("w1", "EBUSY"),),
            ),
            "rait up: 1 added, 1 failed; 2 links wanted",
        ),
        (
            report(
                LinkAdded(BARE),
                BabelInterfaceFlushed("w2", "a"),
                BabelInterfaceAdded("w2", "b"),
                BabelInterfaceAdded("w1", "b"),
                status="partial",
                links=2,
                failures=(Failure("w1", "no"), Failure("w2", "no")),
                errors={2: "refused", 3: "refused"},
            ),
            "rait up: 1 added, 2 failed, 1 babel interface flushed; 2 links wanted",
        ),
        (
            report(VrfAdded("vrf0", 100), RuleAdded(RULE), RuleAdded(RULE), links=0),
            "rait up: 1 VRF added, 2 rules added",
        ),
        (report(status="done", links=3), "rait up: nothing done; 3 links wanted"),
        (
            report(status="partial", links=3, conflicts=("w1 is taken",)),
            "rait up: nothing done, some peers get no link; 3 links wanted",
        ),
        (
            report(status="planned", links=3, conflicts=("w1 is taken",)),
            "rait up: nothing to do, some peers get no link; 3 links wanted",
        ),
    ],
)
def test_a_run_is_summed_up_in_a_line(told: Report, line: str) -> None:
    assert summary(told) == line
    assert report_lines(told)[-1] == line


def test_what_failed_is_marked() -> None:
    taken = "listen port 50221 is taken"
    events = (
        LinkAdded(LINK),
        LinkAdded(DYNAMIC),
        PeerAdded("w1", PASSIVE),
        PeerAdded("w2", PASSIVE),
    )
    told = report(
        *events,
        status="partial",
        failures=(Failure("w1", taken), Failure("w2", "no")),
        errors={0: taken, 2: "left alone", 3: "no"},
        links=2,
    )
    assert report_lines(told) == [
        "+ w1 port 50221 peer KEY endpoint 192.0.2.1:50153 (failed)",
        "+ w2 port dynamic",
        "~ w1 + peer KEY passive (failed)",
        "~ w2 + peer KEY passive (failed)",
        "rait up: 2 failed; 2 links wanted",
    ]
    outcomes = [(e.get("outcome"), e.get("error")) for e in jsonable(report_object(told))["events"]]
    assert outcomes == [
        ("failed", taken),
        (None, None),
        ("failed", "left alone"),
        ("failed", "no"),
    ]


def test_the_current_namespace_is_told_as_such() -> None:
    here = Link("w1", Origin("kernel", "", "1"), BARE.settings, BARE.device)
    line = next(event_lines([LinkRemoved(BARE), LinkAdded(here)]))
    assert line == "- w1 (to be remade: netns raitns -> the current one)"


def test_what_others_did_is_told_first_and_marked() -> None:
    drift = LinkUpdated("w1", LinkSettings(1420, 54), LinkSettings(1300, 54))
    lines = report_lines(report(LinkAdded(DYNAMIC), drift=(drift,), links=2))
    assert lines == [
        "! ~ w1 mtu 1420 -> 1300 (since the last run, not by a run of this configuration)",
        "+ w2 port dynamic",
        "rait up: 1 added; 2 links wanted",
    ]


def test_what_an_unfinished_run_left_is_told_from_what_others_did() -> None:
    drift = (LinkAdded(LINK), LinkAdded(DYNAMIC))
    told = report(drift=drift, leftover=frozenset(drift[:1]), links=2, status="unchanged")
    first, second, _ = report_lines(told)
    assert first == "! + w1 port 50221 peer KEY endpoint 192.0.2.1:50153 " + (
        "(left by a run that did not finish)"
    )
    assert second == "! + w2 port dynamic (since the last run, not by a run of this configuration)"
    noticed = jsonable(report_object(told))["drift"]
    assert [event["left_by_unfinished_run"] for event in noticed] == [True, False]


def test_what_a_failed_event_did_is_told_beside_it() -> None:
    marked = Device("own", 50221, 54)
    intended = DeviceUpdated("w1", DYNAMIC.device, marked)
    done = DeviceUpdated("w1", DYNAMIC.device, structs.replace(DYNAMIC.device, fwmark=54))
    told = report(
        intended, status="failed", errors={0: "the port is taken"}, half_done=(done,), links=1
    )
    assert report_lines(told)[:2] == [
        "~ w1 listen port 0 -> 50221, fwmark 0 -> 54 (failed)",
        "~ w1 fwmark 0 -> 54 (done by an event that failed)",
    ]


COMMANDED = structs.replace(
    BARE, notes=LinkNotes(up_command=("hook", "a b"), down_command=("bye",))
)
CALLS = (
    Call("removed", COMMANDED).result(0, None, ("bye",)),
    Call("added", COMMANDED).result(None, "it was killed by SIGSEGV", ("oh", "no")),
)


def test_calls_of_commands_are_told_after_the_events() -> None:
    assert report_lines(report(LinkAdded(BARE), status="partial", links=1, calls=CALLS)) == [
        "+ w1 port 50221",
        "> w1 removed: down_command bye",
        "> w1 added: up_command hook 'a b' failed: it was killed by SIGSEGV",
        "rait up: 1 added, 2 commands called, 1 of them failed; 1 link wanted",
    ]
    planned = report(status="planned", calls=(Call("added", COMMANDED).result(),))
    assert report_lines(planned) == [
        "> w1 added: up_command hook 'a b'",
        "rait up: 1 command to be called",
    ]


def test_a_call_that_failed_is_told_as_an_error_with_its_last_lines(
    capsys: pytest.CaptureFixture[str],
) -> None:
    told = report(LinkAdded(BARE), status="partial", calls=CALLS)
    assert print_report(told, Namespace(json=True)) == PARTIAL
    said = capsys.readouterr()
    assert said.err.splitlines() == [
        "rait: w1: added: up_command hook 'a b' failed: it was killed by SIGSEGV",
        "rait: w1: | oh",
        "rait: w1: | no",
    ]
    assert json.loads(said.out)["calls"][1] == {
        "link": "w1",
        "event": "added",
        "command": ["hook", "a b"],
        "status": None,
        "error": "it was killed by SIGSEGV",
        "lines": ["oh", "no"],
    }


def test_a_link_that_loses_its_peer_is_told_beside_the_result(
    capsys: pytest.CaptureFixture[str],
) -> None:
    told = report(LinkRemoved(BARE), status="partial", losses=("link w1 loses its peer",))
    assert print_report(told, Namespace(json=True)) == PARTIAL
    said = capsys.readouterr()
    assert said.err == "rait: link w1 loses its peer\n"
    assert json.loads(said.out)["losses"] == ["link w1 loses its peer"]


def test_a_report_as_json_has_all_of_it() -> None:
    told = report(
        LinkAdded(BARE),
        status="partial",
        run=7,
        links=1,
        drift=(LinkRemoved(LINK),),
        failures=(Failure("w1", "EBUSY"),),
        losses=("w2 goes",),
        conflicts=("w4 is taken",),
        old_list="the list is old",
        warnings=("careful",),
        ended=("w3",),
        half_done=(LinkRemoved(LINK),),
    )
    value = jsonable(report_object(told))
    (event,) = value.pop("events")
    (drift,) = value.pop("drift")
    assert drift.pop("left_by_unfinished_run") is False
    assert value.pop("half_done") == [drift]
    assert (event["type"], event["link"]) == ("LinkAdded", "w1")
    assert event["state"]["device"]["listen_port"] == 50221
    assert drift["type"] == "LinkRemoved"
    assert value == {
        "command": "up",
        "status": "partial",
        "run": 7,
        "links": 1,
        "ended": ["w3"],
        "failed": [{"link": "w1", "error": "EBUSY"}],
        "losses": ["w2 goes"],
        "calls": [],
        "conflicts": ["w4 is taken"],
        "old_peers_list": "the list is old",
        "warnings": ["careful"],
        "excessive_removal": None,
    }


def test_a_run_that_was_stopped_says_why_and_what_to_do() -> None:
    removal = Removal(("w1", "w2", "w3"), 4, 2)
    stopped = report(status="stopped", removal=removal)
    text = removal_text(stopped, removal)
    for word in ("nothing touched", "3 of 4 links", "at most 2", "(w1, w2, w3)", "--yes"):
        assert word in text
    assert "`rait up` will stop" in removal_text(report(status="planned"), removal)
    for command, full in (("replay --at 2h", "replay --at 2h --apply"), ("rollback 7",) * 2):
        back = report(command=command, status="planned", removal=removal)
        text = removal_text(back, removal)
        assert f"`rait {full}` will stop" in text
        assert "peers list" not in text
        assert "run it again with --yes" in text
    many = tuple(f"w{number}" for number in range(30))
    mixed = Removal(many, 40, 5, {"w7": "another peer", "w8": "made again"}, ("v1", "v2"))
    text = removal_text(report(status="stopped", removal=mixed), mixed)
    for words in (
        "end the sessions of 30 of 40 links (another peer: w7; made again: w8; removed: w0, w1,",
        "and 8 more); runs of the last 24 hours ended the sessions of 2 others (v1, v2), which",
        "which makes 32; at most 5 may lose theirs in 24 hours unless you say so. ",
        "Is the peers list complete? Do these peers have new keys? Should these links be made else",
    ):
        assert words in text
    told = jsonable(report_object(stopped))["excessive_removal"]
    assert told == {"links": ["w1", "w2", "w3"], "of": 4, "limit": 2}


def test_links_that_are_left_as_they_are_are_counted_as_such() -> None:
    left = (Failure("w1", "its entry cannot be read", kept=True),)
    told = report(status="unchanged", links=2, failures=left)
    assert summary(told) == "rait up: 1 left as it is; 2 links wanted"
    both = structs.replace(told, failures=(*left, Failure("w2", "no answer", kept=True)))
    assert summary(both) == "rait up: 2 left as they are; 2 links wanted"
    broken = (*left, Failure("w2", "EBUSY"))
    told = report(LinkAdded(BARE), status="partial", links=3, failures=broken)
    assert summary(told).startswith("rait up: 1 failed, 1 left as it is")


def test_a_run_that_is_stopped_names_some_of_what_it_would_remove() -> None:
    stopped = report(status="stopped")
    one = removal_text(stopped, Removal(("w0",), 1, 0))
    assert "it would remove 1 of 1 link (w0); at most 0 may go in 24 hours unless" in one
    many = removal_text(stopped, Removal(tuple(f"w{n}" for n in range(900)), 1000, 500))
    assert "it would remove 900 of 1000 links" in many
    assert "w19 and 880 more); " in many

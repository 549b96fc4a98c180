"""Which commands are called for what happened to links, and what they get to know."""

from __future__ import annotations

import pytest
from msgspec import structs

from rait.domain.change import Change, Goal
from rait.domain.diff import diff
from rait.domain.errors import Problem
from rait.domain.events import Event, LinkAdded, LinkPlaced, LinkRemoved, NotesUpdated, PeerUpdated
from rait.domain.history import LastKnown
from rait.domain.hooks import (
    Call,
    Ledger,
    Owed,
    due,
    environment,
    last_lines,
)
from rait.domain.topology import (
    EMPTY,
    Device,
    Endpoint,
    Link,
    LinkNotes,
    LinkPeer,
    LinkSettings,
    Origin,
    Topology,
)

KEY = "q" * 42 + "o="
OTHER_KEY = "r" * 42 + "s="
NOTES = LinkNotes(
    up_command=("up",), down_command=("down",), peer_name="far", remarks=(("asn", "64512"),)
)
LINK = Link(
    "w1",
    Origin("kernel", "mesh"),
    LinkSettings(1420, 54),
    Device("own", 50001),
    (LinkPeer(KEY, Endpoint("192.0.2.1", 1)),),
    NOTES,
)


def noted(**notes: object) -> Link:
    return structs.replace(LINK, notes=structs.replace(NOTES, **notes))


def calls_for(events: tuple[Event, ...], *before: Link, ours: bool = True) -> list[tuple[str, str]]:
    """The calls due after these events, as pairs of an event and the word of the command."""
    links = {link.name: link for link in before}
    ledger = Ledger(Owed(), links)
    for event in events:
        ledger.happened(event, ours=ours)
    after = {LINK.name: noted(up_command=("up",))}
    return [(call.event, call.command[0]) for call in due(ledger.owed, after, ())]


def changed(after: Link) -> tuple[Event, ...]:
    return diff(Topology({"w1": LINK}), Topology({"w1": after}))


def test_a_link_that_comes_changes_and_goes() -> None:
    mended = structs.replace(LINK, settings=LinkSettings(1280, 54))
    elsewhere = structs.replace(LINK, origin=Origin("kernel", "elsewhere"))
    assert calls_for((LinkAdded(LINK),)) == [("added", "up")]
    assert calls_for(changed(mended), LINK) == [("changed", "up")]
    assert calls_for((LinkRemoved(LINK),), LINK) == [("removed", "down")]
    assert calls_for(changed(elsewhere), LINK) == [("removed", "down"), ("added", "up")]


def test_one_call_a_run_for_all_that_changed() -> None:
    after = structs.replace(LINK, settings=LinkSettings(1280, 54), device=Device("own", 2))
    after = structs.replace(after, notes=structs.replace(NOTES, up_command=("up", "again")))
    events = changed(after)
    assert len(events) == 3
    assert calls_for(events, LINK) == [("changed", "up")]


@pytest.mark.parametrize(
    "notes",
    [
        {"up_command": ("another",)},
        {"command_netns": "current"},
        {"peer_name": "nearer"},
        {"remarks": (("asn", "64513"),)},
    ],
)
def test_what_a_command_is_told_calls_it_again(notes: dict[str, object]) -> None:
    assert calls_for(changed(noted(**notes)), LINK) == [("changed", "up")]


@pytest.mark.parametrize(
    "event",
    [
        NotesUpdated("w1", NOTES, structs.replace(NOTES, down_command=("another",))),
        NotesUpdated("w1", NOTES, structs.replace(NOTES, babeld_param="rxcost 9")),
        NotesUpdated("w1", NOTES, structs.replace(NOTES, up_command=())),
        PeerUpdated("w1", LINK.peers[0], structs.replace(LINK.peers[0], endpoint=None)),
        LinkPlaced("w1", "", "boot/1"),
    ],
)
def test_what_a_command_is_told_nothing_of_calls_nothing(event: Event) -> None:
    assert calls_for((event,), LINK) == []


def test_an_endpoint_that_changes_with_more_is_a_change() -> None:
    peer = structs.replace(LINK.peers[0], endpoint=None, keepalive=25)
    assert calls_for((PeerUpdated("w1", LINK.peers[0], peer),), LINK) == [("changed", "up")]


def test_a_link_without_commands_calls_nothing() -> None:
    bare = structs.replace(LINK, notes=LinkNotes())
    assert calls_for((LinkAdded(bare), LinkRemoved(bare), LinkAdded(bare))) == []


def test_what_others_did_calls_nothing_and_ends_what_was_to_come() -> None:
    assert calls_for((LinkRemoved(LINK), LinkAdded(LINK)), LINK, ours=False) == []
    ledger = Ledger(Owed({"w1": "added"}), {"w1": LINK})
    ledger.happened(LinkRemoved(LINK), ours=False)
    assert ledger.owed == Owed()


def test_the_down_commands_of_two_links_of_one_name_are_both_owed_until_each_has_ended() -> None:
    other = structs.replace(LINK, peers=(LinkPeer(OTHER_KEY),))
    ledger = Ledger(Owed(down=(LINK,)), {})
    for event in (LinkAdded(other), LinkRemoved(other), LinkAdded(LINK), LinkRemoved(LINK)):
        ledger.happened(event)
    assert ledger.owed == Owed(down=(LINK, other))
    ledger.ended(Call("removed", LINK).result())
    assert ledger.owed == Owed(down=(other,))


def change(link: Link, **fields: object) -> Change:
    """A change of a link, whose up_command is owed from before."""
    known = LastKnown(topology=Topology({"w1": LINK}), calls_owed=Owed({"w1": "added"}, (LINK,)))
    goal = Goal(Topology({"w1": link}))
    return Change(observed=known.topology, desired=EMPTY, known=known, **{"goal": goal, **fields})


def events_of(calls: tuple[Call, ...]) -> list[str]:
    return [call.event for call in calls]


def test_the_up_command_of_a_link_that_is_not_as_it_should_be_waits() -> None:
    assert events_of(change(LINK).calls(())) == ["removed", "added"]
    assert events_of(change(LINK).calls((), {"w1"})) == ["removed"]
    broken = change(LINK, problems=(Problem("it cannot be read", link="w1"),))
    assert events_of(broken.calls(())) == ["removed"]
    kept = change(LINK, problems=(Problem("left as it is", "warning", link="w1"),))
    assert events_of(kept.calls(())) == ["removed", "added"]


def test_a_run_that_is_about_other_links_or_about_none_leaves_it_for_the_next() -> None:
    others = Goal(Topology({"w1": LINK}), only=frozenset({"w2"}))
    assert events_of(change(LINK, goal=others).calls(())) == ["removed"]
    assert change(LINK, goal=Goal(None)).calls(()) == ()


def test_what_a_command_gets_to_know() -> None:
    assert environment(Call("changed", LINK)) == {
        "RAIT_EVENT": "changed",
        "RAIT_LINK": "w1",
        "RAIT_PEER": KEY,
        "RAIT_PEER_NAME": "far",
        "RAIT_NETNS": "mesh",
        "RAIT_REMARK_ASN": "64512",
    }


def test_a_registry_sets_no_other_variable() -> None:
    hostile = (
        ("LD_PRELOAD", "/x.so"),
        ("a=b", "x"),
        ("a b", "x"),
        ("a\0b", "x"),
        ("", "x"),
        ("ä", "x"),
        ("as-number", "1"),
        ("as.number", "2"),
    )
    found = environment(Call("added", noted(remarks=hostile)))
    assert set(found) == {
        "RAIT_EVENT", "RAIT_LINK", "RAIT_PEER", "RAIT_PEER_NAME", "RAIT_NETNS",
        "RAIT_REMARK_LD_PRELOAD", "RAIT_REMARK_AS_NUMBER",
    }  # fmt: skip
    assert found["RAIT_REMARK_AS_NUMBER"] == "1"


def test_the_last_lines_of_an_output() -> None:
    lines = [f"line {number}" for number in range(9)]
    assert last_lines("\n".join(lines).encode(), ()) == tuple(lines[-5:])
    assert last_lines(b"\n \n one\r\n\n", ()) == (" one",)
    assert last_lines(b"", ()) == ()
    assert last_lines(b"x" * 200, ()) == ("x" * 200,)
    assert last_lines(b"x" * 201, ()) == ("x" * 200 + "…",)
    assert last_lines(b"\xff\x1b[31m", ()) == ("\ufffd\x1b[31m",)


def test_keys_are_left_out_of_an_output_but_for_public_ones() -> None:
    hexadecimal = "ab" * 32
    text = f"private {OTHER_KEY} public {KEY} hex {hexadecimal}"
    assert last_lines(text.encode(), {KEY}) == (f"private (left out) public {KEY} hex (left out)",)


def test_no_part_of_a_key_shows_where_an_output_was_cut() -> None:
    for cut in range(len(OTHER_KEY)):
        output = OTHER_KEY[cut:] + f" {OTHER_KEY} " + "x" * 150
        (line,) = last_lines(output.encode(), (), is_cut=True)
        assert OTHER_KEY[-4:] not in line

"""What each event does to a topology, and that it refuses one that it does not fit."""

from __future__ import annotations

from typing import get_args

import pytest
from msgspec import structs

from rait.domain.events import (
    KINDS,
    BabelInterfaceAdded,
    BabelInterfaceFlushed,
    DeviceUpdated,
    Event,
    LinkAdded,
    LinkPlaced,
    LinkRemoved,
    LinkUpdated,
    MismatchError,
    NotesUpdated,
    PeerAdded,
    PeerRemoved,
    PeerUpdated,
    RuleAdded,
    RuleRemoved,
    VrfAdded,
    VrfRemoved,
    evolve,
    invert,
    may_be_half_done,
    peers_named,
    replay,
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
    Rule,
    Topology,
)

PEER = LinkPeer("peer", Endpoint("192.0.2.1", 50153))
BARE = Link("rait4x1", Origin("kernel"), LinkSettings(1420, 54), Device("own", 50221, 54))
LINK = Link("rait4x1", BARE.origin, BARE.settings, BARE.device, (PEER,))
ONE = Topology({"rait4x1": LINK})


def test_every_event_has_a_kind_and_one_that_takes_it_back() -> None:
    assert set(KINDS) == set(get_args(Event))
    for event, kind in KINDS.items():
        assert KINDS[kind.inverse].inverse is event
        assert kind.table in Topology.__struct_fields__


def test_a_link_is_made_bare_and_then_gets_its_peer() -> None:
    """As in journals of before; now it is made with its peers."""
    assert replay(EMPTY, [LinkAdded(LINK)]) == ONE
    assert replay(EMPTY, [LinkAdded(BARE), PeerAdded("rait4x1", PEER)]) == ONE


def test_peers_are_kept_in_the_order_of_their_keys() -> None:
    earlier = LinkPeer("a peer")
    link = evolve(ONE, PeerAdded("rait4x1", earlier)).links["rait4x1"]
    assert link.peers == (earlier, PEER)


def test_replay_leaves_the_topology_it_started_from_alone() -> None:
    replay(ONE, [LinkRemoved(LINK)])
    assert list(ONE.links) == ["rait4x1"]


OTHER_DEVICE = Device("own", 1, 54)
OTHER_SETTINGS = LinkSettings(1280, 54)


@pytest.mark.parametrize(
    "event",
    [
        LinkAdded(BARE),
        LinkRemoved(BARE),
        LinkUpdated("rait4x1", OTHER_SETTINGS, BARE.settings),
        DeviceUpdated("rait4x1", OTHER_DEVICE, BARE.device),
        LinkPlaced("rait4x1", "boot/1", "boot/2"),
        NotesUpdated("rait4x1", LinkNotes(peer_name="p"), LinkNotes()),
        PeerAdded("rait4x1", PEER),
        PeerRemoved("rait4x1", LinkPeer("peer")),
        PeerUpdated("rait4x1", LinkPeer("peer"), PEER),
        PeerUpdated("rait4x1", PEER, LinkPeer("another")),
        PeerAdded("rait4x2", PEER),
        BabelInterfaceFlushed("rait4x1", ""),
        VrfRemoved("rait4x", 100),
    ],
)
def test_an_event_refuses_a_state_that_it_does_not_fit(event: Event) -> None:
    with pytest.raises(MismatchError, match="rait4x"):
        evolve(ONE, event)


def test_no_update_makes_another_peer_of_a_peer() -> None:
    """Whichever of the two keys is looked at first: many, as their order is that of a set."""
    for number in range(16):
        with pytest.raises(MismatchError, match="does not fit"):
            evolve(ONE, PeerUpdated("rait4x1", PEER, LinkPeer(f"another {number}")))


RULE = Rule("ip4", 54, 100, 900)
ISOLATED = Topology(vrfs={"vrf0": 100}, rules={RULE.name: RULE})


@pytest.mark.parametrize(
    "event",
    [
        VrfAdded("vrf0", 100),
        VrfRemoved("vrf0", 101),
        VrfRemoved("vrf1", 100),
        RuleAdded(RULE),
        RuleRemoved(structs.replace(RULE, table=101)),
    ],
)
def test_neither_do_vrfs_and_rules_come_twice_or_go_as_others(event: Event) -> None:
    with pytest.raises(MismatchError, match=event.name):
        evolve(ISOLATED, event)


def test_a_rule_in_the_place_of_another_does_not_fit() -> None:
    replaced = Topology(rules={RULE.name: structs.replace(RULE, table=101)})
    with pytest.raises(MismatchError, match="does not fit"):
        evolve(replaced, RuleRemoved(RULE))
    assert evolve(ISOLATED, RuleRemoved(RULE)) == Topology(vrfs=ISOLATED.vrfs)


@pytest.mark.parametrize(
    "event",
    [
        LinkRemoved(LINK),
        LinkUpdated("rait4x1", BARE.settings, OTHER_SETTINGS),
        DeviceUpdated("rait4x1", BARE.device, OTHER_DEVICE),
        LinkPlaced("rait4x1", "", "boot/1"),
        NotesUpdated("rait4x1", LinkNotes(), LinkNotes(up_command=("true",))),
        PeerRemoved("rait4x1", PEER),
        PeerUpdated("rait4x1", PEER, LinkPeer("peer")),
        BabelInterfaceAdded("rait4x1", ""),
        VrfAdded("vrf0", 100),
        RuleAdded(Rule("ip4", 54, 100, 32000)),
    ],
)
def test_an_event_and_its_inverse_cancel_out(event: Event) -> None:
    changed = evolve(ONE, event)
    assert changed != ONE
    assert evolve(changed, invert(event)) == ONE


@pytest.mark.parametrize(
    ("event", "why"),
    [
        (LinkAdded(BARE), "^LinkAdded for rait4x1, which is already there$"),
        (DeviceUpdated("w9", OTHER_DEVICE, BARE.device), "for w9, which is not there$"),
        (VrfRemoved("vrf0", 100), "for vrf0, which is not there$"),
        (LinkRemoved(BARE), "^LinkRemoved for rait4x1 does not fit its state$"),
    ],
)
def test_what_does_not_fit_is_told(event: Event, why: str) -> None:
    with pytest.raises(MismatchError, match=why):
        evolve(ONE, event)


def test_the_peers_that_an_event_is_about() -> None:
    other = LinkPeer("another")
    both = Link("rait4x1", BARE.origin, BARE.settings, BARE.device, (other, PEER))
    for event in (LinkAdded(both), LinkRemoved(both)):
        assert peers_named(event) == {"another", "peer"}
    for event in (
        PeerAdded("rait4x1", PEER),
        PeerRemoved("rait4x1", PEER),
        PeerUpdated("rait4x1", PEER, LinkPeer("peer")),
    ):
        assert peers_named(event) == {"peer"}
    assert peers_named(VrfAdded("vrf0", 100)) == frozenset()


def test_a_vrf_and_a_rule_are_made_whole_or_not_at_all() -> None:
    rule = Rule("ip4", 54, 100, 32000)
    assert not any(map(may_be_half_done, (VrfAdded("vrf0", 100), RuleAdded(rule))))
    assert all(map(may_be_half_done, (VrfRemoved("vrf0", 100), LinkAdded(BARE))))

"""What failed events did all the same, and what an unfinished run did, as a look tells it."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from msgspec import structs

from rait.domain.aftermath import known_after_failures, told_apart
from rait.domain.config.schema import PRIVATE_GROUPS
from rait.domain.diff import diff
from rait.domain.events import (
    BabelInterfaceAdded,
    BabelInterfaceFlushed,
    DeviceUpdated,
    Event,
    LinkAdded,
    LinkRemoved,
    LinkUpdated,
    PeerAdded,
    PeerRemoved,
    PeerUpdated,
    RuleAdded,
    RuleRemoved,
    VrfAdded,
    VrfRemoved,
    replay,
)
from rait.domain.history import LastKnown
from rait.domain.topology import (
    EMPTY,
    Device,
    Endpoint,
    Link,
    LinkPeer,
    LinkSettings,
    Origin,
    Rule,
    Topology,
)

HERE, THERE = Endpoint("192.0.2.1", 50153), Endpoint("192.0.2.2", 50153)
PEER = LinkPeer("far", HERE)
SETTINGS = LinkSettings(1420, 54, None, True, "fe80::1/64")
LINK = Link("w1", Origin("kernel"), SETTINGS, Device("own", 0, 0), (PEER,))
RULE = Rule("ip4", 54, 10, 900)


def half_done(known: Topology, seen: Topology, failed: Sequence[Event]) -> tuple[Event, ...]:
    """What the failed events did all the same, as the second look of a run finds it."""
    return told_apart(known, seen, known_after_failures(LastKnown(), known, failed).leftover)[0]


def topology(*links: Link) -> Topology:
    return Topology({each.name: each for each in links})


def with_settings(**fields: object) -> Link:
    return structs.replace(LINK, settings=structs.replace(SETTINGS, **fields))


def with_peer(**fields: object) -> Link:
    return structs.replace(LINK, peers=(structs.replace(PEER, **fields),))


MARKED = DeviceUpdated("w1", LINK.device, Device("own", 50221, 54))
MOVED = PeerUpdated("w1", PEER, LinkPeer("far", THERE, 25))
PASSIVE = PeerUpdated("w1", PEER, LinkPeer("far"))
NARROWED = LinkUpdated("w1", SETTINGS, structs.replace(SETTINGS, mtu=1300))
DOWNED = LinkUpdated("w1", SETTINGS, structs.replace(SETTINGS, up=False))
OPENED = PeerUpdated("w1", PEER, structs.replace(PEER, allowed_ips=("2001:db8::/32",)))
WIDE = ("192.0.2.0/24", "2001:db8::/32")
WIDENED = PeerUpdated("w1", PEER, structs.replace(PEER, allowed_ips=WIDE))
RENUMBERED = LinkUpdated("w1", SETTINGS, structs.replace(SETTINGS, address="fe80::2/64"))
ENSLAVED = LinkUpdated("w1", SETTINGS, structs.replace(SETTINGS, mtu=1300, master="vrf9"))
BOTH = ("192.0.2.1/24", "2001:db8::1/64")
ADDRESSED = LinkUpdated("w1", SETTINGS, structs.replace(SETTINGS, addresses=BOTH))


@pytest.mark.parametrize(
    ("failed", "seen"),
    [
        (MARKED, structs.replace(LINK, device=Device("own", 0, 54))),
        (MARKED, structs.replace(LINK, device=Device("own", 41000, 0))),
        (MOVED, with_peer(keepalive=25)),
        (MOVED, with_peer(endpoint=THERE)),
        (PASSIVE, structs.replace(LINK, peers=())),
        (PASSIVE, with_peer(endpoint=None, allowed_ips=())),
        (ENSLAVED, with_settings(mtu=1300)),
        (ENSLAVED, with_settings(master="vrf9", address=None)),
        (ENSLAVED, with_settings(master="vrf9", address=None, up=False)),
        (LinkRemoved(LINK), with_settings(group=PRIVATE_GROUPS)),
        (LinkRemoved(LINK), with_settings(group=PRIVATE_GROUPS + 7)),
        (RENUMBERED, with_settings(address=None)),
        (DOWNED, with_settings(address=None)),
        (ADDRESSED, with_settings(addresses=BOTH[:1])),
        (ADDRESSED, with_settings(addresses=BOTH)),
        (OPENED, with_peer(allowed_ips=())),
        (WIDENED, with_peer(allowed_ips=WIDE[::-1])),
        (PeerRemoved("w1", PEER), structs.replace(LINK, peers=())),
        (PeerAdded("w1", LinkPeer("new")), structs.replace(LINK, peers=(PEER, LinkPeer("new")))),
    ],
)
def test_what_a_failed_event_did_is_found(failed: Event, seen: Link) -> None:
    found = half_done(topology(LINK), topology(seen), [failed])
    assert found == diff(topology(LINK), topology(seen)) != ()
    assert half_done(topology(LINK), topology(LINK), [failed]) == ()


@pytest.mark.parametrize(
    ("failed", "by_others"),
    [
        (MARKED, with_settings(mtu=1280)),
        (MARKED, structs.replace(LINK, device=Device("other"))),
        (MARKED, structs.replace(LINK, device=Device("own", 0, 99))),
        (MOVED, with_peer(endpoint=Endpoint("203.0.113.9", 1))),
        (MOVED, with_peer(allowed_ips=())),
        (MOVED, structs.replace(LINK, peers=())),
        (ENSLAVED, with_settings(group=7)),
        (ENSLAVED, with_settings(mtu=1280)),
        (LinkRemoved(LINK), with_settings(mtu=1280)),
        (LinkRemoved(LINK), with_settings(group=7)),
        (NARROWED, with_settings(address=None)),
        (ADDRESSED, with_settings(addresses=("192.0.2.7/24",))),
        (ENSLAVED, with_settings(addresses=BOTH)),
        (OPENED, with_peer(allowed_ips=("192.0.2.0/24",))),
        (PeerRemoved("w1", PEER), with_peer(endpoint=THERE)),
        (PeerAdded("w1", PEER), with_peer(endpoint=THERE)),
        (LinkAdded(LINK), with_settings(mtu=1280)),
    ],
)
def test_what_others_did_meanwhile_is_theirs(failed: Event, by_others: Link) -> None:
    assert half_done(topology(LINK), topology(by_others), [failed]) == ()
    left, others = told_apart(topology(LINK), topology(by_others), [failed])
    assert (left, others) == ((), diff(topology(LINK), topology(by_others)))


@pytest.mark.parametrize("event", [DOWNED, ENSLAVED])
def test_a_link_that_goes_down_loses_its_ipv6_addresses_alone(event: LinkUpdated) -> None:
    before, after = (structs.replace(each, addresses=BOTH) for each in (event.before, event.after))
    changed = LinkUpdated("w1", before, after)
    known, seen = with_settings(addresses=BOTH), with_settings(address=None, addresses=BOTH[:1])
    assert half_done(topology(known), topology(seen), [changed]) != ()
    left, others = told_apart(topology(known), topology(with_settings(addresses=())), [changed])
    assert left == (LinkUpdated("w1", known.settings, with_settings(addresses=BOTH[:1]).settings),)
    assert len(others) == 1


@pytest.mark.parametrize("event", [MARKED, MOVED, NARROWED, PeerRemoved("w1", PEER)])
@pytest.mark.parametrize("known", [EMPTY, topology(structs.replace(LINK, peers=()))])
def test_what_the_journal_does_not_know_was_not_changed_by_an_event(
    event: Event, known: Topology
) -> None:
    assert told_apart(known, topology(LINK), [event]) == ((), diff(known, topology(LINK)))


def test_both_are_told_apart_where_they_met_in_one_link() -> None:
    seen = structs.replace(LINK, device=Device("other", 0, 54))
    left, others = told_apart(topology(LINK), topology(seen), [MARKED])
    assert left == (DeviceUpdated("w1", LINK.device, Device("own", 0, 54)),)
    assert others == (DeviceUpdated("w1", Device("own", 0, 54), seen.device),)
    assert replay(topology(LINK), (*left, *others)) == topology(seen)


def test_a_link_that_was_remade_is_the_new_one_or_none() -> None:
    new = structs.replace(LINK, origin=Origin("userspace"), peers=())
    remade = [LinkRemoved(LINK), LinkAdded(new)]
    for seen in (topology(new), EMPTY):
        assert half_done(topology(LINK), seen, remade) == diff(topology(LINK), seen)
    half_made = structs.replace(new, settings=LinkSettings(1420, 54, up=False), device=Device(""))
    assert half_done(EMPTY, topology(half_made), remade[1:]) == (LinkAdded(half_made),)
    assert known_after_failures(LastKnown(), EMPTY, remade[1:]).leftover_links == {"w1": new}


def test_vrfs_and_rules_go_half_way_and_come_whole_or_not_at_all() -> None:
    both = Topology(vrfs={"vrf9": 9}, rules={RULE.name: RULE})
    gone = [VrfRemoved("vrf9", 9), RuleRemoved(RULE)]
    assert half_done(both, EMPTY, gone) == diff(both, EMPTY)
    assert half_done(both, both, gone) == ()
    # One that is there after it could not be made is somebody else's.
    made = [VrfAdded("vrf9", 9), RuleAdded(RULE)]
    assert half_done(EMPTY, both, made) == ()
    assert told_apart(EMPTY, both, made) == (diff(EMPTY, both), ())


def test_babeld_may_have_heard_what_it_gave_no_answer_to() -> None:
    known, told = Topology(babel={"w1": "a"}), Topology(babel={"w2": "b"})
    failed = [BabelInterfaceFlushed("w1", "a"), BabelInterfaceAdded("w2", "b")]
    assert half_done(known, told, failed) == diff(known, told)
    assert half_done(known, told, failed[:1]) == (failed[0],)

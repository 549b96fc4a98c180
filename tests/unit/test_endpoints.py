"""Which endpoint a peer gets, and what is remembered of those that are gone."""

from __future__ import annotations

import pytest
from msgspec import structs

from rait.domain.backend import Observation, ObservedLink
from rait.domain.endpoints import (
    Departed,
    assumed_last,
    depart,
    endpoint_views,
    is_fresh,
    is_stale,
    last_departed,
    last_endpoint,
)
from rait.domain.events import LinkAdded, LinkRemoved, PeerAdded, PeerRemoved, PeerUpdated
from rait.domain.topology import Device, Endpoint, Link, LinkPeer, LinkSettings, Origin, Topology

LAST = Endpoint("192.0.2.1", 50153)
WANTED = Endpoint("192.0.2.2", 50153)
OTHER_PORT = Endpoint("192.0.2.2", 50154)
ROAMED = Endpoint("198.51.100.1", 40000)
FAR = LinkPeer("far", LAST)
LINK = Link("w1", Origin("kernel"), LinkSettings(1420, 54), Device("own"), (FAR,))
GONE = {"w1": {"far": LAST}}


@pytest.mark.parametrize(
    ("handshake", "fresh"),
    [(0, False), (819, False), (820, True), (1000, True), (1180, True), (1181, False)],
)
def test_a_session_lives_for_three_minutes_by_whatever_clock(handshake: int, fresh: bool) -> None:
    assert is_fresh(1000, handshake) is fresh


@pytest.mark.parametrize(
    ("sent", "handshake", "stale"),
    [(0, 0, False), (0, 1, False), (1, 0, True), (148, 819, True), (148, 820, False)],
)
def test_who_sends_in_vain_may_have_another_address(sent: int, handshake: int, stale: bool) -> None:
    seen = ObservedLink(LINK, {"far": handshake}, sent={"far": sent})
    fine = ObservedLink(LINK, {"far": 1000}, sent={"far": 148})
    assert is_stale(Observation(links={"w1": seen, "w2": fine}, now=1000)) is stale


def test_no_handshake_is_no_session_where_the_clock_is_not_set_yet() -> None:
    assert not is_fresh(100, 0)
    unanswered = ObservedLink(LINK, sent={"far": 148})
    assert is_stale(Observation(links={"w1": unanswered}, now=100))


@pytest.mark.parametrize(
    ("seen", "wanted", "last", "fresh", "resolved", "views"),
    [
        # Nothing is wanted: what was last applied stays.
        (ROAMED, None, LAST, True, None, (LAST, LAST)),
        (None, None, None, False, None, (None, None)),
        # It is there already, whoever wrote it.
        (WANTED, WANTED, LAST, False, None, (WANTED, WANTED)),
        # A name that does not resolve changes nothing, and is tried where nothing is there.
        (ROAMED, WANTED, LAST, False, False, (LAST, LAST)),
        (None, WANTED, WANTED, False, False, (None, WANTED)),
        # What was learned by roaming stands while it works.
        (ROAMED, WANTED, WANTED, True, None, (WANTED, WANTED)),
        (ROAMED, WANTED, WANTED, False, None, (ROAMED, WANTED)),
        (None, WANTED, WANTED, True, None, (None, WANTED)),
        # Another address of a name is no reason to leave one that works, but another port is.
        (ROAMED, WANTED, LAST, True, True, (LAST, LAST)),
        (ROAMED, WANTED, None, True, True, (None, None)),
        (ROAMED, OTHER_PORT, LAST, True, True, (LAST, OTHER_PORT)),
        (ROAMED, WANTED, LAST, False, True, (ROAMED, WANTED)),
        (None, WANTED, LAST, True, True, (None, WANTED)),
        # An address that changed in the list is written at once.
        (ROAMED, WANTED, LAST, True, None, (LAST, WANTED)),
        (ROAMED, WANTED, LAST, False, None, (ROAMED, WANTED)),
    ],
)
def test_what_is_seen_and_what_is_to_be(
    seen: Endpoint | None,
    wanted: Endpoint | None,
    last: Endpoint | None,
    fresh: bool,
    resolved: bool | None,
    views: tuple[Endpoint | None, Endpoint | None],
) -> None:
    assert endpoint_views(seen, wanted, last, fresh=fresh, resolved=resolved) == views


@pytest.mark.parametrize(
    ("seen", "wanted", "resolved", "last"),
    [
        (ROAMED, None, None, ROAMED),
        (None, WANTED, None, None),
        (ROAMED, WANTED, None, WANTED),
        (LAST, WANTED, True, LAST),
        (LAST, OTHER_PORT, True, None),
        (LAST, WANTED, False, LAST),
    ],
)
def test_what_was_applied_to_a_peer_that_the_journal_does_not_know(
    seen: Endpoint | None, wanted: Endpoint | None, resolved: bool | None, last: Endpoint | None
) -> None:
    assert assumed_last(seen, wanted, resolved) == last


def test_the_last_endpoint_is_that_of_the_link_or_else_of_the_departed() -> None:
    there = Topology({"w1": LINK})
    older = {"w1": {"far": ROAMED}}
    assert last_endpoint("w1", "far", there, older) == LAST
    passive = structs.replace(LINK, peers=(LinkPeer("far"),))
    assert last_endpoint("w1", "far", Topology({"w1": passive}), older) == ROAMED
    assert last_endpoint("w1", "far", None, older) == ROAMED
    assert last_endpoint("w1", "other", there, older) is None
    assert last_endpoint("w2", "far", there, older) is None


def test_endpoints_of_what_goes_are_remembered() -> None:
    passive = structs.replace(FAR, endpoint=None)
    assert depart({}, [LinkRemoved(LINK)]) == GONE
    assert depart({}, [PeerRemoved("w1", FAR)]) == GONE
    assert depart({}, [PeerUpdated("w1", FAR, passive)]) == GONE
    assert depart({}, [PeerRemoved("w1", passive)]) == {"w1": {"far": None}}
    assert depart(GONE, [PeerRemoved("w1", passive)]) == GONE
    assert depart(GONE, [PeerRemoved("w1", LinkPeer("other", ROAMED))]) == {
        "w1": {"far": LAST, "other": ROAMED}
    }


def test_of_all_that_had_a_link_the_last_is_known() -> None:
    gone: Departed = {}
    assert last_departed("w1", gone) == ()
    for key in ("one", "other", "one"):
        gone = depart(gone, [PeerRemoved("w1", LinkPeer(key))])
        assert last_departed("w1", gone) == (key,)
    assert last_departed("w2", gone) == ()


def test_and_forgotten_when_the_topology_has_them_again() -> None:
    passive = structs.replace(FAR, endpoint=None)
    both = {"w1": {"far": LAST, "other": ROAMED}}
    assert depart(GONE, [LinkAdded(LINK)]) == {}
    assert depart(both, [LinkAdded(LINK)]) == {"w1": {"other": ROAMED}}
    assert depart(GONE, [LinkAdded(structs.replace(LINK, peers=(passive,)))]) == GONE
    assert depart(GONE, [LinkAdded(structs.replace(LINK, peers=())), PeerAdded("w1", FAR)]) == {}
    assert depart(GONE, [PeerAdded("w1", passive)]) == GONE
    assert depart(GONE, [PeerUpdated("w1", passive, FAR)]) == {}
    assert depart(GONE, [PeerAdded("w2", FAR)]) == GONE


def test_no_link_remembers_any_number_of_peers() -> None:
    events = [
        PeerRemoved("w1", LinkPeer(f"key {number}", Endpoint("192.0.2.1", 1)))
        for number in range(1000)
    ]
    left = depart({}, events)["w1"]
    assert len(left) <= 16
    assert "key 999" in left
    assert len(depart({}, events[:16])["w1"]) == 16
    assert depart({}, events[:17])["w1"].keys() == {"key 16"}, "it begins anew"

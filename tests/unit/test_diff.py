"""The order of events, where order matters."""

from __future__ import annotations

from rait.domain.diff import diff
from rait.domain.events import DeviceUpdated, LinkAdded, LinkRemoved, PeerUpdated
from rait.domain.topology import (
    EMPTY,
    Device,
    Endpoint,
    Link,
    LinkPeer,
    LinkSettings,
    Origin,
    Topology,
)


def link(name: str, port: int, transit: str = "here", peer: str = "peer") -> Link:
    return Link(
        name,
        Origin("kernel", "raitns", transit),
        LinkSettings(1420, 54),
        Device("own", port),
        (LinkPeer(peer, Endpoint("192.0.2.1", 50153)),),
    )


def topology(**links: Link) -> Topology:
    return Topology(links)


def on_ports(**ports: int) -> Topology:
    return Topology({name: link(name, port) for name, port in ports.items()})


def moves(before: Topology, after: Topology) -> list[tuple[str, int, int]]:
    """Each port change as (link, from, to); nothing else may happen."""
    events = diff(before, after)
    assert all(isinstance(event, DeviceUpdated) for event in events)
    return [(e.name, e.before.listen_port, e.after.listen_port) for e in events]


def test_a_link_is_made_with_its_peers() -> None:
    whole = link("a", 1)
    assert whole.peers
    assert diff(EMPTY, topology(a=whole)) == (LinkAdded(whole),)


def test_a_port_is_let_go_before_another_link_takes_it() -> None:
    assert moves(on_ports(a=1, b=2, c=3), on_ports(a=2, b=3, c=4)) == [
        ("c", 3, 4),
        ("b", 2, 3),
        ("a", 1, 2),
    ]


def test_two_links_swap_ports_by_way_of_a_third() -> None:
    assert moves(on_ports(a=1, b=2), on_ports(a=2, b=1)) == [
        ("a", 1, 0),
        ("b", 2, 1),
        ("a", 0, 2),
    ]


def test_a_circle_of_three_ports_is_broken_once() -> None:
    found = moves(on_ports(a=1, b=2, c=3), on_ports(a=2, b=3, c=1))
    assert found == [("a", 1, 0), ("c", 3, 1), ("b", 2, 3), ("a", 0, 2)]


def test_two_links_that_want_one_port_are_both_told_and_the_machine_shall_say_no() -> None:
    before, after = on_ports(a=1, b=2, c=3), on_ports(a=3, b=3, c=4)
    assert sorted(moves(before, after)) == [("a", 1, 3), ("b", 2, 3), ("c", 3, 4)]


def test_a_removed_link_gives_its_port_to_a_new_one() -> None:
    before, after = topology(a=link("a", 1)), topology(b=link("b", 1))
    kinds = [(type(event), event.name) for event in diff(before, after)]
    assert kinds == [(LinkRemoved, "a"), (LinkAdded, "b")]


def test_links_with_a_port_of_the_kernels_choice_are_made_last() -> None:
    """Or the kernel might choose the very port that the next link is to listen on."""
    events = diff(EMPTY, on_ports(a=0, b=2, c=0, d=1))
    assert [e.name for e in events if isinstance(e, LinkAdded)] == ["b", "d", "a", "c"]


def test_a_changed_transit_namespace_makes_the_link_again() -> None:
    """A WireGuard socket stays for ever in the namespace in which the link was made."""
    old, new = link("a", 1, transit="here"), link("a", 1, transit="there")
    assert diff(topology(a=old), topology(a=new)) == (
        LinkRemoved(old),
        LinkAdded(new),
    )


def test_a_changed_endpoint_is_one_event_and_other_links_have_none() -> None:
    before = on_ports(a=1, b=2)
    peer = LinkPeer("peer", Endpoint("192.0.2.9", 50153))
    old = before.links["a"]
    changed = Link("a", old.origin, old.settings, old.device, (peer,))
    after = Topology({**before.links, "a": changed})
    assert diff(before, after) == (PeerUpdated("a", old.peers[0], peer),)


def test_another_peer_on_a_link_takes_the_place_of_the_former() -> None:
    before, after = topology(a=link("a", 1)), topology(a=link("a", 1, peer="other"))
    assert [type(event).__name__ for event in diff(before, after)] == ["PeerRemoved", "PeerAdded"]

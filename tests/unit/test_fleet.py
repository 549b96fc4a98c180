"""What a change of the registry does to nodes and to pairs of nodes."""

from __future__ import annotations

import base64

import pytest
from msgspec import structs

from rait.domain import fleet
from rait.domain.config.schema import Config, Isolation, Match, Peer, PeerEndpoint, Policy
from rait.domain.errors import SourceError
from rait.domain.events import LinkAdded, LinkRemoved, PeerUpdated
from rait.domain.fleet import FleetChange, fleet_change, split
from rait.domain.fleet_nodes import end_of, fleet_of, implied_config
from rait.domain.topology import Device, Family, Link, LinkPeer, LinkSettings, Origin
from rait.domain.vrf import FAMILIES


def key(number: int) -> str:
    return base64.b64encode(bytes([number]) * 32).decode()


def peer(
    number: int, *, port: int | None = None, address: str | None = "", k: int | None = None
) -> Peer:
    where = f"192.0.2.{number}" if address == "" else address
    return Peer(
        public_key=key(number if k is None else k),
        name=f"n{number}",
        endpoints=(
            PeerEndpoint(address_family="ip4", send_port=port or 50000 + number, address=where),
        ),
    )


def change(old: list[Peer], new: list[Peer]) -> FleetChange:
    return fleet_change(fleet_of(old), fleet_of(new))


def outcomes(found: FleetChange) -> dict[tuple[str, str], str]:
    return {pair.nodes: pair.outcome for pair in found.pairs}


A, B, C = peer(1), peer(2), peer(3)
NAT = peer(2, address=None)
AWAY = peer(1, address="198.51.100.1")


def test_an_entry_implies_a_transport_for_each_family() -> None:
    both = structs.replace(
        A, endpoints=tuple(structs.replace(A.endpoints[0], address_family=f) for f in FAMILIES)
    )
    transports = implied_config(both).transports
    assert [t.link_name(50002) for t in transports] == ["rait4x50002", "rait6x50002"]
    assert {t.mtu for t in transports} == {1420}


def test_nothing_changes_nothing_whatever_the_order_of_the_entries() -> None:
    found = change([A, B, C], [C, A, B])
    assert (found.nodes, found.kept, found.pairs, found.node_changes) == (3, 3, (), ())


def test_a_change_of_too_many_pairs_is_refused_before_it_takes_all_memory(monkeypatch) -> None:
    monkeypatch.setattr(fleet, "MOST_PAIRS", 3)
    several = [peer(number) for number in range(1, 6)]
    assert len(change(several[:3], several[:4]).pairs) == 3, "those of the node that came"
    with pytest.raises(SourceError, match="is of 4 pairs of nodes, and rait judges 3 at the most"):
        change(several[:4], several)


def test_a_node_that_comes_or_goes_makes_or_removes_its_pairs_alone() -> None:
    came = change([A, B], [A, B, C])
    assert outcomes(came) == {("n3", "n1"): "made", ("n3", "n2"): "made"}
    assert came.kept == 1
    assert {n.name: [type(e) for e in n.events] for n in came.node_changes} == {
        "n1": [LinkAdded],
        "n2": [LinkAdded],
        "n3": [LinkAdded, LinkAdded],
    }
    went = change([A, B, C], [A, B])
    assert outcomes(went) == {("n3", "n1"): "removed", ("n3", "n2"): "removed"}
    assert {n.name: n.public_key for n in went.node_changes} == {
        "n1": key(1),
        "n2": key(2),
        "n3": key(3),
    }
    assert [pair.reasons for pair in (*came.pairs, *went.pairs)] == [{}] * 4, "nothing is broken"


def test_one_node_that_renumbers_interrupts_nobody_who_can_be_reached() -> None:
    found = change([A, B, C], [peer(1, port=50009), B, C])
    assert set(outcomes(found).values()) == {"remade"}
    assert found.pairs[0].grades == ("at once", *["once one end sends"] * 3)
    assert found.order == ()
    (own,) = [node for node in found.node_changes if node.name == "n1"]
    assert [type(event) for event in own.events] == [PeerUpdated, PeerUpdated]


def test_a_pair_is_remade_whichever_of_its_nodes_makes_its_link_again() -> None:
    noted = structs.replace(A, remarks=(("site", "x"),))
    assert outcomes(change([A, B], [noted, peer(2, port=50009)])) == {("n1", "n2"): "remade"}
    assert outcomes(change([B, A], [peer(2, port=50009), noted])) == {("n2", "n1"): "remade"}


def test_two_nodes_that_renumber_at_once_cannot_find_each_other_until_both_have() -> None:
    found = change([A, B], [peer(1, port=50009), peer(2, port=50008)])
    assert outcomes(found) == {("n1", "n2"): "interrupted"}
    assert found.order is None


def test_a_node_behind_nat_that_renumbers_is_cut_off_until_both_ends_have_synced() -> None:
    found = change([peer(1, address=None), B], [peer(1, port=50009, address=None), B])
    assert outcomes(found) == {("n1", "n2"): "interrupted"}
    assert found.pairs[0].grades[1:3] == ("never", "never")
    assert "n2 has no address of n1" in found.pairs[0].reasons["new/old"]
    assert found.order is None


def test_a_new_key_breaks_each_pair_until_both_ends_have_synced() -> None:
    found = change([A, B, C], [peer(1, k=9), B, C])
    assert outcomes(found) == {("n1", "n2"): "interrupted", ("n1", "n3"): "interrupted"}
    assert found.kept == 1
    assert "n2 has another key of n1" in found.pairs[0].reasons["new/old"]


def test_both_ends_of_a_tunnel_begin_anew_after_a_new_key() -> None:
    """Both have lost their session, so whichever of them sends shakes hands at once."""
    (pair, _) = change([A, B, C], [peer(1, k=9), B, C]).pairs
    assert pair.grades == ("at once", "never", "never", "at once")


def test_a_node_that_marks_its_packets_anew_changes_its_tunnels_and_ends_no_session() -> None:
    config = implied_config(A)
    marked = structs.replace(
        config, transports=tuple(structs.replace(t, fwmark=7) for t in config.transports)
    )
    old, new = (fleet_of([A, B], {A.public_key: each}) for each in (config, marked))
    (pair,) = fleet_change(old, new).pairs
    assert (pair.outcome, pair.grades) == ("changed", ("at once",) * 4)


def test_a_host_name_in_one_family_is_no_address_in_the_other() -> None:
    """A has its name in IPv6 alone from now on: who sends to it over IPv4 does not reach it."""
    both = [
        PeerEndpoint(address_family=family, send_port=50001 + at, address=f"{at}.example")
        for at, family in enumerate(FAMILIES)
    ]
    turned = [structs.replace(e, address=f"{1 - at}.example") for at, e in enumerate(both)]
    before, after = (structs.replace(A, endpoints=tuple(each)) for each in (both, turned))
    (pair,) = change([before, NAT], [after, NAT]).pairs
    assert pair.grades[1:3] == ("never", "never")


@pytest.mark.parametrize(
    ("old", "new", "reasons"),
    [
        ([A, B], [peer(1, k=9), B], ["n2 has another key of n1"] * 2),
        (
            [A, B],
            [AWAY, peer(2, address="198.51.100.2")],
            [
                "n1 sends to 192.0.2.2, where n2 is not; n2 sends to 198.51.100.1, where n1 is not",
                "n1 sends to 198.51.100.2, where n2 is not; n2 sends to 192.0.2.1, where n1 is not",
            ],
        ),
        (
            [A, NAT],
            [AWAY, NAT],
            [
                "n1 has no address of n2; n2 sends to 198.51.100.1, where n1 is not",
                "n1 has no address of n2; n2 sends to 192.0.2.1, where n1 is not",
            ],
        ),
        (
            [A, B],
            [peer(1, port=50009), peer(2, port=50008)],
            [
                "n1 sends to port 50001 of n2, which listens for it on port 50009; "
                "n2 sends to port 50008 of n1, which listens for it on port 50002",
                "n1 sends to port 50009 of n2, which listens for it on port 50001; "
                "n2 sends to port 50002 of n1, which listens for it on port 50008",
            ],
        ),
    ],
)
def test_why_a_pair_is_broken_until_both_nodes_have_synced(
    old: list[Peer], new: list[Peer], reasons: list[str]
) -> None:
    (pair,) = change(old, new).pairs
    assert pair.reasons == dict(zip(("old/new", "new/old"), reasons, strict=True))


def test_who_listens_on_a_port_of_the_kernels_choice_is_found_by_nobody() -> None:
    config = implied_config(B)
    dynamic = tuple(structs.replace(t, dynamic_port=True) for t in config.transports)
    known = {B.public_key: structs.replace(config, transports=dynamic)}
    old, new = fleet_of([A, B]), fleet_of([peer(1, address=None), B], known)
    (reason,) = fleet_change(old, new).pairs[0].reasons.values()
    assert reason.startswith(
        "n1 sends to port 50001 of n2, which listens for it on a port of the kernel's choice"
    )


def test_of_two_nodes_with_one_port_the_newcomer_gets_no_link_at_third_nodes() -> None:
    found = change([A, B, C], [B, C, peer(1, port=50002)])
    assert outcomes(found)[("n1", "n3")] == "interrupted"
    assert found.pairs[-1].grades[-1] == "never"


@pytest.mark.parametrize("addresses", [("192.0.2.1", "198.51.100.1"), ("a.example", "b.example")])
def test_an_address_that_moves_is_found_again_by_the_node_that_moved(
    addresses: tuple[str, str],
) -> None:
    before, after = (peer(1, address=address) for address in addresses)
    found = change([before, B], [after, B])
    assert found.pairs[0].grades == (
        "at once",
        "once one end sends",
        "once one end sends",
        "at once",
    )
    assert outcomes(found) == {("n1", "n2"): "changed"}


def test_a_node_without_an_address_has_to_sync_after_a_node_that_moved_has() -> None:
    """B alone knows where A is, so A can only be found by its new address once B knows it."""
    nat = peer(2, address=None)
    found = change([A, nat], [peer(1, address="198.51.100.1"), nat])
    assert found.pairs[0].grades[1:3] == ("never", "never")
    assert found.order is None


def test_who_loses_its_address_syncs_after_who_moved() -> None:
    """A node without an address finds others by theirs, and nobody finds it."""
    moved = peer(2, address="198.51.100.2")
    for without, turns in ((1, (("n2",), ("n1",))), (3, (("n2",), ("n3",)))):
        new = [A, moved, C]
        new[without - 1] = peer(without, address=None)
        found = change([A, B, C], new)
        assert found.order == turns
        assert len(found.interrupted) == 1


def test_a_registry_that_is_cut_short_removes_all_pairs_of_those_that_are_missing() -> None:
    found = change([A, B, C], [A])
    assert set(outcomes(found).values()) == {"removed"}
    assert len(found.pairs) == 3


def test_one_new_entry_is_no_more_than_one_of_two_that_had_its_name() -> None:
    """Before the one was removed, and the other got another key."""
    same = [structs.replace(each, name="same") for each in (A, B, peer(3, k=9))]
    assert change(same[:2], same[2:]).nodes == 2


def test_a_policy_of_a_node_counts() -> None:
    config = implied_config(B)
    skipping: Config = structs.replace(config, policies=(Policy(skip=True),))
    old = fleet_of([A, B])
    found = fleet_change(old, fleet_of([A, B], {B.public_key: skipping}))
    assert outcomes(found) == {("n2", "n1"): "interrupted"}, "A still has a link to B"
    (node,) = found.node_changes
    assert [type(event) for event in node.events] == [LinkRemoved]


def test_a_prefix_that_begins_as_another_one_does_is_told_apart() -> None:
    both = structs.replace(
        B, endpoints=tuple(structs.replace(B.endpoints[0], address_family=f) for f in FAMILIES)
    )
    config = implied_config(both)
    ip6, ip4 = (
        structs.replace(t, ifprefix=prefix, dynamic_port=True)
        for t, prefix in zip(reversed(config.transports), ("r", "r4x"), strict=True)
    )
    (member,) = fleet_of([both], {B.public_key: structs.replace(config, transports=(ip6, ip4))})
    for transport in (ip6, ip4):
        link = Link(
            transport.link_name(50001), Origin("kernel"), LinkSettings(1420, 54), Device("own")
        )
        end = end_of(structs.replace(link, peers=(LinkPeer("far"),)), member, fresh=False)
        assert end.family == transport.address_family


def test_a_vrf_that_is_there_is_not_made_again() -> None:
    vrf = Isolation(type="vrf", target="vrf0", table=7)
    configs = {B.public_key: structs.replace(implied_config(B), isolation=vrf)}
    found = fleet_change(fleet_of([A, B], configs), fleet_of([peer(1, port=50009), B], configs))
    (node,) = [node for node in found.node_changes if node.name == "n2"]
    assert [type(event) for event in node.events] == [LinkRemoved, LinkAdded]
    found = fleet_change(fleet_of([A], configs), fleet_of([A, B], configs))
    (node,) = [node for node in found.node_changes if node.name == "n2"]
    assert node.count == len(node.events) > 1, "it makes its VRF, which is of no peer, and a link"


def test_the_nodes_that_their_guard_would_stop_are_known() -> None:
    peers = [peer(number) for number in range(1, 8)]
    found = change(peers, peers[:2])
    stops = {node.name: (node.lost, node.links, node.stops) for node in found.node_changes}
    assert stops["n1"] == (5, 6, True)
    renumbered = change(peers, [peer(1, port=50009), *peers[1:]])
    far = {node.name: (node.lost, node.links, node.stops) for node in renumbered.node_changes}
    assert far["n2"] == (1, 6, False), "a node that plans in part knows how many links it has"
    assert far["n1"] == (0, 6, False)


@pytest.mark.parametrize(("left", "stops"), [(4, False), (3, True)])
def test_a_guard_lets_half_of_the_links_go_and_no_more(left: int, stops: bool) -> None:
    peers = [peer(number) for number in range(1, 8)]
    (first, *_) = change(peers, peers[:left]).node_changes
    assert (first.lost, first.links, first.stops) == (7 - left, 6, stops)


@pytest.mark.parametrize(
    "setting",
    [
        {"policies": (Policy(match=Match(name=("n3",)), skip=True),)},
        {"port_range": ((50001, 50002), (50004, 50007))},
    ],
)
def test_links_that_a_known_rait_conf_refuses_do_not_count(setting: dict[str, object]) -> None:
    peers = [peer(number) for number in range(1, 8)]
    known = {B.public_key: structs.replace(implied_config(B), **setting)}
    new = [peer(1, address="198.51.100.1"), *peers[1:]]
    found = fleet_change(fleet_of(peers, known), fleet_of(new, known))
    links = {node.name: node.links for node in found.node_changes}
    assert (links["n2"], links["n4"]) == (5, 6)


def test_the_limit_of_a_node_whose_rait_conf_is_known_is_its_own() -> None:
    strict = {B.public_key: structs.replace(implied_config(B), max_removals=0)}
    found = fleet_change(fleet_of([A, B, C], strict), fleet_of([A, B], strict))
    assert {node.name: node.stops for node in found.node_changes} == {
        "n1": False,
        "n2": True,
        "n3": False,
    }


def test_events_are_counted_where_links_go_from_one_node_to_another() -> None:
    """Also at a node that gets another key, whose links that stay have an event for it."""
    shifted = [peer(number, port=50001 + number) for number in range(2, 6)]
    found = change([peer(number) for number in range(1, 6)], [peer(1, k=9), *shifted])
    assert len(found.node_changes) == 5
    for node in found.node_changes:
        assert len(node.events) == node.count
    (own,) = [node for node in found.node_changes if node.name == "n1"]
    assert (own.count, own.lost) == (2 + 3 * 3, 4)


@pytest.mark.parametrize("others", [[], [peer(6), peer(7)]])
def test_what_many_nodes_do_that_are_alike_is_counted_for_each(others: list[Peer]) -> None:
    """Five renumber, and two go or stay as they are."""
    old = [peer(number) for number in range(1, 8)]
    new = [*(peer(number, port=51000 + number) for number in range(1, 6)), *others]
    for node in change(old, new).node_changes:
        assert (len(node.events), node.links) == (node.count, 6)


def test_a_node_that_lists_one_port_twice_has_no_link_to_itself() -> None:
    """It is not near the change, so it plans in part, and its other links are counted."""
    twice = structs.replace(B, endpoints=B.endpoints * 2)
    found = change([A, twice, C], [AWAY, twice, C])
    assert {node.name: node.links for node in found.node_changes} == {"n2": 2, "n3": 2}


def test_a_rait_conf_that_disagrees_with_the_list_is_told_with_the_ports_of_each_node() -> None:
    old = [peer(number) for number in range(1, 5)]
    new = [peer(number, port=50020 + number) for number in range(1, 5)]
    wrong = {p.public_key: implied_config(peer(n, port=50010 + n)) for n, p in enumerate(old, 1)}
    found = fleet_change(fleet_of(old), fleet_of(new, wrong))
    assert len(found.interrupted) == 6
    for pair in found.interrupted:
        one, other = (name[1:] for name in pair.nodes)
        assert (
            f"n{one} sends to port 5001{one} of n{other}, which listens for it on port 5002{one}"
            in pair.reasons["new/new"]
        )


@pytest.mark.parametrize("changed", [4, 7])
def test_as_many_events_are_found_as_are_asked_for(changed: int) -> None:
    """Also of one of the first nodes, which has no link to itself."""
    old = [peer(number) for number in range(1, 8)]
    moved = [peer(number, address=f"198.51.100.{number}") for number in range(1, changed + 1)]
    for node in change(old, [*moved, *old[changed:]]).node_changes:
        for number in range(1, 8):
            some = node.some(number)
            assert len(some) == min(number, node.count)
            assert set(some) <= set(node.events)


def steps(old: list[Peer], new: list[Peer]) -> list[str]:
    found = split(fleet_of(old), fleet_of(new))
    return [line for step in found or () for line in step]


def test_two_nodes_that_renumber_do_so_one_after_the_other() -> None:
    assert steps([A, B, C], [peer(1, port=50009), peer(2, port=50008), C]) == [
        "change n1 alone, and wait until all nodes have synced",
        "change n2 alone, and wait until all nodes have synced",
    ]


def dual(number: int, *endpoints: tuple[Family, int, str | None]) -> Peer:
    return structs.replace(
        peer(number),
        endpoints=tuple(
            PeerEndpoint(address_family=family, send_port=port, address=at)
            for family, port, at in endpoints
        ),
    )


def test_a_change_that_has_an_order_of_its_own_may_be_a_turn() -> None:
    one = dual(1, ("ip4", 50001, None), ("ip6", 50001, "2001:db8::1"))
    two = dual(2, ("ip4", 50002, "198.51.100.2"), ("ip6", 50001, None))
    then = dual(1, ("ip4", 50011, "198.51.100.1"), ("ip6", 50002, "2001:db8::1"))
    moved = dual(2, ("ip4", 50002, "192.0.2.2"))
    assert change([one, two], [then, moved]).order is None
    turns = [change([one, two], [then, two]).order, change([then, two], [then, moved]).order]
    assert None not in turns
    assert turns != [(), ()]
    assert [line.split(",")[0] for line in steps([one, two], [then, moved])] == [
        "change n1 alone",
        "change n2 alone",
    ]


def test_a_node_gets_the_port_of_one_that_goes_once_that_is_gone() -> None:
    assert steps([A, B, C], [peer(1, port=50003), B]) == [
        "change n3 alone, and wait until all nodes have synced",
        "change n1 alone, and wait until all nodes have synced",
    ]


def test_what_one_node_does_is_not_split_and_no_more_than_eight_are_tried() -> None:
    old = [peer(number) for number in range(1, 10)]
    new = [peer(number, port=51000 + number) for number in range(1, 10)]
    found = [len(steps(old, [*new[:count], *old[count:]])) for count in (1, 2, 8, 9)]
    assert found == [0, 2, 8, 0]


def test_a_new_key_with_a_new_port_stands_beside_the_old_one_for_a_while() -> None:
    first, last = steps([A, B, C], [peer(1, k=9, port=50009), B, C])
    assert first == "add the new entry of n1 beside the old one"
    assert last.endswith("remove the old entries")


def test_a_new_key_with_the_old_port_cannot_stand_beside_the_old_one() -> None:
    """No node would have a link to the second entry of one SendPort."""
    assert steps([A, B, C], [peer(1, k=9), B, C]) == []


def test_a_new_key_on_the_port_of_another_node_cannot_stand_beside_the_old_one() -> None:
    """That node has a tunnel to it, and no third one has."""
    assert steps([A, B, C], [peer(1, k=9, port=50002), B, C]) == []


def test_a_node_that_keeps_its_key_cannot_stand_beside_itself() -> None:
    away = peer(1, address=None)
    assert steps([away, B], [peer(1, port=50009, address=None), B]) == []


def test_a_node_that_comes_is_a_step_of_its_own() -> None:
    assert steps([A, B], [peer(1, port=50009), B, peer(3, port=50001)]) == [
        "change n1 alone, and wait until all nodes have synced",
        "change n3 alone, and wait until all nodes have synced",
    ]

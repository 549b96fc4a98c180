"""Which nodes of a fleet stand for others."""

from __future__ import annotations

from collections.abc import Sequence

from msgspec import structs

from rait.domain.alike import grouped, like, like_pair, standing_for, weight, with_those_beside
from rait.domain.config.schema import Config, Peer, PeerEndpoint
from rait.domain.fleet_nodes import FleetNode, fleet_of, implied_config, matched


def peer(number: int, port: int = 0, address: str | None = "", name: str | None = None) -> Peer:
    where = f"192.0.2.{number}" if address == "" else address
    endpoint = PeerEndpoint(address_family="ip4", send_port=port or 50000 + number, address=where)
    return Peer(public_key=f"key{number}", name=name, endpoints=(endpoint,))


def nodes_of(
    old: Sequence[Peer], new: Sequence[Peer] | None = None, config: dict[str, Config] | None = None
) -> list[FleetNode]:
    both = old, old if new is None else new
    nodes = matched(*(fleet_of(peers, config) for peers in both))
    grouped(nodes, dict(zip(("old", "new"), both, strict=True)))
    return nodes


PEERS = [peer(number) for number in range(1, 9)]


def test_two_nodes_stand_for_all_that_differ_in_keys_ports_and_addresses_alone() -> None:
    for new in (PEERS, [structs.replace(each, public_key=each.public_key + "b") for each in PEERS]):
        nodes = nodes_of(PEERS, new)
        assert len(standing_for(node.group for node in nodes)) == 2
        assert {like(node) for node in nodes} == {nodes[0]}
        assert like_pair(nodes[6], nodes[7]) == (nodes[0], nodes[1])


def test_names_are_alike_and_to_have_none_is_not() -> None:
    nodes = nodes_of([*(peer(number, name=f"n{number}") for number in range(1, 9)), peer(9)])
    assert {like(node) for node in nodes} == {nodes[0], nodes[8]}


def test_ports_that_go_from_node_to_node_tie_no_nodes_together() -> None:
    shifted = [peer(number, 50001 + number, f"192.0.2.{number}") for number in range(1, 9)]
    nodes = nodes_of(PEERS, shifted)
    assert standing_for(node.group for node in nodes) == [nodes[0].group, nodes[1].group]
    assert len(with_those_beside([nodes[0].group])) == len(PEERS)
    rekeyed = [structs.replace(shifted[0], public_key="another"), *shifted[1:]]
    named = [[structs.replace(p, name=str(n)) for n, p in enumerate(v)] for v in (PEERS, rekeyed)]
    assert len({node.group for node in nodes_of(*named)}) == 1


def test_nodes_with_one_port_or_name_are_of_one_group_and_stand_for_such_groups_alone() -> None:
    nodes = nodes_of([*PEERS, peer(9, port=50001), peer(10, name="x"), peer(11, name="x")])
    one, other, of_one_name = nodes[0], nodes[8], nodes[9:]
    assert one.group is other.group
    assert of_one_name[0].group is of_one_name[1].group
    assert like(nodes[1]) is nodes[1]
    assert like_pair(one, other) == (one, other)


def test_each_node_is_of_one_group_and_no_group_is_without_nodes() -> None:
    peers = [*PEERS, peer(9, port=50001)]
    nodes = matched(fleet_of(peers, None), fleet_of(peers, None))
    groups = grouped(nodes, {"old": peers, "new": peers})
    assert sorted(len(group.nodes) for group in groups) == [*[1] * (len(PEERS) - 1), 2]


def test_groups_that_stand_for_others_have_the_weight_of_all_nodes() -> None:
    nodes = nodes_of([*PEERS, peer(9, port=50001), peer(10, name="x"), peer(11, name="x")])
    standing = standing_for(node.group for node in nodes)
    for node in map(like, nodes):
        assert sum(weight(node, group) * len(group.nodes) for group in standing) == len(nodes)


def test_a_node_that_changes_in_what_no_link_shows_is_not_like_one_that_does_not() -> None:
    """The one plans the whole registry, and the other a part of it."""
    (one, other, *_) = nodes_of(
        PEERS, [structs.replace(PEERS[0], remarks=(("a", "b"),)), *PEERS[1:]]
    )
    assert one.group.is_near
    assert like(other) is other


def test_a_host_name_in_capital_letters_is_the_same_host() -> None:
    """Of two entries with one port and one host, each is taken for an entry of the other node."""
    same = [peer(1, 50001, "n.example.org"), peer(2, 50001, "N.example.org")]
    apart = [peer(3, 50003, "n3.example.org"), peer(4, 50003, "n4.example.org")]
    nodes = nodes_of([*same, *apart])
    assert like(nodes[2]) is nodes[2]


def test_a_node_whose_configuration_is_known_stands_for_itself_alone() -> None:
    known = {PEERS[3].public_key: implied_config(PEERS[3])}
    nodes = nodes_of(PEERS, config=known)
    assert like(nodes[3]) is nodes[3]
    assert like(nodes[4]) is nodes[0]
    assert like_pair(nodes[4], nodes[3]) == (nodes[4], nodes[3])

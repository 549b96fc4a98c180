"""Which nodes of a fleet stand for others."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import pytest
from msgspec import structs

from rait.domain.alike import grouped, like, like_pair, standing_for, weight, with_those_beside
from rait.domain.config.schema import Config, Isolation, Match, Peer, PeerEndpoint, Policy
from rait.domain.fleet_nodes import FleetNode, fleet_of, implied_config, matched


def peer(number: int, port: int = 0, address: str | None = "", name: str | None = None) -> Peer:
    where = f"192.0.2.{number}" if address == "" else address
    endpoint = PeerEndpoint(address_family="ip4", send_port=port or 50000 + number, address=where)
    return Peer(public_key=f"key{number}", name=name, endpoints=(endpoint,))


def nodes_of(
    old: Sequence[Peer], new: Sequence[Peer] | None = None, *configs: dict[str, Config]
) -> list[FleetNode]:
    """``configs`` are for both versions, or for the old and the new one."""
    both = old, old if new is None else new
    first, last = (configs[0], configs[-1]) if configs else ({}, {})
    nodes = matched(*map(fleet_of, both, (first, last)))
    grouped(nodes, dict(zip(("old", "new"), both, strict=True)))
    return nodes


PEERS = [peer(number) for number in range(1, 9)]
SHIFTED = [peer(number, 50001 + number, f"192.0.2.{number}") for number in range(1, 9)]


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
    nodes = nodes_of(PEERS, SHIFTED)
    assert standing_for(node.group for node in nodes) == [nodes[0].group, nodes[1].group]
    assert len(with_those_beside([nodes[0].group])) == len(PEERS)
    rekeyed = [structs.replace(SHIFTED[0], public_key="another"), *SHIFTED[1:]]
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


def known(peers: Iterable[Peer], **settings: object) -> dict[str, Config]:
    """The rait.conf of each of these, which has these settings, of all transports or its own."""
    found = {}
    for each in peers:
        config = implied_config(each)
        at = {k: v for k, v in settings.items() if k in config.transports[0].__struct_fields__}
        transports = tuple(structs.replace(t, **at) for t in config.transports)
        rest = {k: v for k, v in settings.items() if k not in at}
        found[each.public_key] = structs.replace(config, transports=transports, **rest)
    return found


def test_nodes_whose_rait_conf_are_of_one_template_are_alike() -> None:
    configs = known(PEERS, ifprefix="own", mtu=1300)
    for number, (key, config) in enumerate(configs.items()):
        (transport,) = config.transports
        configs[key] = structs.replace(
            config,
            private_key_file=f"{number}.key",
            remarks={"number": str(number)},
            transports=(structs.replace(transport, bind_addr=f"192.0.2.{number}"),),
        )
    nodes = nodes_of(PEERS, None, configs)
    assert {like(node) for node in nodes} == {nodes[0]}
    assert standing_for(node.group for node in nodes) == [nodes[0].group, nodes[1].group]


@pytest.mark.parametrize(
    "setting",
    [
        {"mtu": 1300},
        {"ifprefix": "other"},
        {"dynamic_port": True},
        {"address": None},
        {"isolation": Isolation(ifgroup=7)},
        {"isolation": Isolation(type="vrf", target="vrf0", table=7)},
        {"port_range": ((50001, 50008),)},
        {"max_removals": 0},
        {"policies": (Policy(keepalive=25),)},
    ],
)
def test_a_node_with_another_rait_conf_is_like_those_that_have_the_same(
    setting: dict[str, object],
) -> None:
    nodes = nodes_of(PEERS, None, known(PEERS[:5]) | known(PEERS[3:5], **setting))
    assert [like(node) for node in nodes] == [*[nodes[0]] * 3, *[nodes[3]] * 2, *[nodes[5]] * 3]
    assert like_pair(nodes[2], nodes[4]) == (nodes[0], nodes[3])
    assert like_pair(nodes[2], nodes[1]) == (nodes[0], nodes[1])


NAMED = [structs.replace(each, name=f"n{at}") for at, each in enumerate(PEERS)]
NOTED = [structs.replace(p, remarks=(("id", str(6 + (at == 5))),)) for at, p in enumerate(NAMED)]


@pytest.mark.parametrize(
    "setting",
    [
        {"policies": (Policy(match=Match(name=("*5",)), skip=True),)},
        {"policies": (Policy(match=Match(public_key=("key6",)), skip=True),)},
        {"policies": (Policy(match=Match(remarks={"id": ("7",)}), mtu=1300),)},
        {"port_range": ((50001, 50005), (50007, 50008))},
        {"isolation": Isolation(type="vrf", target="rait4x50006", table=7)},
    ],
)
def test_a_node_of_which_one_configuration_makes_something_else_is_like_no_other(
    setting: dict[str, object],
) -> None:
    nodes = nodes_of(NOTED, None, known(NOTED[:1], **setting))
    assert [like(nodes[at]) for at in (1, 3, 5, 7)] == [nodes[at] for at in (1, 1, 5, 1)]


@pytest.mark.parametrize(
    ("policies", "first"),
    [
        ((), 0),
        ((Policy(addresses=("10.0.0.{remarks.id}/24",)),), 5),
        ((Policy(up_command=("hook",)),), 5),
    ],
)
def test_what_policies_make_of_remarks_changes_with_them(
    policies: tuple[Policy, ...], first: int
) -> None:
    """Those of one node stay, whose rait.conf changes in what no link shows."""
    changed = [structs.replace(p, remarks=(("id", "7"),)) for p in NOTED]
    both = known(NOTED, policies=policies), known(NOTED, policies=policies, journal="another")
    nodes = nodes_of(NOTED, changed, *both)
    assert [like(nodes[at]) for at in (0, 4, 5, 7)] == [nodes[at] for at in (0, 0, first, 0)]


def test_a_rait_conf_with_the_port_or_name_of_another_node_ties_the_two_together() -> None:
    for settings in ({"send_port": 50006}, {"name": "n5"}):
        nodes = nodes_of(NAMED, None, known(NAMED[:1], **settings))
        assert nodes[0].group is nodes[5].group
        assert like(nodes[2]) is nodes[1]


def test_whom_a_node_takes_for_itself_by_the_name_in_its_rait_conf_counts() -> None:
    """In two groups of two nodes with one SendPort each."""
    peers = [peer(number, 50001 + number // 2, f"h{number}", f"n{number}") for number in range(4)]
    own = known(peers[:1], name="n1") | known(peers[2:3], name="n2")
    nodes = nodes_of(peers, None, own)
    assert [like(node) for node in nodes] == nodes
    (first, *_, last) = nodes_of(peers, None, own | known(peers[2:3], name="n3"))
    assert like(last) is first.group.nodes[1]


def test_links_of_one_name_tie_nodes_together_whatever_their_ports_are() -> None:
    """One prefix and a port are as another prefix and another port."""
    ports = 50001, 50002, 50003, 5000, 15000, 25000, 16000
    peers = [peer(number, port) for number, port in enumerate(ports, 1)]
    configs = known(peers[:1])
    (transport,) = configs[peers[0].public_key].transports
    two = tuple(structs.replace(transport, ifprefix=prefix) for prefix in ("r", "r1"))
    nodes = nodes_of(peers, None, {"key1": structs.replace(configs["key1"], transports=two)})
    assert nodes[3].group is nodes[4].group
    assert [like(nodes[at]) for at in (2, 5)] == [nodes[1]] * 2
    assert like(nodes[6]) is nodes[6], "its link begins as those of the other transport do"


@pytest.mark.parametrize(
    ("old", "new", "groups"),
    [
        ({}, {}, 8),
        ({"port_range": ((50001, 50009),)}, {"port_range": ((50001, 50009),)}, 8),
        ({"mtu": 1300}, {"mtu": 1400}, 1),
        ({"policies": (Policy(keepalive=25),)}, {"policies": (Policy(keepalive=25),)}, 1),
    ],
)
def test_ports_that_go_from_node_to_node_tie_them_together_where_a_link_that_stays_may_change(
    old: dict[str, object], new: dict[str, object], groups: int
) -> None:
    nodes = nodes_of(PEERS, SHIFTED, known(PEERS, **old), known(SHIFTED, **new))
    assert len({node.group for node in nodes}) == groups

"""``mtu = "auto"``: links that are as wide as the underlay lets them be, and stay alive."""

from __future__ import annotations

import pytest

from tests.integration import machine
from tests.integration.harness import FWMARK, MTU, Mesh, Node
from tests.integration.test_link_addresses import assert_kept, give, sessions

pytestmark = [pytest.mark.userspace, pytest.mark.kernel]


@pytest.fixture
def mesh(mesh: Mesh) -> Mesh:
    """Two nodes, both up, with sessions on both tunnels; then one shall follow the underlay."""
    give(mesh.nodes[0], 'mtu = "auto"')
    return mesh


def widths(node: Node, far: Node) -> tuple[int, int]:
    """The MTUs of the links over IPv4 and over IPv6."""
    there = node.interfaces()
    return there[node.link_to(far, "ip4")]["mtu"], there[node.link_to(far, "ip6")]["mtu"]


def underlay(node: Node, *lines: str) -> None:
    machine.ip_batch(lines, node.netns)


def test_links_follow_the_underlay(mesh: Mesh) -> None:
    near, far = mesh.nodes
    before = sessions(near)
    for width, expected in (
        (1500, (1440, 1420)),
        (1400, (1340, 1320)),
        (9000, (8940, 8920)),
        (1300, (1280, 1280)),
        (1500, (1440, 1420)),
    ):
        underlay(near, f"link set underlay mtu {width}")
        planned = near.rait("plan", "--json")
        assert near.rait("up", "--json").touched == near.links_to(far)
        assert {event["link"] for event in planned.events} == near.links_to(far)
        assert widths(near, far) == expected
        assert near.rait("up", "--json").events == []
    assert_kept(near, before)
    assert not mesh.unanswered([(near, far)])


def test_a_route_may_be_narrower_than_its_device(mesh: Mesh) -> None:
    near, far = mesh.nodes
    four, six = far.addresses["ip4"], far.addresses["ip6"]
    underlay(near, f"route add {four}/32 dev underlay mtu 1380")
    underlay(near, f"route add {six}/128 dev underlay mtu 1390")
    near.up()
    assert widths(near, far) == (1320, 1310)


def test_the_route_of_marked_packets_decides(mesh: Mesh) -> None:
    near, far = mesh.nodes
    underlay(
        near,
        f"rule add pref 7 fwmark {FWMARK} lookup 77",
        f"route add {far.addresses['ip4']}/32 dev underlay mtu 1370 table 77",
    )
    near.up()
    assert widths(near, far) == (1310, 1420)
    give(near, 'mtu = "auto"\n fwmark = 55')
    near.up()
    assert widths(near, far) == (1440, 1420)


def test_a_link_keeps_its_mtu_while_no_route_leads_to_its_peer(mesh: Mesh) -> None:
    near, far = mesh.nodes
    near.up()
    underlay(near, f"route add unreachable {far.addresses['ip4']}/32")
    assert near.rait("up", "--json").events == []
    near.down()
    near.up()  # nothing is known of a new link's way
    assert widths(near, far) == (MTU["ip4"], 1420)


def test_without_the_policy_the_transport_decides_again(mesh: Mesh) -> None:
    near, far = mesh.nodes
    near.up()
    give(near)
    near.up()
    assert widths(near, far) == (MTU["ip4"], MTU["ip6"])
    assert "1440 -> 1420" in near.rait("log", "--link", near.link_to(far, "ip4")).out

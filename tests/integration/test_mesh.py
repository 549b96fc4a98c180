"""Two and three nodes, as a user brings them up, looks at them and takes them down."""

from __future__ import annotations

import pytest

from tests.integration import machine
from tests.integration.conftest import MakeMesh
from tests.integration.harness import FAMILIES, FWMARK, IFGROUP, MTU, Mesh, Node

pytestmark = pytest.mark.userspace  # and in the kernel tier those that depend on the kernel


@pytest.fixture
def pair(make_mesh: MakeMesh) -> Mesh:
    return make_mesh(2)


@pytest.mark.kernel
def test_two_nodes_reach_each_other_over_every_tunnel(pair: Mesh) -> None:
    pair.up()
    pair.ping_all()
    for node in pair.nodes:
        assert all(link.handshake > 0 for link in node.state().values())


@pytest.mark.kernel
def test_three_nodes_go_up_and_down(make_mesh: MakeMesh) -> None:
    mesh = make_mesh(3)
    mesh.up()
    for node in mesh.nodes:
        node.assert_has_exactly(node.links_to(*(n for n in mesh.nodes if n is not node)))
    mesh.ping_all()
    for node in mesh.nodes:
        node.down()
        assert node.leftovers() == []


@pytest.mark.kernel
def test_a_second_down_is_a_no_op(pair: Mesh) -> None:
    node = pair.nodes[0]
    node.up()
    node.down()
    result = node.rait("down", "--json")
    assert result.status == 0
    assert result.events == []


def test_down_before_any_up_leaves_the_machine_alone(pair: Mesh) -> None:
    node = pair.nodes[0]
    result = node.rait("down")
    assert result.status == 0
    assert not machine.netns_exists(node.target)


@pytest.mark.kernel
def test_the_links_are_as_configured(pair: Mesh) -> None:
    a, b = pair.nodes
    a.up()
    interfaces, states = a.interfaces(), a.state()
    assert set(interfaces) == set(states) == a.links_to(b)
    for family in FAMILIES:
        name = a.link_to(b, family)
        interface, state = interfaces[name], states[name]
        assert interface["mtu"] == MTU[family]
        assert interface["group"] == str(IFGROUP)
        assert "UP" in interface["flags"]
        assert state.peer == b.public_key
        assert state.listen_port == b.ports[family]
        assert int(state.fwmark, 16) == FWMARK
        assert state.endpoint == underlay_endpoint(b, a, family)
        assert set(allowed_ips(a, name)) == {"0.0.0.0/0", "::/0"}
        assert machine.wg("show", name, "private-key", netns=a.target) == a.private_key


def underlay_endpoint(node: Node, sender: Node, family: str) -> str:
    """Where the sender reaches the node: at its address, on the port that the sender sends to."""
    address = node.addresses[family]
    host = f"[{address}]" if ":" in address else address
    return f"{host}:{sender.ports[family]}"


def allowed_ips(node: Node, link: str) -> list[str]:
    return machine.wg("show", link, "allowed-ips", netns=node.target).split()[1:]


@pytest.mark.kernel
def test_list_tells_what_is_there(pair: Mesh, tier: str) -> None:
    a, b = pair.nodes
    pair.up()
    pair.ping_all()
    listed = a.listed()
    assert set(listed) == a.links_to(b)
    for family in FAMILIES:
        link = listed[a.link_to(b, family)]
        assert link["backend"] == tier
        assert link["netns"] == a.target
        assert link["group"] == IFGROUP
        assert link["mtu"] == MTU[family]
        assert link["up"] is True
        assert link["address"].startswith("fe80::")
        assert link["address"].endswith("/64")
        assert link["public_key"] == a.public_key
        assert link["listen_port"] == b.ports[family]
        assert link["fwmark"] == FWMARK
        (peer,) = link["peers"]
        assert peer["public_key"] == b.public_key
        assert peer["endpoint"] == underlay_endpoint(b, a, family)
        assert peer["latest_handshake"] > 0
        assert peer["received"] > 0
        assert peer["sent"] > 0


def test_list_for_people_names_every_link(pair: Mesh) -> None:
    a, b = pair.nodes
    a.up()
    result = a.rait("list")
    assert result.status == 0
    assert all(name in result.out for name in a.links_to(b))


def test_list_shows_nothing_before_up(pair: Mesh) -> None:
    assert pair.nodes[0].listed() == {}


def test_addresses_are_the_same_after_the_links_were_made_again(pair: Mesh) -> None:
    node = pair.nodes[0]
    node.up()
    before = {name: link["address"] for name, link in node.listed().items()}
    node.down()
    node.up()
    assert {name: link["address"] for name, link in node.listed().items()} == before
    assert len(set(before.values())) == len(before)


@pytest.mark.kernel
def test_the_backend_is_chosen_by_what_the_machine_has(pair: Mesh, tier: str) -> None:
    node = pair.nodes[0]
    node.write_conf(backend='"auto"')
    node.up()
    assert {link["backend"] for link in node.listed().values()} == {tier}


def test_the_command_itself(pair: Mesh) -> None:
    """As test_three_nodes, but with the command started as a user starts it."""
    a, b = pair.nodes
    for node in pair.nodes:
        node.up(exec_=True)
    pair.ping_all()
    listed = a.rait("list", exec_=True)
    assert listed.status == 0
    assert all(name in listed.out for name in a.links_to(b))
    for node in pair.nodes:
        assert node.rait("down", exec_=True).status == 0
        assert node.leftovers() == []

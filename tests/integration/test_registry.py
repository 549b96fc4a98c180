"""What a peers list that is wrong, or that somebody tampers with, does to tunnels that are up."""

from __future__ import annotations

import socket
from contextlib import closing

import pytest

from tests.integration import machine
from tests.integration.conftest import MakeMesh
from tests.integration.harness import FAMILIES, Mesh, Node

pytestmark = pytest.mark.userspace  # nothing here depends on the kernel


@pytest.fixture
def mesh(make_mesh: MakeMesh) -> Mesh:
    """Three nodes, of which the first is up."""
    mesh = make_mesh(3)
    mesh.nodes[0].up()
    return mesh


def broken(node: Node) -> str:
    """The node's entry, with a port that is none in one family and a key that is none in other."""
    ip4, ip6 = node.entry().split("[[Peers]]")[1:]
    ip4 = ip4.replace(f"SendPort = {node.ports['ip4']}", "SendPort = 0")
    return f"[[Peers]]{ip4}[[Peers]]{ip6.replace(node.public_key, node.public_key[1:])}"


def runs(node: Node) -> list[str]:
    return node.rait("log", "--oneline").out.splitlines()


def test_an_entry_that_cannot_be_read_costs_no_link(mesh: Mesh) -> None:
    a, b, c = mesh.nodes
    before, journaled = a.state(), runs(a)
    a.write_peers([b.entry(), broken(c)])
    for arguments in (("plan",), ("up",), ("up",)):
        result = a.rait(*arguments, "--json")
        assert result.status == 3, result
        assert {failed["link"] for failed in result.json["failed"]} == a.links_to(c)
        assert f"{a.peers}:14: Peers[2].SendPort" in result.err
        assert a.state() == before
    assert runs(a) == journaled
    a.knows(b, c)
    assert a.rait("up", "--json").json["status"] == "unchanged"
    assert a.state() == before


def test_other_links_come_and_go_meanwhile(mesh: Mesh) -> None:
    a, b, c = mesh.nodes
    before = a.state()
    a.write_peers([broken(c)] + [f"[[Peers]]{e}" for e in b.entry().split("[[Peers]]")[2:]])
    result = a.rait("up", "--json")
    assert result.status == 3, result
    assert result.touched == {a.link_to(b, "ip4")}
    kept = {*a.links_to(c), a.link_to(b, "ip6")}
    assert a.state() == {name: link for name, link in before.items() if name in kept}
    a.knows(b)
    assert a.up("--json").touched == {a.link_to(b, "ip4"), *a.links_to(c)}
    a.assert_has_exactly(a.links_to(b))


@pytest.mark.parametrize("text", ["[[Peers]]\n", "peers = [1, 2]\n"])
def test_a_list_of_wrong_entries_alone_touches_nothing(mesh: Mesh, text: str) -> None:
    a = mesh.nodes[0]
    before = a.state()
    for own in ("", a.entry()):
        a.write_peers([own, text] if not text.startswith("peers") or not own else [text])
        for command in ("plan", "up"):
            result = a.rait(command)
            assert result.status == 1, result
            assert "nothing is done" in result.err
            assert a.state() == before


def test_nobody_takes_the_port_or_the_endpoint_of_a_peer_that_is_there(mesh: Mesh) -> None:
    """Keys and ports are public: whoever may add an entry to the list can name those of others."""
    a, b, c = mesh.nodes
    before, journaled = a.state(), runs(a)
    stranger = b.entry({"ip4": "192.0.2.66", "ip6": "2001:db8::66"})
    thief = b.entry().replace(b.public_key, machine.genkey()[1])
    a.write_peers([stranger, thief, b.entry(), c.entry()])
    for command in ("plan", "up", "up"):
        result = a.rait(command, "--json")
        assert result.status == 3, result
        assert result.events == []
        assert len(result.json["conflicts"]) == len(FAMILIES)
        assert f"peer {b.public_key}, which has the link" in result.err
        assert a.state() == before
    assert "nothing done, some peers get no link" in a.rait("up").out
    assert a.rait("plan", "--detailed-exitcode").status == 1
    assert runs(a) == journaled
    a.write_peers([stranger, b.entry(), c.entry()])
    assert a.up("--json").json["status"] == "unchanged", "its peer has a link, so nothing is amiss"


def test_a_peer_keeps_its_port_through_a_down_and_a_start_that_fails(mesh: Mesh) -> None:
    a, b, c = mesh.nodes
    thief_key = machine.genkey()[1]
    thief = b.entry().replace(b.public_key, thief_key)
    a.write_peers([thief, b.entry(), c.entry()])
    a.down()
    link = a.link_to(b, "ip4")
    with closing(machine.socket_in(a.netns, socket.AF_INET, socket.SOCK_DGRAM)) as holder:
        holder.bind((a.addresses["ip4"], b.ports["ip4"]))
        result = a.rait("up", "--json")
        assert result.status == 3, result
        assert link in {failed["link"] for failed in result.json["failed"]}
    assert a.rait("up").status == 3
    peers = {name: state.peer for name, state in a.state().items()}
    assert peers == dict.fromkeys(a.links_to(b), b.public_key) | dict.fromkeys(
        a.links_to(c), c.public_key
    )
    a.write_peers([thief, c.entry()])
    assert a.up("--json", "--yes").touched == a.links_to(b), "the peer has left the list"
    assert {a.state()[name].peer for name in a.links_to(b)} == {thief_key}


def test_nobody_takes_a_port_from_a_node_whose_journal_is_lost(mesh: Mesh) -> None:
    a, b, c = mesh.nodes
    before = a.state()
    for file in a.directory.glob("journal.db*"):
        file.unlink()
    a.write_peers([b.entry().replace(b.public_key, machine.genkey()[1]), b.entry(), c.entry()])
    state = a.directory / "state.json"
    state.write_text(a.rait("export-state").out)
    for command in (["plan"], ["plan", "--against", str(state)], ["up"]):
        result = a.rait(*command, "--json")
        assert (result.status, result.events) == (3, []), result
        assert f"peer {b.public_key}, which has the link" in result.err
        assert a.state() == before


def test_our_former_entry_makes_no_link_and_one_that_looks_like_it_ends_none(mesh: Mesh) -> None:
    a, b, c = mesh.nodes
    former = f'{a.entry()}Name = "gate"\n'
    a.private_key, a.public_key = machine.genkey()
    a.write_conf(name='"gate"')
    looks_alike = f'{b.entry()}Name = "gate"\n'
    stranger = f'{d_entry(a)}Name = "gate"\n'
    a.write_peers([former, stranger, looks_alike, c.entry()])
    result = a.rait("up", "--yes")
    assert result.status == 0, result
    assert result.err.count("taken for this node's own entry under another key") == 3
    assert f"{b.public_key}): has this node's name" in result.err
    assert set(a.state()) == a.links_to(b, c)
    assert a.up("--json").json["status"] == "unchanged"


def d_entry(node: Node) -> str:
    """The entry of somebody else with a port that nobody has."""
    return (
        f'[[Peers]]\nPublicKey = "{machine.genkey()[1]}"\nSendPort = {node.ports["ip4"] + 500}\n'
        'Endpoint = "192.0.2.77"\nAddressFamily = "ip4"\n'
    )


def test_our_private_key_in_the_list_is_refused_and_not_shown(mesh: Mesh) -> None:
    a, b, c = mesh.nodes
    before = a.state()
    a.write_peers([b.entry(), c.entry().replace(c.public_key, a.private_key)])
    for command in ("plan", "up"):
        result = a.rait(command, "-d")  # which looks for the key in all that is printed
        assert result.status == 1
        assert f"{a.peers}:13: the list holds this node's own private key" in result.err
    assert a.state() == before


def test_what_is_over_the_limits_is_refused(mesh: Mesh) -> None:
    a, b, _ = mesh.nodes
    before = a.state()
    a.write_conf(max_links="3")
    result = a.rait("up")
    assert result.status == 1
    assert "asks for 4 links" in result.err
    assert a.state() == before
    port = b.ports["ip4"]
    a.write_conf(port_range=f'["1-{port - 1}", "{port + 1}-65535"]')
    result = a.rait("up", "--json")
    assert result.status == 3
    assert result.touched == {a.link_to(b, "ip4")}
    assert "outside of port_range" in result.err
    again = a.rait("up", "--json")
    assert (again.status, again.json["status"]) == (0, "unchanged")
    assert a.state().keys() == before.keys() - {a.link_to(b, "ip4")}

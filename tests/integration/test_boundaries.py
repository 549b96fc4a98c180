"""What rait does not touch, and its messages about wrong input."""

from __future__ import annotations

import json

import pytest

from tests.integration import machine
from tests.integration.command import Result
from tests.integration.conftest import MakeMesh
from tests.integration.harness import IFGROUP, Mesh

pytestmark = pytest.mark.userspace  # and in the kernel tier those that depend on the kernel


@pytest.fixture
def pair(make_mesh: MakeMesh) -> Mesh:
    return make_mesh(2)


@pytest.mark.kernel
def test_foreign_links_in_the_ifgroup_survive(pair: Mesh) -> None:
    a, b = pair.nodes
    a.up()
    foreign = {"foreign0", "foreign1", "foreign2"}
    machine.ip_batch(
        [
            "link add foreign0 type veth peer name foreign1",
            "tuntap add foreign2 mode tun",
            *(f"link set {name} group {IFGROUP}" for name in sorted(foreign)),
        ],
        a.target,
    )
    assert a.rait("up", "--json").json["status"] == "unchanged"
    assert set(a.interfaces()) == a.links_to(b) | foreign
    a.down()
    assert set(a.interfaces()) == foreign


@pytest.mark.kernel
def test_wireguard_links_of_another_group_survive(pair: Mesh) -> None:
    a, b = pair.nodes
    a.up()
    name = f"{a.tag}other"
    add_plain_wireguard(a.target, name, pair.backend)
    machine.ip_batch([f"link set {name} group {IFGROUP + 1}"], a.target)
    assert a.rait("up", "--json").json["status"] == "unchanged"
    a.down()
    assert set(a.interfaces()) == {name}
    assert machine.wg("show", name, "private-key", netns=a.target) == "(none)"
    assert not a.links_to(b) & set(a.interfaces())


def add_plain_wireguard(netns: str, name: str, backend: str) -> None:
    """A WireGuard interface that is not rait's."""
    if backend == "kernel":
        machine.ip_batch([f"link add {name} type wireguard"], netns)
    else:
        machine.run(["wireguard-go", name], netns)


@pytest.mark.kernel
def test_a_link_of_another_kind_that_holds_a_name_is_reported(pair: Mesh) -> None:
    a, b = pair.nodes
    taken = a.link_to(b, "ip4")
    machine.ip_batch([f"netns add {a.target}"])
    machine.ip_batch([f"link add {taken} type veth peer name other"], a.target)
    result = a.rait("up", "--json")
    assert result.status == 3
    assert result.json["status"] == "partial"
    assert [failure["link"] for failure in result.json["failed"]] == [taken]
    assert a.interfaces()[taken]["linkinfo"]["info_kind"] == "veth"
    assert set(a.state()) == {a.link_to(b, "ip6")}
    human = a.rait("up")
    assert human.status == 3
    assert taken in human.err
    a.down()
    assert set(a.interfaces()) == {taken, "other"}


@pytest.mark.kernel
def test_a_taken_port_fails_its_link_alone(pair: Mesh) -> None:
    a, b = pair.nodes
    with machine.socket_in(a.netns, machine.socket.AF_INET, machine.socket.SOCK_DGRAM) as holder:
        holder.bind(("0.0.0.0", b.ports["ip4"]))  # noqa: S104 - in the node's namespace
        result = a.rait("up")
        assert result.status == 3
        assert a.link_to(b, "ip4") in result.err
        assert str(b.ports["ip4"]) in result.err
        assert set(a.state()) >= {a.link_to(b, "ip6")}
        assert_told_as_failed(a.link_to(b, "ip4"), result)
        again = a.rait("up", "--json")
        failed = [e for e in again.events if e.get("outcome") == "failed"]
        assert {e["link"] for e in failed} == {a.link_to(b, "ip4")}
        assert failed[0]["error"] == again.json["failed"][0]["error"]
        assert a.link_to(b, "ip4") not in failed[0]["error"]
    a.up()
    a.assert_has_exactly(a.links_to(b))
    b.up()
    pair.ping_all()


def assert_told_as_failed(link: str, result: Result) -> None:
    lines = result.out.splitlines()[:-1]
    assert [line for line in lines if line.endswith(" (failed)")] == [
        line for line in lines if f" {link} " in line
    ]
    (complaint,) = result.err.splitlines()
    assert complaint.startswith(f"rait: {link}: ")
    assert complaint.count(link) == 1


def test_a_wrong_configuration_touches_nothing(pair: Mesh) -> None:
    a, b = pair.nodes
    a.write_conf(text=a.conf_hcl().replace("mtu = 1420", "mtu = 1200"))
    result = a.rait("up")
    assert result.status == 2
    assert str(a.conf) in result.err
    assert "mtu" in result.err
    assert not machine.netns_exists(a.target)
    a.write_conf()
    a.up()
    before = a.state()
    a.write_conf(text=a.conf_hcl().replace("fwmark", "fwmrak", 1))
    result = a.rait("up")
    assert result.status == 2
    assert "fwmrak" in result.err
    assert "fwmark" in result.err
    assert a.state() == before
    assert set(before) == a.links_to(b)


def test_a_configuration_that_is_not_there(pair: Mesh) -> None:
    a = pair.nodes[0]
    a.conf.unlink()
    result = a.rait("up")
    assert result.status == 2
    assert str(a.conf) in result.err


@pytest.mark.parametrize("content", [None, "[[Peers]\n", "peers {"], ids=["none", "toml", "hcl"])
def test_a_peers_list_that_cannot_be_read_touches_nothing(pair: Mesh, content: str | None) -> None:
    a, b = pair.nodes
    a.up()
    before = a.state()
    if content is None:
        a.peers.unlink()
    else:
        a.peers.write_text(content)
    result = a.rait("up")
    assert result.status == 1
    assert str(a.peers) in result.err
    assert a.state() == before
    assert set(before) == a.links_to(b)


def test_a_wrong_entry_is_skipped_and_the_rest_goes_up(pair: Mesh) -> None:
    a, b = pair.nodes
    wrong = '[[Peers]]\nPublicKey = "short"\nSendPort = 50099\nAddressFamily = "ip4"\n'
    a.write_peers([wrong, b.entry()])
    result = a.up()
    assert "PublicKey" in result.err or "public_key" in result.err
    a.assert_has_exactly(a.links_to(b))


def test_of_two_peers_with_one_port_the_first_wins(pair: Mesh) -> None:
    a, b = pair.nodes
    _, other = machine.genkey()
    a.write_peers([b.entry(), b.entry().replace(b.public_key, other)])
    result = a.rait("up")
    assert result.status == 3, result
    assert other in result.err
    assert {link.peer for link in a.state().values()} == {b.public_key}


def test_a_node_is_no_peer_of_itself(pair: Mesh) -> None:
    a, b = pair.nodes
    a.write_peers([a.entry(), b.entry()])
    result = a.up()
    assert a.public_key not in result.err
    a.assert_has_exactly(a.links_to(b))


def test_the_journal_is_the_owners_alone(pair: Mesh) -> None:
    a = pair.nodes[0]
    a.up()
    files = list(a.directory.glob("journal.db*"))
    assert files
    assert {file.stat().st_mode & 0o777 for file in files} == {0o600}


@pytest.mark.kernel
def test_a_node_can_run_without_its_journals_past(pair: Mesh) -> None:
    """A lost journal costs knowledge, never tunnels."""
    a, b = pair.nodes
    pair.up()
    pair.ping_all()
    before = a.state()
    for file in a.directory.glob("journal.db*"):
        file.unlink()
    a.up()
    assert a.state() == before
    a.down()
    assert a.leftovers() == []
    assert set(before) == a.links_to(b)


def test_the_events_of_a_run_are_told(pair: Mesh) -> None:
    a, b = pair.nodes
    result = a.rait("up", "--json")
    assert result.json["status"] == "done"
    assert result.json["failed"] == []
    assert result.json["run"] is not None
    added = {event["link"] for event in result.events if event["type"] == "LinkAdded"}
    assert added == a.links_to(b)
    json.dumps(result.events)

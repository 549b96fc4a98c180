"""A sync does no more than it must, and never disturbs a tunnel that works."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from tests.integration import machine
from tests.integration.command import trace
from tests.integration.conftest import MakeMesh
from tests.integration.harness import Mesh, Node, ping
from tests.integration.netlink_tap import Tap
from tests.unit.test_startup import UNNEEDED

pytestmark = pytest.mark.userspace  # and in the kernel tier those that depend on the kernel


@pytest.fixture
def mesh(make_mesh: MakeMesh) -> Mesh:
    """Three nodes, all up, with sessions on every tunnel."""
    mesh = make_mesh(3)
    mesh.up()
    mesh.ping_all()
    return mesh


@pytest.mark.kernel
def test_a_second_up_changes_nothing(mesh: Mesh) -> None:
    node = mesh.nodes[0]
    before = node.state()
    result = node.rait("up", "--json")
    assert result.status == 0
    assert result.json["status"] == "unchanged"
    assert result.events == []
    assert node.state() == before
    assert all(link.handshake > 0 for link in before.values())


@pytest.mark.kernel
def test_a_second_up_writes_nothing_over_netlink(make_mesh: MakeMesh, tier: str) -> None:
    if tier != "kernel":
        pytest.skip("needs nlmon; the next test is this tier's")
    node = make_mesh(2).nodes[0]
    machine.ip_batch([f"netns add {node.target}"])
    taps = [Tap(node.netns), Tap(node.target)]

    def writes() -> list[object]:
        return [request for tap in taps for request in tap.requests() if request.writes]

    node.up()
    assert writes(), "the tap sees what an up does"
    node.up()
    requests = [request for tap in taps for request in tap.requests()]
    assert requests, "the tap sees what a second up asks"
    assert not [request for request in requests if request.writes]
    for tap in taps:
        tap.close()


def test_a_second_up_sends_nothing_that_sets(make_mesh: MakeMesh, tmp_path: Path) -> None:
    node = make_mesh(2).nodes[0]
    arguments = ["-c", str(node.conf), "up"]
    first, second = tmp_path / "first", tmp_path / "second"
    trace(node.netns, arguments, first)
    assert sets(first.read_text()), "the trace sees what an up does"
    trace(node.netns, arguments, second)
    assert "get=1" in second.read_text(), "the trace sees what a second up asks"
    assert sets(second.read_text()) == []


@pytest.mark.kernel
def test_a_second_up_loads_no_library_that_it_does_not_need(
    make_mesh: MakeMesh, monkeypatch: pytest.MonkeyPatch, tier: str
) -> None:
    node = make_mesh(2).nodes[0]
    node.up()
    node.up(exec_=True)  # and what it found is kept
    monkeypatch.setenv("PYTHONPROFILEIMPORTTIME", "1")
    result = node.up(exec_=True)
    loaded = {line.rpartition("|")[2].strip() for line in result.err.splitlines()}
    assert {"msgspec", "rait.adapters.netlink.rtnl", "sqlite3"} <= loaded
    # Some links are over IPv6, and msgspec asks for typing_extensions in vain.
    needed = {"ipaddress", "typing_extensions"}
    if tier == "userspace":
        needed.add("rait.adapters.wireguard.userspace")
    assert (UNNEEDED.keys() - needed) & loaded == set()


def sets(trace_text: str) -> list[str]:
    """The traced calls that change something: over rtnetlink, or over the UAPI socket."""
    return [line for line in trace_text.splitlines() if "set=1\\n" in line or writes(line)]


def writes(line: str) -> bool:
    """Whether a traced call sends an rtnetlink request that is no GET.

    strace knows the names of message types only where it saw the socket being made; the numbers
    come in fours, NEW DEL GET SET from 16 on (linux/rtnetlink.h).
    """
    types = re.findall(r"nlmsg_type=(\w+).*?nlmsg_flags=\w*NLM_F_REQUEST", line)
    return any(
        int(kind, 16) % 4 != 2 if kind.startswith("0x") else not kind.startswith("RTM_GET")
        for kind in types
        if kind.startswith(("0x", "RTM_"))
    )


def neighbours_of(node: Node, mesh: Mesh) -> list[Node]:
    return [other for other in mesh.nodes if other is not node]


@pytest.mark.kernel
def test_removing_a_peer_touches_its_links_alone(mesh: Mesh) -> None:
    a, b, c = mesh.nodes
    before = a.state()
    a.knows(b)
    result = a.rait("up", "--json")
    assert result.status == 0
    assert result.touched == a.links_to(c)
    assert a.state() == {name: link for name, link in before.items() if name in a.links_to(b)}
    a.assert_has_exactly(a.links_to(b))


@pytest.mark.kernel
def test_adding_a_peer_touches_its_links_alone(mesh: Mesh) -> None:
    a, b, c = mesh.nodes
    a.knows(b)
    a.up()
    before = a.state()
    a.knows(c, b)
    result = a.rait("up", "--json")
    assert result.status == 0
    assert result.touched == a.links_to(c)
    after = a.state()
    assert {name: after[name] for name in before} == before
    assert set(after) == a.links_to(b, c)


@pytest.mark.kernel
def test_changing_a_peer_touches_its_link_alone(mesh: Mesh) -> None:
    a, b, c = mesh.nodes
    machine.ip_batch(["addr add 192.0.2.103/24 dev underlay"], c.netns)
    mesh.cut_off(c)  # else a keepalive from its old address may move the endpoint back
    before = a.state()
    a.write_peers([b.entry(), c.entry({"ip4": "192.0.2.103"})])
    result = a.rait("up", "--json")
    assert result.status == 0
    changed = a.link_to(c, "ip4")
    assert result.touched == {changed}
    after = a.state()
    assert after[changed].endpoint == f"192.0.2.103:{a.ports['ip4']}"
    assert after[changed].index == before[changed].index
    assert {n: s for n, s in after.items() if n != changed} == {
        n: s for n, s in before.items() if n != changed
    }
    mesh.reconnect(c)
    mesh.ping_all()


@pytest.mark.kernel
def test_a_roamed_endpoint_survives_a_sync(mesh: Mesh) -> None:
    """The peer's packets come from another port, as after a restart of the NAT before it."""
    a, b, _ = mesh.nodes
    machine.wg("set", b.link_to(a, "ip4"), "listen-port", "55555", netns=b.target)
    ping(b.target, b.link_to(a, "ip4"), a.listed()[a.link_to(b, "ip4")]["address"]).wait()
    before = a.state()
    assert before[a.link_to(b, "ip4")].endpoint == "192.0.2.2:55555"
    result = a.rait("up", "--json")
    assert result.json["status"] == "unchanged"
    assert a.state() == before
    mesh.ping_all()


def test_a_name_that_does_not_resolve_keeps_the_endpoint(mesh: Mesh) -> None:
    a, b, c = mesh.nodes
    before = a.state()
    a.write_peers([b.entry({"ip4": "node.invalid"}), c.entry()])
    result = a.rait("up")
    assert result.status == 0
    assert "node.invalid" in result.err
    assert a.state() == before


@pytest.mark.kernel
def test_a_peer_whose_name_never_resolved_waits_passively(make_mesh: MakeMesh) -> None:
    mesh = make_mesh(2)
    a, b = mesh.nodes
    a.write_peers([b.entry({"ip4": "node.invalid", "ip6": "node.invalid"})])
    a.up()
    assert {link.endpoint for link in a.state().values()} == {"(none)"}
    b.up()  # of which a may learn at once: an interface that comes up sends packets by itself
    assert not mesh.unanswered([(b, a)])
    learned = {link.endpoint for link in a.state().values()}
    assert learned == {f"192.0.2.2:{a.ports['ip4']}", f"[2001:db8::2]:{a.ports['ip6']}"}
    assert not mesh.unanswered([(a, b)])


def test_a_name_is_looked_up(make_mesh: MakeMesh) -> None:
    a, b = make_mesh(2).nodes
    a.write_peers([b.entry({"ip4": "localhost"})])
    a.up()
    assert a.state()[a.link_to(b, "ip4")].endpoint == f"127.0.0.1:{a.ports['ip4']}"


@pytest.mark.kernel
def test_drift_is_repaired_though_no_file_changed(mesh: Mesh) -> None:
    a, b, c = mesh.nodes
    gone, shrunk = a.link_to(b, "ip4"), a.link_to(c, "ip6")
    machine.ip_batch([f"link del {gone}", f"link set {shrunk} mtu 1300 down"], a.target)
    result = a.rait("up", "--json")
    assert result.status == 0
    assert result.touched == {gone, shrunk}
    assert a.interfaces()[shrunk]["mtu"] == 1400
    a.assert_has_exactly(a.links_to(b, c))
    assert a.rait("up", "--json").json["status"] == "unchanged"
    mesh.ping_all()


@pytest.mark.kernel
def test_a_new_private_key_keeps_the_interfaces(mesh: Mesh) -> None:
    a = mesh.nodes[0]
    before = a.state()
    a.private_key, a.public_key = machine.genkey()
    a.write_conf()
    a.up("--yes")  # as it costs every session, until the others know the new key
    assert {name: link.index for name, link in a.state().items()} == {
        name: link.index for name, link in before.items()
    }
    for other in neighbours_of(a, mesh):
        other.knows(*neighbours_of(other, mesh))
        other.up()
    mesh.ping_all()

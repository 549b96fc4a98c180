"""Between two runs, the configuration moves the links, or their sockets, to another namespace."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

import pytest

from tests.integration import machine
from tests.integration.command import Result
from tests.integration.conftest import MakeMesh
from tests.integration.harness import Mesh, Node
from tests.integration.strangers import strangers, write_peers

pytestmark = pytest.mark.userspace

SECOND = {"ip4": "192.0.2.101", "ip6": "2001:db8::101"}


@pytest.fixture
def elsewhere(mesh: Mesh) -> Iterator[str]:
    """The name of a namespace that does not exist yet."""
    name = f"{mesh.nodes[0].netns}-elsewhere"
    yield name
    machine.remove_netns(name)


def moved(node: Node, other: Node) -> Result:
    """Plan and do what the changed configuration takes, and nothing the second time."""
    planned = node.rait("plan")
    assert planned.status == 0, planned
    assert planned.out.count("(to be remade: ") == 2
    assert "2 to be remade" in planned.out
    done = node.up("--json")
    assert done.events == of_remaking(done)
    assert done.touched == node.links_to(other)
    assert node.up("--json").events == []
    return planned


def of_remaking(done: Result) -> list[dict[str, Any]]:
    """The events of links that went and came, and of their peers."""
    kinds = ("LinkRemoved", "LinkAdded")
    return [event for event in done.events if event["type"] in kinds]


def test_another_target(mesh: Mesh, elsewhere: str) -> None:
    a, b = mesh.nodes
    first = a.target
    machine.ip_batch(["link add guest type bridge"], first)
    try:
        a.target = elsewhere
        a.write_conf()
        planned = moved(a, b)
        assert f"netns {first} -> {elsewhere}" in planned.out
        a.assert_has_exactly(a.links_to(b))
        assert set(machine.links(first)) == {"lo", "guest"}, "only ours have left"
        mesh.ping_all()
    finally:
        machine.remove_netns(first)


@pytest.mark.kernel
def test_another_transit_and_back(mesh: Mesh, elsewhere: str) -> None:
    a, b = mesh.nodes
    second_underlay(mesh, elsewhere)
    machine.ip_batch(["link set underlay down"], a.netns)
    a.write_conf(text=a.conf_hcl().replace('transit = ""', f'transit = "{elsewhere}"'))
    assert "transit " in moved(a, b).out
    a.assert_has_exactly(a.links_to(b))
    assert not [name for name in machine.links(elsewhere) if a.tag in name]
    mesh.ping_all()

    machine.ip_batch(["link set second down"], elsewhere)
    machine.ip_batch(
        ["link set underlay up", f"addr replace {a.addresses['ip6']}/64 dev underlay nodad"],
        a.netns,
    )
    a.write_conf()
    assert "transit " in moved(a, b).out
    a.assert_has_exactly(a.links_to(b))
    mesh.ping_all()


@pytest.mark.kernel
def test_a_transit_that_was_made_anew_needs_no_leave(make_mesh: MakeMesh, tier: str) -> None:
    """Links of the kernel lose their sockets with it, so there is no session to guard."""
    if tier != "kernel":
        pytest.skip("a program keeps its namespace, and its session, alive")
    node = make_mesh(1).nodes[0]
    transit = f"{node.netns}-transit"
    node.write_conf(text=node.conf_hcl().replace('transit = ""', f'transit = "{transit}"'))
    try:
        machine.ip_batch([f"netns add {transit}"])
        write_peers(node, *strangers(1, 2, 3, 4))
        node.up()
        machine.remove_netns(transit)
        machine.ip_batch([f"netns add {transit}"])
        deadline = time.monotonic() + 60
        while any("LOWER_UP" in each["flags"] for each in node.interfaces().values()):
            assert time.monotonic() < deadline, "the kernel takes its time to end a namespace"
            time.sleep(0.1)
        assert "4 remade" in node.up().out
        assert node.up("--json").events == []
    finally:
        machine.remove_netns(transit)


def test_a_rollback_does_not_pretend_to_change_the_transit(mesh: Mesh, elsewhere: str) -> None:
    a, b = mesh.nodes
    second_underlay(mesh, elsewhere)
    a.write_conf(text=a.conf_hcl().replace('transit = ""', f'transit = "{elsewhere}"'))
    moved(a, b)
    before = a.state()
    for arguments in (["rollback", "--dry-run"], ["rollback"]):
        refused = a.rait(*arguments)
        assert refused.status == 2, refused
        assert "because the transit namespace had changed" in refused.err
        assert "rait.conf" in refused.err
        assert "`rait up`" in refused.err
    assert a.state() == before
    a.write_conf()
    assert a.rait("rollback").status == 0, "now rait.conf says so too"
    a.assert_has_exactly(a.links_to(b))
    assert a.up("--json").events == []
    mesh.ping_all()


def test_a_transit_that_is_missing_is_an_error_and_nothing_is_touched(
    mesh: Mesh, elsewhere: str
) -> None:
    a = mesh.nodes[0]
    before = a.state()
    a.write_conf(text=a.conf_hcl().replace('transit = ""', f'transit = "{elsewhere}"'))
    result = a.rait("up")
    assert result.status == 1
    assert elsewhere in result.err
    assert a.state() == before
    assert not machine.netns_exists(elsewhere)


def second_underlay(mesh: Mesh, netns: str) -> None:
    """A namespace with an interface of its own on the bridge that joins the nodes."""
    machine.ip_batch(
        [
            f"netns add {netns}",
            f"link add second netns {netns} type veth peer name second netns {mesh.bridge}",
        ]
    )
    machine.ip_batch(["link set second master br0", "link set second up"], mesh.bridge)
    machine.ip_batch(
        [
            "link set lo up",
            "link set second up",
            f"addr add {SECOND['ip4']}/24 dev second",
            f"addr add {SECOND['ip6']}/64 dev second nodad",
        ],
        netns,
    )

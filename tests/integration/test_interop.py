"""A node of rait and one that was set up by hand, with wg(8) and ip(8)."""

from __future__ import annotations

import pytest

from tests.integration import machine
from tests.integration.conftest import MakeMesh
from tests.integration.harness import FAMILIES, Node, ping

pytestmark = [pytest.mark.userspace, pytest.mark.kernel]


def set_up_by_hand(node: Node, other: Node, backend: str) -> None:
    """What rait does on ``node`` for its links to the other, in the words of wg(8) and ip(8)."""
    key_file = node.directory / "key"
    key_file.write_text(node.private_key)
    for family in FAMILIES:
        name = node.link_to(other, family)
        if backend == "kernel":
            machine.ip_batch([f"link add {name} type wireguard"], node.netns)
        else:
            machine.run(["wireguard-go", name], node.netns)
        address = other.addresses[family]
        host = f"[{address}]" if ":" in address else address
        settings = ["private-key", str(key_file), "listen-port", str(other.ports[family])]
        settings += ["peer", other.public_key, "allowed-ips", "0.0.0.0/0,::/0"]
        settings += ["endpoint", f"{host}:{node.ports[family]}"]
        machine.wg("set", name, *settings, netns=node.netns)
        machine.ip_batch(
            [f"addr add fe80::b/64 dev {name} nodad", f"link set {name} up"], node.netns
        )


def test_with_a_node_set_up_by_hand(make_mesh: MakeMesh) -> None:
    mesh = make_mesh(2)
    a, b = mesh.nodes
    set_up_by_hand(b, a, mesh.backend)
    a.up()
    listed = a.listed()
    pings = []
    for family in FAMILIES:
        ours, theirs = a.link_to(b, family), b.link_to(a, family)
        pings.append(ping(a.target, ours, "fe80::b"))
        pings.append(ping(b.netns, theirs, listed[ours]["address"]))
    assert [process.wait() for process in pings] == [0] * 4
    assert all(link.handshake > 0 for link in a.state().values())

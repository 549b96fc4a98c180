"""Namespaces keep overlay and underlay apart, even with equal addresses in both."""

from __future__ import annotations

import subprocess
import time

import pytest

from tests.integration import machine
from tests.integration.conftest import MakeMesh
from tests.integration.harness import FAMILIES, FWMARK, Family, Mesh, Node

pytestmark = pytest.mark.userspace

UNDERLAY_TABLE = 77


@pytest.fixture
def mesh(make_mesh: MakeMesh) -> Mesh:
    """Two nodes up, whose routing tables know the underlay for marked packets alone."""
    mesh = make_mesh(2)
    for node in mesh.nodes:
        machine.ip_batch(
            [
                f"route add 192.0.2.0/24 dev underlay table {UNDERLAY_TABLE}",
                f"route add 2001:db8::/64 dev underlay table {UNDERLAY_TABLE}",
                "route del 192.0.2.0/24 dev underlay",
                "route del 2001:db8::/64 dev underlay",
            ],
            node.netns,
        )
        for family in ("-4", "-6"):
            rule = [family, "rule", "add", "fwmark", str(FWMARK), "lookup", str(UNDERLAY_TABLE)]
            machine.run(["ip", *rule], node.netns)
    mesh.up()
    return mesh


def overlay(node: Node, other: Node, family: Family) -> None:
    """This node's underlay address in the overlay too, and a default route over the link.

    So every address, those of the tunnel's own endpoints among them, is in the overlay.
    """
    length = {"ip4": 32, "ip6": 128}[family]
    version = {"ip4": "-4", "ip6": "-6"}[family]
    run = ["ip", version]
    lo = [f"{node.addresses[family]}/{length}", "dev", "lo"]
    machine.run([*run, "address", "add", *lo], node.target)
    machine.run([*run, "route", "add", "default", "dev", node.link_to(other, family)], node.target)


def answers(netns: str, source: str, address: str) -> bool:
    return machine.answers(netns, "-I", source, address)


def received(node: Node, link: str) -> int:
    """Bytes that came through the tunnel."""
    lines = machine.wg("show", link, "transfer", netns=node.target).splitlines()
    return sum(int(line.split("\t")[1]) for line in lines)


def has_unmarked_route(node: Node, address: str) -> bool:
    """Whether a packet without a mark would find a way to the address over the underlay."""
    command = ["ip", "-n", node.netns, "route", "get", address]
    return subprocess.run(command, capture_output=True, check=False).returncode == 0


@pytest.mark.kernel
def test_the_same_addresses_in_both_and_no_loop(mesh: Mesh) -> None:
    a, b = mesh.nodes
    mesh.ping_all()
    for family in FAMILIES:
        for node, other in ((a, b), (b, a)):
            overlay(node, other, family)
            assert not has_unmarked_route(node, other.addresses[family])
        link = b.link_to(a, family)
        before, began = received(b, link), time.monotonic()
        assert answers(a.target, a.addresses[family], b.addresses[family])
        # An echo of 84 or 104 bytes, and 5 more each second where the answer is slow to come: a
        # loop would carry its own packets many times.
        assert 0 < received(b, link) - before < 4096 + 1024 * (time.monotonic() - began)
        assert a.state()[a.link_to(b, family)].fwmark == hex(FWMARK)


def test_without_the_mark_nothing_gets_to_the_underlay(mesh: Mesh) -> None:
    a, b = mesh.nodes
    mesh.ping_all()
    unmarked = a.conf_hcl().replace(f"fwmark = {FWMARK}", "fwmark = 0")
    a.write_conf(text=unmarked)
    assert {e["type"] for e in a.up("--json").events} == {"DeviceUpdated"}
    addresses = b.listed()
    for family in FAMILIES:
        to = addresses[b.link_to(a, family)]["address"].partition("/")[0]
        ping = ["ping", "-6", "-q", "-c", "1", "-W", "2", f"{to}%{a.link_to(b, family)}"]
        assert machine.start(ping, a.target, stdout=subprocess.DEVNULL).wait() != 0
    a.write_conf()
    a.up()
    mesh.ping_all()

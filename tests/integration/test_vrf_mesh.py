"""Four nodes in a diamond with VRF isolation, routed by BIRD as docs/routing.md has it.

Not by babeld: Debian's does not hear its neighbours in a VRF; see there.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.integration import machine
from tests.integration.conftest import MakeMesh
from tests.integration.harness import Node
from tests.integration.routing import Bird, documented, eventually, loopback, replaced
from tests.integration.test_vrf import TABLE, TARGET, write_vrf_conf
from tests.tiers import need

pytestmark = pytest.mark.kernel


def configuration(node: Node) -> str:
    """The guide's, with what it says to change for a VRF, and this node's name prefixes."""
    changes = {
        "protocol babel {\n": f'protocol babel {{\n  vrf "{TARGET}";\n',
        "protocol kernel {\n": f"protocol kernel {{\n  kernel table {TABLE};\n",
        'interface "lo"': f'interface "{TARGET}"',
        "router id 192.0.2.1": f"router id 192.0.2.{node.number}",
        '"rait4x*", "rait6x*"': f'"{node.tag}4*", "{node.tag}6*"',
        "hello interval 20 s": "hello interval 2 s",
    }
    return replaced(documented("bird"), changes)


def way(node: Node, to: Node) -> str:
    """The link over which the VRF's table leads to another node's loopback address, or ""."""
    show = ["ip", "-6", "route", "show", "vrf", TARGET, loopback(to.number)]
    _, _, rest = machine.run(show, node.netns).partition(" dev ")
    return rest.split()[0] if rest else ""


def reaches(node: Node, other: Node) -> bool:
    return machine.answers(node.netns, "-6", "-I", TARGET, loopback(other.number))


def test_two_hops_and_another_way_when_a_tunnel_goes(make_mesh: MakeMesh, tmp_path: Path) -> None:
    need("bird", "bird2")
    a, b, c, d = nodes = make_mesh(4).nodes
    neighbours = {a: (b, c), b: (a, d), c: (a, d), d: (b, c)}
    birds = []
    for node in nodes:
        write_vrf_conf(node)
        node.knows(*neighbours[node])
        machine.run(["sysctl", "-qw", "net.ipv6.conf.all.forwarding=1"], node.netns)
        node.up()
        machine.ip_batch([f"addr add {loopback(node.number)}/128 dev {TARGET}"], node.netns)
        birds.append(Bird(node.netns, tmp_path, configuration(node)))
    eventually(lambda: way(a, d), "A has a way to D")
    eventually(lambda: way(d, a), "D has a way to A")
    assert reaches(a, d)
    underlay = ["ip", "-6", "route", "show", loopback(d.number)]
    assert machine.run(underlay, a.netns) == "", "no route of the overlay in the main table"

    gone, left = (b, c) if way(a, d) in a.links_to(b) else (c, b)
    a.knows(left)
    a.up()
    eventually(lambda: way(a, d) in a.links_to(left), "the other way")
    eventually(lambda: way(d, a) in d.links_to(left), "and back")
    assert reaches(a, d)
    assert not set(machine.links(a.netns)) & a.links_to(gone)
    for bird in birds:
        bird.stop()

"""Four nodes in a diamond: babeld routes over links that rait has added to babeld."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

import pytest

from tests.integration import machine
from tests.integration.conftest import MakeMesh
from tests.integration.harness import Mesh, Node
from tests.integration.routing import Babeld, babeld_block, eventually, loopback, make_router, way
from tests.tiers import need

pytestmark = [pytest.mark.userspace, pytest.mark.kernel]

Neighbours = Mapping[Node, tuple[Node, ...]]


def reaches(node: Node, other: Node) -> bool:
    return machine.answers(node.target, "-6", "-I", loopback(node.number), loopback(other.number))


def diamond(mesh: Mesh) -> Neighbours:
    """A and D have B and C between them, and no link of their own."""
    a, b, c, d = mesh.nodes
    return {a: (b, c), b: (a, d), c: (a, d), d: (b, c)}


@contextmanager
def routed(neighbours: Neighbours, directory: Path) -> Iterator[None]:
    """The nodes up, each with a babeld that ``rait up`` has told of its links."""
    with ExitStack() as stack:
        for node, others in neighbours.items():
            node.knows(*others)
            make_router(node.target, node.number)
            daemon = Babeld(node.target, directory)
            stack.callback(daemon.stop)
            node.write_conf(text=node.conf_hcl() + babeld_block(daemon.socket, sync=True))
            node.up()
        yield


def test_two_hops_and_another_way_when_a_tunnel_goes(make_mesh: MakeMesh, tmp_path: Path) -> None:
    need("babeld", "babeld")
    mesh = make_mesh(4)
    a, b, c, d = mesh.nodes
    with routed(diamond(mesh), tmp_path):
        eventually(lambda: way(a.target, loopback(d.number)), "A has a way to D")
        eventually(lambda: way(d.target, loopback(a.number)), "D has a way to A")
        assert reaches(a, d)
        assert a.up("--json").json["status"] == "unchanged"

        used = way(a.target, loopback(d.number))
        gone, left = (b, c) if used in a.links_to(b) else (c, b)
        a.knows(left)
        events = a.up("--json").events
        assert {e["link"] for e in events if e["type"] == "BabelInterfaceFlushed"} == a.links_to(
            gone
        )
        eventually(lambda: way(a.target, loopback(d.number)) in a.links_to(left), "the other way")
        eventually(lambda: way(d.target, loopback(a.number)) in d.links_to(left), "and back")
        assert reaches(a, d)
        assert set(a.interfaces()) == a.links_to(left)

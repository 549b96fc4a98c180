"""Four nodes in a diamond, routed by babeld over rait's own links."""

from __future__ import annotations

from pathlib import Path

import pytest

from rait.adapters.babeld import BabeldClient
from rait.domain.config import DEFAULT_BABELD_PARAM
from rait.domain.config import Babeld as Settings
from tests.integration import machine
from tests.integration.conftest import MakeMesh
from tests.integration.harness import Node
from tests.integration.routing import Babeld, eventually, loopback, make_router, need, way

pytestmark = [pytest.mark.userspace, pytest.mark.kernel]


def speak(babeld: Babeld, links: set[str]) -> None:
    """Have babeld speak on the links, with hellos to suit a test."""
    with BabeldClient(Settings(socket_addr=babeld.socket)) as client:
        for link in sorted(links):
            client.add(link, f"{DEFAULT_BABELD_PARAM} hello-interval 1")


def reaches(node: Node, other: Node) -> bool:
    ping = ["ping", "-6", "-n", "-q", "-c", "1", "-w", "30"]
    ping += ["-I", loopback(node.number), loopback(other.number)]
    return machine.start(ping, node.target).wait() == 0


def test_two_hops_and_another_way_when_a_tunnel_goes(make_mesh: MakeMesh, tmp_path: Path) -> None:
    need("babeld", "babeld")
    a, b, c, d = nodes = make_mesh(4).nodes
    neighbours = {a: (b, c), b: (a, d), c: (a, d), d: (b, c)}
    daemons = []
    for node in nodes:
        node.knows(*neighbours[node])
        make_router(node.target, node.number)
        node.up()
        daemons.append(Babeld(node.target, tmp_path))
        speak(daemons[-1], node.links_to(*neighbours[node]))
    eventually(lambda: way(a.target, loopback(d.number)), "A has a way to D")
    eventually(lambda: way(d.target, loopback(a.number)), "D has a way to A")
    assert reaches(a, d)

    used = way(a.target, loopback(d.number))
    gone, left = (b, c) if used in a.links_to(b) else (c, b)
    a.knows(left)
    a.up()
    eventually(lambda: way(a.target, loopback(d.number)) in a.links_to(left), "the other way")
    eventually(lambda: way(d.target, loopback(a.number)) in d.links_to(left), "and back")
    assert reaches(a, d)
    assert not set(a.interfaces()) & a.links_to(gone)
    for daemon in daemons:
        daemon.stop()

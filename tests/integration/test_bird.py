"""BIRD routes over rait's own links as docs/routing.md has it: by pattern, with nothing to sync."""

from __future__ import annotations

from contextlib import closing
from pathlib import Path

import pytest

from rait.adapters.babeld import BabeldClient
from rait.domain.config.schema import DEFAULT_BABELD_PARAM
from rait.domain.config.schema import Babeld as Settings
from tests.integration import machine
from tests.integration.conftest import MakeMesh
from tests.integration.harness import FAMILIES, Node
from tests.integration.routing import (
    Babeld,
    Bird,
    documented,
    eventually,
    loopback,
    make_router,
    replaced,
    route,
    way,
)
from tests.tiers import need

pytestmark = [pytest.mark.userspace, pytest.mark.kernel]


def configuration(node: Node) -> str:
    """The guide's, with this node's name prefixes, and hellos to suit a test."""
    changes = {
        "router id 192.0.2.1": f"router id 192.0.2.{node.number}",
        '"rait4x*", "rait6x*"': f'"{node.tag}4*", "{node.tag}6*"',
        "hello interval 20 s": "hello interval 1 s",
    }
    return replaced(documented("bird"), changes)


def interfaces(bird: Bird) -> set[str]:
    return {words[0] for words in bird.show("babel", "interfaces") if words[1:2] == ["Up"]}


def neighbours(bird: Bird) -> set[str]:
    """The links on which BIRD has a neighbour."""
    return {words[1] for words in bird.show("babel", "neighbors") if words[0].startswith("fe80:")}


def leads_over(node: Node, to: Node, links: set[str]) -> bool:
    return way(node.target, loopback(to.number)) in links


def test_bird_finds_our_links_by_their_names(make_mesh: MakeMesh, tmp_path: Path) -> None:
    need("bird", "bird2")
    a, b = make_mesh(2).nodes
    birds = []
    for node in (a, b):
        make_router(node.target, node.number)
        birds.append(Bird(node.target, tmp_path, configuration(node)))
    assert interfaces(birds[0]) == set()
    a.up()
    b.up()
    for bird, node, other in zip(birds, (a, b), (b, a), strict=True):
        links = node.links_to(other)
        eventually(lambda b=bird, want=links: interfaces(b) == want, "BIRD has the links")
        eventually(lambda b=bird, want=links: neighbours(b) == want, "neighbours on each link")
        eventually(lambda n=node, o=other, over=links: leads_over(n, o, over), "a route")
    assert machine.answers(a.target, "-6", "-I", loopback(1), loopback(2))
    a.down()
    eventually(lambda: interfaces(birds[0]) == set(), "BIRD lets go of the links")
    eventually(lambda: not route(a.target, loopback(b.number)), "the route goes with them")
    for bird in birds:
        bird.stop()


def test_bird_and_babeld_understand_each_other(make_mesh: MakeMesh, tmp_path: Path) -> None:
    need("bird", "bird2")
    need("babeld", "babeld")
    a, b = make_mesh(2).nodes
    for node in (a, b):
        make_router(node.target, node.number)
        node.up()
    bird = Bird(a.target, tmp_path, configuration(a))
    babeld = Babeld(b.target, tmp_path)
    with closing(BabeldClient(Settings(socket_addr=babeld.socket))) as client:
        for family in FAMILIES:
            client.add(b.link_to(a, family), f"{DEFAULT_BABELD_PARAM} hello-interval 1")
    eventually(lambda: neighbours(bird) == a.links_to(b), "BIRD has babeld for a neighbour")
    eventually(lambda: leads_over(a, b, a.links_to(b)), "BIRD has a route from babeld")
    eventually(lambda: leads_over(b, a, b.links_to(a)), "babeld has a route from BIRD")
    bird.stop()
    babeld.stop()

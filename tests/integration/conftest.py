"""Fixtures of the tests that run rait itself on namespaces of their own."""

from __future__ import annotations

import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NoReturn

import pytest

from tests.integration import etcd as real
from tests.integration.harness import Mesh, Node
from tests.integration.watching import StartWatch, Watch

HANGS = {"pure": 300, "userspace": 1200, "kernel": 1800}
"""No test comes near these seconds; one that does hangs, and must not hang all the others."""

MakeMesh = Callable[[int], Mesh]
Nodes = tuple[Node, Node, Node]


@pytest.fixture
def tier(request: pytest.FixtureRequest) -> str:
    """The tier that runs. The name of a tier with real tunnels is that of its backend too."""
    return request.config.getoption("--tier")


@pytest.fixture(autouse=True)
def _not_for_ever(tier: str) -> Iterator[None]:
    def give_up(*_: object) -> NoReturn:
        raise TimeoutError("this test hangs")

    previous = signal.signal(signal.SIGALRM, give_up)
    signal.alarm(HANGS[tier])
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, previous)


@pytest.fixture(autouse=True, scope="session")
def _cleanup_on_sigterm() -> None:
    """On SIGTERM, end as on Ctrl-C, so that what tests made is removed."""

    def interrupt(*_: object) -> NoReturn:
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)


@pytest.fixture
def make_mesh(tier: str, tmp_path: Path) -> Iterator[MakeMesh]:
    """A function that makes a mesh of so many nodes, each with all others as peers, and none up."""
    meshes: list[Mesh] = []

    def make(count: int) -> Mesh:
        directory = tmp_path / f"mesh{len(meshes)}"
        directory.mkdir()
        mesh = Mesh(count, tier, directory)
        meshes.append(mesh)
        mesh.build()
        return mesh

    yield make
    for mesh in meshes:
        mesh.remove()


@pytest.fixture
def nodes(make_mesh: MakeMesh) -> Nodes:
    """Three nodes, none up."""
    a, b, c = make_mesh(3).nodes
    return a, b, c


@pytest.fixture
def mesh(make_mesh: MakeMesh) -> Mesh:
    """Two nodes, both up, with sessions on both tunnels."""
    mesh = make_mesh(2)
    mesh.up()
    mesh.ping_all()
    return mesh


@pytest.fixture(scope="session")
def _etcd() -> Iterator[real.Cluster]:
    with real.cluster() as cluster:
        yield cluster


@pytest.fixture
def etcd(_etcd: real.Cluster) -> Iterator[real.Cluster]:
    """Three members on this namespace's loopback, without keys; a test may do to them what it will.

    A test that wants users or TLS makes a cluster of its own.
    """
    yield _etcd
    _etcd.heal()
    _etcd.clear()


@pytest.fixture
def watch() -> Iterator[StartWatch]:
    """Starts `rait watch` on a node; all are ended after the test."""
    started: list[Watch] = []

    def start(node: Node, *arguments: str, **how: Any) -> Watch:
        started.append(Watch(node, *arguments, **how))
        return started[-1]

    yield start
    for each in started:
        if not each.is_over:
            each.running.kill()

"""rait killed at any moment: the next run ends in the right state, and nothing is left over."""

from __future__ import annotations

import random
import time

import pytest

from tests.integration.conftest import MakeMesh
from tests.integration.harness import Mesh, Node
from tests.integration.routing import eventually

pytestmark = [pytest.mark.userspace, pytest.mark.kernel]

ROUNDS = {"userspace": 36, "kernel": 12}


@pytest.fixture
def rng(request: pytest.FixtureRequest) -> random.Random:
    """Random moments; pytest shows the seed of a test that fails."""
    seed = random.SystemRandom().randrange(1 << 32)
    print(f"{request.node.name}: seed {seed}")
    return random.Random(seed)


def length_of(node: Node, command: str) -> float:
    """How long a run takes here, in seconds, to choose moments within it."""
    begin = time.monotonic()
    assert node.rait(command).status == 0
    return time.monotonic() - begin


def killed(node: Node, command: str, after: float) -> int:
    running = node.start(command)
    time.sleep(after)
    return running.kill().status


def assert_settled(node: Node, names: set[str]) -> None:
    """The next up mends all, and the one after it finds nothing more to do."""
    node.up()
    node.assert_has_exactly(names)
    again = node.rait("up", "--json")
    assert again.json["status"] == "unchanged", again


def test_killed_while_making_links(make_mesh: MakeMesh, rng: random.Random, tier: str) -> None:
    mesh = make_mesh(3)
    a, b, c = mesh.nodes
    b.up()
    c.up()
    length = length_of(a, "up")
    for number in range(ROUNDS[tier] // 2):
        a.down()
        moment = rng.uniform(0, length)
        status = killed(a, "up", moment)
        print(f"round {number}: up ended with {status} after {moment:.3f} s")
        assert_settled(a, a.links_to(b, c))
    mesh.ping_all()
    a.down()
    # A program that a killed run had just started may take another moment to end.
    eventually(lambda: a.leftovers() == [], "nothing is left")


def test_killed_while_changing_links(make_mesh: MakeMesh, rng: random.Random, tier: str) -> None:
    mesh = make_mesh(3)
    a, b, c = mesh.nodes
    mesh.up()
    length = length_of(a, "up")
    for number in range(ROUNDS[tier] // 2):
        others = [(b,), (c,), (b, c)][number % 3]
        a.knows(*others)
        moment = rng.uniform(0, 2 * length)
        status = killed(a, "up", moment)
        print(f"round {number}: up ended with {status} after {moment:.3f} s")
        assert_settled(a, a.links_to(*others))
    mesh.ping_all()


def test_killed_while_removing_links(make_mesh: MakeMesh, rng: random.Random, tier: str) -> None:
    a = make_mesh(2).nodes[0]
    a.up()
    length = length_of(a, "down")
    for _ in range(ROUNDS[tier] // 6):
        a.up()
        killed(a, "down", rng.uniform(0, length))
        a.down()
        # A program that the killed run told to end may take another moment to do so.
        eventually(lambda: a.leftovers() == [], "nothing is left")


def test_sessions_outlive_a_killed_sync(make_mesh: MakeMesh, rng: random.Random) -> None:
    mesh: Mesh = make_mesh(2)
    a, _ = mesh.nodes
    mesh.up()
    mesh.ping_all()
    before = a.state()
    length = length_of(a, "up")
    for _ in range(3):
        killed(a, "up", rng.uniform(0, length))
    a.up()
    assert a.state() == before

"""`rait watch` in storms: bursts of changes, kills at any moment, and a long life."""

from __future__ import annotations

import json
import random
import signal
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration import machine
from tests.integration.conftest import MakeMesh
from tests.integration.harness import Node
from tests.integration.registry import Registry, answering
from tests.integration.watching import WATCH, StartWatch, Watch, most_syncs, until

pytestmark = pytest.mark.userspace

KILLS = 50
Nodes = tuple[Node, Node, Node]


@pytest.fixture
def nodes(make_mesh: MakeMesh) -> Nodes:
    a, b, c = make_mesh(3).nodes
    a.write_conf(text=a.conf_hcl() + WATCH)
    return a, b, c


@pytest.mark.parametrize("pause", [0, 0.002])
def test_a_burst_of_writes_is_a_few_syncs(nodes: Nodes, watch: StartWatch, pause: float) -> None:
    """Of the last write at least: what comes before it is of no use to anybody."""
    a, b, c = nodes
    watching = watch(a)
    began = time.monotonic()
    for number in range(1000):
        a.knows(b) if number % 2 == 0 else a.knows(b, c)
        time.sleep(pause)
    a.knows(c)
    watching.has(a.links_to(c))
    watching.running.signal(signal.SIGHUP)  # its sync is the last one
    until(lambda: watching.syncs_for("SIGHUP"), watching.said)
    assert watching.syncs(1)[0] == "start"
    count = watching.syncs_for("peers list changed")
    assert 1 <= count <= most_syncs(time.monotonic() - began), watching.syncs(1)
    assert watching.end().status == 0


def test_a_link_that_somebody_deletes_again_and_again_comes_back(
    nodes: Nodes, watch: StartWatch
) -> None:
    a, b, c = nodes
    watching = watch(a)
    name, kept = a.link_to(b, "ip4"), a.link_to(c, "ip6")
    before = a.state()[kept]
    for _ in range(4):
        until(lambda: name in a.state(), watching.said)
        machine.ip_batch([f"link del {name}"], a.target)
    watching.says(f"somebody else changes or removes {name} again and again")
    watching.has(a.links_to(b, c))
    assert a.state()[kept] == before
    assert watching.end().status == 0


@pytest.fixture
def rng(request: pytest.FixtureRequest) -> random.Random:
    """Random moments; pytest shows the seed of a test that fails."""
    seed = random.SystemRandom().randrange(1 << 32)
    print(f"{request.node.name}: seed {seed}")
    return random.Random(seed)


def test_nothing_is_lost_whenever_it_is_killed(nodes: Nodes, rng: random.Random) -> None:
    """The next one ends what is half done, and blames nobody else for it."""
    a, b, c = nodes
    before = time.monotonic()
    Watch(a).end()
    length = time.monotonic() - before
    for number in range(KILLS):
        watching = Watch(a, synced=False)
        moment = rng.uniform(0, 2 * length)
        others = [(b,), (c,), (b, c)][number % 3]
        time.sleep(moment / 2)
        a.knows(*others)
        time.sleep(moment / 2)
        status = watching.running.kill().status
        print(f"round {number}: killed after {moment:.3f} s, status {status}")
        if number % 5 == 4:
            watching = Watch(a)
            watching.has(a.links_to(*others))
            assert watching.end().status == 0
            assert a.rait("up", "--json").json["status"] == "unchanged"
            a.assert_has_exactly(a.links_to(*others))
    assert a.rait("log", "verify").status == 0
    for line in a.rait("log", "--json").out.splitlines():
        for event in json.loads(line)["noticed"]:
            assert event["left_by_unfinished_run"], event


@pytest.fixture
def registry(nodes: Nodes) -> Iterator[Registry]:
    a, b, _ = nodes
    with answering(a.netns, b.entry()) as registry:
        watch = WATCH.replace('look = "1h"', 'look = "1s"')
        a.write_conf(text=a.conf_hcl(peers=f'"{registry.url}"') + watch)
        yield registry


def descriptors(pid: int) -> int:
    return len(list(Path(f"/proc/{pid}/fd").iterdir()))


def test_it_grows_by_no_descriptor_and_no_thread(
    nodes: Nodes, registry: Registry, watch: StartWatch
) -> None:
    a, b, c = nodes
    watching = watch(a, exec_=True)
    tasks = Path(f"/proc/{watching.running.pid}/task")
    most: list[tuple[int, int]] = []
    for number in range(10):
        registry.page = b.entry() + (c.entry() if number % 2 == 0 else "")
        watching.has(a.links_to(b, c) if number % 2 == 0 else a.links_to(b))
        watching.running.signal(signal.SIGHUP)
        watching.syncs(3 * (number + 1))
        most.append((descriptors(watching.running.pid), len(list(tasks.iterdir()))))
    early = max(fds for fds, _ in most[1:4]), max(threads for _, threads in most[1:4])
    late = min(fds for fds, _ in most[-3:]), min(threads for _, threads in most[-3:])
    assert late <= early, most
    assert watching.end().status == 0

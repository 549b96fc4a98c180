"""What a tunnel of two real nodes does while one of them, A, gets another SendPort.

`rait up` writes the new port into A's endpoint of B at once. To leave the endpoint alone while the
session lives would be to do nothing on A, as nothing else changes there: so what a tunnel does then
is what it does while B alone has synced. In ip4, B has an address of A, and in ip6 it has none.
tests/unit/test_pairs.py has the same by the model, and docs/fleet.md what follows.
"""

from __future__ import annotations

import subprocess
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import pytest

from tests.integration import machine
from tests.integration.conftest import MakeMesh
from tests.integration.harness import FAMILIES, Family, Mesh, Node, ping

pytestmark = pytest.mark.userspace

TIMERS = 18
"""Seconds after which WireGuard has given up a session in which nobody answers (15 s, and up to
1/3 s more), and has shaken hands anew. What is not back by then waits for something else."""
QUIET = 20
"""Seconds after which no end waits any more for an answer to what it sent before."""


Cell = tuple[str, Family]
"""One tunnel of a case, by the words for the case."""


class Case(NamedTuple):
    """Two nodes with live sessions. ``hellos``: B sends too, as a routing daemon's hellos do."""

    mesh: Mesh
    first: Literal["A", "B"]
    hellos: bool
    addresses: dict[Cell, str]

    def __str__(self) -> str:
        return f"{self.first} first, {'with' if self.hellos else 'without'} hellos of B"

    def sync(self, step: int) -> None:
        """Have A, or B, go to the new version."""
        a, b = self.mesh.nodes
        if (self.first == "A") == (step == 1):
            a.write_conf()
            a.up()
        else:
            b.write_peers([of_b_about(a)])
            b.up()


def of_b_about(a: Node) -> str:
    """The entry of A, without an address in ip6."""
    return a.entry().replace(f'Endpoint = "{a.addresses["ip6"]}"\n', "")


def begun(make_mesh: MakeMesh, first: Literal["A", "B"], *, hellos: bool) -> Case:
    mesh = make_mesh(2)
    a, b = mesh.nodes
    for node in mesh.nodes:
        machine.ip_batch([f"netns add {node.target}"])
        with machine.inside(node.target):  # so that links send nothing by themselves
            Path("/proc/sys/net/ipv6/conf/default/router_solicitations").write_text("0")
    b.write_peers([of_b_about(a)])
    mesh.up()
    unanswered = mesh.unanswered([(a, b)])
    assert not unanswered, unanswered
    listed = {"A": (a, b), "B": (b, a)}
    addresses = {
        (name, family): node.listed()[node.link_to(other, family)]["address"]
        for name, (node, other) in listed.items()
        for family in FAMILIES
    }
    for family in FAMILIES:  # from now on, in what both are about to write
        a.ports[family] += 10
    return Case(mesh, first, hellos, addresses)


def fall_silent(cases: Iterable[Case]) -> None:
    """Wait until each A has told B by a keepalive that it got the last answer.

    Until then, B would shake hands anew if A were not heard.
    """
    nodes = [case.mesh.nodes[1] for case in cases]
    before, begin = [received(node) for node in nodes], time.monotonic()
    while time.monotonic() - begin < QUIET:
        now = [received(node) for node in nodes]
        if all(
            new > old
            for n, o in zip(now, before, strict=True)
            for new, old in zip(n, o, strict=True)
        ):
            return
        time.sleep(0.2)


def received(node: Node) -> list[int]:
    """The bytes that each link of a node has received; `wg` shows those of all nodes."""
    lines = machine.wg_all("transfer", node.target).splitlines()
    return [int(line.split("\t")[2]) for line in sorted(lines) if line.startswith(node.tag)]


def come_back(
    cases: Sequence[Case], lost: set[tuple[str, Family]]
) -> dict[tuple[str, Family], str]:
    """Have each A send to B until it is answered; those that are ``lost`` must not be.

    Gives how long each took.
    """
    pings: dict[Cell, subprocess.Popen[str]] = {}
    hellos: list[subprocess.Popen[str]] = []
    for case in cases:
        a, b = case.mesh.nodes
        for family in FAMILIES:
            (out,) = [n for n in a.state() if n == a.link_to(b, family)]
            (back,) = [n for n in b.state() if n.startswith(f"{b.tag}{family[2]}")]
            pings[str(case), family] = ping(a.target, out, case.addresses["B", family])
            if case.hellos:
                hellos.append(ping(b.target, back, case.addresses["A", family]))
    begin, took = time.monotonic(), {}
    try:
        while time.monotonic() - begin < TIMERS or pings.keys() - took.keys() - lost:
            for cell in pings.keys() - took.keys():
                if pings[cell].poll() == 0:
                    took[cell] = f"{time.monotonic() - begin:.1f} s"
            late = pings.keys() - took.keys() - lost
            assert time.monotonic() - begin < machine.PATIENCE, late
            time.sleep(0.05)
    finally:
        for each in (*pings.values(), *hellos):
            each.kill()
            each.wait()
    return took


def test_an_endpoint_that_is_written_at_once_ends_with_a_tunnel_in_nearly_all_cases(
    make_mesh: MakeMesh,
) -> None:
    cases = [
        begun(make_mesh, first, hellos=hellos) for first in ("A", "B") for hellos in (True, False)
    ]
    one_with, one_without, other_with, other_without = map(str, cases)
    fall_silent(cases)
    # Where A is first and B sends, B brings A back. Where B alone has synced, as if A had left its
    # endpoint alone, A is found by a B that has its address and sends.
    lost: list[set[Cell]] = [
        {(name, family) for name in (one_without, other_without) for family in FAMILIES}
        | {(other_with, "ip6")},
        # A is back at the old port, where B is no more, and B cannot begin.
        {(one_with, "ip6")},
    ]
    for step, silent in enumerate(lost, start=1):
        for case in cases:
            case.sync(step)
        took = come_back(cases, silent)
        print(f"step {step}:", *(f"\n  {', '.join(k)}: {v}" for k, v in sorted(took.items())))
        assert not silent & took.keys(), "a tunnel came back that nobody can have woken"

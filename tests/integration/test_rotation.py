"""A node takes another key and other SendPorts by the steps of docs/rotation.md, under traffic."""

from __future__ import annotations

import json
import re
import signal
import socket
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import IO, NamedTuple

import pytest

from tests.integration import machine
from tests.integration.command import Result
from tests.integration.conftest import MakeMesh
from tests.integration.harness import FAMILIES, IFGROUP, Node
from tests.integration.routing import (
    PARAM,
    Babeld,
    babeld_block,
    eventually,
    loopback,
    make_router,
    replaced,
    way,
)
from tests.tiers import need

pytestmark = [pytest.mark.userspace, pytest.mark.kernel]

INTERVAL = 0.05
"""Seconds between two pings."""

BLINK = int(0.5 / INTERVAL)
"""So many pings may be lost: babeld takes a route out before it puts another in its place, and may
have to wait for the processor between. Without a way over the new links it would be seconds."""

INFINITY = 65535
"""The metric of a way that is none (RFC 8966, section 3.5.2)."""


class Configuration:
    """A configuration of the node that rotates: all that is its own, as the page has it.

    ``number`` tells it from those before it: 0, 1, 2.
    """

    def __init__(self, node: Node, daemon: Babeld, key: tuple[str, str], number: int) -> None:
        self.node = node
        self.daemon = daemon
        self.private_key, self.public_key = key
        self.ifgroup = IFGROUP + number % 2
        self.ports = {family: port + 100 * number for family, port in node.ports.items()}
        self.prefixes = {f: f"{node.tag}{int(f[2]) + number % 2}" for f in FAMILIES}
        self.conf = node.directory / "next.conf" if number else node.conf

    def write(self, *, param: str = PARAM, dynamic: bool = False) -> None:
        node, name = self.node, json.dumps("gate")
        changes = {f"ifgroup = {IFGROUP}": f"ifgroup = {self.ifgroup}"}
        for family in FAMILIES:
            port = f"send_port = {self.ports[family]}"
            port += "\n  dynamic_port = true" if dynamic else ""
            changes[f"send_port = {node.ports[family]}"] = port
            changes[f'"{node.tag}{family[2]}"'] = json.dumps(self.prefixes[family])
        text = node.conf_hcl(private_key=json.dumps(self.private_key), name=name)
        block = babeld_block(self.daemon.socket, sync=True, param=param)
        self.conf.write_text(replaced(text, changes) + block)
        self.conf.chmod(0o600)

    @property
    def entry(self) -> str:
        """The entry of the node that belongs to this configuration."""
        changes = {f"= {self.node.ports[f]}\n": f"= {self.ports[f]}\n" for f in FAMILIES}
        text = self.node.entry().replace(self.node.public_key, self.public_key)
        return replaced(text, changes) + 'Name = "gate"\n'

    def rait(self, *arguments: str) -> Result:
        """Run rait with this configuration, which must succeed."""
        result = self.node.rait("-c", str(self.conf), *arguments)
        assert result.status == 0, result
        assert self.private_key not in result.out + result.err
        return result

    def links_to(self, *others: Node) -> set[str]:
        return {f"{self.prefixes[f]}{other.ports[f]}" for other in others for f in FAMILIES}

    def links_from(self, other: Node) -> set[str]:
        return {f"{other.tag}{family[2]}{self.ports[family]}" for family in FAMILIES}


class Overlay:
    """Nodes that route by babeld, all with one registry; the first of them rotates."""

    def __init__(self, nodes: list[Node], directory: Path, stack: ExitStack) -> None:
        self.node, *self.others = self.nodes = nodes
        self.daemons: dict[Node, Babeld] = {}
        for node in nodes:
            make_router(node.target, node.number)
            daemon = self.daemons[node] = Babeld(node.target, directory)
            stack.callback(daemon.stop)
            node.write_conf(text=node.conf_hcl() + babeld_block(daemon.socket, sync=True))

    def publish(self, *entries: str) -> None:
        """The registry: these entries of the node that rotates, and those of the others."""
        for node in self.nodes:
            node.write_peers([*entries, *(other.entry() for other in self.others)])

    def await_ways(self, node: Node, to: Node, links: set[str]) -> None:
        daemon = self.daemons[node]
        eventually(lambda: known_ways(daemon, to) >= links, f"{node.tag} knows a way over {links}")

    @staticmethod
    def await_move(node: Node, to: Node, links: set[str]) -> None:
        eventually(lambda: way(node.target, loopback(to.number)) in links, f"over {links}")

    @contextmanager
    def traffic(self, may_lose: int) -> Iterator[None]:
        """A steady ping from each of the others to the node and back, of which all is answered."""
        with ExitStack() as stack:
            pings = [stack.enter_context(steady_ping(other, self.node)) for other in self.others]
            yield
            for ping in pings:
                answered, lost = outcome(ping)
                assert answered
                assert lost <= may_lose, f"{lost} of {answered + lost} pings were lost"


def known_ways(daemon: Babeld, to: Node) -> set[str]:
    """The interfaces over which babeld knows a way to a node, in use or not (babeld(8), dump)."""
    with closing(socket.socket(socket.AF_UNIX)) as client:
        client.connect(daemon.socket)
        client.sendall(b"dump\nquit\n")
        text = b"".join(iter(lambda: client.recv(65536), b"")).decode(errors="replace")
    pattern = rf"^add route .* prefix {loopback(to.number)}/128 .* metric (\d+) .* if (\S+)$"
    return {name for metric, name in re.findall(pattern, text, re.M) if int(metric) < INFINITY}


class Ping(NamedTuple):
    """A ping that runs, and a file for what it says: a pipe would be full within a minute."""

    process: subprocess.Popen[str]
    said: IO[str]


@contextmanager
def steady_ping(node: Node, to: Node) -> Iterator[Ping]:
    """A ping from one node's loopback address to another's, all the while."""
    command = ["ping", "-6", "-n", "-i", str(INTERVAL), "-I", loopback(node.number)]
    with tempfile.TemporaryFile("w+") as file:
        process = machine.start([*command, loopback(to.number)], node.target, stdout=file)
        try:
            yield Ping(process, file)
        finally:
            process.kill()
            process.wait()


def outcome(ping: Ping) -> tuple[int, int]:
    """End a ping; how many were answered, and how many in between were not."""
    ping.process.send_signal(signal.SIGINT)
    ping.process.wait()
    ping.said.seek(0)
    text = ping.said.read()
    answered = {int(number) for number in re.findall(r"icmp_seq=(\d+) ttl", text)}
    return len(answered), max(answered) - min(answered) + 1 - len(answered)


def rotate(overlay: Overlay, first: Configuration, second: Configuration) -> None:
    """The steps of docs/rotation.md, each with what the page says is to be seen then."""
    node, others = overlay.node, overlay.others
    old, new = first.links_to(*others), second.links_to(*others)
    with overlay.traffic(may_lose=BLINK):
        # 1 and 2: a second configuration, and its entry
        second.write(dynamic=True)
        overlay.publish(first.entry, second.entry)
        for other in others:
            assert other.up("--json").touched == second.links_from(other)
        up = first.rait("up")
        assert f"{second.public_key}): has this node's name" in up.err
        assert "nothing to do" in up.out
        up = second.rait("up")
        assert f"{first.public_key}): has this node's name" in up.err
        assert set(node.interfaces()) == old | new

        # 3: a way over each new link, from both ends
        for other in others:
            overlay.await_ways(node, other, first.links_to(other) | second.links_to(other))
            overlay.await_ways(other, node, first.links_from(other) | second.links_from(other))

        # 4: the traffic moves over
        first.write(param=f"{PARAM} rxcost 1024")
        first.rait("up")
        for other in others:
            overlay.await_move(node, other, second.links_to(other))
            overlay.await_move(other, node, second.links_from(other))

        # 5: the first entry goes, and the first configuration
        overlay.publish(second.entry)
        for other in others:
            assert other.up("--json").touched == first.links_from(other)
        first.rait("down")
        assert set(node.interfaces()) == new

    # 6: the new links take the ports of the old ones. A peer sends to the former port until this
    # node sends something from the new one, which babeld's hellos do within a second here.
    with overlay.traffic(may_lose=int(5 / INTERVAL)):
        second.write()
        second.rait("up")
        for link in sorted(new):
            assert machine.answers(node.target, "-6", f"ff02::1%{link}")
        assert {state.listen_port for state in node.state().values()} == {
            other.ports[family] for other in others for family in FAMILIES
        }

    # 7: the second configuration takes the place of the first
    second.conf.rename(node.conf)
    second.conf = node.conf
    assert second.rait("up", "--json").json["status"] == "unchanged"
    assert set(node.interfaces()) == new


def test_a_new_key_and_then_new_ports_alone_without_an_outage(
    make_mesh: MakeMesh, tmp_path: Path
) -> None:
    """The second time with the key of the beginning, so that in the end only the ports are new."""
    need("babeld", "babeld")
    nodes = make_mesh(3).nodes
    node, *others = nodes
    keys = ((node.private_key, node.public_key), machine.genkey())
    with ExitStack() as stack:
        overlay = Overlay(nodes, tmp_path, stack)
        first, second, third = (
            Configuration(node, overlay.daemons[node], keys[number % 2], number)
            for number in range(3)
        )
        first.write()
        overlay.publish(first.entry)
        for each in nodes:
            each.up()
        for other in others:
            source = loopback(other.number)
            assert machine.answers(other.target, "-6", "-I", source, loopback(node.number))
        rotate(overlay, first, second)
        rotate(overlay, second, third)
        assert (third.public_key, third.ports["ip4"]) == (node.public_key, node.ports["ip4"] + 200)

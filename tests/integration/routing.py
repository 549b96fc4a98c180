"""Routing daemons of Debian's, run in a test's namespaces."""

from __future__ import annotations

import itertools
import json
import os
import re
import socket
import subprocess
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rait.domain.config.schema import DEFAULT_BABELD_PARAM
from tests.integration import machine
from tests.integration.machine import eventually

PARAM = f"{DEFAULT_BABELD_PARAM} hello-interval 1"
"""What rait has babeld do on each link, with hellos to suit a test."""

GUIDE = Path(__file__).parents[2] / "docs" / "routing.md"

_namespaces = itertools.count(1)


@contextmanager
def namespaces(count: int) -> Iterator[list[str]]:
    """New network namespaces with lo up, which are removed at the end with what runs in them."""
    names = [f"rait-test-{os.getpid()}-{next(_namespaces)}" for _ in range(count)]
    try:
        for name in names:
            machine.run(["ip", "netns", "add", name])
            machine.ip_batch(["link set lo up"], name)
        yield names
    finally:
        for name in names:
            machine.remove_netns(name)


def veth(netns: str, name: str, other_netns: str, other_name: str) -> None:
    """Join two namespaces by a pair of interfaces, both up."""
    peer = f"type veth peer name {other_name} netns {other_netns}"
    machine.ip_batch([f"link add {name} netns {netns} {peer}"])
    machine.ip_batch([f"link set {name} up"], netns)
    machine.ip_batch([f"link set {other_name} up"], other_netns)


def documented(language: str) -> str:
    """The one block in the routing guide that is written in this language."""
    pattern = rf"^```{language}\n(.*?)^```$"
    (text,) = re.findall(pattern, GUIDE.read_text(), re.MULTILINE | re.DOTALL)
    return text


def replaced(text: str, changes: dict[str, str]) -> str:
    """The text after replacements of strings that must each be in it once."""
    for before, after in changes.items():
        assert text.count(before) == 1, before
        text = text.replace(before, after)
    return text


def loopback(number: int) -> str:
    """An address for a node's lo that the guide's configurations announce (RFC 3849)."""
    return f"2001:db8:ffff::{number}"


def make_router(netns: str, number: int) -> None:
    """Make a namespace that forwards, with the node's loopback address, before any link."""
    machine.run(["ip", "netns", "add", netns])
    machine.ip_batch(["link set lo up", f"addr add {loopback(number)}/128 dev lo"], netns)
    machine.run(["sysctl", "-qw", "net.ipv6.conf.all.forwarding=1"], netns)


def babeld_block(
    socket: str, *, sync: bool = False, param: str = PARAM, extra_cmd: str = ""
) -> str:
    """The babeld block of a rait.conf in HCL."""
    values = {"socket_addr": socket, "sync": sync, "param": param, "extra_cmd": extra_cmd}
    lines = [f"  {key} = {json.dumps(value)}" for key, value in values.items()]
    return "\n".join(["babeld {", *lines, "}"]) + "\n"


def listens(path: str) -> bool:
    """Whether a program listens on a socket, which is there a moment before that."""
    with socket.socket(socket.AF_UNIX) as probe:
        return probe.connect_ex(path) == 0


class Babeld:
    """A running babeld, configured as the guide has it, with its control socket at ``socket``.

    It has one interface, lo, since it does not start without any, and those given. The socket is
    read-write by default.
    """

    def __init__(
        self,
        netns: str,
        directory: Path,
        *,
        writable: bool = True,
        interfaces: Iterable[str] = (),
    ) -> None:
        self.socket = str(directory / f"{netns}.ctl")
        self.log = directory / f"{netns}.log"
        file = directory / f"{netns}.babeld.conf"
        changes = {"/run/babeld.ctl": self.socket}
        if not writable:
            changes["local-path-readwrite"] = "local-path"
        more = "".join(f"interface {name}\n" for name in interfaces)
        file.write_text(replaced(documented("babeld"), changes) + more)
        command = ["babeld", "-I", "", "-S", str(directory / f"{netns}.state")]
        command += ["-L", str(self.log), "-c", str(file)]
        self.process = machine.start(command, netns, stderr=subprocess.DEVNULL)
        eventually(self._listens, f"babeld serves {self.socket}")

    def _listens(self) -> bool:
        assert self.process.poll() is None, self.log.read_text()
        return listens(self.socket)

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait()


class Bird:
    """A running BIRD with its control socket."""

    def __init__(self, netns: str, directory: Path, configuration: str) -> None:
        self.socket = str(directory / f"{netns}.bird")
        file = directory / f"{netns}.bird.conf"
        file.write_text(configuration)
        command = ["bird", "-f", "-c", str(file), "-s", self.socket]
        self.process = machine.start(command, netns)
        eventually(lambda: listens(self.socket) or self.process.poll(), "BIRD's socket")
        assert self.process.poll() is None

    def show(self, *what: str) -> list[list[str]]:
        """The words of each line of ``birdc show``."""
        text = machine.run(["birdc", "-s", self.socket, "show", *what])
        return [line.split() for line in text.splitlines() if line.strip()]

    def stop(self) -> None:
        self.process.terminate()
        self.process.wait()


def route(netns: str, prefix: str) -> str:
    """The line of ``ip route`` for a prefix, "" if there is no route."""
    family = "-6" if ":" in prefix else "-4"
    return machine.run(["ip", family, "route", "show", prefix], netns).strip()


def way(netns: str, address: str) -> str:
    """The interface over which the routes to an address lead, "" if there is no route."""
    _, _, rest = route(netns, address).partition(" dev ")
    return rest.split()[0] if rest else ""

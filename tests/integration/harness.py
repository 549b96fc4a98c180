"""A mesh of nodes on one machine: each a namespace of its own on a common underlay bridge.

Node k sends to port 50000+k over IPv4 and 51000+k over IPv6, and has 192.0.2.k and 2001:db8::k
(RFC 5737, RFC 3849) on the underlay. All names hold the process id, so that test runs that share
a machine do not meet.
"""

from __future__ import annotations

import itertools
import json
import os
import time
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

from tests.integration import machine
from tests.integration.command import Result, Running, start_exec, start_fork

Family = Literal["ip4", "ip6"]
FAMILIES: tuple[Family, ...] = ("ip4", "ip6")
IFGROUP = 54
MTU = {"ip4": 1420, "ip6": 1400}
FWMARK = 54

_meshes = itertools.count(1)


def _base36(number: int) -> str:
    digits = ""
    while number:
        number, digit = divmod(number, 36)
        digits = "0123456789abcdefghijklmnopqrstuvwxyz"[digit] + digits
    return digits or "0"


class Handshake(int):
    """When the last handshake with a peer was (unix time in seconds, 0 for none), and its bytes.

    Equal are two of which the one that was seen first may have become the other while nobody
    touched the peer. Two ends that begin a handshake in the same moment do it again 5 s later, as
    does one that a busy machine lets wait, and after two minutes it is done anew (WireGuard
    whitepaper, section 6.1). But a peer that was removed and added has no handshake at first, and
    counts its bytes from 0 again.
    """

    bytes: tuple[int, int]
    seen_at: int

    __hash__ = None  # type: ignore[assignment]

    @classmethod
    def of(cls, at: str, received: str, sent: str) -> Handshake:
        made = cls(at)
        made.bytes = int(received), int(sent)
        made.seen_at = time.monotonic_ns()
        return made

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Handshake) or int(self) == int(other):
            return int.__eq__(self, other)  # type: ignore[operator]
        before, after = (self, other) if self.seen_at < other.seen_at else (other, self)
        counts = zip((int(before), *before.bytes), (int(after), *after.bytes), strict=True)
        return all(now >= then for then, now in counts)

    def __ne__(self, other: object) -> bool:
        return not self == other


class LinkState(NamedTuple):
    """What changes when somebody touches a link."""

    index: int
    listen_port: int
    fwmark: str
    peer: str
    endpoint: str
    handshake: Handshake


class Node:
    """One node: its namespace, its configuration files, and rait run inside it."""

    def __init__(self, mesh: Mesh, number: int) -> None:
        letter = "abcdefgh"[number - 1]
        self.mesh = mesh
        self.number = number
        self.tag = f"{mesh.tag}{letter}"
        self.netns = f"rait-test-{self.tag}"
        self.target = f"rait-test-{self.tag}-mesh"
        self.private_key, self.public_key = machine.genkey()
        self.addresses: dict[str, str] = {"ip4": f"192.0.2.{number}", "ip6": f"2001:db8::{number}"}
        self.ports = {"ip4": 50000 + number, "ip6": 51000 + number}
        self.directory = mesh.directory / letter
        self.directory.mkdir()
        self.conf = self.directory / "rait.conf"
        self.peers = self.directory / "peers.conf"
        self.journal = self.directory / "journal.db"

    def link_to(self, other: Node, family: Family) -> str:
        """The name of the link to another node: our ifprefix and the port that node sends to."""
        return f"{self.tag}{family[2]}{other.ports[family]}"

    def links_to(self, *others: Node) -> set[str]:
        return {self.link_to(other, family) for other in others for family in FAMILIES}

    def write_conf(self, *, text: str | None = None, **changes: str) -> None:
        """Write rait.conf; ``changes`` replace top-level values, written as HCL."""
        self.conf.write_text(text if text is not None else self.conf_hcl(**changes))
        self.conf.chmod(0o600)

    def conf_hcl(self, **changes: str) -> str:
        top = {
            "private_key": json.dumps(self.private_key),
            "peers": json.dumps(str(self.peers)),
            "journal": json.dumps(str(self.journal)),
            "backend": json.dumps(self.mesh.backend),
        } | changes
        lines = [f"{key} = {value}" for key, value in top.items()]
        for family in FAMILIES:
            lines += ["transport {", f'  address_family = "{family}"']
            lines += [f"  send_port = {self.ports[family]}", f"  mtu = {MTU[family]}"]
            lines += [f'  ifprefix = "{self.tag}{family[2]}"', f"  fwmark = {FWMARK}", "}"]
        lines += ["isolation {", '  type = "netns"', f"  ifgroup = {IFGROUP}", '  transit = ""']
        lines += [f'  target = "{self.target}"', "}"]
        return "\n".join(lines) + "\n"

    def write_peers(self, peers: Iterable[str]) -> None:
        self.peers.write_text("\n".join(peers))

    def entry(self, address: dict[str, str] | None = None) -> str:
        """This node in a registry, as flat TOML; ``address`` takes the place of its own."""
        places = self.addresses | (address or {})
        return "".join(
            f'[[Peers]]\nPublicKey = "{self.public_key}"\nSendPort = {self.ports[family]}\n'
            f'Endpoint = "{places[family]}"\nAddressFamily = "{family}"\n'
            for family in FAMILIES
        )

    def knows(self, *others: Node) -> None:
        """Make the others, and no one else, this node's peers list."""
        self.write_peers(other.entry() for other in others)

    def start(self, *arguments: str, stdin: str = "", exec_: bool = False) -> Running:
        begin = start_exec if exec_ else start_fork
        return begin(self.netns, ["-c", str(self.conf), *arguments], stdin, self.mesh.directory)

    def rait(self, *arguments: str, stdin: str = "", exec_: bool = False) -> Result:
        """Run rait to its end. Whatever it prints must show neither a key nor a traceback."""
        result = self.start(*arguments, stdin=stdin, exec_=exec_).wait()
        shown = result.out + result.err
        assert "Traceback" not in shown, shown
        for node in self.mesh.nodes:
            assert node.private_key not in shown, f"{arguments} shows a private key"
        return result

    def up(self, *arguments: str, **options: Any) -> Result:
        """Run ``rait up``, which must succeed."""
        result = self.rait("up", *arguments, **options)
        assert result.status == 0, result
        return result

    def down(self) -> Result:
        result = self.rait("down")
        assert result.status == 0, result
        return result

    def listed(self) -> dict[str, dict[str, Any]]:
        """The links of ``rait list --json`` by name."""
        result = self.rait("list", "--json")
        assert result.status == 0, result
        return {link["name"]: link for link in result.json["links"]}

    def interfaces(self) -> dict[str, dict[str, Any]]:
        """All interfaces in the target namespace but lo, as ip(8) sees them."""
        if not machine.netns_exists(self.target):
            return {}
        found = machine.links(self.target)
        found.pop("lo", None)
        return found

    def state(self) -> dict[str, LinkState]:
        """Our links as ip(8) and wg(8) see them, without rait."""
        indexes = {name: link["ifindex"] for name, link in self.interfaces().items()}
        devices: dict[str, list[str]] = {}
        peers: dict[str, list[str]] = {}
        for line in machine.wg_all("dump", self.target).splitlines():
            name, *fields = line.split("\t")
            (devices if len(fields) == 4 else peers)[name] = fields
        none = ["", "", "(none)", "", "0", "0", "0"]
        return {
            name: LinkState(
                index=indexes[name],
                listen_port=int(fields[2]),
                fwmark=fields[3],
                peer=peers.get(name, none)[0],
                endpoint=peers.get(name, none)[2],
                handshake=Handshake.of(*peers.get(name, none)[4:7]),
            )
            for name, fields in devices.items()
            if name.startswith(self.tag) and name in indexes
        }

    def leftovers(self) -> list[str]:
        """Processes, sockets and interfaces that are left of links that should be gone."""
        left = [f"interface {name}" for name in self.interfaces()]
        left += [f"interface {n} in transit" for n in machine.links(self.netns) if self.tag in n]
        left += [f"process {pid}" for pid in machine.wireguard_processes(self.tag)]
        return left + [f"socket {name}" for name in machine.uapi_sockets(self.tag)]

    def assert_has_exactly(self, names: set[str]) -> None:
        """Assert that nothing of ours exists but these links: no half-made link, no process.

        What a killed run had just started, or told to end, may take a moment more to end.
        """
        assert set(self.interfaces()) == names
        machine.eventually(lambda: not self._half_made(), "what is half made is gone")
        if self.mesh.backend == "userspace":
            machine.eventually(
                lambda: len(machine.wireguard_processes(self.tag)) <= len(names), "no process more"
            )
            assert len(machine.wireguard_processes(self.tag)) == len(names)
            assert set(machine.uapi_sockets(self.tag)) == names

    def _half_made(self) -> list[str]:
        return [name for name in machine.links(self.netns) if self.tag in name]


class Mesh:
    """Nodes that share an underlay; a mesh removes all that it made."""

    def __init__(self, count: int, backend: str, directory: Path) -> None:
        self.backend = backend
        self.directory = directory
        self.tag = _base36(os.getpid()) + _base36(next(_meshes))
        self.bridge = f"rait-test-{self.tag}-bridge"
        self.nodes = [Node(self, number) for number in range(1, count + 1)]

    def build(self) -> None:
        """Make the namespaces and the underlay, and give every node all others as peers."""
        batch = [f"netns add {self.bridge}"]
        bridge = ["link set lo up", "link add br0 type bridge", "link set br0 up"]
        for node in self.nodes:
            port = f"port{node.number}"
            veth = f"netns {node.netns} type veth peer name {port} netns {self.bridge}"
            batch += [f"netns add {node.netns}", f"link add underlay {veth}"]
            bridge += [f"link set {port} master br0", f"link set {port} up"]
        machine.ip_batch(batch)
        machine.ip_batch(bridge, self.bridge)
        for node in self.nodes:
            machine.ip_batch(self._underlay(node), node.netns)
            node.write_conf()
            node.knows(*(other for other in self.nodes if other is not node))

    @staticmethod
    def _underlay(node: Node) -> list[str]:
        return [
            "link set lo up",
            "link set underlay up",
            f"addr add {node.addresses['ip4']}/24 dev underlay",
            f"addr add {node.addresses['ip6']}/64 dev underlay nodad",
        ]

    def up(self) -> None:
        for node in self.nodes:
            node.up()

    def remove(self) -> None:
        """Remove all that the mesh made, also after a failed test."""
        machine.remove_wireguard(self.tag)
        for node in self.nodes:
            machine.remove_netns(node.target)
            machine.remove_netns(node.netns)
        machine.remove_netns(self.bridge)

    def ping_all(self) -> None:
        """Ping over every tunnel from both ends.

        First from one end and then from the other: two ends that begin a handshake in the same
        moment may have to do it again 5 s later.
        """
        for nodes in (self.nodes, self.nodes[::-1]):
            unanswered = self.unanswered(list(itertools.combinations(nodes, 2)))
            assert not unanswered, unanswered

    def unanswered(self, pairs: Sequence[tuple[Node, Node]]) -> list[str]:
        """Ping from the first of each pair to the second, all at once; gives those that failed."""
        nodes = {node for pair in pairs for node in pair}
        addresses = {node: node.listed() for node in nodes}
        pings = [
            ping(a.target, a.link_to(b, family), addresses[b][b.link_to(a, family)]["address"])
            for a, b in pairs
            for family in FAMILIES
        ]
        return [" ".join(process.args) for process in pings if process.wait() != 0]

    def cut_off(self, node: Node) -> None:
        """Take a node off the underlay, without the node noticing."""
        machine.ip_batch([f"link set port{node.number} nomaster"], self.bridge)

    def reconnect(self, node: Node) -> None:
        """Put a node that was cut off back on the underlay."""
        machine.ip_batch([f"link set port{node.number} master br0"], self.bridge)


def ping(netns: str, link: str, address: str) -> Any:
    """Start a ping to a link-local address (with or without prefix length) over a link."""
    return machine.start_ping(netns, "-6", f"{address.partition('/')[0]}%{link}")

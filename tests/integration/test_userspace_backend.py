"""The userspace backend with a real wireguard-go, in namespaces of the tests' own."""

from __future__ import annotations

import itertools
import math
import os
import re
import signal
import socket
import stat
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from msgspec import structs

from rait.adapters import systemd
from rait.adapters.keys import KeyPair
from rait.adapters.netlink import rtnl
from rait.adapters.netns import Netns, copied, open_netns
from rait.adapters.wireguard import process, uapi, userspace
from rait.adapters.wireguard.ports import KeptPorts
from rait.adapters.wireguard.start import Start
from rait.app.machine import Machine
from rait.domain.backend import DeviceState, ObservedLink
from rait.domain.config.schema import Secret
from rait.domain.events import (
    DeviceUpdated,
    Event,
    LinkAdded,
    LinkRemoved,
    LinkUpdated,
    PeerAdded,
    PeerRemoved,
    PeerUpdated,
    replay,
)
from rait.domain.topology import Device, Endpoint, Link, LinkPeer, LinkSettings, Origin, Topology
from tests.integration import machine

pytestmark = pytest.mark.userspace

GROUP = 54
_serial = itertools.count()


class Node:
    """A node's two namespaces, its key and its backend."""

    def __init__(self) -> None:
        self.tag = f"u{os.getpid() % 10**7}n{next(_serial)}x"
        self.target, self.transit = f"{self.tag}g", f"{self.tag}t"
        self.private_key, self.public_key = machine.genkey()
        for name in (self.target, self.transit):
            machine.run(["ip", "netns", "add", name])
        self.transit_ns: Netns = open_netns(self.transit)
        self.target_ns: Netns = open_netns(self.target)
        self.key = KeyPair(Secret(self.private_key), self.public_key)
        self.rait = self.new_run()

    def new_run(self) -> Machine:
        """The machine as another run of rait would have it."""
        key = KeyPair(self.key.secret, self.public_key)
        return Machine(copied(self.transit_ns, self.transit), key)

    def close(self) -> None:
        machine.remove_wireguard(self.tag)
        self.rait.__exit__(None, None, None)
        self.transit_ns.close()
        self.target_ns.close()
        for name in (self.target, self.transit):
            machine.remove_netns(name)

    def link(
        self, number: int, *, port: int = 0, fwmark: int = 0, peers: Sequence[LinkPeer] = ()
    ) -> Link:
        return Link(
            name=f"{self.tag}{number}",
            origin=Origin(
                "userspace", self.target, self.transit_ns.identity, self.target_ns.instance
            ),
            settings=LinkSettings(1400 + number, GROUP, None, True, f"fe80::{number + 1}/64"),
            device=Device(self.public_key, port, fwmark),
            peers=tuple(peers),
        )

    def apply(self, *events: Event) -> list[str | None]:
        outcomes = list(self.rait.apply(events))
        assert [outcome.index for outcome in outcomes] == list(range(len(events)))
        return [outcome.error for outcome in outcomes]

    def must(self, *events: Event) -> None:
        assert self.apply(*events) == [None] * len(events)

    def observe(self) -> dict[str, ObservedLink]:
        with self.new_run() as run:
            return dict(run.observe(self.target_ns).links)

    def links(self) -> dict[str, Link]:
        return {name: observed.link for name, observed in self.observe().items()}

    def traces(self) -> list[str]:
        """All traces of a link of this node: processes, sockets, interfaces."""
        processes = [str(pid) for pid in machine.wireguard_processes(self.tag)]
        interfaces = [*rtnl.interfaces(self.transit_ns), *rtnl.interfaces(self.target_ns)]
        tuns = [name for name in interfaces if name.startswith(self.tag)]
        return processes + machine.uapi_sockets(self.tag) + tuns


@pytest.fixture
def make_node() -> Iterator[Callable[[], Node]]:
    nodes: list[Node] = []

    def make() -> Node:
        nodes.append(Node())
        return nodes[-1]

    yield make
    for node in nodes:
        node.close()


@pytest.fixture
def node(make_node: Callable[[], Node]) -> Node:
    return make_node()


@pytest.fixture(scope="module")
def peer_keys() -> list[str]:
    return sorted(machine.genkey()[1] for _ in range(2))


def peer(key: str, **changes: object) -> LinkPeer:
    return structs.replace(LinkPeer(key, Endpoint("192.0.2.7", 4500)), **changes)


def added(*links: Link) -> list[Event]:
    return [LinkAdded(link) for link in links]


def pid_of(link: Link) -> int:
    (pid,) = machine.wireguard_processes(link.name)
    return pid


def started_but_not_moved(node: Node, link: Link) -> Start:
    """The program that a run leaves if it is killed before it moves the tun."""
    start = Start(link.name, node.transit_ns)
    start.client(node.key).close()
    return start


def leave_socket(name: str) -> None:
    """Have the socket that a killed program leaves, also where somebody's wg(8) has removed it."""
    path = Path(uapi.socket_path(name))
    path.unlink(missing_ok=True)
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))


def test_links_are_as_their_events_say(node: Node, peer_keys: list[str]) -> None:
    second = peer(peer_keys[1], endpoint=None, allowed_ips=("10.0.0.0/8", "fd00::/8"))
    links = [
        node.link(0, port=20000, fwmark=7, peers=[peer(peer_keys[0], keepalive=25)]),
        node.link(1, port=20001, peers=[peer(peer_keys[0]), second]),
        node.link(2, port=20002, peers=[peer(peer_keys[0], endpoint=Endpoint("2001:db8::7", 1))]),
    ]
    events = added(*links)

    node.must(*events)

    assert node.links() == replay(Topology(), events).links
    assert node.links() == {link.name: link for link in links}
    assert not any(name.startswith(node.tag) for name in rtnl.interfaces(node.transit_ns))
    sockets = machine.run(["ss", "-ulnH"], node.transit)
    assert all(f":{port}" in sockets for port in (20000, 20001, 20002))
    assert machine.run(["ss", "-ulnH"], node.target) == ""


def test_a_link_has_one_link_local_address(node: Node) -> None:
    link = node.link(0)

    node.must(LinkAdded(link))

    text = machine.run(["ip", "-6", "-o", "addr", "show", "dev", link.name], node.target)
    assert [line.split()[3] for line in text.splitlines()] == ["fe80::1/64"]


def test_a_listen_port_of_0_is_any_port(node: Node) -> None:
    link = node.link(0)

    node.must(LinkAdded(link))

    assert node.links()[link.name].device.listen_port > 0


def test_nodes_ping_each_other(make_node: Callable[[], Node]) -> None:
    a, b = make_node(), make_node()
    machine.ip_batch(
        [
            f"link add {a.tag}v type veth peer name {a.tag}w netns {b.transit}",
            f"addr add 10.7.0.1/24 dev {a.tag}v",
            f"link set {a.tag}v up",
        ],
        a.transit,
    )
    machine.ip_batch([f"addr add 10.7.0.2/24 dev {a.tag}w", f"link set {a.tag}w up"], b.transit)
    to_b = a.link(0, port=30001, peers=[LinkPeer(b.public_key, Endpoint("10.7.0.2", 30002))])
    to_a = b.link(1, port=30002, peers=[LinkPeer(a.public_key, Endpoint("10.7.0.1", 30001))])

    a.must(*added(to_b))
    b.must(*added(to_a))

    begun = int(time.time())
    assert machine.answers(a.target, "-6", f"fe80::2%{to_b.name}")
    seen = a.observe()[to_b.name]
    assert seen.handshakes[b.public_key] >= begun
    assert seen.received[b.public_key] > 0
    assert seen.sent[b.public_key] > 0


def test_each_kind_of_update(node: Node, peer_keys: list[str]) -> None:
    first = peer(peer_keys[0])
    link = node.link(0, port=20000, peers=[first])
    device, settings, name = link.device, link.settings, link.name
    chain: list[Event] = added(link)
    for change in (
        {"mtu": 1300},
        {"group": 77},
        {"address": "fe80::abcd/64"},
        {"addresses": ("172.20.0.1/24", "172.20.0.2/24", "fd00::1 peer fd00::2/128")},
        {"up": False, "address": None},
        {"addresses": ("172.20.0.2/24", "fd00::1/64")},
        {"up": True, "address": "fe80::9/64"},
    ):
        chain.append(LinkUpdated(name, settings, structs.replace(settings, **change)))
        settings = chain[-1].after
    for change in ({"fwmark": 9}, {"listen_port": 20009}, {"fwmark": 0, "listen_port": 20000}):
        chain.append(DeviceUpdated(name, device, structs.replace(device, **change)))
        device = chain[-1].after
    for change in (
        {"endpoint": Endpoint("2001:db8::1", 99)},
        {"endpoint": None},
        {"endpoint": Endpoint("192.0.2.9", 98), "keepalive": 25},
        {"keepalive": 0},
        {"allowed_ips": ("10.0.0.0/8", "fd00::/8")},
    ):
        chain.append(PeerUpdated(name, first, structs.replace(first, **change)))
        first = chain[-1].after
    chain.append(PeerAdded(name, peer(peer_keys[1])))
    chain.append(PeerRemoved(name, first))

    pid = 0
    for index, event in enumerate(chain):
        node.must(event)
        wanted = replay(Topology(), chain[: index + 1]).links
        assert node.links() == wanted, event
        pid = pid or pid_of(link)
    assert pid_of(link) == pid


def received(node: Node, link: Link) -> int:
    text = machine.wg("show", link.name, "transfer", netns=node.target)
    return int(text.split("\t")[1])


def test_an_update_leaves_the_session_alone(make_node: Callable[[], Node]) -> None:
    a, b = make_node(), make_node()
    machine.run(["ip", "link", "set", "lo", "up"], a.transit)
    b.transit_ns.close()
    b.transit_ns = open_netns(a.transit)
    b.rait = b.new_run()
    link = a.link(0, port=30001, peers=[LinkPeer(b.public_key, Endpoint("127.0.0.1", 30002))])
    other = b.link(1, port=30002, peers=[LinkPeer(a.public_key)])
    a.must(*added(link))
    b.must(*added(other))
    assert machine.answers(a.target, "-6", f"fe80::2%{link.name}")
    before = received(a, link)

    after = structs.replace(link.peers[0], keepalive=25)
    a.must(
        PeerUpdated(link.name, link.peers[0], after),
        LinkUpdated(link.name, link.settings, structs.replace(link.settings, mtu=1390)),
        DeviceUpdated(link.name, link.device, structs.replace(link.device, fwmark=3)),
    )

    assert received(a, link) >= before, "who is removed and added counts from 0 again"
    assert machine.answers(a.target, "-6", f"fe80::2%{link.name}")


def test_a_port_in_use_fails_its_link_alone(node: Node, peer_keys: list[str]) -> None:
    bad, good = node.link(0, port=20000, peers=[peer(peer_keys[0])]), node.link(1, port=20001)
    with machine.socket_in(node.transit, socket.AF_INET, socket.SOCK_DGRAM) as holder:
        holder.bind(("", 20000))
        errors = node.apply(*added(bad, good))

    assert errors[0] is not None
    assert "20000" in errors[0]
    assert "ss -ulpn" in errors[0]
    assert errors[1] is None
    assert node.links() == {good.name: good}
    assert machine.uapi_sockets(node.tag) == [good.name]
    assert len(machine.wireguard_processes(node.tag)) == 1


def test_a_program_is_given_no_port_that_another_link_is_about_to_take(
    node: Node, peer_keys: list[str]
) -> None:
    links = [node.link(n, port=50000 + n, peers=[peer(peer_keys[0])]) for n in range(24)]
    few = "net.ipv4.ip_local_port_range=50000 50055"  # hardly two ports for each program
    machine.run(["sysctl", "-qw", few], node.transit)

    node.must(*added(*links))

    assert node.links() == {link.name: link for link in links}


def test_a_peer_that_cannot_be_set_fails_its_link_alone(node: Node, peer_keys: list[str]) -> None:
    bad = node.link(0, peers=[peer(peer_keys[0], psk_digest="of a key that rait does not know")])
    good = node.link(1, port=20001, peers=[peer(peer_keys[1])])
    errors = node.apply(*added(bad, good))

    assert "preshared key" in (errors[0] or "")
    assert errors[1] is None
    assert node.links() == {good.name: good}
    assert machine.uapi_sockets(node.tag) == [good.name]
    assert len(machine.wireguard_processes(node.tag)) == 1


def test_a_port_in_use_leaves_the_old_one(node: Node) -> None:
    link = node.link(0, port=20000)
    node.must(LinkAdded(link))
    with machine.socket_in(node.transit, socket.AF_INET, socket.SOCK_DGRAM) as holder:
        holder.bind(("", 20001))
        after = structs.replace(link.device, listen_port=20001)
        (error,) = node.apply(DeviceUpdated(link.name, link.device, after))

    assert error is not None
    assert "20001" in error
    assert node.links()[link.name].device.listen_port == 20000
    assert ":20000" in machine.run(["ss", "-ulnH"], node.transit)


def test_a_removed_link_leaves_nothing(node: Node, peer_keys: list[str]) -> None:
    links = [node.link(n, port=20000 + n, peers=[peer(peer_keys[0])]) for n in range(3)]
    node.must(*added(*links))

    node.must(*(LinkRemoved(link) for link in links))

    assert node.traces() == []
    node.must(LinkRemoved(links[0]))


def test_removal_in_a_lost_namespace(node: Node) -> None:
    link = node.link(0)
    node.must(LinkAdded(link))
    node.target_ns.close()
    machine.run(["ip", "netns", "del", node.target])

    assert node.apply(LinkRemoved(link)) == [None]


def test_a_killed_program_is_seen_as_gone_and_made_again(node: Node) -> None:
    link = node.link(0, port=20000)
    node.must(LinkAdded(link))
    machine.end(signal.SIGKILL, pid_of(link))
    assert link.name not in rtnl.interfaces(node.target_ns)
    leave_socket(link.name)
    assert node.links() == {}

    (error,) = node.apply(LinkUpdated(link.name, link.settings, link.settings))
    assert error is not None
    node.rait = node.new_run()
    node.must(LinkAdded(link))

    assert node.links() == {link.name: link}


def test_a_half_made_link_is_found_and_made_whole(node: Node) -> None:
    link, other = node.link(0, port=20000), node.link(1)
    started_but_not_moved(node, link)
    half_made = pid_of(link)
    assert node.rait.leftovers([link.name, other.name]) == (link.name,)

    node.must(LinkAdded(link))

    assert node.links() == {link.name: link}
    assert pid_of(link) != half_made
    assert node.rait.leftovers([link.name, other.name]) == ()


def test_a_half_made_link_can_be_ended(node: Node) -> None:
    link = node.link(0)
    started_but_not_moved(node, link)

    assert node.rait.end_leftovers([link.name]) == ((link.name,), {})

    assert node.traces() == []
    assert node.rait.end_leftovers([link.name]) == ((), {})


def test_a_program_of_somebody_else_is_left_alone(make_node: Callable[[], Node]) -> None:
    ours, theirs = make_node(), make_node()
    link = structs.replace(ours.link(0), name=f"{theirs.tag}0")
    started_but_not_moved(theirs, link)
    pid = pid_of(link)

    assert ours.rait.leftovers([link.name]) == ()
    assert ours.rait.end_leftovers([link.name]) == ((), {})
    (error,) = ours.apply(LinkAdded(link))

    assert error is not None
    assert f"{link.name}.sock" in error
    assert machine.wireguard_processes(link.name) == [pid]


def test_a_half_made_link_with_another_key_is_not_ours(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    # It answers, so it is not waited for: that would outlast the test.
    monkeypatch.setattr(userspace, "_LEFTOVER_SECONDS", math.inf)
    link = node.link(0)
    started_but_not_moved(node, link)
    machine.wg("set", link.name, "private-key", "/dev/stdin", stdin=machine.genkey()[0])

    assert node.rait.leftovers([link.name]) == ()
    assert node.apply(LinkAdded(link)) != [None]
    assert len(machine.wireguard_processes(link.name)) == 1


def test_an_interface_in_the_way_is_left_alone(node: Node) -> None:
    link = node.link(0)
    machine.run(["ip", "tuntap", "add", "mode", "tun", link.name], node.target)

    (error,) = node.apply(LinkAdded(link))

    assert error is not None
    assert node.target in error
    assert node.links() == {}
    assert link.name in rtnl.interfaces(node.target_ns)
    assert machine.wireguard_processes(node.tag) == []
    assert machine.uapi_sockets(node.tag) == []


@pytest.mark.parametrize("kind", ["tun", "veth"])
def test_nor_is_one_where_links_are_born(
    node: Node, kind: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    link, other = node.link(0), node.link(1, port=20001)
    make = {
        "tun": ["tuntap", "add", "dev", link.name, "mode", "tun"],
        "veth": ["link", "add", link.name, "type", "veth", "peer", "name", f"{node.tag}p"],
    }
    machine.run(["ip", *make[kind]], node.transit)
    before = machine.links(node.transit)[link.name]

    # What no program holds is not waited for: that would outlast the test.
    monkeypatch.setattr(userspace, "_LEFTOVER_SECONDS", math.inf)
    error, good = node.apply(LinkAdded(link), LinkAdded(other))

    assert error is not None
    assert f"of kind {kind} already has this name in network namespace {node.transit}" in error
    assert good is None
    assert node.rait.leftovers([link.name]) == ()
    assert node.rait.end_leftovers([link.name]) == ((), {})
    assert machine.links(node.transit)[link.name] == before
    assert node.links() == {other.name: other}
    assert machine.wireguard_processes(link.name) == []


def test_links_begun_end_when_the_run_is_cut_short(node: Node) -> None:
    links = [node.link(n) for n in range(3)]
    outcomes = node.rait.apply(added(*links))
    next(iter(outcomes))

    outcomes.close()  # type: ignore[attr-defined]

    assert list(node.links()) == [links[0].name]
    assert len(machine.wireguard_processes(node.tag)) == 1


def test_the_private_key_shows_nowhere(node: Node) -> None:
    link = node.link(0, port=20000)
    node.must(LinkAdded(link))
    (error,) = node.apply(LinkAdded(link))

    process = Path(f"/proc/{pid_of(link)}")
    shown = (process / "cmdline").read_bytes() + (process / "environ").read_bytes()
    assert node.private_key.encode() not in shown
    assert error is not None
    assert node.private_key not in error
    assert machine.wg("show", link.name, "private-key") == node.private_key


def test_another_public_key_than_ours_is_refused(node: Node, peer_keys: list[str]) -> None:
    link = node.link(0)
    foreign = structs.replace(link, device=Device(peer_keys[0]))
    (error,) = node.apply(LinkAdded(foreign))
    assert error is not None
    assert peer_keys[0] in error
    assert node.traces() == []

    node.must(LinkAdded(link))
    (error,) = node.apply(DeviceUpdated(link.name, link.device, foreign.device))
    assert error is not None
    assert peer_keys[0] in error
    assert node.links()[link.name].device.public_key == node.public_key


def program(path: Path, text: str) -> str:
    path.write_text(f"#!/bin/sh\n{text}\n")
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


def test_a_program_that_does_not_start(
    node: Node, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    broken = program(tmp_path / "broken", "echo out of luck >&2; exit 3")
    monkeypatch.setenv(process.PROGRAM_VARIABLE, broken)

    (error,) = node.apply(LinkAdded(node.link(0)))

    assert error is not None
    assert broken in error
    assert "out of luck" in error
    assert node.traces() == []


CRASHES = {
    "runtime/cgo: pthread_create failed: Resource temporarily unavailable": """\
SIGABRT: abort
PC=0x7f26c6b38eec m=0 sigcode=18446744073709551610

goroutine 0 [idle]:
runtime: g 0: unknown pc 0x7f26c6b38eec
stack: frame={sp:0x7fff3ce01b40, fp:0x0} stack=[0x7fff3c603020,0x7fff3ce02030)
0x00007fff3ce01a40:  0x0000000000000000  0x0000000000000000
""",
    "fatal error: newosproc": """\

runtime stack:
runtime.throw({0x8d0b2b, 0x3})
\t/usr/lib/go-1.19/src/runtime/panic.go:1047 +0x5d fp=0x7ffe sp=0x7ffe pc=0x438c3d
""",
}
"""How programs of Go crash that can start no thread, with the C library and without."""


@pytest.mark.parametrize("reason", CRASHES)
def test_a_program_that_crashes_is_told_with_the_reason_and_leaves_no_socket(
    node: Node, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, reason: str
) -> None:
    link = node.link(0)
    (tmp_path / "crash").write_text(f"{reason}\n{CRASHES[reason]}")
    leave = f"import socket; socket.socket(socket.AF_UNIX).bind('{uapi.socket_path(link.name)}')"
    crash = f'{sys.executable} -c "{leave}"; cat {tmp_path}/crash >&2; exit 2'
    monkeypatch.setenv(process.PROGRAM_VARIABLE, program(tmp_path / "crashes", crash))

    (error,) = node.apply(LinkAdded(link))

    assert error is not None
    assert f"ended with status 2: {reason}; raise the limit of processes" in error
    assert node.traces() == []


def test_a_program_that_ends_when_it_has_its_socket_is_told_with_the_reason(
    node: Node, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As wireguard-go does where it cannot watch its socket."""
    link = node.link(0)
    ends = program(
        tmp_path / "ends",
        f"""exec {sys.executable} -c '
import os, socket, sys
os.makedirs("{machine.UAPI_DIR}", exist_ok=True)
own = socket.socket(socket.AF_UNIX)
own.bind("{uapi.socket_path(link.name)}")
own.listen()
own.accept()[0].close()
sys.exit("Failed to listen on uapi socket: no space left on device")
'""",
    )
    monkeypatch.setenv(process.PROGRAM_VARIABLE, ends)

    (error,) = node.apply(LinkAdded(link))

    assert error is not None
    assert "ended with status 1: Failed to listen on uapi socket: no space left" in error
    assert "fs.inotify.max_user_watches" in error
    assert node.traces() == []


def test_a_program_that_goes_to_the_background(
    node: Node, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wrapper = program(tmp_path / "daemon", 'unset WG_PROCESS_FOREGROUND; wireguard-go "$1"')
    monkeypatch.setenv(process.PROGRAM_VARIABLE, wrapper)
    link = node.link(0, port=20000)

    node.must(LinkAdded(link))
    assert node.links() == {link.name: link}
    node.must(LinkRemoved(link))

    assert node.traces() == []


def test_no_port_is_let_go_while_a_program_may_still_look_for_one(
    node: Node, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    links = [node.link(number, port=50000 + number) for number in range(2)]
    late = f'[ "$1" = {links[0].name} ] || sleep 1; exec wireguard-go "$1"'
    monkeypatch.setenv(process.PROGRAM_VARIABLE, program(tmp_path / "late", late))
    had: list[set[int]] = []
    let_go = KeptPorts.let_go

    def noticed(self: KeptPorts, port: int) -> None:
        lines = machine.run(["ss", "-ulnH"], node.transit).splitlines()
        had.append({int(line.split()[3].rpartition(":")[2]) for line in lines})
        let_go(self, port)

    monkeypatch.setattr(KeptPorts, "let_go", noticed)

    node.must(*added(*links))

    assert len(had[0] - {50000, 50001}) == 2, "each program has a port already"
    assert node.links() == {link.name: link for link in links}


def test_a_program_that_somebody_else_started_meanwhile_is_left_alone(
    node: Node, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As another rait does, with a journal and so with a lock of its own.

    It removes the socket of ours, which has just made it, and ours ends.
    """
    link, theirs, key = node.link(0, port=20000), tmp_path / "theirs", machine.genkey()[0]
    theirs.write_text(key)
    path = uapi.socket_path(link.name)
    started = f'env -i WG_PROCESS_FOREGROUND=1 PATH="$PATH" wireguard-go {link.name}'
    # Not by wg(8), which removes a socket that nobody listens at yet. The flag is __SO_ACCEPTCON.
    await_it = f"until grep -q ' 00010000 .* {path}$' /proc/net/unix; do sleep 0.01; done"
    robbed = program(
        tmp_path / "robbed",
        f'[ ! -S {path} ] || exec wireguard-go "$1"\n'
        f"{started} >/dev/null 2>&1 & {await_it}; wg set {link.name} private-key {theirs}",
    )
    monkeypatch.setenv(process.PROGRAM_VARIABLE, robbed)

    (error,) = node.apply(LinkAdded(link))

    pid = pid_of(link)
    try:
        assert error is not None
        assert "busy" in error or "in use" in error
        assert machine.wg("show", link.name, "private-key") == key
    finally:
        os.kill(pid, signal.SIGKILL)


def test_a_program_of_a_killed_run_that_comes_up_first_is_ended(
    node: Node, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    link, began = node.link(0, port=20000), tmp_path / "began"
    first = f'wireguard-go "$1" & until [ -S {uapi.socket_path(link.name)} ]; do sleep 0.01; done'
    late = program(
        tmp_path / "late",
        f'[ -e {began} ] || {{ touch {began}; {first}; }}; exec wireguard-go "$1"',
    )
    monkeypatch.setenv(process.PROGRAM_VARIABLE, late)

    node.must(LinkAdded(link))

    assert node.links() == {link.name: link}
    assert len(machine.wireguard_processes(link.name)) == 1


LOST = "ERROR: (x) 2026/01/31 17:05:00 Failed to listen on uapi socket: no such file or directory"


@pytest.mark.parametrize("end", [f'echo "{LOST}" >&2; exit 1', "exit 0"])
def test_a_program_whose_socket_somebody_removed_is_started_again(
    node: Node, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, end: str
) -> None:
    link, began = node.link(0, port=20000), tmp_path / "began"
    robbed = program(
        tmp_path / "robbed",
        f'[ -e {began} ] || {{ touch {began}; {end}; }}\nexec wireguard-go "$1"',
    )
    monkeypatch.setenv(process.PROGRAM_VARIABLE, robbed)

    node.must(LinkAdded(link))

    assert node.links() == {link.name: link}


def test_a_program_that_is_just_ending_is_not_in_the_way(node: Node) -> None:
    link = node.link(0)
    for milliseconds in range(20):
        started_but_not_moved(node, link)
        os.kill(pid_of(link), signal.SIGKILL)
        time.sleep(milliseconds / 1000)  # it ends while rait looks, or before, or later
        node.must(LinkAdded(link))
        node.must(LinkRemoved(link))


def test_a_zone_that_a_program_tells_by_name_is_kept_by_number(
    node: Node, peer_keys: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The wireguard-go of Debian 12 drops the zone of an endpoint.

    Later ones tell it: as they were told, or by its name once the peer was heard.
    """

    def later(answer: bytes, key: KeyPair) -> DeviceState:
        return decode_get(re.sub(rb"\[fe80::7(%\w+)?]", b"[fe80::7%under]", answer), key)

    decode_get = uapi.decode_get
    machine.run(["ip", "link", "add", "under", "type", "bridge"], node.transit)
    link = node.link(0, peers=[LinkPeer(peer_keys[0], Endpoint("fe80::7", 5))])
    node.must(*added(link))
    monkeypatch.setattr(uapi, "decode_get", later)

    index = machine.links(node.transit)["under"]["ifindex"]
    (peer,) = node.links()[link.name].peers
    assert peer.endpoint == Endpoint(f"fe80::7%{index}", 5)
    node.must(PeerRemoved(link.name, peer), PeerAdded(link.name, peer))

    machine.run(["ip", "link", "del", "under"], node.transit)
    (peer,) = node.links()[link.name].peers
    assert peer.endpoint == Endpoint("fe80::7%under", 5)
    node.must(PeerRemoved(link.name, peer))


def test_in_a_service_of_systemd_a_program_gets_a_scope_of_its_own(
    node: Node, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a stand-in for systemd-run, which like that becomes the program that it is given."""
    asked = tmp_path / "asked"
    script = f'echo "$@" >> {asked}; while [ "${{1#--}}" != "$1" ]; do shift; done; exec "$@"'
    program(tmp_path / "systemd-run", script)
    (tmp_path / "cgroup").write_text("0::/system.slice/rait.service\n")
    monkeypatch.setattr(systemd, "_BOOTED", str(tmp_path))
    monkeypatch.setattr(systemd, "_CGROUP", str(tmp_path / "cgroup"))
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    systemd.out_of_service.cache_clear()
    systemd.own_scope.cache_clear()
    link = node.link(0, port=20000)
    try:
        node.must(LinkAdded(link))
        assert node.links() == {link.name: link}
        node.must(LinkRemoved(link))
    finally:
        systemd.out_of_service.cache_clear()
        systemd.own_scope.cache_clear()

    assert node.traces() == []
    first, second = asked.read_text().splitlines()
    assert first.endswith(" true")
    assert second.endswith(f"/wireguard-go {link.name}")
    assert "--scope" in second.split()

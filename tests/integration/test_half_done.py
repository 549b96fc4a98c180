"""Changes that fail half way: the journal has what they did, blames nobody, and takes it back.

What fails here is a fork of this process (command.py): so what is patched here is patched there.
"""

from __future__ import annotations

import errno
import json
import mmap
import os
import socket
from collections.abc import Sequence
from typing import Any

import pytest

from rait.adapters.journal.reader import JournalReader
from rait.adapters.journal.store import Journal
from rait.adapters.netlink.socket import NetlinkError, NetlinkSocket, Request
from rait.adapters.wireguard import uapi
from rait.domain.errors import MachineError
from tests.integration import machine
from tests.integration.conftest import MakeMesh
from tests.integration.harness import FWMARK, MTU, Node
from tests.integration.strangers import Stranger, link_of, links_of, strangers, sync, write_peers

pytestmark = [pytest.mark.userspace, pytest.mark.kernel]

A, B, C = strangers(1, 2, 3)
HERE, THERE = (A, C), (B, C.moved())
"""From one to the other a link goes, one comes and one changes, whichever of them is first."""


@pytest.fixture
def node(make_mesh: MakeMesh) -> Node:
    return make_mesh(1).nodes[0]


def drift_of(node: Node) -> list[dict[str, Any]]:
    """The drift that the next run would find."""
    return node.rait("plan", "--json").json["drift"]


def unmarked(node: Node) -> str:
    """A configuration in which links have no mark, and a port that the system chooses."""
    return node.conf_hcl().replace(f"fwmark = {FWMARK}", "dynamic_port = true")


def test_a_mark_that_was_set_although_the_port_was_taken(node: Node) -> None:
    # The system shall not choose what a link is to have, or what is to be in the way.
    machine.run(["sysctl", "-qw", "net.ipv4.ip_local_port_range=33000 49999"], node.netns)
    node.write_conf(text=unmarked(node))
    sync(node, A, B)
    (name,) = links_of(node, A)
    before = node.state()
    assert before[name].fwmark == "off"
    node.write_conf()
    with machine.socket_in(node.netns, socket.AF_INET, socket.SOCK_DGRAM) as obstacle:
        obstacle.bind(("", A.send_port))
        result = node.rait("up")
        assert result.status == 3, result
        assert f"listen port {A.send_port} is taken" in result.err
        now = node.state()[name]
        assert int(now.fwmark, 16) == FWMARK
        assert now.listen_port == before[name].listen_port
        assert f"~ {name} fwmark 0 -> {FWMARK} (done by an event that failed)" in result.out

        run = json.loads(node.rait("log", "--json").out.splitlines()[-1])
        (told,) = run["half_done"]
        assert (told["type"], told["link"]) == ("DeviceUpdated", name)
        assert (
            f"event {told['event']}: ~ {name} fwmark 0 -> {FWMARK} (done by an event that failed)"
            in (node.rait("log", "show", str(run["run"])).out)
        )
        assert drift_of(node) == [], "nobody is blamed for it"
        assert node.rait("log", "verify").status == 0
        (again,) = node.rait("plan", "--json").events
        assert again["before"] == again["after"] | {"listen_port": 0}, "the mark is there already"

        assert node.rait("rollback").status == 0
        state = node.state()
        assert {name: link.fwmark for name, link in state.items()} == dict.fromkeys(state, "off")
        assert drift_of(node) == []
    node.up()
    assert node.state()[name].listen_port == A.send_port
    assert int(node.state()[name].fwmark, 16) == FWMARK


class Breaker:
    """Breaks one of the writes that a run makes once it is in the journal.

    ``refused`` does nothing and fails, ``unanswered`` does all of it and fails, and ``half`` does
    the first half of a batch, of which the rest is refused.
    """

    def __init__(self, how: str) -> None:
        self.how = how
        self.test = os.getpid()
        self.left: int | None = None
        self.armed = False
        self._shared = mmap.mmap(-1, 1)

    def breaks(self) -> bool:
        if self.left is None or not self.armed or os.getpid() == self.test:
            return False
        self.left -= 1
        if self.left == -1:
            self._shared[0] = 1
        return self.left == -1

    def has_broken(self) -> bool:
        """Whether it broke a write since the last call, in a fork as well."""
        broken, self._shared[0] = self._shared[0], 0
        return bool(broken)


@pytest.fixture(params=["refused", "unanswered", "half"])
def breaker(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Breaker:
    breaker = Breaker(request.param)
    begin, perform = Journal.begin, NetlinkSocket.perform
    exchange = uapi.Client._exchange

    def beginning(journal: Journal, *args: Any) -> Any:
        run = begin(journal, *args)
        breaker.armed = True
        return run

    def breaking(via: NetlinkSocket, batch: Sequence[Request]) -> list[NetlinkError | None]:
        if not batch or not breaker.breaks():
            return perform(via, batch)
        done = {"refused": 0, "unanswered": len(batch), "half": len(batch) // 2}[breaker.how]
        results = perform(via, batch[:done]) if done else []
        if breaker.how == "unanswered":
            raise MachineError("the answer was lost")
        return results + [NetlinkError(errno.EIO, "it broke")] * (len(batch) - done)

    def talking(client: uapi.Client, text: bytes) -> bytes:
        if not text.startswith(b"set") or not breaker.breaks():
            return exchange(client, text)
        if breaker.how != "refused":
            exchange(client, text)
        raise uapi.UapiError("the answer was lost")

    monkeypatch.setattr(Journal, "begin", beginning)
    monkeypatch.setattr(NetlinkSocket, "perform", breaking)
    monkeypatch.setattr(uapi.Client, "_exchange", talking)
    return breaker


def other_settings(node: Node) -> str:
    return (
        node.conf_hcl()
        .replace(f"fwmark = {FWMARK}", "fwmark = 77")
        .replace(f"mtu = {MTU['ip4']}", "mtu = 1300")
        + 'policy {\n  addresses = ["172.20.0.1/24", "fd00::1/64", "fe80::53"]\n}\n'
    )


def assert_as_wanted(node: Node, peers: tuple[Stranger, ...], mark: int, mtu: int) -> None:
    node.assert_has_exactly(links_of(node, *peers))
    state, interfaces = node.state(), node.interfaces()
    for peer in peers:
        link = state[link_of(node, peer)]
        assert link.endpoint.startswith(peer.address)
        assert (link.listen_port, int(link.fwmark, 16)) == (peer.send_port, mark)
        assert interfaces[link_of(node, peer)]["mtu"] == mtu


def test_whatever_write_fails_the_journal_has_what_is_there(node: Node, breaker: Breaker) -> None:
    """The law: what the journal adds up to is what there is, and others are blamed for nothing."""
    sides = [
        (HERE, node.conf_hcl(), FWMARK, MTU["ip4"]),
        (THERE, other_settings(node), 77, 1300),
    ]
    node.write_conf(text=sides[0][1])
    sync(node, *HERE)
    step = failed = 0
    while True:
        peers, text, mark, mtu = sides[1]
        node.write_conf(text=text)
        write_peers(node, *peers)
        breaker.left = step
        result = node.rait("up", "--yes", "--json")
        breaker.left = None
        found = drift_of(node)
        run = JournalReader(node.journal).runs()[-1]
        print(f"step {step}: {result.status} {run.status}, half done: {len(run.half_done)}")
        finished = run.status is not None and not run.unsure
        assert all(event["left_by_unfinished_run"] for event in found), (result, found)
        assert not (finished and found), (result, found)
        if not breaker.has_broken():
            assert result.status == 0, result
            break
        failed += result.status != 0
        again = node.rait("up", "--yes", "--json")
        assert again.status == 0, again
        assert all(event["left_by_unfinished_run"] for event in again.json["drift"])
        assert_as_wanted(node, peers, mark, mtu)
        assert node.rait("log", "verify").status == 0
        sides.reverse()
        step += 1
    assert_as_wanted(node, peers, mark, mtu)
    assert failed > 3, "there are many writes"
    node.down()
    assert node.leftovers() == []

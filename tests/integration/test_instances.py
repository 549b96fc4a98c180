"""The name of a namespace, or a process id, is of another one than it was: no link is forgotten.

Whatever still refers to the namespace that holds the links, rait finds it by that, and treats the
links in it as what they are.
"""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from rait.adapters import netns
from rait.adapters.journal.reader import JournalReader
from rait.domain.topology import Link
from tests.integration import machine
from tests.integration.conftest import MakeMesh
from tests.integration.harness import Node
from tests.integration.strangers import link_of, links_of, once_it_is_gone, strangers, sync

pytestmark = [pytest.mark.userspace, pytest.mark.kernel]

A, B = strangers(1, 2)

Hold = Callable[[ExitStack, str], None]
"""Keeps a namespace alive, until the stack is closed."""


@pytest.fixture
def node(make_mesh: MakeMesh) -> Node:
    return make_mesh(1).nodes[0]


def by_process(stack: ExitStack, name: str) -> None:
    process = machine.start(["sleep", "600"], name)
    stack.callback(process.wait)
    stack.callback(process.kill)


def by_descriptor(stack: ExitStack, name: str) -> None:
    stack.callback(os.close, os.open(machine.NETNS_DIR / name, os.O_RDONLY))


def by_socket(stack: ExitStack, name: str) -> None:
    stack.enter_context(machine.socket_in(name, socket.AF_INET, socket.SOCK_DGRAM))


def make_anew(node: Node) -> None:
    machine.run(["ip", "netns", "del", node.target])
    machine.run(["ip", "netns", "add", node.target])


def remembered(node: Node) -> dict[str, Link]:
    return dict(JournalReader(node.journal).last_known(str(node.conf)).topology.links)


@pytest.fixture
def kept(node: Node, request: pytest.FixtureRequest) -> Iterator[Node]:
    """Links in a namespace that something keeps, and another namespace that has its name now."""
    sync(node, A, B)
    with ExitStack() as stack:
        former = netns.open_netns(node.target)
        stack.callback(former.close)
        request.param(stack, node.target)
        make_anew(node)
        yield node


every_hold = pytest.mark.parametrize("kept", [by_process, by_descriptor, by_socket], indirect=True)


@every_hold
def test_down_removes_the_links_where_they_are(kept: Node) -> None:
    assert set(kept.listed()) == links_of(kept, A, B)
    result = kept.down()
    assert "2 removed" in result.out, result
    assert kept.leftovers() == []
    assert remembered(kept) == {}
    assert kept.rait("down", "--json").json["status"] == "unchanged"


@every_hold
def test_up_makes_the_links_anew_where_they_belong(kept: Node) -> None:
    planned = kept.rait("plan")
    assert planned.out.count("(to be remade: ") == 2, planned
    result = kept.up("--json", "--yes")
    assert result.json["drift"] == [], "nobody has touched the links"
    assert set(kept.interfaces()) == links_of(kept, A, B)
    assert kept.up("--json").events == []
    kept.down()
    assert kept.leftovers() == []


def test_a_namespace_that_is_gone_took_its_links_along(node: Node) -> None:
    sync(node, A, B)
    make_anew(node)
    result = once_it_is_gone(node, "up", "--json", "--yes")
    assert {event["link"] for event in result.json["drift"]} == links_of(node, A, B)
    node.assert_has_exactly(links_of(node, A, B))
    machine.run(["ip", "netns", "del", node.target])
    once_it_is_gone(node, "down")
    assert remembered(node) == {}
    assert node.leftovers() == []


def test_a_namespace_that_lost_its_name_is_found(node: Node) -> None:
    sync(node, A, B)
    with ExitStack() as stack:
        by_process(stack, node.target)
        machine.run(["ip", "netns", "del", node.target])
        assert "2 removed" in node.down().out
    assert machine.wireguard_processes(node.tag) == []


WANDERER = """
import ctypes, os, sys
for path in sys.stdin:
    fd = os.open(path.strip(), os.O_RDONLY)
    assert ctypes.CDLL(None).setns(fd, 0x40000000) == 0
    print("there", flush=True)
"""
"""A process that goes to each namespace that it is told: as if its id were of another one then."""


@pytest.mark.parametrize("hold", [by_process, by_descriptor])
def test_a_process_id_that_is_of_another_process_now(node: Node, hold: Hold) -> None:
    machine.run(["ip", "netns", "add", node.target])
    pipe = subprocess.PIPE
    with ExitStack() as stack:
        target = [sys.executable, "-c", WANDERER]
        process = machine.start(target, node.target, stdin=pipe, stdout=pipe)
        stack.callback(process.wait)
        stack.callback(process.kill)
        node.write_conf(text=node.conf_hcl().replace(f'"{node.target}"', f'"{process.pid}"'))
        sync(node, A, B)
        hold(stack, node.target)
        machine.run(["ip", "netns", "del", node.target])
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(f"{machine.NETNS_DIR / node.netns}\n")
        process.stdin.flush()
        assert process.stdout.readline() == "there\n"

        assert node.rait("plan").out.count("(to be remade: ") == 2
        assert "2 removed" in node.down().out
        assert remembered(node) == {}
        assert node.leftovers() == []


def test_a_link_that_somebody_moved_is_found_and_made_anew(node: Node) -> None:
    sync(node, A, B)
    name = link_of(node, A)
    machine.run(["ip", "-n", node.target, "link", "set", name, "netns", node.netns])
    result = node.up("--json")
    assert result.touched == {name}
    node.assert_has_exactly(links_of(node, A, B))
    assert node.up("--json").events == []


def test_a_link_that_somebody_moved_is_no_sign_of_the_namespace_that_it_was_in(
    node: Node, tier: str
) -> None:
    if tier != "userspace":
        pytest.skip("nobody can see where a link of the kernel is")
    sync(node, A, B)
    machine.run(["ip", "-n", node.target, "link", "set", link_of(node, A), "netns", node.netns])
    make_anew(node)
    once_it_is_gone(node, "up", "--yes")
    node.assert_has_exactly(links_of(node, A, B))
    assert node.up("--json").events == []


def test_a_link_that_somebody_moved_is_removed_by_down(node: Node) -> None:
    sync(node, A, B)
    name = link_of(node, A)
    machine.run(["ip", "-n", node.target, "link", "set", name, "netns", node.netns])
    assert "2 removed" in node.down().out
    assert node.leftovers() == []


def test_a_link_that_somebody_renamed_is_made_anew(node: Node) -> None:
    sync(node, A, B)
    rename(node, link_of(node, A), f"{node.tag}new")
    assert "not ours" not in node.rait("plan").err
    node.up("--yes")
    node.assert_has_exactly(links_of(node, A, B))
    assert node.up("--json").events == []


def test_links_that_somebody_renamed_into_each_others_names_are_made_anew(node: Node) -> None:
    sync(node, A, B)
    machine.run(["ip", "-n", node.target, "link", "del", link_of(node, B)])
    rename(node, link_of(node, A), link_of(node, B))
    node.up("--yes")
    node.assert_has_exactly(links_of(node, A, B))
    assert {state.peer for state in node.state().values()} == {A.public_key, B.public_key}
    assert node.up("--json").events == []
    node.down()
    assert node.leftovers() == []


def rename(node: Node, old: str, new: str) -> None:
    machine.ip_batch(
        [f"link set {old} down", f"link set {old} name {new}", f"link set {new} up"], node.target
    )


def test_a_namespace_that_only_a_message_under_way_refers_to(node: Node, tier: str) -> None:
    """Nobody can see who has it. A program knows where its tun is; the kernel's links are lost."""
    sync(node, A, B)
    names = links_of(node, A, B)
    with ExitStack() as stack:
        one, other = (stack.enter_context(end) for end in socket.socketpair())
        with (machine.NETNS_DIR / node.target).open() as file:
            socket.send_fds(one, [b"x"], [file.fileno()])
        make_anew(node)
        if tier == "userspace":
            assert "2 removed" in node.down().out
            return
        for what in ("down", "up"):
            result = node.rait(what)
            assert result.status == 1, result
            assert all(name in result.err for name in names)
            assert "is a different namespace now" in result.err
            assert "--assume-gone" in result.err
        assert set(remembered(node)) == names
        assert node.rait("list").status != 0
        other.close()
    node.up("--yes", "--json")
    assert set(node.interfaces()) == names


def test_who_knows_that_a_namespace_is_gone_can_say_so(node: Node, tier: str) -> None:
    if tier == "userspace":
        pytest.skip("a program always tells where its tun is")
    sync(node, A, B)
    with ExitStack() as stack:
        one, _ = (stack.enter_context(end) for end in socket.socketpair())
        with (machine.NETNS_DIR / node.target).open() as file:
            socket.send_fds(one, [b"x"], [file.fileno()])
        make_anew(node)
        assert node.rait("down").status == 1
        assert node.rait("down", "--assume-gone").status == 0
        assert remembered(node) == {}
        assert node.rait("down", "--json").json["status"] == "unchanged"


def test_a_link_of_ours_that_no_journal_knows_is_not_called_a_strangers(
    node: Node, tier: str
) -> None:
    if tier == "kernel":
        pytest.skip("the kernel has no programs")
    sync(node, A)
    name = link_of(node, A)
    rename(node, name, "formerly-ours")
    for path in node.journal.parent.glob("journal.db*"):
        path.unlink()
    result = node.rait("up")
    assert result.status == 1, result
    (pid,) = machine.wireguard_processes(node.tag)
    assert "not ours" not in result.err
    assert f"`kill {pid}`" in result.err
    machine.end(signal.SIGTERM, pid)
    assert not machine.uapi_sockets(node.tag)
    node.up()
    node.assert_has_exactly({name})

"""Configurations that share ifgroup, target and journal leave each other's links alone."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest

from tests.integration import machine
from tests.integration.command import Result
from tests.integration.conftest import MakeMesh
from tests.integration.harness import Node
from tests.integration.strangers import (
    Stranger,
    link_of,
    links_of,
    strangers,
    write_peers,
)

pytestmark = pytest.mark.userspace

A, B, C, D = strangers(1, 2, 3, 4)


class Second:
    """Another rait.conf in the node's namespaces: its own key, transport and peers."""

    def __init__(self, node: Node, key: str | None = None) -> None:
        self.node = node
        self.private_key, self.public_key = machine.genkey()
        self.peers = node.directory / "second.peers"
        self.conf = node.directory / "second.conf"
        text = node.conf_hcl(
            private_key=json.dumps(key or self.private_key), peers=json.dumps(str(self.peers))
        )
        # Its links differ in the first letter after the tag; those over IPv6 are of no peer here.
        self.conf.write_text(text.replace(f'"{node.tag}4"', f'"{node.tag}8"'))
        self.conf.chmod(0o600)

    def knows(self, *peers: Stranger) -> None:
        self.peers.write_text("\n".join(peer.entry for peer in peers) or "peers = []")

    def rait(self, *arguments: str) -> Result:
        result = self.node.rait("-c", str(self.conf), *arguments)
        assert self.private_key not in result.out + result.err
        return result

    def links(self, *peers: Stranger) -> set[str]:
        return {
            link_of(self.node, peer).replace(f"{self.node.tag}4", f"{self.node.tag}8", 1)
            for peer in peers
        }


@pytest.fixture
def node(make_mesh: MakeMesh) -> Node:
    """A node with links to A and B."""
    node = make_mesh(1).nodes[0]
    write_peers(node, A, B)
    node.up()
    return node


def no_change(result: Result) -> None:
    assert (result.status, result.json["status"], result.events) == (0, "unchanged", []), result


@pytest.mark.kernel
def test_each_leaves_the_links_of_the_other(node: Node) -> None:
    second = Second(node)
    second.knows(C, D)
    up = second.rait("up")
    assert up.status == 0, up
    first, other = sorted(links_of(node, A, B))
    assert f"rait leaves links {first}, {other} alone: made by another configuration" in up.err
    assert str(node.conf) in up.err
    both = links_of(node, A, B) | second.links(C, D)
    state = node.state()
    assert set(state) == both

    no_change(node.rait("up", "--json"))
    no_change(second.rait("up", "--json"))
    no_change(node.rait("plan", "--json"))
    assert node.state() == state, "neither touched anything"
    assert set(node.listed()) == links_of(node, A, B)
    told = second.rait("list", "--json").json["links"]
    assert {link["name"] for link in told} == second.links(C, D)

    second.knows(C)
    assert second.rait("up").status == 0
    write_peers(node, B)
    assert node.up().status == 0
    assert set(node.state()) == links_of(node, B) | second.links(C)
    down = node.rait("down")
    assert down.status == 0, down
    assert f"rait leaves link {second.links(C).pop()} alone" in down.err
    assert set(node.state()) == second.links(C)
    assert second.rait("down").status == 0
    assert node.state() == {}


def test_with_one_key_too(node: Node) -> None:
    second = Second(node, key=node.private_key)
    second.knows(C)
    assert second.rait("up").status == 0
    no_change(node.rait("up", "--json"))
    assert node.rait("down").status == 0
    assert set(node.state()) == second.links(C)


def test_a_name_that_the_other_has_is_said_to_be_taken(node: Node) -> None:
    other = Second(node)
    other.conf.write_text(other.conf.read_text().replace(f'"{node.tag}8"', f'"{node.tag}4"'))
    other.knows(B, C)
    before = node.state()
    result = other.rait("up")
    assert result.status == 3, result
    assert f"{link_of(node, B)}: a WireGuard interface that is not ours" in result.err
    assert str(node.conf) in result.err
    after = node.state()
    assert after.keys() - before.keys() == {link_of(node, C)}
    assert {name: after[name] for name in before} == before
    assert node.rait("down").status == 0
    assert other.rait("up").status == 0, "now the name is free"
    assert set(node.state()) == links_of(node, B, C)


def test_a_link_of_the_other_that_does_not_answer_is_its_own_affair(node: Node) -> None:
    second = Second(node)
    second.knows(C)
    assert second.rait("up").status == 0
    (pid,) = machine.wireguard_processes(second.links(C).pop())
    machine.stop(pid)
    try:
        result = node.rait("up", "--json")
        no_change(result)
        assert "cannot be read" not in result.err
        assert node.rait("down").status == 0
        assert second.rait("up").status == 1, "but its own it misses"
    finally:
        os.kill(pid, signal.SIGCONT)


def test_a_new_private_key_is_no_stranger(node: Node) -> None:
    state = node.state()
    node.private_key, node.public_key = machine.genkey()
    node.write_conf()
    assert node.up().status == 0
    assert {n: s.index for n, s in node.state().items()} == {n: s.index for n, s in state.items()}
    keys = machine.wg_all("public-key", node.target).splitlines()
    assert {line.split("\t")[1] for line in keys if line.startswith(node.tag)} == {node.public_key}


def test_without_its_journal_a_node_still_knows_its_own_links(node: Node) -> None:
    second = Second(node)
    second.knows(C)
    assert second.rait("up").status == 0
    for file in node.directory.glob("journal.db*"):
        file.unlink()
    result = node.rait("up", "--json")
    assert result.status == 0, result
    assert result.events == []
    (left,) = second.links(C)
    assert left in result.err
    assert second.public_key in result.err
    # Nobody knows whose it is, so "all of ours are gone" cannot be said.
    down = node.rait("down")
    assert down.status == 3, down
    assert f"{left}: it is left alone" in down.err
    assert "ip link del" in down.err
    assert set(node.state()) == {left}
    assert node.rait("down").status == 3, "as long as it is there"


def test_a_configuration_that_was_moved_keeps_its_links(node: Node) -> None:
    state = node.state()
    moved = node.conf.rename(node.directory / "moved.conf")
    result = node.rait("-c", str(moved), "up", "--json")
    assert result.status == 0, result
    assert result.events == []
    assert "left alone" not in result.err
    assert node.state() == state


def test_another_configuration_at_the_path_of_one_that_was_moved_is_a_new_one(node: Node) -> None:
    """The journal knows the links by both paths: they are of the one that had them last."""
    moved = node.conf.rename(node.directory / "moved.conf")
    assert node.rait("-c", str(moved), "up").status == 0
    state = node.state()
    second = Second(node)
    second.conf.rename(node.conf)
    second.conf = node.conf
    second.knows(C)
    for command in ("plan", "up"):
        result = second.rait(command, "--json")
        assert result.status == 0, result
        assert result.touched == second.links(C)
        assert str(moved) in result.err
    assert {name: link for name, link in node.state().items() if name in state} == state
    assert second.rait("down").status == 0
    assert node.state() == state
    no_change(node.rait("-c", str(moved), "up", "--json"))


def test_a_configuration_without_a_path_that_got_another_key_is_told_of_the_former(
    make_mesh: MakeMesh,
) -> None:
    node = make_mesh(1).nodes[0]
    write_peers(node, A)
    former = node.conf_hcl()
    assert node.rait("-c", "-", "up", stdin=former).status == 0
    state, key = node.state(), node.public_key
    node.private_key, node.public_key = machine.genkey()
    result = node.rait("-c", "-", "up", stdin=node.conf_hcl())
    assert result.status == 1, result
    assert key in result.err
    assert "former key, run `rait down` with its private key" in result.err
    assert node.state() == state
    assert node.rait("-c", "-", "down", stdin=former).status == 0
    assert node.rait("-c", "-", "up", stdin=node.conf_hcl()).status == 0
    assert set(node.state()) == links_of(node, A)


def test_a_copy_beside_it_does_not_take_its_links(node: Node) -> None:
    copy = node.directory / "copy.conf"
    copy.write_text(node.conf.read_text())
    copy.chmod(0o600)
    state = node.state()
    result = node.rait("-c", str(copy), "up")
    assert result.status == 1, result
    assert str(node.conf) in result.err
    assert node.state() == state


def test_a_plan_elsewhere_knows_of_strangers(node: Node, tmp_path: Path) -> None:
    second = Second(node)
    second.knows(C)
    assert second.rait("up").status == 0
    exported = tmp_path / "state.json"
    state = node.rait("export-state")
    exported.write_text(state.out)
    assert C.public_key not in state.out, "nothing of another's peers"
    plan = node.rait("plan", "--json", "--against", str(exported))
    here = node.rait("plan", "--json")
    for result in (plan, here):
        no_change(result)
        assert f"rait leaves link {second.links(C).pop()} alone" in result.err

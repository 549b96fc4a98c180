"""Commands for links: where they run, what they are told, and what rait makes of how they end."""

from __future__ import annotations

import pytest

from tests.integration.conftest import MakeMesh
from tests.integration.harness import Node
from tests.integration.strangers import link_of, strangers, sync

pytestmark = [pytest.mark.userspace, pytest.mark.kernel]

A, B, C = strangers(1, 2, 3)


@pytest.fixture
def node(make_mesh: MakeMesh) -> Node:
    return make_mesh(1).nodes[0]


class Hook:
    """The commands of a node's links, which note each call in a file of its own."""

    def __init__(self, node: Node) -> None:
        self.node = node
        self.calls_made = node.directory / "calls"
        self.program = node.directory / "hook"
        self.writes()

    def writes(self, then: str = "", first: str = "") -> None:
        """Make the program, which does something ``first`` and ``then``."""
        note = f"echo $RAIT_EVENT $RAIT_LINK $1 >> {self.calls_made}"
        self.program.write_text(f"#!/bin/sh\n{first}\n{note}\n{then}\n")
        self.program.chmod(0o755)

    def configure(
        self, *, timeout: int = 60, up: str = "up", more: str = "", mtu: int = 1420
    ) -> None:
        policy = [f'up_command = ["{self.program}", "{up}"]']
        policy += [f'down_command = ["{self.program}", "down"]', more]
        text = self.node.conf_hcl(command_timeout=str(timeout)).replace("1420", str(mtu))
        self.node.write_conf(text=f"{text}policy {{\n{chr(10).join(policy)}\n}}\n")

    def calls(self) -> list[str]:
        """The calls since the last question, sorted."""
        if not self.calls_made.exists():
            return []
        text = self.calls_made.read_text()
        self.calls_made.unlink()
        return sorted(text.splitlines())


@pytest.fixture
def hook(node: Node) -> Hook:
    hook = Hook(node)
    hook.configure()
    return hook


def test_commands_follow_links(node: Node, hook: Hook) -> None:
    (a, b) = (link_of(node, peer) for peer in (A, B))
    sync(node, A, B)
    assert hook.calls() == [f"added {a} up", f"added {b} up"]
    result = node.rait("up", "--json")
    assert result.json["status"] == "unchanged"
    assert hook.calls() == []
    hook.configure(mtu=1300)
    node.up()
    assert hook.calls() == [f"changed {a} up", f"changed {b} up"]
    sync(node, A)
    assert hook.calls() == [f"removed {b} down"]
    hook.configure(mtu=1300, up="other")
    shown = node.rait("plan").out
    assert f"> {a} changed: up_command {hook.program} other\n" in shown
    assert "1 command to be called" in shown
    assert hook.calls() == []
    result = node.up()
    assert hook.calls() == [f"changed {a} other"]
    assert "1 changed, 1 command called" in result.out
    assert node.rait("rollback").status == 0
    assert hook.calls() == [f"changed {a} up"]
    node.down()
    assert hook.calls() == [f"removed {a} down"]

"""Commands for links: where they run, what they are told, and what rait makes of how they end.

What fails here is a fork of this process (command.py): so what is patched here is patched there.
"""

from __future__ import annotations

import json
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NoReturn

import pytest

from rait.adapters.hooks import AT_ONCE
from rait.adapters.journal import store
from rait.adapters.journal.store import Journal
from rait.app import hooks
from tests.integration import machine
from tests.integration.conftest import MakeMesh
from tests.integration.harness import Node
from tests.integration.routing import eventually
from tests.integration.strangers import link_of, strangers, sync, write_peers

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

    def writes(self, then: str = "") -> None:
        """Make the program, which does something after it has noted the call."""
        note = f"echo $RAIT_EVENT $RAIT_LINK $1 >> {self.calls_made}"
        new = self.program.with_suffix(".new")  # a file that is being started cannot be written
        new.write_text(f"#!/bin/sh\n{note}\n{then}\n")
        new.chmod(0o755)
        new.replace(self.program)

    def configure(
        self, *, timeout: int = 60, up: str = "up", more: str = "", mtu: int = 1420
    ) -> None:
        policy = [f'up_command = ["{self.program}", "{up}"]']
        policy += [f'down_command = ["{self.program}", "down"]', more]
        text = self.node.conf_hcl(command_timeout=str(timeout)).replace(
            "mtu = 1420", f"mtu = {mtu}"
        )
        self.node.write_conf(text=f"{text}policy {{\n{chr(10).join(policy)}\n}}\n")

    def running(self) -> list[int]:
        """The processes of commands."""
        return [pid for pid, words in machine.processes().items() if str(self.program) in words]

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
    assert node.rait("replay", "--at", "1", "--apply", "--yes").status == 0
    assert hook.calls() == [f"added {a} up", f"added {b} up"]


def test_what_a_command_is_told_and_where_it_runs(node: Node, hook: Hook) -> None:
    told = node.directory / "told"
    script = f"env | grep ^RAIT_ | sort > {told}; ip -o link | cut -d: -f2 >> {told}; pwd >> {told}"
    for where, namespace in (("target", node.target), ("current", node.netns)):
        hook.writes(script)
        hook.configure(more=f'command_netns = "{where}"')
        node.write_peers([f'{A.entry}Name = "it\'s \\"$(far)"\n[Peers.Remarks]\nLD_PRELOAD = 1\n'])
        node.up()
        link = link_of(node, A)
        *variables, directory = told.read_text().splitlines()
        event = "added" if where == "target" else "changed"
        assert variables[:8] == [
            f"RAIT_EVENT={event}",
            f"RAIT_LINK={link}",
            f"RAIT_LOCK={node.journal}.lock",
            f"RAIT_NETNS={node.target}",
            f"RAIT_PEER={A.public_key}",
            "RAIT_PEER_NAME=it's \"$(far)",
            "RAIT_REMARK_LD_PRELOAD=1",
            " lo",
        ]
        assert {name.strip().partition("@")[0] for name in variables[7:]} == set(
            machine.links(namespace)
        )
        assert directory == "/"


def test_a_command_that_fails_makes_the_run_partial_and_undoes_nothing(
    node: Node, hook: Hook
) -> None:
    secret = f"echo; echo key {node.private_key}; printf 'red \\033[31m\\n' >&2"
    hook.writes(f"for i in $(seq 9); do echo line $i; done; {secret}; exit 7")
    write_peers(node, A)
    link = link_of(node, A)
    result = node.rait("up")
    assert result.status == 3, result
    failure = f"{link}: added: up_command {hook.program} up failed: it ended with status 7"
    lines = ["line 7", "line 8", "line 9", "key (left out)", "red \\u001b[31m"]
    assert result.err.splitlines() == [
        f"rait: {failure}",
        *(f"rait: {link}: | {li}" for li in lines),
    ]
    assert "1 added, 1 command called, 1 of them failed; 1 link wanted" in result.out
    node.assert_has_exactly({link})
    again = node.rait("up", "--json")
    assert (again.status, again.json["status"]) == (0, "unchanged"), "it is not called again"

    (call,) = json.loads(node.rait("log", "--json", "--link", link).out)["calls"]
    assert call == {
        "link": link,
        "event": "added",
        "command": [str(hook.program), "up"],
        "status": 7,
        "error": "it ended with status 7",
        "lines": lines,
    }
    told = node.rait("log").out
    assert f"  > {failure}".replace(": added", " added", 1) in told
    assert "\n    | line 9\n" in told
    assert node.private_key not in node.journal.read_bytes().decode(errors="replace")
    assert node.rait("log", "verify").status == 0
    hook.calls()
    hook.writes()
    hook.configure(mtu=1300)
    node.up()
    assert hook.calls() == [f"changed {link} up"]


def test_however_commands_hang_or_fail_the_run_goes_on(node: Node, hook: Hook) -> None:
    pids = node.directory / "pids"
    links = {letter: link_of(node, peer) for letter, peer in zip("abc", (A, B, C), strict=True)}
    hook.writes(
        "case $RAIT_LINK in\n"
        f"{links['a']}) sleep 1000 & echo $$ $! > {pids}; wait;;\n"
        f"{links['b']}) head -c 300000 /dev/zero | tr '\\0' x; echo the end; kill -9 $$;;\n"
        "*) yes & sleep 1000 & exit 0;; esac"
    )
    hook.configure(timeout=20)
    write_peers(node, A, B, C)
    result = node.rait("up", "--json")
    assert result.status == 3, result
    errors = {call["link"]: call["error"] for call in result.json["calls"]}
    assert errors == {
        links["a"]: "it did not end within 20 s, and was killed",
        links["b"]: "it was killed by SIGKILL",
        links["c"]: None,
    }
    node.assert_has_exactly(set(links.values()))
    eventually(lambda: have_ended(pids), "all of it is killed")
    hook.program.unlink()
    result = node.rait("down")
    assert result.status == 3, result
    assert "it cannot be run: No such file or directory" in result.err
    assert node.leftovers() == []


def have_ended(pids: Path) -> bool:
    """Whether the processes of a file have. Who is the first process may not wait for them."""
    return all(machine.has_ended(int(pid)) for pid in pids.read_text().split())


def test_several_commands_run_at_once(node: Node, hook: Hook) -> None:
    """Each waits until all of them run."""
    peers = strangers(*range(1, AT_ONCE + 1))
    hook.writes(f"while [ $(wc -l < {hook.calls_made}) -lt {AT_ONCE} ]; do sleep 0.01; done")
    sync(node, *peers)
    assert len(hook.calls()) == AT_ONCE


def test_a_command_that_calls_rait_up_is_told_so_at_once(node: Node, hook: Hook) -> None:
    rait = f"python3 -c 'import sys; from rait.cli import main; sys.exit(main())' -c {node.conf}"
    rait = rait.replace("python3", sys.executable)
    hook.writes(f"cd {Path(__file__).parents[2]}; {rait} list >&2 && {rait} up")
    write_peers(node, A)
    result = node.rait("up")
    assert result.status == 3, result
    assert "calls `rait up`, and the rait that waits" in result.err
    assert link_of(node, A) in result.err, "which was listed"


def test_a_change_that_is_taken_back_calls_the_commands_of_that(node: Node, hook: Hook) -> None:
    a, b = link_of(node, A), link_of(node, B)
    sync(node, A)
    hook.calls()
    write_peers(node, B)
    assert node.rait("up", "--yes", "--confirm", "1h").status == 0
    assert hook.calls() == [f"added {b} up", f"removed {a} down"]
    assert node.rait("confirm", "--back").status == 0
    eventually(lambda: node.rait("log", "--json").out.count("\n") == 3, "the change is taken back")
    assert hook.calls() == [f"added {a} up", f"removed {b} down"]


def test_commands_that_others_can_write_are_not_run(node: Node, hook: Hook) -> None:
    write_peers(node, A)
    node.conf.chmod(0o620)
    result = node.rait("up")
    assert result.status == 2, result
    assert "others on this machine can write the file" in result.err
    assert node.interfaces() == {}
    assert "others on this machine can write the file" in node.rait("plan").err
    node.conf.chmod(0o600)
    node.up()
    assert len(hook.calls()) == 1


Kill = Callable[..., NoReturn]


def dies(*_: object, **__: object) -> NoReturn:
    os.kill(os.getpid(), signal.SIGKILL)
    raise AssertionError


def after(function: Callable[..., Any]) -> Kill:
    def dying(*arguments: Any, **others: Any) -> NoReturn:
        function(*arguments, **others)
        dies()

    return dying


STEPS: dict[str, tuple[object, str, Kill]] = {
    "before the effect": (Journal, "begin", after(Journal.begin)),
    "after the effect": (store.Run, "record", dies),
    "before the command": (hooks, "make", dies),
    "in the command": (hooks, "nothing", dies),
    "before the result": (store.Run, "record_call", dies),
    "before the end": (store.Run, "finish", dies),
}
CALLED_BY_THEN = ("before the result", "before the end")


@pytest.mark.parametrize("step", STEPS)
def test_killed_at_any_step_the_next_run_calls_what_is_due(
    node: Node, hook: Hook, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    a, b, c = (link_of(node, peer) for peer in (A, B, C))
    sync(node, A, B)
    hook.calls()
    write_peers(node, B, C)
    hook.configure(mtu=1300)
    due = sorted([f"removed {a} down", f"changed {b} up", f"added {c} up"])
    if step == "in the command":
        hook.writes("kill -9 $(cut -d ' ' -f 1 $RAIT_LOCK)")
    with monkeypatch.context() as patched:
        place, name, kill = STEPS[step]
        patched.setattr(place, name, kill, raising=False)
        assert node.rait("up", "--yes").status == -signal.SIGKILL
    eventually(lambda: not hook.running(), "no command runs")
    made = hook.calls()
    if step == "in the command":
        assert set(made) <= set(due)
        assert made
    else:
        assert made == (due if step in CALLED_BY_THEN else [])
    hook.writes()
    shown = node.rait("plan", "--json").json["calls"]
    result = node.rait("up", "--yes", "--json")
    assert result.status == 0, result
    called = hook.calls()
    if step == "in the command":
        # One that the killed run had started, and that was no program as yet, may come as late.
        called = sorted(set(called))
    assert called == ([] if step == "before the end" else due)
    assert (
        sorted(f"{call['event']} {call['link']} {call['command'][1]}" for call in shown) == called
    )
    assert all(event["left_by_unfinished_run"] for event in result.json["drift"])
    again = node.rait("up", "--json")
    assert again.json["status"] == "unchanged"
    assert hook.calls() == []
    assert node.rait("log", "verify").status == 0
    node.assert_has_exactly({b, c})


def test_sigterm_ends_the_commands_and_the_next_run_calls_them(node: Node, hook: Hook) -> None:
    pids = node.directory / "pids"
    hook.writes(f"echo $$ > {pids}; sleep 1000")
    write_peers(node, A)
    running = node.start("up")
    eventually(lambda: pids.exists() and pids.read_text(), "the command runs")
    os.kill(running.pid, signal.SIGTERM)
    assert running.wait().status == -signal.SIGTERM
    eventually(lambda: have_ended(pids), "the command is ended")
    hook.calls()
    hook.writes()
    result = node.up()
    assert result.out.splitlines()[0].startswith(f"> {link_of(node, A)} added: up_command")
    assert hook.calls() == [f"added {link_of(node, A)} up"]


def test_a_link_that_goes_by_another_hand_is_owed_nothing(
    node: Node, hook: Hook, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_peers(node, A)
    with monkeypatch.context() as patched:
        patched.setattr(hooks, "make", dies)
        assert node.rait("up").status == -signal.SIGKILL
    machine.ip_batch([f"link del {link_of(node, A)}"], node.target)
    node.down()
    assert hook.calls() == []


def test_a_command_in_a_namespace_that_is_gone(
    node: Node, hook: Hook, monkeypatch: pytest.MonkeyPatch
) -> None:
    sync(node, A)
    hook.calls()
    with monkeypatch.context() as patched:
        patched.setattr(hooks, "make", dies)
        assert node.rait("down").status == -signal.SIGKILL
    machine.remove_netns(node.target)
    result = node.rait("down")
    assert result.status == 3, result
    assert f"cannot be run: network namespace {node.target} does not exist" in result.err
    assert hook.calls() == []

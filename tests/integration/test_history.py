"""Plan, log, replay and rollback with real tunnels."""

from __future__ import annotations

import json
import os
import shutil
import signal
import sqlite3
import time
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from rait.adapters.journal.store import Run
from rait.adapters.lock import hold
from rait.app.options import Options
from tests.integration import machine
from tests.integration.command import Result, Running, start_fork
from tests.integration.conftest import MakeMesh
from tests.integration.harness import Node
from tests.integration.routing import eventually
from tests.integration.strangers import (
    endpoint_of,
    link_of,
    links_of,
    mtu_of,
    set_mtu,
    strangers,
    sync,
    write_peers,
)

pytestmark = pytest.mark.userspace
in_both_tiers = pytest.mark.kernel
"""For what touches tunnels; the rest is the same in either tier, and slow in a virtual machine."""

A, B, C, D, E = strangers(1, 2, 3, 4, 5)


@pytest.fixture
def node(make_mesh: MakeMesh) -> Node:
    return make_mesh(1).nodes[0]


def files(directory: Path) -> dict[str, bytes]:
    return {str(p): p.read_bytes() for p in directory.rglob("*") if p.is_file()}


def lines(result: Result) -> list[dict[str, Any]]:
    assert result.status == 0, result
    return [json.loads(line) for line in result.out.splitlines()]


def log(node: Node, *arguments: str) -> list[dict[str, Any]]:
    return lines(node.rait("log", "--json", *arguments))


def refused(result: Result, status: int, *words: str) -> None:
    assert result.status == status, result
    for word in words:
        assert word in result.err, (word, result)


# plan


@in_both_tiers
def test_plan_shows_what_up_does_and_writes_nothing(node: Node) -> None:
    write_peers(node, A, B)
    before = files(node.directory)
    plans = [node.rait("plan", "--json"), node.rait("up", "--dry-run", "--json")]
    assert files(node.directory) == before, "no journal, no lock, nothing"
    assert not machine.netns_exists(node.target)
    assert node.rait("plan", "--detailed-exitcode").status == 2
    done = node.up("--json")
    for plan in plans:
        assert plan.status == 0
        assert plan.json["status"] == "planned"
        assert plan.events == [as_planned(event) for event in done.events]
    assert node.rait("plan", "--detailed-exitcode").status == 0

    write_peers(node, A.moved(), C)
    before, state = files(node.directory), node.state()
    planned = node.rait("plan")
    assert planned.status == 0
    assert f"- {link_of(node, B)} peer {B.public_key}" in planned.out
    assert f"+ {link_of(node, C)} port {C.send_port} peer {C.public_key}" in planned.out
    assert f"endpoint {A.address}:{node.ports['ip4']} -> 203.0.113.1:" in planned.out
    assert (files(node.directory), node.state()) == (before, state)
    plan = node.rait("plan", "--json")
    assert node.up("--json").events == plan.events


def as_planned(event: dict[str, Any]) -> dict[str, Any]:
    """The event before its link's namespace was made: then nobody knows which one that will be."""
    if event["type"] != "LinkAdded":
        return event
    state = event["state"]
    return event | {"state": state | {"origin": state["origin"] | {"instance": ""}}}


def test_plan_tells_of_a_configuration_that_is_wrong(node: Node) -> None:
    node.write_conf(text="private_key = 1\n")
    assert node.rait("plan").status == 2
    assert node.rait("plan", "--detailed-exitcode").status == 1


@in_both_tiers
def test_a_plan_elsewhere_is_the_plan_here(node: Node, tmp_path: Path) -> None:
    sync(node, A, B)
    set_mtu(node, B, 1300)
    write_peers(node, A.moved(), B, C)
    here = node.rait("plan", "--json")
    exported = node.rait("export-state")
    assert exported.status == 0
    state = tmp_path / "state.json"
    state.write_text(exported.out)

    machine.remove_wireguard(node.tag)
    machine.remove_netns(node.target)
    node.journal.unlink()
    there = node.rait("plan", "--against", str(state), "--json")
    assert there.json == here.json
    assert {event["link"] for event in there.events} == links_of(node, A, B, C)


# log


def test_the_log_tells_of_runs_and_events(node: Node) -> None:
    first = sync(node, A, B)
    second = sync(node, A.moved(), B)
    set_mtu(node, B, 1300)
    third = sync(node, A.moved(), B)
    node.up()
    runs = log(node)
    assert [run["run"] for run in runs] == [first, second, third], "newest last, no empty runs"
    assert [run["status"] for run in runs] == ["done"] * 3
    (add, move, mend) = runs
    assert add["uid"] == os.getuid()
    assert add["public_key"] == node.public_key
    assert add["command"] == "up"
    assert len(add["config_digest"]) == len(add["peers_digest"]) == 64
    assert add["config_digest"] == move["config_digest"]
    assert add["peers_digest"] != move["peers_digest"] == mend["peers_digest"]
    assert [event["link"] for event in move["events"]] == [link_of(node, A)]
    (noticed,) = mend["noticed"]
    assert (noticed["link"], noticed["after"]["mtu"]) == (link_of(node, B), 1300)

    def found(*arguments: str) -> list[int]:
        return [run["run"] for run in log(node, *arguments)]

    assert found("--link", link_of(node, B)) == [first, third]
    assert found("--peer", A.public_key) == [first, second]
    assert found("--run", str(second)) == [second]
    assert found("--since", "1h") == [first, second, third]
    assert found("--since", "0s") == []
    assert found("--since", "2020-01-31", "--link", "nonesuch") == []
    begun = move["started_at"] // 10**9
    stamp = time.strftime("%Y-%m-%dT%H:%M:%S", time.localtime(begun + 1))
    assert first not in found("--since", stamp) or add["started_at"] // 10**9 > begun

    text = node.rait("log", "--link", link_of(node, B)).out
    assert (
        f"~ {link_of(node, B)} mtu 1420 -> 1300 (noticed: not by a run of this configuration)"
        in text
    )
    assert f"~ {link_of(node, B)} mtu 1300 -> 1420" in text
    assert link_of(node, A) not in text
    assert len(node.rait("log", "--oneline").out.splitlines()) == 3
    shown = node.rait("log", "show", str(second))
    assert shown.status == 0
    for word in (f"run {second} ", "endpoint", str(node.conf), add["config_digest"], A.public_key):
        assert word in shown.out
    refused(node.rait("log", "show", "4711"), 1, "there is no run 4711")


def test_what_a_killed_run_left_is_told_from_what_others_did(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    sync(node, A, B)
    write_peers(node, A.moved(), B, C)
    with monkeypatch.context() as patch:
        # All effects there, and none of them recorded.
        patch.setattr(Run, "record", lambda *_: os.kill(os.getpid(), signal.SIGKILL))
        assert node.rait("up").status == -signal.SIGKILL
    set_mtu(node, B, 1300)
    state = node.directory / "state.json"
    state.write_text(node.rait("export-state").out)
    for command in (["plan"], ["plan", "--against", str(state)], ["up"]):
        found = node.rait(*command).out.splitlines()
        left = [line for line in found if line.endswith("(left by a run that did not finish)")]
        assert [line.split()[2] for line in left] == [link_of(node, C), link_of(node, A)]
        (other,) = (line for line in found if "not by a run of this configuration" in line)
        assert f"! ~ {link_of(node, B)} mtu 1420 -> 1300 (since the last run, " in other
    run = log(node)[-1]
    mine = {event["link"]: event["left_by_unfinished_run"] for event in run["noticed"]}
    assert mine == {link_of(node, A): True, link_of(node, B): False, link_of(node, C): True}
    shown = node.rait("log", "show", str(run["run"])).out
    (added,) = (line for line in shown.splitlines() if f"+ {link_of(node, C)} " in line)
    assert added.endswith("(noticed: left by a run that did not finish)")
    assert "mtu 1420 -> 1300 (noticed: not by a run of this configuration)" in shown


def test_another_spelling_of_the_configuration_goes_on_where_it_was(node: Node) -> None:
    run = sync(node, A)
    (node.directory / "other.conf").symlink_to(node.conf.name)
    other = str(node.directory / "other.conf")
    for path in (other, str(node.directory / ".." / node.directory.name / node.conf.name)):
        assert "plan: nothing to do; 1 link" in node.rait("-c", path, "plan").out
        assert node.rait("-c", path, "rollback", "--dry-run").out.startswith("- ")
    write_peers(node, A, B)
    assert node.rait("-c", other, "up").status == 0
    assert node.up("--json").json["status"] == "unchanged"
    assert run in {told["run"] for told in log(node)}
    assert len({told["scope"] for told in log(node)}) == 1
    node.assert_has_exactly(links_of(node, A, B))


def test_follow_tells_of_a_run_when_it_has_ended(node: Node) -> None:
    first = sync(node, A)
    follower = node.start("log", "-f", "--json")
    try:
        second = sync(node, A, B)
        text = ""
        while text.count("\n") < 2:
            assert not follower.ended()
            time.sleep(0.1)
            text = shown_so_far(follower)
    finally:
        os.kill(follower.pid, signal.SIGINT)
        result = follower.wait()
    runs = lines(result)
    assert [run["run"] for run in runs] == [first, second]
    assert [run["status"] for run in runs] == ["done", "done"]
    assert result.err == ""


def shown_so_far(running: Running) -> str:
    """What is in the file that a command still writes to, without moving its offset."""
    size = os.fstat(running._out.fileno()).st_size
    return os.pread(running._out.fileno(), size, 0).decode()


def said_so_far(running: Running) -> str:
    """What is in its standard error so far, without moving its offset."""
    size = os.fstat(running._err.fileno()).st_size
    return os.pread(running._err.fileno(), size, 0).decode()


def test_readers_wait_for_nobody(node: Node) -> None:
    sync(node, A)
    with hold(node.journal.with_name("journal.db.lock"), "rait test", 0):
        for command in (
            ["log"], ["log", "verify"], ["list"], ["plan"], ["replay"], ["replay", "--diff"],
            ["export-state"], ["rollback", "--dry-run"],
        ):  # fmt: skip
            assert node.rait(*command).status == 0


def test_verify_finds_a_changed_row(node: Node, tmp_path: Path) -> None:
    sync(node, A)
    head = node.rait("log", "verify", "--json").json["head"]
    sync(node, A, B)
    verdict = node.rait("log", "verify", "--expect-head", head)
    assert verdict.status == 0
    assert "are sound" in verdict.out
    refused_head = node.rait("log", "verify", "--expect-head", "ab" * 32)
    assert refused_head.status == 1
    assert "expected head" in refused_head.out

    for statement, word in (
        ("UPDATE entries SET payload = replace(payload, '1420', '1421') WHERE id = 2", "entry 2"),
        ("DELETE FROM entries WHERE id = 3", "entry 3"),
        ("DELETE FROM entries WHERE id = (SELECT max(id) FROM entries)", "missing"),
        ("UPDATE entries SET at = at + 1 WHERE id = 1", "entry 1"),
    ):
        copy = tmp_path / "copy.db"
        shutil.copy(node.journal, copy)
        with closing(sqlite3.connect(copy)) as connection, connection:
            connection.execute(statement)
        found = node.rait("log", "verify", "--journal", str(copy))
        assert found.status == 1
        assert word in found.out
        copy.unlink()


def test_a_journal_of_a_newer_rait_is_refused(node: Node) -> None:
    sync(node, A)
    with closing(sqlite3.connect(node.journal)) as connection, connection:
        connection.execute("UPDATE head SET version = 99")
    state = node.state()
    for command in (["up"], ["log"], ["replay"], ["rollback"], ["plan"]):
        refused(node.rait(*command), 1, "version 99", "upgrade rait", str(node.journal))
    assert node.state() == state


def test_pruning_keeps_what_replay_needs(node: Node) -> None:
    first = sync(node, A)
    second = sync(node, A, B)
    time.sleep(1.1)
    third = sync(node, A, B, C)
    head = node.rait("log", "verify", "--json").json["head"]
    pruned = node.rait("log", "prune", "--keep", "1s", "--json")
    assert pruned.json["runs"] >= 2, pruned
    assert first not in {run["run"] for run in log(node)}
    replayed = node.rait("replay", "--json").json["topology"]["links"]
    assert set(replayed) == links_of(node, A, B, C)
    assert node.rait("log", "verify").status == 0
    refused(node.rait("replay", "--at", str(second)), 1, "were pruned")
    if third in {run["run"] for run in log(node)}:
        assert node.rait("log", "verify", "--expect-head", head).status == 0
        assert node.rait("rollback").status == 0
        assert set(node.state()) == links_of(node, A, B)
    assert node.rait("up", "--json").status == 0
    refused(node.rait("log", "prune", "--keep", "soon"), 2, '"soon" is no span')


def test_a_link_that_fails_for_good_is_told_of_once(node: Node) -> None:
    sync(node, A)
    write_peers(node, A, B)
    port = B.send_port
    with machine.socket_in(node.netns, machine.socket.AF_INET, machine.socket.SOCK_DGRAM) as holder:
        holder.bind(("0.0.0.0", port))  # noqa: S104 - in the node's namespace
        first = node.rait("up", "--json")
        head, size = node.rait("log", "verify", "--json").json["head"], node.journal.stat().st_size
        for _ in range(4):
            again = node.rait("up", "--json")
            assert (again.status, again.json, again.err) == (3, first.json, first.err)
            assert link_of(node, B) in again.err
        assert node.journal.stat().st_size == size
        runs = log(node)
        assert len(runs) == 2
        assert (runs[-1]["run"], runs[-1]["repeated"]) == (first.json["run"], 4)
        assert runs[-1]["events"][0]["error"] == again.json["failed"][0]["error"]
        assert "  repeated 4 times until " in node.rait("log").out
        assert log(node, "--since", "1h", "--link", link_of(node, B)) == runs[-1:]
    mended = node.up("--json")
    assert mended.status == 0
    assert mended.json["run"] > first.json["run"]
    assert [run["repeated"] for run in log(node)] == [0, 4, 0]
    assert node.rait("log", "verify", "--expect-head", head).status == 0
    assert node.up("--json").json["status"] == "unchanged"


def test_old_runs_go_by_themselves(node: Node) -> None:
    first = sync(node, A)
    node.write_conf(journal_keep='"1s"')
    ended = log(node)[0]["finished_at"]
    while time.time_ns() - ended < 2 * 10**9:
        time.sleep(0.05)
    assert node.up("--json").json["status"] == "unchanged"
    assert [run["run"] for run in log(node)] == [first], "who has nothing to do does not look"
    second = sync(node, A, B)
    assert [run["run"] for run in log(node)] == [first, second], "a clock may be wrong once"
    third = sync(node, A)
    assert [run["run"] for run in log(node)][-1] == third
    assert first not in [run["run"] for run in log(node)]
    assert node.rait("log", "verify").status == 0
    assert node.rait("replay", "--diff", "--json").events == []
    node.assert_has_exactly(links_of(node, A))


# replay


@in_both_tiers
def test_replay_goes_back_to_a_run_an_event_and_a_time(node: Node) -> None:
    first = sync(node, A, B)
    moment = time.time()
    time.sleep(1.1)
    second = sync(node, A.moved(), C)

    def then(at: str) -> set[str]:
        result = node.rait("replay", "--at", at, "--json")
        assert result.status == 0, result
        return set(result.json["topology"]["links"])

    stamp = time.strftime("%Y-%m-%dT%H:%M:%S%z", time.localtime(moment + 1))
    assert then(str(first)) == then(stamp) == links_of(node, A, B)
    assert then(str(second)) == then("0s") == links_of(node, A, C)
    assert then("10w") == set()
    gone = next(e for e in log(node)[1]["events"] if e["type"] == "LinkRemoved")
    assert then(f"event:{gone['event']}") == links_of(node, A)
    assert "2 links as of run" in node.rait("replay", "--at", str(first)).out

    differs = node.rait("replay", "--at", str(first), "--diff", "--json")
    assert {e["link"] for e in differs.events} == links_of(node, A, B, C)
    restored = node.rait("replay", "--at", str(first), "--apply", "--json")
    assert restored.status == 0
    assert restored.events == differs.events
    assert set(node.state()) == links_of(node, A, B)
    assert endpoint_of(node, A).startswith(A.address)
    assert log(node)[-1]["command"] == f"replay --at {first}"
    assert node.rait("replay", "--diff", "--json").events == []


@in_both_tiers
def test_replay_tells_drift_and_mends_it(node: Node) -> None:
    sync(node, A, B)
    set_mtu(node, A, 1300)
    state, journal = node.state(), files(node.directory)
    drift = node.rait("replay", "--diff")
    assert drift.status == 0
    assert f"! ~ {link_of(node, A)} mtu 1420 -> 1300" in drift.out
    assert link_of(node, B) not in drift.out
    assert (node.state(), files(node.directory)) == (state, journal)
    write_peers(node, C)
    assert node.rait("replay", "--apply").status == 0
    assert mtu_of(node, A) == 1420
    assert set(node.state()) == links_of(node, A, B), "the peers list does not count"


@in_both_tiers
def test_replay_brings_lost_tunnels_back(make_mesh: MakeMesh) -> None:
    mesh = make_mesh(2)
    node = mesh.nodes[0]
    mesh.up()
    before = node.state()
    machine.remove_wireguard(node.tag)
    machine.remove_netns(node.target)
    assert node.state() == {} if machine.netns_exists(node.target) else True
    result = node.rait("replay", "--apply")
    assert result.status == 0, result
    after = node.state()
    assert {name: (link.listen_port, link.peer) for name, link in after.items()} == {
        name: (link.listen_port, link.peer) for name, link in before.items()
    }
    mesh.ping_all()
    assert node.rait("up", "--json").json["status"] == "unchanged"


@in_both_tiers
def test_replay_under_another_key_is_refused(node: Node) -> None:
    first = sync(node, A)
    private, public = machine.genkey()
    former = node.private_key
    node.private_key = private
    node.write_conf()
    state = node.state()
    for command in (["replay", "--apply"], ["replay", "--at", str(first), "--diff"], ["rollback"]):
        refused(node.rait(*command), 2, "another key", node.public_key, public)
    assert node.state() == state
    assert node.up().status == 0, "up is how one changes the key"
    refused(node.rait("rollback"), 2, "another key", node.public_key, public)
    refused(node.rait("replay", "--at", str(first), "--apply"), 2, "another key")
    assert node.rait("replay", "--apply").status == 0
    node.private_key = former
    node.write_conf()
    assert node.rait("replay", "--at", str(first), "--apply").status == 0
    assert node.state() == state


# rollback


@in_both_tiers
def test_rollback_takes_the_last_run_back_and_then_itself(node: Node) -> None:
    sync(node, A, B)
    second = sync(node, A.moved(), C)
    planned = node.rait("rollback", "--dry-run", "--json")
    result = node.rait("rollback", "--json")
    assert result.status == 0, result
    assert result.events == planned.events
    assert set(node.state()) == links_of(node, A, B)
    assert endpoint_of(node, A).startswith(A.address)
    assert node.rait("rollback").status == 0
    assert set(node.state()) == links_of(node, A, C)
    assert endpoint_of(node, A).startswith("203.0.113.1:")
    commands = ["up", "up", f"rollback {second}", f"rollback {result.json['run']}"]
    assert [run["command"] for run in log(node)] == commands
    assert node.rait("up", "--json").json["status"] == "unchanged"


@in_both_tiers
def test_rollback_of_an_earlier_run_touches_its_links_alone(node: Node) -> None:
    sync(node, A)
    bad = sync(node, A.moved())
    sync(node, A.moved(), B)
    state = node.state()
    assert node.rait("rollback", str(bad)).status == 0
    assert endpoint_of(node, A).startswith(A.address)
    assert node.state()[link_of(node, B)] == state[link_of(node, B)]


@in_both_tiers
def test_rollback_is_refused_where_later_runs_touched_the_links(node: Node) -> None:
    sync(node, A, B)
    second = sync(node, A.moved(), B)
    third = sync(node, B)
    set_mtu(node, B, 1300)
    fourth = sync(node, B)
    state = node.state()
    conflict = node.rait("rollback", str(second))
    refused(conflict, 1, f"{link_of(node, A)}: run {third} (up)", "--force", "nothing was touched")
    assert link_of(node, B) not in conflict.err
    assert node.state() == state
    assert node.rait("rollback", str(second), "--force").status == 0
    assert set(node.state()) == links_of(node, A, B)
    assert endpoint_of(node, A).startswith(A.address), "as before that run"
    assert log(node, "--run", str(fourth))[0]["noticed"]
    assert node.rait("log", "verify").status == 0


def test_there_may_be_nothing_to_take_back(node: Node) -> None:
    refused(node.rait("rollback"), 1, "no run of this configuration changed anything")
    refused(node.rait("rollback", "7"), 1, "there is no run 7")


# the guard


@in_both_tiers
def test_an_empty_registry_does_not_take_the_node_off_the_mesh(node: Node) -> None:
    sync(node, A, B, C, D)
    state = node.state()
    write_peers(node)
    plan = node.rait("plan")
    assert plan.status == 0
    assert "will stop" in plan.err
    stopped = node.rait("up", "--json")
    assert stopped.status == 4
    assert stopped.json["status"] == "stopped"
    assert stopped.json["excessive_removal"]["of"] == 4
    refused(stopped, 4, "4 of 4 links", "--yes", "max_removals", *links_of(node, A, B, C, D))
    assert node.state() == state
    assert len(log(node)) == 1
    write_peers(node, A, B)
    assert node.up().status == 0, "half of them is not more than half"


@in_both_tiers
def test_a_mesh_does_not_die_by_halves(node: Node) -> None:
    sync(node, A, B, C, D)
    write_peers(node, A, B)
    node.up()
    state = node.state()
    write_peers(node, A)
    before = ", ".join(sorted(links_of(node, C, D)))
    told = node.rait("plan").err
    assert f"remove 1 of 4 links ({link_of(node, B)}); " in told
    assert f"({before}), which makes 3; at most 2 " in told
    exported = node.directory / "state.json"
    exported.write_text(node.rait("export-state").out)
    assert "which makes 3" in node.rait("plan", "--against", str(exported)).err
    stopped = node.rait("up", "--json")
    refused(stopped, 4, "remove 1 of 4 links", "which makes 3", "24 hours", "--yes")
    assert stopped.json["excessive_removal"]["earlier"] == sorted(links_of(node, C, D))
    assert node.state() == state

    write_peers(node, A, B, E)
    node.up()
    write_peers(node, A, B, C, D, E)
    node.up()
    write_peers(node, A, B, C)
    assert node.up().status == 0, "what came back is not lost"
    write_peers(node, A)
    refused(node.rait("up"), 4, "which makes 4")
    assert node.rait("up", "--yes").status == 0
    write_peers(node)
    assert node.up().status == 0, "who asked for it begins anew"


def test_what_went_counts_for_a_day_whatever_the_clock_says(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    sync(node, A, B, C, D)
    write_peers(node, A, B)
    node.up()
    write_peers(node, A)
    now = time.time_ns()

    def set_clock(hours: int) -> None:
        monkeypatch.setattr(time, "time_ns", lambda: now + hours * 3600 * 10**9)

    for hours in (-24 * 365 * 56, 0, 23):  # the first is a clock that was not set yet
        set_clock(hours)
        refused(node.rait("up"), 4, "which makes 3")
    set_clock(25)
    assert node.up().status == 0


def test_another_key_for_every_peer_does_not_take_the_node_off_the_mesh(node: Node) -> None:
    sync(node, A, B, C, D)
    state = node.state()
    entries = [peer.entry.replace(peer.public_key, machine.genkey()[1]) for peer in (A, B, C)]
    node.write_peers([*entries, D.entry])
    assert "`rait up` will stop" in node.rait("plan").err
    stopped = node.rait("up", "--json")
    refused(stopped, 4, "end the sessions of 3 of 4 links", "another peer: ", link_of(node, A))
    reasons = stopped.json["excessive_removal"]["reasons"]
    assert reasons == dict.fromkeys(links_of(node, A, B, C), "another peer")
    assert node.state() == state
    node.write_peers([*entries[:2], C.entry, D.entry])
    assert node.up().status == 0


def test_another_private_key_is_asked_for(node: Node) -> None:
    sync(node, A, B, C, D)
    state = node.state()
    node.private_key, node.public_key = machine.genkey()
    node.write_conf()
    refused(node.rait("up"), 4, "4 of 4 links", "another private key: ", "new private key?")
    assert node.state() == state
    assert node.rait("up", "--yes").status == 0


@in_both_tiers
def test_up_in_the_wrong_namespace_does_not_remake_every_link(
    node: Node, make_mesh: MakeMesh
) -> None:
    sync(node, A, B, C, D)
    state = node.state()
    wrong = make_mesh(1).nodes[0].netns
    for arguments, status in ((["plan"], 0), (["up"], 4)):
        running = start_fork(wrong, ["-c", str(node.conf), *arguments], "", node.directory)
        result = running.wait()
        refused(result, status, "4 of 4 links", "made again: ", "transit")
    assert node.state() == state
    assert node.up("--json").events == []


def test_the_guard_yields_to_yes_and_to_max_removals(node: Node) -> None:
    sync(node, A, B, C, D)
    node.write_conf(max_removals="1")
    write_peers(node, A, B)
    refused(node.rait("up"), 4, "2 of 4 links", "at most 1 may go")
    node.write_conf(max_removals="3")
    write_peers(node, E)
    refused(node.rait("up"), 4, "4 of 4 links")
    write_peers(node, D)
    assert node.up().status == 0
    sync(node, A, B, C, D)
    node.write_conf(max_removals="0")
    write_peers(node)
    assert node.rait("up", "--yes").status == 0
    assert node.state() == {}


def test_the_guard_stops_a_replay_to_a_time_without_links(node: Node) -> None:
    first = sync(node, A)
    added = sync(node, A, B, C, D)
    state = node.state()
    for back in (["replay", "--at", str(first)], ["rollback"]):
        dry = ["--diff"] if back[0] == "replay" else ["--dry-run"]
        go = ["--apply"] if back[0] == "replay" else []
        shown = node.rait(*back, *dry)
        assert shown.status == 0
        assert "will stop: it would remove 3 of 4 links" in shown.err
        stopped = node.rait(*back, *go, "--json")
        assert stopped.json["status"] == "stopped"
        assert stopped.json["excessive_removal"]["links"] == sorted(links_of(node, B, C, D))
        refused(stopped, 4, "3 of 4 links", "--yes", "max_removals", *links_of(node, B, C, D))
        assert node.state() == state
        assert len(log(node)) == 2
    assert node.rait("rollback", str(added), "--yes").status == 0
    assert set(node.state()) == links_of(node, A)
    node.write_conf(max_removals="1")
    refused(node.rait("replay", "--at", f"event:{first + 1}", "--apply", "--json"), 0)
    sync(node, A, B, C)
    refused(node.rait("rollback"), 4, "2 of 3 links")
    node.write_conf(max_removals="2")
    assert node.rait("rollback").status == 0
    assert node.rait("replay", "--at", str(added), "--apply").status == 0
    assert node.rait("replay", "--at", str(first), "--apply", "--yes").status == 0
    assert set(node.state()) == links_of(node, A)


def test_nobody_goes_back_to_before_the_journal_began(node: Node) -> None:
    first = sync(node, A, B)
    state = node.state()
    begins = f"the journal begins with run {first}"
    for back in (["--at", "10w"], ["--at", "2020-01-31"]):
        shown = node.rait("replay", *back)
        assert shown.status == 0
        assert begins in shown.err
        refused(node.rait("replay", *back, "--diff"), 0, begins, "--apply")
        refused(node.rait("replay", *back, "--apply"), 1, begins, "nothing was touched")
        refused(node.rait("replay", *back, "--apply", "--yes"), 1, begins, "rait down")
    node.journal.unlink()
    refused(node.rait("replay", "--apply"), 1, "has no run of this configuration", str(node.conf))
    assert node.state() == state


# one at a time


@in_both_tiers
def test_two_ups_at_once_wait_for_each_other(node: Node) -> None:
    write_peers(node, A, B)
    both = [node.start("up", "--json"), node.start("up", "--json")]
    results = [running.wait() for running in both]
    assert [result.status for result in results] == [0, 0], results
    assert sorted(r.json["status"] for r in results) == ["done", "unchanged"]
    assert set(node.state()) == links_of(node, A, B)
    assert len(log(node)) == 1
    assert node.rait("log", "verify").status == 0


def test_who_waits_is_told_for_whom_while_it_lasts(node: Node) -> None:
    write_peers(node, A)
    with hold(node.journal.with_name("journal.db.lock"), "rait rollback", 0):
        waiting = node.start("up", "--json", exec_=True)  # a fork would hold the lock too
        told = f"rait rollback (process {os.getpid()}, since"
        eventually(lambda: told in said_so_far(waiting), "who waits is told for whom")
    result = waiting.wait()
    assert result.status == 0, result
    assert result.err.count("waiting for it") == 1
    assert "try again" not in result.err
    assert set(node.state()) == links_of(node, A)


def test_who_waits_too_long_is_told_for_whom(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    write_peers(node, A)
    monkeypatch.setattr("rait.app.options.Options", partial(Options, lock_seconds=0.2))
    with hold(node.journal.with_name("journal.db.lock"), "rait rollback", 0):
        refused(node.rait("up"), 1, f"rait rollback (process {os.getpid()}, since", "try again")
    assert node.up().status == 0

"""Changes that are taken back unless somebody confirms them, made over the tunnels themselves."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rait.adapters.lock import hold
from tests.integration import machine
from tests.integration.command import Result
from tests.integration.conftest import MakeMesh
from tests.integration.harness import Mesh, Node
from tests.integration.routing import eventually
from tests.integration.strangers import once_it_is_gone

pytestmark = pytest.mark.userspace
in_both_tiers = pytest.mark.kernel
"""For what another WireGuard might do otherwise; the rest is the same, and slow in an emulator."""

SHORT = "3s"
MOMENT = "10s"
"""Long enough for a test to do something before, and short enough to wait for the end."""
LONG = "1d"
WAITING = 5


@pytest.fixture
def mesh(make_mesh: MakeMesh) -> Iterator[Mesh]:
    made = make_mesh(2)
    made.up()
    made.ping_all()
    yield made
    machine.end(signal.SIGKILL, *waiters(made))


def waiters(mesh: Mesh) -> list[int]:
    """The processes that wait to take a change of this mesh back."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            arguments = (process / "cmdline").read_bytes().split(b"\0")
            settings = (process / "environ").read_bytes().split(b"\0")
        except OSError:
            continue
        ours = f"RAIT_CONFIG={mesh.directory}/".encode()
        if b"--wait" in arguments and any(line.startswith(ours) for line in settings):
            found.append(int(process.name))
    return found


def cmdline(pid: int) -> bytes:
    return Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")[0]


def logged(node: Node) -> list[dict[str, Any]]:
    result = node.rait("log", "--json")
    assert result.status == 0, result
    return [json.loads(line) for line in result.out.splitlines()]


def cut(node: Node) -> None:
    """Have the peers list ask for a change that cuts the node off from all others."""
    stranger = machine.genkey()[1]
    node.write_peers(
        [
            f'[[Peers]]\nPublicKey = "{stranger}"\nSendPort = 50009\n'
            'Endpoint = "192.0.2.9"\nAddressFamily = "ip4"\n'
        ]
    )


def change(node: Node, span: str = LONG, **options: Any) -> int:
    """Make the change that cuts the node off, to be confirmed; gives the number of the run."""
    cut(node)
    begun, before = time.time_ns(), set(node.interfaces())
    result = node.rait("up", "--confirm", span, "--json", **options)
    assert result.status == 0, result
    assert result.json["confirm_by"] > begun
    assert result.touched > before
    return int(result.json["run"])


def change_that_waits(mesh: Mesh) -> tuple[int, int]:
    """Make the change; gives the number of the run and its waiter, which has yet to wait."""
    for span in (MOMENT, "1m", "5m"):  # a busy machine may take all of a short one to get here
        run = change(mesh.nodes[0], span)
        for waiter in waiters(mesh):
            return run, waiter
        eventually(lambda run=run: is_taken_back(mesh.nodes[0], run), "the change is taken back")
    raise AssertionError("nobody waits")


def is_taken_back(node: Node, run: int) -> bool:
    return any(each.get("takes_back") == run and each["finished_at"] for each in logged(node))


def reaches(mesh: Mesh) -> bool:
    a, b = mesh.nodes
    return not mesh.unanswered([(a, b)])


def said(result: Result, status: int, *words: str) -> None:
    assert result.status == status, result
    for word in words:
        assert word in result.out + result.err, (word, result)


@in_both_tiers
def test_a_change_that_cuts_its_maker_off_is_taken_back_by_itself(mesh: Mesh) -> None:
    a, _ = mesh.nodes
    before = set(a.interfaces())
    run = change(a, SHORT, exec_=True)
    eventually(lambda: is_taken_back(a, run), "the change is taken back")
    assert set(a.interfaces()) == before
    mesh.ping_all()
    eventually(lambda: not waiters(mesh), "the waiter is gone")
    first, last = logged(a)[-2:]
    assert first["run"] == run
    assert first["taken_back"]["run"] == last["run"]
    assert (last["command"], last["status"]) == ("confirm --overdue", "done")
    said(a.rait("log"), 0, "taken back by itself")
    said(a.rait("confirm"), 1, "too late", f"run {run} was taken back")


def test_links_that_need_not_change_keep_their_sessions(make_mesh: MakeMesh) -> None:
    mesh = make_mesh(3)
    a, b, c = mesh.nodes
    mesh.up()
    mesh.ping_all()
    kept = {name: state for name, state in a.state().items() if name in a.links_to(b)}
    a.knows(b)
    result = a.rait("up", "--confirm", SHORT, "--json")
    assert result.status == 0, result
    eventually(lambda: is_taken_back(a, result.json["run"]), "the change is taken back")
    now = a.state()
    assert {name: now[name] for name in kept} == kept
    assert set(now) == a.links_to(b, c)


def test_a_confirmed_change_stays(mesh: Mesh) -> None:
    a, _ = mesh.nodes
    run = change(a)
    there = set(a.interfaces())
    said(a.rait("confirm"), 0, f"run {run}")
    eventually(lambda: not waiters(mesh), "the waiter is gone")
    assert set(a.interfaces()) == there
    first, last = logged(a)[-2:]
    assert first["confirmed"] == {"run": last["run"], "uid": 0, "at": last["started_at"]}
    assert last["confirms"] == run
    said(a.rait("log"), 0, "confirmed by uid 0")
    said(a.rait("log", "--oneline"), 0, "confirmed by uid 0")
    assert a.up("--json").json["status"] == "unchanged"
    said(a.rait("confirm"), 1, "nothing to confirm")
    said(a.rait("log", "verify"), 0)


def test_it_is_taken_back_at_once_if_somebody_says_so(mesh: Mesh) -> None:
    a, _ = mesh.nodes
    before = set(a.interfaces())
    run = change(a)
    said(a.rait("confirm", "--back"), 0, "2 added")
    assert set(a.interfaces()) == before
    mesh.ping_all()
    said(a.rait("log"), 0, "taken back by uid 0")
    assert is_taken_back(a, run)
    eventually(lambda: not waiters(mesh), "the waiter is gone")


def test_the_waiter_outlives_a_terminal_that_hangs_up(mesh: Mesh) -> None:
    a, _ = mesh.nodes
    run, waiter = change_that_waits(mesh)
    assert os.getsid(waiter) == waiter != os.getsid(0)
    assert Path(f"/proc/{waiter}/cwd").readlink() == Path("/")
    for number in range(3):  # its input is rait's pipe until it has seen that rait let it go
        file = Path(f"/proc/{waiter}/fd/{number}")
        eventually(
            lambda file=file: file.readlink() == Path("/dev/null"), f"{file} is not the terminal's"
        )
    os.kill(waiter, signal.SIGHUP)
    eventually(lambda: is_taken_back(a, run), "the change is taken back")
    assert reaches(mesh)


def test_the_next_run_takes_back_what_a_killed_waiter_left(mesh: Mesh) -> None:
    a, _ = mesh.nodes
    before = set(a.interfaces())
    run, waiter = change_that_waits(mesh)
    machine.end(signal.SIGKILL, waiter)
    eventually(lambda: "is to be taken back" in a.rait("list").err, "the time is over")
    assert set(a.interfaces()) != before
    result = a.rait("up")
    said(result, 3, f"run {run} (up) was not confirmed", "the peers list still asks for the same")
    assert set(a.interfaces()) == before
    assert reaches(mesh)
    assert is_taken_back(a, run)


def test_the_next_run_takes_it_back_even_without_its_peers_list(mesh: Mesh) -> None:
    a, _ = mesh.nodes
    before = set(a.interfaces())
    run, waiter = change_that_waits(mesh)
    machine.end(signal.SIGKILL, waiter)
    a.peers.unlink()
    eventually(lambda: "is to be taken back" in a.rait("list").err, "the time is over")
    said(a.rait("up"), 1, f"run {run} (up) was not confirmed", "peers.conf")
    assert set(a.interfaces()) == before
    assert reaches(mesh)


def test_the_waiter_needs_no_configuration_any_more(mesh: Mesh) -> None:
    a, _ = mesh.nodes
    before = set(a.interfaces())
    change(a, SHORT)
    conf = a.conf.read_text()
    a.conf.unlink()
    eventually(lambda: set(a.interfaces()) == before, "the change is taken back")
    a.write_conf(text=conf)
    eventually(lambda: not waiters(mesh), "the waiter is gone")
    assert reaches(mesh)


def test_a_second_change_is_refused_meanwhile(mesh: Mesh) -> None:
    a, _ = mesh.nodes
    run = change(a)
    there, entries = a.state(), len(logged(a))
    for command in (
        ["up"],
        ["up", "--confirm", "1h"],
        ["down"],
        ["replay", "--apply"],
        ["rollback"],
        ["babeld", "sync"],
    ):
        said(a.rait(*command), WAITING, f"run {run} (up, by uid 0", f"-c {a.conf} confirm`")
    for shows in (["plan"], ["list"], ["up", "--dry-run"], ["explain", next(iter(there))]):
        said(a.rait(*shows), 0, f"run {run}", "waits for its confirmation")
    said(a.rait("log"), 0, "to be confirmed until")
    assert a.state() == there
    assert len(logged(a)) == entries
    said(a.rait("confirm"), 0)
    a.down()


def test_what_was_taken_back_is_not_done_again(mesh: Mesh) -> None:
    a, _ = mesh.nodes
    before = a.state()
    a.write_conf(text=a.conf_hcl().replace(f"fwmark = {54}", "fwmark = 99"))
    result = a.rait("up", "--confirm", "1h", "--json")
    assert result.status == 0, result
    said(a.rait("confirm", "--back"), 0)
    for command in (["plan"], ["up"], ["up"], ["up", "--json"]):
        said(a.rait(*command), 3, "rait.conf still asks for the same")
    said(a.rait("explain", next(iter(before))), 0, "rait.conf still asks for the same")
    assert a.state() == before
    assert a.rait("up", "--json").json["held"] is True
    # As after a restart of the machine.
    machine.ip_batch([f"link del {name}" for name in before], a.target)
    eventually(lambda: not machine.wireguard_processes(a.tag), "all links are gone")
    said(a.rait("up"), 3, "2 added")
    assert {name: state.fwmark for name, state in a.state().items()} == {
        name: state.fwmark for name, state in before.items()
    }
    assert reaches(mesh)
    # To try once more, and to mean it, are both possible.
    said(a.rait("up", "--confirm", "1h"), 0, "2 changed")
    said(a.rait("confirm", "--back"), 0)
    said(a.rait("up"), 3)
    said(a.rait("up", "--yes"), 0, "2 changed")
    said(a.rait("up"), 0, "nothing to do")


def test_a_mended_configuration_is_applied(mesh: Mesh) -> None:
    a, b = mesh.nodes
    change(a)
    said(a.rait("confirm", "--back"), 0)
    said(a.rait("up"), 3, "the peers list still asks for the same")
    with a.peers.open("a") as file:
        file.write("# others write to this list too\n")
    said(a.rait("up"), 3, "the peers list still asks for the same")
    a.knows(b)
    said(a.rait("up"), 0, "nothing to do")
    a.write_peers([b.entry(), "\n"])
    assert a.up("--json").json["status"] == "unchanged"


def test_of_a_confirmation_and_the_waiter_exactly_one_wins(mesh: Mesh) -> None:
    a, _ = mesh.nodes
    before = set(a.interfaces())
    run, _ = change_that_waits(mesh)
    # Both wait for the lock until the time is over.
    with hold(f"{a.journal}.lock", "test", 10):
        confirming = a.start("confirm", exec_=True)  # a fork would hold the lock itself
        eventually(lambda: "is to be taken back" in a.rait("list").err, "the time is over")
    result = confirming.wait()
    said(result, 1, "too late")
    eventually(lambda: not waiters(mesh), "the waiter is gone")
    runs = logged(a)
    assert not [each for each in runs if each.get("confirms") == run]
    assert len([each for each in runs if each.get("takes_back") == run]) == 1
    assert set(a.interfaces()) == before


def test_a_run_that_was_killed_is_taken_back_too(mesh: Mesh) -> None:
    a, _ = mesh.nodes
    before = set(a.interfaces())
    cut(a)
    running = a.start("up", "--confirm", SHORT)
    eventually(lambda: running.ended() or len(logged(a)) > 1, "the run has begun")
    running.kill()
    run = logged(a)[1]["run"]  # the next one may be what takes it back already
    eventually(lambda: is_taken_back(a, run), "the change is taken back")
    assert set(a.interfaces()) == before
    a.assert_has_exactly(before)
    assert reaches(mesh)


def test_a_run_may_be_killed_at_any_moment(mesh: Mesh) -> None:
    a, _ = mesh.nodes
    before = set(a.interfaces())
    cut(a)
    length = 1.0
    for number in range(8):
        begun = time.monotonic()
        running = a.start("up", "--confirm", SHORT, "--yes")
        if number:
            time.sleep(length * number / 8)
            running.kill()
        else:
            assert running.wait().status == 0
            length = time.monotonic() - begun
        eventually(lambda: not waiters(mesh), "nobody waits any more")
        a.assert_has_exactly(before)
    mesh.ping_all()


def test_a_run_that_was_killed_can_be_confirmed(mesh: Mesh) -> None:
    a, _ = mesh.nodes
    cut(a)
    running = a.start("up", "--confirm", LONG)
    eventually(lambda: running.ended() or len(logged(a)) > 1, "the run has begun")
    running.kill()
    said(a.rait("confirm"), 0)
    a.up()
    a.assert_has_exactly({name for name in a.interfaces() if name.endswith("50009")})
    assert len(a.interfaces()) == 1


def test_taking_back_may_be_killed_at_any_moment(mesh: Mesh) -> None:
    a, _ = mesh.nodes
    before = set(a.interfaces())
    for number in range(5):
        run = change(a)
        taking = a.start("confirm", "--back")
        time.sleep(0.05 * number)  # whenever that is
        taking.kill()
        # Where taking back has begun, it cannot be confirmed, and the next run ends it.
        result = a.rait("confirm", "--back")
        assert result.status == 0 or f"run {run} was taken back by" in result.err, result
        assert is_taken_back(a, run)
        a.assert_has_exactly(before)
    mesh.ping_all()


def test_a_replay_and_a_rollback_can_be_confirmed_too(mesh: Mesh) -> None:
    a, _ = mesh.nodes
    before = set(a.interfaces())
    first = logged(a)[0]["run"]
    said(a.rait("rollback", str(first), "--confirm", "1h", "--yes"), 0, "to be taken back at")
    assert not a.interfaces()
    said(a.rait("confirm", "--back"), 0)
    assert set(a.interfaces()) == before
    cut(a)
    a.up()
    there = set(a.interfaces())
    said(a.rait("replay", "--apply", "--at", str(first), "--confirm", "1h"), 0, "to be taken back")
    assert set(a.interfaces()) == before
    said(a.rait("confirm", "--back"), 0)
    assert set(a.interfaces()) == there


def test_a_rollback_without_a_number_does_not_do_again_what_was_taken_back(mesh: Mesh) -> None:
    a, _ = mesh.nodes
    first = logged(a)[0]["run"]
    run = change(a)
    said(a.rait("confirm", "--back"), 0)
    said(a.rait("rollback"), 1, f"run {first} cannot be taken back alone")
    said(a.rait("rollback", str(run)), 1, f"run {run} cannot be taken back alone")


@in_both_tiers
def test_a_change_of_the_transit_namespace_is_taken_back(mesh: Mesh) -> None:
    a, _ = mesh.nodes
    before = a.state()
    a.write_conf(text=a.conf_hcl().replace('transit = ""', f'transit = "{mesh.bridge}"'))
    result = a.rait("up", "--confirm", "1h", "--yes", "--json")
    assert result.status == 0, result
    said(a.rait("confirm", "--back"), 0, "2 remade")
    assert set(a.state()) == set(before)
    mesh.ping_all()
    said(a.rait("up"), 3, "rait.conf still asks for the same")
    mesh.ping_all()


def test_a_new_private_key_cannot_be_taken_back_and_so_is_not_tried(mesh: Mesh) -> None:
    a, _ = mesh.nodes
    before = a.state()
    key = machine.genkey()[0]
    a.write_conf(private_key=f'"{key}"')
    said(a.rait("up", "--confirm", "1h", "--yes"), 2, "another key")
    assert a.state() == before
    assert not waiters(mesh)


def test_a_preshared_key_that_no_file_has_any_more_is_not_tried(mesh: Mesh) -> None:
    a, _ = mesh.nodes
    key = a.directory / "psk"
    key.write_text(machine.genkey()[0])
    key.chmod(0o600)
    a.write_conf(text=f'{a.conf_hcl()}policy {{\n  preshared_key_file = "{key}"\n}}\n')
    a.up()
    before = a.state()
    with_key = a.conf.read_text()
    a.write_conf()
    said(a.rait("up", "--confirm", "1h"), 2, "preshared keys", "without --confirm")
    assert a.state() == before
    assert not waiters(mesh)
    # With the file still named, the key can be given back.
    a.write_conf(text=with_key.replace(f"fwmark = {54}", "fwmark = 99"))
    said(a.rait("up", "--confirm", "1h"), 0, "2 changed")
    said(a.rait("confirm", "--back"), 0, "2 changed")
    assert a.state() == before


def test_without_a_waiter_the_change_is_not_made(mesh: Mesh, monkeypatch: Any) -> None:
    a, _ = mesh.nodes
    before, entries = a.state(), len(logged(a))
    cut(a)
    monkeypatch.setattr("sys.executable", "/bin/false")
    said(a.rait("up", "--confirm", "1h"), 1, "the change was not made")
    assert a.state() == before
    assert len(logged(a)) == entries


def test_what_cannot_be_taken_back_stands_in_nobodys_way(mesh: Mesh) -> None:
    a, _ = mesh.nodes
    inside = machine.start(["unshare", "--net", "sleep", "infinity"])
    try:
        eventually(lambda: b"sleep" in cmdline(inside.pid), "the namespace is there")
        a.write_conf(text=a.conf_hcl().replace(f'"{a.target}"', f'"{inside.pid}"'))
        a.up("--yes")
    finally:
        inside.kill()
        inside.wait()
    a.write_conf()
    result = once_it_is_gone(a, "up", "--confirm", SHORT, "--yes", "--json")
    run = result.json["run"]
    eventually(lambda: is_taken_back(a, run), "it is told that it cannot be taken back")
    eventually(lambda: not waiters(mesh), "the waiter is gone")
    last = logged(a)[-1]
    assert last["status"] == "failed"
    assert f"there is no process {inside.pid}" in last["problems"][0]["error"]
    mesh.ping_all()
    a.down()
    said(
        a.rait("up"), 1, f"there is no process {inside.pid}", "go on for good with `rait up --yes`"
    )
    a.up("--yes")
    mesh.ping_all()


def test_nothing_to_do_leaves_nothing_to_confirm(mesh: Mesh) -> None:
    a, _ = mesh.nodes
    said(a.rait("up", "--confirm", "1h"), 0, "nothing to confirm", "nothing to do")
    said(a.rait("confirm"), 1, "nothing to confirm")
    assert not waiters(mesh)


def test_what_is_known_survives_pruning(mesh: Mesh) -> None:
    a, _ = mesh.nodes
    before = set(a.interfaces())
    run = change(a)
    said(a.rait("log", "prune", "--keep", "0s"), 0)
    said(a.rait("up"), WAITING, f"run {run}")
    said(a.rait("confirm", "--back"), 0)
    assert set(a.interfaces()) == before
    said(a.rait("log", "prune", "--keep", "0s"), 0)
    said(a.rait("up"), 3, "the peers list still asks for the same")


def test_each_configuration_waits_for_itself(mesh: Mesh) -> None:
    a, b = mesh.nodes
    b.write_conf(journal=f'"{a.journal}"')
    run = change(a)
    assert b.rait("up").status == 0
    said(a.rait("up"), WAITING, f"run {run}")
    said(a.rait("confirm"), 0)

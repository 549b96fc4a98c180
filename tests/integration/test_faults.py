"""rait killed between any two effects, on a full disk and on a read-only one.

After each of these the journal is sound and tells what happened, and the next up ends right. What
is killed here is a fork of this process (command.py): so what is patched here is patched there.
"""

from __future__ import annotations

import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from rait.adapters import netns_names
from rait.adapters.journal.reader import JournalReader
from rait.adapters.journal.store import Journal, Run
from rait.adapters.netlink.socket import NetlinkSocket
from rait.adapters.wireguard import process, uapi
from rait.adapters.wireguard import start as starting
from rait.adapters.wireguard.ports import KeptPorts
from rait.adapters.wireguard.start import Start
from rait.domain.records import RunRecord
from tests.integration import machine
from tests.integration.command import Result
from tests.integration.conftest import MakeMesh
from tests.integration.harness import Node
from tests.integration.routing import eventually
from tests.integration.strangers import (
    Stranger,
    endpoint_of,
    links_of,
    strangers,
    sync,
    write_peers,
)

pytestmark = pytest.mark.userspace
in_both_tiers = pytest.mark.kernel
"""For what is cut off among its effects; the rest is the same in either tier."""

A, B, C = strangers(1, 2, 3)
HERE, THERE = (A, C), (B, C.moved())
"""From one to the other a link goes, one comes and one changes, whichever of them is first."""

EFFECTS: tuple[tuple[object, str], ...] = (
    (Journal, "begin"),
    (Run, "record"),
    (Run, "finish"),
    (netns_names, "make"),
    (NetlinkSocket, "_ask_batch"),
    (uapi.Client, "_exchange"),
    (starting, "Start"),
    (Path, "unlink"),
)
"""What a run does to the world, piece by piece (and some of the questions it asks)."""

SHARES = 4
"""The steps are dealt out to so many tests, none of which then takes long."""


class Fuse:
    """Kills the process, but not this one, before its effect of this number."""

    def __init__(self) -> None:
        self.test = os.getpid()
        self.left: int | None = None
        self.burning = False

    def before(self, name: str) -> None:
        if self.left is None or os.getpid() == self.test:
            return
        self.burning = self.burning or name == "begin"
        if not self.burning:
            return
        if self.left == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        self.left -= 1


@pytest.fixture
def fuse(monkeypatch: pytest.MonkeyPatch) -> Fuse:
    fuse = Fuse()

    def guarded(name: str, effect: Callable[..., Any]) -> Callable[..., Any]:
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            fuse.before(name)
            return effect(*args, **kwargs)

        return wrapper

    for owner, name in EFFECTS:
        monkeypatch.setattr(owner, name, guarded(name, getattr(owner, name)))
    return fuse


@pytest.fixture
def node(make_mesh: MakeMesh) -> Node:
    return make_mesh(1).nodes[0]


def history(node: Node) -> tuple[RunRecord, ...]:
    """The journal's runs, if every row of it is sound."""
    journal = JournalReader(node.journal)
    report = journal.verify()
    assert report.ok, report.why
    return journal.runs()


def assert_is(node: Node, peers: tuple[Stranger, ...]) -> None:
    node.assert_has_exactly(links_of(node, *peers))
    for peer in peers:
        assert endpoint_of(node, peer).startswith(peer.address)


def assert_told_as_never_finished(node: Node, *runs: int) -> None:
    assert node.rait("log", "verify").status == 0
    headlines = node.rait("log", "--oneline").out.splitlines()
    cut_off = [line for line in headlines if "never finished" in line]
    assert [int(line.split()[1]) for line in cut_off] == list(runs)


@in_both_tiers
@pytest.mark.parametrize("share", range(SHARES))
def test_killed_between_any_two_effects(node: Node, fuse: Fuse, share: int) -> None:
    now, other = HERE, THERE
    sync(node, *now)
    cut_off = []
    step = share
    while True:
        known = len(history(node))
        write_peers(node, *other)
        fuse.left = step
        status = node.start("up").wait().status
        fuse.left = None
        new = history(node)[known:]
        if status == 0:
            assert_is(node, other)
            break
        assert status == -signal.SIGKILL
        assert (step > 0) == bool(new), "it is written down before anything is done"
        cut_off += [run.id for run in new if run.status is None]
        print(f"step {step}: {[(run.status, run.done, run.unknown) for run in new]}")
        node.up()
        assert_is(node, other)
        now, other = other, now
        step += SHARES
    assert step >= SHARES, "there are many effects"
    assert cut_off
    assert_told_as_never_finished(node, *cut_off)
    assert node.rait("up", "--json").json["status"] == "unchanged"


@in_both_tiers
@pytest.mark.parametrize("step", [2, 6, 10])
def test_killed_in_a_rollback(node: Node, fuse: Fuse, step: int) -> None:
    first = sync(node, *HERE)
    sync(node, *THERE)
    fuse.left = step
    status = node.start("rollback").wait().status
    fuse.left = None
    assert status in (0, -signal.SIGKILL)
    assert node.rait("replay", "--at", str(first), "--apply").status == 0
    assert_is(node, HERE)
    history(node)
    node.up()
    assert_is(node, THERE)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_told_to_end_a_run_takes_back_what_is_half_made_and_writes_down_the_rest(
    node: Node, number: signal.Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_peers(node, A, B, C)
    let_go, test = KeptPorts.let_go, os.getpid()
    finished: list[int] = []

    def finish_one(kept: KeptPorts, port: int) -> None:
        finished.append(port)
        if os.getpid() != test and len(finished) == 2:
            signal.raise_signal(number)
        let_go(kept, port)

    with monkeypatch.context() as patch:
        patch.setattr(KeptPorts, "let_go", finish_one)
        status = node.rait("up").status
    assert status == (-number if number == signal.SIGTERM else 1)
    node.assert_has_exactly(links_of(node, A))
    (run,) = history(node)
    assert (run.status, run.done, run.failed, run.unknown) == (None, 1, 0, 2)
    assert node.rait("plan", "--json").json["drift"] == []
    node.up()
    node.assert_has_exactly(links_of(node, A, B, C))


def test_a_terminal_that_hangs_up_ends_no_run_that_has_begun(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_peers(node, A, B, C)
    await_program, test = Start.client, os.getpid()

    def hang_up(start: Start, *args: Any) -> uapi.Client:
        if os.getpid() != test:
            signal.raise_signal(signal.SIGHUP)
        return await_program(start, *args)

    with monkeypatch.context() as patch:
        patch.setattr(Start, "client", hang_up)
        node.up()
    assert_is(node, (A, B, C))
    (run,) = history(node)
    assert (run.status, run.done) == ("done", 3)


class Disk:
    """A small file system for the journal alone."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.ballast = path / "ballast"

    def mount(self, *options: str) -> None:
        subprocess.run(["mount", *options, str(self.path)], check=True)

    def fill(self) -> None:
        with self.ballast.open("ab", buffering=0) as file:
            try:
                while True:
                    file.write(bytes(1024))
            except OSError:
                pass

    def empty(self) -> None:
        self.ballast.unlink()


@pytest.fixture
def disk(node: Node) -> Iterator[Disk]:
    directory = node.directory / "disk"
    directory.mkdir()
    disk = Disk(directory)
    disk.mount("-t", "tmpfs", "-o", "size=1m", "tmpfs")
    node.journal = directory / "journal.db"
    node.write_conf()
    yield disk
    subprocess.run(["umount", "--lazy", str(directory)], check=True)


def assert_refused(result: Result, *words: str) -> None:
    assert result.status == 1, result
    for word in words:
        assert word in result.err, result


def test_a_full_disk_stops_a_run_before_it_touches_anything(node: Node, disk: Disk) -> None:
    sync(node, *HERE)
    state = node.state()
    disk.fill()
    write_peers(node, *THERE)
    assert_refused(node.rait("up"), str(node.journal), "no space left")
    assert node.state() == state
    assert len(history(node)) == 1
    assert node.rait("plan").status == 0
    disk.empty()
    node.up()
    assert_is(node, THERE)
    assert_told_as_never_finished(node)


@in_both_tiers
@pytest.mark.parametrize("moment", ["record", "finish"])
def test_a_disk_that_fills_up_during_a_run(
    node: Node, disk: Disk, moment: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    sync(node, *HERE)
    write_peers(node, *THERE)
    proceed = getattr(Run, moment)

    def fill_first(*args: Any, **options: Any) -> Any:
        disk.fill()
        return proceed(*args, **options)

    with monkeypatch.context() as patch:
        patch.setattr(Run, moment, fill_first)
        result = node.rait("up")
    assert_refused(result, str(node.journal), "no space left")
    (_, cut_off) = history(node)
    assert cut_off.status is None
    assert_told_as_never_finished(node, cut_off.id)
    if cut_off.unknown:
        state = node.state()
        assert_refused(node.rait("up"), "no space left")
        assert node.state() == state
    else:
        assert node.rait("up", "--json").json["status"] == "unchanged", "that takes no space"
    disk.empty()
    node.up()
    assert_is(node, THERE)
    assert_told_as_never_finished(node, cut_off.id)
    assert node.rait("up", "--json").json["status"] == "unchanged"


def test_a_read_only_disk_can_be_read_and_stops_a_run(node: Node, disk: Disk) -> None:
    run = sync(node, *HERE)
    state = node.state()
    disk.mount("-o", "remount,ro")
    write_peers(node, *THERE)
    for command in ("up", "down", "rollback"):
        assert_refused(node.rait(command), "Read-only file system")
    for question in (["plan"], ["list"], ["log"], ["replay", "--at", str(run)], ["log", "verify"]):
        assert node.rait(*question).status == 0
    assert node.state() == state
    disk.mount("-o", "remount,rw")
    node.up()
    assert_is(node, THERE)
    assert_told_as_never_finished(node)


def test_down_tells_what_a_killed_run_left_half_made(
    make_mesh: MakeMesh, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = make_mesh(1).nodes[0]
    write_peers(node, A, B)
    names = links_of(node, A, B)
    with monkeypatch.context() as patch:
        patch.setattr(Start, "client", lambda *_: os.kill(os.getpid(), signal.SIGKILL))
        assert node.rait("up").status == -signal.SIGKILL
    eventually(lambda: set(machine.uapi_sockets(node.tag)) == names, "the programs are up")

    result = node.down()

    assert "2 half-made links ended" in result.out
    assert all(f"- {name} (half made" in result.out for name in names)
    assert node.leftovers() == []
    assert "nothing to do" in node.down().out


def test_a_program_that_a_killed_run_told_to_end_is_not_taken_for_a_link(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It answers until it heeds the signal, which it does late on a busy machine."""
    sync(node, A, B)
    write_peers(node, A)

    def told_to_end(program: process.Process, _: int) -> None:
        subprocess.Popen(["sh", "-c", f"sleep 1; kill {program.pid}"], start_new_session=True)
        os.kill(os.getpid(), signal.SIGKILL)

    with monkeypatch.context() as patch:
        patch.setattr(process.Process, "signal", told_to_end)
        assert node.rait("up").status == -signal.SIGKILL
    monkeypatch.setattr(process, "END_SECONDS", machine.PATIENCE)
    write_peers(node, A, B)
    result = node.up("--json")
    assert result.touched == links_of(node, B)
    assert all(event["left_by_unfinished_run"] for event in result.json["drift"])
    assert_is(node, (A, B))
    assert node.up("--json").json["status"] == "unchanged"


def test_who_only_looks_waits_for_no_program_of_a_removal_that_goes_on(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without the lock, a run that goes on looks like one that was killed."""
    sync(node, A)
    write_peers(node)

    def die(*_: object) -> None:
        os.kill(os.getpid(), signal.SIGKILL)

    with monkeypatch.context() as patch:
        patch.setattr(process.Process, "signal", die)
        assert node.rait("up", "--yes").status == -signal.SIGKILL
    with monkeypatch.context() as patch:
        patch.setattr(process, "await_ends", die)
        assert node.listed().keys() == links_of(node, A)
        assert node.rait("status").status in (0, 1)
    node.up("--yes")
    assert_is(node, ())


def test_what_ends_half_made_links_is_written_down_first(
    make_mesh: MakeMesh, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = make_mesh(1).nodes[0]
    write_peers(node, A, B)
    names = sorted(links_of(node, A, B))
    with monkeypatch.context() as patch:
        patch.setattr(Start, "client", lambda *_: os.kill(os.getpid(), signal.SIGKILL))
        assert node.rait("up").status == -signal.SIGKILL
    eventually(lambda: machine.uapi_sockets(node.tag) == names, "the programs are up")
    end = process.end

    def end_one(*args: Any) -> None:
        end(*args)
        os.kill(os.getpid(), signal.SIGKILL)

    with monkeypatch.context() as patch:
        patch.setattr(process, "end", end_one)
        assert node.rait("down").status == -signal.SIGKILL
    (_, cut_off) = history(node)
    assert cut_off.header.leftover_links == tuple(names)
    assert (cut_off.status, cut_off.ended) == (None, ())
    told = node.rait("log", "--run", str(cut_off.id)).out
    for name in names:
        assert (
            f"- {name} (half made by a run that did not finish) (not known to have ended)" in told
        )

    result = node.rait("down", "--json")

    (left,) = set(names) - {names[0]}
    assert result.json["ended"] == [left], "this is still known, and the other one is gone"
    (*_, ended) = history(node)
    assert (ended.id, ended.status, ended.ended) == (result.json["run"], "done", (left,))
    assert node.leftovers() == []
    assert "nothing to do" in node.down().out
    assert len(history(node)) == 3


def test_a_half_made_link_is_not_forgotten_while_nobody_looks_where_it_is(
    make_mesh: MakeMesh, monkeypatch: pytest.MonkeyPatch
) -> None:
    node = make_mesh(1).nodes[0]
    sync(node, A)
    write_peers(node, A, B)
    names = links_of(node, A, B)
    with monkeypatch.context() as patch:
        patch.setattr(Start, "client", lambda *_: os.kill(os.getpid(), signal.SIGKILL))
        assert node.rait("up").status == -signal.SIGKILL
    eventually(lambda: set(machine.uapi_sockets(node.tag)) == names, "the program is up")

    elsewhere = node.conf_hcl().replace('transit = ""', f'transit = "{node.mesh.bridge}"')
    node.write_conf(text=elsewhere)
    node.down()
    assert set(machine.uapi_sockets(node.tag)) == links_of(node, B)
    node.write_conf()

    (name,) = links_of(node, B)
    assert f"- {name} (half made" in node.down().out
    assert node.leftovers() == []


def test_what_is_in_the_way_of_a_socket_is_named(make_mesh: MakeMesh) -> None:
    node = make_mesh(1).nodes[0]
    sync(node, A)
    write_peers(node, A, B)
    (name,) = links_of(node, B)
    obstacle = machine.UAPI_DIR / f"{name}.sock"
    obstacle.mkdir()
    try:
        result = node.rait("up")
        assert result.status == 3, result
        assert f"{obstacle} is in the way" in result.err
        assert "Is a directory" in result.err
    finally:
        obstacle.rmdir()
    node.up()

"""`rait watch` on a real node: what it notices, what it does then, and how it ends."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import pytest

from tests.integration import machine
from tests.integration.command import command as program
from tests.integration.command import start_fork
from tests.integration.conftest import MakeMesh
from tests.integration.harness import Node
from tests.integration.test_sources import served
from tests.integration.watching import WATCH, StartWatch, causes, has_causes, most_told, until

pytestmark = pytest.mark.userspace


@pytest.fixture
def nodes(make_mesh: MakeMesh) -> tuple[Node, Node, Node]:
    """Three nodes. The first one knows the second, and has long looks."""
    a, b, c = make_mesh(3).nodes
    a.knows(b)
    a.write_conf(text=a.conf_hcl() + WATCH)
    return a, b, c


Nodes = tuple[Node, Node, Node]


@pytest.mark.kernel
def test_it_syncs_at_the_start_and_leaves_the_links_at_the_end(
    nodes: Nodes, watch: StartWatch
) -> None:
    a, b, _ = nodes
    watching = watch(a)
    assert a.links_to(b) == set(a.state())
    result = watching.end()
    assert result.status == 0
    assert result.out == ""
    assert a.links_to(b) == set(a.state())
    assert causes(a) == ["start"]


def test_it_goes_on_when_the_system_starts_no_thread_for_a_while(
    nodes: Nodes, watch: StartWatch, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As where a limit of processes is reached."""
    a, b, _ = nodes
    start, full = threading.Thread.start, tmp_path / "full"

    def starting(thread: threading.Thread) -> None:
        if full.exists():
            raise RuntimeError("can't start new thread")
        start(thread)

    monkeypatch.setattr(threading.Thread, "start", starting)
    full.touch()
    watching = watch(a, synced=False)
    watching.says("the system does not let rait start a thread")
    full.unlink()
    watching.has(a.links_to(b))
    assert watching.end().status == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_down_on_exit_removes_the_links(nodes: Nodes, watch: StartWatch, number: int) -> None:
    a, _, _ = nodes
    watching = watch(a, "--down-on-exit")
    result = watching.end(number)
    assert result.status == 0
    assert "rait down: 2 removed" in result.err
    assert not a.leftovers()


def in_place(path: Path, text: str) -> None:
    path.write_text(text)


def by_rename(path: Path, text: str) -> None:
    new = path.with_suffix(".new")
    new.write_text(text)
    new.chmod(0o600)
    new.rename(path)


def by_link(path: Path, text: str) -> None:
    """As configuration managers do it: a link leads to a directory of each version."""
    version = path.parent / f"version-{time.monotonic_ns()}"
    version.mkdir()
    (version / path.name).write_text(text)
    (version / path.name).chmod(0o600)
    new = path.parent / "link.new"
    new.symlink_to(version / path.name)
    new.rename(path)


Write = Callable[[Path, str], None]


@pytest.mark.parametrize("write", [in_place, by_rename, by_link])
def test_a_changed_conf_is_synced(nodes: Nodes, watch: StartWatch, write: Write) -> None:
    a, b, _ = nodes
    watching = watch(a)
    for mtu in (1380, 1390):
        write(a.conf, a.conf_hcl().replace("mtu = 1420", f"mtu = {mtu}") + WATCH)
        until(lambda mtu=mtu: a.interfaces()[a.link_to(b, "ip4")]["mtu"] == mtu, watching.said)
    assert watching.end().status == 0
    assert has_causes(a, "start", "rait.conf changed", "rait.conf changed"), causes(a)


@pytest.mark.parametrize("write", [in_place, by_rename, by_link])
def test_a_changed_peers_list_is_synced(nodes: Nodes, watch: StartWatch, write: Write) -> None:
    a, b, c = nodes
    watching = watch(a)
    write(a.peers, b.entry() + c.entry())
    watching.has(a.links_to(b, c))
    write(a.peers, c.entry())
    watching.has(a.links_to(c))
    assert watching.end().status == 0
    assert has_causes(a, "start", "peers list changed", "peers list changed"), causes(a)


def a_pipe(path: Path) -> None:
    os.mkfifo(path)


def a_terminal(path: Path) -> None:
    path.symlink_to("/dev/ptmx")


@pytest.mark.parametrize("make", [a_pipe, a_terminal])
def test_what_is_no_file_in_the_place_of_the_list_holds_nothing_up(
    nodes: Nodes, watch: StartWatch, make: Callable[[Path], None]
) -> None:
    """Whoever may write the list may put it there, and it may be read only when somebody writes."""
    a, b, c = nodes
    watching = watch(a)
    other = a.peers.with_name("other")
    make(other)
    other.rename(a.peers)
    watching.says("it is not a regular file")
    assert set(a.state()) == a.links_to(b)
    by_rename(a.peers, b.entry() + c.entry())
    watching.has(a.links_to(b, c))
    assert watching.end().status == 0


def test_a_peers_list_at_a_new_path_is_watched(nodes: Nodes, watch: StartWatch) -> None:
    a, b, c = nodes
    watching = watch(a)
    other = a.directory / "other.toml"
    a.write_conf(text=a.conf_hcl(peers=f'"{other}"') + WATCH)
    watching.says("there is no such file")
    assert set(a.state()) == a.links_to(b)
    other.write_text(b.entry())
    watching.says("all is as it should be again")
    other.write_text(b.entry() + c.entry())
    watching.has(a.links_to(b, c))
    a.write_peers([])  # which counts no more
    assert watching.end().status == 0
    assert set(a.state()) == a.links_to(b, c)


def test_a_hangup_syncs(nodes: Nodes, watch: StartWatch) -> None:
    a, _, _ = nodes
    watching = watch(a)
    watching.running.signal(signal.SIGHUP)
    until(lambda: watching.syncs_for("SIGHUP"), watching.said)
    assert watching.end().status == 0
    assert causes(a) == ["start"], "a sync with nothing to do writes nothing"


def test_a_broken_conf_changes_nothing_and_is_told_once(nodes: Nodes, watch: StartWatch) -> None:
    a, b, c = nodes
    watching = watch(a)
    before = a.state()
    good = a.conf.read_text()
    for text, problem in (("transport {", "rait.conf:1:1: "), (f"{good}mtuu = 1\n", "mtuu")):
        a.conf.write_text(text)
        watching.says(problem)
        # The peers list of the last good rait.conf still counts, but nothing is done by it.
        a.knows(b, c)
        assert a.state() == before
    a.conf.write_text(good)
    watching.has(a.links_to(b, c))
    result = watching.end()
    assert result.status == 0
    assert len(re.findall("mtuu", result.err)) == 1
    assert len(re.findall("all is as it should be again", result.err)) == 1


def test_a_conf_that_is_broken_at_the_start_is_an_error(nodes: Nodes) -> None:
    a, _, _ = nodes
    a.conf.write_text("transport {")
    result = a.rait("watch")
    assert result.status == 2
    assert f"{a.conf}:1" in result.err
    assert not a.leftovers()


@pytest.mark.parametrize("conf", ["-", "http://127.0.0.1:9/rait.conf", "/dev/null"])
def test_a_conf_that_is_no_file_is_an_error(nodes: Nodes, conf: str) -> None:
    a, _, _ = nodes
    result = a.rait("-c", conf, "watch", stdin=a.conf.read_text())
    assert result.status == 2
    assert "needs a rait.conf that is a file" in result.err


def test_a_second_watch_of_a_conf_is_an_error(nodes: Nodes, watch: StartWatch) -> None:
    a, _, _ = nodes
    watching = watch(a)
    second = a.rait("watch")
    assert second.status == 1
    assert "is looked after already" in second.err
    assert str(watching.running.pid) in second.err
    watching.end()
    third = watch(a)
    assert third.end().status == 0


def test_a_second_watch_by_another_name_of_the_conf_is_an_error(
    nodes: Nodes, watch: StartWatch
) -> None:
    a, _, _ = nodes
    watch(a)
    other = a.directory / "other.conf"
    other.symlink_to(a.conf)
    second = start_fork(a.netns, ["-c", str(other), "watch"], "", a.directory)
    try:
        until(second.ended, second.said)
    finally:
        result = second.kill()
    assert result.status == 1
    assert "is looked after already" in result.err


def test_it_is_the_only_one_when_the_journal_is_another(nodes: Nodes, watch: StartWatch) -> None:
    a, _, _ = nodes
    watching = watch(a)
    a.write_conf(text=a.conf_hcl(journal=json.dumps(str(a.directory / "other.db"))) + WATCH)
    # A look after the first sync may still be one for the other journal.
    until(lambda: watching.syncs_for("rait.conf changed"), watching.said)
    second = watch(a, synced=False)
    until(second.running.ended, second.said)
    assert "is looked after already" in second.said()
    assert "Traceback" not in watching.said()


def test_it_is_the_only_one_where_its_locks_were_removed(nodes: Nodes, watch: StartWatch) -> None:
    a, _, _ = nodes
    watching = watch(a)
    for number in range(2):
        for lock in a.directory.glob("*.watch-*"):
            lock.unlink()
        watching.running.signal(signal.SIGHUP)
        until(lambda number=number: watching.syncs_for("SIGHUP") > number, watching.said)
        assert list(a.directory.glob("*.watch-*"))
    refused = a.rait("down")
    assert refused.status == 1
    assert f"process {watching.running.pid}" in refused.err
    for lock in a.directory.glob("*.watch-*"):
        lock.unlink()
    second = watch(a)
    watching.running.signal(signal.SIGHUP)
    until(lambda: "is looked after already" in watching.said(), watching.said)
    assert f"process {second.running.pid}" in watching.said()


@pytest.mark.parametrize("command", ["down", "rollback --yes", "replay --apply --yes --at 1"])
def test_what_it_would_undo_is_refused(nodes: Nodes, watch: StartWatch, command: str) -> None:
    a, b, c = nodes
    watching = watch(a)
    a.knows(b, c)
    watching.has(a.links_to(b, c))
    before = a.state()
    result = a.rait(*command.split())
    assert result.status == 1
    assert f"process {watching.running.pid}" in result.err
    assert "would undo `rait " in result.err
    assert a.state() == before
    assert a.rait("replay", "--diff", "--at", "1").status == 0
    assert watching.end().status == 0
    assert a.rait(*command.split()).status == 0
    assert a.state().keys() < before.keys()


def test_a_log_that_nobody_reads_holds_up_nothing(nodes: Nodes) -> None:
    a, b, _ = nodes
    a.up()
    reading, writing = os.pipe()
    try:
        os.set_blocking(writing, False)
        with suppress(BlockingIOError):
            while True:
                os.write(writing, bytes(512))
        os.set_blocking(writing, True)
        words = [*program(), "-c", str(a.conf), "--debug", "watch"]
        process = machine.start(words, a.netns, stderr=writing)
        try:
            machine.ip_batch([f"link del {a.link_to(b, 'ip4')}"], a.target)
            until(lambda: a.state().keys() == a.links_to(b))
            process.terminate()
            assert process.wait(machine.PATIENCE) == 0
        finally:
            process.kill()
            process.wait()
    finally:
        os.close(reading)
        os.close(writing)


@pytest.mark.kernel
def test_a_link_that_is_deleted_is_back(nodes: Nodes, watch: StartWatch) -> None:
    a, b, _ = nodes
    watching = watch(a)
    name = a.link_to(b, "ip4")
    machine.ip_batch([f"link del {name}"], a.target)
    watching.has(a.links_to(b))
    assert watching.end().status == 0
    assert causes(a)[0] == "start"
    # On a busy machine rait may sync at that very moment, and then looks once more.
    assert f"link deleted: {name}" in causes(a)[1] or causes(a)[1] == "look"


def test_links_are_back_in_a_new_namespace_when_theirs_is_deleted(
    nodes: Nodes, watch: StartWatch
) -> None:
    a, b, _ = nodes
    watching = watch(a)
    begun = len(watching.said())
    subprocess.run(["ip", "netns", "delete", a.target], check=True)
    # The links may outlive the name for a moment, and a look in that moment finds them.
    again = ("2 remade", "2 added")
    until(lambda: any(f": {word};" in watching.said()[begun:] for word in again), watching.said)
    watching.has(a.links_to(b))
    name = a.link_to(b, "ip4")
    machine.ip_batch([f"link del {name}"], a.target)
    watching.has(a.links_to(b))
    assert watching.end().status == 0


def test_a_newer_list_that_somebody_brought_by_rait_up_stands(
    nodes: Nodes, watch: StartWatch
) -> None:
    a, b, c = nodes
    pages = {"/peers": b.entry()}
    with served(a.netns, pages) as url:
        spans = 'watch {\n  poll = "1h"\n  look = "1s"\n}\n'
        a.write_conf(text=a.conf_hcl(peers=f'"{url}/peers"') + spans)
        watching = watch(a)
        pages["/peers"] = b.entry() + c.entry()
        a.up("--yes")
        watching.syncs(len(watching.syncs(1)) + 3)
        assert set(a.state()) == a.links_to(b, c)


HOOK = """policy {
  match { address_family = "ip4" }
  up_command = ["sh", "-c", "touch %s; while [ -e %s ]; do sleep 0.1; done"]
}
"""


def test_no_number_of_signals_cuts_a_sync_off(nodes: Nodes, watch: StartWatch) -> None:
    """A command of a link runs at the end of the sync, so the sync lasts until it ends."""
    a, b, _ = nodes
    mark = a.directory / "mark"
    a.write_conf(text=a.conf_hcl(command_timeout="60") + WATCH + HOOK % (mark, mark))
    watching = watch(a, synced=False)
    until(mark.exists, watching.said)
    for _ in range(3):
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            watching.running.signal(number)
    assert not watching.running.ended()
    mark.unlink()
    result = watching.end()
    assert result.status == 0
    assert "2 added, 1 command called" in result.err
    assert set(a.state()) == a.links_to(b)
    runs = [json.loads(line) for line in a.rait("log", "--json").out.splitlines()]
    assert [(run["cause"], run["status"]) for run in runs] == [("start", "done")]


def test_what_the_guard_stops_is_told_once(make_mesh: MakeMesh, watch: StartWatch) -> None:
    a, b, c, d = make_mesh(4).nodes
    a.write_conf(text=a.conf_hcl() + WATCH.replace("1h", "1s"))
    watching = watch(a)
    began = time.monotonic()
    a.knows(b)
    watching.says("stopped, with nothing touched: it would remove 4 of 6 links")
    count = len(watching.syncs(1))
    watching.syncs(count + 3)
    assert set(a.state()) == a.links_to(b, c, d)
    count = watching.said().count("stopped, with nothing touched")
    assert count <= most_told(time.monotonic() - began)
    a.up("--yes")
    watching.says("all is as it should be again")
    assert watching.end().status == 0
    assert set(a.state()) == a.links_to(b)


def test_nothing_is_changed_while_a_change_waits(nodes: Nodes, watch: StartWatch) -> None:
    a, b, c = nodes
    a.knows(b, c)
    assert a.rait("up", "--confirm", "1h").status == 0
    began = time.monotonic()
    watching = watch(a, synced=False)
    watching.says("waits for its confirmation")
    a.knows(b)
    a.write_conf(text=a.conf_hcl() + WATCH.replace("1h", "1s"))
    until(lambda: watching.said().count("our public key is") > 3, watching.said)
    assert set(a.state()) == a.links_to(b, c)
    assert a.rait("confirm").status == 0
    watching.has(a.links_to(b))
    result = watching.end()
    assert result.status == 0
    count = result.err.count("waits for its confirmation")
    assert count <= most_told(time.monotonic() - began)


def test_a_list_that_no_server_confirms_for_too_long_is_told(
    nodes: Nodes, watch: StartWatch
) -> None:
    a, b, _ = nodes
    pages = {"/peers": b.entry()}
    spans = 'watch {\n  poll = "1s"\n  look = "1h"\n  max_peers_age = "20s"\n}\n'
    with served(a.netns, pages) as url:
        a.write_conf(text=a.conf_hcl(peers=f'"{url}/peers"') + spans)
        watching = watch(a)
        watching.syncs(3)
        assert "max_peers_age" not in watching.said()
        page = pages.pop("/peers")
        watching.says("the peers list is older than max_peers_age")
        assert set(a.state()) == a.links_to(b)
        pages["/peers"] = page
        watching.says("all is as it should be again")
        assert watching.end().status == 0


@pytest.mark.kernel
def test_a_list_that_stands_in_for_long_is_told_once(nodes: Nodes, watch: StartWatch) -> None:
    a, b, _ = nodes
    spans = 'watch {\n  poll = "1s"\n  look = "1s"\n}\n'
    with served(a.netns, pages := {"/peers": b.entry()}) as url:
        a.write_conf(text=a.conf_hcl(peers=f'"{url}/peers"', peers_fallback='"always"') + spans)
        a.up()
        del pages["/peers"]
        began = time.monotonic()
        watching = watch(a)
        watching.says("as there is no newer one")
        watching.syncs(len(watching.syncs(1)) + 4)
        count = watching.said().count("as there is no newer one")
        assert count <= most_told(time.monotonic() - began)
        assert watching.end().status == 0


def test_what_nobody_tells_of_is_found_by_the_look(nodes: Nodes, watch: StartWatch) -> None:
    a, b, _ = nodes
    a.write_conf(text=a.conf_hcl() + WATCH.replace('look = "1h"', 'look = "1s"'))
    watching = watch(a)
    name, before = a.link_to(b, "ip4"), a.state()
    machine.wg("set", name, "fwmark", "99", netns=a.target)
    until(lambda: a.state() == before, watching.said)
    watching.says(f"{name} fwmark 99 -> ")
    assert watching.end().status == 0
    assert has_causes(a, "start", "look"), causes(a)

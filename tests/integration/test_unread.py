"""A link that rait cannot look at is unknown, not gone: rait says so, and forgets nothing."""

from __future__ import annotations

import codecs
import os
import signal
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from rait.adapters.journal.reader import JournalReader
from tests.integration import machine
from tests.integration.command import Result, command
from tests.integration.conftest import MakeMesh
from tests.integration.harness import Node
from tests.integration.strangers import link_of, links_of, strangers, sync, write_peers

pytestmark = pytest.mark.userspace

A, B = strangers(1, 2)
NOBODY = 65534


@pytest.fixture
def node(make_mesh: MakeMesh) -> Node:
    return make_mesh(1).nodes[0]


def rait(node: Node, *arguments: str, through: tuple[str, ...]) -> Result:
    """rait as a user starts it, but through another command."""
    words = [*through, *command(), "-c", str(node.conf), *arguments]
    with machine.inside(node.netns):
        done = subprocess.run(words, capture_output=True, text=True, check=False)
    return Result(done.returncode, done.stdout, done.stderr)


def pid_of(name: str) -> int:
    (pid,) = machine.wireguard_processes(name)
    return pid


def remembered(node: Node) -> set[str]:
    journal = JournalReader(node.journal)
    return set(journal.last_known(str(node.conf)).topology.links)


@pytest.fixture
def stopped(node: Node) -> Iterator[str]:
    """A link whose program was stopped, beside one that is well."""
    sync(node, A, B)
    name = link_of(node, A)
    pid = pid_of(name)
    machine.stop(pid)
    yield name
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGCONT)


def test_a_program_that_does_not_answer_is_named_by_down(node: Node, stopped: str) -> None:
    result = node.rait("down")
    assert result.status == 3, result
    assert f"{stopped}: it cannot be read" in result.err
    assert f"kill -CONT {pid_of(stopped)}" in result.err
    assert set(node.interfaces()) == {stopped} == remembered(node)

    assert node.rait("down").status == 1
    os.kill(pid_of(stopped), signal.SIGCONT)
    node.down()
    assert node.leftovers() == []


def test_nor_is_it_taken_for_a_strangers_interface(node: Node, stopped: str) -> None:
    (other,) = links_of(node, A, B) - {stopped}
    before = node.interfaces()
    result = node.rait("up")
    assert result.status == 3, result
    assert "rename" not in result.err
    assert f"{stopped}: it cannot be read" in result.err
    assert node.interfaces() == before

    listed = node.rait("list", "--json")
    assert listed.status == 3, listed
    assert [link["name"] for link in listed.json["links"]] == [other]
    assert [failed["link"] for failed in listed.json["failed"]] == [stopped]

    os.kill(pid_of(stopped), signal.SIGCONT)
    assert node.rait("up", "--json").json["status"] == "unchanged"


def test_a_tun_of_another_program_is_no_error(node: Node) -> None:
    sync(node, A)
    names = (f"{node.tag}tun", f"{node.tag}own")
    for name in names:
        machine.run(["ip", "tuntap", "add", "dev", name, "mode", "tun"], node.target)
    machine.run(["ip", "link", "set", names[1], "group", "54"], node.target)

    assert node.rait("up", "--json").json["status"] == "unchanged"
    assert set(node.listed()) == links_of(node, A)
    node.down()
    assert set(node.interfaces()) == set(names)


@pytest.fixture
def nobodys(node: Node, monkeypatch: pytest.MonkeyPatch) -> Iterator[Node]:
    """A node in a single namespace, with links that root made; now a plain user runs rait there."""
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        node.conf, node.journal = directory / "rait.conf", directory / "journal.db"
        node.peers = directory / "peers.conf"
        node.write_conf(text=node.conf_hcl().replace(f'"{node.target}"', '""'))
        write_peers(node, A)
        node.up()
        for path in (directory, *directory.iterdir()):
            os.chown(path, NOBODY, NOBODY)
        become_nobody(monkeypatch)
        yield node


def become_nobody(monkeypatch: pytest.MonkeyPatch) -> None:
    """Forks of this process become that user as soon as they are in their namespace."""
    root, setns = os.getpid(), machine.setns
    codecs.lookup("utf-8-sig")  # Python's own files may be in a directory closed to that user

    def setns_and_stand_down(path: Path | str) -> None:
        setns(path)
        if os.getpid() != root:
            os.setgroups([])
            os.setresgid(NOBODY, NOBODY, NOBODY)
            os.setresuid(NOBODY, NOBODY, NOBODY)

    monkeypatch.setattr(machine, "setns", setns_and_stand_down)


def test_who_may_not_look_is_told_to_be_root(nobodys: Node) -> None:
    name = link_of(nobodys, A)
    result = nobodys.rait("list")
    assert result.status == 1, result
    assert name in result.err
    assert "run rait as root" in result.err
    assert "no links\n" not in result.out


def test_a_status_that_nobody_could_read_is_no_good_one(nobodys: Node) -> None:
    name = link_of(nobodys, A)
    shown = nobodys.rait("status")
    assert shown.status == 0, shown
    assert "1 failed" in shown.out
    checked = nobodys.rait("status", "--check")
    assert checked.status == 1, checked
    assert name in checked.out
    assert "run rait as root" in checked.out


def test_who_may_change_nothing_is_told_to_be_root(nobodys: Node) -> None:
    name = link_of(nobodys, A)
    write_peers(nobodys, B)
    before = nobodys.journal.read_bytes()
    for words in (["up", "--yes"], ["down"]):
        result = nobodys.rait(*words)
        assert result.status == 1, result
        assert result.out == ""
        (line,) = (line for line in result.err.splitlines() if "warning" not in line)
        assert line.startswith(f"rait: rait {words[0]} must run as root")
    assert nobodys.journal.read_bytes() == before
    assert name in machine.links(nobodys.netns)


@pytest.fixture
def guest(node: Node) -> Iterator[subprocess.Popen[str]]:
    """A process whose namespace is the node's target, by its id; it has another name, too."""
    machine.run(["ip", "netns", "add", node.target])
    process = machine.start(["sleep", "600"], node.target)
    node.write_conf(text=node.conf_hcl().replace(f'"{node.target}"', f'"{process.pid}"'))
    yield process
    process.kill()
    process.wait()


def test_links_of_a_process_that_is_gone_are_not_forgotten(
    node: Node, guest: subprocess.Popen[str]
) -> None:
    sync(node, A, B)
    names = links_of(node, A, B)
    guest.kill()
    guest.wait()

    assert set(node.listed()) == names
    for what in ("up", "plan"):
        result = node.rait(what)
        assert result.status == 1, result
        assert f"there is no process {guest.pid}" in result.err
    assert remembered(node) == names
    assert set(node.interfaces()) == names

    assert "2 removed" in node.down().out, "their namespace has a name, by which it is found"
    assert node.leftovers() == []


def test_a_process_that_is_not_there_is_told_of_beforehand(
    node: Node, guest: subprocess.Popen[str]
) -> None:
    guest.kill()
    guest.wait()
    write_peers(node, A)
    for what in ("plan", "up"):
        result = node.rait(what)
        assert result.status == 1, result
        assert f"there is no process {guest.pid}" in result.err
        assert "to be added" not in result.out
    assert JournalReader(node.journal).runs() == ()
    node.down()


@pytest.fixture
def apart(node: Node) -> Iterator[Node]:
    """A node whose transit namespace has a name of its own, and is not the one rait runs in."""
    transit = f"{node.target}-transit"
    machine.run(["ip", "netns", "add", transit])
    node.write_conf(text=node.conf_hcl().replace('transit = ""', f'transit = "{transit}"'))
    yield node
    machine.remove_netns(transit)


def test_links_can_be_seen_and_removed_when_their_transit_is_gone(apart: Node) -> None:
    sync(apart, A, B)
    machine.run(["ip", "netns", "del", f"{apart.target}-transit"])

    assert set(apart.listed()) == links_of(apart, A, B)
    result = apart.rait("up")
    assert result.status == 1, result
    assert f"{apart.target}-transit does not exist" in result.err
    assert set(apart.interfaces()) == links_of(apart, A, B)

    apart.down()
    assert apart.leftovers() == []
    assert apart.rait("down", "--json").json["status"] == "unchanged"


def test_too_few_descriptors_are_an_error(node: Node) -> None:
    peers = strangers(*range(1, 6))
    sync(node, *peers)
    names = links_of(node, *peers)
    told = set()
    for limit in range(6, 24):
        result = rait(node, "list", through=("prlimit", f"--nofile={limit}:{limit}"))
        told.add(result.status)
        if result.status == 0:
            assert all(name in result.out for name in names), (limit, result)
        else:
            assert "oo many open files" in result.err, (limit, result)
        if limit == 12:
            result = rait(node, "down", through=("prlimit", f"--nofile={limit}:{limit}"))
            assert result.status == 1, result
            assert "may open too few files" in result.err, result
            assert remembered(node) == names
            assert set(node.interfaces()) == names
    assert told >= {0, 1}

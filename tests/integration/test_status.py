"""``rait status`` on real nodes: each state, what makes a check fail, terminals and babeld."""

from __future__ import annotations

import json
import os
import pty
import re
import select
import signal
import socket
import struct
import subprocess
import termios
import time
from collections.abc import Iterator
from contextlib import contextmanager
from fcntl import ioctl
from pathlib import Path
from typing import Any

import pytest

from tests.integration import machine
from tests.integration.command import Result, command
from tests.integration.conftest import MakeMesh
from tests.integration.harness import Mesh, Node
from tests.integration.routing import Babeld, babeld_block, eventually, make_router
from tests.integration.strangers import link_of, strangers, sync, write_peers
from tests.integration.watching import until
from tests.tiers import need

pytestmark = pytest.mark.userspace

A, B = strangers(1, 2)


@pytest.fixture
def node(make_mesh: MakeMesh) -> Node:
    return make_mesh(1).nodes[0]


def status(node: Node, *arguments: str) -> Any:
    result = node.rait("status", "--json", *arguments)
    assert result.status in (0, 1), result
    return result.json


def states(node: Node) -> dict[str, str]:
    return {link["name"]: link["state"] for link in status(node)["links"]}


def check(node: Node, faulty: int) -> Result:
    """Check, which must name so many faults and end accordingly."""
    result = node.rait("status", "--check")
    assert result.status == (1 if faulty else 0), result
    assert len(result.out.splitlines()) == 1 + faulty, result
    return result


def named(node: Node, name: str) -> str:
    """The entry of a node with a name."""
    return node.entry().replace("SendPort", f"Name = {json.dumps(name)}\nSendPort")


def test_a_run_that_the_guard_stopped_is_told_until_another_one_ends(node: Node) -> None:
    peers = strangers(1, 2, 3, 4)
    sync(node, *peers)
    assert status(node)["waiting"] == []
    write_peers(node, *peers[:1])
    assert node.rait("up", "--dry-run").status == 0
    assert status(node)["waiting"] == [], "a plan stops nothing"
    assert node.rait("up").status == 4
    (line,) = status(node)["waiting"]
    assert line.startswith("the `rait up` of 20")
    assert "was stopped, with nothing touched: it would remove 3 of 4 links" in line
    assert "`rait up --yes`" in line
    for shown in ("status", "list"):
        assert line in node.rait(shown).err
    write_peers(node, *peers)
    assert node.rait("up").status == 0
    assert status(node)["waiting"] == [], "the list is mended, so there was nothing to do"
    write_peers(node, *peers[:1])
    assert node.rait("up").status == 4
    assert node.rait("up", "--yes").status == 0
    assert status(node)["waiting"] == []


@pytest.mark.kernel
def test_links_with_sessions_are_live(mesh: Mesh) -> None:
    a, b = mesh.nodes
    a.write_peers([named(b, "[bold red]gate[/]")])
    before = a.journal.read_bytes()
    told = status(a)
    assert told["counts"]["live"] == len(told["links"]) == 2
    for link in told["links"]:
        assert (link["peer"], link["public_key"]) == ("[bold red]gate[/]", b.public_key)
        assert link["endpoint_is"] == "configured"
        assert 0 <= link["age"] <= 180
        assert min(link["received"], link["sent"]) > 0
    assert (told["last_change"]["command"], told["last_change"]["outcome"]) == ("up", "done")
    assert (told["peers"], told["babeld"], told["healthy"]) == (None, False, True)
    assert check(a, 0).out.startswith("2 links: 2 live; last change ")
    lines = a.rait("status").out.splitlines()
    assert [line.split()[0] for line in lines[2:]] == sorted(a.links_to(b))
    assert a.journal.read_bytes() == before


def test_a_link_is_stale_if_the_session_has_ended(
    mesh: Mesh, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody waits three minutes here: this process, and with it its forks, has another clock."""
    a, _ = mesh.nodes
    now = time.time
    monkeypatch.setattr(time, "time", lambda: now() + 36000)
    assert set(states(a).values()) == {"stale"}
    assert "is stale: its last handshake was 10h ago" in check(a, 2).out
    monkeypatch.setattr(time, "time", lambda: now() - 1000)
    told = status(a)
    assert {(link["state"], link["age"]) for link in told["links"]} == {("stale", None)}


@pytest.mark.kernel
def test_what_was_never_heard_and_what_waits(make_mesh: MakeMesh) -> None:
    (node,) = make_mesh(1).nodes
    passive = A.entry.replace(f'Endpoint = "{A.address}"\n', "")
    node.write_peers([passive, B.entry])
    node.up()
    found = {link["name"]: link for link in status(node)["links"]}
    waiting, calling = found[link_of(node, A)], found[link_of(node, B)]
    assert (waiting["state"], waiting["healthy"], waiting["endpoint_is"]) == (
        "never",
        True,
        "waiting",
    )
    assert (calling["state"], calling["healthy"], calling["endpoint_is"]) == (
        "never",
        False,
        "configured",
    )
    assert check(node, 1).out.splitlines()[1] == f"{link_of(node, B)} never had a handshake"


def test_who_has_roamed_is_told(mesh: Mesh) -> None:
    a, b = mesh.nodes
    machine.ip_batch(
        ["addr del 192.0.2.2/24 dev underlay", "addr add 192.0.2.77/24 dev underlay"], b.netns
    )
    name = a.link_to(b, "ip4")

    def told() -> Any:
        mesh.unanswered([(b, a)])
        return next(link for link in status(a)["links"] if link["name"] == name)

    eventually(lambda: told()["endpoint_is"] == "roamed", "packets come from another address")
    assert told()["endpoint"].startswith("192.0.2.77:")
    assert told()["state"] == "live"


@pytest.mark.kernel
def test_a_link_that_somebody_removed_is_missing(mesh: Mesh) -> None:
    a, b = mesh.nodes
    gone, stays = a.link_to(b, "ip4"), a.link_to(b, "ip6")
    machine.ip_batch([f"link del {gone}"], a.target)
    eventually(lambda: gone not in a.interfaces(), "it is gone")
    assert states(a) == {gone: "missing", stays: "live"}
    assert check(a, 1).out.splitlines()[1] == f"{gone} is missing: there is no such interface"
    a.up()
    assert states(a)[gone] in ("never", "live")


@pytest.mark.kernel
def test_a_link_that_could_not_be_made_is_failed_until_its_peer_leaves(node: Node) -> None:
    name = link_of(node, A)
    with held_port(node, A.send_port):
        write_peers(node, A, B)
        assert node.rait("up").status == 3
        assert states(node) == {name: "failed", link_of(node, B): "never"}
        for _ in range(2):
            assert node.rait("up").status == 3
        told = status(node)
        assert told["last_change"]["repeated"] == 1
        assert "port" in next(link["why"] for link in told["links"] if link["name"] == name)
        assert f"{name} is failed: " in check(node, 2).out
        write_peers(node, B)
        node.up()
        assert states(node) == {link_of(node, B): "never"}


@contextmanager
def held_port(node: Node, port: int) -> Iterator[None]:
    """Have another program hold a UDP port of the node."""
    with machine.socket_in(node.netns, socket.AF_INET6, socket.SOCK_DGRAM) as holder:
        holder.bind(("::", port))
        yield


def test_nothing_is_nothing_to_worry_about(node: Node) -> None:
    assert check(node, 0).out == "no links; no change in the journal\n"
    sync(node, A)
    node.down()
    assert check(node, 0).out.startswith("no links; last change ")


def test_a_journal_that_cannot_be_read_is_no_clean_bill_of_health(node: Node) -> None:
    sync(node, A)
    node.journal.write_bytes(b"no journal at all" * 300)
    result = node.rait("status")
    assert result.status == 0
    assert link_of(node, A) in result.out
    assert "which links are missing is not known" in result.err
    assert "which links are missing is not known" in check(node, 2).out


def test_wrong_usage(node: Node) -> None:
    assert node.rait("status", "--watch", "0").status == 2
    assert node.rait("status", "--watch", "x").status == 2
    assert node.rait("status", "--watch", "--check").status == 2
    node.write_conf(text="transport {")
    assert node.rait("status").status == 2


# On a terminal


class Terminal:
    """A terminal of 100 by 30, with rait on it."""

    def __init__(self, node: Node, *arguments: str, **environment: str) -> None:
        self.shown = ""
        self.pid, self._master = pty.fork()
        if self.pid == 0:
            kept = {key: value for key, value in os.environ.items() if key != "NO_COLOR"}
            os.environ.clear()
            os.environ.update(kept | {"TERM": "xterm-256color"} | environment)
            ioctl(0, termios.TIOCSWINSZ, struct.pack("HHHH", 30, 100, 0, 0))
            words = ["ip", "netns", "exec", node.netns, *command(), "-c", str(node.conf)]
            os.execvp("ip", [*words, *arguments])  # noqa: S606

    def read(self) -> bool:
        """Take in what is shown within a moment; whether anything may still come."""
        if not select.select([self._master], [], [], 0.1)[0]:
            return True
        try:
            data = os.read(self._master, 65536)
        except OSError:  # EIO: the program has ended
            return False
        self.shown += data.decode(errors="replace")  # it may end within a character
        return bool(data)

    def until(self, text: str, times: int = 1) -> None:
        def has_come() -> bool:
            self.read()
            return self.shown.count(text) >= times

        eventually(has_come, f"{text!r} {times} times in {self.shown!r}")

    def end(self) -> int:
        """Wait for the end; the exit status."""
        eventually(lambda: not self.read(), "the end of the program")
        os.close(self._master)
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


def test_a_terminal_gets_colours_unless_somebody_wants_none(mesh: Mesh) -> None:
    a, b = mesh.nodes
    a.write_peers([named(b, "[bold red]gate[/]")])
    coloured = Terminal(a, "status")
    assert coloured.end() == 0
    assert re.search(r"\x1b\[32mlive", coloured.shown)
    assert "[bold red]gate[/]" in coloured.shown
    plain = Terminal(a, "status", NO_COLOR="1")
    assert plain.end() == 0
    assert "live" in plain.shown
    assert not re.search(r"\x1b\[[0-9;]*3[0-9]m", plain.shown)
    dumb = Terminal(a, "status", TERM="dumb")
    assert dumb.end() == 0
    assert "\x1b" not in dumb.shown


@pytest.mark.parametrize("end", [signal.SIGINT, signal.SIGTERM])
def test_a_watch_goes_on_until_it_is_ended(mesh: Mesh, end: signal.Signals) -> None:
    a, b = mesh.nodes
    watch = Terminal(a, "status", "--watch", "0.2")
    watch.until("2 live", 2)
    machine.ip_batch([f"link del {a.link_to(b, 'ip4')}"], a.target)
    watch.until("1 missing")
    a.conf.rename(a.conf.with_suffix(".away"))
    watch.until("cannot be looked at now")
    a.conf.with_suffix(".away").rename(a.conf)
    watch.until("1 missing", watch.shown.count("1 missing") + 1)
    os.kill(watch.pid, end)
    assert watch.end() == 0
    assert "Traceback" not in watch.shown
    assert watch.shown.rindex("\x1b[?25h") > watch.shown.rindex("\x1b[?25l"), "the cursor is back"


def test_in_a_pipe_a_watch_has_a_line_of_json_for_each_look(mesh: Mesh) -> None:
    a, b = mesh.nodes
    words = ["ip", "netns", "exec", a.netns, *command(), "-c", str(a.conf), "status", "--json"]
    with subprocess.Popen([*words, "--watch", "0.2"], stdout=subprocess.PIPE) as watch:
        assert json.loads(watch.stdout.readline())["rates"] == {}
        watch.stdout.readline()
        descriptors = Path(f"/proc/{watch.pid}/fd")
        before = len(list(descriptors.iterdir()))

        def has_traffic() -> bool:
            mesh.unanswered([(a, b)])
            rates = json.loads(watch.stdout.readline())["rates"]
            return rates.keys() == a.links_to(b) and any(r["sent"] > 0 for r in rates.values())

        eventually(has_traffic, "pings are told of")
        eventually(lambda: len(list(descriptors.iterdir())) <= before, "no descriptor is left open")
        watch.send_signal(signal.SIGINT)
        assert watch.wait(machine.PATIENCE) == 0


def test_babeld_tells_of_its_neighbours(make_mesh: MakeMesh, tmp_path: Path) -> None:
    need("babeld", "babeld")
    mesh = make_mesh(2)
    daemons = []
    try:
        for node in mesh.nodes:
            make_router(node.target, node.number)
            (place := tmp_path / str(node.number)).mkdir()
            daemons.append(Babeld(node.target, place))
            node.write_conf(text=node.conf_hcl() + babeld_block(daemons[-1].socket, sync=True))
            node.up()
        a = mesh.nodes[0]

        def heard() -> Any:
            told = status(a)
            costs = [each["babel"]["cost"] for each in told["links"] if each["babel"]]
            # Hellos are traffic. rait asks for sessions before it asks babeld.
            live = all(link["state"] == "live" for link in told["links"])
            return live and len(costs) == 2 and max(costs) < 65535 and told

        told = until(heard)  # babeld hears the other over both links
        assert told["babeld"] is True
        assert all(0 < link["babel"]["reach"] <= 0xFFFF for link in told["links"])
        assert all(link["babel"]["address"].startswith("fe80::") for link in told["links"])
        check(a, 0)
        daemons[0].stop()
        told = status(a)
        assert told["babeld"] is False
        assert [link["babel"] for link in told["links"]] == [None, None]
    finally:
        for daemon in daemons:
            daemon.stop()

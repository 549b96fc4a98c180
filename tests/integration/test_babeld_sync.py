"""rait adds links to Debian's babeld: what it sends and when, and what the journal has of that."""

from __future__ import annotations

import json
import socket
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from rait.adapters.babeld import BabeldClient
from rait.domain.config.schema import Babeld as Settings
from tests.integration.babeld_tap import Said, Tap, model, tapped
from tests.integration.command import Result
from tests.integration.conftest import MakeMesh
from tests.integration.harness import Node
from tests.integration.routing import PARAM, Babeld, babeld_block, make_router
from tests.integration.strangers import link_of, links_of, strangers, write_peers
from tests.tiers import need

pytestmark = pytest.mark.userspace

A, B, C = strangers(1, 2, 3)
FOREIGN = "foreign0"
EXTRA = "default rxcost 96"


@pytest.fixture
def node(make_mesh: MakeMesh) -> Node:
    need("babeld", "babeld")
    node = make_mesh(1).nodes[0]
    make_router(node.target, node.number)
    write_peers(node, A, B)
    return node


@pytest.fixture
def babeld(node: Node, tmp_path: Path) -> Iterator[Babeld]:
    daemon = Babeld(node.target, tmp_path)
    yield daemon
    daemon.stop()


@pytest.fixture
def tap(node: Node, babeld: Babeld, tmp_path: Path) -> Iterator[Tap]:
    with tapped(babeld.socket, node.target, tmp_path) as tap:
        yield tap


def configure(node: Node, path: str, **babeld: Any) -> None:
    node.write_conf(text=node.conf_hcl() + babeld_block(path, **babeld))


def listed(node: Node) -> dict[str, bool]:
    """The interfaces that babeld has, as rait tells them, and which are ours."""
    result = node.rait("babeld", "list", "--json")
    assert result.status == 0, result
    return {each["name"]: each["ours"] for each in result.json["interfaces"]}


def sync(node: Node, *arguments: str) -> Result:
    result = node.rait("babeld", "sync", "--json", *arguments)
    assert result.status == 0, result
    return result


def added(*links: str, param: str = PARAM) -> list[str]:
    return [f"interface {link} {param}" for link in sorted(links)]


def flushed(*links: str) -> list[str]:
    return [f"flush interface {link}" for link in sorted(links)]


def logged(node: Node) -> list[tuple[str, list[str]]]:
    """The command of each run, with the drift of babeld that it noticed, and its changes."""
    result = node.rait("log", "--json")
    assert result.status == 0, result
    runs = [json.loads(line) for line in result.out.splitlines()]
    return [
        (
            run["command"],
            [e["type"] for e in run["noticed"] + run["events"] if "Babel" in e["type"]],
        )
        for run in runs
    ]


def assert_journal_is_sound(node: Node, links: set[str]) -> None:
    """The chain is whole, and its events add up to babeld's having just these interfaces."""
    assert node.rait("log", "verify").status == 0
    replayed = node.rait("replay", "--json")
    assert replayed.status == 0, replayed
    assert set(replayed.json["topology"]["babel"]) == links


def test_a_sync_sends_what_babeld_lacks_and_the_second_one_nothing(node: Node, tap: Tap) -> None:
    configure(node, tap.socket, extra_cmd=f"{EXTRA}\n# a comment\n\ndefault hello-interval 7")
    node.up()
    links = links_of(node, A, B)
    assert tap.commands == [], "sync = false: nothing is said at up"
    assert listed(node) == {"lo": False}
    first = sync(node)
    assert tap.commands == [*added(*links), EXTRA, "default hello-interval 7"]
    assert listed(node) == {"lo": False, **dict.fromkeys(links, True)}
    tap.take()
    second = sync(node)
    assert tap.commands == [], "not extra_cmd either"
    assert second.json["status"] == "unchanged"
    assert second.json["run"] is None
    assert {event["type"] for event in first.events} == {"BabelInterfaceAdded"}
    assert logged(node) == [("up", []), ("babeld sync", ["BabelInterfaceAdded"] * 2)]
    assert_journal_is_sound(node, links)


def test_interfaces_of_others_survive_unless_exclusive(node: Node, babeld: Babeld) -> None:
    configure(node, babeld.socket)
    gone = f"{node.tag}4{A.send_port + 9}"  # named as our links are, and no link of ours
    with closing(BabeldClient(Settings(socket_addr=babeld.socket))) as client:
        client.add(FOREIGN, "")
        client.add(gone, "")
    node.up()
    sync(node)
    ours = dict.fromkeys(links_of(node, A, B), True)
    assert listed(node) == {"lo": False, FOREIGN: False, **ours}
    sync(node, "--exclusive")
    assert listed(node) == ours
    assert_journal_is_sound(node, set(ours))


def test_an_exclusive_sync_that_failed_makes_nothing_ours(node: Node, tmp_path: Path) -> None:
    readonly = Babeld(node.target, tmp_path, writable=False)
    configure(node, readonly.socket)
    node.up()
    assert node.rait("babeld", "sync", "--exclusive").status == 1
    readonly.stop()
    daemon = Babeld(node.target, tmp_path)
    sync(node)
    assert listed(node) == {"lo": False, **dict.fromkeys(links_of(node, A, B), True)}
    daemon.stop()


def test_a_changed_param_flushes_and_adds(node: Node, tap: Tap) -> None:
    configure(node, tap.socket)
    node.up()
    sync(node)
    tap.take()
    links = links_of(node, A, B)
    configure(node, tap.socket, param="type tunnel rxcost 500", extra_cmd=EXTRA)
    sync(node)
    param = "type tunnel rxcost 500"
    one, two = ([*flushed(link), *added(link, param=param)] for link in sorted(links))
    assert tap.commands == [*added(min(links), param=param), *one, *two, EXTRA]
    assert_journal_is_sound(node, links)
    tap.take()
    assert sync(node).json["status"] == "unchanged"
    assert tap.commands == []


def test_a_param_that_babeld_refuses_costs_no_interface(node: Node, tap: Tap) -> None:
    configure(node, tap.socket, sync=True)
    node.up()
    tap.take()
    write_peers(node, A, B, C)
    configure(node, tap.socket, sync=True, param="type bogus", extra_cmd=EXTRA)
    links = links_of(node, A, B)
    first = min(links)
    result = node.rait("up", "--json")
    assert result.status == 3
    tried = added(first, param="type bogus")
    assert tap.commands == tried, "no interface is flushed, nothing else is tried"
    assert f"{first}: babeld keeps it as it is: babeld at " in result.err
    assert f"refused the command 'interface {first} type bogus'" in result.err
    for link in links_of(node, A, B, C) - {first}:
        assert f"as it refused the same parameters for {first}" in result.err
        assert link in result.err
    assert listed(node) == {"lo": False, **dict.fromkeys(links, True)}
    node.assert_has_exactly(links_of(node, A, B, C))
    assert_journal_is_sound(node, links)
    tap.take()
    again = node.rait("up")
    assert again.status == 3
    assert "rait up: 3 failed; 3 links wanted" in again.out
    assert tap.commands == tried
    assert_journal_is_sound(node, links)
    assert node.rait("up") == again
    assert "repeated once until" in node.rait("log", "--oneline").out.splitlines()[-1]
    assert_journal_is_sound(node, links)

    configure(node, tap.socket, sync=True)
    assert node.up("--json").touched == {link_of(node, C)}, "the others have this param still"
    assert_journal_is_sound(node, links_of(node, A, B, C))


def test_a_babeld_that_takes_no_changes_holds_up_no_tunnel(node: Node, tmp_path: Path) -> None:
    daemon = Babeld(node.target, tmp_path)
    configure(node, daemon.socket, sync=True)
    node.up()
    daemon.stop()
    # One that has our links from its own file, and may not be told to forget them.
    links = links_of(node, A, B)
    daemon = Babeld(node.target, tmp_path, writable=False, interfaces=links)
    result = node.rait("down")
    assert result.status == 3
    assert "read-only" in result.err
    assert "2 removed" in result.out
    assert node.leftovers() == []
    assert_journal_is_sound(node, links)
    daemon.stop()


def test_with_sync_links_are_there_when_babeld_hears_of_them(node: Node, tap: Tap) -> None:
    configure(node, tap.socket, sync=True, extra_cmd=EXTRA)
    node.up()
    links = links_of(node, A, B)
    assert tap.take() == [*(Said(c, True) for c in added(*links)), Said(EXTRA, False)]
    node.up()
    assert tap.take() == [], "a second up says nothing"

    write_peers(node, A, C)
    shown = node.rait("plan")
    assert f"+ babel {link_of(node, C)}" in shown.out
    assert tap.take() == [], "a plan says nothing"
    node.up()
    told = [*flushed(link_of(node, B)), *added(link_of(node, C))]
    assert tap.take() == [*(Said(c, True) for c in told), Said(EXTRA, False)]

    node.down()
    links = links_of(node, A, C)
    assert tap.take() == [*(Said(c, True) for c in flushed(*links)), Said(EXTRA, False)]
    assert node.leftovers() == []
    assert node.rait("down", "--json").events == []
    assert tap.take() == []
    assert_journal_is_sound(node, set())


def test_a_link_that_cannot_be_made_is_not_told_of(node: Node, tap: Tap) -> None:
    configure(node, tap.socket, sync=True)
    taken, made = link_of(node, A), link_of(node, B)
    with node_port(node, A.send_port):
        result = node.rait("up", "--json")
    assert result.status == 3
    assert [failure["link"] for failure in result.json["failed"]] == [taken]
    assert tap.commands == added(made)
    node.up()
    assert tap.commands == added(made) + added(taken)
    assert_journal_is_sound(node, {taken, made})


def node_port(node: Node, port: int) -> socket.socket:
    """Hold a port on the underlay."""
    from tests.integration import machine

    held = machine.socket_in(node.netns, socket.AF_INET6, socket.SOCK_DGRAM)
    held.bind(("::", port))
    return held


def silent(connection: socket.socket) -> None:
    connection.recv(1)


def cut_off(connection: socket.socket) -> None:
    connection.sendall(b"BABEL 1.0\nversion bab")


def another(connection: socket.socket) -> None:
    connection.sendall(b"220 mail.example.org ESMTP\n")


MISBEHAVING = {
    "cut off": (cut_off, "closed the connection before its banner was complete"),
    "another program": (another, "what listens there is not babeld"),
    "absent": (None, "there is no babeld control socket at"),
}


def test_a_silent_babeld_holds_up_the_tunnels_for_ten_seconds_at_most(
    node: Node, tmp_path: Path
) -> None:
    with model(tmp_path / "model.ctl", silent) as path:
        configure(node, path, sync=True)
        result = node.rait("up")
    assert result.status == 3
    assert "did not send its banner within 10 s" in result.err
    node.assert_has_exactly(links_of(node, A, B))


@pytest.mark.parametrize("how", MISBEHAVING)
def test_without_a_good_babeld_the_tunnels_come_and_go(
    node: Node, tmp_path: Path, how: str
) -> None:
    talk, words = MISBEHAVING[how]
    path = tmp_path / "model.ctl"
    if talk is None:
        assert_tunnels_come_and_go(node, str(path), words)
    else:
        with model(path, talk) as served:
            assert_tunnels_come_and_go(node, served, words)


def assert_tunnels_come_and_go(node: Node, path: str, words: str) -> None:
    configure(node, path, sync=True)
    write_peers(node, A)
    links = links_of(node, A)
    planned = node.rait("plan")
    assert words in planned.err
    assert planned.status == 3
    assert node.rait("plan", "--detailed-exitcode").status == 1
    assert f"+ {link_of(node, A)}" in planned.out
    result = node.rait("up", "--json")
    assert result.status == 3
    assert [failure["link"] for failure in result.json["failed"]] == ["babeld"]
    assert words in result.err
    node.assert_has_exactly(links)
    alone = node.rait("babeld", "sync")
    assert alone.status == 1
    assert words in alone.err
    assert node.rait("down").status == 3
    assert node.leftovers() == []
    assert_journal_is_sound(node, set())


def test_a_read_only_socket_is_explained_and_the_tunnels_come(node: Node, tmp_path: Path) -> None:
    daemon = Babeld(node.target, tmp_path, writable=False)
    configure(node, daemon.socket, sync=True)
    result = node.rait("up")
    assert result.status == 3
    assert "read-only: start babeld with `-G`" in result.err
    node.assert_has_exactly(links_of(node, A, B))
    assert listed(node) == {"lo": False}
    assert node.rait("babeld", "sync").status == 1
    daemon.stop()
    assert_journal_is_sound(node, set())


def test_a_refused_extra_command_is_named(node: Node, babeld: Babeld) -> None:
    configure(node, babeld.socket, sync=True, extra_cmd="random-id true")
    result = node.rait("up")
    assert result.status == 3
    assert "'random-id true'" in result.err
    links = links_of(node, A, B)
    assert listed(node) == {"lo": False, **dict.fromkeys(links, True)}
    assert_journal_is_sound(node, links)


def test_an_extra_command_is_sent_until_it_is_taken(node: Node, tap: Tap) -> None:
    configure(node, tap.socket, sync=True, extra_cmd="bogus cmd")
    assert node.rait("up").status == 3
    run = node.rait("log", "--json").out.count("\n")
    tap.take()
    for _ in range(2):
        again = node.rait("up")
        assert again.status == 3
        assert "refused the command 'bogus cmd'" in again.err
        assert tap.take()[0].command == "bogus cmd"
        assert "bogus cmd" in node.rait("plan").err
        assert node.rait("log", "--json").out.count("\n") == run, "nothing new to tell"
    (only,) = (json.loads(line) for line in node.rait("log", "--json").out.splitlines())
    shown = node.rait("log", "show", str(only["run"])).out
    assert "  failed: babeld: babeld at " in shown
    assert "refused the command 'bogus cmd'" in shown

    configure(node, tap.socket, sync=True, extra_cmd=EXTRA)
    tap.take()
    taken = node.up()
    assert "extra_cmd sent to babeld" in taken.out
    assert tap.commands == [EXTRA]
    assert "extra_cmd" not in node.rait("plan").err
    assert "nothing to do" in node.up().out
    assert tap.commands == [EXTRA]
    assert "extra_cmd sent to babeld" in node.rait("log").out
    assert_journal_is_sound(node, links_of(node, A, B))


def test_a_run_that_did_not_find_babeld_says_so_in_the_journal(node: Node, tmp_path: Path) -> None:
    configure(node, str(tmp_path / "none.ctl"), sync=True)
    assert node.rait("up").status == 3
    shown = node.rait("log").out
    assert "  failed: babeld: there is no babeld control socket at" in shown


def test_a_babeld_that_was_restarted_is_told_again(node: Node, tmp_path: Path) -> None:
    daemon = Babeld(node.target, tmp_path)
    configure(node, daemon.socket)
    node.up()
    sync(node)
    daemon.stop()
    daemon = Babeld(node.target, tmp_path)
    links = links_of(node, A, B)
    assert listed(node) == {"lo": False}
    again = sync(node)
    assert {(e["type"], e["link"]) for e in again.json["drift"]} == {
        ("BabelInterfaceFlushed", link) for link in links
    }
    assert [(e["type"], e["link"]) for e in again.events] == [
        ("BabelInterfaceAdded", link) for link in sorted(links)
    ]
    assert listed(node) == {"lo": False, **dict.fromkeys(links, True)}
    assert sync(node).json["status"] == "unchanged"
    assert_journal_is_sound(node, links)
    assert logged(node)[-1] == (
        "babeld sync",
        ["BabelInterfaceFlushed"] * 2 + ["BabelInterfaceAdded"] * 2,
    )
    daemon.stop()


def test_a_rollback_takes_babeld_along(node: Node, tap: Tap) -> None:
    configure(node, tap.socket, sync=True)
    write_peers(node, A)
    node.up()
    write_peers(node, A, B)
    node.up()
    tap.take()
    result = node.rait("rollback")
    assert result.status == 0, result
    assert tap.take() == [Said(f"flush interface {link_of(node, B)}", True)]
    node.assert_has_exactly(links_of(node, A))
    assert_journal_is_sound(node, links_of(node, A))


def test_what_babeld_was_told_since_is_no_obstacle_to_a_rollback(
    node: Node, tmp_path: Path
) -> None:
    daemon = Babeld(node.target, tmp_path)
    configure(node, daemon.socket)
    write_peers(node, A)
    node.up()
    write_peers(node, A, B)
    node.up()
    run = sync(node).json["run"]
    refused = node.rait("rollback", str(run))
    assert refused.status == 1
    assert "babeld follows the links" in refused.err
    daemon.stop()
    daemon = Babeld(node.target, tmp_path)
    configure(node, daemon.socket, sync=True)
    node.up()
    result = node.rait("rollback")
    assert result.status == 0, result
    node.assert_has_exactly(links_of(node, A))
    assert listed(node) == {"lo": False, link_of(node, A): True}
    assert_journal_is_sound(node, links_of(node, A))
    daemon.stop()


def test_a_policy_says_what_babeld_gets_for_a_link(node: Node, tap: Tap) -> None:
    a, b = link_of(node, A), link_of(node, B)
    configure(node, tap.socket, sync=True)
    node.up()
    assert tap.commands == added(a, b)

    match = f'match {{ public_key = "{A.public_key}" }}'
    policy = f'policy {{\n  {match}\n  babeld_param_add = "rxcost 96"\n}}\n'
    node.write_conf(text=node.conf.read_text() + policy)
    tap.take()
    assert node.rait("plan", "--json").touched == {a}
    assert node.up("--json").touched == {a}
    costly = added(a, param=f"{PARAM} rxcost 96")
    assert tap.commands == [*costly, *flushed(a), *costly], "tried, and then set from the start"
    assert node.up("--json").json["status"] == "unchanged"
    assert sync(node).json["status"] == "unchanged", "the journal remembers what the link gets"

    tap.take()
    assert node.rait("rollback").status == 0
    assert tap.commands == [*added(a), *flushed(a), *added(a)]
    assert_journal_is_sound(node, {a, b})

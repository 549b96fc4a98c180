"""How a run ends: what it stops at, makes, writes down, and finds out when something failed."""

from __future__ import annotations

import json

import pytest
from msgspec import structs

from rait.adapters.journal.store import Journal
from rait.domain.errors import MachineError
from rait.testing.machine import RefusedError
from tests.unit.command_line import PEERS, Rait
from tests.unit.played import ALL, CONF, Played

FEW = dict(list(PEERS.items())[:1])
FIRST, SECOND, THIRD = ALL


def logged(rait: Rait) -> list[dict[str, object]]:
    return [json.loads(line) for line in rait("log", "--json").out.splitlines()]


def give_another_key(kernel: Played, *names: str) -> None:
    """Links that are copies of the first one, of some other node."""
    for number, name in enumerate(names):
        wire = kernel.wires[FIRST]
        device = structs.replace(wire.link.device, public_key="theirs", listen_port=number + 1)
        link = structs.replace(wire.link, name=name, device=device)
        kernel.wires[name] = structs.replace(wire, link=link)


def test_a_run_that_would_cost_too_much_stops_and_a_plan_says_so(
    rait: Rait, kernel: Played
) -> None:
    limit = "max_removals = 1\n"
    rait.write(CONF + limit, PEERS)
    rait("up")
    rait.write(CONF + limit, FEW)
    said = rait("plan")
    assert said.status == 0
    assert "`rait up` will stop: it would remove 2 of 3 links" in said.err
    said = rait("up")
    assert (said.status, kernel.names) == (4, ALL)
    assert "stopped, with nothing touched" in said.err
    assert len(logged(rait)) == 1
    assert rait("up", "--yes").status == 0
    assert kernel.names == [FIRST]
    assert "stop" not in rait("plan").err


def test_a_run_with_nothing_to_do_leaves_no_trace(rait: Rait, kernel: Played) -> None:
    rait("up")
    assert rait("up").out == "rait up: nothing to do; 3 links\n"
    assert len(logged(rait)) == 1
    kernel.change_settings(FIRST, mtu=1280)
    assert "not by a run of this configuration" in rait("up").out
    assert len(logged(rait)) == 2


def test_a_run_that_fails_as_the_last_one_did_is_only_counted(rait: Rait, kernel: Played) -> None:
    kernel.refused = {FIRST: "no room"}
    for _ in range(4):
        said = rait("up")
        assert said.status == 3
        assert f"{FIRST}: no room" in said.err
    assert [run.get("repeated", 0) for run in logged(rait)] == [0, 2]


def test_the_target_is_made_though_no_link_is_wanted(rait: Rait, kernel: Played) -> None:
    conf = CONF + 'isolation {\n  type = "netns"\n  target = "rait-none"\n}\n'
    rait.write(conf, {})
    rait("plan")
    assert kernel.made == []
    assert rait("up").status == 0
    assert kernel.made == ["rait-none"]
    rait("down")
    assert kernel.made == ["rait-none"], "to remove links takes no new namespace"


@pytest.mark.parametrize("command", ["up", "plan", "status", "list"])
def test_links_are_not_for_a_process_that_is_not_there(
    rait: Rait, kernel: Played, command: str
) -> None:
    beyond_all = "4194305"  # pid_max is 2^22 at most: proc(5)
    rait.write(CONF + f'isolation {{\n  type = "netns"\n  target = "{beyond_all}"\n}}\n', PEERS)
    said = rait(command)
    assert (said.status, kernel.names, kernel.made) == (1, [], [])
    assert f"there is no process {beyond_all}" in said.err


def test_what_an_event_did_that_failed_is_no_drift_of_the_next_run(
    rait: Rait, kernel: Played
) -> None:
    kernel.half_done = {FIRST: RefusedError("too late")}
    said = rait("up")
    assert said.status == 3
    assert f"{FIRST}: too late" in said.err
    assert said.out.count("(done by an event that failed)") == 1
    assert rait("up").out == "rait up: nothing to do; 3 links\n"


def test_what_a_failed_event_did_stays_open_while_nobody_can_look(
    rait: Rait, kernel: Played, monkeypatch: pytest.MonkeyPatch
) -> None:
    observe, looks = kernel.observe, iter([True, False])

    def once() -> object:
        if next(looks, False):
            return observe()
        raise MachineError("netlink broke")

    kernel.refused = {FIRST: "no room"}
    monkeypatch.setattr(kernel, "observe", once)
    said = rait("-d", "up")
    assert f"LinkAdded {FIRST}: may be half done, which is unknown" in said.err
    assert f"LinkAdded {SECOND}: may be" not in said.err
    monkeypatch.setattr(kernel, "observe", observe)
    kernel.refused = {}
    kernel.happen(next(iter(Journal.open(rait.journal).runs())).intended[0])
    said = rait("up")
    assert said.status == 0
    assert "left by a run that did not finish" in said.out, "and not by somebody else"


def test_what_a_killed_run_left_is_carried_until_it_can_be_looked_at(
    rait: Rait, kernel: Played
) -> None:
    kernel.half_done = {FIRST: KeyboardInterrupt()}
    assert rait("up").status == 1
    kernel.half_done = {}
    kernel.unread = {FIRST: "it is broken"}
    said = rait("up")
    assert (said.status, kernel.names) == (3, ALL)
    assert f"{FIRST}: it cannot be read, so it is left as it is: it is broken" in said.err
    kernel.unread = {}
    said = rait("up")
    assert said.status == 0
    assert "left by a run that did not finish" in said.out
    assert rait("up").out == "rait up: nothing to do; 3 links\n"


def test_links_that_are_left_alone_for_one_reason_are_one_line(rait: Rait, kernel: Played) -> None:
    rait("up")
    give_another_key(kernel, "wg1")
    (line,) = rait("up").err.splitlines()
    assert "rait leaves link wg1 alone: public key theirs is neither" in line
    give_another_key(kernel, "wg2")
    (line,) = rait("up").err.splitlines()
    assert "rait leaves links wg1, wg2 alone" in line
    said = rait("down")
    assert (said.status, kernel.names) == (3, ["wg1", "wg2"])
    assert "(`ip link del wg1` in its namespace)" in said.err


def test_old_runs_that_cannot_be_dropped_are_told_and_cost_nothing(
    rait: Rait, kernel: Played, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise MachineError("the disk is full")

    monkeypatch.setattr(Journal, "prune_old", refuse)
    said = rait("up")
    assert (said.status, kernel.names) == (0, ALL)
    assert "old runs stay in the journal: the disk is full" in said.err


def with_command(script: str, netns: str = "current") -> str:
    command = f'["sh", "-c", "{script}"]'
    return f'{CONF}policy {{\n  up_command = {command}\n  command_netns = "{netns}"\n}}\n'


def test_a_command_is_called_once_and_what_it_said_is_kept(
    rait: Rait, kernel: Played, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SECRET", "of root")
    rait.write(with_command("env; exit 3"), FEW)
    assert f"> {FIRST} added: up_command sh -c 'env; exit 3'" in rait("plan").out
    said = rait("-d", "up")
    assert (said.status, kernel.names) == (3, [FIRST])
    assert f"debug: command for {FIRST}, added: failed: it ended with status 3" in said.err
    assert f"| RAIT_LINK={FIRST}" in said.err
    assert "of root" not in said.err
    assert rait("up").out == "rait up: nothing to do; 1 link\n"
    (run,) = logged(rait)
    assert (run["status"], len(run["calls"])) == ("partial", 1)
    rait.write(with_command("exit 0"), FEW)
    said = rait("-d", "up")
    assert (said.status, said.err.count(f"command for {FIRST}, changed: done")) == (0, 1)


def test_a_command_in_a_namespace_that_is_not_there_fails_and_the_link_stays(
    rait: Rait, kernel: Played
) -> None:
    target = 'isolation {\n  type = "netns"\n  target = "rait-none"\n}\n'
    rait.write(with_command("exit 0", "target") + target, FEW)
    said = rait("up")
    assert (said.status, kernel.names) == (3, [FIRST])
    assert "it cannot be run: network namespace rait-none does not exist" in said.err


def test_no_command_is_called_for_a_link_that_could_not_be_made(rait: Rait, kernel: Played) -> None:
    kernel.refused = {FIRST: "no room"}
    rait.write(with_command("exit 0"), FEW)
    assert "command" not in rait("up").out

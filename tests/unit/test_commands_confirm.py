"""``rait confirm`` and ``--confirm``: what they refuse and say, and what `rait log` tells of it."""

from __future__ import annotations

import json
import subprocess
import time

import pytest
from msgspec import structs

from rait.adapters import clock, vrf, waiter
from rait.adapters.journal.store import Journal
from rait.adapters.keys import public_key
from rait.commands import confirm
from rait.domain.backend import Outcome
from rait.domain.config.schema import SECOND, Secret
from rait.domain.errors import VrfMissingError
from rait.domain.events import Event, LinkAdded, LinkRemoved, VrfAdded, VrfRemoved
from rait.domain.records import Instant
from rait.domain.topology import Device, Origin
from tests.unit.command_line import CONF, PEERS, PRIVATE, Rait, header, link

MADE = LinkAdded(link("w1"))
CHANGES = (["up"], ["down"], ["replay", "--apply"], ["rollback"], ["babeld", "sync"])


@pytest.fixture
def node(rait: Rait) -> Rait:
    rait.write(f'private_key = "{PRIVATE}"\n{CONF}', PEERS)
    return rait


def change(node: Rait, confirm_by: Instant | None, event: Event = MADE) -> int:
    """Journal a run that did this, and is to be confirmed."""
    begun = structs.replace(header(str(node.conf), "up"), confirm_by=confirm_by)
    with Journal.open(node.journal) as journal:
        run = journal.begin(begun, (), (event,))
        run.record([Outcome(0)])
        run.finish("done")
    return run.id


def soon() -> Instant:
    return clock.later(clock.now(), 3600 * SECOND)


def past() -> Instant:
    """A time in another boot of the machine."""
    return structs.replace(soon(), boot="another")


def logged(node: Rait) -> list[dict[str, object]]:
    return [json.loads(line) for line in node("log", "--json").out.splitlines()]


@pytest.mark.parametrize(
    "arguments",
    [
        ["up", "--dry-run", "--confirm", "2m"],
        ["plan", "--confirm", "2m"],
        ["replay", "--confirm", "2m"],
        ["replay", "--diff", "--confirm", "2m"],
        ["rollback", "--dry-run", "--confirm", "2m"],
        ["down", "--confirm", "2m"],
        ["up", "--confirm"],
        ["-c", "-", "up", "--confirm", "2m"],
        ["confirm", "--back", "--wait"],
    ],
)
def test_where_there_is_nothing_to_confirm_it_is_wrong_usage(
    node: Rait, arguments: list[str]
) -> None:
    said = node(*arguments)
    assert said.status == 2
    assert "--confirm" in said.err or "--wait" in said.err
    assert not node.journal.exists()


@pytest.mark.parametrize("span", ["2s", "25h", "2d", "120", "2 m", "-1m", ""])
def test_a_span_that_is_too_short_too_long_or_none_is_wrong_usage(node: Rait, span: str) -> None:
    for command in (["up"], ["replay", "--apply"], ["rollback"]):
        said = node(*command, f"--confirm={span}")
        assert (said.status, said.out) == (2, "")
        assert "from 3s to 1d" in said.err


def test_while_a_change_waits_others_are_refused_and_told_what_to_do(node: Rait) -> None:
    run = change(node, soon())
    for command in CHANGES:
        said = node(*command)
        assert said.status == 5, said
        assert f"run {run} (up, by uid 0, " in said.err
        assert f"`rait -c {node.conf} confirm` keeps it" in said.err
    assert len(logged(node)) == 1


def test_a_change_is_confirmed_once(node: Rait) -> None:
    run = change(node, soon())
    assert node("confirm").out == f"rait confirm: run {run} (up) is confirmed\n"
    assert node("confirm").err == "rait: there is nothing to confirm: no change waits for it\n"
    first, second = logged(node)
    assert first["confirmed"] == {"run": second["run"], "uid": 0, "at": second["started_at"]}
    assert second["confirms"] == run
    assert "taken_back" not in first
    shown = node("log", "show", str(run)).out
    assert "  to be confirmed until 20" in shown
    assert f": confirmed by uid 0 at 20{shown.rpartition('at 20')[2]}" in shown
    assert f"  confirms run {run}" in node("log").out
    assert node("confirm", "--json").status == 1
    assert node("log", "verify").status == 0


def test_json_says_which_run_was_confirmed(node: Rait) -> None:
    run = change(node, soon())
    assert json.loads(node("confirm", "--json").out) == {"command": "confirm", "confirmed": run}


def test_what_came_too_late_is_taken_back_and_says_so(node: Rait) -> None:
    run = change(node, past())
    late = node("confirm")
    assert late.status == 1
    assert f"run {run} is taken back, and not confirmed" in late.err
    again = node("confirm")
    assert again.status == 1
    assert f"it is too late: run {run} was taken back by run" in again.err
    first, second = logged(node)
    assert first["taken_back"]["run"] == second["run"]
    assert second["takes_back"] == run
    assert "taken back by itself at" in node("log", "--oneline").out


def test_with_back_it_is_taken_back_by_somebody(node: Rait) -> None:
    run = change(node, soon())
    assert node("confirm", "--back").status == 0
    assert "taken back by uid 0 at" in node("log").out
    assert f"makes the links what they were before run {run}" in node("log").out
    assert node("confirm", "--back").status == 1


def test_what_nobody_has_the_key_for_counts_as_taken_back_in_vain(node: Rait) -> None:
    change(node, None)
    run = change(node, past(), LinkRemoved(link("w1")))
    late = node("down")
    assert late.status == 2
    assert f"what there was before run {run} was made under another key" in late.err
    *_, removal, failed = logged(node)
    assert (failed["takes_back"], failed["status"]) == (removal["run"], "failed")
    assert failed["problems"][0]["link"] == "w1"
    assert node("down").status == 0, "it does not stand in the way for ever"


def test_nor_does_one_whose_links_were_in_the_namespace_of_a_process_that_is_gone(
    node: Rait,
) -> None:
    with subprocess.Popen(["true"]) as process:
        process.wait()
    origin, device = Origin("kernel", str(process.pid)), Device(public_key(Secret(PRIVATE)), 50221)
    there = structs.replace(link("w1"), origin=origin, device=device)
    change(node, None, LinkAdded(there))
    run = change(node, past(), LinkRemoved(there))
    late = node("down")
    assert late.status == 1
    assert f"there is no process {process.pid}" in late.err
    *_, failed = logged(node)
    assert (failed["takes_back"], failed["status"]) == (run, "failed")
    assert f"there is no process {process.pid}" in failed["problems"][0]["error"]
    assert node("down").status == 0


def test_nor_does_one_with_a_vrf_alone_that_the_kernel_lacks(
    node: Rait, monkeypatch: pytest.MonkeyPatch
) -> None:
    def require(name: str) -> None:
        raise VrfMissingError(f"VRF {name} cannot be made")

    monkeypatch.setattr(vrf, "require", require)
    change(node, None, VrfAdded("mesh", 100))
    run = change(node, past(), VrfRemoved("mesh", 100))
    late = node("down")
    assert (late.status, late.err) == (1, "rait: VRF mesh cannot be made\n")
    *_, failed = logged(node)
    assert (failed["takes_back"], failed["status"]) == (run, "failed")
    assert node("down").status == 0


def test_the_waiter_tries_ever_more_rarely_and_never_gives_up(
    node: Rait, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = change(node, past())
    in_the_way = node.directory / "journal.db.lock"
    in_the_way.mkdir()
    slept: list[float] = []

    def sleep(seconds: float) -> None:
        slept.append(seconds)
        if len(slept) == 12:
            in_the_way.rmdir()

    monkeypatch.setattr(waiter, "get_ready", lambda: None)
    monkeypatch.setattr(time, "sleep", sleep)
    assert node("confirm", "--wait").status == 0
    assert slept[:3] == [5, 10, 20]
    assert slept[-3:] == [confirm.LONGEST_RETRY] * 3
    assert slept == sorted(slept)
    assert logged(node)[-1]["takes_back"] == run


def test_a_run_that_is_not_on_trial_says_nothing_of_it(node: Rait) -> None:
    change(node, None)
    (shown,) = logged(node)
    assert not shown.keys() & {"confirm_by", "confirms", "takes_back", "confirmed", "taken_back"}
    assert "confirm" not in node("log").out

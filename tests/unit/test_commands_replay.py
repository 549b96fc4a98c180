"""``rait replay``: an earlier topology, and which one is meant."""

from __future__ import annotations

import pytest

from rait.commands.replay import Past, past_lines, past_object
from rait.domain.topology import (
    Topology,
)
from tests.unit.command_line import Rait
from tests.unit.played import ALL, Played
from tests.unit.played import CONF as PLAYED
from tests.unit.test_render import DYNAMIC, LINK, jsonable


def test_replay_counts_what_is_known_to_have_happened(journaled: Rait) -> None:
    said = journaled("replay")
    assert said.status == 0
    assert said.out.splitlines() == ["w1 port 50221", "rait replay: 1 link as of now"]
    assert journaled("replay", "--at", "soon").status == 2
    assert "a run's number, event:NUMBER or a time" in journaled("replay", "--at", "run:x").err
    assert journaled("replay", "--at", "4711").status == 1
    other = journaled("replay", "--at", "5")
    assert other.status == 1
    assert "/etc/rait/other.conf" in other.err


HUGE = "99999999999999999999999"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("log", "show", HUGE), f"there is no run {HUGE}"),
        (("log", "show", f"-{HUGE}"), f"there is no run -{HUGE}"),
        (("log", "--run", HUGE), f"there is no run {HUGE}"),
        (("rollback", HUGE), f"there is no run {HUGE}"),
        (("replay", "--at", HUGE), f"there is no run {HUGE}"),
        (("replay", "--at", f"event:{HUGE}"), f"there is no event {HUGE}"),
        (("replay", "--at", HUGE, "--diff"), f"there is no run {HUGE}"),
    ],
)
def test_a_number_beyond_all_runs_is_of_none(
    journaled: Rait, arguments: tuple[str, ...], says: str
) -> None:
    said = journaled(*arguments)
    assert (said.status, said.out) == (1, "")
    assert said.err.endswith(f"{says}\n")
    assert journaled("replay", "--at", "9" * 5000).status == 2


def test_a_time_beyond_all_entries_is_before_or_after_them(journaled: Rait) -> None:
    assert journaled("log", "--since", "9999-12-31").out == "no runs\n"
    assert journaled("log", "--since", "999999999w").out == journaled("log").out
    assert "1 link as of" in journaled("replay", "--at", "9999-12-31").out
    assert "0 links as of" in journaled("replay", "--at", "999999999w").out


def test_the_past_is_a_line_for_each_link() -> None:
    past = Past(topology=Topology({"w2": DYNAMIC, "w1": LINK}), public_key="own", at="run 7")
    assert past_lines(past) == [
        "w1 port 50221 peer KEY endpoint 192.0.2.1:50153",
        "w2 port dynamic",
        "rait replay: 2 links as of run 7",
    ]
    value = jsonable(past_object(past))
    assert (value["at"], value["public_key"]) == ("run 7", "own")
    assert value["topology"]["links"]["w1"]["peers"][0]["endpoint"]["port"] == 50153


def test_the_topology_of_a_past_run_is_shown_and_made_again(rait: Rait, kernel: Played) -> None:
    rait("up")
    rait.write(PLAYED, {})
    rait("up", "--yes")
    said = rait("replay", "--at", "1", "--diff")
    assert (said.status, kernel.names) == (0, [])
    assert said.out.endswith("rait replay --at 1: 3 to be added; 3 links wanted\n")
    said = rait("replay", "--at", "1", "--apply")
    assert (said.status, kernel.names) == (0, ALL)
    early = rait("replay", "--at", "2000-01-01", "--diff")
    assert "what there was before is not known" in early.err
    assert "`--apply` would be refused" in early.err
    assert rait("replay", "--at", "2000-01-01", "--apply").status == 1
    assert kernel.names == ALL

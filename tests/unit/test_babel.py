"""Which of babeld's interfaces are ours to change, and what a sync tells it."""

from __future__ import annotations

import pytest
from msgspec import structs

from rait.domain.babel import BabeldState, extra_commands, is_interface_name, is_ours
from rait.domain.events import BabelInterfaceAdded, BabelInterfaceFlushed
from rait.domain.topology import Device, Link, LinkNotes, LinkSettings, Origin, Topology
from tests.babeld_model import babel_events


@pytest.mark.parametrize(
    "name",
    ["", ".", "..", "a b", "a\tb", "a\nb", "a/b", "a:b", '"a"', "a#b", "a\\b", "é" * 8, "x" * 16],
)
def test_what_is_no_interface_name(name: str) -> None:
    assert not is_interface_name(name)


@pytest.mark.parametrize("name", ["a", "x" * 15, "é" * 7, "wg-0.1", "..."])
def test_what_is_an_interface_name(name: str) -> None:
    assert is_interface_name(name)


def test_extra_commands_are_one_a_line() -> None:
    text = "\n  redistribute local deny\r\n# why: none of it\n\ndefault type tunnel\n"
    assert extra_commands(text) == ("redistribute local deny", "default type tunnel")
    assert extra_commands("") == ()


@pytest.mark.parametrize(
    ("name", "ours"),
    [
        ("rait4x50153", True),
        ("rait6x1", True),
        ("rait4x65535", True),
        ("rait4x65536", False),
        ("rait4x0", False),
        ("rait4x050153", False),
        ("rait4x", False),
        ("rait4xabc", False),
        ("rait4x50153a", False),
        ("rait4x\u0665", False),
        ("eth0", False),
        ("remembered0", True),
    ],
)
def test_ours_by_name(name: str, ours: bool) -> None:
    assert is_ours(name, ("rait4x", "rait6x"), {"remembered0"}) is ours


def test_missing_ones_are_added_and_gone_ones_flushed() -> None:
    current = {"rait4x1": "p", "rait4x2": "p", "eth0": ""}
    events = babel_events(current, current, {"rait4x2": "p", "rait4x3": "p"})
    assert events == (BabelInterfaceFlushed("rait4x1", "p"), BabelInterfaceAdded("rait4x3", "p"))


def test_exclusive_flushes_others_too_as_far_as_they_can_be_named() -> None:
    current = {"rait4x1": "p", "eth0": "", "": "", "a b": ""}
    events = babel_events(current, current, {"rait4x1": "p"}, exclusive=True)
    assert events == (BabelInterfaceFlushed("eth0", ""),)


def test_changed_parameters_take_a_flush_and_an_add() -> None:
    remembered, wanted = {"rait4x1": "rxcost 32"}, {"rait4x1": "rxcost 96"}
    assert babel_events(["rait4x1"], remembered, wanted) == (
        BabelInterfaceFlushed("rait4x1", "rxcost 32"),
        BabelInterfaceAdded("rait4x1", "rxcost 96"),
    )


def test_a_link_may_have_parameters_of_its_own() -> None:
    bare = Link("rait4x1", Origin("kernel"), LinkSettings(1420, 54), Device("own"))
    other = structs.replace(bare, name="rait4x2", notes=LinkNotes(babeld_param="rxcost 96"))
    state = BabeldState(present=("rait4x1",), param="rxcost 32", ifprefixes=("rait4x",))
    known = Topology({"rait4x1": bare}, {"rait4x1": "rxcost 32"})
    managed, wanted = state.compare(known, {"rait4x1": bare, "rait4x2": other})
    assert managed == {"rait4x1": "rxcost 32"}
    assert wanted == {"rait4x1": "rxcost 32", "rait4x2": "rxcost 96"}


def test_one_that_babeld_had_by_itself_is_assumed_to_be_as_wanted() -> None:
    wanted = {"rait4x1": "rxcost 96"}
    assert babel_events(["rait4x1"], {}, wanted) == ()


def test_one_that_babeld_lost_is_added_again_whatever_is_remembered() -> None:
    wanted = {"rait4x1": "rxcost 96"}
    remembered = {"rait4x1": "rxcost 32"}
    added = BabelInterfaceAdded("rait4x1", "rxcost 96")
    assert babel_events([], remembered, wanted) == (added,)

"""How a run ended, by what it was to change and what became of that."""

from __future__ import annotations

import pytest
from msgspec import structs

from rait.domain.change import Change, Doubts, Failure, Goal, Results, verdict
from rait.domain.errors import Problem
from rait.domain.events import BabelInterfaceAdded, LinkAdded
from rait.domain.fallback import OldList
from rait.domain.hooks import Call
from rait.domain.topology import EMPTY, Device, Link, LinkSettings, Origin, Topology


def link(name: str) -> Link:
    return Link(name, Origin("kernel"), LinkSettings(1420, 54), Device("own"))


ONE, TWO = LinkAdded(link("w1")), LinkAdded(link("w2"))
TOLD = BabelInterfaceAdded("w1", "")
BOTH = Topology({name: link(name) for name in ("w1", "w2")})
CHANGE = Change(observed=EMPTY, desired=BOTH, events=(ONE, TWO, TOLD))
QUIET = Change(observed=BOTH, desired=BOTH)
OLD = OldList(5 * 10**9, "yesterday", "it is out of reach")
BY_AN_OLD_LIST = Goal(BOTH, doubts=Doubts((), (), lambda problem: problem.message, 9, OLD))
PARTIAL, FAILED = ("partial",) * 2, ("failed",) * 2
WRONG = Problem("it is taken", link="w3")
CONFLICT = structs.replace(QUIET, goal=Goal(BOTH, conflicts=("w1 is taken",)))
LEFT = Problem("nobody can tell", "warning", (), "w1")
CALLED = Call("added", link("w1")).result(0)
NOT_WELL = Call("added", link("w1")).result(1, "it ended with status 1")


@pytest.mark.parametrize(
    ("change", "results", "status", "outcome"),
    [
        (QUIET, Results(), "done", "unchanged"),
        (QUIET, Results(ended=("w9",)), "done", "done"),
        (CONFLICT, Results(), "done", "partial"),
        (structs.replace(CONFLICT, events=(ONE,)), Results(happened=(ONE,)), "done", "partial"),
        (CHANGE, Results(happened=(ONE, TWO, TOLD)), "done", "done"),
        (structs.replace(CHANGE, losses=("w1 goes",)), Results(happened=(ONE,)), "done", "partial"),
        (CHANGE, Results(happened=(ONE, TOLD), errors={1: "no"}), "partial", "partial"),
        (CHANGE, Results(errors={0: "no", 1: "no"}), "failed", "failed"),
        (CHANGE, Results(errors={0: "no", 1: "no", 2: "no"}), "failed", "failed"),
        (CHANGE, Results(happened=(TOLD,), errors={0: "no", 1: "no"}), "partial", "partial"),
        (CHANGE, Results(errors={2: "no"}), "partial", "partial"),
        (structs.replace(QUIET, problems=(WRONG,)), Results(), "partial", "partial"),
        (structs.replace(QUIET, problems=(LEFT,)), Results(), "partial", "partial"),
        (structs.replace(QUIET, babeld_problem="none"), Results(), "partial", "partial"),
        (Change(observed=EMPTY, desired=EMPTY, problems=(WRONG,)), Results(), "failed", "failed"),
        (Change(observed=EMPTY, desired=EMPTY, problems=(LEFT,)), Results(), "partial", "partial"),
        (QUIET, Results(stuck={"w1": "busy", "w2": "busy"}), "failed", "failed"),
        (QUIET, Results(stuck={"w1": "busy"}), "partial", "partial"),
        (QUIET, Results(extra_cmd="owed", extra_cmd_error="no"), "partial", "partial"),
        (QUIET, Results(calls=(CALLED,)), "done", "done"),
        (QUIET, Results(calls=(CALLED, NOT_WELL)), "partial", "partial"),
        (CHANGE, Results(errors={0: "no", 1: "no"}, calls=(NOT_WELL,)), "failed", "failed"),
        (structs.replace(QUIET, goal=BY_AN_OLD_LIST), Results(), "partial", "partial"),
        (structs.replace(CHANGE, goal=BY_AN_OLD_LIST), Results(happened=(ONE,)), *PARTIAL),
        (structs.replace(CHANGE, goal=BY_AN_OLD_LIST), Results(errors={0: "no", 1: "no"}), *FAILED),
    ],
)
def test_a_run_has_failed_where_nothing_is_as_it_should_be(
    change: Change, results: Results, status: str, outcome: str
) -> None:
    judged = verdict(change, results)
    assert (judged.status, judged.outcome) == (status, outcome)


def test_an_old_list_is_a_problem_of_no_link_and_its_age_is_not_journaled() -> None:
    """Runs that repeat each other are only counted, and each finds the list a little older."""
    judged = verdict(structs.replace(QUIET, goal=BY_AN_OLD_LIST))
    assert judged.problems == {"peers list": "the list of yesterday stood in: it is out of reach"}
    assert judged.failures == ()
    assert "5 seconds old" in OLD.told
    assert "5 seconds" not in OLD.problem


def test_a_run_that_is_about_babeld_alone_fails_with_it() -> None:
    told = Change(observed=BOTH, desired=Topology({"w1": link("w1")}), events=(TOLD,))
    failed = Results(errors={0: "no"})
    assert verdict(told, failed).status == "partial"
    about_babeld = structs.replace(told, goal=Goal(None))
    assert verdict(about_babeld, failed).status == "failed"
    both = structs.replace(about_babeld, desired=BOTH)
    assert verdict(both, failed).status == "partial"


def test_the_first_thing_that_went_wrong_with_each_link_is_told() -> None:
    change = structs.replace(CHANGE, problems=(WRONG, LEFT), babeld_problem="no babeld")
    results = Results(
        errors={0: "first", 1: "second", 2: "third"},
        stuck={"w3": "busy", "w4": "busy"},
        extra_cmd_error="no extra_cmd",
    )
    judged = verdict(change, results)
    assert judged.failures == (
        Failure("w3", "it is taken"),
        Failure("w1", "nobody can tell", kept=True),
        Failure("babeld", "no extra_cmd"),
        Failure("w4", "busy"),
        Failure("w2", "second"),
    )
    assert judged.problems == {
        "w3": "it is taken",
        "w1": "nobody can tell",
        "babeld": "no extra_cmd",
        "w4": "busy",
    }


def test_a_problem_of_no_link_is_no_failure_of_one() -> None:
    change = structs.replace(QUIET, problems=(Problem("a VRF stays", "warning"),))
    assert verdict(change).failures == ()
    assert verdict(change).outcome == "unchanged"


def test_a_link_gets_the_instance_of_its_namespace_once_that_was_made() -> None:
    here = structs.replace(link("w2"), origin=Origin("kernel", "mesh", "", "boot/1"))
    new = structs.replace(link("w1"), origin=Origin("kernel", "later"))
    placed = structs.replace(new, origin=Origin("kernel", "later", "", "boot/7"))
    desired = Topology({"w1": new, "w2": here})
    events = (LinkAdded(new), LinkAdded(here), TOLD)
    change = Change(observed=EMPTY, desired=desired, events=events).placed({"later": "boot/7"})
    assert change.events == (LinkAdded(placed), LinkAdded(here), TOLD)
    assert change.desired == Topology({"w1": placed, "w2": here})

"""A change is carried out: whatever ends it, what is known of it is in the journal."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from types import SimpleNamespace

import pytest

from rait.adapters.journal.store import Journal
from rait.app.conclude import Report, planned
from rait.app.execution import Execution, ending_in_order
from rait.app.options import Options
from rait.app.render import summary
from rait.domain.backend import Outcome
from rait.domain.change import Change
from rait.domain.diff import diff
from rait.domain.errors import MachineError, Problem
from rait.domain.events import Event
from rait.domain.records import RunHeader
from rait.domain.topology import EMPTY, Device, Link, LinkSettings, Origin, Topology

HEADER = RunHeader(scope="here", command="up", version="", uid=0, started_at=0, public_key="key")


def links(*names: str) -> Topology:
    return Topology(
        {n: Link(n, Origin("kernel"), LinkSettings(1420, 54), Device("key")) for n in names}
    )


class Breaking:
    """A machine that carries out some events, and then raises."""

    def __init__(self, after: int, breaking: Callable[[], object]) -> None:
        self._after = after
        self._break = breaking

    def apply(self, _: Sequence[Event], __: object) -> Iterator[Outcome]:
        for index in range(self._after):
            yield Outcome(index, "refused" if index == 1 else None)
        self._break()

    def leftovers(self, _: Sequence[str]) -> tuple[str, ...]:
        return ()


def raising(error: BaseException) -> Callable[[], object]:
    def now() -> None:
        raise error

    return now


def carry_out(
    journal: Journal, machine: Breaking, debug: Callable[[str], None] = lambda _: None
) -> None:
    after = links("a", "b", "c", "d")
    change = Change(observed=EMPTY, desired=after, events=diff(EMPTY, after))
    nothing = Change(observed=EMPTY, desired=EMPTY)
    session = SimpleNamespace(
        machine=machine,
        routing=None,
        options=Options(config="", debug=debug),
        observe=lambda _: None,
        decide=lambda *_: nothing,
    )
    Execution(session, change).perform(journal.begin(HEADER, (), change.events))


@pytest.mark.parametrize(
    "error", [MachineError("the namespace went"), ZeroDivisionError(), KeyboardInterrupt()]
)
def test_what_is_known_is_recorded_whatever_is_raised(tmp_path: Path, error: BaseException) -> None:
    with Journal.open(tmp_path / "journal.db") as journal:
        with pytest.raises(type(error)):
            carry_out(journal, Breaking(3, raising(error)))
        (run,) = journal.runs()
        assert {i: outcome.error for i, outcome in run.outcomes.items()} == {
            0: None, 1: "refused", 2: None,
        }  # fmt: skip
        assert run.status is None
        assert set(journal.last_known("here").topology.links) == {"a", "c"}
        assert journal.verify().ok


def test_a_run_that_ends_is_told_whole(tmp_path: Path) -> None:
    debugged: list[str] = []
    with Journal.open(tmp_path / "journal.db") as journal:
        carry_out(journal, Breaking(4, lambda: None), debugged.append)
        (run,) = journal.runs()
    assert (run.status, run.done, run.failed, run.unknown) == ("partial", 3, 1, 0)
    assert debugged[:2] == ["LinkAdded a: done", "LinkAdded b: failed: refused"]


def test_sigterm_ends_the_process_after_what_is_known_was_recorded(tmp_path: Path) -> None:
    script = (
        "import sys, time\n"
        "from tests.unit.test_execution import *\n"
        "def told() -> None:\n"
        "    print('ready', flush=True)\n"
        "    time.sleep(60)\n"
        "carry_out(Journal.open(sys.argv[1]), Breaking(3, told))\n"
    )
    path = tmp_path / "journal.db"
    with subprocess.Popen(
        [sys.executable, "-c", script, str(path)], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "ready\n"
        process.terminate()
        assert process.wait(300) == -signal.SIGTERM
    with Journal.open(path) as journal:
        (run,) = journal.runs()
        assert sorted(run.outcomes) == [0, 1, 2]


def test_who_handles_sigterm_or_ignores_it_is_not_overruled() -> None:
    heard: list[int] = []
    before = signal.signal(signal.SIGTERM, lambda number, _: heard.append(number))
    try:
        with pytest.raises(KeyboardInterrupt), ending_in_order():
            os.kill(os.getpid(), signal.SIGTERM)
        assert heard == [signal.SIGTERM]
        os.kill(os.getpid(), signal.SIGTERM)
        assert len(heard) == 2
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
        with ending_in_order():
            os.kill(os.getpid(), signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, before)


def unable(problem: Problem) -> Report:
    change = Change(observed=EMPTY, desired=EMPTY, problems=(problem,))
    return planned("plan", change, None)


def test_a_plan_without_links_that_cannot_be_had_does_not_call_that_nothing_to_do() -> None:
    report = unable(Problem("it is taken", link="w1"))
    assert (report.status, summary(report)) == (
        "planned", "rait plan: 1 that cannot be; 1 link wanted",
    )  # fmt: skip


def test_a_plan_that_leaves_links_as_they_are_has_nothing_to_do() -> None:
    report = unable(Problem("nobody can tell", severity="warning", link="w1"))
    assert (report.status, summary(report)) == (
        "unchanged", "rait plan: 1 left as it is; 1 link wanted",
    )  # fmt: skip


def test_a_plan_that_babeld_cannot_be_told_of_does_not_call_that_nothing_to_do() -> None:
    change = Change(observed=EMPTY, desired=links("a"), babeld_problem="no babeld")
    told = summary(planned("plan", change, None))
    assert told == "rait plan: babeld failed; 1 link wanted"

"""Counting runs that fail alike changes nothing of what the journal remembers."""

from __future__ import annotations

from collections.abc import Iterable

from hypothesis import given
from hypothesis import strategies as st
from msgspec import Struct

from rait.adapters.journal.reader import JournalReader
from rait.adapters.journal.store import Journal
from rait.domain.backend import Outcome
from rait.domain.diff import diff
from rait.domain.records import RunHeader
from rait.domain.topology import EMPTY, Device, Link, LinkSettings, Origin, Topology
from tests.property.test_journal_store import journal_path, on_disk, opened

SCOPES = ("/etc/rait/a.conf", "/etc/rait/b.conf")
A, B = (Link(n, Origin("kernel"), LinkSettings(1420, 54), Device("own", 1)) for n in ("a", "b"))
TOPOLOGIES = (EMPTY, Topology({"a": A}, {"a": "fast"}), Topology({"a": A, "b": B}))


class Told(Struct, frozen=True):
    """A run: what it wants, which of its events fail how, and whether it ends."""

    scope: str
    wanted: Topology
    failing: int
    error: str
    noticing: bool
    killed_after: int | None
    problems: dict[str, str]


runs = st.builds(
    Told,
    st.sampled_from(SCOPES[:1] * 3 + SCOPES[1:]),
    st.sampled_from(TOPOLOGIES),
    st.sampled_from([9, 9, 9, 1, 0]),
    st.sampled_from(["EBUSY", "EBUSY", "no \udc80"]),
    st.sampled_from([False] * 5 + [True]),
    st.sampled_from([None] * 5 + [0, 1]),
    st.sampled_from([{}, {}, {"babeld": "gone"}]),
)


def tell(journal: Journal, run: Told, uid: int) -> int:
    """Let a run happen; its number."""
    header = RunHeader(
        scope=run.scope, command="up", version="1", uid=uid, started_at=1, public_key="own"
    )
    before = journal.last_known(run.scope).topology
    seen = EMPTY if run.noticing else before
    intended = diff(seen, run.wanted)
    begun = journal.begin(header, diff(before, seen), intended)
    outcomes = [
        Outcome(index, run.error if index >= len(intended) - run.failing else None)
        for index in range(len(intended))
    ]
    for outcome in outcomes[: run.killed_after]:
        begun.record([outcome])
    if run.killed_after is None:
        failed = any(outcome.error for outcome in outcomes)
        begun.finish("partial" if failed else "done", run.problems)
    return begun.id


def last_id(journal: Journal) -> int:
    """The number of the last entry, 0 for none."""
    return journal.verify().dropped + journal.verify().entries


def scopes_of(told: Iterable[Told]) -> set[str]:
    return {run.scope for run in told}


@on_disk
@given(st.lists(runs, max_size=12))
def test_what_is_counted_is_remembered_as_what_is_written_in_full(told: list[Told]) -> None:
    with (
        journal_path() as path,
        journal_path() as other,
        opened(path) as counting,
        opened(other) as writing,
    ):
        for number, run in enumerate(told):
            head = counting.verify().head
            tell(counting, run, 0)
            tell(writing, run, number)  # another user each time: so none repeats another
            assert counting.last_known(run.scope) == writing.last_known(run.scope)
            assert JournalReader(path).last_known(run.scope) == writing.last_known(run.scope)
            report = counting.verify(head if last_id(counting) else None)
            assert report.ok or not head.strip("0"), "what a kept head says stays so"
        assert last_id(counting) <= last_id(writing) + len(told)
        kept, whole = counting.runs(), writing.runs()
        again = sum(run.repeated.count for run in kept if run.repeated is not None)
        retried = sum(run.retried_at is not None for run in kept)
        assert len(kept) + again + retried == len(whole), "each run is told of, once"
        for scope in scopes_of(told):
            assert counting.topology_at(scope)[0] == writing.topology_at(scope)[0]
            memory = counting.last_known(scope)
            counting.prune(2**62)
            assert counting.last_known(scope) == memory, "pruning or not"
        assert counting.verify().ok


@on_disk
@given(runs, st.integers(2, 8))
def test_the_same_in_vain_is_written_once(run: Told, times: int) -> None:
    if run.wanted == EMPTY:
        return
    with journal_path() as path, opened(path) as journal:
        vain = Told(run.scope, run.wanted, 9, run.error, False, None, run.problems)
        tell(journal, vain, 0)
        size, head = last_id(journal), journal.verify().head
        numbers = {tell(journal, vain, 0) for _ in range(times)}
        assert (last_id(journal), journal.verify().head) == (size, head)
        (record,) = journal.runs()
        assert numbers == {record.id}
        assert record.repeated is not None
        assert record.repeated.count == times

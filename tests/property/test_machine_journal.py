"""The machine of test_machine.py with the journal that rait really keeps, in SQLite on disk.

After every run what the journal adds up to is what is observed (check_journal there); here it is
also sound, says the same when opened anew, and goes on saying it when old runs are pruned.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import rule
from msgspec import structs

from rait.adapters.journal import store as sqlite_journal
from rait.adapters.journal.reader import JournalReader
from rait.domain.backend import Outcome
from rait.domain.change import Results
from rait.domain.events import Event
from rait.domain.history import LastKnown
from rait.domain.records import RunRecord
from rait.domain.topology import Topology
from tests.property.test_machine import HEADER, KEYS, OneNode, unsure_of
from tests.unit.test_journal_store import entries_of

# Where there is one, a file system in memory: the journal waits for the disk all the time.
SHARED_MEMORY = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # noqa: S108


class Kept:
    """As the journal of test_machine.py, but kept as rait keeps it."""

    def __init__(self, clock: Callable[[], int]) -> None:
        self._directory = tempfile.TemporaryDirectory(prefix="rait-machine-", dir=SHARED_MEMORY)
        self._clock = clock
        self.path = Path(self._directory.name) / "journal.db"
        self._journal = self._open()

    def last_known(self, scope: str) -> LastKnown:
        return self._journal.last_known(scope)

    def memories(self) -> list[LastKnown]:
        return [self.last_known(scope) for scope in KEYS]

    def claims(self, scope: str, seen: Mapping[str, str]) -> Mapping[str, str]:
        return self._journal.claims(scope, seen)

    def write(
        self,
        scope: str,
        drift: tuple[Event, ...],
        events: tuple[Event, ...],
        outcomes: list[Outcome],
        finished: bool,
        results: Results = Results(),  # noqa: B008 (immutable)
        carried: tuple[Event, ...] = (),
        leftover: frozenset[Event] = frozenset(),
    ) -> None:
        if not (drift or events or results.calls):
            return  # rait leaves no trace of such a run
        left = tuple(index for index, event in enumerate(drift) if event in leftover)
        header = structs.replace(
            HEADER, scope=scope, carried=carried, started_at=self._clock(), leftover_noticed=left
        )
        run = self._journal.begin(header, drift, events)
        run.record(outcomes)
        for call in results.calls:
            run.record_call(call)
        if finished:
            unsure = unsure_of(results, events, outcomes)
            run.finish("done", half_done=results.half_done, unsure=unsure)
        assert self._journal.verify().ok
        assert JournalReader(self.path).last_known(scope) == self.last_known(scope)
        self.check_times(scope)

    def check_times(self, scope: str) -> None:
        """Whatever the clock said, time goes forward, and the last run is told of."""
        times = [entry.at for entry in entries_of(self._journal)]
        assert times == sorted(times)
        everything = [run.id for run in self._journal.runs()]
        for when in {times[0], times[len(times) // 2], times[-1]}:
            since = [run.id for run in self._journal.runs(since=when)]
            assert since == everything[len(everything) - len(since) :]
        assert everything[-1] in since
        latest = self._journal.topology_at(scope, time=2**62)[0]
        assert latest == self.last_known(scope).topology

    def runs(self, scope: str) -> Sequence[RunRecord]:
        return self._journal.runs(scope=scope)

    def topology_after(self, run: RunRecord) -> Topology:
        return self._journal.topology_at(run.header.scope, run=run.id)[0]

    def reopen(self) -> None:
        before = self.memories()
        self._journal.close()
        self._journal = self._open()
        assert self.memories() == before

    def prune(self, share: int) -> None:
        before = self.memories()
        runs = self._journal.runs()
        entries = [entry.at for entry in entries_of(self._journal)]
        self._journal.prune(entries[share * len(entries) // 100] if entries else 0)
        assert self.memories() == before
        kept = self._journal.runs()
        assert kept == runs[len(runs) - len(kept) :]
        assert self._journal.verify().ok

    def close(self) -> None:
        self._journal.close()
        self._directory.cleanup()

    def _open(self) -> sqlite_journal.Journal:
        return sqlite_journal.Journal.open(self.path, clock=self._clock)


class OneNodeWithItsJournal(OneNode):
    def __init__(self) -> None:
        super().__init__()
        self.kept = Kept(self.tell_time)
        self.journal = self.kept

    def tell_time(self) -> int:
        return self.machine.now * 10**9

    @rule()
    def rait_ends_and_starts_again(self) -> None:
        self.kept.reopen()

    @rule(share=st.integers(0, 99))
    def someone_prunes_the_journal(self, share: int) -> None:
        self.kept.prune(share)

    def teardown(self) -> None:
        self.kept.close()


TestOneNodeWithItsJournal = OneNodeWithItsJournal.TestCase
# These write files: a tenth of what the machine without them gets is plenty.
TestOneNodeWithItsJournal.settings = settings(max_examples=max(20, settings().max_examples // 10))

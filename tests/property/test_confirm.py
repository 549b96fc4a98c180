"""Whatever happens to a change on trial, it is confirmed or taken back, and never both.

A node is played with the journal's rules alone: changes, confirmations, waiters that are killed,
runs that are cut off, restarts, clocks that jump, and snapshots that take the place of runs.
"""

from __future__ import annotations

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule
from msgspec import structs

from rait.domain import records
from rait.domain.backend import Outcome
from rait.domain.confirm import TrialState, rejects, state_of
from rait.domain.diff import diff
from rait.domain.events import replay
from rait.domain.history import LastKnown, fold, last_known
from rait.domain.records import Entry, Instant, RunHeader, RunRecord, RunStatus, Snapshot
from rait.domain.topology import Device, Link, LinkSettings, Origin, Topology

SPAN = 100
LINKS = tuple(
    Link(f"rait4x{port}", Origin("kernel"), LinkSettings(mtu, 54), Device("key", port))
    for port in (1, 2, 3)
    for mtu in (1400, 1420)
)
topologies = st.lists(st.sampled_from(LINKS), max_size=3, unique_by=lambda link: link.name).map(
    lambda links: Topology({link.name: link for link in links})
)
digests = st.sampled_from(("one", "two"))


class Node(RuleBasedStateMachine):
    """A node whose runs obey what the journal says of the change on trial."""

    def __init__(self) -> None:
        super().__init__()
        self.runs: list[RunRecord] = []
        self.start = Snapshot()
        self.since = 0  # the runs that the snapshot does not sum up begin here
        self.boot, self.clock, self.wall = 1, 0, 0
        self.machine = Topology()
        self.before: dict[int, Topology] = {}
        self.waits = False

    # What there is.

    @property
    def now(self) -> Instant:
        return Instant(self.wall, str(self.boot), self.clock)

    @property
    def known(self) -> LastKnown:
        return last_known(self.start, self.runs[self.since :])

    @property
    def state(self) -> TrialState:
        return state_of(self.known.trial, self.now)

    def run(self, goal: Topology | None, *, done: int = 99, cut: bool = False, **header: object):
        """Journal a run with this goal of which so many events happen; ``cut`` has no end."""
        number = self.runs[-1].last_id + 1 if self.runs else 1
        noticed = diff(self.known.topology, self.machine)
        intended = diff(self.machine, goal) if goal is not None else ()
        happened = intended[:done]
        status: RunStatus = "done" if len(happened) == len(intended) else "partial"
        settings = {"command": "up", "config_digest": "one", "peers_digest": "one"} | header
        record = RunRecord(
            id=number,
            last_id=number + 1 + len(noticed) + len(intended),
            header=RunHeader(
                scope="here",
                version="",
                uid=0,
                started_at=self.wall,
                public_key="key",
                **settings,
            ),
            noticed=noticed,
            intended=intended,
            outcomes={
                index: Outcome(index, None if index < done else "no")
                for index in range(len(happened) if cut else len(intended))
            },
            status=None if cut else status,
        )
        self.machine = replay(self.machine, happened)
        self.runs.append(record)
        return record

    def settle(self, *, done: int = 99, cut: bool = False) -> bool:
        """What each command does first; whether the command may go on."""
        state, trial = self.state, self.known.trial
        if state == "pending":
            return False
        if state == "overdue":
            self.run(trial.before, done=done, cut=cut, command="confirm", takes_back=trial.run,
                     peers_digest="")  # fmt: skip
            if not cut and done == 99:
                assert self.machine == trial.before == self.before[trial.run]
            return not cut
        return True

    # What happens.

    @rule(goal=topologies, config=digests, peers=digests)
    def up(self, goal: Topology, config: str, peers: str) -> None:
        if self.settle():
            trial = self.known.trial
            inputs = {"config_digest": config, "peers_digest": peers}
            if trial is not None and rejects(trial, config, peers, trial.before, goal):
                self.run(trial.before, takes_back=trial.run, **inputs)
                assert self.machine == trial.before
            else:
                self.run(goal, **inputs)

    @rule(goal=topologies, config=digests, peers=digests, done=st.integers(0, 4), cut=st.booleans())
    def up_to_be_confirmed(
        self, goal: Topology, config: str, peers: str, done: int, cut: bool
    ) -> None:
        if self.settle() and diff(self.machine, goal):
            # A link that the machine lost in a restart belongs to what there was.
            links = self.known.topology.links | self.machine.links
            by = Instant(self.wall + SPAN, str(self.boot), self.clock + SPAN)
            run = self.run(goal, done=done, cut=cut, confirm_by=by, config_digest=config,
                           peers_digest=peers)  # fmt: skip
            self.before[run.id] = Topology(links)
            self.waits = True
            assert self.state == ("pending" if cut or run.done else self.state)

    @rule(back=st.booleans())
    def confirm(self, back: bool) -> None:
        trial = self.known.trial
        if self.state == "pending" and back:
            self.run(trial.before, takes_back=trial.run, peers_digest="")
        elif self.state == "pending":
            self.run(None, confirms=trial.run, peers_digest="", carried=self.known.leftover)
        else:
            self.settle()

    @precondition(lambda self: self.waits and self.state == "overdue")
    @rule(done=st.integers(0, 4), cut=st.booleans())
    def waiter(self, done: int, cut: bool) -> None:
        """It may fail in part, or be killed at any moment; then the next run goes on."""
        self.settle(done=done, cut=cut)
        self.waits = not cut

    @rule(span=st.integers(1, SPAN))
    def time_passes(self, span: int) -> None:
        self.clock += span
        self.wall += span

    @rule(wall=st.integers(-(2**40), 2**40))
    def somebody_sets_the_clock(self, wall: int) -> None:
        before = self.state
        self.wall = wall
        assert self.state == before

    @rule()
    def the_machine_restarts(self) -> None:
        self.boot += 1
        self.clock = 0
        self.machine = Topology()
        self.waits = False
        assert self.state != "pending"

    @precondition(lambda self: self.runs)
    @rule()
    def a_snapshot_takes_the_place_of_runs(self) -> None:
        whole = fold(self.start, self.runs[self.since :])
        number = self.runs[-1].last_id
        entry = Entry(number + 1, number, "snapshot", "here", 0, records.encode(whole))
        before = self.known
        self.start, self.since = records.decode(entry), len(self.runs)
        assert self.known == before

    # What must hold.

    @invariant()
    def no_change_is_both_confirmed_and_taken_back(self) -> None:
        confirmed = {run.header.confirms for run in self.runs} - {0}
        taken = {run.header.takes_back for run in self.runs} - {0}
        assert not confirmed & taken

    @invariant()
    def only_the_latest_waits_and_only_in_its_time(self) -> None:
        trial = self.known.trial
        if self.state == "pending":
            assert trial.run == self.runs[-1].id
            assert not trial.header.confirm_by.is_over(self.now)

    @invariant()
    def no_change_waits_for_ever(self) -> None:
        trial = self.known.trial
        later = structs.replace(self.now, clock=self.clock + SPAN)
        assert state_of(trial, later) != "pending"

    def teardown(self) -> None:
        """When its time is over, one run that is not cut off settles it."""
        self.clock += SPAN
        self.settle()
        assert self.state in ("none", "taken back")


TestNode = Node.TestCase

"""Commands for links: whatever is killed, a call that is due is made; and without that, just once.

The runs here are told step by step: what is written to the journal, what happens to the machine,
which command is called. A run may be killed before any of its steps.
"""

from __future__ import annotations

from collections.abc import Collection
from contextlib import suppress

from hypothesis import assume, given, settings
from hypothesis import strategies as st
from msgspec import structs

from rait.domain.aftermath import told_apart
from rait.domain.backend import Outcome
from rait.domain.change import Change, Goal
from rait.domain.diff import diff
from rait.domain.events import (
    KINDS,
    Event,
    LinkAdded,
    LinkRemoved,
    NotesUpdated,
    PeerUpdated,
    evolve,
)
from rait.domain.history import LastKnown, fold, last_known
from rait.domain.hooks import Call
from rait.domain.records import RunHeader, RunRecord, Snapshot
from rait.domain.topology import EMPTY, NO_NOTES, Link, LinkNotes, Topology
from tests.property import strategies as some

fewer = settings(max_examples=max(100, settings().max_examples // 4))

HEADER = RunHeader(scope="", command="up", version="", uid=0, started_at=0, public_key="")
NOTES = st.builds(
    LinkNotes,
    up_command=st.sampled_from(((), ("up",), ("up",), ("up", "again"))),
    down_command=st.sampled_from(((), ("down",), ("down", "again"))),
    peer_name=st.sampled_from(("", "far")),
    babeld_param=st.sampled_from(("", "rxcost 32")),
)


@st.composite
def topologies(draw: st.DrawFn) -> Topology:
    """Two or three links of the same names, so that runs mostly change what earlier ones made."""
    drawn = draw(some.topologies(links_only=True, least=2)).links.values()
    names = draw(st.permutations(some.NAMES[:3]))
    return Topology(
        {
            name: structs.replace(link, name=name, notes=draw(NOTES))
            for name, link in zip(names, drawn, strict=False)
        }
    )


some_step = st.integers(0, 15) | st.none()
names = st.frozensets(st.sampled_from(some.NAMES[:3]), max_size=1)


class KilledError(Exception):
    """The run gets no further."""


class Node:
    """A machine, its journal, and all calls that were made; ``owing`` is what a user waits for.

    Each entry of ``owing`` is a call that has to come: of an up_command by the link's name, and of
    a down_command by the link that went.
    """

    def __init__(self) -> None:
        self.machine = EMPTY
        self.runs: list[RunRecord] = []
        self.made: list[Call] = []
        self.owing: list[str | Link] = []
        self.steps_left: int | None = None

    def known(self) -> LastKnown:
        return last_known(Snapshot(), self.runs)

    def step(self) -> None:
        if self.steps_left is not None:
            self.steps_left -= 1
            if self.steps_left < 0:
                raise KilledError

    def seen(self, known: LastKnown) -> Topology:
        """The machine's links, with the notes that the journal has of them."""

        def notes(link: Link) -> LinkNotes:
            for source in (known.topology.links, known.leftover_links):
                last = source.get(link.name)
                if last is not None and last.origin.may_become(link.origin):
                    return last.notes
            return NO_NOTES

        return Topology(
            {n: structs.replace(li, notes=notes(li)) for n, li in self.machine.links.items()}
        )

    def decide(self, target: Topology) -> Change:
        known = self.known()
        seen = self.seen(known)
        leftover, others = told_apart(known.topology, seen, known.leftover)
        return Change(
            observed=seen,
            desired=target,
            events=diff(seen, target),
            drift=(*leftover, *others),
            leftover=frozenset(leftover),
            goal=Goal(target),
            known=known,
        )

    def run(
        self, target: Topology, kill: int | None = None, refused: Collection[str] = ()
    ) -> list[Call]:
        """Make the machine as the target is; the calls that were made."""
        self.steps_left = kill
        before = len(self.made)
        with suppress(KilledError):
            self.perform(self.decide(target), refused)
        self.steps_left = None
        return self.made[before:]

    def perform(self, change: Change, refused: Collection[str]) -> None:
        if not (change.events or change.drift or change.calls(())):
            return
        self.step()
        self.machine = change.observed  # the same links, with the notes that the journal has
        left = (i for i, event in enumerate(change.drift) if event in change.leftover)
        number = self.runs[-1].last_id + 1 if self.runs else 1
        self.runs.append(
            RunRecord(
                id=number,
                last_id=number + 999,
                header=structs.replace(HEADER, leftover_noticed=tuple(left)),
                noticed=change.drift,
                intended=change.events,
            )
        )
        happened = self.apply(change.events, refused)
        failed = {event.name for event in change.events} & {*refused}
        for call in change.calls(happened, failed):
            self.step()
            self.made.append(call)
            self.check(call, failed)
            self.owing = [due for due in self.owing if due not in (call.link.name, call.link)]
            self.step()
            self.write(calls=(*self.runs[-1].calls, call.result()))
        self.step()
        self.write(status="done")

    def apply(self, events: tuple[Event, ...], refused: Collection[str]) -> list[Event]:
        happened = []
        for index, event in enumerate(events):
            self.step()
            error = "EBUSY" if event.name in refused else None
            if error is None:
                self.machine = evolve(self.machine, event)
                if not isinstance(event, NotesUpdated):  # which is done once it is journaled
                    self.owe(event)
                self.step()
                happened.append(event)
            self.write(outcomes={**self.runs[-1].outcomes, index: Outcome(index, error)})
            if isinstance(event, NotesUpdated) and error is None:
                self.owe(event)
        return happened

    def write(self, **fields: object) -> None:
        self.runs[-1] = structs.replace(self.runs[-1], **fields)

    def owe(self, event: Event) -> None:
        name = event.name
        if isinstance(event, LinkRemoved):
            self.owing = [due for due in self.owing if due != name]
            if event.link.notes.down_command:
                self.owing.append(event.link)
        elif not self.machine.links[name].notes.up_command:
            self.owing = [due for due in self.owing if due != name]
        elif is_told(event):
            self.owing.append(name)

    def check(self, call: Call, failed: Collection[str]) -> None:
        """A call of an up_command is about a link that is there, and as it should be."""
        assert call.command
        if call.event != "removed":
            assert call.link.name not in failed
            assert self.machine.links[call.link.name] == call.link


def is_told(event: Event) -> bool:
    """Whether a command would be told of a change, or the change is of more than an endpoint."""
    match event:
        case PeerUpdated(_, before, after):
            changed = [
                f for f in before.__struct_fields__ if getattr(before, f) != getattr(after, f)
            ]
            return changed != ["endpoint"]
        case NotesUpdated(_, before, after):
            parts = ("up_command", "command_netns", "peer_name", "remarks")
            return any(getattr(before, part) != getattr(after, part) for part in parts)
        case _:
            return KINDS[type(event)].part != "instance"


@fewer
@given(
    st.lists(st.tuples(topologies(), some_step, names), min_size=1, max_size=3),
    st.lists(some_step, max_size=2),
)
def test_whatever_is_killed_each_call_that_is_due_is_made(
    runs: list[tuple[Topology, int | None, frozenset[str]]], kills: list[int | None]
) -> None:
    node = Node()
    for target, kill, refused in runs:
        node.run(target, kill, refused)
    for kill in kills:
        node.run(target, kill)
    node.run(target)
    assert not node.owing
    assert not node.run(target), "and then there is nothing to do"


@fewer
@given(st.lists(topologies(), min_size=1, max_size=4))
def test_if_nothing_is_killed_each_call_is_made_once(targets: list[Topology]) -> None:
    node = Node()
    for target in targets:
        events = node.decide(target).events
        gone = [e.link for e in events if isinstance(e, LinkRemoved) and e.link.notes.down_command]
        told = {event.name for event in events if is_told(event)}
        changed = {
            name for name in told & target.links.keys() if target.links[name].notes.up_command
        }
        new = {event.name for event in events if isinstance(event, LinkAdded)}
        made = node.run(target)
        ups = [call for call in made if call.event != "removed"]
        assert [call.link for call in made if call.event == "removed"] == gone
        assert sorted(call.link.name for call in ups) == sorted(changed)
        assert {call.link.name for call in ups if call.event == "added"} == new & changed
        assert [c.link.name for c in made[: len(gone)]] == [li.name for li in gone], "down, then up"


@fewer
@given(topologies(), topologies(), names)
def test_what_others_do_calls_nothing(
    here: Topology, there: Topology, mended: frozenset[str]
) -> None:
    """A command is called for what rait mends; not for what others took away, or gave."""
    node = Node()
    node.run(here)
    node.machine = there
    kept = node.seen(node.known())
    assert not node.run(kept), "rait leaves everything as others made it"
    made = node.run(kept.with_parts_of(here, mended))
    assert {call.link.name for call in made} <= mended


@fewer
@given(topologies(), topologies(), some_step, st.integers(0, 3))
def test_a_snapshot_owes_what_the_runs_before_it_owe(
    here: Topology, there: Topology, kill: int | None, at: int
) -> None:
    node = Node()
    for target in (here, there, here):
        node.run(target, kill)
    assume(node.runs)
    early, late = node.runs[:at], node.runs[at:]
    assert last_known(fold(Snapshot(), early), late).calls_owed == node.known().calls_owed

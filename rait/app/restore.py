"""``rait replay`` and ``rait rollback``: the topology as it was, and back to it."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING

from msgspec import Struct, structs

from rait.adapters import netns
from rait.adapters.journal_reader import JournalReader
from rait.app.execution import Change, report_on
from rait.app.history import place
from rait.app.moments import moment
from rait.app.report import Report
from rait.app.session import Options, Session, looking, opened, require_places, synced_routing
from rait.domain.diff import diff
from rait.domain.events import LinkAdded
from rait.domain.history import RunRecord
from rait.domain.problem import ConfigError, MachineError, RaitError
from rait.domain.settle import Settled
from rait.domain.topology import Link, Origin, Topology
from rait.domain.undo import (
    Conflict,
    conflicts,
    done_events,
    only,
    only_told_babeld,
    touched,
    undo,
)

if TYPE_CHECKING:
    from rait.app.routing import Routing


class Past(Struct, frozen=True, kw_only=True):
    """The topology as the journal has it at some point, and the public key it was made under."""

    topology: Topology
    public_key: str
    at: str


class ConflictError(RaitError):
    """Later runs touched what is to be taken back."""


def past(options: Options, at: str | None) -> Past:
    """Fold the journal up to a run, an event or a time; None is now. Raises RaitError.

    This looks at the journal alone, so it needs neither root nor WireGuard.
    """
    where = place(options)
    return _past(JournalReader(where.path), where.name, at)


def compare_past(options: Options, at: str | None) -> Report:
    """How the live system differs from the past: what a restore would do. Changes nothing."""
    with looking(options) as session:
        journal = JournalReader(session.journal_path)
        change = _towards(session, journal, at, None)
        return _planned(_replay(at), change)


def restore(options: Options, at: str | None) -> Report:
    """Make the tunnels what they were, as an ordinary journaled run. Raises RaitError."""
    with opened(options, "replay") as (session, journal), synced_routing(session) as routing:
        change = _towards(session, journal, at, routing)
        return session.carry_out(
            _replay(at), change, journal, prepare=_targets_of(change), routing=routing
        )


def rollback(options: Options, run: int | None, *, force: bool) -> Report:
    """Take one run back, by default the last of this node that changed a link.

    Raises ConflictError, unless ``force``, where later runs touched the same links: then those
    links become what they were before the run.
    """
    with opened(options, "rollback") as (session, journal), synced_routing(session) as routing:
        record = _run_to_undo(session, journal, run)
        change = _undoing(session, journal, record, force, routing)
        return session.carry_out(
            f"rollback {record.id}", change, journal, prepare=_targets_of(change), routing=routing
        )


def plan_rollback(options: Options, run: int | None, *, force: bool) -> Report:
    """What ``rollback`` would do. Writes nothing anywhere, and waits for nobody; raises as it."""
    with looking(options) as session, synced_routing(session) as routing:
        journal = JournalReader(session.journal_path)
        record = _run_to_undo(session, journal, run)
        change = _undoing(session, journal, record, force, routing)
        return _planned(f"rollback {record.id}", change)


def _replay(at: str | None) -> str:
    """The command as the journal shall have it."""
    return "replay" if at is None else f"replay --at {at}"


def _past(journal: JournalReader, scope: str, at: str | None) -> Past:
    if at is None:
        topology, key = journal.topology_at(scope)
        return Past(topology=topology, public_key=key, at="now")
    kind, _, number = at.rpartition(":")
    if kind in ("", "run") and number.isdecimal():
        topology, key = journal.topology_at(scope, run=_number(number))
        return Past(topology=topology, public_key=key, at=f"run {number}")
    if kind == "event" and number.isdecimal():
        topology, key = journal.topology_at(scope, event=_number(number))
        return Past(topology=topology, public_key=key, at=f"event {number}")
    topology, key = journal.topology_at(scope, time=moment(at, time.time_ns()))
    return Past(topology=topology, public_key=key, at=at)


def _number(digits: str) -> int:
    try:
        return int(digits)
    except ValueError:
        # Python reads some thousands of digits at the most.
        raise ConfigError(f"a number of {len(digits)} digits is of no run or event") from None


def _towards(
    session: Session, journal: JournalReader, at: str | None, routing: Routing | None
) -> Change:
    wanted = _past(journal, session.name, at)
    _check_keys(
        session, wanted.public_key, wanted.topology.links, f"the topology as of {wanted.at}"
    )
    memory = journal.memory(session.name)
    links = _born_today(wanted.topology.links, session)
    desired = structs.replace(wanted.topology, links=links, babel=memory.topology.babel)
    return session.compare(desired, memory, routing)


def _run_to_undo(session: Session, journal: JournalReader, number: int | None) -> RunRecord:
    if number is not None:
        record = journal.run(number)
        if record.header.scope != session.name:
            raise ConfigError(f"run {number} is not of this configuration")
        if not done_events(record):
            raise MachineError(f"run {number} changed nothing, so there is nothing to take back")
        if only_told_babeld(record):
            raise MachineError(
                f"run {number} only told babeld of links, so there is nothing to take back: babeld "
                "follows the links that there are"
            )
    else:
        did = [run for run in journal.runs(scope=session.name) if not only_told_babeld(run)]
        if not did:
            pruned = journal.pruned()
            note = f": entries up to {pruned} were pruned" if pruned else ""
            raise MachineError(f"the journal has no run that changed anything{note}")
        record = did[-1]
    return record


def _undoing(
    session: Session,
    journal: JournalReader,
    record: RunRecord,
    force: bool,
    routing: Routing | None,
) -> Change:
    """The inverted events, and nothing else: what differs in other links is left as it is."""
    clashes = conflicts(record, journal.runs(scope=session.name))
    if clashes and not force:
        raise ConflictError(_clash_text(record, clashes))
    memory = journal.memory(session.name)
    then, _ = journal.topology_at(session.name, run=record.id)
    goal = undo(memory.topology, record, then)
    names = touched(record)
    restored = only(names, {}, goal.links)
    _check_keys(
        session, record.header.public_key, restored, f"what was there before run {record.id}"
    )
    links = _born_today(goal.links, session)
    desired = structs.replace(goal, links=links, babel=memory.topology.babel)
    change = session.compare(desired, memory, routing)
    before, after = change.settled.before, change.settled.after
    after = Topology(
        only(names, before.links, after.links),
        only(names, before.babel, after.babel),
        only(names, before.vrfs, after.vrfs),
        only(names, before.rules, after.rules),
    )
    problems = tuple(p for p in change.settled.problems if p.link is None or p.link in names)
    settled = Settled(before, after, problems)
    # What others changed in other links is for the next `up` to find.
    drift = tuple(event for event in change.drift if event.name in names)
    return structs.replace(change, settled=settled, events=diff(before, after), drift=drift)


def _born_today(links: Mapping[str, Link], session: Session) -> dict[str, Link]:
    """The links as they would be made now.

    A restart of the machine gives namespaces new identities, and may bring another backend;
    neither is a reason to remake what is already there, or to refuse.
    """
    kind = session.machine.choose(session.config.backend)
    transit = session.machine.transit
    return {
        name: structs.replace(link, origin=Origin(kind, link.origin.netns, transit))
        for name, link in links.items()
    }


def _check_keys(session: Session, run_key: str, links: Mapping[str, Link], what: str) -> None:
    """Refuse to bring links back that had another key: their peers would not know this node.

    The run alone does not tell: one that changes the key is itself made under the new one.
    """
    for public_key in (run_key, *(link.device.public_key for link in links.values())):
        if public_key not in ("", session.public_key):
            raise ConfigError(
                f"{what} was made under another key: public key {public_key}, and the "
                f"configuration's private key is of {session.public_key}. The journal holds no "
                "private keys; put the old one back into the configuration to restore it"
            )


def _clash_text(record: RunRecord, clashes: Iterable[Conflict]) -> str:
    lines = [f"run {record.id} cannot be taken back alone, as its links changed since:"]
    lines += [
        f"  {c.link}: run {c.run} ({c.command}) "
        + ("noticed that it had changed" if c.noticed else "changed it")
        for c in clashes
    ]
    lines.append(
        f"nothing was touched; --force makes all links of run {record.id} what they were before it"
    )
    return "\n".join(lines)


def _targets_of(change: Change) -> Callable[[], None]:
    """Makes the namespaces that hold the links: they may be of an earlier configuration."""
    names = {event.link.origin.netns for event in change.events if isinstance(event, LinkAdded)}

    def ensure() -> None:
        for name in sorted(names):
            netns.ensure_netns(name).close()

    return ensure


def _planned(command: str, change: Change) -> Report:
    require_places(change.events)
    return report_on(command, "planned" if change.events else "unchanged", change)

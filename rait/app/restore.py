"""``rait replay`` and ``rait rollback``: show and restore an earlier topology."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

from msgspec import Struct, structs

from rait.adapters import netns
from rait.adapters.journal.reader import JournalReader
from rait.app.execution import Change, planned, stopped
from rait.app.history import others_text, place
from rait.app.moments import moment, written
from rait.app.report import Report
from rait.app.session import Session, read_only, read_write, require_places, synced_routing
from rait.app.turn import Options
from rait.domain.diff import diff
from rait.domain.errors import ConfigError, MachineError, RaitError
from rait.domain.events import LinkAdded
from rait.domain.history import RunRecord
from rait.domain.topology import Link, Origin, Topology
from rait.domain.undo import (
    Conflict,
    conflicts,
    done_events,
    only,
    only_told_babeld,
    recreated,
    touched,
    undo,
    without_unknown_psks,
)

if TYPE_CHECKING:
    from rait.adapters.journal.store import Journal
    from rait.app.routing import Routing


CLASHES_SHOWN = 20
"""How many later changes the refusal of a rollback names."""


class Past(Struct, frozen=True, kw_only=True):
    """The topology as the journal has it at some point, and the public key it was made under.

    ``unknown`` says why it is not known to be what there was, "" where it is.
    """

    topology: Topology
    public_key: str
    at: str
    unknown: str = ""


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
    with read_only(options) as session:
        journal = JournalReader(session.journal_path)
        wanted = _past(journal, session.name, at)
        change = _towards(session, journal, wanted, None)
        warnings = [f"{wanted.unknown}; `--apply` would be refused"] if wanted.unknown else []
        require_places(change.events)
        return planned(_replay(at), change, session.removal(change), warnings)


def restore(options: Options, at: str | None, *, assume_yes: bool = False) -> Report:
    """Make the tunnels what they were, as an ordinary journaled run. Raises RaitError.

    Unless ``assume_yes``, one that would remove most of the links is stopped, as ``up`` is.
    """
    with read_write(options, "replay") as (session, journal), synced_routing(session) as routing:
        wanted = _past(journal, session.name, at)
        if wanted.unknown:
            raise MachineError(
                f"{wanted.unknown}, and nothing was touched. `rait log` shows the runs that one "
                "can go back to; `rait down` removes all links"
            )
        change = _towards(session, journal, wanted, routing)
        return _carried_out(_replay(at), session, journal, change, routing, assume_yes)


def rollback(options: Options, run: int | None, *, force: bool, assume_yes: bool = False) -> Report:
    """Take one run back, by default the last of this node that changed a link.

    Raises ConflictError, unless ``force``, where later runs touched the same links: then those
    links become what they were before the run. Unless ``assume_yes``, a rollback that would remove
    most of the links is stopped, as ``up`` is.
    """
    with read_write(options, "rollback") as (session, journal), synced_routing(session) as routing:
        record = _run_to_undo(session, journal, run)
        change = _undoing(session, journal, record, force, routing)
        return _carried_out(f"rollback {record.id}", session, journal, change, routing, assume_yes)


def plan_rollback(options: Options, run: int | None, *, force: bool) -> Report:
    """What ``rollback`` would do. Writes nothing anywhere, and waits for nobody.

    Raises the errors of ``rollback``.
    """
    with read_only(options) as session, synced_routing(session) as routing:
        journal = JournalReader(session.journal_path)
        record = _run_to_undo(session, journal, run)
        change = _undoing(session, journal, record, force, routing)
        require_places(change.events)
        return planned(f"rollback {record.id}", change, session.removal(change))


def _carried_out(
    command: str,
    session: Session,
    journal: Journal,
    change: Change,
    routing: Routing | None,
    assume_yes: bool,
) -> Report:
    if not assume_yes and (stop := stopped(command, change, session.removal(change))):
        return stop
    return session.carry_out(
        command,
        change,
        journal,
        prepare=_targets_of(change),
        routing=routing,
        accepted=assume_yes,
    )


def _replay(at: str | None) -> str:
    """The command as the journal shall have it."""
    return "replay" if at is None else f"replay --at {at}"


def _past(journal: JournalReader, scope: str, at: str | None) -> Past:
    if at is None:
        topology, key = journal.topology_at(scope)
        unknown = "" if key else _unknown(journal, scope, "")
        return Past(topology=topology, public_key=key, at="now", unknown=unknown)
    kind, _, number = at.rpartition(":")
    if kind in ("", "run") and number.isdecimal():
        topology, key = journal.topology_at(scope, run=_number(number))
        return Past(topology=topology, public_key=key, at=f"run {number}")
    if kind == "event" and number.isdecimal():
        topology, key = journal.topology_at(scope, event=_number(number))
        return Past(topology=topology, public_key=key, at=f"event {number}")
    try:
        when = moment(at, time.time_ns())
    except ConfigError as error:
        raise ConfigError(f"--at takes a run's number, event:NUMBER or a time: {error}") from None
    topology, key = journal.topology_at(scope, time=when)
    unknown = "" if key else _unknown(journal, scope, f"{written(when)} is before that")
    return Past(topology=topology, public_key=key, at=at, unknown=unknown)


def _unknown(journal: JournalReader, scope: str, otherwise: str) -> str:
    """Why the journal does not know what there was: no run had told it of any link."""
    runs = journal.runs(scope=scope)
    if not runs:
        others = others_text(journal, (scope,))
        return f"the journal {journal.path} has no run of this configuration ({scope})" + (
            f"; {others}" if others else ""
        )
    first = runs[0]
    began = written(first.header.started_at)
    return (
        f"the journal begins with run {first.id}, {began}: what there was before is not known"
        + (f", and {otherwise}" if otherwise else "")
    )


def _number(digits: str) -> int:
    try:
        return int(digits)
    except ValueError:
        # Python reads some thousands of digits at the most.
        raise ConfigError(f"a number of {len(digits)} digits is of no run or event") from None


def _towards(
    session: Session, journal: JournalReader, wanted: Past, routing: Routing | None
) -> Change:
    _check_keys(
        session, wanted.public_key, wanted.topology.links, f"the topology as of {wanted.at}"
    )
    memory = journal.last_known(session.name)
    links = _born_today(wanted.topology.links, session)
    desired = structs.replace(wanted.topology, links=links, babel=memory.topology.babel)
    return _with_known_psks(session.compare(desired, memory, routing))


def _run_to_undo(session: Session, journal: JournalReader, number: int | None) -> RunRecord:
    if number is not None:
        record = journal.run(number)
        if record.header.scope != session.name:
            raise ConfigError(
                f"run {number} is of another configuration, {record.header.scope}, and not of "
                f"{session.name}"
            )
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
            others = others_text(journal, (session.name,))
            note += f"; {others}" if others else ""
            raise MachineError(f"no run of this configuration changed anything{note}")
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
        raise ConflictError(*_clash_lines(record, clashes))
    memory = journal.last_known(session.name)
    then, _ = journal.topology_at(session.name, run=record.id)
    _check_births(session, record, recreated(record, then))
    goal = undo(memory.topology, record, then)
    names = touched(record)
    restored = only(names, {}, goal.links)
    _check_keys(
        session, record.header.public_key, restored, f"what was there before run {record.id}"
    )
    links = _born_today(goal.links, session)
    desired = structs.replace(goal, links=links, babel=memory.topology.babel)
    change = session.compare(desired, memory, routing)
    before, after = change.settled.observed, change.settled.desired
    after = Topology(
        only(names, before.links, after.links),
        only(names, before.babel, after.babel),
        only(names, before.vrfs, after.vrfs),
        only(names, before.rules, after.rules),
    )
    problems = tuple(p for p in change.settled.problems if p.link is None or p.link in names)
    settled = structs.replace(change.settled, observed=before, desired=after, problems=problems)
    # What others changed in other links is for the next `up` to find.
    drift = tuple(event for event in change.drift if event.name in names)
    unknown = change.memory.leftover
    carried = tuple(e for e in unknown if e in change.carried or e.name not in names)
    return _with_known_psks(structs.replace(change, settled=settled, drift=drift, carried=carried))


def _with_known_psks(change: Change) -> Change:
    """The change without preshared keys that cannot be brought back; it still does the rest."""
    before, after = change.settled.observed, change.settled.desired
    links, problems = without_unknown_psks(before.links, after.links)
    after = structs.replace(after, links=links)
    problems = (*change.settled.problems, *problems)
    settled = structs.replace(change.settled, desired=after, problems=problems)
    return structs.replace(change, settled=settled, events=diff(before, after))


def _born_today(links: Mapping[str, Link], session: Session) -> dict[str, Link]:
    """The links as they would be made now.

    A restart of the machine gives namespaces new identities, and may bring another backend;
    neither is a reason to remake what is already there, or to refuse.
    """
    kind = session.machine.choose(session.config.backend)
    return {
        name: structs.replace(link, origin=session.origin(kind, link.origin.netns))
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


def _check_births(
    session: Session, record: RunRecord, changed: Mapping[str, tuple[Origin, Origin]]
) -> None:
    """Refuse to take back what rait.conf decides alone: where new links are born, and of what kind.

    To make the links as they would be made today would leave them as the run has made them.
    """
    today = (session.machine.choose(session.config.backend), session.machine.transit)
    for name, (old, new) in sorted(changed.items()):
        if (old.backend, old.transit) != today:
            what = "transit namespace" if old.transit != new.transit else "backend"
            raise ConfigError(
                f"run {record.id} made {_links_with(name, len(changed))} again, because the "
                f"{what} had changed. rait.conf sets it, and a rollback does not change rait.conf; "
                f"nothing was touched. Change the {what} back in rait.conf, and run `rait up`"
            )


def _links_with(name: str, number: int) -> str:
    return f"the link {name}" if number == 1 else f"{number} links, {name} among them,"


def _clash_lines(record: RunRecord, clashes: Sequence[Conflict]) -> list[str]:
    links = "link" if len({clash.link for clash in clashes}) == 1 else "links"
    more = len(clashes) - CLASHES_SHOWN
    return [
        f"run {record.id} cannot be taken back alone, as its {links} changed since:",
        *(f"  {_clash_line(clash)}" for clash in clashes[:CLASHES_SHOWN]),
        *([f"  and {more} more"] if more > 0 else []),
        f"nothing was touched; --force makes all links of run {record.id} what they were before it",
    ]


def _clash_line(clash: Conflict) -> str:
    what = "noticed that it had changed" if clash.noticed else "changed it"
    return f"{clash.link}: run {clash.run} ({clash.command}) {what}"


def _targets_of(change: Change) -> Callable[[], None]:
    """Makes the namespaces that hold the links: they may be of an earlier configuration."""
    names = {event.link.origin.netns for event in change.events if isinstance(event, LinkAdded)}

    def ensure() -> None:
        for name in sorted(names):
            netns.ensure_netns(name).close()

    return ensure

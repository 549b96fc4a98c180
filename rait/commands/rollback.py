"""``rait rollback``: take one run back."""

from __future__ import annotations

from argparse import ArgumentParser, Namespace
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from msgspec import structs

from rait.adapters.journal.reader import JournalReader
from rait.app.execution import Change, planned
from rait.app.options import Options, add_dry_run, add_yes
from rait.app.render import print_plan, print_report
from rait.app.report import Report
from rait.app.restoring import born_today, carry_out, check_keys, with_known_psks
from rait.app.scopes import others_text
from rait.app.session import Session, read_only, read_write, require_places, synced_routing
from rait.domain.errors import ConfigError, MachineError, RaitError
from rait.domain.history import (
    Conflict,
    conflicts,
    done_events,
    only,
    only_told_babeld,
    recreated,
    touched,
    undo,
)
from rait.domain.records import RunRecord
from rait.domain.topology import Origin, Topology

if TYPE_CHECKING:
    from rait.app.routing import Routing

HELP = """\
Take one run back, by default the last that changed something. Where later runs touched the same
links, nothing is done unless --force is given. The peers list is not changed: the next `rait up`
brings the tunnels to what it says.

As `rait up` does, it stops with exit status 4 if it would end the sessions of more than half of
the links, where there are at least four; --yes lets it go on.
"""

CLASHES_SHOWN = 20
"""How many later changes the refusal of a rollback names."""


def declare(parser: ArgumentParser) -> None:
    parser.description = HELP
    parser.set_defaults(run=run)
    parser.add_argument("number", metavar="RUN", type=int, nargs="?", help="default: the last")
    parser.add_argument("--force", action="store_true", help="even if later runs touched them")
    add_dry_run(parser)
    add_yes(parser)


def run(options: Options, arguments: Namespace) -> int:
    number, force = arguments.number, arguments.force
    if arguments.dry_run:
        return print_plan(plan_rollback(options, number, force=force), arguments)
    report = rollback(options, number, force=force, assume_yes=arguments.yes)
    return print_report(report, arguments)


class ConflictError(RaitError):
    """Later runs touched what is to be taken back."""


def rollback(options: Options, run: int | None, *, force: bool, assume_yes: bool = False) -> Report:
    """Take one run back, by default the last of this node that changed a link.

    Raises ConflictError, unless ``force``, where later runs touched the same links: then those
    links become what they were before the run. Unless ``assume_yes``, a rollback that would remove
    most of the links is stopped, as ``up`` is.
    """
    with read_write(options, "rollback") as (session, journal), synced_routing(session) as routing:
        record = _run_to_undo(session, journal, run)
        change = _undoing(session, journal, record, force, routing)
        return carry_out(f"rollback {record.id}", session, journal, change, routing, assume_yes)


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
    check_keys(
        session, record.header.public_key, restored, f"what was there before run {record.id}"
    )
    links = born_today(goal.links, session)
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
    return with_known_psks(structs.replace(change, settled=settled, drift=drift, carried=carried))


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

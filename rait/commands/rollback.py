"""``rait rollback``: take one run back."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Sequence

from rait.app.conclude import conclude
from rait.app.desired import open_settled
from rait.app.options import Options
from rait.app.render import print_plan, print_report
from rait.app.scopes import others_text
from rait.app.session import Session
from rait.app.trials import confirmation
from rait.app.watched import require_unwatched
from rait.domain.change import Goal
from rait.domain.errors import ConfigError, MachineError, RaitError
from rait.domain.history import done_events
from rait.domain.records import RunRecord
from rait.domain.rollback import (
    Conflict,
    conflicts,
    only_told_babeld,
    require_own_key,
    require_own_setup,
    touched,
    undo,
)

CLASHES_SHOWN = 20
"""How many later changes the refusal of a rollback names."""


def run(options: Options, arguments: Namespace) -> int:
    with (
        confirmation(options, arguments.confirm, dry_run=arguments.dry_run) as confirm,
        open_settled(options, "rollback", read_only=arguments.dry_run) as session,
    ):
        if not arguments.dry_run:
            require_unwatched(session.options.config, session.config.journal, "rait rollback")
        record = _run_to_undo(session, arguments.number)
        change = session.compare(_goal(session, record, arguments.force))
        command = f"rollback {record.id}"
        report = conclude(session, command, change, accepted=arguments.yes, confirm=confirm)
    return (print_plan if arguments.dry_run else print_report)(report, arguments)


class ConflictError(RaitError):
    """Later runs touched what is to be taken back."""


def _run_to_undo(session: Session, number: int | None) -> RunRecord:
    """The run of this number, by default the last of this node that changed a link."""
    if number is None:
        return _last_to_undo(session)
    record = session.journal.run(number)
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
    return record


def _last_to_undo(session: Session) -> RunRecord:
    journal = session.journal
    runs = journal.runs(scope=session.name)
    undone = {run.header.takes_back for run in runs} - {0}
    for run in reversed(runs):
        if not (only_told_babeld(run) or run.header.takes_back or run.id in undone):
            return run
    pruned = journal.pruned()
    note = f": entries up to {pruned} were pruned" if pruned else ""
    others = others_text(journal, (session.name,))
    note += f"; {others}" if others else ""
    raise MachineError(f"no run of this configuration changed anything{note}")


def _goal(session: Session, record: RunRecord, force: bool) -> Goal:
    """The goal to have the run's links as they were before it, and all others as they are.

    Raises ConflictError if later runs touched the same links, unless ``force``.
    """
    clashes = conflicts(record, session.journal.runs(scope=session.name))
    if clashes and not force:
        raise ConflictError(*_clash_lines(record, clashes))
    then, _ = session.journal.topology_at(session.name, run=record.id)
    kind = session.machine.choose(session.config.backend)
    require_own_setup(record, then, kind, session.machine.transit)
    goal, names = undo(session.known.topology, record, then), touched(record)
    restored = (link for name, link in goal.links.items() if name in names)
    what = f"what was there before run {record.id}"
    require_own_key(session.public_key, record.header.public_key, restored, what)
    return Goal(session.as_made_now(goal), only=names)


def _clash_lines(record: RunRecord, clashes: Sequence[Conflict]) -> list[str]:
    more = len(clashes) - CLASHES_SHOWN
    return [
        f"run {record.id} cannot be taken back alone, as the same links changed later:",
        *(f"  {_clash_line(clash)}" for clash in clashes[:CLASHES_SHOWN]),
        *([f"  and {more} more"] if more > 0 else []),
        f"nothing was touched; --force makes all links of run {record.id} what they were before it",
    ]


def _clash_line(clash: Conflict) -> str:
    what = "noticed that it had changed" if clash.noticed else "changed it"
    return f"{clash.link}: run {clash.run} ({clash.command}) {what}"

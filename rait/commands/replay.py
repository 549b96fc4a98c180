"""``rait replay``: show, compare and restore the topology of an earlier time."""

from __future__ import annotations

import time
from argparse import Namespace

from msgspec import Struct

from rait.adapters.journal.reader import JournalReader
from rait.app.conclude import conclude
from rait.app.desired import open_settled
from rait.app.load import configured
from rait.app.moments import moment, written
from rait.app.options import Options
from rait.app.render import link_text, print_plan, print_report
from rait.app.scopes import journal_of, others_text
from rait.app.session import Babeld
from rait.app.trials import confirmation
from rait.app.watched import require_unwatched
from rait.domain.change import Goal
from rait.domain.errors import ConfigError, MachineError, counted
from rait.domain.rollback import require_own_key
from rait.domain.topology import Topology
from rait.terminal import DONE, print_either, warn

_DIGITS = 1000
"""So many digits of a number are read; Python reads some thousands at the most."""


def run(options: Options, arguments: Namespace) -> int:
    if arguments.confirm is not None and not (arguments.apply or arguments.diff):
        raise ConfigError("--confirm is for a run that changes something: add --apply")
    if arguments.apply or arguments.diff:
        return _restore(options, arguments)
    # The journal alone is looked at, which needs neither root nor WireGuard.
    past = _past(*journal_of(options, configured(options.config)), arguments.at)
    if past.unknown and arguments.at is not None:
        warn(f"warning: {past.unknown}")
    print_either(past_object(past), past_lines(past), as_json=arguments.json)
    return DONE


def _restore(options: Options, arguments: Namespace) -> int:
    """Make the tunnels what they were; with --diff show how the live system differs."""
    at, dry_run = arguments.at, arguments.diff
    babeld: Babeld = "never" if dry_run else "synced"
    with (
        confirmation(options, arguments.confirm, dry_run=dry_run) as confirm,
        open_settled(options, "replay", read_only=dry_run, babeld=babeld) as session,
    ):
        if not dry_run:
            require_unwatched(session.options.config, session.config.journal, "rait replay --apply")
        past = _past(session.journal, session.name, at)
        if past.unknown and not dry_run:
            raise MachineError(
                f"{past.unknown}, and nothing was touched. `rait log` shows the runs that one can "
                "go back to; `rait down` removes all links"
            )
        warnings = [f"{past.unknown}; `--apply` would be refused"] if past.unknown else []
        topology, what = past.topology, f"the topology as of {past.at}"
        require_own_key(session.public_key, past.public_key, topology.links.values(), what)
        change = session.compare(Goal(session.as_made_now(topology)))
        command = "replay" if at is None else f"replay --at {at}"
        report = conclude(
            session, command, change, warnings=warnings, accepted=arguments.yes, confirm=confirm
        )
    return (print_plan if dry_run else print_report)(report, arguments)


class Past(Struct, frozen=True, kw_only=True):
    """The topology as the journal has it at some point, and the public key that it was made under.

    ``unknown`` says why the journal does not know the topology of that time; "" if it does.
    """

    topology: Topology
    public_key: str
    at: str
    unknown: str = ""


def _past(journal: JournalReader, scope: str, at: str | None) -> Past:
    """Fold the journal up to a run, an event or a time; None is now. Raises RaitError."""
    where: dict[str, int] = {}
    before = ""
    kind, _, number = (at or "").rpartition(":")
    if at is None:
        at = "now"
    elif kind in ("", "run", "event") and number.isdecimal() and len(number) <= _DIGITS:
        kind = kind or "run"
        where, at = {kind: int(number)}, f"{kind} {number}"
    else:
        try:
            when = moment(at, time.time_ns())
        except ConfigError as error:
            message = f"--at takes a run's number, event:NUMBER or a time: {error}"
            raise ConfigError(message) from None
        where, before = {"time": when}, f"{written(when)} is before that"
    topology, key = journal.topology_at(scope, **where)
    unknown = "" if key else _unknown(journal, scope, before)
    return Past(topology=topology, public_key=key, at=at, unknown=unknown)


def _unknown(journal: JournalReader, scope: str, otherwise: str) -> str:
    """Why the journal does not know what there was: it has no run from before that time."""
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


def past_lines(past: Past) -> list[str]:
    """The topology as the journal has it, a line for each link."""
    links = sorted(past.topology.links.values(), key=lambda link: link.name)
    lines = [link_text(link) for link in links]
    return [*lines, f"rait replay: {counted(len(links), 'link')} as of {past.at}"]


def past_object(past: Past) -> dict[str, object]:
    """The topology as a value for JSON."""
    return {"at": past.at, "public_key": past.public_key, "topology": past.topology}

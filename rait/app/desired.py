"""Plan the links by the configuration and the peers list, and make them so (or show how).

Or have none: what `rait down` does.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

from msgspec import Struct, structs

from rait.adapters.lock import HeldError
from rait.app import isolation
from rait.app.conclude import Confirm, Report, conclude
from rait.app.load import Loaded, LoadedPeers, Preshared
from rait.app.options import Options
from rait.app.session import Session, open_session
from rait.app.stopped import failure_noted, note
from rait.domain.change import Change, Doubts, Goal, doubts_of
from rait.domain.config.schema import Config
from rait.domain.errors import MachineError, Problem, SourceError
from rait.domain.history import LastKnown, with_leftovers
from rait.domain.ownership import Stranger
from rait.domain.plan import Node, Plan, Way, plan
from rait.domain.topology import EMPTY

Measure = Callable[[frozenset[Way]], Mapping[Way, int]]


@contextmanager
def open_settled(options: Options, command: str, **how: Any) -> Iterator[Session]:
    """A session of a command that changes something, as ``open_session`` gives it.

    Raises PendingError while an earlier change waits for its confirmation. If the time of that
    change is over, it is taken back first. `rait status` tells of a `rait up` that fails.
    """
    with ExitStack() as stack:
        if command == "up" and not how.get("read_only"):
            stack.enter_context(failure_noted(options))
        try:
            session = stack.enter_context(open_session(options, command, **how))
        except HeldError:
            raise
        except (SourceError, MachineError):
            # What the change cut off may be the very server that has the peers list.
            if not how.get("read_only"):
                from rait.app.trials import settle_at_least

                settle_at_least(options, command)
            raise
        if not how.get("read_only") and session.known.trial is not None:
            from rait.app.trials import settle  # here, as few runs are to be confirmed

            settle(session)
        yield session


def up(
    options: Options,
    *,
    dry_run: bool = False,
    assume_yes: bool = False,
    confirm: Confirm | None = None,
) -> Report:
    """Create, change and remove links until they are as planned.

    With ``dry_run``, only report what would be done. Unless ``assume_yes``, a run that would end
    too many sessions does nothing, and its report says ``stopped``. With ``confirm``, the run is to
    be confirmed. What was taken back is not done again, unless ``assume_yes`` or ``confirm``.
    Raises RaitError, with nothing touched, where the configuration or the peers cannot be read.
    """
    with open_settled(options, "up", read_only=dry_run, peers=True) as session:
        return sync(session, dry_run=dry_run, assume_yes=assume_yes, confirm=confirm)


def sync(
    session: Session,
    *,
    dry_run: bool = False,
    assume_yes: bool = False,
    confirm: Confirm | None = None,
) -> Report:
    """What ``up`` does in its session, which has the peers."""
    report = _synced(session, dry_run, assume_yes, confirm)
    if not dry_run:
        note(session, report)
    return report


def _synced(session: Session, dry_run: bool, assume_yes: bool, confirm: Confirm | None) -> Report:
    command = "plan" if dry_run else "up"
    wanted = wanted_by(session)
    warnings = [*wanted.warnings, *isolation.kernel_warnings(session.config)]
    change = session.compare(wanted.goal)
    if (trial := session.known.trial) is not None:
        from rait.app.trials import hold, is_held_by, mention

        is_told_to = assume_yes or confirm is not None
        if change.events and not is_told_to and is_held_by(session, trial, change):
            return hold(session, trial, command, warnings)
        warnings += mention(trial, session.options.config) if dry_run else ()
    if dry_run:
        warnings += isolation.vrf_warnings(change.events)
        warnings += _extra_cmd_warnings(session, change)
    report = conclude(
        session,
        command,
        change,
        makes_target=True,
        warnings=warnings,
        accepted=assume_yes,
        confirm=confirm,
        # So that no older list is accepted, the journal has each new one.
        always=session.registry.signed not in (None, session.known.signed),
    )
    # What the guard stopped may be no list to boot from.
    return report if dry_run or report.status == "stopped" else _with_list_kept(report, session)


def down(options: Options, *, watched: bool = False) -> Report:
    """Remove our links, and nothing else. Raises RaitError, with nothing touched.

    So it does if a `rait watch` would make them again, unless it is the watch itself that asks.
    """
    # The links live in the target namespace, so they can go when the transit one is gone.
    with open_settled(options, "down", needs_transit=False) as session:
        if not watched:
            from rait.app.watched import require_unwatched  # here, as `rait up` does not ask

            require_unwatched(session.options.config, session.config.journal, "rait down")
        change = session.compare(Goal(EMPTY))
        unclaimed = [_left(s) for s in change.strangers if not s.claimed]
        change = structs.replace(change, problems=(*change.problems, *unclaimed))
        warnings = session.loaded.warnings
        report = conclude(session, "down", change, warnings=warnings, accepted=True)
        report = structs.replace(report, links=0)  # none is wanted, neither one that stays
        note(session, report)
        return report


def _left(stranger: Stranger) -> Problem:
    """A warning that a link of our group stays: its key is not ours, and nobody claims it."""
    text = (
        f"it is left alone: {stranger.why}. If it is a leftover, remove it "
        f"(`ip link del {stranger.link}` in its namespace); if not, set another ifgroup for it"
    )
    return Problem(text, "warning", (), stranger.link)


def _with_list_kept(report: Report, session: Session) -> Report:
    """Keep the peers list, if it is from a URL; the report has a warning if that fails."""
    try:
        session.registry.keep()
    except OSError as error:
        problem = f"the peers list cannot be kept for when its URL fails: {error.strerror}"
        if session.config.peers_fallback is not None:
            return structs.replace(report, warnings=(*report.warnings, problem))
        session.options.debug(problem)
    return report


class Wanted(Struct, frozen=True):
    """The goal to have the links that the peers list asks for, its plan, and warnings."""

    goal: Goal
    plan: Plan
    warnings: tuple[str, ...]


def wanted_by(session: Session) -> Wanted:
    """What this node shall have now. Raises MachineError where there is no WireGuard."""
    kind = session.machine.choose(session.config.backend)
    session.options.debug(f"backend {kind}")
    node = Node(
        public_key=session.public_key,
        origin=session.origin(kind, session.target),
        transit_table=isolation.transit_table(session.config),
    )
    return wanted_of(
        session.loaded,
        session.registry,
        node,
        session.known_or_found(),
        session.inputs.preshared,
        measure=partial(session.machine.link_mtus, vrf=session.config.isolation.transit_vrf),
    )


def wanted_of(
    loaded: Loaded,
    registry: LoadedPeers,
    node: Node,
    known: LastKnown,
    preshared: Preshared,
    *,
    measure: Measure | None = None,
) -> Wanted:
    """What a node shall have, of which these are the inputs.

    Conflicts in the list are not for the journal: each run finds them itself, until the list is
    mended. ``preshared`` are the preshared keys of the peers. ``measure`` gives what links over
    each of these ways can have for their MTU; ways of which that is unknown are left out.
    """
    config = loaded.config
    leftovers, departed = with_leftovers(known), known.departed
    arguments = config, node, registry.peers, registry.addresses, leftovers, departed
    planned = plan(*arguments, key_files=preshared.files)
    if planned.ways and measure is not None:
        planned = plan(*arguments, measure(planned.ways), preshared.files)
    conflicts = [problem for problem in planned.problems if problem.severity == "error"]
    mere = (problem for problem in planned.problems if problem.severity == "warning")
    problems = registry.document.describe_all((*registry.unresolved, *mere))
    goal = Goal(
        planned.topology,
        planned.names,
        _doubts(config, registry, planned.problems),
        registry.document.describe_all(conflicts),
        flaws=_described(loaded, planned.flaws),
        psks=frozenset((p, digest) for (_, p), digest in preshared.files.digests.items()),
    )
    warnings = (*loaded.warnings, *registry.warnings, *preshared.warnings, *problems)
    return Wanted(goal, planned, warnings)


def _described(loaded: Loaded, flaws: Iterable[Problem]) -> tuple[Problem, ...]:
    """Problems with their place in rait.conf in the message."""
    return tuple(structs.replace(flaw, message=loaded.document().describe(flaw)) for flaw in flaws)


def _doubts(config: Config, peers: LoadedPeers, problems: Sequence[Problem]) -> Doubts | None:
    """Some entries were skipped as they cannot be read, others as their links cannot be made."""
    if not (peers.doubts or problems or peers.old):
        return None
    skipped = (*peers.doubts, *doubts_of(problems, readable=True))
    describe = peers.document.describe
    doubts = Doubts(skipped, config.transports, describe, config.max_links, peers.old)
    return doubts if skipped or peers.old else None


def _extra_cmd_warnings(session: Session, change: Change) -> list[str]:
    if not change.extra_cmd_owed or session.routing is None or not session.routing.has_extra_cmd:
        return []
    command = session.config.babeld.extra_cmd.strip()
    return [f"babeld has not taken extra_cmd yet, and gets it again: {command}"]

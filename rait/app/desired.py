"""What the links should be by the configuration and the peers list, and making them so."""

from __future__ import annotations

from rait.app import isolation
from rait.app.inputs import Registry
from rait.app.load import Loaded, LoadedPeers
from rait.app.options import Options
from rait.app.report import Report
from rait.app.session import Session, opened
from rait.domain.config.schema import Config
from rait.domain.doubt import Doubts, doubts_of
from rait.domain.history import with_leftovers
from rait.domain.plan import Node, Plan, plan
from rait.domain.reconcile import Change, Goal


def up(options: Options, *, dry_run: bool = False, assume_yes: bool = False) -> Report:
    """Create, change and remove links until they are as planned; see Report for what it tells.

    A ``dry_run`` only tells what would be done. Unless ``assume_yes``, a run that would end most of
    the sessions does nothing, and its report says ``stopped``. Raises RaitError, with nothing
    touched, where configuration or peers cannot be had.
    """
    with opened(options, "up", dry_run=dry_run, peers=True) as session:
        wanted, warnings = _planned(session)
        change = session.compare(goal_of(wanted, session.registry.peers, session.config))
        if dry_run:
            warnings += isolation.vrf_warnings(change.events)
            warnings += _extra_cmd_warnings(session, change)
        return session.conclude(
            "plan" if dry_run else "up",
            change,
            makes_target=True,
            warnings=warnings,
            accepted=assume_yes,
        )


def _planned(session: Session) -> tuple[Plan, list[str]]:
    """Plan from the session's registry; with the warnings that came of it. Raises MachineError."""
    config, registry, known = session.config, session.registry, session.known
    kind = session.machine.choose(config.backend)
    session.options.debug(f"backend {kind}")
    origin = session.origin(kind, session.target)
    table = isolation.transit_table(config)
    node = Node(public_key=session.public_key, origin=origin, transit_table=table)
    peers, addresses = registry.peers.peers, registry.addresses
    planned = plan(config, node, peers, addresses, with_leftovers(known), known.departed)
    warnings = plan_warnings(session.loaded, registry, planned)
    return planned, [*warnings, *isolation.kernel_warnings(config)]


def _extra_cmd_warnings(session: Session, change: Change) -> list[str]:
    if not change.extra_cmd_owed or session.routing is None or not session.routing.has_extra_cmd:
        return []
    command = session.config.babeld.extra_cmd.strip()
    return [f"babeld has not taken extra_cmd yet, and gets it again: {command}"]


def plan_warnings(loaded: Loaded, registry: Registry, planned: Plan) -> list[str]:
    """All that planning found, as lines for the user."""
    peers = registry.peers
    found = peers.describe_all((*registry.unresolved, *planned.problems))
    return [*loaded.warnings, *peers.warnings, *found]


def goal_of(planned: Plan, peers: LoadedPeers, config: Config) -> Goal:
    """What is planned, with the entries that were skipped.

    Those are the entries that cannot be read, and those whose link cannot be made.
    """
    entries = (*peers.doubts, *doubts_of(planned.problems, readable=True))
    doubts = Doubts(entries, config.transports, peers.describe, config.max_links)
    return Goal(planned.topology, planned.names, doubts if entries else None)

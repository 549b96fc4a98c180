"""What the links should be by the configuration and the peers list, and what `up` would change."""

from __future__ import annotations

from rait.app import isolation
from rait.app.inputs import Registry
from rait.app.load import Loaded, LoadedPeers
from rait.app.options import Options
from rait.app.report import Report
from rait.app.session import Session, read_only, synced_routing
from rait.domain.config.schema import Config
from rait.domain.doubt import Doubts, doubts_of
from rait.domain.history import with_leftovers
from rait.domain.plan import Node, Plan, plan
from rait.domain.reconcile import Goal


def plan_up(options: Options) -> Report:
    """What ``rait up`` would do now. Writes nothing anywhere, and waits for nobody.

    Raises RaitError as ``up`` does.
    """
    with read_only(options, peers=True) as session, synced_routing(session) as routing:
        wanted, warnings = planned_topology(session)
        goal = goal_of(wanted, session.registry.peers, session.config)
        change = session.compare(goal, routing)
        warnings += isolation.vrf_warnings(change.events)
        if change.extra_cmd_owed and routing is not None and routing.has_extra_cmd:
            command = session.config.babeld.extra_cmd.strip()
            warnings.append(f"babeld has not taken extra_cmd yet, and gets it again: {command}")
        return session.planned("plan", change, warnings)


def planned_topology(session: Session) -> tuple[Plan, list[str]]:
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

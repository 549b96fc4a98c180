"""``rait up``: make the tunnels what configuration and peers say."""

from __future__ import annotations

from rait.adapters import netns
from rait.app import isolation
from rait.app.execution import stopped
from rait.app.inputs import Registry
from rait.app.load import Loaded, LoadedPeers
from rait.app.report import Report
from rait.app.session import Session, read_write, synced_routing
from rait.app.turn import Options
from rait.domain.doubt import Doubt, doubts_of
from rait.domain.history import LastKnown, with_leftovers
from rait.domain.plan import Node, Plan, plan


def up(options: Options, *, assume_yes: bool = False) -> Report:
    """Create, change and remove links until they are as planned; see Report for what it tells.

    Unless ``assume_yes``, a run that would end most of the sessions does nothing, and its report
    says ``stopped``. Raises RaitError, with nothing touched, where configuration or peers cannot
    be had.
    """
    with (
        read_write(options, "up", peers=True) as (session, journal),
        synced_routing(session) as routing,
    ):
        memory = journal.last_known(session.name)
        planned, warnings = planned_topology(session, memory)
        doubts = doubts_about(session.registry.peers, planned)
        change = session.compare(planned.topology, memory, routing, doubts, planned.names)
        if not assume_yes and (stop := stopped("up", change, session.removal(change), warnings)):
            return stop
        return session.carry_out(
            "up",
            change,
            journal,
            peers_digest=session.registry.peers.digest,
            prepare=lambda: netns.ensure_netns(session.target).close(),
            routing=routing,
            warnings=warnings,
            accepted=assume_yes,
        )


def planned_topology(session: Session, memory: LastKnown) -> tuple[Plan, list[str]]:
    """Plan from the session's registry; with the warnings that came of it. Raises MachineError."""
    config, registry = session.config, session.registry
    kind = session.machine.choose(config.backend)
    session.options.debug(f"backend {kind}")
    origin = session.origin(kind)
    table = isolation.transit_table(config)
    node = Node(public_key=session.public_key, origin=origin, transit_table=table)
    peers, addresses = registry.peers.peers, registry.addresses
    planned = plan(config, node, peers, addresses, with_leftovers(memory), memory.departed)
    warnings = plan_warnings(session.loaded, registry, planned)
    return planned, [*warnings, *isolation.kernel_warnings(config)]


def plan_warnings(loaded: Loaded, registry: Registry, planned: Plan) -> list[str]:
    """All that planning found, as lines for the user."""
    peers = registry.peers
    found = peers.describe_all((*registry.unresolved, *planned.problems))
    return [*loaded.warnings, *peers.warnings, *found]


def doubts_about(peers: LoadedPeers, planned: Plan) -> tuple[Doubt, ...]:
    """The entries that were skipped: those that cannot be read, or whose link cannot be made."""
    return (*peers.doubts, *doubts_of(planned.problems, readable=True))

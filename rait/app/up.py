"""``rait up``: make the tunnels what configuration and peers say."""

from __future__ import annotations

from collections.abc import Iterable

from rait.adapters import netns
from rait.adapters.resolve import resolve
from rait.app import isolation
from rait.app.execution import stopped
from rait.app.load import Loaded, LoadedPeers, load_peers
from rait.app.report import Report
from rait.app.session import Options, Session, opened, synced_routing
from rait.domain.config import Config, Family
from rait.domain.history import Memory
from rait.domain.peers import Peer
from rait.domain.plan import Node, Plan, plan
from rait.domain.problem import Path, Problem
from rait.domain.topology import Origin

RESOLVE_SECONDS = 10.0


def up(options: Options, *, sure: bool = False) -> Report:
    """Create, change and remove links until they are as planned; see Report for what it tells.

    Unless ``sure``, a run that would remove most of the links does nothing, and its report says
    ``stopped``. Raises RaitError, with nothing touched, where configuration or peers cannot be
    had.
    """
    with opened(options, "up") as (session, journal), synced_routing(session) as routing:
        memory = journal.memory(session.name)
        peers, planned, warnings = planned_topology(session, memory, keep=True)
        change = session.compare(planned.topology, memory, routing)
        if not sure and (stop := stopped("up", change, session.config.max_removals, warnings)):
            return stop
        return session.carry_out(
            "up",
            change,
            journal,
            peers_digest=peers.digest,
            prepare=lambda: netns.ensure_netns(session.target).close(),
            routing=routing,
            warnings=warnings,
        )


def planned_topology(
    session: Session, memory: Memory, *, keep: bool = False
) -> tuple[LoadedPeers, Plan, list[str]]:
    """Read the peers, look up their names, and plan; with the warnings that came of it.

    ``keep`` is that of load_peers.
    """
    config = session.config
    kind = session.machine.choose(config.backend)
    peers = load_peers(session.loaded, keep=keep)
    session.options.debug(f"{len(peers.peers)} peers from {peers.source}; backend {kind}")
    hosts = hosts_of(config, peers.peers)
    addresses, unresolved = resolve(hosts, session.machine.namespace, RESOLVE_SECONDS, hosts)
    origin = Origin(kind, session.target, session.machine.transit)
    table = isolation.transit_table(config)
    node = Node(public_key=session.public_key, origin=origin, transit_table=table)
    planned = plan(config, node, peers.peers, addresses, memory.topology)
    warnings = plan_warnings(session.loaded, peers, unresolved, planned)
    return peers, planned, [*warnings, *isolation.kernel_warnings(config)]


def hosts_of(config: Config, peers: Iterable[Peer]) -> dict[tuple[str, Family], Path]:
    """The addresses that planning will ask for, those in a family that we have.

    Each with the place of the first endpoint that has it.
    """
    families = {transport.address_family for transport in config.transports}
    hosts: dict[tuple[str, Family], Path] = {}
    for peer in peers:
        for endpoint in peer.endpoints:
            if endpoint.address is not None and endpoint.address_family in families:
                hosts.setdefault((endpoint.address, endpoint.address_family), endpoint.path)
    return hosts


def plan_warnings(
    loaded: Loaded, peers: LoadedPeers, unresolved: Iterable[Problem], planned: Plan
) -> list[str]:
    """All that planning found, as lines for the user."""
    found = (peers.describe(problem) for problem in (*unresolved, *planned.problems))
    return [*loaded.warnings, *peers.warnings, *found]

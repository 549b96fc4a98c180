"""From configuration and peers to the topology that should be: the port rule.

For a transport T and each endpoint E of a peer in the same address family, the link is named
T.ifprefix + E.send_port, listens on E.send_port (that is where the peer sends to), and sends to
the peer's address at T.send_port (that is where the peer listens for us).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from msgspec import Struct

from rait.domain.config import MAX_IFNAME, Config, Family, Transport
from rait.domain.linklocal import link_local
from rait.domain.peers import Peer, PeerEndpoint
from rait.domain.problem import Problem
from rait.domain.topology import Device, Endpoint, Link, LinkPeer, LinkSettings, Origin, Topology
from rait.domain.vrf import wanted_rules, wanted_vrfs

Addresses = Mapping[tuple[str, Family], tuple[str, ...]]
"""IP addresses, as canonical text, of each host name in each family that was looked up."""


class Node(Struct, frozen=True, kw_only=True):
    """What planning needs to know of this machine: our key, and how links are born here.

    ``transit_table`` is the routing table of the VRF that carries the underlay, if one does.
    """

    public_key: str
    origin: Origin
    transit_table: int | None = None


class Plan(Struct, frozen=True):
    """What should be, and which peers cannot be had and why."""

    topology: Topology
    problems: tuple[Problem, ...] = ()


def plan(
    config: Config,
    node: Node,
    peers: Iterable[Peer],
    addresses: Addresses | None = None,
    applied: Topology | None = None,
) -> Plan:
    """The links that this node should have. Total: bad peers become problems, never exceptions.

    ``applied`` is what was last brought about: where a host name has several addresses, the one
    in use is kept while it is still among them.

    The order of peers only decides which of two conflicting ones wins: the first. Two links may
    not share a listen port even in different address families, as the kernel's WireGuard binds a
    port in both.
    """
    planner = _Planner(config, node, addresses or {}, applied.links if applied else {})
    for peer in peers:
        planner.add(peer)
    topology = Topology(
        planner.links,
        vrfs=wanted_vrfs(config),
        rules=wanted_rules(config, node.transit_table),
    )
    return Plan(topology, tuple(planner.problems))


class _Planner:
    def __init__(
        self, config: Config, node: Node, addresses: Addresses, applied: Mapping[str, Link]
    ) -> None:
        self.links: dict[str, Link] = {}
        self.problems: list[Problem] = []
        self._node = node
        self._addresses = addresses
        self._applied = applied
        self._group = config.isolation.ifgroup
        self._master = config.isolation.target if config.isolation.type == "vrf" else None
        self._transports: dict[str, list[Transport]] = {}
        for transport in config.transports:
            self._transports.setdefault(transport.address_family, []).append(transport)
        self._listening: dict[int, str] = {}
        self._met: dict[tuple[str, str], str] = {}

    def add(self, peer: Peer) -> None:
        if peer.public_key == self._node.public_key:
            return
        for transport, endpoint in self._routes(peer):
            name = f"{transport.ifprefix}{endpoint.send_port}"
            obstacle = self._obstacle(name, peer, transport, endpoint)
            if obstacle:
                message = f"{_title(peer)}: {obstacle}; skipped"
                self.problems.append(Problem(message, "warning", endpoint.path, name))
                continue
            self.links[name] = self._link(name, peer, transport, endpoint)
            self._met[(peer.public_key, transport.ifprefix)] = name
            if not transport.dynamic_port:
                self._listening[endpoint.send_port] = name

    def _routes(self, peer: Peer) -> Iterator[tuple[Transport, PeerEndpoint]]:
        for endpoint in peer.endpoints:
            for transport in self._transports.get(endpoint.address_family, ()):
                yield transport, endpoint

    def _obstacle(
        self, name: str, peer: Peer, transport: Transport, endpoint: PeerEndpoint
    ) -> str | None:
        family, port = endpoint.address_family, endpoint.send_port
        if len(name.encode()) > MAX_IFNAME:
            return f"the link's name would be {name}, which is longer than {MAX_IFNAME} bytes"
        if name == self._master:
            return f"the link's name would be {name}, which is that of the VRF"
        taken = self.links.get(name)
        if taken is not None:
            owner = taken.peers[0].public_key
            return (
                f"SendPort {port} ({family}) is already that of peer {owner}, earlier in the list"
            )
        met = self._met.get((peer.public_key, transport.ifprefix))
        if met is not None:
            return f"it already has link {met} in {family}"
        holder = None if transport.dynamic_port else self._listening.get(port)
        if holder is not None:
            return (
                f"link {name} would listen on port {port} as {holder} does, and WireGuard takes a "
                "port in both address families; set dynamic_port on one of the two transports, or "
                "give the peer another SendPort"
            )
        return None

    def _link(self, name: str, peer: Peer, transport: Transport, endpoint: PeerEndpoint) -> Link:
        own_key = self._node.public_key
        return Link(
            name,
            self._node.origin,
            LinkSettings(
                transport.mtu,
                self._group,
                self._master,
                True,
                link_local(own_key, peer.public_key, transport.address_family),
            ),
            Device(own_key, 0 if transport.dynamic_port else endpoint.send_port, transport.fwmark),
            (LinkPeer(peer.public_key, self._endpoint(name, transport, endpoint)),),
        )

    def _endpoint(self, name: str, transport: Transport, endpoint: PeerEndpoint) -> Endpoint | None:
        host = endpoint.address
        if host is None:
            return None
        candidates = self._addresses.get((host, endpoint.address_family))
        if candidates is None:
            candidates = (host,) if _is_literal(host) else ()
        if not candidates:
            return None
        address = candidates[0] if len(candidates) == 1 else self._choose(name, candidates)
        return Endpoint(address, transport.send_port)

    def _choose(self, name: str, candidates: tuple[str, ...]) -> str:
        known = self._applied.get(name)
        if known is not None:
            for peer in known.peers:
                if peer.endpoint is not None and peer.endpoint.address in candidates:
                    return peer.endpoint.address
        return min(candidates)


def _is_literal(host: str) -> bool:
    """Whether a checked address is an IP address: a host name's last label has a letter."""
    return ":" in host or host.rpartition(".")[2].isdecimal()


def _title(peer: Peer) -> str:
    return f"peer {peer.name} ({peer.public_key})" if peer.name else f"peer {peer.public_key}"

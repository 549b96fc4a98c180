"""From configuration and peers to the topology that should be: the port rule.

For a transport T and each endpoint E of a peer in the same address family, the link is named
T.ifprefix + E.send_port, listens on E.send_port (that is where the peer sends to), and sends to
the peer's address at T.send_port (that is where the peer listens for us).

1. Of entries that conflict, the one whose link is there (``applied``) wins: a new entry of the
   registry must not take the link of a peer that is there. Next comes the one that had the link
   last: it keeps its port through a `rait down`, and through a start at which its link could not be
   made. Among the others the first wins. Two links may not share a listen port even in different
   address families, as the kernel's WireGuard binds a port in both.
2. A problem is an error if another peer, or the VRF, has what a link needs, and the peer has no
   other link over that transport: then the registry has to be mended. It is a warning if rait.conf
   refuses the link on purpose (``port_range``), or if the peer is in its own way, with several
   endpoints of one family or one port in both families.
3. An entry with another key than ours is this node's own too, and gets no link, if it has the name
   in rait.conf, or in one endpoint both the send_port and the address of a transport: such are
   former entries from before a new key, and entries of a second configuration of this node. But a
   name may be given twice by accident, and others write the registry: a peer that has a link, or
   had it last, is another node and keeps it. An address alone is no sign, as all nodes behind one
   NAT share it.
4. Where a host name has several addresses, the address last applied is kept while it is still among
   them; where the name has no address now, the one last applied is tried.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from functools import partial
from struct import unpack

from msgspec import Struct, structs

from rait.domain.config.schema import (
    MAX_IFNAME,
    MAX_MTU,
    MIN_MTU,
    Config,
    Peer,
    PeerEndpoint,
    Transport,
)
from rait.domain.digests import blake2s
from rait.domain.endpoints import NONE_DEPARTED, Departed, Names, last_departed, last_endpoint
from rait.domain.errors import Problem, Severity, SkippedEntry, few, port_taken
from rait.domain.policy import (
    NOTHING,
    Policies,
    Resolved,
    addresses_of,
    is_of_one_host,
    link_local_among,
    notes_of,
)
from rait.domain.topology import (
    EMPTY,
    Device,
    Endpoint,
    Family,
    Link,
    LinkPeer,
    LinkSettings,
    Origin,
    Topology,
)
from rait.domain.vrf import FAMILIES, wanted_rules, wanted_vrfs

Addresses = Mapping[tuple[str, Family], tuple[str, ...]]
"""IP addresses, as canonical text, of each host name in each family that was looked up."""

Way = tuple[str, int]
"""Where packets of a link go over the underlay: the endpoint's IP address, and their fwmark."""


class KeyFiles(Struct, frozen=True):
    """The digests of the preshared keys that files have, and why there is none in others.

    Both are by the file as a policy names it, and the public key of the peer.
    """

    digests: Mapping[tuple[str, str], str] = {}
    errors: Mapping[tuple[str, str], str] = {}


NO_KEY_FILES = KeyFiles()


class Node(Struct, frozen=True):
    """What planning needs to know of this machine: our key, and how links are made here.

    ``transit_table`` is the routing table of the VRF that carries the underlay, if one does.
    """

    public_key: str
    origin: Origin
    transit_table: int | None = None


class Plan(Struct, frozen=True):
    """The topology that should be; ``problems`` say which peers get no link, and why.

    ``names`` are the links whose peer has a host name: to ``reconcile``, the address of a name is
    only a hint of where the peer is. ``flaws`` are problems of links that lack what a policy sets;
    their paths lead into rait.conf. A link that lacks its preshared key is not in the topology.
    ``ways`` are those whose MTU decides that of links.
    """

    topology: Topology
    problems: tuple[Problem, ...] = ()
    names: Names = {}
    flaws: tuple[Problem, ...] = ()
    ways: frozenset[Way] = frozenset()


def plan(
    config: Config,
    node: Node,
    peers: Iterable[Peer],
    addresses: Addresses | None = None,
    applied: Topology | None = None,
    departed: Departed = NONE_DEPARTED,
    mtus: Mapping[Way, int] | None = None,
    key_files: KeyFiles = NO_KEY_FILES,
) -> Plan:
    """The links that this node should have, by the rules above. Total: bad peers become problems.

    ``applied`` is the topology last brought about, and ``departed`` has the peers of links that
    are gone since. ``mtus`` are what links over a way can have for their MTU. Where a policy wants
    the MTU of a way that is not among them, the link keeps the one last applied with this endpoint,
    else it has that of the transport. ``key_files`` are what the files of preshared keys gave.
    """
    known = addresses or {}, applied or EMPTY, departed, mtus or {}, key_files
    planner = _Planner(config, node, *known)
    for peer in peers:
        planner.offer(peer)
    planner.finish()
    flaws = (*planner.flaws, *_shared_addresses(planner.links))
    for name in planner.unready:
        del planner.links[name]
    topology = Topology(
        planner.links,
        vrfs=wanted_vrfs(config),
        rules=wanted_rules(config, node.transit_table),
    )
    return Plan(topology, tuple(planner.problems), planner.names, flaws, frozenset(planner.ways))


def count_wanted(config: Config, public_key: str, peers: Iterable[Peer]) -> int:
    """How many links the peers list asks of the node with this key, before any is planned.

    Entries that ask for one and the same link count once.
    """
    transports = _by_family(config)
    policies = Policies(config.policies)
    names = {
        (transport.ifprefix, endpoint.send_port)
        for peer in peers
        if peer.public_key != public_key
        for endpoint in policies.endpoints(peer)
        if is_in_port_range(config.port_range, endpoint.send_port)
        for transport in transports.get(endpoint.address_family, ())
    }
    return len(names)


def link_local(own_key: str, peer_key: str, family: Family) -> str:
    """The address of our end as ``fe80::…/64``: a stable function of both keys and the family.

    WireGuard interfaces have no hardware address for the kernel to make one from, and a routing
    daemon needs one. The two ends differ as the keys come in the order (own, peer).

    The first group of the interface identifier is never zero, so that the address has just one
    textual form (RFC 5952) and can be compared as text with the kernel's.
    """
    digest = blake2s(f"{own_key} {peer_key} {family}".encode(), digest_size=8).digest()
    first, second, third, fourth = unpack(">4H", digest)
    return f"fe80::{first | 0x8000:x}:{second:x}:{third:x}:{fourth:x}/64"


def link_mtu(address: str, underlay: int) -> int:
    """The MTU of a link to an endpoint with this address, where the underlay's MTU is that.

    A packet of the link has an IP header, one of UDP (8 bytes) and one of WireGuard (32) before it.
    """
    headers = (40 if ":" in address else 20) + 8 + 32
    return max(MIN_MTU, min(MAX_MTU, underlay - headers))


_LAST_HAD, _NEW = 2, 3
"""The turns of routes whose link is not there."""

_Route = tuple[str, Peer, Transport, PeerEndpoint]
"""One way to a peer, after the name of the link over it."""


class _Planner:
    """Gives links to the routes, one after the other; who has a link keeps it.

    Routes are taken in four turns: first those whose link is there with this peer, then those to
    another endpoint of such a peer, then those whose link went last from this peer, and at last all
    others. Within a turn the order of the peers list decides.
    """

    def __init__(
        self,
        config: Config,
        node: Node,
        addresses: Addresses,
        applied: Topology,
        departed: Departed,
        mtus: Mapping[Way, int],
        key_files: KeyFiles,
    ) -> None:
        self.links: dict[str, Link] = {}
        self.problems: list[Problem] = []
        self.names: dict[str, bool] = {}
        self.flaws: list[Problem] = []
        self.ways: set[Way] = set()
        self.unready: set[str] = set()
        self._config = config
        self._group = config.isolation.ifgroup
        self._master = config.isolation.target_vrf
        self._policies = Policies(config.policies)
        self._node = node
        self._addresses = addresses
        self._applied = applied.links
        self._departed = departed
        self._mtus = mtus
        self._key_files = key_files
        self._last_endpoint = partial(last_endpoint, applied=applied, departed=departed)
        self._transports = _by_family(config)
        self._link_on_port: dict[int, str] = {}
        self._link_of_peer: dict[tuple[str, str], str] = {}
        self._turns: tuple[list[_Route], ...] = ([], [], [], [])
        self._conflicts: list[tuple[_Route, Problem]] = []

    def offer(self, peer: Peer) -> None:
        """Queue the links to a peer, each for its turn."""
        if peer.public_key == self._node.public_key:
            self._check_own(peer)
            return
        routes = self._routes(peer)
        if self._is_own(peer, routes):
            return
        for turn, route in routes:
            if route[3].send_port == route[2].send_port:
                self._warn_of_own_port(peer, route[3])
            self._turns[turn].append(route)

    def finish(self) -> None:
        """Add the links, as far as there is room for them."""
        for turn in self._turns:
            for route in turn:
                self._add(route)
        for (_, peer, transport, _), problem in self._conflicts:
            has_link = (peer.public_key, transport.ifprefix) in self._link_of_peer
            severity: Severity = "warning" if has_link else "error"
            self.problems.append(structs.replace(problem, severity=severity))

    def _turn(self, route: _Route) -> int:
        name, peer, _, _ = route
        known = self._applied.get(name)
        if known is not None and _is_to(known, peer):
            return int(len(peer.endpoints) > 1 and not self._is_in_use(route, known))
        return _LAST_HAD if peer.public_key in last_departed(name, self._departed) else _NEW

    def _is_in_use(self, route: _Route, known: Link) -> bool:
        """Whether a link that is there was made for this very endpoint, not for one beside it."""
        far = known.peer(route[1].public_key)
        return far is not None and far.endpoint == self._endpoint(route)

    def _is_own(self, peer: Peer, routes: list[tuple[int, _Route]]) -> bool:
        """Whether an entry with another key is this node's own too; warn if it seems to be."""
        likeness = self._likeness(peer, routes)
        if likeness is None:
            return False
        if any(turn != _NEW for turn, _ in routes):
            self._warn(
                peer.endpoints[0],
                f"{_title(peer)}: has {likeness}, as if it were this node; it has or had a link, "
                "so it is another node and keeps it. Give one of the two a name and a SendPort of "
                "its own",
            )
            return False
        for endpoint in {endpoint.path: endpoint for _, (*_, endpoint) in routes}.values():
            self._warn(
                endpoint,
                f"{_title(peer)}: has {likeness}, so it is taken for this node's own entry under "
                "another key, and gets no link. If that key is not used any more, remove it from "
                "the list: until then other nodes keep their links to it. If it is another node, "
                "give it a name and a SendPort of its own",
            )
        return True

    def _likeness(self, peer: Peer, routes: list[tuple[int, _Route]]) -> str | None:
        """What an entry has in common with this node alone, if anything."""
        if peer.name is not None and peer.name == self._config.name:
            return f'this node\'s name "{peer.name}"'
        for _, (_, _, transport, endpoint) in routes:
            if endpoint.send_port == transport.send_port and _is_one_host(transport, endpoint):
                return f"this node's send_port {endpoint.send_port} and address {endpoint.address}"
        return None

    def _add(self, route: _Route) -> None:
        name, peer, transport, endpoint = route
        holder = None if transport.dynamic_port else self._link_on_port.get(endpoint.send_port)
        refusal = self._refusal(route, holder)
        conflict = None if refusal else self._conflict(route, holder)
        if refusal or conflict:
            message = f"{_title(peer)}: {refusal or conflict}; skipped"
            entry = SkippedEntry(peer.public_key, endpoint.address_family, endpoint.send_port)
            problem = Problem(message, "warning", endpoint.path, name, (entry,))
            if refusal:
                self.problems.append(problem)
            else:
                self._conflicts.append((route, problem))
            return
        self.links[name] = self._link(route)
        if endpoint.address is not None and not _is_literal(endpoint.address):
            self.names[name] = bool(self._candidates(endpoint.address, endpoint.address_family))
        self._link_of_peer[(peer.public_key, transport.ifprefix)] = name
        if not transport.dynamic_port:
            self._link_on_port[endpoint.send_port] = name

    def _check_own(self, peer: Peer) -> None:
        """Warn where the registry tells others to listen for this node on a wrong port."""
        for endpoint in peer.endpoints:
            family, port = endpoint.address_family, endpoint.send_port
            own = [transport.send_port for transport in self._transports.get(family, ())]
            if own and port not in own:
                self._warn(
                    endpoint,
                    f"this node's own entry has SendPort {port} ({family}), and rait.conf has "
                    f"send_port {' and '.join(map(str, own))}: other nodes listen for this one on "
                    "the port in the list, so make the two agree",
                )

    def _warn_of_own_port(self, peer: Peer, endpoint: PeerEndpoint) -> None:
        self._warn(
            endpoint,
            f"{_title(peer)}: its SendPort {endpoint.send_port} ({endpoint.address_family}) is "
            "this node's own send_port too. Any other node can have a link to only one of the "
            "two, as it names and finds its links by that port: give one of the two nodes another "
            "port",
        )

    def _warn(self, endpoint: PeerEndpoint, message: str) -> None:
        self.problems.append(Problem(message, "warning", endpoint.path))

    def _routes(self, peer: Peer) -> list[tuple[int, _Route]]:
        """The ways to a peer, each with its turn."""
        found = []
        for endpoint in self._policies.endpoints(peer):
            for transport in self._transports.get(endpoint.address_family, ()):
                route = transport.link_name(endpoint.send_port), peer, transport, endpoint
                found.append((self._turn(route), route))
        return found

    def _refusal(self, route: _Route, holder: str | None) -> str | None:
        """Why this node or the peer itself is in the way of the link.

        ``holder`` is the link that listens where the link of this route would.
        """
        name, peer, transport, endpoint = route
        family, port = endpoint.address_family, endpoint.send_port
        if not is_in_port_range(self._config.port_range, port):
            return f"SendPort {port} ({family}) is outside of port_range in rait.conf"
        if len(name.encode()) > MAX_IFNAME:
            return f"the link's name would be {name}, which is longer than {MAX_IFNAME} bytes"
        first = self._link_of_peer.get((peer.public_key, transport.ifprefix))
        if first is not None:
            return f"SendPort {port} ({family}) is one too many: the peer has link {first} already"
        if holder is not None and self.links[holder].peer(peer.public_key) is not None:
            return _one_port(name, port, holder)
        return None

    def _conflict(self, route: _Route, holder: str | None) -> str | None:
        """Why others are in the way of the link."""
        name, _, _, endpoint = route
        family, port = endpoint.address_family, endpoint.send_port
        if name == self._master:
            return f"the link's name would be {name}, which is that of the VRF"
        taken = self.links.get(name)
        if taken is not None:
            owner = taken.peers[0].public_key
            how = "which has the link" if self._is_there(taken) else "earlier in the list"
            return (
                f"{port_taken(port, family, f'peer {owner}')}, {how} (give one of the two another)"
            )
        return None if holder is None else _one_port(name, port, holder)

    def _is_there(self, link: Link) -> bool:
        known = self._applied.get(link.name)
        return known is not None and known.peer(link.peers[0].public_key) is not None

    def _link(self, route: _Route) -> Link:
        name, peer, transport, endpoint = route
        own_key, family = self._node.public_key, transport.address_family
        address = link_local(own_key, peer.public_key, family)
        link = Link(
            name,
            self._node.origin,
            LinkSettings(transport.mtu, self._group, self._master, True, address),
            Device(own_key, 0 if transport.dynamic_port else endpoint.send_port, transport.fwmark),
            (LinkPeer(peer.public_key, self._endpoint(route), transport.keepalive),),
        )
        resolved = self._policies.resolve(peer, family)
        return link if resolved is NOTHING else self._with_policies(link, peer, resolved)

    def _with_policies(self, link: Link, peer: Peer, resolved: Resolved) -> Link:
        given, settings, (far,) = resolved.settings, link.settings, link.peers
        if given.keepalive is not None:
            far = structs.replace(far, keepalive=given.keepalive)
        if given.preshared_key_file:
            far = structs.replace(far, psk_digest=self._psk_digest(link.name, peer, resolved))
        mark = link.device.fwmark if given.fwmark is None else given.fwmark
        mtu = self._auto_mtu(link, far, mark) if given.mtu == "auto" else given.mtu or settings.mtu
        settings = structs.replace(settings, mtu=mtu)
        if given.addresses is not None:
            addresses, errors = addresses_of(given.addresses, peer)
            path = (*resolved.givers["addresses"].path, "addresses")
            self.flaws += (Problem(error, "error", path, link.name) for error in errors)
            address = None if link_local_among(addresses) else settings.address
            settings = structs.replace(settings, address=address, addresses=addresses)
        return structs.replace(
            link,
            settings=settings,
            device=structs.replace(link.device, fwmark=mark),
            peers=(far,),
            notes=notes_of(given, peer, self._config.babeld.param),
        )

    def _psk_digest(self, name: str, peer: Peer, resolved: Resolved) -> str:
        """The digest of the preshared key; where there is none to be had, the link is unready."""
        pair = resolved.settings.preshared_key_file or "", peer.public_key
        if (digest := self._key_files.digests.get(pair)) is not None:
            return digest
        why = self._key_files.errors.get(pair, "the file was not read")
        message = f"{why}; without the preshared key the link is not made, or stays as it is"
        path = (*resolved.givers["preshared_key_file"].path, "preshared_key_file")
        self.flaws.append(Problem(message, "error", path, name))
        self.unready.add(name)
        return ""

    def _auto_mtu(self, link: Link, far: LinkPeer, mark: int) -> int:
        if far.endpoint is None:
            return link.settings.mtu
        way = (far.endpoint.address, mark)
        self.ways.add(way)
        known = self._applied.get(link.name, link)
        last = known.peer(far.public_key)
        is_same_way = last is not None and last.endpoint == far.endpoint
        return self._mtus.get(way, (known if is_same_way else link).settings.mtu)

    def _endpoint(self, route: _Route) -> Endpoint | None:
        name, peer, transport, endpoint = route
        if endpoint.address is None:
            return None
        candidates = self._candidates(endpoint.address, endpoint.address_family)
        if len(candidates) == 1:
            return Endpoint(candidates[0], transport.send_port)
        last = self._last_endpoint(name, peer.public_key)
        if not candidates:
            is_ip6 = endpoint.address_family == "ip6"
            return last if last is not None and (":" in last.address) == is_ip6 else None
        if last is not None and last.address in candidates:
            return Endpoint(last.address, transport.send_port)
        return Endpoint(min(candidates), transport.send_port)

    def _candidates(self, host: str, family: Family) -> tuple[str, ...]:
        """The IP addresses that an endpoint's address stands for."""
        literal = (host,) if _is_literal(host) else ()
        return self._addresses.get((host, family), literal)


def _one_port(name: str, port: int, holder: str) -> str:
    return (
        f"link {name} would listen on port {port} as {holder} does, and WireGuard takes a port in "
        "both address families; set dynamic_port on one of the two transports, or give the peer "
        "another SendPort"
    )


def _shared_addresses(links: Mapping[str, Link]) -> Iterator[Problem]:
    """A warning for each address with hosts behind it that several links have.

    The same address on many links is common, and good for a single host. But the route to those
    behind it leads over one link alone.
    """
    having: dict[str, list[str]] = {}
    for name, link in links.items():
        for text in link.settings.addresses:
            having.setdefault(text, []).append(name)
    for text, names in having.items():
        if len(names) > 1 and not is_of_one_host(text):
            message = (
                f"links {few(names)} all have the address {text}: the kernel sends what is for the "
                "hosts behind it over one of them alone"
            )
            yield Problem(message, "warning")


def _by_family(config: Config) -> dict[Family, list[Transport]]:
    return {f: [t for t in config.transports if t.address_family == f] for f in FAMILIES}


def is_in_port_range(ranges: tuple[tuple[int, int], ...], port: int) -> bool:
    """Whether rait.conf lets a peers list ask for the port."""
    return not ranges or any(low <= port <= high for low, high in ranges)


def _is_one_host(transport: Transport, endpoint: PeerEndpoint) -> bool:
    here, there = transport.address, endpoint.address
    return here is not None and there is not None and here.lower() == there.lower()


def _is_to(link: Link, peer: Peer) -> bool:
    # A loop, as this is asked of each peer in each run, and a generator takes three times as long.
    for far in link.peers:  # noqa: SIM110
        if far.public_key == peer.public_key:
            return True
    return False


def _is_literal(host: str) -> bool:
    """Whether a checked address is an IP address: a host name's last label has a letter."""
    return ":" in host or host.rpartition(".")[2].isdecimal()


def _title(peer: Peer) -> str:
    return f"peer {peer.name} ({peer.public_key})" if peer.name else f"peer {peer.public_key}"

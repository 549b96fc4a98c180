"""A model of a machine with WireGuard, simple enough to be believed.

It holds to the port in rait/domain/backend.py, where only what an event changes is written, and to
what Linux does: a link that is up holds its listen port in the namespace that it was born in, 0 is
a port of the kernel's choice, a peer's endpoint follows its packets, and allowed IPs come back in
an order of the kernel's own.
"""

from __future__ import annotations

from collections.abc import Iterable
from random import Random

from msgspec import Struct, structs

from rait.domain.backend import Observation, ObservedLink, Outcome
from rait.domain.events import (
    DeviceUpdated,
    Event,
    LinkAdded,
    LinkRemoved,
    LinkUpdated,
    PeerAdded,
    PeerRemoved,
    PeerUpdated,
)
from rait.domain.topology import Endpoint, Link, LinkPeer

EPHEMERAL: tuple[int, ...] = (50001, 50002, *range(40000, 40030))
"""Ports that the kernel chooses from; some of them peers may want too, as in life."""


class RefusedError(Exception):
    """What the kernel answers; ``holder`` is the link that has the port, if that is why."""

    def __init__(self, why: str, holder: str | None = None) -> None:
        super().__init__(why)
        self.holder = holder


class Wire(Struct):
    """A WireGuard link as the kernel has it. ``chosen`` tells a port that the kernel chose.

    ``maker`` is the configuration that made it, "" for others; the kernel does not tell it.
    """

    link: Link
    handshakes: dict[str, int]
    chosen: bool = False
    maker: str = ""


class Machine:
    """One target namespace, several transit ones, and a clock in seconds."""

    def __init__(self, seed: int) -> None:
        self.maker = ""
        self.now = 1_000_000
        self.wires: dict[str, Wire] = {}
        self.refusals: list[RefusedError] = []
        self._random = Random(seed)

    def observe(self) -> Observation:
        """The links as they are told: not by whom and where they were made, if that is hidden."""
        links = {
            name: ObservedLink(link=_as_told(wire.link), handshakes=dict(wire.handshakes))
            for name, wire in self.wires.items()
        }
        return Observation(now=self.now, links=links)

    def apply(self, events: Iterable[Event]) -> list[Outcome]:
        """Carry out events as a backend does; a link with one that is refused is left alone."""
        broken: set[str] = set()
        outcomes = []
        for index, event in enumerate(events):
            error = None
            try:
                if event.name in broken:
                    raise RefusedError("left alone")
                self.attempt(index, event)
            except RefusedError as refusal:
                self.refusals.append(refusal)
                broken.add(event.name)
                error = str(refusal)
            outcomes.append(Outcome(index, error))
        return outcomes

    def attempt(self, _: int, event: Event) -> None:
        """Carry out the event of this index. Raises RefusedError."""
        self.happen(event)

    def happen(self, event: Event) -> None:
        """One event. Raises RefusedError, and then nothing has changed."""
        if isinstance(event, LinkAdded):
            self._add(event.link, self.maker)
            return
        wire = self.wires[event.name]
        link = wire.link
        match event:
            case LinkRemoved():
                del self.wires[event.name]
            case LinkUpdated(name, _, settings):
                self.change_settings(name, **structs.asdict(settings))
            case DeviceUpdated(_, _, device):
                moves = event.before.listen_port != device.listen_port
                if not moves:
                    device = structs.replace(device, listen_port=link.device.listen_port)
                self._set(wire, structs.replace(link, device=device), rebind=moves)
            case PeerAdded(_, peer):
                assert link.peer(peer.public_key) is None
                put(wire, peer)
            case PeerRemoved(_, peer):
                assert link.peer(peer.public_key) is not None
                drop(wire, peer.public_key)
            case PeerUpdated(_, before, peer):
                current = peer_of(wire, peer.public_key)
                if before.endpoint == peer.endpoint:
                    peer = structs.replace(peer, endpoint=current.endpoint)
                put(wire, peer)

    def change_settings(self, name: str, **fields: object) -> None:
        wire = self.wires[name]
        settings = structs.replace(wire.link.settings, **fields)
        raised = settings.up and not wire.link.settings.up
        self._set(wire, structs.replace(wire.link, settings=settings), rebind=raised)

    def packet_from(self, name: str, public_key: str, endpoint: Endpoint | None) -> None:
        """A handshake was made; with an endpoint, from there."""
        wire = self.wires[name]
        wire.handshakes[public_key] = self.now
        peer = peer_of(wire, public_key)
        if endpoint is not None:
            put(wire, structs.replace(peer, endpoint=endpoint))

    def _add(self, link: Link, maker: str) -> None:
        if link.name in self.wires:
            raise RefusedError("EEXIST")
        down = structs.replace(link.settings, up=False)
        wire = Wire(structs.replace(link, settings=down), {}, maker=maker)
        self._set(wire, link, rebind=link.settings.up)
        self.wires[link.name] = wire

    def _set(self, wire: Wire, link: Link, rebind: bool) -> None:
        if rebind and link.settings.up:
            port = self._bind(link)
            wire.chosen = link.device.listen_port == 0 or (
                wire.chosen and port == wire.link.device.listen_port
            )
            link = structs.replace(link, device=structs.replace(link.device, listen_port=port))
        wire.link = link

    def _bind(self, link: Link) -> int:
        taken = {
            wire.link.device.listen_port: name
            for name, wire in self._everywhere()
            if name != link.name
            and wire.link.settings.up
            and wire.link.origin.transit == link.origin.transit
        }
        port = link.device.listen_port
        if port == 0:
            free = sorted(set(EPHEMERAL).difference(taken, self._own_port(link)))
            return free[self._random.randrange(len(free))]
        if port in taken:
            raise RefusedError("EADDRINUSE", taken[port])
        return port

    def _everywhere(self) -> Iterable[tuple[str | None, Wire]]:
        """All links, with the names of those in the target namespace."""
        return self.wires.items()

    def _own_port(self, link: Link) -> set[int]:
        """The old socket is there until the new one is."""
        wire = self.wires.get(link.name)
        return {wire.link.device.listen_port} if wire and wire.link.settings.up else set()


def _as_told(link: Link) -> Link:
    peers = tuple(
        structs.replace(peer, allowed_ips=tuple(reversed(peer.allowed_ips))) for peer in link.peers
    )
    hidden = link.origin.backend == "kernel"
    origin = structs.replace(link.origin, transit="") if hidden else link.origin
    return structs.replace(link, origin=origin, peers=peers)


def peer_of(wire: Wire, public_key: str) -> LinkPeer:
    peer = wire.link.peer(public_key)
    assert peer is not None
    return peer


def put(wire: Wire, new: LinkPeer) -> None:
    """Set a peer, in the place of the one with its key if there is one."""
    wire.link = wire.link.with_peers({p.public_key: p for p in (*wire.link.peers, new)})


def drop(wire: Wire, public_key: str) -> None:
    wire.handshakes.pop(public_key, None)
    peers = {peer.public_key: peer for peer in wire.link.peers}
    del peers[public_key]
    wire.link = wire.link.with_peers(peers)

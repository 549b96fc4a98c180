"""A model of a machine with WireGuard, simple enough to be believed.

It holds to the port in rait/domain/backend.py, where only what an event changes is written, and to
what Linux does: a link that is up holds its listen port in the namespace that it was born in, 0 is
a port of the kernel's choice, a peer's endpoint follows its packets, and allowed IPs come back in
an order of the kernel's own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from random import Random

from msgspec import Struct, structs

from rait.domain.backend import Observation, ObservedLink, Outcome, UnreadLink
from rait.domain.config.schema import PRIVATE_GROUPS
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
from rait.domain.topology import Device, Endpoint, Link, LinkPeer, LinkSettings

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
        self.others: dict[str, str] = {"lo": ""}
        self.refusals: list[RefusedError] = []
        self.hidden: set[str] = set()
        """Links that nobody can read."""
        self.private_key = ""
        """Whatever the digests of preshared keys are made with now."""
        self.psks: set[tuple[str, str]] = set()
        """The preshared keys that can be set, by peer and digest."""
        self._random = Random(seed)

    def observe(self) -> Observation:
        links = {
            name: ObservedLink(
                link=_as_told(wire.link, self.private_key), handshakes=dict(wire.handshakes)
            )
            for name, wire in self.wires.items()
            if name not in self.hidden
        }
        unread = {
            name: UnreadLink(wire.link.origin.netns, wire.link.settings.group, "it hangs")
            for name, wire in self.wires.items()
            if name in self.hidden
        }
        others = {**self.others, **dict.fromkeys(unread, "tun")}
        return Observation(now=self.now, links=links, unread=unread, others=others)

    def apply(
        self,
        events: Sequence[Event],
        fails: Callable[[int], bool],
        halves: Mapping[int, int] = {},
    ) -> list[Outcome]:
        """Carry out events as a backend does; those whose index ``fails`` are refused.

        Of those, the events at the indexes in ``halves`` are half done; see ``half_happen``.
        """
        broken: set[str] = set()
        outcomes = []
        for index, event in enumerate(events):
            error = None
            try:
                if event.name in broken:
                    raise RefusedError("left alone")
                if fails(index):
                    if index in halves:
                        self.half_happen(event, halves[index])
                    raise RefusedError("injected")
                self.happen(event)
            except RefusedError as refusal:
                self.refusals.append(refusal)
                broken.add(event.name)
                error = str(refusal)
            outcomes.append(Outcome(index, error))
        return outcomes

    def happen(self, event: Event) -> None:
        """One event. Raises RefusedError, and then nothing has changed."""
        if isinstance(event, LinkAdded):
            for peer in event.link.peers:
                self._refuse_unknown_psk(LinkPeer(""), peer)
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
                self._refuse_unknown_psk(LinkPeer(""), peer)
                assert link.peer(peer.public_key) is None
                _put(wire, peer)
            case PeerRemoved(_, peer):
                assert link.peer(peer.public_key) is not None
                _drop(wire, peer.public_key)
            case PeerUpdated(_, before, peer):
                current = _peer_of(wire, peer.public_key)
                if before.endpoint == peer.endpoint:
                    peer = structs.replace(peer, endpoint=current.endpoint)
                self._refuse_unknown_psk(before, peer)
                _put(wire, peer)

    def half_happen(self, event: Event, part: int) -> None:
        """Fail, or be killed, in the midst of an event; the bits of ``part`` say what was done.

        All of its writes may have been carried out, too, if only the answer to the last was lost.
        """
        if isinstance(event, LinkAdded):
            self._half_add(event.link, part)
            return
        wire = self.wires[event.name]
        try:
            match event:
                case LinkRemoved():
                    if part & 1:
                        del self.wires[event.name]
                    else:
                        self.change_settings(event.name, group=PRIVATE_GROUPS + 7)
                case LinkUpdated(_, before, after):
                    self._half_set(wire, before, after, part)
                case DeviceUpdated(_, before, after):
                    self._half_configure(wire, before, after, part)
                case PeerAdded(_, peer):
                    _put(wire, _half_peer(peer, part))
                case PeerRemoved(_, peer):
                    _drop(wire, peer.public_key)
                case PeerUpdated(_, before, after):
                    _half_update(wire, before, after, part)
        except RefusedError:
            pass  # then it was done up to there

    def _half_add(self, link: Link, part: int) -> None:
        if link.name in self.wires or link.name in self.others:
            return
        settings = structs.replace(link.settings, up=False)
        device = link.device if part & 1 else Device("")
        if not part & 2:
            settings = structs.replace(settings, address=None)
        # The kernel's WireGuard takes device and peers at once, a program takes its peers later.
        peers = tuple(_half_peer(peer, part) for peer in link.peers) if part & 5 == 5 else ()
        half = structs.replace(link, settings=settings, device=device, peers=peers)
        self.wires[link.name] = Wire(half, {}, maker=self.maker)

    def _half_set(self, wire: Wire, before: LinkSettings, after: LinkSettings, part: int) -> None:
        """In the order in which it is done: mtu and group, the VRF, up, and the address at last."""
        name = wire.link.name
        self.change_settings(name, mtu=after.mtu)
        if part & 1:
            self.change_settings(name, group=after.group)
        if part & 2 and after.master != before.master:
            self.change_settings(name, master=after.master, address=None, up=not part & 8)
        if part & 4 and after.up != before.up:
            self.change_settings(name, up=after.up, address=None)
        if part & 8 and after.address != before.address:
            self.change_settings(name, address=None)

    def _half_configure(self, wire: Wire, before: Device, after: Device, part: int) -> None:
        """The socket may be given up for one that is not to be had: then any port is left."""
        name = wire.link.name
        if part & 1 and after.fwmark != before.fwmark:
            self.change_device(name, fwmark=after.fwmark)
        if part & 2 and after.public_key != before.public_key:
            self.change_device(name, public_key=after.public_key)
        if part & 4 and after.listen_port != before.listen_port:
            port = after.listen_port if part & 8 else 0
            device = structs.replace(wire.link.device, listen_port=port)
            self._set(wire, structs.replace(wire.link, device=device), rebind=True)

    def change_settings(self, name: str, **fields: object) -> None:
        wire = self.wires[name]
        settings = structs.replace(wire.link.settings, **fields)
        raised = settings.up and not wire.link.settings.up
        self._set(wire, structs.replace(wire.link, settings=settings), rebind=raised)

    def change_device(self, name: str, **fields: object) -> None:
        wire = self.wires[name]
        device = structs.replace(wire.link.device, **fields)
        moves = device.listen_port != wire.link.device.listen_port
        self._set(wire, structs.replace(wire.link, device=device), rebind=moves)
        if moves:
            wire.chosen = False

    def packet_from(self, name: str, public_key: str, endpoint: Endpoint | None) -> None:
        """A handshake was made; with an endpoint, from there."""
        wire = self.wires[name]
        wire.handshakes[public_key] = self.now
        peer = _peer_of(wire, public_key)
        if endpoint is not None:
            _put(wire, structs.replace(peer, endpoint=endpoint))

    def set_psk(self, name: str, public_key: str, digest: str) -> None:
        """``wg set NAME peer KEY preshared-key``; the session lives on until its next handshake."""
        wire = self.wires[name]
        _put(wire, structs.replace(_peer_of(wire, public_key), psk_digest=digest))

    def add_link(self, link: Link) -> None:
        self._add(link, "")

    def is_fresh(self, name: str, public_key: str) -> bool:
        made = self.wires[name].handshakes.get(public_key, 0)
        return made > 0 and -180 <= self.now - made <= 180

    def _refuse_unknown_psk(self, before: LinkPeer, peer: LinkPeer) -> None:
        """Nobody who has but the digest of a preshared key can set it."""
        known = (peer.public_key, peer.psk_digest) in self.psks
        if peer.psk_digest not in ("", before.psk_digest) and not known:
            raise RefusedError("the preshared key is not known")

    def _add(self, link: Link, maker: str) -> None:
        if link.name in self.wires or link.name in self.others:
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


def _as_told(link: Link, private_key: str) -> Link:
    peers = tuple(
        structs.replace(
            peer,
            allowed_ips=tuple(reversed(peer.allowed_ips)),
            psk_digest=psk_digest(psk_of(peer.psk_digest), private_key),
        )
        for peer in link.peers
    )
    hidden = link.origin.backend == "kernel"
    origin = structs.replace(link.origin, transit="") if hidden else link.origin
    return structs.replace(link, origin=origin, peers=peers)


def psk_digest(psk: str, private_key: str) -> str:
    """The digest of a preshared key that is made with a private key; "" for none."""
    return psk and f"{psk}@{private_key}"


def psk_of(digest: str) -> str:
    """The preshared key itself, which only the model can tell."""
    return digest.partition("@")[0]


def _half_peer(peer: LinkPeer, part: int) -> LinkPeer:
    """A new peer of which not everything was written."""
    return structs.replace(
        peer,
        endpoint=peer.endpoint if part & 2 else None,
        keepalive=peer.keepalive if part & 4 else 0,
        allowed_ips=peer.allowed_ips if part & 8 else (),
    )


def _half_update(wire: Wire, before: LinkPeer, after: LinkPeer, part: int) -> None:
    if before.endpoint is not None and after.endpoint is None:
        _drop(wire, after.public_key)
        if part & 1:
            _put(wire, _half_peer(after, part))
        return
    written = {
        field: getattr(after, field)
        for field, bit in _BITS.items()
        if part & bit and getattr(after, field) != getattr(before, field)
    }
    if "allowed_ips" in written and not part & 8:
        written["allowed_ips"] = after.allowed_ips[:1]
    _put(wire, structs.replace(_peer_of(wire, after.public_key), **written))


_BITS = {"keepalive": 1, "endpoint": 2, "psk_digest": 2, "allowed_ips": 4}
"""Which bit says of a peer's field that it was written."""


def _peer_of(wire: Wire, public_key: str) -> LinkPeer:
    peer = wire.link.peer(public_key)
    assert peer is not None
    return peer


def _put(wire: Wire, new: LinkPeer) -> None:
    """Set a peer, in the place of the one with its key if there is one."""
    wire.link = wire.link.with_peers({p.public_key: p for p in (*wire.link.peers, new)})


def _drop(wire: Wire, public_key: str) -> None:
    wire.handshakes.pop(public_key, None)
    peers = {peer.public_key: peer for peer in wire.link.peers}
    del peers[public_key]
    wire.link = wire.link.with_peers(peers)

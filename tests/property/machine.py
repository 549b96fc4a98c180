"""The model of a machine in rait/testing/machine.py, with all that else may happen to a node.

Events are refused, or done by half. Links cannot be read, there are other interfaces, and
preshared keys, of which only digests are told.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping

from msgspec import structs

from rait.domain.backend import Observation, Outcome, UnreadLink
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
from rait.domain.topology import Device, Link, LinkPeer, LinkSettings
from rait.testing import machine
from rait.testing.machine import RefusedError, Wire, drop, peer_of, put


class Machine(machine.Machine):
    def __init__(self, seed: int) -> None:
        super().__init__(seed)
        self.others: dict[str, str] = {"lo": ""}
        self.hidden: set[str] = set()
        """Links that nobody can read."""
        self.private_key = ""
        """Whatever the digests of preshared keys are made with now."""
        self.psks: set[tuple[str, str]] = set()
        """The preshared keys that can be set, by peer and digest."""
        self._fails: Callable[[int], bool] = lambda _: False
        self._halves: Mapping[int, int] = {}

    def observe(self) -> Observation:
        seen = super().observe()
        links = {
            name: structs.replace(each, link=self._with_digests(each.link))
            for name, each in seen.links.items()
            if name not in self.hidden
        }
        unread = {
            name: UnreadLink(wire.link.origin.netns, wire.link.settings.group, "it hangs")
            for name, wire in self.wires.items()
            if name in self.hidden
        }
        others = {**self.others, **dict.fromkeys(unread, "tun")}
        return structs.replace(seen, links=links, unread=unread, others=others)

    def _with_digests(self, link: Link) -> Link:
        peers = tuple(
            structs.replace(p, psk_digest=psk_digest(psk_of(p.psk_digest), self.private_key))
            for p in link.peers
        )
        return structs.replace(link, peers=peers)

    def apply(
        self,
        events: Iterable[Event],
        fails: Callable[[int], bool] = lambda _: False,
        halves: Mapping[int, int] = {},
    ) -> list[Outcome]:
        """Carry out events as a backend does; those whose index ``fails`` are refused.

        Of those, the events at the indexes in ``halves`` are half done; see ``half_happen``.
        """
        self._fails, self._halves = fails, halves
        return super().apply(events)

    def attempt(self, index: int, event: Event) -> None:
        if self._fails(index):
            if index in self._halves:
                self.half_happen(event, self._halves[index])
            raise RefusedError("injected")
        super().attempt(index, event)

    def happen(self, event: Event) -> None:
        match event:
            case LinkAdded(link):
                for peer in link.peers:
                    self._refuse_unknown_psk(LinkPeer(""), peer)
            case PeerAdded(_, peer):
                self._refuse_unknown_psk(LinkPeer(""), peer)
            case PeerUpdated(_, before, peer):
                self._refuse_unknown_psk(before, peer)
        super().happen(event)

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
                    put(wire, _half_peer(peer, part))
                case PeerRemoved(_, peer):
                    drop(wire, peer.public_key)
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

    def change_device(self, name: str, **fields: object) -> None:
        wire = self.wires[name]
        device = structs.replace(wire.link.device, **fields)
        moves = device.listen_port != wire.link.device.listen_port
        self._set(wire, structs.replace(wire.link, device=device), rebind=moves)
        if moves:
            wire.chosen = False

    def set_psk(self, name: str, public_key: str, digest: str) -> None:
        """``wg set NAME peer KEY preshared-key``; the session lives on until its next handshake."""
        wire = self.wires[name]
        put(wire, structs.replace(peer_of(wire, public_key), psk_digest=digest))

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
        if link.name in self.others:
            raise RefusedError("EEXIST")
        super()._add(link, maker)


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
        drop(wire, after.public_key)
        if part & 1:
            put(wire, _half_peer(after, part))
        return
    written = {
        field: getattr(after, field)
        for field, bit in _BITS.items()
        if part & bit and getattr(after, field) != getattr(before, field)
    }
    if "allowed_ips" in written and not part & 8:
        written["allowed_ips"] = after.allowed_ips[:1]
    put(wire, structs.replace(peer_of(wire, after.public_key), **written))


_BITS = {"keepalive": 1, "endpoint": 2, "psk_digest": 2, "allowed_ips": 4}
"""Which bit says of a peer's field that it was written."""

"""What an event writes to a WireGuard device: no more than what it changes."""

from __future__ import annotations

from typing import TypeVar

from msgspec import Struct

from rait.domain.config.schema import NO_PSK, Psks, Secret
from rait.domain.errors import RaitError
from rait.domain.events import (
    DeviceUpdated,
    LinkAdded,
    PeerAdded,
    PeerEvent,
    PeerRemoved,
    PeerUpdated,
)
from rait.domain.topology import Endpoint, LinkPeer

_T = TypeVar("_T")


class PeerWrite(Struct, frozen=True):
    """What to write of one peer; a field that is None stays as it is.

    ``allowed_ips`` replace those of the peer. With ``update_only``, a peer that is not there is
    not made; ``remove`` takes the peer away. ``keepalive`` is in seconds, 0 for off.
    """

    public_key: str
    update_only: bool = False
    remove: bool = False
    psk: Secret | None = None
    endpoint: Endpoint | None = None
    keepalive: int | None = None
    allowed_ips: tuple[str, ...] | None = None


class DeviceWrite(Struct, frozen=True):
    """What to write of a device; a field that is None, or a peer not named, stays as it is.

    ``public_key`` stands for the private key to write, which is not in the domain.
    """

    public_key: str | None = None
    listen_port: int | None = None
    fwmark: int | None = None
    peers: tuple[PeerWrite, ...] = ()


NOTHING = DeviceWrite()


def write_of(event: LinkAdded | DeviceUpdated | PeerEvent, psks: Psks) -> DeviceWrite:
    """The fields that an event changes; for a new link, those that differ from a new device's.

    A field that an update does not change may have moved on meanwhile, as an endpoint does by
    roaming, or stand for a choice of the kernel, as port 0 does. Raises RaitError where a
    preshared key is to be set that is not among ``psks``: an event has no more than its digest.
    """
    match event:
        case LinkAdded(link):
            device = link.device
            return DeviceWrite(
                device.public_key,
                device.listen_port or None,
                device.fwmark or None,
                tuple(_whole(peer, psks) for peer in link.peers),
            )
        case DeviceUpdated(_, old, new):
            return DeviceWrite(
                _changed(old.public_key, new.public_key),
                _changed(old.listen_port, new.listen_port),
                _changed(old.fwmark, new.fwmark),
            )
        case PeerAdded(_, peer):
            return DeviceWrite(peers=(_whole(peer, psks),))
        case PeerRemoved(_, peer):
            return DeviceWrite(peers=(PeerWrite(peer.public_key, remove=True),))
        case PeerUpdated(_, before, after):
            return DeviceWrite(peers=_update(before, after, psks))


def _update(before: LinkPeer, after: LinkPeer, psks: Psks) -> tuple[PeerWrite, ...]:
    if before == after:
        return ()
    if before.endpoint is not None and after.endpoint is None:
        # WireGuard forgets an endpoint with its peer alone.
        return PeerWrite(before.public_key, remove=True), _whole(after, psks)
    update = PeerWrite(
        after.public_key,
        update_only=True,
        psk=_psk(before.psk_digest, after, psks),
        endpoint=_changed(before.endpoint, after.endpoint),
        keepalive=_changed(before.keepalive, after.keepalive),
        allowed_ips=_changed(before.allowed_ips, after.allowed_ips),
    )
    return (update,)


def _whole(peer: LinkPeer, psks: Psks) -> PeerWrite:
    """The write that adds a peer."""
    return PeerWrite(
        peer.public_key,
        psk=_psk("", peer, psks),
        endpoint=peer.endpoint,
        keepalive=peer.keepalive or None,
        allowed_ips=peer.allowed_ips,
    )


def _psk(before: str, peer: LinkPeer, psks: Psks) -> Secret | None:
    """The preshared key to write where the digest was ``before``; None if it stays."""
    if before == peer.psk_digest:
        return None
    if not peer.psk_digest:
        return NO_PSK
    if (psk := psks.get((peer.public_key, peer.psk_digest))) is None:
        raise RaitError(f"rait does not know the preshared key of peer {peer.public_key}")
    return psk


def _changed(before: _T, after: _T) -> _T | None:
    return after if after != before else None

"""What an event writes to a WireGuard device: no more than what it changes."""

from __future__ import annotations

from typing import Any

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
from rait.domain.topology import Device, Endpoint, LinkPeer


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
            writes = [write for peer in link.peers for write in _peer_writes(None, peer, psks)]
            return DeviceWrite(**_changes(Device(""), link.device), peers=tuple(writes))
        case DeviceUpdated(_, before, after):
            return DeviceWrite(**_changes(before, after))
        case PeerAdded(_, peer):
            return DeviceWrite(peers=_peer_writes(None, peer, psks))
        case PeerRemoved(_, peer):
            return DeviceWrite(peers=(PeerWrite(peer.public_key, remove=True),))
        case PeerUpdated(_, old, new):
            return DeviceWrite(peers=_peer_writes(old, new, psks))


def _peer_writes(before: LinkPeer | None, after: LinkPeer, psks: Psks) -> tuple[PeerWrite, ...]:
    """The writes that lead from one state of a peer to the other; None stands for no peer."""
    key = after.public_key
    if before is not None and before.endpoint is not None and after.endpoint is None:
        # WireGuard forgets an endpoint with its peer alone.
        return PeerWrite(key, remove=True), *_peer_writes(None, after, psks)
    changes = _changes(before or LinkPeer(key, allowed_ips=()), after)
    if "psk_digest" in changes:
        changes["psk"] = _psk(key, changes.pop("psk_digest"), psks)
    if before is not None and not changes:
        return ()
    return (PeerWrite(key, update_only=before is not None, **changes),)


def _psk(peer: str, digest: str, psks: Psks) -> Secret:
    if not digest:
        return NO_PSK
    if (psk := psks.get((peer, digest))) is None:
        raise RaitError(f"rait does not know the preshared key of peer {peer}")
    return psk


def _changes(before: Struct, after: Struct) -> dict[str, Any]:
    """The fields that differ, with their values in ``after``."""
    return {
        name: new
        for name in after.__struct_fields__
        if (new := getattr(after, name)) != getattr(before, name)
    }

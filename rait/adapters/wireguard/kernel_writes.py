"""What an event writes to a link or a peer that is there: no more than what changes."""

from __future__ import annotations

from typing import TypeVar

from msgspec import structs

from rait.adapters import keys
from rait.adapters.netlink import rtnl
from rait.adapters.netlink import wireguard as wg
from rait.adapters.netlink.socket import Request
from rait.domain.events import LinkUpdated, PeerAdded, PeerRemoved, PeerUpdated
from rait.domain.topology import Endpoint, LinkPeer

PeerEvent = PeerAdded | PeerRemoved | PeerUpdated
_T = TypeVar("_T")


def changed(before: _T, after: _T) -> _T | None:
    """The new value, or None where it is the old one."""
    return after if after != before else None


def link_requests(index: int, event: LinkUpdated, master: int | None) -> list[Request]:
    """The messages that change an interface, in order.

    ``master`` is the index of the new one, 0 for none, and None where it does not change.
    """
    before, after = event.before, event.after
    requests = []
    if before.address is not None and after.address != before.address:
        requests.append(rtnl.delete_address(index, before.address))
    if structs.replace(after, address=before.address) != before:
        requests.append(
            rtnl.set_link(
                index,
                up=changed(before.up, after.up),
                mtu=changed(before.mtu, after.mtu),
                group=changed(before.group, after.group),
                master=master,
            )
        )
    # Going down takes the address away, and a link that is up goes down to change its VRF.
    lost = master is not None or before.up != after.up
    if after.address is not None and (lost or after.address != before.address):
        requests.append(rtnl.add_address(index, after.address))
    return requests


def peer_writes(event: PeerEvent) -> list[wg.PeerWrite]:
    """What to write of a peer; nothing where nothing changes.

    Raises MachineError for a preshared key that is not at hand, and for an endpoint that is none.
    """
    if isinstance(event, PeerAdded):
        return [whole_peer(event.peer)]
    if isinstance(event, PeerRemoved):
        return [_without(event.peer)]
    before, after = event.before, event.after
    if before == after:
        return []
    if before.endpoint is not None and after.endpoint is None:
        # The kernel forgets an endpoint with its peer alone.
        return [_without(before), whole_peer(after)]
    flags = wg.WGPEER_F_UPDATE_ONLY
    networks: tuple[str, ...] = ()
    if after.allowed_ips != before.allowed_ips:
        flags |= wg.WGPEER_F_REPLACE_ALLOWEDIPS
        networks = after.allowed_ips
    endpoint = _checked(changed(before.endpoint, after.endpoint))
    keepalive = changed(before.keepalive, after.keepalive)
    psk = keys.psk_to_write(before.psk_digest, after.psk_digest)
    return [wg.PeerWrite(after.public_key, flags, endpoint, keepalive, networks, psk)]


def whole_peer(peer: LinkPeer) -> wg.PeerWrite:
    """A peer that is not there yet. Raises MachineError as ``peer_writes`` does."""
    keepalive = peer.keepalive or None
    psk = keys.psk_to_write("", peer.psk_digest)
    endpoint = _checked(peer.endpoint)
    return wg.PeerWrite(peer.public_key, 0, endpoint, keepalive, peer.allowed_ips, psk)


def _checked(endpoint: Endpoint | None) -> Endpoint | None:
    """An endpoint that can be written, so that one that cannot costs its own event alone."""
    if endpoint is not None:
        wg.encode_endpoint(endpoint)
    return endpoint


def _without(peer: LinkPeer) -> wg.PeerWrite:
    return wg.PeerWrite(peer.public_key, wg.WGPEER_F_REMOVE_ME | wg.WGPEER_F_UPDATE_ONLY)

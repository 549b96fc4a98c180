"""The registry: who the peers are and where each of them may be reached."""

from __future__ import annotations

from msgspec import Struct

from rait.domain.topology import Family


class PeerEndpoint(Struct, frozen=True, kw_only=True):
    """One address family in which a peer may be reached.

    ``send_port`` is the port that peer sends to, so it is the port we listen on. ``address`` is an
    IP address or host name, or None for a peer that cannot be reached first. ``path`` leads to
    the entry in the peers document, for messages.
    """

    address_family: Family
    send_port: int
    address: str | None = None
    path: tuple[str | int, ...] = ()


class Peer(Struct, frozen=True, kw_only=True):
    """One other node. ``public_key`` is canonical base64 of 32 bytes.

    ``endpoints`` are in the order of the registry. It may list several of one family, of which a
    link can have but one.
    """

    public_key: str
    endpoints: tuple[PeerEndpoint, ...] = ()
    name: str | None = None

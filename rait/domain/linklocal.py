"""The link-local address of each end of a link."""

from __future__ import annotations

from hashlib import blake2s

from rait.domain.topology import Family


def link_local(own_key: str, peer_key: str, family: Family) -> str:
    """The address of our end as ``fe80::…/64``: a stable function of both keys and the family.

    WireGuard interfaces have no hardware address for the kernel to make one from, and a routing
    daemon needs one. The two ends differ as the keys come in the order (own, peer).

    The first group of the interface identifier is never zero, so that the address has just one
    textual form (RFC 5952) and can be compared as text with what the kernel tells.
    """
    digest = blake2s(f"{own_key} {peer_key} {family}".encode(), digest_size=8).digest()
    n = int.from_bytes(digest, "big")
    groups = f"{n >> 48 | 0x8000:x}:{n >> 32 & 0xFFFF:x}:{n >> 16 & 0xFFFF:x}:{n & 0xFFFF:x}"
    return f"fe80::{groups}/64"

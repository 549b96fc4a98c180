"""The link-local address of each end of a link."""

from __future__ import annotations

from hashlib import blake2s

from rait.domain.config import Family


def link_local(own_key: str, peer_key: str, family: Family) -> str:
    """The address of our end as ``fe80::…/64``: a stable function of both keys and the family.

    WireGuard interfaces have no hardware address for the kernel to make one from, and a routing
    daemon needs one. The two ends differ as the keys come in the order (own, peer).

    The first group of the interface identifier is never zero, so that the address has just one
    textual form (RFC 5952) and can be compared as text with what the kernel tells.
    """
    digest = blake2s(f"{own_key} {peer_key} {family}".encode(), digest_size=8).digest()
    high, second, third, low = (int.from_bytes(digest[i : i + 2], "big") for i in (0, 2, 4, 6))
    return f"fe80::{high | 0x8000:x}:{second:x}:{third:x}:{low:x}/64"

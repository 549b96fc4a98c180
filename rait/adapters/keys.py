"""What is made of secret keys: the public key of a private one, the digest of a preshared one."""

from __future__ import annotations

from binascii import a2b_base64, b2a_base64

from rait.domain.config.schema import Secret
from rait.domain.digests import blake2b


def public_key(secret: Secret) -> str:
    """The public key of a private one, in canonical base64 (X25519, RFC 7748), as `wg pubkey`."""
    # 70 ms of import, so not before it is needed.
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

    raw = a2b_base64(secret.reveal())
    public = X25519PrivateKey.from_private_bytes(raw).public_key().public_bytes_raw()
    return b2a_base64(public, newline=False).decode("ascii")


PSK_DIGEST_BYTES = 8
"""Enough to tell one preshared key from another, and too few to find one by trying."""

UNKNOWN_PSK = "set"
"""Stands for any preshared key where there is no private key to make a digest with."""


def psk_digest(secret: Secret | None, peer: str, psk: bytes) -> str:
    """The digest of the preshared key of the peer with this public key: hex digits, "" for none.

    It is keyed (BLAKE2b, RFC 7693) with the node's private key: who has the journal, and not that
    key, cannot try which preshared key it belongs to, nor see that two peers have the same.
    WireGuard takes the all-zero key as none.
    """
    if not any(psk):
        return ""
    if secret is None:
        return UNKNOWN_PSK
    key = a2b_base64(secret.reveal())
    told = peer.encode() + b"\0" + psk
    return blake2b(told, digest_size=PSK_DIGEST_BYTES, key=key, person=b"rait psk").hexdigest()

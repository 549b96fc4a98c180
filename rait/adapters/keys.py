"""What is made of secret keys: the public key of a private one, the digest of a preshared one."""

from __future__ import annotations

from binascii import a2b_base64, b2a_base64

from msgspec import Struct

from rait.domain.config.schema import Secret
from rait.domain.digests import blake2b
from rait.domain.errors import MachineError


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


class KeyPair(Struct, frozen=True):
    """The node's key pair, as far as it is at hand: what only removes links needs no ``secret``."""

    secret: Secret | None
    public: str

    def secret_of(self, public_key: str | None) -> Secret | None:
        """The private key for a device that is to get this public one; None if it is to get none.

        Raises MachineError.
        """
        if public_key is None:
            return None
        if self.secret is None:
            raise MachineError("there is no private key to give it")
        if public_key != self.public:
            raise MachineError(
                f"it is to have public key {public_key}, "
                f"but the private key at hand belongs to {self.public}"
            )
        return self.secret

    def public_of(self, private: bytes) -> str:
        """The public key of a private one; "" for the all-zero key, which stands for none."""
        if not any(private):
            return ""
        # To derive a public key takes a library that is slow to load, and most devices have ours.
        own = None if self.secret is None else a2b_base64(self.secret.reveal())
        if own is not None and clamped(own) == clamped(private):
            return self.public
        return public_key(Secret(b2a_base64(private, newline=False).decode("ascii")))

    def psk_digest(self, peer: str, psk: bytes) -> str:
        """What stands for the preshared key of the peer with this public key."""
        return psk_digest(self.secret, peer, psk)


def clamped(private: bytes) -> bytes:
    """A private key of 32 bytes as X25519 uses it (RFC 7748, section 5): programs tell it so."""
    return bytes((private[0] & 0xF8, *private[1:31], private[31] & 0x7F | 0x40))

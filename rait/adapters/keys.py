"""Secret keys: new ones, and what rait derives of them: public keys, digests of preshared keys."""

from __future__ import annotations

import os
from binascii import a2b_base64, b2a_base64
from collections.abc import Container, Iterator

from msgspec import Struct

from rait.domain.config.keytext import KEY_BYTES, whole_keys
from rait.domain.config.schema import Secret
from rait.domain.digests import blake2b
from rait.domain.errors import MachineError


def public_key(secret: Secret) -> str:
    """The public key of a private key, in canonical base64, as `wg pubkey` has it (RFC 7748)."""
    # Imported here, as it takes 70 ms.
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

    raw = a2b_base64(secret.reveal())
    public = X25519PrivateKey.from_private_bytes(raw).public_key().public_bytes_raw()
    return b2a_base64(public, newline=False).decode("ascii")


def raw_key(text: str) -> bytes | None:
    """The bytes of a key, which may be the all-zero one; None for a text that is no key."""
    try:
        raw = a2b_base64(text, strict_mode=True)
    except ValueError:
        return None
    return raw if len(raw) == KEY_BYTES else None


def new_private_key() -> Secret:
    """A private key as `wg genkey` makes it."""
    return Secret(b2a_base64(clamped(os.urandom(KEY_BYTES)), newline=False).decode("ascii"))


def private_keys_of(public: Container[str | None], text: str) -> Iterator[tuple[int, str, str]]:
    """Each private key in a text that is one of these public keys' own.

    Gives where it begins, the private key, and the public one.
    """
    for offset, key in whole_keys(text):
        raw = a2b_base64(key)
        # What `wg genkey` makes is clamped (RFC 7748, section 5), and so is one key in 32.
        if clamped(raw) == raw and (owner := public_key(Secret(key))) in public:
            yield offset, key, owner


PSK_DIGEST_BYTES = 8
"""Enough to tell one preshared key from another, and too few to find one by trying."""

UNKNOWN_PSK = "set"
"""Stands for any preshared key where there is no private key to make a digest with."""


class KeyPair(Struct, frozen=True):
    """The node's key pair, and the preshared keys that can be set (Psks in schema.py).

    ``secret`` may be None in a run that only removes links.
    """

    secret: Secret | None
    public: str
    psks: dict[tuple[str, str], Secret] = {}

    def secret_of(self, public_key: str | None) -> Secret | None:
        """The private key to write to a device that shall have this public key; None for none.

        Raises MachineError where the node's private key is not at hand, or is a different one.
        """
        if public_key is None:
            return None
        if self.secret is None:
            raise MachineError("rait has no private key to give it")
        if public_key != self.public:
            raise MachineError(
                f"it is to have public key {public_key}, "
                f"but the private key in rait.conf belongs to {self.public}"
            )
        return self.secret

    def public_of(self, private: bytes) -> str:
        """The public key of a private key of 32 bytes; "" for the all-zero key, which is none."""
        if not any(private):
            return ""
        # Most devices have our own key. To derive another one takes a library that loads slowly.
        own = None if self.secret is None else a2b_base64(self.secret.reveal())
        if own is not None and clamped(own) == clamped(private):
            return self.public
        return public_key(Secret(b2a_base64(private, newline=False).decode("ascii")))

    def psk_digest(self, peer: str, psk: bytes) -> str:
        """The digest of the preshared key of the peer with this public key: hex, "" for none.

        The digest is keyed with the node's private key (BLAKE2b, RFC 7693). So whoever reads the
        journal, but lacks the private key, can neither test a guess of the preshared key, nor see
        whether two peers have equal ones. WireGuard takes the all-zero key as no key.
        """
        if not any(psk):
            return ""
        if self.secret is None:
            return UNKNOWN_PSK
        key = a2b_base64(self.secret.reveal())
        content = peer.encode() + b"\0" + psk
        digest = blake2b(content, digest_size=PSK_DIGEST_BYTES, key=key, person=b"rait psk")
        return digest.hexdigest()


def clamped(private: bytes) -> bytes:
    """A private key of 32 bytes as X25519 uses it (RFC 7748, section 5) and programs show it."""
    return bytes((private[0] & 0xF8, *private[1:31], private[31] & 0x7F | 0x40))

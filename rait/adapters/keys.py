"""Private keys: reading one from a file, and the public key that belongs to one.

Also the digest that stands for a peer's preshared key where the key itself must not be.
"""

from __future__ import annotations

from binascii import a2b_base64, b2a_base64
from hashlib import blake2b

from rait.adapters import source
from rait.adapters.texts import Read
from rait.domain.config import NO_PSK, Secret
from rait.domain.keytext import canonical_key
from rait.domain.problem import ConfigError, MachineError

MAX_KEY_FILE = 4096
"""More bytes than any file with one key has."""


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


def psk_to_write(before: str, after: str) -> Secret | None:
    """The preshared key that leads from one digest to another; None where nothing is to change.

    Raises MachineError for a key that somebody else has set, as rait knows only its digest.
    """
    if before == after:
        return None
    if after:
        raise MachineError("rait does not know the preshared key that the peer should have")
    return NO_PSK


def read_private_key(url: str, read: Read = source.read) -> Secret:
    """The private key in a file as `wg genkey` makes it.

    Raises SourceError where it cannot be read and ConfigError where it is no key; neither shows
    any of the content.
    """
    text = read(url, limit=MAX_KEY_FILE)
    try:
        return Secret(canonical_key(text))
    except ValueError as error:
        raise ConfigError(f"{source.display_name(url)}: the content {error}") from None

"""Private keys: reading one from a file, and the public key that belongs to one."""

from __future__ import annotations

from binascii import a2b_base64, b2a_base64

from rait.adapters import source
from rait.adapters.texts import Read
from rait.domain.config import Secret
from rait.domain.keytext import canonical_key
from rait.domain.problem import ConfigError

MAX_KEY_FILE = 4096
"""More bytes than any file with one key has."""


def public_key(secret: Secret) -> str:
    """The public key of a private one, in canonical base64 (X25519, RFC 7748), as `wg pubkey`."""
    # 70 ms of import, so not before it is needed.
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

    raw = a2b_base64(secret.reveal())
    public = X25519PrivateKey.from_private_bytes(raw).public_key().public_bytes_raw()
    return b2a_base64(public, newline=False).decode("ascii")


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

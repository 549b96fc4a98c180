"""A private key in a file of its own."""

from __future__ import annotations

from rait.adapters.config import source
from rait.adapters.config.texts import Read
from rait.domain.config.keytext import canonical_key
from rait.domain.config.schema import Secret
from rait.domain.errors import ConfigError

MAX_KEY_FILE = 4096
"""More bytes than any file with one key has."""


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

"""What an earlier run found of our own configuration and key, so that this one need not.

To parse, decode and check rait.conf, and to load a library for one public key, is most of what a
run with nothing to do would have to do. The private key is never kept, only where it stands in the
text; nor are URLs, which may hold a password.
"""

from __future__ import annotations

from contextlib import suppress

import msgspec
from msgspec import Struct, structs

from rait.adapters.config import cache_file, source
from rait.domain.config.keytext import is_key
from rait.domain.config.schema import Babeld, Config, Isolation, Secret, Transport

_CONFIG = "conf"
_KEY = "key"
_FORMAT = "1"
_FAILURES = (ValueError, TypeError, msgspec.MsgspecError)


class Known(Struct, frozen=True):
    """What a configuration said: with lines for the user about it, and where it names its key file.

    ``key_at`` is the first and the last but one character of the private key that it holds itself.
    """

    config: Config
    warnings: tuple[str, ...]
    key_place: str
    key_at: tuple[int, int] | None = None


def find_config(text: str, url: str) -> Known | None:
    """What the text behind this URL said before, with the private key."""
    content = cache_file.find(_CONFIG, *_made_from(text, url))
    try:
        known = None if content is None else msgspec.msgpack.decode(content, type=Known)
    except _FAILURES:
        return None
    if known is None or known.key_at is None:
        return known
    begin, end = known.key_at
    return structs.replace(
        known, config=structs.replace(known.config, private_key=Secret(text[begin:end]))
    )


def keep_config(text: str, url: str, known: Known) -> None:
    """Keep what the text says, unless that is more than a file may hold of it."""
    config = known.config
    if not all(source.is_path(each) for each in (url, config.peers, config.private_key_file or "")):
        return
    if config.private_key is not None:
        key = config.private_key.reveal()
        begin = text.find(key)
        if begin < 0:  # it is spelt in another way, with escapes
            return
        known = structs.replace(known, key_at=(begin, begin + len(key)))
    # Nobody reads the remarks, which may hold anything.
    bare = structs.replace(config, private_key=None, remarks={})
    with suppress(*_FAILURES):
        content = msgspec.msgpack.encode(structs.replace(known, config=bare))
        cache_file.keep(_CONFIG, content, *_made_from(text, url))


def find_public_key(secret: Secret) -> str | None:
    """The public key that belongs to a private one, if an earlier run derived it."""
    content = cache_file.find(_KEY, _FORMAT, secret.reveal())
    key = "" if content is None else content.decode("ascii", "replace")
    return key if is_key(key) else None


def keep_public_key(secret: Secret, public_key: str) -> None:
    """Keep the public key under a digest of the private one.

    The digest tells of the private key no more than the public key does, which the world knows:
    each can be worked out from the private key, and neither leads back to it.
    """
    cache_file.keep(_KEY, public_key.encode("ascii"), _FORMAT, secret.reveal())


def _made_from(text: str, url: str) -> tuple[str, ...]:
    # A rait under development may know other settings without another version.
    settings = (kind.__struct_fields__ for kind in (Config, Transport, Isolation, Babeld))
    return _FORMAT, repr(tuple(settings)), url, text

"""What an earlier run found of our configuration, our key and the peers, so that this one need not.

To parse, decode and check texts that seldom change, and to load a library for one public key, is
most of what a run with nothing to do would have to do. The private key is never kept, only where it
stands in the text; nor are URLs, which may hold a password.
"""

from __future__ import annotations

from collections.abc import Mapping

import msgspec
from msgspec import Struct, structs

from rait.adapters.config import cache_file, source
from rait.domain.config.keytext import is_key
from rait.domain.config.schema import Babeld, Config, Isolation, Peer, Secret, Transport
from rait.domain.errors import Path, Problem

_CONFIG = "conf"
_KEY = "key"
_PEERS = "peers"
_FORMAT = "2"
_PEERS_FORMAT = "3"


class KnownConfig(Struct, frozen=True):
    """What a configuration said: with lines for the user about it, and where it names its key file.

    ``key_at`` is the first and the last but one character of the private key that it holds itself.
    """

    config: Config
    warnings: tuple[str, ...]
    key_location: str
    key_at: tuple[int, int] | None = None


class KnownPeers(Struct, frozen=True):
    """What a peers list said, and what was wrong with it."""

    peers: tuple[Peer, ...]
    problems: tuple[Problem, ...]
    packed_lines: msgspec.Raw

    def lines(self) -> Mapping[Path, int] | None:
        """The lines of what is in the list, None where they were not known."""
        pairs = msgspec.msgpack.decode(self.packed_lines, type=list[tuple[Path, int]] | None)
        return None if pairs is None else dict(pairs)


def find_config(text: str, url: str) -> KnownConfig | None:
    """What the text behind this URL said before, with the private key."""
    known = cache_file.find(_CONFIG, KnownConfig, *_made_from(text, url))
    if known is None or known.key_at is None:
        return known
    begin, end = known.key_at
    config = structs.replace(known.config, private_key=Secret(text[begin:end]))
    return structs.replace(known, config=config)


def keep_config(text: str, url: str, known: KnownConfig) -> None:
    """Keep what the text says, unless that is more than a file may hold of it."""
    config = known.config
    if not all(source.is_path(each) for each in (url, config.peers, config.private_key_file or "")):
        return
    if config.private_key is not None:
        key = config.private_key.reveal()
        begin = text.find(key)
        # It may be spelt in another way, with escapes; or stand also where something is kept of.
        if begin < 0 or text.count(key.rstrip("=")) > 1:
            return
        known = structs.replace(known, key_at=(begin, begin + len(key)))
    # Nobody reads the remarks, which may hold anything.
    bare = structs.replace(config, private_key=None, remarks={})
    cache_file.keep(_CONFIG, structs.replace(known, config=bare), *_made_from(text, url))


def _made_from(text: str, url: str) -> tuple[str, ...]:
    # A rait under development may know other settings without another version.
    settings = (kind.__struct_fields__ for kind in (Config, Transport, Isolation, Babeld))
    return _FORMAT, repr(tuple(settings)), url, text


def find_public_key(secret: Secret) -> str | None:
    """The public key that belongs to a private one, if an earlier run derived it."""
    key = cache_file.find(_KEY, str, _FORMAT, secret.reveal())
    return key if key is not None and is_key(key) else None


def keep_public_key(secret: Secret, public_key: str) -> None:
    """Keep the public key under a digest of the private one.

    The digest tells of the private key no more than the public key does, which the world knows:
    each can be worked out from the private key, and neither leads back to it.
    """
    cache_file.keep(_KEY, public_key, _FORMAT, secret.reveal())


def find_peers(text: str, name: str) -> KnownPeers | None:
    """What the peers list of this name (which may tell its format) said before."""
    return cache_file.find(_PEERS, KnownPeers, _PEERS_FORMAT, name, text)


def keep_peers(
    text: str,
    name: str,
    peers: tuple[Peer, ...],
    problems: tuple[Problem, ...],
    lines: Mapping[Path, int] | None,
) -> None:
    """Keep what a peers list said, and the lines of what is in it, as far as they are known."""
    pairs = None if lines is None else list(lines.items())
    known = KnownPeers(peers, problems, msgspec.Raw(msgspec.msgpack.encode(pairs)))
    cache_file.keep(_PEERS, known, _PEERS_FORMAT, name, text)

"""What an earlier run made of rait.conf, the private key and the peers list, for the next run.

Without this, a run with nothing to do would mostly parse, decode and check texts that have not
changed, and import a library to derive one public key. The private key is never kept, only its
offset in the text; neither are URLs, which may hold a password.
"""

from collections.abc import Mapping

import msgspec
from msgspec import Struct, structs

from rait.adapters.config import cache_file, source
from rait.domain.config.keytext import is_key
from rait.domain.config.schema import (
    Babeld,
    Config,
    Isolation,
    Match,
    Peer,
    Policy,
    Secret,
    Transport,
    Watch,
)
from rait.domain.errors import Path, Problem

_CONFIG = "conf"
_KEY = "key"
_PEERS = "peers"
_FORMAT = "2"
_PEERS_FORMAT = "4"


class KnownConfig(Struct, frozen=True):
    """A decoded configuration, warnings about it, and where it names its private key file.

    ``key_at`` are the offsets of the begin and the end of a private key in the text of rait.conf.
    """

    config: Config
    warnings: tuple[str, ...]
    key_location: str
    key_at: tuple[int, int] | None = None


class KnownPeers(Struct, frozen=True):
    """The decoded peers of a list, the problems in it, and packed lines of what is in it."""

    peers: tuple[Peer, ...]
    problems: tuple[Problem, ...]
    packed_lines: msgspec.Raw

    def lines(self) -> Mapping[Path, int] | None:
        """The line of each thing in the list by its path; None if they were not scanned."""
        pairs = msgspec.msgpack.decode(self.packed_lines, type=list[tuple[Path, int]] | None)
        return None if pairs is None else dict(pairs)


def find_config(text: str, url: str) -> KnownConfig | None:
    """What ``keep_config`` stored for this text and URL, with the private key put back."""
    known = cache_file.find(_CONFIG, KnownConfig, *_made_from(text, url))
    if known is None or known.key_at is None:
        return known
    begin, end = known.key_at
    config = structs.replace(known.config, private_key=Secret(text[begin:end]))
    return structs.replace(known, config=config)


def keep_config(text: str, url: str, known: KnownConfig) -> None:
    """Keep a decoded configuration, unless it holds a URL, or a key that cannot be left out."""
    config = known.config
    if not all(source.is_path(each) for each in (url, config.peers, config.private_key_file or "")):
        return
    if config.private_key is not None:
        key = config.private_key.reveal()
        begin = text.find(key)
        # The text spells the key in another way, with escapes, or holds it in a second place, from
        # where it would be kept with the rest.
        if begin < 0 or text.count(key.rstrip("=")) > 1:
            return
        known = structs.replace(known, key_at=(begin, begin + len(key)))
    # rait does not use the remarks, which may hold anything.
    bare = structs.replace(config, private_key=None, remarks={})
    cache_file.keep(_CONFIG, structs.replace(known, config=bare), *_made_from(text, url))


def _made_from(text: str, url: str) -> tuple[str, ...]:
    # The names of all settings, as a rait under development changes them without a new version.
    settings = (
        kind.__struct_fields__
        for kind in (Config, Transport, Isolation, Babeld, Watch, Policy, Match)
    )
    return _FORMAT, repr(tuple(settings)), url, text


def find_public_key(secret: Secret) -> str | None:
    """The public key of a private key, if an earlier run derived it."""
    key = cache_file.find(_KEY, str, _FORMAT, secret.reveal())
    return key if key is not None and is_key(key) else None


def keep_public_key(secret: Secret, public_key: str) -> None:
    """Keep a public key under a digest of the private key.

    The digest gives away no more of the private key than the public key does, which is known to
    all: both are computed from the private key, and neither leads back to it.
    """
    cache_file.keep(_KEY, public_key, _FORMAT, secret.reveal())


def find_peers(text: str, name: str) -> KnownPeers | None:
    """What ``keep_peers`` stored for this text and name, whose suffix may tell the format."""
    return cache_file.find(_PEERS, KnownPeers, _PEERS_FORMAT, name, text)


def keep_peers(
    text: str,
    name: str,
    peers: tuple[Peer, ...],
    problems: tuple[Problem, ...],
    lines: Mapping[Path, int] | None,
) -> None:
    """Keep the decoded peers and problems of a list, and the lines, if they were scanned."""
    pairs = None if lines is None else list(lines.items())
    known = KnownPeers(peers, problems, msgspec.Raw(msgspec.msgpack.encode(pairs)))
    cache_file.keep(_PEERS, known, _PEERS_FORMAT, name, text)

"""Preshared keys: read from the files that policies name, or found by their digests.

A file that is of all peers is as much a part of the configuration as the private key is: without it
no run begins. A peer's own file concerns the links of this peer alone.
"""

from __future__ import annotations

import os.path
from binascii import a2b_base64
from collections.abc import Iterable, Iterator
from contextlib import suppress
from functools import cache
from itertools import chain

from rait.adapters.config import source
from rait.adapters.config.source import Read
from rait.adapters.keys import KeyPair, clamped
from rait.app.load import Loaded, Preshared, read_key
from rait.domain.config.schema import Peer, Psks, Secret
from rait.domain.config.templates import is_template, key_file_of, with_wildcards
from rait.domain.errors import ConfigError, RaitError, few
from rait.domain.plan import KeyFiles
from rait.domain.policy import key_files


def load_preshared(
    loaded: Loaded, key: KeyPair, peers: Iterable[Peer], *, read: Read = source.read
) -> Preshared:
    """Read the preshared keys of these peers; ``key`` is the node's own key pair.

    Raises ConfigError, with the place in rait.conf, where a file that is of all peers has none.
    """
    content = cache(lambda path: _read(path, key, read))
    for policy in loaded.config.policies:
        file = policy.preshared_key_file
        if file and not is_template(file):
            try:
                content(file)
            except RaitError as error:
                place = loaded.document().location((*policy.path, "preshared_key_file"))
                raise ConfigError(f"{place}: {error}") from None
    digests: dict[tuple[str, str], str] = {}
    errors: dict[tuple[str, str], str] = {}
    psks: dict[tuple[str, str], Secret] = {}
    paths = set[str]()
    for file, peer in key_files(loaded.config, peers):
        pair = file, peer.public_key
        try:
            path = key_file_of(file, peer)
            paths.add(path)
            psk = content(path)
        except (RaitError, ValueError) as error:
            errors[pair] = str(error)
            continue
        digest = key.psk_digest(peer.public_key, a2b_base64(psk.reveal()))
        digests[pair] = digest
        psks[peer.public_key, digest] = psk
    return Preshared(KeyFiles(digests, errors), psks, tuple(_exposed(paths)), frozenset(paths))


def find_preshared(loaded: Loaded, key: KeyPair, wanted: Iterable[tuple[str, str]]) -> Psks:
    """Those of the wanted preshared keys, as pairs of peer and digest, that a file still has."""
    found: dict[tuple[str, str], Secret] = {}
    left = set(wanted)
    for psk in _contents(loaded, key):
        raw = a2b_base64(psk.reveal())
        of_these = [(peer, digest) for peer, digest in left if key.psk_digest(peer, raw) == digest]
        found |= dict.fromkeys(of_these, psk)
        left.difference_update(of_these)
    return found


def _contents(loaded: Loaded, key: KeyPair) -> Iterator[Secret]:
    import glob  # here, as no `rait up` needs it

    files = {file for each in loaded.config.policies if (file := each.preshared_key_file)}
    patterns = (with_wildcards(file, glob.escape) for file in sorted(files))
    for path in chain.from_iterable(map(glob.iglob, patterns)):
        if os.path.isfile(path):
            with suppress(RaitError):
                yield _read(path, key, source.read)


def _read(path: str, key: KeyPair, read: Read) -> Secret:
    """The preshared key in a file as `wg genpsk` makes it; no error shows any of the content."""
    psk, name = read_key(path, read), source.display_name(path)
    raw = a2b_base64(psk.reveal())
    if key.secret is not None and clamped(raw) == clamped(a2b_base64(key.secret.reveal())):
        raise ConfigError(f"{name}: it holds this node's private key, not a preshared key")
    if psk.reveal() == key.public:
        raise ConfigError(f"{name}: it holds this node's public key, which is no secret")
    return psk


def _exposed(paths: Iterable[str]) -> Iterator[str]:
    names = sorted(source.display_name(p) for p in paths if source.readable_by_others(p))
    if names:
        yield f"others on this machine can read preshared keys: run `chmod 600` on {few(names)}"

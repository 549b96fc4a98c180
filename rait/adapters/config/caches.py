"""What an earlier run found out, in small files for the next run.

Without this, a run with nothing to do would mostly parse, decode and check texts that have not
changed, and import a library to derive one public key. The private key is never kept, only its
offset in the text; neither are URLs, which may hold a password.

The directory is of our user alone. A file's name is a digest of what its content was made from, and
it begins with a digest of its name and content. A damaged file counts as missing, and so does one
of another version of rait. No function here raises: without its cache files, rait is slower.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from typing import TypeVar

import msgspec
from msgspec import Struct, structs

from rait import __version__
from rait.adapters.config import source
from rait.domain.config import schema
from rait.domain.config.keytext import is_key
from rait.domain.config.schema import Config, Peer, Secret
from rait.domain.digests import blake2b
from rait.domain.errors import Path, Problem

_CONFIG, _KEY, _PEERS = "conf", "key", "peers"
_FORMAT = "2"
_PEERS_FORMAT = "4"

Content = TypeVar("Content")

KEPT, KEPT_BYTES = 64, 128 * 2**20
"""How many files of one kind are kept, and how much they hold, for all nodes on this machine: the
newest. A node writes one for each new text, and those of a large list take megabytes."""

_ROOT_CACHE = "/var/cache/rait"
_DIGEST_BYTES = 32
_FAILURES = (OSError, ValueError, TypeError, msgspec.MsgspecError)
_may_be_written = False


class KnownConfig(Struct, frozen=True):
    """A decoded configuration, and warnings about it.

    ``key_at`` are the offsets of the begin and the end of a private key in the text of rait.conf.
    """

    config: Config
    warnings: tuple[str, ...]
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
    known = find(_CONFIG, KnownConfig, *_made_from(text, url))
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
    keep(_CONFIG, structs.replace(known, config=bare), *_made_from(text, url))


def _made_from(text: str, url: str) -> tuple[str, ...]:
    # The names of all settings, as a rait under development changes them without a new version.
    kinds = (kind for kind in vars(schema).values() if isinstance(kind, type(Struct)))
    settings = [kind.__struct_fields__ for kind in kinds]
    return _FORMAT, repr(settings), url, text


def public_key(secret: Secret, derive: Callable[[Secret], str]) -> str:
    """The public key of a private key, derived unless an earlier run did that.

    It is kept under a digest of the private key. The digest gives away no more of that than the
    public key does, which is known to all: both are computed from the private key, and neither
    leads back to it.
    """
    found = find(_KEY, str, _FORMAT, secret.reveal())
    if found is None or not is_key(found):
        found = derive(secret)
        keep(_KEY, found, _FORMAT, secret.reveal())
    return found


def find_peers(text: str, name: str) -> KnownPeers | None:
    """What ``keep_peers`` stored for this text and name, whose suffix may tell the format."""
    return find(_PEERS, KnownPeers, _PEERS_FORMAT, name, text)


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
    keep(_PEERS, known, _PEERS_FORMAT, name, text)


@contextmanager
def keeping() -> Iterator[None]:
    """Let ``keep`` write files within this block.

    Outside of it, in commands that only look, cache files are read and none is written.
    """
    global _may_be_written
    before, _may_be_written = _may_be_written, True
    try:
        yield
    finally:
        _may_be_written = before


def find(kind: str, content: type[Content], *made_from: str) -> Content | None:
    """What ``keep`` stored for these texts; None if that is missing, damaged or not ours."""
    path = _path(kind, made_from)
    if path is None:
        return None
    with suppress(*_FAILURES):
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        with os.fdopen(fd, "rb") as file:
            digest, packed = file.read(_DIGEST_BYTES), file.read()
            if os.fstat(fd).st_uid == os.geteuid() and _seal(path, packed) == digest:
                return msgspec.msgpack.decode(packed, type=content)
    return None


def keep(kind: str, content: object, *made_from: str) -> None:
    """Store what was made from these texts, and remove all but the newest files of this kind."""
    path = _path(kind, made_from)
    if path is None or not _may_be_written:
        return
    new = f"{path}.{os.getpid()}"
    with suppress(*_FAILURES):
        packed = msgspec.msgpack.encode(content)
        try:
            fd = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_NOFOLLOW, 0o600)
            with os.fdopen(fd, "wb") as file:
                file.write(_seal(path, packed) + packed)
            os.replace(new, path)
        finally:
            with suppress(FileNotFoundError):
                os.unlink(new)
        _forget(os.path.dirname(path), kind)


def cache_directory() -> str | None:
    """The directory of the cache files, or None if others might write to it.

    Whoever writes to it decides who the peers are.
    """
    if os.geteuid() == 0:
        path = _ROOT_CACHE
    else:
        base = os.environ.get("XDG_CACHE_HOME") or os.environ.get("HOME", "") + "/.cache"
        path = os.path.join(base, "rait")
    return path if is_safe_directory(path) else None


def is_safe_directory(path: str) -> bool:
    """Make the directory if it is missing and may be made; whether it is safe from other users.

    It must be ours, closed to all others, no symbolic link, and in a directory where others cannot
    replace it.
    """
    if not os.path.isabs(path):
        return False
    above = os.path.dirname(path)
    try:
        if _may_be_written and not os.path.isdir(path):
            for directory in (above, path):
                with suppress(FileExistsError):
                    os.mkdir(directory, 0o700)
        own, parent = os.lstat(path), os.stat(above)
    except OSError:
        return False
    open_to_others = stat.S_IWGRP | stat.S_IWOTH
    sticky = bool(parent.st_mode & stat.S_ISVTX)
    return (
        stat.S_ISDIR(own.st_mode)
        and own.st_uid == os.geteuid()
        and not own.st_mode & 0o077
        and parent.st_uid in (0, os.geteuid())
        and (sticky or not parent.st_mode & open_to_others)
        and os.access(path, os.W_OK)
    )


def _path(kind: str, made_from: tuple[str, ...]) -> str | None:
    directory = cache_directory()
    if directory is None:
        return None
    # No text that rait reads holds a NUL, so different lists of texts give different wholes.
    whole = "\0".join((__version__, *made_from)).encode("utf-8", "surrogatepass")
    return os.path.join(directory, f"{_digest(whole).hex()}.{kind}")


def _seal(path: str, packed: bytes) -> bytes:
    """What a file begins with, so that neither its content nor its name can be another one."""
    return _digest(os.path.basename(path).encode("ascii") + packed)


def _digest(content: bytes) -> bytes:
    return blake2b(content, digest_size=_DIGEST_BYTES).digest()


def _forget(directory: str, kind: str) -> None:
    # Files that a killed run had not renamed yet have the kind within their names.
    files = [
        ((found := file.stat(follow_symlinks=False)).st_mtime_ns, found.st_size, file.path)
        for file in os.scandir(directory)
        if f".{kind}" in file.name
    ]
    left = KEPT_BYTES
    for number, (_, size, path) in enumerate(sorted(files, reverse=True)):
        left -= size
        if number >= KEPT or left < 0:
            with suppress(FileNotFoundError):
                os.unlink(path)

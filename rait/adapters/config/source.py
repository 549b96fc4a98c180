"""Reads the text behind a URL: a path, ``-`` for standard input, or a scheme of KINDS.

A kind of source over the network is a module that has ``fetch``; one that tells of changes by
itself has ``follow`` and ``publish`` too. The functions of these names here say what each has to
do. To add a kind is to write its module, and to name it in ``KINDS``.
"""

from __future__ import annotations

import os
import re
import stat
import sys
from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING, Any, BinaryIO, Protocol

from msgspec import structs

from rait.adapters.config.bounds import MAX_BYTES, MAX_SIGNATURE_BYTES
from rait.domain.config.keytext import is_key, without_whole_keys
from rait.domain.config.schema import is_live as is_live
from rait.domain.errors import SourceError
from rait.domain.signed import SIGN_IT

if TYPE_CHECKING:
    from rait.adapters.config.remote import News, Put, Tell, Version

_WEB = "rait.adapters.config.web"
_ETCD = "rait.adapters.config.etcd.registry"
KINDS = {"http": _WEB, "https": _WEB, "etcd": _ETCD, "etcds": _ETCD}
"""The module of each scheme. It is imported where it is used: httpx takes half a second."""

PLAIN = ("http", "etcd")
"""The schemes of those that come without TLS."""

STDIN = "-"
TIMEOUT = 20.0
"""Seconds for a whole transfer: name, connection, TLS, redirects and body."""


_files_alone = False


class Read(Protocol):
    """The type of ``read`` and ``Texts.read``."""

    def __call__(self, url: str, *, limit: int = ...) -> str:
        """Read the text behind a URL of at most ``limit`` bytes. Raises SourceError."""
        ...


def read(url: str, *, limit: int = MAX_BYTES) -> str:
    """The text behind a URL of at most ``limit`` bytes.

    Raises SourceError, which says what to do and never shows the credentials of a URL.
    """
    if is_remote(url):
        news: News = _module(url).fetch(url, limit)
        return news.text or ""
    name = display_name(url)
    raw = _read_stdin(limit) if url == STDIN else _read_file(url, name, limit)
    return as_text(raw, name, limit)


def fetch(url: str, known: Version, limit: int, signed: bool = False) -> News:
    """What a server has now, and, for a ``signed`` text, the signature beside it.

    The version ``known`` is not sent again. Raises SourceError as ``read`` does, within TIMEOUT.
    """
    news: News = _module(url).fetch(url, limit, known)
    return structs.replace(news, signature=read_signature(url)) if signed else news


async def follow(url: str, tell: Tell) -> None:
    """Read the text of a live source, and ``tell`` it; then each later one, until it is cancelled.

    News without a text say that the last one is the newest still. A SourceError that is told says
    why the newest text cannot be used; a later one may be. Raises SourceError where nothing is told
    any more, so that the text has to be read again.
    """
    await _module(url).follow(url, tell)


def publish(url: str, key: str, text: str | None, lease: int) -> Put:
    """Have this text as the entry of the node with this public key; None for no entry.

    The entry goes when its ``lease`` of so many seconds was not kept alive, which this does too; 0
    is for an entry that stays. What is as it should be is not written. Raises SourceError, which
    names the entry, within TIMEOUT, and where the source is no live one.
    """
    if not is_live(url):
        raise SourceError(
            f"{display_name(url)}: only a registry in etcd takes entries, as "
            "etcd://HOST:2379/PREFIX; write them into a file with `rait pub FILE`"
        )
    put: Put = _module(url).publish(url, key, text, lease)
    return put


def take_files_alone() -> None:
    """From now on refuse a path that leads to anything but a regular file.

    For a daemon, which would wait for ever for the other end of a pipe, or for a terminal.
    """
    global _files_alone
    _files_alone = True


def _module(url: str) -> Any:
    return import_module(KINDS[_scheme(url)])


def refuse_registry(url: str) -> None:
    """Raise SourceError for the URL of a source that has nothing but a peers list."""
    if is_live(url):
        raise SourceError(
            f"{display_name(url)}: rait reads no more than peers lists from etcd; give a path, or "
            "an https:// URL"
        )


def signature_of(url: str) -> str:
    """The URL of the signature of the text behind a URL."""
    if not is_remote(url):
        return f"{url}.minisig"
    from urllib.parse import urlsplit, urlunsplit

    parts = urlsplit(url)
    return urlunsplit(parts._replace(path=f"{parts.path}.minisig"))


def read_signature(url: str, read: Read = read) -> str:
    """The text of the signature beside the text behind a URL. Raises SourceError."""
    if url == STDIN:
        raise SourceError("standard input has no signature beside it: give the path of a file")
    if is_live(url):
        raise SourceError(
            f"{display_name(url)}: what is in etcd is not signed: TLS and roles say who may write"
        )
    try:
        return read(signature_of(url), limit=MAX_SIGNATURE_BYTES)
    except SourceError as error:
        raise SourceError(f"{error}; the list has to be signed: {SIGN_IT}") from None


def as_text(raw: bytes, name: str, limit: int) -> str:
    """The text in what was read of a source of this name. Raises SourceError."""
    if len(raw) > limit:
        raise SourceError(f"{name}: larger than {limit} bytes, the most that rait reads")
    try:
        text = raw.decode("utf-8").removeprefix("\ufeff")
    except UnicodeDecodeError as error:
        raise SourceError(_no_text(name, error.start)) from None
    if (nul := raw.find(0)) >= 0:
        # UTF-16 without a byte order mark, or what a crash left of a file.
        raise SourceError(_no_text(name, nul) + " (there is a NUL)")
    return text


def _no_text(name: str, offset: int) -> str:
    return f"{name}: not text in UTF-8 (byte {offset + 1}); is it the right file?"


def display_name(url: str) -> str:
    """A URL for messages, without user, password and query, which may be secret.

    A private key that stands in the place of a path is not shown either. A password with a / in it
    looks like a port and a path to others, and a URL without its scheme like a path, so a URL with
    a colon and then an @ in it is not shown.
    """
    if url == STDIN:
        return "standard input"
    if is_key(url):
        return "(left out: a key, not a path)"
    if not _scheme(url):
        like_credentials = "@" in url.partition(":")[2]
        return _NO_URL if like_credentials else without_whole_keys(url)
    from urllib.parse import urlsplit, urlunsplit

    try:
        parts = urlsplit(url)
    except ValueError:
        return _NO_URL
    hosts = parts.netloc.rpartition("@")[2]
    # The registries that people use have such paths: https://cdn.example/gh/me/mesh@main/peers.toml
    is_plain = parts.scheme in ("http", "https") and parts.netloc and ":" not in parts.netloc
    like_credentials = not is_plain and "@" in "".join(parts[2:])
    if like_credentials or not all(map(re.compile(_HOST).fullmatch, hosts.split(","))):
        return _NO_URL
    if is_live(url):
        # Its query names files, and its keys come after the path.
        return urlunsplit((parts.scheme, hosts, parts.path.rstrip("/"), "", ""))
    query = "..." if parts.query else ""
    return urlunsplit((parts.scheme, hosts, parts.path, query, ""))


_NO_URL = (
    "(left out: a URL that is not valid, or has a : before and an @ after a /; write %40 and %2F)"
)
_HOST = r"(?:\[[^]]*\]|[^:%]*)(?::[0-9]*)?"


def is_path(url: str) -> bool:
    """Whether a URL is a path in the file system."""
    return url != STDIN and not _scheme(url)


def _scheme(url: str) -> str:
    """The scheme of a URL in lower case (RFC 3986, section 3.1), "" where there is none."""
    scheme, found, _ = url.partition("://")
    bare = scheme.replace("+", "").replace("-", "").replace(".", "")
    is_scheme = found and scheme.isascii() and scheme[:1].isalpha() and bare.isalnum()
    return scheme.lower() if is_scheme else ""


def beside(url: str, other: str) -> str:
    """``url`` as written in the text ``other``: a relative path starts in the text's directory.

    Where ``other`` is no path, relative paths start in the working directory.
    """
    if not is_path(url) or not is_path(other):
        return url
    return os.path.join(os.path.dirname(other), url)


def readable_by_others(url: str) -> bool:
    """Whether a file's mode lets its group or all users read it; False for what is no file."""
    found = _file(url)
    return found is not None and bool(found.st_mode & (stat.S_IRGRP | stat.S_IROTH))


def writable_by_others(url: str) -> bool:
    """Whether users other than root and ours may change a file; False for what is no file."""
    found = _file(url)
    if found is None:
        return False
    is_open = found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
    return bool(is_open) or found.st_uid not in (0, os.geteuid())


def _file(url: str) -> os.stat_result | None:
    """What the system says of the regular file at a path; None for all else."""
    try:
        found = os.stat(url) if is_path(url) else None
    except (OSError, ValueError):
        return None
    return found if found is not None and stat.S_ISREG(found.st_mode) else None


def is_remote(url: str) -> bool:
    """Whether the text behind a URL comes over the network."""
    return _scheme(url) in KINDS


def is_plain(url: str) -> bool:
    """Whether the text behind a URL comes over the network without TLS."""
    return _scheme(url) in PLAIN


class Texts:
    """Reads texts as ``read`` does, and can tell later whether a file among them has changed.

    What gives its text only once (standard input, a pipe of the shell's ``<(...)``) is read once,
    and its text is kept. ``has_remote``: a text came over the network, so that only another
    transfer can show a change.
    """

    def __init__(self, fetch: Callable[[str, Version, int, bool], News] = fetch) -> None:
        self._fetch = fetch
        self._once: dict[str, str] = {}
        self._files: dict[str, tuple[int, str]] = {}
        self.has_remote = False

    def forget(self) -> None:
        """Forget the texts, except those that can be read only once."""
        self._files.clear()
        self.has_remote = False

    def read(self, url: str, *, limit: int = MAX_BYTES) -> str:
        """The text behind a URL of at most ``limit`` bytes. Raises SourceError."""
        if url in self._once:
            return self._once[url]
        again = _is_file(url)
        text = read(url, limit=limit)
        if again:
            self._files[url] = limit, text
        elif url == STDIN or is_path(url):
            self._once[url] = text
        else:
            self.has_remote = True
        return text

    def fetch(self, url: str, known: Version, limit: int, signed: bool = False) -> News:
        """What a server has now, as ``fetch`` gives it. Raises SourceError."""
        self.has_remote = True  # also if it fails: by the next time it may have succeeded
        return self._fetch(url, known, limit, signed)

    def unchanged(self) -> bool:
        """Whether each file that was read still holds what it held then."""
        return all(_holds(url, limit, text) for url, (limit, text) in self._files.items())


def _holds(url: str, limit: int, text: str) -> bool:
    try:
        return read(url, limit=limit) == text
    except SourceError:
        return False


def _is_file(url: str) -> bool:
    """Whether the URL is a path that can be read again: a regular file, or no file as yet."""
    if not is_path(url):
        return False
    try:
        return stat.S_ISREG(os.stat(url).st_mode)
    except (OSError, ValueError):
        return True  # reading it raises an error that says why


def _read_stdin(limit: int) -> bytes:
    stream: BinaryIO | None = getattr(sys.stdin, "buffer", None)
    if stream is None:
        raise SourceError("standard input is closed: give a path instead of -")
    try:
        return stream.read(limit + 1)
    except OSError as error:
        raise SourceError(f"standard input cannot be read: {error.strerror}") from None


def _read_file(path: str, name: str, limit: int) -> bytes:
    if not is_path(path):
        *others, last = (f"{each}://" for each in KINDS)
        known = ", ".join(("paths", "- (standard input)", *others))
        raise SourceError(f"{name}: rait reads {known} and {last}")
    try:
        with open(path, "rb", opener=_opened) as file:
            if _files_alone and not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                raise SourceError(f"{name}: it is not a regular file, as `rait watch` needs it")
            return file.read(limit + 1)
    except FileNotFoundError:
        raise SourceError(f"{name}: there is no such file") from None
    except PermissionError:
        raise SourceError(f"{name}: this user may not read it; run rait as root") from None
    except IsADirectoryError:
        raise SourceError(f"{name}: it is a directory; name a file in it") from None
    except OSError as error:
        raise SourceError(f"{name}: cannot be read: {error.strerror}") from None
    except ValueError:
        raise SourceError("a path must not hold a NUL byte") from None


def _opened(path: str, how: int) -> int:
    return os.open(path, how | os.O_NOCTTY | (os.O_NONBLOCK if _files_alone else 0))

"""What comes over the network: texts with their versions, and what became of an entry.

This is apart from what asks (web.py, etcd/), as a list that was kept is read without the network.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from msgspec import Struct

from rait.domain.digests import blake2b
from rait.domain.errors import NO_THREAD, SourceError

if TYPE_CHECKING:
    from concurrent.futures import Future

Result = TypeVar("Result")

HEARTBEAT = 10.0
"""Seconds: as long as all is well, a source that is followed tells something that often."""

CONDITIONS = ("If-None-Match", "If-Modified-Since")
_ETAG = re.compile(r'(?:W/)?"[!#-~]{0,256}"')
"""An entity tag (RFC 9110, section 8.8.3), of printable ASCII only: it is sent back."""
_MODIFIED = re.compile(r"[A-Z][a-z]{2}, [0-9]{2} [A-Z][a-z]{2} [0-9]{4} [0-9:]{8} GMT")


class Version(Struct, frozen=True):
    """Which version of a text a server sent; ``etag`` and ``modified`` are "" where it told none.

    ``url`` is a digest of the URL that sent it, after all redirections, as it may hold a token.
    ``revision`` is etcd's, 0 for any other source.
    """

    url: str = ""
    etag: str = ""
    modified: str = ""
    revision: int = 0

    def conditions(self, url: str) -> dict[str, str]:
        """The headers that ask this URL for any version but this one; none for another URL.

        A version may have been read from a file, so no header is made of what no server may send.
        """
        if self.url != url_digest(url):
            return {}
        texts = (as_etag(self.etag), as_modified(self.modified))
        return {name: text for name, text in zip(CONDITIONS, texts, strict=True) if text}


NO_VERSION = Version()


class News(Struct, frozen=True):
    """What a server has at ``at`` (unix nanoseconds): a text and its version.

    ``text`` is None for the version that the asker knows already. ``signature`` is the text of its
    signature, None if nobody asked for that.
    """

    text: str | None
    version: Version
    at: int
    signature: str | None = None


Tell = Callable[[News | SourceError], None]


class Put(Struct, frozen=True):
    """What became of an entry: the revision that made it so, and whether that ``is_new``.

    ``replaced`` is the revision of another entry that was in its place, 0 for none.
    """

    revision: int
    is_new: bool
    replaced: int = 0


def url_digest(url: str) -> str:
    """What tells a URL from others, in hex, without showing what is in it."""
    return blake2b(url.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def as_etag(text: str) -> str:
    """The text, if it is an entity tag that may be sent back; else ""."""
    return text if _ETAG.fullmatch(text) else ""


def as_modified(text: str) -> str:
    """The text, if it is a date that may be sent back; else ""."""
    return text if _MODIFIED.fullmatch(text) else ""


def in_daemon(work: Callable[[], Result], name: str) -> Future[Result]:
    """What ``work`` comes to, done in a thread of this name, which nothing has to wait for.

    Nothing can interrupt the look-up of a name, and a server may drip bytes for ever. The thread is
    a daemon, so that it never keeps the process from ending. Raises SourceError where the system
    starts no thread.
    """
    import threading
    from concurrent.futures import Future

    future: Future[Result] = Future()
    future.set_running_or_notify_cancel()

    def run() -> None:
        try:
            future.set_result(work())
        except BaseException as error:  # noqa: BLE001 - it is for whoever waits
            future.set_exception(error)

    try:
        threading.Thread(target=run, name=name, daemon=True).start()
    except RuntimeError:
        raise SourceError(NO_THREAD) from None
    return future

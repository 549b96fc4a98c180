"""The last good peers list that came from a URL, in a file beside the journal.

A cache may be emptied at any time, and a list that is to bring a node up while its registry is out
of reach must not be. So each configuration has one file of its own, that only its user can read:
a digest in the first line, in the second one as JSON where the list is from, then the list as it
was sent. The time of the file's last change is when the server last said that the list is the
newest.

What is read back was perhaps damaged, or put there by somebody else. A file counts only if it is
ours, closed to all others, no symbolic link, and has the digest of its name and content; any other
file counts as missing. The URL may hold a password, so the file has no more than its digest.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable

import msgspec
from msgspec import Struct, structs

from rait.adapters.config.bounds import MAX_BYTES
from rait.adapters.config.remote import NO_VERSION, News, Version, url_digest
from rait.adapters.config.source import Read
from rait.adapters.output import read_own_file, replace_file
from rait.domain.config.schema import SECOND
from rait.domain.digests import blake2b

_MOST = MAX_BYTES + 64 * 1024
_REWRITTEN = 3600 * SECOND
"""No more often than this is a file written again for the sake of its version alone."""

_NONE = News("", NO_VERSION, 0)

Fetch = Callable[[str, Version, int, bool], News]
"""As ``source.fetch``."""


class About(Struct, frozen=True):
    """The second line: a digest of the URL, the list's version, and when the file was written.

    ``signature`` is the text of its signature, "" if it needed none.
    """

    asked: str
    version: Version
    written_at: int
    signature: str = ""


class Kept(Struct, frozen=True):
    """A list that was kept; at ``news.at`` it was the server's newest."""

    news: News
    written_at: int

    def reading(self, whole: str) -> Read:
        """What reads this list behind its URL ``whole``, and its signature behind any other."""

        def read(url: str, *, limit: int = MAX_BYTES) -> str:  # noqa: ARG001 - it is bounded
            return (self.news.text if url == whole else self.news.signature) or ""

        return read


class PeersList:
    """The peers list of a URL, and the file at ``path`` in which the last good one is kept.

    ``kept`` is that list. Where it is None, ``absence`` says why. A ``signed`` list comes with its
    signature.
    """

    def __init__(self, path: str, url: str, fetch: Fetch, *, signed: bool = False) -> None:
        self.kept: Kept | None = None
        self.absence = ""
        self._path = path
        self._url, self._asked = url, url_digest(url)
        self._fetch = fetch
        self._signed = signed
        self._news = _NONE
        try:
            self.kept = self._found()
        except FileNotFoundError:
            self.absence = "no list was kept yet"
        except (OSError, ValueError, msgspec.MsgspecError) as error:
            reason = error.strerror if isinstance(error, OSError) else str(error)
            self.absence = f"{path} cannot be used: {reason}"

    def read(self, url: str, *, limit: int = MAX_BYTES) -> str:
        """The newest list: the server's, or a kept one that is newer. Raises SourceError.

        After that, it gives the signature of that list for any other URL.
        """
        if url != self._url:
            return self._news.signature or ""
        known = _NONE if self.kept is None else self.kept.news
        now = time.time_ns()
        news = self._fetch(url, known.version, limit, self._signed)
        if news.at < known.at <= now:
            news = known  # it is of some time ago, and another run has asked since
        text = known.text if news.text is None else news.text
        self._news = structs.replace(news, text=text, signature=news.signature or "")
        return text or ""

    @property
    def revision(self) -> int:
        """That of the list which ``read`` gave, 0 if its source has none."""
        return self._news.version.revision

    def forget(self, why: str) -> None:
        """Take the kept list for missing, as it must not be used."""
        self.kept, self.absence = None, why

    def keep(self) -> None:
        """Keep the list that ``read`` gave. For the holder of the lock alone.

        Of a list that is kept already, only the file's time changes. Raises OSError.
        """
        new, kept = self._news, self.kept
        whole = new.text, new.signature
        if kept is not None and (kept.news.text, kept.news.signature) == whole:
            is_recent = 0 <= new.at - kept.written_at < _REWRITTEN
            if kept.news.version == new.version or is_recent:
                os.utime(self._path, ns=(new.at, new.at), follow_symlinks=False)
                return
        self._write(About(self._asked, new.version, new.at, new.signature or ""))

    def _found(self) -> Kept:
        raw, confirmed_at = read_own_file(self._path, _MOST)
        digest, _, content = raw.partition(b"\n")
        head, _, text = content.partition(b"\n")
        if digest != self._digest(content):
            raise ValueError("it is damaged")
        about = msgspec.json.decode(head, type=About)
        if about.asked != self._asked:
            raise ValueError("it is of another URL")
        news = News(text.decode(), about.version, confirmed_at, about.signature)
        return Kept(news, about.written_at)

    def _write(self, about: About) -> None:
        content = msgspec.json.encode(about) + b"\n" + (self._news.text or "").encode()
        whole, new = self._digest(content) + b"\n" + content, f"{self._path}.new"
        replace_file(self._path, whole, new=new, mode=0o600, at=about.written_at)

    def _digest(self, content: bytes) -> bytes:
        whole = os.fsencode(os.path.basename(self._path)) + b"\n" + content
        return blake2b(whole, digest_size=32).hexdigest().encode("ascii")

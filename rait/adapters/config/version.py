"""Which version of a text a server sent, to ask it later for any other.

This is apart from what asks (web.py), as a list that was kept is read without the network.
"""

from __future__ import annotations

import re

from msgspec import Struct

from rait.domain.digests import blake2b

_ETAG = re.compile(r'(?:W/)?"[!#-~]{0,256}"')
"""An entity tag (RFC 9110, section 8.8.3), of printable ASCII only: it is sent back."""
_MODIFIED = re.compile(r"[A-Z][a-z]{2}, [0-9]{2} [A-Z][a-z]{2} [0-9]{4} [0-9:]{8} GMT")
CONDITIONS = ("If-None-Match", "If-Modified-Since")


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


def url_digest(url: str) -> str:
    """What tells a URL from others, in hex, without showing what is in it."""
    return blake2b(url.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def as_etag(text: str) -> str:
    """The text, if it is an entity tag that may be sent back; else ""."""
    return text if _ETAG.fullmatch(text) else ""


def as_modified(text: str) -> str:
    """The text, if it is a date that may be sent back; else ""."""
    return text if _MODIFIED.fullmatch(text) else ""

"""The port to all that a peers list may come from over the network: one module for each kind.

A kind of source is a module that has ``fetch``; one that tells of changes by itself has ``follow``
and ``publish`` too. To add a kind is to write its module, and to name it in ``KINDS``.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from typing import TYPE_CHECKING, Protocol, cast

from msgspec import Struct

from rait.domain.errors import SourceError

if TYPE_CHECKING:
    from rait.adapters.config.version import Version

Display = Callable[[str], str]
"""Makes a URL fit for messages."""

_WEB = "rait.adapters.config.web"
_ETCD = "rait.adapters.config.etcd.registry"
KINDS = {"http": _WEB, "https": _WEB, "etcd": _ETCD, "etcds": _ETCD}
"""The module of each scheme. It is imported where it is used: httpx takes half a second."""

PLAIN = ("http", "etcd")
"""The schemes of those that come without TLS."""


class Answer(Struct, frozen=True):
    """What a source has; ``body`` is None where the version that is known is still the newest."""

    body: bytes | None
    version: Version


Tell = Callable[[Answer | SourceError], None]

HEARTBEAT = 10.0
"""Seconds: as long as all is well, a source that is followed tells something that often."""


class Remote(Protocol):
    """A source that can be read."""

    def fetch(
        self,
        url: str,
        display: Display,
        timeout: float,
        limit: int,
        known: Version = ...,
    ) -> Answer:
        """The list of up to ``limit`` bytes; ``timeout`` is in seconds, and bounds all of it.

        ``known`` is the version that the caller has. Raises SourceError, which names the URL.
        """
        ...


class Put(Struct, frozen=True):
    """What became of an entry: the revision that made it so, and whether that ``is_new``.

    ``replaced`` is the revision of another entry that was in its place, 0 for none.
    """

    revision: int
    is_new: bool
    replaced: int = 0


class Live(Remote, Protocol):
    """A source that tells of changes, and takes the entries of nodes."""

    async def follow(self, url: str, display: Display, limit: int, tell: Tell) -> None:
        """Read the list, and ``tell`` it; then tell each later one, until it is cancelled.

        An Answer without a body says that the last one is the newest still. A SourceError that is
        told says why the newest list cannot be used; a later one may be. Raises SourceError where
        nothing is told any more, so that the list has to be read again.
        """
        ...

    def publish(
        self, url: str, display: Display, timeout: float, key: str, text: str | None, lease: int
    ) -> Put:
        """Have this text as the entry of the node with this public key; None for no entry.

        The entry goes when its ``lease`` of so many seconds was not kept alive, which this does
        too; 0 is for an entry that stays. What is as it should be is not written. Raises
        SourceError, which names the entry, within ``timeout`` seconds.
        """
        ...


def remote(scheme: str) -> Remote:
    """The module of a scheme in KINDS."""
    return cast("Remote", import_module(KINDS[scheme]))


def live(scheme: str) -> Live:
    """The module of a scheme in LIVE (schema.py)."""
    return cast("Live", import_module(KINDS[scheme]))

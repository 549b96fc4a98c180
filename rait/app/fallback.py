"""The peers list from a URL: the newest, or the last good one where there is none that can be used.

Whatever is wrong with the newest list, the node must be able to boot: the server may be out of
reach, or send an error, an answer that is cut off, or a list that `rait up` refuses. The one
exception is a list with this node's private key in it, as that key is of no use any more.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import TYPE_CHECKING

from msgspec import structs

from rait.adapters.config import source
from rait.adapters.config.kept import Kept, PeersList
from rait.adapters.config.source import Texts
from rait.adapters.keys import KeyPair
from rait.app.load import Loaded, LoadedPeers, PublishedKeyError, load_registry
from rait.app.moments import written
from rait.app.scopes import beside
from rait.domain.config.schema import Fallback
from rait.domain.errors import SourceError
from rait.domain.fallback import OldList, age_of, may_stand_in

if TYPE_CHECKING:
    from rait.app.signed import Trust

_MAX_WHY = 500
"""Characters of an error that the journal gets: the server chose a part of them."""

Load = Callable[[source.Read], LoadedPeers]


def kept_list(loaded: Loaded, public_key: str, conf: str) -> Kept | None:
    """The last good peers list that came from the URL, if it was kept. Nothing is downloaded."""
    path = beside(loaded.config.journal, "peers", conf, public_key)
    return PeersList(path, loaded.config.peers, source.fetch).kept


def load_from_web(
    loaded: Loaded,
    key: KeyPair,
    texts: Texts,
    conf: str,
    trust: Trust | None = None,
) -> LoadedPeers:
    """Load the peers list from its URL, or the kept one, as ``load_registry`` does.

    ``conf`` names the configuration, and ``trust`` is in who may sign the list. Raises SourceError
    where neither can be used.
    """
    path = beside(loaded.config.journal, "peers", conf, key.public)
    found = PeersList(path, loaded.config.peers, texts.fetch, signed=trust is not None)
    if trust is not None and found.kept is not None:
        # Whoever put it there, it must neither stand in, nor pass for what the server has still.
        news = found.kept.news
        try:
            trust.check(loaded.config.peers, news.text or "", news.signature or "")
        except SourceError as error:
            found.forget(f"the one that was kept is refused: {error}")

    def load(read: source.Read) -> LoadedPeers:
        return load_registry(loaded, key, read=read, trust=trust)

    try:
        peers = load(found.read)
    except PublishedKeyError:
        raise
    except SourceError as error:
        if loaded.config.peers_fallback is None:
            raise
        try:
            allowed = loaded.config.peers_fallback
            return _standing_in(found, loaded.config.peers, allowed, load, str(error))
        except SourceError as second:
            raise SourceError(f"{error}; and no older list can stand in: {second}") from None
    return structs.replace(peers, keep=found.keep, revision=found.revision)


def _standing_in(
    found: PeersList, url: str, allowed: Fallback, load: Load, why: str
) -> LoadedPeers:
    """The kept list, as there is no newer one. Raises SourceError where it may not stand in."""
    kept = found.kept
    if kept is None:
        raise SourceError(found.absence)
    age, confirmed = age_of(kept.news.at, time.time_ns()), written(kept.news.at)
    old = OldList(age, confirmed, why[:_MAX_WHY])
    if not may_stand_in(age, allowed):
        raise SourceError(old.refusal)
    peers = load(kept.reading(url))
    return structs.replace(peers, old=old, revision=kept.news.version.revision)

"""Which host names answered the last time, so that they are looked up first the next time.

Only a list with more names than rait looks up at a time needs this; see resolve.py.
"""

from __future__ import annotations

from hashlib import sha256
from pathlib import Path

import msgspec
from msgspec import Struct

from rait.adapters.config import cache_file
from rait.adapters.config.cache_file import cache_directory
from rait.adapters.config.resolve import WORKERS, Host, LookUp

KEPT = 8
"""So many lists' names are kept: the newest of all nodes on this machine."""

_FORMAT = "1"
_SUFFIX = ".names"


class _Last(Struct, frozen=True):
    answered: frozenset[Host] = frozenset()
    failed: frozenset[Host] = frozenset()


def in_order(names: list[Host], source: str) -> list[Host]:
    """The names of this list as they are to be looked up: those that answered the last time, then
    those that were not asked, then those that failed; each in the order of the list.
    """
    if len(names) <= WORKERS:
        return names
    last = _last(source)
    return sorted(names, key=lambda host: (host not in last.answered) + (host in last.failed))


def keep(source: str, answer: LookUp) -> None:
    """Keep which names of this list answered, for ``in_order``. Never fails."""
    path = _path(source)
    if len(answer.names) <= WORKERS or path is None:
        return
    names = frozenset(answer.names)
    answered = names & answer.addresses.keys()
    now = _Last(answered, names - answered - answer.unasked)
    if now != _last(source):
        cache_file.write(path, msgspec.msgpack.encode(now), KEPT)


def _last(source: str) -> _Last:
    path = _path(source)
    content = cache_file.read(path) if path is not None else None
    try:
        return _Last() if content is None else msgspec.msgpack.decode(content, type=_Last)
    except msgspec.MsgspecError:
        return _Last()


def _path(source: str) -> Path | None:
    directory = cache_directory()
    if directory is None:
        return None
    key = f"{_FORMAT}\0{source}".encode("utf-8", "surrogatepass")
    return directory / (sha256(key).hexdigest() + _SUFFIX)

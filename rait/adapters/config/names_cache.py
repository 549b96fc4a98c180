"""Which host names answered the last time, so that they are looked up first the next time.

Only a list with more names than rait looks up at a time needs this; see resolve.py.
"""

from __future__ import annotations

import msgspec
from msgspec import Struct

from rait.adapters.config import cache_file
from rait.adapters.config.resolve import WORKERS, Host, LookUp

_KIND = "names"
_FORMAT = "2"


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
    if len(answer.names) <= WORKERS:
        return
    names = frozenset(answer.names)
    answered = names & answer.addresses.keys()
    now = _Last(answered, names - answered - answer.unasked)
    if now != _last(source):
        cache_file.keep(_KIND, msgspec.msgpack.encode(now), _FORMAT, source)


def _last(source: str) -> _Last:
    content = cache_file.find(_KIND, _FORMAT, source)
    try:
        return _Last() if content is None else msgspec.msgpack.decode(content, type=_Last)
    except msgspec.MsgspecError:
        return _Last()

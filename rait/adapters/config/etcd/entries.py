"""What is under a key of etcd, as a line of a peers list in JSON.

A key is the prefix and the public key of the node whose entry it is, so who may write one key can
speak for one node alone. The value is that node's entry, in JSON, TOML or HCL: as an object, or as
a whole peers list with entries of that node, as `rait pub` prints them. A value that is none of
these costs its node alone, as in any list: its line says what is wrong.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import msgspec

from rait.adapters import keys
from rait.adapters.config import formats
from rait.adapters.config.bounds import MAX_DEPTH
from rait.domain.config.decode_peers import LISTS
from rait.domain.config.decoding import key_id
from rait.domain.config.keytext import canonical_key, is_key, shown
from rait.domain.entry import plain
from rait.domain.errors import SourceError

MAX_VALUE = 16 * 1024
"""Bytes of a value, and of its line: far more than the entry of a node has."""

MAX_ITEMS = 1000
"""Commas and opening brackets of a line. Like its bytes, they are few enough that hundreds of nodes
together cannot make the list larger than rait reads, which would cost all the others."""

_PUBLISHED = (
    "the value holds the private key of this very node, so everyone who can read it knows that "
    "key: make a new one with `rait genkey`, and delete this key of the registry"
)

_KEY, _WHY = "public_key", "unreadable"
"""The keys of an entry that cannot be read, as decode_peers has them."""


def line_of(key: str, value: bytes) -> str:
    """The line of what is under ``key``, the part of a key after the prefix."""
    try:
        entries = [_entry(key, each) for each in _entries(key, value)]
        line = ", ".join(msgspec.json.encode(entry).decode() for entry in entries)
        _check_size(line, _depth(entries))
        return line
    except (SourceError, ValueError, RecursionError) as error:
        why = "it is nested too deep" if isinstance(error, RecursionError) else str(error)
        if any(keys.private_keys_of((key,), value[:MAX_VALUE].decode(errors="replace"))):
            why = _PUBLISHED
        whose = {_KEY: key} if is_key(key) else {}
        return msgspec.json.encode({**whose, _WHY: why}).decode()


def _entries(key: str, value: bytes) -> list[Any]:
    if not is_key(key) or canonical_key(key) != key:
        raise ValueError(
            f"the key {shown(key)} does not end in a public key alone, as `rait pub --to` writes it"
        )
    if len(value) > MAX_VALUE:
        raise ValueError(f"the value is larger than {MAX_VALUE} bytes, the most that rait reads")
    try:
        data = formats.parse(value.decode(), "the value").data
    except UnicodeDecodeError:
        raise ValueError("the value is not text in UTF-8") from None
    lists = [found for spelt, found in data.items() if key_id(str(spelt)) in LISTS]
    if not lists:
        return [data]
    found = [each for found in lists for each in (found if isinstance(found, list) else [found])]
    if not found:
        raise ValueError("the list in the value has no entry")
    return found


def _check_size(line: str, depth: int) -> None:
    """Raise ValueError for an entry that could cost more than its own node."""
    if len(line.encode()) > MAX_VALUE:
        raise ValueError(f"the value is larger than {MAX_VALUE} bytes as JSON")
    if sum(map(line.count, ",[{")) > MAX_ITEMS:
        raise ValueError(f"the value has more than {MAX_ITEMS} items, the most that rait reads")
    if depth > MAX_DEPTH:
        raise ValueError("it is nested too deep")


def _depth(value: object) -> int:
    inside = list(value.values()) if isinstance(value, Mapping) else value
    return 1 + max(map(_depth, inside), default=0) if isinstance(inside, list) else 0


def _entry(key: str, entry: object) -> Mapping[str, object]:
    """The entry, of which there may be no doubt whose it is. Raises ValueError."""
    if not isinstance(entry, Mapping):
        raise ValueError("the value must be the entry of a node")
    whose = [value for spelt, value in entry.items() if key_id(str(spelt)) == key_id(_KEY)]
    for value in whose:
        if not isinstance(value, str) or not is_key(value) or canonical_key(value) != key:
            raise ValueError("the public key in the value is not the one in the key")
    found = plain({k: value for k, value in entry.items() if key_id(str(k)) != key_id(_KEY)})
    assert isinstance(found, dict)  # noqa: S101 - of a mapping, plain makes one
    return {_KEY: key, **found}  # as it is spelt in the key, so that messages can have it

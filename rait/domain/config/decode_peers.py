"""From a peers document, as HCL, TOML or JSON gave it, to peers.

The rules of this module:

1. It is total: a document of whatever shape gives peers and problems, never an exception.
2. The registry is written by others: an entry that is wrong costs that entry alone, as a warning,
   which says of whom the entry is as far as that can be read.
3. A document without any peers list, or whose list has entries and not one that can be used, is an
   error: taken for an empty list, it would end all tunnels.
4. Keys that rait does not know are left to others.

Two spellings meet here. Flat: each entry is one endpoint, with the keys PublicKey, SendPort,
AddressFamily and Endpoint; entries with the same key are one peer. Nested: each entry is a peer,
with endpoint blocks of address_family, send_port and address.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import TypeGuard

from rait.domain.config.hosts import checked_address
from rait.domain.config.keytext import canonical_key, kind_of, shown, without_whole_keys
from rait.domain.config.peers import Peer, PeerEndpoint
from rait.domain.config.reader import key_id
from rait.domain.errors import Path, Problem, SkippedEntry
from rait.domain.topology import Family

MAX_PORT = 65535
MAX_NAME = 255
_LISTS = ("peers", "peer")
_FLAT = ("addressfamily", "sendport")
_NESTED = ("endpoint", "endpoints")
_MEANINGFUL = frozenset(("publickey", "address", *_FLAT, *_NESTED))
_SKIPPED = "; skipped"
_TWICE = "is given twice, in two spellings and with two values"


class _KeyIds(dict[str, str]):
    """Remembers ``key_id`` of the few keys that ten thousand entries repeat."""

    def __missing__(self, key: str) -> str:
        self[key] = found = key_id(str(key))
        return found


class _Registry:
    """Peers in the making, by key in the order of first appearance."""

    def __init__(self) -> None:
        self.names: dict[str, str | None] = {}
        self.endpoints: dict[str, dict[_Reach, PeerEndpoint]] = {}
        self.problems: list[Problem] = []
        self.ids = _KeyIds()

    def skip(self, message: str, path: Path, *entries: SkippedEntry) -> None:
        self.problems.append(Problem(message + _SKIPPED, "warning", path, None, entries))

    def fields(self, entry: Mapping[str, object]) -> dict[str, tuple[str, object]]:
        """Spelling and value by ``key_id``; see ``contradiction`` for two spellings of one."""
        ids = self.ids
        return {ids[key]: (key, value) for key, value in entry.items()}

    def contradiction(self, entry: Mapping[str, object], fields: _Fields) -> str | None:
        """The spelling of a key that another spelling gives another value.

        Programs would differ in which of the two they believe, so neither is believed.
        """
        if len(fields) == len(entry):
            return None
        for key, value in entry.items():
            name = self.ids[key]
            if name in _MEANINGFUL and fields[name][1] != value:
                return fields[name][0]
        return None

    def peers(self) -> tuple[Peer, ...]:
        return tuple(
            Peer(public_key=key, endpoints=tuple(found.values()), name=self.names.get(key))
            for key, found in self.endpoints.items()
        )


_Fields = Mapping[str, tuple[str, object]]
_Reach = tuple[Family, int, str | None]
"""All of an endpoint but its place in the list."""


def decode_peers(document: Mapping[str, object]) -> tuple[tuple[Peer, ...], tuple[Problem, ...]]:
    """The peers in the order of their first entry, and what was found wrong.

    An error comes with no peers. Each entry that is left out is among the ``skipped`` of a warning.
    """
    registry = _Registry()
    lists = [(key, value) for key, value in document.items() if key_id(str(key)) in _LISTS]
    if not lists:
        message = "this is not a peers list: there is no peers entry"
        if not document:
            message = "the peers list is empty: write `peers = []` if there is to be no peer"
        return (), (Problem(message),)
    for key, value in lists:
        if not isinstance(value, Mapping | list | tuple):
            message = f"peers must be a list of blocks, not {kind_of(value)}"
            return (), (Problem(message, "error", (key,)),)
        for path, entry in _items(value, (key,)):
            _entry(registry, entry, path)
    peers = registry.peers()
    if not peers and registry.problems:
        return (), (_nothing_usable(registry.problems),)
    return peers, tuple(registry.problems)


def _nothing_usable(problems: list[Problem]) -> Problem:
    first = problems[0]
    why = first.message.removesuffix(_SKIPPED)
    message = f"{why}; and no other entry of the peers list can be used either, so nothing is done"
    if len(problems) == 1:
        message = f"{why}; and the peers list has no other entry, so nothing is done"
    return Problem(message, "error", first.path)


def _items(value: object, path: Path) -> Iterator[tuple[Path, object]]:
    if isinstance(value, list | tuple):
        for index, item in enumerate(value):
            yield (*path, index), item
    else:
        yield path, value


def _entry(registry: _Registry, entry: object, path: Path) -> None:
    if not isinstance(entry, Mapping):
        registry.skip(f"must be a block, not {kind_of(entry)}", path, SkippedEntry())
        return
    fields = registry.fields(entry)
    twice = registry.contradiction(entry, fields)
    if twice is not None:
        known = None if key_id(twice) == "publickey" else _as_key(fields)
        registry.skip(_TWICE, (*path, twice), SkippedEntry(known))
        return
    key = _public_key(registry, fields, path)
    if key is None:
        return
    before = len(registry.endpoints.get(key, ()))
    nested = _nested(fields)
    if nested:
        for spelt, value in nested:
            for item_path, item in _items(value, (*path, spelt)):
                _endpoint(registry, key, item, item_path)
    elif any(name in fields for name in (*_FLAT, *_NESTED)):
        _add_endpoint(registry, key, fields, path, "endpoint")
    else:
        registry.skip("the peer has no endpoint", path, SkippedEntry(key))
    if len(registry.endpoints.get(key, ())) > before:
        _name(registry, key, fields, path)


def _nested(fields: _Fields) -> list[tuple[str, object]]:
    """The lists of endpoint blocks in an entry, each with its key."""
    return [fields[name] for name in _NESTED if _is_nested(fields.get(name))]


def _is_nested(field: tuple[str, object] | None) -> bool:
    if field is None or isinstance(field[1], str):
        return False
    return isinstance(field[1], Mapping | list | tuple)


def _public_key(registry: _Registry, fields: _Fields, path: Path) -> str | None:
    if "publickey" not in fields:
        registry.skip("public_key is missing", path, *_whose(registry, fields))
        return None
    spelt, value = fields["publickey"]
    try:
        return canonical_key(value)
    except ValueError as error:
        registry.skip(str(error), (*path, spelt), *_whose(registry, fields))
        return None


def _whose(registry: _Registry, fields: _Fields) -> list[SkippedEntry]:
    """What can be told of an entry whose public key cannot be read: of each of its endpoints."""
    blocks = [item for _, value in _nested(fields) for _, item in _items(value, ())]
    if not blocks:
        return [_readable(None, fields)]
    return [
        _readable(None, registry.fields(block)) if isinstance(block, Mapping) else SkippedEntry()
        for block in blocks
    ]


def _readable(key: str | None, fields: _Fields) -> SkippedEntry:
    """The parts of an endpoint that can be read; their problems are not reported again."""
    family, port = (fields.get(name, ("", None))[1] for name in _FLAT)
    return SkippedEntry(key, _as_family(family), port if _is_port(port) else None)


def _as_key(fields: _Fields) -> str | None:
    try:
        return canonical_key(fields.get("publickey", ("", None))[1])
    except ValueError:
        return None


def _as_family(value: object) -> Family | None:
    if value == "ip4":
        return "ip4"
    return "ip6" if value == "ip6" else None


def _is_port(value: object) -> TypeGuard[int]:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= MAX_PORT


def _name(registry: _Registry, key: str, fields: _Fields, path: Path) -> None:
    spelt, value = fields.get("name", ("name", None))
    if value is None or value == "":
        registry.names.setdefault(key, None)
        return
    problem = None
    if not isinstance(value, str) or not value.isprintable() or len(value) > MAX_NAME:
        problem = f"the name is not printable text of up to {MAX_NAME} characters; left out"
    elif value != key and without_whole_keys(value) != value:
        problem = "the name holds a key, which may be a private one; left out"
    if problem is not None:
        registry.problems.append(Problem(problem, "warning", (*path, spelt)))
        return
    registry.names[key] = registry.names.get(key) or str(value)


def _endpoint(registry: _Registry, key: str, item: object, path: Path) -> None:
    if not isinstance(item, Mapping):
        registry.skip(f"must be a block, not {kind_of(item)}", path, SkippedEntry(key))
        return
    fields = registry.fields(item)
    twice = registry.contradiction(item, fields)
    if twice is not None:
        registry.skip(_TWICE, (*path, twice), SkippedEntry(key))
        return
    _add_endpoint(registry, key, fields, path, "address")


def _add_endpoint(
    registry: _Registry, key: str, fields: _Fields, path: Path, address_key: str
) -> None:
    try:
        family = _family(fields)
        port = _port(fields)
        address = _address(fields, address_key, family)
    except _WrongError as wrong:
        registry.skip(str(wrong), (*path, *wrong.path), _readable(key, fields))
        return
    endpoints = registry.endpoints.setdefault(key, {})
    if (family, port, address) in endpoints:
        message = f"the peer has this very endpoint ({family}) already{_SKIPPED}"
        registry.problems.append(Problem(message, "warning", path))
        return
    endpoints[family, port, address] = PeerEndpoint(
        address_family=family, send_port=port, address=address, path=path
    )


class _WrongError(Exception):
    """What is wrong with an endpoint; ``path`` leads from the endpoint to it."""

    def __init__(self, message: str, *path: str) -> None:
        super().__init__(message)
        self.path = path


def _family(fields: _Fields) -> Family:
    if "addressfamily" not in fields:
        raise _WrongError("address_family is missing")
    spelt, value = fields["addressfamily"]
    family = _as_family(value)
    if family is None:
        given = shown(value) if isinstance(value, str) else kind_of(value)
        raise _WrongError(f"{given} is not one of ip4, ip6", spelt)
    return family


def _port(fields: _Fields) -> int:
    if "sendport" not in fields:
        raise _WrongError("send_port is missing")
    spelt, value = fields["sendport"]
    if _is_port(value):
        return value
    if isinstance(value, bool) or not isinstance(value, int):
        raise _WrongError(f"must be a whole number, not {kind_of(value)}", spelt)
    raise _WrongError(f"{shown(value)} is not from 1 to {MAX_PORT}", spelt)


def _address(fields: _Fields, key: str, family: Family) -> str | None:
    spelt, value = fields.get(key, (key, None))
    if value is None or value == "":
        return None
    try:
        return checked_address(value, family)
    except ValueError as error:
        raise _WrongError(str(error), spelt) from None

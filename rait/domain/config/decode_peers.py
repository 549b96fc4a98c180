"""Decodes a peers document, as HCL, TOML or JSON gave it, to peers.

The rules of this module:

1. It is total: a document of whatever shape gives peers and problems, never an exception.
2. Others write the registry: a wrong entry costs that entry alone, and gives a warning that says
   whose entry it is, as far as that can be read.
3. A document without a peers list, or whose list has entries and not one that can be used, is an
   error: taken for an empty list, it would end all tunnels.
4. Keys that rait does not know are ignored.

Two spellings meet here. Flat: each entry is one endpoint, with the keys PublicKey, SendPort,
AddressFamily and Endpoint; entries with the same key are one peer. Nested: each entry is a peer,
with endpoint blocks of address_family, send_port and address.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

from msgspec import ValidationError, convert

from rait.domain.config.decoding import key_id, mistakes
from rait.domain.config.hosts import checked_address
from rait.domain.config.keytext import (
    brief,
    canonical_key,
    key_or_none,
    kind_of,
    without_whole_keys,
)
from rait.domain.config.remarks import Remarks, remarks_of
from rait.domain.config.schema import Peer, PeerEndpoint
from rait.domain.errors import Path, Problem, SkippedEntry
from rait.domain.topology import Family

MAX_NAME = 255
_LONGEST_WHY = 300
LISTS = ("peers", "peer")
_COMMON = {"addressfamily": "address_family", "sendport": "send_port"}
_UNREADABLE = "unreadable"
_OF_ENTRY = {
    "publickey": "public_key",
    "name": "name",
    "endpoint": "address",
    "endpoints": "endpoints",
    "remarks": "remarks",
    _UNREADABLE: _UNREADABLE,
    **_COMMON,
}
_OF_ENDPOINT = {"address": "address", **_COMMON}
_BLOCK = (dict, Mapping)
"""dict comes first: isinstance takes longer for an abstract class, and there are many entries."""

_NESTED = (list, tuple, *_BLOCK)
_MAY_BE_BLOCKS = ("address", "endpoints")
_MERE = ("", "name", "remarks")
"""What decides nothing about a link by itself may be contradictory."""

SKIPPED = "; skipped"
"""How the message of each problem ends that costs an entry or an endpoint."""

_TWICE = "is given twice, in two spellings and with two values"

_Values = dict[str, Any]
_Reach = tuple[Family, int, str | None]
"""Family, port and address: two endpoints of a peer that have all in common are one."""


def decode_peers(document: Mapping[str, object]) -> tuple[tuple[Peer, ...], tuple[Problem, ...]]:
    """The peers in the order of their first entries, and the problems.

    If a problem is an error, there are no peers. Each skipped entry is in the ``skipped`` of a
    warning.
    """
    peers, problems = read_entries(document)
    if not peers and problems and problems[0].severity != "error":
        return (), (_nothing_usable(problems),)
    return peers, problems


def read_entries(document: Mapping[str, object]) -> tuple[tuple[Peer, ...], tuple[Problem, ...]]:
    """What ``decode_peers`` gives; where no entry can be used, here are the problems of all."""
    lists = _lists(document)
    if not lists:
        message = "this is not a peers list: there is no peers entry"
        if not document:
            message = "the peers list is empty: write `peers = []` if there is to be no peer"
        return (), (Problem(message),)
    registry = _Registry()
    for key, value in lists:
        if not isinstance(value, _NESTED):
            message = f"peers must be a list of blocks, not {kind_of(value)}"
            return (), (Problem(message, "error", (key,)),)
        for path, entry in _items(value, (key,)):
            registry.read(entry, path)
    return registry.peers(), tuple(registry.problems)


class KnownBlock(NamedTuple):
    """An entry, or an endpoint block in one, with the meaning of each of its keys, "" for none.

    ``values`` are by meaning, and ``known`` are the keys that a block of this kind may have, as
    key_id has them, each with a spelling. ``public_key`` is that of the entry, right or wrong.
    """

    path: Path
    meanings: Mapping[str, str]
    values: Mapping[str, object]
    known: Mapping[str, str]
    public_key: object


def blocks_of(document: Mapping[str, object]) -> Iterator[KnownBlock]:
    """Each block of the peers lists in a document, entries before their endpoints."""
    of_entry, of_endpoint = _Keys(_OF_ENTRY), _Keys(_OF_ENDPOINT)
    for spelt, value in _lists(document):
        for path, entry in _items(value, (spelt,)):
            if not isinstance(entry, _BLOCK):
                continue
            block = _known_block(path, entry, of_entry, _KNOWN_IN_ENTRY, None)
            yield block
            for name in _blocks(block.values):
                at = (*path, of_entry.spelling(entry, name))
                for there, item in _items(block.values[name], at):
                    if isinstance(item, _BLOCK):
                        key = block.public_key
                        yield _known_block(there, item, of_endpoint, _KNOWN_IN_ENDPOINT, key)


def _known_block(
    path: Path,
    block: Mapping[str, object],
    keys: _Keys,
    known: Mapping[str, str],
    public_key: object,
) -> KnownBlock:
    meanings = {key: keys[key] for key in block}
    values = {meaning: block[key] for key, meaning in meanings.items()}
    return KnownBlock(path, meanings, values, known, values.get("public_key", public_key))


def _spellings(meanings: Mapping[str, str]) -> dict[str, str]:
    names = {key: name if key_id(name) == key else key for key, name in meanings.items()}
    names.pop(_UNREADABLE, None)  # which nobody means to write
    return names


_KNOWN_IN_ENTRY, _KNOWN_IN_ENDPOINT = _spellings(_OF_ENTRY), _spellings(_OF_ENDPOINT)


def _lists(document: Mapping[str, object]) -> list[tuple[str, object]]:
    return [(key, value) for key, value in document.items() if key_id(str(key)) in LISTS]


def _nothing_usable(problems: tuple[Problem, ...]) -> Problem:
    first = problems[0]
    why = first.message.removesuffix(SKIPPED)
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


class _Keys(dict[str, str]):
    """Maps each spelling of a key to its meaning, "" for none; entries repeat the same few.

    Of two spellings of one key in an entry, the last counts, unless their values differ.
    """

    def __init__(self, meanings: Mapping[str, str]) -> None:
        self._meanings = meanings

    def __missing__(self, key: str) -> str:
        self[key] = found = self._meanings.get(key_id(str(key)), "")
        return found

    def spelling(self, entry: Mapping[str, object], name: str) -> str:
        return [key for key in entry if self[key] == name][-1]

    def contradiction(self, entry: Mapping[str, object], values: _Values) -> str | None:
        """The name of a key that two spellings give two values.

        Programs would differ in which of the two they believe, so neither is believed.
        """
        names = ((self[key], value) for key, value in entry.items())
        return next((n for n, value in names if n not in _MERE and values[n] != value), None)


class _Registry:
    """Peers in the making, by key in the order of first appearance."""

    def __init__(self) -> None:
        self.problems: list[Problem] = []
        self._names: dict[str, str | None] = {}
        self._remarks: dict[str, Remarks] = {}
        self._endpoints: dict[str, dict[_Reach, PeerEndpoint]] = {}
        self._entry_keys = _Keys(_OF_ENTRY)
        self._endpoint_keys = _Keys(_OF_ENDPOINT)

    def peers(self) -> tuple[Peer, ...]:
        return tuple(
            Peer(
                public_key=key,
                endpoints=tuple(found.values()),
                name=self._names.get(key),
                remarks=self._remarks.get(key, ()),
            )
            for key, found in self._endpoints.items()
        )

    def read(self, entry: object, path: Path) -> None:
        """Add the endpoints of one entry of the list, or report why it is skipped."""
        keys = self._entry_keys
        if not isinstance(entry, _BLOCK):
            self._skip(f"must be a block, not {kind_of(entry)}", path, SkippedEntry())
            return
        values = {keys[key]: value for key, value in entry.items()}
        # Most entries have each key but once, and there are very many entries.
        twice = keys.contradiction(entry, values) if len(values) < len(entry) else None
        if twice is not None:
            known = None if twice == "public_key" else key_or_none(values.get("public_key"))
            self._skip(_TWICE, (*path, keys.spelling(entry, twice)), SkippedEntry(known))
            return
        try:
            key = canonical_key(values["public_key"])
        except KeyError:
            if _UNREADABLE in values:
                # Whatever it is, it is the entry of no node.
                self._skip(_unreadable(values), path)
                return
            self._skip("public_key is missing", path, *self._whose(values))
            return
        except ValueError as error:
            where = (*path, keys.spelling(entry, "public_key"))
            self._skip(str(error), where, *self._whose(values))
            return
        if _UNREADABLE in values:
            self._skip(_unreadable(values), path, SkippedEntry(key))
            return
        before = len(self._endpoints.get(key, ()))
        blocks = _blocks(values)
        if blocks:
            for name in blocks:
                for at, item in _items(values[name], (*path, keys.spelling(entry, name))):
                    self._read_endpoint(key, item, at)
        elif values.keys() & PeerEndpoint.__struct_fields__:
            self._add(key, keys, entry, values, path)
        else:
            self._skip("the peer has no endpoint", path, SkippedEntry(key))
        if len(self._endpoints.get(key, ())) > before:
            if "name" in values:
                self._name(key, values["name"], entry, path)
            if "remarks" in values:
                # What an earlier entry of the peer remarks stands.
                self._remarks[key] = remarks_of(values["remarks"], self._remarks.get(key, ()))

    def _skip(self, message: str, path: Path, *entries: SkippedEntry) -> None:
        self.problems.append(Problem(message + SKIPPED, "warning", path, None, entries))

    def _read_endpoint(self, key: str, item: object, path: Path) -> None:
        keys = self._endpoint_keys
        if not isinstance(item, _BLOCK):
            self._skip(f"must be a block, not {kind_of(item)}", path, SkippedEntry(key))
            return
        values = {keys[spelt]: value for spelt, value in item.items()}
        twice = keys.contradiction(item, values) if len(values) < len(item) else None
        if twice is not None:
            self._skip(_TWICE, (*path, keys.spelling(item, twice)), SkippedEntry(key))
        else:
            self._add(key, keys, item, values, path)

    def _add(
        self, key: str, keys: _Keys, block: Mapping[str, object], values: _Values, path: Path
    ) -> None:
        try:
            found = convert(values, PeerEndpoint)
            family, port = found.address_family, found.send_port
            address = checked_address(found.address, family) if found.address else None
        except (ValidationError, ValueError) as error:
            # What msgspec has nothing against is an address, which checked_address refused.
            wrong = mistakes(PeerEndpoint, values) or {"address": str(error)}
            name, message = next(iter(wrong.items()))
            where = (*path, keys.spelling(block, name)) if name in values else path
            self._skip(message, where, _readable(key, values, wrong))
            return
        endpoints = self._endpoints.setdefault(key, {})
        if (family, port, address) in endpoints:
            message = f"the peer has this very endpoint ({family}) already{SKIPPED}"
            self.problems.append(Problem(message, "warning", path))
            return
        endpoints[family, port, address] = PeerEndpoint(
            address_family=family, send_port=port, address=address, path=path
        )

    def _name(self, key: str, name: object, entry: Mapping[str, object], path: Path) -> None:
        if name is None or name == "":
            return
        problem = name_problem(key, name)
        if problem is not None:
            where = (*path, self._entry_keys.spelling(entry, "name"))
            self.problems.append(Problem(f"{problem}; left out", "warning", where))
            return
        self._names[key] = self._names.get(key) or str(name)

    def _whose(self, values: _Values) -> list[SkippedEntry]:
        """The readable parts of each endpoint of an entry whose key cannot be read."""
        keys = self._endpoint_keys
        items = [item for name in _blocks(values) for _, item in _items(values[name], ())]
        endpoints = [
            {keys[key]: value for key, value in item.items()} if isinstance(item, _BLOCK) else {}
            for item in items
        ]
        return [
            _readable(None, found, mistakes(PeerEndpoint, found)) for found in endpoints or [values]
        ]


def name_problem(key: str, name: object) -> str | None:
    """Why a value cannot be the name of the node with this public key, or None."""
    if not isinstance(name, str) or not name.isprintable() or len(name) > MAX_NAME:
        return f"the name is not printable text of up to {MAX_NAME} characters"
    if name != key and without_whole_keys(name) != name:
        return "the name holds a key, which may be a private one"
    return None


def _unreadable(values: _Values) -> str:
    """What whoever made the list says of an entry that he could not read, fit for a message."""
    why = values[_UNREADABLE]
    text = brief(why, _LONGEST_WHY).strip() if isinstance(why, str) else ""
    shown = "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)
    return shown.removesuffix(SKIPPED) or "the entry cannot be read"


def _blocks(values: Mapping[str, object]) -> list[str]:
    """The keys of an entry that have endpoint blocks, as the nested spelling has them."""
    return [name for name in _MAY_BE_BLOCKS if isinstance(values.get(name), _NESTED)]


def _readable(key: str | None, values: _Values, wrong: Mapping[str, str]) -> SkippedEntry:
    """The parts of an endpoint that can be read."""
    family, port = (
        None if name in wrong else values[name] for name in ("address_family", "send_port")
    )
    return SkippedEntry(key, family, port)

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
from typing import Any

from msgspec import Struct, ValidationError, convert

from rait.domain.config.decoding import key_id, mistakes
from rait.domain.config.hosts import checked_address
from rait.domain.config.keytext import (
    brief,
    canonical_key,
    key_or_none,
    kind_of,
    without_whole_keys,
)
from rait.domain.config.limits import ListedEndpoint
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


class Keys(dict[str, str]):
    """Maps each spelling of a key to its meaning, "" for none; entries repeat the same few.

    ``known`` are the keys that there may be, as key_id has them, each with a spelling.
    """

    def __init__(self, meanings: Mapping[str, str]) -> None:
        self._meanings = meanings
        names = {key: name if key_id(name) == key else key for key, name in meanings.items()}
        names.pop(_UNREADABLE, None)  # which nobody means to write
        self.known: Mapping[str, str] = names

    def __missing__(self, key: str) -> str:
        self[key] = found = self._meanings.get(key_id(str(key)), "")
        return found


class KnownBlock(Struct, frozen=True, gc=False):
    """An entry, or an endpoint block in one. ``values`` are by the meaning of their keys.

    Of two spellings of one key, the last counts, unless their values differ. ``public_key`` is that
    of the entry, right or wrong.
    """

    path: Path
    content: Mapping[str, object]
    keys: Keys
    values: _Values
    public_key: object

    def at(self, name: str) -> Path:
        """Where the key of this meaning is; where the block is if it has none."""
        spelt = [key for key in self.content if self.keys[key] == name]
        return (*self.path, spelt[-1]) if spelt else self.path

    def contradiction(self) -> str | None:
        """The meaning of a key that two spellings give two values.

        Programs would differ in which of the two they believe, so neither is believed.
        """
        names = ((self.keys[key], value) for key, value in self.content.items())
        return next((n for n, value in names if n not in _MERE and self.values[n] != value), None)


def _known(path: Path, content: Mapping[str, object], keys: Keys, public_key: object) -> KnownBlock:
    values = {keys[key]: value for key, value in content.items()}
    return KnownBlock(path, content, keys, values, values.get("public_key", public_key))


def blocks_of(document: Mapping[str, object]) -> Iterator[KnownBlock]:
    """Each block of the peers lists in a document, entries before their endpoints."""
    of_entry, of_endpoint = Keys(_OF_ENTRY), Keys(_OF_ENDPOINT)
    for spelt, value in _lists(document):
        for path, entry in _items(value, (spelt,)):
            if not isinstance(entry, _BLOCK):
                continue
            block = _known(path, entry, of_entry, None)
            yield block
            for name in _blocks(block.values):
                for there, item in _items(block.values[name], block.at(name)):
                    if isinstance(item, _BLOCK):
                        yield _known(there, item, of_endpoint, block.public_key)


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


class _Registry:
    """Peers in the making, by key in the order of first appearance."""

    def __init__(self) -> None:
        self.problems: list[Problem] = []
        self._names: dict[str, str | None] = {}
        self._remarks: dict[str, Remarks] = {}
        self._endpoints: dict[str, dict[_Reach, PeerEndpoint]] = {}
        self._entry_keys = Keys(_OF_ENTRY)
        self._endpoint_keys = Keys(_OF_ENDPOINT)

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
        block = self._block(path, entry, self._entry_keys)
        if block is None:
            return
        values = block.values
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
            self._skip(str(error), block.at("public_key"), *self._whose(values))
            return
        if _UNREADABLE in values:
            self._skip(_unreadable(values), path, SkippedEntry(key))
            return
        before = len(self._endpoints.get(key, ()))
        if names := _blocks(values):
            for name in names:
                for at, item in _items(values[name], block.at(name)):
                    endpoint = self._block(at, item, self._endpoint_keys, key)
                    if endpoint is not None:
                        self._add(key, endpoint)
        elif values.keys() & PeerEndpoint.__struct_fields__:
            self._add(key, block)
        else:
            self._skip("the peer has no endpoint", path, SkippedEntry(key))
        if len(self._endpoints.get(key, ())) > before:
            if "name" in values:
                self._name(key, values["name"], block)
            if "remarks" in values:
                # What an earlier entry of the peer remarks stands.
                self._remarks[key] = remarks_of(values["remarks"], self._remarks.get(key, ()))

    def _skip(self, message: str, path: Path, *entries: SkippedEntry) -> None:
        self.problems.append(Problem(message + SKIPPED, "warning", path, None, entries))

    def _block(
        self, path: Path, content: object, keys: Keys, whose: str | None = None
    ) -> KnownBlock | None:
        """A block of the entry ``whose`` key this is; None, and it is skipped, if it is none."""
        if not isinstance(content, _BLOCK):
            self._skip(f"must be a block, not {kind_of(content)}", path, SkippedEntry(whose))
            return None
        block = _known(path, content, keys, whose)
        # Most blocks have each key but once, and there are very many blocks.
        twice = block.contradiction() if len(block.values) < len(content) else None
        if twice is not None:
            known = None if twice == "public_key" else key_or_none(block.public_key)
            self._skip(_TWICE, block.at(twice), SkippedEntry(known))
            return None
        return block

    def _add(self, key: str, block: KnownBlock) -> None:
        try:
            found = convert(block.values, ListedEndpoint)
            family, port = found.address_family, found.send_port
            address = checked_address(found.address, family) if found.address else None
        except (ValidationError, ValueError) as error:
            # What msgspec has nothing against is an address, which checked_address refused.
            wrong = mistakes(ListedEndpoint, block.values) or {"address": str(error)}
            name, message = next(iter(wrong.items()))
            self._skip(message, block.at(name), _readable(key, block.values, wrong))
            return
        endpoints = self._endpoints.setdefault(key, {})
        if (family, port, address) in endpoints:
            message = f"the peer has this very endpoint ({family}) already{SKIPPED}"
            self.problems.append(Problem(message, "warning", block.path))
            return
        endpoints[family, port, address] = PeerEndpoint(
            address_family=family, send_port=port, address=address, path=block.path
        )

    def _name(self, key: str, name: object, block: KnownBlock) -> None:
        if name is None or name == "":
            return
        problem = name_problem(key, name)
        if problem is not None:
            self.problems.append(Problem(f"{problem}; left out", "warning", block.at("name")))
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
            _readable(None, found, mistakes(ListedEndpoint, found))
            for found in endpoints or [values]
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

"""From a peers document, as HCL, TOML or JSON gave it, to peers.

The rules of this module:

1. It is total: a document of whatever shape gives peers and problems, never an exception.
2. The registry is written by others: an entry that is wrong costs that entry alone, as a warning.
3. Only a document without any peers list is an error: taken for an empty list, it would end all
   tunnels.
4. Keys that rait does not know are left to others.

Two spellings meet here. Flat: each entry is one endpoint, with the keys PublicKey, SendPort,
AddressFamily and Endpoint; entries with the same key are one peer. Nested: each entry is a peer,
with endpoint blocks of address_family, send_port and address.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from rait.domain.config import Family
from rait.domain.hosts import checked_address
from rait.domain.keytext import canonical_key, kind_of, shown
from rait.domain.peers import Peer, PeerEndpoint
from rait.domain.problem import Path, Problem
from rait.domain.reader import key_id

MAX_PORT = 65535
MAX_NAME = 255
_LISTS = ("peers", "peer")
_FLAT = ("addressfamily", "sendport")
_NESTED = ("endpoint", "endpoints")


class _KeyIds(dict[str, str]):
    """Remembers ``key_id`` of the few keys that ten thousand entries repeat."""

    def __missing__(self, key: str) -> str:
        self[key] = found = key_id(str(key))
        return found


class _Registry:
    """Peers in the making, by key in the order of first appearance."""

    def __init__(self) -> None:
        self.names: dict[str, str | None] = {}
        self.endpoints: dict[str, dict[Family, PeerEndpoint]] = {}
        self.problems: list[Problem] = []
        self.ids = _KeyIds()

    def warn(self, message: str, path: Path) -> None:
        self.problems.append(Problem(f"{message}; skipped", "warning", path))

    def fields(self, entry: Mapping[str, object]) -> dict[str, tuple[str, object]]:
        """Spelling and value by ``key_id``; of two spellings the last one counts."""
        ids = self.ids
        return {ids[key]: (key, value) for key, value in entry.items()}

    def peers(self) -> tuple[Peer, ...]:
        return tuple(
            Peer(public_key=key, endpoints=tuple(found.values()), name=self.names.get(key))
            for key, found in self.endpoints.items()
            if found
        )


_Fields = Mapping[str, tuple[str, object]]


def decode_peers(document: Mapping[str, object]) -> tuple[tuple[Peer, ...], tuple[Problem, ...]]:
    """The peers in the order of their first entry, and what was found wrong."""
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
    return registry.peers(), tuple(registry.problems)


def _items(value: object, path: Path) -> Iterator[tuple[Path, object]]:
    if isinstance(value, list | tuple):
        for index, item in enumerate(value):
            yield (*path, index), item
    else:
        yield path, value


def _entry(registry: _Registry, entry: object, path: Path) -> None:
    if not isinstance(entry, Mapping):
        registry.warn(f"must be a block, not {kind_of(entry)}", path)
        return
    fields = registry.fields(entry)
    key = _public_key(registry, fields, path)
    if key is None:
        return
    before = len(registry.endpoints.get(key, ()))
    nested = [fields[name] for name in _NESTED if _is_nested(fields.get(name))]
    if nested:
        for spelt, value in nested:
            for item_path, item in _items(value, (*path, spelt)):
                _endpoint(registry, key, item, item_path)
    elif any(name in fields for name in (*_FLAT, *_NESTED)):
        _add_endpoint(registry, key, fields, path, "endpoint")
    else:
        registry.warn("the peer has no endpoint", path)
    if len(registry.endpoints.get(key, ())) > before:
        _name(registry, key, fields, path)


def _is_nested(field: tuple[str, object] | None) -> bool:
    if field is None or isinstance(field[1], str):
        return False
    return isinstance(field[1], Mapping | list | tuple)


def _public_key(registry: _Registry, fields: _Fields, path: Path) -> str | None:
    if "publickey" not in fields:
        registry.warn("public_key is missing", path)
        return None
    spelt, value = fields["publickey"]
    try:
        return canonical_key(value)
    except ValueError as error:
        registry.warn(str(error), (*path, spelt))
        return None


def _name(registry: _Registry, key: str, fields: _Fields, path: Path) -> None:
    spelt, value = fields.get("name", ("name", None))
    if value is None or value == "":
        registry.names.setdefault(key, None)
        return
    if not isinstance(value, str) or not value.isprintable() or len(value) > MAX_NAME:
        message = f"the name is not printable text of up to {MAX_NAME} characters; left out"
        registry.problems.append(Problem(message, "warning", (*path, spelt)))
        return
    registry.names[key] = registry.names.get(key) or value


def _endpoint(registry: _Registry, key: str, item: object, path: Path) -> None:
    if not isinstance(item, Mapping):
        registry.warn(f"must be a block, not {kind_of(item)}", path)
        return
    _add_endpoint(registry, key, registry.fields(item), path, "address")


def _add_endpoint(
    registry: _Registry, key: str, fields: _Fields, path: Path, address_key: str
) -> None:
    family = _family(registry, fields, path)
    port = _port(registry, fields, path) if family is not None else None
    if family is None or port is None:
        return
    spelt, value = fields.get(address_key, (address_key, None))
    address = None
    if value is not None and value != "":
        try:
            address = checked_address(value, family)
        except ValueError as error:
            registry.warn(str(error), (*path, spelt))
            return
    endpoints = registry.endpoints.setdefault(key, {})
    if family in endpoints:
        registry.warn(f"the peer has an endpoint of family {family} already", path)
        return
    endpoints[family] = PeerEndpoint(
        address_family=family, send_port=port, address=address, path=path
    )


def _family(registry: _Registry, fields: _Fields, path: Path) -> Family | None:
    if "addressfamily" not in fields:
        registry.warn("address_family is missing", path)
        return None
    spelt, value = fields["addressfamily"]
    if value == "ip4":
        return "ip4"
    if value == "ip6":
        return "ip6"
    given = shown(value) if isinstance(value, str) else kind_of(value)
    registry.warn(f"{given} is not one of ip4, ip6", (*path, spelt))
    return None


def _port(registry: _Registry, fields: _Fields, path: Path) -> int | None:
    if "sendport" not in fields:
        registry.warn("send_port is missing", path)
        return None
    spelt, value = fields["sendport"]
    if isinstance(value, bool) or not isinstance(value, int):
        registry.warn(f"must be a whole number, not {kind_of(value)}", (*path, spelt))
        return None
    if not 1 <= value <= MAX_PORT:
        registry.warn(f"{shown(value)} is not from 1 to {MAX_PORT}", (*path, spelt))
        return None
    return value

"""What a node puts into the registry: its own entry, and a SendPort that no other node has."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import islice
from math import isfinite
from typing import Any

from rait.domain.config.decode_peers import name_problem, read_entries
from rait.domain.config.schema import Config
from rait.domain.digests import blake2b
from rait.domain.topology import Family

Entry = Mapping[str, Any]
_BITS = 64

PORTS = (10000, 32767)
"""Below are the ports of services, as 6696 of babeld, which runs on each node, and from 32768 on
those of which the kernel gives to programs."""


def own_entry(config: Config, public_key: str) -> tuple[Entry, tuple[str, ...]]:
    """This node's entry in the nested spelling, and what is left out of it.

    Of several transports of one family only the first is in it, as other nodes have one link in
    each family, by the first endpoint.
    """
    entry: dict[str, object] = {"public_key": public_key}
    left_out = []
    if config.name is not None:
        problem = name_problem(public_key, config.name)
        if problem is None:
            entry["name"] = config.name
        else:
            left_out.append(f"{problem}, so it is left out")
    endpoints: dict[Family, Entry] = {}
    for transport in config.transports:
        family = transport.address_family
        endpoint: dict[str, object] = {"address_family": family, "send_port": transport.send_port}
        if transport.address is not None:
            endpoint["address"] = transport.address
        if endpoints.setdefault(family, endpoint) is not endpoint:
            left_out.append(
                f"the transport {transport.ifprefix} is left out: other nodes have one link to a "
                f"node in each family, and there is another transport of {family} before"
            )
    entry["endpoint"] = list(endpoints.values())
    if config.remarks:
        entry["remarks"] = plain(config.remarks)
    return entry, tuple(left_out)


def plain(value: object) -> object:
    """A value as all formats have it: dates, huge numbers and those that are none become text."""
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [plain(item) for item in value]
    if isinstance(value, float):
        return value if isfinite(value) else str(value)
    # TOML has whole numbers of 64 bits.
    is_huge = isinstance(value, int) and value.bit_length() >= _BITS
    return str(value) if is_huge or not isinstance(value, int | str | None) else value


def flat(entry: Entry) -> list[Entry]:
    """A nested entry in the flat spelling: one for each endpoint, the first with the remarks."""
    common = {"PublicKey": entry["public_key"]}
    if "name" in entry:
        common["Name"] = entry["name"]
    found: list[Entry] = []
    for endpoint in entry["endpoint"]:
        each = {"AddressFamily": endpoint["address_family"], "SendPort": endpoint["send_port"]}
        if "address" in endpoint:
            each["Endpoint"] = endpoint["address"]
        if "remarks" in entry and not found:
            each["Remarks"] = entry["remarks"]
        found.append({**common, **each})
    return found


def free_port(
    documents: list[Mapping[str, object]],
    key: str | None,
    family: Family,
    ports: tuple[int, int],
    start: int,
) -> int | None:
    """A SendPort that no other node of a registry has in any family; None if there is none.

    A node with a ``key`` always gets the same, also once its own entry is in the registry: its key
    says where the search in ``ports`` (a first and a last one) begins, else ``start`` does. What is
    found second is for ip6, as the two ports of a node must differ.
    """
    taken = {port for document in documents for port in _ports_of_others(document, key)}
    low, high = ports
    size = high - low + 1
    if key is not None:
        start = int.from_bytes(blake2b(key.encode(), digest_size=8).digest(), "big")
    order = (low + (start + step) % size for step in range(size))
    free = (port for port in order if port not in taken)
    return next(islice(free, int(family == "ip6"), None), None)


def _ports_of_others(document: Mapping[str, object], key: str | None) -> Iterator[int]:
    """All SendPorts but those of the node with this key, of entries that are skipped too."""
    peers, problems = read_entries(document)
    for peer in peers:
        if peer.public_key != key:
            yield from (endpoint.send_port for endpoint in peer.endpoints)
    for skipped in (entry for problem in problems for entry in problem.skipped):
        if skipped.send_port is not None and (key is None or skipped.public_key != key):
            yield skipped.send_port

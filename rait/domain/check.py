"""What is wrong with a registry, whichever node reads it: the findings of `rait check`.

1. An error is what `rait up` skips on some node, and nothing else is one: an entry that the decoder
   refuses, and an endpoint that gets no link on a node with a transport in each family.
2. A warning is what `rait up` takes, although it is most likely wrong. A note is what may be right.
3. A finding leads to the key that has the fault, or to the block that lacks it.

The texts about entries that are skipped are those of the decoder, which are those of `rait up`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from ipaddress import ip_address, ip_network
from typing import Literal

from msgspec import Struct, structs

from rait.domain.config.decode_peers import LISTS, SKIPPED, KnownBlock, blocks_of, read_entries
from rait.domain.config.decoding import MOST_HINTS, key_id, nearest
from rait.domain.config.hosts import ip_literal
from rait.domain.config.keytext import key_or_none, shown
from rait.domain.config.schema import DEFAULT_MAX_LINKS, Peer, PeerEndpoint
from rait.domain.errors import Path, Problem, port_taken
from rait.domain.topology import Family

Severity = Literal["error", "warning", "note"]

MAX_PRIVILEGED_PORT = 1023
"""The last port that takes CAP_NET_BIND_SERVICE to listen on (ip(7))."""

EPHEMERAL_PORTS = (32768, 60999)
"""The default of net.ipv4.ip_local_port_range (ip-sysctl.rst): the kernel gives these away."""


class Rule(Struct, frozen=True):
    """One thing that is looked for. ``advice`` says what to do about it."""

    severity: Severity
    title: str
    advice: str


RULES: Mapping[str, Rule] = {
    "list": Rule(
        "error",
        "The list as a whole cannot be read",
        "mend it, as `rait up` does nothing with such a list",
    ),
    "signature": Rule(
        "error",
        "The list is not signed by a key that may sign it",
        "`rait up` does nothing with a list that is not signed as rait.conf demands",
    ),
    "entry": Rule("error", "An entry cannot be used", "complete the entry or remove it"),
    "unreadable": Rule(
        "error",
        "What is under a key of the registry is no entry",
        "put the node's entry there again with `rait pub --to`, or remove the key",
    ),
    "public-key": Rule(
        "error",
        "A public key is none",
        "write the 44 characters that `rait pubkey` or `wg pubkey` prints on the node",
    ),
    "private-key": Rule(
        "error",
        "The list holds a private key",
        "make a new key on that node by `rait genkey`, as everyone who can read the list knows "
        "this one; with this list the node's `rait up` does nothing",
    ),
    "send-port": Rule(
        "error", "A SendPort is no port", "write the send_port of the node's own rait.conf"
    ),
    "address-family": Rule("error", "An address family is none", "write ip4 or ip6"),
    "address": Rule(
        "error",
        "An address cannot be that of a host",
        "write an IP address of that family or a host name, or leave it out for a node that others "
        "cannot reach",
    ),
    "port-taken": Rule(
        "error",
        "One SendPort is given twice",
        "give one of the two another SendPort (`rait port` finds a free one): each node listens on "
        "it and names its link by it, so it can have but one of the two links",
    ),
    "endpoint-twice": Rule(
        "error",
        "A node has two endpoints in one family",
        "leave one of them out, as a node gets one link in each family",
    ),
    "name": Rule("warning", "A name cannot be shown", "write a short printable name"),
    "name-twice": Rule(
        "warning",
        "Two nodes have one name",
        "give one of the two another name, unless both entries are of one node that gets a new "
        "key: a node makes no link to an entry that has its own name",
    ),
    "unreachable": Rule(
        "warning",
        "No other node can reach an address",
        "write the address by which others reach the node, or leave it out if there is none: then "
        "the node contacts the others",
    ),
    "private-address": Rule(
        "note",
        "Only nodes of one network can reach an address",
        "leave it as it is if all nodes are in that network",
    ),
    "host-name": Rule(
        "warning",
        "A host name has no address",
        "mend the name or its zone: until then links keep the address that they have",
    ),
    "privileged-port": Rule(
        "warning",
        "Listening on a SendPort may be refused",
        "take one from 1024 on, as lower ones are for services and need a privilege",
    ),
    "ephemeral-port": Rule(
        "note",
        "A SendPort may be in use by chance",
        "take one outside of 32768 to 60999 for a new node: from these the kernel picks ports for "
        "what goes out, so on some node it may be taken when a link is made",
    ),
    "misspelt-key": Rule(
        "warning", "A key seems to be misspelt", "mend the key, as `rait up` ignores it"
    ),
    "unknown-key": Rule(
        "note", "A key is unknown", "leave it if it is for another program: rait ignores it"
    ),
    "too-many": Rule(
        "warning",
        "The list asks for more links than nodes allow",
        "raise max_links in each node's rait.conf, or it does nothing with the list",
    ),
}


class Finding(Struct, frozen=True):
    """One finding. ``peer`` is the name or key of the node whose entry it is, "" if unknown.

    ``path`` leads to the fault, and ``other`` to the place that it clashes with; both begin with
    the number of the document.
    """

    rule: str
    message: str
    path: Path
    peer: str = ""
    other: Path = ()

    @property
    def severity(self) -> Severity:
        """How bad it is."""
        return RULES[self.rule].severity

    @property
    def advice(self) -> str:
        """What to do about it."""
        return RULES[self.rule].advice


class Examined(Struct, frozen=True):
    """The peers that can be used, and all findings.

    ``hosts`` are the addresses and their families, each with the place of the first.
    """

    peers: tuple[Peer, ...]
    findings: tuple[Finding, ...]
    hosts: Mapping[tuple[str, Family], Path]


def examine(*documents: Mapping[str, object]) -> Examined:
    """All that is wrong with a registry, in one or several peers documents.

    Each path begins with the number of the document, from 0. Total: no document raises an
    exception.
    """
    peers: list[Peer] = []
    problems: list[Problem] = []
    for number, document in enumerate(documents):
        read, wrong = read_entries(document)
        peers += (_within(number, peer) for peer in read)
        problems += (structs.replace(p, path=(number, *p.path)) for p in wrong)
    found = _Blocks(documents, peers)
    return Examined(
        tuple(peers),
        (
            *map(found.of_decoder, problems),
            *_conflicts(peers, found),
            *found.names_twice(),
            *(item for peer in peers for item in _of_endpoints(peer, found)),
            *_too_many(peers, found),
            *found.unknown_keys(),
        ),
        {
            (e.address, e.address_family): found.place(e.path, "address")
            for peer in reversed(peers)
            for e in reversed(peer.endpoints)
            if e.address is not None
        },
    )


def _within(number: int, peer: Peer) -> Peer:
    endpoints = (structs.replace(e, path=(number, *e.path)) for e in peer.endpoints)
    return structs.replace(peer, endpoints=tuple(endpoints))


def unresolved(problem: Problem) -> Finding:
    """The finding that a host name has no address."""
    return Finding("host-name", problem.message, problem.path)


class _Blocks:
    """The blocks of a document, and which keys they have, to tell where a fault is."""

    def __init__(self, documents: Sequence[Mapping[str, object]], peers: Iterable[Peer]) -> None:
        self._documents = documents
        self._peers: dict[str | None, Peer] = {peer.public_key: peer for peer in peers}
        self._blocks: dict[Path, KnownBlock] = {
            (number, *found.path): found
            for number, document in enumerate(documents)
            for found in blocks_of(document)
        }

    def title(self, key: str | None) -> str:
        peer = self._peers.get(key)
        return (peer.name if peer is not None else None) or key or ""

    def place(self, path: Path, name: str) -> Path:
        """The path of the key of this meaning in a block; the block's if it has none."""
        found = self._blocks.get(path)
        return path if found is None else (path[0], *found.at(name))

    def of_decoder(self, problem: Problem) -> Finding:
        """What the decoder reports: an entry that is skipped, or a name that is left out."""
        path, message = problem.path, problem.message
        keys = {entry.public_key for entry in problem.skipped}
        peer = self.title(keys.pop() if len(keys) == 1 else None)
        if problem.severity == "error":
            return Finding("list", message, path)
        if not message.endswith(SKIPPED):
            return Finding("name", message, path, peer)
        rule = self._rule(path) if problem.skipped else "endpoint-twice"
        if (block := self._blocks.get(path)) is not None and "unreadable" in block.values:
            rule = "unreadable"
        return Finding(rule, message.removesuffix(SKIPPED), path, peer)

    def _rule(self, path: Path) -> str:
        """The rule for the key that a path leads to; the rule for entries if it leads to none."""
        found = self._blocks.get(path[:-1])
        rule = found.keys[str(path[-1])].replace("_", "-") if found is not None else ""
        return rule if rule in RULES else "entry"

    def names_twice(self) -> Iterator[Finding]:
        first: dict[str, tuple[str | None, Path]] = {}
        told: set[str | None] = set()
        for path, block in self._blocks.items():
            key, name = key_or_none(block.public_key), block.values.get("name")
            if key not in self._peers or not name or self._peers[key].name != name:
                continue
            owner, other = first.setdefault(str(name), (key, path))
            if owner != key and key not in told:
                told.add(key)
                message = f"the name {shown(name)} is that of the node with the key {owner} too"
                where = self.place(path, "name")
                yield Finding("name-twice", message, where, str(name), self.place(other, "name"))

    def unknown_keys(self) -> Iterator[Finding]:
        hints: dict[tuple[str, int], str | None] = {}
        for path, known, peer in self._unknown():
            spelt = str(path[-1]), len(known)
            if spelt not in hints:
                # The search is slow, and nobody reads more than the first hints.
                hints[spelt] = nearest(spelt[0], known) if len(hints) < MOST_HINTS else None
            near = hints[spelt]
            message = f"{shown(spelt[0])} is no key of rait"
            if near is None:
                yield Finding("unknown-key", message, path, peer)
            else:
                yield Finding("misspelt-key", f"{message}, but {near} is one", path, peer)

    def _unknown(self) -> Iterator[tuple[Path, Mapping[str, str], str]]:
        """Each unknown key, with those that are known in its place, and whose entry it is in."""
        for number, document in enumerate(self._documents):
            for key in document:
                if key_id(str(key)) not in LISTS:
                    yield (number, key), {"peers": "peers"}, ""
        for path, block in self._blocks.items():
            for key in block.content:
                if not block.keys[key]:
                    yield (*path, key), block.keys.known, self.title(key_or_none(block.public_key))


def _conflicts(peers: Iterable[Peer], found: _Blocks) -> Iterator[Finding]:
    """The endpoints that get no link on a node with one transport in each family, as in plan.py."""
    holders: dict[int, tuple[str, PeerEndpoint]] = {}
    linked: dict[tuple[str, Family], PeerEndpoint] = {}
    for peer in peers:
        for endpoint in peer.endpoints:
            key, family, port = peer.public_key, endpoint.address_family, endpoint.send_port
            before = linked.get((key, family))
            owner, holder = holders.get(port, ("", endpoint))
            if before is not None:
                message = f"the node has an endpoint in {family} already"
                place = found.place(endpoint.path, "address_family")
                other = found.place(before.path, "address_family")
                yield Finding("endpoint-twice", message, place, found.title(key), other)
            elif owner:
                whose = "this very node" if owner == key else f"peer {found.title(owner)}"
                message = port_taken(port, family, f"{whose} ({holder.address_family})")
                place = found.place(endpoint.path, "send_port")
                other = found.place(holder.path, "send_port")
                yield Finding("port-taken", message, place, found.title(key), other)
            else:
                linked[key, family] = endpoint
                holders[port] = (key, endpoint)


def _of_endpoints(peer: Peer, found: _Blocks) -> Iterator[Finding]:
    title = found.title(peer.public_key)
    for endpoint in peer.endpoints:
        port, address = endpoint.send_port, endpoint.address
        faults = [("send_port", f"SendPort {port}", _risk(port))]
        if address is not None:
            faults.append(("address", shown(address), _reach(address)))
        for key, what, fault in faults:
            if fault is not None:
                rule, why = fault
                yield Finding(rule, f"{what} is {why}", found.place(endpoint.path, key), title)


def _risk(port: int) -> tuple[str, str] | None:
    """The rule that a port breaks, and what it is; None if it is as good as others."""
    if port <= MAX_PRIVILEGED_PORT:
        return "privileged-port", "privileged"
    if EPHEMERAL_PORTS[0] <= port <= EPHEMERAL_PORTS[1]:
        return "ephemeral-port", "in the range of which the kernel gives ports to programs"
    return None


_DOCUMENTATION = tuple(
    ip_network(text)
    for text in (
        "192.0.2.0/24",  # RFC 5737, as the two that follow
        "198.51.100.0/24",
        "203.0.113.0/24",
        "2001:db8::/32",  # RFC 3849
        "3fff::/20",  # RFC 9637
    )
)
_RESERVED_NAMES = {
    "localhost": "each node itself (RFC 6761)",
    "local": "known in its own network alone, by mDNS (RFC 6762)",
    "test": "for tests, and never resolves (RFC 6761)",
    "example": "for documentation, and never resolves (RFC 6761)",
    "invalid": "never to resolve (RFC 6761)",
}


def _reach(address: str) -> tuple[str, str] | None:
    """The rule that an address breaks, and what it is; None if others can reach it."""
    literal = ip_literal(address)
    if literal is None:
        reserved = _RESERVED_NAMES.get(address.rstrip(".").rpartition(".")[2].lower())
        return None if reserved is None else ("unreachable", reserved)
    ip = ip_address(literal[1])
    if ip.is_loopback:
        return "unreachable", "a loopback address: each node itself"
    if ip.is_link_local:
        return "unreachable", "a link-local address, which means nothing beyond one network segment"
    if any(ip in network for network in _DOCUMENTATION):
        return "unreachable", "for documentation, and no host's"
    is_private = not ip.is_global or (ip.version == 6 and ip.is_site_local)
    return ("private-address", "of a private range") if is_private else None


def _too_many(peers: Iterable[Peer], found: _Blocks) -> Iterator[Finding]:
    endpoints = {(e.address_family, e.send_port): e for peer in peers for e in peer.endpoints}
    if len(endpoints) > DEFAULT_MAX_LINKS:
        message = (
            f"the list asks for {len(endpoints)} links, and max_links is {DEFAULT_MAX_LINKS} "
            "unless rait.conf says otherwise"
        )
        first_over = list(endpoints.values())[DEFAULT_MAX_LINKS]
        yield Finding("too-many", message, found.place(first_over.path, "send_port"))

"""Decodes a document, as HCL or TOML gave it, to a Config, and checks it in every way.

The rules of this module:

1. It is total: a document of whatever shape gives a Config or problems, never an exception.
2. If there is an error, there is no Config; all errors are reported.
3. No message quotes a key, or a value that could be one.

The schema says what each value may be by itself. This module reads other spellings of a value, and
checks what depends on more than one value.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import partial
from typing import get_args

from rait.domain.config.decode_policies import decode_policies, each, keepalive, mark
from rait.domain.config.decoding import Block
from rait.domain.config.hosts import checked_address, ifname_problem, ip_literal
from rait.domain.config.keytext import canonical_key, is_key, shown
from rait.domain.config.schema import (
    ALWAYS,
    MAX_IFNAME,
    MAX_PORT,
    MAX_PREFIX,
    PORT_RANGE,
    SIGNERS,
    Babeld,
    Config,
    Isolation,
    Secret,
    Transport,
    Watch,
    is_live,
    parse_span,
)
from rait.domain.errors import Problem
from rait.domain.minisign import looks_like_key, public_key
from rait.domain.topology import Family

FOREVER = "forever"
"""The span of ``journal_keep`` that never ends."""

RT_TABLE_MAIN, RT_TABLE_LOCAL = 254, 255  # linux/rtnetlink.h
_DIGITS = len(str(MAX_PORT))
MAX_UNIX_PATH = 107
"""The size of sun_path less the closing NUL (unix(7))."""

_MAX_FILE_NAME = 255
"""NAME_MAX (linux/limits.h), in bytes; the name of a namespace is one of a file."""

_RANGE = re.compile(r"\s*([0-9]{1,5})\s*(?:-\s*([0-9]{1,5})\s*)?", re.ASCII)
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_BOTH_FAMILIES = (
    "is the send_port of a transport of {} too: WireGuard takes a port in both families, so other "
    "nodes listen on it for one of their two links to this one and skip the other, unless they set "
    "dynamic_port; take another port"
)
_NO_BINDING = (
    "has no effect: WireGuard in the kernel listens on all addresses, and so do the programs "
    "that stand in for it"
)


def decode_config(
    document: Mapping[str, object], *, key_required: bool = True
) -> tuple[Config | None, tuple[Problem, ...]]:
    """The configuration and its warnings, or None and the problems, errors among them.

    Unless ``key_required``, the private key may be missing.
    """
    problems: list[Problem] = []
    config = _config(Block(Config, document, problems), key_required)
    failed = any(problem.severity == "error" for problem in problems)
    return None if failed else config, tuple(problems)


def _config(top: Block[Config], key_required: bool) -> Config | None:
    if not top.has("transports") or top.values["transports"] == []:
        top.report("there is no transport block: at least one is needed to reach peers")
    blocks = top.blocks("transports", Transport)
    read = [(block, transport) for block in blocks if (transport := _transport(block)) is not None]
    isolation = _isolation(top.block("isolation", Isolation))
    babeld = _babeld(top.block("babeld", Babeld))
    watch = _watch(top.block("watch", Watch), str(top.values.get("peers", "")))
    _check_transports(read, isolation)
    _check_private_key(top, key_required)
    top.read("private_key", object, lambda value: Secret(canonical_key(value)))
    top.check_values()
    top.read("remarks", list, lambda value: value[0] if len(value) == 1 else value)
    top.read("journal", str, _journal)
    top.read("journal_keep", object, partial(_span, FOREVER, None))
    top.read("peers_fallback", object, partial(_span, ALWAYS, ALWAYS))
    if "peers_fallback" in top.values and not _URL.match(str(top.values.get("peers", ""))):
        top.report("has no effect: rait keeps a list from a URL alone", "peers_fallback", "warning")
    top.read("peers_public_key", object, _signers)
    if "peers_public_key" in top.values and top.values.get("peers") == "-":
        top.report("cannot be - (standard input): a signature is beside the list", "peers")
    top.read("port_range", object, lambda value: each(PORT_RANGE, value, port_range))
    transports = [transport for _, transport in read]
    top.values |= {"transports": transports, "isolation": isolation, "babeld": babeld}
    top.values["watch"] = watch
    top.values["policies"] = decode_policies(top, transports, isolation or Isolation())
    return top.decoded()


def _check_private_key(top: Block[Config], required: bool) -> None:
    here, there = top.has("private_key"), top.has("private_key_file")
    if here and there:
        message = "private_key and private_key_file are both given: leave one out"
        top.report(message, "private_key_file")
    elif required and not here and not there:
        top.report("private_key is missing: make one with `wg genkey`")
    if top.values.get("peers") == "-" and top.values.get("private_key_file") == "-":
        top.report("cannot be - (standard input), as private_key_file is", "peers")


def _journal(path: str) -> str:
    if path == "-" or _URL.match(path):
        raise ValueError("must be the path of a file on this machine")
    return path.rstrip("/") or path  # with a slash at its end, it would be a directory to be made


def _span(endless: str, meaning: str | None, value: object) -> int | str | None:
    """Nanoseconds, or the meaning of the word for a span that never ends."""
    if value == endless:
        return meaning
    span = parse_span(value) if isinstance(value, str) else None
    if not span:
        problem = "keeps nothing" if span == 0 else "is no span of time"
        raise ValueError(f'{shown(value)} {problem}; write it as "90d", "52w", or "{endless}"')
    return span


def _signers(value: object) -> list[str]:
    """The keys, or the paths of their files; ``value`` is one, or a list of them."""
    items = value if isinstance(value, list | tuple) else [value]
    texts = [item for item in items if isinstance(item, str)]
    for item in texts:
        if looks_like_key(item):
            public_key(item)
        elif item in ("", "-") or "\n" in item or _URL.match(item) or is_key(item):
            raise ValueError(f"must be {SIGNERS}")
    if not texts or len(texts) < len(items):
        raise ValueError(f"must be {SIGNERS}")
    return texts


def port_range(value: object) -> tuple[int, int]:
    """The first and last port of a range as ``"1024-65535"``, or of one port. Raises ValueError."""
    low = high = 0
    if isinstance(value, int) and not isinstance(value, bool):
        low = high = value
    elif isinstance(value, str) and (match := _RANGE.fullmatch(value)):
        low, high = int(match[1]), int(match[2] or match[1])
    if not 1 <= low <= high <= MAX_PORT:
        raise ValueError(f"must be {PORT_RANGE}, not {shown(value)}")
    return low, high


def _transport(block: Block[Transport]) -> Transport | None:
    block.check_values()
    block.read("ifprefix", str, _prefix)
    block.read("fwmark", str, mark)
    block.read("keepalive", str, keepalive)
    for family in get_args(Family):
        if block.values.get("address_family") == family:
            block.read("address", str, partial(_address, family))
            block.read("bind_addr", str, partial(_address, family))
    transport = block.decoded()
    address = block.values.get("bind_addr")
    if isinstance(address, str) and ip_literal(address) is None:
        block.report("must be an IP address of this machine", "bind_addr")
    elif address is not None:
        block.report(_NO_BINDING, "bind_addr", "warning")
    return transport


def _address(family: Family, text: str) -> str | None:
    return checked_address(text, family) if text else None


def _prefix(prefix: str) -> str:
    problem = ifname_problem(prefix)
    if problem is None and len(prefix.encode()) > MAX_PREFIX:
        problem = (
            f"{shown(prefix)} is longer than {MAX_PREFIX} bytes: an interface name has "
            f"{MAX_IFNAME}, and a port of up to five digits comes after the prefix"
        )
    if problem is not None:
        raise ValueError(problem)
    return prefix


def _check_transports(
    transports: list[tuple[Block[Transport], Transport]], isolation: Isolation
) -> None:
    needs_marks = bool(isolation.transit_vrf)
    prefixes: set[str] = set()
    families: dict[int, list[Family]] = {}
    for block, transport in transports:
        if transport.ifprefix in prefixes:
            block.report("is the ifprefix of another transport too", "ifprefix")
        prefixes.add(transport.ifprefix)
        family = transport.address_family
        others = families.setdefault(transport.send_port, [])
        if family in others:
            block.report(f"is the send_port of another transport of {family} too", "send_port")
        elif others:
            block.report(_BOTH_FAMILIES.format(others[0]), "send_port", "warning")
        others.append(family)
        if needs_marks and not transport.fwmark:
            message = "fwmark is missing: a VRF as transit finds the transport's packets by it"
            block.report(message, "fwmark" if block.has("fwmark") else None)


def _isolation(block: Block[Isolation] | None) -> Isolation:
    if block is None:
        return Isolation()
    block.check_values()
    isolation = block.decoded() or Isolation()
    if isolation.type == "vrf":
        _check_vrf(block, isolation)
    else:
        _check_netns(block, isolation)
    return isolation


def _check_netns(block: Block[Isolation], isolation: Isolation) -> None:
    for key, name in (("transit", isolation.transit), ("target", isolation.target)):
        if len(name.encode()) > _MAX_FILE_NAME:
            block.report(
                f"{shown(name)} is longer than {_MAX_FILE_NAME} bytes, the limit for the name of "
                "a network namespace",
                key,
            )
        elif "/" in name or name in (".", "..") or any(c.isspace() for c in name):
            block.report(f"{shown(name)} cannot name a network namespace (ip-netns(8))", key)
    if block.has("table"):
        block.report('has a meaning only with type = "vrf"', "table")


def _check_vrf(block: Block[Isolation], isolation: Isolation) -> None:
    block.require("target", "the name of the VRF for the links")
    block.require("table", "the number of the VRF's routing table")
    names = [("target", isolation.target)] if "target" in block.values else []
    names += [("transit", isolation.transit)] if isolation.transit else []
    for key, name in names:
        problem = ifname_problem(name)
        if problem is not None:
            block.report(problem, key)
    if isolation.table in (RT_TABLE_MAIN, RT_TABLE_LOCAL):
        block.report("is the machine's own table, which would keep nothing apart", "table")
    if isolation.transit and isolation.transit == isolation.target:
        block.report("is the target too, which would keep nothing apart", "transit")


def _babeld(block: Block[Babeld] | None) -> Babeld | None:
    if block is None:
        return Babeld()
    block.check_values()
    by_tcp = block.values.get("socket_type") == "tcp"
    if by_tcp:
        block.require("socket_addr", "a port or HOST:PORT, as babeld's -G option gives the port")
        block.read("socket_addr", int, _port_as_text)
    block.read("socket_addr", str, _tcp_address if by_tcp else _unix_path)
    return block.decoded()


def _watch(block: Block[Watch] | None, peers: str) -> Watch | None:
    if block is None:
        return Watch()
    block.check_values()
    for name in ("poll", "names", "look", "max_peers_age", "lease"):
        block.read(name, str, partial(_interval, name))
    block.read("metrics", str, _own_address)
    if block.values.get("publish") is True and not is_live(peers):
        block.report(
            "needs a registry that takes entries: set `peers` to one in etcd, as "
            "etcd://HOST:2379/PREFIX",
            "publish",
        )
    if block.has("lease") and not block.values.get("publish"):
        block.report("has no effect without publish = true", "lease", "warning")
    return block.decoded()


def _own_address(text: str) -> str:
    host, _, _ = _tcp_address(text).rpartition(":")
    if host != "localhost" and ip_literal(host) is None:
        raise ValueError('must be ADDRESS:PORT, as "127.0.0.1:9586" or "[::1]:9586"')
    return text


def _interval(name: str, text: str) -> int:
    span = parse_span(text)
    if not span:
        example = "1d" if name == "max_peers_age" else "60s"
        raise ValueError(f'{shown(text)} is no span of time; write it as "{example}"')
    return span


def _port_as_text(port: int) -> str:
    """The text of a port that stands without quotes, as in babeld's own option."""
    if isinstance(port, bool) or not 1 <= port <= MAX_PORT:
        raise ValueError(f"must be a port from 1 to {MAX_PORT}, or HOST:PORT, not {shown(port)}")
    return str(port)


def _unix_path(path: str) -> str:
    if _URL.match(path):
        raise ValueError("must be the path of babeld's socket")
    if len(path.encode()) > MAX_UNIX_PATH:
        raise ValueError(f"is longer than {MAX_UNIX_PATH} bytes (unix(7))")
    return path


def _tcp_address(address: str) -> str:
    host, colon, port = address.rpartition(":")
    number = int(port) if port.isascii() and port.isdecimal() and len(port) <= _DIGITS else 0
    bare_ip6 = ":" in host and not (host.startswith("[") and host.endswith("]"))
    if (colon and not host) or bare_ip6 or not 1 <= number <= MAX_PORT:
        raise ValueError("must be a port, or HOST:PORT with an IPv6 address in brackets")
    return address

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
from collections.abc import Callable, Iterable, Mapping, Set
from functools import partial
from typing import TypeVar, get_args

from rait.domain.config.decoding import Block
from rait.domain.config.hosts import checked_address, ifname_problem, ip_literal
from rait.domain.config.keytext import canonical_key, is_key, shown
from rait.domain.config.limits import ADDRESSES, COMMAND, PORT_RANGE, SIGNERS
from rait.domain.config.remarks import remark_text
from rait.domain.config.schema import (
    ALWAYS,
    MAX_IFNAME,
    MAX_PORT,
    MAX_PREFIX,
    POLICY_SETTINGS,
    Babeld,
    Config,
    Fallback,
    Isolation,
    Match,
    Policy,
    Secret,
    Transport,
    Watch,
    is_live,
    parse_span,
)
from rait.domain.config.templates import checked_key_file, parse_address
from rait.domain.errors import Problem
from rait.domain.minisign import looks_like_key, public_key
from rait.domain.topology import Family

Meaning = TypeVar("Meaning")

FOREVER = "forever"
"""The span of ``journal_keep`` that never ends."""

RT_TABLE_MAIN, RT_TABLE_LOCAL = 254, 255  # linux/rtnetlink.h
_DIGITS = len(str(MAX_PORT))
MAX_UNIX_PATH = 107
"""The size of sun_path less the closing NUL (unix(7))."""

_MAX_FILE_NAME = 255
"""NAME_MAX (linux/limits.h), in bytes; the name of a namespace is one of a file."""

_OFF = "off"
"""Takes back what an earlier policy sets."""

_GLOBS = "a glob in quotes, or a list of these"
_FAMILIES = "ip4 or ip6, or a list of these"
_KEYS = "a key in base64, or a list of these"
_MARK = re.compile(r"0[xX][0-9A-Fa-f]{1,8}|[0-9]{1,10}", re.ASCII)

_RANGE = re.compile(r"\s*([0-9]{1,5})\s*(?:-\s*([0-9]{1,5})\s*)?", re.ASCII)
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_UNSIGNED = (
    "is for a list that somebody signs, and nobody signs one from etcd: leave peers_public_key "
    "out, and have TLS (etcds://) and roles of etcd say who may write"
)
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
    top.read("journal_keep", object, _keep)
    top.read("peers_fallback", object, _fallback)
    if "peers_fallback" in top.values and not _URL.match(str(top.values.get("peers", ""))):
        top.report("has no effect: rait keeps a list from a URL alone", "peers_fallback", "warning")
    top.read("peers_public_key", object, lambda value: _each(SIGNERS, value, _signer))
    if "peers_public_key" in top.values and top.values.get("peers") == "-":
        top.report("cannot be - (standard input): a signature is beside the list", "peers")
    if "peers_public_key" in top.values and is_live(str(top.values.get("peers", ""))):
        top.report(_UNSIGNED, "peers_public_key")
    top.read("port_range", object, lambda value: _each(PORT_RANGE, value, port_range))
    transports = [transport for _, transport in read]
    top.values |= {"transports": transports, "isolation": isolation, "babeld": babeld}
    top.values["watch"] = watch
    top.values["policies"] = _policies(top, transports, isolation or Isolation())
    return top.decoded()


def _check_private_key(top: Block[Config], required: bool) -> None:
    here, there = top.has("private_key"), top.has("private_key_file")
    if here and there:
        message = "private_key and private_key_file are both given: leave one out"
        top.report(message, "private_key_file")
    elif required and not here and not there:
        top.report("private_key_file is missing (or private_key): make a key with `rait genkey`")
    if top.values.get("peers") == "-" and top.values.get("private_key_file") == "-":
        top.report("cannot be - (standard input), as private_key_file is", "peers")


def _journal(path: str) -> str:
    if path == "-" or _URL.match(path):
        raise ValueError("must be the path of a file on this machine")
    return path.rstrip("/") or path  # with a slash at its end, it would be a directory to be made


def _span(value: object, words: str) -> int:
    """Nanoseconds; ``words`` are how to write a span of time."""
    span = parse_span(value) if isinstance(value, str) else None
    if not span:
        raise ValueError(f"{shown(value)} is no span of time; write it as {words}")
    return span


def _keep(value: object) -> int | None:
    return None if value == FOREVER else _span(value, f'"90d", "52w", or "{FOREVER}"')


def _fallback(value: object) -> Fallback:
    return ALWAYS if value == ALWAYS else _span(value, f'"90d", "52w", or "{ALWAYS}"')


def _signer(value: object) -> str | None:
    """A key, or the path of its file."""
    if not isinstance(value, str):
        return None
    if looks_like_key(value):
        public_key(value)
    elif value in ("", "-") or "\n" in value or _URL.match(value) or is_key(value):
        return None
    return value


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
    block.read("fwmark", str, _mark)
    block.read("keepalive", str, _keepalive)
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


def _isolation(block: Block[Isolation]) -> Isolation:
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


def _babeld(block: Block[Babeld]) -> Babeld | None:
    block.check_values()
    by_tcp = block.values.get("socket_type") == "tcp"
    if by_tcp:
        block.require("socket_addr", "a port or HOST:PORT, as babeld's -G option gives the port")
        block.read("socket_addr", int, _port_as_text)
    block.read("socket_addr", str, _tcp_address if by_tcp else _unix_path)
    return block.decoded()


def _watch(block: Block[Watch], peers: str) -> Watch | None:
    block.check_values()
    for name in ("poll", "names", "look", "lease"):
        block.read(name, str, lambda text: _span(text, '"60s"'))
    block.read("max_peers_age", str, lambda text: _span(text, '"1d"'))
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


def _policies(
    top: Block[Config], transports: Iterable[Transport], isolation: Isolation
) -> list[Policy]:
    """The policies, in the order of their blocks."""
    families = {transport.address_family for transport in transports}
    needs_mark = bool(isolation.transit_vrf)
    found = []
    for block in top.blocks("policies", Policy):
        policy = _policy(block, families)
        if policy is not None:
            found.append(policy)
            if needs_mark and policy.fwmark == 0:
                block.report("a VRF as transit finds the packets of links by their mark", "fwmark")
    return found


def _mark(text: str) -> int | str:
    """The number that wg(8) takes for a mark, "off", decimal or hex; other text as it is."""
    if text == _OFF:
        return 0
    return int(text, 16 if text[:2] in ("0x", "0X") else 10) if _MARK.fullmatch(text) else text


def _keepalive(text: str) -> int | str:
    """The seconds that wg(8) takes for "off"; other text as it is."""
    return 0 if text == _OFF else text


def _policy(block: Block[Policy], families: Set[Family]) -> Policy | None:
    if not any(map(block.has, POLICY_SETTINGS)):
        block.report("the policy sets nothing, so it has no effect", severity="warning")
    block.check_values()
    if block.values.get("match") == []:
        block.refuse("must be a block, not an empty list", "match")
    match = _match(block.block("match", Match), families)
    block.read("fwmark", str, _mark)
    block.read("keepalive", str, _keepalive)
    block.read("addresses", object, _addresses)
    block.read("preshared_key_file", str, checked_key_file)
    block.read("up_command", object, _command)
    block.read("down_command", object, _command)
    block.values |= {"match": match, "path": block.path}
    return block.decoded()


def _match(block: Block[Match], families: Set[Family]) -> Match | None:
    block.check_values()
    block.read("name", object, lambda value: _each(_GLOBS, value, _glob))
    block.read("public_key", object, lambda value: _each(_KEYS, value, canonical_key))
    block.read("address_family", object, lambda value: _each(_FAMILIES, value, _family))
    block.read("remarks", object, _remarks)
    match = block.decoded()
    wanted = set() if match is None else set(match.address_family)
    if wanted and families and not wanted & families:
        message = "no transport is of this family, so the policy is for no link"
        block.report(message, "address_family", "warning")
    return match


def _each(
    words: str, value: object, meaning: Callable[[object], Meaning | None]
) -> tuple[Meaning, ...]:
    """The meaning of a value, or of each in a list of them; ``words`` say what they must be.

    Raises ValueError for an empty list, and for a value that has no meaning.
    """
    items = value if isinstance(value, list | tuple) else [value]
    if not items:
        raise ValueError(f"must be {words}, not an empty list")
    found = []
    for item in items:
        meant = meaning(item)
        if meant is None:
            raise ValueError(f"must be {words}, not {shown(item)}")
        found.append(meant)
    return tuple(found)


def _glob(value: object) -> str | None:
    return value if isinstance(value, str) and value else None


def _family(value: object) -> str | None:
    return str(value) if value in get_args(Family) else None


def _remarks(value: object) -> dict[str, tuple[str, ...]]:
    """Globs by the key of a remark; HCL gives a list of one block."""
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if not isinstance(value, Mapping) or not value:
        raise ValueError(f"must be one block, which has for each key {_GLOBS}")
    found = {}
    for key, globs in value.items():
        try:
            found[str(key)] = _each(_GLOBS, globs, remark_text)
        except ValueError as error:
            raise ValueError(f"{shown(key)} {error}") from None
    return found


def _addresses(value: object) -> tuple[str, ...]:
    return () if value == _OFF else _each(ADDRESSES, value, _link_address)


def _link_address(value: object) -> str | None:
    """An address as it is written; what can be checked without a peer is checked."""
    if not isinstance(value, str):
        return None
    try:
        address = parse_address(value)
        if "{" not in value:
            address.text({})
    except ValueError as error:
        raise ValueError(f"{shown(value)}: {error}") from None
    return value


def _command(value: object) -> tuple[str, ...]:
    if value == _OFF:
        return ()
    if not isinstance(value, list | tuple):
        raise ValueError(f"must be {COMMAND}, not {shown(value)}")
    command = _each(COMMAND, value, lambda text: text if isinstance(text, str) else None)
    program = command[0]
    if not program or ("/" in program and not program.startswith("/")):
        raise ValueError(
            f"begins with {shown(program)}, and must begin with a program: an absolute path, or a "
            "name that is found on PATH"
        )
    return command

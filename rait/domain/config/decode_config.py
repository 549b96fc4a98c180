"""From a document, as HCL or TOML gave it, to a Config that was checked in every way.

The rules of this module:

1. It is total: a document of whatever shape gives a Config or problems, never an exception.
2. One error is enough for no Config; all errors are reported, in the order of the schema.
3. No message quotes a key, or a value that could be one.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from itertools import combinations
from typing import Literal, get_args

from rait.domain.config.hosts import checked_address, ifname_problem, ip_literal
from rait.domain.config.keytext import canonical_key, kind_of, shown
from rait.domain.config.reader import Reader
from rait.domain.config.schema import (
    DEFAULT_JOURNAL,
    DEFAULT_JOURNAL_KEEP,
    DEFAULT_MAX_LINKS,
    DEFAULT_PEERS,
    MAX_IFNAME,
    MAX_MTU,
    MIN_MTU,
    PRIVATE_GROUPS,
    Babeld,
    Config,
    Isolation,
    Secret,
    Transport,
    parse_span,
)
from rait.domain.errors import Problem
from rait.domain.topology import Family

Backend = Literal["auto", "kernel", "userspace"]

FOREVER = "forever"
"""The span of ``journal_keep`` that never ends."""

FAMILIES: tuple[Family, ...] = get_args(Family)
BACKENDS: tuple[Backend, ...] = get_args(Backend)

MAX_PORT = 65535
MAX_U32 = 2**32 - 1
MAX_PREFIX = MAX_IFNAME - 5
"""The longest ifprefix, in bytes: it leaves five digits for the port."""

MAX_IFGROUP = PRIVATE_GROUPS - 1

RT_TABLE_MAIN, RT_TABLE_LOCAL = 254, 255  # linux/rtnetlink.h
MAX_UNIX_PATH = 107
"""The size of sun_path less the closing NUL (unix(7))."""

_MAX_FILE_NAME = 255
"""NAME_MAX (linux/limits.h), in bytes; the name of a namespace is one of a file."""

_MARK = re.compile(r"0[xX][0-9A-Fa-f]{1,8}|[0-9]{1,10}", re.ASCII)
_URL = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*://")
_RANGE = re.compile(r"\s*([0-9]{1,5})\s*(?:-\s*([0-9]{1,5})\s*)?", re.ASCII)
_PORT_RANGE = f'a port from 1 to {MAX_PORT}, a range as "1024-65535", or a list of these'
_MTU_REASON = f"babeld needs IPv6, whose least MTU is {MIN_MTU}; WireGuard adds up to 80 bytes"
_GROUP_REASON = (
    "0 is the group of all interfaces that were put in none, and the highest are for rait itself"
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
    """The configuration, and what was found: errors if there is no Config, else warnings.

    Where nothing is to be made, the private key may be missing: then ``key_required`` is False.
    """
    problems: list[Problem] = []
    config = _config(Reader(document, problems), key_required)
    failed = any(problem.severity == "error" for problem in problems)
    return None if failed else config, tuple(problems)


def _config(top: Reader, key_required: bool) -> Config:
    secret, key_file = _private_key(top, key_required)
    transports = _transports(top)
    isolation = _isolation(top.block("isolation"))
    _check_marks(transports, isolation)
    config = Config(
        private_key=secret,
        private_key_file=key_file,
        transports=tuple(transport for _, transport in transports),
        isolation=isolation,
        babeld=_babeld(top.block("babeld")),
        peers=top.filled("peers") or DEFAULT_PEERS,
        name=top.filled("name", key_allowed=True),
        remarks=_remarks(top),
        backend=top.choice("backend", BACKENDS, None) or "auto",
        journal=_journal(top),
        journal_keep=_journal_keep(top),
        max_removals=top.integer("max_removals", 0, MAX_U32),
        max_links=top.integer("max_links", 1, MAX_U32) or DEFAULT_MAX_LINKS,
        port_range=_port_range(top),
    )
    if config.peers == "-" and key_file == "-":
        top.report("cannot be - (standard input), as private_key_file is", "peers")
    top.finish()
    return config


def _journal(top: Reader) -> str:
    path = top.filled("journal") or DEFAULT_JOURNAL
    if path == "-" or _URL.match(path):
        top.report("must be the path of a file on this machine", "journal")
    return path


def _journal_keep(top: Reader) -> int | None:
    text = top.filled("journal_keep")
    if text is None:
        return DEFAULT_JOURNAL_KEEP
    if text == FOREVER:
        return None
    span = parse_span(text)
    if not span:
        problem = "keeps nothing" if span == 0 else "is no span of time"
        message = f'{shown(text)} {problem}; write it as "90d", "52w", or "{FOREVER}"'
        top.report(message, "journal_keep")
    return span


def _private_key(top: Reader, required: bool) -> tuple[Secret | None, str | None]:
    value, key_file = top.value("private_key"), top.filled("private_key_file")
    if top.has("private_key") and top.has("private_key_file"):
        message = "private_key and private_key_file are both given: leave one out"
        top.report(message, "private_key_file")
    if not top.has("private_key"):
        if required and not top.has("private_key_file"):
            top.report("private_key is missing: make one with `wg genkey`")
        return None, key_file
    try:
        return Secret(canonical_key(value)), key_file
    except ValueError as error:
        top.report(str(error), "private_key")
        return None, key_file


def _remarks(top: Reader) -> dict[str, object]:
    # For people: they may hold anything, and HCL gives a block as a list of one.
    value = top.value("remarks")
    if isinstance(value, list) and len(value) == 1:
        value = value[0]
    if isinstance(value, Mapping):
        return {str(key): item for key, item in value.items()}
    if top.has("remarks"):
        top.report(f"must be a block, not {kind_of(value)}", "remarks")
    return {}


def _port_range(top: Reader) -> tuple[tuple[int, int], ...]:
    """The first and last ports of the ranges: one range, or a list of them."""
    value = top.value("port_range")
    if not top.has("port_range"):
        return ()
    items = value if isinstance(value, list | tuple) else [value]
    if not items:
        top.report(f"must not be empty: it is {_PORT_RANGE}", "port_range")
    found = [_ports(item) for item in items]
    for item, ports in zip(items, found, strict=True):
        if ports is None:
            given = shown(item) if isinstance(item, str | int) else kind_of(item)
            top.report(f"{given} is not {_PORT_RANGE}", "port_range")
            break
    return tuple(ports for ports in found if ports is not None)


def _ports(value: object) -> tuple[int, int] | None:
    """One port or one range of them, None where it is neither."""
    if isinstance(value, int) and not isinstance(value, bool):
        low = high = value
    elif isinstance(value, str) and (match := _RANGE.fullmatch(value)):
        low, high = int(match[1]), int(match[2] or match[1])
    else:
        return None
    return (low, high) if 1 <= low <= high <= MAX_PORT else None


def _transports(top: Reader) -> list[tuple[Reader, Transport]]:
    key = top.alias("transport", "transports")
    if not top.has(key) or top.value(key) == []:
        top.report("there is no transport block: at least one is needed to reach peers")
    read = [(reader, _transport(reader)) for reader in top.blocks(key)]
    found = [(reader, transport) for reader, transport in read if transport is not None]
    for (_, first), (reader, second) in combinations(found, 2):
        if first.ifprefix == second.ifprefix:
            reader.report("is the ifprefix of another transport too", "ifprefix")
        if first.send_port != second.send_port:
            continue
        family = first.address_family
        if family == second.address_family:
            reader.report(f"is the send_port of another transport of {family} too", "send_port")
        else:
            reader.report(_BOTH_FAMILIES.format(family), "send_port", "warning")
    return found


def _transport(reader: Reader) -> Transport | None:
    reader.require("address_family", "ip4 or ip6")
    reader.require("send_port", "the port that this node sends to, 1 to 65535")
    reader.require("mtu", f"the links' MTU in bytes, {MIN_MTU} to {MAX_MTU}")
    reader.require("ifprefix", "what the names of the interfaces begin with")
    family = reader.choice("address_family", FAMILIES, None)
    send_port = reader.integer("send_port", 1, MAX_PORT)
    mtu = reader.integer("mtu", MIN_MTU, MAX_MTU, why=_MTU_REASON)
    ifprefix = _ifprefix(reader)
    fwmark = _fwmark(reader)
    dynamic_port = reader.boolean(reader.alias("dynamic_port", "random_port"), False)
    address = _address(reader, "address", family)
    bind_addr = _address(reader, "bind_addr", family)
    if bind_addr is not None and ip_literal(bind_addr) is None:
        reader.report("must be an IP address of this machine", "bind_addr")
    elif bind_addr is not None:
        reader.report(_NO_BINDING, "bind_addr", "warning")
    reader.finish()
    if family is None or send_port is None or mtu is None or ifprefix is None:
        return None
    return Transport(
        address_family=family,
        send_port=send_port,
        mtu=mtu,
        ifprefix=ifprefix,
        fwmark=fwmark,
        dynamic_port=dynamic_port,
        address=address,
        bind_addr=bind_addr,
    )


def _ifprefix(reader: Reader) -> str | None:
    prefix = reader.text("ifprefix")
    if prefix is None:
        return None
    problem = ifname_problem(prefix)
    if problem is None and len(prefix.encode()) > MAX_PREFIX:
        problem = (
            f"{shown(prefix)} is longer than {MAX_PREFIX} bytes: an interface name has "
            f"{MAX_IFNAME}, and a port of up to five digits comes after the prefix"
        )
    if problem is not None:
        reader.report(problem, "ifprefix")
        return None
    return prefix


def _fwmark(reader: Reader) -> int:
    value = reader.value("fwmark")
    if not isinstance(value, str):
        return reader.integer("fwmark", 0, MAX_U32, 0) or 0
    # As wg(8) spells it: "off", or a number that may be hexadecimal.
    if value == "off":
        return 0
    base = 16 if value[:2] in ("0x", "0X") else 10
    mark = int(value, base) if _MARK.fullmatch(value) else -1
    if not 0 <= mark <= MAX_U32:
        reader.report(f"{shown(value)} is not a mark from 0 to 0xffffffff", "fwmark")
        return 0
    return mark


def _address(reader: Reader, key: str, family: Family | None) -> str | None:
    text = reader.text(key)
    if not text or family is None:
        return None
    try:
        return checked_address(text, family)
    except ValueError as error:
        reader.report(str(error), key)
        return None


def _isolation(reader: Reader | None) -> Isolation:
    if reader is None:
        return Isolation()
    kinds: tuple[Literal["netns", "vrf"], ...] = ("netns", "vrf")
    kind = reader.choice("type", kinds, "netns") or "netns"
    group = reader.integer("ifgroup", 1, MAX_IFGROUP, 54, _GROUP_REASON)
    isolation = Isolation(
        type=kind,
        ifgroup=group or 54,
        transit=reader.text("transit", "") or "",
        target=reader.text("target", "") or "",
        table=reader.integer("table", 1, MAX_U32),
    )
    if kind == "netns":
        _check_netns(reader, isolation)
    else:
        _check_vrf(reader, isolation)
    reader.finish()
    return isolation


def _check_netns(reader: Reader, isolation: Isolation) -> None:
    for key, name in (("transit", isolation.transit), ("target", isolation.target)):
        if len(name.encode()) > _MAX_FILE_NAME:
            reader.report(
                f"{shown(name)} is longer than {_MAX_FILE_NAME} bytes, the limit for the name of "
                "a network namespace",
                key,
            )
            continue
        odd = "/" in name or name in (".", "..")
        if odd or any(c.isspace() for c in name):
            reader.report(f"{shown(name)} cannot name a network namespace (ip-netns(8))", key)
    if reader.has("table"):
        reader.report('has a meaning only with type = "vrf"', "table")


def _check_vrf(reader: Reader, isolation: Isolation) -> None:
    reader.require("target", "the name of the VRF for the links")
    reader.require("table", "the number of the VRF's routing table")
    names = [("target", isolation.target)] if reader.has("target") else []
    names += [("transit", isolation.transit)] if isolation.transit else []
    for key, name in names:
        problem = ifname_problem(name)
        if problem is not None:
            reader.report(problem, key)
    if isolation.table in (RT_TABLE_MAIN, RT_TABLE_LOCAL):
        reader.report("is the machine's own table, which would keep nothing apart", "table")
    if isolation.transit and isolation.transit == isolation.target:
        reader.report("is the target too, which would keep nothing apart", "transit")


def _check_marks(transports: list[tuple[Reader, Transport]], isolation: Isolation) -> None:
    if isolation.type != "vrf" or not isolation.transit:
        return
    for reader, transport in transports:
        if not transport.fwmark:
            message = "fwmark is missing: a VRF as transit finds the transport's packets by it"
            reader.report(message, "fwmark" if reader.has("fwmark") else None)


def _babeld(reader: Reader | None) -> Babeld:
    if reader is None:
        return Babeld()
    kinds: tuple[Literal["unix", "tcp"], ...] = ("unix", "tcp")
    default = Babeld()
    kind = reader.choice("socket_type", kinds, default.socket_type) or default.socket_type
    address = _socket_address(reader, kind)
    if kind == "tcp":
        reader.require("socket_addr", "a port or HOST:PORT, as babeld's -G option gives the port")
    if address is not None:
        _check_socket(reader, kind, address)
    babeld = Babeld(
        socket_type=kind,
        socket_addr=address or default.socket_addr,
        param=reader.filled("param") or default.param,
        extra_cmd=reader.text("extra_cmd") or default.extra_cmd,
        sync=reader.boolean("sync", default.sync),
    )
    reader.finish()
    return babeld


def _socket_address(reader: Reader, kind: str) -> str | None:
    """For TCP a port may stand without quotes, as babeld's own option has it."""
    value = reader.value("socket_addr")
    if kind == "tcp" and isinstance(value, int) and not isinstance(value, bool):
        port = reader.integer("socket_addr", 1, MAX_PORT)
        return None if port is None else str(port)
    return reader.filled("socket_addr")


def _check_socket(reader: Reader, kind: str, address: str) -> None:
    if kind == "unix":
        if len(address.encode()) > MAX_UNIX_PATH:
            reader.report(f"is longer than {MAX_UNIX_PATH} bytes (unix(7))", "socket_addr")
        return
    host, colon, port = address.rpartition(":")
    number = int(port) if port.isascii() and port.isdecimal() and len(port) <= 5 else 0
    bare_ip6 = ":" in host and not (host.startswith("[") and host.endswith("]"))
    if (colon and not host) or bare_ip6 or not 1 <= number <= MAX_PORT:
        message = "must be a port, or HOST:PORT with an IPv6 address in brackets"
        reader.report(message, "socket_addr")

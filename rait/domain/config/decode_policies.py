"""Decodes the policy blocks of rait.conf, by the rules of decode_config.py."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping, Set
from typing import TypeVar, get_args

from rait.domain.config.addresses import parse_address
from rait.domain.config.decoding import Block
from rait.domain.config.key_files import checked_key_file
from rait.domain.config.keytext import canonical_key, shown
from rait.domain.config.remarks import remark_text
from rait.domain.config.schema import (
    ADDRESSES,
    COMMAND,
    POLICY_SETTINGS,
    Config,
    Isolation,
    Match,
    Policy,
    Transport,
)
from rait.domain.topology import Family

Meaning = TypeVar("Meaning")

_OFF = "off"
"""Takes back what an earlier policy sets."""

_GLOBS = "a glob in quotes, or a list of these"
_FAMILIES = "ip4 or ip6, or a list of these"
_KEYS = "a key in base64, or a list of these"
_MARK = re.compile(r"0[xX][0-9A-Fa-f]{1,8}|[0-9]{1,10}", re.ASCII)


def decode_policies(
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


def mark(text: str) -> int | str:
    """The number that wg(8) takes for a mark, "off", decimal or hex; other text as it is."""
    if text == _OFF:
        return 0
    return int(text, 16 if text[:2] in ("0x", "0X") else 10) if _MARK.fullmatch(text) else text


def keepalive(text: str) -> int | str:
    """The seconds that wg(8) takes for "off"; other text as it is."""
    return 0 if text == _OFF else text


def _policy(block: Block[Policy], families: Set[Family]) -> Policy | None:
    if not any(map(block.has, POLICY_SETTINGS)):
        block.report("the policy sets nothing, so it has no effect", severity="warning")
    block.check_values()
    if block.values.get("match") == []:
        block.refuse("must be a block, not an empty list", "match")
    match = _match(block.block("match", Match), families)
    block.read("fwmark", str, mark)
    block.read("keepalive", str, keepalive)
    block.read("addresses", object, _addresses)
    block.read("preshared_key_file", str, checked_key_file)
    block.read("up_command", object, _command)
    block.read("down_command", object, _command)
    block.values |= {"match": match, "path": block.path}
    return block.decoded()


def _match(block: Block[Match] | None, families: Set[Family]) -> Match | None:
    if block is None:
        return Match()
    block.check_values()
    block.read("name", object, lambda value: each(_GLOBS, value, _glob))
    block.read("public_key", object, lambda value: each(_KEYS, value, canonical_key))
    block.read("address_family", object, lambda value: each(_FAMILIES, value, _family))
    block.read("remarks", object, _remarks)
    match = block.decoded()
    wanted = set() if match is None else set(match.address_family)
    if wanted and families and not wanted & families:
        message = "no transport is of this family, so the policy is for no link"
        block.report(message, "address_family", "warning")
    return match


def each(
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
            found[str(key)] = each(_GLOBS, globs, remark_text)
        except ValueError as error:
            raise ValueError(f"{shown(key)} {error}") from None
    return found


def _addresses(value: object) -> tuple[str, ...]:
    return () if value == _OFF else each(ADDRESSES, value, _address)


def _address(value: object) -> str | None:
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
    command = each(COMMAND, value, lambda text: text if isinstance(text, str) else None)
    program = command[0]
    if not program or ("/" in program and not program.startswith("/")):
        raise ValueError(
            f"begins with {shown(program)}, and must begin with a program: an absolute path, or a "
            "name that is found on PATH"
        )
    return command

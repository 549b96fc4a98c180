"""Addresses of links, as ip-address(8) has them, with placeholders for what a registry says.

``LOCAL``, ``LOCAL/LENGTH``, ``LOCAL peer REMOTE`` or ``LOCAL peer REMOTE/LENGTH``. In LOCAL and
REMOTE may stand ``{name}`` and ``{remarks.KEY}``, for the peer's name and its remark of this key.

Others write the registry. So that nobody but the author of rait.conf says for how many hosts a
link is, the length is written out, and so is the form: what is put in for a placeholder is a part
of one address. Where the text around a placeholder does not tell the family, the length does.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache

from msgspec import Struct

from rait.domain.config.hosts import ip_literal, is_nobody
from rait.domain.config.keytext import shown
from rait.domain.config.schema import ADDRESS
from rait.domain.topology import Family, is_link_local

_LENGTHS: Mapping[Family, int] = {"ip4": 32, "ip6": 128}
_LINK_LOCAL_LENGTH = 64
_PLACEHOLDER = re.compile(r"\{(name|remarks\.[^{}/\s]+)\}")
_LENGTH = re.compile(r"[1-9][0-9]{0,2}", re.ASCII)


class Address(Struct, frozen=True):
    """One address, with placeholders; ``length`` is that of ``remote``, or of ``local`` alone."""

    local: str
    remote: str | None = None
    length: int | None = None

    def text(self, values: Mapping[str, str | None]) -> str:
        """The canonical text, as ``LinkSettings`` has it.

        ``values`` stand in for placeholders, by ``name`` and ``remarks.KEY``. Raises ValueError if
        one is missing, or if the result is no address of a link.
        """
        family, local = self._host(self.local, values)
        if self.remote is None:
            return f"{local}/{self._length(family, local)}"
        found, remote = self._host(self.remote, values)
        if found != family:
            raise ValueError("the two addresses are of different families")
        if local == remote:
            raise ValueError("the address of the peer is that of this node")
        if _is_link_local(local) or _is_link_local(remote):
            raise ValueError("a link-local address has no peer address")
        return f"{local} peer {remote}/{self._length(family, remote)}"

    def _length(self, family: Family, address: str) -> int:
        if _is_link_local(address):
            if self.length not in (None, _LINK_LOCAL_LENGTH):
                raise ValueError(f"a link-local address has the length {_LINK_LOCAL_LENGTH}")
            return _LINK_LOCAL_LENGTH
        return _LENGTHS[family] if self.length is None else self.length

    def _host(self, template: str, values: Mapping[str, str | None]) -> tuple[Family, str]:
        text = _PLACEHOLDER.sub(lambda found: _part(found[1], values), template)
        literal = ip_literal(text)
        if literal is None or "[" in text:
            raise ValueError(f"{shown(text)} is no IP address")
        family, address = literal
        if is_nobody(family, address) or address == "::1" or address.startswith("127."):
            raise ValueError(f"{shown(text)} is not the address of a host on a link")
        if family != (self._family(template) or family):
            raise ValueError(f"{shown(text)} is of another family than its length or form")
        if self.length is not None and self.length > _LENGTHS[family]:
            raise ValueError(f"the length is over {_LENGTHS[family]}")
        return family, address

    def _family(self, template: str) -> Family | None:
        """The family that the written part tells; None if both will do, for a single host."""
        written = _PLACEHOLDER.sub("", template)
        if ":" in written:
            return "ip6"
        if "." in written:
            return "ip4"
        if self.length is None:
            return None
        return "ip4" if self.length <= _LENGTHS["ip4"] else "ip6"


@lru_cache
def parse_address(text: str) -> Address:
    """The address in a text. Raises ValueError, with the reason, if there is none."""
    if re.search(r"[{}]", _PLACEHOLDER.sub("", text)):
        raise ValueError("in braces stands {name} or {remarks.KEY}")
    if "$" in text:
        raise ValueError("no $ stands in an address, also not before a brace")
    words = text.split()
    if len(words) not in (1, 3) or words[1:2] not in ([], ["peer"]):
        raise ValueError(f"must be {ADDRESS}")
    host, slash, length = words[-1].partition("/")
    if slash and not _LENGTH.fullmatch(length):
        raise ValueError("the length after the slash must be a number, from 1 on")
    number = int(length) if slash else None
    if len(words) == 1:
        return Address(host, None, number)
    if "/" in words[0]:
        raise ValueError("with a peer, the length belongs to the peer's address (ip-address(8))")
    return Address(words[0], host, number)


def _is_link_local(address: str) -> bool:
    """Whether an address is one of fe80::/64 (RFC 4291, section 2.5.6).

    Raises ValueError for another of fe80::/10, which no routing daemon takes for link-local.
    """
    if not is_link_local(address):
        return False
    from ipaddress import IPv6Address

    if int(IPv6Address(address)) >> 64 != 0xFE80 << 48:
        raise ValueError(f"{address} is link-local, and not in fe80::/64 (RFC 4291)")
    return True


def _part(name: str, values: Mapping[str, str | None]) -> str:
    value = values.get(name)
    if value is None:
        raise ValueError(f"the registry has no {name} of this peer")
    return value

"""What policies write with placeholders for what a registry says: addresses, and key files' paths.

An address is as ip-address(8) has it: ``LOCAL``, ``LOCAL/LENGTH``, ``LOCAL peer REMOTE`` or ``LOCAL
peer REMOTE/LENGTH``. In LOCAL and REMOTE may stand ``{name}`` and ``{remarks.KEY}``, for the peer's
name and its remark of this key. In the path of the file with a preshared key may stand ``{name}``
and ``{public_key}``: the peer's key as base64url has it without padding (RFC 4648, section 5).

Others write the registry, and nobody but the author of rait.conf says

- for how many hosts a link is: the length is written out, and so is the form, as what is put in is
  a part of one address. Where the text around it does not tell the family, the length does.
- in which directory rait reads: a name is put in only if it is a part of one file name, and does
  not begin with a dot.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from functools import lru_cache

from msgspec import Struct

from rait.domain.config.hosts import ip_literal, is_nobody
from rait.domain.config.keytext import shown
from rait.domain.config.schema import ADDRESS, Peer
from rait.domain.topology import Family, is_link_local

_LENGTHS: Mapping[Family, int] = {"ip4": 32, "ip6": 128}
_LINK_LOCAL_LENGTH = 64
_IN_ADDRESS = re.compile(r"\{(name|remarks\.[^{}/\s]+)\}")
_LENGTH = re.compile(r"[1-9][0-9]{0,2}", re.ASCII)
_IN_PATH = re.compile(r"\{(public_key|name)\}")
_URL_SAFE = str.maketrans("+/", "-_")
_LONGEST_NAME = 255
"""NAME_MAX (linux/limits.h), in bytes."""


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
        text = _IN_ADDRESS.sub(lambda found: _part(found[1], values), template)
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
        written = _IN_ADDRESS.sub("", template)
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
    if _has_braces(_IN_ADDRESS.sub("", text)):
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


def checked_key_file(path: str) -> str:
    """The path, if rait.conf may have it; "" for no preshared key. Raises ValueError."""
    if path == "off":
        return ""
    if not path:
        raise ValueError('must be a path, or "off"')
    if path == "-" or "://" in path:
        raise ValueError("must be the path of a file on this machine")
    if _has_braces(_IN_PATH.sub("", path)):
        raise ValueError("in braces stands {public_key} or {name}")
    return path


def is_template(path: str) -> bool:
    """Whether each peer has a file of its own."""
    return _IN_PATH.search(path) is not None


def key_file_of(template: str, peer: Peer) -> str:
    """The file of a peer. Raises ValueError if the peer's name cannot be a part of its name."""

    def value(found: re.Match[str]) -> str:
        if found[1] == "public_key":
            return peer.public_key.rstrip("=").translate(_URL_SAFE)
        if peer.name is None:
            raise ValueError("the registry has no name of this peer")
        if not _is_part_of_file_name(peer.name):
            raise ValueError(f"the peer's name is {shown(peer.name)}, which no file name may hold")
        return peer.name

    return _IN_PATH.sub(value, template)


def with_wildcards(template: str, escape: Callable[[str], str]) -> str:
    """The pattern (glob(7)) that the files of all peers match."""
    parts = _IN_PATH.split(template)[::2]
    return "*".join(map(escape, parts))


def _is_part_of_file_name(name: str) -> bool:
    # A path that is no more than a name may not be -, which stands for standard input.
    fits = name.isprintable() and "/" not in name and not name.startswith(".")
    return fits and name not in ("", "-") and len(name.encode()) <= _LONGEST_NAME


def _has_braces(text: str) -> bool:
    return "{" in text or "}" in text

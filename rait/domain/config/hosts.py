"""Checks of host names, IP addresses and interface names, as far as text alone can tell.

To the kernel an interface name is bytes. As text, those that are no UTF-8 are written as ``\\xff``.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from rait.domain.config.keytext import shown
from rait.domain.config.schema import MAX_IFNAME
from rait.domain.topology import Family

Host = tuple[str, Family]
"""A host name or an IP address, and the family in which its address is wanted."""

Addresses = dict[Host, tuple[str, ...]]

_LABEL = r"[A-Za-z0-9_](?:[A-Za-z0-9_-]{0,61}[A-Za-z0-9_])?"
_OCTETS = frozenset(map(str, range(256)))
_MAX_HOST_NAME = 253
_BYTE = "\\x"
_WRITTEN_BYTE = r"\\x([0-9a-f]{2})"
_TAKEN_FOR_SPACE = b"\xa0"
"""isspace() of the kernel knows Latin-1's no-break space (lib/ctype.c), but no UTF-8."""


def ip_literal(text: str) -> tuple[Family, str] | None:
    """The family and canonical text of an IP address, or None if it is none.

    An IPv6 address may stand in brackets. One with a zone (``%eth0``) is none.
    """
    if ":" in text and "%" not in text:
        # Imported here, as most runs have no IPv6 address; `from ... import` would take four times
        # as long for each address.
        import ipaddress

        bare = text[1:-1] if text.startswith("[") and text.endswith("]") else text
        try:
            return "ip6", str(ipaddress.IPv6Address(bare))
        except ValueError:
            return None
    # IPv4Address takes longer, and a list may have ten thousand addresses.
    octets = text.split(".")
    return ("ip4", text) if len(octets) == 4 and _OCTETS.issuperset(octets) else None


def literals(hosts: Iterable[Host]) -> tuple[Addresses, list[Host]]:
    """The addresses of those hosts that are IP addresses of their family, and the host names."""
    found = {host: ip_literal(host[0]) for host in hosts}
    addresses: Addresses = {h: (a[1],) for h, a in found.items() if a and a[0] == h[1]}
    return addresses, [host for host, each in found.items() if each is None]


def checked_address(value: str, family: Family) -> str:
    """The canonical text of an IP address of this family, or a plausible host name as it is.

    Raises ValueError with a text that says what is wrong.
    """
    if ":" in value and "%" in value:
        raise ValueError("an IPv6 address with a zone (%) means nothing on another machine")
    literal = ip_literal(value)
    if literal is None:
        return _checked_host_name(value)
    found, text = literal
    if found != family:
        raise ValueError(f"{shown(value)} is not an address of family {family}")
    if is_nobody(found, text):
        raise ValueError(f"{shown(value)} is not the address of a host")
    return text


def is_nobody(family: Family, text: str) -> bool:
    """Whether an address, in canonical text, is no host's: unspecified, multicast or reserved.

    Those are 0.0.0.0/8 (RFC 1122, section 3.2.1.3) and all addresses from 224.0.0.0 on; in IPv6 all
    of ::/32 but ::1 (RFC 4291, section 2.5), so IPv4-mapped ones too, and multicast.
    """
    if family == "ip4":
        first = int(text.partition(".")[0])
        return first == 0 or first >= 224
    if text.startswith("::"):
        return text != "::1"
    return int(text.partition(":")[0], 16) >= 0xFF00


def _checked_host_name(text: str) -> str:
    name = text[:-1] if text.endswith(".") else text
    labels = name.split(".")
    if len(name) > _MAX_HOST_NAME or not all(map(re.compile(_LABEL).fullmatch, labels)):
        hint = "" if text.isascii() else " (write an international name in its xn-- form)"
        raise ValueError(f"{shown(text)} is neither an IP address nor a host name{hint}")
    if labels[-1].isdecimal():
        # inet_aton(3) would take such text as an IPv4 address of a surprising value.
        raise ValueError(f"{shown(text)} is not a full IP address")
    return text


def ifname_text(raw: bytes) -> str:
    """An interface's name as text that JSON and SQLite take; no two names have the same text.

    A name in UTF-8 is itself its text, unless it holds ``\\x``, as the text of other names does.
    """
    try:
        text = raw.decode()
    except UnicodeDecodeError:
        text = _BYTE
    if _BYTE not in text:
        return text
    return raw.replace(b"\\", b"\\x5c").decode(errors="backslashreplace")


def ifname_bytes(text: str) -> bytes:
    """The name whose text ``ifname_text`` made."""
    if _BYTE not in text:
        return text.encode()
    parts = re.split(_WRITTEN_BYTE, text)
    # Text and two digits by turns.
    return b"".join(
        bytes([int(part, 16)]) if index % 2 else part.encode() for index, part in enumerate(parts)
    )


def ifname_problem(name: str) -> str | None:
    """Why a text cannot be an interface name, or None.

    The kernel's rules are dev_valid_name and dev_get_valid_name in net/core/dev.c: there a name
    with a "%" is a template, into which the kernel puts a number.
    """
    if not name:
        return "must not be empty"
    if name in (".", ".."):
        return f"{shown(name)} cannot name an interface"
    if any(c in "/:\0" or c.isspace() for c in name):
        return f"{shown(name)} cannot name an interface: no '/', ':' or white space"
    if "%" in name:
        return f"{shown(name)} cannot name an interface: no '%', which has a meaning to the kernel"
    if _BYTE in name:
        return f"{shown(name)} cannot name an interface: {_BYTE} stands for a byte that is no text"
    if _TAKEN_FOR_SPACE in name.encode("utf-8", "surrogatepass"):
        return f"{shown(name)} cannot name an interface: the kernel takes a part of it for a space"
    if len(name.encode("utf-8", "surrogatepass")) > MAX_IFNAME:
        return f"{shown(name)} is longer than {MAX_IFNAME} bytes, the limit for an interface name"
    return None

"""The path of the file with a preshared key, in which the peer's key and name may stand.

``{public_key}`` stands for the peer's public key as base64url has it without padding (RFC 4648,
section 5: - and _ for + and /, no =), and ``{name}`` for its name. Others write the registry. So
that nobody but the author of rait.conf says in which directory rait reads, a name is put in only if
it is a part of one file name, and does not begin with a dot.
"""

from __future__ import annotations

import re
from collections.abc import Callable

from rait.domain.config.keytext import shown
from rait.domain.config.schema import Peer

_PLACEHOLDER = re.compile(r"\{(public_key|name)\}")
_URL_SAFE = str.maketrans("+/", "-_")
_LONGEST_NAME = 255
"""NAME_MAX (linux/limits.h), in bytes."""


def checked_key_file(path: str) -> str:
    """The path, if rait.conf may have it; "" for no preshared key. Raises ValueError."""
    if path == "off":
        return ""
    if not path:
        raise ValueError('must be a path, or "off"')
    if path == "-" or "://" in path:
        raise ValueError("must be the path of a file on this machine")
    if re.search(r"[{}]", _PLACEHOLDER.sub("", path)):
        raise ValueError("in braces stands {public_key} or {name}")
    return path


def is_template(path: str) -> bool:
    """Whether each peer has a file of its own."""
    return _PLACEHOLDER.search(path) is not None


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

    return _PLACEHOLDER.sub(value, template)


def with_wildcards(template: str, escape: Callable[[str], str]) -> str:
    """The pattern (glob(7)) that the files of all peers match."""
    parts = _PLACEHOLDER.split(template)[::2]
    return "*".join(map(escape, parts))


def _is_part_of_file_name(name: str) -> bool:
    # A path that is no more than a name may not be -, which stands for standard input.
    fits = name.isprintable() and "/" not in name and not name.startswith(".")
    return fits and name not in ("", "-") and len(name.encode()) <= _LONGEST_NAME

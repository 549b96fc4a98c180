"""What an ``etcd://`` or ``etcds://`` URL says.

``etcds://USER@HOST:2379,HOST:2379/PREFIX?password_file=PATH&ca=PATH&cert=PATH&key=PATH``: members
of one cluster, the prefix of the keys, and the paths of files. Only ``etcds`` speaks TLS, with the
certificates of ``ca``, or else of the machine; ``cert`` and ``key`` are the client's own.
"""

from __future__ import annotations

from urllib.parse import parse_qsl, unquote, urlsplit

from msgspec import Struct

from rait.domain.config.schema import MAX_PORT
from rait.domain.errors import SourceError

PORT = 2379
"""etcd's own, for clients (IANA)."""

_FILES = ("password_file", "ca", "cert", "key")
_MOST_MEMBERS = 16


class Target(Struct, frozen=True):
    """The members of a cluster, as base URLs, and the prefix of the keys, which ends with "/".

    ``user`` is "" where nobody is to log in, and each path where there is no such file.
    """

    members: tuple[str, ...]
    prefix: str
    user: str = ""
    password_file: str = ""
    ca: str = ""
    cert: str = ""
    key: str = ""


def parse(url: str, name: str) -> Target:
    """What a URL says. Raises SourceError, which shows ``name`` in its place."""
    try:
        parts = urlsplit(url)
        pairs = parse_qsl(parts.query, keep_blank_values=True, strict_parsing=bool(parts.query))
        userinfo, _, hosts = parts.netloc.rpartition("@")
        members = tuple(_member(host, parts.scheme.lower() == "etcds") for host in hosts.split(","))
        if "@" in parts.path:  # what comes before it is a password, and no member
            raise ValueError
    except ValueError:
        # What Python says of it may quote a password.
        raise SourceError(
            f"{name}: the URL is not valid: each member is HOST or HOST:PORT, with commas between "
            "them, as in etcd://HOST:2379,HOST:2379/PREFIX?password_file=PATH"
        ) from None
    path = unquote(parts.path).rstrip("/")
    target = Target(members, f"{path}/", unquote(userinfo), **_files(pairs, name))
    if (problem := _problem(target, parts.fragment, has_tls=parts.scheme.lower() == "etcds")) != "":
        raise SourceError(f"{name}: {problem}")
    return target


def _member(host: str, has_tls: bool) -> str:
    parts = urlsplit(f"//{host}")
    port = PORT if parts.port is None else parts.port
    if not parts.hostname or not 0 < port <= MAX_PORT:
        raise ValueError
    where = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname
    return f"{'https' if has_tls else 'http'}://{where}:{port}"


def _files(pairs: list[tuple[str, str]], name: str) -> dict[str, str]:
    for key, path in pairs:
        if key not in _FILES:
            raise SourceError(f"{name}: a key after the ? is none of {', '.join(_FILES)}")
        if not path.startswith("/"):
            raise SourceError(f"{name}: {key} must be an absolute path")
    found = dict(pairs)
    if len(found) < len(pairs):
        raise SourceError(f"{name}: one of {', '.join(_FILES)} is given twice")
    return found


def _problem(target: Target, fragment: str, *, has_tls: bool) -> str:
    if target.prefix == "/":
        return "the prefix of the keys is missing, as in etcd://HOST:2379/rait/peers"
    if fragment:
        return "a URL of etcd has no #"
    if ":" in target.user:
        return "put the password into a file, and name it with ?password_file=PATH"
    if bool(target.user) != bool(target.password_file):
        return "a user and the password_file go together, as in etcds://USER@HOST/PREFIX?..."
    if not has_tls and (target.ca or target.cert or target.key):
        return "ca, cert and key are for TLS: write etcds:// in place of etcd://"
    if bool(target.cert) != bool(target.key):
        return "cert and key go together"
    if len(target.members) > _MOST_MEMBERS:
        return f"more than {_MOST_MEMBERS} members"
    return ""

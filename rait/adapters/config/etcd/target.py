"""What an ``etcd://`` or ``etcds://`` URL says, and what is in the files that it names.

``etcds://USER@HOST:2379,HOST:2379/PREFIX?password_file=PATH&ca=PATH&cert=PATH&key=PATH``: members
of one cluster, the prefix of the keys, and the paths of files. Only ``etcds`` speaks TLS, with the
certificates of ``ca``, or else of the machine; ``cert`` and ``key`` are the client's own.

The files are read anew for each connection to a cluster, as certificates are renewed. None of them
may be what takes for ever to read, as a pipe does.
"""

from __future__ import annotations

import os
import stat
from typing import TYPE_CHECKING
from urllib.parse import parse_qsl, unquote, urlsplit

from msgspec import Struct

from rait.domain.config.schema import MAX_PORT
from rait.domain.errors import SourceError

if TYPE_CHECKING:
    import ssl

PORT = 2379
"""etcd's own, for clients (IANA)."""

MAX_FILE = 4 * 1024 * 1024
"""Bytes of a file with certificates: those of a whole machine are a tenth of it."""

MAX_PASSWORD = 4096
"""Bytes of a file with a password."""

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


def password(path: str) -> str:
    """The first line of a file. Raises ValueError, which says why there is none."""
    try:
        _check(path, MAX_PASSWORD)
        with open(path, encoding="utf-8") as file:
            found = file.readline(MAX_PASSWORD).rstrip("\r\n")
    except UnicodeError:
        raise ValueError(f"{path} is not text in UTF-8") from None
    except OSError as error:
        raise ValueError(f"{path} cannot be read: {error.strerror}") from None
    if not found:
        raise ValueError(f"the first line of {path} is empty, and has to be the password")
    return found


def context(target: Target) -> ssl.SSLContext | bool:
    """Whom to trust, and who we are; False for a cluster without TLS. Raises ValueError."""
    if not target.members[0].startswith("https:"):
        return False
    import ssl

    what = target.ca
    try:
        if target.ca:
            _check(target.ca, MAX_FILE)
        made = ssl.create_default_context(cafile=target.ca or None)
        if target.cert:
            what = f"{target.cert} with {target.key}"
            _check(target.cert, MAX_FILE)
            _check(target.key, MAX_FILE)
            made.load_cert_chain(target.cert, target.key, _no_passphrase)
    except OSError as error:  # ssl.SSLError is one
        why = error.strerror or str(error)
        raise ValueError(f"{error.filename or what} cannot be used for TLS: {why}") from None
    return made


def _check(path: str, most: int) -> None:
    found = os.stat(path)
    if not stat.S_ISREG(found.st_mode):
        raise ValueError(f"{path} is not a regular file")
    if found.st_size > most:
        raise ValueError(f"{path} is larger than {most} bytes, the most that rait reads")


def _no_passphrase() -> str:
    # Without this, OpenSSL would ask the terminal.
    raise ValueError("the key has a passphrase, for which rait can ask nobody: take it off")

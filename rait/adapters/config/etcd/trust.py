"""The files that a URL of etcd names: certificates, the client's key, and a password.

They are read anew for each connection to a cluster, as certificates are renewed. None of them may
be what takes for ever to read, as a pipe does.
"""

from __future__ import annotations

import os
import ssl
import stat

from rait.adapters.config.etcd.url import Target

MAX_FILE = 4 * 1024 * 1024
"""Bytes of a file with certificates: those of a whole machine are a tenth of it."""

MAX_PASSWORD = 4096
"""Bytes of a file with a password."""


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

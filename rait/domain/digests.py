"""Digests for a few short texts, from the interpreter itself.

hashlib loads OpenSSL, which takes more time than a run with nothing to do has for all its hashing.
Where there is much to hash, ``fast_sha256`` is three times as fast.
"""

from __future__ import annotations

from functools import cache

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable
    from hashlib import _Hash, blake2b, blake2s, sha256
else:
    # hashlib takes them from there too, if it finds no OpenSSL.
    try:
        from _blake2 import blake2b, blake2s
    except ImportError:
        from hashlib import blake2b, blake2s
    try:
        from _sha2 import sha256  # from Python 3.12 on
    except ImportError:
        try:
            from _sha256 import sha256
        except ImportError:
            from hashlib import sha256

__all__ = ["blake2b", "blake2s", "fast_sha256", "sha256"]


@cache
def fast_sha256() -> Callable[[bytes], _Hash]:
    """Load OpenSSL, and return its SHA-256."""
    import hashlib

    return hashlib.sha256

"""System calls that Python's os module lacks. Each raises OSError, as functions of os do.

They go through ctypes, which is imported by the first call.
"""

from __future__ import annotations

import os
import sys
from functools import cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ctypes import CDLL

CLONE_FS = 0x00000200
CLONE_NEWNET = 0x40000000
CLONE_NEWNS = 0x00020000
MS_BIND, MS_REC, MS_SHARED = 1 << 12, 1 << 14, 1 << 20  # sys/mount.h
_SYS_PIDFD_GETFD = 438
"""Linux 5.6; the number is the same on every architecture."""


def setns(fd: int, kind: int) -> None:
    """Move this thread into the namespace ``fd`` of this kind, a CLONE_NEW* constant (setns(2))."""
    if sys.version_info >= (3, 12):
        os.setns(fd, kind)
    else:
        _call("setns", fd, kind)


def unshare(kind: int) -> None:
    """Move this thread into a new namespace of a kind (unshare(2))."""
    _call("unshare", kind)


def mount(source: str, target: str, flags: int) -> None:
    """Mount ``source`` on ``target``, or change how a mount is shared, by ``flags`` (mount(2))."""
    _call("mount", os.fsencode(source), os.fsencode(target), b"none", flags, None)


def pidfd_getfd(process: int, descriptor: int) -> int:
    """A copy of a descriptor of another process, which a pidfd refers to (pidfd_getfd(2))."""
    return _call("syscall", _SYS_PIDFD_GETFD, process, descriptor, 0)


def _call(name: str, *arguments: int | bytes | None) -> int:
    result: int = getattr(_libc(), name)(*arguments)
    if result < 0:
        import ctypes

        code = ctypes.get_errno()
        raise OSError(code, os.strerror(code))
    return result


@cache
def _libc() -> CDLL:
    import ctypes

    return ctypes.CDLL(None, use_errno=True)

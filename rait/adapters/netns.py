"""Network namespaces: network_namespaces(7), ip-netns(8)."""

from __future__ import annotations

import errno
import fcntl
import os
import socket
import struct
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache, partial

from rait.adapters import syscalls
from rait.adapters.closing import Closing, closed, on_error
from rait.domain.errors import MachineError

NAMED = "/run/netns"
_BOOT_ID = "/proc/sys/kernel/random/boot_id"
_BOOT_DIGITS = 13
_CURRENT = "/proc/thread-self/ns/net"
_SO_NETNS_COOKIE = 71
_SIOCGIFFLAGS = 0x8913
_SIOCSIFFLAGS = 0x8914
_IFF_UP = 0x1


class Netns(Closing):
    """An open network namespace.

    ``spec`` is its spelling in the configuration. ``identity`` tells this namespace from any other
    since the machine started, even from a later one with this name.
    """

    __slots__ = ("fd", "identity", "spec")

    def __init__(self, spec: str, fd: int, identity: str) -> None:
        self.spec = spec
        self.fd = fd
        self.identity = identity
        if self.is_open:
            _held.setdefault(_inode(fd), self)

    @property
    def instance(self) -> str:
        """Boot id and identity, which are unique across restarts; "" without an identity."""
        return f"{_boot()}/{self.identity}" if self.identity else ""

    @property
    def is_open(self) -> bool:
        """Whether the namespace exists and is not closed, so that it can be used."""
        return self.fd >= 0

    def close(self) -> None:
        if self.is_open:
            if _held.get(inode := _inode(self.fd)) is self:
                del _held[inode]
            os.close(self.fd)
            self.fd = -1


_held: dict[tuple[int, int], Netns] = {}
"""Open namespaces by device and inode, which no other namespace has while they are open."""


class Namespaces(Closing):
    """The namespaces of one run, each opened once, by spelling and instance.

    Each stays open until ``close``. So a run changes the very namespace that it has looked at,
    whatever takes that namespace's name meanwhile, and even if it has no name any more.
    """

    def __init__(self) -> None:
        self._kept: dict[tuple[str, str], Netns] = {}

    def close(self) -> None:
        for ns in self._kept.values():
            ns.close()
        self._kept.clear()

    def keep(self, ns: Netns) -> Netns:
        """Hold an open namespace until ``close``, and give the one to use from now on.

        If the namespace is held already, that is the held one, and ``ns`` is closed.
        """
        held = self._kept.setdefault((ns.spec, ns.instance), ns)
        if held is not ns:
            ns.close()
        return held

    def find(self, spec: str, instance: str = "") -> Netns | None:
        """The namespace of this spelling and instance; None if there is none.

        Without an instance, whichever namespace has the spelling now. Raises MachineError if the
        namespace cannot be opened.
        """
        if instance and (held := self._kept.get((spec, instance))) is not None:
            return held
        found = find_netns(spec)
        if found is None:
            return None
        held = self.keep(found)
        return held if instance in ("", held.instance) else None

    def is_gone(self, spec: str, instance: str) -> bool:
        """Whether neither the instance nor any other namespace of this spelling can be found.

        Raises MachineError if a namespace cannot be opened.
        """
        return self.find(spec) is None and self.find(spec, instance) is None

    def open(self, spec: str, instance: str = "") -> Netns:
        """The namespace of this spelling and instance. Raises MachineError if there is none."""
        ns = self.find(spec, instance)
        if ns is not None:
            return ns
        if instance and self.find(spec) is not None:
            raise MachineError(
                f"{describe(spec)} was replaced since rait looked at it; run rait again"
            )
        raise MachineError(f"{describe(spec)} does not exist")


def describe(spec: str) -> str:
    """A namespace in the words of an error message, by its spelling."""
    if spec == "":
        return "the current network namespace"
    if is_pid(spec):
        return f"the network namespace of process {spec}"
    return f"network namespace {spec}"


def reason(error: OSError) -> str:
    """The system's own text for an error and, where that is plain, what to do about it."""
    text = error.strerror or str(error)
    if error.errno in (errno.EPERM, errno.EACCES):
        return f"{text}; run rait as root"
    if error.errno == errno.EMFILE:
        return f"{text}; raise the limit of this process (`ulimit -n`)"
    return text


def open_netns(spec: str) -> Netns:
    """Open a namespace: "" is the current one, digits a process id, else a name in /run/netns.

    Raises MachineError if the namespace does not exist or cannot be opened.
    """
    ns = find_netns(spec)
    if ns is None:
        hint = "make it, or name another one in rait.conf"
        raise MachineError(f"{describe(spec)} does not exist ({path_of(spec)}); {hint}")
    return ns


def find_netns(spec: str) -> Netns | None:
    """Open a namespace by its spelling, as ``open_netns`` has it; None if it does not exist.

    A file of its name in /run/netns with nothing mounted on it is no namespace: the program that
    made the file was cut off before it could mount one. Raises MachineError if the namespace cannot
    be opened.
    """
    path = path_of(spec)
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
    except (FileNotFoundError, ProcessLookupError):
        return None
    except OSError as error:
        raise MachineError(f"cannot open {describe(spec)} ({path}): {reason(error)}") from error
    try:
        return Netns(spec, fd, identity_of(fd))
    except OSError as error:
        from rait.adapters import netns_names

        empty = error.errno == errno.EINVAL and netns_names.is_empty_file(fd)
        os.close(fd)
        user = netns_names.who_has_mounted(path) if empty else None
        if empty and user is None:
            return None
        raise MachineError(_unusable(spec, path, error, user)) from error
    except BaseException:
        os.close(fd)
        raise


def adopt(spec: str, fd: int) -> Netns:
    """A namespace by its open descriptor, which is closed in case of an error. Raises OSError."""
    with on_error(partial(os.close, fd)):
        return Netns(spec, fd, identity_of(fd))


def copied(ns: Netns, spec: str) -> Netns:
    """A namespace opened once more, with another spelling."""
    return Netns(spec, os.dup(ns.fd), ns.identity)


def gone(spec: str) -> Netns:
    """Stands for a namespace that does not exist: closed, and without an identity."""
    return Netns(spec, -1, "")


def lacks_process(spec: str) -> bool:
    """Whether the spelling is a process id and there is no such process.

    The namespace may still exist then, but cannot be found by its spelling, and rait cannot make
    it. Raises MachineError if it cannot be opened.
    """
    if not is_pid(spec):
        return False
    found = find_netns(spec)
    if found is not None:
        found.close()
    return found is None


def ensure_netns(spec: str) -> None:
    """Raise lo in a namespace, after making the namespace if it has a name and does not exist.

    Raises MachineError.
    """
    with find_netns(spec) or _make(spec) as ns:
        try:
            _raise_loopback(ns)
        except OSError as error:
            raise MachineError(f"cannot raise lo in {describe(spec)}: {reason(error)}") from error


@contextmanager
def entered(fd: int) -> Iterator[None]:
    """Have this thread in the namespace for the block, and back afterwards. Raises OSError."""
    with closed(os.open(_CURRENT, os.O_RDONLY | os.O_CLOEXEC)) as home:
        if os.path.samestat(os.fstat(home), os.fstat(fd)):
            # setns(2) takes CAP_SYS_ADMIN even for the namespace that the thread is in already.
            yield
            return
        syscalls.setns(fd, syscalls.CLONE_NEWNET)
        try:
            yield
        finally:
            syscalls.setns(home, syscalls.CLONE_NEWNET)


def socket_in(ns: Netns, family: int, kind: int, protocol: int = 0) -> socket.socket:
    """A socket that belongs to the namespace and may be used from any. Raises MachineError."""
    try:
        with entered(ns.fd):
            return socket.socket(family, kind | socket.SOCK_CLOEXEC, protocol)
    except OSError as error:
        where = describe(ns.spec)
        raise MachineError(f"cannot make a socket in {where}: {reason(error)}") from error


def identity_of(fd: int) -> str:
    """The identity of a namespace by its descriptor, unique since the machine started.

    It is the namespace's cookie (SO_NETNS_COOKIE, Linux 5.14), which the kernel never uses twice,
    or the inode number where the kernel has no cookies. Raises OSError.
    """
    if (held := _held.get(_inode(fd))) is not None:
        return held.identity  # which saves entering the namespace
    with entered(fd), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as probe:
        return cookie_of(probe) or f"inode:{os.fstat(fd).st_ino}"


def _inode(fd: int) -> tuple[int, int]:
    status = os.fstat(fd)
    return status.st_dev, status.st_ino


def cookie_of(probe: socket.socket) -> str:
    """The cookie of a socket's namespace; "" where the kernel has no cookies. Raises OSError."""
    try:
        cookie = probe.getsockopt(socket.SOL_SOCKET, _SO_NETNS_COOKIE, 8)
    except OSError as error:
        if error.errno != errno.ENOPROTOOPT:
            raise
        return ""
    return str(int.from_bytes(cookie, sys.byteorder))


def is_of_this_boot(instance: str) -> bool:
    """Whether an instance is from this boot of the machine: no namespace outlives a restart."""
    return instance.partition("/")[0] == _boot()


@cache
def _boot() -> str:
    """The first digits of the kernel's boot_id, which differs from boot to boot (random(4))."""
    try:
        with open(_BOOT_ID, encoding="utf-8") as file:
            return file.read(_BOOT_DIGITS)
    except OSError:
        return ""


def is_pid(spec: str) -> bool:
    """Whether a namespace is spelt as the id of a process."""
    return spec.isascii() and spec.isdigit()


def path_of(spec: str) -> str:
    """Where a namespace is by its spelling. Raises MachineError for what cannot be a name."""
    if spec == "":
        return _CURRENT
    if is_pid(spec):
        return f"/proc/{spec}/ns/net"
    if "/" in spec or "\0" in spec or spec in (".", ".."):
        raise MachineError(f"{spec!r} cannot be the name of a network namespace")
    return f"{NAMED}/{spec}"


def _unusable(spec: str, path: str, error: OSError, user: int | None) -> str:
    text = f"cannot enter {describe(spec)} ({path}): {reason(error)}"
    if error.errno != errno.EINVAL:
        return text
    if user is None:
        return (
            f"{text}; the file is no namespace but maybe a leftover: `ip netns delete {spec}` "
            "removes it"
        )
    # Deleting the file would unmount the namespace for that process as well.
    return (
        f"{text}; the file is a namespace only in the mounts of process {user}: run rait with "
        f"those mounts (`nsenter -m -t {user} rait ...`), or end that process"
    )


def _make(spec: str) -> Netns:
    if spec == "" or is_pid(spec):
        raise MachineError(f"{describe(spec)} does not exist")
    from rait.adapters import netns_names

    try:
        netns_names.make(path_of(spec))
    except OSError as error:
        raise MachineError(f"cannot make {describe(spec)}: {reason(error)}") from error
    return open_netns(spec)


def _raise_loopback(ns: Netns) -> None:
    with socket_in(ns, socket.AF_INET, socket.SOCK_DGRAM) as control:
        request = struct.pack("16sH22x", b"lo", 0)
        (flags,) = struct.unpack_from("=H", fcntl.ioctl(control, _SIOCGIFFLAGS, request), 16)
        if not flags & _IFF_UP:
            fcntl.ioctl(control, _SIOCSIFFLAGS, struct.pack("16sH22x", b"lo", flags | _IFF_UP))

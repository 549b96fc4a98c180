"""Looking for a network namespace that no longer has the name by which rait knew it.

A namespace lives as long as something refers to it: a process in it, a mount, an open descriptor,
or a socket (network_namespaces(7)). All of these are looked at, in that order, as far as /proc
shows them. One that none of them refers to was destroyed by the kernel, with its interfaces.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import socket
import time
from collections.abc import Callable, Collection, Iterator
from pathlib import Path

from msgspec import Struct

from rait.adapters import netns, syscalls
from rait.adapters.netns import NAMED, Netns
from rait.adapters.netns_names import GONE, Doubt, mount_points, pids

SEARCH_SECONDS = 10.0
"""A machine with so many processes that looking takes longer is looked at in part."""

_SIOCGSKNS = 0x894C
"""linux/sockios.h: a descriptor of the namespace that a socket is in."""
_FIRST_INODE = 0xF0000000
"""Those of namespaces begin here (PROC_DYNAMIC_FIRST in the kernel's proc_ns.h)."""


class Found(Struct, frozen=True):
    """Open namespaces by their identity, and why there may be more of them ("": there are not)."""

    namespaces: dict[str, Netns]
    unseen: str = ""

    def close(self) -> None:
        """Close all of them; harmless for those that are closed already."""
        for ns in self.namespaces.values():
            ns.close()


def search(wanted: Collection[str]) -> Found:
    """Look for the namespaces that are these instances; the caller closes those that are found."""
    looking = _Search(frozenset(instance.partition("/")[2] for instance in wanted))
    looking.go_through(_names, _processes, _threads, _descriptors, _mounts)
    looking.go_through_sockets()
    return looking.result()


def in_use() -> Found:
    """All namespaces that have a name, or a process in them; the caller closes them."""
    looking = _Search(None)
    looking.go_through(_names, _processes)
    return looking.result()


class _Search:
    """One search, and how far it is; ``wanted`` None is for all there are."""

    def __init__(self, wanted: frozenset[str] | None) -> None:
        self._wanted = wanted
        self._found: dict[str, Netns] = {}
        self._unseen = ""
        self._looked_at: set[int] = set()
        self._device = Path("/proc/self/ns/net").stat().st_dev
        self._deadline = time.monotonic() + SEARCH_SECONDS

    def result(self) -> Found:
        complete = self._wanted is not None and self._found.keys() >= self._wanted
        return Found(self._found, "" if complete else self._unseen)

    def go_through(self, *sources: Callable[[Doubt], Iterator[str]]) -> None:
        """Open the namespaces at all these paths, until there is nothing more to look for."""
        for source in sources:
            for path in source(self._doubt):
                if self._is_over():
                    return
                self._open(path)

    def go_through_sockets(self) -> None:
        """Find namespaces by the cookies of the sockets that processes have."""
        seen: set[str] = set()
        for pid, descriptor, target in _links_of_descriptors(self._doubt):
            if self._is_over():
                return
            if not target.startswith("socket:[") or target in seen:
                continue
            seen.add(target)
            try:
                self._open_of_socket(pid, descriptor)
            except GONE:
                continue
            except OSError as error:
                self._doubt(error)

    def _is_over(self) -> bool:
        if self._wanted is not None and self._found.keys() >= self._wanted:
            return True
        if time.monotonic() < self._deadline:
            return False
        self._unseen = f"it was not found within {SEARCH_SECONDS:g} s of looking through /proc"
        return True

    def _doubt(self, error: OSError) -> None:
        # In a container, root may not look at processes from outside of it: those know of nothing
        # that was made inside.
        if isinstance(error, PermissionError) and os.geteuid() == 0:
            return
        self._unseen = self._unseen or f"not all processes can be looked at: {netns.reason(error)}"

    def _open(self, path: str) -> None:
        try:
            status = Path(path).stat()
            if status.st_dev == self._device and status.st_ino not in self._looked_at:
                self._looked_at.add(status.st_ino)
                self._take(os.open(path, os.O_RDONLY | os.O_CLOEXEC))
        except GONE:
            return
        except OSError as error:
            self._doubt(error)

    def _take(self, fd: int) -> None:
        ns = netns.adopt("", fd)
        wanted = self._wanted is None or ns.identity in self._wanted
        if not wanted or self._found.setdefault(ns.identity, ns) is not ns:
            ns.close()

    def _open_of_socket(self, pid: int, descriptor: int) -> None:
        process = os.pidfd_open(pid)
        try:
            copy = syscalls.pidfd_getfd(process, descriptor)
        finally:
            os.close(process)
        with socket.socket(fileno=copy) as held:
            if self._wanted is None or netns.cookie_of(held) in self._wanted:
                self._take(fcntl.ioctl(held, _SIOCGSKNS))


def _names(doubt: Doubt) -> Iterator[str]:
    for name in _entries(NAMED, doubt):
        yield f"{NAMED}/{name}"


def _processes(_: Doubt) -> Iterator[str]:
    for pid in pids():
        yield f"/proc/{pid}/ns/net"


def _threads(doubt: Doubt) -> Iterator[str]:
    for pid in pids():
        for thread in _entries(f"/proc/{pid}/task", doubt):
            if thread != str(pid):
                yield f"/proc/{pid}/task/{thread}/ns/net"


def _descriptors(doubt: Doubt) -> Iterator[str]:
    for pid, descriptor, target in _links_of_descriptors(doubt):
        # One that was opened by a name shows that name, even when that is gone or of another.
        named = target.startswith("/") and _inode_of(pid, descriptor) >= _FIRST_INODE
        if named or target.startswith("net:["):
            yield f"/proc/{pid}/fd/{descriptor}"


def _inode_of(pid: int, descriptor: int) -> int:
    """The inode of a descriptor, without a call to its file system, which may be slow."""
    try:
        info = Path(f"/proc/{pid}/fdinfo/{descriptor}").read_bytes()
    except OSError:
        return 0
    found = re.search(rb"^ino:\s*(\d+)$", info, re.MULTILINE)
    return int(found[1]) if found else 0


def _links_of_descriptors(doubt: Doubt) -> Iterator[tuple[int, int, str]]:
    """Process, descriptor, and the file it refers to, as readlink(2) gives it."""
    for pid in pids():
        for descriptor in _entries(f"/proc/{pid}/fd", doubt):
            try:
                target = os.readlink(f"/proc/{pid}/fd/{descriptor}")
            except GONE:
                continue
            except OSError as error:
                if error.errno == errno.ENAMETOOLONG:
                    yield pid, int(descriptor), "/"  # it is of a file, by a path of any length
                    continue
                doubt(error)
                continue
            yield pid, int(descriptor), target


def _mounts(doubt: Doubt) -> Iterator[str]:
    for pid, path in mount_points(doubt):
        yield f"/proc/{pid}/root{path}"


def _entries(path: str, doubt: Doubt) -> list[str]:
    try:
        with os.scandir(path) as entries:
            return [entry.name for entry in entries]
    except GONE:
        return []
    except OSError as error:
        doubt(error)
        return []

"""The search for a network namespace that no longer has the name by which rait knew it.

A namespace lives as long as something refers to it (network_namespaces(7)). The search goes from
what is cheap to look at to what is dear, as far as /proc shows it, and stops when all wanted
namespaces are found: names in /run/netns, processes, other threads, open descriptors, mounts that
other processes see, and last sockets, which are copied from their process to be asked for their
namespace. If none of these refers to a namespace, the kernel has destroyed it with its interfaces.
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

from rait.adapters import netns, syscalls
from rait.adapters.closing import Closing, closed
from rait.adapters.netns import NAMED, Netns
from rait.adapters.netns_names import GONE, Doubt, mount_points, pids

SEARCH_SECONDS = 10.0
"""A search that takes longer ends with what it has found."""

_SIOCGSKNS = 0x894C
"""The ioctl for a descriptor of a socket's namespace (linux/sockios.h)."""
_FIRST_INODE = 0xEFFFFFF0
"""No namespace has an inode below. Most have one from PROC_DYNAMIC_FIRST on, which is 0xF0000000;
in newer kernels (6.18) the machine's own has NET_NS_INIT_INO, a little less (linux/nsfs.h)."""


def search(wanted: Collection[str]) -> Search:
    """Search for the namespaces of these instances. The caller closes the result."""
    searching = Search(frozenset(instance.partition("/")[2] for instance in wanted))
    searching.try_paths(_names, _processes, _threads, _descriptors, _mounts)
    searching.try_sockets()
    return searching


def in_use() -> Search:
    """All namespaces that have a name or a process. The caller closes the result."""
    searching = Search(None)
    searching.try_paths(_names, _processes)
    return searching


class Search(Closing):
    """A search for the identities ``wanted``, or for all namespaces if that is None.

    ``namespaces`` are those that were found, open, by identity.
    """

    def __init__(self, wanted: frozenset[str] | None) -> None:
        self.namespaces: dict[str, Netns] = {}
        self._wanted = wanted
        self._unseen = ""
        self._inodes_tried: set[int] = set()
        self._device = Path("/proc/self/ns/net").stat().st_dev
        self._deadline = time.monotonic() + SEARCH_SECONDS

    @property
    def unseen(self) -> str:
        """Why there may be more namespaces than were found, "" if that cannot be."""
        return "" if self._is_complete() else self._unseen

    def close(self) -> None:
        for ns in self.namespaces.values():
            ns.close()

    def try_paths(self, *sources: Callable[[Doubt], Iterator[str]]) -> None:
        """Open the namespaces at these paths, until the search is over."""
        for source in sources:
            for path in source(self._doubt):
                if self._is_over():
                    return
                self._open(path)

    def try_sockets(self) -> None:
        """Open the namespaces of sockets that processes have, until the search is over."""
        seen: set[str] = set()
        for pid, descriptor, target in _links_of_descriptors(self._doubt):
            if self._is_over():
                return
            if not target.startswith("socket:[") or target in seen:
                continue
            seen.add(target)
            try:
                self._open_by_socket(pid, descriptor)
            except GONE:
                continue
            except OSError as error:
                self._doubt(error)

    def _is_complete(self) -> bool:
        return self._wanted is not None and self.namespaces.keys() >= self._wanted

    def _is_over(self) -> bool:
        if self._is_complete():
            return True
        if time.monotonic() < self._deadline:
            return False
        self._unseen = f"it was not found within {SEARCH_SECONDS:g} s of looking through /proc"
        return True

    def _doubt(self, error: OSError) -> None:
        # In a container, root may not look at processes from outside of the container. Those refer
        # to no namespace that was made inside.
        if isinstance(error, PermissionError) and os.geteuid() == 0:
            return
        self._unseen = self._unseen or f"rait cannot look at all processes: {netns.reason(error)}"

    def _open(self, path: str) -> None:
        try:
            status = Path(path).stat()
            if status.st_dev == self._device and status.st_ino not in self._inodes_tried:
                self._inodes_tried.add(status.st_ino)
                self._take(os.open(path, os.O_RDONLY | os.O_CLOEXEC))
        except GONE:
            return
        except OSError as error:
            self._doubt(error)

    def _take(self, fd: int) -> None:
        ns = netns.adopt("", fd)
        wanted = self._wanted is None or ns.identity in self._wanted
        if not wanted or self.namespaces.setdefault(ns.identity, ns) is not ns:
            ns.close()

    def _open_by_socket(self, pid: int, descriptor: int) -> None:
        with closed(os.pidfd_open(pid)) as process:
            copy = syscalls.pidfd_getfd(process, descriptor)
        with socket.socket(fileno=copy) as held:
            cookie = netns.cookie_of(held)
            # Where the kernel has no cookies, only the namespace itself tells its identity.
            if self._wanted is None or not cookie or cookie in self._wanted:
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
        # A namespace that was opened by a name shows that name, even if it has lost the name since.
        named = target.startswith("/") and _inode_of(pid, descriptor) >= _FIRST_INODE
        if named or target.startswith("net:["):
            yield f"/proc/{pid}/fd/{descriptor}"


def _inode_of(pid: int, descriptor: int) -> int:
    """The inode of a process's descriptor; 0 if unknown.

    From fdinfo (proc(5)), because stat(2) would ask the descriptor's file system, which may hang.
    """
    try:
        info = Path(f"/proc/{pid}/fdinfo/{descriptor}").read_bytes()
    except OSError:
        return 0
    found = re.search(rb"^ino:\s*(\d+)$", info, re.MULTILINE)
    return int(found[1]) if found else 0


def _links_of_descriptors(doubt: Doubt) -> Iterator[tuple[int, int, str]]:
    """The open descriptors of all processes: process, descriptor, and the path or kind of file."""
    for pid in pids():
        for descriptor in _entries(f"/proc/{pid}/fd", doubt):
            try:
                target = os.readlink(f"/proc/{pid}/fd/{descriptor}")
            except GONE:
                continue
            except OSError as error:
                if error.errno == errno.ENAMETOOLONG:
                    yield pid, int(descriptor), "/"  # a file whose path is too long to read
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

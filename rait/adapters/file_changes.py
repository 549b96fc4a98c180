"""Which files have changed, by inotify(7): without a thread, and idle while nothing happens.

A file is what its path leads to. So rait watches

- the file itself (its inode): writes, however it was opened, and changes of its mode or owner;
- each directory on the way, those on the way of symbolic links too: its entries of the names that
  the path goes through. Of a path that leads nowhere, this goes as far as there are directories;
- the table of mounts (mountinfo in proc(5)), as a mount makes no inotify event.

Entries of other names change nothing, and the kernel does not even tell of writes to other files.
"""

from __future__ import annotations

import asyncio
import errno
import os
import select
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, suppress
from io import FileIO
from typing import TYPE_CHECKING, TypeVar

import anyio
import anyio.lowlevel
from inotify_simple import INotify, flags

from rait.adapters.closing import Closing
from rait.domain.errors import MachineError

if TYPE_CHECKING:
    from _typeshed import HasFileno

_ENTRIES = flags.CREATE | flags.DELETE | flags.MOVED_FROM | flags.MOVED_TO
# CLOSE_WRITE besides MODIFY: a write through memory (mmap(2)) is told by nothing else.
_CONTENT = flags.MODIFY | flags.CLOSE_WRITE | flags.ATTRIB
T = TypeVar("T")

_MOUNTS = "/proc/self/mountinfo"
_PAUSE = 0.01
"""So many seconds pass until rait looks again after it was woken up for nothing: what does not
matter may come in thousands, and costs less to read in few goes."""
_MOST_LINKS = 40
"""So many symbolic links the kernel follows on the way of one path (path_resolution(7))."""


async def taken(readable: HasFileno, take: Callable[[], T], nothing: T) -> T:
    """Wait until ``take`` gives something; it may do so whenever a descriptor gets readable.

    To begin to wait is to poll, after which the table of mounts tells nothing of earlier changes:
    so ``take`` is asked after that each time, which anyio.wait_readable would not do.
    """
    await anyio.lowlevel.checkpoint()
    loop = asyncio.get_running_loop()
    while True:
        woken = anyio.Event()
        loop.add_reader(readable, woken.set)
        try:
            if (found := take()) != nothing:
                return found
            await woken.wait()
        finally:
            loop.remove_reader(readable)
        if (found := take()) != nothing:
            return found
        await anyio.sleep(_PAUSE)


class FileChanges(Closing):
    """Tells which of the files that count have changed. One thread may use it.

    A change is told at least once, after it was made; several may be told as one.
    """

    def __init__(self) -> None:
        """Raises MachineError where the kernel refuses to watch."""
        self._open = ExitStack()
        try:
            self._inotify = self._open.enter_context(INotify(nonblocking=True))
        except OSError as error:
            raise _refused(error, "instances") from None
        self._ready = self._open.enter_context(select.epoll())
        self._ready.register(self._inotify, select.EPOLLIN)
        self._mounts = select.poll()
        self._paths: frozenset[str] = frozenset()
        self._watched: dict[int, dict[str, set[str]]] = {}
        """By watch descriptor and name of an entry: the paths that go through this entry. The name
        of the file itself is ""."""
        self._states: dict[str, object] = {}
        with suppress(OSError):
            # An open file of this kind tells of each change once, to whoever polls it. So one wakes
            # us up, by whatever way, and the other says what for.
            self._ready.register(self._open.enter_context(FileIO(_MOUNTS)), select.EPOLLPRI)
            self._mounts.register(self._open.enter_context(FileIO(_MOUNTS)), select.POLLPRI)

    def close(self) -> None:
        self._open.close()

    def fileno(self) -> int:
        """A descriptor that is readable when ``take`` may have something."""
        return self._ready.fileno()

    def watch(self, paths: Iterable[str]) -> frozenset[str]:
        """Make these absolute paths the files that count, and give those that did not count before.

        What happened to the latter until now was not seen. Raises MachineError.
        """
        paths = frozenset(paths)
        new = paths - self._paths
        self._paths = paths
        self._follow()
        return new

    async def changed(self) -> frozenset[str]:
        """Wait until files have changed, and give their paths, as ``watch`` got them.

        Raises MachineError where the kernel refuses to watch more: what changes is unknown then.
        """
        return await taken(self, self.take, frozenset())

    def take(self) -> frozenset[str]:
        """The paths of files that have changed since the last call. Raises MachineError."""
        touched: set[str] = set()
        moved = bool(self._mounts.poll(0))
        for event in self._inotify.read(timeout=0):
            if event.mask & flags.Q_OVERFLOW:
                touched |= self._paths
                moved = True
            elif (entries := self._watched.get(event.wd)) is not None:
                led = entries.get(event.name, set())
                touched |= led
                moved |= bool(event.name and led)
        if moved:
            return frozenset(touched | self._follow())
        # What is told now is not told again when something is mounted, wherever that is.
        self._states.update((path, _state(path)) for path in touched)
        return frozenset(touched)

    def _follow(self) -> set[str]:
        """Watch what the paths lead through now, and give those that lead to something else."""
        watched: dict[int, dict[str, set[str]]] = {}
        for path in self._paths:
            for place, name in _way(path):
                descriptor = self._add(place, _ENTRIES | flags.ONLYDIR if name else _CONTENT)
                if descriptor is not None:
                    watched.setdefault(descriptor, {}).setdefault(name, set()).add(path)
        for descriptor in self._watched.keys() - watched.keys():
            with suppress(OSError):  # as the kernel removes those of what was deleted
                self._inotify.rm_watch(descriptor)
        states = {path: _state(path) for path in self._paths}
        before, self._watched, self._states = self._states, watched, states
        return {path for path, state in states.items() if before.get(path, state) != state}

    def _add(self, place: str, mask: int) -> int | None:
        try:
            descriptor: int = self._inotify.add_watch(place, mask | flags.MASK_ADD)
        except OSError as error:
            if error.errno in (errno.ENOSPC, errno.ENOMEM):
                raise _refused(error, "watches") from None
            return None  # it is gone again, or no directory, or not ours to read
        return descriptor


def _way(path: str) -> Iterator[tuple[str, str]]:
    """Each directory that an absolute path leads through, and the name of the entry that it takes.

    At last comes what it leads to, with the name "". The caller watches a directory before the
    entry is looked up, so that each later change of the entry is seen.
    """
    place, ahead, links = "/", path.split("/")[::-1], 0
    while ahead:
        name = ahead.pop()
        if name in ("", "."):
            continue
        if name == "..":
            place = os.path.dirname(place)
            continue
        yield place, name
        entry = os.path.join(place, name)
        try:
            target = os.readlink(entry)
        except OSError as error:
            if error.errno != errno.EINVAL:
                return
            place = entry  # which is no symbolic link
            continue
        links += 1
        if links > _MOST_LINKS:
            return
        if target.startswith("/"):
            place = "/"
        ahead += target.split("/")[::-1]
    yield place, ""


def _state(path: str) -> object:
    """What differs as soon as a path leads to another file."""
    try:
        found = os.stat(path)
    except OSError as error:
        return error.errno
    return (
        *(found.st_dev, found.st_ino, found.st_mode, found.st_uid, found.st_gid),
        *(found.st_size, found.st_mtime_ns, found.st_ctime_ns),
    )


def _refused(error: OSError, limit: str) -> MachineError:
    text = f"cannot watch files: {error.strerror}"
    if error.errno in (errno.EMFILE, errno.ENOSPC):
        text += f"; raise the limit fs.inotify.max_user_{limit} (sysctl)"
    return MachineError(text)

"""The names of network namespaces, which are mounts below /run/netns (ip-netns(8)).

Each process may see other mounts: mount_namespaces(7), and mountinfo in proc(5).
"""

from __future__ import annotations

import errno
import os
import re
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

from rait.adapters import syscalls
from rait.adapters.closing import closed
from rait.domain.errors import NO_THREAD

_MAKING_SECONDS = 5.0
"""A namespace's file that stays empty for so long is a leftover: when it has made the file, `ip
netns add` makes a namespace, which takes a busy kernel a moment, and mounts it."""

GONE = (FileNotFoundError, ProcessLookupError)
"""What looking at /proc/PID raises when the process has ended."""

Doubt = Callable[[OSError], None]
"""A function that is called with each error that kept rait from looking at a process."""


def pids() -> list[int]:
    """The ids of all processes."""
    with os.scandir("/proc") as entries:
        return [int(entry.name) for entry in entries if entry.name.isdigit()]


def mount_points(doubt: Doubt) -> Iterator[tuple[int, str]]:
    """Each path where a network namespace is mounted, with a process that sees the mount."""
    seen: set[int] = set()
    for pid in pids():
        try:
            inode = Path(f"/proc/{pid}/ns/mnt").stat().st_ino
            if inode in seen:
                continue
            info = Path(f"/proc/{pid}/mountinfo").read_bytes()
        except GONE:
            continue
        except OSError as error:
            doubt(error)
            continue
        seen.add(inode)
        for line in info.split(b"\n"):
            # proc(5): the fourth field is the root within the file system, the fifth the path.
            fields = line.split(b" ")
            if len(fields) > 4 and fields[3].startswith(b"net:["):
                yield pid, os.fsdecode(_unescaped(fields[4]))


def who_has_mounted(path: str) -> int | None:
    """The id of a process that sees a network namespace mounted at the path; None if none does.

    A service with mounts of its own may see one where rait sees an empty file. If no process does,
    the file is a leftover.
    """
    return next((pid for pid, where in mount_points(lambda _: None) if where == path), None)


def is_empty_file(fd: int) -> bool:
    """Whether a descriptor is of an empty file, on which a namespace was never mounted."""
    status = os.fstat(fd)
    return stat.S_ISREG(status.st_mode) and not status.st_size


def make(path: str) -> None:
    """Make a network namespace at a path, as ``ip netns add`` does. Raises OSError.

    An empty file that another process left at the path is used. A thread of its own makes the
    namespace: making one means to enter it, and the thread enters the mounts where other processes
    see the name. pyroute2 does not do the latter, and gives its child a time limit that a slow
    machine exceeds.
    """
    from concurrent.futures import ThreadPoolExecutor

    try:
        with ThreadPoolExecutor(1) as pool:
            pool.submit(_make_in_thread, path).result()
    except RuntimeError:
        raise OSError(errno.EAGAIN, NO_THREAD) from None


def _make_in_thread(path: str) -> None:
    mounts = _upstream(os.path.dirname(path))
    if mounts is not None:
        with closed(mounts):
            # Who shares its root and current directory with others may not enter other mounts.
            syscalls.unshare(syscalls.CLONE_FS)
            syscalls.setns(mounts, syscalls.CLONE_NEWNS)
    with suppress(FileExistsError):  # another process has just made the namespace
        _make_here(path)


def _make_here(path: str) -> None:
    """Enter a new namespace, and mount it on a new file at the path. Raises OSError."""
    directory = os.path.dirname(path)
    os.makedirs(directory, mode=0o755, exist_ok=True)
    try:
        syscalls.mount("none", directory, syscalls.MS_SHARED | syscalls.MS_REC)
    except OSError:  # only a mount can be shared, so make one of the directory
        syscalls.mount(directory, directory, syscalls.MS_BIND | syscalls.MS_REC)
        syscalls.mount("none", directory, syscalls.MS_SHARED | syscalls.MS_REC)
    # Before there is a file, as a busy kernel may take longer than others take one for a leftover.
    syscalls.unshare(syscalls.CLONE_NEWNET)
    try:
        os.close(os.open(path, os.O_RDONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0))
    except FileExistsError:
        if not _stays_empty(path):
            raise
    try:
        syscalls.mount("/proc/thread-self/ns/net", path, syscalls.MS_BIND)
    except OSError:
        os.unlink(path)
        raise


def _stays_empty(path: str) -> bool:
    """Whether a namespace's file is a leftover; False once a process mounts a namespace on it.

    Raises OSError.
    """
    deadline = time.monotonic() + _MAKING_SECONDS
    while True:
        with closed(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)) as fd:
            if not is_empty_file(fd) or who_has_mounted(path) is not None:
                return False
        if time.monotonic() > deadline:
            return True
        time.sleep(_MAKING_SECONDS / 50)


def _upstream(directory: str) -> int | None:
    """The mount namespace in which other processes see a new mount below the directory.

    None if it is our own. Else it is that of the nearest ancestor of this process whose shared
    mount ours is a slave of (mount_namespaces(7)). The caller closes the descriptor. Raises
    OSError.
    """
    group = _propagation(os.getpid(), directory, "master")
    pid = os.getpid()
    while group and pid > 1:
        pid = _parent(pid)
        with suppress(OSError):
            if _propagation(pid, directory, "shared") == group:
                return os.open(f"/proc/{pid}/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
    return None


def _propagation(pid: int, directory: str, kind: str) -> str:
    """The peer group of the mount that a process sees the directory in; "" for none of this kind.

    ``kind`` is the tag in mountinfo: "shared", or "master" for a slave. Under ``ip netns exec``,
    and in services with mounts of their own, mounts are slaves: nobody else sees a mount that is
    made below them.
    """
    best, found = 0, ""
    # Other users' mount points may hold any bytes: only a newline and a blank separate fields.
    for line in Path(f"/proc/{pid}/mountinfo").read_bytes().rstrip(b"\n").split(b"\n"):
        fields = os.fsdecode(line).split(" ")
        depth = len(Path(fields[4]).parts)
        if Path(directory).is_relative_to(fields[4]) and depth >= best:
            optional = fields[6 : fields.index("-")]
            values = (f.partition(":")[2] for f in optional if f.startswith(f"{kind}:"))
            best, found = depth, next(values, "")
    return found


def _parent(pid: int) -> int:
    # proc(5): the program's name, in brackets, may hold any text; state and parent follow it.
    stat = Path(f"/proc/{pid}/stat").read_text("utf-8", "surrogateescape")
    return int(stat.rpartition(")")[2].split()[1])


def _unescaped(path: bytes) -> bytes:
    """A path from mountinfo, which writes blanks, newlines and backslashes in octal."""
    return re.sub(rb"\\([0-7]{3})", lambda found: bytes([int(found[1], 8)]), path)

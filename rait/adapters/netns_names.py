"""The names of network namespaces, which are mounts below /run/netns (ip-netns(8)).

Who sees a mount is told by mountinfo in proc(5), and explained in mount_namespaces(7).
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

_MAKING_SECONDS = 1.0
"""`ip netns add` mounts a namespace at once when it has made its file."""

GONE = (FileNotFoundError, ProcessLookupError)

Doubt = Callable[[OSError], None]
"""Takes the error that kept us from looking at a process."""


def pids() -> list[int]:
    """The processes that there are."""
    with os.scandir("/proc") as entries:
        return [int(entry.name) for entry in entries if entry.name.isdigit()]


def mount_points(doubt: Doubt) -> Iterator[tuple[int, str]]:
    """Where network namespaces are mounted, and a process that has each mount."""
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
            # proc(5): the root within the file system is the fourth field, the place the fifth.
            fields = line.split(b" ")
            if len(fields) > 4 and fields[3].startswith(b"net:["):
                yield pid, os.fsdecode(_unescaped(fields[4]))


def who_has_mounted(path: str) -> int | None:
    """A process that has a network namespace mounted at this path, if any.

    Where this process sees an empty file, a service with mounts of its own is such a process.
    Without any, the file is a leftover.
    """
    return next((pid for pid, where in mount_points(lambda _: None) if where == path), None)


def is_empty_file(fd: int) -> bool:
    """Whether this is all there is of a namespace: the file that its mount is to hide."""
    status = os.fstat(fd)
    return stat.S_ISREG(status.st_mode) and not status.st_size


def make(path: str) -> None:
    """Make a network namespace as ``ip netns add`` does, so that ``ip netns`` shows it.

    A file that another process left at the path without a namespace is used. The namespace is
    made in a child, as we shall stay where we are, and in mounts where others see its name.
    pyroute2 does neither, and gives its child a time limit that a slow machine exceeds. Raises
    OSError.
    """
    mounts = _upstream(os.path.dirname(path))
    child = os.fork()
    if child == 0:
        code = errno.EIO
        try:
            if mounts is not None:
                syscalls.setns(mounts, syscalls.CLONE_NEWNS)
            _make_here(path)
            code = 0
        except FileExistsError:
            code = 0  # another process made it just now
        except OSError as error:
            code = error.errno or errno.EIO
        finally:
            os._exit(code)
    if mounts is not None:
        os.close(mounts)
    code = os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    if code != 0:
        raise OSError(code, os.strerror(code) if code > 0 else f"killed by signal {-code}")


def _make_here(path: str) -> None:
    """Make a namespace, kept by a mount in a directory that is shared, and move into it."""
    directory = os.path.dirname(path)
    os.makedirs(directory, mode=0o755, exist_ok=True)
    try:
        syscalls.mount("none", directory, syscalls.MS_SHARED | syscalls.MS_REC)
    except OSError:  # only what is a mount itself can be shared
        syscalls.mount(directory, directory, syscalls.MS_BIND | syscalls.MS_REC)
        syscalls.mount("none", directory, syscalls.MS_SHARED | syscalls.MS_REC)
    try:
        os.close(os.open(path, os.O_RDONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0))
    except FileExistsError:
        if not _stays_empty(path):
            raise
    try:
        syscalls.unshare(syscalls.CLONE_NEWNET)
        syscalls.mount("/proc/thread-self/ns/net", path, syscalls.MS_BIND)
    except OSError:
        os.unlink(path)
        raise


def _stays_empty(path: str) -> bool:
    """Whether a namespace's file is a leftover, and not of another process that is about to mount.

    Raises OSError.
    """
    deadline = time.monotonic() + _MAKING_SECONDS
    while True:
        fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)
        try:
            if not is_empty_file(fd) or who_has_mounted(path) is not None:
                return False
        finally:
            os.close(fd)
        if time.monotonic() > deadline:
            return True
        time.sleep(_MAKING_SECONDS / 10)


def _upstream(directory: str) -> int | None:
    """The mounts in which a new name in the directory is seen by others, if they are not our own.

    They are those of a parent process whose peer group our mount is a slave of. The caller closes
    the descriptor. Raises OSError.
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
    """The peer group that a process's mount over the directory has, if it has one of this kind.

    Below ``ip netns exec``, and in services with mounts of their own, mounts are slaves: names that
    are made there are seen by nobody else.
    """
    best, found = 0, ""
    # Others mount too, and name their mount points as they like: only these two bytes part fields.
    for line in Path(f"/proc/{pid}/mountinfo").read_bytes().rstrip(b"\n").split(b"\n"):
        fields = os.fsdecode(line).split(" ")
        depth = len(Path(fields[4]).parts)
        if Path(directory).is_relative_to(fields[4]) and depth >= best:
            optional = fields[6 : fields.index("-")]
            values = (f.partition(":")[2] for f in optional if f.startswith(f"{kind}:"))
            best, found = depth, next(values, "")
    return found


def _parent(pid: int) -> int:
    # The program's name, in brackets, may hold anything (proc(5)); the state and parent follow.
    stat = Path(f"/proc/{pid}/stat").read_text("utf-8", "surrogateescape")
    return int(stat.rpartition(")")[2].split()[1])


def _unescaped(path: bytes) -> bytes:
    """A path of mountinfo, where blanks and backslashes are written in octal."""
    return re.sub(rb"\\([0-7]{3})", lambda found: bytes([int(found[1], 8)]), path)

"""Mounts of network namespaces, as each process sees them: mountinfo in proc(5).

The name of a namespace is a mount below /run/netns. mount_namespaces(7) explains who sees it.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path

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


def upstream(directory: str) -> int | None:
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

"""The programs behind userspace WireGuard links: how to find and end them.

One program serves one link: wireguard-go, or the one that WG_USERSPACE_IMPLEMENTATION names (the
variable that wg-quick(8) has under a longer name). The program makes a tun NAME and listens on
NAME.sock. It ends when the tun, or the file of the socket, is deleted.

Processes are held by pidfd, so that a signal never reaches a later process of the same id.

Any user may run a program, in a namespace of their own, that gives its tun any name and shows any
bytes in /proc. So rait believes that a process serves a link only if it belongs to root or to our
own user, and if the tun that it holds lives where the link does.
"""

from __future__ import annotations

import errno
import fcntl
import os
import select
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import suppress

from msgspec import Struct

from rait.adapters import netns, syscalls
from rait.adapters.closing import Closing, closed, on_error
from rait.adapters.netns import Netns
from rait.adapters.wireguard import uapi
from rait.domain.config.hosts import ifname_text
from rait.domain.errors import RaitError

PROGRAM_VARIABLE = "WG_USERSPACE_IMPLEMENTATION"
DEFAULT_PROGRAM = "wireguard-go"
TUN_DEVICE = "/dev/net/tun"
START_SECONDS = 20.0
END_SECONDS = 3.0
"""The time for a program to end by itself, and then after SIGTERM, before SIGKILL."""

_KILLED_SECONDS = 20.0
"""The time for the kernel to end a process after SIGKILL, on a busy machine."""

_GONE = (FileNotFoundError, ProcessLookupError)
"""What looking at /proc/PID raises when the process has ended."""

_SIGKILL, SIGTERM = 9, 15  # signal(7)
_TUNGETDEVNETNS = 0x54E3
"""The ioctl for a descriptor of a tun's namespace: _IO('T', 227) in linux/if_tun.h."""


class Owner(Struct, frozen=True):
    """Namespaces of a process that holds a tun, by their identities.

    ``transit`` is that of the process, and so of its UDP socket. ``home`` is that of the tun, ""
    where the kernel does not tell.
    """

    transit: str
    home: str

    def is_home_in(self, ns: Netns) -> bool:
        """Whether the tun lives in this namespace, as far as the kernel tells."""
        return self.home in ("", ns.identity)


def find_program() -> str | None:
    """The path of the program that serves links, or None."""
    name = os.environ.get(PROGRAM_VARIABLE) or DEFAULT_PROGRAM
    # Like shutil.which; but to import shutil imports three libraries for archives.
    path = "" if "/" in name else os.environ.get("PATH", os.defpath)
    # An empty PATH has no directory; an empty part of one is the current directory.
    places = path.split(os.pathsep) if path or "/" in name else []
    paths = (os.path.join(place, name) for place in places)
    return next((p for p in paths if os.path.isfile(p) and os.access(p, os.X_OK)), None)


def why_not() -> str:
    """Why userspace links cannot work on this machine, and what to do; "" if they can."""
    if find_program() is None:
        named = os.environ.get(PROGRAM_VARIABLE)
        if named:
            return f"{PROGRAM_VARIABLE} names {named}, which is not a program on PATH"
        return (
            "wireguard-go is not on PATH: install it (Debian: apt install wireguard-go), "
            f"or let {PROGRAM_VARIABLE} name another program"
        )
    if not os.access(TUN_DEVICE, os.R_OK | os.W_OK):
        return f"{TUN_DEVICE} is missing or may not be opened: run `modprobe tun`, and rait as root"
    return ""


class Process(Closing):
    """A running process, held by a pidfd.

    Raises ProcessLookupError if there is no process of this id.
    """

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._fd = os.pidfd_open(pid)

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def ended(self, seconds: float) -> bool:
        """Wait so many seconds for the process to end, and say whether it has."""
        poll = select.poll()
        poll.register(self._fd, select.POLLIN)
        if not poll.poll(seconds * 1000):
            return False
        # A child of ours would stay as a zombie.
        with suppress(ChildProcessError):
            os.waitid(os.P_PIDFD, self._fd, os.WEXITED | os.WNOHANG)
        return True

    def signal(self, number: int) -> None:
        """Send a signal. A process that has ended is no error."""
        import signal  # here, as its import is slow

        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._fd, number)

    def owners_of(self, name: str) -> Iterator[Owner]:
        """The namespaces for each tun of this name that the process holds.

        None at all if the process has ended, or belongs to a user other than root and us.
        """
        if not _is_trusted(self.pid):
            return
        for fd, own_name in _tuns_of(self.pid):
            if own_name != name:
                continue
            home = self._home_of(fd)
            if transit := self.transit():
                yield Owner(transit, home)

    def transit(self) -> str:
        """The identity of its namespace, where its UDP socket is; "" if the process has ended."""
        try:
            fd = os.open(f"/proc/{self.pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
        except _GONE:
            return ""
        with closed(fd):
            found = netns.identity_of(fd)
        # If the process had ended, that may be about a later one of the same id.
        return "" if self.ended(0) else found

    def home_descriptor(self, descriptor: int) -> int | None:
        """A descriptor of the namespace of a tun, by the process's descriptor for the tun.

        None where the kernel does not tell. Raises OSError if we have too many open files.
        """
        try:
            with closed(syscalls.pidfd_getfd(self._fd, descriptor)) as copy:
                return fcntl.ioctl(copy, _TUNGETDEVNETNS)
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE):
                raise
            return None

    def _home_of(self, descriptor: int) -> str:
        home = self.home_descriptor(descriptor)
        if home is None:
            return ""
        with closed(home):
            return netns.identity_of(home)


Fits = Callable[[Owner], bool]
"""A function that says whether the holder of a tun of the right name holds the right tun."""


def hold_owner(name: str, pid: int, fits: Fits) -> Process | None:
    """The process that holds the tun ``name`` for which ``fits`` is true; None if there is none.

    ``pid`` is the process that made the link's socket (SO_PEERCRED), 0 if unknown. If that process
    holds a tun of this name, it is the answer or, if its tun does not fit, the answer is None.
    Otherwise all processes are searched: a program that went to the background after it made the
    socket has another id now. Processes that we may not look at, as it happens to root in a
    container, are not rait's. Raises OSError where rait cannot tell.
    """
    if pid > 0:
        if (held := hold(pid, name, fits)) is not None:
            return held
        if (other := hold(pid, name, lambda _: True)) is not None:
            other.close()
            return None
    from rait.adapters.netns_names import pids

    for each in pids():
        with suppress(PermissionError):
            if (held := hold(each, name, fits)) is not None:
                return held
    return None


def hold(pid: int, name: str, fits: Fits) -> Process | None:
    """The process of this id, if it holds a tun ``name`` for which ``fits`` is true."""
    try:
        process = Process(pid)
    except OSError as error:
        # The process has ended, or the id is that of a thread.
        if error.errno in (errno.ESRCH, errno.ENOENT, errno.EINVAL):
            return None
        raise
    with on_error(process.close):
        if any(map(fits, process.owners_of(name))):
            return process
    process.close()
    return None


def listening(name: str) -> int | None:
    """The process that listens on the link's socket. If none does, the file is removed.

    Raises RaitError if the file cannot be removed.
    """
    try:
        with uapi.Client(name) as client:
            return client.pid
    except FileNotFoundError:
        return None
    except ConnectionRefusedError:
        try:
            _remove_socket(name)
        except OSError as error:
            raise RaitError(
                f"{uapi.socket_path(name)} is in the way of its program's socket and cannot be "
                f"removed: {netns.reason(error)}"
            ) from error
        return None


def _remove_socket(name: str) -> None:
    with suppress(FileNotFoundError):
        os.unlink(uapi.socket_file(name))


def await_ends(names: Iterable[str]) -> None:
    """Give programs that a killed run may have told to end the time to do so.

    A program goes on answering until it heeds the signal, and would be taken for a living link.
    """
    deadline = time.monotonic() + END_SECONDS
    for name in names:
        with (
            suppress(OSError, uapi.UapiError),
            uapi.Client(name) as client,
            Process(client.pid) as process,
        ):
            process.ended(max(0.0, deadline - time.monotonic()))


def end(name: str, process: Process, patience: float = 0.0) -> None:
    """End the program that serves a link, by signals if it has not ended in ``patience`` seconds.

    The tun goes with the program, and its socket's file is removed. Raises RaitError if the program
    does not end even after SIGKILL.
    """
    if not process.ended(patience):
        _remove_socket(name)
        for number, seconds in ((SIGTERM, END_SECONDS), (_SIGKILL, _KILLED_SECONDS)):
            process.signal(number)
            if process.ended(seconds):
                break
        else:
            raise RaitError(f"process {process.pid}, which serves {name}, does not end")
    listening(name)


def _tuns_of(pid: int) -> Iterator[tuple[int, str]]:
    """A process's descriptors of tuns, each with the name of its tun. Raises OSError."""
    # The process may close a descriptor, or end, at any moment.
    try:
        entries = os.scandir(f"/proc/{pid}/fd")
    except _GONE:
        return
    with entries:
        for entry in entries:
            with suppress(*_GONE):
                if _target_of(entry.path) != TUN_DEVICE:
                    continue
                for line in _begin_of(f"/proc/{pid}/fdinfo/{entry.name}").split(b"\n"):
                    if line.startswith(b"iff:\t"):
                        yield int(entry.name), ifname_text(line[5:])


def _begin_of(path: str) -> bytes:
    """The first page of a file in /proc, in which is what rait looks for. Raises OSError.

    There are two for each link, and open() takes half as long again.
    """
    with closed(os.open(path, os.O_RDONLY | os.O_CLOEXEC)) as fd:
        return os.read(fd, 4096)


def _target_of(link: str) -> str:
    """The path that a link in /proc/PID/fd leads to, "" if it is too long. Raises OSError."""
    try:
        return os.readlink(link)
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise
        return ""


def tuns_served(name: str, spec: str) -> Iterator[tuple[Netns, str]]:
    """The tuns of the program that listens under a link's name: each one's namespace and name now.

    The namespaces get the spelling ``spec``; the caller closes them. Raises OSError or UapiError if
    rait cannot look at the program.
    """
    try:
        with uapi.Client(name) as client:
            pid = client.pid
    except uapi.NOBODY:
        return
    with Process(pid) as process:
        if not _is_trusted(pid):
            return  # the process that made the socket has ended, and another user's has its id
        for descriptor, now in _tuns_of(pid):
            home = process.home_descriptor(descriptor)
            if home is not None:
                yield netns.adopt(spec, home), now


def _is_trusted(pid: int) -> bool:
    """Whether all user ids of a process are root's or ours, so that nobody else started it.

    The owner of /proc/PID does not tell: it is root for any process that may not be dumped
    (proc(5)).
    """
    ours = uapi.TRUSTED_USERS | {os.geteuid()}
    try:
        lines = _begin_of(f"/proc/{pid}/status").split(b"\n")
    except _GONE:
        return False
    # No program can forge this line: the kernel escapes a line feed in a name (proc_task_name).
    return any(
        line.startswith(b"Uid:") and ours.issuperset(map(int, line.split()[1:])) for line in lines
    )

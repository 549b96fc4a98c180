"""The programs behind userspace WireGuard links: start them, find them again, and end them.

One program serves one link: wireguard-go, or what the environment's WG_USERSPACE_IMPLEMENTATION
names (the variable that wg-quick(8) has under a longer name). It makes a tun interface NAME and
listens on NAME.sock; deleting the tun, or the socket's file, ends it.

Processes are held by pidfd, so a process id that was used again is never hit.

Anybody may run a program, give its tun any name, in a namespace of their own, and show any bytes in
/proc. So a process is believed to serve a link only if it is root's or our own user's, and if the
tun that it holds lives where the link does.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import select
import time
from collections.abc import Callable, Iterator
from contextlib import suppress

from msgspec import Struct

from rait.adapters import netns, syscalls
from rait.adapters.keys import KeyPair
from rait.adapters.netns import Netns
from rait.adapters.wireguard import uapi
from rait.domain.config.hosts import ifname_bytes, ifname_text
from rait.domain.errors import RaitError

PROGRAM_VARIABLE = "WG_USERSPACE_IMPLEMENTATION"
DEFAULT_PROGRAM = "wireguard-go"
TUN = "/dev/net/tun"
START_SECONDS = 20.0
END_SECONDS = 3.0
"""So long a program has to end by itself, before it is made to."""

_KILLED_SECONDS = 20.0
"""No process outlives SIGKILL, but on a busy machine it takes the kernel a while to end one."""

_POLL_SECONDS = 0.005
_SIGKILL, SIGTERM = 9, 15  # signal(7)
_LOG_BYTES = 2000
_LOG_TIME = (
    r"(?a)^((?:[A-Z]+: )?(?:\([^()]*\) )?)\d{4}[-/]\d\d[-/]\d\d[T ]\d\d:\d\d:\d\d(?:[.,]\d+)?Z? +"
)
"""As wireguard-go (``ERROR: (name) 2026/01/31 17:05:00 ``) and boringtun write it."""
_TUNGETDEVNETNS = 0x54E3
"""_IO('T', 227) in linux/if_tun.h: a descriptor of the namespace that a tun lives in."""


class StartError(RaitError):
    """A program did not start; nothing of it is left."""


class Owner(Struct, frozen=True):
    """What is known of a process that holds a tun.

    ``transit`` identifies the namespace that the process is in, so where its UDP socket is, and
    ``home`` the one that the tun lives in ("" where the kernel does not tell).
    """

    transit: str
    home: str

    def is_home_in(self, ns: Netns) -> bool:
        """Whether the tun lives in this namespace, as far as the kernel tells."""
        return self.home in ("", ns.identity)


def find_program() -> str | None:
    """The path of the program that serves links, or None."""
    name = os.environ.get(PROGRAM_VARIABLE) or DEFAULT_PROGRAM
    # As shutil.which does, which would load three libraries for archives.
    places = [""] if "/" in name else os.environ.get("PATH", os.defpath).split(os.pathsep)
    paths = (os.path.join(place, name) for place in places)
    return next((p for p in paths if os.path.isfile(p) and os.access(p, os.X_OK)), None)


def why_not() -> str:
    """What keeps userspace links from working here, and what to do; "" if nothing does."""
    if find_program() is None:
        named = os.environ.get(PROGRAM_VARIABLE)
        if named:
            return f"{PROGRAM_VARIABLE} names {named}, which is not a program on PATH"
        return (
            "wireguard-go is not on PATH: install it (Debian: apt install wireguard-go), "
            f"or let {PROGRAM_VARIABLE} name another program"
        )
    if not os.access(TUN, os.R_OK | os.W_OK):
        return f"{TUN} is missing or may not be opened: run `modprobe tun`, and rait as root"
    return ""


class Process:
    """A running process that cannot be mistaken for a later one; a context manager.

    Raises ProcessLookupError where there is none with this id.
    """

    def __init__(self, pid: int) -> None:
        self.pid = pid
        self._fd = os.pidfd_open(pid)

    def __enter__(self) -> Process:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Let go of the process; harmless when that was done already."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def ended(self, seconds: float) -> bool:
        """Wait this long for the process to end; whether it has."""
        poll = select.poll()
        poll.register(self._fd, select.POLLIN)
        if not poll.poll(seconds * 1000):
            return False
        # A child of ours would stay as a zombie.
        with suppress(ChildProcessError):
            os.waitid(os.P_PIDFD, self._fd, os.WEXITED | os.WNOHANG)
        return True

    def signal(self, number: int) -> None:
        """Send a signal; a process that has ended takes no harm."""
        import signal  # which makes enumerations of them all

        with suppress(ProcessLookupError):
            signal.pidfd_send_signal(self._fd, number)

    def owners_of(self, name: str) -> Iterator[Owner]:
        """What there is to tell of each tun of this name that the process holds.

        Nothing if it belongs to another user than root or ours, or has ended.
        """
        if not _is_trusted(self.pid):
            return
        for fd, own_name in _tuns_of(self.pid):
            if own_name != name:
                continue
            transit = _transit_of(self.pid)
            home = self._home_of(fd)
            # Until here, what was read may have been that of a later process of the same id.
            if transit is not None and not self.ended(0):
                yield Owner(transit, home)

    def home_descriptor(self, descriptor: int) -> int | None:
        """A descriptor of the namespace that a tun lives in, by the process's own for the tun.

        None where the kernel does not tell. Raises OSError where we may open no more files.
        """
        try:
            copy = syscalls.pidfd_getfd(self._fd, descriptor)
            try:
                return fcntl.ioctl(copy, _TUNGETDEVNETNS)
            finally:
                os.close(copy)
        except OSError as error:
            if error.errno in (errno.EMFILE, errno.ENFILE):
                raise
            return None

    def _home_of(self, descriptor: int) -> str:
        home = self.home_descriptor(descriptor)
        if home is None:
            return ""
        try:
            return netns.identity_of(home)
        finally:
            os.close(home)


Fits = Callable[[Owner], bool]
"""Whether a holder of a tun of the wanted name holds the wanted tun."""


def hold_owner(name: str, pid: int, fits: Fits) -> tuple[Process, Owner] | None:
    """The process that holds tun ``name``: the one with this id, or else any; None if none does.

    ``pid`` is what the socket told (SO_PEERCRED): a program that made its socket before it went
    to the background is no longer the process of that id. But if it is, and its tun is another
    one than is wanted, then nobody serves that one here. Processes that may not be looked at, as
    happens to root too in a container, are none of rait's. Raises OSError where one cannot tell.
    """
    if pid > 0:
        if (held := _hold(pid, name, fits)) is not None:
            return held
        if (other := _hold(pid, name, lambda _: True)) is not None:
            other[0].close()
            return None
    with os.scandir("/proc") as entries:
        for entry in entries:
            if not entry.name.isdigit():
                continue
            with suppress(PermissionError):
                if (held := _hold(int(entry.name), name, fits)) is not None:
                    return held
    return None


def _hold(pid: int, name: str, fits: Fits) -> tuple[Process, Owner] | None:
    try:
        process = Process(pid)
    except OSError as error:
        # It ended, or the number is that of a thread.
        if error.errno in (errno.ESRCH, errno.ENOENT, errno.EINVAL):
            return None
        raise
    try:
        owner = next(filter(fits, process.owners_of(name)), None)
    except BaseException:
        process.close()
        raise
    if owner is not None:
        return process, owner
    process.close()
    return None


def listening(name: str) -> bool:
    """Whether a program listens on the link's socket; a file that nobody serves is removed.

    Raises RaitError where that cannot be.
    """
    try:
        uapi.Client(name).close()
    except FileNotFoundError:
        return False
    except ConnectionRefusedError:
        try:
            _remove_socket(name)
        except OSError as error:
            raise RaitError(
                f"{uapi.socket_path(name)} is in the way of its program's socket and cannot be "
                f"removed: {netns.reason(error)}"
            ) from error
        return False
    return True


def _remove_socket(name: str) -> None:
    with suppress(FileNotFoundError):
        os.unlink(uapi.socket_file(name))


def end(name: str, process: Process, patience: float = 0.0) -> None:
    """End the program that serves a link, by force if it is not gone after ``patience`` seconds.

    Nothing of it is left: the tun goes with it, and so does the socket's file. Raises RaitError
    where even SIGKILL does not help.
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


class Start:
    """A program on its way to serve a link, started in ``transit``."""

    def __init__(self, name: str, transit: Netns) -> None:
        program = find_program()
        if program is None:
            raise StartError(why_not())
        self.name = name
        self._program = program
        self._transit = transit
        # What it says on the way is wanted for messages; a pipe would break it once we are gone.
        self._log = os.memfd_create(f"{name}.log", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            import subprocess

            from rait.adapters.systemd import out_of_service

            with netns.entered(transit):
                self._child = subprocess.Popen(
                    [*out_of_service(), program, ifname_bytes(name)],
                    cwd="/",
                    env=_environment(),
                    stdin=subprocess.DEVNULL,
                    stdout=self._log,
                    stderr=self._log,
                    start_new_session=True,
                )
        except OSError as error:
            os.close(self._log)
            raise StartError(f"cannot run {program}: {error.strerror}") from error

    def client(self, key: KeyPair) -> uapi.Client:
        """Wait until the program answers. Raises StartError, and then nothing of it is left."""
        try:
            client = self._connected()
            try:
                client.get(key)
            except BaseException:
                client.close()
                raise
        except BaseException:
            self.abort()
            raise
        self._seal_log()
        return client

    def abort(self) -> None:
        """End the program."""
        with suppress(OSError, RaitError):
            self._abort()
        self._seal_log()

    def _abort(self) -> None:
        if self._child.poll() is None:
            with Process(self._child.pid) as process:
                end(self.name, process)
            self._child.poll()
            return
        # Either it failed by itself, or it went to the background under another id.
        own = self._transit.identity
        found = hold_owner(self.name, 0, lambda owner: own in (owner.transit, owner.home))
        if found is not None:
            with found[0] as process:
                end(self.name, process)

    def _connected(self) -> uapi.Client:
        """Wait until our program listens, and not one that was there before."""
        deadline = time.monotonic() + START_SECONDS
        while True:
            status = self._child.poll()
            if status:
                raise self._failed(f"ended with status {status}")
            other = None
            with suppress(FileNotFoundError, ConnectionRefusedError):
                client = uapi.Client(self.name)
                # One that goes to the background ends where we see it, and listens as another.
                if status == 0 or client.pid == self._child.pid:
                    return client
                client.close()
                other = client.pid
            if time.monotonic() > deadline:
                if other is not None:
                    path = uapi.socket_path(self.name)
                    raise StartError(f"process {other} serves {path} already")
                raise self._failed(f"did not answer within {START_SECONDS:g} s")
            time.sleep(_POLL_SECONDS)

    def _failed(self, how: str) -> StartError:
        """What went wrong, with the last line of the program's log and what to do about it."""
        text = os.pread(self._log, _LOG_BYTES, 0).decode(errors="replace")
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        said = f": {without_time(lines[-1])}" if lines else ""
        if "operation not permitted" in said or "permission denied" in said:
            said += "; run rait as root"
        if "too many open files" in said:
            said += "; raise the limit fs.inotify.max_user_instances (sysctl)"
        return StartError(f"{self._program} {how}{said}")

    def _seal_log(self) -> None:
        """Keep the program's log, which nobody will read any more, from growing in memory."""
        if self._log < 0:
            return
        with suppress(OSError):
            fcntl.fcntl(self._log, fcntl.F_ADD_SEALS, fcntl.F_SEAL_GROW)
        os.close(self._log)
        self._log = -1


def without_time(line: str) -> str:
    """A line of a program's log without the time at its head.

    The journal has the time of the run, and two runs that fail alike are to say the same.
    """
    return re.sub(_LOG_TIME, r"\1", line, count=1)


def _environment() -> dict[str, str]:
    """wireguard-go is to stay one process, whose id we know; others take no notice of that."""
    return {
        "PATH": os.environ.get("PATH", os.defpath),
        "WG_PROCESS_FOREGROUND": "1",
        "LOG_LEVEL": "error",
    }


def _tuns_of(pid: int) -> Iterator[tuple[int, str]]:
    """The descriptors by which a process holds tuns, each with the tun's name. Raises OSError."""
    # A descriptor may be closed, and the process end, at any moment.
    gone = (FileNotFoundError, ProcessLookupError)
    try:
        entries = os.scandir(f"/proc/{pid}/fd")
    except gone:
        return
    with entries:
        for entry in entries:
            with suppress(*gone):
                if _target_of(entry.path) != TUN:
                    continue
                with open(f"/proc/{pid}/fdinfo/{entry.name}", "rb") as file:
                    info = file.read()
                for line in info.split(b"\n"):
                    if line.startswith(b"iff:\t"):
                        yield int(entry.name), ifname_text(line[5:])


def _target_of(link: str) -> str:
    """What a link in /proc/PID/fd leads to. Raises OSError."""
    try:
        return os.readlink(link)
    except OSError as error:
        if error.errno != errno.ENAMETOOLONG:
            raise
        return ""  # a path longer than the kernel tells is not that of a tun


def tuns_served(name: str, spec: str) -> Iterator[tuple[Netns, str]]:
    """The tuns of the program that listens under a link's name: where each is, and its name now.

    The caller closes the namespaces, which have the spelling ``spec``. Raises OSError or UapiError
    if the program cannot be looked at.
    """
    try:
        with uapi.Client(name) as client:
            pid = client.pid
    except (FileNotFoundError, ConnectionRefusedError):
        return
    with Process(pid) as process:
        if not _is_trusted(pid):
            return  # the one that made the socket ended, and another user's has its id
        for descriptor, now in _tuns_of(pid):
            home = process.home_descriptor(descriptor)
            if home is not None:
                yield netns.adopt(spec, home), now


def _is_trusted(pid: int) -> bool:
    """Whether a process is root's or our user's in all its ids: no program that others started.

    The owner of /proc/PID does not tell: to all that may not be dumped, that is root (proc(5)).
    """
    ours = uapi.TRUSTED_USERS | {os.geteuid()}
    try:
        with open(f"/proc/{pid}/status", "rb") as file:
            lines = file.read().split(b"\n")
    except (FileNotFoundError, ProcessLookupError):
        return False
    # The name of the program, in another line, holds no line feed (proc_task_name in fs/proc).
    return any(
        line.startswith(b"Uid:") and ours.issuperset(map(int, line.split()[1:])) for line in lines
    )


def _transit_of(pid: int) -> str | None:
    try:
        fd = os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    except (FileNotFoundError, ProcessLookupError):
        return None
    try:
        return netns.identity_of(fd)
    finally:
        os.close(fd)

"""How a program of a userspace WireGuard link is started (``Start``).

1. rait starts it in the transit namespace, where its UDP socket then lives, with its output in a
   file in memory. wireguard-go is asked to stay in the foreground, so rait knows its process.
2. rait polls the socket until the program of that process answers. A program that goes to the
   background instead ends with status 0, and another process of it holds the tun. rait knows that
   by the environment that it gave to the program: somebody else may start one for the same name.
3. If the program ends with an error, or does not answer in time, it is ended, and the last line of
   its output is the reason. Otherwise the file of its output is sealed, so that it cannot grow.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import time
from collections.abc import Iterator
from contextlib import suppress

from rait.adapters import netns
from rait.adapters.closing import on_error
from rait.adapters.keys import KeyPair
from rait.adapters.netns import Netns
from rait.adapters.wireguard import uapi
from rait.adapters.wireguard.process import (
    END_SECONDS,
    START_SECONDS,
    Process,
    end,
    find_program,
    hold,
    listening,
    why_not,
)
from rait.domain.config.hosts import ifname_bytes
from rait.domain.errors import MORE_PROCESSES, RaitError

_POLL_SECONDS = 0.005
_SECONDS_EACH = 0.25
"""The time to answer that each program gets for another one that starts beside it: on a slow
machine, they all wait for its processors."""
_LOG_BYTES = 2000
_LOG_TIME = (
    r"(?a)^((?:[A-Z]+: )?(?:\([^()]*\) )?)\d{4}[-/]\d\d[-/]\d\d[T ]\d\d:\d\d:\d\d(?:[.,]\d+)?Z? +"
)
"""The time in a log line of wireguard-go (``ERROR: (name) 2026/01/31 17:05:00 ``) or boringtun."""
_CRASH = ("fatal error: ", "panic: ", "runtime/cgo: ")
_MARK_VARIABLE = "RAIT_START"
"""The variable by which rait knows the processes of a program that it has just started."""


class StartError(RaitError):
    """A program did not start. Nothing of it is left."""


class SocketLostError(StartError):
    """Somebody removed a program's socket when the program had just made it.

    `wg show` does so: it takes a socket that refuses a connection for one of a program that ended.
    """


class Start:
    """A program that was started in ``transit`` to serve a link, until it answers.

    ``beside`` tells how many others start at about that time. Raises StartError if it cannot be
    run.
    """

    def __init__(self, name: str, transit: Netns, beside: int = 0) -> None:
        program = find_program()
        if program is None:
            raise StartError(why_not())
        self.name = name
        self._program = program
        self._transit = transit
        self._mark = os.urandom(8).hex()
        # A file in memory for its output, as writing to a pipe would fail when rait has ended.
        self._log = os.memfd_create(f"{name}.log", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
        try:
            import subprocess

            from rait.adapters.systemd import out_of_service

            with netns.entered(transit.fd):
                self._child = subprocess.Popen(
                    [*out_of_service(), program, ifname_bytes(name)],
                    cwd="/",
                    env=_environment() | {_MARK_VARIABLE: self._mark},
                    stdin=subprocess.DEVNULL,
                    stdout=self._log,
                    stderr=self._log,
                    start_new_session=True,
                )
        except OSError as error:
            os.close(self._log)
            hint = f"; {MORE_PROCESSES}" if error.errno == errno.EAGAIN else ""
            raise StartError(f"cannot run {program}: {netns.reason(error)}{hint}") from error
        # Programs start side by side, and rait waits for one after the other: those that hang have
        # one time to answer together. One whose turn comes late is asked once in any case.
        self._seconds = START_SECONDS + _SECONDS_EACH * beside
        self._deadline = time.monotonic() + self._seconds

    def client(self, key: KeyPair) -> uapi.Client:
        """Wait until the program answers, and give a connection to it.

        Raises StartError or UapiError, and then nothing of the program is left.
        """
        with on_error(self.abort):
            client = self._connected()
            with on_error(client.close):
                self._check(client, key)
        self._seal_log()
        return client

    def _check(self, client: uapi.Client, key: KeyPair) -> None:
        from subprocess import TimeoutExpired

        try:
            client.get(key)
        except uapi.UapiError:
            # What says most is why it ended, if it did so when it had just made its socket.
            with suppress(TimeoutExpired):
                if status := self._child.wait(END_SECONDS):
                    raise self._failed(f"ended with status {status}") from None
            raise

    def abort(self) -> None:
        """End the program."""
        with suppress(OSError, RaitError):
            self._abort()
        self._seal_log()

    def _abort(self) -> None:
        status = self._child.poll()
        if status is None:
            with Process(self._child.pid) as process:
                end(self.name, process)
            self._child.poll()
        if status != 0:
            listening(self.name)  # one that crashed leaves the file of its socket
            return  # whoever holds the tun now is another program, which was there first
        if (found := self._in_background()) is not None:
            with found:
                end(self.name, found)

    def _in_background(self) -> Process | None:
        """The process that holds the tun, with another id, of a program that went there."""
        held = (hold(pid, self.name, lambda _: True) for pid in self._pids())
        return next(filter(None, held), None)

    def _pids(self) -> Iterator[int]:
        """The processes that have the environment that we gave to the program."""
        from rait.adapters.netns_names import pids

        for pid in pids():
            with suppress(OSError), open(f"/proc/{pid}/environ", "rb") as file:
                if f"{_MARK_VARIABLE}={self._mark}".encode() in file.read().split(b"\0"):
                    yield pid

    def _connected(self) -> uapi.Client:
        """Wait until our own program listens, not one that listened there before."""
        while True:
            status = self._child.poll()
            if status:
                raise self._failed(f"ended with status {status}")
            other = None
            with suppress(*uapi.NOBODY):
                client = uapi.Client(self.name)
                if client.pid == self._child.pid:
                    return client
                if status == 0 and (found := self._in_background()) is not None:
                    found.close()
                    return client
                client.close()
                other = client.pid
            if status == 0 and not any(self._pids()):
                # So wireguard-go ends when somebody has removed its socket.
                raise SocketLostError(*self._failed("ended with status 0").args)
            if time.monotonic() > self._deadline:
                if other is not None:
                    path = uapi.socket_path(self.name)
                    raise StartError(f"process {other} serves {path} already")
                raise self._failed(f"did not answer within {self._seconds:g} s")
            time.sleep(_POLL_SECONDS)

    def _failed(self, how: str) -> StartError:
        """An error with the last line of the program's output and, where known, what to do."""
        text = os.pread(self._log, _LOG_BYTES, 0).decode(errors="replace")
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        # Where a program of Go crashes, the reason comes before what its threads were doing.
        crash = (line for line in lines if line.startswith(_CRASH))
        reason = f": {without_time(next(crash, lines[-1]))}" if lines else ""
        if "uapi socket: no such file" in reason:
            return SocketLostError(f"{self._program} {how}{reason}")
        if "operation not permitted" in reason or "permission denied" in reason:
            reason += "; run rait as root"
        if "too many open files" in reason:
            reason += "; raise the limit fs.inotify.max_user_instances (sysctl)"
        if "uapi socket: no space left" in reason:
            reason += "; raise the limit fs.inotify.max_user_watches (sysctl)"
        if "newosproc" in reason or "pthread_create failed" in reason:
            reason += f"; {MORE_PROCESSES}"
        return StartError(f"{self._program} {how}{reason}")

    def _seal_log(self) -> None:
        """Keep the program's output, which nobody reads from now on, from growing in memory."""
        if self._log < 0:
            return
        with suppress(OSError):
            fcntl.fcntl(self._log, fcntl.F_ADD_SEALS, fcntl.F_SEAL_GROW)
        os.close(self._log)
        self._log = -1


def without_time(line: str) -> str:
    """A line of a program's log without its time, so that two runs that fail alike say the same."""
    return re.sub(_LOG_TIME, r"\1", line, count=1)


def _environment() -> dict[str, str]:
    """The environment of a program. WG_PROCESS_FOREGROUND is for wireguard-go alone."""
    return {
        "PATH": os.environ.get("PATH", os.defpath),
        "WG_PROCESS_FOREGROUND": "1",
        "LOG_LEVEL": "error",
    }

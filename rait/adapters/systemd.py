"""systemd: programs that outlive the service in which rait runs, and what a service tells it.

A service's processes are those in its control group. In a scope, which is a unit of its own, a
process outlives the service that started it (systemd-run(1), systemd.scope(5)).
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import MutableMapping
from contextlib import suppress
from functools import cache

_BOOTED = "/run/systemd/system"
"""A directory that exists where systemd runs the machine (sd_booted(3))."""

_CGROUP = "/proc/self/cgroup"
_SCOPE = ("systemd-run", "--scope", "--quiet", "--collect", "--no-ask-password")
_SECONDS = 10.0

_STATUS_BYTES = 1000
"""systemd drops a message of more than 4096 bytes, whatever else it has."""
_TELL_SECONDS = 0.5
"""So long rait waits for room in the socket of a service manager that is stuck."""


@cache
def out_of_service() -> tuple[str, ...]:
    """The words to put before a command so that it outlives our service; () outside of a service.

    Where systemd refuses them, the answer is () too, and the service needs ``KillMode=process``.
    """
    return own_scope() if _is_service() else ()


@cache
def own_scope() -> tuple[str, ...]:
    """The words to put before a command so that it outlives whatever rait was started from.

    They are tried once, with a program that does nothing: () where systemd refuses them, or does
    not run the machine.
    """
    if not os.path.isdir(_BOOTED):
        return ()
    import subprocess

    try:
        done = subprocess.run(
            [*_SCOPE, "true"],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired):
        return ()
    return _SCOPE if done.returncode == 0 else ()


def _is_service() -> bool:
    """Whether the last unit in the path of our control group is a service.

    Parts after the unit do not count: a service has its programs in a group below its own if it
    delegates, and while it starts and stops.
    """
    try:
        with open(_CGROUP, "rb") as file:
            groups = file.read().splitlines()
    except OSError:
        return False
    units = (
        [p for p in group.split(b"/") if p.endswith((b".service", b".scope"))] for group in groups
    )
    return any(found and found[-1].endswith(b".service") for found in units)


class ServiceManager:
    """What started rait as a service, by what it has put into our environment (sd_notify(3)).

    Where nothing listens (NOTIFY_SOCKET is unset), nothing is told. What cannot be told is dropped:
    the service manager then acts as its unit says (systemd.service(5)), and the daemon goes on.

    That is taken out of our environment, so that children do not speak for us. ``watchdog`` is the
    seconds within which ``alive`` has to be told each time, or None (sd_watchdog_enabled(3)); half
    of it is a good interval.
    """

    def __init__(self, environment: MutableMapping[str, str] = os.environ) -> None:
        self._address = _address(environment.pop("NOTIFY_SOCKET", ""))
        usec, pid = (environment.pop(name, "") for name in ("WATCHDOG_USEC", "WATCHDOG_PID"))
        is_ours = self._address is not None and pid in ("", str(os.getpid()))
        self.watchdog = _seconds(usec) if is_ours else None

    def ready(self, status: str) -> None:
        """Tell that the start, or what ``reloading`` began, is over."""
        self._tell("READY=1", _status(status))

    def reloading(self) -> None:
        """Tell that the configuration is read again; ``ready`` has to follow."""
        now = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        self._tell("RELOADING=1", f"MONOTONIC_USEC={now}")

    def status(self, text: str) -> None:
        """Tell in one line how we are, for ``systemctl status``."""
        self._tell(_status(text))

    def alive(self) -> None:
        """Tell the watchdog that we are alive."""
        self._tell("WATCHDOG=1")

    def stopping(self) -> None:
        """Tell that we are about to end."""
        self._tell("STOPPING=1")

    def _tell(self, *fields: str) -> None:
        if self._address is None:
            return
        with suppress(OSError), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as own:
            own.settimeout(_TELL_SECONDS)
            own.sendto("\n".join(fields).encode("utf-8", "replace"), self._address)


def _address(text: str) -> bytes | None:
    """The address of a socket by path or, after "@", by abstract name; None for any other text."""
    if text.startswith("/"):
        return os.fsencode(text)
    return b"\0" + os.fsencode(text[1:]) if text.startswith("@") and text != "@" else None


def _seconds(usec: str) -> float | None:
    number = int(usec) if usec.isascii() and usec.isdigit() else 0
    return number / 1e6 if number else None


def _status(text: str) -> str:
    """The field STATUS, as one line: a second one would be a field of its own."""
    line = "".join(each if each.isprintable() else " " for each in text).encode("utf-8", "replace")
    return f"STATUS={line[:_STATUS_BYTES].decode('utf-8', 'ignore')}"

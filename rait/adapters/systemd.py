"""How to start programs that outlive the systemd service or the login in which rait runs.

A service's processes are those in its control group. In a scope, which is a unit of its own, a
process outlives the service that started it (systemd-run(1), systemd.scope(5)).
"""

from __future__ import annotations

import os
from functools import cache

_BOOTED = "/run/systemd/system"
"""A directory that exists where systemd runs the machine (sd_booted(3))."""

_CGROUP = "/proc/self/cgroup"
_SCOPE = ("systemd-run", "--scope", "--quiet", "--collect", "--no-ask-password")
_SECONDS = 10.0


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

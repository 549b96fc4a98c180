"""Start programs that outlive the service of systemd in which rait runs.

A service's processes are those in its control group. In a scope, which is a unit of its own, a
process outlives the service that started it (systemd-run(1), systemd.scope(5)).
"""

from __future__ import annotations

import os
from functools import cache

_BOOTED = "/run/systemd/system"
"""There where systemd runs the machine (sd_booted(3))."""

_CGROUP = "/proc/self/cgroup"
_SCOPE = ("systemd-run", "--scope", "--quiet", "--collect", "--no-ask-password")
_SECONDS = 10.0


@cache
def out_of_service() -> tuple[str, ...]:
    """The words to put before a program so that it outlives our service; () outside of one.

    systemd is tried once, with a program that does nothing: where it refuses, programs are started
    as they are, and the service needs ``KillMode=process``.
    """
    if not (os.path.isdir(_BOOTED) and _is_service()):
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
    """Whether our control group is a service's: its last part is the unit that we are in.

    A service has its own programs in a group below if it delegates, or while it starts and stops.
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

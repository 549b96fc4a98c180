"""The capabilities(7) and limits of this process."""

from __future__ import annotations

import os

from rait.domain.errors import MachineError

_CAP_NET_ADMIN = 12  # linux/capability.h
_LEAST_FILES = 32
"""With fewer, not even what has to be open at the same time for one link can be."""


def require(what: str) -> None:
    """Raise MachineError where we may not change interfaces, or could not with so few open files.

    ``what`` names the command.
    """
    if not may_change_networks():
        raise MachineError(
            f"{what} must run as root, or with CAP_NET_ADMIN and CAP_SYS_ADMIN; nothing was touched"
        )
    # The limit as getrlimit(2) has it (sysconf(3)), without a library to load.
    if 0 <= (most := os.sysconf("SC_OPEN_MAX")) < _LEAST_FILES:
        raise MachineError(
            f"{what} may open too few files: only {most}; raise the limit to 1024 (`ulimit -n`, or "
            "LimitNOFILE= of a systemd service); nothing was touched"
        )


def may_change_networks() -> bool:
    """Whether CAP_NET_ADMIN is in our effective set, so that we may change interfaces.

    Without /proc the answer is yes, and the kernel refuses later what we may not do.
    """
    try:
        with open("/proc/self/status", "rb") as status:
            for line in status:
                if line.startswith(b"CapEff:"):
                    return bool(int(line.split()[1], 16) >> _CAP_NET_ADMIN & 1)
    except (OSError, ValueError, IndexError):
        pass
    return True

"""The clocks by which a change waits for its confirmation."""

from __future__ import annotations

import time

from rait.domain.errors import MachineError
from rait.domain.records import Instant

_BOOT_ID = "/proc/sys/kernel/random/boot_id"


def now() -> Instant:
    """The present. Raises MachineError where the kernel does not tell this boot from others."""
    try:
        with open(_BOOT_ID, encoding="ascii") as file:
            boot = file.read().strip()
    except (OSError, ValueError) as error:
        raise MachineError(f"cannot read {_BOOT_ID}: {error}") from None
    return Instant(time.time_ns(), boot, time.clock_gettime_ns(time.CLOCK_BOOTTIME))


def later(start: Instant, span: int) -> Instant:
    """The instant ``span`` nanoseconds after another."""
    return Instant(start.at + span, start.boot, start.clock + span)

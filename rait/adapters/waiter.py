"""The waiter: a process that outlives its terminal, and takes a change back that nobody confirms.

1. rait starts the waiter before it makes the change, in a session of its own (setsid(2)) and, where
   systemd runs the machine, in a scope of its own. The waiter is rait itself, by its command
   ``rait confirm --wait``; the configuration is in its environment and not in its arguments.
2. The waiter says READY on its standard output when it has all that it needs to take the change
   back. If it does not in time, the change is not made.
3. Its standard input ends when the change is made, or rait has ended, however it ended. Then the
   waiter looks into the journal whether there is something to wait for.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import sys
import time
from contextlib import suppress

from rait.adapters.systemd import own_scope
from rait.domain.errors import MachineError

READY = b"ready\n"
START_SECONDS = 30.0
_MOST = 2000
"""So many bytes the waiter may say of what went wrong."""


class Waiter:
    """A waiter that was started and is ready. ``release`` lets it wait for the time."""

    def __init__(self, config: str) -> None:
        """Start a waiter for this configuration. Raises MachineError if it does not get ready."""
        # Not from the current directory (-P), where others may have put modules of any name.
        rait = (sys.executable, "-P", "-m", "rait", "confirm", "--wait")
        try:
            self._process = subprocess.Popen(
                [*own_scope(), *rait],
                env=os.environ | {"RAIT_CONFIG": config},
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        except OSError as error:
            raise _not_started(error.strerror or str(error)) from None
        said = self._first_words()
        if not said.endswith(READY):
            with suppress(ProcessLookupError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()
            raise _not_started(said.decode("utf-8", "replace").strip() or "it said nothing")

    def release(self) -> None:
        """Tell the waiter that the change is made."""
        assert self._process.stdin is not None  # noqa: S101 - as it is a pipe
        self._process.stdin.close()
        self._process.returncode = 0  # it lives on, which is no reason for a warning

    def _first_words(self) -> bytes:
        """All that the waiter says until it is ready, or has ended, or the time is up."""
        assert self._process.stdout is not None  # noqa: S101 - as it is a pipe
        with self._process.stdout as pipe:
            said, deadline = b"", time.monotonic() + START_SECONDS
            while not said.endswith(READY) and len(said) < _MOST:
                left = max(0.0, deadline - time.monotonic())
                if not select.select([pipe], [], [], left)[0]:
                    break
                if not (more := os.read(pipe.fileno(), _MOST)):
                    break
                said += more
            return said


def _not_started(why: str) -> MachineError:
    return MachineError(
        f"the process that would take the change back cannot be started: {why}. So the change was "
        "not made, and nothing was touched"
    )


def get_ready() -> None:
    """Say that this process is ready, and return when the change is made or rait has ended.

    From then on, nothing of the terminal can reach this process.
    """
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    os.chdir("/")
    os.write(1, READY)
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 1)
    os.dup2(null, 2)
    while os.read(0, 1):
        pass
    os.dup2(null, 0)
    os.close(null)

"""Runs commands of the user, several at once, with bounds on their time and what is kept of them.

How a command is run:

1. Without a shell, in ``/``, with umask 022, nothing on standard input, no descriptor of ours, and
   no other variable than those that it is given. It is made in its namespace: a child has the
   network namespace of the thread that made it (setns(2)). Unlike in `ip netns exec`, /sys and
   /etc/resolv.conf stay those of rait.
2. It is a session of its own (setsid(2)), so Ctrl-C on rait's terminal does not reach it, and all
   of it, its children too, can be ended at once, by their process group.
3. Its output and errors go to a pipe, of which only the end is kept.
4. At the end of its time its group gets SIGTERM, and some seconds later SIGKILL.
5. A command has ended when its own process has. Children that it leaves behind in time are left
   alone, and nobody reads what they go on to print.

If rait is interrupted meanwhile, the commands that run are ended as at the end of their time.
"""

from __future__ import annotations

import os
import select
import signal
import subprocess
import time
from collections import deque
from collections.abc import Generator, Iterator, Mapping, Sequence
from contextlib import nullcontext, suppress

from msgspec import Struct

from rait.adapters import netns

AT_ONCE = 8
TERM_SECONDS = 2.0
"""The time for a command to end after SIGTERM, before SIGKILL."""

_KILLED_SECONDS = 5.0
"""The time for the kernel to end a process after SIGKILL; beyond that, rait goes on without it."""

_UMASK = 0o022
_CHUNK = 65536
_LAST_CHUNKS = 32
"""A pipe holds less; a child that goes on printing must not keep us."""

_KEPT = 8192


class Job(Struct, frozen=True):
    """A command to run; ``netns`` is a descriptor of its namespace, None for the current one."""

    command: Sequence[str]
    environment: Mapping[str, str]
    netns: int | None = None


class Ended(Struct, frozen=True):
    """How a job ended: its exit status, if it has one, why it failed, and its output.

    Of an output that was ``cut``, these are the last bytes.
    """

    status: int | None = None
    error: str | None = None
    output: bytes = b""
    cut: bool = False


def run(
    queues: Sequence[Sequence[Job]], seconds: float
) -> Generator[tuple[int, Ended], None, None]:
    """Run the jobs, each for at most so many seconds; those of one queue one after another.

    Gives each job's end as it comes, with the index of its queue.
    """
    waiting = deque((index, iter(queue)) for index, queue in enumerate(queues))
    running: list[_Command] = []
    try:
        while waiting or running:
            while waiting and len(running) < AT_ONCE:
                index, queue = waiting.popleft()
                for job in queue:
                    try:
                        running.append(_Command(job, index, queue, seconds))
                        break
                    except (OSError, ValueError) as error:  # ValueError: a NUL in an argument
                        why = error.strerror if isinstance(error, OSError) else error
                        yield index, Ended(error=f"it cannot be run: {why}")
            _wait(running)
            over = [command for command in running if command.ended is not None]
            for command in over:
                running.remove(command)
                waiting.appendleft((command.index, command.queue))
            for command in over:
                assert command.ended is not None  # noqa: S101 - for mypy
                yield command.index, command.ended
    finally:
        _end(running)


class _Command:
    """A command that runs; ``ended`` is None as long as it does. Raises OSError or ValueError."""

    def __init__(self, job: Job, index: int, queue: Iterator[Job], seconds: float) -> None:
        self.index = index
        self.queue = queue
        self.ended: Ended | None = None
        self.deadline = time.monotonic() + seconds
        self._late = f"it did not end within {seconds:g} s, and was killed"
        self._signals = [(signal.SIGTERM, TERM_SECONDS), (signal.SIGKILL, _KILLED_SECONDS)]
        self._output = b""
        self._cut = False
        self.pipe, write = os.pipe2(os.O_CLOEXEC)
        try:
            os.set_blocking(self.pipe, False)
            with netns.entered(job.netns) if job.netns is not None else nullcontext():
                self._process = subprocess.Popen(
                    job.command,
                    cwd="/",
                    env=job.environment,
                    stdin=subprocess.DEVNULL,
                    stdout=write,
                    stderr=write,
                    start_new_session=True,
                    umask=_UMASK,
                )
            self.process = os.pidfd_open(self._process.pid)
        except BaseException:
            self._close_pipe()
            raise
        finally:
            os.close(write)

    def go_on(self, *, readable: bool, exited: bool) -> None:
        """Read what was printed, see whether the command has ended, and mind the time."""
        if readable:
            self._read()
        if exited:
            self._finish()
        elif time.monotonic() >= self.deadline:
            self._press()

    def _press(self) -> None:
        """Send the next signal, or give up."""
        if not self._signals:
            self._close(None, f"{self._late} in vain")
            return
        number, patience = self._signals.pop(0)
        self._kill(number)
        self.deadline = time.monotonic() + patience

    def _finish(self) -> None:
        for _ in range(_LAST_CHUNKS):
            if not self._read():
                break
        late = len(self._signals) < 2
        if late:
            self._kill(signal.SIGKILL)  # before its process is reaped, its group is no other one
        status = self._process.wait()
        error = None
        if late:
            error = self._late
        elif status < 0:
            error = f"it was killed by {signal.Signals(-status).name}"
        elif status > 0:
            error = f"it ended with status {status}"
        self._close(None if late or status < 0 else status, error)

    def _read(self) -> bool:
        """Read a chunk of output; whether there was one."""
        if self.pipe < 0:
            return False
        try:
            chunk = os.read(self.pipe, _CHUNK)
        except BlockingIOError:
            return False
        if not chunk:
            self._close_pipe()
            return False
        output = self._output + chunk
        self._cut = self._cut or len(output) > _KEPT
        self._output = output[-_KEPT:]
        return True

    def _kill(self, number: int) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)

    def _close(self, status: int | None, error: str | None) -> None:
        self._close_pipe()
        os.close(self.process)
        self.ended = Ended(status, error, self._output, self._cut)

    def _close_pipe(self) -> None:
        if self.pipe >= 0:
            os.close(self.pipe)
            self.pipe = -1


def _wait(running: Sequence[_Command]) -> None:
    """Wait until a command prints or ends, or its time is up, and see to all of them."""
    if not running:
        return
    poll = select.poll()
    for command in running:
        poll.register(command.process, select.POLLIN)
        if command.pipe >= 0:
            poll.register(command.pipe, select.POLLIN)
    left = min(command.deadline for command in running) - time.monotonic()
    ready = {descriptor for descriptor, _ in poll.poll(max(0.0, left) * 1000 + 1)}
    for command in running:
        command.go_on(readable=command.pipe in ready, exited=command.process in ready)


def _end(running: list[_Command]) -> None:
    """End the commands that still run, as rait is to end."""
    for command in running:
        command.deadline = 0.0
    while running:
        _wait(running)
        running[:] = [command for command in running if command.ended is None]

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
from io import FileIO

from msgspec import Struct

from rait.adapters import netns, signals
from rait.adapters.closing import on_error

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
                        # Ctrl-C after a command's start, before this list has it, would leave it.
                        with signals.held():
                            running.append(_Command(job, index, queue, seconds))
                        break
                    except (OSError, ValueError) as error:  # ValueError: a NUL in an argument
                        why = error.strerror if isinstance(error, OSError) else error
                        yield index, Ended(error=f"it cannot be run: {why}")
            for command, ended in _wait(running):
                waiting.appendleft((command.index, command.queue))
                yield command.index, ended
    finally:
        _end(running)


class _Command:
    """A command that runs. Raises OSError or ValueError if it cannot be run."""

    def __init__(self, job: Job, index: int, queue: Iterator[Job], seconds: float) -> None:
        self.index = index
        self.queue = queue
        self.deadline = time.monotonic() + seconds
        self._late = f"it did not end within {seconds:g} s, and was killed"
        self._signals = [(signal.SIGTERM, TERM_SECONDS), (signal.SIGKILL, _KILLED_SECONDS)]
        self._output = b""
        self._cut = False
        read, write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        self.pipe = FileIO(read)
        try:
            os.set_blocking(write, True)
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
            with on_error(self._end_unseen):
                self.process = os.pidfd_open(self._process.pid)
        except BaseException:
            self.pipe.close()
            raise
        finally:
            os.close(write)

    def go_on(self, *, exited: bool) -> Ended | None:
        """Read what was printed, and mind the time; gives how the command ended, once it has."""
        if exited:
            return self._finished()
        self._read()
        if time.monotonic() < self.deadline:
            return None
        if not self._signals:
            return self._closed(None, f"{self._late} in vain")
        number, patience = self._signals.pop(0)
        self._kill(number)
        self.deadline = time.monotonic() + patience
        return None

    def _finished(self) -> Ended:
        for _ in range(_LAST_CHUNKS):
            if not self._read():
                break
        is_late = len(self._signals) < 2
        if is_late:
            self._kill(signal.SIGKILL)  # until its process is reaped, no other group has its id
        status = self._process.wait()
        if is_late:
            return self._closed(None, self._late)
        if status < 0:
            return self._closed(None, f"it was killed by {_signal_name(-status)}")
        return self._closed(status, f"it ended with status {status}" if status else None)

    def _read(self) -> bool:
        """Read a chunk of output; whether there was one."""
        chunk = None if self.pipe.closed else self.pipe.read(_CHUNK)
        if not chunk:
            if chunk is not None:  # nobody has the other end any more
                self.pipe.close()
            return False
        output = self._output + chunk
        self._cut = self._cut or len(output) > _KEPT
        self._output = output[-_KEPT:]
        return True

    def _kill(self, number: int) -> None:
        with suppress(ProcessLookupError):
            os.killpg(self._process.pid, number)

    def _end_unseen(self) -> None:
        """End a command right after its start, as nothing would tell when it ends by itself."""
        self._kill(signal.SIGKILL)
        with suppress(subprocess.TimeoutExpired):
            self._process.wait(_KILLED_SECONDS)

    def _closed(self, status: int | None, error: str | None) -> Ended:
        self.pipe.close()
        os.close(self.process)
        return Ended(status, error, self._output, self._cut)


def _wait(running: list[_Command]) -> list[tuple[_Command, Ended]]:
    """Wait until a command prints or ends, or its time is up; those that ended run no more."""
    if not running:
        return []
    poll = select.poll()
    for command in running:
        poll.register(command.process, select.POLLIN)
        if not command.pipe.closed:
            poll.register(command.pipe, select.POLLIN)
    left = min(command.deadline for command in running) - time.monotonic()
    ready = {descriptor for descriptor, _ in poll.poll(max(0.0, left) * 1000 + 1)}
    over = []
    for command in tuple(running):
        ended = command.go_on(exited=command.process in ready)
        if ended is not None:
            running.remove(command)
            over.append((command, ended))
    return over


def _end(running: list[_Command]) -> None:
    """End the commands that still run, as rait is to end."""
    for command in running:
        command.deadline = 0.0
    while running:
        _wait(running)


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:  # a real-time signal
        return f"signal {number}"

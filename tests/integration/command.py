"""Runs rait as a command inside a namespace, in one of two ways.

``start_fork`` forks this process, which has imported rait already: starting Python is most of what
a run costs, and many times more in an emulated machine. ``start_exec`` starts it as a user does.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import logging
import os
import pkgutil
import re
import signal
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path
from typing import IO, Any, NamedTuple, NoReturn

from tests.integration import machine


class Result(NamedTuple):
    """How a command ended: its exit status (negative: the signal) and what it printed."""

    status: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def events(self) -> list[dict[str, Any]]:
        """The events of a run with --json."""
        return self.json["events"]

    @property
    def touched(self) -> set[str]:
        """The links that the events of a run with --json are about."""
        return {event["link"] for event in self.events}


class Running:
    """A rait that was started. It writes to files, so that a daemon it leaves holds no pipe."""

    def __init__(self, pid: int, out: IO[str], err: IO[str]) -> None:
        self.pid = pid
        self._out = out
        self._err = err
        self._status: int | None = None

    def ended(self) -> bool:
        if self._status is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self._status = os.waitstatus_to_exitcode(status)
        return self._status is not None

    def wait(self) -> Result:
        if self._status is None:
            _, status = os.waitpid(self.pid, 0)
            self._status = os.waitstatus_to_exitcode(status)
        with self._out, self._err:
            return Result(self._status, _content(self._out), _content(self._err))

    def said(self) -> str:
        """What it wrote to standard error until now."""
        # Not by reading on: it shares the place in the file with us.
        descriptor = self._err.fileno()
        return os.pread(descriptor, os.fstat(descriptor).st_size, 0).decode()

    def signal(self, number: int) -> None:
        os.kill(self.pid, number)

    def kill(self) -> Result:
        """Send SIGKILL, unless rait has ended by itself."""
        if not self.ended():
            with contextlib.suppress(ProcessLookupError):
                os.kill(self.pid, signal.SIGKILL)
        return self.wait()


def _content(file: IO[str]) -> str:
    file.seek(0)
    return file.read()


def _files(stdin: str, directory: Path) -> tuple[IO[str], IO[str], IO[str]]:
    files = tuple(tempfile.TemporaryFile("w+", dir=directory) for _ in range(3))  # noqa: SIM115
    files[0].write(stdin)
    files[0].seek(0)
    return files  # type: ignore[return-value]


def start_exec(netns: str, arguments: list[str], stdin: str, directory: Path) -> Running:
    """Start the installed rait command."""
    return start_program([*command(), *arguments], netns, stdin, directory)


def start_program(words: list[str], netns: str, stdin: str, directory: Path) -> Running:
    """Start a program that is to run rait."""
    given, out, err = _files(stdin, directory)
    with given:
        process = machine.start(words, netns, stdin=given, stdout=out, stderr=err)
    process.returncode = 0  # Running waits for it; Popen must not
    return Running(process.pid, out, err)


def command() -> list[str]:
    """The installed script beside this Python, or else the same by ``python -c``."""
    script = Path(sys.executable).with_name("rait")
    if script.exists():
        return [str(script)]
    return [sys.executable, "-c", "import sys; from rait.cli import main; sys.exit(main())"]


def start_fork(netns: str, arguments: list[str], stdin: str, directory: Path) -> Running:
    """Start the rait command in a fork of this process."""
    import_all()
    given, out, err = _files(stdin, directory)
    pid = os.fork()
    if pid == 0:
        _run_in_child(netns, arguments, (given.fileno(), out.fileno(), err.fileno()))
    given.close()
    return Running(pid, out, err)


def _run_in_child(netns: str, arguments: list[str], files: tuple[int, int, int]) -> NoReturn:
    status = 1
    try:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        # Ignored where a shell started the tests in the background, which is not what is tested.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        signal.alarm(0)
        for target, source in enumerate(files):
            os.dup2(source, target)
        sys.stdin = open(0, closefd=False)  # noqa: SIM115
        sys.stdout = open(1, "w", closefd=False)  # noqa: SIM115
        sys.stderr = open(2, "w", closefd=False)  # noqa: SIM115
        for handler in list(logging.root.handlers):  # pytest's own
            logging.root.removeHandler(handler)
        sys.argv = ["rait", *arguments]
        machine.setns(machine.NETNS_DIR / netns)
        from rait.cli import main

        status = main(arguments)
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
    except BaseException:  # noqa: BLE001 - as the interpreter itself would
        traceback.print_exc()
    finally:
        with contextlib.suppress(Exception):
            sys.stdout.flush()
            sys.stderr.flush()
        os._exit(status)


def import_all() -> None:
    """Import all of rait once, with what it imports only when needed, so that forks have it."""
    if "rait.cli" in sys.modules:
        return
    import rait

    for module in pkgutil.walk_packages(rait.__path__, "rait."):
        if not module.name.endswith(("__main__", ".web")):  # httpx is slow, and rarely needed
            importlib.import_module(module.name)
    for name in ("cryptography", "pyroute2", "sqlite3"):  # what most runs need
        importlib.import_module(name)
    from rait.adapters import keys
    from rait.adapters.config import formats
    from rait.domain.config.schema import Secret

    # The first time, these load a library each.
    formats.parse("key = 1\n", "warm-up.toml")
    keys.public_key(Secret("KJJXmDtAXSrMGuIJVy/2eP65gXm1PTy7vCR/4O/vEEI="))


def trace(netns: str, arguments: list[str], log: Path) -> None:
    """Run rait to its end under strace(1), which writes what is sent anywhere to ``log``.

    strace would wait for the programs that rait leaves running too; once rait has ended it is
    told to let go of them (which it heeds with -I 2).
    """
    calls = "trace=execve,sendto,sendmsg,sendmmsg,write,writev"
    strace = ["strace", "-f", "-I", "2", "-s", "4096", "-e", calls, "-o", str(log)]
    process = machine.start([*strace, *command(), *arguments], netns, stdout=subprocess.DEVNULL)
    try:
        while process.poll() is None and not _has_ended(log):
            time.sleep(0.05)
    finally:
        process.terminate()
        process.wait()
    assert _has_ended(log), log.read_text()


def _has_ended(log: Path) -> bool:
    """Whether the first process in the trace, which is rait, has ended well."""
    text = log.read_text() if log.exists() else ""
    return re.search(rf"^{text.partition(' ')[0]} +\+\+\+ exited with 0 ", text, re.M) is not None

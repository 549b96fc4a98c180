"""Commands are run, with bounds on everything that they may do to rait."""

from __future__ import annotations

import errno
import os
import resource
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from types import SimpleNamespace
from typing import NoReturn

import pytest

from rait.adapters import hooks
from rait.adapters.hooks import AT_ONCE, Ended, Job
from rait.adapters.lock import HELD_VARIABLE, hold
from rait.domain.errors import MachineError
from rait.domain.hooks import last_lines

LONG = 300.0
"""More seconds than any of these commands takes on a slow machine."""


def shell(script: str, **environment: str) -> Job:
    return Job(["/bin/sh", "-c", script], {"PATH": os.environ["PATH"], **environment})


def ends_of(*jobs: Job) -> list[Ended]:
    """How jobs end that may run at once, in their order."""
    found = dict(hooks.run([[job] for job in jobs], LONG))
    return [found[index] for index in range(len(jobs))]


def is_alive(pid: int) -> bool:
    try:
        state = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False
    return state != "Z"


def until_gone(pids: Sequence[int]) -> None:
    deadline = time.monotonic() + 60
    while any(map(is_alive, pids)):
        assert time.monotonic() < deadline, "they still run"
        time.sleep(0.02)


def test_a_command_has_nothing_of_ours(tmp_path: Path) -> None:
    script = (
        "pwd; umask; cat; env | sort | grep -v -e ^_= -e ^PWD= -e ^SHLVL=; ls /proc/self/fd | wc -l"
    )
    with (tmp_path / "open").open("w") as file:
        os.set_inheritable(file.fileno(), True)
        job = Job(["sh", "-c", script], {"PATH": os.environ["PATH"], "RAIT_LINK": "w1"})
        (ended,) = ends_of(job)
    assert (ended.status, ended.error) == (0, None)
    assert ended.output.decode().split() == [
        "/", "0022", f"PATH={os.environ['PATH']}", "RAIT_LINK=w1", "4",
    ]  # fmt: skip


def test_arguments_go_without_a_shell() -> None:
    job = Job(["printf", "%s|", "$HOME; exit 3", "*"], {"PATH": os.environ["PATH"]})
    (ended,) = ends_of(job)
    assert ended.output == b"$HOME; exit 3|*|"


@pytest.mark.parametrize(
    ("script", "status", "error"),
    [
        ("exit 0", 0, None),
        ("exit 3", 3, "it ended with status 3"),
        ("kill -SEGV $$", None, "it was killed by SIGSEGV"),
        ("kill -36 $$", None, "it was killed by signal 36"),
    ],
)
def test_how_a_command_ends(script: str, status: int | None, error: str | None) -> None:
    (ended,) = ends_of(shell(f"echo out; echo err >&2; {script}"))
    assert ended == Ended(status, error, b"out\nerr\n")


def test_a_command_that_cannot_be_run(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("no program")
    names = ["/nowhere/at/all", "no-such-program", str(tmp_path / "file"), "a\0b"]
    found = ends_of(*(Job([name], {"PATH": os.environ["PATH"]}) for name in names), shell("true"))
    assert [ended.error for ended in found] == [
        "it cannot be run: No such file or directory",
        "it cannot be run: No such file or directory",
        "it cannot be run: Permission denied",
        "it cannot be run: embedded null byte",
        None,
    ]


def test_a_command_that_cannot_be_watched_over_does_not_go_on(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    started = []

    def refuse(pid: int) -> NoReturn:
        started.append(pid)
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    monkeypatch.setattr(os, "pidfd_open", refuse)
    (ended,) = ends_of(shell("sleep 1000 & exec sleep 1000"))
    assert ended.error == "it cannot be run: Too many open files"
    until_gone(started)


def test_several_run_at_once(tmp_path: Path) -> None:
    """Each waits until all of them run."""
    script = f"touch {tmp_path}/$N; while [ $(ls {tmp_path} | wc -l) -lt {AT_ONCE} ]; do :; done"
    jobs = [shell(script, N=str(number)) for number in range(AT_ONCE)]
    assert all(ended.error is None for ended in ends_of(*jobs))


def test_no_more_than_that_run_at_once(tmp_path: Path) -> None:
    script = f"touch {tmp_path}/$N; sleep 0.1; ls {tmp_path} | wc -l; rm {tmp_path}/$N"
    jobs = [shell(script, N=str(number)) for number in range(3 * AT_ONCE)]
    counts = [int(ended.output) for ended in ends_of(*jobs)]
    assert max(counts) <= AT_ONCE


def test_those_of_one_queue_run_in_their_order_and_others_wait_for_none_of_them(
    tmp_path: Path,
) -> None:
    missing = Job(["/nowhere/at/all"], {})
    first = shell(f"while ! [ -e {tmp_path}/other ]; do :; done; echo 1")
    queues = [[first, missing, shell("echo 2")], [shell(f"touch {tmp_path}/other")]]
    found = [ended.output or ended.error for index, ended in hooks.run(queues, LONG) if index == 0]
    assert found == [b"1\n", "it cannot be run: No such file or directory", b"2\n"]


@pytest.fixture
def pids(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A file for process ids; once they are in it, the time of all commands is up."""
    path = tmp_path / "pids"

    def monotonic() -> float:
        return time.monotonic() + (LONG if path.exists() and path.read_text() else 0.0)

    monkeypatch.setattr(hooks, "time", SimpleNamespace(monotonic=monotonic))
    return path


@pytest.mark.parametrize("trap", ["", "trap '' TERM; "])
def test_at_the_end_of_its_time_the_whole_group_is_killed(pids: Path, trap: str) -> None:
    # Its last line wakes rait up, which may end it before that.
    begin = f"{trap}sleep 1000 & echo begun; echo $$ $! > {pids}; echo"
    (ended,) = ends_of(shell(f"{begin}; wait; while :; do sleep 1; done"))
    assert (ended.status, ended.output.strip()) == (None, b"begun")
    assert ended.error == "it did not end within 300 s, and was killed"
    until_gone([int(pid) for pid in pids.read_text().split()])


def test_a_child_of_a_command_outlives_it_only_where_it_does_not_heed_the_time(pids: Path) -> None:
    child = "(trap '' TERM; while :; do sleep 0.1; done)"
    (ended,) = ends_of(shell(f"{child} & echo $! > {pids}; echo begun; exec sleep 1000"))
    assert ended.error == "it did not end within 300 s, and was killed"
    until_gone([int(pids.read_text())])


def test_a_child_that_keeps_the_pipe_holds_nobody_up(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    begin = time.monotonic()
    (ended,) = ends_of(shell(f"yes & sleep 1000 & echo $! > {pids}; exit 0"))
    assert time.monotonic() - begin < LONG / 2
    assert (ended.status, ended.error) == (0, None)
    pid = int(pids.read_text())
    assert is_alive(pid), "and rait leaves it alone"
    os.kill(pid, signal.SIGKILL)


def test_of_much_output_the_end_is_kept() -> None:
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    (ended,) = ends_of(shell("head -c 300000000 /dev/zero | tr '\\0' x; echo; echo the end"))
    assert ended.error is None
    assert ended.cut
    assert last_lines(ended.output, (), is_cut=ended.cut)[-1] == "the end"
    assert len(ended.output) < 10_000
    after = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    assert after - before < 100_000, "kilobytes"


def test_a_command_that_closes_its_output_is_waited_for() -> None:
    (ended,) = ends_of(shell("exec >&- 2>&-; sleep 0.2; exit 4"))
    assert ended.status == 4


def test_who_stops_listening_ends_all(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    jobs = [[shell("true")], *([shell(f"echo $$ >> {pids}; exec sleep 1000")] for _ in range(3))]
    with closing(hooks.run(jobs, LONG)) as found:
        next(found)
    if pids.exists():
        until_gone([int(pid) for pid in pids.read_text().split()])


def test_ctrl_c_ends_the_commands_first(tmp_path: Path) -> None:
    pids = tmp_path / "pids"
    script = (
        "import signal, sys\n"
        "from rait.adapters.hooks import Job, run\n"
        # Ignored where a shell started the tests in the background.
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"
        f"job = Job(['sh', '-c', 'echo $$ > {pids}; exec sleep 1000'], {{'PATH': '/bin'}})\n"
        "list(run([[job]], 1000.0))\n"
    )
    with subprocess.Popen([sys.executable, "-c", script], stderr=subprocess.DEVNULL) as process:
        while not (pids.exists() and pids.read_text()):
            time.sleep(0.02)
        process.send_signal(signal.SIGINT)
        process.wait(60)
    until_gone([int(pids.read_text())])


def test_a_command_that_calls_rait_is_told_at_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = str(tmp_path / "journal.db.lock")
    monkeypatch.setenv(HELD_VARIABLE, path)
    with pytest.raises(MachineError, match=r"up_command or down_command .* calls `rait up`"):
        hold(path, "rait up", 1000).__enter__()
    with hold(f"{path}2", "rait up", 0):
        pass  # another journal's

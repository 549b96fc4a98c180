"""One process, measured from outside: time on the wall, of the processors, and memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

BENCH = Path(__file__).resolve().parent
REPO = BENCH.parent
PYTHON = sys.executable


def run(
    command: Sequence[str], directory: Path | None = None, statuses: Sequence[int] = (0,)
) -> dict[str, Any]:
    """Run a program: seconds, processor seconds, peak memory in MB, and what it printed.

    Raises RuntimeError with what it said if it ends with none of these statuses.
    """
    # What rait keeps is to be on the file system that is measured, as its journal is.
    cache = {} if directory is None else {"XDG_CACHE_HOME": str(directory)}
    with tempfile.TemporaryFile() as out:
        start = time.perf_counter()
        child = subprocess.Popen(
            command,
            stdout=out,
            stderr=subprocess.STDOUT,
            cwd=directory,
            env={**os.environ, "PYTHONPATH": str(REPO), **cache},
        )
        _, status, usage = os.wait4(child.pid, 0)
        wall = time.perf_counter() - start
        child.returncode = os.waitstatus_to_exitcode(status)
        out.seek(0)
        text = out.read().decode(errors="replace")
    if child.returncode not in statuses:
        raise RuntimeError(f"{' '.join(command)}: exit status {child.returncode}\n{text}")
    return {
        "wall": wall,
        "cpu": usage.ru_utime + usage.ru_stime,
        "memory": usage.ru_maxrss / 1024,
        "out": text,
    }


def told(directory: Path, script: str, *arguments: object) -> dict[str, Any]:
    """What a script of this folder tells of itself, in a line of JSON."""
    out = run([PYTHON, str(BENCH / script), *map(str, arguments)], directory)["out"]
    found: dict[str, Any] = json.loads(next(x for x in out.splitlines() if x.startswith("{")))
    return found


def rait(arguments: Sequence[str], directory: Path) -> dict[str, Any]:
    """The same of rait, with its netlink messages: ``sent``, ``received`` and ``written``."""
    with tempfile.NamedTemporaryFile("r") as counts:
        found = run([PYTHON, str(BENCH / "counted.py"), counts.name, *arguments], directory)
        return {**found, **json.load(counts)}

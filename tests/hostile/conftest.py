"""Starts the process that measures what each input costs (measured.py)."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent.parent
SECONDS = 20.0
"""Of a processor, the most that any input may take: some take two, where nobody else wants it, and
what takes a time that grows with the square of the input, minutes."""

MEGABYTES = 500.0


class Measure:
    """Runs tasks of measured.py, each within the bounds on time and memory."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process

    def __call__(self, **task: object) -> dict[str, Any]:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps(task) + "\n")
        self._process.stdin.flush()
        found: dict[str, Any] = json.loads(self._process.stdout.readline())
        assert "crash" not in found, found["crash"]
        assert found["seconds"] < SECONDS
        assert found["megabytes"] < MEGABYTES
        return found


@pytest.fixture(scope="session")
def measure() -> Iterator[Measure]:
    command = [sys.executable, "-m", "tests.hostile.measured"]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=ROOT, stdin=pipe, stdout=pipe, text=True) as process:
        try:
            yield Measure(process)
        finally:
            process.kill()

"""How long rait waits for a program of a userspace link that does not come up."""

from __future__ import annotations

import errno
import os
import subprocess
from pathlib import Path
from types import SimpleNamespace

import pytest

from rait.adapters.keys import KeyPair
from rait.adapters.netns import open_netns
from rait.adapters.wireguard import start
from rait.adapters.wireguard.process import PROGRAM_VARIABLE, START_SECONDS
from rait.adapters.wireguard.start import Start, StartError

NAMES = ("no link 1", "no link 2", "no link 3")
"""No interface can have these names, so nobody else's program serves them."""


def test_programs_that_start_side_by_side_have_one_time_to_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 0.0

    def sleep(seconds: float) -> None:
        nonlocal now
        now += seconds

    monkeypatch.setattr(start, "time", SimpleNamespace(monotonic=lambda: now, sleep=sleep))
    program = tmp_path / "hangs"
    program.write_text("#!/bin/sh\nexec sleep 1000\n")
    program.chmod(0o700)
    monkeypatch.setenv(PROGRAM_VARIABLE, str(program))
    with open_netns("") as here:
        starts = [Start(name, here, beside=2) for name in NAMES]
        for each in starts:
            with pytest.raises(StartError, match=r"did not answer within 20\.5 s"):
                each.client(KeyPair(None, ""))
    assert START_SECONDS < now < 2 * START_SECONDS


@pytest.mark.parametrize(
    ("code", "what"),
    [
        (errno.EAGAIN, "raise the limit of processes"),
        (errno.EMFILE, "raise the limit of this process"),
        (errno.ENOEXEC, ""),
    ],
)
def test_a_program_that_cannot_be_run_is_told_with_what_to_do(
    monkeypatch: pytest.MonkeyPatch, code: int, what: str
) -> None:
    def refused(*_: object, **__: object) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(subprocess, "Popen", refused)
    monkeypatch.setenv(PROGRAM_VARIABLE, "/bin/true")
    with open_netns("") as here, pytest.raises(StartError) as told:
        Start(NAMES[0], here)
    hint = f"; {what}" if what else ""
    assert str(told.value).startswith(f"cannot run /bin/true: {os.strerror(code)}{hint}")

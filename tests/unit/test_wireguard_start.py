"""How long rait waits for a program of a userspace link that does not come up."""

from __future__ import annotations

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
            with pytest.raises(StartError, match="did not answer within 22 s"):
                each.client(KeyPair(None, ""))
    assert START_SECONDS < now < 2 * START_SECONDS

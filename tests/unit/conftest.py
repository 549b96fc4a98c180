"""Fixtures that the tests of the commands share."""

from __future__ import annotations

from pathlib import Path

import pytest

from rait.adapters.journal.store import Journal
from rait.domain.backend import Outcome
from rait.domain.events import LinkAdded, LinkRemoved
from tests.unit.command_line import CONF, PEERS, PRIVATE, Rait, header, link
from tests.unit.played import Played, play


@pytest.fixture
def rait(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Rait:
    """rait as root would run it: what it asks of the kernel here, anybody may ask."""
    monkeypatch.setattr("rait.adapters.privilege.may_change_networks", lambda: True)
    return Rait(tmp_path, capsys)


@pytest.fixture
def journaled(rait: Rait) -> Rait:
    """A journal with a run of ours that ended, one of another's, and one of ours that did not."""
    rait.write(f'private_key = "{PRIVATE}"\n{CONF}', PEERS)
    with Journal.open(rait.journal) as journal:
        for scope, name in ((str(rait.conf), "w1"), ("/etc/rait/other.conf", "w2")):
            run = journal.begin(header(scope, "up"), (), (LinkAdded(link(name)),))
            run.record([Outcome(0)])
            run.finish("done")
        journal.begin(header(str(rait.conf), "down"), (), (LinkRemoved(link("w1")),))
    return rait


@pytest.fixture
def kernel(rait: Rait, monkeypatch: pytest.MonkeyPatch) -> Played:
    """What ``rait`` sees and changes from now on; it is to have a link to each of PEERS."""
    return play(monkeypatch, rait)

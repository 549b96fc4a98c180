"""What an earlier rait wrote is read by this one; see tests/data/0.1.0/README.md."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest

from rait.adapters.config import peers_cache
from rait.adapters.journal.reader import JournalReader
from rait.adapters.journal.store import Journal
from rait.cli import main
from rait.domain.backend import Outcome
from rait.domain.events import LinkRemoved
from rait.domain.history import RunHeader
from rait.domain.topology import Endpoint

WRITTEN = Path(__file__).parent.parent / "data" / "0.1.0"
SCOPE = "/opt/rait/rait.conf"
OTHER = "/opt/rait/other.conf"
NAMES = ["old4x50221", "old4x50222", "old4x50223"]


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    copy = tmp_path / "journal.db"
    shutil.copy(WRITTEN / "journal.db", copy)
    copy.chmod(0o600)
    return copy


def test_the_chain_is_sound(journal: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["log", "verify", "--journal", str(journal), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["ok"]
    assert report["entries"] == 42


def test_the_log_tells_every_run(journal: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["log", "--journal", str(journal), "--all"]) == 0
    out = capsys.readouterr().out
    for words in ("up  done", "up  partial", "rollback 14  done", "mtu 1420 -> 1300 (noticed"):
        assert words in out


def test_the_topology_is_what_the_runs_made(journal: Path) -> None:
    memory = JournalReader(journal).memory(SCOPE)
    links = memory.topology.links
    assert sorted(links) == NAMES
    assert {link.settings.mtu for link in links.values()} == {1400}
    assert {link.device.fwmark for link in links.values()} == {54}
    (peer,) = links["old4x50221"].peers
    assert peer.endpoint == Endpoint("192.0.2.3", 50153)
    assert links["old4x50223"].origin.backend == "userspace"


def test_an_earlier_topology_is_there_too(journal: Path) -> None:
    topology, _ = JournalReader(journal).topology_at(SCOPE, run=1)
    assert sorted(topology.links) == NAMES[:2]


def test_a_run_that_never_ended_is_remembered(journal: Path) -> None:
    assert list(JournalReader(journal).memory(OTHER).pending) == ["cut4x50999"]


def test_a_new_run_goes_on_from_there(journal: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Journal.open(journal) as opened:
        link = opened.memory(SCOPE).topology.links["old4x50223"]
        header = RunHeader(
            scope=SCOPE, command="down", version="", uid=0, started_at=2**60, public_key=""
        )
        run = opened.begin(header, (), (LinkRemoved(link),))
        run.record([Outcome(0)])
        run.finish("done")
    assert sorted(JournalReader(journal).memory(SCOPE).topology.links) == NAMES[:2]
    assert main(["log", "verify", "--journal", str(journal)]) == 0
    capsys.readouterr()


def test_a_plan_against_an_exported_state(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("rait.conf", "peers.conf"):
        shutil.copy(WRITTEN / name, tmp_path / name)
    (tmp_path / "rait.conf").chmod(0o600)
    arguments = ["-c", str(tmp_path / "rait.conf"), "plan", "--against"]
    assert main([*arguments, str(WRITTEN / "state.json"), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["events"] == []


def test_a_peers_list_that_was_kept_is_read_or_passed_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It lies under the name that this rait would look for, as if the versions were one."""
    text, name = (WRITTEN / "peers.conf").read_text(), "/opt/rait/peers.conf"
    monkeypatch.setattr(peers_cache, "cache_directory", lambda: tmp_path)
    peers_cache.keep(text, name, (), (), None)
    (path,) = tmp_path.glob("*.peers")
    shutil.copy(WRITTEN / "list.peers", path)
    known = peers_cache.find(text, name)
    assert known is None or [peer.public_key[:4] for peer in known.peers] == [
        "+Y23",
        "XEww",
        "qgQz",
    ]

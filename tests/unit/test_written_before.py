"""What an earlier rait wrote is read by this one; each folder of tests/data has a README.md."""

from __future__ import annotations

import json
import re
import shutil
from collections import Counter
from pathlib import Path

import pytest

from rait.adapters.config import caches
from rait.adapters.journal.reader import JournalReader
from rait.adapters.journal.store import Journal
from rait.cli import main
from rait.domain.backend import Outcome
from rait.domain.events import LinkRemoved
from rait.domain.records import Attempt, Head, RunHeader, decode_repeats, seal
from rait.domain.topology import Endpoint

DATA = Path(__file__).parent.parent / "data"
WRITTEN = DATA / "0.1.0"
WITH_INSTANCES = DATA / "0.1.0-instances"
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


@pytest.mark.parametrize(
    ("repeats", "sealed"),
    [
        (b"", "837c4214b6dd013393410269b4bab8ca4f3ad8abd2e4d8a74d3aef3805b8bf08"),
        (b"\3" * 32, "debb37f44ee1dab85e0e250c1e07479d95eac1f81d291232988ca37ed923566a"),
    ],
)
def test_a_head_is_sealed_as_ever(repeats: bytes, sealed: str) -> None:
    """Else each journal that is there would count as changed by somebody."""
    head = Head(2, 3, anchor=b"\1" * 32, count=42, hash=b"\2" * 32, repeats=repeats)
    assert seal(head).hex() == sealed
    assert (Head(2).anchor, Head(2).hash) == (bytes(32), bytes(32)), "so a chain begins"


def test_the_log_tells_every_run(journal: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["log", "--journal", str(journal), "--all"]) == 0
    out = capsys.readouterr().out
    for words in ("up  done", "up  partial", "rollback 14  done", "mtu 1420 -> 1300 (noticed"):
        assert words in out


def test_the_topology_is_what_the_runs_made(journal: Path) -> None:
    memory = JournalReader(journal).last_known(SCOPE)
    links = memory.topology.links
    assert sorted(links) == NAMES
    assert {link.settings.mtu for link in links.values()} == {1400}
    assert {link.device.fwmark for link in links.values()} == {54}
    (peer,) = links["old4x50221"].peers
    assert peer.endpoint == Endpoint("192.0.2.3", 50153)
    assert links["old4x50223"].origin.backend == "userspace"


def test_no_list_was_signed_then(journal: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert JournalReader(journal).last_known(SCOPE).signed is None
    assert main(["log", "--journal", str(journal), "--all", "--json"]) == 0
    assert "signed" not in json.loads(capsys.readouterr().out.splitlines()[0])


def test_an_earlier_topology_is_there_too(journal: Path) -> None:
    topology, _ = JournalReader(journal).topology_at(SCOPE, run=1)
    assert sorted(topology.links) == NAMES[:2]


def test_a_run_that_never_ended_is_remembered(journal: Path) -> None:
    assert list(JournalReader(journal).last_known(OTHER).leftover_links) == ["cut4x50999"]


def test_a_new_run_goes_on_from_there(journal: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Journal.open(journal) as opened:
        link = opened.last_known(SCOPE).topology.links["old4x50223"]
        header = RunHeader(
            scope=SCOPE, command="down", version="", uid=0, started_at=2**60, public_key=""
        )
        run = opened.begin(header, (), (LinkRemoved(link),))
        run.record([Outcome(0)])
        run.finish("done")
    assert sorted(JournalReader(journal).last_known(SCOPE).topology.links) == NAMES[:2]
    assert main(["log", "verify", "--journal", str(journal)]) == 0
    capsys.readouterr()


@pytest.mark.parametrize("written", [WRITTEN, WITH_INSTANCES])
def test_a_plan_against_an_exported_state(
    written: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in ("rait.conf", "peers.conf"):
        shutil.copy(written / name, tmp_path / name)
    (tmp_path / "rait.conf").chmod(0o600)
    plan = ["-c", str(tmp_path / "rait.conf"), "plan", "--json", "--against"]
    assert main([*plan, str(written / "state.json")]) == 0
    events = json.loads(capsys.readouterr().out)["events"]
    # The rollback took the links from the mtu of rait.conf back to the one before.
    changed = {} if written == WRITTEN else {"LinkUpdated": 4}
    assert Counter(event["type"] for event in events) == changed


@pytest.mark.parametrize("written", [WRITTEN, WITH_INSTANCES])
def test_a_peers_list_that_was_kept_is_read_or_passed_over(
    written: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It lies under the name that this rait would look for, as if the versions were one."""
    text, name = (written / "peers.conf").read_text(), "/opt/rait/peers.conf"
    monkeypatch.setattr(caches, "cache_directory", lambda: str(tmp_path))
    with caches.keeping():
        caches.keep_peers(text, name, (), (), None)
    (path,) = tmp_path.glob("*.peers")
    shutil.copy(written / "list.peers", path)
    known = caches.find_peers(text, name)
    wanted = re.findall(r'PublicKey = "(.*)"', text)
    assert known is None or [peer.public_key for peer in known.peers] == wanted


@pytest.fixture
def later_journal(tmp_path: Path) -> Path:
    copy = tmp_path / "later.db"
    shutil.copy(WITH_INSTANCES / "journal.db", copy)
    copy.chmod(0o600)
    return copy


def test_a_later_chain_is_sound(later_journal: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["log", "verify", "--journal", str(later_journal), "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["ok"]
    assert report["entries"] == 48


def test_a_later_log_tells_every_run(
    later_journal: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["log", "--journal", str(later_journal), "--all"]) == 0
    out = capsys.readouterr().out
    for words in (
        "preshared key set (noticed",
        "failed: listen port 50224 is taken",
        "repeated 2 times",
        "up  done  (8 done, 3 noticed)",
        "rollback 35  done",
    ):
        assert words in out


def test_a_later_topology_has_instances_of_namespaces(later_journal: Path) -> None:
    reader = JournalReader(later_journal)
    now = reader.last_known(SCOPE).topology.links
    before = reader.topology_at(SCOPE, run=10)[0].links
    assert sorted(now) == [f"new4x5022{n}" for n in range(1, 5)]
    assert {link.settings.mtu for link in now.values()} == {1400}
    instances = {link.origin.instance for link in now.values()}
    assert len(instances) == 1
    assert instances.isdisjoint({link.origin.instance for link in before.values()} | {""})
    assert all(len(link.peers) == 1 for link in (*now.values(), *before.values()))


def test_an_attempt_to_repeat_a_run_had_its_outcomes() -> None:
    header = b'{"scope":"","command":"up","version":"","uid":0,"started_at":7,"public_key":""}'
    attempt = b'{"header":%b,"outcomes":[{"index":0,"error":"EBUSY"}]}' % header
    repeats = decode_repeats(b'{"run":1,"total":{"count":3},"attempt":%b}' % attempt, SCOPE)
    head = RunHeader(scope="", command="up", version="", uid=0, started_at=7, public_key="")
    assert (repeats.total.count, repeats.attempt) == (3, Attempt(head))

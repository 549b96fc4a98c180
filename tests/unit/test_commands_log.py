"""Runs of the journal as people and programs read them."""

from __future__ import annotations

import json

import pytest
from msgspec import structs

from rait.adapters.journal.appender import Pruning
from rait.adapters.journal.verify import VerifyReport
from rait.commands.log import (
    Query,
    pruning_text,
    run_json,
    run_lines,
    run_whole,
    verification_lines,
)
from rait.domain.backend import Outcome
from rait.domain.events import LinkAdded, LinkUpdated, PeerAdded
from rait.domain.records import Repeated, RunHeader, RunRecord
from rait.domain.signed import Signed
from rait.domain.topology import Device, Endpoint, Link, LinkPeer, LinkSettings, Origin
from rait.terminal import to_json
from tests.unit.command_line import CONF, PEERS, PRIVATE, Rait, Said

SECOND = 1_000_000_000
LINK = Link("w1", Origin("kernel"), LinkSettings(1420, 54), Device("own", 50221))
PEER = LinkPeer("KEY", Endpoint("192.0.2.1", 50153))
DRIFT = LinkUpdated("w2", LinkSettings(1420, 54), LinkSettings(1300, 54))
RUN = RunRecord(
    id=7,
    last_id=14,
    header=RunHeader(
        scope="/etc/rait/rait.conf",
        command="up",
        version="1.2.3",
        uid=1000,
        started_at=1_769_875_500 * SECOND,
        public_key="own",
        config_digest="c" * 64,
        peers_digest="d" * 64,
    ),
    noticed=(DRIFT,),
    intended=(LinkAdded(LINK), PeerAdded("w1", PEER), LinkAdded(LINK)),
    outcomes={0: Outcome(0), 1: Outcome(1, "EBUSY")},
    status="partial",
    finished_at=1_769_875_501 * SECOND,
)
CRASHED = RunRecord(id=20, last_id=21, header=RUN.header, intended=(LinkAdded(LINK),))


def test_what_a_failed_event_did_is_told_beside_it() -> None:
    run = structs.replace(RUN, half_done={15: DRIFT})
    line = "~ w2 mtu 1420 -> 1300 (done by an event that failed)"
    head, *lines = run_lines(run, Query(), brief=False)
    assert "(1 done, 1 failed, 1 half done, 1 unknown, 1 noticed)" in head
    assert f"  {line}" in lines
    assert f"  event 15: {line}" in run_whole(run)
    assert line not in str(run_lines(run, Query(link="w1"), brief=False))
    (told,) = json.loads(run_json(run, Query()))["half_done"]
    assert (told["event"], told["link"]) == (15, "w2")
    assert json.loads(run_json(run, Query(link="w1")))["half_done"] == []


def test_a_run_is_a_headline_and_its_events() -> None:
    head, *events = run_lines(RUN, Query(), brief=False)
    counts = "(1 done, 1 failed, 1 unknown, 1 noticed)"
    for word in ("run 7", "2026-01-31", "up", "partial", counts, "uid 1000", "rait 1.2.3"):
        assert word in head
    assert f"config {'c' * 12}  peers {'d' * 12}" in head
    assert events == [
        "  ~ w2 mtu 1420 -> 1300 (noticed: not by a run of this configuration)",
        "  + w1 port 50221",
        "  ~ w1 + peer KEY endpoint 192.0.2.1:50153 (failed: EBUSY)",
        "  + w1 port 50221 (unknown)",
    ]
    assert run_lines(RUN, Query(), brief=True) == [head]


def test_a_run_that_the_watch_began_says_why() -> None:
    run = structs.replace(RUN, header=structs.replace(RUN.header, cause="peers list changed"))
    assert "  up (peers list changed)  partial  " in run_lines(run, Query(), brief=True)[0]
    assert json.loads(run_json(run, Query()))["cause"] == "peers list changed"


ETCD = structs.replace(RUN.header, source="etcd://h:2379/p", revision=12)


def test_a_run_says_which_list_it_acted_on() -> None:
    run = structs.replace(RUN, header=ETCD)
    assert "(etcd://h:2379/p at revision 12)" in run_lines(run, Query(), brief=True)[0]
    assert "  peers list etcd://h:2379/p at revision 12" in run_whole(run)
    told = json.loads(run_json(run, Query()))
    assert (told["source"], told["revision"]) == ("etcd://h:2379/p", 12)

    by = Signed("ABCD", "serial", 5)
    run = structs.replace(RUN, header=structs.replace(RUN.header, source="/peers", signed=by))
    which = "/peers with serial 5, signed by key ABCD"
    assert f"({which})" in run_lines(run, Query(), brief=True)[0]
    assert f"  peers list {which}" in run_whole(run)
    assert "revision" not in json.loads(run_json(run, Query()))


def test_a_run_of_an_earlier_rait_says_nothing_of_a_source() -> None:
    assert not any("peers list" in line for line in run_whole(RUN))
    assert run_lines(RUN, Query(), brief=True)[0].endswith(f"peers {'d' * 12}")


def test_a_run_that_was_repeated_says_what_was_read_last() -> None:
    again = Repeated(2, 1_769_875_600 * SECOND, "c" * 64, "d" * 64, ETCD.source, 15)
    run = structs.replace(RUN, header=ETCD, repeated=again)
    assert run_whole(run)[-1] == "  the last time with peers list etcd://h:2379/p at revision 15"
    same = structs.replace(run, repeated=structs.replace(again, revision=12))
    assert not any("the last time" in line for line in run_whole(same))


def test_a_run_at_a_boot_without_a_clock_says_so() -> None:
    unset = structs.replace(RUN.header, started_at=30 * SECOND)
    run = structs.replace(RUN, header=unset, recorded_at=RUN.header.started_at)
    (head,) = run_lines(run, Query(), brief=True)
    assert head.startswith("run 7  1970-01-01")
    assert "(the clock was not set: after 2026-01-31" in head
    for sound in (
        structs.replace(run, recorded_at=None),
        structs.replace(run, recorded_at=40 * SECOND),
        structs.replace(run, header=structs.replace(unset, started_at=1_735_689_600 * SECOND)),
        structs.replace(RUN, recorded_at=RUN.header.started_at),
    ):
        (head,) = run_lines(sound, Query(), brief=True)
        assert "clock" not in head, "no earlier run had one that was set, or it is set"


def test_a_run_says_what_went_wrong_beside_its_events() -> None:
    run = structs.replace(
        RUN, problems={"babeld": "refused 'bogus'", "w1": "the name is taken"}, extra_cmd="owed"
    )
    failed = ["  failed: babeld: refused 'bogus'", "  failed: w1: the name is taken"]
    for lines in (run_whole(run), run_lines(run, Query(), brief=False)):
        assert lines[-2:] == failed
    of_link = run_lines(run, Query(link="w1"), brief=False)
    assert (failed[0] in of_link, failed[1] in of_link) == (False, True)
    told = json.loads(run_json(run, Query()))
    assert told["problems"][0] == {"link": "babeld", "error": "refused 'bogus'"}
    assert told["extra_cmd"] == "owed"


@pytest.mark.parametrize(
    ("query", "count"),
    [(Query(link="w1"), 3), (Query(link="w2"), 1), (Query(peer="KEY"), 1), (Query(link="w9"), 0),
     (Query(link="w2", peer="KEY"), 0)],
)  # fmt: skip
def test_only_the_events_asked_for_are_told(query: Query, count: int) -> None:
    assert len(run_lines(RUN, query, brief=False)) == 1 + count
    told = json.loads(run_json(RUN, query))
    assert len(told["noticed"]) + len(told["events"]) == count
    assert told["done"] == 1, "the counts are of the whole run"


def test_a_crashed_run_never_finished() -> None:
    assert "never finished  (0 done, 1 unknown)" in run_lines(CRASHED, Query(), brief=True)[0]
    assert "finished " not in "".join(run_whole(CRASHED)[1:])
    told = json.loads(run_json(CRASHED, Query()))
    assert (told["status"], told["finished_at"], told["unknown"]) == ("unfinished", None, 1)
    assert told["events"][0]["outcome"] == "unknown"


def test_a_whole_run_has_digests_in_full_and_numbers_of_events() -> None:
    text = "\n".join(run_whole(RUN))
    for word in ("c" * 64, "d" * 64, "public key own", "configuration /etc/rait/rait.conf"):
        assert word in text
    assert "event 8: ~ w2 mtu 1420 -> 1300 (noticed: not by a run of this configuration)" in text
    assert "event 9: + w1 port 50221\n" in text
    assert "event 11: + w1 port 50221 (unknown)" in text


def test_the_events_of_a_run_are_numbered_in_their_order() -> None:
    run = structs.replace(RUN, noticed=(DRIFT, DRIFT))
    assert [run.noticed_id(index) for index in (0, 1)] == [8, 9]
    assert [run.intended_id(index) for index in (0, 1)] == [10, 11]


def test_what_the_run_before_left_is_told_as_such() -> None:
    run = structs.replace(RUN, header=structs.replace(RUN.header, leftover_noticed=(0,)))
    assert "mtu 1420 -> 1300 (noticed: left by a run that did not finish)" in "\n".join(
        run_whole(run)
    )
    (noticed,) = json.loads(run_json(run, Query()))["noticed"]
    assert noticed["left_by_unfinished_run"] is True
    assert json.loads(run_json(RUN, Query()))["noticed"][0]["left_by_unfinished_run"] is False


def test_a_run_is_one_line_of_json() -> None:
    text = run_json(RUN, Query())
    assert "\n" not in text
    told = json.loads(text)
    assert (told["run"], told["uid"], told["command"], told["done"]) == (7, 1000, "up", 1)
    assert [event["event"] for event in (*told["noticed"], *told["events"])] == [8, 9, 10, 11]
    assert told["events"][1]["outcome"] == "failed"
    assert told["events"][1]["error"] == "EBUSY"
    assert told["events"][1]["link"] == "w1"


def test_a_sound_journal_shows_its_head() -> None:
    report = VerifyReport(ok=True, head="ab" * 32, entries=5, dropped=3)
    first, second = verification_lines(report)
    assert "5 entries are sound, 3 pruned before them" in first
    assert second == f"head {'ab' * 32}"
    assert json.loads(to_json(report))["head"] == "ab" * 32


def test_a_journal_that_is_not_sound_says_how_far_it_is() -> None:
    report = VerifyReport(ok=False, head="", entries=5, bad_entry=6, why="entry 6 is missing")
    assert verification_lines(report) == [
        "rait log verify: entry 6 is missing",
        "sound up to here: 5 entries",
    ]
    assert json.loads(to_json(report))["bad_entry"] == 6


def test_what_was_not_examined_is_not_said_to_be_unsound() -> None:
    report = VerifyReport(ok=False, head="", entries=0, why="the head was changed")
    first, second = verification_lines(report)
    assert first == "rait log verify: the head was changed"
    assert second.startswith("the entries were not examined")


def test_one_is_not_many() -> None:
    report = VerifyReport(ok=True, head="ab" * 32, entries=1)
    assert verification_lines(report)[0] == "rait log verify: 1 entry is sound"
    unsound = VerifyReport(ok=False, head="ab" * 32, entries=1, why="entry 2 is missing")
    assert verification_lines(unsound)[-1] == "sound up to here: 1 entry"
    assert pruning_text(Pruning(1, 9)) == "rait log prune: 1 run dropped, 9 entries"
    assert pruning_text(Pruning()) == "rait log prune: 0 runs dropped, 0 entries"


def test_a_run_that_is_repeated_says_how_often_and_until_when() -> None:
    again = Repeated(1440, 1_769_961_900 * SECOND, "c" * 64, "e" * 64)
    run = structs.replace(RUN, repeated=again)
    says = "repeated 1,440 times until 2026-02-01 "
    assert says in run_lines(run, Query(), brief=False)[-1]
    assert says in run_lines(run, Query(), brief=True)[0]
    assert says in run_lines(run, Query(peer="KEY"), brief=False)[-1]
    whole = run_whole(run)
    assert says in whole[-2]
    assert whole[-1] == f"  the last time with sha256 of peers {'e' * 64}"
    told = json.loads(run_json(run, Query()))
    assert (told["repeated"], told["repeated_until"]) == (1440, again.until)
    once = structs.replace(RUN, repeated=Repeated(1, again.until), retried_at=again.until)
    assert run_lines(once, Query(), brief=False)[-2].startswith("  repeated once until 2026-02-01")
    assert "by a run that is under way or never finished" in run_whole(once)[-3]
    assert json.loads(run_json(RUN, Query()))["repeated"] == 0


@pytest.mark.parametrize(
    "path", [f"/nowhere/{PRIVATE}", f"./{PRIVATE}", "/nowhere/journal.db", "empty.db"]
)
def test_a_journal_that_is_named_must_be_there(
    journaled: Rait, path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(journaled.directory)
    (journaled.directory / "empty.db").touch()
    before = sorted(journaled.directory.iterdir())
    commands = (
        (), ("-f",), ("--oneline",), ("--run", "1"), ("show", "1"), ("verify",),
        ("verify", "--json"), ("prune", "--keep", "1d"),
    )  # fmt: skip
    for command in commands:
        said = journaled("log", *command, "--journal", path)
        assert (said.status, said.out) == (1, "")
        assert said.err.startswith("rait: there is no journal ")
        assert PRIVATE not in said.err
    assert "the file is empty" in said.err or "there is no such file" in said.err
    assert sorted(journaled.directory.iterdir()) == before


@pytest.mark.parametrize("url", ["http://example.org/j", "-", "file:///var/lib/rait/journal.db"])
def test_a_journal_is_a_path_and_no_url(rait: Rait, url: str) -> None:
    for command in (("log",), ("log", "verify")):
        said = rait(*command, "--journal", url)
        assert (said.status, said.out) == (2, "")
        assert "--journal takes the path of a journal" in said.err
    conf = f'private_key = "{PRIVATE}"\n{CONF}'
    rait.write(conf.replace("journal.db", url), PEERS)
    for command in (("up",), ("plan",), ("log",), ("log", "verify")):
        said = rait(*command)
        assert (said.status, said.out) == (2, "")
        line = conf.count("\n")
        assert f"rait.conf:{line}: journal: must be the path of a file" in said.err


def test_verify_does_not_call_sound_what_is_not_there(rait: Rait) -> None:
    rait.write(f'private_key = "{PRIVATE}"\n{CONF}', PEERS)
    said = rait("log", "verify")
    assert (said.status, said.err) == (0, "")
    assert f"there is no journal {rait.journal} yet, so nothing was examined" in said.out
    assert rait("log", "verify", "--expect-head", "ab" * 32).status == 1
    assert rait("log", "prune", "--keep", "1d").out == "rait log prune: 0 runs dropped, 0 entries\n"
    assert not rait.journal.exists()


@pytest.mark.parametrize("peer", ["bad", "", PRIVATE[:-2] + "=", PRIVATE + PRIVATE, "A" * 43 + "="])
def test_a_peer_that_is_no_key_is_said_to_be_none(journaled: Rait, peer: str) -> None:
    said = journaled("log", "--peer", peer)
    assert (said.status, said.out) == (2, "")
    assert said.err.startswith("rait: --peer is ")
    assert peer in ("", "bad") or peer not in said.err


def test_the_log_is_of_this_configuration_unless_all_are_asked_for(journaled: Rait) -> None:
    assert "w2" not in journaled("log").out
    everyone = ["w1", "w2", "w1"]
    for arguments in (("--all",), ("--journal", str(journaled.journal))):
        found = map(json.loads, journaled("log", "--json", *arguments).out.splitlines())
        assert [run["events"][0]["link"] for run in found] == everyone
    journaled.conf.unlink()
    assert journaled("log", "--journal", str(journaled.journal)).status == 0
    assert journaled("log", "verify", "--journal", str(journaled.journal)).status == 0


def test_a_run_that_was_cut_off_is_told_as_such(journaled: Rait) -> None:
    first, last = journaled("log", "--oneline").out.splitlines()
    assert "done" in first
    assert "never finished" in last
    assert "(unknown)" in journaled("log", "show", last.split()[1]).out


def test_an_empty_log_says_so(rait: Rait) -> None:
    rait.write(f'private_key = "{PRIVATE}"\n{CONF}', PEERS)
    assert rait("log") == Said(0, "no runs\n", "")
    assert rait("log", "--json") == Said(0, "", "")
    assert rait("log", "--since", "noon").status == 2
    assert rait("rollback").status == 1


@pytest.mark.parametrize("follow", [(), ("-f",)])
def test_a_run_is_told_only_if_all_else_that_was_asked_holds(
    journaled: Rait, follow: tuple[str, ...]
) -> None:
    for options in ((), ("--since", "1970-01-01T00:00Z"), ("--link", "w1")):
        assert journaled("log", "--run", "1", *follow, *options).out.startswith("run 1 ")
    nothing = "" if follow else "no runs\n"
    for options in (("--since", "0s"), ("--link", "w2"), ("--peer", PEERS[50221][0])):
        assert journaled("log", "--run", "1", *follow, *options) == Said(0, nothing, "")


@pytest.mark.parametrize("head", ["", "junk", "ab" * 31, "ab" * 33, "zz" * 32])
def test_a_head_that_is_none_is_wrong_usage(journaled: Rait, head: str) -> None:
    said = journaled("log", "verify", "--expect-head", head)
    assert (said.status, said.out) == (2, "")
    assert f"--expect-head: {head!r} is no head; give the 64 hexadecimal digits" in said.err
    kept = json.loads(journaled("log", "verify", "--json").out)["head"]
    assert journaled("log", "verify", "--expect-head", f" {kept.upper()}\n").status == 0
    assert journaled("log", "verify", "--expect-head", "ab" * 32).status == 1


@pytest.mark.parametrize("command", [("show", "1"), ("verify",), ("prune", "--keep", "1d")])
def test_an_option_is_there_only_where_it_does_something(
    journaled: Rait, command: tuple[str, ...]
) -> None:
    assert journaled("log", *command, "--all").status == 2
    assert journaled("log", *command).status == 0

"""The journal as its callers see it: runs, readers, privacy and troubles."""

from __future__ import annotations

import itertools
import json
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import closing
from pathlib import Path

import pytest
from msgspec import structs

from rait.adapters.journal import appender
from rait.adapters.journal import file as journal_file
from rait.adapters.journal.reader import JournalReader
from rait.adapters.journal.store import Journal
from rait.domain import records
from rait.domain.backend import Outcome
from rait.domain.errors import HistoryError, MachineError, RaitError
from rait.domain.events import LinkAdded, LinkRemoved, LinkUpdated, PeerAdded
from rait.domain.history import LONG_AGO, LastKnown, done_events
from rait.domain.hooks import Call, Owed
from rait.domain.records import GENESIS, Entry, RunHeader, Snapshot
from rait.domain.topology import EMPTY, Device, Link, LinkNotes, LinkPeer, LinkSettings, Origin

SCOPE = "/etc/rait/rait.conf"


def link(name: str) -> Link:
    return Link(name, Origin("kernel", "raitns"), LinkSettings(1420, 54), Device("own", 50221))


def header(scope: str = SCOPE, started_at: int = 1) -> RunHeader:
    return RunHeader(
        scope=scope,
        command="rait up",
        version="1",
        uid=0,
        started_at=started_at,
        public_key="own",
        config_digest="c",
        peers_digest="p",
    )


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "lib" / "journal.db"


@pytest.fixture
def journal(path: Path):
    with Journal.open(path, clock=itertools.count(100).__next__) as opened:
        yield opened


def add(journal: Journal, *names: str, scope: str = SCOPE) -> int:
    """A run that adds links, and ends well."""
    run = journal.begin(header(scope), (), [LinkAdded(link(name)) for name in names])
    run.record(Outcome(index) for index in range(len(names)))
    run.finish("done")
    return run.id


@pytest.mark.parametrize(
    ("value", "keys"),
    [
        (Owed(), ""),
        (LinkNotes(), ""),
        (Call("added", link("w1")).result(), "command event link"),
        (records.Finished("done"), "status"),
        (records.Trial(run=1, header=header(), before=EMPTY), "before header run"),
    ],
)
def test_what_there_is_nothing_of_takes_no_room(value: object, keys: str) -> None:
    assert " ".join(sorted(json.loads(records.encode(value)))) == keys


@pytest.mark.parametrize(
    ("kind", "run", "told"),
    [("intended", 7, r"journal \(run 7\) cannot be read"), ("snapshot", 7, "journal cannot"),
     ("pruned", 0, "journal cannot"), ("later", 0, "this rait does not know")],
)  # fmt: skip
def test_an_entry_that_cannot_be_read_is_told_with_its_run(kind: str, run: int, told: str) -> None:
    with pytest.raises(HistoryError, match=told):
        records.decode(Entry(9, run, kind, SCOPE, 1, b"{}x"))


@pytest.mark.parametrize("at", [-(2**63), 2**63 - 1])
def test_a_run_begins_at_any_time_that_sqlite_has_and_at_no_other(at: int) -> None:
    def decoded(at: int) -> RunHeader:
        payload = records.encode(header(started_at=at))
        began: RunHeader = records.decode(Entry(9, 9, "run_started", SCOPE, 1, payload))
        return began

    assert decoded(at).started_at == at
    with pytest.raises(HistoryError, match=r"entry 9 \(run_started\) .* cannot be read"):
        decoded(at + (1 if at > 0 else -1))


def test_the_count_of_a_run_that_a_snapshot_sums_up_is_of_no_run() -> None:
    count = Entry(9, 1, "repeated", SCOPE, 1, records.encode(records.Repeated(count=2)))
    assert records.gather([count]) == ()
    outcomes = Entry(9, 1, "outcomes", SCOPE, 1, records.encode((Outcome(0),)))
    with pytest.raises(HistoryError, match="of no run"):
        records.gather([outcomes])


def entries_of(journal: JournalReader) -> list[Entry]:
    """All that the log holds."""
    columns = "id, run, kind, scope, at, payload"
    with closing(sqlite3.connect(journal.path)) as connection:
        rows = connection.execute(f"SELECT {columns} FROM entries ORDER BY id")  # noqa: S608
        return [Entry(*row) for row in rows]


def head_of(journal: JournalReader) -> str:
    """The hash of the last entry: it stands for all that the journal holds."""
    return journal.verify().head


def test_what_was_intended_counts_once_it_has_happened(journal: Journal) -> None:
    run = journal.begin(header(), [LinkAdded(link("old"))], [LinkAdded(link("new"))])
    assert set(journal.last_known(SCOPE).topology.links) == {"old"}
    assert journal.last_known(SCOPE).leftover_links == {"new": link("new")}
    run.record([Outcome(0)])
    assert set(journal.last_known(SCOPE).topology.links) == {"old", "new"}
    assert journal.last_known(SCOPE).leftover_links == {}
    assert journal.run(run.id).status is None
    run.finish("done")
    record = journal.run(run.id)
    assert (record.status, record.done, record.failed, record.unknown) == ("done", 1, 0, 0)


def test_a_link_is_another_scopes_where_that_made_it_and_nowhere_else(journal: Journal) -> None:
    """Configurations with targets of their own have links of one name, each its own."""

    def made(scope: str, instance: str) -> None:
        new = link("w5")
        new = structs.replace(new, origin=structs.replace(new.origin, instance=instance))
        run = journal.begin(header(scope), (), [LinkAdded(new)])
        run.record([Outcome(0)])
        run.finish("done")

    made("/moved.conf", "boot/2")
    made("/other.conf", "boot/1")
    assert journal.claims("/mine.conf", {"w5": "boot/1"}) == {"w5": "/other.conf"}
    assert journal.claims("/mine.conf", {"w5": "boot/2"}) == {"w5": "/moved.conf"}
    assert journal.claims("/mine.conf", {"w5": "boot/3"}) == {}
    assert journal.claims("/mine.conf", {"w5": ""}) == {"w5": "/other.conf"}, "nobody can tell"
    made("/older.conf", "")
    assert journal.claims("/mine.conf", {"w5": "boot/3"}) == {"w5": "/older.conf"}
    assert journal.claims("/mine.conf", {"w6": "boot/1"}) == {}


def test_what_failed_events_did_counts_as_happened(journal: Journal) -> None:
    add(journal, "old")
    old = link("old")
    moved = LinkUpdated("old", old.settings, LinkSettings(1300, 55))
    narrowed = LinkUpdated("old", old.settings, LinkSettings(1300, 54))
    run = journal.begin(header(), (), [moved, LinkAdded(link("new"))])
    run.record([Outcome(0, "EBUSY"), Outcome(1, "EBUSY")])
    assert set(journal.last_known(SCOPE).leftover) == {moved, LinkAdded(link("new"))}
    run.finish("failed", half_done=[narrowed], unsure=[1])
    record = journal.run(run.id)
    ((number, event),) = record.half_done.items()
    assert event == narrowed
    assert (record.done, record.failed, record.unsure) == (0, 2, (1,))
    assert record.touches("old")
    memory = journal.last_known(SCOPE)
    assert memory.topology.links == {"old": structs.replace(old, settings=narrowed.after)}
    assert memory.leftover == (LinkAdded(link("new")),)
    assert memory.leftover_links == {"new": link("new")}
    assert journal.topology_at(SCOPE, event=number)[0] == memory.topology
    assert journal.topology_at(SCOPE, event=run.id + 2)[0].links == {"old": old}
    assert done_events(record) == (narrowed,)
    assert journal.verify().ok
    add(journal, "more")
    assert journal.last_known(SCOPE).leftover == ()
    journal.prune(record.finished_at + 1 if record.finished_at else 0)
    assert journal.last_known(SCOPE).topology.links["old"].settings == narrowed.after


def test_what_a_run_could_not_find_out_is_still_unknown_after_it(journal: Journal) -> None:
    hidden, stray = LinkAdded(link("hidden")), LinkAdded(link("stray"))
    head = structs.replace(header(), carried=(hidden, stray), leftover_links=("stray",))
    run = journal.begin(head, (), [LinkAdded(link("new"))])
    assert set(journal.last_known(SCOPE).leftover) == {hidden, stray, LinkAdded(link("new"))}
    run.record([Outcome(0)])
    run.finish("done", ended=["stray"])
    memory = journal.last_known(SCOPE)
    assert memory.leftover == (hidden,)
    assert set(memory.leftover_links) == {"hidden"}
    assert journal.run(run.id).touches("stray")
    run = journal.begin(head, (), ())
    run.finish("failed", {"stray": "it does not end"})
    assert journal.last_known(SCOPE).leftover == (hidden, stray)


def test_the_end_of_a_run_has_what_is_of_no_event(journal: Journal) -> None:
    run = journal.begin(header(), (), ())
    run.finish("partial", {"babeld": "refused"}, "owed")
    record = journal.run(run.id)
    assert (record.problems, record.extra_cmd) == ({"babeld": "refused"}, "owed")
    assert journal.last_known(SCOPE).extra_cmd_owed
    add(journal, "one")
    assert journal.last_known(SCOPE).extra_cmd_owed, "a run that did not send it changes nothing"
    journal.begin(header(), (), ()).finish("done", extra_cmd="sent")
    assert not journal.last_known(SCOPE).extra_cmd_owed
    assert journal.verify().ok


def test_runs_end_as_an_earlier_rait_wrote_it() -> None:
    """So it reads them, and an earlier one reads what this one writes."""
    assert records.encode(records.Finished("done")) == b'{"status":"done"}'
    ending = records.decode(Entry(1, 1, "run_finished", SCOPE, 0, b'{"status":"partial"}'))
    assert ending == records.Finished("partial")
    snapshot = records.decode(Entry(1, 1, "snapshot", SCOPE, 0, b'{"topology":{},"public_key":""}'))
    assert snapshot == Snapshot()


def test_what_runs_left_over_is_stored_under_the_names_that_it_always_had() -> None:
    """An earlier rait would pass over any other name, and so forget it."""
    stray = LinkAdded(link("stray"))
    head = structs.replace(header(), leftover_noticed=(1,), leftover_links=("w1",))
    stored = json.loads(records.encode(head))
    assert (stored["left"], stored["strays"]) == ([1], ["w1"])
    stored = json.loads(records.encode(Snapshot(leftover=(stray,))))
    assert [event["type"] for event in stored["undecided"]] == ["LinkAdded"]
    for payload, kind in ((head, "run_started"), (Snapshot(leftover=(stray,)), "snapshot")):
        data = records.encode(payload)
        assert records.decode(Entry(1, 1, kind, SCOPE, 0, data)) == payload


def test_what_failed_did_not_happen(journal: Journal) -> None:
    run = journal.begin(header(), (), [LinkAdded(link("a")), LinkAdded(link("b"))])
    run.record([Outcome(1), Outcome(0, "EADDRINUSE")])
    run.finish("partial")
    assert journal.last_known(SCOPE) == LastKnown(topology=journal.topology_at(SCOPE)[0])
    assert set(journal.last_known(SCOPE).topology.links) == {"b"}
    record = journal.run(run.id)
    assert record.outcomes[0].error == "EADDRINUSE"
    assert (record.done, record.failed) == (1, 1)


def test_scopes_do_not_see_each_other(journal: Journal) -> None:
    first, second = journal.begin(header("a"), (), ()), journal.begin(header("b"), (), ())
    second.finish("done")
    first.finish("done")
    add(journal, "one", scope="a")
    assert set(journal.last_known("a").topology.links) == {"one"}
    assert journal.last_known("b") == LastKnown()
    assert [run.header.scope for run in journal.runs()] == ["a", "b", "a"]


def test_a_second_outcome_of_one_event_is_refused(journal: Journal) -> None:
    run = journal.begin(header(), (), [LinkAdded(link("a"))])
    run.record([Outcome(0)])
    for wrong in ([Outcome(0)], [Outcome(1)]):
        with pytest.raises(ValueError, match="outcome"):
            run.record(wrong)


def test_a_run_that_another_overtook_may_not_go_on(journal: Journal) -> None:
    run = journal.begin(header(), (), [LinkAdded(link("a"))])
    later = add(journal, "b")
    with pytest.raises(HistoryError, match=f"run {later} began before run {run.id}"):
        run.record([Outcome(0)])
    assert set(journal.last_known(SCOPE).topology.links) == {"b"}
    assert journal.verify().ok


def test_events_that_contradict_each_other_are_named(journal: Journal) -> None:
    add(journal, "a")
    run = journal.begin(header(), [LinkRemoved(link("b"))], ())
    with pytest.raises(HistoryError, match=rf"entry {run.id + 1} of run {run.id}: LinkRemoved"):
        journal.last_known(SCOPE)


def test_memory_begins_at_the_last_snapshot(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(appender, "SNAPSHOT_EVERY", 10)
    runs = [add(journal, f"l{number}") for number in range(12)]
    kinds = [entry.kind for entry in entries_of(journal)]
    assert kinds.count("snapshot") == 3
    assert len(journal.last_known(SCOPE).topology.links) == 12
    for count, run in enumerate(runs, 1):
        assert len(journal.topology_at(SCOPE, run=run)[0].links) == count
    assert journal.verify().ok


def test_snapshots_take_no_more_than_two_thirds_of_a_journal(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(appender, "SNAPSHOT_EVERY", 10)
    many = [LinkAdded(link(f"many{number}")) for number in range(50)]
    journal.begin(header(), many, ()).finish("done")
    for number in range(60):
        add(journal, f"l{number}")
    sizes = {True: 0, False: 0}
    for entry in entries_of(journal):
        sizes[entry.kind == "snapshot"] += len(entry.payload)
    assert 0 < sizes[True] <= 2 * sizes[False]
    assert sum(entry.kind == "snapshot" for entry in entries_of(journal)) > 1
    assert len(journal.last_known(SCOPE).topology.links) == 110


def test_a_moment_in_history(journal: Journal) -> None:
    add(journal, "a")
    add(journal, "b")
    ends = [run.finished_at for run in journal.runs()]
    assert journal.topology_at(SCOPE, time=1) == (EMPTY, "")
    assert set(journal.topology_at(SCOPE, time=ends[0])[0].links) == {"a"}
    assert set(journal.topology_at(SCOPE, time=ends[1])[0].links) == {"a", "b"}
    journal.prune(ends[1])
    assert set(journal.topology_at(SCOPE, time=ends[1])[0].links) == {"a", "b"}
    with pytest.raises(HistoryError, match="pruned"):
        journal.topology_at(SCOPE, time=1)
    journal.prune(2**62)
    pruned_at = entries_of(journal)[0].at
    for each in ("", "c"):
        if each:
            add(journal, each)
        with pytest.raises(HistoryError, match="were pruned"):
            journal.topology_at(SCOPE, time=ends[1])
        assert set(journal.topology_at(SCOPE, time=pruned_at)[0].links) == {"a", "b"}


def test_a_moment_takes_runs_whole_beside_those_of_other_scopes(journal: Journal) -> None:
    run = journal.begin(header(), (), [LinkAdded(link("a"))])
    began = entries_of(journal)[0].at
    add(journal, "b", scope="/etc/rait/other.conf")
    run.record([Outcome(0)])
    run.finish("done")
    assert set(journal.topology_at(SCOPE, time=began)[0].links) == {"a"}


def test_pruning_cuts_no_run_in_two(journal: Journal) -> None:
    long = journal.begin(header("a"), (), [LinkAdded(link("x"))])
    add(journal, "y", scope="b")
    last = entries_of(journal)[-1].id
    long.record([Outcome(0)])
    long.finish("done")
    # The run of scope b is old enough, but lies within one of scope a that is not.
    times = {entry.id: entry.at for entry in entries_of(journal)}
    assert journal.prune(times[last] + 1).runs == 0
    add(journal, "z", scope="b")
    assert journal.prune(times[max(times)] + 1).runs == 2
    assert set(journal.last_known("a").topology.links) == {"x"}
    assert set(journal.last_known("b").topology.links) == {"y", "z"}
    assert len(journal.runs()) == 1
    assert journal.verify().ok


def test_a_crash_that_is_not_yet_dealt_with_is_never_pruned(journal: Journal) -> None:
    add(journal, "a")
    crashed = journal.begin(header(), (), [LinkAdded(link("b"))])
    assert journal.prune(2**62).runs == 1
    assert journal.prune(2**62).runs == 0
    assert journal.last_known(SCOPE).leftover_links == {"b": link("b")}
    add(journal, "c")
    assert journal.prune(2**62).runs == 2
    with pytest.raises(HistoryError, match=f"no run {crashed.id}: entries up to"):
        journal.run(crashed.id)
    assert set(journal.last_known(SCOPE).topology.links) == {"a", "c"}
    assert journal.verify().ok


def test_what_is_not_in_history_is_said_to_be_missing(journal: Journal) -> None:
    add(journal, "a")
    add(journal, "x", scope="other")
    for wanted in ({"run": 99}, {"event": 99}, {"event": 1}):
        with pytest.raises(HistoryError, match="there is no"):
            journal.topology_at(SCOPE, **wanted)
    for wanted in ({"run": 1}, {"event": 2}):
        with pytest.raises(HistoryError, match="another scope"):
            journal.topology_at("other", **wanted)


def test_runs_are_found_by_what_they_touched_and_when(journal: Journal) -> None:
    first = add(journal, "a")
    peer = LinkPeer("far")
    second = journal.begin(header("other"), [LinkAdded(link("b"))], [PeerAdded("b", peer)]).id
    began = [entry.at for entry in entries_of(journal) if entry.kind == "run_started"]
    found = [
        journal.runs(link="a"),
        journal.runs(peer="far"),
        journal.runs(scope="other"),
        journal.runs(since=began[1]),
        journal.runs(link="a", peer="far"),
    ]
    assert [[run.id for run in runs] for runs in found] == [
        [first], [second], [second], [second], [],
    ]  # fmt: skip


def test_a_reader_sees_the_last_state_while_a_writer_writes(journal: Journal, path: Path) -> None:
    add(journal, "a")
    with closing(sqlite3.connect(path, isolation_level=None)) as writer:
        writer.execute("BEGIN IMMEDIATE")
        writer.execute("DELETE FROM entries")
        assert set(JournalReader(path).last_known(SCOPE).topology.links) == {"a"}
        writer.execute("ROLLBACK")


def test_readers_beside_a_writer_that_comes_and_goes_see_whole_runs(path: Path) -> None:
    seen: list[int] = []
    troubles: list[str] = []
    done = threading.Event()

    def read() -> None:
        while not done.is_set() and not troubles:
            try:
                report = JournalReader(path).verify()
                links = JournalReader(path).last_known(SCOPE).topology.links
            except RaitError as error:
                troubles.append(str(error))
            else:
                troubles.extend([report.why] * (not report.ok))
                seen.append(len(links))

    reader = threading.Thread(target=read)
    reader.start()
    for number in range(40):
        with Journal.open(path) as journal:
            add(journal, f"l{number}")
    while len(seen) < 2 and not troubles:
        time.sleep(0.01)
    done.set()
    reader.join()
    assert troubles == []
    assert len(seen) > 1
    assert seen == sorted(seen)


def test_a_reader_leaves_nothing_behind(path: Path) -> None:
    assert JournalReader(path).last_known(SCOPE) == LastKnown()
    assert JournalReader(path).runs() == ()
    assert head_of(JournalReader(path)) == GENESIS.hex()
    assert JournalReader(path).verify().ok
    assert not path.parent.exists()
    with Journal.open(path) as journal:
        add(journal, "a")
    before = {file.name: file.stat() for file in path.parent.iterdir()}
    assert set(JournalReader(path).last_known(SCOPE).topology.links) == {"a"}
    assert JournalReader(path).verify().ok
    assert {file.name: file.stat().st_mtime_ns for file in path.parent.iterdir()} == {
        name: status.st_mtime_ns for name, status in before.items()
    }


def test_only_its_owner_can_read_it(path: Path) -> None:
    umask = os.umask(0)
    try:
        with Journal.open(path) as journal:
            add(journal, "a")
            modes = {file.name: file.stat().st_mode & 0o777 for file in path.parent.iterdir()}
    finally:
        os.umask(umask)
    assert modes == dict.fromkeys(("journal.db", "journal.db-wal", "journal.db-shm"), 0o600)
    assert path.parent.stat().st_mode & 0o777 == 0o700
    path.chmod(0o666)
    Journal.open(path).close()
    assert path.stat().st_mode & 0o777 == 0o600


def test_text_that_is_no_unicode_does_not_stop_a_run(journal: Journal) -> None:
    run = journal.begin(header(), (), [LinkAdded(link("a"))])
    run.record([Outcome(0, "no such file: \udcff")])
    run.finish("failed")
    assert journal.run(run.id).outcomes[0].error == "no such file: \\udcff"


def test_a_killed_run_is_whole_up_to_what_it_recorded(path: Path) -> None:
    script = f"""
import os, signal
from tests.unit.test_journal_store import *
journal = Journal.open({str(path)!r})
add(journal, "a")
run = journal.begin(header(), (), [LinkAdded(link("b")), LinkAdded(link("c"))])
run.record([Outcome(0)])
os.kill(os.getpid(), signal.SIGKILL)
"""
    process = subprocess.run([sys.executable, "-c", script], check=False)
    assert process.returncode == -signal.SIGKILL
    for reader in (JournalReader(path), Journal.open(path)):
        assert set(reader.last_known(SCOPE).topology.links) == {"a", "b"}
        assert set(reader.last_known(SCOPE).leftover_links) == {"c"}
        assert reader.verify().ok
        assert (reader.runs()[-1].status, reader.runs()[-1].unknown) == (None, 1)
    with Journal.open(path) as journal:
        journal.begin(header(), [LinkAdded(link("c"))], ()).finish("done")
        assert set(journal.last_known(SCOPE).topology.links) == {"a", "b", "c"}
        assert journal.last_known(SCOPE).leftover_links == {}


def test_an_old_journal_is_migrated(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Journal.open(path) as journal:
        add(journal, "a")
        head = head_of(journal)

    def add_note(connection: sqlite3.Connection) -> None:
        connection.execute("ALTER TABLE head ADD COLUMN note TEXT")

    now = len(journal_file.STEPS)
    monkeypatch.setattr(journal_file, "STEPS", (*journal_file.STEPS, add_note))
    before = path.read_bytes()
    assert set(JournalReader(path).last_known(SCOPE).topology.links) == {"a"}
    assert path.read_bytes() == before
    with Journal.open(path) as journal:
        assert head_of(journal) == head
        add(journal, "b")
    monkeypatch.undo()
    for use in (Journal.open, lambda where: JournalReader(where).runs()):
        with pytest.raises(HistoryError, match=rf"version {now + 1}.*upgrade rait"):
            use(path)
    report = JournalReader(path).verify()
    assert not report.ok
    assert "upgrade rait" in report.why


def test_an_entry_of_a_kind_to_come_is_refused_by_name(journal: Journal, path: Path) -> None:
    add(journal, "a")
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE entries SET kind = 'teleported' WHERE id = 2")
    with pytest.raises(HistoryError, match=r"entry 2 .*'teleported'.*upgrade rait"):
        journal.last_known(SCOPE)


def test_an_event_of_a_kind_to_come_is_refused_by_name(journal: Journal, path: Path) -> None:
    add(journal, "a")
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("UPDATE entries SET payload = ? WHERE id = 2", (b'{"type":"Moon"}',))
    with pytest.raises(HistoryError, match=r"entry 2 .*Moon"):
        journal.last_known(SCOPE)


@pytest.mark.parametrize(
    ("content", "says"),
    [(b"not a database at all" * 100, "damaged"), (b"SQLite format 3\0" + b"\xff" * 4096, "")],
)
def test_a_file_that_is_no_journal_is_an_error(path: Path, content: bytes, says: str) -> None:
    path.parent.mkdir()
    path.write_bytes(content)
    for use in (Journal.open, lambda where: JournalReader(where).last_known(SCOPE)):
        with pytest.raises(MachineError, match=rf"{path}.*{says}"):
            use(path)


def test_anothers_database_is_left_alone(path: Path) -> None:
    path.parent.mkdir()
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("CREATE TABLE theirs (value)")
    before = path.read_bytes()
    for use in (Journal.open, lambda where: JournalReader(where).last_known(SCOPE)):
        with pytest.raises(HistoryError, match="not a journal of rait"):
            use(path)
    assert path.read_bytes() == before


def test_a_place_that_cannot_be_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(MachineError, match="cannot open the journal"):
        Journal.open(tmp_path / "file" / "journal.db")
    with pytest.raises(MachineError, match="cannot open the journal"):
        Journal.open(tmp_path)


# Runs that fail alike


def fail(journal: Journal, error: str = "EBUSY", scope: str = SCOPE, **changed: object) -> int:
    """A run that cannot make two links, and has a problem of no event."""
    mine = structs.replace(header(scope), **changed)
    run = journal.begin(mine, (), [LinkAdded(link("x")), LinkAdded(link("y"))])
    run.record([Outcome(0, error)])
    run.record([Outcome(1, error)])
    run.finish("failed", {"babeld": f"refused \udc80 {error}"})
    return run.id


def test_a_run_that_fails_as_the_last_one_did_is_counted(journal: Journal, path: Path) -> None:
    add(journal, "a")
    first = fail(journal, "no \udc80")
    before, size = head_of(journal), path.stat().st_size
    for number in range(150):
        assert fail(journal, "no \udc80", started_at=number, peers_digest=f"{number}") == first
    assert head_of(journal) == before, "so what was kept of it is found"
    assert journal.verify(before).ok
    assert path.stat().st_size < size + 100_000
    record = JournalReader(path).run(first)
    assert record.repeated is not None
    assert (record.repeated.count, record.repeated.peers_digest) == (150, "149")
    assert record.repeated.until > 150
    assert [run.id for run in journal.runs(since=record.repeated.until)] == [first]
    assert journal.runs(since=record.repeated.until + 1) == ()

    add(journal, "b")
    record = JournalReader(path).run(first)
    assert record.repeated is not None
    assert record.repeated.count == 150, "the log itself has it now"
    assert next(run.id for run in journal.runs(since=record.repeated.until)) == first
    assert journal.verify(before).ok
    assert fail(journal, "no \udc80") != first, "something came in between"
    assert set(journal.last_known(SCOPE).topology.links) == {"a", "b"}


def test_a_new_revision_alone_makes_no_new_run(journal: Journal) -> None:
    first = fail(journal)
    assert fail(journal, source="etcd://h/p", revision=7) == first, "as after an upgrade"
    assert fail(journal, source="etcd://h/p", revision=9) == first
    (run,) = journal.runs()
    assert run.repeated is not None
    assert (run.repeated.count, run.repeated.source, run.repeated.revision) == (2, "etcd://h/p", 9)
    assert (run.header.source, run.header.revision) == ("", 0)


@pytest.mark.parametrize(
    "changed",
    [
        {"command": "rait down"},
        {"uid": 1},
        {"version": "2"},
        {"public_key": "o"},
        {"leftover_noticed": (1,)},
    ],
)
def test_another_run_that_fails_alike_is_another(
    journal: Journal, changed: dict[str, object]
) -> None:
    first = fail(journal)
    assert fail(journal, **changed) != first
    assert [run.repeated for run in journal.runs()] == [None, None]


def test_a_run_that_fails_alike_and_leaves_something_is_another(journal: Journal) -> None:
    events = [LinkAdded(link("x"))]
    runs = []
    for half_done in ([], [LinkAdded(link("x"))]):
        run = journal.begin(header(), (), events)
        run.record([Outcome(0, "EBUSY")])
        run.finish("failed", half_done=half_done)
        runs.append(run.id)
    assert len(set(runs)) == 2
    assert [tuple(run.half_done.values()) for run in journal.runs()] == [(), tuple(events)]
    assert not journal.run(runs[1]).may_be_repeated_by(header(), tuple(events))


@pytest.mark.parametrize(
    ("errors", "ends", "may_be"),
    [
        (("EBUSY", "EBUSY"), True, True),
        (("EBUSY", "EBUSY"), False, False),
        (("EBUSY", None), True, False),
        ((None, None), True, False),
        (("EBUSY",), True, False),
    ],
)
def test_only_a_run_that_ended_and_in_which_all_failed_may_be_repeated(
    journal: Journal, errors: tuple[str | None, ...], ends: bool, may_be: bool
) -> None:
    events = (LinkAdded(link("x")), LinkAdded(link("y")))
    run = journal.begin(header(), (), events)
    run.record(Outcome(index, error) for index, error in enumerate(errors))
    if ends:
        run.finish("failed")
    assert journal.run(run.id).may_be_repeated_by(header(started_at=2), events) is may_be


def test_a_run_that_called_a_command_or_told_babeld_is_not_repeated(journal: Journal) -> None:
    events = (LinkAdded(link("x")), LinkAdded(link("y")))
    run = journal.run(fail(journal))
    for told, may_be in (
        ({}, True),
        ({"extra_cmd": "owed"}, True),
        ({"extra_cmd": "sent"}, False),
        ({"calls": (Call("added", link("x")).result(),)}, False),
        ({"ended": ("z",)}, False),
        ({"half_done": {9: events[0]}}, False),
    ):
        again = structs.replace(run, **told)
        assert again.may_be_repeated_by(header(started_at=2), events) is may_be, told


def test_a_run_that_only_begins_like_the_last_one_is_told_whole(journal: Journal) -> None:
    events = [LinkAdded(link("x")), LinkAdded(link("y"))]
    first = fail(journal)
    fail(journal)
    run = journal.begin(header(), (), events)
    run.record([Outcome(0, "EBUSY")])
    assert run.id == first
    assert set(journal.last_known(SCOPE).leftover_links) == {"x", "y"}, (
        "what failed may be half done"
    )
    run.record([Outcome(1)])
    run.finish("partial")
    record = journal.run(run.id)
    assert run.id > first
    assert (record.outcomes[0].error, record.outcomes[1].error) == ("EBUSY", None)
    assert set(journal.last_known(SCOPE).topology.links) == {"y"}
    (one, other) = journal.runs()
    assert (one.id, one.repeated and one.repeated.count) == (first, 1)
    assert (other.id, other.repeated) == (run.id, None)
    assert journal.verify().ok


def test_another_problem_or_error_is_news(journal: Journal) -> None:
    events = [LinkAdded(link("x"))]
    for error, problems in (("A", {}), ("B", {}), ("B", {"w": "taken"}), ("B", {"w": "gone"})):
        run = journal.begin(header(), (), events)
        run.record([Outcome(0, error)])
        run.finish("failed", problems)
    assert len(journal.runs()) == 4
    run = journal.begin(header(), (), events)
    run.record([Outcome(0, "B")])
    run.finish("partial", {"w": "gone"})
    assert len(journal.runs()) == 5, "and so is another status"


def test_a_repetition_that_is_killed_is_a_run_that_never_finished(
    journal: Journal, path: Path
) -> None:
    events = [LinkAdded(link("x")), LinkAdded(link("y"))]
    first = fail(journal)
    fail(journal)
    run = journal.begin(header(started_at=77), (), events)
    run.record([Outcome(0, "EBUSY")])
    journal.close()
    with Journal.open(path) as after:
        memory = after.last_known(SCOPE)
        assert (memory.leftover, set(memory.leftover_links)) == (tuple(events), {"x", "y"})
        record = after.run(first)
        assert (record.repeated and record.repeated.count, record.retried_at) == (1, 77)
        assert after.verify().ok
        assert after.prune(2**62).runs == 0, "a crash that is not yet dealt with is never pruned"
        after.begin(header(), [events[1]], [events[0]]).finish("failed")
        (_, cut_off, _) = after.runs()
        assert (cut_off.status, cut_off.header.started_at, cut_off.intended) == (
            None, 77, tuple(events),
        )  # fmt: skip
        assert cut_off.outcomes == {}, "who was killed tells no outcome"
        assert after.run(first).retried_at is None
        assert after.verify().ok


def test_a_run_that_is_still_repeated_is_not_pruned(journal: Journal) -> None:
    add(journal, "a", scope="other")
    first = fail(journal)
    fail(journal, scope="gone")
    fail(journal, scope="gone")
    repeated = fail(journal)
    record = journal.run(first)
    assert repeated == first
    assert record.repeated is not None
    assert journal.prune(record.repeated.until).runs == 1
    assert journal.run(first).repeated == record.repeated
    assert journal.prune(2**62).runs == 2
    assert journal.runs() == ()
    assert journal.verify().ok
    assert fail(journal) > first


# Pruning by itself


def at(path: Path, when: int) -> Journal:
    return Journal.open(path, clock=lambda: when)


def test_what_is_too_old_goes_by_itself_now_and_then(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for when, name in ((1000, "a"), (1500, "b"), (1950, "c")):
        with at(path, when) as journal:
            add(journal, name)
    with monkeypatch.context() as patch:
        patch.setattr(Journal, "_prune", lambda *_, **__: pytest.fail("too early"))
        with at(path, 2100) as journal:
            assert journal.prune_old(1000).runs == 0, "a tenth longer than it must"
    with at(path, 2101) as journal:
        memory = journal.last_known(SCOPE)
        assert journal.prune_old(1000).runs == 1
        assert journal.last_known(SCOPE) == memory
        assert len(journal.runs()) == 2
        assert journal.verify().ok
        monkeypatch.setattr(appender, "droppable", lambda *_, **__: pytest.fail("again"))
        assert journal.prune_old(1000).runs == 0


def test_of_a_journal_with_a_part_of_a_run_nothing_is_pruned(path: Path) -> None:
    with at(path, 1) as journal:
        add(journal, "a")
        with journal.appending() as log:
            log.add("half_done", 99, SCOPE, LinkAdded(link("b")))
        with pytest.raises(HistoryError, match="run 99 has no beginning"):
            journal.prune(1000)
        assert len(entries_of(journal)) == 5


def test_a_crash_that_nobody_dealt_with_does_not_keep_all_that_came_later(path: Path) -> None:
    with at(path, 1) as journal:
        journal.begin(header("gone"), (), [LinkAdded(link("a"))])
    with at(path, 1000) as journal:
        add(journal, "b")
        memories = [journal.last_known(scope) for scope in ("gone", SCOPE)]
    with at(path, 1500) as journal:
        assert journal.prune(900).runs == 0, "by hand it stays"
        assert journal.prune_old(600).runs == 1
        assert [journal.last_known(scope) for scope in ("gone", SCOPE)] == memories
        assert set(journal.last_known("gone").leftover_links) == {"a"}, "it is still not forgotten"
        assert journal.verify().ok
        assert journal.prune(2**62).runs == 1
        assert [journal.last_known(scope) for scope in ("gone", SCOPE)] == memories
        journal.begin(header("gone"), [LinkAdded(link("a"))], ()).finish("done")
        assert journal.last_known("gone").leftover_links == {}


def test_what_a_run_is_unsure_of_outlasts_a_snapshot(
    journal: Journal, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(appender, "SNAPSHOT_EVERY", 1)
    run = journal.begin(header(), (), [LinkAdded(link("a"))])
    run.record([Outcome(0, "EBUSY")])
    run.finish("failed", unsure=[0])
    assert journal.last_known(SCOPE).leftover == (LinkAdded(link("a")),)
    assert journal.prune(2**62).runs == 1
    assert journal.last_known(SCOPE).leftover == (LinkAdded(link("a")),)
    add(journal, "b")
    assert journal.last_known(SCOPE).leftover == ()


# Clocks that are wrong

DAY = 86_400 * 10**9
FIRST = 1_767_225_600 * 10**9  # the first of January 2026
BOOT = 30 * 10**9  # half a minute after the first of January 1970 began
FAR = FIRST + 70 * 365 * DAY


def add_at(path: Path, when: int, name: str) -> int:
    with at(path, when) as journal:
        run = journal.begin(header(started_at=when), (), [LinkAdded(link(name))])
        run.record([Outcome(0)])
        run.finish("done")
        return run.id


@pytest.fixture
def three(path: Path, request: pytest.FixtureRequest) -> tuple[int, int, int]:
    """Runs on the first and fifth of January, and between them one with a wrong clock."""
    times = (FIRST, request.param, FIRST + 4 * DAY)
    one, two, three = (add_at(path, when, name) for when, name in zip(times, "abc", strict=True))
    return one, two, three


@pytest.mark.parametrize("three", [BOOT, FAR], indirect=True)
def test_the_journal_never_goes_back_in_time(path: Path, three: tuple[int, int, int]) -> None:
    assert len(three) == 3
    times = [entry.at for entry in entries_of(JournalReader(path))]
    assert times == sorted(times)


@pytest.mark.parametrize("three", [BOOT, FAR], indirect=True)
def test_a_run_with_a_wrong_clock_is_not_hidden(path: Path, three: tuple[int, int, int]) -> None:
    reader = JournalReader(path)
    one, two, last = three

    def since(when: int) -> list[int]:
        return [run.id for run in reader.runs(since=when)]

    assert since(FIRST) == [one, two, last]
    assert since(FIRST + DAY) == [two, last], "it may have been after that"
    assert since(FIRST + 4 * DAY) == [two, last]
    assert since(FIRST + 4 * DAY + 1) == []


@pytest.mark.parametrize("three", [BOOT, FAR], indirect=True)
def test_a_run_with_a_wrong_clock_is_not_misplaced(path: Path, three: tuple[int, int, int]) -> None:
    assert len(three) == 3

    def links_at(when: int) -> set[str]:
        return set(JournalReader(path).topology_at(SCOPE, time=when)[0].links)

    assert links_at(FIRST - 1) == set()
    assert links_at(FIRST + DAY) == {"a", "b"}
    assert links_at(FIRST + 4 * DAY) == {"a", "b", "c"}
    assert links_at(FAR + DAY) == {"a", "b", "c"}


def test_a_first_run_before_the_clock_was_set_is_not_pruned_as_if_it_were_from_1970(
    path: Path,
) -> None:
    add_at(path, BOOT, "a")
    add_at(path, FIRST, "b")
    with at(path, FIRST + DAY) as journal:
        assert journal.prune_old(365 * DAY).runs == 0
        assert journal.prune(FIRST - DAY).runs == 0
        assert journal.prune(FIRST + 1).runs == 2


def test_runs_after_a_time_in_the_future_are_pruned_in_the_end(path: Path) -> None:
    for when, name in ((FIRST, "a"), (FAR, "b"), (FIRST + DAY, "c"), (FIRST + 9 * DAY, "d")):
        add_at(path, when, name)
    with at(path, FIRST + 10 * DAY) as journal:
        assert journal.prune(FIRST + 2 * DAY).runs == 3
        assert [set(run.links) for run in [journal.last_known(SCOPE).topology]] == [set("abcd")]


def test_a_clock_that_jumps_ahead_does_not_cost_the_whole_journal(path: Path) -> None:
    keep = 365 * DAY
    for number in range(8):
        add_at(path, FIRST + number * keep // 4, f"w{number}")
    far = add_at(path, FAR, "far")
    with at(path, FAR) as journal:
        journal.prune_old(keep, far)
        left = {record.header.started_at for record in journal.runs()}
    assert {FIRST + number * keep // 4 for number in (6, 7)} <= left
    assert FIRST not in left


def test_a_clock_in_the_future_does_not_make_the_last_run_one_of_the_future(path: Path) -> None:
    assert JournalReader(path).last_begun() == LONG_AGO
    for when, expected in ((FIRST, FIRST), (FAR, FIRST), (FIRST + DAY, FIRST + DAY)):
        add_at(path, when, f"w{when}")
        assert JournalReader(path).last_begun() == expected


def commanded(name: str) -> Link:
    notes = LinkNotes(up_command=("up",), down_command=("down",))
    return structs.replace(link(name), notes=notes)


def test_a_call_is_owed_until_its_result_is_journaled(journal: Journal) -> None:
    x = commanded("x")
    run = journal.begin(header(), (), (LinkAdded(x),))
    assert journal.last_known(SCOPE).calls_owed == Owed()
    run.record([Outcome(0)])
    assert journal.last_known(SCOPE).calls_owed == Owed({"x": "added"})
    run.finish("partial")
    assert journal.prune(2**62).runs == 1
    assert journal.last_known(SCOPE).calls_owed == Owed({"x": "added"})
    later = journal.begin(header(), (), ())
    result = Call("added", x).result(3, "it ended with status 3", ("a", "\udc80"))
    later.record_call(result)
    assert journal.last_known(SCOPE).calls_owed == Owed(), "though it failed"
    later.finish("partial")
    (record,) = journal.runs(link="x")
    assert record.calls == (structs.replace(result, lines=("a", "\\udc80")),)
    assert journal.verify().ok


def test_a_run_that_calls_a_command_repeats_no_other(journal: Journal) -> None:
    first = fail(journal)
    numbers = []
    for _ in range(2):
        run = journal.begin(header(), (), (LinkAdded(link("x")), LinkAdded(link("y"))))
        run.record(Outcome(index, "EBUSY") for index in range(2))
        run.record_call(Call("removed", commanded("z")).result(0))
        run.finish("failed")
        numbers.append(run.id)
    assert len({first, *numbers}) == 3
    assert [len(run.calls) for run in journal.runs()] == [0, 1, 1]
    assert fail(journal) not in numbers
    assert journal.verify().ok

"""Laws of the journal, over random runs that succeed, fail in part, and crash."""

from __future__ import annotations

import itertools
import os
import sqlite3
import tempfile
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from msgspec import Struct

from rait.adapters.journal import appender
from rait.adapters.journal.reader import JournalReader
from rait.adapters.journal.store import Journal
from rait.domain import records
from rait.domain.backend import Outcome
from rait.domain.config.schema import Secret
from rait.domain.diff import diff
from rait.domain.endpoints import depart
from rait.domain.errors import RaitError
from rait.domain.events import (
    BabelInterfaceAdded,
    BabelInterfaceFlushed,
    DeviceUpdated,
    Event,
    LinkAdded,
    LinkRemoved,
    LinkUpdated,
    PeerAdded,
    PeerRemoved,
    PeerUpdated,
    replay,
)
from rait.domain.history import LastKnown
from rait.domain.records import Entry, RunHeader
from rait.domain.topology import (
    Device,
    Endpoint,
    Link,
    LinkPeer,
    LinkSettings,
    Origin,
    Topology,
)

# These write files: a tenth of what the pure laws get is plenty.
on_disk = settings(max_examples=max(30, settings().max_examples // 10))

# Where there is one, a file system in memory: the journal waits for the disk all the time.
MEMORY = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None  # noqa: S108

NAMES = ("rait4x50180", "rait4x50221", "rait6x50180")
SCOPES = ("/etc/rait/a.conf", "/etc/rait/b.conf")
KEYS = ("A" * 43 + "=", "B" * 43 + "=")

text = st.text(max_size=8)
keys = st.sampled_from(KEYS)
endpoints = st.builds(
    Endpoint, st.sampled_from(["192.0.2.1", "2001:db8::1"]), st.integers(0, 65535)
)
peers = st.builds(LinkPeer, keys, st.none() | endpoints, st.integers(0, 65535))
devices = st.builds(Device, keys, st.integers(0, 65535), st.integers(0, 2**32 - 1))
link_settings = st.builds(
    LinkSettings, st.integers(1280, 9000), st.integers(0, 2**32 - 1), st.none() | text,
    st.booleans(), st.none() | text,
)  # fmt: skip
origins = st.builds(Origin, st.sampled_from(["kernel", "userspace"]), text, text)


def links(name: str) -> st.SearchStrategy[Link]:
    by_key = st.lists(peers, max_size=2, unique_by=lambda peer: peer.public_key)
    in_order = by_key.map(lambda found: tuple(sorted(found, key=lambda peer: peer.public_key)))
    return st.builds(Link, st.just(name), origins, link_settings, devices, in_order)


topologies = st.builds(
    Topology,
    st.fixed_dictionaries({}, optional={name: links(name) for name in NAMES}),
    st.dictionaries(st.sampled_from(NAMES), text, max_size=2),
)
any_link = st.sampled_from(NAMES).flatmap(links)
events = st.one_of(
    st.builds(LinkAdded, any_link),
    st.builds(LinkRemoved, any_link),
    st.builds(LinkUpdated, text, link_settings, link_settings),
    st.builds(DeviceUpdated, text, devices, devices),
    st.builds(PeerAdded, text, peers),
    st.builds(PeerRemoved, text, peers),
    st.builds(PeerUpdated, text, peers, peers),
    st.builds(BabelInterfaceAdded, text, text),
    st.builds(BabelInterfaceFlushed, text, text),
)
problems = st.dictionaries(text, st.sampled_from(("refused", "port \udc80 taken")), max_size=2)


@pytest.fixture(scope="module", autouse=True)
def _many_snapshots() -> Iterator[None]:
    """Snapshots every few runs, so that the laws are also those of what starts from one."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(appender, "SNAPSHOT_EVERY", 8)
        yield


class Told(Struct):
    """A run as it was told to the journal, and what it should add up to."""

    id: int
    scope: str
    header: RunHeader
    noticed: tuple[Event, ...]
    intended: tuple[Event, ...]
    outcomes: list[Outcome]
    status: str | None
    memory: LastKnown


uids = itertools.count()


def header(scope: str, uid: int) -> RunHeader:
    """Another user each time, so that no run repeats the last one: see test_journal_repeats."""
    return RunHeader(
        scope=scope, command="up", version="1", uid=uid, started_at=1, public_key=KEYS[0]
    )


@contextmanager
def journal_path() -> Iterator[Path]:
    with tempfile.TemporaryDirectory(prefix="rait-journal-", dir=MEMORY) as directory:
        yield Path(directory) / "journal.db"


def opened(path: Path) -> Journal:
    return Journal.open(path, clock=itertools.count(1).__next__)


@st.composite
def outcomes(draw: st.DrawFn, intended: tuple[Event, ...], crash: bool) -> list[Outcome]:
    """For each name the first events succeed, and the rest fails or, in a crash, is not known.

    Links may overtake each other, but not the events of one link.
    """
    found: list[Outcome] = []
    names = sorted({event.name for event in intended})
    for name in draw(st.permutations(names)):
        mine = [index for index, event in enumerate(intended) if event.name == name]
        good = draw(st.integers(0, len(mine)))
        found += [Outcome(index) for index in mine[:good]]
        if not crash:
            found += [Outcome(index, "EADDRINUSE: port \udc80 taken") for index in mine[good:]]
    return found


def tell(draw: st.DrawFn, journal: Journal, scope: str) -> Told:
    """Let one run happen."""
    remembered = journal.last_known(scope)
    before, owed = remembered.topology, remembered.extra_cmd_owed
    seen = draw(topologies) if draw(st.booleans()) else before
    noticed, intended = diff(before, seen), diff(seen, draw(topologies))
    crash = draw(st.booleans())
    results = draw(outcomes(intended, crash))
    mine = header(scope, next(uids))
    run = journal.begin(mine, noticed, intended)
    middle = draw(st.integers(0, len(results)))
    run.record(results[:middle])
    run.record(results[middle:])
    status = None
    if not crash:
        status = "partial"
        extra_cmd = draw(st.sampled_from((None, "sent", "owed")))
        run.finish(status, draw(problems), extra_cmd)
        owed = owed if extra_cmd is None else extra_cmd == "owed"
    else:
        owed = owed or any("Babel" in type(event).__name__ for event in intended)
    topology = replay(seen, [intended[o.index] for o in results if o.error is None])
    known = {outcome.index for outcome in results}
    pending = {
        event.name: event.link
        for index, event in enumerate(intended)
        if crash and isinstance(event, LinkAdded) and index not in known
    }
    undecided = [event for index, event in enumerate(intended) if crash and index not in known]
    happened = (*noticed, *(intended[o.index] for o in results if o.error is None))
    memory = LastKnown(
        topology=topology,
        leftover_links=pending,
        leftover=tuple(undecided),
        extra_cmd_owed=owed,
        departed=depart(remembered.departed, happened),
    )
    return Told(run.id, scope, mine, noticed, intended, results, status, memory)


@given(events)
def test_every_event_survives_its_bytes(event: Event) -> None:
    data = records.encode(event)
    assert records.decode(Entry(1, 1, "intended", "", 0, data)) == event
    assert records.encode(event) == data


@given(st.binary(min_size=1, max_size=32))
def test_a_private_key_cannot_be_encoded(raw: bytes) -> None:
    with pytest.raises(TypeError):
        records.encode(LinkUpdated(raw.hex(), Secret(raw.hex()), Secret(raw.hex())))  # type: ignore[arg-type]


@on_disk
@given(st.data())
def test_the_journal_remembers_what_happened(data: st.DataObject) -> None:
    with journal_path() as path, opened(path) as journal:
        told: list[Told] = []
        for scope in data.draw(st.lists(st.sampled_from(SCOPES), max_size=6)):
            told.append(tell(data.draw, journal, scope))
            assert journal.last_known(scope) == told[-1].memory
            assert JournalReader(path).last_known(scope) == told[-1].memory
        assert journal.verify().ok
        for run, record in zip(told, journal.runs(), strict=True):
            assert (record.id, record.header, record.status) == (
                run.id, run.header, run.status,
            )  # fmt: skip
            assert (record.noticed, record.intended) == (run.noticed, run.intended)
            assert [*record.outcomes] == [outcome.index for outcome in run.outcomes]
            assert journal.topology_at(run.scope, run=run.id) == (run.memory.topology, KEYS[0])


@on_disk
@given(st.data())
def test_each_event_is_a_point_in_history(data: st.DataObject) -> None:
    with journal_path() as path, opened(path) as journal:
        tell(data.draw, journal, SCOPES[0])
        before = journal.last_known(SCOPES[0]).topology
        tell(data.draw, journal, SCOPES[0])
        record = journal.runs()[-1]
        happened: list[tuple[int, Event]] = list(record.happened())
        for last in range(record.id + 1, record.intended_id(len(record.intended))):
            expected = replay(before, [e for number, e in happened if number <= last])
            assert journal.topology_at(SCOPES[0], event=last)[0] == expected


@on_disk
@given(st.data())
def test_pruning_keeps_what_is_kept(data: st.DataObject) -> None:
    scopes = data.draw(st.lists(st.sampled_from(SCOPES), min_size=1, max_size=6))
    with journal_path() as path, opened(path) as journal:
        told = [tell(data.draw, journal, scope) for scope in scopes]
        for _ in range(data.draw(st.integers(1, 2))):
            memories = {scope: journal.last_known(scope) for scope in scopes}
            heads = [journal.verify().head]
            report = journal.prune(data.draw(st.integers(0, 8 * len(told))))
            kept = {record.id for record in journal.runs()}
            assert len(told) - len(kept) == report.runs
            assert journal.verify().ok
            if not report.entries:
                assert journal.verify(heads[0]).ok
            for scope, memory in memories.items():
                assert journal.last_known(scope) == memory
            for run in told:
                if run.id in kept:
                    found = journal.topology_at(run.scope, run=run.id)
                    assert found == (run.memory.topology, KEYS[0])
                else:
                    with pytest.raises(RaitError, match="pruned"):
                        journal.topology_at(run.scope, run=run.id)
            for run in {run.scope: run for run in told}.values():
                assert run.id in kept or run.status is not None, "a crash is not forgotten"
            told = [run for run in told if run.id in kept]
        for scope in set(scopes):
            run = tell(data.draw, journal, scope)
            assert journal.last_known(scope) == run.memory
        assert journal.verify().ok


def all_rows(connection: sqlite3.Connection) -> list[object]:
    connection.text_factory = bytes
    return [
        *connection.execute("SELECT * FROM entries NOT INDEXED ORDER BY id"),
        *connection.execute("SELECT * FROM head"),
        *connection.execute("SELECT * FROM repeats"),
    ]


@on_disk
@given(st.data())
def test_no_damage_to_the_file_passes_or_ends_in_a_traceback(data: st.DataObject) -> None:
    with journal_path() as path:
        with opened(path) as journal:
            for _ in range(2):
                tell(data.draw, journal, SCOPES[0])
            journal.prune(data.draw(st.sampled_from([0, 10**6])))
            tell(data.draw, journal, SCOPES[0])
            for _ in range(3):
                run = journal.begin(header(SCOPES[1], 0), (), [BabelInterfaceAdded("x", "y")])
                run.record([Outcome(0, "refused")])
                run.finish("failed")
        with closing(sqlite3.connect(path)) as connection:
            rows = all_rows(connection)
        content = bytearray(path.read_bytes())
        for _ in range(8):
            position = data.draw(st.integers(0, len(content) - 1))
            content[position] ^= (change := data.draw(st.integers(1, 255)))
            path.write_bytes(content)
            try:
                sound = JournalReader(path).verify().ok
            except RaitError:
                sound = False
            if sound:
                # It was in space that holds no column.
                with closing(sqlite3.connect(path)) as connection:
                    assert all_rows(connection) == rows
            content[position] ^= change

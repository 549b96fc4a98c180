"""One configuration has one scope, however its path is spelt."""

from __future__ import annotations

import json
import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from msgspec import structs

from rait.adapters.journal.reader import JournalReader, Log
from rait.adapters.journal.store import Journal
from rait.app.scopes import claimed_by_others, filed_under, is_same, normal, scope_name
from rait.cli import main
from rait.domain.backend import Outcome
from rait.domain.events import LinkAdded
from tests.unit.command_line import CONF, PEERS, PRIVATE, Rait, header, link

PUBLIC = "5q1HDxrH29mQGy/CIhHtNEOn+6LRxh9HeJzQQeFTEVc="


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("rait.conf", "etc/rait.conf"),
        ("./rait.conf", "etc/rait.conf"),
        ("../etc//./rait.conf", "etc/rait.conf"),
        ("none/../rait.conf", "etc/rait.conf"),
        ("link/rait.conf", "etc/link/rait.conf"),
        ("link/../rait.conf", "srv/rait.conf"),
        ("link/../../rait.conf", "rait.conf"),
        ("link.conf", "etc/link.conf"),
        ("link/sub/../rait.conf", "etc/link/rait.conf"),
        ("../../../../../../../../../../../../etc/rait.conf", None),
    ],
)
def test_a_path_is_spelt_in_one_way_and_names_the_same_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, path: str, expected: str | None
) -> None:
    for directory in ("etc", "srv/rait/sub"):
        (tmp_path / directory).mkdir(parents=True)
    (tmp_path / "etc" / "link").symlink_to("../srv/rait")
    (tmp_path / "etc" / "link.conf").symlink_to("rait.conf")
    for file in ("etc", "srv", "srv/rait", "."):
        (tmp_path / file / "rait.conf").write_text(file)
    monkeypatch.chdir(tmp_path / "etc")
    spelt = normal(path)
    assert spelt == (str(tmp_path / expected) if expected is not None else "/etc/rait.conf")
    assert normal(spelt) == spelt
    if Path(path).exists():
        assert Path(path).samefile(spelt)
    else:
        assert not Path(spelt).exists() or path.startswith("none/")


def test_a_path_without_a_place_to_start_from(tmp_path: Path) -> None:
    assert normal("//etc/rait.conf") == "/etc/rait.conf"
    assert normal("/..") == normal("/") == "/"
    assert is_same("/nowhere/x/../rait.conf", "/nowhere/rait.conf")
    assert not is_same("/nowhere/rait.conf", str(tmp_path))
    assert not is_same("/nowhere/\0", "/nowhere/rait.conf")


def ran(rait: Rait, scope: str | Path, name: str, spelt: str = "") -> int:
    """A run in the journal under a scope."""
    with Journal.open(rait.journal) as journal:
        mine = structs.replace(header(str(scope), "up"), spelt=spelt)
        run = journal.begin(mine, (), (LinkAdded(link(name)),))
        run.record([Outcome(0)])
        run.finish("done")
    return run.id


@pytest.fixture
def rait(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Rait:
    (tmp_path / "etc").mkdir()
    rait = Rait(tmp_path / "etc", capsys)
    rait.write(f'private_key = "{PRIVATE}"\n{CONF}', PEERS)
    return rait


def told(rait: Rait, path: str | Path, *command: str) -> list[int]:
    rait._capsys.readouterr()
    assert main(["-c", str(path), "log", "--json", *command]) == 0
    return [json.loads(line)["run"] for line in rait._capsys.readouterr().out.splitlines()]


def links(rait: Rait, path: str | Path) -> set[str]:
    rait._capsys.readouterr()
    assert main(["-c", str(path), "replay"]) == 0
    return {line.split()[0] for line in rait._capsys.readouterr().out.splitlines()[:-1]}


def test_each_spelling_finds_the_runs_of_all(rait: Rait, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also those of an earlier rait, which filed them under the path as it was spelt."""
    (rait.directory / "link.conf").symlink_to("rait.conf")
    monkeypatch.chdir(rait.directory)
    old = ran(rait, f"{rait.directory}/../etc/rait.conf", "old")
    spellings = ["rait.conf", "../etc/rait.conf", str(rait.conf), "link.conf"]
    for path in spellings:
        assert told(rait, path) == [old]
        assert links(rait, path) == {"old"}
    ran(rait, "/etc/other.conf", "other")
    new = ran(rait, rait.directory / "link.conf", "new")
    for path in spellings:
        assert told(rait, path) == [old, new]
        assert links(rait, path) == {"new"}
        with Journal.open(rait.journal) as journal:
            name = filed_under(journal, normal(path))
            assert name == str(rait.directory / "link.conf"), "it ran last"
            assert set(journal.last_known(name).topology.links) == {"new"}


def test_a_link_that_leads_elsewhere_now_is_the_same_configuration(rait: Rait) -> None:
    """As a configuration manager does at each change."""
    first, second = rait.directory / "1.conf", rait.directory / "2.conf"
    second.write_text(rait.conf.read_text())
    second.chmod(0o600)
    rait.conf.rename(first)
    rait.conf.symlink_to(first)
    run = ran(rait, rait.conf, "w1")
    assert told(rait, first) == [run]
    (rait.directory / "next").symlink_to(second)
    (rait.directory / "next").replace(rait.conf)
    assert told(rait, rait.conf) == told(rait, second) == [run]
    assert told(rait, first) == [], "which is another one now"


def test_a_link_that_ran_is_remembered_where_it_leads_elsewhere_now(rait: Rait) -> None:
    """The first run was by the file itself, the second by a link to it, which then moved on."""
    first, second = rait.directory / "1.conf", rait.directory / "2.conf"
    rait.conf.rename(first)
    second.write_text(first.read_text())
    rait.conf.symlink_to(first)
    old = ran(rait, first, "w1")
    new = ran(rait, first, "w2", spelt=str(rait.conf))
    assert told(rait, rait.conf) == [old, new]
    rait.conf.unlink()
    rait.conf.symlink_to(second)
    for _ in range(2):
        assert links(rait, rait.conf) == {"w1", "w2"}
        with Journal.open(rait.journal) as journal:
            assert filed_under(journal, str(rait.conf)) == str(first)
            assert filed_under(journal, str(second)) == str(first), "which the link leads to"
            assert journal.verify().ok
            journal.prune(2**62)
    rait.conf.unlink()
    rait.conf.write_text(second.read_text())
    with Journal.open(rait.journal) as journal:
        assert filed_under(journal, str(rait.conf)) == str(rait.conf), (
            "a file of its own is another"
        )


def test_what_is_known_best_after_pruning_is_what_ran_last(rait: Rait) -> None:
    (rait.directory / "link.conf").symlink_to("rait.conf")
    ran(rait, rait.directory / "link.conf", "old")
    with Journal.open(rait.journal, clock=lambda: 2**62) as journal:
        assert journal.prune(2**61).runs == 1
    ran(rait, rait.conf, "new")
    with Journal.open(rait.journal) as journal:
        journal.prune(2**61)
        for path in (rait.conf, rait.directory / "link.conf"):
            assert filed_under(journal, str(path)) == str(rait.conf)


def test_no_runs_says_how_many_others_have(rait: Rait) -> None:
    assert rait("log").out == "no runs\n"
    ran(rait, "/etc/rait/other.conf", "w1")
    one = "the journal has 1 run of another configuration: `rait log --all` shows it"
    assert rait("log").out == f"no runs of this configuration ({rait.conf}); {one}\n"
    ran(rait, "/etc/rait/another.conf", "w2")
    many = "the journal has 2 runs of 2 other configurations: `rait log --all` shows them"
    assert many in rait("log").out
    assert many in rait("rollback").err
    assert many in rait("replay", "--at", "1s").err
    assert rait("log", "--json").out == ""
    assert rait("log", "--all", "--link", "w9").out == "no runs\n"
    assert "/etc/rait/other.conf" in rait("rollback", "1").err
    ran(rait, rait.conf, "w3")
    assert rait("log", "--link", "w9").out == "no runs\n"


def steps(path: Path) -> int:
    """How much SQLite has to do to tell the scopes."""
    done = 0

    def step() -> int:
        nonlocal done
        done += 1
        return 0

    with closing(sqlite3.connect(path)) as connection:
        connection.set_progress_handler(step, 1)
        Log(connection).scopes()
    return done


def test_a_long_history_does_not_make_each_run_look_at_all_of_it(rait: Rait) -> None:
    with Journal.open(rait.journal) as journal:
        counts = []
        for _ in range(3):
            for number in range(60):
                mine = structs.replace(header(f"/etc/{number % 3}.conf", "up"), uid=number)
                journal.begin(mine, (), ()).finish("done")
            counts.append(steps(rait.journal))
    _, with_snapshots, longer = counts
    assert longer < with_snapshots * 1.1


def test_a_path_with_a_scheme_s_mark_inside_finds_the_runs_that_are_filed_under_its_key(
    rait: Rait,
) -> None:
    (rait.directory / "conf:").mkdir()
    path = f"{rait.directory}/conf://rait.conf"
    Path(path).write_text(rait.conf.read_text().replace("journal.db", str(rait.journal)))
    Path(path).chmod(0o600)
    run = ran(rait, scope_name("-", PUBLIC), "w1")
    assert scope_name(path, PUBLIC) == scope_name("-", PUBLIC)
    assert told(rait, path) == [run]
    assert links(rait, path) == {"w1"}


def test_a_configuration_that_cannot_be_looked_at_keeps_its_links(rait: Rait) -> None:
    """It may be in a directory, or on a file system, that is closed to us."""
    closed = "/" + "x" * 256  # to look at it is an error, even for root
    for scope in (closed, "/nowhere/rait.conf", f"{rait.conf}/rait.conf"):
        ran(rait, scope, scope[-20:])
    seen = {name[-20:]: "own" for name in (closed, "/nowhere/rait.conf", f"{rait.conf}/rait.conf")}
    claimed = claimed_by_others(str(rait.conf), JournalReader(rait.journal), str(rait.conf), seen)
    assert claimed == {"x" * 20: closed}

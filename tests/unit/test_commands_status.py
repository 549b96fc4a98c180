"""``rait status``: what people read, in a pipe and on a terminal, and what programs do."""

from __future__ import annotations

import io
import json
import re
from argparse import Namespace
from collections.abc import Callable, Iterator

import pytest
from msgspec import structs
from rich.console import Console

from rait.app.options import Options
from rait.app.status import StatusReader, status_object
from rait.app.status_words import (
    ago,
    amount,
    cost,
    fault_lines,
    handshake,
    reach,
    rtt,
    summary,
    traffic,
)
from rait.commands import status as command
from rait.commands.status import View, run, status_lines
from rait.domain.babel import BabelNeighbour
from rait.domain.errors import ConfigError, MachineError
from rait.domain.status import LastChange, LinkStatus, PeersAge, Rates, Status
from rait.domain.topology import Endpoint
from tests.unit.test_render import jsonable
from tests.unit.test_terminal import HOSTILE, NAMES

NOW = 1_800_000_000
KEY = "+Y23l1qr9oEM4WlqPvp4IG2TPXdNCa11twipDvOHT3w="
HEARD = BabelNeighbour("w1", "fe80::1", 0xFFFF, 32, 96, 128, 0.512)
LIVE = LinkStatus(
    name="w1",
    state="live",
    healthy=True,
    peer="gate",
    public_key=KEY,
    endpoint=Endpoint("192.0.2.1", 50153),
    endpoint_is="roamed",
    handshake=NOW - 75,
    age=75,
    received=1536,
    sent=5,
    babel=HEARD,
)
STALE = structs.replace(LIVE, name="w2", state="stale", healthy=False, handshake=NOW - 300, age=300)
NEVER = LinkStatus(name="w3", state="never", healthy=False, peer="far", public_key=KEY)
MISSING = LinkStatus(name="w4", state="missing", healthy=False, why="there is no such interface")
WAITING = LinkStatus(name="w5", state="never", healthy=True, endpoint_is="waiting")
CHANGE = LastChange(run=7, command="up", at=NOW - 60, age=60, outcome="done")
BY_ETCD = structs.replace(CHANGE, source="etcd://h/p", revision=7, peers_digest="d")
ALL = Status(now=NOW, links=(LIVE, STALE, NEVER, MISSING, WAITING), last_change=CHANGE, babeld=True)
HEAD = ["LINK", "PEER", "KEY", "STATE", "ENDPOINT", "HOW", "HANDSHAKE", "RECEIVED", "SENT"]


def of(*links: LinkStatus, **rest: object) -> Status:
    return Status(now=NOW, links=links, **rest)


def test_in_a_pipe_each_thing_has_its_column() -> None:
    top, head, *rows = status_lines(View(ALL))
    assert top == "5 links: 1 live, 2 never, 1 stale, 1 missing; last change 1m ago: up, done"
    assert head.split() == (
        [
            "LINK",
            "PEER",
            "KEY",
            "STATE",
            "ENDPOINT",
            "HOW",
            "HANDSHAKE",
            "RECEIVED",
            "SENT",
            "REACH",
            "COST",
            "RTT",
            "WHY",
        ]
    )
    assert [row.split()[0] for row in rows] == ["w1", "w2", "w3", "w4", "w5"]
    assert rows[0] == (
        "w1    gate  +Y23l1qr  live     192.0.2.1:50153  roamed   1m ago     1.5 KiB   5 B   "
        "ffff   128   0.5 ms  -"
    )
    assert rows[3].split(maxsplit=12)[3:] == [
        *["missing", "-", "-", "never", "-", "-", "-", "-", "-"],
        "there is no such interface",
    ]
    assert status_lines(View(of(LIVE)))[1].split() == head.split(), "whatever there is to say"


def test_the_rates_have_columns_under_watch_alone() -> None:
    _, head, first, second = status_lines(View(of(LIVE, STALE), {"w1": Rates(2048.0, 0.5)}))
    assert head.split()[9:11] == ["RX/S", "TX/S"]
    assert re.search("2.0 KiB +0 B", first)
    assert second.split()[12:14] == ["-", "-"], "nobody knows yet"


@pytest.mark.parametrize(
    ("status", "line"),
    [
        (of(), "no links; no change in the journal"),
        (of(LIVE), "1 link: 1 live; no change in the journal"),
        (of(NEVER), "1 link: 0 live, 1 never; no change in the journal"),
        (
            of(LIVE, peers=PeersAge(35), last_change=structs.replace(CHANGE, cause="link deleted")),
            "1 link: 1 live; peers list confirmed 35s ago; last change 1m ago: up (link deleted), "
            "done",
        ),
        (
            of(peers=PeersAge(None, too_old=True), last_change=structs.replace(CHANGE, repeated=4)),
            "no links; peers list of unknown age (too old); last change 1m ago: up, "
            "done, repeated 4 times",
        ),
        (
            of(last_change=structs.replace(CHANGE, repeated=1)),
            "no links; last change 1m ago: up, done, repeated once",
        ),
        (
            of(peers=PeersAge(2, revision=9), last_change=BY_ETCD),
            "no links; peers list at revision 9 confirmed 2s ago; last change 1m ago: up, done, by "
            "the peers list etcd://h/p at revision 7",
        ),
    ],
)
def test_the_line_on_top(status: Status, line: str) -> None:
    assert summary(status) == line


def test_what_is_unknown_of_a_link_is_told_as_such() -> None:
    future = structs.replace(STALE, age=None)
    assert [handshake(link) for link in (LIVE, future, NEVER)] == ["1m ago", "unknown", "never"]
    failed = structs.replace(MISSING, state="failed")
    assert [traffic(link, 5) for link in (NEVER, MISSING, failed)] == ["5 B", "-", "-"]
    costs = (128, 65534, 65535, 65536)
    babels = [None, *(structs.replace(HEARD, cost=each, rtt=None) for each in costs)]
    links = [structs.replace(LIVE, babel=babel) for babel in babels]
    assert [cost(link) for link in links] == ["-", "128", "65534", "inf", "inf"]
    assert [rtt(link) for link in (LIVE, *links[:2])] == ["0.5 ms", "-", "-"]
    assert [reach(link) for link in links[:2]] == ["-", "ffff"]


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0, "0s"), (59, "59s"), (60, "1m"), (3599, "59m"), (3600, "1h"), (86399, "23h"),
     (86400, "1d"), (200_000, "2d")],
)  # fmt: skip
def test_how_long_ago_is_told_in_the_largest_unit(seconds: int, text: str) -> None:
    assert ago(seconds) == f"{text} ago"


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (1024**2, "1.0 MiB"), (1024**3, "1.0 GiB"),
     (1024**4, "1.0 TiB"), (1.5 * 1024**5, "1536.0 TiB")],
)  # fmt: skip
def test_bytes_are_told_in_the_largest_unit(count: float, text: str) -> None:
    assert amount(count) == text


def test_a_check_names_what_is_wrong_and_nothing_else() -> None:
    future = structs.replace(STALE, name="w6", peer="", age=None)
    status = of(LIVE, STALE, NEVER, MISSING, WAITING, future, peers=PeersAge(9, too_old=True))
    assert fault_lines(structs.replace(status, problem="no permission")) == [
        "w2 (gate) is stale: its last handshake was 5m ago",
        "w3 (far) never had a handshake",
        "w4 is missing: there is no such interface",
        "w6 is stale: its last handshake was at an unknown time",
        "the peers list is older than max_peers_age in rait.conf allows",
        "which links are missing is not known: no permission",
    ]


def test_programs_get_all_of_it() -> None:
    told = jsonable(status_object(structs.replace(ALL, peers=PeersAge(9))))
    assert (told["now"], told["healthy"], told["babeld"]) == (NOW, False, True)
    assert told["counts"] == {"failed": 0, "missing": 1, "stale": 1, "never": 2, "live": 1}
    assert told["peers"] == {"age": 9, "too_old": False, "revision": 0}
    assert told["last_change"]["run"] == 7
    first = told["links"][0]
    assert (first["endpoint"], first["endpoint_is"]) == ("192.0.2.1:50153", "roamed")
    assert (first["handshake"], first["age"], first["healthy"]) == (NOW - 75, 75, True)
    assert first["babel"]["reach"] == 0xFFFF
    assert [told["links"][3][key] for key in ("endpoint", "age", "babel")] == [None] * 3


# On a terminal

COLOUR = re.compile(r"\x1b\[[0-9;]*m")


def drawn(view: View, width: int = 120) -> list[str]:
    """What a terminal of this width shows, without the colours."""
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=width, highlight=False, markup=False)
    console.print(command._drawn(view, width))
    return COLOUR.sub("", out.getvalue()).splitlines()


def test_on_a_terminal_what_needs_a_look_comes_first() -> None:
    *rows, below = drawn(View(ALL))[2:]
    assert [row.split()[0] for row in rows] == ["w4", "w2", "w3", "w5", "w1"]
    assert below == "w4 is missing: there is no such interface"


def test_on_a_terminal_no_column_is_empty() -> None:
    head = drawn(View(of(structs.replace(LIVE, babel=None))))[1]
    assert head.split() == [
        "LINK",
        "PEER",
        "KEY",
        "STATE",
        "ENDPOINT",
        "HOW",
        "HANDSHAKE",
        "RECEIVED",
        "SENT",
    ]


def test_a_narrow_terminal_shows_less_of_each_link_and_never_cuts_it_off() -> None:
    for width in range(40, 130):
        lines = drawn(View(ALL), width)
        assert all(len(line) <= width for line in lines)
        top = next(number for number, line in enumerate(lines) if line.startswith("LINK"))
        head, *rows = lines[top : top + 1 + len(ALL.links)]
        assert [row.split()[0] for row in rows] == ["w4", "w2", "w3", "w5", "w1"]
        assert {"LINK", "PEER", "STATE", "HANDSHAKE"} <= set(head.split())
        assert ("192.0.2.1:50153" in rows[1]) == ("ENDPOINT" in head)
    assert "ENDPOINT" in drawn(View(ALL), 80)[1]


def test_a_problem_is_told_above_the_links_that_were_seen_last() -> None:
    lines = drawn(View(structs.replace(ALL, problem="no permission"), {}, "no process 7"))
    assert "cannot be looked at now, so what is shown is old: no process 7" in lines[1]
    assert "missing is not known: no permission" in lines[2]
    assert len(lines) == 5 + len(ALL.links)


@pytest.mark.parametrize(
    "name", [*HOSTILE, *NAMES, "[bold red]x[/]", "[/x]", ":smile:", "x" * 9999]
)
def test_whatever_a_peer_is_called_the_terminal_shows_a_table(name: str) -> None:
    view = View(of(structs.replace(LIVE, peer=name), structs.replace(STALE, peer="gate")))
    for width in (40, 80, 200):
        lines = drawn(view, width)
        assert len(lines) < 60
        assert all(line.isprintable() for line in lines if name not in NAMES)
    if name.startswith(("[", ":")):
        assert name in "\n".join(lines)


def test_a_long_name_is_whole_in_a_pipe() -> None:
    assert "x" * 9999 in status_lines(View(of(structs.replace(LIVE, peer="x" * 9999))))[2]


# Again and again

Reads = Callable[..., None]


@pytest.fixture
def reads(monkeypatch: pytest.MonkeyPatch) -> Reads:
    """Have the machine be so, look by look, until somebody types Ctrl-C."""

    def look(*found: Status | Exception) -> None:
        sequence: Iterator[Status | BaseException] = iter([*found, KeyboardInterrupt()])

        def read(_: StatusReader) -> Status:
            each = next(sequence)
            if isinstance(each, BaseException):
                raise each
            return each

        monkeypatch.setattr(StatusReader, "read", read)
        monkeypatch.setattr("rait.commands.status._SHORTEST", 0)

    return look


def watch(every: float = 0.0, *, as_json: bool = False) -> int:
    arguments = Namespace(watch=every, check=False, json=as_json)
    return run(Options(config="rait.conf"), arguments)


def test_ctrl_c_ends_a_watch_without_a_failure(
    reads: Reads, capsys: pytest.CaptureFixture[str]
) -> None:
    more = structs.replace(LIVE, received=LIVE.received + 5000)
    reads(of(LIVE), of(more))
    assert watch() == 0
    shown = capsys.readouterr()
    assert shown.out.count("LINK") == 2
    assert re.search(r"[1-9][0-9.]* [KM]iB +0 B", shown.out)
    assert shown.err == ""


def test_a_machine_that_cannot_be_looked_at_for_a_moment_is_told(
    reads: Reads, capsys: pytest.CaptureFixture[str]
) -> None:
    reads(of(LIVE), MachineError("no process 7"), OSError(24, "Too many open files"), of(LIVE))
    assert watch(as_json=True) == 0
    shown = capsys.readouterr()
    first, second = map(json.loads, shown.out.splitlines())
    assert (first["rates"], list(second["rates"])) == ({}, ["w1"])
    assert "no process 7" in shown.err
    assert "Too many open files" in shown.err


def test_what_is_wrong_from_the_start_is_an_error(reads: Reads) -> None:
    reads(ConfigError("rait.conf:1: no"))
    with pytest.raises(ConfigError):
        watch()


@pytest.mark.parametrize("every", [0.0, -1.0, float("nan"), float("inf"), 86401.0])
def test_a_span_that_is_none(every: float) -> None:
    with pytest.raises(ConfigError, match="a number of seconds from"):
        watch(every)


@pytest.mark.parametrize(("status", "end"), [(of(LIVE, WAITING), 0), (of(LIVE, STALE), 1)])
def test_a_check_ends_as_the_links_are(
    reads: Reads, capsys: pytest.CaptureFixture[str], status: Status, end: int
) -> None:
    for as_json in (False, True):
        reads(status)
        arguments = Namespace(watch=None, check=True, json=as_json)
        assert run(Options(config="rait.conf"), arguments) == end
        assert ("w2 (gate) is stale" in capsys.readouterr().out) == (not as_json and end == 1)
    reads(status)
    assert run(Options(config="rait.conf"), Namespace(watch=None, check=False, json=False)) == 0


def test_a_change_that_waits_is_told_and_is_no_fault(
    reads: Reads, capsys: pytest.CaptureFixture[str]
) -> None:
    waits = of(LIVE, waiting=("run 5 waits until 17:05",))
    reads(waits, waits)
    assert run(Options(config="rait.conf"), Namespace(watch=None, check=False, json=False)) == 0
    assert "run 5 waits" in capsys.readouterr().err
    assert run(Options(config="rait.conf"), Namespace(watch=None, check=True, json=False)) == 0
    assert len(capsys.readouterr().out.splitlines()) == 1
    assert "run 5 waits" in drawn(View(waits))[1]

"""Whatever others wrote, a terminal shows it and obeys none of it."""

from __future__ import annotations

import ast
import json
import os
import re
import select
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import rait.__main__ as program
from rait.adapters.journal.store import Journal
from rait.app.conclude import Report
from rait.cli import main
from rait.domain.backend import Outcome
from rait.domain.change import Failure
from rait.domain.events import LinkAdded
from rait.domain.records import RunHeader
from rait.domain.topology import Device, Link, LinkSettings, Origin
from rait.terminal import clean, lose_what_nobody_reads, note, print_result, print_text, warn
from tests.unit.command_line import report

STATE = Path(__file__).parent.parent / "data" / "state.json"
FAKE = "\nrait up: nothing to do; 3 links"
HOSTILE = [
    "\x1b[2K\x1b]0;owned\x07",
    "\r",
    "\b\b\b",
    "\t",
    "\x7f",
    "\x85",
    "\x9b2J",
    "\u061c",
    "\u200b",
    "\u200e",
    *map(chr, range(0x202A, 0x202F)),
    *map(chr, range(0x2066, 0x206A)),
    "\u2028",
    "\u2029",
    "\ufeff",
    "\udcff",
    "\U000e0041",
    FAKE,
]
NAMES = ["東京", "é", "مشهد", "👩\u200d🔧", "a\u00a0b", "東京\u3000一"]
CONF = """\
private_key = "KJJXmDtAXSrMGuIJVy/2eP65gXm1PTy7vCR/4O/vEEI="
transport {
  address_family = "ip4"
  send_port = 50153
  mtu = 1420
  ifprefix = "rait4x"
}
isolation {
  target = "raitns"
}
peers = "peers.conf"
journal = "journal.db"
"""

IDS = [ascii(text) for text in HOSTILE]


def is_harmless(text: str) -> bool:
    """Lines of what a terminal prints, with nothing that it obeys, hides or turns around."""
    return all(c.isprintable() or c in "\u00a0\u3000\u200c\u200d" for c in text.replace("\n", ""))


@pytest.fixture
def conf(tmp_path: Path) -> Path:
    path = tmp_path / "rait.conf"
    path.write_text(CONF)
    path.chmod(0o600)
    (tmp_path / "peers.conf").write_text("peers = []")
    return path


@pytest.mark.parametrize("text", HOSTILE, ids=IDS)
def test_what_a_terminal_would_obey_or_hide_is_spelt_out(text: str) -> None:
    shown = clean(f"before{text}after")
    assert is_harmless(shown)
    assert "\n" not in shown
    assert json.loads(f'"{shown}"') == f"before{text}after"


@pytest.mark.parametrize("name", NAMES)
def test_names_in_any_script_stay_as_they_are(name: str) -> None:
    assert clean(name) == name


@given(st.text())
def test_any_text_is_one_harmless_line(text: str) -> None:
    assert is_harmless(clean(text))
    assert "\n" not in clean(text)


@given(st.recursive(st.text(), lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner)))
def test_json_stays_what_it_was(value: object) -> None:
    text = json.dumps(value, ensure_ascii=False, indent=2)
    shown = "\n".join(map(clean, text.split("\n")))
    assert json.loads(shown) == value


def test_lines_of_ours_stay_lines(capsys: pytest.CaptureFixture[str]) -> None:
    print_result("one", f"two{FAKE}")
    print_text("{\n}")
    assert capsys.readouterr().out == "one\ntwo\\u000arait up: nothing to do; 3 links\n{\n}\n"


@pytest.mark.parametrize("text", HOSTILE, ids=IDS)
def test_a_report_tells_what_others_named_in_its_own_lines_only(
    conf: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    text: str,
) -> None:
    name = f"w1{text}"
    told = report(
        LinkAdded(link(name)),
        status="partial",
        failures=(Failure(name, text),),
        warnings=(f"careful{text}",),
        links=1,
    )

    def up(options: object, **_: object) -> Report:
        options.debug(f"step {text}")  # type: ignore[attr-defined]
        return told

    monkeypatch.setattr("rait.app.desired.up", up)
    assert main(["-c", str(conf), "-d", "up"]) == 3
    out, err = capsys.readouterr()
    assert is_harmless(out)
    assert is_harmless(err)
    assert len(out.splitlines()) == 2
    assert [line.partition(" ")[0] for line in err.splitlines()] == ["rait:"] * 3

    assert main(["-c", str(conf), "--json", "up"]) == 3
    out = capsys.readouterr().out
    assert is_harmless(out)
    assert json.loads(out)["events"][0]["link"] == name.encode("utf-8", "backslashreplace").decode()


def link(name: str) -> Link:
    return Link(name, Origin("kernel", "raitns"), LinkSettings(1420, 54), Device("own", 50221))


STORED = [text for text in HOSTILE if text != "\udcff"]
"""What a journal or a state can hold at all: JSON in UTF-8 has no lone surrogates."""


@pytest.mark.parametrize("text", STORED, ids=map(ascii, STORED))
def test_a_copied_journal_fakes_nothing(
    conf: Path, capsys: pytest.CaptureFixture[str], text: str
) -> None:
    journal_path = conf.parent / "copied.db"
    header = RunHeader(
        scope=f"/etc{text}", command=f"up{text}", version=text, uid=0, started_at=1,
        public_key=text, config_digest=text, peers_digest=text,
    )  # fmt: skip
    with Journal.open(journal_path) as journal:
        run = journal.begin(header, (), (LinkAdded(link(f"w{text}")),))
        run.record([Outcome(0, f"EBUSY{text}")])
        run.finish("failed", {f"babeld{text}": text})
    for command, lines in ((["log"], 3), (["log", "--oneline"], 1), (["log", "show", "1"], 8)):
        assert main([*command, "--journal", str(journal_path)]) == 0
        out = capsys.readouterr().out
        assert is_harmless(out)
        assert len(out.splitlines()) == lines, out
    assert main(["log", "--json", "--journal", str(journal_path)]) == 0
    out = capsys.readouterr().out
    assert is_harmless(out)
    assert json.loads(out)["events"][0]["link"] == f"w{text}"


@pytest.mark.parametrize("text", STORED, ids=map(ascii, STORED))
def test_a_state_of_elsewhere_fakes_nothing(
    conf: Path, capsys: pytest.CaptureFixture[str], text: str
) -> None:
    state = json.loads(STATE.read_text())
    links = state["observation"]["links"]
    seen = links.pop("rait4x50221")
    seen["link"]["name"] = name = f"w{text}"
    seen["link"]["peers"][0]["public_key"] = f"KEY{text}"
    links[name] = seen
    path = conf.parent / "state.json"
    path.write_text(json.dumps(state))
    conf.write_text(CONF.partition("\n")[2])

    main(["-c", str(conf), "plan", "--against", str(path)])

    out, err = capsys.readouterr()
    assert is_harmless(out)
    assert is_harmless(err)
    assert f"- w{clean(text)} " in out
    assert not re.search(r"^rait up: nothing", out, re.MULTILINE)


@pytest.mark.parametrize("text", HOSTILE, ids=IDS)
def test_wrong_usage_is_told_in_lines_of_ours(
    conf: Path, capsys: pytest.CaptureFixture[str], text: str
) -> None:
    for arguments in ([f"dance{text}"], ["up", f"--x{text}"], ["log", "show", f"7{text}"]):
        assert main(arguments) == 2
        err = capsys.readouterr().err
        assert is_harmless(err)
        assert not re.search(r"^rait up: nothing", err, re.MULTILINE)
    assert main(["-c", f"{conf}{text}", "up"]) == 2
    err = capsys.readouterr().err
    assert is_harmless(err)
    assert len(err.splitlines()) == 1


@contextmanager
def answering(status_line: bytes) -> Iterator[str]:
    """The URL of a server that answers every request with this status line."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.wfile.write(status_line + b"\r\ncontent-length: 0\r\n\r\n")

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, daemon=True)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/rait.conf"
        finally:
            server.shutdown()
            thread.join()


def test_a_servers_reason_phrase_is_only_shown(capsys: pytest.CaptureFixture[str]) -> None:
    with answering(b"HTTP/1.1 404 \x1b[2K\x07Not\x9bFound") as url:
        assert main(["-c", url, "up"]) == 2
    err = capsys.readouterr().err
    assert "404 \\u001b[2K\\u0007Not" in err
    assert is_harmless(err)


def test_a_traceback_is_only_shown(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken() -> int:
        raise ValueError("\x1b[2K")

    monkeypatch.setattr("rait.cli.main", broken)
    monkeypatch.setattr("gc.set_threshold", lambda *_: None)
    assert program.run() == 1
    err = capsys.readouterr().err
    assert err.startswith("Traceback (most recent call last):\n")
    assert err.endswith("ValueError: \\u001b[2K\n")


def test_a_daemon_does_not_wait_for_who_reads_its_log(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rait.terminal._lost", None)
    monkeypatch.setattr("rait.terminal._ROOM_SECONDS", 0.01)
    reading, writing = os.pipe()
    with os.fdopen(reading, "rb", buffering=0) as reader, os.fdopen(writing, "w") as writer:
        monkeypatch.setattr("sys.stderr", writer)
        lose_what_nobody_reads()
        for _ in range(1000):
            warn("é" * 1000)
        while select.select([reader], [], [], 0)[0]:
            reader.read(65536)
        warn("one")
        warn("two")
        lost, one, two = reader.read(65536).decode().splitlines()[1:]
    assert lost == "rait: what was to be told here is lost, as nobody has read it"
    assert (one, two) == ("rait: one", "rait: two")


def test_text_leaves_by_no_other_door() -> None:
    package = Path(program.__file__).parent
    for path in package.rglob("*.py"):
        if path == package / "terminal.py":
            continue
        for node in ast.walk(ast.parse(path.read_text("utf-8"))):
            called = ast.unparse(node.func) if isinstance(node, ast.Call) else ""
            direct = called == "print" or re.fullmatch(r"sys\.std(out|err)\.(buffer\.)?w.*", called)
            assert not direct, f"{path}:{node.lineno}: {called}"  # type: ignore[attr-defined]


@pytest.mark.parametrize("text", HOSTILE)
def test_a_note_is_as_many_lines_as_it_is_given(text: str, capsys: pytest.CaptureFixture) -> None:
    note(f"~ rait4x1 peer name none -> {text}", "rait up (look): 1 changed; 1 link wanted")
    first, second, *others = capsys.readouterr().err.split("\n")
    assert text not in first
    assert first.startswith("~ rait4x1 peer name none -> \\u")
    assert second == "rait up (look): 1 changed; 1 link wanted"
    assert others == [""]

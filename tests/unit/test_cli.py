"""The command line without a machine behind it: help, usage, statuses, and plans made elsewhere."""

from __future__ import annotations

import errno
import json
import os
import shutil
import socket
import stat
import subprocess
import sys
from pathlib import Path
from typing import NamedTuple

import pytest

from rait import __version__
from rait.adapters.journal.store import Journal
from rait.adapters.netlink.socket import NetlinkSocket
from rait.app.report import Failure, Report, Status
from rait.app.scopes import scope_name
from rait.cli import main
from rait.domain.backend import Outcome
from rait.domain.errors import ConfigError, MachineError
from rait.domain.events import LinkAdded, LinkRemoved
from rait.domain.records import RunHeader
from rait.domain.topology import Device, Link, LinkSettings, Origin

STATE = Path(__file__).parent.parent / "data" / "state.json"
"""Exported from a node with links to the three peers below; the second has another mtu by hand."""

PRIVATE = "KJJXmDtAXSrMGuIJVy/2eP65gXm1PTy7vCR/4O/vEEI="
CONF = """\
transport {
  address_family = "ip4"
  send_port = 50153
  mtu = 1420
  ifprefix = "rait4x"
}
isolation {
  type = "netns"
  target = "raitns"
}
peers = "peers.conf"
journal = "journal.db"
"""
PEERS = {
    50221: ("+Y23l1qr9oEM4WlqPvp4IG2TPXdNCa11twipDvOHT3w=", "192.0.2.12"),
    50223: ("BwgJCgsMDQ4PEBESExQVFhcYGRobHB0eHyAhIiMkJSY=", "192.0.2.23"),
    50224: ("KCkqKywtLi8wMTIzNDU2Nzg5Ojs8PT4/QEFCQ0RFRkc=", "198.51.100.24"),
}
COMMANDS = ("up", "down", "list", "plan", "export-state", "log", "replay", "rollback", "babeld")
SUBCOMMANDS = (("log", "show"), ("log", "verify"), ("log", "prune"), ("babeld", "sync"))


class Said(NamedTuple):
    status: int
    out: str
    err: str


class Rait:
    """rait in this process, on configuration files of its own."""

    def __init__(self, directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.directory = directory
        self.conf = directory / "rait.conf"
        self.journal = directory / "journal.db"
        self._capsys = capsys
        self.write(CONF, PEERS)

    def write(self, conf: str, peers: dict[int, tuple[str, str]]) -> None:
        self.conf.write_text(conf)
        self.conf.chmod(0o600)
        entries = (
            f'[[Peers]]\nPublicKey = "{key}"\nSendPort = {port}\nEndpoint = "{address}"\n'
            'AddressFamily = "ip4"\n'
            for port, (key, address) in peers.items()
        )
        (self.directory / "peers.conf").write_text("\n".join(entries) or "peers = []")

    def __call__(self, *arguments: str) -> Said:
        self._capsys.readouterr()
        status = main(["-c", str(self.conf), *arguments])
        return Said(status, *self._capsys.readouterr())


@pytest.fixture
def rait(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> Rait:
    """rait as root would run it: what it asks of the kernel here, anybody may ask."""
    monkeypatch.setattr("rait.adapters.privilege.may_change_networks", lambda: True)
    return Rait(tmp_path, capsys)


# Help and usage


@pytest.mark.parametrize("command", [(), *((command,) for command in COMMANDS), *SUBCOMMANDS])
def test_every_command_has_help(rait: Rait, command: tuple[str, ...]) -> None:
    said = rait(*command, "--help")
    assert said.status == 0
    assert said.err == ""
    assert said.out.startswith(f"usage: {' '.join(('rait', *command))} [-h]")
    assert max(map(len, said.out.splitlines())) <= 100


def test_help_names_every_command_and_every_status(rait: Rait) -> None:
    out = rait("--help").out
    for command in COMMANDS:
        assert f"\n    {command} " in out
    for status in ("0 done", "1 failed", "2 wrong usage", "3 partly", "4 stopped"):
        assert status in out.replace("\n", " ")


def test_the_version(rait: Rait) -> None:
    assert rait("--version").out == f"rait {__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (("dance",), "invalid choice"),
        (("up", "--no-such-option"), "unrecognized arguments"),
        (("up", "--dry"), "unrecognized arguments"),
        (("log", "show"), "RUN"),
        (("log", "show", "seven"), "invalid int value"),
        (("log", "prune"), "--keep"),
        (("replay", "--diff", "--apply"), "not allowed with"),
        (("rollback", "last"), "invalid int value"),
        (("plan", "--against"), "expected one argument"),
    ],
)
def test_wrong_usage_is_status_2_with_a_word_of_why(
    rait: Rait, arguments: tuple[str, ...], word: str
) -> None:
    said = rait(*arguments)
    assert said.status == 2
    assert said.out == ""
    assert word in said.err


def test_no_command_shows_what_there_are(rait: Rait) -> None:
    said = rait()
    assert said.status == 2
    assert "rollback" in said.err


@pytest.mark.parametrize("command", [c for c in COMMANDS if c != "babeld"])
def test_a_configuration_that_is_not_there_is_status_2(rait: Rait, command: str) -> None:
    rait.conf.unlink()
    said = rait(command)
    assert said.status == 2
    assert str(rait.conf) in said.err


def test_options_count_before_and_after_the_command(rait: Rait) -> None:
    rait.write(f'private_key = "{PRIVATE}"\n{CONF}', PEERS)
    after = rait("replay", "--json")
    before = rait("--json", "replay")
    assert before == after
    assert json.loads(before.out)["at"] == "now"


# Statuses


@pytest.mark.parametrize(
    ("outcome", "status"),
    [("done", 0), ("unchanged", 0), ("failed", 1), ("partial", 3), ("stopped", 4),
     (ConfigError("no"), 2), (MachineError("no"), 1), (KeyboardInterrupt(), 1)],
)  # fmt: skip
def test_what_becomes_of_a_run_is_the_status(
    rait: Rait, monkeypatch: pytest.MonkeyPatch, outcome: Status | BaseException, status: int
) -> None:
    def up(*_: object, **__: object) -> Report:
        if isinstance(outcome, BaseException):
            raise outcome
        return Report(command="up", status=outcome)

    monkeypatch.setattr("rait.commands.up.up", up)
    said = rait("up")
    assert said.status == status
    assert bool(said.err) == isinstance(outcome, BaseException)


@pytest.mark.parametrize("failed", [False, True])
def test_a_plan_that_cannot_be_carried_out_whole_is_no_success(
    rait: Rait, monkeypatch: pytest.MonkeyPatch, failed: bool
) -> None:
    failures = (Failure("babeld", "it does not run"),) if failed else ()
    report = Report(command="plan", status="unchanged", failures=failures)
    monkeypatch.setattr("rait.app.desired.plan_up", lambda _: report)
    for command in (("plan",), ("up", "--dry-run")):
        assert rait(*command).status == (3 if failed else 0)
        assert rait(*command, "--detailed-exitcode").status == (1 if failed else 0)


def test_a_dry_run_has_the_detailed_statuses_of_a_plan(
    rait: Rait, monkeypatch: pytest.MonkeyPatch
) -> None:
    report = Report(command="plan", status="planned", events=(LinkAdded(link("w1")),))
    monkeypatch.setattr("rait.app.desired.plan_up", lambda _: report)
    for command in (("plan",), ("up", "--dry-run")):
        assert rait(*command).status == 0
        assert rait(*command, "--detailed-exitcode").status == 2
    refused = rait("up", "--detailed-exitcode")
    assert refused.status == 1
    assert "--dry-run" in refused.err


@pytest.mark.parametrize(
    "arguments",
    [
        ("--detailed-exitcode", "--against"),
        ("--no-such-option", "--detailed-exitcode"),
        ("--detailed-exitcode", "--", "extra"),
        ("--detailed-exitcode=yes",),
        ("--detailed-exitcode", "--against", "http://example.org/state.json"),
        ("--detailed-exitcode", "--against", PRIVATE),
    ],
)
def test_wrong_usage_never_has_the_status_that_means_changes(
    rait: Rait, arguments: tuple[str, ...]
) -> None:
    for command in (("plan",), ("up", "--dry-run")):
        said = rait(*command, *arguments)
        assert (said.status, said.out) == (1, "")
        assert said.err
    assert rait("--detailed-exitcode", "plan").status == 1
    assert rait("plan", "--detailed-exitcode", "--help").status == 0


# What cannot be told


def run(rait: Rait, arguments: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """The command as a shell starts it, with the shell's redirections."""
    command = f"exec {sys.executable} -m rait -c {rait.conf} {arguments}"
    return subprocess.run(
        ["sh", "-c", command],
        capture_output=True,
        text=True,
        env=os.environ | environment,
        check=False,
        timeout=300,
    )


@pytest.mark.parametrize(
    ("redirection", "why"), [(">&-", "it is closed"), (">{full}", "No space left on device")]
)
def test_a_result_that_cannot_be_written_is_a_failure_with_a_word_of_why(
    rait: Rait, full: Path, redirection: str, why: str
) -> None:
    for command in (f"plan --against {STATE}", f"--json plan --against {STATE}"):
        done = run(rait, f"{command} {redirection.format(full=full)}")
        assert done.returncode == 1
        lines = [line for line in done.stderr.splitlines() if "warning" not in line]
        assert lines == [f"rait: the result could not be written to standard output: {why}"]


@pytest.fixture
def full(tmp_path: Path) -> Path:
    """A device of its own that is always full, as /dev/full is."""
    path = tmp_path / "full"
    try:
        os.mknod(path, 0o666 | stat.S_IFCHR, os.makedev(1, 7))
        path.write_bytes(b"x")
    except OSError as error:
        if error.errno != errno.ENOSPC:
            pytest.skip("this user may not make a device")
    return path


@pytest.mark.parametrize("arguments", ["--version", "--help", "up --help", "", "dance"])
def test_help_that_cannot_be_told_is_no_traceback(rait: Rait, full: Path, arguments: str) -> None:
    status = 1 if arguments.endswith(("--version", "--help")) else 2
    for redirection in (">&-", f">{full}", ">&- 2>&-"):
        done = run(rait, f"{arguments} {redirection}")
        assert done.returncode == status
        assert "Traceback" not in done.stderr
        assert "Exception" not in done.stderr
    assert run(rait, f"{arguments} 2>&-").returncode == (0 if status == 1 else 2)


def test_complaints_never_go_to_standard_output(rait: Rait) -> None:
    rait.conf.unlink()
    done = run(rait, "up 2>&-")
    assert (done.returncode, done.stdout, done.stderr) == (2, "", "")


@pytest.mark.parametrize("outcome", ["done", "partial"])
def test_what_was_done_stays_the_status_if_it_cannot_be_told(
    rait: Rait, monkeypatch: pytest.MonkeyPatch, outcome: Status
) -> None:
    monkeypatch.setattr(
        "rait.commands.up.up", lambda *_, **__: Report(command="up", status=outcome)
    )
    monkeypatch.setattr(sys, "stdout", None)
    said = rait("up")
    assert said.status == {"done": 0, "partial": 3}[outcome]
    assert said.err == "rait: the result could not be written to standard output: it is closed\n"


def test_a_terminal_without_the_characters_of_a_name_gets_them_escaped(rait: Rait) -> None:
    rait.write(CONF.replace("rait4x", "r\N{LATIN SMALL LETTER E WITH ACUTE}"), PEERS)
    ascii_only = {"PYTHONUTF8": "0", "PYTHONIOENCODING": "ascii", "LC_ALL": "C"}
    done = run(rait, f"plan --against {STATE}", **ascii_only)
    assert done.returncode == 0, done
    assert "+ r\\u00e950221 port 50221" in done.stdout
    told = json.loads(run(rait, f"--json plan --against {STATE}", **ascii_only).stdout)
    assert "r\N{LATIN SMALL LETTER E WITH ACUTE}50221" in {e["link"] for e in told["events"]}


def test_an_interrupt_while_the_command_is_being_read_is_no_traceback(
    rait: Rait, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Interrupted:
        def __getattr__(self, name: str) -> object:
            raise KeyboardInterrupt

    monkeypatch.setitem(sys.modules, "rait.commands.up", Interrupted())
    said = rait("up")
    assert said.status == 1
    assert "interrupted" in said.err


# Words


def test_an_empty_name_of_a_configuration(rait: Rait, monkeypatch: pytest.MonkeyPatch) -> None:
    said = rait("-c", "", "up")
    assert said.status == 2
    assert "argument -c/--config: is empty: name a file" in said.err
    monkeypatch.setenv("RAIT_CONFIG", "")
    main(["--help"])
    monkeypatch.setattr("rait.commands.up.up", lambda options, **_: pytest.fail(options.config))
    with pytest.raises(pytest.fail.Exception, match=r"^/etc/rait/rait\.conf$"):
        main(["up"])


def test_a_word_too_many_shows_the_usage_of_its_command(rait: Rait) -> None:
    for command in (("up",), ("log", "verify")):
        said = rait(*command, "extra")
        assert said.err.startswith(f"usage: rait {' '.join(command)} ")
        assert said.err.endswith("error: unrecognized arguments: extra\n")


@pytest.mark.parametrize(
    "arguments", [("-c", PRIVATE, "up"), (PRIVATE,), ("up", PRIVATE), ("log", "show", PRIVATE)]
)
def test_a_private_key_in_a_wrong_place_is_not_shown(
    rait: Rait, arguments: tuple[str, ...]
) -> None:
    said = rait(*arguments)
    assert said.status == 2
    assert PRIVATE not in said.err + said.out
    assert "(left out" in said.err


@pytest.mark.parametrize(
    "arguments",
    [
        ("log", "--journal", PRIVATE),
        ("log", "verify", "--journal", PRIVATE),
        ("log", "--journal", PRIVATE, "show", "1"),
        ("log", "prune", "--keep", "1d", "--journal", PRIVATE + "\n"),
        ("plan", "--against", PRIVATE),
        ("log", "--since", PRIVATE),
        ("log", "prune", "--keep", PRIVATE),
        ("log", "verify", "--expect-head", PRIVATE),
        ("replay", "--at", PRIVATE),
    ],
)
def test_a_private_key_in_the_place_of_a_value_is_refused_and_not_shown(
    journaled: Rait, arguments: tuple[str, ...]
) -> None:
    said = journaled(*arguments)
    assert (said.status, said.out) == (2, "")
    assert said.err.startswith("rait: ")
    assert PRIVATE not in said.err
    assert not Path(PRIVATE.partition("/")[0]).exists(), "nor made into a file"


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


# Plans made elsewhere


def test_a_plan_against_a_state_touches_no_machine(
    rait: Rait, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a netlink socket was opened")

    monkeypatch.setattr(NetlinkSocket, "__init__", refuse)
    said = rait("plan", "--against", str(STATE), "--json")
    assert said.status == 0
    (mtu,) = json.loads(said.out)["events"]
    assert (mtu["link"], mtu["before"]["mtu"], mtu["after"]["mtu"]) == ("rait4x50223", 1280, 1420)
    assert not rait.journal.exists()


@pytest.mark.parametrize("kind", ["hcl", "toml"])
def test_a_plan_writes_nothing_not_even_a_cache(rait: Rait, kind: str) -> None:
    """In processes of their own, in which nothing was read before."""
    cache = rait.directory / "home" / "cache"
    cache.parent.mkdir(mode=0o700)
    hcl = (
        "peers {\n"
        f'  public_key = "{PEERS[50221][0]}"\n'
        '  endpoint {\n    address_family = "ip4"\n    send_port = 50221\n  }\n}\n'
    )
    if kind == "hcl":
        (rait.directory / "peers.conf").write_text(hcl)
    prologue = (
        "import sys\nfrom rait.adapters.config import cache_file\nassert cache_file._ROOT_CACHE\n"
        f"cache_file._ROOT_CACHE = {str(cache / 'rait')!r}\n"
    )
    planning = f"{prologue}from rait.cli import main\nsys.exit(main(sys.argv[1:]))\n"
    keeping = (
        f"{prologue}from rait.app.load import load_config, load_peers\n"
        "load_peers(load_config(sys.argv[2], key_required=False), keep=True)\n"
    )

    def run_in(script: str) -> None:
        done = subprocess.run(
            [sys.executable, "-c", script, "-c", str(rait.conf), "plan", "--against", str(STATE)],
            capture_output=True, text=True, check=False, timeout=300,
            env={**os.environ, "HOME": str(cache.parent), "XDG_CACHE_HOME": str(cache)},
        )  # fmt: skip
        assert done.returncode == 0, done

    before = everything(rait.directory)
    run_in(planning)
    assert everything(rait.directory) == before
    run_in(keeping)
    kept = everything(rait.directory)
    assert kept != before, "one that may write would have put something there"
    for file in cache.rglob("*.*"):
        file.unlink()
    before = everything(rait.directory)
    run_in(planning)
    assert everything(rait.directory) == before


def everything(directory: Path) -> dict[str, int]:
    return {str(path): path.lstat().st_mtime_ns for path in directory.rglob("*")}


def test_a_plan_against_a_state_shows_what_a_change_of_the_registry_does(rait: Rait) -> None:
    changed = PEERS | {50225: ("RkVEQ0JBQD8+PTw7Ojk4NzY1NDMyMTAvLi0sKyopKCc=", "192.0.2.25")}
    del changed[50224]
    changed[50221] = (PEERS[50221][0], "192.0.2.99")
    rait.write(CONF, changed)
    said = rait("plan", "--against", str(STATE))
    assert said.status == 0
    assert said.out.splitlines() == [
        "! ~ rait4x50223 mtu 1420 -> 1280 (since the last run, not by a run of this configuration)",
        f"- rait4x50224 peer {PEERS[50224][0]}",
        f"+ rait4x50225 port 50225 peer {changed[50225][0]} endpoint 192.0.2.25:50153",
        "~ rait4x50223 mtu 1280 -> 1420",
        f"~ rait4x50221 peer {PEERS[50221][0]} endpoint 192.0.2.12:50153 -> 192.0.2.99:50153",
        "rait plan: 1 to be added, 1 to be removed, 2 to be changed; 3 links wanted",
    ]


def test_detailed_statuses_tell_changes_from_none_and_from_errors(rait: Rait) -> None:
    def status(*arguments: str) -> int:
        return rait("plan", "--detailed-exitcode", *arguments).status

    assert status("--against", str(STATE)) == 2
    mended = json.loads(STATE.read_text())
    mended["observation"]["links"]["rait4x50223"]["link"]["settings"]["mtu"] = 1420
    state = rait.directory / "mended.json"
    state.write_text(json.dumps(mended))
    assert status("--against", str(state)) == 0
    assert status("--against", str(rait.directory / "nowhere.json")) == 1
    rait.conf.write_text("transport = 5")
    assert status("--against", str(state)) == 1


def test_a_plan_tells_that_up_would_stop(rait: Rait) -> None:
    rait.write(f"max_removals = 0\n{CONF}", {50221: PEERS[50221]})
    said = rait("plan", "--against", str(STATE))
    assert said.status == 0
    assert "`rait up` will stop" in said.err
    assert "rait4x50223, rait4x50224" in said.err


def test_a_plan_counts_what_a_run_that_was_cut_off_had_removed(rait: Rait) -> None:
    """As `up` does: that run never said what became of a link, and it is gone."""
    state = json.loads(STATE.read_text())
    link = state["memory"]["topology"]["links"]["rait4x50223"]
    state["memory"]["undecided"] = [{"type": "LinkRemoved", "link": link}]
    del state["observation"]["links"]["rait4x50223"]
    cut_off = rait.directory / "cut-off.json"
    cut_off.write_text(json.dumps(state))
    rait.write(f"max_removals = 1\n{CONF}", {50221: PEERS[50221]})
    said = rait("plan", "--against", str(cut_off))
    assert said.status == 0
    assert "`rait up` will stop" in said.err


@pytest.mark.parametrize("told", [0, 1])
def test_a_newcomer_does_not_take_a_link_that_a_run_made_which_was_cut_off(
    rait: Rait, told: int
) -> None:
    """Though the journal does not know whether the link, or its peer, came to be."""
    state = json.loads(STATE.read_text())
    links = state["memory"]["topology"]["links"]
    link = links.pop("rait4x50224")
    bare = link | {"peers": []}
    made = {"type": "LinkAdded", "link": bare}
    (peer,) = link["peers"]
    state["memory"]["undecided"] = [
        made,
        {"type": "PeerAdded", "name": "rait4x50224", "peer": peer},
    ][told:]
    (links if told else state["memory"].setdefault("pending", {}))["rait4x50224"] = bare
    cut_off = rait.directory / "cut-off.json"
    cut_off.write_text(json.dumps(state))
    newcomer = entry(50224, PublicKey='"RkVEQ0JBQD8+PTw7Ojk4NzY1NDMyMTAvLi0sKyopKCc="')
    entries(rait, newcomer, *(entry(port) for port in (50221, 50223, 50224)))
    said = rait("plan", "--against", str(cut_off))
    assert "which has the link; skipped" in said.err
    changed = [line for line in said.out.splitlines() if not line.startswith("!")]
    assert not any("50224" in line for line in changed)


def test_a_name_that_does_not_resolve_is_told_with_its_line(
    rait: Rait, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_such_name(*_: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", no_such_name)
    rait.write(
        CONF, PEERS | {50225: ("RkVEQ0JBQD8+PTw7Ojk4NzY1NDMyMTAvLi0sKyopKCc=", "no.example")}
    )
    said = rait("plan", "--against", str(STATE))
    assert said.status == 0
    why = 'Peers[3]: "no.example" has no ip4 address: Name or service not known'
    assert said.err == f"rait: warning: {rait.directory}/peers.conf:19: {why}\n"


def entries(rait: Rait, *texts: str) -> None:
    (rait.directory / "peers.conf").write_text("\n".join(texts))


def entry(port: int, **changes: str) -> str:
    """The entry of one of PEERS as it is, but for what changes."""
    key, address = PEERS[port]
    fields = {
        "PublicKey": f'"{key}"',
        "SendPort": str(port),
        "Endpoint": f'"{address}"',
        "AddressFamily": '"ip4"',
    } | changes
    return "[[Peers]]\n" + "".join(f"{name} = {value}\n" for name, value in fields.items())


@pytest.mark.parametrize(
    "wrong",
    [
        {"SendPort": "0"},
        {"SendPort": "502240"},
        {"AddressFamily": '"inet"'},
        {"Endpoint": '"a..b"'},
        {"PublicKey": '"KCkqKywtLi8wMTIzNDU2Nzg5Ojs8PT4_QEFCQ0RFRkc="'},
        {"PublicKey": "7"},
    ],
)
def test_an_entry_that_cannot_be_read_leaves_its_link_and_shows_in_the_status(
    rait: Rait, wrong: dict[str, str]
) -> None:
    entries(rait, entry(50221), entry(50223), entry(50224, **wrong))
    said = rait("plan", "--against", str(STATE))
    assert said.status == 3
    assert "rait4x50224: left as it is" in said.err
    assert f"{rait.directory}/peers.conf:1" in said.err
    assert "- rait4x50224" not in said.out
    assert "1 to be left as it is; 3 links wanted" in said.out


@pytest.mark.parametrize("junk", ["[[Peers]]\nkey = 1\n", "[[Peers]]\n"])
def test_a_link_that_goes_with_an_entry_that_may_be_its_own_shows_in_the_status(
    rait: Rait, junk: str
) -> None:
    entries(rait, entry(50221), entry(50223), junk)
    said = rait("plan", "--against", str(STATE))
    assert said.status == 3
    assert "- rait4x50224" in said.out
    assert "link rait4x50224 loses its peer, and an entry that cannot be read" in said.err
    assert "peers.conf:13: Peers[2]: public_key is missing" in said.err
    entries(rait, entry(50221), entry(50223), entry(50224), junk)
    assert rait("plan", "--against", str(STATE)).status == 0


def test_a_link_that_a_limit_of_ours_costs_shows_in_the_status(rait: Rait) -> None:
    rait.write(f'port_range = "50000-50223"\n{CONF}', PEERS)
    said = rait("plan", "--against", str(STATE), "--json")
    assert said.status == 3
    result = json.loads(said.out)
    assert [e["link"] for e in result["events"] if e["type"] == "LinkRemoved"] == ["rait4x50224"]
    (loss,) = result["losses"]
    assert "rait4x50224" in loss
    assert "outside of port_range" in loss


@pytest.mark.parametrize("text", ["[[Peers]]\n", entry(50221, SendPort="0")])
def test_a_list_of_wrong_entries_alone_changes_nothing(rait: Rait, text: str) -> None:
    """There are but three links here, so the guard against removals is silent."""
    entries(rait, text)
    said = rait("plan", "--against", str(STATE))
    assert (said.status, said.out) == (1, "")
    assert "nothing is done" in said.err
    entries(rait, "peers = []")
    assert "3 to be removed" in rait("plan", "--against", str(STATE)).out


def test_more_links_than_max_links_change_nothing(rait: Rait) -> None:
    rait.write(f"max_links = 2\n{CONF}", PEERS)
    said = rait("plan", "--against", str(STATE))
    assert (said.status, said.out) == (1, "")
    assert "asks for 3 links" in said.err
    # Those that are left as they are count too, where new ones would come.
    more = entry(50221, SendPort="50229", PublicKey=f'"{PEERS[50221][0][::-1][1:]}="')
    rait.write(f"max_links = 3\n{CONF}", PEERS)
    entries(rait, entry(50221), entry(50223), entry(50224, SendPort="0"), more)
    said = rait("plan", "--against", str(STATE))
    assert (said.status, said.out) == (1, "")
    assert "there would be 4 links" in said.err


def test_our_private_key_in_the_list_is_not_shown(rait: Rait) -> None:
    for conf in (CONF, f'private_key = "{PRIVATE}"\n{CONF}'):
        rait.write(conf, PEERS | {50229: (PRIVATE, "192.0.2.9")})
        said = rait("plan", "--against", str(STATE))
        assert (said.status, said.out) == (1, "")
        assert PRIVATE not in said.err
        assert "peers.conf:" in said.err
        assert "own private key" in said.err


def test_a_target_that_changes_remakes_the_links(rait: Rait) -> None:
    rait.write(CONF.replace("raitns", "elsewhere"), PEERS)
    said = rait("plan", "--against", str(STATE), "--json")
    assert said.status == 0
    added = [e for e in json.loads(said.out)["events"] if e["type"] == "LinkAdded"]
    assert {e["state"]["origin"]["netns"] for e in added} == {"elsewhere"}
    assert len(added) == 3


@pytest.mark.parametrize(
    ("text", "word"),
    [("", "not a state"), ("{}", "not a state"), ("[1]", "not a state"), ("\udcff", "not a state"),
     ("[" * 100_000, "not a state"), ('{"a":' * 100_000, "nested too deep"),
     ('{"format": "\\ud800"}', "not a state"),
     (STATE.read_text().replace("rait-state-1", "rait-state-9"), "rait-state-9")],
)  # fmt: skip
def test_what_is_no_state_is_refused_with_a_reason(rait: Rait, text: str, word: str) -> None:
    state = rait.directory / "state.json"
    state.write_text(text, errors="surrogateescape")
    said = rait("plan", "--against", str(state))
    assert said.status == 1
    assert str(state) in said.err
    assert word in said.err


def test_a_state_of_another_node_is_refused(rait: Rait) -> None:
    other = "6Hdk7WVaFdCjzGFMkpnp+1GhXG5Q4H07wNm29rSZ2Eg="
    rait.write(f'private_key = "{other}"\n{CONF}', PEERS)
    said = rait("plan", "--against", str(STATE))
    assert said.status == 2
    assert "5q1HDxrH29mQGy/CIhHtNEOn+6LRxh9HeJzQQeFTEVc=" in said.err
    assert other not in said.err
    rait.write(f'private_key = "{PRIVATE}"\n{CONF}', PEERS)
    assert rait("plan", "--against", str(STATE)).status == 0


def unprivileged(rait: Rait, *arguments: str) -> subprocess.CompletedProcess[str]:
    """The command without capabilities: without them, root is a user like any other."""
    command = [sys.executable, "-m", "rait", "-c", str(rait.conf), *arguments]
    if os.geteuid() == 0:
        if shutil.which("setpriv") is None:
            pytest.skip("setpriv (util-linux) is not there to drop capabilities with")
        command = ["setpriv", "--bounding-set=-all", "--inh-caps=-all", *command]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)


def test_a_plan_elsewhere_needs_no_privilege(rait: Rait) -> None:
    for arguments in (["plan", "--against", str(STATE)], ["log"], ["log", "verify"], ["replay"]):
        if arguments[0] != "plan":
            rait.write(f'private_key = "{PRIVATE}"\n{CONF}', PEERS)
        done = unprivileged(rait, *arguments)
        assert done.returncode == 0, done
        assert done.stderr == ""


@pytest.mark.parametrize("command", ["up", "down", "rollback"])
def test_who_may_change_no_network_is_told_so_before_all_else(rait: Rait, command: str) -> None:
    rait.write(f'private_key = "{PRIVATE}"\n{CONF}', PEERS)
    done = unprivileged(rait, command)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        f"rait: rait {command} must run as root, or with CAP_NET_ADMIN and CAP_SYS_ADMIN; "
        "nothing was touched\n"
    )
    assert not rait.journal.exists()
    assert not list(rait.directory.glob("*.lock"))


# The journal, read without a configuration's machine


def link(name: str) -> Link:
    return Link(name, Origin("kernel", "raitns"), LinkSettings(1420, 54), Device("own", 50221))


def header(scope: str, command: str) -> RunHeader:
    return RunHeader(
        scope=scope, command=command, version="1", uid=0, started_at=1, public_key="own"
    )


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


def test_replay_counts_what_is_known_to_have_happened(journaled: Rait) -> None:
    said = journaled("replay")
    assert said.status == 0
    assert said.out.splitlines() == ["w1 port 50221", "rait replay: 1 link as of now"]
    assert journaled("replay", "--at", "soon").status == 2
    assert "a run's number, event:NUMBER or a time" in journaled("replay", "--at", "run:x").err
    assert journaled("replay", "--at", "4711").status == 1
    other = journaled("replay", "--at", "5")
    assert other.status == 1
    assert "/etc/rait/other.conf" in other.err


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


def test_what_was_pruned_is_not_said_never_to_have_been(rait: Rait) -> None:
    rait.write(f'private_key = "{PRIVATE}"\n{CONF}', PEERS)
    assert rait("rollback").err == "rait: no run of this configuration changed anything\n"
    with Journal.open(rait.journal) as journal:
        run = journal.begin(header(str(rait.conf), "up"), (), (LinkAdded(link("w1")),))
        run.record([Outcome(0)])
        run.finish("done")
        journal.prune(2**62)
    assert rait("rollback").err.endswith("changed anything: entries up to 4 were pruned\n")


@pytest.mark.parametrize(
    ("command", "example"),
    [
        (("log", "verify"), "rait log verify --expect-head "),
        (("log", "prune"), "rait log prune --keep 90d"),
        (("replay",), "rait replay --at event:11 --diff"),
        (("replay",), 'rait replay --at "2026-01-31 17:05" --apply'),
    ],
)
def test_help_shows_how_what_is_not_obvious_is_written(
    rait: Rait, command: tuple[str, ...], example: str
) -> None:
    assert example in rait(*command, "--help").out


@pytest.mark.parametrize("command", [("show", "1"), ("verify",), ("prune", "--keep", "1d")])
def test_an_option_is_there_only_where_it_does_something(
    journaled: Rait, command: tuple[str, ...]
) -> None:
    assert journaled("log", *command, "--all").status == 2
    assert journaled("log", *command).status == 0


HUGE = "99999999999999999999999"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("log", "show", HUGE), f"there is no run {HUGE}"),
        (("log", "show", f"-{HUGE}"), f"there is no run -{HUGE}"),
        (("log", "--run", HUGE), f"there is no run {HUGE}"),
        (("rollback", HUGE), f"there is no run {HUGE}"),
        (("replay", "--at", HUGE), f"there is no run {HUGE}"),
        (("replay", "--at", f"event:{HUGE}"), f"there is no event {HUGE}"),
        (("replay", "--at", HUGE, "--diff"), f"there is no run {HUGE}"),
    ],
)
def test_a_number_beyond_all_runs_is_of_none(
    journaled: Rait, arguments: tuple[str, ...], says: str
) -> None:
    said = journaled(*arguments)
    assert (said.status, said.out) == (1, "")
    assert said.err.endswith(f"{says}\n")
    assert journaled("replay", "--at", "9" * 5000).status == 2


def test_a_time_beyond_all_entries_is_before_or_after_them(journaled: Rait) -> None:
    assert journaled("log", "--since", "9999-12-31").out == "no runs\n"
    assert journaled("log", "--since", "999999999w").out == journaled("log").out
    assert "1 link as of" in journaled("replay", "--at", "9999-12-31").out
    assert "0 links as of" in journaled("replay", "--at", "999999999w").out


# Paths that are no text


def test_a_path_that_is_not_unicode_is_one_like_any_other(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    directory = tmp_path / os.fsdecode(b"bad\377dir")
    directory.mkdir()
    rait = Rait(directory, capsys)
    planned = rait("plan", "--against", str(STATE), "--json")
    assert planned.status == 0
    rait.write(f'private_key = "{PRIVATE}"\n{CONF}', PEERS)
    rait.conf.chmod(0o644)
    command = [sys.executable, "-m", "rait", "-c", str(rait.conf), "plan", "--json", "--against"]
    done = subprocess.run([*command, str(STATE)], capture_output=True, check=True, timeout=300)
    (warning,) = json.loads(done.stdout)["warnings"]
    assert "bad\\udcffdir/rait.conf: others on this machine can read" in warning
    scope = f"{tmp_path}/bad\\udcffdir/rait.conf"
    assert scope_name(str(rait.conf), "") == scope
    with Journal.open(rait.journal) as journal:
        run = journal.begin(header(scope, "up"), (), (LinkAdded(link("w1")),))
        run.record([Outcome(0)])
        run.finish("done")
    for command in (("log",), ("replay",), ("log", "--journal", str(rait.journal))):
        assert "w1 port 50221" in rait(*command).out
    assert f"configuration {scope}\n" in rait("log", "show", "1").out
    assert rait("log", "verify").status == 0
    assert rait("log", "prune", "--keep", "1s").status == 0

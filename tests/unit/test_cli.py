"""The command line without a machine behind it: help, usage, statuses, and how results are told."""

from __future__ import annotations

import errno
import json
import os
import shutil
import stat
import subprocess
import sys
from argparse import Namespace
from pathlib import Path

import pytest

from rait import __version__
from rait.adapters.journal.store import Journal
from rait.app.conclude import Report, Status
from rait.app.options import options_of
from rait.app.scopes import scope_name
from rait.cli import _imported, _parser, main
from rait.domain.backend import Outcome
from rait.domain.errors import ConfigError, MachineError
from rait.domain.events import LinkAdded
from tests.unit.command_line import CONF, PEERS, PRIVATE, STATE, Rait, header, link, report

COMMANDS = ("up", "down", "list", "plan", "export-state", "log", "replay", "rollback", "babeld")
REGISTRY = ("check", "port", "pub", "remarks", "genkey", "pubkey")
SUBCOMMANDS = (("log", "show"), ("log", "verify"), ("log", "prune"), ("babeld", "sync"))


# Help and usage


@pytest.mark.parametrize(
    "command", [(), *((command,) for command in (*COMMANDS, *REGISTRY)), *SUBCOMMANDS]
)
def test_every_command_has_help(rait: Rait, command: tuple[str, ...]) -> None:
    said = rait(*command, "--help")
    assert said.status == 0
    assert said.err == ""
    assert said.out.startswith(f"usage: {' '.join(('rait', *command))} [-h]")
    assert max(map(len, said.out.splitlines())) <= 100
    assert "None" not in said.out.split()


@pytest.mark.parametrize(
    "words",
    ["up", "down", "list", "plan", "export-state", "log", "log show 1", "log verify",
     "log prune --keep 1d", "replay", "rollback", "babeld list", "babeld sync", "check x",
     "port x", "pub", "remarks x", "genkey", "pubkey"],
)  # fmt: skip
def test_every_command_names_what_runs_it(words: str) -> None:
    run = _parser().parse_args(words.split()).run
    assert callable(_imported(run)), run


def test_help_names_every_command_and_every_status(rait: Rait) -> None:
    out = rait("--help").out
    for command in (*COMMANDS, *REGISTRY):
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
        (("log", "show", "seven"), "RUN: 'seven' is not a whole number"),
        (("log", "prune"), "--keep"),
        (("replay", "--diff", "--apply"), "not allowed with"),
        (("rollback", "last"), "RUN: 'last' is not a whole number"),
        (("status", "--watch", "x"), "--watch: 'x' is not a number"),
        (("log", "7"), "argument [show|verify|prune]: invalid choice: '7'"),
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
        return report(status=outcome)

    monkeypatch.setattr("rait.app.desired.up", up)
    said = rait("up")
    assert said.status == status
    assert bool(said.err) == isinstance(outcome, BaseException)


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
    monkeypatch.setattr("rait.app.desired.up", lambda *_, **__: report(status=outcome))
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
    monkeypatch.setattr("rait.app.desired.up", lambda options, **_: pytest.fail(options.config))
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


@pytest.mark.parametrize(("command", "most"), [("up", 8), ("watch", 8), ("watch", 12)])
def test_too_few_open_files_are_an_error_that_says_what_to_do(
    rait: Rait, command: str, most: int
) -> None:
    rait.write(f'private_key = "{PRIVATE}"\n{CONF}', PEERS)
    code = f"""
import resource, rait.adapters.privilege as privilege
privilege.may_change_networks = lambda: True
resource.setrlimit(resource.RLIMIT_NOFILE, ({most}, {most}))
from rait.__main__ import main
main()
"""
    words = [sys.executable, "-c", code, "-c", str(rait.conf), command]
    done = subprocess.run(words, capture_output=True, text=True, timeout=300)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == (
        f"rait: rait {command} may open too few files: only {most}; raise the limit to 1024 "
        "(`ulimit -n`, or LimitNOFILE= of a systemd service); nothing was touched\n"
    )
    assert not rait.journal.exists()


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


def test_nobody_accepts_a_loss_or_an_older_list_without_saying_so() -> None:
    options = options_of(Namespace(config="rait.conf", debug=False))
    assert (options.assume_gone, options.accept_older) == (False, False)

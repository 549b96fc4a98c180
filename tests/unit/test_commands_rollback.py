"""``rait rollback``: what it refuses, in words."""

from __future__ import annotations

from rait.adapters.journal.store import Journal
from rait.commands.rollback import CLASHES_SHOWN, _clash_lines
from rait.domain.backend import Outcome
from rait.domain.events import LinkAdded
from rait.domain.records import RunRecord
from rait.domain.rollback import Conflict
from tests.unit.command_line import CONF, PEERS, PRIVATE, Rait, header, link
from tests.unit.played import ALL, Played
from tests.unit.played import CONF as PLAYED


def clashes(number: int) -> list[str]:
    found = [Conflict(f"w{n}", 9, "up", noticed=n % 2 == 1) for n in range(number)]
    return _clash_lines(
        RunRecord(id=7, last_id=8, header=header("/etc/rait/rait.conf", "up")), found
    )


def test_a_rollback_that_is_refused_names_some_of_what_changed_since() -> None:
    head, only, end = clashes(1)
    assert head == "run 7 cannot be taken back alone, as the same links changed later:"
    assert only == "  w0: run 9 (up) changed it"
    assert end == ("nothing was touched; --force makes all links of run 7 what they were before it")
    assert len(clashes(CLASHES_SHOWN)) == CLASHES_SHOWN + 2
    head, *_, last, more, end = clashes(CLASHES_SHOWN + 3)
    assert head.endswith("as the same links changed later:")
    assert last.startswith(f"  w{CLASHES_SHOWN - 1}: run 9 (up) noticed that it had changed")
    assert more == "  and 3 more"


def test_what_was_pruned_is_not_said_never_to_have_been(rait: Rait) -> None:
    rait.write(f'private_key = "{PRIVATE}"\n{CONF}', PEERS)
    assert rait("rollback").err == "rait: no run of this configuration changed anything\n"
    with Journal.open(rait.journal) as journal:
        run = journal.begin(header(str(rait.conf), "up"), (), (LinkAdded(link("w1")),))
        run.record([Outcome(0)])
        run.finish("done")
        journal.prune(2**62)
    assert rait("rollback").err.endswith("changed anything: entries up to 4 were pruned\n")


def test_a_rollback_takes_back_the_last_run_also_if_that_was_one(
    rait: Rait, kernel: Played
) -> None:
    rait("up")
    rait("down")
    assert rait("rollback", "--dry-run").out.endswith("3 to be added; 3 links wanted\n")
    assert kernel.names == []
    for names in (ALL, [], ALL):
        assert rait("rollback").status == 0
        assert kernel.names == names


def test_a_run_is_taken_back_only_by_its_own_configuration(rait: Rait, kernel: Played) -> None:
    rait("up")
    other = rait.directory / "other.conf"
    other.write_text(rait.conf.read_text())
    other.chmod(0o600)
    said = rait("-c", str(other), "rollback", "1")
    assert (said.status, kernel.names) == (2, ALL)
    assert f"run 1 is of another configuration, {rait.conf}, and not of {other}" in said.err


def test_what_changed_since_is_not_lost_unless_somebody_insists(rait: Rait, kernel: Played) -> None:
    rait("up")
    rait.write(PLAYED.replace("1420", "1400"), PEERS)
    rait("up")
    said = rait("rollback", "1")
    assert (said.status, kernel.names) == (1, ALL)
    assert "run 1 cannot be taken back alone, as the same links changed later:" in said.err
    assert rait("rollback", "1", "--force").status == 0
    assert kernel.names == []

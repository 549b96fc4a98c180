"""``rait rollback``: what it refuses, in words."""

from __future__ import annotations

from rait.adapters.journal.store import Journal
from rait.commands.rollback import CLASHES_SHOWN, _clash_lines
from rait.domain.backend import Outcome
from rait.domain.events import LinkAdded
from rait.domain.records import RunRecord
from rait.domain.rollback import Conflict
from tests.unit.command_line import CONF, PEERS, PRIVATE, Rait, header, link


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

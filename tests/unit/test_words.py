"""Messages that speak of one thing, of several, and of very many."""

from __future__ import annotations

from base64 import b64encode

import pytest

from rait.app.render import removal_text
from rait.app.report import Report
from rait.commands.rollback import CLASHES_SHOWN, _clash_lines, _links_with
from rait.domain.config.keytext import canonical_key
from rait.domain.guard import Removal
from rait.domain.history import Conflict
from rait.domain.records import RunRecord
from rait.domain.words import counted, few
from tests.unit.test_journal import header


def test_one_is_not_many() -> None:
    assert [counted(n, "link") for n in (0, 1, 2)] == ["0 links", "1 link", "2 links"]
    assert counted(2, "entry", "entries") == "2 entries"
    assert _links_with("w1", 1) == "the link w1"
    assert _links_with("w1", 3) == "3 links, w1 among them,"
    with pytest.raises(ValueError, match=r": 1 byte instead of 32$"):
        canonical_key(b64encode(b"x").decode())


def test_a_long_list_ends_in_how_many_more() -> None:
    assert few(["a", "b"]) == "a, b"
    assert few([str(n) for n in range(7)]) == "0, 1, 2, 3, 4 and 2 more"


def clashes(number: int) -> list[str]:
    found = [Conflict(f"w{n}", 9, "up", noticed=n % 2 == 1) for n in range(number)]
    return _clash_lines(RunRecord(id=7, last_id=8, header=header()), found)


def test_a_rollback_that_is_refused_names_some_of_what_changed_since() -> None:
    head, only, end = clashes(1)
    assert head == "run 7 cannot be taken back alone, as its link changed since:"
    assert only == "  w0: run 9 (up) changed it"
    assert end == ("nothing was touched; --force makes all links of run 7 what they were before it")
    assert len(clashes(CLASHES_SHOWN)) == CLASHES_SHOWN + 2
    head, *_, last, more, end = clashes(CLASHES_SHOWN + 3)
    assert "its links changed since" in head
    assert last.startswith(f"  w{CLASHES_SHOWN - 1}: run 9 (up) noticed that it had changed")
    assert more == "  and 3 more"


def test_a_run_that_is_stopped_names_some_of_what_it_would_remove() -> None:
    stopped = Report(command="up", status="stopped")
    one = removal_text(stopped, Removal(("w0",), 1, 0))
    assert "it would remove 1 of 1 link (w0); at most 0 may go in 24 hours unless" in one
    many = removal_text(stopped, Removal(tuple(f"w{n}" for n in range(900)), 1000, 500))
    assert "it would remove 900 of 1000 links" in many
    assert "w19 and 880 more); " in many

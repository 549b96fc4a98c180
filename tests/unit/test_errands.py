"""When what is fetched again and again is due."""

from __future__ import annotations

from itertools import pairwise
from math import inf

import pytest

from rait.domain.errands import Errand, grown

DONE = Errand(ended=1000.0)


@pytest.mark.parametrize(
    ("failures", "due"), [(0, 1060), (1, 1005), (2, 1010), (3, 1020), (7, 1300), (99, 1300)]
)
def test_after_a_failure_it_is_due_soon_and_then_later_and_later(failures: int, due: int) -> None:
    errand = Errand(ended=1000.0, failures=failures, chance=1.0)
    assert errand.due(60.0) == pytest.approx(due + (0.5 if failures else 6))
    assert errand.due(None) == inf
    assert errand.begun().due(60.0) == inf
    assert Errand(ended=1000.0, failures=1).due(2.0) == 1002


def test_nodes_that_failed_together_do_not_come_together() -> None:
    dues = [Errand(ended=1000.0, failures=7, chance=n / 100).due(60.0) for n in range(101)]
    assert (min(dues), max(dues)) == (1004.5, 1300.5)
    assert all(later - earlier >= 2.9 for earlier, later in pairwise(dues))


@pytest.mark.parametrize(
    ("chance", "due"), [(-1, 1090), (0, 1090), (0.5, 1100), (1, 1110), (9, 1110)]
)
def test_nodes_do_not_all_come_at_once(chance: float, due: float) -> None:
    assert DONE.over(1000.0, chance, failed=False).due(100.0) == pytest.approx(due)


def test_it_may_be_asked_for_before_its_time() -> None:
    assert DONE.asked(1000.5).due(60.0) == 1001
    assert DONE.asked(1030.0).due(60.0) == 1030
    assert DONE.asked(1100.0).due(60.0) == 1060, "it is due already"
    assert DONE.asked(1030.0).asked(1020.0).due(60.0) == 1020
    assert DONE.asked(1020.0).asked(1030.0).due(60.0) == 1020
    assert DONE.asked(1000.0, gap=7.0).due(60.0) == 1007
    assert DONE.asked(1030.0).begun().asked_for is None


def test_what_is_asked_for_meanwhile_begins_a_second_after_the_end() -> None:
    asked = DONE.begun().asked(1002.0)
    assert asked.due(60.0) == inf
    assert asked.over(1005.0, 0.5, failed=False).due(60.0) == 1006
    assert DONE.begun().over(1005.0, 0.5, failed=False).due(60.0) == 1065
    failed = asked.over(1005.0, 0.5, failed=True).over(1010.0, 0.5, failed=True)
    assert (failed.failures, failed.over(1015.0, 0.5, failed=False).failures) == (2, 0)


def test_what_grows_doubles_and_stays_a_number() -> None:
    assert [grown(3.0, count) for count in (1, 2, 3)] == [3, 6, 12]
    assert grown(1.0, 10**6) == grown(1.0, 33) == 2.0**32


def test_what_does_well_after_failures_is_looked_at_soon_and_counts_from_there() -> None:
    errand = Errand(ended=1000.0, failures=6).begun().over(1010.0, 0.5, failed=None)
    assert errand.due(60.0) == 1015
    assert errand.begun().over(1015.0, 0.5, failed=False).due(60.0) == 1075
    assert errand.over(1012.0, 0.5, failed=True).failures == 7
    assert DONE.begun().over(1010.0, 0.5, failed=None).due(60.0) == 1070, "nothing had failed"


def test_what_was_asked_for_stays_so_when_it_ends_unasked() -> None:
    errand = DONE.asked(1030.0).over(1020.0, 0.5, failed=True)
    assert errand.is_asked_for
    assert errand.due(3600.0) == 1025
    assert DONE.asked(1021.0).over(1020.0, 0.5, failed=True).due(3600.0) == 1021

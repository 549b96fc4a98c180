"""Runs are found at their time, whatever the clock said."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rait.domain.history import EVER, Span, Start, spans

DAY = 86_400 * 10**9
BEGAN = 1_767_225_600 * 10**9
"""The first of January 2026."""
NOW = BEGAN + 100 * DAY
BOOT = 30 * 10**9
"""Half a minute after midnight of the first of January 1970."""
FAR = BEGAN + 70 * 365 * DAY


def day(number: int) -> int:
    return BEGAN + number * DAY


def told(*clocks: int) -> list[Start]:
    """Runs as they are written down: not before the last one."""
    return [Start(max(clocks[: n + 1]), clock) for n, clock in enumerate(clocks)]


def told_long_ago(*clocks: int) -> list[Start]:
    """Runs as rait 0.1.0 wrote them down: at whatever the clock said."""
    return [Start(clock, clock) for clock in clocks]


def sure(*days: int) -> list[Span]:
    return [Span(day(number), day(number)) for number in days]


@pytest.mark.parametrize("written", [told, told_long_ago])
def test_a_clock_that_is_not_set_at_boot_misplaces_no_run(written) -> None:
    one, boot, two = spans(written(day(1), BOOT, day(5)), NOW)
    assert [one, two] == sure(1, 5)
    assert boot == Span(day(1), day(5))


@pytest.mark.parametrize("written", [told, told_long_ago])
def test_many_boots_without_a_clock_do_not_outvote_the_others(written) -> None:
    runs = spans(written(BOOT, BOOT + 1, day(1), BOOT, BOOT + 2, BOOT + 1, day(5), BOOT), NOW)
    assert [runs[2], runs[6]] == sure(1, 5)
    assert runs[0].latest == runs[1].latest == day(1)
    assert runs[3:6] == (Span(day(1), day(5)),) * 3
    assert runs[7] == Span(day(5), EVER)


@pytest.mark.parametrize("written", [told, told_long_ago])
def test_a_clock_in_the_far_future_moves_no_later_run_there(written) -> None:
    one, far, two, three = spans(written(day(1), FAR, day(5), day(6)), NOW)
    assert [one, two, three] == sure(1, 5, 6)
    assert far == Span(day(1), day(5))


def test_a_run_that_was_written_down_late_began_when_it_says() -> None:
    (one, late, two) = spans([*told(day(1)), Start(day(5), day(2)), Start(day(5), day(5))], NOW)
    assert [one, late, two] == sure(1, 2, 5)


def test_where_most_runs_are_later_than_now_it_is_now_that_is_wrong() -> None:
    assert list(spans(told(day(1), day(2), day(3)), BOOT)) == sure(1, 2, 3)


clocks = st.lists(st.sampled_from((0, BOOT, FAR)) | st.integers(BEGAN, NOW + 10 * DAY), max_size=12)


@given(clocks, st.sampled_from((BOOT, NOW, FAR)), st.booleans())
def test_the_order_of_runs_is_the_order_of_their_times(
    found: Sequence[int], now: int, long_ago: bool
) -> None:
    runs = spans(told_long_ago(*found) if long_ago else told(*found), now)
    assert len(runs) == len(found)
    assert all(span.earliest <= span.latest for span in runs)
    for before, after in pairwise(runs):
        assert before.earliest <= after.earliest
        assert before.latest <= after.latest


@given(st.lists(st.integers(BEGAN, NOW), max_size=12))
def test_a_clock_that_never_went_back_is_believed(found: list[int]) -> None:
    assert [span.earliest for span in spans(told(*sorted(found)), NOW)] == sorted(found)
    assert all(span.is_certain for span in spans(told(*sorted(found)), NOW))

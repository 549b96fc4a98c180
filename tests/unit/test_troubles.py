"""What is wrong is told when it comes, at growing intervals while it lasts, and once when over."""

from __future__ import annotations

from itertools import pairwise

import pytest

from rait.domain.troubles import MOST_REMEMBERED, Lines, Troubles, hear

MINUTE, DAY = 60.0, 86400.0
OVER = ("all is well",)


def told(*heard: tuple[float, Lines], **how: bool) -> list[Lines]:
    """What is told after each look at a subject, at a time and with all that is wrong then."""
    troubles: Troubles = {}
    found = []
    for now, lines in heard:
        troubles, tell = hear(troubles, "links", lines, now, over=OVER, **how)
        found.append(tell)
    return found


A, B, NONE = ("a is broken",), ("b is broken",), ()


@pytest.mark.parametrize(
    ("heard", "tells"),
    [
        ([(0, NONE), (1, NONE)], [NONE, NONE]),
        ([(0, A), (59, A), (60, A), (179, A), (180, A), (419, A), (420, A)],
         [A, NONE, A, NONE, A, NONE, A]),
        ([(0, A), (1, A + B), (2, B)], [A, B, NONE]),
        ([(0, A), (1, NONE), (2, NONE)], [A, OVER, NONE]),
        ([(0, A), (1, NONE), (2, A), (3, NONE)], [A, OVER, NONE, NONE]),
        ([(0, A + B), (1, B), (2, A + B), (3, NONE)], [A + B, NONE, NONE, OVER]),
        # One that comes again goes on growing, unless it was away for as long as its interval.
        ([(0, A), (1, NONE), (60, A), (61, NONE), (179, A), (180, A)],
         [A, OVER, A, OVER, NONE, A]),
        ([(0, A), (1, NONE), (119, NONE), (120, A), (121, A), (180, A)],
         [A, OVER, NONE, A, NONE, NONE]),
        ([(0, A), (1, NONE), (119, NONE), (120, NONE), (121, A), (181, A)],
         [A, OVER, NONE, NONE, A, A]),
    ],
)  # fmt: skip
def test_what_is_told_when(heard: list[tuple[float, Lines]], tells: list[Lines]) -> None:
    assert told(*heard) == tells


def test_one_that_comes_back_is_told_at_once_where_somebody_has_just_changed_something() -> None:
    assert told((0, A), (1, A), (2, NONE), (3, A), (4, A), (5, NONE), at_once=True) == [
        A, NONE, OVER, A, NONE, OVER,
    ]  # fmt: skip


def test_lines_that_differ_each_time_may_be_one_trouble() -> None:
    assert told((0, A), (1, B), (60, B), (61, NONE), as_one=True) == [A, NONE, B, OVER]


def test_the_intervals_grow_to_a_day() -> None:
    times = [minute * MINUTE for minute in range(6 * 24 * 60)]
    heard = told(*((now, A) for now in times))
    at = [now for now, tell in zip(times, heard, strict=True) if tell]
    assert [after - before for before, after in pairwise(at)][-3:] == [DAY] * 3


def test_no_subject_has_more_than_a_thousand_troubles_that_are_away() -> None:
    assert MOST_REMEMBERED == 1000
    for count, remembered in ((1000, True), (1001, False)):
        many = tuple(map(str, range(count)))
        assert told((0, many), (1, NONE), (2, A), (3, many))[3] == (() if remembered else many)

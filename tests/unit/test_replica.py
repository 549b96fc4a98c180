"""What a registry of many keys holds, from one read and the changes since."""

from __future__ import annotations

import msgspec
import pytest

from rait.domain.replica import Change, Replica, key_at

A, B = "A" * 43 + "=", "B" * 43 + "="
START = Replica(7, 10, {A: '{"public_key":"' + A + '"}'}, {A: 4})
LAST = Change(A, START.lines[A], 4)


def test_a_change_is_applied_once() -> None:
    once = START.told((Change(B, "b", 11),), 11)
    assert once.lines == {**START.lines, B: "b"}
    assert once.revision == 11
    assert once.told((Change(B, "older", 11), Change(A, None, 9)), 11) == once


def test_what_is_deleted_is_gone() -> None:
    assert START.told((Change(A, None, 11),), 11).lines == {}
    assert START.told((Change(B, None, 11),), 11).lines == START.lines


def test_the_revision_is_that_of_the_last_change_told() -> None:
    """A response may say a newer revision than that of the changes in it; the rest is to come."""
    assert START.told((Change(B, "b", 12),), 20).revision == 12
    assert START.told((), 20).revision == 20
    assert START.told((), 3).revision == 10


def test_the_text_has_a_line_for_each_key_in_their_order() -> None:
    b = '{"public_key":"' + B + '"}'
    text = START.told((Change(B, b, 11),), 11).text
    assert text == '{"peers": [\n' + START.lines[A] + ",\n" + b + "\n]}\n"
    assert msgspec.json.decode(text) == {"peers": [{"public_key": A}, {"public_key": B}]}


@pytest.mark.parametrize(("line", "key"), [(0, ""), (1, ""), (2, A), (3, ""), (4, ""), (9, "")])
def test_a_line_tells_its_key(line: int, key: str) -> None:
    assert key_at(START.text.split("\n"), line) == key


def test_a_text_of_another_kind_has_no_keys_in_its_lines() -> None:
    text = '{"peers": [\n\n{"public_key": "' + A + '"}\n]}'
    assert key_at(text.split("\n"), 3) == ""


def test_it_is_the_past_of_a_registry_that_had_as_many_keys_and_the_same_newest_one() -> None:
    assert START.is_past_of(7, 1, LAST)
    assert Replica(7, 10, {}).is_past_of(7, 0, None)


@pytest.mark.parametrize(
    ("cluster", "count", "newest"),
    [
        (8, 1, LAST),
        (7, 2, LAST),
        (7, 0, None),
        (7, 1, None),
        (7, 1, Change(A, LAST.line, 3)),
        (7, 1, Change(A, LAST.line, 5)),
        (7, 1, Change(A, "another", 4)),
        (7, 1, Change(B, LAST.line, 4)),
    ],
)
def test_it_is_not_the_past_of_another(cluster: int, count: int, newest: Change | None) -> None:
    assert not START.is_past_of(cluster, count, newest)


def test_an_older_key_is_not_the_newest_one() -> None:
    both = START.told((Change(B, "b", 11),))
    assert both.is_past_of(7, 2, Change(B, "b", 11))
    assert not both.is_past_of(7, 2, LAST)
    assert both.told((Change(B, None, 12),)).is_past_of(7, 1, LAST)

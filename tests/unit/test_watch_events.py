"""Why `rait watch` syncs, in words."""

from __future__ import annotations

from rait.domain.watch_events import LOOK, MOST_CAUSES, SOURCE, main_kind, merged, told, touched


def test_a_cause_of_which_there_are_too_many_does_not_crowd_out_another() -> None:
    many = [touched(f"w{number}", deleted=False) for number in range(MOST_CAUSES + 5)]
    kept = merged((), [SOURCE, *many, LOOK])
    assert kept == (SOURCE, *many[:MOST_CAUSES], LOOK)


def test_each_cause_is_kept_once() -> None:
    link = touched("w1", deleted=True)
    assert merged((link,), [link, SOURCE, SOURCE]) == (link, SOURCE)


def test_a_look_is_told_only_if_there_is_no_other_cause() -> None:
    assert told([LOOK]) == LOOK.text
    assert told([LOOK, SOURCE]) == SOURCE.text
    assert (main_kind([LOOK]), main_kind([LOOK, SOURCE])) == ("look", "source")


def test_a_link_that_goes_down_as_it_is_deleted_is_only_deleted() -> None:
    down, gone = (touched("w1", deleted=deleted) for deleted in (False, True))
    assert told([down, gone]) == "link deleted: w1"
    assert told([down, gone, touched("w2", deleted=False)]) == "link changed: w2; link deleted: w1"

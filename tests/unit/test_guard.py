"""Which removals go unasked, and which do not."""

from __future__ import annotations

import pytest
from msgspec import structs

from rait.domain.guard import Removal, excessive_removal
from rait.domain.topology import EMPTY, Device, Link, LinkSettings, Origin, Topology


def topology(*numbers: int, transit: str = "") -> Topology:
    return Topology(
        {
            f"w{n}": Link(
                f"w{n}", Origin("kernel", "", transit), LinkSettings(1420, 54), Device("")
            )
            for n in numbers
        }
    )


FOUR = topology(1, 2, 3, 4)


def test_more_than_half_of_four_links_must_be_asked_for() -> None:
    assert excessive_removal(FOUR, topology(1)) == Removal(("w2", "w3", "w4"), 4, 2)
    assert excessive_removal(FOUR, EMPTY) == Removal(("w1", "w2", "w3", "w4"), 4, 2)


def test_half_of_them_may_go() -> None:
    assert excessive_removal(FOUR, topology(1, 2)) is None


def test_of_an_odd_number_less_than_half_may_go() -> None:
    five = topology(1, 2, 3, 4, 5)
    assert excessive_removal(five, topology(1, 2, 3)) is None
    removal = excessive_removal(five, topology(1, 2))
    assert removal is not None
    assert (removal.of, removal.limit) == (5, 2)


@pytest.mark.parametrize("before", [EMPTY, topology(1), topology(1, 2, 3)])
def test_fewer_than_four_links_may_all_go(before: Topology) -> None:
    assert excessive_removal(before, EMPTY) is None


def test_a_link_that_is_remade_or_changed_is_not_removed() -> None:
    assert excessive_removal(FOUR, topology(1, 2, 3, 4, transit="another")) is None
    changed = {
        name: structs.replace(link, settings=LinkSettings(1300, 54))
        for name, link in FOUR.links.items()
    }
    assert excessive_removal(FOUR, Topology(changed)) is None


def test_other_links_that_come_do_not_make_up_for_those_that_go() -> None:
    assert excessive_removal(FOUR, topology(5, 6, 7, 8)) is not None


@pytest.mark.parametrize(
    ("max_removals", "left", "stops"),
    [(0, (1, 2, 3), True), (0, (1, 2, 3, 4), False), (1, (1, 2, 3), False), (4, (), False)],
)
def test_max_removals_takes_the_place_of_half(
    max_removals: int, left: tuple[int, ...], stops: bool
) -> None:
    assert (excessive_removal(FOUR, topology(*left), max_removals) is not None) == stops


def test_max_removals_counts_for_few_links_as_well() -> None:
    assert excessive_removal(topology(1), EMPTY, 0) == Removal(("w1",), 1, 0)

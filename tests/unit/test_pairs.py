"""Whether the two ends of a tunnel reach each other."""

from __future__ import annotations

import pytest
from msgspec import structs

from rait.domain.pairs import End, grade
from rait.domain.topology import Endpoint

A = End("ip4", "a", "b", 50002, Endpoint("192.0.2.2", 50001), frozenset({"192.0.2.1"}))
B = End("ip4", "b", "a", 50001, Endpoint("192.0.2.1", 50002), frozenset({"192.0.2.2"}))
RENUMBERED = structs.replace(A, sends_to=Endpoint("192.0.2.2", 50009))
PASSIVE = structs.replace(B, sends_to=None)


def test_two_ends_that_agree_carry_traffic_at_once() -> None:
    assert grade(A, B) == grade(B, A) == "at once"


@pytest.mark.parametrize(
    "change",
    [
        {"peer": "c"},
        {"key": "c"},
        {"listens": 50009},
        {"listens": 0},
        {"addresses": frozenset[str]()},
        {"family": "ip6"},
    ],
)
def test_an_end_that_is_not_as_the_other_knows_it_is_not_reached(
    change: dict[str, object],
) -> None:
    assert not B.reaches(structs.replace(A, **change))


def test_one_end_that_reaches_the_other_is_enough() -> None:
    """As measured: A renumbers and syncs, B does not. B to A works, and brings A back."""
    assert not RENUMBERED.reaches(B)
    assert B.wakes(RENUMBERED)
    assert grade(RENUMBERED, B) == "once one end sends"


def test_a_node_without_an_address_only_begins() -> None:
    nowhere = structs.replace(B, addresses=frozenset[str]())
    assert grade(A, nowhere) == "once one end sends"
    assert grade(A, structs.replace(PASSIVE, addresses=frozenset[str]())) == "never"
    assert grade(None, B) == grade(A, None) == "never"


def test_a_session_that_the_other_end_has_lost_has_to_die_first() -> None:
    fresh = structs.replace(RENUMBERED, fresh=True)
    assert not B.wakes(fresh)
    assert grade(fresh, B) == "after WireGuard's timers"
    assert grade(fresh, structs.replace(B, fresh=True)) == "once one end sends"
    assert grade(structs.replace(A, fresh=True), B) == "once one end sends", "A sends, not B"

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


def renumbering(*, at_once: bool, has_address: bool) -> dict[str, tuple[str, str]]:
    """A gets another send_port: the grades after the first and after the second end has synced.

    Either A's sync writes the new endpoint of B at once, or it is left alone while the session
    lives. The links of B are named after A's port, so B makes its link anew.
    """
    a_is_at = frozenset({"192.0.2.1"}) if has_address else frozenset[str]()
    to_a = Endpoint("192.0.2.1", 50002) if has_address else None
    a_old = structs.replace(A, addresses=a_is_at)
    b_old = structs.replace(B, sends_to=to_a)
    a_new = structs.replace(a_old, sends_to=Endpoint("192.0.2.2", 50009)) if at_once else a_old
    b_new = structs.replace(b_old, listens=50009, fresh=True)
    return {
        "A first": (grade(a_new, b_old), grade(a_new, b_new)),
        "B first": (grade(a_old, b_new), grade(a_new, b_new)),
    }


def test_to_write_a_new_endpoint_at_once_ends_with_a_tunnel_in_either_order() -> None:
    """The choice that `rait up` makes: docs/fleet.md has what was measured of it."""
    assert renumbering(at_once=True, has_address=True) == {
        "A first": ("once one end sends", "once one end sends"),
        "B first": ("once one end sends", "once one end sends"),
    }
    assert renumbering(at_once=True, has_address=False) == {
        "A first": ("never", "after WireGuard's timers"),
        "B first": ("never", "after WireGuard's timers"),
    }


def test_to_leave_an_endpoint_alone_would_end_without_one_where_only_one_end_can_begin() -> None:
    """It costs nothing while B is behind, and then rait would have to run once more."""
    assert renumbering(at_once=False, has_address=True) == {
        "A first": ("at once", "once one end sends"),
        "B first": ("once one end sends", "once one end sends"),
    }
    left_alone = renumbering(at_once=False, has_address=False)
    assert left_alone["A first"][1] == left_alone["B first"][1] == "never"

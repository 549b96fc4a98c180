"""Which of a registry's remarks rait reads, and which it leaves out."""

from __future__ import annotations

import datetime
from typing import Any

import pytest

from rait.domain.config.decode_peers import decode_peers
from rait.domain.config.remarks import remarks_of

KEY = "+Y23l1qr9oEM4WlqPvp4IG2TPXdNCa11twipDvOHT3w="


def test_scalars_are_text_in_the_order_of_their_keys() -> None:
    block = {"place": "ams1", "asn": 64512, "dn42": True, "cost": 1.5, "a b": "ü"}
    assert remarks_of(block) == (
        ("a b", "ü"),
        ("asn", "64512"),
        ("cost", "1.5"),
        ("dn42", "true"),
        ("place", "ams1"),
    )


@pytest.mark.parametrize(
    "value",
    [
        None,
        [],
        ["a"],
        {"a": "b"},
        datetime.date(2026, 1, 1),
        2**64,
        10**1000,
        "x" * 256,
        "a\nb",
        "a\x1b[31m",
        "\ud800",
        f"psk {KEY}",
    ],
)
def test_what_is_no_short_line_is_left_out(value: Any) -> None:
    assert remarks_of({"good": "1", "bad": value}) == (("good", "1"),)


@pytest.mark.parametrize(("key", "value"), [("x" * 64, "1"), ("a", "x" * 255), ("a", 2**64 - 1)])
def test_what_is_just_short_enough_is_not(key: str, value: Any) -> None:
    assert remarks_of({key: value}) == ((key, str(value)),)


def test_keys_and_their_number_are_bounded() -> None:
    assert remarks_of({"x" * 65: "1", "a\n": "1", KEY: "1"}) == ()
    many = {f"{n:03}": "1" for n in range(1000)}
    first = tuple(many.items())[:64]
    assert remarks_of(many) == first
    assert remarks_of([{key: value} for key, value in many.items()]) == first
    assert remarks_of({"x": "1"}, first) == first


@pytest.mark.parametrize("block", ["x", 5, None, [], [5], {}])
def test_what_is_no_block_has_no_remarks(block: Any) -> None:
    assert remarks_of(block) == ()


def entry(**more: Any) -> dict[str, Any]:
    return {"PublicKey": KEY, "AddressFamily": "ip4", "SendPort": 1, **more}


def remarks(*entries: dict[str, Any]) -> tuple[tuple[str, str], ...]:
    (peer,), problems = decode_peers({"Peers": list(entries)})
    assert problems == ()
    return peer.remarks


def test_both_spellings_of_a_registry_have_remarks() -> None:
    assert remarks(entry(Remarks={"a": "b"})) == (("a", "b"),)
    nested = {
        "public_key": KEY,
        "endpoint": [{"address_family": "ip4", "send_port": 1}],
        "remarks": [{"a": "b"}],
    }
    assert remarks(nested) == (("a", "b"),)
    assert remarks(entry()) == ()


def test_of_several_entries_of_one_peer_the_first_that_has_a_key_counts() -> None:
    first, second = entry(remarks={"a": "1", "b": "1"}), entry(remarks={"a": "2", "c": "2"})
    second["SendPort"] = 2
    assert remarks(first, second) == (("a", "1"), ("b", "1"), ("c", "2"))


def test_remarks_in_two_spellings_cost_no_link() -> None:
    assert remarks(entry(remarks={"a": "1"}, Remarks={"a": "2"})) == (("a", "2"),)

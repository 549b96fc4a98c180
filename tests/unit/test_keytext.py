"""How messages speak of values: briefly, in print, and never of a key."""

from __future__ import annotations

from base64 import b64encode
from datetime import date

import pytest

from rait.domain.config.keytext import (
    brief,
    canonical_key,
    is_key,
    kind_of,
    shown,
    whole_keys,
    without_keys,
    without_whole_keys,
)

KEY = b64encode(bytes(range(32))).decode()
HEX = bytes(range(32)).hex()


@pytest.mark.parametrize(
    ("value", "kind", "text"),
    [
        (None, "null", "null"),
        (True, "true or false", "true"),
        (7, "a whole number", "7"),
        (2**64 - 1, "a whole number", str(2**64 - 1)),
        (2**64, "a whole number", "a huge number"),
        pytest.param(1 << 20_000, "a whole number", "a huge number", id="digits"),
        (1.5, "a number with a fraction", "1.5"),
        ("x", "text", '"x"'),
        ("\x1b[2J", "text", '"\N{REPLACEMENT CHARACTER}[2J"'),
        ({"a": 1}, "a block", "a block"),
        ([1], "a list", "a list"),
        ((1,), "a list", "a list"),
        (date(2000, 1, 1), "a date or time", "a date or time"),
    ],
)
def test_a_value_and_its_kind(value: object, kind: str, text: str) -> None:
    assert kind_of(value) == kind
    assert shown(value) == text


def test_what_is_shown_is_short() -> None:
    assert shown("a b " * 20) == f'"{"a b " * 20}"'
    assert shown("a b " * 20 + "c") == f'"{"a b " * 20}…"'


@pytest.mark.parametrize("key", [KEY, HEX, HEX.upper(), KEY[:-1], KEY + KEY])
def test_no_key_is_shown_wherever_it_stands(key: str) -> None:
    for text in (key, f"see {key}", f"{'word ' * 15}{key}", f"{'word ' * 34}{key}"):
        assert key[:20] not in shown(text)
        assert key not in without_keys(text)
        assert key[:20] not in brief(text, len(text) - 10)


def test_a_path_may_be_long() -> None:
    path = "/opt/" + "directory/" * 10
    assert without_whole_keys(path) == path
    assert without_whole_keys(f"{path}={KEY}") == f"{path}=(left out)"


def test_a_key_has_one_spelling() -> None:
    other = KEY[:-2] + chr(ord(KEY[-2]) + 1) + "="
    assert canonical_key(f" {KEY}\n") == canonical_key(other) == KEY
    assert is_key(KEY)
    assert not is_key(KEY[:-1])


def test_each_key_in_a_text_is_found_however_it_is_written() -> None:
    text = f"a {KEY}, {HEX} and {HEX.upper()}"
    assert list(whole_keys(text)) == [(2, KEY), (48, KEY), (117, KEY)]


@pytest.mark.parametrize(
    ("value", "says"),
    [
        (7, "must be a key in base64, not a whole number"),
        ("ü", "not valid base64"),
        ("AA==", "1 byte instead of 32"),
        (b64encode(bytes(33)).decode(), "33 bytes instead of 32"),
        (b64encode(bytes(32)).decode(), "all-zero"),
    ],
)
def test_what_is_no_key(value: object, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        canonical_key(value)

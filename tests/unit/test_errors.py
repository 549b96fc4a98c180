"""Messages that speak of one thing, of several, and of very many."""

from __future__ import annotations

from base64 import b64encode

import pytest

from rait.domain.config.keytext import canonical_key
from rait.domain.errors import counted, few


def test_one_is_not_many() -> None:
    assert [counted(n, "link") for n in (0, 1, 2)] == ["0 links", "1 link", "2 links"]
    assert counted(2, "entry", "entries") == "2 entries"
    with pytest.raises(ValueError, match=r": 1 byte instead of 32$"):
        canonical_key(b64encode(b"x").decode())


def test_a_long_list_ends_in_how_many_more() -> None:
    assert few(["a", "b"]) == "a, b"
    assert few([str(n) for n in range(5)]) == "0, 1, 2, 3, 4"
    assert few([str(n) for n in range(7)]) == "0, 1, 2, 3, 4 and 2 more"

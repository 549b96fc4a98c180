"""A picker that remembers where attributes lay gives what a walk through each message gives."""

from __future__ import annotations

import struct
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rait.adapters.netlink.picker import BYTES, U16, U32, U64, Picker
from rait.adapters.netlink.socket import NLA_F_NESTED, MalformedError, attribute, attributes

START = 4
WANTED = {1: BYTES, 2: U16, 3: U32, 4: U64, 5: "q8x", 6: BYTES}
SIZES = {2: 2, 3: 4, 4: 8, 5: 16}


@st.composite
def good_attributes(draw: st.DrawFn) -> bytes:
    kind = draw(st.integers(0, 9))
    size = SIZES.get(kind)
    lengths = (0, 40) if size is None else (size, size)
    flag = draw(st.sampled_from((0, NLA_F_NESTED)))
    return attribute(kind | flag, draw(st.binary(min_size=lengths[0], max_size=lengths[1])))


bodies = st.lists(good_attributes(), max_size=8).map(lambda each: bytes(START) + b"".join(each))


@st.composite
def dumps(draw: st.DrawFn) -> list[bytes]:
    """Messages that look alike, or do not: some are others with a few bytes changed."""
    found = draw(st.lists(bodies | st.binary(max_size=60), min_size=1, max_size=4))
    for _ in range(draw(st.integers(0, 4))):
        copy = bytearray(draw(st.sampled_from(found)))
        for _ in range(draw(st.integers(0, 2)) if copy else 0):
            copy[draw(st.integers(0, len(copy) - 1))] = draw(st.integers(0, 255))
        found.append(bytes(copy))
    return found


def walked(data: bytes) -> dict[int, Any]:
    """The same with no memory and no haste."""
    if len(data) < START:
        raise MalformedError("too short")
    found: dict[int, Any] = {}
    for kind, value in attributes(data, START):
        form = WANTED.get(kind)
        if form == BYTES:
            found[kind] = value
        elif form is not None:
            if len(value) != SIZES[kind]:
                raise MalformedError("of the wrong length")
            found[kind] = struct.unpack(f"={form}", value)[0]
    return found


def outcome(reader: Any, data: bytes) -> Any:
    try:
        return reader(data)
    except MalformedError:
        return MalformedError


@given(dumps())
def test_it_gives_what_a_walk_gives(messages: list[bytes]) -> None:
    pick = Picker(WANTED, START)
    for data in messages:
        assert outcome(pick, data) == outcome(walked, data)


def test_it_forgets_layouts_before_they_become_many() -> None:
    pick = Picker({1: BYTES})
    for length in range(1000):
        assert pick(attribute(1, bytes(length))) == {1: bytes(length)}
    assert len(pick._layouts) <= 64


@pytest.mark.parametrize("length", [0, 3, 5])
def test_a_number_of_the_wrong_length_is_refused(length: int) -> None:
    with pytest.raises(MalformedError, match=f"attribute 3 has a value of {length} bytes"):
        Picker({3: U32})(attribute(3, bytes(length)))

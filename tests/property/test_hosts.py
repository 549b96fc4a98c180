"""Names of interfaces: bytes to the kernel, text to rait, JSON and SQLite."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rait.domain.config.hosts import ifname_bytes, ifname_problem, ifname_text

tricky = st.lists(
    st.sampled_from([b"\\", b"x", b"\\x5c", b"\\xff", b"\xff", b"\xc3\xa9", b"5c", b"a"])
)
raws = st.binary(min_size=1, max_size=15) | tricky.map(b"".join)


@given(raws)
def test_a_name_comes_back_as_it_was(raw: bytes) -> None:
    text = ifname_text(raw)
    text.encode()  # no lone surrogates
    assert ifname_bytes(text) == raw


@given(st.text(st.characters(exclude_characters="\\", exclude_categories=["Cs"])))
def test_a_name_that_is_text_stays_as_it_is(text: str) -> None:
    assert ifname_text(text.encode()) == text
    assert ifname_bytes(text) == text.encode()


@given(st.text())
def test_any_text_of_a_journal_is_a_name_of_some_bytes(text: str) -> None:
    ifname_bytes(text.encode("utf-8", "backslashreplace").decode())


@pytest.mark.parametrize("name", ["a\\x41", "\\xff", "r\N{LATIN SMALL LETTER A WITH GRAVE}4"])
def test_what_would_be_another_name_to_the_kernel_or_to_rait_is_none(name: str) -> None:
    problem = ifname_problem(name)
    assert problem is not None
    assert "cannot name an interface" in problem

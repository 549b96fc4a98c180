"""The port to sources over the network: each scheme has its module."""

from __future__ import annotations

import inspect

import pytest

from rait.adapters.config.remote import KINDS, PLAIN, Live, Remote, live, remote
from rait.domain.config.schema import LIVE


@pytest.mark.parametrize("scheme", KINDS)
def test_each_kind_can_be_read(scheme: str) -> None:
    asked = list(inspect.signature(Remote.fetch).parameters)[1:]
    assert list(inspect.signature(remote(scheme).fetch).parameters) == asked


@pytest.mark.parametrize("scheme", LIVE)
def test_each_live_kind_can_be_followed(scheme: str) -> None:
    asked = list(inspect.signature(Live.follow).parameters)[1:]
    assert list(inspect.signature(live(scheme).follow).parameters) == asked
    assert inspect.iscoroutinefunction(live(scheme).follow)


def test_a_scheme_is_plain_or_has_a_sibling_with_tls() -> None:
    assert set(KINDS) - set(PLAIN) == {f"{scheme}s" for scheme in PLAIN}

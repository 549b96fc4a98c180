"""The port to sources over the network: each scheme has its module."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from importlib import import_module
from typing import Any

import pytest

from rait.adapters.config import source
from rait.adapters.config.source import KINDS, PLAIN
from rait.domain.config.schema import LIVE


def parameters(function: Callable[..., Any]) -> list[str]:
    return list(inspect.signature(function).parameters)


@pytest.mark.parametrize("scheme", KINDS)
def test_each_kind_can_be_read(scheme: str) -> None:
    assert parameters(import_module(KINDS[scheme]).fetch) == ["url", "limit", "known"]


@pytest.mark.parametrize("scheme", LIVE)
@pytest.mark.parametrize("port", [source.follow, source.publish])
def test_each_live_kind_can_be_followed_and_takes_entries(scheme: str, port: Any) -> None:
    function = getattr(import_module(KINDS[scheme]), port.__name__)
    assert parameters(function) == parameters(port)
    assert inspect.iscoroutinefunction(function) == inspect.iscoroutinefunction(port)


def test_a_scheme_is_plain_or_has_a_sibling_with_tls() -> None:
    assert set(KINDS) - set(PLAIN) == {f"{scheme}s" for scheme in PLAIN}

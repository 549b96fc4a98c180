"""The limits of settings: of each setting, its own type, and words for what it must be."""

from __future__ import annotations

from typing import get_type_hints

import pytest
from msgspec import NODEFAULT, convert, structs

from rait.domain.config.decoding import mistakes
from rait.domain.config.limits import LIMITS
from rait.domain.config.schema import Config, Isolation, Transport


@pytest.mark.parametrize("kind", LIMITS, ids=lambda kind: kind.__name__)
def test_a_limit_is_for_the_type_of_its_field(kind: type) -> None:
    limited = type(kind.__name__, (), {"__annotations__": dict(LIMITS[kind])})
    types = get_type_hints(kind)  # without what is Annotated
    assert get_type_hints(limited) == {name: types[name] for name in LIMITS[kind]}


@pytest.mark.parametrize("kind", LIMITS, ids=lambda kind: kind.__name__)
def test_a_default_is_within_the_limits(kind: type) -> None:
    for field in structs.fields(kind):
        if field.name in LIMITS[kind] and field.default is not NODEFAULT:
            convert(field.default, LIMITS[kind][field.name])


@pytest.mark.parametrize(
    ("kind", "values", "wrong"),
    [
        (Transport, {"mtu": 1279}, "mtu"),
        (Isolation, {"ifgroup": 0}, "ifgroup"),
        (Config, {"max_links": 0}, "max_links"),
        (Config, {"journal": ""}, "journal"),
    ],
)
def test_a_value_out_of_its_limits_is_a_mistake(kind: type, values: dict, wrong: str) -> None:
    assert mistakes(kind, values)[wrong].startswith("must be ")

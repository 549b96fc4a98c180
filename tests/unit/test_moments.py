"""Points in time as people type them."""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest

from rait.app.moments import moment, span, written
from rait.domain.config.schema import SECOND
from rait.domain.errors import ConfigError

NOW = 1_769_875_500 * SECOND
"""2026-01-31T16:05:00Z"""


@pytest.fixture(autouse=True)
def _in_berlin(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """An hour ahead of UTC in winter, by a rule that needs no zone files."""
    monkeypatch.setenv("TZ", "CET-1CEST,M3.5.0,M10.5.0/3")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("0s", 0), ("45s", 45), ("30m", 1800), ("12h", 43200), ("90d", 7776000), ("2w", 1209600)],
)
def test_a_span(text: str, seconds: int) -> None:
    assert span(text) == seconds * SECOND
    assert moment(text, NOW) == NOW - seconds * SECOND


@pytest.mark.parametrize("text", ["", "90", "d", "-1d", "1.5h", "90 d", "1y", "٣d", "1d\n"])
def test_no_span(text: str) -> None:
    with pytest.raises(ConfigError, match="30m, 12h, 90d or 2w"):
        span(text)


@pytest.mark.parametrize(
    ("text", "utc"),
    [
        ("2026-01-31", "2026-01-30T23:00:00"),
        ("2026-01-31T17:05", "2026-01-31T16:05:00"),
        ("2026-01-31 17:05:00", "2026-01-31T16:05:00"),
        ("2026-01-31T17:05:00Z", "2026-01-31T17:05:00"),
        ("2026-01-31T17:05:00+05:30", "2026-01-31T11:35:00"),
        ("2026-07-31T17:05", "2026-07-31T15:05:00"),
    ],
)
def test_a_date_and_time_are_local_unless_they_say_otherwise(text: str, utc: str) -> None:
    expected = datetime.fromisoformat(utc).replace(tzinfo=UTC).timestamp()
    assert moment(text, NOW) == int(expected) * SECOND


def test_fractions_of_a_second_count() -> None:
    assert moment("2026-01-31T17:05:00.000250", NOW) == NOW + 250_000


@pytest.mark.parametrize("text", ["", "yesterday", "2026-13-01", "17:05", "9999-99-99", "1e9"])
def test_no_time(text: str) -> None:
    with pytest.raises(ConfigError, match="is no time"):
        moment(text, NOW)


def test_times_are_told_as_the_clock_on_the_wall_has_them() -> None:
    assert written(NOW + 999_999_999) == "2026-01-31 17:05:00+01:00"
    assert moment(written(NOW), 0) == NOW, "what is told can be typed back"


def test_a_time_outside_of_the_calendar_is_its_first_or_last_moment() -> None:
    assert written(-(10**30)) == "0001-01-01 00:00:00"
    assert written(10**30) == "9999-12-31 23:59:59"

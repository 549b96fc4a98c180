"""Names that answered the last time are looked up first, whatever else a list holds."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from rait.adapters.config import caches
from rait.adapters.config.resolve import WORKERS, LookUp, in_order, keep_order
from rait.domain.config.hosts import Host

LIST = "https://example.org/peers.toml"


@pytest.fixture(autouse=True)
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    path = tmp_path / "cache"
    path.mkdir(mode=0o700)
    monkeypatch.setattr(caches, "cache_directory", lambda: path)
    with caches.keeping():
        yield path


def named(kind: str, count: int = WORKERS) -> list[Host]:
    return [(f"{kind}{number}.example", "ip4") for number in range(count)]


def an_answer(names: list[Host], unasked: list[Host] = []) -> LookUp:  # noqa: B006 - not changed
    """What resolve gives where the good names answer."""
    good = {host: ("192.0.2.1",) for host in names if host[0].startswith("good")}
    return LookUp(good, (), tuple(names), frozenset(unasked))


def test_who_answered_goes_first_and_who_failed_last() -> None:
    names = [*named("dead"), *named("unasked"), *named("good")]
    assert in_order(names, LIST) == names
    keep_order(LIST, an_answer(names, named("unasked")))
    expected = [*named("good"), *named("unasked"), *named("dead")]
    assert in_order(names, LIST) == expected


def test_names_that_are_new_come_after_those_that_answered() -> None:
    keep_order(LIST, an_answer([*named("dead"), *named("good")]))
    names = [*named("new", 1000), *named("dead"), *named("good")]
    expected = [*named("good"), *named("new", 1000), *named("dead")]
    assert in_order(names, LIST) == expected


def test_lists_are_kept_apart() -> None:
    names = [*named("dead"), *named("good")]
    keep_order(LIST, an_answer(names))
    assert in_order(names, "/etc/rait/peers.conf") == names


def test_few_names_are_all_asked_at_once_so_nothing_is_kept(kept: Path) -> None:
    keep_order(LIST, an_answer(named("good")))
    assert list(kept.iterdir()) == []


def test_what_is_damaged_is_as_good_as_not_there(kept: Path) -> None:
    names = [*named("dead"), *named("good")]
    keep_order(LIST, an_answer(names))
    (file,) = kept.iterdir()
    whole = file.read_bytes()
    for damaged in (whole[:-1], b"", whole[:32] + b"\xc1"):
        file.write_bytes(damaged)
        assert in_order(names, LIST) == names


def test_no_directory_that_is_safe_means_no_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(caches, "cache_directory", lambda: None)
    names = [*named("dead"), *named("good")]
    keep_order(LIST, an_answer(names))
    assert in_order(names, LIST) == names

"""When an old peers list stands in for the newest, and what is said where none does."""

from __future__ import annotations

import stat
import time
from base64 import b64encode
from datetime import UTC, datetime
from pathlib import Path
from typing import cast

import pytest

from rait.adapters.config.remote import News, Version, url_digest
from rait.adapters.config.source import Texts
from rait.adapters.keys import KeyPair
from rait.app.fallback import load_from_web
from rait.app.load import Loaded, LoadedPeers, PublishedKeyError
from rait.app.scopes import beside
from rait.domain.config.schema import Config, Secret, Transport
from rait.domain.errors import SourceError
from rait.domain.fallback import OldList, age_of, may_stand_in

HOUR = 3600 * 10**9
DAY = 24 * HOUR
NOW = 1_800_000_000 * 10**9
BEGAN = int(datetime(2025, 1, 1, tzinfo=UTC).timestamp()) * 10**9
"""rait had no journal before."""

URL = "https://me:password@example.org/peers.toml?token=secret"
PUBLIC = "5q1HDxrH29mQGy/CIhHtNEOn+6LRxh9HeJzQQeFTEVc="
PRIVATE = "KJJXmDtAXSrMGuIJVy/2eP65gXm1PTy7vCR/4O/vEEI="
CONF = "/etc/rait/rait.conf"


def kept_path(journal: str, conf: str, public_key: str) -> str:
    return beside(journal, "peers", conf, public_key)


@pytest.mark.parametrize(
    ("confirmed_at", "now", "age"),
    [
        (NOW, NOW, 0),
        (NOW - DAY, NOW, DAY),
        (NOW + 1, NOW, None),
        (5, NOW, None),
        (NOW, 5, None),
        (5, 6, None),
        (BEGAN, NOW, NOW - BEGAN),
        (BEGAN - 1, NOW, None),
    ],
)
def test_an_age_is_unknown_where_a_clock_was_not_set(
    confirmed_at: int, now: int, age: int | None
) -> None:
    assert age_of(confirmed_at, now) == age


def test_a_list_of_unknown_age_stands_in_only_if_any_may() -> None:
    assert may_stand_in(None, "always")
    assert may_stand_in(10**30, "always")
    assert not may_stand_in(None, 10**30)
    assert may_stand_in(DAY, DAY)
    assert not may_stand_in(DAY + 1, DAY)


@pytest.mark.parametrize(
    ("age", "words"),
    [
        (None, "of unknown age"),
        (0, "0 seconds old"),
        (59 * 10**9, "59 seconds old"),
        (60 * 10**9, "1 minute old"),
        (5 * HOUR, "5 hours old"),
        (400 * DAY, "400 days old"),
    ],
)
def test_the_age_is_told(age: int | None, words: str) -> None:
    old = OldList(age, "yesterday", "no")
    assert f"the peers list is {words} (of yesterday)" in old.told
    assert old.lasting == OldList(None, "yesterday", "no").lasting


class Registry:
    """A server, and a node that reads its list from there."""

    def __init__(self, directory: Path) -> None:
        self.page: str | SourceError = ""
        self.revision = 0
        self.journal = directory / "journal.db"
        self.asked: list[Version] = []

    def fetch(self, url: str, known: Version, limit: int, *_: object) -> News:
        assert url == URL
        assert limit
        self.asked.append(known)
        if isinstance(self.page, SourceError):
            raise self.page
        version = Version(url_digest(url), f'"{url_digest(self.page)}"', revision=self.revision)
        return News(None if known == version else self.page, version, time.time_ns())

    def load(self, allowed: int | str | None = DAY, max_links: int = 9) -> LoadedPeers:
        transport = Transport(address_family="ip4", send_port=1, mtu=1420, ifprefix="w")
        config = Config(
            peers=URL,
            journal=str(self.journal),
            peers_fallback=allowed,  # type: ignore[arg-type]
            transports=(transport,),
            max_links=max_links,
        )
        loaded = Loaded(config=config, source=CONF, digest=str)
        return load_from_web(loaded, KeyPair(Secret(PRIVATE), PUBLIC), cast(Texts, self), CONF)

    @property
    def file(self) -> Path:
        return Path(kept_path(str(self.journal), CONF, PUBLIC))


def entries(*numbers: int) -> str:
    return "".join(
        f'[[Peers]]\nPublicKey = "{b64encode(bytes([n] * 32)).decode()}"\nSendPort = {n}\n'
        'AddressFamily = "ip4"\n'
        for n in numbers
    )


DOWN = SourceError("it is out of reach")


def set_clock(monkeypatch: pytest.MonkeyPatch, now: int) -> None:
    monkeypatch.setattr("time.time_ns", lambda: now)


@pytest.fixture
def registry(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Registry:
    """With two peers, and a node that has kept its list."""
    set_clock(monkeypatch, NOW)
    registry = Registry(tmp_path)
    registry.page = entries(7, 8)
    registry.load().keep()
    return registry


def test_the_newest_list_is_used_where_there_is_one(registry: Registry) -> None:
    again = registry.load()
    assert (len(again.peers), again.old) == (2, None)
    assert registry.asked[1].etag, "and it is not sent again"
    registry.page = entries(7)
    assert len(registry.load().peers) == 1
    assert len(registry.load().peers) == 1, "also while nobody kept the new one"


def test_each_list_has_its_own_revision(registry: Registry) -> None:
    registry.page, registry.revision = entries(7), 12
    newest = registry.load()
    newest.keep()
    assert (newest.revision, newest.which) == (12, f"{newest.document.name} at revision 12")
    registry.revision = 15
    assert registry.load().revision == 15
    registry.page = DOWN
    old = registry.load()
    assert old.old is not None
    assert old.revision == 12, "that of the list which stood in"


@pytest.mark.parametrize(
    "page",
    [DOWN, "<html>", "", "[[Peers]]\n", entries(*range(1, 20))],
    ids=["down", "no list", "empty", "no entry to use", "over max_links"],
)
def test_an_old_list_stands_in_for_any_that_is_refused(
    registry: Registry, page: str | SourceError
) -> None:
    registry.page = page
    with pytest.raises(SourceError) as today:
        registry.load(None)
    found = registry.load()
    assert found.old is not None
    assert (len(found.peers), found.old.age) == (2, 0)
    assert found.old.why == str(today.value)
    before = registry.file.read_bytes(), registry.file.stat()
    found.keep()
    assert (registry.file.read_bytes(), registry.file.stat()) == before
    assert "password" not in str(today.value) + found.old.told
    assert "secret" not in str(today.value) + found.old.told


def test_a_list_with_our_private_key_is_refused_whatever_there_is(registry: Registry) -> None:
    registry.page = entries(7).replace(b64encode(bytes([7] * 32)).decode(), PRIVATE)
    with pytest.raises(PublishedKeyError):
        registry.load("always")


def test_a_list_that_is_too_old_is_told_with_what_is_wrong_with_the_newest(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry.page = DOWN
    set_clock(monkeypatch, NOW + 25 * HOUR)
    with pytest.raises(
        SourceError, match=r"no older list .* 1 day old .* more than peers_fallback"
    ):
        registry.load()
    assert registry.load("always").old is not None
    set_clock(monkeypatch, HOUR)
    with pytest.raises(SourceError, match=r"no older list .* of unknown age .* clock was not set"):
        registry.load()
    found = registry.load("always").old
    assert found is not None
    assert found.age is None


def test_the_age_counts_from_when_the_server_last_confirmed_the_list(
    registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    set_clock(monkeypatch, NOW + 25 * HOUR)
    registry.load().keep()
    registry.page = DOWN
    found = registry.load().old
    assert found is not None
    assert found.age == 0


def test_an_old_list_is_checked_as_the_newest_is(registry: Registry) -> None:
    registry.page = DOWN
    with pytest.raises(SourceError, match=r"out of reach; and no older list .* max_links is 1"):
        registry.load(max_links=1)
    registry.file.unlink()
    with pytest.raises(SourceError, match=r"out of reach; and no older list .* no list was kept"):
        registry.load("always")


def test_each_configuration_has_a_file_of_its_own_whose_name_shows_nothing(tmp_path: Path) -> None:
    journal = tmp_path / "real.db"
    link = tmp_path / "link.db"
    link.symlink_to(journal)
    path = kept_path(str(journal), CONF, PUBLIC)
    assert path == kept_path(str(link), CONF, "another key"), "beside the journal and its lock"
    assert Path(path).parent == tmp_path
    by_key = {kept_path(str(journal), "-", PUBLIC), kept_path(str(journal), "http://x/y", PUBLIC)}
    assert len(by_key) == 1
    others = {kept_path(str(journal), f"{CONF}2", PUBLIC), kept_path(str(journal), "-", "other")}
    assert len({path, *by_key, *others}) == 4
    assert PUBLIC not in "".join(by_key)


def test_the_file_is_for_its_user_alone(registry: Registry) -> None:
    assert stat.S_IMODE(registry.file.stat().st_mode) == 0o600

"""How `rait watch` keeps this node's entry in a registry, whatever becomes of rait.conf and key."""

from __future__ import annotations

import json

import pytest

from rait.adapters.config import source
from rait.adapters.config.remote import Put
from rait.adapters.keys import public_key
from rait.app.publishing import WRONG, Publisher
from rait.domain.config.schema import Secret
from rait.domain.errors import SourceError
from tests.unit.command_line import PRIVATE, Rait

URL, ELSEWHERE = "etcd://one.example/peers", "etcd://two.example/peers"
NEW_PRIVATE = "YLGPzk0Wq4zV6JHOTtlZWYN3Tg5gCa7U8Yk5UsfVLW4="
OLD, NEW = (public_key(Secret(key)) for key in (PRIVATE, NEW_PRIVATE))


def conf(key: str = PRIVATE, url: str = URL, name: str = "gate", publish: str = "true") -> str:
    return (
        f'private_key = "{key}"\npeers = "{url}"\nname = "{name}"\n'
        'transport {\n  address_family = "ip4"\n  send_port = 20001\n  mtu = 1420\n'
        '  ifprefix = "a"\n  address = "a.example.net"\n}\n'
        f'watch {{\n  publish = {publish}\n  lease = "90s"\n}}\n'
    )


class Registry:
    """Registries in etcd, by URL and key: an entry's text, revision and lease."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.entries: dict[tuple[str, str], tuple[str, int, int]] = {}
        self.revision = 0
        self.is_down = False
        self.asked: list[tuple[str, bool]] = []
        monkeypatch.setattr(source, "publish", self.publish)

    def publish(self, url: str, key: str, text: str | None, lease: int) -> Put:
        if self.is_down:
            raise SourceError(f"{url}: no connection")
        self.asked.append((key, text is not None))
        if text is None:
            del self.entries[url, key]
            return Put(self.revision, True)
        there, at, _ = self.entries.get((url, key), ("", 0, 0))
        if there == text:
            return Put(at, False)
        self.write(url, key, text, lease)
        return Put(self.revision, True, at)

    def write(self, url: str, key: str, text: str, lease: int = 0) -> None:
        self.revision += 1
        self.entries[url, key] = text, self.revision, lease

    def names(self, url: str = URL) -> dict[str, str]:
        """The names that entries have, by key."""
        # All at once, as a watch in a thread of its own may be putting another one.
        entries = list(self.entries.items())
        texts = {key: text for (where, key), (text, *_) in entries if where == url}
        return {key: json.loads(text)["peers"][0]["name"] for key, text in texts.items()}


@pytest.fixture
def registry(monkeypatch: pytest.MonkeyPatch) -> Registry:
    return Registry(monkeypatch)


@pytest.fixture
def publisher(rait: Rait) -> Publisher:
    rait.write(conf(), {})
    return Publisher(str(rait.conf))


def test_the_entry_is_put_and_kept_alive(publisher: Publisher, registry: Registry) -> None:
    assert publisher.publish(OLD) == (True, "")
    assert registry.names() == {OLD: "gate"}
    assert registry.entries[URL, OLD][2] == 90
    assert publisher.publish(OLD) == (False, "")
    assert len(registry.asked) == 2
    assert not publisher.is_outdated(OLD)


def test_the_entry_follows_rait_conf(rait: Rait, publisher: Publisher, registry: Registry) -> None:
    publisher.publish(OLD)
    rait.write(conf(name="door"), {})
    assert publisher.publish(OLD) == (True, "")
    assert registry.names() == {OLD: "door"}


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        (conf(publish="false"), ""),
        ("what is this", ""),
        (conf() + f'remarks {{\n  note = "{PRIVATE}"\n}}\n', WRONG),
    ],
    ids=["not asked for", "wrong", "its remarks hold the private key"],
)
def test_whatever_is_wrong_with_rait_conf_leaves_the_entry_as_it_was(
    rait: Rait, publisher: Publisher, registry: Registry, text: str, problem: str
) -> None:
    rait.write(text, {})
    is_new, told = publisher.publish(OLD)
    assert (is_new, told[: len(WRONG)], registry.names()) == (False, problem, {})
    rait.write(conf(), {})
    publisher.publish(OLD)
    rait.write(text, {})
    is_new, told = publisher.publish(OLD)
    assert (is_new, told[: len(WRONG)], registry.names()) == (False, problem, {OLD: "gate"})
    assert registry.asked == [(OLD, True)] * 2, "it is kept alive"


def test_a_registry_that_is_out_of_reach_is_told_and_tried_again(
    publisher: Publisher, registry: Registry
) -> None:
    registry.is_down = True
    assert publisher.publish(OLD) == (False, f"{WRONG}: {URL}: no connection")
    registry.is_down = False
    assert publisher.publish(OLD) == (True, "")


def test_the_entry_of_a_former_key_stays_until_the_links_have_the_new_one(
    rait: Rait, publisher: Publisher, registry: Registry
) -> None:
    publisher.publish(OLD)
    rait.write(conf(NEW_PRIVATE), {})
    for _ in range(2):
        publisher.publish(OLD)
        assert registry.names() == {OLD: "gate", NEW: "gate"}
        assert registry.asked[-1] == (OLD, True), "and is kept alive"
    assert not publisher.is_outdated(OLD)
    assert publisher.is_outdated(NEW)
    assert publisher.publish(NEW) == (False, "")
    assert registry.names() == {NEW: "gate"}
    assert not publisher.is_outdated(NEW)


def test_the_entry_of_a_former_key_goes_only_after_the_new_one_stands(
    rait: Rait, publisher: Publisher, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse_new(url: str, key: str, text: str | None, lease: int) -> Put:
        if key == NEW:
            raise SourceError("no permission")
        return registry.publish(url, key, text, lease)

    publisher.publish(OLD)
    rait.write(conf(NEW_PRIVATE), {})
    monkeypatch.setattr(source, "publish", refuse_new)
    assert publisher.publish(NEW) == (False, f"{WRONG}: no permission")
    assert registry.names() == {OLD: "gate"}


def test_a_former_entry_that_cannot_be_withdrawn_is_told_and_tried_again(
    rait: Rait, publisher: Publisher, registry: Registry, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse_old(url: str, key: str, text: str | None, lease: int) -> Put:
        if text is None:
            raise SourceError("no permission")
        return registry.publish(url, key, text, lease)

    publisher.publish(OLD)
    rait.write(conf(NEW_PRIVATE), {})
    with monkeypatch.context() as patch:
        patch.setattr(source, "publish", refuse_old)
        assert publisher.publish(NEW) == (True, "the entry of a former key stays: no permission")
    assert publisher.is_outdated(NEW)
    publisher.publish(NEW)
    assert registry.names() == {NEW: "gate"}


def test_what_stands_in_another_registry_is_left_to_its_lease(
    rait: Rait, publisher: Publisher, registry: Registry
) -> None:
    publisher.publish(OLD)
    rait.write(conf(NEW_PRIVATE, ELSEWHERE), {})
    assert publisher.publish(OLD) == (True, "")
    assert registry.names(ELSEWHERE) == {NEW: "gate"}
    assert registry.names() == {OLD: "gate"}
    assert not publisher.is_outdated(NEW)


def test_an_entry_that_somebody_else_wrote_is_put_right_and_told(
    publisher: Publisher, registry: Registry, capsys: pytest.CaptureFixture[str]
) -> None:
    registry.write(URL, OLD, '{"name": "of an earlier run of ours, for all that is known"}')
    publisher.publish(OLD)
    assert capsys.readouterr().err == ""
    registry.write(URL, OLD, '{"name": "not ours"}')
    assert publisher.publish(OLD) == (True, "")
    assert "somebody else wrote this node's entry (revision 3)" in capsys.readouterr().err
    assert registry.names() == {OLD: "gate"}


def test_an_entry_of_its_own_that_changes_is_nobody_else_s(
    rait: Rait, publisher: Publisher, registry: Registry, capsys: pytest.CaptureFixture[str]
) -> None:
    publisher.publish(OLD)
    rait.write(conf(name="door"), {})
    publisher.publish(OLD)
    assert registry.names() == {OLD: "door"}
    assert capsys.readouterr().err == ""

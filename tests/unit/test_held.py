"""What `rait watch` holds of the network: the last good answers, whatever fails since."""

from __future__ import annotations

from contextlib import nullcontext

import pytest
from msgspec import structs

from rait.adapters.config import resolve as resolving
from rait.adapters.config import source
from rait.adapters.config.remote import News, Version
from rait.adapters.config.resolve import LookUp
from rait.adapters.netns import Netns
from rait.app.held import Held
from rait.app.signed import trust_in
from rait.domain.config.hosts import Host
from rait.domain.errors import SourceError
from tests.minisign import QuickSigner

URL = "https://example.org/peers"
HERE = Netns("", -1, "")


class Server:
    """A server with one list; ``text`` is None while it is out of reach."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.text: str | None = "one"
        self.asked: list[Version] = []
        monkeypatch.setattr(source, "fetch", self.fetch)

    def fetch(self, url: str, known: Version, *_: object) -> News:
        self.asked.append(known)
        if self.text is None:
            raise SourceError(f"{url}: no connection")
        version = Version(url, f'"{self.text}"')
        same = known == version
        return News(None if same else self.text, version, len(self.asked))


class Names:
    """What names resolve to; a name that is missing fails."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.known: dict[str, tuple[str, ...]] = {}
        self.asked: list[str] = []
        monkeypatch.setattr(resolving, "_look_up", self.look_up)

    def look_up(self, host: Host) -> tuple[tuple[str, ...], str]:
        self.asked.append(host[0])
        found = self.known.get(host[0], ())
        return found, "" if found else "it does not resolve"


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Server:
    return Server(monkeypatch)


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Names:
    return Names(monkeypatch)


def test_a_poll_says_whether_the_list_is_another_one(server: Server) -> None:
    held = Held()
    assert [held.poll(URL), held.poll(URL)] == [True, False]
    assert server.asked[1].etag == '"one"', "the server need not send it again"
    server.text = "two"
    assert held.poll(URL)
    assert held.fetch(URL, Version(), 100).text == "two"
    assert len(server.asked) == 3, "a run asks for nothing itself"


def test_a_poll_that_fails_leaves_the_last_good_list_and_its_time(server: Server) -> None:
    held = Held()
    held.poll(URL)
    server.text = None
    with pytest.raises(SourceError):
        held.poll(URL)
    news = held.fetch(URL, Version(), 100)
    assert (news.text, news.at) == ("one", 1)
    server.text = "one"
    held.poll(URL)
    assert server.asked[-1].etag == '"one"', "the server need not send it again"


@pytest.mark.usefixtures("server")
def test_an_unchanged_list_is_confirmed_by_each_poll() -> None:
    held = Held()
    held.poll(URL)
    held.poll(URL)
    assert held.fetch(URL, Version(), 100).at == 2


def test_a_run_tells_what_failed_before_any_list_came(server: Server) -> None:
    held = Held()
    server.text = None
    with pytest.raises(SourceError):
        held.poll(URL)
    server.text = "one"
    with pytest.raises(SourceError, match="no connection"):
        held.fetch(URL, Version(), 100)
    held.poll(URL)
    assert held.fetch(URL, Version(), 100).text == "one"


def test_a_run_with_another_url_asks_for_it_itself(server: Server) -> None:
    held = Held()
    held.poll(URL)
    assert held.fetch(URL + "2", Version(), 100).text == "one"
    assert len(server.asked) == 2


def test_a_list_that_is_too_long_by_now_is_asked_for_to_say_so(server: Server) -> None:
    held = Held()
    server.text = "é" * 5
    held.poll(URL)
    for limit, asked in ((10, 1), (9, 2)):
        held.fetch(URL, Version(), limit)
        assert len(server.asked) == asked


SIGNER = QuickSigner()
TRUST = trust_in([SIGNER.key])


class Pair:
    """A server with a list and its signature, which change one after the other."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.text, self.signature = "one", SIGNER.text("one", "serial:1")
        self.sent: str | None = None
        self.transfers = 0
        monkeypatch.setattr(source, "fetch", self.fetch)

    def fetch(self, url: str, known: Version, limit: int, signed: bool = False) -> News:
        assert limit
        version = Version(url, f'"{self.text}"')
        text = None if known == version else self.sent or self.text
        self.transfers += text is not None
        return News(text, version, 1, self.signature if signed else None)


@pytest.fixture
def pair(monkeypatch: pytest.MonkeyPatch) -> Pair:
    return Pair(monkeypatch)


def held_by(held: Held) -> tuple[str | None, str | None]:
    news = held.fetch(URL, Version(), 100, True)
    return news.text, news.signature


def test_list_and_signature_take_their_places_together(pair: Pair) -> None:
    held = Held()
    assert [held.poll(URL, TRUST), held.poll(URL, TRUST)] == [True, False]
    before = held_by(held)
    pair.text = "two"
    for _ in range(2):
        with pytest.raises(SourceError, match="only one of the two files is new yet"):
            held.poll(URL, TRUST)
        assert held_by(held) == before
    pair.signature = SIGNER.text("two", "serial:2")
    assert held.poll(URL, TRUST)
    assert held_by(held) == ("two", pair.signature)
    pair.signature = SIGNER.text("two", "serial:3")
    assert held.poll(URL, TRUST), "who signs a list anew gives it a new number"


def test_an_older_list_changes_nothing(pair: Pair) -> None:
    held = Held()
    held.poll(URL, TRUST)
    before = held_by(held)
    pair.text, pair.signature = "old", SIGNER.text("old", "serial:0")
    last = TRUST.check(URL, "one", SIGNER.text("one", "serial:1"))
    with pytest.raises(SourceError, match="older than the last list"):
        held.poll(URL, structs.replace(TRUST, last=last))
    assert held_by(held) == before


def test_what_was_changed_on_its_way_is_sent_again(pair: Pair) -> None:
    """Whoever changes a list on its way may leave its ETag as it is."""
    held = Held()
    pair.sent = "changed"
    assert held_by(held)[0] == "changed", "a run finds out by itself"
    pair.sent = None
    with pytest.raises(SourceError, match="not one of this list"):
        held.poll(URL, TRUST)
    assert held.poll(URL, TRUST)
    assert held_by(held)[0] == "one"
    assert pair.transfers == 2


def test_a_list_that_has_to_be_signed_from_now_on(pair: Pair) -> None:
    held = Held()
    held.poll(URL)
    assert held_by(held) == ("one", pair.signature)


def looked_up(held: Held, *hosts: str, family: str = "ip4") -> LookUp:
    wanted = {(host, family): ("peers", index) for index, host in enumerate(hosts)}
    return held.resolve(wanted, HERE, 10, wanted, "peers.conf")


def test_a_poll_of_another_url_at_the_same_time_takes_no_list_away(server: Server) -> None:
    held = Held()

    class Meddling(nullcontext[None]):
        """The other poll ends as soon as nothing holds it up."""

        def __exit__(self, *_: object) -> None:
            held._news = {}

    held._lock = Meddling()  # type: ignore[assignment]
    assert held.fetch(URL, Version(), 100).text == server.text


def test_names_are_looked_up_once_and_then_held(names: Names) -> None:
    names.known = {"a.example": ("192.0.2.1",)}
    held = Held()
    for _ in range(2):
        found = looked_up(held, "192.0.2.9", "a.example", "b.example")
        assert found.addresses == {
            ("192.0.2.9", "ip4"): ("192.0.2.9",),
            ("a.example", "ip4"): ("192.0.2.1",),
        }
        (problem,) = found.problems
        assert problem.path == ("peers", 2)
        assert problem.message == '"b.example" has no ip4 address: it does not resolve'
        assert {name for name, _ in found.names} == {"a.example", "b.example"}
    assert sorted(names.asked) == ["a.example", "b.example"]


def test_names_looked_up_again_change_what_the_next_run_gets(names: Names) -> None:
    names.known = {"a.example": ("192.0.2.1",)}
    held = Held()
    looked_up(held, "a.example", "b.example")
    assert held.refresh()[0] is False
    names.known = {"a.example": ("192.0.2.2",), "b.example": ("192.0.2.3",)}
    assert held.refresh() == (True, ())
    found = looked_up(held, "a.example", "b.example")
    assert found.addresses[("a.example", "ip4")] == ("192.0.2.2",)
    assert found.addresses[("b.example", "ip4")] == ("192.0.2.3",)
    assert found.problems == ()


def test_a_name_that_fails_keeps_its_last_good_addresses(names: Names) -> None:
    names.known = {"a.example": ("192.0.2.1",)}
    held = Held()
    looked_up(held, "a.example")
    names.known = {}
    changed, problems = held.refresh()
    assert not changed
    assert problems == ('"a.example" has no ip4 address: it does not resolve',)
    assert looked_up(held, "a.example").addresses == {("a.example", "ip4"): ("192.0.2.1",)}


def test_a_name_that_left_the_list_is_not_looked_up_again(names: Names) -> None:
    held = Held()
    looked_up(held, "a.example", "b.example")
    looked_up(held, "a.example")
    names.asked.clear()
    held.refresh()
    assert names.asked == ["a.example"]


def test_without_names_nothing_is_looked_up(names: Names) -> None:
    held = Held()
    looked_up(held, "192.0.2.9")
    assert held.refresh() == (False, ())
    assert names.asked == []

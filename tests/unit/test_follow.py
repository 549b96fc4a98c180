"""A source that tells of changes is followed: it makes events, and lists that are held."""

from __future__ import annotations

import asyncio
import threading
import time
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

import anyio
import pytest

from rait.adapters.config import source
from rait.adapters.config.remote import News, Version
from rait.app import follow as following
from rait.app.follow import Follower
from rait.app.held import Held
from rait.domain.errors import SourceError
from rait.domain.watch_events import Ended, SourceTold

URL, OTHER = "etcd://one/peers", "etcd://two/peers"
PATIENCE = 30.0
Tell = Callable[[News | SourceError], None]


class Source:
    """What is followed: a test has each follow tell what it likes, and end."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.tells: list[tuple[str, Tell]] = []
        self.threads: list[threading.Thread] = []
        self.cancelled = 0
        self._ends: list[tuple[Any, anyio.Event]] = []
        self._error: Exception = SourceError("all is lost")
        monkeypatch.setattr(source, "follow", self.follow)

    async def follow(self, url: str, tell: Tell) -> None:
        end = anyio.Event()
        self._ends.append((asyncio.get_running_loop(), end))
        self.threads.append(threading.current_thread())
        self.tells.append((url, tell))
        try:
            await end.wait()
        except asyncio.CancelledError:
            self.cancelled += 1
            raise
        raise self._error

    def news(self, text: str | None, follow: int = -1) -> None:
        self.tells[follow][1](News(text, Version(revision=1), time.time_ns()))

    def problem(self, text: str) -> None:
        self.tells[-1][1](SourceError(text))

    def ends(self, error: Exception | None = None) -> None:
        self._error = error or self._error
        loop, end = self._ends[-1]
        loop.call_soon_threadsafe(end.set)


class Watch:
    """Hears what the follower tells."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.source = Source(monkeypatch)
        self.held = Held()
        self.heard: list[Ended | SourceTold] = []
        self.follower = Follower(self.held, self.heard.append)

    async def until(self, is_so: Callable[[], Any]) -> None:
        with anyio.fail_after(PATIENCE):
            while not is_so():
                await anyio.sleep(0.005)

    async def next(self) -> Ended | SourceTold:
        await self.until(lambda: self.heard)
        return self.heard.pop(0)

    async def begin(self, text: str = "one", url: str = URL) -> Ended | SourceTold:
        count = len(self.source.tells)
        self.follower.poll(url, False)
        await self.until(lambda: len(self.source.tells) > count)
        self.source.news(text)
        return await self.next()

    def text(self, url: str = URL) -> str | None:
        return self.held.fetch(url, Version(), 1000).text

    async def settle(self) -> None:
        """Until what was told before is heard, if it is heard at all."""
        await anyio.sleep(0.05)


@pytest.fixture
def watch(monkeypatch: pytest.MonkeyPatch) -> Watch:
    return Watch(monkeypatch)


def play(test: Callable[[], Coroutine[Any, Any, None]], watch: Watch) -> None:
    async def run() -> None:
        try:
            await test()
        finally:
            watch.follower.end()

    anyio.run(run)
    for thread in watch.source.threads:
        thread.join(PATIENCE)
        assert not thread.is_alive()


def polled(event: Ended | SourceTold) -> tuple[bool, str, str | None]:
    assert isinstance(event, Ended)
    return event.changed, event.problem, event.follow


def test_the_first_that_it_tells_is_the_answer_and_the_next_are_news(watch: Watch) -> None:
    async def test() -> None:
        assert polled(await watch.begin()) == (True, "", "begun")
        assert watch.text() == "one"
        watch.source.news("two")
        assert await watch.next() == SourceTold(True)
        assert watch.text() == "two"
        watch.source.news("two")
        watch.source.news("three")
        assert await watch.next() == SourceTold(True)
        assert watch.text() == "three"
        assert not watch.heard, "the same once more is no news"

    play(test, watch)


def test_a_poll_finds_it_alive(watch: Watch) -> None:
    async def test() -> None:
        await watch.begin()
        watch.follower.poll(URL, False)
        assert polled(await watch.next()) == (False, "", "alive")
        assert len(watch.source.tells) == 1

    play(test, watch)


def test_what_is_read_anew_is_followed_anew(watch: Watch) -> None:
    async def test() -> None:
        await watch.begin()
        watch.follower.poll(URL, True)
        await watch.until(lambda: len(watch.source.tells) == 2)
        await watch.until(lambda: watch.source.cancelled)
        assert watch.text() == "one", "until then, the last one counts"
        watch.source.news("old", follow=0)
        watch.source.news("one")
        assert polled(await watch.next()) == (False, "", "begun")
        assert watch.text() == "one", "what has ended tells nothing any more"

    play(test, watch)


def test_who_is_silent_for_long_is_followed_anew(
    watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def test() -> None:
        await watch.begin()
        monkeypatch.setattr(following, "SILENCE", 0.0)
        watch.follower.poll(URL, False)
        await watch.until(lambda: len(watch.source.tells) == 2)
        watch.follower.poll(URL, False)
        await watch.settle()
        assert not watch.heard
        assert len(watch.source.tells) == 2, "it has only begun"
        watch.source.news("two")
        assert polled(await watch.next()) == (True, "", "begun")

    play(test, watch)


def test_a_list_that_cannot_be_used_leaves_the_last_one(watch: Watch) -> None:
    async def test() -> None:
        await watch.begin()
        at = watch.held.fetch(URL, Version(), 1000).at
        watch.source.problem("no key")
        assert await watch.next() == SourceTold(False, "no key")
        watch.source.problem("no key")
        watch.follower.poll(URL, False)
        assert polled(await watch.next()) == (False, "no key", "alive")
        held = watch.held.fetch(URL, Version(), 1000)
        assert (held.text, held.at) == ("one", at), "nobody has confirmed it"
        watch.source.news("one")
        assert await watch.next() == SourceTold(False)

    play(test, watch)


def test_a_confirmed_list_is_as_new_as_that(watch: Watch) -> None:
    async def test() -> None:
        await watch.begin()
        before = watch.held.fetch(URL, Version(), 1000)
        watch.source.news(None)
        await watch.until(lambda: watch.held.fetch(URL, Version(), 1000).at > before.at)
        assert watch.text() == "one"
        assert not watch.heard

    play(test, watch)


def test_without_a_list_nothing_is_confirmed(watch: Watch) -> None:
    async def test() -> None:
        watch.follower.poll(URL, False)
        await watch.until(lambda: watch.source.tells)
        watch.source.problem("no key")
        assert polled(await watch.next()) == (False, "no key", "begun")
        watch.source.news(None)
        await watch.settle()
        with pytest.raises(SourceError, match="no key"):
            watch.text()

    play(test, watch)


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (SourceError("all is lost"), "all is lost"),
        (KeyError("x"), "fault of rait: KeyError('x')"),
    ],
)
def test_when_it_ends_that_is_told_and_the_next_poll_follows_again(
    watch: Watch, error: Exception, says: str
) -> None:
    async def test() -> None:
        await watch.begin()
        watch.source.ends(error)
        event = await watch.next()
        assert isinstance(event, Ended)
        assert event.follow == "lost"
        assert says in event.problem
        assert watch.text() == "one"
        assert polled(await watch.begin("two")) == (True, "", "begun")

    play(test, watch)


def test_a_run_waits_for_the_first_list_and_asks_nobody_else(
    watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(source, "fetch", None)  # whoever calls it fails

    async def test() -> None:
        watch.follower.turn(URL)
        found: list[str | None] = []
        async with anyio.create_task_group() as tasks:

            async def run() -> None:
                found.append(await anyio.to_thread.run_sync(watch.text))

            tasks.start_soon(run)
            await watch.settle()
            assert not found
            await watch.until(lambda: watch.source.tells)
            watch.source.news("one")
        assert found == ["one"]

    play(test, watch)


def test_another_source_takes_its_place(watch: Watch) -> None:
    async def test() -> None:
        await watch.begin()
        watch.follower.turn(OTHER)
        await watch.until(lambda: watch.source.cancelled)
        watch.source.news("late", follow=0)
        await watch.until(lambda: len(watch.source.tells) == 2)
        watch.source.news("two")
        assert polled(await watch.next()) == (True, "", "begun")
        assert watch.text(OTHER) == "two"

    play(test, watch)


def test_a_list_that_is_none_of_a_live_source_ends_it(
    watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    web = "https://example.org/peers"
    monkeypatch.setattr(source, "fetch", lambda *_: News("web", Version(), 1))

    async def test() -> None:
        watch.follower.turn(web)
        assert not watch.heard
        watch.follower.turn(URL)
        await watch.until(lambda: watch.source.tells)
        assert watch.held.poll(web), "a transfer that was under way"
        watch.source.news("one")
        await watch.next()
        watch.held.poll(web)
        assert watch.text() == "one", "takes nothing from what is followed"
        watch.follower.turn(web)
        assert polled(await watch.next()) == (False, "", "lost")
        await watch.until(lambda: watch.source.cancelled)
        assert watch.text(web) == "web"

    play(test, watch)


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


def test_no_number_of_follows_leaves_anything_open(watch: Watch) -> None:
    async def test() -> None:
        for _ in range(3):
            await watch.begin()
            watch.follower.end()
        await watch.until(lambda: not any(each.is_alive() for each in watch.source.threads))
        before = descriptors()
        for count in range(20):
            await watch.begin(str(count))
            if count % 2:
                watch.source.ends()
                await watch.next()
            watch.follower.end()
        await watch.until(lambda: not any(each.is_alive() for each in watch.source.threads))
        assert descriptors() < before + 20  # each would leave one at the least

    play(test, watch)


def test_a_system_that_has_no_thread_for_us_is_told_and_the_next_poll_begins_it(
    watch: Watch, monkeypatch: pytest.MonkeyPatch
) -> None:
    def start(_: object) -> None:
        raise RuntimeError("can't start new thread")

    async def test() -> None:
        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", start)
            watch.follower.poll(URL, False)
        changed, problem, follow = polled(await watch.next())
        assert (changed, follow) == (False, "lost")
        assert "not let rait start a thread" in problem
        assert polled(await watch.begin()) == (True, "", "begun")

    play(test, watch)

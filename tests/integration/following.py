"""Followers of a source, each of which holds what it was told, as `rait watch` does."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial

import anyio

from rait.adapters.config import source
from rait.adapters.config.remote import News
from rait.domain.errors import SourceError
from tests.integration.watching import until


class Follower:
    """Follows a URL, anew where following ended, and keeps all that it was told, and each error.

    ``tellings`` has one list for each time that it began.
    """

    def __init__(self, url: str) -> None:
        self.url = url
        self.tellings: list[list[News]] = []
        self.errors: list[str] = []

    async def run(self) -> None:
        while True:
            told: list[News] = []
            self.tellings.append(told)
            try:
                await source.follow(self.url, partial(self._take, told))
            except SourceError as error:
                self.errors.append(str(error))
            await anyio.sleep(0.1)

    def _take(self, told: list[News], news: News | SourceError) -> None:
        if isinstance(news, SourceError):
            self.errors.append(str(news))
        else:
            told.append(news)

    @property
    def told(self) -> list[News]:
        return [news for told in self.tellings for news in told]

    @property
    def text(self) -> str:
        """The list that it was told last, "" for none."""
        return next((news.text for news in reversed(self.told) if news.text is not None), "")

    @property
    def ports(self) -> dict[str, int]:
        return ports(self.text)

    def has(self, is_so: Callable[[dict[str, int]], bool]) -> None:
        """Wait until what it was told last is so."""
        until(lambda: self.text and is_so(self.ports), lambda: f"{self.text}{self.errors}")

    def says(self, text: str) -> None:
        """Wait until it is told an error with this text; of a slow member, it is told others."""
        until(lambda: any(text in error for error in self.errors), lambda: f"{self.errors}")


def ports(text: str) -> dict[str, int]:
    """The SendPort of each node in a list in JSON, if it has one."""
    peers = json.loads(text)["peers"] if text else []
    return {each["public_key"]: each["send_port"] for each in peers if "send_port" in each}


@contextmanager
def following(urls: Sequence[str]) -> Iterator[list[Follower]]:
    """A follower of each URL, all of which end with the block."""
    followers = [Follower(url) for url in urls]
    over = threading.Event()
    failed: list[BaseException] = []

    async def run() -> None:
        async with anyio.create_task_group() as tasks:
            for follower in followers:
                tasks.start_soon(follower.run)
            while not over.is_set():
                await anyio.sleep(0.02)
            tasks.cancel_scope.cancel()

    def in_thread() -> None:
        try:
            anyio.run(run)
        except BaseException as error:  # noqa: BLE001 - the test raises it
            failed.append(error)

    thread = threading.Thread(target=in_thread)
    thread.start()
    try:
        yield followers
    finally:
        over.set()
        thread.join()
    if failed:
        raise failed[0]

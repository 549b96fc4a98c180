"""The port of sources (see remote.py) to etcd."""

from __future__ import annotations

import threading
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import anyio
from anyio.abc import TaskGroup

from rait.adapters.config.etcd import messages
from rait.adapters.config.etcd.client import Client, MemberError, at_most
from rait.adapters.config.etcd.entries import line_of
from rait.adapters.config.etcd.url import Target, parse
from rait.adapters.config.remote import Answer, Display, Tell
from rait.adapters.config.version import Version, url_digest
from rait.domain.errors import SourceError
from rait.domain.replica import Change, Replica

Result = TypeVar("Result")

READ_SECONDS = 20.0
"""How long it may take to read all keys."""

HEARTBEAT = 10.0
"""Seconds: so often the member that tells of changes is asked whether it is alive."""

PAUSE = 0.2
"""Seconds before another member is asked for changes."""


def fetch(
    url: str,
    display: Display,
    timeout: float,
    limit: int,
    known: Version = Version(),  # noqa: ARG001, B008 - all is read: it is one request
) -> Answer:
    """As ``Remote.fetch``."""

    async def ask(client: Client, target: Target) -> Answer:
        return _answer(await _read(client, target, limit), url, limit, display(url))

    return _run(url, display, timeout, ask)


def _run(
    url: str,
    display: Display,
    timeout: float,
    work: Callable[[Client, Target], Awaitable[Result]],
) -> Result:
    """Do the work within so many seconds. Raises SourceError."""
    name = display(url)
    target = parse(url, name)
    done: list[Result] = []
    failed: list[SourceError] = []

    async def ask() -> Result:
        async with Client(target, name) as client:
            return await at_most(timeout, name, work(client, target))

    def run() -> None:
        try:
            done.append(anyio.run(ask))
        except SourceError as error:
            failed.append(error)
        except Exception as error:  # noqa: BLE001 - nobody above a thread would report it
            failed.append(SourceError(f"{name}: cannot be asked: {error!r}"))

    # In a thread, as a look-up of a name cannot be cancelled. It is a daemon, so that it never
    # keeps the process from ending.
    thread = threading.Thread(target=run, name="rait-etcd", daemon=True)
    thread.start()
    thread.join(timeout + 1)
    if failed:
        raise failed[0]
    if not done:
        raise SourceError(f"{name}: no whole answer within {timeout:g} seconds")
    return done[0]


async def follow(url: str, display: Display, limit: int, tell: Tell) -> None:
    """As ``Live.follow``."""
    name = display(url)
    target = parse(url, name)
    async with Client(target, name) as client:
        await _Follower(client, target, url, name, limit, tell).run()


class _Follower:
    """Holds what etcd has, from one read and the changes since.

    The changes come from one member. Where it fails, the next one goes on from the newest revision
    that is known. All is read anew where the changes since then are gone (they were compacted), and
    where the cluster is another one, or is back at an older revision.
    """

    def __init__(
        self, client: Client, target: Target, url: str, name: str, limit: int, tell: Tell
    ) -> None:
        self._client = client
        self._target = target
        self._url, self._name = url, name
        self._limit = limit
        self._tell = tell
        self._replica = Replica(0, 0, {})
        self._why = ""
        self._error: SourceError | None = None
        self._alive_at = 0.0

    async def run(self) -> None:
        await self._read()
        failures = 0
        while True:
            began = time.monotonic()
            await self._hear_one()
            if self._error is not None:
                raise self._error
            failures = 0 if self._alive_at > began else failures + 1
            if failures >= len(self._target.members):
                raise self._client.failed(f"no member tells of changes: {self._why}")
            self._client.move_on()
            await anyio.sleep(PAUSE)

    async def _read(self) -> None:
        reading = _read(self._client, self._target, self._limit)
        self._take(await at_most(READ_SECONDS, self._name, reading))

    def _take(self, replica: Replica) -> None:
        before, self._replica = self._replica, replica
        if replica.lines != before.lines or replica.cluster != before.cluster:
            self._tell(_answer(replica, self._url, self._limit, self._name))
        self._alive_at = time.monotonic()

    async def _hear_one(self) -> None:
        """Take the changes that one member tells, until it fails."""
        async with anyio.create_task_group() as tasks:
            try:
                if not await self._is_as_known(may_be_new=True):
                    await self._read()
                tasks.start_soon(self._beat, tasks)
                await self._hear()
            except MemberError as error:
                self._why = f"{self._client.member}: {error}"
            except SourceError as error:
                self._error = error
            tasks.cancel_scope.cancel()

    async def _hear(self) -> None:
        start = {"start_revision": self._replica.revision + 1, "progress_notify": True}
        async with self._client.changes(_range(self._target) | start) as stream:
            async for told in stream:
                if told.canceled:
                    if not told.compact_revision:
                        raise MemberError(f"it ended the stream: {told.cancel_reason}")
                    await self._read()
                    return
                if not told.created:
                    changes = tuple(_change(each, self._target) for each in told.events)
                    self._take(self._replica.told(changes, told.header.revision))

    async def _beat(self, tasks: TaskGroup) -> None:
        """Ask the member again and again whether it is alive, and has told all."""
        owed: Replica | None = None
        while True:
            await anyio.sleep(HEARTBEAT)
            try:
                is_as_known = await self._is_as_known()
            except (MemberError, SourceError) as error:
                self._why = f"{self._client.member}: {error}"
                break
            if is_as_known:
                self._tell(Answer(None, _version(self._replica, self._url)))
            elif owed is self._replica:
                self._why = f"{self._client.member}: it does not tell of changes"
                break
            owed = None if is_as_known else self._replica
        tasks.cancel_scope.cancel()

    async def _is_as_known(self, *, may_be_new: bool = False) -> bool:
        """Whether nothing was put since the known revision, and nothing removed.

        That is seen from the number of keys and the newest revision among them. What is new is no
        matter where it ``may_be_new``: it will be told.
        """
        known = self._replica
        newer = {"keys_only": True, "min_mod_revision": known.revision + 1, "limit": 1}
        found = await self._client.ask("/v3/kv/range", _range(self._target) | newer, messages.Range)
        self._alive_at = time.monotonic()
        is_later = found.header.revision >= known.revision
        if found.header.cluster_id != known.cluster or not is_later:
            return False
        return may_be_new or (not found.kvs and found.count == len(known.lines))


def _change(event: messages.Event, target: Target) -> Change:
    key = _name(event.kv.key, target)
    line = None if event.type == "DELETE" else line_of(key, event.kv.value)
    return Change(key, line, event.kv.mod_revision)


def _range(target: Target) -> dict[str, Any]:
    """All keys that begin with the prefix."""
    key = target.prefix.encode()
    return {"key": key, "range_end": key[:-1] + bytes([key[-1] + 1])}


async def _read(client: Client, target: Target, limit: int) -> Replica:
    # Of base64 and all that is around it, etcd makes less than three times the list.
    found = await client.call("/v3/kv/range", _range(target), messages.Range, 3 * limit)
    lines = {}
    for each in found.kvs:
        key = _name(each.key, target)
        lines[key] = line_of(key, each.value)
    return Replica(found.header.cluster_id, found.header.revision, lines)


def _name(key: bytes, target: Target) -> str:
    return key.decode("utf-8", "backslashreplace").removeprefix(target.prefix)


def _version(replica: Replica, url: str) -> Version:
    return Version(url_digest(url), revision=replica.revision)


def _answer(replica: Replica, url: str, limit: int, name: str) -> Answer:
    if not replica.lines:
        # Taken for an empty list, this would end all tunnels.
        raise SourceError(
            f"{name}: there is no key under this prefix; is it the right one? Nothing is done"
        )
    body = replica.text.encode()
    if len(body) > limit:
        raise SourceError(f"{name}: larger than {limit} bytes, the most that rait reads")
    return Answer(body, _version(replica, url))

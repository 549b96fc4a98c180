"""The port of sources (see source.py) to etcd."""

from __future__ import annotations

import random
import time
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import anyio
from anyio.abc import TaskGroup

from rait.adapters.config import source
from rait.adapters.config.bounds import MAX_BYTES
from rait.adapters.config.etcd.client import Client, MemberError, RefusedError
from rait.adapters.config.etcd.entries import MAX_VALUE, line_of
from rait.adapters.config.etcd.messages import (
    Changes,
    Committed,
    Event,
    KeyValue,
    Lease,
    Range,
    StreamedLease,
)
from rait.adapters.config.etcd.target import Target, parse
from rait.adapters.config.remote import (
    HEARTBEAT,
    NO_VERSION,
    News,
    Put,
    Tell,
    Version,
    in_daemon,
    url_digest,
)
from rait.adapters.config.source import as_text, display_name
from rait.domain import follower as domain
from rait.domain.config.keytext import shown
from rait.domain.errors import SourceError
from rait.domain.replica import Change, Replica

Result = TypeVar("Result")

_RANGE = "/v3/kv/range"

ATTEMPTS = 2
"""So often the key is read and written, where somebody else writes it in between."""

_LOST_LEASE = "requested lease not found"
_AT_ONCE = "somebody else writes it at the same time; does another machine have this private key?"

MAX_KEYS = 100_000
"""More keys than there are UDP ports, so than any node has links."""

PAUSE = 0.2
"""Seconds before another member is asked for changes."""


def fetch(url: str, limit: int, known: Version = NO_VERSION) -> News:  # noqa: ARG001 - see below
    """As ``source.fetch``; all is sent, whatever is known, as it is one request."""

    async def ask(client: Client) -> News:
        at = time.time_ns()
        return _news(_replica(await _read(client, limit), client.target), url, limit, at)

    return _run(url, display_name(url), ask)


def publish(url: str, key: str, text: str | None, lease: int) -> Put:
    """As ``source.publish``."""
    if text is not None and len(text.encode()) > MAX_VALUE:
        raise SourceError(f"the entry is larger than {MAX_VALUE} bytes, the most that rait reads")

    async def put(client: Client) -> Put:
        whole = f"{client.target.prefix}{key}"
        value = None if text is None else text.encode()
        try:
            return await _put(client, whole.encode(), value, lease)
        except RefusedError as error:
            if "permission denied" not in str(error):
                raise
            how = f"`etcdctl role grant-permission ROLE readwrite {whole}`"
            raise SourceError(f"{error} to write this key: {how}") from None

    return _run(url, f"{display_name(url)}/{key}", put)


def _run(url: str, name: str, work: Callable[[Client], Awaitable[Result]]) -> Result:
    """Do the work in the time that there is for it. Raises SourceError."""
    target, seconds = parse(url, name), source.TIMEOUT

    async def ask() -> Result:
        async with Client(target, name) as client:
            return await client.within(seconds, work(client))

    def run() -> Result:
        try:
            return anyio.run(ask)
        except SourceError:
            raise
        except Exception as error:  # noqa: BLE001 - nobody above a thread would report it
            raise SourceError(f"{name}: cannot be asked: {error!r}") from None

    try:
        return in_daemon(run, "rait-etcd").result(seconds + 1)
    except TimeoutError:
        raise SourceError(f"{name}: no whole answer within {seconds:g} seconds") from None


async def _put(client: Client, key: bytes, value: bytes | None, lease: int) -> Put:
    """Have this value under the key, or None for no key.

    Each write is a transaction that holds only while the key is as it was read, so that no two
    writers undo each other unseen. What stands already costs no write, so nobody is told of it.
    """
    since = 0
    for _ in range(ATTEMPTS):
        found = await client.call(_RANGE, {"key": key}, Range)
        since = since or found.header.revision
        before = found.kvs[0] if found.kvs else KeyValue(key)
        try:
            write = await _write(client, before, value, lease)
            if write is None:  # by this attempt's forerunner, if it was written after that read
                return Put(before.mod_revision, is_new=before.mod_revision > since)
            done = await client.call("/v3/kv/txn", _if_still(before, write), Committed)
        except RefusedError as error:
            if _LOST_LEASE not in str(error):
                raise
            continue
        if done.succeeded:
            is_other = before.mod_revision > 0 and value not in (None, before.value)
            return Put(done.header.revision, True, before.mod_revision if is_other else 0)
    raise client.failed(_AT_ONCE)


async def _write(
    client: Client, before: KeyValue, value: bytes | None, lease: int
) -> dict[str, Any] | None:
    """The request that makes the key as it should be, None if it is so."""
    if value is None:
        return {"request_delete_range": {"key": before.key}} if before.mod_revision else None
    is_same = before.mod_revision > 0 and before.value == value
    granted = 0
    if lease:
        alive = await _kept_alive(client, before.lease) if is_same and before.lease else 0
        new = Lease(TTL=alive) if alive == lease else await _granted(client, lease)
        if alive == new.TTL:  # also where etcd grants none that is as short as asked for
            return None
        granted = new.ID
    elif is_same and not before.lease:
        return None
    return {"request_put": {"key": before.key, "value": value, "lease": granted}}


async def _granted(client: Client, seconds: int) -> Lease:
    new = await client.call("/v3/lease/grant", {"TTL": seconds}, Lease)
    if not new.ID:  # without one, the entry would stay for ever
        raise client.failed("etcd grants no lease")
    return new


async def _kept_alive(client: Client, lease: int) -> int:
    """The seconds that a lease has from now on, 0 if it is gone."""
    answer = await client.call("/v3/lease/keepalive", {"ID": lease}, StreamedLease)
    if answer.result is None:
        raise client.failed("etcd does not keep the lease alive")
    return answer.result.TTL


def _if_still(before: KeyValue, write: dict[str, Any]) -> dict[str, Any]:
    """The transaction that writes if the key is as it was ``before``; 0 is for no such key."""
    known = {"key": before.key, "target": "MOD", "mod_revision": before.mod_revision}
    return {"compare": [{"result": "EQUAL", **known}], "success": [write]}


async def follow(url: str, tell: Tell) -> None:
    """As ``source.follow``."""
    await _Follower(url, tell).run()


class _Follower:
    """Asks members, and tells of what they have, as rait/domain/follower.py decides."""

    def __init__(self, url: str, tell: Tell) -> None:
        self._url, self._name = url, display_name(url)
        self._target = parse(url, self._name)
        self._tell = tell
        self._unusable: SourceError | None = None
        self._error = ""
        members, now = len(self._target.members), time.monotonic()
        self._state = domain.State(name=self._name, members=members, heard_at=now)

    async def run(self) -> None:
        # A fleet whose rait.conf is the same is spread over the members.
        member = random.randrange(len(self._target.members))  # noqa: S311
        while not self._error:
            async with Client(self._target, self._name, member) as client:
                async with anyio.create_task_group() as tasks:
                    self._step(domain.Turn(client.member), client, tasks)
                member = client.next
            await anyio.sleep(PAUSE)
        raise SourceError(self._error)

    def _step(self, event: domain.Event, client: Client, tasks: TaskGroup) -> None:
        self._state, actions = domain.step(self._state, event, time.monotonic())
        for action in actions:
            match action:
                case domain.Ask():
                    tasks.start_soon(self._ask, action, client, tasks)
                case domain.Tell(replica, is_new):
                    self._take(replica, is_new)
                case domain.Leave(error):
                    self._error = error
                    tasks.cancel_scope.cancel()

    def _take(self, replica: Replica, is_new: bool) -> None:
        news = News(None, _version(replica, self._url), time.time_ns())
        if is_new:
            try:
                news = _news(replica, self._url, MAX_BYTES, news.at)
                self._unusable = None
            except SourceError as error:
                self._unusable = error  # not the end: the next change may mend it
        self._tell(self._unusable or news)

    async def _ask(self, ask: domain.Ask, client: Client, tasks: TaskGroup) -> None:
        try:
            if ask.what == "changes":
                async with client.changes(_message(ask, self._target)) as stream:
                    async for told in stream:
                        self._step(_told(told, self._target), client, tasks)
            else:
                self._step(await self._answer(ask, client), client, tasks)
        except (MemberError, SourceError) as error:
            is_refusal = isinstance(error, SourceError)
            self._step(domain.Failed(ask, str(error), is_refusal), client, tasks)

    async def _answer(self, ask: domain.Ask, client: Client) -> domain.Event:
        if ask.what == "all":
            found = await client.within(source.TIMEOUT, _read(client, MAX_BYTES))
            return domain.Listed(_replica(found, self._target), client.member)
        if ask.what == "revision":
            await anyio.sleep(HEARTBEAT)
            ask = domain.Ask("revision", self._state.replica.revision)  # by now
        found = await client.ask(_RANGE, _message(ask, self._target), Range)
        newest = next((_change(Event(each), self._target) for each in found.kvs), None)
        header = found.header
        return domain.Answered(ask, header.cluster_id, header.revision, found.count, newest)


def _message(ask: domain.Ask, target: Target) -> dict[str, Any]:
    keys, after = _range(target), ask.revision + 1
    match ask.what:
        case "past":
            newest = {"sort_order": "DESCEND", "sort_target": "MOD", "limit": 1}
            return keys | newest | {"revision": ask.revision}
        case "changes":
            return keys | {"start_revision": after}
        case "newer":
            return keys | {"keys_only": True, "min_mod_revision": after, "limit": 1}
        case _:  # a key that is not there: to find newer ones, etcd goes through all
            return {"key": keys["key"]}


def _told(told: Changes, target: Target) -> domain.Event:
    if told.canceled and not told.compact_revision:
        raise MemberError(f"it ended the stream: {shown(told.cancel_reason)}")
    changes = tuple(_change(each, target) for each in told.events)
    return domain.Told(None if told.compact_revision else changes)


def _change(event: Event, target: Target) -> Change:
    key = _name(event.kv.key, target)
    line = None if event.type == "DELETE" else line_of(key, event.kv.value)
    return Change(key, line, event.kv.mod_revision)


def _range(target: Target) -> dict[str, Any]:
    """All keys that begin with the prefix."""
    key = target.prefix.encode()
    return {"key": key, "range_end": key[:-1] + bytes([key[-1] + 1])}


async def _read(client: Client, limit: int) -> Range:
    # Of base64 and all that is around it, etcd makes less than three times the list.
    found = await client.call(_RANGE, _range(client.target), Range, 3 * limit)
    if len(found.kvs) > MAX_KEYS:
        raise client.failed(f"more than {MAX_KEYS} keys, the most that rait reads")
    return found


def _replica(found: Range, target: Target) -> Replica:
    keys = {_name(each.key, target): each for each in found.kvs}
    lines = {key: line_of(key, each.value) for key, each in keys.items()}
    revisions = {key: each.mod_revision for key, each in keys.items()}
    return Replica(found.header.cluster_id, found.header.revision, lines, revisions)


def _name(key: bytes, target: Target) -> str:
    """What follows the prefix; bytes that are no text stay apart from all others."""
    return key.decode("utf-8", "surrogateescape").removeprefix(target.prefix)


def _version(replica: Replica, url: str) -> Version:
    return Version(url_digest(url), revision=replica.revision)


def _news(replica: Replica, url: str, limit: int, at: int) -> News:
    if not replica.lines:
        # Taken for an empty list, this would end all tunnels.
        raise SourceError(
            f"{display_name(url)}: there is no key under this prefix; is it the right one? Nothing "
            "is done"
        )
    text = as_text(replica.text.encode(), display_name(url), limit)
    return News(text, _version(replica, url), at)

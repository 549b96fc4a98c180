"""The port of sources (see source.py) to etcd."""

from __future__ import annotations

import random
import time
from collections.abc import Awaitable, Callable
from typing import Any, Literal, TypeVar

import anyio
from anyio.abc import TaskGroup

from rait.adapters.config import source
from rait.adapters.config.bounds import MAX_BYTES
from rait.adapters.config.etcd.client import Client, MemberError, RefusedError
from rait.adapters.config.etcd.entries import MAX_VALUE, line_of
from rait.adapters.config.etcd.messages import (
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

PATIENCE = 10.0
"""Seconds without a word, after which following ends if each member was asked."""

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
    """Holds what etcd has, from one read and the changes since.

    The changes come from one member. Where it fails, the next one goes on from the newest revision
    that is known. All is read anew where the changes since then are gone (they were compacted),
    where a member does not tell of them, and where the cluster is another one, or was restored as
    it was once.
    """

    def __init__(self, url: str, tell: Tell) -> None:
        self._url, self._name = url, display_name(url)
        self._target = parse(url, self._name)
        self._tell = tell
        self._replica = Replica(0, 0, {}, {})
        self._must_read = True
        self._why = ""
        self._error: SourceError | None = None
        self._unusable: SourceError | None = None
        self._heard_at = time.monotonic()

    async def run(self) -> None:
        # A fleet whose rait.conf is the same is spread over the members.
        member = random.randrange(len(self._target.members))  # noqa: S311
        failures = 0
        while True:
            began = time.monotonic()
            async with Client(self._target, self._name, member) as client:
                await self._hear_one(client)
                member = client.next
            if self._error is not None:
                raise self._error
            failures = 1 if self._heard_at > began else failures + 1
            is_long_ago = time.monotonic() > self._heard_at + PATIENCE
            if is_long_ago and failures >= len(self._target.members):
                raise SourceError(f"{self._name}: no member tells of changes: {self._why}")
            await anyio.sleep(PAUSE)

    async def _hear_one(self, client: Client) -> None:
        """Take the changes that one member tells, until it fails."""
        async with anyio.create_task_group() as tasks:
            try:
                if self._must_read or not await self._goes_on(client):
                    await self._read(client)
                tasks.start_soon(self._beat, client, tasks)
                await self._hear(client)
            except MemberError as error:
                self._why = f"{client.member}: {error}"
            except SourceError as error:
                self._error = error
            tasks.cancel_scope.cancel()

    async def _read(self, client: Client) -> None:
        found = await client.within(source.TIMEOUT, _read(client, MAX_BYTES))
        self._must_read = False
        self._heard_at = time.monotonic()
        self._take(_replica(found, self._target))

    def _take(self, replica: Replica) -> None:
        before, self._replica = self._replica, replica
        if replica.lines == before.lines and replica.cluster == before.cluster:
            self._confirm()  # as no heartbeat does where the same is written again and again
        else:
            self._unusable = None
            try:
                self._tell(_news(replica, self._url, MAX_BYTES, time.time_ns()))
            except SourceError as error:
                # Not the end: the next change may mend it.
                self._unusable = error
                self._tell(error)

    def _confirm(self) -> None:
        self._tell(self._unusable or News(None, _version(self._replica, self._url), time.time_ns()))

    async def _hear(self, client: Client) -> None:
        start = {"start_revision": self._replica.revision + 1}
        async with client.changes(_range(self._target) | start) as stream:
            async for told in stream:
                if told.compact_revision:
                    self._must_read = True
                    return
                if told.canceled:
                    raise MemberError(f"it ended the stream: {shown(told.cancel_reason)}")
                if told.events:
                    self._heard_at = time.monotonic()
                    changes = tuple(_change(each, self._target) for each in told.events)
                    self._take(self._replica.told(changes))

    async def _beat(self, client: Client, tasks: TaskGroup) -> None:
        """Ask the member again and again whether it is alive, and has told all."""
        owed: Replica | None = None
        while True:
            await anyio.sleep(HEARTBEAT)
            try:
                standing = await self._standing(client)
            except (MemberError, SourceError) as error:
                self._why = f"{client.member}: {error}"
                break
            if standing == "same":
                self._heard_at = time.monotonic()
                self._confirm()
            elif standing == "another" or owed is self._replica:
                self._why = f"{client.member}: it does not tell of changes"
                self._must_read = True
                break
            owed = self._replica
        tasks.cancel_scope.cancel()

    async def _goes_on(self, client: Client) -> bool:
        """Whether the member has what is known, and perhaps more.

        A cluster that was restored from a backup may have the name of the one that it was, and be
        past the known revision: so what it had at this revision is asked for.
        """
        known = self._replica
        last = {"revision": known.revision, "sort_order": "DESCEND", "sort_target": "MOD"}
        try:
            found = await client.ask(_RANGE, _range(self._target) | last | {"limit": 1}, Range)
        except RefusedError:  # this revision is compacted, or is still to come
            return False
        newest = next((_change(Event(each), self._target) for each in found.kvs), None)
        header = found.header
        if not known.is_past_of(header.cluster_id, found.count, newest):
            return False
        if header.revision == known.revision:
            self._confirm()
        return True

    async def _standing(self, client: Client) -> Literal["same", "newer", "another"]:
        """Whether the registry is as it is known, or newer, or has another history.

        That is seen from the number of keys and the newest revision among them: a key that is
        deleted is one less, and one that is put has a newer revision.
        """
        known, keys = self._replica, _range(self._target)
        # etcd goes through all keys to find newer ones. Where nothing at all was written since, to
        # ask for one that is not there is enough.
        found = await client.ask(_RANGE, {"key": keys["key"]}, Range)
        header = found.header
        if header.cluster_id != known.cluster or header.revision < known.revision:
            return "another"
        if header.revision == known.revision:
            return "same"
        newer = {"keys_only": True, "min_mod_revision": known.revision + 1, "limit": 1}
        found = await client.ask(_RANGE, keys | newer, Range)
        if found.kvs or found.count != len(known.lines):
            return "newer"
        if self._replica is known:
            self._replica = known.told((), found.header.revision)
        return "same"


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

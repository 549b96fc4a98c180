"""Puts the entry of a node under its key, and removes it.

Each write is a transaction that holds only while the key is as it was read, so that no two writers
undo each other unseen. What stands already costs no write, so nobody is told of it.
"""

from __future__ import annotations

from typing import Any

from rait.adapters.config.etcd.client import Client, RefusedError
from rait.adapters.config.etcd.messages import Committed, KeyValue, Lease, Range, StreamedLease
from rait.adapters.config.remote import Put

ATTEMPTS = 2
"""So often the key is read and written, where somebody else writes it in between."""

_LOST_LEASE = "requested lease not found"
_AT_ONCE = "somebody else writes it at the same time; does another machine have this private key?"


async def publish(client: Client, key: bytes, value: bytes | None, lease: int) -> Put:
    """As ``Live.publish``, with the whole key."""
    since = 0
    for _ in range(ATTEMPTS):
        found = await client.call("/v3/kv/range", {"key": key}, Range)
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

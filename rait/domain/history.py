"""What the journal remembers: runs, their events and outcomes, and the topology they add up to."""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import Struct

from rait.domain.topology import EMPTY, Link, Topology


class RunHeader(Struct, frozen=True, kw_only=True):
    """Who changes what, and why.

    ``scope`` keeps apart the meshes that share one journal, ``started_at`` is unix time in
    nanoseconds, and the digests are SHA-256 in hex of the configuration and peers as read
    ("" where there was none).
    """

    scope: str
    command: str
    version: str
    uid: int
    started_at: int
    public_key: str
    config_digest: str = ""
    peers_digest: str = ""


class Memory(Struct, frozen=True, kw_only=True):
    """What the journal knows of one scope.

    ``topology`` folds all events known to have happened. ``pending`` are the links whose making
    was intended by a run that never said what became of it (a crash), so they may exist.
    """

    topology: Topology = EMPTY
    pending: Mapping[str, Link] = {}

"""How the links are: gathered for ``rait status``, the metrics and the health page."""

from __future__ import annotations

import time
from collections.abc import Mapping
from contextlib import closing

import msgspec
from msgspec import structs

from rait.adapters.config import source
from rait.app.load import Loaded, configured
from rait.app.options import Options
from rait.app.scopes import goes_by_key
from rait.app.sight import Memory, kept_peers, look, names_of_peers, remembered, waiting
from rait.domain.babel import BabelNeighbour
from rait.domain.errors import RaitError
from rait.domain.status import LinkStatus, PeersAge, Seen, Status, peers_age, status_of

BABELD_SECONDS = 2.0
"""How long babeld may take to tell its neighbours; it tells them within a millisecond or two."""


class StatusReader:
    """Reads the status, as often as need be; it writes nothing and waits for no run."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._given: Loaded | None = None

    def read(self, failures: Mapping[str, str] | None = None) -> Status:
        """The status now; ``failures`` are as in Seen.

        Raises ConfigError for a wrong rait.conf, and MachineError if the links cannot be looked at.
        """
        loaded = self._configuration()
        memory = remembered(self._options, loaded)
        status = self._seen(loaded, memory, failures)
        if not status.counts()["missing"]:
            return status
        # A run may have removed them on purpose, after the journal was read.
        newer = remembered(self._options, loaded)
        return status if newer == memory else self._seen(loaded, newer, failures)

    def _seen(self, loaded: Loaded, memory: Memory, failures: Mapping[str, str] | None) -> Status:
        last, public_key = memory.last, memory.public_key
        observation, scope = look(self._options, loaded, memory.known, public_key)
        peers, age = self._peers(loaded, public_key)
        return status_of(
            Seen(
                observation=observation,
                known=memory.known,
                scope=scope,
                peers=peers,
                failures=failures,
                neighbours=self._neighbours(loaded),
                list_age=age,
                last=last,
                problem=memory.problem,
                waiting=waiting(self._options, loaded, memory),
            )
        )

    def _configuration(self) -> Loaded:
        """The configuration as it is now; one that is no file is read only once."""
        if self._given is not None:
            return self._given
        loaded = configured(self._options.config)
        if goes_by_key(self._options.config):
            self._given = loaded
        return loaded

    def _peers(
        self, loaded: Loaded, public_key: str
    ) -> tuple[dict[str, str] | None, PeersAge | None]:
        """The names of the peers by key, and the age of the list. Nothing is downloaded."""
        kept = kept_peers(self._options, loaded, public_key)
        names = names_of_peers(self._options, loaded, kept)
        if not source.is_remote(loaded.config.peers):
            return names, None
        confirmed_at = kept.news.at if kept is not None else None
        age = peers_age(confirmed_at, time.time_ns(), loaded.config.watch.max_peers_age)
        revision = kept.news.version.revision if kept is not None else 0
        return names, structs.replace(age, revision=revision)

    def _neighbours(self, loaded: Loaded) -> tuple[BabelNeighbour, ...] | None:
        """babeld's neighbours, or None if it does not answer."""
        from rait.app.routing import Routing  # here, as `rait list` needs none

        routing = Routing(loaded.config, seconds=BABELD_SECONDS)
        try:
            with closing(routing.client) as client:
                return client.neighbours()
        except (RaitError, OSError) as error:
            self._options.debug(f"babeld tells no neighbours: {error}")
            return None


def status_object(status: Status) -> dict[str, object]:
    """The status as a value for JSON. Times are unix seconds, ages seconds, and counters bytes."""
    value: dict[str, object] = msgspec.to_builtins(status)
    return value | {
        "healthy": status.healthy,
        "counts": status.counts(),
        "links": [_link_object(link) for link in status.links],
    }


def _link_object(link: LinkStatus) -> dict[str, object]:
    value: dict[str, object] = msgspec.to_builtins(link)
    return value | {"endpoint": str(link.endpoint) if link.endpoint is not None else None}

"""What a run gets from the network: the peers list of a URL, and the addresses of host names."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

from rait.adapters.config import source
from rait.adapters.config.resolve import Host, LookUp, resolve

if TYPE_CHECKING:
    from rait.adapters.config.source import News
    from rait.adapters.config.version import Version
    from rait.adapters.netns import Netns
    from rait.domain.errors import Path


class Network:
    """Asks the network anew each time. ``rait watch`` has another one, which knows the answers."""

    def fetch(self, url: str, known: Version, limit: int, signed: bool = False) -> News:
        """As ``source.fetch``. Raises SourceError."""
        return source.fetch(url, known, limit, signed)

    def look_up(
        self,
        hosts: Iterable[Host],
        transit: Netns,
        timeout: float,
        locations: Mapping[Host, Path],
        name: str,
    ) -> LookUp:
        """As ``resolve``, for the hosts of the list of this name."""
        return resolve(hosts, transit, timeout, locations, name)


NETWORK = Network()

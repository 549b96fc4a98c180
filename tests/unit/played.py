"""rait's command line on a machine that is played: whole runs, without root and without links."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import pytest
from msgspec import structs

from rait.adapters import netns
from rait.adapters.config import caches
from rait.adapters.keys import KeyPair
from rait.app import session, sight
from rait.app.machine import Machine
from rait.domain.backend import Observation, ObservedLink, UnreadLink
from rait.domain.events import Event
from rait.domain.topology import BackendKind
from rait.testing.machine import Machine as Kernel
from rait.testing.machine import RefusedError
from tests.unit.command_line import PEERS, PRIVATE, Rait

CONF = f"""\
private_key = "{PRIVATE}"
peers = "peers.conf"
journal = "journal.db"
transport {{
  address_family = "ip4"
  send_port = 50153
  mtu = 1420
  ifprefix = "rait4x"
}}
"""
ALL = [f"rait4x{port}" for port in PEERS]


class Played(Kernel):
    """What the kernel has, and what goes wrong with it, by the names of links.

    What is ``refused`` is not done, and what is ``half_done`` fails when it is done. Links that are
    ``unread`` cannot be looked at. ``made`` are the namespaces that rait made sure of.
    """

    def __init__(self) -> None:
        super().__init__(1)
        self.refused: dict[str, str] = {}
        self.half_done: dict[str, BaseException] = {}
        self.unread: dict[str, str] = {}
        self.made: list[str] = []

    def attempt(self, _: int, event: Event) -> None:
        if event.name in self.refused:
            raise RefusedError(self.refused[event.name])
        self.happen(event)
        if event.name in self.half_done:
            raise self.half_done[event.name]

    def observe(self) -> Observation:
        seen = super().observe()
        links = {name: link for name, link in seen.links.items() if name not in self.unread}
        unread = {
            name: UnreadLink(link.link.origin.netns, link.link.settings.group, self.unread[name])
            for name, link in seen.links.items()
            if name in self.unread
        }
        return structs.replace(seen, links=links, unread=unread)

    @property
    def names(self) -> list[str]:
        return sorted(self.wires)


class PlayedBackend:
    """Carries out events in the played kernel, as a backend does."""

    def __init__(self, kernel: Played) -> None:
        self._kernel = kernel

    def apply(self, _: object, events: Iterable[Event]) -> Iterator[str | None]:
        for event in events:
            try:
                self._kernel.attempt(0, event)
            except RefusedError as refusal:
                yield str(refusal)
            else:
                yield None


class PlayedMachine(Machine):
    """A run's sight of the played kernel."""

    def __init__(self, kernel: Played, key: KeyPair) -> None:
        super().__init__(netns.open_netns(""), key)
        self._played = kernel

    def choose(self, _: str) -> BackendKind:
        return "kernel"

    def observe(self, *_: object, **__: object) -> Observation:
        seen = self._played.observe()
        self._origins.update((name, link.link.origin) for name, link in seen.links.items())
        return seen

    def trace(self, *_: object) -> tuple[list[ObservedLink], dict[str, UnreadLink]]:
        return [], {}

    def leftovers(self, _: Sequence[str]) -> tuple[str, ...]:
        return ()

    def _backend(self, _: str) -> Any:
        return PlayedBackend(self._played)

    def _sockets_for(self, *_: object) -> None:
        pass


def play(monkeypatch: pytest.MonkeyPatch, rait: Rait) -> Played:
    """Have rait see and change this kernel from now on; it wants a link to each of PEERS."""
    kernel = Played()

    def machine_of(_: object, key: KeyPair, **__: object) -> Machine:
        return PlayedMachine(kernel, key)

    for module in (session, sight):
        monkeypatch.setattr(module, "machine_of", machine_of)
    monkeypatch.setattr(netns, "ensure_netns", kernel.made.append)
    monkeypatch.setattr(caches, "_ROOT_CACHE", str(rait.directory / "cache"))
    monkeypatch.setenv("XDG_CACHE_HOME", str(rait.directory / "cache"))
    rait.write(CONF, PEERS)
    return kernel

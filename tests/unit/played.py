"""rait's command line on a machine that is played: whole runs, without root and without links."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import pytest
from msgspec import structs

from rait.adapters import netns
from rait.adapters.config import caches
from rait.adapters.keys import KeyPair
from rait.adapters.netns import Netns
from rait.app import session, sight
from rait.app.machine import Machine
from rait.domain.backend import Observation, Outcome, UnreadLink
from rait.domain.events import Event
from rait.domain.topology import Link
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


class PlayedMachine(Machine):
    """A run's sight of the played kernel, whose links are in the namespace of the test."""

    def __init__(self, kernel: Played, key: KeyPair) -> None:
        super().__init__(netns.open_netns(""), key)
        self._played = kernel

    def choose(self, _: str) -> str:  # type: ignore[override]
        return "kernel"

    def observe(self, *_: object, **__: object) -> Observation:
        return self._played.observe()

    def trace(self, *_: object) -> tuple[list[object], dict[str, object]]:  # type: ignore[override]
        return [], {}

    def home_of(self, _: Link) -> Netns | None:
        return None

    def apply(self, events: Iterable[Event], *_: object) -> Iterator[Outcome]:
        return iter(self._played.apply(events))

    def leftovers(self, _: Sequence[str]) -> tuple[str, ...]:
        return ()


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

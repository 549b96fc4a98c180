"""What a run knows and asks before it changes anything: babeld, the journal, its keys."""

from __future__ import annotations

import json
from base64 import b64encode
from typing import Any

import pytest

from rait.adapters.keys import KeyPair
from rait.app import isolation, routing
from rait.app.session import machine_of
from rait.domain.babel import BabelNeighbour
from rait.domain.backend import Observation
from rait.domain.config.schema import Config, Isolation
from rait.domain.errors import MachineError
from tests.unit.command_line import PEERS, Rait
from tests.unit.played import ALL, CONF, Played
from tests.unit.test_routing import FakeBabeld as Babeld

FEW = dict(list(PEERS.items())[:1])
FIRST = ALL[0]
SYNC = 'babeld {\n  sync = true\n  param = "rxcost 32"\n  extra_cmd = "redistribute local"\n}\n'


class FakeBabeld(Babeld):
    """babeld, and how many runs have asked for it."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        super().__init__()
        self.connections = 0
        self.is_deaf = False
        monkeypatch.setattr(routing, "BabeldClient", self._connected)

    def _connected(self, *_: object) -> FakeBabeld:
        self.connections += 1
        return self

    def command(self, command: str) -> None:
        if self.is_deaf:
            raise MachineError("no answer")
        self._hear(command)

    def neighbours(self) -> tuple[BabelNeighbour, ...]:
        if self.is_deaf:
            raise MachineError("no answer")
        return (BabelNeighbour(FIRST, "fe80::1", 0xFFFF, 32, 96, 128, None),)

    def close(self) -> None:
        pass


def status(rait: Rait) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(rait("status", "--json").out)
    return found


@pytest.fixture
def babeld(kernel: Played, monkeypatch: pytest.MonkeyPatch) -> FakeBabeld:
    assert not kernel.names
    return FakeBabeld(monkeypatch)


def test_babeld_is_asked_only_by_who_wants_that(rait: Rait, babeld: FakeBabeld) -> None:
    rait("up")
    rait("down")
    assert babeld.connections == 0
    rait("up")
    assert rait("babeld", "sync").status == 0
    assert babeld.connections == 1
    assert sorted(babeld.has) == ALL


def test_babeld_hears_of_links_that_come_and_go_and_then_extra_cmd(
    rait: Rait, kernel: Played, babeld: FakeBabeld
) -> None:
    rait.write(CONF + SYNC, PEERS)
    kernel.refused = {FIRST: "no room"}
    assert rait("up").status == 3
    assert sorted(babeld.has) == ALL[1:], "babeld has no use for a link that could not be made"
    kernel.refused = {}
    assert rait("up").status == 0
    assert babeld.has == dict.fromkeys(ALL, "rxcost 32")
    assert babeld.said[-1] == "redistribute local"
    said = len(babeld.said)
    assert rait("up").out == "rait up: nothing to do; 3 links\n"
    assert len(babeld.said) == said
    rait("down")
    assert babeld.has == {}


def test_extra_cmd_that_babeld_did_not_take_is_owed(rait: Rait, babeld: FakeBabeld) -> None:
    rait.write(CONF + SYNC, PEERS)
    babeld.is_deaf = True
    assert rait("up").status == 3
    plan = rait("plan")
    assert "babeld has not taken extra_cmd yet, and gets it again: redistribute local" in plan.err
    babeld.is_deaf = False
    assert rait("up").out.startswith("rait up: extra_cmd sent to babeld")
    assert babeld.said.count("redistribute local") == 1
    assert "extra_cmd" not in rait("plan").err + rait("up").out


def test_the_status_has_what_babeld_says_if_it_says_something(
    rait: Rait, babeld: FakeBabeld
) -> None:
    rait("up")
    costs = [link["babel"] and link["babel"]["cost"] for link in status(rait)["links"]]
    assert costs == [128, None, None]
    babeld.is_deaf = True
    assert [link["babel"] for link in status(rait)["links"]] == [None] * 3


def test_a_status_during_a_run_blames_nobody_for_what_the_run_removes(
    rait: Rait, kernel: Played, monkeypatch: pytest.MonkeyPatch
) -> None:
    observe = kernel.observe

    def once_more() -> Observation:
        monkeypatch.setattr(kernel, "observe", observe)
        rait("down")
        return observe()

    rait("up")
    monkeypatch.setattr(kernel, "observe", once_more)
    assert status(rait)["links"] == []
    rait("up")
    del kernel.wires[FIRST]
    assert status(rait)["counts"]["missing"] == 1


def test_links_elsewhere_stop_a_run_unless_the_user_knows_that_they_are_gone(
    rait: Rait, kernel: Played, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise MachineError("rait made it in a different network namespace")

    monkeypatch.setattr(isolation, "require_home", refuse)
    for command in ("up", "down"):
        assert rait(command).status == 1
    assert rait("up", "--assume-gone").status == 0
    assert kernel.names == ALL


def test_the_guard_counts_what_runs_of_the_last_day_have_cost(rait: Rait, kernel: Played) -> None:
    limit = "max_removals = 1\n"
    rait.write(CONF + limit, PEERS)
    rait("up")
    left = dict(PEERS)
    left.popitem()
    rait.write(CONF + limit, left)
    assert rait("up").status == 0
    rait.write(CONF + limit, FEW)
    assert rait("up").status == 4
    assert kernel.names == ALL[:2]


def test_a_link_that_comes_back_gets_the_preshared_key_that_a_file_still_has(
    rait: Rait, kernel: Played
) -> None:
    key = rait.directory / "psk"
    key.write_text(b64encode(bytes([7]) * 32).decode())
    key.chmod(0o600)
    rait.write(CONF + f'policy {{\n  preshared_key_file = "{key}"\n}}\n', PEERS)
    rait("up")
    digests = {name: wire.link.peers[0].psk_digest for name, wire in kernel.wires.items()}
    rait("down")
    said = rait("rollback")
    assert said.status == 0
    assert {n: w.link.peers[0].psk_digest for n, w in kernel.wires.items()} == digests
    rait("down")
    key.write_text(b64encode(bytes([8]) * 32).decode())
    said = rait("rollback")
    assert (said.status, kernel.names) == (3, ALL)
    assert "preshared key" in said.err, "as no file has it any more"
    assert not any(wire.link.peers[0].psk_digest for wire in kernel.wires.values())


def test_only_who_makes_links_needs_the_namespace_of_their_sockets() -> None:
    config = Config(isolation=Isolation(type="netns", transit="rait-none"))
    with machine_of(config, KeyPair(None, ""), needs_transit=False) as machine:
        assert not machine.namespace.is_open
    with pytest.raises(MachineError, match="does not exist"):
        machine_of(config, KeyPair(None, ""), needs_transit=True)

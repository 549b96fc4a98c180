"""Where a run looks for links whose namespace has lost its name, or is another one by now."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from types import SimpleNamespace
from typing import Any, cast

import pytest

from rait.adapters import netns_search
from rait.adapters.netns import Netns
from rait.app import whereabouts
from rait.app.machine import Machine
from rait.domain.backend import Observation, ObservedLink, UnreadLink
from rait.domain.history import LastKnown
from rait.domain.topology import Device, Link, LinkSettings, Origin, Topology

HERE, FORMER = Netns("mesh", -1, "1"), Netns("mesh", -1, "2")
EARLIER_BOOT = "0000/2"


def link(name: str, instance: str) -> Link:
    return Link(name, Origin("kernel", "mesh", "", instance), LinkSettings(1420, 54), Device("own"))


HERE_TOO, AWAY = link("here", HERE.instance), link("away", FORMER.instance)


class Played:
    """A machine with a namespace of the name mesh, and what can be seen of a former one."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.namespaces = self
        self.homes: dict[str, Netns] = {}
        self.life = ""
        self.unseen = ""
        self.found: list[Netns] = []
        self.searches: list[list[str]] = []
        self.looked_at: list[str] = []
        self.traced: list[str] = []
        self.seen = Observation(now=0)
        monkeypatch.setattr(netns_search, "search", self.search)
        monkeypatch.setattr(whereabouts, "_POLL_SECONDS", 0.0)

    def find(self, spec: str, instance: str = "") -> Netns | None:
        return HERE if spec == "mesh" and instance in ("", HERE.instance) else None

    def keep(self, ns: Netns) -> Netns:
        return ns

    def home_of(self, link: Link) -> Netns | None:
        return self.homes.get(link.name)

    def sign_of_life(self, _: Link) -> str:
        return self.life

    def search(self, instances: Iterable[str]) -> Any:
        self.searches.append([*instances])
        found = {ns.instance: ns for ns in self.found if ns.instance in self.searches[-1]}
        return SimpleNamespace(namespaces=found, unseen=self.unseen)

    def observe(self, target: Netns | None, elsewhere: Iterable[Netns], **_: object) -> Observation:
        self.looked_at = [ns.instance for ns in (*elsewhere, target) if ns is not None]
        return self.seen

    def trace(self, missing: list[Link], _: object) -> tuple[list[ObservedLink], dict[str, Any]]:
        self.traced = [each.name for each in missing]
        return [], {}

    def look(self, *links: Link, assume_gone: bool = False) -> Observation:
        known = LastKnown(topology=Topology({each.name: each for each in links}))
        machine = cast(Machine, self)
        return whereabouts.observe(machine, "mesh", known, assume_gone=assume_gone)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> Played:
    return Played(monkeypatch)


def test_where_all_is_in_its_place_nothing_is_searched(machine: Played) -> None:
    machine.seen = Observation(now=0, links={"here": ObservedLink(link=HERE_TOO)})
    assert machine.look(HERE_TOO) == machine.seen
    assert (machine.looked_at, machine.searches, machine.traced) == ([HERE.instance], [], [])


def test_a_namespace_that_lost_its_name_is_searched_and_looked_at(machine: Played) -> None:
    machine.found = [FORMER]
    machine.look(HERE_TOO, AWAY)
    assert machine.searches == [[FORMER.instance]]
    assert machine.looked_at == [FORMER.instance, HERE.instance]


def test_the_program_of_a_link_leads_to_its_namespace(machine: Played) -> None:
    machine.homes = {"away": FORMER}
    machine.look(AWAY)
    assert machine.searches in ([], [[]])
    assert machine.looked_at == [FORMER.instance, HERE.instance]
    machine.homes = {"away": Netns("mesh", -1, "3")}
    machine.look(AWAY)
    assert machine.looked_at == [HERE.instance], "one that has another home is not there"


def test_a_namespace_of_which_nothing_is_left_is_gone(machine: Played) -> None:
    assert machine.look(AWAY).lost == {}
    assert len(machine.searches) == 1


def test_a_namespace_that_may_be_out_of_sight_is_lost(machine: Played) -> None:
    machine.unseen = "process 7 hides it"
    why = machine.look(AWAY).lost[FORMER.instance]
    assert why.startswith("it was made in network namespace mesh, which is a different namespace")
    assert "process 7 hides it" in why
    assert (len(machine.searches), machine.traced) == (1, []), "to wait would be of no use"
    assert machine.look(AWAY, assume_gone=True).lost == {}


def test_a_namespace_with_a_sign_of_life_is_searched_for_some_time(
    machine: Played, monkeypatch: pytest.MonkeyPatch
) -> None:
    def on(number: int, happens: Callable[[], object]) -> None:
        def search(instances: Iterable[str]) -> Any:
            if len(machine.searches) + 1 == number:
                happens()
            return machine.search(instances)

        monkeypatch.setattr(netns_search, "search", search)

    machine.life = "it answers"
    on(3, lambda: machine.found.append(FORMER))
    assert machine.look(AWAY).lost == {}
    assert machine.looked_at == [FORMER.instance, HERE.instance]
    assert len(machine.searches) == 3
    machine.found, machine.searches = [], []
    on(2, lambda: setattr(machine, "life", ""))
    assert machine.look(AWAY).lost == {}
    machine.life = "it answers"
    monkeypatch.setattr(whereabouts, "_CLEANUP_SECONDS", 0.0)
    assert "it answers" in machine.look(AWAY).lost[FORMER.instance]


def test_what_was_made_before_a_restart_is_gone_with_it(machine: Played) -> None:
    assert machine.look(link("old", EARLIER_BOOT)).lost == {}
    assert (machine.searches, machine.traced) == ([], [])


def test_a_link_that_is_not_in_its_place_is_traced_unless_it_is_there_and_unread(
    machine: Played,
) -> None:
    machine.look(HERE_TOO)
    assert machine.traced == ["here"]
    machine.traced = []
    machine.seen = Observation(now=0, unread={"here": UnreadLink("mesh", 54, "no")})
    machine.look(HERE_TOO)
    assert machine.traced == []

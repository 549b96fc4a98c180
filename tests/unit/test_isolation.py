"""VRF isolation as a run sees it; what the kernel tells is played."""

from __future__ import annotations

import os
from types import SimpleNamespace
from typing import Any, cast

import pytest

from rait.adapters import netns, netns_search, vrf
from rait.adapters.netlink.rtnl import FoundInterface
from rait.adapters.netns import Namespaces
from rait.app import isolation
from rait.domain.backend import Observation, ObservedVrf
from rait.domain.config.schema import Config, Isolation
from rait.domain.errors import MachineError, VrfMissingError
from rait.domain.events import RuleAdded, VrfAdded, VrfRemoved
from rait.domain.history import LastKnown
from rait.domain.topology import EMPTY, Rule, Topology

RULE = Rule("ip4", 54, 200, 900)
MESH = Topology(vrfs={"mesh": 100})
MADE = [VrfAdded("mesh", 100)]
WITH_TRANSIT = Config(isolation=Isolation(type="vrf", target="mesh", transit="under", table=100))
WITHOUT = Config(isolation=Isolation(type="vrf", target="mesh", table=100))
IN_NETNS = Config(isolation=Isolation(type="netns", target="mesh", transit="under"))


def answer(monkeypatch: pytest.MonkeyPatch, name: str, value: object) -> list[object]:
    """Let a function of rait.adapters.vrf return or raise this; what it is called with."""
    calls: list[object] = []

    def called(*arguments: object) -> object:
        calls.extend(arguments)
        if isinstance(value, Exception):
            raise value
        return value

    monkeypatch.setattr(vrf, name, called)
    return calls


def refuse(monkeypatch: pytest.MonkeyPatch, *names: str) -> None:
    """Let no function of these be called."""
    for name in names:
        monkeypatch.delattr(vrf, name)


def here(instance: str) -> Namespaces:
    def opened(spec: str) -> Any:
        assert spec == "", "VRFs are in the namespace that rait runs in"
        return SimpleNamespace(instance=instance)

    return cast(Namespaces, SimpleNamespace(open=opened))


def test_the_table_of_the_transit_vrf_is_asked_for_where_there_is_one(monkeypatch) -> None:
    calls = answer(monkeypatch, "find", FoundInterface(5, "vrf", 0, 200))
    assert isolation.transit_table(WITH_TRANSIT) == 200
    assert calls == ["under"]
    refuse(monkeypatch, "find")
    assert isolation.transit_table(WITHOUT) is None
    assert isolation.transit_table(IN_NETNS) is None


@pytest.mark.parametrize(
    ("found", "told"),
    [(None, "there is no VRF under"), (FoundInterface(5, "bridge", 0), "of kind bridge")],
)
def test_a_transit_vrf_that_is_missing_is_told_of(monkeypatch, found: object, told: str) -> None:
    answer(monkeypatch, "find", found)
    with pytest.raises(MachineError, match=told):
        isolation.transit_table(WITH_TRANSIT)


def test_on_a_machine_that_was_observed_the_table_is_the_observed_one() -> None:
    seen = Observation(now=0, vrfs={"under": ObservedVrf(200)})
    assert isolation.transit_table(WITH_TRANSIT, seen) == 200
    assert isolation.transit_table(WITHOUT, seen) is None
    assert isolation.transit_table(IN_NETNS, seen) is None
    with pytest.raises(MachineError, match="of kind bridge"):
        isolation.transit_table(WITH_TRANSIT, Observation(now=0, others={"under": "bridge"}))


def test_sockets_that_are_closed_to_vrfs_are_warned_of(monkeypatch) -> None:
    answer(monkeypatch, "accepts_from_vrfs", False)
    (warning,) = isolation.kernel_warnings(WITH_TRANSIT)
    assert "sysctl -w net.ipv4.udp_l3mdev_accept=1" in warning
    assert isolation.kernel_warnings(WITHOUT) == []
    assert isolation.kernel_warnings(IN_NETNS) == []
    answer(monkeypatch, "accepts_from_vrfs", True)
    assert isolation.kernel_warnings(WITH_TRANSIT) == []


def test_the_kernel_is_asked_for_vrfs_only_where_one_is_to_be_made(monkeypatch) -> None:
    calls = answer(monkeypatch, "require", None)
    isolation.require_vrfs(MADE)
    assert isolation.vrf_warnings(MADE) == []
    assert calls == ["mesh", "mesh"]
    refuse(monkeypatch, "require")
    isolation.require_vrfs([VrfRemoved("mesh", 100), RuleAdded(RULE)])


def test_a_kernel_without_vrfs_stops_a_run_and_is_told_of_by_a_plan(monkeypatch) -> None:
    answer(monkeypatch, "require", VrfMissingError("no VRFs"))
    with pytest.raises(MachineError, match="no VRFs"):
        isolation.require_vrfs(MADE)
    assert isolation.vrf_warnings(MADE) == ["no VRFs"]
    answer(monkeypatch, "require", MachineError("not allowed to ask"))
    assert isolation.vrf_warnings(MADE) == []


def test_rules_are_read_where_some_are_wanted_or_were_made() -> None:
    assert isolation.needs_rules(WITH_TRANSIT, LastKnown())
    assert not isolation.needs_rules(WITHOUT, LastKnown(topology=MESH))
    rules = Topology(rules={RULE.name: RULE})
    assert isolation.needs_rules(WITHOUT, LastKnown(topology=rules))
    assert isolation.needs_rules(IN_NETNS, LastKnown(leftover_rules=frozenset((RULE.name,))))


KNOWN = [
    LastKnown(topology=MESH),
    LastKnown(topology=Topology(rules={RULE.name: RULE})),
    LastKnown(leftover_vrfs={"mesh": 100}),
    LastKnown(leftover_rules=frozenset((RULE.name,))),
]


@pytest.mark.parametrize("known", KNOWN)
def test_the_namespace_is_remembered_while_something_of_ours_may_be_in_it(known) -> None:
    assert isolation.made_here(known)
    assert isolation.home(IN_NETNS, known, here("boot/1")) == "boot/1"


def test_the_namespace_is_remembered_for_what_is_to_be_made_there() -> None:
    assert not isolation.made_here(LastKnown())
    assert isolation.home(WITHOUT, LastKnown(), here("boot/1")) == "boot/1"
    assert isolation.home(IN_NETNS, LastKnown(), here("boot/1")) == ""


def test_our_vrfs_without_a_mark_get_one(monkeypatch) -> None:
    both = Topology(vrfs={"mesh": 100, "cut-off": 101})
    cut_off = {"cut-off": 101, "never-made": 102}
    calls = answer(monkeypatch, "mark", None)
    isolation.mark_ours(both, LastKnown(leftover_vrfs=cut_off, home="boot/1"))
    assert calls == [{"cut-off"}], "the other was marked when it was made"
    isolation.mark_ours(both, LastKnown(topology=both))
    assert calls[1:] == [both.vrfs], "an earlier rait made them, and marked none"
    refuse(monkeypatch, "mark")
    isolation.mark_ours(both, LastKnown(topology=both, home="boot/1"))
    isolation.mark_ours(EMPTY, LastKnown())


@pytest.fixture
def search(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """What a search for namespaces finds; ``asked`` is what it looked for."""
    played = SimpleNamespace(found={}, unseen="", asked=[])

    def looked(wanted: object) -> netns_search.Search:
        played.asked.append(wanted)
        found = netns_search.Search(frozenset({"nowhere"}))
        found.namespaces, found._unseen = played.found, played.unseen
        return found

    monkeypatch.setattr(netns_search, "search", looked)
    monkeypatch.setattr(netns, "_boot", lambda: "boot")
    return played


@pytest.mark.parametrize(
    "known",
    [
        LastKnown(topology=MESH),
        LastKnown(home="boot/1"),
        LastKnown(topology=MESH, home="boot/2"),
        LastKnown(topology=MESH, home="earlier/1"),
    ],
)
def test_what_was_made_here_or_cannot_be_any_more_stops_nothing(known, search) -> None:
    isolation.require_home(known, here("boot/2"))
    assert search.asked == []


def test_what_was_made_elsewhere_stops_a_run_while_it_may_be_there(search) -> None:
    known = LastKnown(topology=MESH, home="boot/1")
    isolation.require_home(known, here("boot/2"))
    assert search.asked == [{"boot/1"}], "it is gone, and the VRF with it"
    search.unseen = "rait cannot look at all processes"
    with pytest.raises(MachineError, match=r"rait made mesh in a different network namespace"):
        isolation.require_home(known, here("boot/2"))
    search.unseen = ""
    search.found = {"1": (former := netns.Netns("", os.open(os.devnull, os.O_RDONLY), "1"))}
    leftover = LastKnown(leftover_vrfs={"mesh": 100}, home="boot/1")
    with pytest.raises(MachineError, match="rait made VRFs or rules in a different"):
        isolation.require_home(leftover, here("boot/2"))
    assert not former.is_open

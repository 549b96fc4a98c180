"""How a machine with two backends hands out events."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pytest

from rait.adapters import netns
from rait.app.machine import LEFT_ALONE, Machine
from rait.domain.backend import Outcome
from rait.domain.events import Event, LinkAdded, LinkRemoved
from rait.domain.topology import BackendKind, Device, Link, LinkSettings, Origin


class Recorder:
    """A backend that fails for some links, and remembers what it was asked to do."""

    def __init__(self, *failing: str) -> None:
        self.failing = failing
        self.asked: list[Event] = []

    def apply(self, events: Sequence[Event]) -> Iterator[Outcome]:
        self.asked += events
        for index, event in enumerate(events):
            yield Outcome(index, "refused" if event.name in self.failing else None)


def link(name: str, backend: BackendKind) -> Link:
    return Link(name, Origin(backend), LinkSettings(1420, 54), Device("key"))


@pytest.fixture
def machine() -> Iterator[Machine]:
    with Machine(netns.open_netns(""), None, "key") as made:
        yield made


def test_a_link_that_cannot_go_is_not_made_again_by_the_other_backend(machine: Machine) -> None:
    kernel, userspace = Recorder("stuck"), Recorder()
    machine._backends = {"kernel": kernel, "userspace": userspace}  # type: ignore[dict-item]
    events = (
        LinkRemoved(link("free", "kernel")),
        LinkRemoved(link("stuck", "kernel")),
        LinkAdded(link("free", "userspace")),
        LinkAdded(link("stuck", "userspace")),
    )
    outcomes = {outcome.index: outcome.error for outcome in machine.apply(events)}
    assert outcomes == {0: None, 1: "refused", 2: None, 3: LEFT_ALONE}
    assert userspace.asked == [events[2]]

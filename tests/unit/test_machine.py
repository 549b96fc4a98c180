"""How a machine with two backends hands out events."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain

import pytest
from msgspec import structs

from rait.adapters import netns
from rait.adapters.keys import KeyPair
from rait.adapters.netns import Netns
from rait.adapters.wireguard.sockets import Sockets
from rait.app.machine import LEFT_ALONE, Machine
from rait.domain.errors import MachineError
from rait.domain.events import (
    BabelInterfaceAdded,
    DeviceUpdated,
    Event,
    LinkAdded,
    LinkRemoved,
    NotesUpdated,
    PeerAdded,
    PeerRemoved,
)
from rait.domain.topology import (
    BackendKind,
    Device,
    Link,
    LinkNotes,
    LinkPeer,
    LinkSettings,
    Origin,
)


class Recorder:
    """A backend that fails for some links, and remembers what it was asked to do."""

    def __init__(self, *failing: str) -> None:
        self.failing = failing
        self.batches: list[list[Event]] = []

    def apply(self, _: Sockets | None, events: Sequence[Event]) -> Iterator[str | None]:
        self.batches.append(list(events))
        for event in events:
            if event.name == "breaks":
                raise MachineError("the kernel does not answer")
            yield "refused" if event.name in self.failing else None

    def home_of(self, link: Link) -> Netns:
        return netns.gone(link.name)


def link(name: str, backend: BackendKind) -> Link:
    return Link(name, Origin(backend), LinkSettings(1420, 54), Device("key"))


def use(machine: Machine, kernel: Recorder, userspace: Recorder) -> None:
    machine._kernel, machine._userspace = kernel, userspace  # type: ignore[assignment]


def errors(machine: Machine, *events: Event) -> list[str | None]:
    outcomes = {outcome.index: outcome.error for outcome in machine.apply(events)}
    return [outcomes[index] for index in range(len(events))]


@pytest.fixture
def machine() -> Iterator[Machine]:
    with Machine(netns.open_netns(""), KeyPair(None, "key")) as made:
        yield made


def test_a_link_that_cannot_go_is_not_made_again_by_the_other_backend(machine: Machine) -> None:
    kernel, userspace = Recorder("stuck"), Recorder()
    use(machine, kernel, userspace)
    events = (
        LinkRemoved(link("free", "kernel")),
        LinkRemoved(link("stuck", "kernel")),
        LinkAdded(link("free", "userspace")),
        LinkAdded(link("stuck", "userspace")),
    )
    assert errors(machine, *events) == [None, "refused", None, LEFT_ALONE]
    assert userspace.batches == [[events[2]]]


def test_what_is_of_one_sort_goes_together_and_a_link_never_twice(machine: Machine) -> None:
    kernel = Recorder()
    use(machine, kernel, Recorder())
    one, two = link("one", "kernel"), link("two", "kernel")
    peer, other = LinkPeer("peer"), LinkPeer("other")
    changed = structs.replace(one.device, fwmark=7)
    batches: list[list[Event]] = [
        [LinkAdded(one), LinkAdded(two)],
        [DeviceUpdated("one", one.device, changed)],
        [DeviceUpdated("one", changed, one.device)],
        [PeerAdded("one", peer), PeerAdded("two", peer)],
        [PeerAdded("one", other), PeerRemoved("two", peer)],
        [LinkRemoved(one), LinkRemoved(two)],
    ]
    assert set(errors(machine, *chain.from_iterable(batches))) == {None}
    assert kernel.batches == batches


def test_the_later_events_of_a_link_that_failed_fail_too(machine: Machine) -> None:
    kernel = Recorder("one")
    use(machine, kernel, Recorder())
    one, two = link("one", "kernel"), link("two", "kernel")
    events = [LinkAdded(one), LinkAdded(two)]
    later = [PeerAdded("one", LinkPeer("peer")), PeerAdded("two", LinkPeer("peer"))]
    assert errors(machine, *events, *later) == ["refused", None, LEFT_ALONE, None]
    assert kernel.batches == [events, later[1:]]


def test_what_a_link_s_journal_notes_is_not_so_if_the_link_failed(machine: Machine) -> None:
    kernel = Recorder("stuck")
    use(machine, kernel, Recorder())
    made = [LinkAdded(link(name, "kernel")) for name in ("stuck", "free")]
    notes = [NotesUpdated(e.name, LinkNotes(), LinkNotes(babeld_param="rxcost 9")) for e in made]
    assert errors(machine, *made, *notes) == ["refused", None, LEFT_ALONE, None]
    assert kernel.batches == [made]


def test_what_breaks_in_the_midst_of_a_batch_fails_the_rest_of_it(machine: Machine) -> None:
    kernel = Recorder()
    use(machine, kernel, Recorder())
    events = [LinkAdded(link(name, "kernel")) for name in ("made", "breaks", "later")]
    text = "the kernel does not answer"
    assert errors(machine, *events, LinkRemoved(link("made", "kernel"))) == [None, text, text, None]


def test_a_link_that_moves_is_removed_where_it_was(machine: Machine) -> None:
    """And its namespace, which is not to be had, fails it alone."""
    kernel = Recorder()
    use(machine, kernel, Recorder())
    here, stays = link("moves", "kernel"), link("stays", "kernel")
    there = structs.replace(here, origin=Origin("kernel", "no-such-namespace"))
    events = [LinkRemoved(here), LinkAdded(there), LinkAdded(stays)]
    removed, moved, stayed = errors(machine, *events)
    assert (removed, stayed) == (None, None)
    assert "network namespace no-such-namespace does not exist" in (moved or "")
    assert kernel.batches == [[events[0]], [events[2]]]


def test_only_a_link_s_program_leads_to_its_namespace(machine: Machine) -> None:
    use(machine, Recorder(), Recorder())
    home = machine.home_of(link("one", "userspace"))
    assert home is not None
    assert (home.spec, machine.home_of(link("one", "kernel"))) == ("one", None)


def test_what_is_of_babeld_reaches_no_backend(machine: Machine) -> None:
    kernel, userspace = Recorder(), Recorder()
    use(machine, kernel, userspace)
    assert list(machine.apply([BabelInterfaceAdded("x", "")])) == []
    assert kernel.batches == userspace.batches == []


def test_each_backend_is_loaded_when_it_is_needed(machine: Machine) -> None:
    """What is removed in a namespace that is gone needs nothing but the backend itself."""
    gone = Origin("kernel", "no-such-namespace"), Origin("userspace", "no-such-namespace")
    links = [structs.replace(link("rait-test-gone", "kernel"), origin=origin) for origin in gone]
    assert errors(machine, *map(LinkRemoved, links)) == [None, None]


def offer(monkeypatch: pytest.MonkeyPatch, *, kernel: bool, why_not: str) -> None:
    """What the machine has: WireGuard in its kernel, and a program unless there is a reason."""
    monkeypatch.setattr("rait.app.machine.kernel_has_wireguard", lambda: kernel)
    monkeypatch.setattr("rait.adapters.wireguard.process.why_not", lambda: why_not)


@pytest.mark.parametrize(
    ("wanted", "kernel", "why_not", "chosen"),
    [
        ("auto", True, "", "kernel"),
        ("auto", True, "no program", "kernel"),
        ("auto", False, "", "userspace"),
        ("kernel", True, "no program", "kernel"),
        ("userspace", True, "", "userspace"),
        ("userspace", False, "", "userspace"),
    ],
)
def test_links_are_made_with_what_is_wanted_and_there(
    machine: Machine,
    monkeypatch: pytest.MonkeyPatch,
    wanted: str,
    kernel: bool,
    why_not: str,
    chosen: str,
) -> None:
    offer(monkeypatch, kernel=kernel, why_not=why_not)
    assert machine.choose(wanted) == chosen


@pytest.mark.parametrize(
    ("wanted", "kernel", "says"),
    [
        ("kernel", False, 'backend = "kernel": '),
        ("userspace", True, 'backend = "userspace": no program'),
        ("auto", False, "there is no WireGuard on this machine"),
    ],
)
def test_what_is_wanted_and_not_there_is_told(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, wanted: str, kernel: bool, says: str
) -> None:
    offer(monkeypatch, kernel=kernel, why_not="no program")
    with pytest.raises(MachineError, match=says):
        machine.choose(wanted)

"""What babeld is told in a run, and what becomes of each event where it refuses."""

from __future__ import annotations

import pytest

from rait.adapters.babeld import BabeldError, BabeldRefusedError
from rait.app.routing import Routing
from rait.domain.aftermath import told_apart
from rait.domain.babel import BabelInterface
from rait.domain.config.schema import Babeld, Config, Transport
from rait.domain.diff import diff
from rait.domain.events import replay
from rait.domain.topology import Device, Link, LinkSettings, Origin, Topology

TRANSPORT = Transport(address_family="ip4", send_port=1, mtu=1420, ifprefix="w")
OLD, NEW, WRONG = "rxcost 32", "rxcost 64", "type bogus"


def link(name: str) -> Link:
    return Link(name, Origin("kernel"), LinkSettings(1420, 54), Device("own"))


class FakeBabeld:
    """Takes commands as babeld 1.12.1 does; ``refuses`` are its answers to come that are not ok."""

    def __init__(self, **has: str) -> None:
        self.has = dict(has)
        self.said: list[str] = []
        self.refuses: dict[str, type[BabeldError]] = {}
        self.loses: set[str] = set()

    def interfaces(self) -> tuple[BabelInterface, ...]:
        return tuple(BabelInterface(name, True, None, None) for name in self.has)

    def add(self, name: str, param: str) -> None:
        self._hear(f"{name} {param}")
        if param == WRONG:
            raise BabeldRefusedError("bad")
        self.has[name] = param
        self._answer(f"{name} {param}")

    def flush(self, name: str) -> None:
        self._hear(f"flush {name}")
        self.has.pop(name, None)
        self._answer(f"flush {name}")

    def _answer(self, command: str) -> None:
        if command in self.loses:
            raise BabeldError(f"no answer to {command}")

    def _hear(self, command: str) -> None:
        self.said.append(command)
        number = f"#{len(self.said)}"
        for key in (number, command):
            if key in self.refuses:
                raise self.refuses[key](f"no to {command}")


@pytest.fixture
def babeld() -> FakeBabeld:
    return FakeBabeld(w1=OLD, w2=OLD, w3=OLD)


def tell(babeld: FakeBabeld, wanted: dict[str, str], broken: set[str] = set()) -> list[str | None]:  # noqa: B006 (only read)
    """Bring babeld to what is wanted; that the journal would have what babeld has is checked."""
    before = dict(babeld.has)
    events = diff(Topology(babel=before), Topology(babel=wanted))
    routing = Routing(Config(transports=(), babeld=Babeld()))
    routing.client = babeld  # type: ignore[assignment]
    outcomes = list(routing.apply(events, broken))
    assert [outcome.index for outcome in outcomes] == list(range(len(events)))
    happened = [events[each.index] for each in outcomes if each.error is None]
    assert replay(Topology(babel=before), happened).babel == babeld.has
    return [outcome.error for outcome in outcomes]


def test_a_changed_param_is_tried_once_and_then_given_to_one_after_the_other(
    babeld: FakeBabeld,
) -> None:
    errors = tell(babeld, {"w1": NEW, "w2": NEW, "w4": NEW})
    assert errors == [None] * 6
    assert babeld.said == [
        "flush w3",
        f"w1 {NEW}", "flush w1", f"w1 {NEW}",
        "flush w2", f"w2 {NEW}",
        f"w4 {NEW}",
    ]  # fmt: skip


def test_a_refused_param_is_said_once_and_nothing_is_flushed_for_it(babeld: FakeBabeld) -> None:
    errors = tell(babeld, {"w1": WRONG, "w2": WRONG, "w3": WRONG, "w4": WRONG})
    assert babeld.said == [f"w1 {WRONG}"]
    assert errors[:2] == ["babeld keeps it as it is: bad", "bad"]
    assert all(
        error and error.endswith("refused the same parameters for w1") for error in errors[2:]
    )


def test_what_was_flushed_is_given_back_where_the_new_is_refused_after_all(
    babeld: FakeBabeld,
) -> None:
    babeld.refuses["#3"] = BabeldRefusedError
    errors = tell(babeld, {"w1": NEW, "w2": NEW, "w3": NEW})
    assert babeld.said == [f"w1 {NEW}", "flush w1", f"w1 {NEW}", f"w1 {OLD}"]
    assert errors[0] == f"given back to babeld as it was: no to w1 {NEW}"
    assert None not in errors


def test_what_cannot_be_given_back_is_told_as_flushed(babeld: FakeBabeld) -> None:
    babeld.refuses |= {"#3": BabeldError, "flush w2": BabeldError, "flush w3": BabeldError}
    errors = tell(babeld, {"w1": NEW, "w2": NEW, "w3": NEW})
    assert errors[:2] == [None, f"no to w1 {NEW}"]
    assert errors[2] == "no to flush w2"


def test_what_babeld_did_without_an_answer_is_found_by_asking_it_again(babeld: FakeBabeld) -> None:
    babeld.loses = {f"w4 {OLD}", "flush w1"}
    babeld.refuses["flush w3"] = BabeldError
    before = Topology(babel=dict(babeld.has))
    links = {n: link(n) for n in ("w2", "w4")}
    after = Topology(links, dict.fromkeys(links, OLD))
    routing = Routing(Config(transports=(TRANSPORT,), babeld=Babeld(param=OLD)))
    routing.client = babeld  # type: ignore[assignment]
    events = diff(before, Topology(babel=after.babel))
    errors = [outcome.error for outcome in routing.apply(events, set())]
    assert errors == ["no answer to flush w1", "no to flush w3", f"no answer to w4 {OLD}"]
    has, _ = routing.look().compare(before, links)
    found, _ = told_apart(before, Topology(links, has), events)
    assert found == (events[0], events[2])
    assert replay(before, found).babel == babeld.has


def test_a_link_that_failed_keeps_what_babeld_has_of_it(babeld: FakeBabeld) -> None:
    tell(babeld, {"w1": NEW, "w2": OLD, "w3": OLD, "w4": NEW}, {"w1", "w4"})
    assert babeld.said == []

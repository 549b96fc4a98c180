"""In which state each link is, what is wrong with it, and what is said of list and journal."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from msgspec import structs

from rait.adapters.journal.store import Journal
from rait.app.options import Options
from rait.app.status import StatusReader
from rait.domain.babel import BabelNeighbour
from rait.domain.backend import Observation, ObservedLink, Outcome, UnreadLink
from rait.domain.events import Event, LinkAdded, LinkRemoved
from rait.domain.history import LastKnown
from rait.domain.ownership import Scope
from rait.domain.records import FIRST_JOURNAL, Repeated, RunHeader, RunRecord
from rait.domain.signed import Signed
from rait.domain.status import (
    LinkStatus,
    PeersAge,
    Rates,
    Seen,
    Status,
    peers_age,
    rates,
    status_of,
)
from rait.domain.topology import (
    Device,
    Endpoint,
    Link,
    LinkNotes,
    LinkPeer,
    LinkSettings,
    Origin,
    Topology,
)
from tests.unit.command_line import CONF, PRIVATE

NOW = 1_800_000_000
NS = 10**9
HOME, AWAY = Endpoint("192.0.2.1", 50153), Endpoint("203.0.113.7", 9)
CALLED, PASSIVE = LinkPeer("KEY", HOME), LinkPeer("KEY")
ORIGIN = Origin("kernel", "", "1", "2")


def link(name: str = "w1", peer: LinkPeer = CALLED) -> Link:
    return Link(name, ORIGIN, LinkSettings(1420, 54), Device("own", 50221), (peer,))


def look(*links: ObservedLink, made: tuple[Link, ...] = (), now: int = NOW, **rest: Any) -> Status:
    """The status where the journal has ``made``, and the machine shows ``links``."""
    return status_of(
        Seen(
            observation=Observation(now=now, links={seen.link.name: seen for seen in links}),
            known=rest.pop(
                "known", LastKnown(topology=Topology({each.name: each for each in made}))
            ),
            scope=Scope(public_key="own", netns="", ifgroup=54),
            **rest,
        )
    )


def seen(made: Link, peer: LinkPeer | None = None, handshake: int = 0, **rest: Any) -> ObservedLink:
    there = made if peer is None else structs.replace(made, peers=(peer,))
    return ObservedLink(link=there, handshakes={"KEY": handshake}, **rest)


def only(status: Status) -> LinkStatus:
    (found,) = status.links
    return found


@pytest.mark.parametrize(
    ("handshake", "state", "healthy", "age"),
    [
        (NOW, "live", True, 0),
        (NOW - 180, "live", True, 180),
        (NOW - 181, "stale", False, 181),
        (0, "never", False, None),
        (NOW + 180, "live", True, 0),
        (NOW + 181, "stale", False, None),
        (1, "stale", False, NOW - 1),
    ],
)
def test_the_last_handshake_gives_the_state(
    handshake: int, state: str, healthy: bool, age: int | None
) -> None:
    found = only(look(seen(link(), handshake=handshake), made=(link(),)))
    assert (found.state, found.healthy, found.age) == (state, healthy, age)


@pytest.mark.parametrize(
    ("given", "there", "handshake", "endpoint_is", "healthy"),
    [
        (CALLED, CALLED, NOW, "configured", True),
        (CALLED, LinkPeer("KEY", AWAY), NOW, "roamed", True),
        (PASSIVE, PASSIVE, 0, "waiting", True),
        (PASSIVE, LinkPeer("KEY", AWAY), NOW - 999, "roamed", False),
        (PASSIVE, PASSIVE, NOW - 999, "waiting", False),
    ],
)
def test_a_peer_without_an_address_that_never_called_is_no_fault(
    given: LinkPeer, there: LinkPeer, handshake: int, endpoint_is: str, healthy: bool
) -> None:
    made = link(peer=given)
    found = only(look(seen(made, there, handshake), made=(made,)))
    assert (found.endpoint, found.endpoint_is) == (there.endpoint, endpoint_is)
    assert found.healthy == healthy


def test_a_peer_that_was_heard_can_be_reached_although_there_was_no_handshake() -> None:
    made = link(peer=PASSIVE)
    assert not only(look(seen(made, received={"KEY": 148}), made=(made,))).healthy


def test_a_link_that_the_journal_does_not_know_has_an_endpoint_from_nobody_knows_where() -> None:
    found = only(look(seen(link(), handshake=NOW)))
    assert (found.state, found.endpoint, found.endpoint_is) == ("live", HOME, None)


def test_what_was_made_and_is_not_there_is_missing() -> None:
    found = only(look(made=(link(),)))
    assert (found.state, found.healthy, found.public_key) == ("missing", False, "KEY")
    assert (found.endpoint, found.why) == (HOME, "there is no such interface")


def test_what_nobody_counted_is_nothing() -> None:
    uncounted = ObservedLink(link=link())
    bare = LinkStatus(name="w1", state="missing", healthy=False)
    for found in (only(look(made=(link(),))), only(look(uncounted)), bare):
        told = (found.handshake, found.age, found.received, found.sent)
        assert told == (0, None, 0, 0)


def test_a_peer_is_named_as_the_registry_does_or_else_as_its_commands_were_told() -> None:
    noted = structs.replace(link(), notes=LinkNotes(peer_name="former"))
    assert only(look(seen(link()), made=(noted,))).peer == "former"
    assert only(look(seen(link()), made=(noted,), peers={"KEY": "newer"})).peer == "newer"
    assert only(look(seen(link()))).peer == ""


def test_a_link_that_lost_its_peer_is_missing_it() -> None:
    bare = ObservedLink(link=structs.replace(link(), peers=()), handshakes={})
    other = seen(link(), LinkPeer("OTHER", HOME), received={"OTHER": 5})
    for each in (bare, other):
        found = only(look(each, made=(link(),)))
        assert (found.state, found.why, found.received) == ("missing", "it has lost its peer", 0)


def test_a_link_that_cannot_work_is_failed_although_its_handshake_is_fresh() -> None:
    dead = only(look(seen(link(), handshake=NOW, dead=True), made=(link(),)))
    renamed = only(look(seen(link(), handshake=NOW, renamed=True), made=(link(),)))
    assert (dead.state, renamed.state) == ("failed", "failed")
    assert "UDP socket is gone" in dead.why
    assert "renamed" in renamed.why


def test_a_link_that_somebody_set_down_is_not_live() -> None:
    made = link()
    down = structs.replace(made, settings=structs.replace(made.settings, up=False))
    found = only(look(seen(down, handshake=NOW), made=(made,)))
    assert (found.state, found.healthy) == ("failed", False)
    assert "set it down" in found.why


def test_a_link_that_cannot_be_read_is_failed_and_not_missing() -> None:
    unread = {"w1": UnreadLink("", 54, "no answer")}
    status = status_of(
        Seen(
            observation=Observation(now=NOW, unread=unread),
            known=LastKnown(topology=Topology({"w1": link()})),
            scope=Scope(public_key="own", netns="", ifgroup=54),
        )
    )
    assert (only(status).state, only(status).why) == ("failed", "no answer")


def run(*outcomes: Outcome, **rest: Any) -> RunRecord:
    header = RunHeader(
        scope="s", command="up", version="1", uid=0, started_at=NOW * NS, public_key="own"
    )
    added = (LinkAdded(link("w1")), LinkAdded(link("w2", LinkPeer("TWO"))))
    found = {outcome.index: outcome for outcome in outcomes}
    return RunRecord(id=7, last_id=9, header=header, intended=added, outcomes=found, **rest)


def test_what_the_last_run_could_not_make_is_failed() -> None:
    last = run(Outcome(0), Outcome(1, "the port is taken"))
    status = look(seen(link(), handshake=NOW), made=(link(),), last=last)
    assert [(each.name, each.state) for each in status.links] == [("w1", "live"), ("w2", "failed")]
    assert (status.links[1].why, status.links[1].public_key) == ("the port is taken", "TWO")
    assert not status.healthy


def test_a_failure_is_over_when_the_peer_has_left_the_list() -> None:
    """The run after that had nothing to do, so the journal does not tell."""
    last = run(Outcome(0), Outcome(1, "the port is taken"))
    gone = look(seen(link(), handshake=NOW), made=(link(),), last=last, peers={"KEY": "gate"})
    assert [(each.name, each.peer) for each in gone.links] == [("w1", "gate")]
    still = look(last=last, peers={"TWO": ""})
    assert [each.name for each in still.links] == ["w2"]


def test_who_knows_of_later_failures_than_the_journal_tells_them() -> None:
    last = run(Outcome(0, "no memory"), Outcome(1, "the port is taken"))
    assert only(look(last=last, failures={"w9": "conflict"})).why == "conflict"
    assert look(last=last, failures={}).links == ()


def test_a_failure_of_a_link_that_is_there_after_all_does_not_count() -> None:
    last = run(Outcome(0, "no memory"))
    found = only(look(seen(link(), handshake=NOW), made=(link(),), last=last))
    assert (found.state, found.why) == ("live", "")


def test_a_link_that_a_killed_run_was_to_make_is_missing_and_one_it_removed_is_not() -> None:
    known = LastKnown(topology=Topology({"w1": link()}))
    made = known.having_leftover((LinkAdded(link("w2")),))
    assert [each.name for each in look(known=made).links] == ["w1", "w2"]
    removed = known.having_leftover((LinkRemoved(link()),))
    assert look(known=removed).links == ()
    assert only(look(seen(link(), handshake=NOW), known=removed)).endpoint_is == "configured"


def test_the_neighbour_of_a_link_is_the_best_one_on_its_interface() -> None:
    old = BabelNeighbour("w1", "fe80::2", 0x00F0, 32, 65535, 65535)
    new = BabelNeighbour("w1", "fe80::3", 0xFFFF, 32, 96, 128, 0.5)
    for both in ((old, new), (new, old)):
        status = look(seen(link()), made=(link(),), neighbours=both)
        assert (status.babeld, only(status).babel) == (True, new)
    silent = look(seen(link()), made=(link(),))
    assert (silent.babeld, only(silent).babel) == (False, None)


def test_links_are_counted_by_their_state() -> None:
    made = tuple(link(name) for name in ("w3", "w1", "w2"))
    status = look(seen(made[0], handshake=NOW), seen(made[1]), made=made)
    assert [each.name for each in status.links] == ["w1", "w2", "w3"]
    assert status.counts() == {"failed": 0, "missing": 1, "stale": 0, "never": 1, "live": 1}


@pytest.mark.parametrize(
    ("confirmed", "most", "age"),
    [
        (NOW - 90, None, PeersAge(90)),
        (NOW - 90, 90, PeersAge(90)),
        (NOW - 90, 89, PeersAge(90, too_old=True)),
        (NOW + 1, None, PeersAge(None)),
        (NOW + 1, 90, PeersAge(None, too_old=True)),
        (FIRST_JOURNAL // NS - 1, 10**9, PeersAge(None, too_old=True)),
        (None, None, PeersAge(None)),
        (None, 90, PeersAge(None, too_old=True)),
    ],
)
def test_a_list_is_too_old_if_nobody_can_say_that_it_is_not(
    confirmed: int | None, most: int | None, age: PeersAge
) -> None:
    at = None if confirmed is None else confirmed * NS
    assert peers_age(at, NOW * NS, None if most is None else most * NS) == age
    assert look(list_age=age).healthy == (not age.too_old)


def test_the_last_change_is_told_by_its_end() -> None:
    def told(last: RunRecord, now: int = NOW) -> tuple[object, ...]:
        found = look(last=last, now=now).last_change
        assert found is not None
        return (found.at, found.age, found.outcome, found.repeated)

    assert look().last_change is None
    assert told(run(), NOW + 5) == (NOW, 5, "unfinished", 0)
    done = run(status="done", finished_at=(NOW + 3) * NS)
    assert told(done, NOW + 5) == (NOW + 3, 2, "done", 0)
    assert told(done, NOW - 100) == (NOW + 3, 0, "done", 0)
    again = structs.replace(done, repeated=Repeated(4, (NOW + 60) * NS))
    assert told(again, NOW + 61) == (NOW + 60, 1, "done", 4)


def test_the_last_change_says_which_list_was_read_last() -> None:
    def told(last: RunRecord) -> tuple[object, ...]:
        found = look(last=last).last_change
        assert found is not None
        return (found.source, found.revision, found.peers_digest, found.signed)

    by = Signed("ABCD", "serial", 5)
    header = structs.replace(
        run().header, source="etcd://h/p", revision=7, peers_digest="d", signed=by
    )
    done = structs.replace(run(status="done"), header=header)
    assert told(done) == ("etcd://h/p", 7, "d", by)
    again = Repeated(4, NOW * NS, "c", "e", "etcd://h/p", 9)
    assert told(structs.replace(done, repeated=again)) == ("etcd://h/p", 9, "e", by)


def test_rates_are_of_links_that_were_there_all_the_time() -> None:
    def at(received: int, name: str = "w1") -> Status:
        made = link(name)
        return look(seen(made, received={"KEY": received}, sent={"KEY": 7}), made=(made,))

    assert rates(at(100), at(300), 2.0) == {"w1": Rates(100.0, 0.0)}
    assert rates(at(100), at(300), 0.5) == {"w1": Rates(400.0, 0.0)}
    assert rates(at(300), at(300), 2.0) == {"w1": Rates(0.0, 0.0)}, "it is silent"
    assert rates(at(300), at(100), 2.0) == {}, "it was made again"
    assert rates(at(100, "w2"), at(300), 2.0) == {}, "it was made between"
    assert rates(at(100), at(300), 0.0) == {}, "no time has passed"
    other = link(peer=LinkPeer("OTHER"))
    taken = look(seen(other, received={"OTHER": 300}, sent={"OTHER": 7}), made=(other,))
    assert rates(at(100), taken, 2.0) == {}, "it is another peer's"


def test_what_a_run_removes_meanwhile_is_not_missing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The run begins after the journal was read, and before the machine is looked at."""
    conf = tmp_path / "rait.conf"
    conf.write_text(f'private_key = "{PRIVATE}"\n{CONF}')
    header = RunHeader(
        scope=str(conf), command="up", version="1", uid=0, started_at=NOW * NS, public_key="own"
    )

    def journaled(event: Event) -> None:
        with Journal.open(tmp_path / "journal.db") as journal:
            run = journal.begin(header, (), (event,))
            run.record([Outcome(0)])
            run.finish("done")

    def look(*_: object) -> tuple[Observation, Scope]:
        if removals:
            journaled(removals.pop())
        return Observation(now=NOW), Scope(public_key="own", netns="", ifgroup=54)

    journaled(LinkAdded(link()))
    monkeypatch.setattr("rait.app.status.look", look)
    reader = StatusReader(Options(config=str(conf)))
    removals: list[Event] = []
    assert only(reader.read()).state == "missing"
    removals.append(LinkRemoved(link()))
    assert reader.read().links == ()

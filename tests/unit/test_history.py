"""What of a run is taken back, what stands in the way of it, and when runs were."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from rait.domain.backend import Outcome
from rait.domain.errors import ConfigError
from rait.domain.events import (
    BabelInterfaceAdded,
    BabelInterfaceFlushed,
    Event,
    LinkAdded,
    LinkRemoved,
    LinkUpdated,
    MismatchError,
    replay,
)
from rait.domain.history import as_made_now, done_events, fold, last_known, links_made
from rait.domain.records import RunHeader, RunRecord, Snapshot
from rait.domain.rollback import (
    Conflict,
    conflicts,
    only_told_babeld,
    require_own_key,
    require_own_setup,
    touched,
    undo,
)
from rait.domain.signed import Signed
from rait.domain.spans import Span, Start, spans
from rait.domain.topology import EMPTY, Device, Link, LinkSettings, Origin, Topology

HEADER = RunHeader(scope="", command="up", version="", uid=0, started_at=0, public_key="")
WIDE, NARROW = LinkSettings(1420, 54), LinkSettings(1300, 54)
NARROWED = LinkUpdated("w1", WIDE, NARROW)


def link(name: str, settings: LinkSettings = WIDE) -> Link:
    return Link(name, Origin("kernel"), settings, Device("own"))


def topology(*links: Link) -> Topology:
    return Topology({each.name: each for each in links})


def run(
    number: int,
    *intended: Event,
    noticed: tuple[Event, ...] = (),
    failed: tuple[int, ...] = (),
    unknown: tuple[int, ...] = (),
) -> RunRecord:
    outcomes = {
        index: Outcome(index, "EBUSY" if index in failed else None)
        for index in range(len(intended))
        if index not in unknown
    }
    return RunRecord(
        id=number,
        last_id=number + 99,
        header=HEADER,
        noticed=noticed,
        intended=intended,
        outcomes=outcomes,
        status=None if unknown else "done",
    )


def test_a_run_did_only_what_it_did_itself_and_what_is_known_to_have_happened() -> None:
    added = LinkAdded(link("w2"))
    record = run(
        1,
        added,
        LinkRemoved(link("w3")),
        LinkAdded(link("w4")),
        noticed=(NARROWED,),
        failed=(1,),
        unknown=(2,),
    )
    assert done_events(record) == (added,)
    assert touched(record) == {"w2"}


def test_a_link_that_is_seen_has_the_number_of_the_entry_that_made_it_last() -> None:
    one, two, three, four = (LinkAdded(link(f"w{number}")) for number in range(1, 5))
    start = Snapshot(topology=topology(one.link))
    again = run(400, LinkRemoved(two.link), two, three, unknown=(2,))
    runs = [run(100, two, four, noticed=(NARROWED,)), run(200, one, failed=(0,)), again]
    seen = dict.fromkeys(("w1", "w2", "w3", "w4"), "")
    assert links_made(start, runs, 50, seen) == {"w1": 50, "w2": 402, "w3": 403, "w4": 103}
    assert links_made(start, runs, 50, {"w1": "boot/1", "w9": ""}) == {"w1": 50}


def test_the_last_signed_list_is_known_whatever_comes_after_it() -> None:
    lists = Signed("K", "serial", 7), Signed("K", "serial", 5)
    known = Snapshot()
    for signed in (*lists, None):
        record = structs.replace(run(1), header=structs.replace(HEADER, signed=signed))
        known = fold(known, [record])
        assert known.signed == (signed or lists[1])
        assert last_known(known, ()).signed == known.signed


def test_the_home_is_that_of_the_last_run_that_recorded_one() -> None:
    known = Snapshot()
    for home, remembered in (("", ""), ("boot/1", "boot/1"), ("", "boot/1"), ("boot/2", "boot/2")):
        record = structs.replace(run(1), header=structs.replace(HEADER, home=home))
        known = fold(known, [record])
        assert last_known(known, ()).home == known.home == remembered


@pytest.mark.parametrize("before", [True, False])
def test_what_babeld_has_not_taken_is_owed_also_after_a_crash(before: bool) -> None:
    told, other = BabelInterfaceAdded("w1", "rxcost 96"), LinkAdded(link("w1"))

    def owed(*intended: Event, unknown: tuple[int, ...] = (), **rest: Any) -> bool:
        record = structs.replace(run(1, *intended, unknown=unknown), **rest)
        return fold(Snapshot(extra_cmd_owed=before), [record]).extra_cmd_owed

    assert owed(other, told, unknown=(0, 1)), "it may have been told before the crash"
    assert owed(other, unknown=(0,)) == owed(told) == before
    assert owed(told, extra_cmd="owed")
    assert not owed(told, extra_cmd="sent")


def test_what_was_known_at_an_entry_is_what_came_up_to_it() -> None:
    """The entry that begins a run says under which key it ran, before its events."""
    added = LinkAdded(link("w1"))
    keyed = [
        structs.replace(each, header=structs.replace(HEADER, public_key=key))
        for each, key in ((run(1), "old"), (run(101, added), "new"))
    ]
    at = {entry: fold(Snapshot(), keyed, entry) for entry in (100, 101, 102)}
    assert {entry: known.public_key for entry, known in at.items()} == {
        100: "old",
        101: "new",
        102: "new",
    }
    assert [len(known.topology.links) for known in at.values()] == [0, 0, 1]


def test_a_run_is_taken_back() -> None:
    record = run(1, LinkRemoved(link("w2")), LinkAdded(link("w3")), NARROWED)
    before = topology(link("w1"), link("w2"))
    after = replay(before, done_events(record))
    assert undo(after, record, after) == before


def test_what_it_noticed_stays_as_it_was_noticed() -> None:
    record = run(1, LinkAdded(link("w2")), noticed=(NARROWED,))
    after = topology(link("w1", NARROW), link("w2"))
    assert undo(after, record, after) == topology(link("w1", NARROW))


def test_other_links_stay_as_they_are_now() -> None:
    record = run(1, NARROWED)
    after = topology(link("w1", NARROW), link("w2"))
    now = topology(link("w1", NARROW), link("w3"))
    assert undo(now, record, after) == topology(link("w1"), link("w3"))


@pytest.mark.parametrize(
    "now",
    [
        EMPTY,
        topology(link("w1", LinkSettings(1280, 54))),
        topology(structs.replace(link("w1", NARROW), device=Device("another"))),
    ],
)
def test_links_that_changed_since_become_what_they_were_before(now: Topology) -> None:
    record = run(1, NARROWED)
    assert undo(now, record, topology(link("w1", NARROW))) == topology(link("w1"))


def test_isolation_and_babel_are_taken_back_by_name_too() -> None:
    from rait.domain.events import BabelInterfaceAdded, VrfAdded

    record = run(1, VrfAdded("vrf0", 100), BabelInterfaceAdded("w1", "rxcost 32"))
    after = Topology({}, {"w1": "rxcost 32"}, {"vrf0": 100})
    now = Topology({}, {"w1": "rxcost 96", "w2": ""}, {"vrf0": 100, "vrf1": 200})
    assert undo(now, record, after) == Topology({}, {"w2": ""}, {"vrf1": 200})


def test_a_topology_of_another_run_is_refused() -> None:
    with pytest.raises(MismatchError):
        undo(EMPTY, run(1, NARROWED), EMPTY)


def test_later_runs_that_touched_its_links_are_in_the_way() -> None:
    first = run(1, NARROWED, LinkAdded(link("w2")))
    later = [
        run(0, LinkAdded(link("w1"))),
        first,
        run(100, LinkUpdated("w1", NARROW, WIDE), LinkAdded(link("w3"))),
        run(200, LinkAdded(link("w4")), noticed=(LinkRemoved(link("w2")),)),
        run(300, LinkAdded(link("w5"))),
    ]
    assert conflicts(first, later) == (
        Conflict("w1", 100, "up"),
        Conflict("w2", 200, "up", noticed=True),
    )


def test_what_failed_is_in_nobodys_way() -> None:
    assert conflicts(run(1, NARROWED), [run(100, LinkRemoved(link("w1")), failed=(0,))]) == ()
    assert conflicts(run(1, NARROWED, failed=(0,)), [run(100, LinkRemoved(link("w1")))]) == ()


def test_what_babeld_was_told_of_a_link_since_stands_in_no_ones_way() -> None:
    record = run(1, LinkAdded(link("w2")))
    told = run(101, BabelInterfaceAdded("w2", ""))
    restarted = run(201, BabelInterfaceAdded("w2", ""), noticed=(BabelInterfaceFlushed("w2", ""),))
    assert conflicts(record, [record, told, restarted]) == ()
    assert only_told_babeld(told)
    assert only_told_babeld(restarted)
    assert not only_told_babeld(record)
    assert not only_told_babeld(run(301, NARROWED, BabelInterfaceAdded("w1", "")))


def made_again(*names: str, old: Origin, new: Origin) -> tuple[RunRecord, Topology]:
    """A run that made these links again, and the topology after it."""
    before = [structs.replace(link(name), origin=old) for name in names]
    after = [structs.replace(link(name), origin=new) for name in names]
    record = run(7, *map(LinkRemoved, before), *map(LinkAdded, after))
    return record, topology(*after)


def test_where_links_are_made_and_of_what_kind_is_not_taken_back() -> None:
    kernel, elsewhere = Origin("kernel", "mesh", "1"), Origin("kernel", "mesh", "2")
    record, after = made_again("w1", "w2", old=kernel, new=elsewhere)
    require_own_setup(record, after, "kernel", "1")
    with pytest.raises(ConfigError, match="2 links, w1 among them, again, because the transit"):
        require_own_setup(record, after, "kernel", "2")
    record, after = made_again("w1", old=kernel, new=Origin("userspace", "mesh", "1"))
    with pytest.raises(ConfigError, match="made the link w1 again, because the backend had"):
        require_own_setup(record, after, "userspace", "1")
    record, after = made_again("w1", old=kernel, new=Origin("kernel", "other", "1"))
    require_own_setup(record, after, "userspace", "9")
    added = run(7, LinkAdded(link("w1")))
    require_own_setup(added, topology(link("w1"), link("w2")), "userspace", "9")


def test_links_of_another_key_are_not_brought_back() -> None:
    require_own_key("own", "own", [link("w1")], "it")
    require_own_key("own", "", [], "it")
    for run_key, links in (("own", [link("w1")]), ("other", [])):
        with pytest.raises(ConfigError, match=r"^it was made under another key: public key o"):
            require_own_key("new", run_key, links, "it")


def test_links_are_brought_back_as_they_would_be_made_now() -> None:
    then = topology(link("w1"))
    now = Origin("userspace", "", "3", "boot/1")
    assert as_made_now(then, lambda _: now).links["w1"] == structs.replace(link("w1"), origin=now)


# Runs are found at their time, whatever the clock said.

DAY = 86_400 * 10**9
BEGAN = 1_767_225_600 * 10**9
"""The first of January 2026."""
NOW = BEGAN + 100 * DAY
BOOT = 30 * 10**9
"""Half a minute after midnight of the first of January 1970."""
FAR = BEGAN + 70 * 365 * DAY


def day(number: int) -> int:
    return BEGAN + number * DAY


def told(*clocks: int) -> list[Start]:
    """Runs as they are written down: not before the last one."""
    return [Start(max(clocks[: n + 1]), clock) for n, clock in enumerate(clocks)]


def told_long_ago(*clocks: int) -> list[Start]:
    """Runs as rait 0.1.0 wrote them down: at whatever the clock said."""
    return [Start(clock, clock) for clock in clocks]


def sure(*days: int) -> list[Span]:
    return [Span(day(number), day(number)) for number in days]


@pytest.mark.parametrize("written", [told, told_long_ago])
def test_a_clock_that_is_not_set_at_boot_misplaces_no_run(written) -> None:
    one, boot, two = spans(written(day(1), BOOT, day(5)), NOW)
    assert [one, two] == sure(1, 5)
    assert boot == Span(day(1), day(5))


def test_a_clock_is_set_from_the_first_second_on_in_which_rait_had_a_journal() -> None:
    first = 1_735_689_600 * 10**9
    one, two = spans(told(first, day(5)), NOW)
    assert (one, two) == (Span(first, first), Span(day(5), day(5)))
    one, two = spans(told(first - 1, day(5)), NOW)
    assert one == Span(first - 1, day(5))
    alone = spans(told(first - 1, first), NOW)
    assert alone == (Span(first - 1, first), Span(first, first))


@pytest.mark.parametrize("written", [told, told_long_ago])
def test_many_boots_without_a_clock_do_not_outvote_the_others(written) -> None:
    runs = spans(written(BOOT, BOOT + 1, day(1), BOOT, BOOT + 2, BOOT + 1, day(5), BOOT), NOW)
    assert [runs[2], runs[6]] == sure(1, 5)
    assert runs[0].latest == runs[1].latest == day(1)
    assert runs[3:6] == (Span(day(1), day(5)),) * 3
    assert runs[7] == Span(day(5), 2**63 - 1), "the last time that SQLite has"


@pytest.mark.parametrize("written", [told, told_long_ago])
def test_a_clock_in_the_far_future_moves_no_later_run_there(written) -> None:
    one, far, two, three = spans(written(day(1), FAR, day(5), day(6)), NOW)
    assert [one, two, three] == sure(1, 5, 6)
    assert far == Span(day(1), day(5))


def test_a_run_that_was_written_down_late_began_when_it_says() -> None:
    (one, late, two) = spans([*told(day(1)), Start(day(5), day(2)), Start(day(5), day(5))], NOW)
    assert [one, late, two] == sure(1, 2, 5)
    a_minute = day(1) + 60 * 10**9
    assert spans([Start(a_minute, day(1))], NOW) == (Span(a_minute, a_minute),)
    assert list(spans([Start(a_minute + 1, day(1))], NOW)) == sure(1)


def test_where_most_runs_are_later_than_now_it_is_now_that_is_wrong() -> None:
    assert list(spans(told(day(1), day(2), day(3)), BOOT)) == sure(1, 2, 3)


def test_where_half_of_the_runs_are_later_than_now_nobody_knows_and_now_is_right() -> None:
    assert spans(told(day(1), FAR), NOW) == (Span(day(1), day(1)), Span(day(1), 2**63 - 1))


def test_runs_of_this_very_moment_are_not_later_than_now() -> None:
    """As where the clock was set back: now is then the time of the last run."""
    one, far, two = spans(told_long_ago(NOW, FAR, NOW), NOW)
    assert (one, two) == (Span(NOW, NOW), Span(NOW, NOW))
    assert far == Span(NOW, NOW)
    assert spans([Start(NOW, NOW - 1)], NOW) == (Span(NOW, NOW),)


clocks = st.lists(st.sampled_from((0, BOOT, FAR)) | st.integers(BEGAN, NOW + 10 * DAY), max_size=12)


@given(clocks, st.sampled_from((BOOT, NOW, FAR)), st.booleans())
def test_the_order_of_runs_is_the_order_of_their_times(
    found: Sequence[int], now: int, long_ago: bool
) -> None:
    runs = spans(told_long_ago(*found) if long_ago else told(*found), now)
    assert len(runs) == len(found)
    assert all(span.earliest <= span.latest for span in runs)
    for before, after in pairwise(runs):
        assert before.earliest <= after.earliest
        assert before.latest <= after.latest


@given(st.lists(st.integers(BEGAN, NOW), max_size=12))
def test_a_clock_that_never_went_back_is_believed(found: list[int]) -> None:
    assert [span.earliest for span in spans(told(*sorted(found)), NOW)] == sorted(found)
    assert all(span.earliest == span.latest for span in spans(told(*sorted(found)), NOW))

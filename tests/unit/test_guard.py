"""Which removals go unasked, and which do not."""

from __future__ import annotations

import pytest
from msgspec import structs

from rait.domain import guard
from rait.domain.backend import Outcome
from rait.domain.change import Change
from rait.domain.diff import diff
from rait.domain.events import LinkRemoved
from rait.domain.guard import Losses, Removal, recent_losses
from rait.domain.records import RunHeader, RunRecord
from rait.domain.topology import EMPTY, Device, Link, LinkPeer, LinkSettings, Origin, Topology
from tests.removals import excessive_removal


def topology(*numbers: int, transit: str = "") -> Topology:
    return Topology(
        {
            f"w{n}": Link(
                f"w{n}", Origin("kernel", "", transit), LinkSettings(1420, 54), Device("")
            )
            for n in numbers
        }
    )


FOUR = topology(1, 2, 3, 4)


def test_more_than_half_of_four_links_must_be_asked_for() -> None:
    assert excessive_removal(FOUR, topology(1)) == Removal(("w2", "w3", "w4"), 4, 2)
    assert excessive_removal(FOUR, EMPTY) == Removal(("w1", "w2", "w3", "w4"), 4, 2)


@pytest.mark.parametrize("known", ["own", "former", None])
def test_our_new_private_key_costs_the_sessions_that_there_are(known: str | None) -> None:
    """A link to which somebody else gave its key has none."""
    there, after = with_peers("a", "b", "c", "d"), with_peers("a", "b", "c", "d", own="new")
    remembered = EMPTY if known is None else with_peers("a", "b", "c", "d", own=known)
    removal = excessive_removal(there, after, known=remembered)
    if known == "former":
        assert removal is None
        return
    assert removal is not None
    assert removal.reasons == dict.fromkeys(there.links, "another private key")


def test_half_of_them_may_go() -> None:
    assert excessive_removal(FOUR, topology(1, 2)) is None


def test_of_an_odd_number_less_than_half_may_go() -> None:
    five = topology(1, 2, 3, 4, 5)
    assert excessive_removal(five, topology(1, 2, 3)) is None
    removal = excessive_removal(five, topology(1, 2))
    assert removal is not None
    assert (removal.of, removal.limit) == (5, 2)


@pytest.mark.parametrize("before", [EMPTY, topology(1), topology(1, 2, 3)])
def test_fewer_than_four_links_may_all_go(before: Topology) -> None:
    assert excessive_removal(before, EMPTY) is None


def with_peers(*keys: str, own: str = "own", origin: Origin | None = None) -> Topology:
    """Links w1, w2 and so on, each with a peer of this key, or with none for ""."""
    links = {}
    for number, key in enumerate(keys, 1):
        name = f"w{number}"
        peers = (LinkPeer(key),) if key else ()
        born = origin or Origin("kernel")
        links[name] = Link(name, born, LinkSettings(1420, 54), Device(own), peers)
    return Topology(links)


ABCD = with_peers("a", "b", "c", "d")


@pytest.mark.parametrize(
    ("after", "reason"),
    [
        (with_peers("e", "f", "g", "h"), "another peer"),
        (with_peers("a", "b", "c", "d", own="new"), "another private key"),
        (with_peers("a", "b", "c", "d", origin=Origin("kernel", "", "other")), "made again"),
        (with_peers("a", "b", "c", "d", origin=Origin("userspace")), "made again"),
    ],
)
def test_a_link_that_stays_in_name_only_counts(after: Topology, reason: str) -> None:
    removal = excessive_removal(ABCD, after)
    assert removal is not None
    assert removal.links == ("w1", "w2", "w3", "w4")
    assert set(removal.reasons.values()) == {reason}
    mixed = Topology({**after.links, "w3": ABCD.links["w3"], "w4": ABCD.links["w4"]})
    assert excessive_removal(ABCD, mixed) is None
    del mixed.links["w4"]  # type: ignore[attr-defined]
    removal = excessive_removal(ABCD, mixed)
    assert removal is not None
    assert removal.reasons == {"w1": reason, "w2": reason}
    assert removal.links == ("w1", "w2", "w4")


def test_where_there_is_no_session_none_is_lost() -> None:
    bare = with_peers("", "", "", "")
    assert excessive_removal(bare, ABCD) is None
    keyless = with_peers("a", "b", "c", "d", own="")
    assert excessive_removal(keyless, ABCD) is None
    placed = with_peers("a", "b", "c", "d", origin=Origin("kernel", "", "", "boot:1"))
    assert excessive_removal(ABCD, placed) is None, "it is only known better where they are"


def test_a_link_whose_socket_is_gone_has_no_session_to_lose() -> None:
    """As where the namespace that they were born in was deleted, and made anew."""
    after = with_peers("a", "b", "c", "d", origin=Origin("kernel", "", "new"))
    every = frozenset(ABCD.links)
    assert excessive_removal(ABCD, after, dead=every) is None
    assert excessive_removal(ABCD, after, dead=every - {"w1", "w2", "w3"}) is not None


def test_what_others_did_is_taken_back_unasked() -> None:
    """Its session was lost when they did it."""
    strange_keys = with_peers("a", "b", "c", "d", own="strange")
    strange_peers = with_peers("x", "x", "x", "x")
    for found in (strange_keys, strange_peers):
        assert excessive_removal(found, ABCD, known=ABCD) is None
        assert excessive_removal(found, ABCD) is not None, "without a journal nobody can tell"


def test_a_link_that_is_changed_is_not_removed() -> None:
    changed = {
        name: structs.replace(link, settings=LinkSettings(1300, 54))
        for name, link in FOUR.links.items()
    }
    assert excessive_removal(FOUR, Topology(changed)) is None


def test_other_links_that_come_do_not_make_up_for_those_that_go() -> None:
    assert excessive_removal(FOUR, topology(5, 6, 7, 8)) is not None


@pytest.mark.parametrize(
    ("max_removals", "left", "stops"),
    [(0, (1, 2, 3), True), (0, (1, 2, 3, 4), False), (1, (1, 2, 3), False), (4, (), False)],
)
def test_max_removals_takes_the_place_of_half(
    max_removals: int, left: tuple[int, ...], stops: bool
) -> None:
    assert (excessive_removal(FOUR, topology(*left), max_removals) is not None) == stops


# What went before


def mesh(*numbers: int) -> Topology:
    """Link w1 with peer 1, and so on."""
    return Topology({f"w{n}": link_to(f"w{n}", str(n)) for n in numbers})


def link_to(name: str, peer: str) -> Link:
    return Link(name, Origin("kernel"), LinkSettings(1420, 54), Device("own"), (LinkPeer(peer),))


def run(
    before: Topology, after: Topology, *, accepted: bool = False, failed: bool = False
) -> RunRecord:
    events = diff(before, after)
    error = "EBUSY" if failed else None
    return RunRecord(
        id=1,
        last_id=9,
        header=RunHeader(
            scope="",
            command="up",
            version="",
            uid=0,
            started_at=0,
            public_key="own",
            accepted=accepted,
        ),
        intended=events,
        outcomes={index: Outcome(index, error) for index in range(len(events))},
        status="done",
    )


EIGHT, HALF, QUARTER = mesh(*range(8)), mesh(*range(4)), mesh(0, 1)


def test_a_mesh_does_not_die_by_halves() -> None:
    assert excessive_removal(EIGHT, HALF) is None
    earlier = recent_losses([run(mesh(), EIGHT), run(EIGHT, HALF)])
    removal = excessive_removal(HALF, QUARTER, earlier=earlier)
    assert removal == Removal(("w2", "w3"), 8, 4, {}, ("w4", "w5", "w6", "w7"))
    assert excessive_removal(HALF, mesh(0, 1, 2, 3, 9), earlier=earlier) is None, "nothing lost"
    assert excessive_removal(HALF, QUARTER, 6, earlier=earlier) is None
    assert excessive_removal(HALF, QUARTER, 5, earlier=earlier) is not None


def test_peers_that_are_replaced_by_halves_count_too() -> None:
    swapped = Topology({n: link_to(n, f"new {n}") for n in ("w0", "w1", "w2", "w3")})
    half = Topology({**EIGHT.links, **swapped.links})
    assert excessive_removal(EIGHT, half) is None
    earlier = recent_losses([run(EIGHT, half)])
    next_one = Topology({**half.links, "w4": link_to("w4", "new")})
    removal = excessive_removal(half, next_one, earlier=earlier)
    assert removal == Removal(("w4",), 8, 4, {"w4": "another peer"}, ("w0", "w1", "w2", "w3"))


def test_what_came_back_is_not_lost() -> None:
    earlier = recent_losses([run(EIGHT, HALF), run(HALF, EIGHT)])
    assert excessive_removal(EIGHT, HALF, earlier=earlier) is None
    renamed = Topology({f"w{n + 10}": link_to(f"w{n + 10}", str(n)) for n in range(4, 8)})
    whole = Topology({**HALF.links, **renamed.links})
    earlier = recent_losses([run(EIGHT, HALF), run(HALF, whole)])
    without_two = Topology({n: whole.links[n] for n in whole.links if n not in ("w0", "w1")})
    assert excessive_removal(whole, without_two, earlier=earlier) is None


def test_who_asked_for_it_begins_anew() -> None:
    earlier = recent_losses([run(EIGHT, HALF), run(HALF, QUARTER, accepted=True)])
    assert earlier == {}
    assert excessive_removal(HALF, QUARTER, earlier=earlier) is None


def test_only_what_a_run_did_itself_counts() -> None:
    assert recent_losses([run(EIGHT, HALF, failed=True)]) == {}
    by_others = structs.replace(
        run(HALF, HALF), noticed=tuple(LinkRemoved(EIGHT.links[f"w{n}"]) for n in (4, 5))
    )
    assert recent_losses([by_others]) == {}
    left = structs.replace(
        by_others, header=structs.replace(by_others.header, leftover_noticed=(1, 2))
    )
    assert set(recent_losses([left])) == {"w5"}, "what a run that was cut off did all the same"


def test_what_a_run_made_or_changed_it_did_not_end() -> None:
    assert recent_losses([run(HALF, EIGHT)]) == {}


def test_max_removals_counts_for_few_links_as_well() -> None:
    assert excessive_removal(topology(1), EMPTY, 0) == Removal(("w1",), 1, 0)


def test_what_recent_runs_cost_is_only_asked_where_this_one_costs_anything() -> None:
    def never() -> Losses:
        raise AssertionError("it takes time to read the journal")

    quiet = Change(observed=ABCD, desired=ABCD)
    assert guard.excessive_removal(quiet, None, never) is None
    dead = Change(observed=ABCD, desired=EMPTY, dead=frozenset(ABCD.links))
    assert guard.excessive_removal(dead, None, never) is None
    less = Change(observed=ABCD, desired=with_peers("a", "b", "c"))
    assert guard.excessive_removal(less, None, dict) is None
    assert guard.excessive_removal(less, 0, dict) == Removal(("w4",), 4, 0)
    recent = {"w5": frozenset("e"), "w6": frozenset("f")}
    assert guard.excessive_removal(less, None, lambda: recent) is None
    gone = with_peers("a", "b", "c", "d", "e", "f", "g").links["w7"]
    left = structs.replace(less, leftover=frozenset((LinkRemoved(gone),)))
    assert guard.excessive_removal(left, None, lambda: recent) == Removal(
        ("w4",), 7, 3, {}, ("w5", "w6", "w7")
    )


def test_a_link_that_is_to_have_no_peer_is_not_given_to_another_one() -> None:
    assert excessive_removal(ABCD, with_peers("", "", "", "")) is None


def test_the_only_peer_that_there_is_may_be_the_one_that_was_lost() -> None:
    """It has another link now, so it is not lost; the limit is of the links that there were."""
    earlier = {"w8": frozenset("a")}
    removal = excessive_removal(ABCD, with_peers("a"), earlier=earlier)
    assert removal == Removal(("w2", "w3", "w4"), 4, 2)

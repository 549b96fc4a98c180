"""Whose a link is, case by case."""

from __future__ import annotations

import pytest
from msgspec import structs

from rait.domain.backend import Observation, ObservedLink, UnreadLink
from rait.domain.config.schema import PRIVATE_GROUPS
from rait.domain.events import LinkAdded, LinkRemoved
from rait.domain.history import LastKnown
from rait.domain.ownership import (
    Scope,
    doubtful,
    holdings,
    is_in_one_place,
    is_in_place,
    is_ours,
    occupied,
    strangers_among,
    unread_of_ours,
    with_found,
)
from rait.domain.topology import Device, Link, LinkSettings, Origin, Topology

SCOPE = Scope(public_key="own", netns="mesh", ifgroup=54)


def link(
    netns: str = "mesh", group: int = 54, key: str = "own", instance: str = "", name: str = "w1"
) -> Link:
    origin = Origin("kernel", netns, "transit", instance)
    return Link(name, origin, LinkSettings(1420, group), Device(key, 5))


def made(*links: Link) -> LastKnown:
    return LastKnown(topology=Topology({each.name: each for each in links}))


def may_have_made(*links: Link) -> LastKnown:
    return LastKnown(leftover_links={each.name: each for each in links})


def seen(*links: Link) -> Observation:
    """The first of a name, and others of that name elsewhere."""
    found: dict[str, ObservedLink] = {}
    doubles = []
    for each in links:
        observed = ObservedLink(link=each)
        if found.setdefault(each.name, observed) is not observed:
            doubles.append(observed)
    return Observation(now=0, links=found, doubles=tuple(doubles))


def ours(each: Link, known: LastKnown = LastKnown(), scope: Scope = SCOPE) -> bool:  # noqa: B008
    return is_ours(ObservedLink(link=each), known, scope)


def test_where_the_journal_knows_no_link_those_of_ours_that_are_there_count() -> None:
    one, other, stranger = link(), link(name="w2"), link(name="w3", key="else")
    found = with_found(LastKnown(), seen(one, other, stranger), SCOPE)
    assert found == made(one, other)
    assert with_found(made(one), seen(one, other), SCOPE) == made(one)


@pytest.mark.parametrize("remember", [made, may_have_made])
@pytest.mark.parametrize(
    ("netns", "group", "is_one"),
    [
        ("mesh", 54, True),
        ("mesh", 55, False),
        ("other", 54, False),
        ("other", 55, False),
        ("former", 53, True),
        ("former", 54, False),
        ("mesh", 53, False),
    ],
)
def test_what_cannot_be_read_is_ours_by_its_namespace_and_its_group(
    netns: str, group: int, is_one: bool, remember: type[LastKnown]
) -> None:
    """Those that are ours now, and those in which we made a link of the name, and no mixture."""
    known = remember(link("former", 53))
    there = Observation(now=0, unread={"w1": UnreadLink(netns, group, "it hangs")})
    assert unread_of_ours(there, known, SCOPE) == ({"w1": "it hangs"} if is_one else {})
    assert unread_of_ours(there, LastKnown(), SCOPE) == (
        {"w1": "it hangs"} if (netns, group) == ("mesh", 54) else {}
    )
    assert unread_of_ours(there, known, structs.replace(SCOPE, claimed={"w1": "/x"})) == {}
    another = structs.replace(SCOPE, claimed={"w2": "/x"})
    assert bool(unread_of_ours(there, known, another)) == is_one


def test_what_cannot_be_read_and_we_did_not_make_may_be_anothers() -> None:
    there = Observation(now=0, unread={"w1": UnreadLink("mesh", 54, "it hangs")})
    assert doubtful(there, LastKnown(), SCOPE) == {"w1": ""}
    assert doubtful(there, may_have_made(link()), SCOPE) == {"w1": ""}
    assert doubtful(there, made(link()), SCOPE) == {}
    elsewhere = Observation(now=0, unread={"w1": UnreadLink("mesh", 9, "it hangs")})
    assert doubtful(elsewhere, LastKnown(), SCOPE) == {}


@pytest.mark.parametrize(
    ("each", "is_one"),
    [
        (link(), True),
        (link(group=55), False),
        (link("other"), False),
        (link(key="else"), False),
        (link(key=""), False),
        (link(group=PRIVATE_GROUPS), True),
        (link("other", PRIVATE_GROUPS), False),
        (link(group=PRIVATE_GROUPS, key="else"), False),
        (link(group=PRIVATE_GROUPS - 1), False),
    ],
)
def test_without_a_journal_a_link_is_ours_by_place_group_and_key(each: Link, is_one: bool) -> None:
    assert ours(each) == is_one


@pytest.mark.parametrize("remember", [made, may_have_made])
@pytest.mark.parametrize(
    ("each", "is_one"),
    [
        (link("former", 53, "former key"), True),
        (link("former", 53, ""), True),
        (link("former", 53, "own"), True),
        (link("former", 53, "else"), False),
        (link("former", 54, "former key"), False),
        (link("former", PRIVATE_GROUPS + 1, "former key"), True),
        (link("other", 53, "former key"), False),
        (link("mesh", 54, "former key"), True),
        (link("mesh", 54, "else"), False),
        (link("former", 53, "former key", name="w2"), False),
        (link("mesh", 54, "former key", name="w2"), True),
    ],
)
def test_what_the_journal_knows_is_ours_where_and_as_it_was_made(
    each: Link, is_one: bool, remember: type[LastKnown]
) -> None:
    assert ours(each, remember(link("former", 53, "former key"))) == is_one


def test_a_link_where_we_made_one_of_its_name_is_ours_whatever_its_key() -> None:
    assert ours(link(key="else"), made(link()))
    assert not ours(link(key="else"), made(link(name="w2")))


def test_where_nobody_asked_for_the_key_all_that_is_in_our_place_is_ours() -> None:
    assert ours(link(key="else"), scope=structs.replace(SCOPE, public_key=""))


def test_strangers_are_told_with_the_reason_and_others_not_at_all() -> None:
    there = seen(
        link(),
        link(key="else", name="w2"),
        link(key="", name="w3"),
        link(name="w4"),
        link(group=9, key="else", name="w5"),
    )
    scope = structs.replace(SCOPE, claimed={"w4": "/other.conf"})
    found = strangers_among(there.links.values(), LastKnown(), scope)
    assert [(each.link, each.claimed) for each in found] == [
        ("w2", False), ("w3", False), ("w4", True),
    ]  # fmt: skip
    whys = ["public key else is neither", "without a key", "another configuration, /other.conf"]
    assert all(why in each.why for why, each in zip(whys, found, strict=True))
    assert holdings(there, LastKnown(), scope).strangers == found
    assert holdings(there, LastKnown(), scope).links.keys() == {"w1"}


@pytest.mark.parametrize(
    ("key", "instance", "is_one"),
    [
        ("own", "1", True),
        ("former key", "1", False),  # another configuration may have taken it over since
        ("own", "2", False),
        ("", "1", False),
        ("else", "1", False),
    ],
)
def test_a_claim_is_not_on_the_link_that_we_made(key: str, instance: str, is_one: bool) -> None:
    known = made(link(key="former key", instance="1"))
    there = link(key=key, instance=instance)
    scope = structs.replace(SCOPE, claimed={"w1": "/other.conf"})
    assert ours(there, known, scope) == is_one
    assert bool(doubtful(seen(there), known, SCOPE)) != is_one


def test_of_two_links_of_ours_with_one_name_neither_is_touched() -> None:
    here, there = link(instance="1"), link("former", instance="2")
    known = made(there)
    found = holdings(seen(here, there), known, SCOPE)
    assert not found.links
    assert "in the namespaces 1 and 2" in found.unknown["w1"]
    assert doubtful(seen(here, there), LastKnown(), SCOPE) == {"w1": "1"}
    both = made(link("former", instance="9"))
    assert doubtful(seen(here, there), both, SCOPE) == {"w1": ""}, "one cannot say which"


def test_what_was_made_in_a_namespace_that_is_lost_is_unknown() -> None:
    lost = Observation(now=0, lost={"1": "nobody knows"})
    known = made(link(instance="1"), link(instance="2", name="w2"))
    assert unread_of_ours(lost, known, SCOPE) == {"w1": "nobody knows"}
    assert unread_of_ours(lost, may_have_made(link(instance="1")), SCOPE).keys() == {"w1"}
    assert unread_of_ours(Observation(now=0), known, SCOPE) == {}


def test_a_link_that_a_run_was_making_again_is_found_where_it_was_to_be() -> None:
    """It had removed the former one before, in the namespace that nobody can look at now."""
    former, new = link("former", instance="1"), link(instance="2")
    cut_off = structs.replace(
        made(former), leftover_links={"w1": new}, leftover=(LinkRemoved(former), LinkAdded(new))
    )
    lost = structs.replace(seen(new), lost={"1": "nobody knows"})
    assert unread_of_ours(lost, cut_off, SCOPE) == {}
    for unlike in (
        structs.replace(cut_off, leftover=(LinkAdded(new),)),
        structs.replace(cut_off, leftover=(LinkRemoved(structs.replace(former, name="w9")),)),
        structs.replace(cut_off, leftover_links={}),
    ):
        assert unread_of_ours(lost, unlike, SCOPE) == {"w1": "nobody knows"}
    elsewhere = structs.replace(seen(link(instance="3")), lost=lost.lost)
    assert unread_of_ours(elsewhere, cut_off, SCOPE) == {"w1": "nobody knows"}


def test_a_place_is_a_namespace_and_its_instance() -> None:
    assert is_in_one_place(link(instance="1"), link(instance="1"))
    assert not is_in_one_place(link(instance="1"), link())
    assert not is_in_one_place(link(instance="1"), link("other", instance="1"))
    assert is_in_place(link(instance="1"), link(instance="1"))
    assert is_in_place(link(instance="1"), link()), "where it was made was not known then"
    assert not is_in_place(link(), link(instance="1"))
    assert not is_in_place(link("other", instance="1"), link(instance="1"))


HIDDEN = {"w1": UnreadLink("mesh", 54, "it hangs")}


@pytest.mark.parametrize(
    ("there", "beside", "why"),
    [
        ([], {}, None),
        ([link()], {}, None),
        ([link(key="else")], {}, "that is not ours already has this name (public key else "),
        ([link(group=55)], {}, "a WireGuard interface of group 55, so not of ours, already has"),
        ([link(group=PRIVATE_GROUPS, key="else")], {}, f"of group {PRIVATE_GROUPS}, so not of"),
        ([link("other", 55)], {}, None),
        ([link("former", 53)], {}, None),
        ([], {"others": {"w1": "dummy"}}, "an interface of kind dummy already has this name"),
        ([], {"others": {"w1": ""}}, "an interface of kind physical already has this name"),
        ([link("former", 53)], {"others": {"w1": "dummy"}}, "of kind dummy already has this name"),
        ([link()], {"others": {"w1": "dummy"}}, None),
        ([], {"others": {"w2": "dummy"}}, None),
        ([], {"unread": HIDDEN, "others": {"w1": "dummy"}}, None),
    ],
)
def test_what_has_the_name_of_a_wanted_link_and_is_not_ours_is_in_its_way(
    there: list[Link], beside: dict[str, object], why: str | None
) -> None:
    """What is elsewhere is not, and what cannot be read is told by others."""
    observation = structs.replace(seen(*there), **beside)
    held = holdings(observation, made(link("former", 53)), SCOPE)
    problems = list(occupied({"w1": link()}, held, observation))
    assert [problem.link for problem in problems] == ["w1"] * (why is not None)
    for problem in problems:
        assert why is not None
        assert why in problem.message
        assert problem.message.endswith(", or use another ifprefix")

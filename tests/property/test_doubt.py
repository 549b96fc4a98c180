"""What a registry entry that was skipped costs, whatever else changes at the same time."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import get_args

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from rait.domain import doubt as module
from rait.domain.change import Change, Doubt, Doubts
from rait.domain.config.schema import Transport
from rait.domain.diff import diff
from rait.domain.errors import Problem, SkippedEntry
from rait.domain.events import replay
from rait.domain.topology import (
    Device,
    Family,
    Link,
    LinkPeer,
    LinkSettings,
    Origin,
    Rule,
    Topology,
)
from tests.property import strategies as some

TRANSPORTS = (Transport(address_family="ip4", send_port=1, mtu=1420, ifprefix="w"),)
"""The names that topologies are drawn with are "w" and a number, which stands for a port here."""

BACKENDS = ("kernel", "userspace")


def about(found: Sequence[Doubt]) -> Doubts:
    return Doubts(found, TRANSPORTS, lambda problem: problem.message, 1000)


def keep_doubtful(before: Topology, after: Topology, doubts: Doubts) -> Change:
    return module.keep_doubtful(Change(observed=before, desired=after), doubts)


entries = st.builds(
    SkippedEntry,
    st.none() | some.peer_keys,
    st.none() | some.families,
    st.none() | st.integers(1, 6),
)
doubts = st.builds(Doubt, entries, st.just(Problem("wrong", "warning")), st.booleans()).filter(
    lambda doubt: doubt.entry.public_key is not None or not doubt.readable
)


def loses(link: Link, after: Topology) -> bool:
    wanted = after.links.get(link.name)
    if wanted is None:
        return True
    return bool(link.peers) and all(wanted.peer(p.public_key) is None for p in link.peers)


def may_be(doubt: Doubt, link: Link) -> bool:
    """Whether an entry of which all that is not None was read may be the link's."""
    entry = doubt.entry
    if entry.family == "ip6":
        return False
    if entry.public_key is not None:
        return link.peer(entry.public_key) is not None
    return entry.send_port is None or link.name == f"w{entry.send_port}"


@given(some.topologies(), some.topologies(), st.lists(doubts, max_size=4))
def test_what_an_entry_that_cannot_be_read_may_be_of_stays_as_it_is(
    before: Topology, after: Topology, found: list[Doubt]
) -> None:
    kept = keep_doubtful(before, after, about(found))
    now = kept.desired.links
    told = {problem.link for problem in kept.problems}
    for name, link in before.links.items():
        keyed = [d for d in found if d.entry.public_key is not None and may_be(d, link)]
        if loses(link, after) and any(not doubt.readable for doubt in keyed):
            assert now[name] == link
            assert name in told
    for name, link in before.links.items():
        named = [d for d in found if d.entry.public_key is None and d.entry.send_port is not None]
        if loses(link, after) and any(may_be(doubt, link) for doubt in named):
            assert now[name] == link
            assert name in told


@given(some.topologies(), some.topologies(), st.lists(doubts, max_size=4))
def test_what_is_not_in_doubt_goes_its_way(
    before: Topology, after: Topology, found: list[Doubt]
) -> None:
    kept = keep_doubtful(before, after, about(found))
    now = kept.desired
    told = {problem.link for problem in kept.problems}
    untold = (before.links.keys() | after.links.keys()) - told
    assert {n: now.links.get(n) for n in untold} == {n: after.links.get(n) for n in untold}
    assert now.babel == after.babel
    vrfs = {*now.vrfs.items()}
    assert {*after.vrfs.items()} <= vrfs <= {*before.vrfs.items(), *after.vrfs.items()}
    assert {*after.rules} <= {*now.rules} <= {*before.rules, *after.rules}


@given(some.topologies(), some.topologies(), st.lists(doubts, max_size=4))
def test_a_link_that_an_entry_may_cost_is_told(
    before: Topology, after: Topology, found: list[Doubt]
) -> None:
    """The run has not done well then: the problem or the loss shows in its status."""
    kept = keep_doubtful(before, after, about(found))
    for link in before.links.values():
        if not loses(link, after) or kept.desired.links.get(link.name) == link:
            continue
        telling = (d for d in found if d.entry.public_key or d.entry.send_port is not None)
        if any(may_be(doubt, link) for doubt in telling):
            assert any(link.name in loss for loss in kept.losses)
        elif any(d.entry.public_key is None and d.entry.send_port is None for d in found):
            assert kept.losses
    if kept.losses:
        assert any(loses(link, kept.desired) for link in before.links.values())


def test_a_link_that_stays_keeps_its_vrf_and_the_rules_of_its_mark() -> None:
    """Where rait.conf has another VRF and mark by now, nothing is pulled from under the link."""

    def topology(vrf: str, mark: int, *ports: int) -> Topology:
        settings = LinkSettings(1420, 54, vrf)
        links = {
            f"w{n}": Link(
                f"w{n}", Origin("kernel"), settings, Device("own", n, mark), (LinkPeer(f"{n}"),)
            )
            for n in ports
        }
        rule = Rule("ip4", mark, 100, 900)
        return Topology(links, vrfs={vrf: mark}, rules={rule.name: rule})

    before, after = topology("old", 1, 1, 2), topology("new", 2, 1)
    doubt = Doubt(SkippedEntry("2", None, None), Problem("wrong", "warning"))
    now = keep_doubtful(before, after, about((doubt,))).desired
    assert now.links == {"w1": after.links["w1"], "w2": before.links["w2"]}
    assert now.vrfs == {"old": 1, "new": 2}
    assert now.rules == {**before.rules, **after.rules}
    same_mark = structs.replace(after, rules={}, links=topology("new", 1, 1).links)
    now = keep_doubtful(before, same_mark, about((doubt,))).desired
    assert now.rules == {}, "the mark's rules are those of the links that are to be"


def test_a_newcomer_does_not_take_the_link_of_a_peer_whose_key_cannot_be_read() -> None:
    """Somebody mistyped the key of a peer, and a newcomer asks for its port."""

    def link(key: str) -> Link:
        device, settings = Device("own", 5), LinkSettings(1420, 54)
        return Link("w5", Origin("kernel"), settings, device, (LinkPeer(key),))

    before, after = Topology({"w5": link("there")}), Topology({"w5": link("newcomer")})
    doubt = Doubt(SkippedEntry(None, "ip4", 5), Problem("no key", "warning"))
    kept = keep_doubtful(before, after, about((doubt,)))
    assert (kept.desired, kept.losses) == (before, ())
    (problem,) = kept.problems
    assert problem.link == "w5"
    assert "no key; meanwhile peer newcomer, which has its port, gets no link" in problem.message


def test_where_each_link_is_explained_no_entry_is_told_that_may_be_anyones() -> None:
    settings = LinkSettings(1420, 54)
    one = Link("w1", Origin("kernel"), settings, Device("own", 1), (LinkPeer("1"),))
    doubts = [
        Doubt(SkippedEntry(key, None, None), Problem("wrong", "warning")) for key in ("1", None)
    ]
    kept = keep_doubtful(Topology({"w1": one}), Topology(), about(doubts))
    assert (kept.desired.links, kept.losses) == ({"w1": one}, ())


def test_a_port_that_the_kernel_chose_is_nobody_elses() -> None:
    """A link whose new port is taken stays with a random one, and any other may have one too."""

    def link(name: str, port: int, key: str) -> Link:
        settings, device = LinkSettings(1420, 54), Device("own", port)
        return Link(name, Origin("kernel"), settings, device, (LinkPeer(key),))

    unread, before, random = link("w5", 5, "unread"), link("x5", 0, "moved"), link("x6", 0, "new")
    observed = Topology({"w5": unread, "x5": before})
    desired = Topology({"x5": link("x5", 5, "moved"), "x6": random})
    doubt = Doubt(SkippedEntry("unread", None, None), Problem("wrong", "warning"))
    kept = keep_doubtful(observed, desired, about((doubt,)))
    assert kept.desired.links == {"w5": unread, "x5": before, "x6": random}
    assert [problem.link for problem in kept.problems] == ["w5", "x5"]
    unread = link("w7", 0, "unread")
    kept = keep_doubtful(Topology({"w7": unread}), Topology({"x6": random}), about((doubt,)))
    assert kept.desired.links == {"x6": random, "w7": unread}


def test_a_link_in_doubt_stays_also_where_the_one_that_is_to_come_has_no_peer() -> None:
    settings, device = LinkSettings(1420, 54), Device("own", 5)
    before, bare = (
        Link("w5", Origin("kernel"), settings, device, peers) for peers in ((LinkPeer("5"),), ())
    )
    doubt = Doubt(SkippedEntry("5", None, None), Problem("wrong", "warning"))
    kept = keep_doubtful(Topology({"w5": before}), Topology({"w5": bare}), about((doubt,)))
    assert kept.desired.links == {"w5": before}


def test_an_entry_of_one_family_leaves_the_links_of_the_other_to_go() -> None:
    """Also where the prefix of the one transport begins that of the other."""
    short, long = (
        Transport(address_family=family, send_port=1, mtu=1420, ifprefix=prefix)
        for family, prefix in zip(get_args(Family), ("w", "w6x"), strict=True)
    )
    one, other = (
        Link(name, Origin("kernel"), LinkSettings(1420, 54), Device("own", port), (LinkPeer("5"),))
        for name, port in (("w5", 5), ("w6x6", 6))
    )
    doubt = Doubt(SkippedEntry("5", "ip4", None), Problem("wrong", "warning"))
    doubts = structs.replace(about((doubt,)), transports=(short, long))
    both = Topology({"w5": one, "w6x6": other})
    assert keep_doubtful(both, Topology(), doubts).desired.links == {"w5": one}


@pytest.mark.parametrize(
    ("newcomers", "max_links", "too_many"), [(1, 3, False), (1, 2, True), (0, 1, False)]
)
def test_links_that_stay_count_for_the_limit_if_a_new_one_comes(
    newcomers: int, max_links: int, too_many: bool
) -> None:
    links = [
        Link(f"w{n}", Origin("kernel"), LinkSettings(1420, 54), Device("own", n), (LinkPeer(key),))
        for n, key in enumerate(("there", "there", "new"), 1)
    ]
    before, after = (Topology({x.name: x for x in each}) for each in (links[:2], links[2:]))
    doubt = Doubt(SkippedEntry("there", None, None), Problem("wrong", "warning"))
    doubts = structs.replace(about((doubt,)), max_links=max_links)
    kept = keep_doubtful(before, after if newcomers else Topology(), doubts)
    assert (kept.refusal is not None) == too_many


def test_a_link_that_is_made_again_with_its_peer_is_not_in_doubt() -> None:
    """It loses its session, but no entry that cannot be read has a part in that."""
    settings, device, peers = LinkSettings(1420, 54), Device("own", 5), (LinkPeer("5"),)
    before, after = (Link("w5", Origin(kind), settings, device, peers) for kind in BACKENDS)
    doubt = Doubt(SkippedEntry("5", None, None), Problem("wrong", "warning"))
    desired = Topology({"w5": after})
    there = Topology({"w5": before})
    assert keep_doubtful(there, desired, about((doubt,))) == Change(observed=there, desired=desired)


@given(some.topologies(), some.topologies(), st.lists(doubts, max_size=4))
def test_links_that_stay_leave_a_valid_state_to_reach(
    before: Topology, after: Topology, found: list[Doubt]
) -> None:
    desired = keep_doubtful(before, after, about(found)).desired
    ports = Counter(link.device.listen_port for link in desired.links.values())
    ports.pop(0, None)
    assert all(count == 1 for count in ports.values())
    assert all(name == link.name for name, link in desired.links.items())
    assert replay(before, diff(before, desired)) == desired


@given(some.topologies(), some.topologies())
def test_without_doubt_nothing_changes(before: Topology, after: Topology) -> None:
    unchanged = Change(observed=before, desired=after)
    assert keep_doubtful(before, after, about(())) == unchanged

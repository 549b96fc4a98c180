"""What is decided besides the links themselves: babeld, drift, doubts, what a rollback leaves."""

from __future__ import annotations

import pytest
from msgspec import structs

from rait.domain.babel import BabeldState
from rait.domain.backend import Observation, ObservedLink, UnreadLink
from rait.domain.change import Change, Doubt, Doubts, Goal
from rait.domain.config.schema import Transport
from rait.domain.errors import Problem, SkippedEntry
from rait.domain.events import (
    BabelInterfaceAdded,
    BabelInterfaceFlushed,
    DeviceUpdated,
    Event,
    LinkAdded,
    LinkRemoved,
    LinkUpdated,
    PeerUpdated,
)
from rait.domain.fallback import OldList
from rait.domain.history import LastKnown
from rait.domain.ownership import Scope
from rait.domain.reconcile import concerns_babeld, reconcile
from rait.domain.topology import (
    EMPTY,
    Device,
    Endpoint,
    Link,
    LinkNotes,
    LinkPeer,
    LinkSettings,
    Origin,
    Topology,
)

SCOPE = Scope(public_key="own", netns="mesh", ifgroup=54)
PARAM = "rxcost 32"


def link(number: int, *, mtu: int = 1420, mark: int = 0, instance: str = "boot/1") -> Link:
    origin = Origin("kernel", "mesh", "transit", instance)
    device, peers = Device("own", number, mark), (LinkPeer(f"peer {number}"),)
    return Link(f"w{number}", origin, LinkSettings(mtu, 54), device, peers)


def topology(*links: Link, **babel: str) -> Topology:
    return Topology({each.name: each for each in links}, babel)


def seen(*links: Link, **fields: object) -> Observation:
    observation = Observation(now=0, links={each.name: ObservedLink(link=each) for each in links})
    return structs.replace(observation, **fields)


def known(*links: Link, leftover: tuple[Event, ...] = (), **babel: str) -> LastKnown:
    made = {event.name: event.link for event in leftover if isinstance(event, LinkAdded)}
    return LastKnown(topology=topology(*links, **babel), leftover=leftover, leftover_links=made)


ONE, TWO = link(1), link(2)
BOTH = topology(ONE, TWO)
HAS = BabeldState(present=("w1", "eth0"), param=PARAM, ifprefixes=("w",))
UNASKED = BabeldState(problem="no babeld", param=PARAM)


def test_babeld_gets_the_links_that_are_up_and_loses_ours_that_are_gone() -> None:
    down = structs.replace(TWO, settings=structs.replace(TWO.settings, up=False))
    remembered = structs.replace(known(ONE, TWO, w1=PARAM), extra_cmd_owed=True)
    change = reconcile(seen(ONE, TWO), Goal(BOTH), remembered, SCOPE, HAS)
    assert change.events == (BabelInterfaceAdded("w2", PARAM),)
    assert change.extra_cmd_owed
    change = reconcile(seen(ONE, TWO), Goal(topology(ONE, down)), remembered, SCOPE, HAS)
    assert change.desired.babel == {"w1": PARAM}
    change = reconcile(seen(TWO), Goal(topology(TWO)), known(TWO, w1=PARAM), SCOPE, HAS)
    assert change.events == (BabelInterfaceFlushed("w1", PARAM), BabelInterfaceAdded("w2", PARAM))
    assert not change.extra_cmd_owed


@pytest.mark.parametrize("babeld", [None, UNASKED])
def test_where_babeld_is_not_asked_it_is_left_as_it_is_remembered(
    babeld: BabeldState | None,
) -> None:
    told = BabelInterfaceAdded("w2", PARAM)
    remembered = known(ONE, leftover=(told,), w1=PARAM, w7=PARAM)
    remembered = structs.replace(remembered, extra_cmd_owed=True)
    change = reconcile(seen(ONE), Goal(BOTH), remembered, SCOPE, babeld)
    assert change.observed.babel == change.desired.babel == {"w1": PARAM, "w7": PARAM}
    assert change.events == (LinkAdded(TWO),)
    assert change.carried == (told,), "whether babeld heard it is for a later run to find"
    assert not change.extra_cmd_owed
    assert change.babeld_problem == (babeld and "no babeld")
    assert reconcile(seen(ONE), Goal(BOTH), remembered, SCOPE, HAS).carried == ()


def test_babeld_is_left_in_peace_where_there_are_no_links_nor_were_any() -> None:
    stranger = structs.replace(ONE, device=Device("else"))
    hidden = seen(unread={"w1": UnreadLink("mesh", 54, "it hangs")})
    nothing, none = LastKnown(), Goal(EMPTY)
    assert not concerns_babeld(seen(stranger), none, nothing, SCOPE)
    assert not concerns_babeld(seen(), Goal(None), nothing, SCOPE)
    assert concerns_babeld(seen(ONE), none, nothing, SCOPE)
    assert concerns_babeld(seen(ONE), Goal(None), nothing, SCOPE)
    assert concerns_babeld(seen(), Goal(BOTH), nothing, SCOPE)
    assert concerns_babeld(seen(), none, known(w1=PARAM), SCOPE)
    assert concerns_babeld(hidden, none, nothing, SCOPE)


def test_a_run_that_wants_links_as_they_are_changes_none_and_complains_of_none() -> None:
    wide = link(1, mtu=9000)
    there = seen(wide, unread={"w2": UnreadLink("mesh", 54, "it hangs")})
    change = reconcile(there, Goal(None), known(ONE, TWO), SCOPE)
    assert change.events == change.problems == ()
    assert change.desired == topology(wide, TWO)
    assert change.drift == (LinkUpdated("w1", ONE.settings, wide.settings),)


def test_drift_is_told_from_what_a_run_left_over() -> None:
    marked = DeviceUpdated("w1", ONE.device, Device("own", 1, 9))
    remembered = known(ONE, TWO, leftover=(marked, LinkAdded(link(3)), LinkAdded(link(4))))
    there = seen(link(1, mark=9), link(2, mtu=9000), link(4))
    change = reconcile(there, Goal(BOTH), remembered, SCOPE)
    assert change.leftover == {marked, LinkAdded(link(4))}
    widened = LinkUpdated("w2", TWO.settings, link(2, mtu=9000).settings)
    assert change.drift == (marked, LinkAdded(link(4)), widened)
    assert change.leftover_links == ("w3",), "it may be half made"
    assert change.carried == ()


def test_what_cannot_be_looked_at_is_carried_on_to_the_next_run() -> None:
    marked = DeviceUpdated("w1", ONE.device, Device("own", 1, 9))
    elsewhere = DeviceUpdated("w2", TWO.device, Device("own", 2, 9))
    remembered = known(ONE, TWO, leftover=(marked, elsewhere))
    there = seen(TWO, unread={"w1": UnreadLink("mesh", 54, "it hangs")})
    change = reconcile(there, Goal(BOTH), remembered, SCOPE)
    assert change.carried == (marked,)
    assert change.leftover == frozenset()
    assert change.events == ()
    assert [problem.link for problem in change.problems] == ["w1"]


def keyed(digest: str, own_key: str = "own") -> Link:
    peers = (structs.replace(ONE.peers[0], psk_digest=digest),)
    return structs.replace(ONE, device=structs.replace(ONE.device, public_key=own_key), peers=peers)


def test_a_preshared_key_that_is_there_stays_with_a_link_that_changes() -> None:
    (far,) = ONE.peers
    there = keyed("digest")
    wanted = structs.replace(there, settings=structs.replace(there.settings, mtu=1300))
    change = reconcile(seen(there), Goal(topology(wanted)), known(there), SCOPE)
    assert (change.desired, change.problems) == (topology(wanted), ())
    for without in (seen(ONE), seen()):
        change = reconcile(without, Goal(topology(wanted)), known(there), SCOPE)
        assert change.desired.links["w1"].peers == (far,)
        (problem,) = change.problems
        assert (problem.link, problem.severity) == ("w1", "error")
        assert "cannot be brought back" in problem.message
    change = reconcile(seen(keyed("other")), Goal(topology(wanted)), known(ONE), SCOPE)
    assert change.desired.links["w1"].peers == keyed("other").peers, "better than none"
    assert [problem.link for problem in change.problems] == ["w1"]


def test_a_preshared_key_that_the_run_has_is_set_and_mended() -> None:
    wanted = keyed("wanted")
    goal = Goal(topology(wanted), psks=frozenset({(wanted.peers[0].public_key, "wanted")}))
    for there in (ONE, keyed("by hand")):
        change = reconcile(seen(there), goal, known(there), SCOPE)
        assert change.events == (PeerUpdated("w1", there.peers[0], wanted.peers[0]),)
        mended = reconcile(seen(there), goal, known(wanted), SCOPE)
        assert mended.drift == (PeerUpdated("w1", wanted.peers[0], there.peers[0]),)
        assert mended.events == (PeerUpdated("w1", there.peers[0], wanted.peers[0]),)
    assert reconcile(seen(), goal, known(), SCOPE).events == (LinkAdded(wanted),)
    assert reconcile(seen(wanted), Goal(BOTH), known(wanted), SCOPE).desired == BOTH


def test_a_new_private_key_changes_each_digest_and_nobody_is_blamed() -> None:
    """The preshared key is the same; its digest by the new private key is another one."""
    was, there, wanted = keyed("by old", "old"), keyed("by new", "old"), keyed("by new")
    psks = frozenset({(wanted.peers[0].public_key, "by new")})
    change = reconcile(seen(there), Goal(topology(wanted), psks=psks), known(was), SCOPE)
    assert (change.drift, change.desired) == ((), topology(wanted))
    assert [type(event) for event in change.events] == [DeviceUpdated, PeerUpdated]
    for goal in (Goal(None), Goal(EMPTY)):
        assert reconcile(seen(there), goal, known(was), SCOPE).drift == ()
    bare = reconcile(seen(keyed("", "old")), Goal(None), known(was), SCOPE)
    assert len(bare.drift) == 1, "that it is gone can be seen"


def test_a_key_that_a_killed_run_set_before_a_new_private_key_is_that_run_s() -> None:
    bare, made, there = keyed("", "old"), keyed("by old", "old"), keyed("by new", "old")
    event = PeerUpdated(ONE.name, bare.peers[0], made.peers[0])
    killed = known(bare).having_leftover((event,))
    change = reconcile(seen(there), Goal(None), killed, SCOPE)
    assert (change.drift, change.leftover) == ((event,), frozenset({event}))


def test_a_link_without_its_preshared_key_stays_as_it_is_or_is_not_made() -> None:
    """Nor does another link get the port that it keeps."""
    flaws = tuple(Problem("no key", "error", (), name) for name in ("w1", "w2"))
    third = structs.replace(link(3), device=Device("own", 1))
    goal = Goal(topology(third), flaws=flaws)
    change = reconcile(seen(keyed("was")), goal, known(keyed("was")), SCOPE)
    assert (change.events, change.desired) == ((), topology(keyed("was")))
    assert [problem.link for problem in change.problems] == ["w1", "w2", "w3"]
    made = reconcile(seen(keyed("was")), structs.replace(goal, topology=BOTH), known(), SCOPE)
    assert {event.name for event in made.events} == {"w1", "w2"}, "another thing is wrong with them"


def test_a_port_that_the_kernel_chose_stays_unless_we_had_set_it() -> None:
    wanted = structs.replace(ONE, device=structs.replace(ONE.device, listen_port=0))
    for before in (known(), known(wanted)):
        change = reconcile(seen(ONE), Goal(topology(wanted)), before, SCOPE)
        assert change.observed == change.desired == topology(wanted)
    change = reconcile(seen(ONE), Goal(topology(wanted)), known(ONE), SCOPE)
    assert (change.observed, change.desired) == (topology(ONE), topology(wanted))


def test_of_two_preshared_keys_the_one_that_is_there_stays() -> None:
    peers = tuple(LinkPeer(key, psk_digest="digest") for key in ("gone", "there"))
    past = structs.replace(ONE, peers=peers)
    now = structs.replace(ONE, peers=(structs.replace(peers[0], psk_digest=""), peers[1]))
    change = reconcile(seen(now), Goal(topology(past)), known(past), SCOPE)
    assert change.desired.links["w1"].peers == now.peers
    assert [problem.link for problem in change.problems] == ["w1"]


def test_a_run_that_is_confined_leaves_all_else_for_a_later_one() -> None:
    forgotten = DeviceUpdated("w2", TWO.device, Device("own", 2, 9))
    remembered = known(ONE, TWO, link(3), leftover=(forgotten,))
    there = seen(link(1, mtu=9000), link(2, mtu=9000), others={"w4": "veth", "w5": "veth"})
    wanted = topology(ONE, TWO, link(3), link(4), link(5))
    whole = reconcile(there, Goal(wanted), remembered, SCOPE)
    assert {event.name for event in whole.events} == {"w1", "w2", "w3"}
    assert whole.carried == ()
    change = reconcile(there, Goal(wanted, only=frozenset(("w1", "w4"))), remembered, SCOPE)
    assert [event.name for event in change.events] == ["w1"]
    assert [event.name for event in change.drift] == ["w1"]
    assert [problem.link for problem in change.problems] == ["w4"]
    assert change.carried == (forgotten,)
    assert change.desired.links.keys() == {"w1", "w2"}
    hidden = seen(ONE, unread={"w2": UnreadLink("mesh", 54, "it hangs")})
    change = reconcile(hidden, Goal(BOTH, only=frozenset(("w2",))), remembered, SCOPE)
    assert change.carried == (forgotten,)


def doubts(most: int = 9) -> Doubts:
    entry = SkippedEntry("peer 2", None, None)
    transport = Transport(address_family="ip4", send_port=1, mtu=1420, ifprefix="w")
    found = Doubt(entry, Problem("no port", "warning"))
    return Doubts((found,), (transport,), lambda problem: problem.message, most)


def test_a_link_stays_whose_entry_cannot_be_read_unless_that_makes_too_many() -> None:
    goal = Goal(topology(ONE, link(3)), doubts=doubts())
    change = reconcile(seen(ONE, TWO), goal, known(ONE, TWO), SCOPE)
    assert change.events == (LinkAdded(link(3)),)
    assert [(p.link, p.severity) for p in change.problems] == [("w2", "warning")]
    assert change.refusal is None
    change = reconcile(
        seen(ONE, TWO), structs.replace(goal, doubts=doubts(2)), known(ONE, TWO), SCOPE
    )
    assert "there would be 3 links" in (change.refusal or "")
    goal = structs.replace(goal, doubts=doubts(3))
    assert reconcile(seen(ONE, TWO), goal, known(ONE, TWO), SCOPE).refusal is None
    goal = Goal(topology(ONE), doubts=doubts(1))
    change = reconcile(seen(ONE, TWO), goal, known(ONE, TWO), SCOPE)
    assert change.refusal is None, "none is new"


def test_only_an_error_of_no_link_forbids_everything() -> None:
    def refusal(*problems: Problem) -> str | None:
        return Change(observed=EMPTY, desired=EMPTY, problems=problems).refusal

    assert refusal(Problem("a VRF stays", "warning"), Problem("taken", link="w1")) is None
    assert refusal(Problem("taken", link="w1"), Problem("no"), Problem("nor that")) == "no"


def test_new_links_are_placed_in_the_namespace_that_was_made_for_them() -> None:
    new = link(3, instance="")
    change = reconcile(seen(ONE), Goal(topology(new)), known(ONE), SCOPE)
    assert change.events == (LinkRemoved(ONE), LinkAdded(new))
    placed = change.placed({"mesh": "boot/7"})
    assert placed.events == (LinkRemoved(ONE), LinkAdded(link(3, instance="boot/7")))
    assert placed.desired == topology(link(3, instance="boot/7"))
    assert reconcile(seen(), Goal(BOTH), LastKnown(), SCOPE).placed({}).desired == BOTH


def test_links_without_a_socket_have_no_session_to_lose() -> None:
    dead = {"w1": ObservedLink(link=ONE, dead=True), "w2": ObservedLink(link=TWO)}
    change = reconcile(seen(links=dead), Goal(EMPTY), known(ONE, TWO), SCOPE)
    assert change.dead == {"w1"}


def test_others_interfaces_in_babeld_are_left_unless_ours_alone_shall_be_there() -> None:
    """One that was to be flushed, and was not, is in the journal with no parameters."""
    has = structs.replace(HAS, present=("eth0", "eth9", "x1", "w1"))
    remembered = known(ONE, w1=PARAM, x1=PARAM, eth9="")
    change = reconcile(seen(ONE), Goal(topology(ONE)), remembered, SCOPE, has)
    assert change.events == (BabelInterfaceFlushed("x1", PARAM),)
    alone = structs.replace(has, exclusive=True)
    change = reconcile(seen(ONE), Goal(topology(ONE)), remembered, SCOPE, alone)
    assert {event.name for event in change.events} == {"eth0", "eth9", "x1"}


def test_a_link_that_another_configuration_took_over_keeps_its_interface_in_babeld() -> None:
    """This configuration is a new one, with another key, at the path of one that was moved."""
    theirs = structs.replace(ONE, device=Device("former key", 1))
    scope = structs.replace(SCOPE, claimed={"w1": "/moved.conf"})
    goal, remembered = Goal(topology(TWO)), known(theirs, w1=PARAM)
    change = reconcile(seen(theirs), goal, remembered, scope, HAS)
    assert change.events == (LinkAdded(TWO), BabelInterfaceAdded("w2", PARAM))
    assert [stranger.link for stranger in change.strangers] == ["w1"]
    alone = structs.replace(HAS, exclusive=True)
    change = reconcile(seen(theirs), goal, remembered, scope, alone)
    assert BabelInterfaceFlushed("w1", PARAM) in change.events


@pytest.mark.parametrize(
    "other",
    [
        Origin("userspace", "mesh", "transit", "boot/1"),
        Origin("kernel", "mesh", "transit", "boot/2"),
    ],
)
def test_what_is_known_of_another_link_of_the_name_is_not_of_this_one(other: Origin) -> None:
    """That the kernel chose the port of the former one says nothing of the port of this one."""
    chosen = structs.replace(ONE, device=Device("own", 0))
    (gone,) = reconcile(seen(ONE), Goal(EMPTY), known(chosen), SCOPE).events
    assert gone == LinkRemoved(chosen)
    there = structs.replace(ONE, origin=other)
    (gone,) = reconcile(seen(there), Goal(EMPTY), known(chosen), SCOPE).events
    assert gone == LinkRemoved(there)


def test_a_link_that_others_made_in_another_transit_is_made_again() -> None:
    """All else of it is as it was."""
    there = structs.replace(ONE, origin=structs.replace(ONE.origin, transit="elsewhere"))
    change = reconcile(seen(there), Goal(topology(ONE)), known(ONE), SCOPE)
    assert change.events == (LinkRemoved(there), LinkAdded(ONE))


def test_a_link_whose_program_listens_under_a_former_name_is_made_again() -> None:
    """All else of it is as it should be, and its socket is where it should be."""
    there = seen(links={"w1": ObservedLink(link=ONE, renamed=True)})
    change = reconcile(there, Goal(topology(ONE)), known(), SCOPE)
    assert [type(event) for event in change.events] == [LinkRemoved, LinkAdded]


def test_a_link_of_a_killed_run_keeps_what_that_run_was_to_remember_of_it() -> None:
    noted = structs.replace(ONE, notes=LinkNotes(up_command=("x",), peer_name="one"))
    change = reconcile(seen(ONE), Goal(topology(noted)), known(leftover=(LinkAdded(noted),)), SCOPE)
    assert change.observed == topology(noted)
    assert change.events == ()


FOREIGN = structs.replace(ONE, settings=LinkSettings(1420, 7), device=Device("else", 9))
STRANGE = structs.replace(ONE, device=Device("else", 9))
ELSEWHERE = structs.replace(STRANGE, origin=structs.replace(ONE.origin, netns="other"))


@pytest.mark.parametrize(
    ("there", "why"),
    [
        (seen(others={"w1": "veth"}), "an interface of kind veth"),
        (seen(others={"w1": ""}), "an interface of kind physical"),
        (seen(FOREIGN), "a WireGuard interface of group 7"),
        (seen(STRANGE), "that is not ours already has this name (public key else"),
        (seen(ELSEWHERE), ""),
        (seen(others={"w2": "veth"}), ""),
    ],
)
def test_a_link_cannot_be_where_its_name_is_taken(there: Observation, why: str) -> None:
    change = reconcile(there, Goal(topology(ONE)), LastKnown(), SCOPE)
    problems = [(p.link, p.severity) for p in change.problems]
    assert problems == ([("w1", "error")] if why else [])
    assert change.events == (() if why else (LinkAdded(ONE),))
    assert all(why in p.message and "use another ifprefix" in p.message for p in change.problems)


def to(endpoint: Endpoint) -> Link:
    return structs.replace(ONE, peers=(LinkPeer("peer 1", endpoint),))


HERE, THERE = to(Endpoint("192.0.2.1", 1)), to(Endpoint("203.0.113.7", 1))


@pytest.mark.parametrize("handshakes", [{}, {"peer 1": 0}])
def test_where_the_clock_begins_in_1970_no_handshake_is_still_none(
    handshakes: dict[str, int],
) -> None:
    """So the peer gets back its endpoint; where there was one, it may have roamed."""

    def events(now: int, handshakes: dict[str, int]) -> tuple[Event, ...]:
        links = {"w1": ObservedLink(link=THERE, handshakes=handshakes)}
        there = Observation(now=now, links=links)
        return reconcile(there, Goal(topology(HERE)), known(HERE), SCOPE).events

    assert events(100, handshakes) == (PeerUpdated("w1", THERE.peers[0], HERE.peers[0]),)
    assert events(100, {"peer 1": 1}) == ()


@pytest.mark.parametrize("is_old", [True, False])
@pytest.mark.parametrize("handshake", [0, 900])
def test_an_old_list_moves_only_a_peer_whose_session_is_dead(is_old: bool, handshake: int) -> None:
    there = Observation(
        now=1000, links={"w1": ObservedLink(link=HERE, handshakes={"peer 1": handshake})}
    )
    old = OldList(1, "yesterday", "it is out of reach") if is_old else None
    doubts = Doubts((), (), lambda problem: problem.message, 99, old)
    moved = reconcile(there, Goal(topology(THERE), doubts=doubts), known(HERE), SCOPE).events
    stays = is_old and handshake
    assert moved == (() if stays else (PeerUpdated("w1", HERE.peers[0], THERE.peers[0]),))


@pytest.mark.parametrize("transit", ["", "transit", "elsewhere"])
def test_a_transit_that_nobody_knows_is_taken_to_be_the_wanted_one(transit: str) -> None:
    """As the journal is lost, and WireGuard in the kernel does not show it."""
    there = structs.replace(ONE, origin=structs.replace(ONE.origin, transit=transit))
    events = reconcile(seen(there), Goal(topology(ONE)), LastKnown(), SCOPE).events
    made_again = (LinkRemoved(there), LinkAdded(ONE))
    assert events == (made_again if transit == "elsewhere" else ())

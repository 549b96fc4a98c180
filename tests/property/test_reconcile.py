"""What is ours and what of it is left alone, whatever the machine and the journal say."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from rait.domain.babel import BabeldState
from rait.domain.backend import REJECT_AFTER_SECONDS, Observation, ObservedLink, UnreadLink
from rait.domain.change import Goal
from rait.domain.config.schema import PRIVATE_GROUPS
from rait.domain.diff import diff
from rait.domain.endpoints import NO_NAMES, Names
from rait.domain.events import (
    DeviceUpdated,
    Event,
    LinkAdded,
    LinkPlaced,
    LinkRemoved,
    LinkUpdated,
    PeerUpdated,
    replay,
)
from rait.domain.history import LastKnown
from rait.domain.ownership import Scope, doubtful
from rait.domain.reconcile import reconcile
from rait.domain.topology import (
    EMPTY,
    Device,
    Endpoint,
    Link,
    LinkPeer,
    LinkSettings,
    Origin,
    Topology,
)
from rait.testing.machine import Wire
from tests.property import strategies as some
from tests.property.machine import Machine

SCOPE = Scope(public_key=some.OWN_KEY, netns=some.NETNS, ifgroup=some.IFGROUP)
NOW = 1_000_000
ages = st.sampled_from((0, 60, REJECT_AFTER_SECONDS, REJECT_AFTER_SECONDS + 1, 4000, NOW))
"""Seconds since the last handshake; the last is "never"."""
fresh = st.sampled_from((0, 60, REJECT_AFTER_SECONDS))
stale = st.sampled_from((REJECT_AFTER_SECONDS + 1, 4000, NOW))

others = st.dictionaries(st.sampled_from(some.NAMES), st.sampled_from(("veth", "")), max_size=2)


@st.composite
def machines(draw: st.DrawFn) -> Machine:
    """A machine in any state: with links of ours and of others, and with other interfaces."""
    machine = Machine(draw(st.integers(0, 99)))
    found = draw(some.mere_links).links
    for number, (name, link) in enumerate(found.items()):
        chosen = link.settings.up and link.device.listen_port == 0
        if chosen:
            link = structs.replace(link, device=Device(link.device.public_key, 40000 + number))
        handshakes = {peer.public_key: machine.now - draw(ages) for peer in link.peers}
        machine.wires[name] = Wire(link, handshakes, chosen)
    for name, kind in draw(others).items():
        if name not in found:
            machine.others[name] = kind
    return machine


@given(machines(), some.wanted_topologies(), some.memories())
def test_every_link_of_ours_is_seen_and_every_wanted_one_accounted_for(
    machine: Machine, desired: Topology, memory: LastKnown
) -> None:
    change = reconcile(machine.observe(), Goal(desired), memory, SCOPE)
    remembered = {**memory.leftover_links, **memory.topology.links}
    keys = {some.OWN_KEY, *(link.device.public_key for link in remembered.values())}
    keys |= {link.device.public_key for link in memory.leftover_links.values()}
    in_our_group = {n: w for n, w in machine.wires.items() if w.link.settings.group == some.IFGROUP}
    ours = {
        name
        for name, wire in in_our_group.items()
        if name in remembered or wire.link.device.public_key in keys
    }
    assert ours <= change.observed.links.keys()
    assert {stranger.link for stranger in change.strangers} == in_our_group.keys() - ours
    impossible = {problem.link for problem in change.problems}
    assert change.desired.links.keys() == desired.links.keys() - impossible
    assert impossible <= desired.links.keys()


@given(machines(), some.wanted_topologies(), some.memories())
def test_what_is_not_ours_is_never_touched(
    machine: Machine, desired: Topology, memory: LastKnown
) -> None:
    known = memory.topology.links.keys() | memory.leftover_links.keys()
    foreign = {
        name
        for name, wire in machine.wires.items()
        if wire.link.settings.group != some.IFGROUP and name not in known
    }
    foreign |= machine.others.keys()
    foreign |= {s.link for s in reconcile(machine.observe(), Goal(EMPTY), memory, SCOPE).strangers}
    for goal in (desired, EMPTY):
        change = reconcile(machine.observe(), Goal(goal), memory, SCOPE)
        events = change.events
        assert not foreign & {event.name for event in events}
        assert {problem.link for problem in change.problems} >= foreign & goal.links.keys()


@given(machines(), some.wanted_topologies(), some.memories())
def test_after_a_run_there_is_nothing_left_to_do(
    machine: Machine, desired: Topology, memory: LastKnown
) -> None:
    change = reconcile(machine.observe(), Goal(desired), memory, SCOPE)
    events = change.events
    outcomes = machine.apply(events)
    done = [events[outcome.index] for outcome in outcomes if outcome.error is None]
    refused = {events[outcome.index].name for outcome in outcomes if outcome.error}
    drift = diff(memory.topology, change.observed)
    memory = LastKnown(topology=replay(memory.topology, [*drift, *done]))
    again = reconcile(machine.observe(), Goal(desired), memory, SCOPE)
    wanted = {link.device.listen_port for link in desired.links.values()}
    if any(w.chosen and w.link.device.listen_port in wanted for w in machine.wires.values()):
        return  # another link is to have what the kernel chose: the next run gives it back
    assert again.observed == memory.topology
    if not refused:
        assert again.events == ()


@given(machines(), some.wanted_topologies(), some.memories(), st.data())
def test_a_link_that_cannot_be_read_is_neither_touched_nor_forgotten(
    machine: Machine, desired: Topology, memory: LastKnown, data: st.DataObject
) -> None:
    seen = machine.observe()
    names = data.draw(st.sets(st.sampled_from(sorted(seen.links)))) if seen.links else set()
    unread = {}
    for name in names:
        link = seen.links[name].link
        unread[name] = UnreadLink(link.origin.netns, link.settings.group, "it sleeps")
    links = {name: link for name, link in seen.links.items() if name not in names}
    tuns = dict.fromkeys(names, "tun")
    blind = structs.replace(seen, links=links, unread=unread, others={**seen.others, **tuns})
    change = reconcile(blind, Goal(desired), memory, SCOPE)

    events = change.events
    assert not names & {event.name for event in events}
    problems = {problem.link: problem.message for problem in change.problems}
    ours = {name for name in names if unread[name].group == some.IFGROUP}
    assert all("it sleeps" in problems[name] for name in ours)
    drift = diff(memory.topology, change.observed)
    assert not ours & {event.name for event in drift}
    strangers = names - ours - memory.topology.links.keys() - memory.leftover_links.keys()
    assert problems.keys() & strangers == desired.links.keys() & strangers


params = st.dictionaries(st.sampled_from((*some.NAMES, "eth0")), st.sampled_from(("a", "")))
babelds = st.none() | st.builds(
    BabeldState,
    present=st.frozensets(st.sampled_from((*some.NAMES, "eth0"))).map(tuple),
    problem=st.sampled_from((None, None, None, "no babeld")),
    param=st.sampled_from(("a", "b")),
    ifprefixes=st.just(("w",)),
    exclusive=st.booleans(),
)


@given(
    machine=machines(),
    wanted=st.none() | some.wanted_topologies(),
    memory=some.memories(),
    cut_off=some.wanted_topologies(),
    babel=params,
    babeld=babelds,
    only=st.none() | st.frozensets(st.sampled_from(some.NAMES)),
)
def test_what_is_decided_leads_from_what_is_known_to_what_there_is_and_shall_be(
    machine: Machine,
    wanted: Topology | None,
    memory: LastKnown,
    cut_off: Topology,
    babel: dict[str, str],
    babeld: BabeldState | None,
    only: frozenset[str] | None,
) -> None:
    topology = structs.replace(memory.topology, babel=babel)
    left_over = diff(topology, structs.replace(cut_off, babel=babel))
    known = structs.replace(memory, topology=topology, leftover=left_over)
    change = reconcile(machine.observe(), Goal(wanted, only=only), known, SCOPE, babeld)
    assert replay(change.observed, change.events) == change.desired
    if only is None:
        assert replay(topology, change.drift) == change.observed
        assert change.leftover <= {*change.drift}
    else:
        assert {event.name for event in (*change.events, *change.drift)} <= only
        assert {event for event in left_over if event.name not in only} <= {*change.carried}
    if wanted is None and babeld is None:
        assert change.events == ()
    if babeld is None or babeld.problem is not None:
        assert change.observed.babel == change.desired.babel == babel
    elif only is None:
        up = {n for n, link in change.desired.links.items() if link.settings.up}
        assert change.desired.babel == dict.fromkeys(up, babeld.param)


# One link, in a state that can be told in a few words


def link(
    *,
    port: int = 50001,
    endpoint: Endpoint | None = None,
    address: str | None = "fe80::1/64",
    group: int = some.IFGROUP,
    public_key: str = some.OWN_KEY,
    transit: str = some.TRANSITS[0],
    name: str = "w1",
) -> Link:
    return Link(
        name,
        Origin("kernel", some.NETNS, transit),
        LinkSettings(1420, group, None, True, address),
        Device(public_key, port),
        (LinkPeer(some.PEER_KEYS[0], endpoint),),
    )


def what_happens(
    seen: Link, wanted: Link | Topology, last: Link, age: int = 0, names: Names = NO_NAMES
) -> tuple[Event, ...]:
    """Of a sync that sees a link in a state, wants it in another, and last made it a third."""
    told = structs.replace(seen, origin=structs.replace(seen.origin, transit=""))
    sessions = {peer.public_key: NOW - age for peer in seen.peers}
    observation = Observation(
        now=NOW, links={seen.name: ObservedLink(link=told, handshakes=sessions)}
    )
    goal = wanted if isinstance(wanted, Topology) else Topology({wanted.name: wanted})
    memory = LastKnown(topology=Topology({last.name: last}))
    change = reconcile(observation, Goal(goal, names), memory, SCOPE)
    return change.events


def written(events: tuple[Event, ...]) -> Endpoint | None:
    (event,) = events
    assert isinstance(event, PeerUpdated)
    assert event.before.endpoint != event.after.endpoint
    return event.after.endpoint


@given(roamed=some.underlay, wanted=some.underlay, age=fresh)
def test_a_roamed_endpoint_stands_while_its_session_lives(
    roamed: Endpoint, wanted: Endpoint, age: int
) -> None:
    one = link(endpoint=wanted)
    assert what_happens(link(endpoint=roamed), one, one, age) == ()


@given(seen=some.endpoints, wanted=some.underlay, age=stale)
def test_a_stale_endpoint_is_restored(seen: Endpoint | None, wanted: Endpoint, age: int) -> None:
    one = link(endpoint=wanted)
    events = what_happens(link(endpoint=seen), one, one, age)
    assert events == () if seen == wanted else written(events) == wanted


@given(seen=some.endpoints, last=some.endpoints, age=ages)
def test_a_run_that_wants_no_links_remembers_the_endpoint_last_applied(
    seen: Endpoint | None, last: Endpoint | None, age: int
) -> None:
    """Or a later sync would take the roamed endpoint for its own, and write another over it."""
    (gone,) = what_happens(link(endpoint=seen), EMPTY, link(endpoint=last), age)
    assert isinstance(gone, LinkRemoved)
    assert gone.link.peers[0].endpoint == last


@given(seen=some.endpoints, last=some.endpoints, wanted=some.underlay, age=ages)
def test_a_newly_wanted_endpoint_is_written_at_once(
    seen: Endpoint | None, last: Endpoint | None, wanted: Endpoint, age: int
) -> None:
    if last == wanted:
        return
    events = what_happens(link(endpoint=seen), link(endpoint=wanted), link(endpoint=last), age)
    assert events == () if seen == wanted else written(events) == wanted


@given(seen=some.endpoints, last=some.endpoints, age=ages)
def test_a_name_that_does_not_resolve_changes_nothing(
    seen: Endpoint | None, last: Endpoint | None, age: int
) -> None:
    assert what_happens(link(endpoint=seen), link(), link(endpoint=last), age) == ()


@given(seen=some.underlay, last=some.underlay, address=some.underlay, age=fresh)
def test_a_name_that_rotates_does_not_move_a_live_session(
    seen: Endpoint, last: Endpoint, address: Endpoint, age: int
) -> None:
    wanted = Endpoint(address.address, last.port)
    states = link(endpoint=seen), link(endpoint=wanted), link(endpoint=last)
    assert what_happens(*states, age, {"w1": True}) == ()


@given(last=some.underlay, address=some.underlay, age=stale)
def test_a_name_that_moved_is_followed_when_the_session_is_dead(
    last: Endpoint, address: Endpoint, age: int
) -> None:
    wanted = Endpoint(address.address, last.port)
    states = link(endpoint=last), link(endpoint=wanted), link(endpoint=last)
    events = what_happens(*states, age, {"w1": True})
    assert events == () if wanted == last else written(events) == wanted


@given(seen=some.underlay, last=some.underlay, age=ages)
def test_another_send_port_is_written_at_once(seen: Endpoint, last: Endpoint, age: int) -> None:
    """Where the peer listens for us has changed, and that it cannot tell us by roaming."""
    wanted = Endpoint(last.address, last.port + 1)
    states = link(endpoint=seen), link(endpoint=wanted), link(endpoint=last)
    events = what_happens(*states, age, {"w1": True})
    assert events == () if seen == wanted else written(events) == wanted


@given(seen=some.underlay, last=some.endpoints, wanted=some.underlay, age=ages)
def test_while_a_name_does_not_resolve_what_was_learned_stands(
    seen: Endpoint, last: Endpoint | None, wanted: Endpoint, age: int
) -> None:
    """What was once applied is wanted for want of a better one; the peer may have moved."""
    if seen == wanted:
        return
    states = link(endpoint=seen), link(endpoint=wanted), link(endpoint=last)
    assert what_happens(*states, age, {"w1": False}) == ()


@given(last=some.underlay, age=ages)
def test_a_peer_that_lost_its_endpoint_gets_back_the_one_last_applied(
    last: Endpoint, age: int
) -> None:
    states = link(endpoint=None), link(endpoint=last), link(endpoint=last)
    assert written(what_happens(*states, age, {"w1": False})) == last


@given(seen=some.endpoints, last=some.underlay)
def test_a_link_made_again_tries_what_was_learned_before_what_was_applied(
    seen: Endpoint | None, last: Endpoint
) -> None:
    moved = link(endpoint=last, transit=some.TRANSITS[1])
    events = what_happens(link(endpoint=seen), moved, link(endpoint=last), 0, {"w1": False})
    (peer,) = replay(Topology(), events[1:]).links["w1"].peers
    assert peer.endpoint == (seen or last)


@given(ahead=st.integers(REJECT_AFTER_SECONDS + 1, 4_000_000_000))
def test_a_handshake_of_a_clock_that_was_wrong_keeps_no_dead_session(ahead: int) -> None:
    """The clock was set back: a live session would have had another handshake by now."""
    roamed, last = Endpoint("198.51.100.7", 9), Endpoint("192.0.2.1", 9)
    states = link(endpoint=roamed), link(endpoint=last), link(endpoint=last)
    assert written(what_happens(*states, -ahead)) == last


@given(ahead=st.integers(0, REJECT_AFTER_SECONDS))
def test_a_clock_that_was_set_back_a_little_disturbs_no_session(ahead: int) -> None:
    roamed, last = Endpoint("198.51.100.7", 9), Endpoint("192.0.2.1", 9)
    states = link(endpoint=roamed), link(endpoint=last), link(endpoint=last)
    assert what_happens(*states, -ahead) == ()


@given(seen=some.endpoints, last=some.endpoints, wanted=some.endpoints)
def test_a_link_made_again_keeps_the_endpoint_if_its_name_does_not_resolve(
    seen: Endpoint | None, last: Endpoint | None, wanted: Endpoint | None
) -> None:
    """A link is made again where the namespace of its socket is to be another."""
    events = what_happens(
        link(endpoint=seen),
        link(endpoint=wanted, transit=some.TRANSITS[1]),
        link(endpoint=last),
    )
    made = replay(Topology(), [e for e in events if not isinstance(e, type(events[0]))])
    (peer,) = made.links["w1"].peers
    assert peer.endpoint == (wanted or seen)
    assert any(isinstance(event, LinkAdded) for event in events)


@given(st.sampled_from(("fe80::1/64", "fe80::77/64", "fe80::abcd/10")))
def test_a_link_local_address_that_is_there_is_kept(address: str) -> None:
    assert what_happens(link(address=address), link(), link()) == ()


def test_a_link_local_address_that_is_missing_is_set() -> None:
    (event,) = what_happens(link(address=None), link(), link())
    assert isinstance(event, LinkUpdated)
    assert event.after.address == "fe80::1/64"


@given(st.integers(1, 65535))
def test_a_port_that_the_kernel_chose_stands(port: int) -> None:
    assert what_happens(link(port=port), link(port=0), link(port=0)) == ()


@given(st.integers(1, 65535))
def test_a_port_that_the_kernel_chose_gives_way_to_a_peer_that_wants_it(port: int) -> None:
    wanted = Topology({"w1": link(port=0), "w2": link(port=port, name="w2")})
    away, *rest = what_happens(link(port=port), wanted, link(port=0))
    assert away == DeviceUpdated("w1", Device(some.OWN_KEY, port), Device(some.OWN_KEY, 0))
    assert {event.name for event in rest} == {"w2"}


@given(st.integers(1, 65535))
def test_a_port_that_was_set_is_left_when_the_kernel_shall_choose(port: int) -> None:
    (event,) = what_happens(link(port=port), link(port=0), link(port=port))
    assert event == DeviceUpdated("w1", Device(some.OWN_KEY, port), Device(some.OWN_KEY, 0))


@given(st.sampled_from((some.OWN_KEY, "former key", "")))
def test_a_link_cut_off_while_key_and_group_changed_is_still_ours(key: str) -> None:
    """The run was killed with the new key set, or not, and the former group still there."""
    former = link(group=53, public_key="former key")
    events = what_happens(link(group=53, public_key=key), link(), former)
    assert LinkUpdated("w1", former.settings, link().settings) in events


@given(st.sampled_from((some.OWN_KEY, "former key", "")))
def test_a_link_cut_off_on_its_way_out_is_still_ours(key: str) -> None:
    leaving = link(group=PRIVATE_GROUPS + 1, public_key=key)
    (event,) = what_happens(leaving, EMPTY, link(public_key="former key"))
    assert event.name == "w1"


def test_a_link_of_another_node_on_its_way_out_is_not_ours() -> None:
    leaving = link(group=PRIVATE_GROUPS + 1, public_key="another node's key", name="w2")
    assert what_happens(leaving, EMPTY, link()) == ()


@given(known=st.sampled_from(some.TRANSITS), pending=st.none() | st.sampled_from(some.TRANSITS))
def test_a_link_cut_off_while_it_was_remade_elsewhere_is_made_again(
    known: str, pending: str | None
) -> None:
    """It is as wanted in all that can be seen, but the machine does not show its transit."""
    wanted = link(transit=some.TRANSITS[0])
    told = structs.replace(wanted, origin=Origin("kernel", some.NETNS))
    memory = LastKnown(
        topology=Topology({"w1": link(transit=known)}),
        leftover_links={} if pending is None else {"w1": link(transit=pending)},
    )
    observation = Observation(now=NOW, links={"w1": ObservedLink(link=told)})
    change = reconcile(observation, Goal(Topology({"w1": wanted})), memory, SCOPE)
    kinds = [type(event) for event in change.events]
    certain = {known, pending} <= {some.TRANSITS[0], None}
    assert kinds == ([] if certain else [LinkRemoved, LinkAdded])


@given(st.sampled_from(some.INSTANCES[1:]))
def test_the_instance_of_a_link_of_an_earlier_rait_is_recorded_and_is_no_change(
    instance: str,
) -> None:
    known = link()
    there = structs.replace(known, origin=structs.replace(known.origin, instance=instance))
    told = structs.replace(there, origin=structs.replace(there.origin, transit=""))
    observation = Observation(now=NOW, links={"w1": ObservedLink(link=told)})
    memory = LastKnown(topology=Topology({"w1": known}))
    change = reconcile(observation, Goal(Topology({"w1": there})), memory, SCOPE)
    assert diff(memory.topology, change.observed) == (LinkPlaced("w1", "", instance),)
    assert change.events == ()


def test_a_link_in_a_namespace_that_is_lost_is_neither_touched_nor_made_elsewhere() -> None:
    known = link()
    known = structs.replace(known, origin=structs.replace(known.origin, instance="boot/1"))
    wanted = structs.replace(known, origin=structs.replace(known.origin, instance="boot/2"))
    observation = Observation(now=NOW, lost={"boot/1": "nobody knows"})
    memory = LastKnown(topology=Topology({"w1": known}))
    for goal in (Topology({"w1": wanted}), EMPTY):
        change = reconcile(observation, Goal(goal), memory, SCOPE)
        assert change.observed == change.desired == memory.topology
        (problem,) = change.problems
        assert problem.link == "w1"
        assert "nobody knows" in problem.message


def test_allowed_ips_of_a_link_that_nobody_knew_are_journaled_in_the_order_of_ours() -> None:
    """Else a later run would take the order in which the machine tells them for a change."""
    peer = LinkPeer(some.PEER_KEYS[0], allowed_ips=("::/0", "0.0.0.0/0"))
    there = structs.replace(link(), peers=(peer,))
    told = structs.replace(there, origin=Origin("kernel", some.NETNS))
    observation = Observation(now=NOW, links={"w1": ObservedLink(link=told)})
    change = reconcile(observation, Goal(EMPTY), LastKnown(), SCOPE)
    (seen,) = change.observed.links["w1"].peers
    assert seen.allowed_ips == ("0.0.0.0/0", "::/0")


def test_a_link_with_our_key_that_is_not_where_we_made_ours_may_be_anothers() -> None:
    """After a restart another configuration, which has the same key, may have made it first."""

    def link(instance: str) -> Link:
        origin = Origin("kernel", some.NETNS, "transit", instance)
        return Link("w5", origin, LinkSettings(1420, some.IFGROUP), Device(some.OWN_KEY, 5))

    def asked(known: LastKnown, instance: str) -> dict[str, str]:
        seen = Observation(now=NOW, links={"w5": ObservedLink(link=link(instance))})
        return doubtful(seen, known, SCOPE)

    made = LastKnown(topology=Topology({"w5": link("boot1/1")}))
    for known in (made, LastKnown(leftover_links=made.topology.links)):
        assert asked(known, "boot2/7") == {"w5": "boot2/7"}
        assert asked(known, "boot1/1") == {}
    assert asked(LastKnown(topology=Topology({"w5": link("")})), "boot2/7") == {}


def in_namespace(spec: str, key: str) -> Link:
    origin = Origin("kernel", spec, "transit", f"boot/{spec}")
    device, peers = Device(key, 5), (LinkPeer(f"peer of {key}"),)
    return Link("w5", origin, LinkSettings(1420, some.IFGROUP), device, peers)


def test_a_claim_on_a_link_is_none_on_ours_of_that_name_elsewhere() -> None:
    """The target is another one now, in which another configuration has a link of the name."""
    ours, theirs = in_namespace("former", some.OWN_KEY), in_namespace(some.NETNS, "other")
    memory = LastKnown(topology=Topology({"w5": ours}))
    doubles = (ObservedLink(link=ours),)
    seen = Observation(now=NOW, links={"w5": ObservedLink(link=theirs)}, doubles=doubles)
    scope = structs.replace(SCOPE, claimed={"w5": "/other.conf"})
    down = reconcile(seen, Goal(EMPTY), memory, scope)
    assert down.events == (LinkRemoved(ours),)
    up = reconcile(
        seen, Goal(Topology({"w5": in_namespace(some.NETNS, some.OWN_KEY)})), memory, scope
    )
    assert up.observed == up.desired == memory.topology, (
        "it works where it is, and is not forgotten"
    )
    assert ["/other.conf" in problem.message for problem in up.problems] == [True]


def test_a_link_that_cannot_move_to_the_target_stays_where_it_works() -> None:
    ours = in_namespace("former", some.OWN_KEY)
    wanted = Topology({"w5": in_namespace(some.NETNS, some.OWN_KEY)})
    memory = LastKnown(topology=Topology({"w5": ours}))
    seen = Observation(now=NOW, links={"w5": ObservedLink(link=ours)})
    taken = structs.replace(seen, others={"w5": "veth"})
    change = reconcile(taken, Goal(wanted), memory, SCOPE)
    assert change.observed == change.desired == memory.topology
    assert ["kind veth" in problem.message for problem in change.problems] == [True]
    assert reconcile(seen, Goal(wanted), memory, SCOPE).desired == wanted


def test_a_preshared_key_that_is_gone_stays_gone_and_one_that_is_there_may_stay() -> None:
    """Somebody had set it, and the journal has no more of it than a digest."""

    def links(*transits: str, **digests: str) -> Topology:
        made = {}
        for name, digest in digests.items():
            one = link(name=name, port=0, transit=transits[0] if name == "w3" else some.TRANSITS[0])
            peers = (structs.replace(one.peers[0], psk_digest=digest),)
            made[name] = structs.replace(one, peers=peers)
        return Topology(made)

    there = links(some.TRANSITS[0], w1="", w2="a", w3="a")
    past = links(some.TRANSITS[1], w1="a", w2="a", w3="a", w4="a", w5="")
    observed = {name: ObservedLink(link=each) for name, each in there.links.items()}
    change = reconcile(
        Observation(now=NOW, links=observed), Goal(past), LastKnown(topology=there), SCOPE
    )
    digests = {name: each.peers[0].psk_digest for name, each in change.desired.links.items()}
    assert digests == {"w1": "", "w2": "a", "w3": "", "w4": "", "w5": ""}
    assert [problem.link for problem in change.problems] == ["w1", "w3", "w4"]
    assert all("cannot be brought back" in problem.message for problem in change.problems)

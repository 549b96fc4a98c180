"""The port rule by example, and what becomes of peers that cannot be had."""

from __future__ import annotations

from ipaddress import IPv6Interface

import pytest
from msgspec import structs

from rait.domain.config.schema import Config, Isolation, Peer, PeerEndpoint, Transport
from rait.domain.diff import diff
from rait.domain.endpoints import NONE_DEPARTED, Departed, depart
from rait.domain.events import LinkAdded, LinkRemoved
from rait.domain.history import LastKnown, with_leftovers
from rait.domain.plan import Node, Plan, count_wanted, link_local, plan
from rait.domain.topology import (
    EMPTY,
    Device,
    Endpoint,
    Family,
    Link,
    LinkPeer,
    LinkSettings,
    Origin,
    Topology,
)

NODE = Node(public_key="own key", origin=Origin("kernel", "raitns", "transit"))
IP4 = Transport(address_family="ip4", send_port=50153, mtu=1420, ifprefix="rait4x", fwmark=54)
IP6 = Transport(
    address_family="ip6",
    send_port=50154,
    mtu=1400,
    ifprefix="rait6x",
    fwmark=54,
    dynamic_port=True,
)
CONFIG = Config(transports=(IP4, IP6), isolation=Isolation(ifgroup=54, target="raitns"))


def peer(key: str, port: int, address: str | None = "192.0.2.1", family: Family = "ip4") -> Peer:
    endpoint = PeerEndpoint(address_family=family, send_port=port, address=address)
    return Peer(public_key=key, endpoints=(endpoint,))


def test_the_port_rule() -> None:
    """We listen where the peer sends to, and send to where it listens for us."""
    planned = plan(CONFIG, NODE, [peer("peer", 50221)])
    assert planned.problems == ()
    link = planned.topology.links["rait4x50221"]
    assert link == Link(
        "rait4x50221",
        NODE.origin,
        LinkSettings(1420, 54, None, True, link.settings.address),
        Device("own key", 50221, 54),
        (LinkPeer("peer", Endpoint("192.0.2.1", 50153), 0, ("0.0.0.0/0", "::/0")),),
    )
    assert planned.topology.links.keys() == {"rait4x50221"}


def test_with_dynamic_port_the_kernel_chooses_where_to_listen() -> None:
    planned = plan(CONFIG, NODE, [peer("peer", 50222, "2001:db8::1", "ip6")])
    link = planned.topology.links["rait6x50222"]
    assert link.device == Device("own key", 0, 54)
    assert link.settings.mtu == 1400
    assert link.peers[0].endpoint == Endpoint("2001:db8::1", 50154)


def test_an_endpoint_of_a_family_without_transport_is_passed_over() -> None:
    only_ip6 = Config(transports=(IP6,))
    assert plan(only_ip6, NODE, [peer("peer", 50221)]).topology == Topology()


def test_a_vrf_is_the_master_of_its_links() -> None:
    config = Config(transports=(IP4,), isolation=Isolation(type="vrf", target="vrf0", table=100))
    (link,) = plan(config, NODE, [peer("peer", 50221)]).topology.links.values()
    assert link.settings.master == "vrf0"


def test_no_link_takes_the_name_of_the_vrf() -> None:
    isolation = Isolation(type="vrf", target="rait4x50221", table=100)
    peers = [peer("first", 50221), peer("second", 50222)]
    planned = plan(Config(transports=(IP4,), isolation=isolation), NODE, peers)
    assert planned.topology.links.keys() == {"rait4x50222"}
    (problem,) = planned.problems
    assert (problem.severity, problem.link) == ("error", "rait4x50221")
    assert "which is that of the VRF" in problem.message
    elsewhere = Isolation(type="netns", target="rait4x50221")
    planned = plan(Config(transports=(IP4,), isolation=elsewhere), NODE, peers)
    assert planned.topology.links.keys() == {"rait4x50221", "rait4x50222"}


def test_our_own_entry_is_dropped_without_a_word() -> None:
    planned = plan(CONFIG, NODE, [peer("own key", 50153)])
    assert planned.topology == Topology()
    assert planned.problems == ()


def test_of_two_peers_with_one_port_the_first_wins_and_the_other_is_told() -> None:
    planned = plan(CONFIG, NODE, [peer("first", 50221), peer("second", 50221)])
    assert planned.topology.links["rait4x50221"].peers[0].public_key == "first"
    (problem,) = planned.problems
    assert problem.severity == "error", "the list has to be mended"
    assert problem.link == "rait4x50221"
    assert "second" in problem.message
    assert "first" in problem.message
    assert "50221" in problem.message


def test_a_peer_is_told_by_its_key_and_by_its_name_if_it_has_one() -> None:
    known = structs.replace(peer("with", 50221), name="gateway")
    offered = [peer("first", 50221), known, peer("without", 50221)]
    with_name, without = plan(CONFIG, NODE, offered).problems
    assert with_name.message.startswith("peer gateway (with): ")
    assert without.message.startswith("peer without: ")


def test_one_port_in_both_families_is_one_too_many() -> None:
    static = Transport(address_family="ip6", send_port=50154, mtu=1420, ifprefix="rait6x")
    config = Config(transports=(IP4, static))
    both = [peer("first", 50221), peer("second", 50221, "2001:db8::1", "ip6")]
    planned = plan(config, NODE, both)
    assert planned.topology.links.keys() == {"rait4x50221"}
    (problem,) = planned.problems
    assert "dynamic_port" in problem.message
    assert problem.severity == "error"
    dynamic = Config(transports=(IP4, IP6))
    assert plan(dynamic, NODE, both).topology.links.keys() == {"rait4x50221", "rait6x50221"}
    there = plan(config, NODE, both[1:]).topology
    planned = plan(config, NODE, both, None, there)
    assert planned.topology == there, "who has the port keeps it, in whichever family"
    (problem,) = planned.problems
    assert (problem.link, problem.severity) == ("rait4x50221", "error")


def test_a_peer_in_its_own_way_has_one_link_and_nobody_else_is_to_mend_that() -> None:
    static = structs.replace(IP6, dynamic_port=False)
    one, other = (peer("both", 50221, None, family).endpoints[0] for family in ("ip4", "ip6"))
    config = Config(transports=(IP4, static))
    planned = plan(config, NODE, [Peer(public_key="both", endpoints=(one, other))])
    assert planned.topology.links.keys() == {"rait4x50221"}
    (problem,) = planned.problems
    assert problem.severity == "warning"
    assert "dynamic_port" in problem.message


def test_a_peer_with_a_link_by_another_endpoint_lacks_nothing() -> None:
    taken, free = (peer("late", port).endpoints[0] for port in (50221, 50222))
    registry = [peer("first", 50221), Peer(public_key="late", endpoints=(taken, free))]
    planned = plan(CONFIG, NODE, registry)
    assert planned.topology.links.keys() == {"rait4x50221", "rait4x50222"}
    (problem,) = planned.problems
    assert (problem.severity, problem.link) == ("warning", "rait4x50221")


def test_a_name_over_15_bytes_is_refused() -> None:
    """Bytes, not letters: the kernel counts those."""
    fits = Transport(address_family="ip4", send_port=1, mtu=1420, ifprefix="abcdefghij")
    too_long = Transport(address_family="ip4", send_port=2, mtu=1420, ifprefix="abcdefghijä")
    planned = plan(Config(transports=(fits, too_long)), NODE, [peer("peer", 50221)])
    assert planned.topology.links.keys() == {"abcdefghij50221"}
    assert "15 bytes" in planned.problems[0].message


def test_a_peer_without_an_address_waits_and_so_does_one_that_does_not_resolve() -> None:
    planned = plan(CONFIG, NODE, [peer("a", 50001, None), peer("b", 50002, "b.example.org")])
    assert [link.peers[0].endpoint for link in planned.topology.links.values()] == [None, None]
    assert planned.problems == ()


def test_of_several_addresses_the_one_in_use_is_kept() -> None:
    peers = [peer("peer", 50221, "example.org")]
    both = {("example.org", "ip4"): ("192.0.2.1", "192.0.2.2")}
    second, gone = (
        plan(CONFIG, NODE, peers, {("example.org", "ip4"): (used,)}).topology
        for used in ("192.0.2.2", "192.0.2.9")
    )
    for applied, expected in ((None, "192.0.2.1"), (second, "192.0.2.2"), (gone, "192.0.2.1")):
        link = plan(CONFIG, NODE, peers, both, applied).topology.links["rait4x50221"]
        assert link.peers[0].endpoint == Endpoint(expected, 50153)


# A name that does not resolve: what was last applied is all that there is to try

NAMED = [peer("peer", 50221, "example.org")]
THERE = plan(CONFIG, NODE, NAMED, {("example.org", "ip4"): ("192.0.2.7",)}).topology
REMOVED = depart({}, [LinkRemoved(link) for link in THERE.links.values()])


def endpoint_of(planned: Plan) -> Endpoint | None:
    (link,) = planned.topology.links.values()
    return link.peers[0].endpoint


@pytest.mark.parametrize(("applied", "departed"), [(THERE, {}), (None, REMOVED)])
def test_without_dns_a_peer_is_tried_where_it_last_was(
    applied: Topology | None, departed: Departed
) -> None:
    """After a restart, and after a `down` before it as well."""
    planned = plan(CONFIG, NODE, NAMED, {}, applied, departed)
    assert endpoint_of(planned) == Endpoint("192.0.2.7", 50153)
    assert planned.names == {"rait4x50221": False}


def test_a_peer_whose_address_was_taken_out_of_the_list_waits_again() -> None:
    for applied, departed in ((THERE, NONE_DEPARTED), (None, REMOVED)):
        planned = plan(CONFIG, NODE, [peer("peer", 50221, None)], {}, applied, departed)
        assert endpoint_of(planned) is None
        assert planned.names == {}


def test_what_another_peer_of_the_same_name_had_is_not_tried() -> None:
    planned = plan(CONFIG, NODE, [peer("other", 50221, "example.org")], {}, THERE, REMOVED)
    assert endpoint_of(planned) is None


def test_an_address_of_the_other_family_is_not_tried() -> None:
    now_ip6 = structs.replace(IP6, ifprefix="rait4x")
    config = structs.replace(CONFIG, transports=(now_ip6,))
    registry = [peer("peer", 50221, "example.org", "ip6")]
    assert endpoint_of(plan(config, NODE, registry, {}, THERE)) is None


def test_a_name_that_resolves_again_counts() -> None:
    found = {("example.org", "ip4"): ("192.0.2.9",)}
    planned = plan(CONFIG, NODE, NAMED, found, None, REMOVED)
    assert endpoint_of(planned) == Endpoint("192.0.2.9", 50153)
    assert planned.names == {"rait4x50221": True}


# Who has a link keeps it


def test_a_newcomer_does_not_take_the_port_of_a_peer_that_is_there() -> None:
    there = plan(CONFIG, NODE, [peer("old", 50221)]).topology
    registry = [peer("new", 50221), peer("old", 50221)]
    planned = plan(CONFIG, NODE, registry, None, there)
    assert planned.topology == there
    (problem,) = planned.problems
    assert "new" in problem.message
    assert "old, which has the link" in problem.message


def test_an_endpoint_that_a_run_may_have_applied_is_better_than_none() -> None:
    """It was cut off, as by a loss of power, and there is no name server yet."""
    registry = [peer("far", 50221, "far.example")]
    known = {("far.example", IP4.address_family): ("192.0.2.7",)}
    there = plan(CONFIG, NODE, registry, known).topology
    cut_off = LastKnown(leftover=diff(EMPTY, there))
    planned = plan(CONFIG, NODE, registry, None, with_leftovers(cut_off))
    assert planned.topology == there


def test_a_link_that_is_known_counts_before_what_a_run_may_have_made_of_it() -> None:
    (old,) = plan(CONFIG, NODE, [peer("old", 50221)]).topology.links.values()
    (new,) = plan(CONFIG, NODE, [peer("new", 50221)]).topology.links.values()
    there = Topology({old.name: old})
    cut_off = LastKnown(topology=there, leftover=(LinkRemoved(old), LinkAdded(new)))
    assert with_leftovers(cut_off) == there


def test_an_entry_with_the_key_of_a_peer_does_not_move_its_link() -> None:
    """Keys are public, so whoever may add an entry can add one with the key of another."""
    there = plan(CONFIG, NODE, [peer("old", 50221)]).topology
    (false,) = peer("old", 50333, "203.0.113.1").endpoints
    same_port = structs.replace(false, send_port=50221)
    (own,) = peer("old", 50221).endpoints
    for order in ((false, own), (same_port, own), (own, false)):
        planned = plan(CONFIG, NODE, [Peer(public_key="old", endpoints=order)], None, there)
        assert planned.topology == there
        (problem,) = planned.problems
        assert "the peer has link rait4x50221 already" in problem.message


def test_a_peer_that_is_there_keeps_its_link_though_all_its_addresses_are_new() -> None:
    there = plan(CONFIG, NODE, [peer("old", 50221)]).topology
    (one,), (two,) = (peer("old", 50221, f"192.0.2.{n}").endpoints for n in (8, 9))
    registry = [peer("new", 50221), Peer(public_key="old", endpoints=(one, two))]
    planned = plan(CONFIG, NODE, registry, None, there)
    (far,) = planned.topology.links["rait4x50221"].peers
    assert (far.public_key, far.endpoint) == ("old", Endpoint("192.0.2.8", 50153))


def test_a_peer_that_changed_its_port_moves() -> None:
    there = plan(CONFIG, NODE, [peer("old", 50221)]).topology
    planned = plan(CONFIG, NODE, [peer("old", 50222)], None, there)
    assert planned.topology.links.keys() == {"rait4x50222"}
    assert planned.problems == ()


@pytest.mark.parametrize("address", ["192.0.2.1", None])
def test_who_had_a_port_last_gets_it_back(address: str | None) -> None:
    """After a `down`, and after a start at which its link could not be made."""
    registry = [peer("new", 50221), peer("old", 50221, address)]
    there = plan(CONFIG, NODE, registry[1:]).topology
    gone = depart({}, [LinkRemoved(link) for link in there.links.values()])
    planned = plan(CONFIG, NODE, registry, None, EMPTY, gone)
    assert planned.topology == there
    (problem,) = planned.problems
    assert "new" in problem.message


def test_who_had_a_port_before_somebody_else_does_not() -> None:
    first, second = (
        depart({}, [LinkRemoved(link)])
        for key in ("first", "second")
        for link in plan(CONFIG, NODE, [peer(key, 50221)]).topology.links.values()
    )
    gone = {name: first[name] | second[name] for name in first}  # type: ignore[operator]
    registry = [peer("first", 50221), peer("second", 50221)]
    (link,) = plan(CONFIG, NODE, registry, None, EMPTY, gone).topology.links.values()
    assert link.peers[0].public_key == "second"


def test_a_port_is_free_when_its_peer_has_left_the_list_or_has_another() -> None:
    there = plan(CONFIG, NODE, [peer("old", 50221)]).topology
    for rest in ([], [peer("old", 50222)]):
        planned = plan(CONFIG, NODE, [peer("new", 50221), *rest], None, there)
        assert planned.topology.links["rait4x50221"].peers[0].public_key == "new"
        assert planned.problems == ()


def test_a_dynamic_port_makes_no_room_for_a_second_link_of_a_name() -> None:
    old, new = (peer(key, 50221, "2001:db8::1", "ip6") for key in ("old", "new"))
    there = plan(CONFIG, NODE, [old]).topology
    planned = plan(CONFIG, NODE, [new, old], None, there)
    assert planned.topology == there
    (problem,) = planned.problems
    assert problem.severity == "error"


# Entries of this node under another key

NAMED_CONFIG = structs.replace(
    CONFIG, name="gate", transports=(structs.replace(IP4, address="192.0.2.9"), IP6)
)


def named(
    key: str, port: int, name: str | None = "gate", address: str | None = "192.0.2.1"
) -> Peer:
    return structs.replace(peer(key, port, address), name=name)


@pytest.mark.parametrize(
    ("entry", "likeness"),
    [
        (named("former", 50153), 'this node\'s name "gate"'),
        (named("second configuration", 50160), 'this node\'s name "gate"'),
        (named("former", 50153, None, "192.0.2.9"), "send_port 50153 and address 192.0.2.9"),
        (named("former", 50153, "was", "192.0.2.9"), "send_port 50153 and address 192.0.2.9"),
    ],
)
def test_our_own_entry_under_another_key_is_said_and_makes_no_link(
    entry: Peer, likeness: str
) -> None:
    planned = plan(NAMED_CONFIG, NODE, [entry, peer("a", 50001)])
    assert planned.topology.links.keys() == {"rait4x50001"}
    (problem,) = planned.problems
    assert problem.severity == "warning"
    assert not problem.skipped
    assert likeness in problem.message
    assert "remove it from the list" in problem.message


@pytest.mark.parametrize(
    "entry",
    [
        named("twin", 50153, None),  # our port at another address
        named("behind the same NAT", 50160, None, "192.0.2.9"),
        named("nameless and passive", 50153, None, None),
        named("another name", 50160, "Gate"),
    ],
)
def test_a_port_or_an_address_alone_makes_no_entry_ours(entry: Peer) -> None:
    planned = plan(NAMED_CONFIG, NODE, [entry])
    assert planned.topology.links.keys() == {f"rait4x{entry.endpoints[0].send_port}"}
    nameless = structs.replace(NAMED_CONFIG, name=None)
    assert plan(nameless, NODE, [named("other", 50160, None)]).problems == ()


def test_an_address_is_ours_however_its_letters_are_written() -> None:
    transport = structs.replace(IP4, address="Gate.example.org")
    config = structs.replace(CONFIG, transports=(transport,))
    assert not plan(config, NODE, [peer("former", 50153, "gate.EXAMPLE.org")]).topology.links


@pytest.mark.parametrize("gone", [False, True])
def test_a_peer_that_has_a_link_keeps_it_whatever_an_entry_makes_of_it(gone: bool) -> None:
    """A name may be given twice, and whoever writes the list can add an entry with its key."""
    there = plan(NAMED_CONFIG, NODE, [named("other", 50160, "other")]).topology
    departed = depart({}, [LinkRemoved(link) for link in there.links.values()])
    before = (EMPTY, departed) if gone else (there, NONE_DEPARTED)
    (own,) = named("other", 50160).endpoints
    (false,) = named("other", 50153, address="192.0.2.9").endpoints
    for endpoints in ((own,), (false, own)):
        entry = Peer(public_key="other", endpoints=endpoints, name="gate")
        planned = plan(NAMED_CONFIG, NODE, [entry], None, *before)
        assert planned.topology == there
        assert 'has this node\'s name "gate"' in planned.problems[0].message
        assert "keeps it" in planned.problems[0].message
        assert {problem.severity for problem in planned.problems} == {"warning"}


# Limits


def test_ports_out_of_range_are_refused() -> None:
    config = structs.replace(CONFIG, port_range=((50000, 50999), (53, 53)))
    registry = [peer("a", 50000), peer("b", 51000), peer("c", 53), peer("d", 22)]
    planned = plan(config, NODE, registry)
    assert planned.topology.links.keys() == {"rait4x50000", "rait4x53"}
    assert ["port_range" in problem.message for problem in planned.problems] == [True, True]
    assert {problem.severity for problem in planned.problems} == {"warning"}, "on purpose"


def test_links_are_counted_as_they_are_planned() -> None:
    registry = [
        peer("own key", 50153),
        peer("a", 50001),
        peer("b", 50001),
        peer("c", 50002, "2001:db8::1", "ip6"),
        peer("d", 22),
    ]
    config = structs.replace(CONFIG, port_range=((1024, 65535),))
    planned = plan(config, NODE, registry)
    assert count_wanted(config, NODE.public_key, registry) == len(planned.topology.links) == 2


def test_a_peer_with_our_own_port_is_told_but_has_its_link() -> None:
    planned = plan(CONFIG, NODE, [peer("twin", 50153), peer("own key", 50153)])
    assert planned.topology.links.keys() == {"rait4x50153"}
    (problem,) = planned.problems
    assert problem.severity == "warning"
    assert not problem.skipped
    assert "twin" in problem.message
    assert "this node's own send_port" in problem.message


def test_our_own_entry_with_another_port_is_told() -> None:
    """All other nodes listen where the list says, so they would wait for us in vain."""
    planned = plan(CONFIG, NODE, [peer("own key", 50999), peer("a", 50001)])
    assert planned.topology.links.keys() == {"rait4x50001"}
    (problem,) = planned.problems
    assert problem.severity == "warning"
    assert not problem.skipped
    assert "SendPort 50999 (ip4), and rait.conf has send_port 50153" in problem.message
    only_ip6 = structs.replace(CONFIG, transports=(IP6,))
    assert plan(only_ip6, NODE, [peer("own key", 50999)]).problems == ()


# Link-local addresses of the two ends of a link

KEY_A = "KJJXmDtAXSrMGuIJVy/2eP65gXm1PTy7vCR/4O/vEEI="
KEY_B = "+Y23l1qr9oEM4WlqPvp4IG2TPXdNCa11twipDvOHT3w="


def test_an_address_never_changes() -> None:
    """A release that computed others would leave each node with two, or confuse its routes."""
    assert link_local(KEY_A, KEY_B, "ip4") == "fe80::db8b:de41:f36:fa3e/64"
    assert link_local("far", "own", "ip4") == "fe80::a540:3415:a211:b4c9/64"


def test_each_end_and_each_family_has_its_own() -> None:
    found = {
        link_local(own, peer, family)
        for own, peer in ((KEY_A, KEY_B), (KEY_B, KEY_A))
        for family in ("ip4", "ip6")
    }
    assert len(found) == 4


def test_it_is_link_local_and_spelt_as_the_kernel_spells_it() -> None:
    """Otherwise what the kernel tells would differ from what was asked for, in every sync."""
    for number in range(3000):
        text = link_local(KEY_A, str(number), "ip6")
        address = IPv6Interface(text)
        assert address.is_link_local
        assert address.network.prefixlen == 64
        assert str(address) == text

"""Which policies are for a link, what it gets of them, and what plan makes of that."""

from __future__ import annotations

from typing import Any

import pytest

from rait.domain.config.schema import (
    Config,
    Isolation,
    Match,
    Peer,
    PeerEndpoint,
    Policy,
    Transport,
)
from rait.domain.plan import KeyFiles, Node, Plan, count_wanted, link_local, plan
from rait.domain.policy import Policies, Resolved, is_of_one_host, key_files
from rait.domain.topology import (
    NO_NOTES,
    Endpoint,
    Family,
    Link,
    LinkNotes,
    Origin,
    Topology,
)

NODE = Node(public_key="own key", origin=Origin("kernel", "raitns", "transit"))
IP4 = Transport(address_family="ip4", send_port=1000, mtu=1420, ifprefix="a", fwmark=54)
IP6 = Transport(address_family="ip6", send_port=1001, mtu=1400, ifprefix="b", keepalive=15)


def peer(key: str = "key", port: int = 2000, family: Family = "ip4", **more: Any) -> Peer:
    address = "192.0.2.1" if family == "ip4" else "2001:db8::1"
    endpoint = PeerEndpoint(address_family=family, send_port=port, address=address)
    return Peer(public_key=key, endpoints=(endpoint,), **more)


def resolved(far: Peer, *policies: Policy, family: Family = "ip4") -> Resolved:
    return Policies(policies).resolve(far, family)


def planned(*policies: Policy, far: Peer | None = None, **more: Any) -> Plan:
    config = Config(transports=(IP4, IP6), policies=policies)
    return plan(config, NODE, [far or peer()], **more)


def only(found: Plan) -> Link:
    (link,) = found.topology.links.values()
    return link


def test_of_policies_that_set_one_thing_the_last_wins_and_is_named() -> None:
    first = Policy(keepalive=10, mtu=1300, path=("policy", 0))
    second = Policy(keepalive=0, path=("policy", 1))
    found = resolved(peer(), first, second)
    assert (found.settings.keepalive, found.settings.mtu) == (0, 1300)
    assert found.givers == {"keepalive": second, "mtu": first}


@pytest.mark.parametrize(
    ("match", "fits"),
    [
        (Match(), True),
        (Match(name=("core*",)), True),
        (Match(name=("x", "core-[0-9]")), True),
        (Match(name=("Core*",)), False),
        (Match(name=("core",)), False),
        (Match(public_key=("key",)), True),
        (Match(public_key=("other", "more")), False),
        (Match(address_family=("ip4", "ip6")), True),
        (Match(address_family=("ip6",)), False),
        (Match(remarks={"place": ("ams*", "fra*")}), True),
        (Match(remarks={"place": ("fra*",), "asn": ("64512",)}), True),
        (Match(remarks={"place": ("fra*",), "asn": ("1",)}), False),
        (Match(remarks={"role": ("*",)}), False),
        (Match(name=("core*",), public_key=("other",)), False),
    ],
)
def test_a_policy_is_for_those_that_fit_all_of_its_match(match: Match, fits: bool) -> None:
    far = peer(name="core-1", remarks=(("asn", "64512"), ("place", "fra2")))
    assert bool(resolved(far, Policy(match=match, skip=True)).givers) is fits


def test_a_peer_without_a_name_fits_no_glob() -> None:
    assert not resolved(peer(), Policy(match=Match(name=("*",)), skip=True)).givers


def test_what_is_set_gets_into_the_link_and_the_rest_stays_the_transports() -> None:
    link = only(planned(Policy(keepalive=25), Policy(fwmark=7, mtu=1300)))
    assert link.peers[0].keepalive == 25
    assert (link.device.fwmark, link.settings.mtu) == (7, 1300)
    assert link.notes == NO_NOTES
    link = only(planned(Policy(match=Match(name=("x",)), fwmark=7, mtu=1300)))
    assert (link.device.fwmark, link.settings.mtu, link.peers[0].keepalive) == (54, 1420, 0)
    assert only(planned(far=peer(family="ip6"))).peers[0].keepalive == 15
    assert only(planned(Policy(keepalive=0), far=peer(family="ip6"))).peers[0].keepalive == 0
    assert only(planned(Policy(fwmark=0))).device.fwmark == 0


def test_a_skipped_peer_gets_no_link_and_leaves_its_port_to_others() -> None:
    skip = Policy(match=Match(public_key=("first",)), skip=True)
    config = Config(transports=(IP4,), policies=(skip,))
    peers = [peer("first"), peer("second")]
    found = plan(config, NODE, peers)
    assert only(found).peers[0].public_key == "second"
    assert found.problems == ()
    assert count_wanted(config, "own key", [*peers, peer("first", 2001)]) == 1
    but = Policy(match=Match(public_key=("first",)), skip=False)
    config = Config(transports=(IP4,), policies=(Policy(skip=True), but))
    assert only(plan(config, NODE, peers)).peers[0].public_key == "first"


def test_one_family_of_a_peer_can_be_skipped() -> None:
    both = Peer(public_key="key", endpoints=(*peer().endpoints, *peer("", 2001, "ip6").endpoints))
    skip = Policy(match=Match(address_family=("ip6",)), skip=True)
    assert planned(skip, far=both).topology.links.keys() == {"a2000"}


def test_rules_of_a_transit_vrf_have_the_marks_of_policies() -> None:
    isolation = Isolation(type="vrf", target="mesh", table=100, transit="under")
    config = Config(
        transports=(IP4,), isolation=isolation, policies=(Policy(fwmark=7), Policy(mtu=1400))
    )
    node = Node(public_key="own key", origin=NODE.origin, transit_table=5)
    rules = plan(config, node, [peer()]).topology.rules.values()
    assert {(rule.family, rule.fwmark) for rule in rules} == {
        (family, fwmark) for family in ("ip4", "ip6") for fwmark in (54, 7)
    }


def test_a_peer_is_noted_only_where_a_command_is_set() -> None:
    far = peer(name="far", remarks=(("a", "b"),))
    assert only(planned(Policy(keepalive=5), far=far)).notes == NO_NOTES
    link = only(planned(Policy(up_command=("hook",)), Policy(command_netns="current"), far=far))
    assert link.notes == LinkNotes(
        up_command=("hook",),
        command_netns="current",
        peer_name="far",
        remarks=(("a", "b"),),
    )


def test_a_link_may_have_one_of_the_commands_alone() -> None:
    down = only(planned(Policy(down_command=("hook",)), far=peer(name="far")))
    assert down.notes == LinkNotes(down_command=("hook",), peer_name="far")
    assert only(planned(Policy(up_command=("hook",)))).notes == LinkNotes(up_command=("hook",))


@pytest.mark.parametrize(
    ("policies", "param"),
    [
        ((Policy(babeld_param="type wired"),), "type wired"),
        ((Policy(babeld_param_add="rxcost 96"),), f"{Config().babeld.param} rxcost 96"),
        (
            (Policy(babeld_param="type wired", babeld_param_add="rxcost 96"),),
            "type wired rxcost 96",
        ),
        ((Policy(babeld_param_add="rxcost 96"), Policy(babeld_param_add="")), ""),
    ],
)
def test_babelds_parameters_are_replaced_or_added_to(
    policies: tuple[Policy, ...], param: str
) -> None:
    assert only(planned(*policies)).notes == LinkNotes(babeld_param=param)


def test_addresses_are_canonical_and_a_chosen_link_local_one_takes_the_place_of_the_other() -> None:
    far = peer(remarks=(("ip", "10.0.0.9"),))
    link = only(
        planned(
            Policy(addresses=("fd00::0:1/64", "10.0.0.1 peer {remarks.ip}", "fe80::1")), far=far
        )
    )
    assert link.settings.addresses == ("10.0.0.1 peer 10.0.0.9/32", "fd00::1/64", "fe80::1/64")
    assert link.settings.address is None
    link = only(planned(Policy(addresses=("10.0.{name}.1/24",)), far=peer(name="7")))
    assert link.settings.addresses == ("10.0.7.1/24",)
    link = only(planned(Policy(addresses=("fe80::1", "192.0.2.1"))))
    assert link.settings.addresses == ("192.0.2.1/32", "fe80::1/64")
    link = only(planned(Policy(addresses=("192.0.2.1",))))
    assert link.settings.addresses == ("192.0.2.1/32",)
    assert link.settings.address == link_local("own key", "key", "ip4")


def test_addresses_and_commands_can_be_taken_back() -> None:
    given = Policy(addresses=("10.0.0.1/24", "fe80::1"), up_command=("up",), down_command=("down",))
    but = Policy(addresses=(), up_command=(), down_command=())
    link = only(planned(given, but))
    assert link == only(planned())


def test_an_address_that_cannot_be_is_an_error_of_its_link() -> None:
    policy = Policy(
        addresses=("10.0.0.1 peer {remarks.ip}", "10.0.0.1", "fe80::1", "fe80::2"),
        path=("policy", 3),
    )
    found = planned(policy)
    assert only(found).settings.addresses == ("10.0.0.1/32", "fe80::1/64")
    assert only(found).settings.address is None
    missing, second = found.flaws
    assert (missing.severity, missing.link, missing.path) == (
        "error",
        "a2000",
        ("policy", 3, "addresses"),
    )
    assert "the registry has no remarks.ip of this peer" in missing.message
    assert "a link has one link-local address" in second.message


def test_links_that_share_what_is_behind_an_address_are_warned_of() -> None:
    policies = (Policy(addresses=("10.0.0.1/24", "10.9.0.1", "fe80::1")),)
    config = Config(transports=(IP4,), policies=policies)
    found = plan(config, NODE, [peer("one", 1), peer("two", 2)])
    (flaw,) = found.flaws
    assert (flaw.severity, flaw.link) == ("warning", None)
    assert "a1, a2" in flaw.message
    assert "10.0.0.1/24" in flaw.message


def test_an_mtu_is_asked_for_and_taken() -> None:
    auto = Policy(mtu="auto", fwmark=7)
    found = planned(auto)
    assert found.ways == {("192.0.2.1", 7)}
    assert only(found).settings.mtu == IP4.mtu
    assert only(planned(auto, mtus={("192.0.2.1", 7): 1380})).settings.mtu == 1380
    assert only(planned(auto, mtus={("192.0.2.1", 54): 1380})).settings.mtu == IP4.mtu


def test_a_link_keeps_its_mtu_while_that_of_the_way_is_unknown() -> None:
    auto = Policy(mtu="auto")
    applied = planned(auto, mtus={("192.0.2.1", 54): 1380}).topology
    assert only(planned(auto, applied=applied)).settings.mtu == 1380
    assert only(planned(auto, applied=applied, mtus={("192.0.2.1", 54): 1300})).settings.mtu == 1300
    moved = Peer(
        public_key="key",
        endpoints=(PeerEndpoint(address_family="ip4", send_port=2000, address="192.0.2.7"),),
    )
    found = planned(auto, applied=applied, far=moved)
    assert only(found).peers[0].endpoint == Endpoint("192.0.2.7", 1000)
    assert only(found).settings.mtu == IP4.mtu


def test_a_peer_without_an_address_has_the_mtu_of_the_transport() -> None:
    passive = Peer(
        public_key="key", endpoints=(PeerEndpoint(address_family="ip4", send_port=2000),)
    )
    found = planned(Policy(mtu="auto"), far=passive)
    assert only(found).settings.mtu == IP4.mtu
    assert found.ways == frozenset()


def test_a_link_has_the_preshared_key_of_its_file_or_is_not_planned() -> None:
    policy = Policy(preshared_key_file="/psk", path=("policy", 0))
    files = KeyFiles({("/psk", "key"): "digest", ("/psk", "other"): "another"})
    found = planned(policy, key_files=files)
    assert (only(found).peers[0].psk_digest, found.flaws) == ("digest", ())
    assert only(planned(key_files=files)).peers[0].psk_digest == ""
    off = Policy(preshared_key_file="")
    assert only(planned(policy, off, key_files=files)).peers[0].psk_digest == ""
    for missing in (KeyFiles(errors={("/psk", "key"): "/psk: no key"}), KeyFiles()):
        found = planned(policy, key_files=missing)
        assert found.topology.links == {}
        (flaw,) = found.flaws
        assert (flaw.link, flaw.severity) == ("a2000", "error")
        assert flaw.path == ("policy", 0, "preshared_key_file")
        assert flaw.message.startswith("/psk: no key; " if missing.errors else "the file was not")


def test_which_files_are_read_is_decided_by_the_links_alone() -> None:
    policies = (
        Policy(preshared_key_file="all"),
        Policy(preshared_key_file="six", match=Match(address_family=("ip6",))),
        Policy(preshared_key_file="one", match=Match(public_key=("one",))),
        Policy(preshared_key_file="", match=Match(public_key=("none",))),
        Policy(skip=True, match=Match(public_key=("skipped",))),
    )
    config = Config(transports=(IP4,), policies=policies)
    peers = [peer("key"), peer("six", family="ip6"), peer("one"), peer("none"), peer("skipped")]
    assert [(file, far.public_key) for file, far in key_files(config, peers)] == [
        ("all", "key"),
        ("one", "one"),
    ]


def test_nothing_of_this_is_where_there_is_no_policy() -> None:
    found = planned()
    assert (found.flaws, found.ways) == ((), frozenset())
    assert isinstance(found.topology, Topology)
    assert only(found).settings.addresses == ()


@pytest.mark.parametrize(
    ("address", "expected"),
    [
        ("192.0.2.1/32", True),
        ("2001:db8::1/128", True),
        ("fe80::1/64", True),
        ("192.0.2.1/24", False),
        ("2001:db8::1/32", False),
        ("192.0.2.1/32 peer 192.0.2.2/32", False),
    ],
)
def test_an_address_with_hosts_behind_it_is_told_from_that_of_one(
    address: str, expected: bool
) -> None:
    assert is_of_one_host(address) == expected

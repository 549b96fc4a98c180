"""Policies resolve in one way, concern their own links alone, and leave the laws of plan whole."""

from __future__ import annotations

from random import Random

from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from rait.domain.config.schema import POLICY_SETTINGS, Config, Match, Peer, Policy
from rait.domain.plan import KeyFiles, Plan, count_wanted, plan
from rait.domain.policy import Policies
from rait.domain.topology import NO_NOTES, Family
from tests.property import strategies as s

REMARKS = ({}, {"place": "ams1"}, {"place": "fra1", "ip": "10.0.0.7"}, {"ip": "10.0.0.0/8"})
KEY_FILES = KeyFiles({("/psk", key): f"digest for {key}" for key in s.PEER_KEYS})
WHO = ("gate", "core-1", None)


@st.composite
def registries(draw: st.DrawFn) -> list[Peer]:
    """Peers with names and remarks."""
    return [
        structs.replace(
            peer,
            name=draw(st.sampled_from(WHO)),
            remarks=tuple(sorted(draw(st.sampled_from(REMARKS)).items())),
        )
        for peer in draw(s.peers_lists())
    ]


def planned(config: Config, peers: list[Peer]) -> Plan:
    return plan(config, s.node, peers, {}, key_files=KEY_FILES)


configs = s.configs(s.policy_lists)


@given(s.policy_lists, registries(), s.families)
def test_the_last_that_sets_a_thing_wins(
    given_policies: tuple[Policy, ...], peers: list[Peer], family: Family
) -> None:
    """Whatever policies there are: each value is that of the last fitting policy with one.

    Whether a policy fits does not depend on the others.
    """
    asked = Policies(given_policies)
    for peer in peers:
        found = asked.resolve(peer, family)
        fitting = [p for p in given_policies if Policies((p,)).resolve(peer, family).givers]
        for name in POLICY_SETTINGS:
            givers = [policy for policy in fitting if getattr(policy, name) is not None]
            value = getattr(givers[-1], name) if givers else None
            assert getattr(found.settings, name) == value
            assert found.givers.get(name) is (givers[-1] if givers else None)


@given(s.policy_lists, registries(), s.families, st.randoms())
def test_other_peers_and_their_order_decide_nothing(
    given_policies: tuple[Policy, ...], peers: list[Peer], family: Family, random: Random
) -> None:
    asked = Policies(given_policies)
    before = [asked.resolve(peer, family) for peer in peers]
    shuffled = list(enumerate(peers))
    random.shuffle(shuffled)
    again = Policies(given_policies)
    for index, peer in shuffled:
        assert again.resolve(peer, family) == before[index]


@given(configs, registries())
def test_plan_stays_total_and_every_link_has_what_it_gets(
    config: Config, peers: list[Peer]
) -> None:
    found = planned(config, peers)
    asked = Policies(config.policies)
    by_key = {peer.public_key: peer for peer in peers}
    families = {transport.ifprefix: transport for transport in config.transports}
    for name, link in found.topology.links.items():
        (far,) = link.peers
        transport = next(
            t for p, t in families.items() if name.startswith(p) and name[len(p) :].isdecimal()
        )
        got = asked.resolve(by_key[far.public_key], transport.address_family).settings
        assert not got.skip
        assert far.keepalive == (transport.keepalive if got.keepalive is None else got.keepalive)
        assert link.device.fwmark == (transport.fwmark if got.fwmark is None else got.fwmark)
        if got.mtu != "auto":
            assert link.settings.mtu == (got.mtu or transport.mtu)
        assert bool(far.psk_digest) == (got.preshared_key_file is not None)
        assert (link.notes == NO_NOTES) == (
            not got.up_command and not got.babeld_param and not got.babeld_param_add
        )
        if got.addresses is None:
            assert link.settings.addresses == ()
        else:
            flawed = [flaw for flaw in found.flaws if flaw.link == name]
            assert len(link.settings.addresses) + len(flawed) == len(got.addresses)
            assert not any("/8" in text for text in link.settings.addresses)
    assert len(found.topology.links) <= count_wanted(config, s.OWN_KEY, peers)


@given(configs, registries())
def test_who_sets_nothing_gets_the_same_as_without_policies(
    config: Config, peers: list[Peer]
) -> None:
    bare = structs.replace(config, policies=())
    idle = structs.replace(config, policies=(Policy(), Policy(match=Match(name=("*",)))))
    assert planned(idle, peers) == planned(bare, peers)
    never = structs.replace(
        config,
        policies=tuple(
            structs.replace(policy, match=Match(public_key=("nobody",)))
            for policy in config.policies
        ),
    )
    with_rules_alone = planned(never, peers)
    assert with_rules_alone.topology.links == planned(bare, peers).topology.links


@given(configs, registries())
def test_skipped_peers_are_as_if_they_were_not_there(config: Config, peers: list[Peer]) -> None:
    asked = Policies(config.policies)
    rest = [structs.replace(peer, endpoints=asked.endpoints(peer)) for peer in peers]
    own = [peer.public_key == s.OWN_KEY for peer in peers]
    rest = [peer if is_own else left for peer, left, is_own in zip(peers, rest, own, strict=True)]
    assert planned(config, peers) == planned(config, rest)

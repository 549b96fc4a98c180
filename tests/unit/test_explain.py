"""Where each value of a link comes from, and what stands in its way."""

from __future__ import annotations

import pytest
from msgspec import structs

from rait.adapters.config import formats
from rait.domain.backend import Observation, ObservedLink, UnreadLink
from rait.domain.config.schema import (
    Config,
    Isolation,
    Match,
    Peer,
    PeerEndpoint,
    Policy,
    Transport,
)
from rait.domain.errors import Path, Problem
from rait.domain.explain import (
    Routes,
    Setting,
    Source,
    links_of_peer,
    obstacles,
    settings_of,
    sources_of,
)
from rait.domain.history import LastKnown
from rait.domain.ownership import Stranger
from rait.domain.plan import Node, plan
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

KEY = "BwgJCgsMDQ4PEBESExQVFhcYGRobHB0eHyAhIiMkJSY="
HCL = """
Transport {
  SendPort = 1
  random_port = true
}
isolation {
  ifgroup = 7
}
"""
TOML = """
transport = { send_port = 1, random_port = true }
[isolation]
IfGroup = 7
"""
CONFIG = Config(
    transports=(
        Transport(address_family="ip4", send_port=50001, mtu=1420, ifprefix="four"),
        Transport(address_family="ip4", send_port=50002, mtu=1400, ifprefix="more"),
    ),
    policies=(Policy(keepalive=25, path=("policy", 0)), Policy(skip=False, path=("policy", 1))),
)
PEER = Peer(
    public_key=KEY,
    endpoints=(
        PeerEndpoint(address_family="ip4", send_port=50011, path=("peers", 0)),
        PeerEndpoint(address_family="ip6", send_port=50012, path=("peers", 1)),
    ),
)
NODE = Node(public_key="own", origin=Origin("kernel"))


def located(source: Source) -> str:
    return source.text or f"{source.document} {' '.join(map(str, source.path))}"


def routes(config: Config, own_key: str = "own") -> list[tuple[str | None, tuple[str, ...]]]:
    found = plan(config, NODE, [PEER])
    return [
        (route.link, route.notes)
        for route in Routes(config, own_key, found, {}, (), located).to(PEER)
    ]


@pytest.mark.parametrize("text", [HCL, TOML])
@pytest.mark.parametrize(
    ("path", "line"),
    [
        (("transports", 0, "send_port"), {HCL: 3, TOML: 2}),
        (("transports", 0, "dynamic_port"), {HCL: 4, TOML: 2}),
        (("isolation", "ifgroup"), {HCL: 7, TOML: 4}),
        (("transports", 0, "mtu"), None),
        (("transports", 1, "mtu"), None),
        (("babeld", "param"), None),
        (("isolation", "ifgroup", "more"), None),
    ],
)
def test_a_key_is_found_however_the_file_spells_it(
    text: str, path: Path, line: dict[str, int] | None
) -> None:
    document = formats.parse(text, "rait.conf")
    spelt = document.spelt(path)
    if line is None:
        assert spelt is None
    else:
        assert spelt is not None
        assert document.locate(spelt) == line[text]


def test_each_setting_of_a_link_has_a_source() -> None:
    sources = sources_of(CONFIG, 1, PEER, "peers.conf:1")
    assert sources["keepalive"] == Source("rait.conf", ("policy", 0, "keepalive"))
    assert sources["mtu"] == Source("rait.conf", ("transports", 1, "mtu"))
    assert sources["listen port"].text == "peers.conf:1"
    assert "addresses" not in sources
    dynamic = structs.replace(CONFIG.transports[0], dynamic_port=True)
    in_vrf = Isolation(type="vrf", target="vrf0", table=7)
    vrf = structs.replace(CONFIG, isolation=in_vrf, transports=(dynamic,))
    for config, netns, master in ((CONFIG, "target", "type"), (vrf, "type", "target")):
        sources = sources_of(config, 0, PEER, "")
        assert sources["netns"] == Source("rait.conf", ("isolation", netns))
        assert sources["vrf"] == Source("rait.conf", ("isolation", master))
    assert sources["listen port"] == Source("rait.conf", ("transports", 0, "dynamic_port"))


def test_parameters_of_babeld_that_a_policy_adds_are_its_doing() -> None:
    adding = structs.replace(CONFIG, policies=(Policy(babeld_param_add="x", path=("policy", 0)),))
    assert sources_of(adding, 0, PEER, "")["babeld parameters"] == Source(
        "rait.conf", ("policy", 0, "babeld_param_add")
    )


def test_a_chosen_link_local_address_has_the_source_of_the_addresses() -> None:
    chosen = structs.replace(CONFIG, policies=(Policy(addresses=("fe80::1/64",), path=("p",)),))
    sources = sources_of(chosen, 0, PEER, "")
    assert sources["link-local address"] == sources["addresses"]
    assert sources_of(CONFIG, 0, PEER, "")["link-local address"].text == "made of both keys"


def test_a_chosen_link_local_address_is_shown_as_the_link_local_one_wherever_it_stands() -> None:
    policies = (Policy(addresses=("192.0.2.1", "fe80::1")),)
    node = structs.replace(CONFIG, policies=policies)
    wanted = plan(node, NODE, [PEER]).topology.links["four50011"]
    # The machine's first link-local address, and all others.
    there = structs.replace(
        wanted.settings, address="fe80::1/64", addresses=("10.0.0.1/8", "192.0.2.1/32")
    )
    seen = structs.replace(wanted, settings=there)
    by_name = {s.name: s for s in settings_of(wanted, None, seen, {})}
    local, rest = by_name["link-local address"], by_name["addresses"]
    assert local.wanted == local.machine == "fe80::1/64"
    assert (rest.wanted, rest.machine) == ("192.0.2.1/32", "10.0.0.1/8, 192.0.2.1/32")


def test_each_transport_of_the_family_makes_a_route() -> None:
    first, second, third = routes(CONFIG)
    assert first == ("four50011", ())
    assert second[0] is None
    assert "would listen on port 50011 as four50011 does" in second[1][0]
    assert third == (None, ("rait.conf has no transport for ip6",))


def test_a_skipping_policy_is_named() -> None:
    skipping = structs.replace(CONFIG, policies=(Policy(skip=True, path=("policy", 0)),))
    assert routes(skipping)[0] == (None, ("rait.conf policy 0 skip: this policy skips the peer",))


def test_a_route_without_its_preshared_key_says_so() -> None:
    policy = Policy(preshared_key_file="psk", path=("policy", 2))
    found = routes(structs.replace(CONFIG, policies=(policy,)))
    assert [link for link, _ in found] == [None] * 3
    why = "the file was not read; without the preshared key the link is not made, or stays as it is"
    assert found[0][1] == (f"rait.conf policy 2 preshared_key_file: {why}",)


def test_what_the_peer_lacks_that_has_the_name_is_not_said_of_another() -> None:
    only = Policy(match=Match(public_key=(KEY,)), preshared_key_file="psk", path=("policy", 0))
    config = structs.replace(CONFIG, policies=(only,))
    same_port = PeerEndpoint(address_family="ip4", send_port=50011, path=("peers", 2))
    other = Peer(public_key="other", endpoints=(same_port,))
    explained = Routes(config, "own", plan(config, NODE, [PEER, other]), {}, (), located)
    (lacking,), (taken,) = explained.to(PEER)[0].notes, explained.to(other)[0].notes
    assert "without the preshared key the link is not made" in lacking
    assert f"SendPort 50011 (ip4) is already that of peer {KEY}" in taken


def test_a_host_name_is_told_with_its_addresses_of_the_family() -> None:
    host, found = "far.example.org", {("far.example.org", "ip4"): ("192.0.2.9", "192.0.2.10")}
    named = structs.replace(
        PEER, endpoints=tuple(structs.replace(each, address=host) for each in PEER.endpoints)
    )
    for peer, addresses in ((named, [("192.0.2.9", "192.0.2.10")] * 2 + [()]), (PEER, [()] * 3)):
        explained = Routes(CONFIG, "own", plan(CONFIG, NODE, [peer], found), found, (), located)
        assert [route.resolved for route in explained.to(peer)] == addresses


def test_our_own_entry_is_said_to_be_ours() -> None:
    assert routes(CONFIG, own_key=KEY)[0][1] == ("this is the entry of this node itself",)


def test_settings_are_shown_side_by_side() -> None:
    wanted = plan(CONFIG, NODE, [PEER]).topology.links["four50011"]
    seen = structs.replace(wanted, settings=structs.replace(wanted.settings, mtu=1280))
    by_name = {s.name: s for s in settings_of(wanted, None, seen, {"mtu": "rait.conf:4"})}
    assert by_name["mtu"] == Setting("mtu", "1420", "rait.conf:4", None, "1280")
    assert by_name["up_command"] == Setting("up_command", "none", None, None, "")
    gone = {s.name: s for s in settings_of(None, wanted, None, {"mtu": "rait.conf:4"})}
    assert gone["mtu"] == Setting("mtu", None, None, "1420", None)


FULL = Link(
    "w1",
    Origin("userspace", "mesh"),
    LinkSettings(1420, 54, "blue", True, "fe80::1/64", ("10.0.0.1/24", "10.0.0.2/24")),
    Device("own", 50001, 55),
    (LinkPeer("far", Endpoint("192.0.2.1", 1), 25, psk_digest="digest"), LinkPeer("other")),
    LinkNotes(("up", "it"), ("down", "it"), babeld_param="rxcost 96"),
)
BARE = Link("w2", Origin("kernel"), LinkSettings(1280, 0), Device("own"), (LinkPeer("far"),))


@pytest.mark.parametrize(
    ("name", "full", "bare"),
    [
        ("backend", "userspace", "kernel"),
        ("netns", "mesh", "the current one"),
        ("vrf", "blue", "none"),
        ("ifgroup", "54", "0"),
        ("listen port", "50001", "dynamic"),
        ("fwmark", "55", "off"),
        ("mtu", "1420", "1280"),
        ("link-local address", "fe80::1/64", "none"),
        ("addresses", "10.0.0.1/24, 10.0.0.2/24", "none"),
        ("peer", "far other", "far"),
        ("endpoint", "192.0.2.1:1 none", "none"),
        ("keepalive", "25 s off", "off"),
        ("preshared key", "set none", "none"),
        ("babeld parameters", "rxcost 96", "those of rait.conf"),
        ("up_command", "up it", "none"),
        ("down_command", "down it", "none"),
    ],
)
def test_each_setting_is_shown_and_so_is_its_absence(name: str, full: str, bare: str) -> None:
    (found,) = [each for each in settings_of(FULL, BARE, None, {}) if each.name == name]
    assert (found.wanted, found.applied, found.machine) == (full, bare, None)


def test_the_links_of_a_peer_are_those_that_the_journal_or_the_machine_has() -> None:
    known = LastKnown(topology=Topology({"w1": FULL}), leftover_links={"w2": BARE})
    third = structs.replace(BARE, name="w3")
    there = Observation(now=0, links={"w3": ObservedLink(link=third)})
    assert links_of_peer("far", known, there) == {"w1", "w2", "w3"}
    assert links_of_peer("other", known, there) == {"w1"}


def test_what_is_in_the_way_is_said_once() -> None:
    link: Link = plan(CONFIG, NODE, [PEER]).topology.links["four50011"]
    problem = Problem("taken", "error", (), link.name)
    stranger = Stranger(link.name, "it has another key", claimed=False)
    seen = Observation(
        now=0, unread={"odd": UnreadLink("", 54, "no answer")}, others={"eth0": "", "br0": "bridge"}
    )

    def said(name: str, *problems: Problem) -> list[str]:
        return list(obstacles(name, seen, problems, (stranger,)))

    assert said(link.name, problem) == ["taken"]
    assert said(link.name) == ["it is not ours: it has another key"]
    assert said("odd") == ["it cannot be read: no answer"]
    assert said("eth0") == ["it is no WireGuard link, but of kind physical"]
    assert said("br0") == ["it is no WireGuard link, but of kind bridge"]
    assert said("w9") == []

"""The kernel backend against a kernel: what is observed after an apply is what events add up to."""

from __future__ import annotations

import base64
import itertools
import os
import subprocess
from collections.abc import Iterator, Sequence

import pytest
from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey
from msgspec import structs

from rait.adapters.keys import KeyPair
from rait.adapters.netlink import rtnl
from rait.adapters.netlink import socket as netlink
from rait.adapters.netns import Netns, copied, open_netns
from rait.adapters.wireguard import kernel
from rait.adapters.wireguard.sockets import kernel_has_wireguard
from rait.app.machine import LEFT_ALONE, Machine
from rait.domain.backend import ObservedLink
from rait.domain.config.schema import Secret
from rait.domain.events import (
    DeviceUpdated,
    Event,
    LinkAdded,
    LinkRemoved,
    LinkUpdated,
    PeerAdded,
    PeerRemoved,
    PeerUpdated,
    replay,
)
from rait.domain.topology import Device, Endpoint, Link, LinkPeer, LinkSettings, Origin, Topology

pytestmark = pytest.mark.kernel

GROUP = 54
_serial = itertools.count()


def ip(*arguments: str) -> str:
    done = subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True)
    return done.stdout


def new_key() -> tuple[Secret, str]:
    private = X25519PrivateKey.generate()
    public = base64.b64encode(private.public_key().public_bytes_raw()).decode()
    return Secret(base64.b64encode(private.private_bytes_raw()).decode()), public


def peer_key(number: int) -> str:
    return base64.b64encode(bytes([number]) * 32).decode()


class Node:
    """Two namespaces of a node and its backend."""

    def __init__(self) -> None:
        stem = f"rk{os.getpid()}n{next(_serial)}"
        self.target, self.transit = f"{stem}a", f"{stem}b"
        self.secret, self.public_key = new_key()
        for name in (self.target, self.transit):
            ip("netns", "add", name)
        self.transit_ns: Netns = open_netns(self.transit)
        self.target_ns: Netns = open_netns(self.target)
        self.rait = self.new_run(self.secret, self.public_key)

    def new_run(self, secret: Secret, public_key: str) -> Machine:
        """The machine as a run of rait has it, with this key."""
        return Machine(copied(self.transit_ns, self.transit), KeyPair(secret, public_key))

    def close(self) -> None:
        self.rait.__exit__(None, None, None)
        self.transit_ns.close()
        self.target_ns.close()
        for name in (self.target, self.transit):
            subprocess.run(["ip", "netns", "delete", name], check=False)

    def link(
        self,
        number: int,
        *,
        port: int | None = None,
        master: str | None = None,
        peers: Sequence[LinkPeer] = (),
        public_key: str | None = None,
    ) -> Link:
        return Link(
            name=f"rt{number}",
            origin=Origin("kernel", self.target, instance=self.target_ns.instance),
            settings=LinkSettings(
                mtu=1400 + number % 100,
                group=GROUP,
                master=master,
                address=f"fe80::{number + 1:x}/64",
            ),
            device=Device(
                public_key or self.public_key, 20000 + number if port is None else port, GROUP
            ),
            peers=tuple(sorted(peers, key=lambda peer: peer.public_key)),
        )

    def peered(self, number: int, **changes: object) -> Link:
        peer = LinkPeer(peer_key(number + 1), Endpoint(f"192.0.2.{number % 250 + 1}", 6000), 25)
        return self.link(number, peers=[peer], **changes)  # type: ignore[arg-type]

    def observe(self) -> dict[str, ObservedLink]:
        return dict(self.rait.observe(self.target_ns).links)

    def topology(self) -> Topology:
        return Topology({name: each.link for name, each in self.observe().items()})

    def apply(self, *events: Event) -> list[str | None]:
        outcomes = list(self.rait.apply(events))
        assert [outcome.index for outcome in outcomes] == list(range(len(events)))
        return [outcome.error for outcome in outcomes]

    def change(self, *events: Event) -> Topology:
        """Apply events that all succeed; what is then there is what they add up to."""
        expected = replay(self.topology(), events)
        assert self.apply(*events) == [None] * len(events)
        observed = self.topology()
        assert observed == expected
        return observed

    def kinds(self) -> dict[str, str]:
        with open_netns(self.target) as ns:
            return {name: each.kind for name, each in rtnl.interfaces(ns).items()}


def added(*links: Link) -> list[Event]:
    return [LinkAdded(link) for link in links]


@pytest.fixture
def node() -> Iterator[Node]:
    made = Node()
    try:
        yield made
    finally:
        made.close()


def test_the_kernel_has_wireguard() -> None:
    assert kernel_has_wireguard()


def test_links_are_made_as_the_events_say_with_sockets_in_the_transit_namespace(node: Node) -> None:
    links = [node.peered(number) for number in range(3)]
    passive = node.link(3, peers=[LinkPeer(peer_key(99))])
    six = node.link(
        4, peers=[LinkPeer(peer_key(98), Endpoint("2001:db8::1", 7), 0, ("10.0.0.0/8",))]
    )
    after = node.change(*added(*links, passive, six))
    assert set(after.links) == {"rt0", "rt1", "rt2", "rt3", "rt4"}
    sockets = ip("netns", "exec", node.transit, "ss", "-Huln")
    assert all(f":2000{number} " in sockets for number in range(5))
    assert "2000" not in ip("netns", "exec", node.target, "ss", "-Huln")


def test_many_links_are_made_and_removed(node: Node) -> None:
    links = [node.peered(number) for number in range(20)]
    after = node.change(*added(*links))
    node.change(*[LinkRemoved(link) for link in after.links.values()])
    assert node.kinds() == {"lo": ""}


def test_an_inverted_removal_brings_a_link_back_with_its_peers(node: Node) -> None:
    node.change(LinkAdded(node.peered(0)))


def test_listen_port_zero_lets_the_kernel_choose(node: Node) -> None:
    assert node.apply(*added(node.link(0, port=0), node.link(1, port=0))) == [None, None]
    ports = {link.device.listen_port for link in node.topology().links.values()}
    assert len(ports) == 2
    assert 0 not in ports


def test_interface_settings_change_each_by_itself(node: Node) -> None:
    ip("-n", node.target, "link", "add", "vrf-rk", "type", "vrf", "table", "77")
    ip("-n", node.target, "link", "set", "vrf-rk", "up")
    link = node.change(*added(node.peered(0))).links["rt0"]
    now = link.settings
    changes: list[dict[str, object]] = [
        {"mtu": 1300},
        {"group": 7},
        {"addresses": ("172.20.0.1/24", "172.20.0.2/24", "fd00::1 peer fd00::2/128")},
        {"master": "vrf-rk"},
        {"address": "fe80::77/64"},
        {"addresses": ("172.20.0.2/24", "fd00::3/64")},
        {"up": False},
        {"mtu": 1301, "up": True},
        {"master": None, "address": "fe80::78/64"},
        {"address": None},
        {"master": "vrf-rk", "up": False, "address": "fe80::79/64"},
        {"master": None, "up": True, "address": "fe80::7a/64", "group": GROUP},
    ]
    for change in changes:
        after = structs.replace(now, **change)
        node.change(LinkUpdated("rt0", now, after))
        now = after


def test_a_link_is_born_in_its_vrf(node: Node) -> None:
    ip("-n", node.target, "link", "add", "vrf-rk", "type", "vrf", "table", "77")
    ip("-n", node.target, "link", "set", "vrf-rk", "up")
    node.change(*added(node.peered(0, master="vrf-rk"), node.peered(1)))


def test_a_missing_vrf_fails_its_links_alone(node: Node) -> None:
    errors = node.apply(*added(node.peered(0, master="vrf-none"), node.peered(1)))
    assert "VRF vrf-none does not exist" in (errors[0] or "")
    assert errors[1:] == [None]
    assert node.kinds() == {"lo": "", "rt1": "wireguard"}


def test_device_settings_change_each_by_itself(node: Node) -> None:
    now = node.change(*added(node.peered(0))).links["rt0"].device
    for change in ({"listen_port": 21000}, {"fwmark": 9}, {"fwmark": 0, "listen_port": 21001}):
        after = structs.replace(now, **change)
        node.change(DeviceUpdated("rt0", now, after))
        now = after


def test_ports_trade_places_by_way_of_port_zero(node: Node) -> None:
    links = node.change(*added(node.peered(0), node.peered(1))).links
    zero, one = links["rt0"].device, links["rt1"].device
    parked = structs.replace(zero, listen_port=0)
    errors = node.apply(
        DeviceUpdated("rt0", zero, parked),
        DeviceUpdated("rt1", one, structs.replace(one, listen_port=zero.listen_port)),
        DeviceUpdated("rt0", parked, structs.replace(zero, listen_port=one.listen_port)),
    )
    assert errors == [None, None, None]
    ports = [node.topology().links[name].device.listen_port for name in ("rt0", "rt1")]
    assert ports == [one.listen_port, zero.listen_port]


def test_a_new_private_key_keeps_the_peers(node: Node) -> None:
    now = node.change(*added(node.peered(0))).links["rt0"].device
    secret, public_key = new_key()
    node.rait = node.new_run(secret, public_key)
    node.observe()
    node.change(DeviceUpdated("rt0", now, structs.replace(now, public_key=public_key)))


def test_peers_come_change_and_go(node: Node) -> None:
    peer = LinkPeer(peer_key(50), Endpoint("192.0.2.9", 9), 0, ("10.0.0.0/8", "192.0.2.0/24"))
    node.change(*added(node.peered(0)))
    node.change(PeerAdded("rt0", peer))
    changes: list[dict[str, object]] = [
        {"endpoint": Endpoint("2001:db8::9", 10)},
        {"keepalive": 25},
        {"allowed_ips": ("192.0.2.0/24", "198.51.100.0/24", "2001:db8::/32")},
        {"endpoint": None, "keepalive": 0},
        {"endpoint": Endpoint("192.0.2.7", 1), "allowed_ips": ()},
    ]
    for change in changes:
        after = structs.replace(peer, **change)
        node.change(PeerUpdated("rt0", peer, after))
        peer = after
    node.change(PeerRemoved("rt0", peer))


def test_a_peer_may_have_more_allowed_ips_than_a_message_holds(node: Node) -> None:
    networks = sorted(f"10.{number // 256}.{number % 256}.0/24" for number in range(1500))
    big = LinkPeer(peer_key(60), None, 0, tuple(networks))
    node.change(*added(node.link(0, peers=[big, LinkPeer(peer_key(61), None, 0, ())])))
    node.change(PeerUpdated("rt0", big, structs.replace(big, allowed_ips=tuple(networks[100:]))))


def test_an_update_leaves_alone_what_it_does_not_change(node: Node) -> None:
    link = node.change(*added(node.peered(0))).links["rt0"]
    peer = link.peers[0]
    roamed = Endpoint("198.51.100.1", 4242)
    set_peer = ("peer", peer.public_key, "endpoint", str(roamed))
    ip("netns", "exec", node.target, "wg", "set", "rt0", "fwmark", "99", *set_peer)
    assert node.apply(
        DeviceUpdated("rt0", link.device, structs.replace(link.device, listen_port=22000)),
        PeerUpdated("rt0", peer, structs.replace(peer, keepalive=7)),
    ) == [None, None]
    after = node.topology().links["rt0"]
    assert after.device == Device(node.public_key, 22000, 99)
    assert after.peers == (structs.replace(peer, endpoint=roamed, keepalive=7),)


def test_a_taken_port_fails_its_link_alone_and_leaves_nothing_behind(node: Node) -> None:
    first, clash, third = node.peered(0), node.peered(1, port=20000), node.peered(2)
    errors = node.apply(*added(first, clash, third))
    assert errors[::2] == [None, None]
    for text in ("20000", "ss -ulpn", node.transit):
        assert text in (errors[1] or "")
    assert node.topology().links == {"rt0": first, "rt2": third}


def test_a_taken_port_leaves_a_living_link_as_it_was(node: Node) -> None:
    before = node.change(*added(node.peered(0), node.peered(1)))
    device = before.links["rt1"].device
    taken = structs.replace(device, listen_port=20000)
    (error,) = node.apply(DeviceUpdated("rt1", device, taken))
    assert "20000" in (error or "")
    assert node.topology() == before


def test_raising_a_link_whose_port_was_taken_meanwhile_names_the_port(node: Node) -> None:
    links = node.change(*added(node.peered(0))).links
    up, down = links["rt0"].settings, structs.replace(links["rt0"].settings, up=False, address=None)
    node.change(LinkUpdated("rt0", up, down), *added(node.peered(1, port=20000)))
    (error,) = node.apply(LinkUpdated("rt0", down, up))
    assert "20000" in (error or "")


def test_a_foreign_interface_in_the_way_is_reported_and_stays(node: Node) -> None:
    ip("-n", node.target, "link", "add", "rt0", "type", "bridge")
    errors = node.apply(*added(node.peered(0), node.peered(1)))
    assert "not ours" in (errors[0] or "")
    assert errors[1:] == [None]
    assert node.kinds() == {"lo": "", "rt0": "bridge", "rt1": "wireguard"}


def test_removal_spares_all_others_even_in_the_same_group(node: Node) -> None:
    ip("-n", node.target, "link", "add", "foreign0", "group", str(GROUP), "type", "wireguard")
    ip("-n", node.target, "link", "add", "foreign1", "group", str(GROUP), "type", "bridge")
    links = node.change(*added(*[node.peered(number) for number in range(5)])).links
    ip("-n", node.target, "link", "delete", "rt3")
    ours = [link for name, link in links.items() if name.startswith("rt")]
    assert node.apply(*[LinkRemoved(link) for link in ours]) == [None] * 5
    assert node.kinds() == {"lo": "", "foreign0": "wireguard", "foreign1": "bridge"}


def test_removal_never_takes_an_interface_of_another_kind(node: Node) -> None:
    ip("-n", node.target, "link", "add", "rt0", "type", "bridge")
    node.apply(LinkRemoved(node.peered(0)))
    assert node.kinds() == {"lo": "", "rt0": "bridge"}


def test_links_of_a_namespace_that_is_gone_count_as_removed(node: Node) -> None:
    link = structs.replace(node.peered(0), origin=Origin("kernel", f"{node.target}gone"))
    assert node.apply(LinkRemoved(link)) == [None]


def test_a_group_that_cannot_be_removed_is_removed_link_by_link(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    links = node.change(*added(*[node.peered(number) for number in range(4)])).links

    monkeypatch.setattr(kernel, "_remove_groups", lambda _, groups: set(groups))
    assert node.apply(*[LinkRemoved(link) for link in links.values()]) == [None] * 4
    assert node.kinds() == {"lo": ""}


def test_later_events_of_a_failed_link_fail_and_others_do_not(node: Node) -> None:
    links = node.change(*added(node.peered(0), node.peered(1))).links
    ip("-n", node.target, "link", "delete", "rt0")
    settings = links["rt0"].settings
    errors = node.apply(
        LinkUpdated("rt0", settings, structs.replace(settings, mtu=1300)),
        LinkUpdated("rt1", links["rt1"].settings, structs.replace(settings, mtu=1300)),
        PeerRemoved("rt0", links["rt0"].peers[0]),
        PeerRemoved("rt1", links["rt1"].peers[0]),
    )
    assert [error is None for error in errors] == [False, True, False, True]
    assert "gone" in (errors[0] or "")
    assert errors[2] == LEFT_ALONE


def test_no_event_and_no_change_send_nothing(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    link = node.change(*added(node.peered(0))).links["rt0"]
    sent: list[bytes] = []
    with monkeypatch.context() as patch:
        patch.setattr(netlink.NetlinkSocket, "_send", lambda _, messages: sent.extend(messages))
        assert node.apply() == []
    assert sent == []
    before = node.topology()
    assert node.apply(
        LinkUpdated("rt0", link.settings, link.settings),
        DeviceUpdated("rt0", link.device, link.device),
        PeerUpdated("rt0", link.peers[0], link.peers[0]),
    ) == [None, None, None]
    assert node.topology() == before


def test_a_device_for_another_key_fails_and_no_error_shows_the_private_key(node: Node) -> None:
    _, other = new_key()
    ip("-n", node.target, "link", "add", "rt1", "type", "bridge")
    errors = node.apply(
        LinkAdded(node.link(0, public_key=other)), LinkAdded(node.link(1)), LinkAdded(node.link(2))
    )
    assert other in (errors[0] or "")
    assert node.public_key in (errors[0] or "")
    assert [error is None for error in errors] == [False, False, True]
    assert node.secret.reveal() not in repr(errors)
    with node.new_run(Secret("c2VjcmV0IGJ1dCB0b28gc2hvcnQ="), node.public_key) as bad:
        (outcome,) = bad.apply([LinkAdded(node.link(5))])
    assert "private key" in (outcome.error or "")
    assert "c2VjcmV0" not in (outcome.error or "")
    assert "rt5" not in node.kinds()


def test_a_link_for_another_transit_is_refused(node: Node) -> None:
    link = structs.replace(node.link(0), origin=Origin("kernel", node.target, "elsewhere"))
    (error,) = node.apply(LinkAdded(link))
    assert "namespace" in (error or "")
    assert node.kinds() == {"lo": ""}


def test_the_whole_interface_is_told(node: Node) -> None:
    ip("-n", node.target, "link", "add", "vrf-rk", "type", "vrf", "table", "77")
    ip("-n", node.target, "link", "set", "vrf-rk", "up")
    node.change(*added(node.peered(0, master="vrf-rk")))
    with open_netns(node.target) as ns:
        told = rtnl.interfaces(ns)
    assert told["vrf-rk"].kind == "vrf"
    link = told["rt0"]
    assert (link.kind, link.mtu, link.group, link.up) == ("wireguard", 1400, GROUP, True)
    assert (link.master, link.address) == ("vrf-rk", "fe80::1/64")

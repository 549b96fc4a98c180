"""What both WireGuard backends write to interfaces: no more than what changes."""

from __future__ import annotations

import errno
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from msgspec import structs

from rait.adapters import netns
from rait.adapters.keys import KeyPair
from rait.adapters.netlink import rtnl
from rait.adapters.netlink.rtnl import FoundInterface
from rait.adapters.netlink.socket import NetlinkError, Request
from rait.adapters.wireguard.sockets import (
    TUN,
    Sockets,
    check_is_for,
    first_update,
    port_is_taken,
    update_settings,
)
from rait.domain.config.schema import Secret
from rait.domain.errors import MachineError
from rait.domain.events import LinkUpdated
from rait.domain.topology import Device, Link, LinkSettings, Origin

DOWN = LinkSettings(1420, 54, up=False)
UP = LinkSettings(1420, 54, None, True, "fe80::1/64")
KIND = rtnl.WIREGUARD


class Kernel:
    """Knows links by name, takes what is sent, and refuses what it is told to."""

    def __init__(self) -> None:
        self.links = {
            "w1": FoundInterface(1, KIND, 54),
            "w2": FoundInterface(2, KIND, 54),
            "vrf": FoundInterface(9, "vrf", 0),
        }
        self.sent: list[Request] = []
        self.refused: dict[Request, int] = {}

    def perform(self, requests: Sequence[Request]) -> list[NetlinkError | None]:
        self.sent += requests
        codes = [self.refused.get(request, 0) for request in requests]
        return [NetlinkError(code) if code else None for code in codes]


@pytest.fixture
def kernel() -> Kernel:
    return Kernel()


@pytest.fixture
def via(kernel: Kernel, monkeypatch: pytest.MonkeyPatch) -> Iterator[Sockets]:
    with netns.open_netns("") as here, Sockets(here) as sockets:
        vars(sockets)["rtnl"] = kernel
        monkeypatch.setattr(sockets, "find", kernel.links.get)
        yield sockets


def sent(kernel: Kernel, via: Sockets, before: LinkSettings, after: LinkSettings) -> list[Request]:
    assert update_settings(via, KIND, [LinkUpdated("w1", before, after)]) == {}
    return kernel.sent


@pytest.mark.parametrize(
    ("change", "requests"),
    [
        ({}, []),
        ({"mtu": 1300}, [rtnl.set_link(1, mtu=1300)]),
        ({"mtu": 1300, "group": 7}, [rtnl.set_link(1, mtu=1300, group=7)]),
        ({"address": None}, [rtnl.delete_address(1, "fe80::1/64")]),
        ({"addresses": ("192.0.2.1/24",)}, [rtnl.add_address(1, "192.0.2.1/24")]),
        (
            {"address": None, "addresses": ("192.0.2.1/24", "fe80::2/64")},
            [
                rtnl.add_address(1, "192.0.2.1/24"),
                rtnl.add_address(1, "fe80::2/64"),
                rtnl.delete_address(1, "fe80::1/64"),
                # Had it been the same address to the kernel, it could not have been added before.
                rtnl.add_address(1, "192.0.2.1/24"),
                rtnl.add_address(1, "fe80::2/64"),
            ],
        ),
        # Going down takes the address away, and so does another VRF.
        ({"up": False}, [rtnl.set_link(1, up=False), rtnl.add_address(1, "fe80::1/64")]),
        ({"master": "vrf"}, [rtnl.set_link(1, master=9), rtnl.add_address(1, "fe80::1/64")]),
    ],
)
def test_what_differs_is_written_and_no_more(
    kernel: Kernel, via: Sockets, change: dict[str, Any], requests: list[Request]
) -> None:
    assert sent(kernel, via, UP, structs.replace(UP, **change)) == requests


def test_what_stays_is_safe_from_the_removal_of_an_ipv4_address(
    kernel: Kernel, via: Sockets
) -> None:
    both = structs.replace(UP, addresses=("192.0.2.1/24", "192.0.2.2/24"))
    removal = [rtnl.promote_secondaries(1), rtnl.delete_address(1, "192.0.2.1/24")]
    assert sent(kernel, via, both, structs.replace(UP, addresses=("192.0.2.2/24",))) == removal


def test_a_link_that_goes_down_gets_its_ipv6_addresses_back(kernel: Kernel, via: Sockets) -> None:
    before = structs.replace(UP, addresses=("192.0.2.1/24", "2001:db8::1/64"))
    back = [rtnl.add_address(1, "fe80::1/64"), rtnl.add_address(1, "2001:db8::1/64")]
    after = structs.replace(before, up=False)
    assert sent(kernel, via, before, after) == [rtnl.set_link(1, up=False), *back]


def test_where_an_address_is_refused_none_goes(kernel: Kernel, via: Sockets) -> None:
    before = structs.replace(UP, addresses=("192.0.2.1/24",))
    after = structs.replace(UP, addresses=("192.0.2.2/24",))
    bad = rtnl.add_address(1, "192.0.2.2/24")
    kernel.refused = {bad: errno.EADDRNOTAVAIL}
    kernel.links["w3"] = FoundInterface(3, KIND, 54)
    events = [LinkUpdated(name, before, after) for name in ("w1", "w3")]
    errors = update_settings(via, KIND, events)
    assert {name: str(error) for name, error in errors.items()} == {
        "w1": "address 192.0.2.2/24: EADDRNOTAVAIL (Cannot assign requested address)"
    }
    assert rtnl.delete_address(3, "192.0.2.1/24") in kernel.sent
    assert rtnl.delete_address(1, "192.0.2.1/24") not in kernel.sent


def test_a_link_is_freed_from_its_vrf(kernel: Kernel, via: Sockets) -> None:
    before, after = structs.replace(DOWN, master="vrf"), DOWN
    assert sent(kernel, via, before, after) == [rtnl.set_link(1, master=0)]


def test_the_kernel_gives_a_tun_no_address_of_its_own(kernel: Kernel, via: Sockets) -> None:
    kernel.links["w1"] = FoundInterface(1, TUN, 54)
    assert update_settings(via, TUN, [LinkUpdated("w1", DOWN, UP)]) == {}
    raised = [rtnl.set_link(1, up=True), rtnl.add_address(1, "fe80::1/64")]
    assert kernel.sent == [rtnl.no_generated_address(1), *raised]


@pytest.mark.parametrize("code", [errno.EACCES, errno.EOPNOTSUPP])
def test_where_ipv6_is_disabled_its_sysctl_is_named(
    kernel: Kernel, via: Sockets, code: int
) -> None:
    kernel.refused = {rtnl.add_address(1, "fe80::1/64"): code}
    errors = update_settings(via, KIND, [LinkUpdated("w1", DOWN, UP)])
    assert str(errors["w1"]).startswith(f"address fe80::1/64: {errno.errorcode[code]} (")
    assert "net.ipv6.conf.all.disable_ipv6=0" in str(errors["w1"])


def test_one_that_fails_fails_alone(kernel: Kernel, via: Sockets) -> None:
    kernel.links["w3"] = FoundInterface(3, "bridge", 0)
    after = structs.replace(UP, mtu=1300)
    kernel.refused = {rtnl.set_link(1, mtu=1300): errno.EINVAL}
    moved = structs.replace(UP, master="no-vrf")
    kernel.links["w5"] = FoundInterface(5, KIND, 54)
    events = [LinkUpdated(name, UP, after) for name in ("w1", "w3", "w4", "w5")]
    errors = update_settings(via, KIND, [LinkUpdated("w2", UP, moved), *events])
    assert {name: str(error) for name, error in errors.items()} == {
        "w1": "EINVAL (Invalid argument)",
        "w2": "VRF no-vrf does not exist in the current network namespace",
        "w3": "it is gone",
        "w4": "it is gone",
    }


def test_an_address_that_is_gone_already_is_no_error(kernel: Kernel, via: Sockets) -> None:
    kernel.refused = {rtnl.delete_address(1, "fe80::1/64"): errno.EADDRNOTAVAIL}
    sent(kernel, via, UP, structs.replace(UP, address=None))


def test_a_new_link_is_down_and_has_no_address_yet() -> None:
    settings = structs.replace(UP, master="vrf", addresses=("192.0.2.1/24",))
    link = Link("w1", Origin("kernel"), settings, Device("ours"))
    bare = structs.replace(DOWN, master="vrf")
    assert first_update(link, "vrf") == LinkUpdated("w1", bare, settings)
    assert first_update(link, None) == LinkUpdated("w1", DOWN, settings)


def test_a_run_makes_links_for_its_own_transit_and_key_alone() -> None:
    key = KeyPair(Secret("secret"), "ours")
    with netns.open_netns("") as here:
        for transit in ("", here.identity):
            link = Link("w1", Origin("kernel", "", transit), UP, Device("ours"))
            check_is_for(link, here, key)
        with pytest.raises(MachineError, match="belongs in another network namespace"):
            check_is_for(Link("w1", Origin("kernel", "", "else"), UP, Device("ours")), here, key)
        with pytest.raises(MachineError, match="public key theirs"):
            check_is_for(Link("w1", Origin("kernel"), UP, Device("theirs")), here, key)


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("", "in the current network namespace; `ss -ulpn sport = :7` shows"),
        ("under", "in network namespace under; `ip netns exec under ss -ulpn sport = :7` shows"),
        ("123", "of process 123; `nsenter -t 123 -n ss -ulpn sport = :7` shows"),
    ],
)
def test_what_has_a_port_is_to_be_found_where_the_sockets_are(spec: str, words: str) -> None:
    assert words in port_is_taken(7, netns.gone(spec))

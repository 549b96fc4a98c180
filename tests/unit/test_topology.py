"""The values that a topology is made of: what they may be, and what they are if nobody says."""

from __future__ import annotations

import msgspec
import pytest

from rait.domain.topology import (
    ANYWHERE,
    Device,
    Endpoint,
    LinkPeer,
    LinkSettings,
    Origin,
    Rule,
    is_link_local,
)


@pytest.mark.parametrize("port", [0, 65535])
def test_a_port_is_one_of_udp(port: int) -> None:
    assert msgspec.convert({"public_key": "own", "listen_port": port}, Device).listen_port == port
    assert msgspec.convert({"address": "192.0.2.1", "port": port}, Endpoint).port == port


@pytest.mark.parametrize("port", [-1, 65536])
def test_a_port_that_udp_has_not_was_damaged_or_forged(port: int) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"public_key": "own", "listen_port": port}, Device)


@pytest.mark.parametrize("mark", [0, 4294967295])
def test_a_mark_has_32_bits(mark: int) -> None:
    assert msgspec.convert({"public_key": "own", "fwmark": mark}, Device).fwmark == mark


@pytest.mark.parametrize("mark", [-1, 4294967296])
def test_a_mark_with_more_bits_was_damaged_or_forged(mark: int) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"public_key": "own", "fwmark": mark}, Device)


def test_what_a_journal_leaves_out_is_read_as_it_was_meant() -> None:
    peer = msgspec.convert({"public_key": "far"}, LinkPeer)
    assert peer == LinkPeer("far", None, 0, ("0.0.0.0/0", "::/0"), "")
    assert peer.allowed_ips == ANYWHERE
    assert msgspec.convert({"public_key": "own"}, Device) == Device("own", 0, 0)
    settings = msgspec.convert({"mtu": 1420, "group": 54}, LinkSettings)
    assert settings == LinkSettings(1420, 54, None, True, None)


@pytest.mark.parametrize("address", ["fe80::1/64", "fe9a:1::", "febf:ffff::1"])
def test_a_link_local_address_is_told_by_its_first_ten_bits(address: str) -> None:
    assert is_link_local(address)


@pytest.mark.parametrize("address", ["fe8::1", "fe8:1234::1", "feb:1:2:3:4:5:6:7", "fec0::1", "::"])
def test_an_address_that_only_looks_like_one_is_none(address: str) -> None:
    assert not is_link_local(address)


def test_an_origin_gets_its_instance_once() -> None:
    made = Origin("kernel", "mesh", "transit")
    placed = Origin("kernel", "mesh", "transit", "boot/1")
    assert made.is_placed_by(placed)
    assert made.may_become(placed)
    assert not made.is_placed_by(made)
    assert made.may_become(made)
    for other in (made, Origin("kernel", "mesh", "transit", "boot/2")):
        assert not placed.is_placed_by(other)
        assert not placed.may_become(other)
    assert not made.is_placed_by(Origin("kernel", "mesh", "elsewhere", "boot/1"))


def test_endpoints_and_rules_are_written_as_ip_writes_them() -> None:
    assert str(Endpoint("192.0.2.1", 1)) == "192.0.2.1:1"
    assert str(Endpoint("2001:db8::1", 1)) == "[2001:db8::1]:1"
    assert Rule("ip4", 54, 100, 900).name == "ip4 pref 900 fwmark 54 lookup 100"

"""Addresses of links as ip-address(8) has them, and what a registry may bring into them."""

from __future__ import annotations

import pytest

from rait.domain.config.templates import parse_address


def text(template: str, **values: str) -> str:
    names = {"name": "name"}
    return parse_address(template).text(
        {names.get(k, f"remarks.{k}"): v for k, v in values.items()}
    )


@pytest.mark.parametrize(
    ("written", "canonical"),
    [
        ("192.0.2.1", "192.0.2.1/32"),
        ("192.0.2.1/24", "192.0.2.1/24"),
        ("192.0.2.1  peer 192.0.2.2", "192.0.2.1 peer 192.0.2.2/32"),
        ("192.0.2.1 peer 192.0.2.2/24", "192.0.2.1 peer 192.0.2.2/24"),
        ("FD00:0:0::0001", "fd00::1/128"),
        ("fd00::1/64", "fd00::1/64"),
        ("fd00::1 peer fd00::2", "fd00::1 peer fd00::2/128"),
        ("fe80::1", "fe80::1/64"),
        ("fe80:0::1/64", "fe80::1/64"),
    ],
)
def test_an_address_has_one_canonical_text(written: str, canonical: str) -> None:
    assert text(written) == canonical
    assert text(canonical) == canonical


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("", "must be an address"),
        ("192.0.2.1 via 192.0.2.2", "must be an address"),
        ("192.0.2.1 peer", "must be an address"),
        ("192.0.2.1/24 peer 192.0.2.2", "the length belongs to the peer's"),
        ("192.0.2.1/33", "over 32"),
        ("192.0.2.1/0", "a number, from 1 on"),
        ("192.0.2.1/", "a number, from 1 on"),
        ("192.0.2.1/24/24", "a number, from 1 on"),
        ("fd00::1/129", "over 128"),
        ("192.0.2.1 peer fd00::1", "different families"),
        ("192.0.2.1 peer 192.0.2.1", "is that of this node"),
        ("192.0.2", "no IP address"),
        ("192.0.2.01", "no IP address"),
        ("[fd00::1]", "no IP address"),
        ("fd00::1%eth0", "no IP address"),
        ("example.org", "no IP address"),
        ("0.0.0.1", "not the address of a host"),
        ("224.0.0.5", "not the address of a host"),
        ("127.0.0.1", "not the address of a host"),
        ("::1", "not the address of a host"),
        ("::ffff:192.0.2.1", "not the address of a host"),
        ("ff02::1", "not the address of a host"),
        ("fe80::1/128", "has the length 64"),
        ("fe80::1 peer fe80::2", "no peer address"),
        ("fe80::1 peer fd00::2", "no peer address"),
        ("fd00::1 peer fe80::2", "no peer address"),
        ("fe80:0:0:1::1", "not in fe80::/64"),
        ("fe80:0:0:1:2:3:4:5", "not in fe80::/64"),
        ("febf::1", "not in fe80::/64"),
        ("{nme}", "in braces stands"),
        ("${name}", "no \\$ stands in an address"),
        ("{remarks.}", "in braces stands"),
        ("{remarks.a b}", "in braces stands"),
        ("10.0.0.{", "in braces stands"),
        ("10.0.0.1/{remarks.length}", "a number, from 1 on"),
    ],
)
def test_what_is_no_address_of_a_link_is_refused(written: str, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        text(written)


def test_placeholders_stand_for_what_the_registry_says() -> None:
    assert text("10.0.{remarks.a}.1/24", a="7") == "10.0.7.1/24"
    assert text("10.0.0.1 peer {remarks.ip}", ip="10.0.0.9") == "10.0.0.1 peer 10.0.0.9/32"
    assert text("fd00:{name}::{remarks.b}/64", name="BEEF", b="1") == "fd00:beef::1/64"
    assert text("{remarks.ip}", ip="fd00::1") == "fd00::1/128"
    assert text("{remarks.ip}", ip="10.0.0.1") == "10.0.0.1/32"
    assert text("{remarks.ip}/32", ip="10.0.0.1") == "10.0.0.1/32"
    assert text("{remarks.ip}/33", ip="fd00::1") == "fd00::1/33"


@pytest.mark.parametrize(
    ("template", "value"),
    [
        ("{remarks.v}", "10.0.0.1/8"),
        ("{remarks.v}", "10.0.0.1 peer 10.0.0.2"),
        ("{remarks.v}/24", "10.0.0.1/8 "),
        ("10.0.0.1 peer {remarks.v}", "10.0.0.2/1"),
        ("10.0.0.1 peer {remarks.v}/24", "2000::1"),
        ("{remarks.v}/24", "2000::1"),
        ("{remarks.v}/64", "10.0.0.1"),
        ("10.0.{remarks.v}/24", "0.0.1"),
        ("10.{remarks.v}/8", ":1"),
        ("{remarks.v}:1/64", "10.0.0.1"),
        ("{remarks.v}", ""),
        ("{remarks.v}", "{name}"),
        ("{remarks.v}", "\uff11.0.0.1"),
        ("{remarks.v}", "0.0.0.1"),
    ],
)
def test_a_registry_says_neither_lengths_nor_more_than_an_address(
    template: str, value: str
) -> None:
    with pytest.raises(ValueError, match=r"no IP address|another family|not the address of a host"):
        text(template, v=value)


def test_what_the_registry_does_not_say_is_named() -> None:
    with pytest.raises(ValueError, match=r"the registry has no remarks.ip of this peer"):
        text("{remarks.ip}", other="10.0.0.1")

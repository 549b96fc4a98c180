"""Link-local addresses of the two ends of a link."""

from __future__ import annotations

from ipaddress import IPv6Interface

from rait.domain.linklocal import link_local

KEY_A = "KJJXmDtAXSrMGuIJVy/2eP65gXm1PTy7vCR/4O/vEEI="
KEY_B = "+Y23l1qr9oEM4WlqPvp4IG2TPXdNCa11twipDvOHT3w="


def test_an_address_never_changes() -> None:
    """A release that computed others would leave each node with two, or confuse its routes."""
    assert link_local(KEY_A, KEY_B, "ip4") == "fe80::db8b:de41:f36:fa3e/64"


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

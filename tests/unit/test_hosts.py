"""The limits of host names and interface names, each met and passed by one."""

from __future__ import annotations

import pytest

from rait.domain.config.hosts import checked_address, ifname_problem, ip_literal, is_nobody
from rait.domain.config.schema import MAX_IFNAME, MAX_PREFIX
from rait.domain.topology import Family


def host_name(length: int) -> str:
    """A name of this length whose labels are as long as they may be, and not all digits."""
    labels = ["a" * 63] * (length // 64)
    rest = length - 64 * len(labels)
    return ".".join([*labels, "b" * rest]) if rest else ".".join(labels)[:-1]


def test_an_interface_name_has_15_bytes() -> None:
    assert (MAX_IFNAME, MAX_PREFIX) == (15, 10)
    assert ifname_problem("a" * 15) is None
    assert ifname_problem("é" * 7 + "a") is None
    for name in ("a" * 16, "é" * 8):
        assert "longer than 15 bytes" in str(ifname_problem(name))


def test_a_host_name_has_253_characters() -> None:
    """RFC 1035, section 2.3.4, less the bytes that a name in text has not."""
    longest, longer = host_name(253), host_name(254)
    assert (len(longest), len(longer)) == (253, 254)
    assert checked_address(longest, "ip4") == longest
    assert checked_address(longest + ".", "ip6") == longest + ".", "the last dot counts for none"
    with pytest.raises(ValueError, match="neither an IP address nor a host name"):
        checked_address(longer, "ip4")


def test_a_label_has_63_characters() -> None:
    for label in ("a" * 63, "a", "a-b", "_dmarc", "1a"):
        assert checked_address(f"{label}.example", "ip4") == f"{label}.example"
    for label in ("a" * 64, "", "-a", "a-"):
        with pytest.raises(ValueError, match="nor a host name"):
            checked_address(f"{label}.example", "ip4")


def test_an_international_name_has_another_form():
    for name, ends in (("bücher.example", r"xn-- form\)$"), ("a b", "host name$")):
        with pytest.raises(ValueError, match=ends):
            checked_address(name, "ip4")


@pytest.mark.parametrize(
    ("text", "literal"),
    [
        ("255.255.255.255", ("ip4", "255.255.255.255")),
        ("0.0.0.0", ("ip4", "0.0.0.0")),  # noqa: S104
        ("256.0.0.1", None),
        ("01.2.3.4", None),
        ("1.2.3", None),
        ("1.2.3.4.5", None),
        ("[2001:DB8:0::1]", ("ip6", "2001:db8::1")),
        ("[2001:db8::1", None),
        ("2001:db8::1]", None),
        ("fe80::1%eth0", None),
        ("::g", None),
    ],
)
def test_what_is_an_address_by_itself(text: str, literal: tuple[str, str] | None) -> None:
    assert ip_literal(text) == literal


@pytest.mark.parametrize(
    ("family", "text", "nobody"),
    [
        ("ip4", "0.255.255.255", True),
        ("ip4", "1.0.0.0", False),
        ("ip4", "223.255.255.255", False),
        ("ip4", "224.0.0.0", True),
        ("ip6", "::", True),
        ("ip6", "::1", False),
        ("ip6", "::2", True),
        ("ip6", "feff::1", False),
        ("ip6", "ff00::", True),
    ],
)
def test_addresses_that_no_host_has(family: Family, text: str, nobody: bool) -> None:
    assert is_nobody(family, text) == nobody

"""``rait list``: a table of the links, and the same for programs."""

from __future__ import annotations

import pytest
from msgspec import structs

from rait.commands.list import Listing, listing_lines, listing_object
from rait.domain.backend import ObservedLink
from rait.terminal import clean, to_json
from tests.unit.test_render import DYNAMIC, LINK, jsonable


def test_a_listing_is_a_table() -> None:
    addressed = structs.replace(LINK.settings, address="fe80::1/64")
    seen = ObservedLink(
        link=structs.replace(LINK, settings=addressed),
        handshakes={"KEY": 1000},
        received={"KEY": 1536},
        sent={"KEY": 5},
    )
    listing = Listing((seen, ObservedLink(link=DYNAMIC)), {"KEY": "gate"}, 1090)
    rows = [line.split() for line in listing_lines(listing)]
    assert rows[0] == ["LINK", "ADDRESS", "PEER", "ENDPOINT", "HANDSHAKE", "RECEIVED", "SENT"]
    assert rows[1][:4] == ["w1", "fe80::1", "gate", "192.0.2.1:50153"]
    assert rows[1][4:] == ["1m", "ago", "1.5", "KiB", "5", "B"]
    assert rows[2] == ["w2", "-", "-", "-", "-", "-", "-"]
    assert listing_lines(Listing((), {}, 0)) == ["no links"]
    first, second = jsonable(listing_object(listing))["links"]
    assert (first["name"], first["mtu"], first["listen_port"]) == ("w1", 1420, 50221)
    assert first["peers"] == [
        {
            "public_key": "KEY",
            "name": "gate",
            "endpoint": "192.0.2.1:50153",
            "keepalive": 0,
            "preshared_key": False,
            "latest_handshake": 1000,
            "received": 1536,
            "sent": 5,
        }
    ]
    assert second["peers"] == []


def test_of_a_preshared_key_a_program_is_told_that_it_is_set_and_no_more() -> None:
    peer = structs.replace(LINK.peers[0], keepalive=25, psk_digest="5e7d")
    seen = ObservedLink(link=structs.replace(LINK, peers=(peer,)))
    text = to_json(listing_object(Listing((seen,), {}, 0)))
    assert ('"keepalive": 25' in text, '"preshared_key": true' in text) == (True, True)
    assert "5e7d" not in text


def test_all_addresses_are_shown() -> None:
    both = ("172.20.0.1 peer 172.20.0.2/32", "2001:db8::1/64")
    settings = structs.replace(LINK.settings, address="fe80::1/64", addresses=both)
    seen = ObservedLink(link=structs.replace(LINK, settings=settings))
    only_far = structs.replace(settings, address=None, addresses=both[1:])
    other = ObservedLink(link=structs.replace(DYNAMIC, settings=only_far))
    listing = Listing((seen, other), {}, 0)
    _, first, second = listing_lines(listing)
    assert "fe80::1, 172.20.0.1 peer 172.20.0.2/32, 2001:db8::1/64  KEY" in first
    assert second.split()[1] == "2001:db8::1/64"
    told = jsonable(listing_object(listing))["links"]
    assert [each["addresses"] for each in told] == [list(both), list(both[1:])]


@pytest.mark.parametrize(
    ("name", "columns"),
    [
        ("gate", 4),
        ("東京", 4),
        ("ゲートウェイ", 12),
        ("ﾊﾛｰ", 3),
        ("e\u0301te\u0301", 3),
        ("مَكْتَب", 4),
        ("\x1b[2K\n", len("\\u001b[2K\\u000a")),
    ],
)
def test_a_table_stays_aligned_whatever_a_peer_is_called(name: str, columns: int) -> None:
    """``columns`` is what wcwidth(3) makes of what is shown."""
    listing = Listing((ObservedLink(link=LINK), ObservedLink(link=DYNAMIC)), {"KEY": name}, 0)
    head, row, _ = listing_lines(listing)
    assert row.index("192.0.2.1") - len(clean(name)) + columns == head.index("ENDPOINT")


@pytest.mark.parametrize(
    ("then", "text"),
    [
        (0, "never"),
        (100_000, "0s ago"),
        (99_941, "59s ago"),
        (96_400, "1h ago"),
        (100_180, "0s ago"),
        (100_181, "in the future"),
    ],
)
def test_handshakes_are_told_by_their_age(then: int, text: str) -> None:
    seen = ObservedLink(link=LINK, handshakes={"KEY": then})
    assert text in listing_lines(Listing((seen,), {}, 100_000))[1]

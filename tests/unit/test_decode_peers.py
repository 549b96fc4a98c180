"""What others may write in a registry, and what an entry that is wrong costs."""

from __future__ import annotations

import time
from base64 import b64encode
from typing import Any

import pytest

from rait.domain.config.decode_peers import decode_peers
from rait.domain.config.schema import Peer, PeerEndpoint
from rait.domain.errors import SkippedEntry

A, B, C = (b64encode(bytes([n]) * 32).decode() for n in (1, 2, 3))


def flat(key: str = A, **changes: Any) -> dict[str, Any]:
    base = {"PublicKey": key, "SendPort": 50221, "AddressFamily": "ip4", "Endpoint": "192.0.2.1"}
    return {k: v for k, v in {**base, **changes}.items() if v is not ...}


def nested(key: str = A, *endpoints: dict[str, Any], **changes: Any) -> dict[str, Any]:
    return {"public_key": key, "endpoint": list(endpoints), **changes}


def endpoint(**changes: Any) -> dict[str, Any]:
    base = {"address_family": "ip4", "send_port": 50180, "address": "192.0.2.1"}
    return {k: v for k, v in {**base, **changes}.items() if v is not ...}


def peers(*entries: Any) -> tuple[Peer, ...]:
    found, problems = decode_peers({"peers": list(entries)})
    assert problems == ()
    return found


def only_warning(*entries: Any) -> tuple[tuple[Peer, ...], tuple[Any, ...], str]:
    found, (problem,) = decode_peers({"peers": list(entries)})
    assert problem.severity == "warning"
    return found, problem.path, problem.message


def test_flat_entries_of_one_key_are_one_peer():
    found = peers(
        flat(A),
        flat(B, Endpoint=...),
        flat(A, AddressFamily="ip6", SendPort=50222, Endpoint="2001:DB8::0:1", Name="a"),
    )
    assert found == (
        Peer(
            public_key=A,
            name="a",
            endpoints=(
                PeerEndpoint(
                    address_family="ip4", send_port=50221, address="192.0.2.1", path=("peers", 0)
                ),
                PeerEndpoint(
                    address_family="ip6", send_port=50222, address="2001:db8::1", path=("peers", 2)
                ),
            ),
        ),
        Peer(
            public_key=B,
            endpoints=(PeerEndpoint(address_family="ip4", send_port=50221, path=("peers", 1)),),
        ),
    )


def test_nested_entries_have_endpoint_blocks():
    (peer,) = peers(
        nested(
            A,
            endpoint(remarks=[{"x": 1}]),
            endpoint(address_family="ip6", address="example.org"),
            name="node",
            remarks=[{"where": "attic"}],
        )
    )
    assert peer.name == "node"
    assert [e.address for e in peer.endpoints] == ["192.0.2.1", "example.org"]
    assert peer.endpoints[1].path == ("peers", 0, "endpoint", 1)


@pytest.mark.parametrize("key", ["peers", "Peers", "PEERS", "peer", "_Peers"])
def test_spellings_of_the_list(key):
    assert len(decode_peers({key: [flat()]})[0]) == 1
    assert len(decode_peers({key: flat()})[0]) == 1


def test_other_keys_are_for_others():
    found, problems = decode_peers({"version": 3, "peers": [flat(Operator="x", tags=[1])]})
    assert len(found) == 1
    assert problems == ()


def test_a_peer_without_address_waits():
    assert peers(flat(Endpoint=""))[0].endpoints[0].address is None
    assert peers(nested(A, endpoint(address=...)))[0].endpoints[0].address is None


def test_brackets_around_an_address_are_taken_off():
    (peer,) = peers(flat(AddressFamily="ip6", Endpoint="[2001:db8::1]"))
    assert peer.endpoints[0].address == "2001:db8::1"


@pytest.mark.parametrize(
    ("entry", "path", "says"),
    [
        (7, (), "must be a block, not a whole number"),
        ({}, (), "public_key is missing"),
        (flat("AAAA"), ("PublicKey",), "3 bytes instead of 32"),
        (flat(7), ("PublicKey",), "must be a key"),
        (flat("A" * 43 + "="), ("PublicKey",), "all-zero"),
        (flat(SendPort=...), (), "send_port is missing"),
        (
            flat(SendPort=0),
            ("SendPort",),
            "must be a port from 1 to 65535 (to which the peer sends), not 0",
        ),
        (flat(SendPort=65536), ("SendPort",), "not 65536"),
        (flat(SendPort="1"), ("SendPort",), "leave out the quotes"),
        (flat(SendPort=True), ("SendPort",), "not true"),
        (flat(AddressFamily=...), (), "address_family is missing"),
        (flat(AddressFamily="inet"), ("AddressFamily",), "must be ip4 or ip6"),
        (flat(AddressFamily=4), ("AddressFamily",), "must be ip4 or ip6"),
        (flat(Endpoint="2001:db8::1"), ("Endpoint",), "not an address of family ip4"),
        (flat(Endpoint=1), ("Endpoint",), "an IP address or a host name in quotes"),
        (flat(Endpoint="under score.example"), ("Endpoint",), "nor a host name"),
        (flat(Endpoint="a..b"), ("Endpoint",), "nor a host name"),
        (flat(Endpoint="x" * 64 + ".org"), ("Endpoint",), "nor a host name"),
        (flat(Endpoint="ex.ample." * 40), ("Endpoint",), "nor a host name"),
        (flat(Endpoint="bücher.example"), ("Endpoint",), "xn--"),
        (flat(Endpoint="192.0.2.256"), ("Endpoint",), "not a full IP address"),
        (flat(Endpoint="192.0.2"), ("Endpoint",), "not a full IP address"),
        (flat(Endpoint="0.0.0.0"), ("Endpoint",), "not the address of a host"),  # noqa: S104
        (flat(Endpoint="0.0.0.7"), ("Endpoint",), "not the address of a host"),
        (flat(Endpoint="224.0.0.1"), ("Endpoint",), "not the address of a host"),
        (flat(AddressFamily="ip6", Endpoint="::"), ("Endpoint",), "not the address of a host"),
        (flat(AddressFamily="ip6", Endpoint="ff02::1"), ("Endpoint",), "not the address"),
        (flat(AddressFamily="ip6", Endpoint="::ffff:1.2.3.4"), ("Endpoint",), "not the address"),
        (flat(AddressFamily="ip6", Endpoint="fe80::1%eth0"), ("Endpoint",), "zone"),
        ({"public_key": C}, (), "no endpoint"),
        (nested(C, endpoint(send_port=-1)), ("endpoint", 0, "send_port"), "not -1"),
        (nested(C, 5), ("endpoint", 0), "must be a block"),  # type: ignore[arg-type]
    ],
)
def test_a_wrong_entry_costs_that_entry_alone(entry, path, says):
    before, after = flat(A), flat(B)
    if isinstance(entry, dict) and entry.get("PublicKey") == A:
        entry = {**entry, "PublicKey": C}
    found, where, message = only_warning(before, entry, after)
    assert [peer.public_key for peer in found] == [A, B]
    assert where == ("peers", 1, *path)
    assert says in message
    assert message.endswith("skipped")


def test_a_wrong_endpoint_costs_that_endpoint_alone():
    found, where, _ = only_warning(
        nested(A, endpoint(send_port=0), endpoint(address_family="ip6", address=...))
    )
    assert where == ("peers", 0, "endpoint", 0, "send_port")
    assert [e.address_family for e in found[0].endpoints] == ["ip6"]


@pytest.mark.parametrize(
    "entries",
    [(flat(A), flat(A, SendPort=1)), (nested(A, endpoint(), endpoint(send_port=1)),)],
)
def test_endpoints_of_one_family_are_all_told_in_their_order(entries):
    """Which of them counts depends on what there is, so planning decides."""
    (found,) = peers(*entries)
    assert [e.send_port for e in found.endpoints] in ([50221, 1], [50180, 1])


@pytest.mark.parametrize(
    "entries",
    [(flat(A), flat(A)), (nested(A, endpoint(), endpoint()),)],
)
def test_an_endpoint_that_is_there_twice_counts_once(entries):
    found, _, message = only_warning(*entries)
    assert "already" in message
    assert len(found[0].endpoints) == 1


def test_a_hundred_thousand_endpoints_of_one_key_take_no_time():
    """Linear, that is: each is compared with no list of the others."""
    entries = [flat(A, SendPort=1 + n % 60000, Endpoint=f"n{n}.example") for n in range(100_000)]
    start = time.monotonic()
    assert len(peers(*entries)[0].endpoints) == 100_000
    assert time.monotonic() - start < 60


# What an entry that cannot be read still tells


@pytest.mark.parametrize(
    ("entry", "skipped"),
    [
        (7, [SkippedEntry()]),
        ({}, [SkippedEntry()]),
        (flat(B, SendPort=0), [SkippedEntry(B, "ip4", None)]),
        (flat(B, AddressFamily="inet"), [SkippedEntry(B, None, 50221)]),
        (flat(B, Endpoint="a..b"), [SkippedEntry(B, "ip4", 50221)]),
        (flat("AAAA"), [SkippedEntry(None, "ip4", 50221)]),
        (flat("AAAA", SendPort=True), [SkippedEntry(None, "ip4", None)]),
        ({"public_key": B}, [SkippedEntry(B)]),
        (nested(B, endpoint(send_port=0)), [SkippedEntry(B, "ip4", None)]),
        (nested(B, 5), [SkippedEntry(B)]),  # type: ignore[arg-type]
        (
            nested("AAAA", endpoint(), endpoint(address_family="ip6", send_port=9)),
            [SkippedEntry(None, "ip4", 50180), SkippedEntry(None, "ip6", 9)],
        ),
        (nested("AAAA", 5, endpoint()), [SkippedEntry(), SkippedEntry(None, "ip4", 50180)]),  # type: ignore[arg-type]
        (flat(B, send_port=7), [SkippedEntry(B)]),
        (flat(B, public_key=C), [SkippedEntry()]),
    ],
)
def test_a_skipped_entry_tells_whose_it_is_as_far_as_can_be_read(entry, skipped):
    _, (problem,) = decode_peers({"peers": [flat(A), entry]})
    assert list(problem.skipped) == skipped


@pytest.mark.parametrize(
    ("entry", "path"),
    [
        (flat(B, public_key=C), ("public_key",)),
        (flat(B, send_port=7), ("send_port",)),
        (nested(B, endpoint(SendPort=7)), ("endpoint", 0, "SendPort")),
    ],
)
def test_two_spellings_with_two_values_are_not_believed(entry, path):
    found, where, message = only_warning(flat(A), entry)
    assert [peer.public_key for peer in found] == [A]
    assert where == ("peers", 1, *path)
    assert "given twice" in message


def test_two_spellings_with_one_value_are_good():
    assert peers(flat(A, public_key=A, send_port=50221))[0].endpoints[0].send_port == 50221


@pytest.mark.parametrize("entries", [[7], [flat(A, SendPort=0)], [flat("x"), {}], {}])
def test_a_list_without_any_entry_that_can_be_used_is_an_error(entries):
    """Taken for a list without entries, it would end all tunnels."""
    found, (problem,) = decode_peers({"peers": entries})
    assert found == ()
    assert problem.severity == "error"
    assert "nothing is done" in problem.message
    assert problem.path[0] == "peers"


@pytest.mark.parametrize(("entries", "says"), [(1, "has no other entry"), (2, "no other entry of")])
def test_whether_an_entry_that_cannot_be_used_is_the_only_one_is_told(entries, says):
    found, (problem,) = decode_peers({"peers": [flat(A, SendPort=0)] * entries})
    assert (found, problem.severity, problem.path) == ((), "error", ("peers", 0, "SendPort"))
    assert says in problem.message


def test_a_name_has_up_to_255_characters():
    assert peers(flat(A, Name=""))[0].name is None
    assert peers(flat(A, Name="n" * 255))[0].name == "n" * 255
    found, where, message = only_warning(flat(A, Name="n" * 256))
    assert (found[0].name, where) == (None, ("peers", 0, "Name"))
    assert "255 characters" in message


def test_an_entry_that_is_skipped_says_nothing_of_its_node():
    told = {"Name": "wrong", "Remarks": {"site": "wrong"}}
    right = flat(A, Name="right", Remarks={"site": "right"})
    for wrong in (flat(A, SendPort=0, **told), {**flat(A, **told), "Endpoint": "a..b"}):
        found, _, _ = only_warning(wrong, right)
        assert (found[0].name, found[0].remarks) == ("right", (("site", "right"),))


def test_a_name_that_is_a_key_is_left_out():
    found, where, message = only_warning(flat(A, Name=f"mine: {B}"))
    assert found[0].name is None
    assert where == ("peers", 0, "Name")
    assert B not in message


def test_a_name_that_could_upset_a_terminal_is_left_out():
    found, where, message = only_warning(flat(Name="\x1b[2Jx"))
    assert found[0].name is None
    assert where == ("peers", 0, "Name")
    assert "\x1b" not in message


def test_messages_show_no_control_characters_and_no_keys():
    for entry in (flat(Endpoint="\x1b[2J"), flat(Endpoint=B + "/x"), flat(B + B)):
        _, _, message = only_warning(flat(C), entry)
        assert message.isprintable()
        assert B[:40] not in message


def test_an_empty_list_is_a_list():
    assert decode_peers({"peers": []}) == ((), ())


@pytest.mark.parametrize(
    ("document", "says"),
    [
        ({}, "is empty"),
        ({"nodes": []}, "not a peers list"),
        ({"peers": "x"}, "must be a list"),
        ({"peers": None}, "must be a list"),
    ],
)
def test_what_is_no_peers_list_is_an_error(document, says):
    found, (problem,) = decode_peers(document)
    assert found == ()
    assert problem.severity == "error"
    assert says in problem.message


@pytest.mark.parametrize(
    ("why", "told"),
    [
        ("no text in UTF-8", "no text in UTF-8"),
        ("", "the entry cannot be read"),
        (["x"], "the entry cannot be read"),
        ("a\x1bb", "a\N{REPLACEMENT CHARACTER}b"),
        ("a b " * 75, "a b " * 74 + "a b; skipped"),
        ("a b " * 75 + "c", "a b " * 75 + "…; skipped"),
    ],
)
def test_an_entry_that_could_not_be_read_is_skipped_with_a_reason(why: Any, told: str) -> None:
    found, path, message = only_warning(flat(A), {"public_key": B, "unreadable": why})
    assert [peer.public_key for peer in found] == [A]
    assert path == ("peers", 1)
    assert message.startswith(told)

"""Decoding is total, quotes no key, and reads both spellings of a registry alike."""

from __future__ import annotations

from base64 import b64encode
from typing import Any

from hypothesis import given
from hypothesis import strategies as st
from msgspec import Struct

from rait.domain.config.decode_config import decode_config
from rait.domain.config.decode_peers import decode_peers
from rait.domain.config.schema import Babeld, Config, Isolation, Match, Policy, Transport, Watch

KEYS = st.binary(min_size=32, max_size=32).filter(any).map(lambda raw: b64encode(raw).decode())
FAMILIES = st.sampled_from(["ip4", "ip6"])
SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.integers(-2, 2**33)
    | st.floats()
    | st.text(max_size=20)
    | KEYS
    | st.sampled_from(
        ["ip4", "ip6", "netns", "vrf", "tcp", "unix", "auto", "-", "", "::1", "1.2.3.4", "a.b"]
    )
)
NAMES = st.sampled_from(
    [
        "private_key",
        "private_key_file",
        "transport",
        "transports",
        "isolation",
        "babeld",
        "peers",
        "Peers",
        "peer",
        "name",
        "remarks",
        "backend",
        "journal",
        "max_removals",
        "max_links",
        "port_range",
        "address_family",
        "send_port",
        "mtu",
        "ifprefix",
        "fwmark",
        "dynamic_port",
        "random_port",
        "address",
        "bind_addr",
        "type",
        "ifgroup",
        "transit",
        "target",
        "table",
        "socket_type",
        "socket_addr",
        "param",
        "extra_cmd",
        "sync",
        "policy",
        "match",
        "keepalive",
        "addresses",
        "preshared_key_file",
        "babeld_param",
        "babeld_param_add",
        "skip",
        "up_command",
        "command_netns",
        "PublicKey",
        "Endpoint",
        "endpoints",
        "AddressFamily",
        "SENDPORT",
        "public_key",
        "unreadable",
    ]
)
VALUES = st.recursive(
    SCALARS,
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(NAMES | st.text(max_size=8), inner, max_size=4)
    ),
    max_leaves=6,
)
DOCUMENTS = st.dictionaries(NAMES | st.text(max_size=8), VALUES, max_size=5)


def _good_transport(draw: st.DrawFn) -> dict[str, Any]:
    return {
        "address_family": draw(FAMILIES),
        "send_port": draw(st.integers(1, 65535)),
        "mtu": draw(st.integers(1280, 9000)),
        "ifprefix": draw(st.text("abcxyz", min_size=1, max_size=10)),
    }


@st.composite
def near_misses(draw: st.DrawFn) -> dict[str, Any]:
    """A good configuration with one thing changed."""
    transport = _good_transport(draw)
    document: dict[str, Any] = {"private_key": draw(KEYS), "transport": [transport]}
    document["isolation"] = {"type": draw(st.sampled_from(["netns", "vrf"])), "target": "mesh"}
    document["babeld"] = {"socket_type": "unix"}
    place = draw(st.sampled_from([document, transport, document["isolation"], document["babeld"]]))
    place[draw(NAMES | st.text(max_size=8))] = draw(VALUES)
    return document


@given(DOCUMENTS | near_misses())
def test_config_is_total_and_errors_say_why(document):
    config, problems = decode_config(document)
    assert (config is None) == any(problem.severity == "error" for problem in problems)
    assert all(problem.message for problem in problems)


BLOCKS: dict[tuple[str | int, ...], type[Struct]] = {
    (): Config,
    ("transport", 0): Transport,
    ("isolation",): Isolation,
    ("babeld",): Babeld,
    ("watch",): Watch,
    ("policy", 0): Policy,
    ("policy", 0, "match"): Match,
}
FIELDS = [
    (*path, name)
    for path, kind in BLOCKS.items()
    for name in kind.__struct_fields__
    if name not in ("transports", "isolation", "babeld", "watch", "policies", "match", "path")
]
WRONG = st.sampled_from([1.5, -1, [[]], {"a": {}}, None]) | st.dates()
"""Values that no key takes, but for a block, which may be remarks."""


@given(KEYS, st.dictionaries(st.sampled_from(FIELDS), WRONG, min_size=1))
def test_every_mistake_is_told_at_once_and_by_its_key(key, wrong):
    document: dict[str, Any] = {
        "private_key": key,
        "transport": [
            {"address_family": "ip4", "send_port": 1, "mtu": 1420, "ifprefix": "r"},
        ],
        "isolation": {},
        "babeld": {},
        "watch": {},
        "policy": [{"skip": False, "match": {}}],
    }
    for (*path, name), value in wrong.items():
        block = document
        for part in path:
            block = block[part]
        block[name] = value
    config, problems = decode_config(document)
    good = {path for path, value in wrong.items() if path == ("remarks",) and type(value) is dict}
    assert {problem.path for problem in problems} == wrong.keys() - good
    assert (config is None) == bool(wrong.keys() - good)


@given(KEYS, DOCUMENTS)
def test_no_message_holds_the_private_key(key, document):
    for wrong in (key, key + "x", f" {key}{key}", key[:-1]):
        spread = {**document, "private_key": wrong, "backend": wrong, "isolation": {"type": wrong}}
        config, problems = decode_config(spread)
        assert not any(key[:40] in problem.message for problem in problems)
        assert key[:40] not in repr(config)


@given(DOCUMENTS)
def test_peers_are_total(document):
    peers, problems = decode_peers(document)
    listed = [key for key in document if key.replace("_", "").lower() in ("peers", "peer")]
    if not listed:
        assert peers == ()
        assert problems
    assert len({peer.public_key for peer in peers}) == len(peers)
    assert all(peer.endpoints for peer in peers)
    failed = [problem for problem in problems if problem.severity == "error"]
    assert not (failed and peers)
    if not failed:
        skipped = [problem for problem in problems if problem.message.endswith("skipped")]
        # What has no public key and is unreadable is the entry of nobody.
        assert all(
            problem.skipped or "already" in problem.message or "unreadable" in str(document)
            for problem in skipped
        )
        assert peers or not problems, "a list with entries, and none of use, is an error"


@given(KEYS, KEYS, VALUES | st.text(), st.booleans())
def test_why_an_entry_is_unreadable_is_fit_for_a_message(key, other, why, is_anybodys):
    """Who writes the registry chooses the text."""
    text = f"{why} {key}\n\x1b[2J" if isinstance(why, str) else why
    entry = {"unreadable": text, **({"public_key": other} if is_anybodys else {})}
    good = {"public_key": b64encode(b"good" * 8).decode(), "send_port": 1, "address_family": "ip4"}
    peers, (problem,) = decode_peers({"peers": [entry, good]})
    assert len(peers) == 1
    assert problem.message.isprintable()
    assert problem.message.endswith("; skipped")
    assert len(problem.message) < 400
    assert key[:40] not in problem.message
    assert [skipped.public_key for skipped in problem.skipped] == [other] * is_anybodys


@given(
    st.lists(
        st.tuples(KEYS, FAMILIES, st.integers(1, 65535)), unique_by=lambda e: e[:2], max_size=8
    )
)
def test_both_spellings_mean_the_same(entries):
    flat = [{"PublicKey": k, "AddressFamily": f, "SendPort": p} for k, f, p in entries]
    blocks: dict[str, list[dict[str, Any]]] = {}
    for key, family, port in entries:
        blocks.setdefault(key, []).append({"address_family": family, "send_port": port})
    nested = [{"public_key": key, "endpoint": found} for key, found in blocks.items()]

    def meaning(document: dict[str, Any]) -> list[Any]:
        peers, problems = decode_peers(document)
        assert problems == ()
        return [
            (p.public_key, [(e.address_family, e.send_port) for e in p.endpoints]) for p in peers
        ]

    assert meaning({"Peers": flat}) == meaning({"peers": nested})


@given(st.lists(st.tuples(KEYS, VALUES), max_size=4), KEYS)
def test_a_bad_entry_never_harms_a_good_one(entries, good):
    bad = [{"PublicKey": k, "SendPort": v} for k, v in entries if k != good]
    entry = {"PublicKey": good, "SendPort": 1, "AddressFamily": "ip4"}
    for document in ([*bad, entry], [entry, *bad]):
        peers, _ = decode_peers({"peers": document})
        assert good in [peer.public_key for peer in peers]

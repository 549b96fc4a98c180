"""`rait check` and `rait up` agree, and each finding leads to the line that has the fault."""

from __future__ import annotations

import json
import random
import re
from base64 import b64encode
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from msgspec import structs

from rait.adapters.config import formats
from rait.domain.check import Finding, examine
from rait.domain.config.decode_peers import SKIPPED, decode_peers
from rait.domain.config.schema import Config, Transport
from rait.domain.errors import SourceError
from rait.domain.plan import Node, plan
from rait.domain.topology import Origin
from tests.property.strategies import HOSTS, LITERALS, OWN_KEY, PEER_KEYS, PORTS

MUTATED = 5000
FEWER = 1000

KEYS = st.sampled_from(PEER_KEYS)
ADDRESSES = (*HOSTS, *LITERALS["ip4"], *LITERALS["ip6"], "127.0.0.1", 7)
ENDPOINTS = st.fixed_dictionaries(
    {
        "address_family": st.sampled_from(["ip4", "ip6", "ip6", "ip5"]),
        "send_port": st.sampled_from((*PORTS, *PORTS, 0)),
    },
    optional={"address": st.sampled_from(ADDRESSES)},
)
FLAT = st.builds(
    lambda key, e: {"PublicKey": key, **e, "Endpoint": e.pop("address", "")}, KEYS, ENDPOINTS
)
NESTED = st.builds(
    lambda key, endpoints, name: {"public_key": key, "endpoint": endpoints, **name},
    st.sampled_from((*PEER_KEYS, "no key")),
    st.lists(ENDPOINTS, max_size=3),
    st.sampled_from([{}, {}, {"name": "gate"}, {"name": "\0"}, {"nmae": "x"}]),
)
DOCUMENTS = st.lists(FLAT | NESTED | st.just(7), max_size=5).map(lambda found: {"peers": found})


@st.composite
def readers(draw: st.DrawFn) -> tuple[Config, str]:
    """A node whose own rait.conf is in nobody's way: it has one transport in each family."""
    families = draw(st.sampled_from([("ip4",), ("ip6",), ("ip4", "ip6"), ("ip6", "ip4")]))
    dynamic = draw(st.booleans())
    transports = tuple(
        Transport(
            address_family=family,
            send_port=draw(st.sampled_from(PORTS)),
            mtu=1420,
            ifprefix=f"r{family}x",
            dynamic_port=dynamic,
        )
        for family in families
    )
    return Config(transports=transports), draw(st.sampled_from((OWN_KEY, *PEER_KEYS)))


OUTSIDER = (
    Config(
        transports=tuple(
            Transport(address_family=family, send_port=1, mtu=1420, ifprefix=family)
            for family in ("ip4", "ip6")
        )
    ),
    OWN_KEY,
)


def skipped(document: dict[str, Any], reader: tuple[Config, str]) -> set[tuple[str | int, ...]]:
    """The paths of all that `rait up` skips on this node."""
    config, key = reader
    peers, problems = decode_peers(document)
    planned = plan(config, Node(public_key=key, origin=Origin("kernel", "n")), peers)
    lost = [p for p in problems if p.severity == "error" or p.message.endswith(SKIPPED)]
    return {p.path for p in (*lost, *(p for p in planned.problems if p.skipped))}


def errors(document: dict[str, Any]) -> list[Finding]:
    return [item for item in examine(document).findings if item.severity == "error"]


@given(DOCUMENTS, readers())
def test_a_clean_list_is_one_of_which_no_node_skips_anything(document, reader):
    found = errors(document)
    if not found:
        assert not skipped(document, reader)
    assert bool(found) == bool(skipped(document, OUTSIDER))


@given(DOCUMENTS)
def test_the_errors_are_what_a_node_with_both_families_skips(document):
    blocks = {item.path[1:] for item in errors(document)}
    if decode_peers(document)[0] or not blocks:
        # A node names the block of an endpoint without a link; a check, the key in it.
        lost = skipped(document, OUTSIDER)
        assert lost <= blocks | {path[:-1] for path in blocks}
        assert len(blocks) == len(lost)


@given(DOCUMENTS, DOCUMENTS)
def test_parts_have_the_findings_of_each_and_more(one, other):
    together = {structs.replace(i, other=()) for i in examine(one, other).findings}
    for number, part in enumerate((one, other)):
        for item in examine(part).findings:
            if item.rule not in ("port-taken", "endpoint-twice", "name-twice"):
                path = (number, *item.path[1:])
                assert any((i.rule, i.path) == (item.rule, path) for i in together)


# Texts, in both spellings.


def key_of(n: int) -> str:
    return b64encode(bytes([n + 1]) * 32).decode()


TOML = "\n".join(
    f'[[Peers]]\nPublicKey = "{key_of(n)}"\nName = "node{n}"\nSendPort = {20000 + n}\n'
    f'AddressFamily = "ip4"\nEndpoint = "9.9.9.{n + 1}"\n'
    for n in range(4)
)
HCL = "\n".join(
    f'peers {{\n  public_key = "{key_of(n)}"\n  name = "node{n}"\n  endpoint {{\n'
    f'    send_port = {20000 + n}\n    address_family = "ip4"\n'
    f'    address = "9.9.9.{n + 1}"\n  }}\n}}\n'
    for n in range(4)
)
LINES = {"x.toml": TOML.split("\n"), "x.hcl": HCL.split("\n")}
WRONG = {
    "key": ['"no key"', f'"{"A" * 43}="', "7", '"AAAA"', "true", '""'],
    "port": ["0", "65536", "-1", '"20000"', "20.5", "true", "99999999999999999999"],
    "family": ['"ip5"', "4", '""', '"IP4"', "true"],
    "address": ['"::1"', '"224.0.0.1"', '"0.0.0.0"', '"1.2.3"', '"a b"', "7", '"-"', '"é.org"'],
}
FIELDS = {"publickey": "key", "sendport": "port", "addressfamily": "family"}
FIELDS |= dict.fromkeys(("endpoint", "address"), "address")


def field_of(line: str) -> str | None:
    spelt = line.partition("=")[0].strip().replace("_", "").lower() if "=" in line else ""
    return FIELDS.get(spelt)


def told(text: str, name: str) -> list[tuple[int | None, Finding]]:
    document = formats.parse(text, name)
    return [(document.locate(item.path[1:]), item) for item in examine(document.data).findings]


@pytest.mark.parametrize("name", LINES)
def test_the_unchanged_texts_are_right(name: str) -> None:
    assert told("\n".join(LINES[name]), name) == []


@pytest.mark.parametrize("name", LINES)
def test_a_wrong_value_is_an_error_on_its_own_line(name: str) -> None:
    dice = random.Random(name)
    for _ in range(FEWER):
        lines = list(LINES[name])
        number, kind = dice.choice([(n, f) for n, li in enumerate(lines) if (f := field_of(li))])
        value = dice.choice(WRONG[kind])
        lines[number] = lines[number].partition("=")[0] + f"= {value}"
        found = told("\n".join(lines), name)
        assert [(line, item.severity) for line, item in found] == [(number + 1, "error")], value


@pytest.mark.parametrize("name", LINES)
def test_a_value_of_another_node_is_an_error_at_one_of_the_two(name: str) -> None:
    dice = random.Random(name)
    for _ in range(FEWER):
        lines = list(LINES[name])
        ports = [n for n, line in enumerate(lines) if field_of(line) == "port"]
        number, other = dice.sample(ports, 2)
        lines[number] = lines[other]
        ((line, item),) = told("\n".join(lines), name)
        document = formats.parse("\n".join(lines), name)
        assert {line, document.locate(item.other[1:])} == {number + 1, other + 1}


@pytest.mark.parametrize("number", range(4))
def test_an_item_within_brackets_has_its_own_line(number: int) -> None:
    nodes = [
        {"PublicKey": key_of(n), "SendPort": 20000 + n, "AddressFamily": "ip4"} for n in range(4)
    ]
    nodes[number]["SendPort"] = 0
    text = json.dumps({"peers": nodes}, indent=1)
    ((line, _),) = told(text, "x.json")
    assert text.split("\n")[line - 1] == '   "SendPort": 0,'
    for sign, name in ((" = ", "x.toml"), (" = ", "x.hcl"), (": ", "x.hcl")):
        items = (", ".join(f"{k}{sign}{json.dumps(v)}" for k, v in node.items()) for node in nodes)
        text = "# [\npeers = [\n" + ",\n".join(f"{{{item}}}" for item in items) + "\n]\n"
        ((line, _),) = told(text, name)
        assert line == number + 3


@pytest.mark.parametrize("name", LINES)
def test_a_misspelt_key_is_told_on_its_own_line(name: str) -> None:
    dice = random.Random(name)
    for _ in range(FEWER):
        lines = list(LINES[name])
        number = dice.choice([n for n, line in enumerate(lines) if field_of(line)])
        place = re.search(r"\w", lines[number]).start() + dice.randrange(1, 6)
        lines[number] = lines[number][:place] + "q" + lines[number][place:]
        found = dict(told("\n".join(lines), name))
        assert found[number + 1].rule == "misspelt-key"
        for line, item in found.items():
            if item.severity == "error":
                assert re.match(r"\[\[Peers|peers \{|  endpoint \{", lines[line - 1]), item


@pytest.mark.parametrize("name", LINES)
def test_whatever_becomes_of_a_text_its_findings_have_lines(name: str) -> None:
    """Characters go, come and change places, lines are cut, doubled and exchanged."""
    dice = random.Random(name)
    parsed = 0
    places = []
    for _ in range(MUTATED):
        text = "\n".join(LINES[name])
        for _ in range(dice.randint(1, 3)):
            text = dice.choice(CHANGES)(text, dice)
        try:
            found = told(text, name)
        except SourceError as error:
            places.append(str(error))
            continue
        parsed += 1
        lines = text.split("\n")
        for line, item in found:
            if len(item.path) == 1:  # there is no list at all
                assert item.rule == "list"
                continue
            key = next(part for part in reversed(item.path) if isinstance(part, str))
            assert key in lines[line - 1], (text, item)
    assert parsed > MUTATED / 10
    assert all(re.match(rf"{name}:\d+:", place) for place in places)


def _place(text: str, dice: random.Random) -> int:
    return dice.randrange(len(text) + 1)


def _without_some(text: str, dice: random.Random) -> str:
    place = _place(text, dice)
    return text[:place] + text[place + dice.randint(1, 8) :]


def _with_more(text: str, dice: random.Random) -> str:
    place = _place(text, dice)
    more = dice.choice(["0", "é", '"', "=", " ", "#", "[", "}", "\\", "\n", "${", "_", "\x1b", "A"])
    return text[:place] + more + text[place:]


def _digits(text: str, dice: random.Random) -> str:
    return re.sub(r"\d", lambda d: d[0] if dice.random() < 0.9 else str(dice.randrange(10)), text)


def _lines(text: str, dice: random.Random) -> str:
    lines = text.split("\n")
    one, other = dice.randrange(len(lines)), dice.randrange(len(lines))
    how = dice.randrange(4)
    if how == 0:
        del lines[one]
    elif how == 1:
        lines.insert(one, lines[other])
    elif how == 2:
        lines[one], lines[other] = lines[other], lines[one]
    else:
        del lines[one:]
    return "\n".join(lines)


CHANGES = (_without_some, _with_more, _digits, _digits, _lines, _lines, _lines)

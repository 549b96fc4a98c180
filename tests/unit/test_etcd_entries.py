"""What is under a key of etcd, as a line of a peers list."""

from __future__ import annotations

import json
from binascii import a2b_base64

import pytest

from rait.adapters import keys
from rait.adapters.config.etcd.entries import MAX_ITEMS, MAX_VALUE, line_of

KEY = "OYZ3yXLTXE5z6zLcHYY8v1vcH4hLnX+TlIZ6pPQ3dWM="
OTHER = "KJJXmDtAXSrMGuIJVy/2eP65gXm1PTy7vCR/4O/vEEI="
ENTRY = {"public_key": KEY, "port": 1}

GOOD = {
    "JSON": json.dumps(ENTRY),
    "JSON over many lines": json.dumps(ENTRY, indent=1),
    "JSON without the key": '{"port": 1}',
    "TOML": f'public_key = "{KEY}"\nport = 1\n',
    "HCL": f'PublicKey = "{KEY}"\nport = 1\n',
    "a list in JSON": json.dumps({"peers": [ENTRY]}),
    "a list in TOML": f'[[peers]]\npublic_key = "{KEY}"\nport = 1\n',
    "a list in HCL": f'peers {{\n public_key = "{KEY}"\n port = 1\n}}\n',
}


@pytest.mark.parametrize("how", GOOD)
def test_an_entry_in_any_format_is_one_line_of_json(how: str) -> None:
    line = line_of(KEY, GOOD[how].encode())
    assert "\n" not in line
    assert json.loads(line) == ENTRY


def test_a_list_of_two_entries_of_the_node_is_two() -> None:
    found = json.loads(f"[{line_of(KEY, json.dumps({'peers': [ENTRY, ENTRY]}).encode())}]")
    assert found == [ENTRY, ENTRY]


BAD: dict[str, tuple[str | bytes, str]] = {
    "another node's": (json.dumps({"public_key": OTHER}), "is not the one in the key"),
    "twice": (json.dumps({"public_key": KEY, "PublicKey": OTHER}), "is not the one in the key"),
    "one of two": (json.dumps({"peers": [ENTRY, {"public_key": OTHER}]}), "not the one in the key"),
    "a number": (json.dumps({"public_key": 1}), "is not the one in the key"),
    "no entry": ('{"peers": [1]}', "must be the entry of a node"),
    "no text": (b"\xff", "not text in UTF-8"),
    "too large": (b" " * (MAX_VALUE + 1), f"larger than {MAX_VALUE} bytes"),
    "too deep": ('{"a": ' * 9000, ""),
    "as deep as JSON may be": ('{"remarks":' + '{"a":' * 300 + "1" + "}" * 301, "nested too deep"),
    "an empty list": ('{"peers": []}', "has no entry"),
    "several empty lists": ("peers = []\nPeers = []\n", "has no entry"),
    "larger as JSON": ('a = "' + "\x01" * 5000 + '"', f"larger than {MAX_VALUE} bytes as JSON"),
    "many entries": ('{"peers":[' + "{}," * 900 + "{}]}", f"larger than {MAX_VALUE} bytes as JSON"),
    "many items": ('{"remarks":[' + "1," * 1000 + "1]}", f"more than {MAX_ITEMS} items"),
    "cut off": ('{"public_key"', ""),
    "empty": ("", ""),
}


@pytest.mark.parametrize("how", BAD)
def test_a_value_that_cannot_be_read_costs_its_node_alone(how: str) -> None:
    value, why = BAD[how]
    line = line_of(KEY, value if isinstance(value, bytes) else value.encode())
    assert "\n" not in line
    entry = json.loads(line)
    if how != "empty":
        assert why in entry["unreadable"]
        assert entry["public_key"] == KEY
    assert OTHER not in line


def test_a_key_that_is_no_public_key_is_nobodys() -> None:
    entry = json.loads(line_of("README", json.dumps(ENTRY).encode()))
    assert list(entry) == ["unreadable"]
    assert 'the key "README" does not end in a public key alone' in entry["unreadable"]


@pytest.mark.parametrize("value", ["{}", "key = {}", "{} {{"])
def test_a_value_with_the_private_key_of_its_node_is_told_as_such(value: str) -> None:
    secret = keys.new_private_key()
    private, public = secret.reveal(), keys.public_key(secret)
    for spelt in (private, a2b_base64(private).hex()):
        line = line_of(public, value.format(spelt).encode())
        assert spelt not in line
        assert "the value holds the private key of this very node" in line


def test_the_key_of_an_entry_is_spelt_as_in_the_key() -> None:
    value = json.dumps({"PublicKey": f"  {KEY}\n", "public_key": KEY, "port": 1})
    assert json.loads(line_of(KEY, value.encode())) == {"public_key": KEY, "port": 1}

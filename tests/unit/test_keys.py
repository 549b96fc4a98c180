"""What is made of secret keys, and who gets one."""

from __future__ import annotations

import base64

import pytest

from rait.adapters.keys import UNKNOWN_PSK, KeyPair, clamped, public_key
from rait.domain.config.schema import Secret
from rait.domain.errors import MachineError

PSK = bytes(range(32))
KEY = base64.b64encode(bytes([7]) * 32).decode()
OWN = Secret(base64.b64encode(bytes([9]) * 32).decode())
OTHER = Secret(base64.b64encode(bytes([8]) * 32).decode())


def psk_digest(secret: Secret | None, peer: str, psk: bytes) -> str:
    return KeyPair(secret, "ours").psk_digest(peer, psk)


def test_a_digest_tells_keys_apart_and_not_which_they_are() -> None:
    digest = psk_digest(OWN, KEY, PSK)
    assert digest == psk_digest(OWN, KEY, PSK)
    assert len(digest) == 16
    others = {
        psk_digest(OWN, KEY, PSK[::-1]),
        psk_digest(OTHER, KEY, PSK),  # or anybody could try keys
        psk_digest(OWN, "another peer", PSK),
        psk_digest(None, KEY, PSK),
    }
    assert len({digest, *others}) == 5
    assert psk_digest(None, KEY, PSK) == UNKNOWN_PSK


def test_the_all_zero_key_is_none() -> None:
    assert psk_digest(OWN, KEY, bytes(32)) == psk_digest(None, KEY, b"") == ""


def test_a_public_key_is_derived_as_x25519_does() -> None:
    pair = KeyPair(OWN, "ours")
    raw = base64.b64decode(OTHER.reveal())
    assert pair.public_of(raw) == pair.public_of(clamped(raw)) == public_key(OTHER)
    assert pair.public_of(base64.b64decode(OWN.reveal())) == "ours"
    assert pair.public_of(bytes(32)) == ""


def test_a_device_gets_the_private_key_of_its_public_one_alone() -> None:
    assert KeyPair(OWN, "ours").secret_of("ours") == OWN
    with pytest.raises(MachineError, match=r"public key theirs.*belongs to ours"):
        KeyPair(OWN, "ours").secret_of("theirs")
    with pytest.raises(MachineError, match="no private key"):
        KeyPair(None, "ours").secret_of("ours")

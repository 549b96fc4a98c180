"""What stands for a preshared key, and what is written in the place of one."""

from __future__ import annotations

import base64

import pytest

from rait.adapters.keys import UNKNOWN_PSK, KeyPair, psk_digest
from rait.adapters.wireguard.uapi import decode_get, encode_set
from rait.domain.config.schema import NO_PSK, Secret
from rait.domain.errors import RaitError
from rait.domain.events import PeerAdded, PeerUpdated
from rait.domain.topology import LinkPeer
from rait.domain.writes import DeviceWrite, PeerWrite, write_of

PSK = bytes(range(32))
KEY = base64.b64encode(bytes([7]) * 32).decode()
OWN = Secret(base64.b64encode(bytes([9]) * 32).decode())
OTHER = Secret(base64.b64encode(bytes([8]) * 32).decode())


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


def test_none_can_be_written_and_nothing_else() -> None:
    bare, set_by_others = LinkPeer(KEY), LinkPeer(KEY, psk_digest="digest")
    (write,) = write_of(PeerUpdated("w1", set_by_others, bare)).peers
    assert write == PeerWrite(KEY, update_only=True, psk=NO_PSK)
    (write,) = write_of(
        PeerUpdated("w1", set_by_others, LinkPeer(KEY, keepalive=5, psk_digest="digest"))
    ).peers
    assert write.psk is None
    (write,) = write_of(PeerAdded("w1", bare)).peers
    assert write.psk is None
    other = LinkPeer(KEY, psk_digest="another")
    for event in (
        PeerUpdated("w1", bare, set_by_others),
        PeerUpdated("w1", other, set_by_others),
        PeerAdded("w1", set_by_others),
    ):
        with pytest.raises(RaitError, match="does not know"):
            write_of(event)


def test_a_program_is_told_to_forget_a_preshared_key() -> None:
    change = DeviceWrite(peers=(PeerWrite(KEY, update_only=True, psk=NO_PSK),))
    assert f"preshared_key={'0' * 64}" in encode_set(change).decode().splitlines()


def test_a_program_that_tells_one_is_understood_and_it_is_not_shown() -> None:
    answer = f"public_key={'07' * 32}\npreshared_key={PSK.hex()}\nerrno=0\n\n"
    state = decode_get(answer.encode(), KeyPair(OWN, "ours"))
    assert state.peers[0].psk_digest == psk_digest(OWN, KEY, PSK)
    assert PSK.hex() not in repr(state)
    assert base64.b64encode(PSK).decode() not in repr(state)

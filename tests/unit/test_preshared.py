"""Preshared keys as a run reads them: from the files of policies, each key by its digest."""

from __future__ import annotations

from base64 import b64decode, b64encode
from pathlib import Path

import pytest

from rait.adapters.config.source import Texts
from rait.adapters.keys import KeyPair
from rait.app.load import Loaded, Preshared, load_config, load_peers
from rait.app.preshared import find_preshared, load_preshared
from rait.domain.config.schema import Secret
from rait.domain.errors import ConfigError

PRIVATE = "KJJXmDtAXSrMGuIJVy/2eP65gXm1PTy7vCR/4O/vEEI="
PUBLIC = "5q1HDxrH29mQGy/CIhHtNEOn+6LRxh9HeJzQQeFTEVc="
PEER = "+Y23l1qr9oEM4WlqPvp4IG2TPXdNCa11twipDvOHT3w="
OTHER = "WLkgNBmW9GdP2LjwIRDb5yOP2/UfMw3Iu6lWW1y9PSo="
OWN = KeyPair(Secret(PRIVATE), PUBLIC)
PSK, PSK_2 = (b64encode(bytes([n]) * 32).decode() for n in (7, 8))
CONF = f"""\
private_key = "{PRIVATE}"
peers = "peers.toml"
transport {{
  address_family = "ip4"
  send_port = 50153
  mtu = 1420
  ifprefix = "rait4x"
}}
"""
PEERS = "".join(
    f'[[Peers]]\nPublicKey = "{key}"\nName = "{name}"\nSendPort = {port}\nAddressFamily = "ip4"\n'
    for key, name, port in ((PEER, "gate", 50221), (OTHER, "..", 50222))
)


class Files:
    """rait.conf with one policy for each file, and the files."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.policies = ""
        (directory / "peers.toml").write_text(PEERS)

    def key(self, name: str, text: str, mode: int = 0o600) -> None:
        (self.directory / name).write_text(text)
        (self.directory / name).chmod(mode)

    def policy(self, file: str, match: str = "") -> None:
        block = f"match {{ {match} }}\n" if match else ""
        self.policies += f'policy {{\n{block}preshared_key_file = "{file}"\n}}\n'

    def loaded(self) -> Loaded:
        conf = self.directory / "rait.conf"
        conf.write_text(CONF + self.policies)
        conf.chmod(0o600)
        return load_config(str(conf))

    def preshared(self, texts: Texts | None = None) -> Preshared:
        loaded = self.loaded()
        read = (texts or Texts()).read
        return load_preshared(loaded, OWN, load_peers(loaded).peers, read=read)


@pytest.fixture
def files(tmp_path: Path) -> Files:
    return Files(tmp_path)


def test_one_file_may_be_of_all_peers_and_the_digests_differ(files: Files) -> None:
    files.policy("psk")
    files.key("psk", PSK + "\n")
    found = files.preshared()
    assert set(found.psks) == {
        (peer, OWN.psk_digest(peer, bytes([7]) * 32)) for peer in (PEER, OTHER)
    }
    assert len(set(found.files.digests.values())) == 2
    assert set(found.psks.values()) == {Secret(PSK)}
    assert (found.files.errors, found.warnings) == ({}, ())
    assert PSK not in repr(found)


def test_of_several_policies_the_last_decides_which_file_is_read_for_a_peer(files: Files) -> None:
    files.policy("psk")
    files.policy("{name}.psk", 'name = "gate"')
    files.policy("off", 'name = "nobody"')
    files.key("psk", PSK)
    files.key("gate.psk", PSK_2)
    psks = {peer: psk for (peer, _), psk in files.preshared().psks.items()}
    assert psks == {PEER: Secret(PSK_2), OTHER: Secret(PSK)}


def test_a_peer_s_own_file_that_is_wrong_concerns_that_peer_alone(files: Files) -> None:
    files.policy("{name}.psk")
    files.key("gate.psk", PSK)
    found = files.preshared()
    assert {peer for peer, _ in found.psks} == {PEER}
    ((_, peer), why), *more = found.files.errors.items()
    assert (peer, more) == (OTHER, [])
    assert 'the peer\'s name is ".."' in why
    (files.directory / "gate.psk").unlink()
    why = next(why for (_, peer), why in files.preshared().files.errors.items() if peer == PEER)
    assert why == f"{files.directory}/gate.psk: there is no such file"


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (None, "there is no such file"),
        ("", "not a WireGuard key"),
        ("A" * 43 + "=", "all-zero key, which WireGuard takes as no key"),
        (f"{PSK}\n{PSK_2}", "not a WireGuard key"),
        ("x" * 5000, "larger than"),
        (PRIVATE, "this node's private key"),
        (PUBLIC, "this node's public key"),
    ],
)
def test_without_a_file_that_is_of_all_no_run_begins(
    files: Files, content: str | None, why: str
) -> None:
    files.policy("psk", 'name = "nobody"')
    if content is not None:
        files.key("psk", content)
    with pytest.raises(ConfigError) as error:
        files.preshared()
    text = str(error.value)
    assert text.startswith(f"{files.directory}/rait.conf:")
    assert f"preshared_key_file: {files.directory}/psk: " in text
    assert why in text
    assert not content or content not in text


def test_a_private_key_is_known_in_each_of_its_spellings(files: Files) -> None:
    """X25519 ignores some of its bits, and programs show the key without them."""
    files.policy("psk")
    raw = b64decode(PRIVATE)
    files.key("psk", b64encode(bytes((raw[0] ^ 7, *raw[1:]))).decode())
    with pytest.raises(ConfigError, match="private key"):
        files.preshared()


def test_files_that_others_can_read_are_named_in_one_warning(files: Files) -> None:
    files.policy("psk")
    files.key("psk", PSK, 0o644)
    (warning,) = files.preshared().warnings
    assert "chmod 600" in warning
    assert warning.endswith(f"{files.directory}/psk")


def test_a_file_that_changes_before_the_run_has_its_lock_is_noticed(files: Files) -> None:
    files.policy("psk")
    files.key("psk", PSK)
    texts = Texts()
    files.preshared(texts)
    assert texts.unchanged()
    files.key("psk", PSK_2)
    assert not texts.unchanged()


def test_keys_of_the_past_are_found_by_their_digests(files: Files) -> None:
    files.policy("{name}.psk")
    files.policy("of all")
    files.policy("missing")
    files.key("gate.psk", PSK)
    files.key("of all", PSK_2)
    files.key("no key.psk", "nothing")
    digests = {
        (peer, OWN.psk_digest(peer, bytes([n]) * 32)) for peer in (PEER, OTHER) for n in (7, 8, 9)
    }
    found = find_preshared(files.loaded(), OWN, digests)
    assert sorted(psk.reveal() for psk in found.values()) == [PSK, PSK, PSK_2, PSK_2]
    assert found.keys() < digests


def test_a_key_in_the_place_of_its_file_is_refused_and_kept_nowhere(files: Files) -> None:
    files.policy(PSK)
    with pytest.raises(ConfigError, match="is a key itself") as error:
        files.loaded()
    assert PSK not in str(error.value)

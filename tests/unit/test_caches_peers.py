"""A peers list is parsed once, and what is kept of it is never trusted blindly."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from rait.adapters.config import caches, formats
from rait.adapters.config.document import Document
from rait.app.load import Loaded, LoadedPeers, load_config, load_peers
from rait.domain.errors import Problem, SourceError

PRIVATE = "KJJXmDtAXSrMGuIJVy/2eP65gXm1PTy7vCR/4O/vEEI="
CONFIG = f"""\
private_key = "{PRIVATE}"
peers = "peers.conf"
transport {{
  address_family = "ip4"
  send_port = 50153
  mtu = 1420
  ifprefix = "rait4x"
}}
"""
HCL = """\
peers {
  public_key = "+Y23l1qr9oEM4WlqPvp4IG2TPXdNCa11twipDvOHT3w="
  endpoint {
    address_family = "ip4"
    send_port      = 50221
  }
  remarks { place = "ams1" }
}
peers {
  public_key = "no key"
}
"""
TOML = """\
[[Peers]]
PublicKey = "+Y23l1qr9oEM4WlqPvp4IG2TPXdNCa11twipDvOHT3w="
SendPort = 50221
AddressFamily = "ip4"
Remarks = { place = "ams1" }

[[Peers]]
PublicKey = "no key"
"""

JSON = (
    '{"peers": [{"public_key": "+Y23l1qr9oEM4WlqPvp4IG2TPXdNCa11twipDvOHT3w=",'
    ' "send_port": 50221, "address_family": "ip4"}, {"public_key": "no key"}]}'
)


@pytest.fixture(autouse=True)
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache."""
    path = tmp_path / "cache"
    path.mkdir(mode=0o700)
    monkeypatch.setattr(caches, "cache_directory", lambda: path)
    return path


@pytest.fixture
def parsed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The texts that were parsed."""
    texts: list[str] = []
    parse = formats.parse

    def noting(text: str, name: str) -> Document:
        texts.append(text)
        return parse(text, name)

    monkeypatch.setattr(formats, "parse", noting)
    return texts


@pytest.fixture
def node(tmp_path: Path) -> Loaded:
    (tmp_path / "rait.conf").write_text(CONFIG)
    (tmp_path / "rait.conf").chmod(0o600)
    return load_config(str(tmp_path / "rait.conf"))


def read(node: Loaded, text: str = HCL) -> LoadedPeers:
    Path(node.config.peers).write_text(text)
    with caches.keeping():
        return load_peers(node)


def told(peers: LoadedPeers) -> object:
    """All that a run makes of a peers list."""
    doubtful = [Problem("?", path=e.path) for peer in peers.peers for e in peer.endpoints]
    return peers.peers, peers.warnings, peers.digest(), list(map(peers.document.describe, doubtful))


@pytest.mark.parametrize(("text", "line"), [(HCL, 10), (TOML, 8)])
def test_a_list_that_is_known_says_the_same(node, text, line):
    first, second = read(node, text), read(node, text)
    assert told(first) == told(second)
    assert [peer.remarks for peer in second.peers] == [(("place", "ams1"),)]
    assert f"peers.conf:{line}: " in second.warnings[0]


@pytest.mark.parametrize("text", [HCL, TOML, JSON])
def test_a_list_with_faults_is_parsed_once(node, parsed, text):
    for _ in range(3):
        assert read(node, text).warnings
    assert parsed == [text]


def test_a_list_without_faults_is_parsed_again_for_what_is_found_later_alone(node, parsed):
    good = TOML.partition("\n\n")[0]
    for _ in range(3):
        peers = read(node, good)
        assert len(peers.peers) == 1
    assert parsed == [good]
    assert peers.document.describe(Problem("?", path=peers.peers[0].endpoints[0].path)).endswith(
        "?"
    )
    assert parsed == [good, good]


def test_lines_that_a_run_looked_up_are_kept_for_the_next_run(node, parsed):
    good = TOML.partition("\n\n")[0]
    for _ in range(3):
        peers = read(node, good)
        with caches.keeping():
            line = peers.document.describe(Problem("?", path=peers.peers[0].endpoints[0].path))
        assert line.endswith("peers.conf:1: Peers[0]: ?")
    assert len(parsed) == 2, "to decode the list, and once for the lines"


def test_a_changed_list_is_another(node, parsed):
    read(node)
    (peer,) = read(node, HCL.replace("50221", "50222")).peers
    assert peer.endpoints[0].send_port == 50222
    assert len(parsed) == 2


def test_another_version_of_rait_reads_anew(node, parsed, monkeypatch):
    read(node)
    monkeypatch.setattr(caches, "__version__", "0.0.0")
    read(node)
    assert len(parsed) == 2


def test_the_same_text_by_a_name_of_another_format_is_another(node, tmp_path):
    read(node, TOML)
    assert caches.find_peers(TOML, node.config.peers) is not None
    assert caches.find_peers(TOML, str(tmp_path / "peers.hcl")) is None


def test_the_configuration_is_never_kept(node, kept):
    read(node)
    (file,) = kept.iterdir()
    assert PRIVATE.encode() not in file.read_bytes()


def test_only_we_can_read_what_is_kept(node, kept):
    previous = os.umask(0)
    try:
        read(node)
    finally:
        os.umask(previous)
    (file,) = kept.iterdir()
    assert file.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content[:0],
        lambda content: content[:-1],
        lambda content: content.replace(b"ip4", b"ip6"),
        lambda content: bytes(len(content)),
    ],
)
def test_what_is_damaged_is_not_believed_and_mended(node, kept, parsed, damage):
    good = read(node)
    (file,) = kept.iterdir()
    file.write_bytes(damage(file.read_bytes()))
    assert told(read(node)) == told(good)
    assert told(read(node)) == told(good)
    assert len(parsed) == 2


def test_a_link_to_elsewhere_is_not_followed(node, kept, parsed, tmp_path):
    read(node)
    (file,) = kept.iterdir()
    file.rename(tmp_path / "elsewhere")
    file.symlink_to(tmp_path / "elsewhere")
    read(node)
    assert len(parsed) == 2


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_what_belongs_to_others_is_not_believed(node, kept, parsed):
    read(node)
    (file,) = kept.iterdir()
    os.chown(file, 65534, 65534)
    read(node)
    assert len(parsed) == 2


def test_the_newest_few_are_kept(node, kept, parsed):
    texts = [HCL.replace("50221", str(port + 1)) for port in range(caches.KEPT + 3)]
    for text in texts:
        read(node, text)
        for file in kept.iterdir():
            os.utime(file, ns=(0, file.stat().st_mtime_ns - 1_000_000_000))
    assert len(list(kept.iterdir())) == caches.KEPT
    read(node, texts[-1])
    assert len(parsed) == len(texts)


def test_many_nodes_on_one_machine_find_what_they_kept(node, kept, parsed):
    texts = [HCL.replace("50221", str(50300 + number)) for number in range(20)]
    for text in (*texts, *texts):
        read(node, text)
    assert len(parsed) == len(texts) == len(list(kept.iterdir()))


def test_what_is_kept_has_a_bound_on_its_size(node, kept, monkeypatch):
    read(node)
    (file,) = kept.iterdir()
    monkeypatch.setattr(caches, "KEPT_BYTES", 3 * file.stat().st_size)
    for port in range(1, 6):
        read(node, HCL.replace("50221", str(50300 + port)))
    assert len(list(kept.iterdir())) == 3


def test_without_a_place_for_it_lists_are_read_all_the_same(node, parsed, monkeypatch):
    monkeypatch.setattr(caches, "cache_directory", lambda: None)
    assert told(read(node)) == told(read(node))
    assert len(parsed) == 2


def test_a_full_disk_is_no_matter(node, kept, monkeypatch):
    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(caches.os, "fdopen", full)  # type: ignore[attr-defined]
    assert read(node).peers
    assert list(kept.iterdir()) == []


def test_a_list_that_does_not_parse_is_an_error_each_time(node, kept):
    for _ in range(2):
        with pytest.raises(SourceError, match=r"peers\.conf:1"):
            read(node, "peers {")
    assert list(kept.iterdir()) == []

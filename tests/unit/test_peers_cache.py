"""Peers lists in HCL are parsed once, and what is kept of them is never trusted blindly."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from rait.adapters import formats, hcl, peers_cache
from rait.domain.problem import SourceError

PEERS = """\
peers {
  public_key = "+Y23l1qr9oEM4WlqPvp4IG2TPXdNCa11twipDvOHT3w="
  endpoint {
    address_family = "ip4"
    send_port      = 50221
  }
}
"""


@pytest.fixture(autouse=True)
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache; the parser's own tables stay where they are, as they take long to build."""
    path = tmp_path / "cache"
    path.mkdir(mode=0o700)
    monkeypatch.setattr(peers_cache, "cache_directory", lambda: path)
    return path


@pytest.fixture
def parses(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The texts that were parsed."""
    texts: list[str] = []
    parse = hcl.parse

    def noting(text: str) -> object:
        texts.append(text)
        return parse(text)

    monkeypatch.setattr(hcl, "parse", noting)
    return texts


def read(text: str = PEERS, name: str = "peers.conf") -> formats.Document:
    return formats.parse(text, name, keep=True)


def test_a_list_is_parsed_once(parses):
    first, second = read(), read()
    assert parses == [PEERS]
    assert second.data == first.data == formats.parse(PEERS, "peers.conf").data
    assert second.locate(("peers", 0, "endpoint", 0, "send_port")) == 5
    assert second.lines() == first.lines()


def test_another_list_is_another(parses):
    read()
    other = read(PEERS.replace("50221", "50222"))
    assert len(parses) == 2
    assert other.data["peers"][0]["endpoint"][0]["send_port"] == 50222


def test_another_version_of_rait_parses_anew(parses, monkeypatch):
    read()
    monkeypatch.setattr(peers_cache, "__version__", "0.0.0")
    read()
    assert len(parses) == 2


def test_what_is_not_to_be_kept_leaves_nothing(directory):
    formats.parse('private_key = "x"\ntransport {\n}\n', "rait.conf")
    assert list(directory.iterdir()) == []


def test_only_we_can_read_what_is_kept(directory):
    previous = os.umask(0)
    try:
        read()
    finally:
        os.umask(previous)
    (kept,) = directory.iterdir()
    assert kept.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize(
    "damage",
    [
        lambda content: content[:0],
        lambda content: content[:-1],
        lambda content: content.replace(b"ip4", b"ip6"),
        lambda content: b"\0" * len(content),
    ],
)
def test_a_damaged_cache_is_not_believed_and_mended(directory, parses, damage):
    good = read()
    (kept,) = directory.iterdir()
    kept.write_bytes(damage(kept.read_bytes()))
    assert read().data == good.data
    assert read().data == good.data
    assert len(parses) == 2


def test_a_link_to_elsewhere_is_not_followed(directory, tmp_path, parses):
    read()
    (kept,) = directory.iterdir()
    kept.rename(tmp_path / "elsewhere")
    kept.symlink_to(tmp_path / "elsewhere")
    read()
    assert len(parses) == 2


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_what_belongs_to_others_is_not_believed(directory, parses):
    read()
    (kept,) = directory.iterdir()
    os.chown(kept, 65534, 65534)
    read()
    assert len(parses) == 2


def test_a_few_lists_are_kept(directory, parses):
    texts = [PEERS.replace("50221", str(port)) for port in range(peers_cache.KEPT + 3)]
    for number, text in enumerate(texts):
        read(text)
        for file in directory.iterdir():
            stamp = file.stat().st_mtime_ns - 1000 * (len(texts) - number)
            os.utime(file, ns=(stamp, stamp))
    assert len(list(directory.iterdir())) == peers_cache.KEPT
    read(texts[-1])
    assert len(parses) == len(texts)


def test_without_a_place_for_it_lists_are_read_all_the_same(parses, monkeypatch):
    monkeypatch.setattr(peers_cache, "cache_directory", lambda: None)
    assert read().data == read().data
    assert len(parses) == 2


def test_a_full_disk_is_no_matter(directory, monkeypatch):
    def full(*_: object) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(peers_cache.os, "fdopen", full)
    assert read().data["peers"]
    assert list(directory.iterdir()) == []


def test_numbers_that_cannot_be_kept(directory):
    text = PEERS + "remark = 123456789012345678901234567890\n"
    assert read(text).data["remark"] == 123456789012345678901234567890
    assert list(directory.iterdir()) == []


def test_a_list_that_does_not_parse_is_an_error_each_time(directory):
    for _ in range(2):
        with pytest.raises(SourceError, match=r"peers\.conf:1"):
            read("peers {")
    assert list(directory.iterdir()) == []

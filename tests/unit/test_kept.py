"""The peers list that is kept for when its URL fails: what is written, and what is believed."""

from __future__ import annotations

import os
import stat
import time
from pathlib import Path

import pytest

from rait.adapters.config.bounds import MAX_BYTES
from rait.adapters.config.kept import PeersList
from rait.adapters.config.remote import News, Version
from rait.domain.errors import SourceError

URL = "https://me:password@example.org/peers?token=secret"
TEXT = '[[Peers]]\nSendPort = 1\nname = "caf\xe9"\n\n'
NOW = 1_800_000_000 * 10**9
FUTURE = 4_000_000_000 * 10**9
PAST = 1_700_000_000 * 10**9
HOUR = 3600 * 10**9
EARLIER = (
    "86f1d9e6efd7f583c942920a6b8fa98a9f7fc7f9046a3f02f6fa81fa594e2383\n"
    '{"asked":"72a4bfc64a62e01b15812b4044d6a402","version":{"url":"72a4bfc64a62e01b15'
    '812b4044d6a402","etag":"\\"1\\"","modified":"Wed, 25 Nov 2026 10:00:00 GMT"},"writ'
    'ten_at":1800000000000000000}\n'
    "peers = []\n"
)


class Server:
    """What the server has, and what it was asked for."""

    def __init__(self, text: str = TEXT, etag: str = '"1"') -> None:
        self.text = text
        self.version = Version("where", etag)
        self.asked: list[Version] = []
        self.now = NOW

    def fetch(self, url: str, known: Version, limit: int, *_: object) -> News:
        assert (url, limit) == (URL, MAX_BYTES)
        self.asked.append(known)
        return News(None if known == self.version else self.text, self.version, self.now)


def opened(path: Path, server: Server, url: str = URL) -> PeersList:
    return PeersList(str(path), url, server.fetch)


def kept(path: Path, server: Server, now: int = NOW) -> Path:
    server.now = now
    found = opened(path, server)
    assert found.read(URL) == server.text
    found.keep()
    return path


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal.db.peers-0"


def test_what_was_read_is_kept_until_the_server_has_another(path: Path) -> None:
    server = Server()
    assert opened(path, server).absence == "no list was kept yet"
    kept(path, server)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    found = opened(path, server)
    assert found.kept is not None
    assert (found.kept.news.text, found.kept.news.at) == (TEXT, NOW)
    assert found.read(URL) == TEXT
    assert server.asked == [Version(), server.version]
    server.text, server.version = "peers = []\n", Version("where", '"2"')
    kept(path, server, NOW + 1)
    again = opened(path, server).kept
    assert again is not None
    assert (again.news.text, again.news.at) == ("peers = []\n", NOW + 1)
    assert [*path.parent.iterdir()] == [path]


def test_a_list_that_another_run_got_later_counts_and_not_what_is_held(path: Path) -> None:
    """As `rait watch` asks the server at its own times, and `rait up` beside it."""
    held = Server()
    held.now = PAST
    kept(path, Server("peers = []\n", '"2"'), PAST + 1)
    found = opened(path, held)
    assert found.read(URL) == "peers = []\n"
    found.keep()
    again = opened(path, held).kept
    assert again is not None
    assert (again.news.text, again.news.version.etag) == ("peers = []\n", '"2"')
    assert again.news.at == PAST + 1
    held.now = PAST + 2
    assert opened(path, held).read(URL) == TEXT


def test_a_clock_that_was_set_back_makes_no_list_newer(path: Path) -> None:
    kept(path, Server("peers = []\n", '"2"'), FUTURE)
    now = Server()
    now.now = time.time_ns()
    assert opened(path, now).read(URL) == TEXT


def test_reading_alone_writes_nothing(path: Path) -> None:
    opened(path, Server()).read(URL)
    assert not path.exists()


def test_the_file_shows_no_part_of_the_url(path: Path) -> None:
    content = kept(path, Server()).read_text()
    assert TEXT in content, "for whoever looks for it in an outage"
    for word in ("example", "password", "secret"):
        assert word not in content


def test_what_the_server_confirms_is_touched_and_not_written_again(path: Path) -> None:
    server = Server()
    inode, content = kept(path, server).stat().st_ino, path.read_bytes()
    kept(path, server, NOW + 5 * HOUR)
    assert (path.stat().st_ino, path.read_bytes()) == (inode, content)
    assert path.stat().st_mtime_ns == NOW + 5 * HOUR


def test_a_version_that_is_another_each_time_is_written_once_an_hour(path: Path) -> None:
    """Some servers make a new ETag for each answer: that must not wear out anybody's flash."""
    inode = kept(path, Server()).stat().st_ino
    for minutes in (1, 30, 59):
        then = NOW + minutes * HOUR // 60
        kept(path, Server(etag=f'"{minutes}"'), then)
        assert (path.stat().st_ino, path.stat().st_mtime_ns) == (inode, then)
    kept(path, Server(etag='"new"'), NOW + HOUR)
    assert path.stat().st_ino != inode
    found = opened(path, Server()).kept
    assert found is not None
    assert found.news.version.etag == '"new"'
    kept(path, Server(etag='"set back"'), NOW - HOUR)
    found = opened(path, Server()).kept
    assert found is not None
    assert found.news.version.etag == '"set back"'


def harmed(path: Path, how: str) -> None:
    content = path.read_bytes()
    if how == "a bit":
        path.write_bytes(content[:-2] + bytes([content[-2] ^ 1]) + content[-1:])
    elif how == "cut":
        path.write_bytes(content[:-1])
    elif how == "empty":
        path.write_bytes(b"")
    elif how == "zeros":
        path.write_bytes(bytes(len(content)))
    elif how == "longer":
        path.write_bytes(content + b"\n")
    elif how == "huge":
        os.truncate(path, 2**40)
    elif how == "mode":
        path.chmod(0o640)
    elif how == "renamed":
        kept(path.with_name("journal.db.peers-1"), Server("peers = []\n")).rename(path)
    elif how == "owner":
        os.chown(path, 65534, 65534)
    else:
        path.unlink()
        path.mkdir() if how == "directory" else os.mkfifo(path, 0o600)


@pytest.mark.parametrize(
    "how",
    ["a bit", "cut", "empty", "zeros", "longer", "huge", "mode", "renamed", "fifo", "directory"]
    + (["owner"] if os.geteuid() == 0 else []),
)
def test_a_file_that_is_not_as_it_was_written_counts_as_missing(path: Path, how: str) -> None:
    server = Server()
    harmed(kept(path, server), how)
    found = opened(path, server)
    assert found.kept is None
    assert f"{path} cannot be used: " in found.absence
    assert found.read(URL) == TEXT
    assert server.asked[-1] == Version(), "nothing is known, so nothing is asked for but all"
    if how == "directory":
        with pytest.raises(IsADirectoryError):
            found.keep()
        assert [*path.parent.iterdir()] == [path], "no half of a file is left behind"
    else:
        found.keep()
        assert opened(path, server).kept is not None


@pytest.mark.parametrize("name", ["", ".new"])
def test_no_symbolic_link_is_followed(path: Path, name: str) -> None:
    server = Server()
    elsewhere = path.with_name("elsewhere")
    kept(path, server).rename(elsewhere)
    before = elsewhere.read_bytes()
    path.with_name(path.name + name).symlink_to(elsewhere)
    assert opened(path, server).kept is None
    kept(path, Server("peers = []\n"))
    assert elsewhere.read_bytes() == before
    assert not path.is_symlink()
    assert not path.with_name(f"{path.name}.new").exists()


def test_the_list_of_another_url_is_of_no_use(path: Path) -> None:
    server = Server()
    kept(path, server)
    found = opened(path, server, URL.replace("password", "another"))
    assert found.kept is None
    assert "of another URL" in found.absence


def test_what_fails_leaves_the_last_good_list(path: Path) -> None:
    kept(path, Server())
    content = path.read_bytes()

    def fetch(*_: object) -> tuple[str | None, Version]:
        raise SourceError("out of reach")

    found = PeersList(str(path), URL, fetch)
    with pytest.raises(SourceError):
        found.read(URL)
    assert found.kept is not None
    assert path.read_bytes() == content


def test_what_an_earlier_rait_kept_is_read(path: Path) -> None:
    """A machine may be upgraded, and boot without its registry then."""
    path = path.with_name("journal.db.peers-0123456789abcdef")
    path.write_text(EARLIER)
    path.chmod(0o600)
    found = PeersList(str(path), "https://example.org/peers", Server().fetch)
    assert found.kept is not None, found.absence
    assert found.kept.news.text == "peers = []\n"
    assert found.kept.news.version.etag == '"1"'


def test_a_signature_is_kept_with_its_list(path: Path) -> None:
    """A list that is signed anew is written anew, although its text and version are the same."""

    def opened_with(signature: str) -> PeersList:
        server = Server()
        return PeersList(
            str(path),
            URL,
            lambda *_: News(server.text, server.version, NOW, signature),
            signed=True,
        )

    for signature in ("first", "second"):
        found = opened_with(signature)
        assert found.read(URL) == TEXT
        assert found.read(f"{URL}.minisig") == signature
        found.keep()
        kept_now = opened_with("").kept
        assert kept_now is not None
        read = kept_now.reading(URL)
        assert (read(URL), read(f"{URL}.minisig")) == (TEXT, signature)
    found.forget("it is bad")
    assert (found.kept, found.absence) == (None, "it is bad")

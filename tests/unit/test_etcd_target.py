"""What a URL of etcd says."""

from __future__ import annotations

import pytest

from rait.adapters.config import source
from rait.adapters.config.etcd.target import Target, parse
from rait.domain.errors import SourceError

GOOD = {
    "etcd://h/p": Target(("http://h:2379",), "/p/"),
    "ETCD://h/rait/peers/": Target(("http://h:2379",), "/rait/peers/"),
    "etcds://a,b:1,[::1]:2,[fd00::1]/p": Target(
        ("https://a:2379", "https://b:1", "https://[::1]:2", "https://[fd00::1]:2379"), "/p/"
    ),
    "etcds://n%40x@h/p%20q?password_file=/a%26b&ca=/c&cert=/d&key=/e": Target(
        ("https://h:2379",), "/p q/", "n@x", "/a&b", "/c", "/d", "/e"
    ),
}


@pytest.mark.parametrize("url", GOOD)
def test_a_good_url(url: str) -> None:
    assert parse(url, "NAME") == GOOD[url]


BAD = {
    "etcd://h": "the prefix of the keys is missing",
    "etcd://h/": "the prefix of the keys is missing",
    "etcd:///p": "each member is HOST or HOST:PORT",
    "etcd://a,,b/p": "each member is HOST or HOST:PORT",
    "etcd://h:0/p": "each member is HOST or HOST:PORT",
    "etcd://h:70000/p": "the URL is not valid",
    "etcd://[::1/p": "the URL is not valid",
    "etcd://h/p?ca": "the URL is not valid",
    "etcd://h/p#x": "has no #",
    "etcd://me:1234/p@h/p": "each member is HOST or HOST:PORT",
    "etcd://me:secret@h/p?password_file=/x": "put the password into a file",
    "etcd://me@h/p": "a user and the password_file go together",
    "etcd://h/p?password_file=/x": "a user and the password_file go together",
    "etcd://h/p?ca=/x": "ca, cert and key are for TLS",
    "etcds://h/p?cert=/x": "cert and key go together",
    "etcds://h/p?ca=x": "ca must be an absolute path",
    "etcds://h/p?ca=/x&ca=/y": "is given twice",
    "etcds://h/p?token=secret": "a key after the ? is none of password_file, ca, cert, key",
    f"etcd://{','.join('h' * 17)}/p": "more than 16 members",
}


@pytest.mark.parametrize("url", BAD)
def test_a_bad_url(url: str) -> None:
    with pytest.raises(SourceError) as caught:
        parse(url, "NAME")
    assert str(caught.value).startswith("NAME: ")
    assert BAD[url] in str(caught.value)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize(
    "url",
    [
        "etcd://me:secret@h/p",
        "etcd://me:se/cret@h/p",
        "etcd://me:se/secret@h/p",
        "etcd://me:secret\u2100@h/p",
        "etcd://me:secret@h:secret/p",
        "etcd://me:secret@[secret/p",
    ],
)
def test_a_password_in_a_url_is_refused_and_not_shown(url: str) -> None:
    with pytest.raises(SourceError) as caught:
        source.read(url)
    assert "secret" not in str(caught.value)
    assert "password" in str(caught.value)

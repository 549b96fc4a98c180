"""The files that a URL of etcd names: what may be in them, and what they may be."""

from __future__ import annotations

import os
import ssl
import stat
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization

from rait.adapters.config.etcd import target as module
from rait.adapters.config.etcd.target import Target
from tests.integration.tls import Authority


def target(**files: Path) -> Target:
    paths = {name: str(path) for name, path in files.items()}
    return Target(("https://h:2379",), "/p/", **paths)


def test_the_password_is_the_first_line(tmp_path: Path) -> None:
    path = tmp_path / "password"
    path.write_text(" päss word \r\nsecond line\n")
    assert module.password(str(path)) == " päss word "


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (None, "cannot be read: No such file"),
        (b"", "is empty"),
        (b"\nx", "is empty"),
        (b"\xff", "not text in UTF-8"),
        (b"x" * (module.MAX_PASSWORD + 1), "is larger than 4096 bytes"),
    ],
)
def test_a_file_without_a_password(content: bytes | None, why: str, tmp_path: Path) -> None:
    path = tmp_path / "password"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ValueError, match=why) as caught:
        module.password(str(path))
    assert str(path) in str(caught.value)


@pytest.mark.parametrize("name", ["password_file", "ca", "cert", "key"])
@pytest.mark.parametrize("kind", [stat.S_IFIFO, stat.S_IFDIR])
def test_what_takes_for_ever_to_read_is_not_opened(kind: int, name: str, tmp_path: Path) -> None:
    odd = tmp_path / "odd"
    odd.mkdir() if kind == stat.S_IFDIR else os.mkfifo(odd)
    cert, key = Authority(tmp_path).certificate("me")
    files = {"cert": cert, "key": key, name: odd}
    read: Any = module.context
    if name == "password_file":
        read = lambda it: module.password(it.password_file)  # noqa: E731
    with pytest.raises(ValueError, match="odd is not a regular file"):
        read(target(**files))


def test_a_renewed_certificate_is_read_anew(tmp_path: Path) -> None:
    (tmp_path / "new").mkdir()
    old, new = Authority(tmp_path), Authority(tmp_path / "new")
    first = module.context(target(ca=old.path))
    old.path.write_bytes(new.path.read_bytes())
    second = module.context(target(ca=old.path))
    assert isinstance(first, ssl.SSLContext)
    assert isinstance(second, ssl.SSLContext)
    assert first.get_ca_certs() != second.get_ca_certs()


def test_without_tls_there_is_nothing_to_trust() -> None:
    assert module.context(Target(("http://h:2379",), "/p/")) is False


def test_files_that_are_no_certificates(tmp_path: Path) -> None:
    cert, key = Authority(tmp_path).certificate("me")
    other = Authority(tmp_path, "other").certificate("another")[1]
    junk = tmp_path / "junk"
    junk.write_text("junk")
    for files in ({"ca": junk}, {"cert": junk, "key": key}, {"cert": cert, "key": other}):
        with pytest.raises(ValueError, match="cannot be used for TLS: ") as caught:
            module.context(target(**files))
        assert all(str(path) in str(caught.value) for path in files.values())
    with pytest.raises(ValueError, match=f"{tmp_path}/none cannot be used for TLS: No such file"):
        module.context(target(cert=cert, key=tmp_path / "none"))


def test_nobody_is_asked_for_the_passphrase_of_a_key(tmp_path: Path) -> None:
    cert, path = Authority(tmp_path).certificate("me")
    key = serialization.load_pem_private_key(path.read_bytes(), None)
    path.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"secret"),
        )
    )
    with pytest.raises(ValueError, match="the key has a passphrase"):
        module.context(target(cert=cert, key=path))

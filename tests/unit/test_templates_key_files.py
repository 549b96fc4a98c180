"""Where a peer's preshared key is: no registry decides in which directory rait reads."""

from __future__ import annotations

import glob
import os.path
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rait.domain.config.schema import Peer
from rait.domain.config.templates import (
    checked_key_file,
    is_template,
    key_file_of,
    with_wildcards,
)

KEY = "+Y23l1qr9oEM4WlqPvp4IG2TPXdNCa11twipDvOHT3w="
SLASHED = "WLkgNBmW9GdP2LjwIRDb5yOP2/UfMw3Iu6lWW1y9PSo="


def file_of(template: str, name: str | None = None, key: str = KEY) -> str:
    return key_file_of(template, Peer(public_key=key, name=name))


def test_a_file_is_named_after_the_peer_or_is_of_all() -> None:
    assert file_of("/etc/psk/{public_key}.key") == f"/etc/psk/-{KEY[1:-1]}.key"
    assert "/" not in file_of("{public_key}", key=SLASHED)
    assert file_of("psk/{name}/{name}", "gate.1") == "psk/gate.1/gate.1"
    assert file_of("{name}", "{public_key}") == "{public_key}", "a name is no template"
    assert file_of("psk") == "psk"
    assert [file_of("{name}", name) for name in ("a", "é" * 127 + "a")] == ["a", "é" * 127 + "a"]
    assert [is_template(path) for path in ("psk", "{name}", "{public_key}")] == [False, True, True]


@pytest.mark.parametrize(
    "name",
    ["..", ".", "", "../key", "/etc/shadow", "a/b", "a\0b", "a\nb", "é" * 128, ".hidden", "-"],
)
def test_a_name_leads_nowhere_else(name: str) -> None:
    with pytest.raises(ValueError, match="name"):
        file_of("/etc/psk/{name}", name)


def test_a_peer_without_a_name_has_no_file_of_its_name() -> None:
    with pytest.raises(ValueError, match="has no name"):
        file_of("{name}")


@given(st.text(), st.sampled_from(("/etc/psk/{name}", "/etc/psk/{name}.key", "/etc/psk/x{name}")))
def test_whatever_a_peer_is_called_its_file_is_in_the_directory(name: str, template: str) -> None:
    try:
        path = file_of(template, name)
    except ValueError:
        return
    assert os.path.normpath(path) == path
    assert str(Path(path).parent) == "/etc/psk"
    assert name in path


@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("", 'or "off"'),
        ("-", "path of a file"),
        ("https://example.org/psk", "path of a file"),
        ("{remarks.psk}", "in braces stands"),
        ("{name", "in braces stands"),
    ],
)
def test_what_is_no_path_is_refused(path: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        checked_key_file(path)


@pytest.mark.parametrize(("path", "meant"), [("off", ""), ("./off", "./off"), ("psk", "psk")])
def test_off_is_no_file(path: str, meant: str) -> None:
    assert checked_key_file(path) == meant


def test_the_files_of_all_peers_are_found_without_their_names() -> None:
    assert with_wildcards("[a]/{name}.{public_key}", glob.escape) == "[[]a]/*.*"
    assert with_wildcards("psk", glob.escape) == "psk"

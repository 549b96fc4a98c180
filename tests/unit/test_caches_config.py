"""rait.conf is parsed once, and what is kept of it is neither a key nor trusted blindly."""

from __future__ import annotations

from binascii import a2b_base64
from collections.abc import Callable
from pathlib import Path

import pytest

from rait.adapters import keys
from rait.adapters.config import caches, formats
from rait.adapters.keys import KeyPair
from rait.app.load import Loaded, load_config, load_key
from rait.domain.config import schema
from rait.domain.config.schema import Secret
from rait.domain.errors import ConfigError

PRIVATE = "KJJXmDtAXSrMGuIJVy/2eP65gXm1PTy7vCR/4O/vEEI="
OTHER = "sJLUfF8UBHvtcEtmpLmp0+QPWPTVtTlIWc8wf4ysGF8="
HCL = f"""\
private_key = "{PRIVATE}"
peers = "peers.conf"
transport {{
  address_family = "ip4"
  send_port = 50153
  mtu = 1420
  ifprefix = "rait4x"
  fwmark = "0x36"
  bind_addr = "192.0.2.1"
}}
babeld {{
  sync = true
}}
policy {{
  match {{
    name = "core-*"
    remarks {{ place = ["ams*", "fra*"] }}
  }}
  mtu = "auto"
  addresses = "192.0.2.1 peer {{remarks.ip}}"
  preshared_key_file = "psk"
}}
remarks {{
  note = "for people"
}}
"""
TOML = f"""\
private_key = "{PRIVATE}"
journal_keep = "forever"
port_range = ["1024-2047", 3000]

[[transport]]
address_family = "ip6"
send_port = 50153
mtu = 1420
ifprefix = "rait6x"
bind_addr = "2001:db8::1"

[isolation]
target = "raitns"

[[policy]]
skip = true

[[policy]]
mtu = 1400
up_command = ["logger", "up"]
"""
FILE = HCL.replace(f'private_key = "{PRIVATE}"', 'private_key_file = "own.key"')


@pytest.fixture(autouse=True)
def kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty cache."""
    path = tmp_path / "cache"
    path.mkdir(mode=0o700)
    monkeypatch.setattr(caches, "cache_directory", lambda: str(path))
    return path


@pytest.fixture
def parsed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The texts that were parsed."""
    return noted(monkeypatch, formats, "parse")


@pytest.fixture
def derived(monkeypatch: pytest.MonkeyPatch) -> list[Secret]:
    """The private keys of which a public key was derived."""
    return noted(monkeypatch, keys, "public_key")


def noted(monkeypatch: pytest.MonkeyPatch, owner: object, name: str) -> list:
    given: list = []
    function: Callable = getattr(owner, name)

    def noting(first: object, *more: object) -> object:
        given.append(first)
        return function(first, *more)

    monkeypatch.setattr(owner, name, noting)
    return given


@pytest.fixture
def load(tmp_path: Path) -> Callable[[str], Loaded]:
    """Load a configuration as a run does that may write."""
    (tmp_path / "own.key").write_text(PRIVATE + "\n")
    (tmp_path / "own.key").chmod(0o600)

    def load(text: str = HCL) -> Loaded:
        path = tmp_path / "rait.conf"
        path.write_text(text)
        path.chmod(0o600)
        with caches.keeping():
            return load_config(str(path))

    return load


def kept_secret(loaded: Loaded) -> KeyPair:
    with caches.keeping():
        return load_key(loaded)


def told(loaded: Loaded) -> object:
    """All that a run makes of a configuration, but for the remarks, which nobody reads."""
    config = {**{f: getattr(loaded.config, f) for f in loaded.config.__struct_fields__}}
    config.pop("remarks")
    locations = loaded.place_of("private_key_file"), loaded.place_of("peers")
    return config, loaded.source, loaded.digest(), loaded.warnings, locations, load_key(loaded)


@pytest.mark.parametrize("text", [HCL, TOML, FILE])
def test_a_configuration_that_is_known_says_the_same(load, parsed, text):
    first = load(text)
    assert parsed == [text]
    second = load(text)
    assert parsed == [text]
    assert told(first) == told(second)
    assert second.config.policies
    assert "rait.conf:" in second.warnings[0]
    assert load_key(second).secret == Secret(PRIVATE)


@pytest.mark.parametrize("text", [HCL, FILE])
def test_the_public_key_is_derived_once(load, derived, text):
    answers = [kept_secret(load(text)) for _ in range(3)]
    assert answers == [KeyPair(Secret(PRIVATE), keys.public_key(Secret(PRIVATE)))] * 3
    assert len(derived) == 2, "once by us"


def test_a_key_file_with_another_key_has_another_public_key(load, tmp_path):
    kept_secret(load(FILE))
    (tmp_path / "own.key").write_text(OTHER)
    assert kept_secret(load(FILE)) == KeyPair(Secret(OTHER), keys.public_key(Secret(OTHER)))


def test_a_changed_configuration_is_another(load, parsed):
    load()
    assert load(HCL.replace(PRIVATE, OTHER)).config.private_key == Secret(OTHER)
    assert load(HCL.replace("1420", "1400")).config.transports[0].mtu == 1400
    assert len(parsed) == 3


@pytest.mark.parametrize("text", [HCL, FILE])
def test_the_private_key_is_not_kept_in_any_spelling(load, kept, text):
    kept_secret(load(text))
    raw = a2b_base64(PRIVATE)
    for file in kept.iterdir():
        content = file.name.encode() + file.read_bytes()
        for spelling in (PRIVATE.encode().rstrip(b"="), raw, raw.hex().encode(), b"for people"):
            assert spelling not in content.lower() + content
    assert len(list(kept.iterdir())) == 2


def test_a_configuration_with_urls_is_not_kept_as_they_may_hold_a_password(load, kept, parsed):
    text = HCL.replace("peers.conf", "https://user:password@registry.example/peers")
    for _ in range(2):
        assert load(text).config.peers.startswith("https://user:password@")
    assert parsed == [text, text]
    assert list(kept.iterdir()) == []


def test_a_key_in_escapes_is_read_each_time(load, parsed):
    text = TOML.replace("KJJX", "\\u004bJJX")
    for _ in range(2):
        assert load(text).config.private_key == Secret(PRIVATE)
    assert len(parsed) == 2


@pytest.mark.parametrize("key", [PRIVATE, PRIVATE.rstrip("=")])
def test_a_key_that_is_in_another_place_too_is_not_kept_there(load, kept, parsed, key):
    text = HCL.replace("sync = true", f'extra_cmd = "flush {key}"')
    for _ in range(2):
        assert load(text).config.babeld.extra_cmd == f"flush {key}"
    assert len(parsed) == 2
    assert list(kept.iterdir()) == []


def test_who_may_read_the_file_is_looked_at_each_time(load, tmp_path):
    assert not any("chmod" in warning for warning in load().warnings)
    (tmp_path / "rait.conf").chmod(0o644)
    loaded = load_config(str(tmp_path / "rait.conf"))
    assert any("chmod" in warning for warning in loaded.warnings)


def test_a_command_that_only_looks_keeps_nothing(kept, tmp_path):
    (tmp_path / "rait.conf").write_text(HCL)
    load_key(load_config(str(tmp_path / "rait.conf")))
    assert list(kept.iterdir()) == []


def test_a_wrong_configuration_is_an_error_each_time(load, kept):
    for _ in range(2):
        with pytest.raises(ConfigError, match=r"rait\.conf:6: .*mtu"):
            load(HCL.replace("1420", "1"))
    assert list(kept.iterdir()) == []


@pytest.mark.parametrize(
    "damage",
    [
        lambda _, content: content[:0],
        lambda _, content: content[:-1],
        lambda _, content: content[:-1] + b"?",
        lambda path, _: caches._seal(str(path), b"\xc1") + b"\xc1",
        lambda path, _: caches._seal(str(path), b"\x80") + b"\x80",
    ],
)
def test_what_is_damaged_is_as_good_as_not_there(load, kept, parsed, derived, damage):
    good = load()
    answer = kept_secret(good)
    for file in kept.iterdir():
        file.write_bytes(damage(file, file.read_bytes()))
    assert told(load()) == told(good)
    assert load_key(load()) == answer
    assert parsed.count(HCL) >= 2
    assert len(derived) >= 2


def test_a_file_under_the_name_of_another_is_as_good_as_not_there(load, kept, parsed):
    texts = [HCL, HCL.replace("1420", "1400")]
    for text in texts:
        load(text)
    one, other = (path.read_bytes() for path in kept.glob("*.conf"))
    for path in kept.glob("*.conf"):
        path.write_bytes(other if path.read_bytes() == one else one)
    assert [load(text).config.transports[0].mtu for text in texts] == [1420, 1400]
    assert len(parsed) == 4


def test_another_version_of_rait_reads_anew(load, parsed, monkeypatch):
    load()
    monkeypatch.setattr(caches, "__version__", "0.0.0")
    load()
    assert len(parsed) == 2


def test_a_rait_that_knows_other_settings_reads_anew(load, parsed, monkeypatch):
    load()
    for number, kind in enumerate(("Transport", "Policy", "Match"), 2):
        monkeypatch.setattr(caches.schema, kind, schema.Babeld)  # type: ignore[attr-defined]
        load()
        assert len(parsed) == number

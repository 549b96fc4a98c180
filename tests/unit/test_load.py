"""Configuration, key and peers as a run gathers them: one clear error, or warnings with lines."""

from __future__ import annotations

import io
import os
import sys
import threading
from binascii import a2b_base64, b2a_base64
from collections.abc import Iterator
from functools import partial
from hashlib import sha256
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from msgspec import structs

from rait.adapters.config import caches
from rait.adapters.keys import KeyPair
from rait.app.load import (
    Loaded,
    LoadedPeers,
    configured,
    load_config,
    load_key,
    load_peers,
    load_registry,
)
from rait.domain.config.schema import DEFAULT_PEERS, Config, Secret
from rait.domain.errors import ConfigError, Problem, SourceError

DATA = Path(__file__).parent.parent / "data"
PRIVATE = "KJJXmDtAXSrMGuIJVy/2eP65gXm1PTy7vCR/4O/vEEI="
PUBLIC = "5q1HDxrH29mQGy/CIhHtNEOn+6LRxh9HeJzQQeFTEVc="
"""What `wg pubkey` says of PRIVATE."""

GOOD = """\
private_key_file = "key"
peers = "peers.toml"
journal = "state/journal.db"
transport {
  address_family = "ip4"
  send_port = 50153
  mtu = 1420
  ifprefix = "rait4x"
}
"""
PEERS = """\
[[Peers]]
PublicKey = "+Y23l1qr9oEM4WlqPvp4IG2TPXdNCa11twipDvOHT3w="
SendPort = 50221
AddressFamily = "ip4"

[[Peers]]
PublicKey = "WLkgNBmW9GdP2LjwIRDb5yOP2/UfMw3Iu6lWW1y9PSo="
SendPort = 0
AddressFamily = "ip4"
"""
NO_PORT = "must be a port from 1 to 65535 (to which the peer sends), not 0"


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    (tmp_path / "rait.conf").write_text(GOOD)
    (tmp_path / "peers.toml").write_text(PEERS)
    (tmp_path / "key").write_text(PRIVATE + "\n")
    (tmp_path / "key").chmod(0o600)
    return tmp_path


def load(directory: Path, text: str | None = None) -> Loaded:
    if text is not None:
        (directory / "rait.conf").write_text(text)
    return load_config(str(directory / "rait.conf"))


def refused(directory: Path, text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load(directory, text)
    return str(caught.value).replace(str(directory) + "/", "")


def test_the_manuals_files(tmp_path):
    path = tmp_path / "rait.conf"
    path.write_bytes((DATA / "rait.conf").read_bytes())
    path.chmod(0o600)
    loaded = load_config(str(path))
    assert loaded.warnings == ()
    assert loaded.config.peers == "/etc/rait/peers.conf"
    assert loaded.digest() == sha256(path.read_bytes()).hexdigest()
    assert load_key(loaded) == KeyPair(Secret(PRIVATE), PUBLIC)
    assert PRIVATE not in repr(loaded)


def test_paths_are_relative_to_the_configuration(directory, monkeypatch):
    monkeypatch.chdir("/")
    loaded = load(directory)
    assert loaded.config.peers == str(directory / "peers.toml")
    assert loaded.config.journal == str(directory / "state/journal.db")
    assert load_key(loaded) == KeyPair(Secret(PRIVATE), PUBLIC)
    assert load_peers(loaded).document.name == str(directory / "peers.toml")


def test_peers_come_with_warnings_that_name_the_line(directory):
    peers = load_peers(load(directory))
    assert [peer.endpoints[0].send_port for peer in peers.peers] == [50221]
    (warning,) = peers.warnings
    name = directory / "peers.toml"
    assert warning == f"{name}:8: Peers[1].SendPort: {NO_PORT}; skipped"
    assert peers.digest() == sha256(PEERS.encode()).hexdigest()


def test_later_findings_about_a_peer_name_its_line_too(directory):
    peers = load_peers(load(directory))
    path = peers.peers[0].endpoints[0].path
    assert peers.document.describe(Problem("port taken", "warning", path)).endswith(
        "peers.toml:1: Peers[0]: port taken"
    )
    assert peers.document.describe(Problem("no address")).endswith("peers.toml: no address")


def test_an_error_names_file_line_and_key(directory):
    message = refused(directory, GOOD.replace("1420", "1200"))
    assert message.startswith("rait.conf:7: transport[0].mtu: must be a number of bytes from 1280")


@pytest.mark.parametrize("spelt", ["peers_public_key", "PeersPublicKey"])
def test_a_source_that_no_one_signs_has_no_signer(directory, spelt):
    text = GOOD.replace("peers.toml", "etcd://192.0.2.1/peers")
    signer = "RWQf6LRCGA9i53mlYecO4IzT51TGPpvWucNSCh1CBM0QTaLn73Y7GFO3"
    message = refused(directory, f'{text[:-1]}\n{spelt} = "{signer}"\n')
    assert message.startswith(f"rait.conf:10: {spelt}: is for a list that somebody signs")
    assert "leave peers_public_key out" in message


def test_of_several_errors_each_is_a_line_with_its_place(directory):
    text = GOOD.replace("50153", "0").replace("  mtu", "  color = 1\n  mtuu")
    unknown, *others = refused(directory, 'backend = "x"\n' + text).splitlines()
    assert unknown == "rait.conf:8: transport[0].color: unknown key"
    places = [line.partition(": ")[0] for line in others]
    assert places == ["rait.conf:9", "rait.conf:1", "rait.conf:5", "rait.conf:7"]


def test_a_file_that_is_wrong_throughout_is_not_told_in_full(directory):
    wrong = "".join(f"key_{number} = 1\n" for number in range(1000))
    *lines, last = refused(directory, GOOD + wrong).splitlines()
    assert len(lines) == 50
    assert last == "rait.conf: and 950 more"


@pytest.mark.parametrize(
    ("text", "where"),
    [
        (GOOD, "rait.conf:2: peers: {}/peers.toml: there is no such file"),
        (
            GOOD.replace('peers = "peers.toml"\n', ""),
            "rait.conf: peers is not set, so it is the default: /no/peers.conf: there is no such",
        ),
    ],
)
def test_a_peers_file_that_is_not_there_is_told_with_who_names_it(directory, text, where):
    (directory / "peers.toml").unlink()
    loaded = load(directory, text)
    if loaded.config.peers == DEFAULT_PEERS:
        # This machine may have a list there.
        config = structs.replace(loaded.config, peers="/no/peers.conf")
        loaded = structs.replace(loaded, config=config)
    with pytest.raises(SourceError) as caught:
        load_peers(loaded)
    assert str(caught.value).startswith(f"{directory}/{where.format(directory)}")


def test_who_has_no_configuration_yet_is_told_what_to_do(directory):
    with pytest.raises(ConfigError, match="no such file: write it, or name another one with -c"):
        configured(f"{directory}/none.conf")


def test_both_a_key_and_its_file_name_the_line(directory):
    message = refused(
        directory,
        f'{GOOD}private_key = "{PRIVATE}"\n'.replace("private_key_file", "PrivateKeyFile"),
    )
    assert message.startswith("rait.conf:1: PrivateKeyFile: private_key and private_key_file are")


@pytest.mark.parametrize(
    "line",
    [
        f'peers = "{PRIVATE}"',
        f'journal = "{PRIVATE}"',
        f'isolation {{\n target = "{PRIVATE}"\n}}',
        f'isolation {{\n transit = "{PRIVATE}"\n}}',
        f'private_key_file = "{PRIVATE}"',
    ],
)
def test_a_private_key_in_the_place_of_a_name_is_refused_and_not_shown(directory, line):
    key = line.partition(" =")[0]
    kept = [old for old in GOOD.splitlines() if not old.startswith(f"{key} =")]
    message = refused(directory, "\n".join([line, *kept]))
    assert message.startswith(f"rait.conf:{1 + line.count(chr(10)) // 2}: ")
    assert "is a key itself" in message
    assert PRIVATE not in message


def test_a_text_that_does_not_parse(directory):
    (directory / "rait.conf").write_text("transport {\n  mtu = = 1\n}\n")
    with pytest.raises(SourceError, match=r"rait\.conf:2:9: "):
        load(directory)


def test_warnings_of_the_configuration_name_the_line(directory):
    loaded = load(directory, GOOD.replace("  mtu", '  bind_addr = "192.0.2.1"\n  mtu'))
    (warning,) = loaded.warnings
    assert "rait.conf:7: transport[0].bind_addr: has no effect" in warning


def test_a_private_key_that_others_can_read_is_warned_of(directory):
    text = GOOD.replace('private_key_file = "key"', f'private_key = "{PRIVATE}"')
    (directory / "rait.conf").chmod(0o640)
    (warning,) = load(directory, text).warnings
    assert "chmod 600" in warning
    (directory / "rait.conf").chmod(0o600)
    assert load(directory, text).warnings == ()


def test_a_key_file_that_others_can_read_is_warned_of(directory):
    (directory / "key").chmod(0o604)
    (warning,) = load(directory).warnings
    assert warning.startswith(f"{directory / 'key'}: ")


def test_what_a_url_of_etcd_exposes_is_warned_of(directory):
    files = [directory / name for name in ("password", "cert", "tls-key")]
    for file in files:
        file.write_text("secret\n")
        file.chmod(0o644)
    password, cert, key = files
    url = f"etcds://me@h/p?password_file={password}&cert={cert}&key={key}"
    warnings = load(directory, GOOD.replace("peers.toml", url)).warnings
    assert [warning.partition(": ")[0] for warning in warnings] == [str(password), str(key)]
    assert all("chmod 600" in warning for warning in warnings)
    password.chmod(0o600)
    url = f"etcd://me@h/p?password_file={password}"
    (warning,) = load(directory, GOOD.replace("peers.toml", url)).warnings
    assert warning.startswith("etcd://h/p: the password goes over plain http")


@pytest.fixture
def served(directory: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The directory over plain http."""
    monkeypatch.setenv("no_proxy", "*")
    handler = partial(_QuietHandler, directory=str(directory))
    with ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{server.server_address[1]}"
        server.shutdown()
        thread.join()


class _QuietHandler(SimpleHTTPRequestHandler):
    def log_message(self, *args: object) -> None:
        pass


def test_a_configuration_over_plain_http_is_warned_of(directory, served):
    (directory / "rait.conf").write_text(GOOD.replace('"key"', f'"{directory}/key"'))
    (warning,) = load_config(f"{served}/rait.conf").warnings
    assert warning.startswith(f"{served}/rait.conf: the configuration comes over plain http")


def test_a_private_key_over_plain_http_is_warned_of(directory, served):
    user = served.replace("//", "//me:secret@")
    loaded = load(directory, GOOD.replace('"key"', f'"{user}/key"'))
    (warning,) = loaded.warnings
    assert warning.startswith(f"{served}/key: the private key comes over plain http")
    assert load_key(loaded) == KeyPair(Secret(PRIVATE), PUBLIC)


COMMANDED = GOOD + 'policy {\n  up_command = ["/bin/true"]\n}\n'


def test_commands_over_plain_http_are_not_to_be_run(directory, served):
    (directory / "rait.conf").write_text(COMMANDED.replace('"key"', f'"{directory}/key"'))
    loaded = load_config(f"{served}/rait.conf")
    assert loaded.distrust.startswith(f"{served}/rait.conf: its up_command and down_command run")
    assert loaded.distrust in loaded.warnings


@pytest.mark.parametrize(
    ("mode", "trusted"), [(0o600, True), (0o644, True), (0o620, False), (0o602, False)]
)
def test_commands_that_others_may_have_written_are_not_to_be_run(directory, mode, trusted):
    path = directory / "rait.conf"
    path.write_text(COMMANDED)
    path.chmod(mode)
    loaded = load_config(str(path))
    assert loaded.distrust == "" if trusted else "chmod go-w" in loaded.distrust
    assert load_config(str(path), key_required=False).distrust == "", "nothing is run by that"
    path.write_text(GOOD)
    assert load_config(str(path)).distrust == "", "and there are no commands in this one"


@pytest.mark.skipif(os.geteuid() != 0, reason="to give a file away takes root")
def test_commands_of_another_user_are_not_to_be_run(directory):
    path = directory / "rait.conf"
    path.write_text(COMMANDED)
    path.chmod(0o600)
    os.chown(path, 4711, -1)
    assert "chown root" in load_config(str(path)).distrust


def test_peers_over_plain_http_are_not(directory, served):
    loaded = load(directory, GOOD.replace('"peers.toml"', f'"{served}/peers.toml"'))
    assert loaded.warnings == ()
    assert len(load_peers(loaded).peers) == 1


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (PRIVATE[:-3], "not valid base64"),
        (PRIVATE * 2, "not valid base64"),
        ("", "0 bytes instead of 32"),
        ("x" * 5000, "larger than 4096 bytes"),
        (None, "no such file"),
    ],
)
def test_key_files_that_hold_none(directory, content, says):
    loaded = load(directory)
    (directory / "key").unlink() if content is None else (directory / "key").write_text(content)
    with pytest.raises(ConfigError, match=says) as caught:
        load_key(loaded)
    place = f"{directory / 'rait.conf'}:1: private_key_file: "
    assert str(caught.value).startswith(f"{place}{directory / 'key'}: ")
    assert PRIVATE[:20] not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("", "is empty"),
        ("nodes = []\n", "not a peers list"),
        ("[[Peers]\n", r"peers\.toml:1:"),
    ],
)
def test_a_peers_list_that_is_none(directory, text, says):
    (directory / "peers.toml").write_text(text)
    with pytest.raises(SourceError, match=says):
        load_peers(load(directory))


def test_a_missing_peers_list(directory):
    (directory / "peers.toml").unlink()
    with pytest.raises(SourceError, match="no such file"):
        load_peers(load(directory))


class _Stdin:
    def __init__(self, text: str) -> None:
        self.buffer = io.BytesIO(text.encode())


def test_the_configuration_from_standard_input(monkeypatch):
    monkeypatch.setattr(sys, "stdin", _Stdin(GOOD))
    loaded = load_config("-")
    assert (loaded.source, loaded.config.peers) == ("standard input", "peers.toml")


@pytest.mark.parametrize("old", ['"peers.toml"', '"key"'])
def test_standard_input_has_one_text(monkeypatch, old):
    monkeypatch.setattr(sys, "stdin", _Stdin(GOOD.replace(old, '"-"')))
    with pytest.raises(ConfigError, match="standard input"):
        load_config("-")


@pytest.mark.parametrize(
    "text",
    [
        f'private_key = "{PRIVATE}x"\n',
        f'private_key = "{PRIVATE}"\nprivate_kye = "{PRIVATE}"\n',
        f'private_key = "{PRIVATE}"\nbackend = "{PRIVATE}"\n',
        f"private_key = {PRIVATE}\ntransport {{\n}}\n",
        f'"{PRIVATE}" = 1\n',
        f'{{"private_key": "{PRIVATE}", "{PRIVATE}": 1}}',
    ],
)
def test_no_error_shows_the_private_key(directory, text):
    (directory / "rait.conf").write_text(text)
    with pytest.raises((ConfigError, SourceError)) as caught:
        load_config(str(directory / "rait.conf"))
    assert PRIVATE[:20] not in str(caught.value)


def test_a_secret_needs_no_file_if_the_configuration_holds_it():
    config = Config(private_key=Secret(PRIVATE))
    assert load_key(Loaded(config=config, source="x", digest=str)).public == PUBLIC


# What a node does not take from a list


def registry(directory: Path, peers: str, conf: str = GOOD, *, secret: bool = True) -> LoadedPeers:
    (directory / "peers.toml").write_text(peers)
    loaded = load(directory, conf)
    key = load_key(loaded)
    return load_registry(loaded, key if secret else KeyPair(None, key.public))


def told(directory: Path, peers: str, conf: str = GOOD, *, secret: bool = True) -> str:
    with pytest.raises(SourceError) as caught:
        registry(directory, peers, conf, secret=secret)
    return str(caught.value).replace(str(directory) + "/", "")


OTHER = "+Y23l1qr9oEM4WlqPvp4IG2TPXdNCa11twipDvOHT3w="
ESCAPED = "\\u004b" + PRIVATE[1:]
HEX = a2b_base64(PRIVATE).hex()


@pytest.mark.parametrize(
    ("old", "new", "line"),
    [
        (OTHER, PRIVATE, 2),
        (OTHER, ESCAPED, 1),
        ("WLkgNBmW9GdP2LjwIRDb5yOP2/UfMw3Iu6lWW1y9PSo=", PRIVATE, 7),
        ("SendPort = 0", f'SendPort = 1\nName = "{PRIVATE}"', 9),
        ("SendPort = 0", f'SendPort = 1\nEndpoint = "{PRIVATE}"', 9),
        ("SendPort = 0", f'SendPort = 1\nremarks = "is {PRIVATE[:-1]}, I think"', 9),
        ("SendPort = 0", f'SendPort = 1\nremarks = "{HEX.upper()}"', 9),
        ("SendPort = 0", f"SendPort = 0 # {PRIVATE}", 8),
    ],
)
def test_a_list_with_our_private_key_is_refused_at_its_place(directory, old, new, line):
    text = told(directory, PEERS.replace(old, new))
    assert text.startswith(f"peers.toml:{line}: ")
    assert "this node's own private key" in text
    assert "rait genkey" in text
    assert "public key in place of" in text
    assert PRIVATE[1:20] not in text
    assert HEX not in text.lower()


def test_a_plan_without_the_private_key_knows_it_by_its_public_one(directory):
    text = told(directory, PEERS.replace(OTHER, PRIVATE), secret=False)
    assert text.startswith(
        "peers.toml:1: Peers[0]: the list holds this node's own private key here"
    )
    assert PRIVATE not in text


def test_a_list_whose_only_good_entry_is_our_own_is_not_believed(directory):
    text = told(directory, PEERS.replace(OTHER, PUBLIC))
    assert text.startswith(f"peers.toml:8: Peers[1].SendPort: {NO_PORT}")
    assert "nothing is done" in text


def test_a_list_of_ourselves_alone_is_a_list_without_others(directory):
    alone = PEERS.partition("\n\n")[0].replace(OTHER, PUBLIC)
    assert registry(directory, alone).doubts == ()
    assert registry(directory, "peers = []").peers == ()


def test_a_list_may_ask_for_so_many_links_and_no_more(directory):
    key = "[[Peers]]\nPublicKey = {}\nSendPort = {}\nAddressFamily = 'ip4'\n"
    many = "".join(
        key.format(repr(b2a_base64(bytes([n]) * 32, newline=False).decode()), 50000 + n)
        for n in range(1, 5)
    )
    assert len(registry(directory, many, f"max_links = 4\n{GOOD}").peers) == 4
    text = told(directory, many, f"max_links = 3\n{GOOD}")
    assert text.startswith("peers.toml: the list asks for 4 links, but max_links is 3, ")
    assert "max_links" in text


def test_what_is_in_doubt_is_known_of_a_list_that_is_kept(directory, tmp_path, monkeypatch):
    monkeypatch.setattr(caches, "cache_directory", lambda: tmp_path)
    loaded = load(directory)
    with caches.keeping():
        first, second = load_peers(loaded), load_peers(loaded)
    assert first.doubts == second.doubts
    (doubt,) = first.doubts
    assert doubt.entry.family == "ip4"
    assert first.document.describe(doubt.problem) == first.warnings[0]


def test_etcd_has_peers_lists_and_nothing_else(tmp_path: Path) -> None:
    with pytest.raises(SourceError, match="no more than peers lists from etcd; give a path"):
        load_config("etcd://me:s3cret@h/p")
    conf = tmp_path / "rait.conf"
    conf.write_text(
        'private_key_file = "etcds://h/key"\ntransport {\n address_family = "ip4"\n'
        ' send_port = 1\n mtu = 1420\n ifprefix = "w"\n}\n'
    )
    with pytest.raises(ConfigError) as caught:
        load_key(load_config(str(conf)))
    assert str(caught.value).startswith(f"{conf}:1: private_key_file: etcds://h/key: rait reads no")

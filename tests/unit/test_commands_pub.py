"""`rait pub`, `remarks`, `port`, `genkey` and `pubkey` as their user sees them."""

from __future__ import annotations

import io
import json
import os
import subprocess
import sys
from base64 import b64decode
from pathlib import Path

import pytest

from rait.adapters.config import caches
from rait.app.load import load_config
from tests.unit.command_line import PRIVATE, Rait

PUBLIC = "5q1HDxrH29mQGy/CIhHtNEOn+6LRxh9HeJzQQeFTEVc="
OTHER = "+Y23l1qr9oEM4WlqPvp4IG2TPXdNCa11twipDvOHT3w="
TRANSPORT = 'transport {\n  address_family = "ip4"\n  send_port = 20001\n  mtu = 1420\n'
CONF = f'private_key = "{PRIVATE}"\n{TRANSPORT}  ifprefix = "a"\n  address = "a.example.net"\n}}\n'
HCL = f"""\
peers {{
  public_key = "{PUBLIC}"
  name = "gate \\u0024{{x}} \\"é\\""
  endpoint {{
    address_family = "ip4"
    send_port = 20001
    address = "a.example.net"
  }}
  remarks {{
    city = "Köln"
    list = [1, {{ "a" = null }}]
  }}
}}
"""
REMARKS = 'name = "gate $${x} \\"é\\""\nremarks {\n  city = "Köln"\n  list = [1, { a = null }]\n}\n'


@pytest.fixture
def conf(rait: Rait) -> Rait:
    rait.write(CONF + REMARKS, {})
    return rait


def test_an_entry_in_hcl(conf: Rait) -> None:
    assert conf("pub") == conf("p", "-") == (0, HCL, "")


def test_remarks_are_there_after_a_run_that_keeps_what_it_read(
    conf: Rait, monkeypatch: pytest.MonkeyPatch
) -> None:
    (conf.directory / "cache").mkdir(0o700)
    monkeypatch.setattr(caches, "cache_directory", lambda: str(conf.directory / "cache"))
    with caches.keeping():
        load_config(str(conf.conf))
    assert list((conf.directory / "cache").iterdir())
    assert conf("pub") == (0, HCL, "")
    assert conf("remarks", "city").out == "Köln\n"


@pytest.mark.parametrize("kind", ["hcl", "toml", "json"])
def test_a_file_has_the_format_of_its_name(conf: Rait, kind: str) -> None:
    path = conf.directory / f"gate.{kind}"
    assert conf("pub", str(path)) == (0, "", "")
    assert path.read_text() == conf("pub", "--format", kind).out
    assert path.stat().st_mode & 0o777 == 0o644
    assert conf("check", "--strict", str(path)) == (0, "1 node: nothing is wrong\n", "")
    assert conf("pub", str(path)).status == 0  # once more, as after a change
    assert conf("pub", "--json").out == conf("pub", "--format", "json").out


@pytest.mark.parametrize(
    "content", ["# mine", "peers = []\nx = [", f'[[Peers]]\nPublicKey = "{OTHER}"\nSendPort = 1\n'
    'AddressFamily = "ip4"\n', "\0"],
)  # fmt: skip
def test_a_file_with_anything_else_is_left_as_it_is(conf: Rait, content: str) -> None:
    path = conf.directory / "peers.toml"
    path.write_text(content)
    said = conf("pub", str(path))
    assert (said.status, said.out) == (2, "")
    assert "it stays as it is" in said.err
    assert path.read_text() == content


def test_nothing_is_written_over_or_through(conf: Rait) -> None:
    target, link, pipe = (conf.directory / name for name in ("target", "link", "pipe"))
    target.write_text("")
    link.symlink_to(target)
    os.mkfifo(pipe)
    for path in (link, pipe, conf.directory, conf.conf, "https://example.org/x", PRIVATE):
        said = conf("pub", str(path))
        assert (said.status, said.out) == (2, "")
        assert PRIVATE not in said.err
    assert target.read_text() == ""
    said = conf("pub", str(conf.directory / "none" / "x"))
    assert (said.status, said.out) == (1, "")
    assert "cannot be written" in said.err


@pytest.mark.parametrize(
    "remarks",
    [f'name = "{PRIVATE}"', f'remarks {{\n  a = ["{PRIVATE}"]\n}}',
     f'remarks {{\n  a = "x{b64decode(PRIVATE).hex().upper()}"\n}}'],
)  # fmt: skip
def test_the_private_key_is_never_shown(rait: Rait, remarks: str) -> None:
    rait.write(CONF + remarks, {})
    said = rait("pub")
    assert PRIVATE.rstrip("=") not in said.out + said.err
    assert b64decode(PRIVATE).hex() not in (said.out + said.err).lower()


def test_an_entry_that_a_check_refuses_is_not_printed(rait: Rait) -> None:
    second = TRANSPORT.replace("ip4", "ip6") + '  ifprefix = "b"\n}\n'
    rait.write(CONF + second, {})
    said = rait("pub")
    assert (said.status, said.out) == (2, "")
    assert "SendPort 20001 (ip6) is already that of this very node (ip4)" in said.err


def test_what_is_likely_wrong_is_told_beside_the_entry(rait: Rait) -> None:
    rait.write(CONF.replace("a.example.net", "127.0.0.1"), {})
    said = rait("pub")
    assert said.status == 0
    assert 'address = "127.0.0.1"' in said.out
    assert "loopback" in said.err


@pytest.mark.parametrize(
    ("key", "out"),
    [("city", "Köln\n"), ("list.0", "1\n"), ("list.1.a", "null\n"), ("list", None)],
)
def test_a_remark(conf: Rait, key: str, out: str | None) -> None:
    said = conf("remarks", key)
    assert said == conf("r", key)
    assert said.status == 0
    if out is None:
        assert json.loads(said.out) == [1, {"a": None}]
    else:
        assert said.out == out
    assert json.loads(conf("remarks", key, "--json").out) is not ...


def test_a_remark_needs_no_private_key_and_steps_into_blocks(rait: Rait) -> None:
    rait.write(f'{TRANSPORT}  ifprefix = "a"\n}}\nremarks {{\n  at {{\n    x = 1\n  }}\n}}\n', {})
    assert rait("remarks", "at.x").out == "1\n"
    rait.conf.write_text(
        '[[transport]]\naddress_family = "ip4"\nsend_port = 1\nmtu = 1400\nifprefix = "a"\n'
        f'[remarks]\n"a.b" = "x\\n\\u001b"\nbig = {10**30}\nday = 2026-01-31\n'
    )
    assert rait("remarks", "a.b").out == "x\n\\u001b\n"
    assert rait("remarks", "big").out == f"{10**30}\n"
    assert rait("remarks", "day").out == "2026-01-31\n"


@pytest.mark.parametrize("key", ["ctiy", "", ".", "city.x", "list.2", "list.x", "..", "list."])
def test_a_remark_that_is_not_there(conf: Rait, key: str) -> None:
    said = conf("remarks", key)
    assert (said.status, said.out) == (1, "")
    assert "there is no remark" in said.err
    assert ("did you mean" in said.err) == (key in ("ctiy", "city.x", "list.2", "list.x", "list."))


# rait port


def listed(rait: Rait, *ports: int) -> str:
    path = rait.directory / "list.toml"
    path.write_text(
        "\n".join(
            f'[[Peers]]\nPublicKey = "{OTHER}"\nSendPort = {port}\nAddressFamily = "ip4"\n'
            for port in ports
        )
        or "peers = []"
    )
    return str(path)


def test_a_port_for_a_key(rait: Rait) -> None:
    rait.conf.unlink()
    said = rait("port", "--key", PUBLIC, listed(rait))
    port = int(said.out)
    assert (said.status, said.err) == (0, "")
    assert 10000 <= port <= 32767
    assert rait("port", "--key", PUBLIC, listed(rait, port)).out == f"{port + 1}\n"
    assert rait("port", "--key", PUBLIC, "--family", "ip6", listed(rait)).out == f"{port + 1}\n"
    assert json.loads(rait("port", "--json", "--key", PUBLIC, listed(rait)).out) == {
        "send_port": port
    }
    own = rait("port", "--key", OTHER, listed(rait)).out
    assert rait("port", "--key", OTHER, listed(rait, int(own))).out == own


def test_a_port_without_a_key_is_any(rait: Rait) -> None:
    ports = {rait("port", "--range", "1000-1999", listed(rait)).out for _ in range(8)}
    assert len(ports) > 1
    assert rait("port", "--range", "5-6", listed(rait, 5)).out == "6\n"


def test_no_port_is_free(rait: Rait) -> None:
    said = rait("port", "--range", "5", listed(rait, 5))
    assert (said.status, said.out) == (1, "")
    assert "no port from 5 to 5 is free" in said.err


@pytest.mark.parametrize(
    ("arguments", "status"),
    [(("--key", "x"), 2), (("--range", "0"), 2), (("--range", "9-1"), 2), (("--family", "ip5"), 2),
     (("--key", PRIVATE[:-1]), 2), (("nowhere.toml",), 1)],
)  # fmt: skip
def test_wrong_usage_of_port(rait: Rait, arguments: tuple[str, ...], status: int) -> None:
    said = rait("port", listed(rait), *arguments)
    assert (said.status, said.out) == (status, "")
    assert PRIVATE[:-1] not in said.err


@pytest.mark.parametrize("text", ["", "a = 1", "peers = 7", "peers = ["])
def test_a_port_takes_a_list(rait: Rait, text: str) -> None:
    (rait.directory / "x").write_text(text)
    said = rait("port", str(rait.directory / "x"))
    assert (said.status, said.out) == (1, "")
    assert said.err


# Keys


def test_a_new_key_is_clamped_and_never_the_same(rait: Rait) -> None:
    keys = {rait("genkey").out.removesuffix("\n") for _ in range(4)}
    assert len(keys) == 4
    for key in keys:
        raw = b64decode(key, validate=True)
        assert len(raw) == 32
        assert (raw[0] & 7, raw[31] & 0xC0) == (0, 0x40)


def pubkey(rait: Rait, monkeypatch: pytest.MonkeyPatch, text: str, *more: str):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(text.encode())))
    return rait("pubkey", *more)


def test_the_public_key_of_a_key(rait: Rait, monkeypatch: pytest.MonkeyPatch) -> None:
    assert pubkey(rait, monkeypatch, f"{PRIVATE}\n") == (0, f"{PUBLIC}\n", "")


@pytest.mark.parametrize(
    "text", ["", "x", PRIVATE[:-2], f"{PRIVATE} {PRIVATE}", "A" * 43 + "=", "A" * 9999]
)
def test_what_is_no_key_is_not_shown(
    rait: Rait, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    said = pubkey(rait, monkeypatch, text)
    assert (said.status, said.out) == (1, "")
    assert said.err.startswith("rait: standard input")
    assert PRIVATE[:-2] not in said.err


def test_a_key_is_never_an_argument(rait: Rait, monkeypatch: pytest.MonkeyPatch) -> None:
    said = pubkey(rait, monkeypatch, "", PRIVATE)
    assert said.status == 2
    assert PRIVATE not in said.err


@pytest.mark.parametrize(("umask", "warns"), [(0o022, True), (0o077, False)])
def test_a_key_for_a_file_that_others_may_read(tmp_path: Path, umask: int, warns: bool) -> None:
    command = f"umask {umask:o}; exec {sys.executable} -m rait genkey > {tmp_path}/key"
    done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=True)
    assert ("others may read" in done.stderr) == warns
    assert len((tmp_path / "key").read_text()) == 45

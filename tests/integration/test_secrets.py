"""The private key is where WireGuard has it and in the user's own file, and nowhere else.

``Node.rait`` looks for it in whatever any test makes rait print; here is the rest.
"""

from __future__ import annotations

import base64
import contextlib
from pathlib import Path

import pytest

from tests.integration import machine
from tests.integration.conftest import MakeMesh
from tests.integration.harness import Node

pytestmark = pytest.mark.userspace  # and in the kernel tier those that depend on the kernel


def spellings(private_key: str) -> list[bytes]:
    """The key as it may be written: base64, hex (the UAPI's), and as it is."""
    raw = base64.b64decode(private_key)
    return [private_key.encode(), raw.hex().encode(), raw]


def process_texts() -> list[bytes]:
    """Arguments and environment of all processes but this one."""
    found = []
    for pid in machine.processes():
        for name in ("cmdline", "environ"):
            with contextlib.suppress(OSError):
                found.append(Path(f"/proc/{pid}/{name}").read_bytes())
    return found


def leaks(node: Node, texts: list[bytes]) -> list[bytes]:
    return [text for text in texts if any(s in text for s in spellings(node.private_key))]


@pytest.mark.kernel
def test_the_key_is_in_no_argument_output_or_journal(make_mesh: MakeMesh) -> None:
    a, b = make_mesh(2).nodes
    runs = [("up", "-d"), ("list", "-d"), ("up", "-d", "--json"), ("down", "-d")]
    for arguments in runs:
        running = a.start(*arguments, exec_=True)
        seen = process_texts()
        while not running.ended():
            seen += process_texts()
        result = running.wait()
        assert result.status == 0
        assert leaks(a, [*seen, *process_texts(), result.out.encode(), result.err.encode()]) == []
        if arguments[0] != "down":
            a.assert_has_exactly(a.links_to(b))
    assert list(a.directory.glob("journal.db*"))
    assert leaks(a, written_by_rait(a)) == []


def written_by_rait(node: Node) -> list[bytes]:
    """All that rait may have written: the journal and its cache files."""
    places = (node.directory, Path("/var/lib/rait"), Path("/var/cache/rait"), Path("/run/rait"))
    found = []
    for file in (file for place in places for file in place.rglob("*")):
        if file.is_file() and file != node.conf:
            with contextlib.suppress(FileNotFoundError):  # another run clears the cache at any time
                found.append(file.read_bytes())
    return found


@pytest.mark.parametrize(
    "line",
    [
        'private_key = "x{key}"',
        'private_key = "{key}',
        'private_key = {{"{key}"',
        'private_key = ["{key}"]',
        "private_key = {key}",
        'privat_key = "{key}"',
        'private_key "{key}"',
        'private_key = "{key}" \x00',
        'private_key_file = "{key}"',
        'transport = "{key}"',
        '[private_key]\n"{key}" = 1',
    ],
)
def test_the_key_is_in_no_error(make_mesh: MakeMesh, line: str) -> None:
    """A parser quotes what it cannot parse, and a decoder what it does not expect."""
    a = make_mesh(1).nodes[0]
    rest = a.conf_hcl().partition("\n")[2]
    a.write_conf(text=f"{line.format(key=a.private_key)}\n{rest}")
    result = a.rait("up", "-d")
    assert result.status == 2
    assert a.private_key.rstrip("=") not in result.out + result.err


def test_a_key_file_does_as_well(make_mesh: MakeMesh) -> None:
    mesh = make_mesh(2)
    a, b = mesh.nodes
    key_file = a.directory / "key"
    key_file.write_text(a.private_key + "\n")
    text = a.conf_hcl().replace(
        f'private_key = "{a.private_key}"', f'private_key_file = "{key_file}"'
    )
    assert a.private_key not in text
    a.write_conf(text=text)
    mesh.up()
    mesh.ping_all()
    a.assert_has_exactly(a.links_to(b))

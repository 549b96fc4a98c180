"""A preshared key that somebody set cuts a link off: rait sees, reports and removes it."""

from __future__ import annotations

import base64
import secrets
from pathlib import Path

import pytest

from tests.integration import machine
from tests.integration.command import Result
from tests.integration.conftest import MakeMesh
from tests.integration.harness import FAMILIES, Mesh, Node

pytestmark = [pytest.mark.userspace, pytest.mark.kernel]


class Psk:
    """A preshared key, in a file for wg(8), and all that rait printed since it was set."""

    def __init__(self, directory: Path) -> None:
        self.raw = secrets.token_bytes(32)
        self.file = directory / "psk"
        self.file.write_text(base64.b64encode(self.raw).decode())
        self.printed = ""

    def set_on(self, node: Node, link: str, other: Node) -> None:
        peer = ["peer", other.public_key, "preshared-key", str(self.file)]
        machine.wg("set", link, *peer, netns=node.target)

    def rait(self, node: Node, *arguments: str) -> Result:
        result = node.rait(*arguments)
        self.printed += result.out + result.err
        return result

    def assert_secret(self, node: Node) -> None:
        """Assert that the key is neither in what rait printed, nor in what it wrote."""
        written = [file.read_bytes() for file in node.directory.iterdir() if file.is_file()]
        text = base64.b64encode(self.raw)
        for spelt in (text, text.rstrip(b"="), self.raw.hex().encode(), self.raw):
            assert not any(spelt in each for each in (*written, self.printed.encode()))


def psks(node: Node) -> set[str]:
    """The preshared keys that wg(8) tells of all links."""
    lines = machine.wg_all("preshared-keys", node.target).splitlines()
    return {line.split("\t")[2] for line in lines if line.startswith(node.tag)}


@pytest.fixture
def mesh(make_mesh: MakeMesh) -> Mesh:
    mesh = make_mesh(2)
    mesh.up()
    return mesh


def test_a_preshared_key_is_seen_and_taken_away(mesh: Mesh, tmp_path: Path) -> None:
    a, b = mesh.nodes
    psk = Psk(tmp_path)
    for family in FAMILIES:
        psk.set_on(a, a.link_to(b, family), b)
    assert "(none)" not in psks(a)

    plan = psk.rait(a, "plan", "-d")
    assert plan.out.count("preshared key removed") == 2, plan
    assert psk.rait(a, "plan", "--detailed-exitcode").status == 2
    assert psk.rait(a, "export-state").status == 0
    assert "(none)" not in psks(a), "a plan touches nothing"
    up = psk.rait(a, "up", "-d")
    assert up.status == 0, up
    assert "2 changed" in up.out

    assert psks(a) == {"(none)"}
    mesh.ping_all()
    assert psk.rait(a, "up").out.startswith("rait up: nothing to do")
    assert psk.rait(a, "log", "--json").status == 0
    psk.assert_secret(a)


def test_a_preshared_key_cannot_be_brought_back_and_nothing_else_suffers(
    mesh: Mesh, tmp_path: Path
) -> None:
    a, b = mesh.nodes
    psk = Psk(tmp_path)
    link, other = (a.link_to(b, family) for family in FAMILIES)
    psk.set_on(a, link, b)
    moved = {"ip6": "2001:db8::77"}
    a.write_peers([b.entry(moved)])
    a.up()  # takes the key away, and moves the other link's endpoint
    assert moved["ip6"] in a.state()[other].endpoint

    plan = psk.rait(a, "rollback", "--dry-run")
    assert plan.status == 3, plan
    result = psk.rait(a, "rollback")
    assert result.status == 3, result
    for told in (plan.err, result.err):
        assert f"{link}: the preshared key that peer {b.public_key} had cannot be brought" in told
    assert b.addresses["ip6"] in a.state()[other].endpoint
    assert psks(a) == {"(none)"}
    psk.assert_secret(a)


def test_a_link_that_had_one_comes_back_without_it(mesh: Mesh, tmp_path: Path) -> None:
    a, b = mesh.nodes
    psk = Psk(tmp_path)
    link, other = (a.link_to(b, family) for family in FAMILIES)
    psk.set_on(a, link, b)
    a.down()
    result = psk.rait(a, "rollback")
    assert result.status == 3, result
    a.assert_has_exactly({link, other})
    assert psks(a) == {"(none)"}
    mesh.ping_all()

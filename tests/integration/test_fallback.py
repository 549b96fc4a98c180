"""A registry that answers, says that nothing is new, dies and comes back, and boots in between."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.integration import machine
from tests.integration.conftest import MakeMesh
from tests.integration.harness import Mesh, Node
from tests.integration.registry import Registry, answering

pytestmark = pytest.mark.userspace  # nothing here depends on the kernel

HOUR = 3600 * 10**9


@pytest.fixture
def mesh(make_mesh: MakeMesh) -> Mesh:
    return make_mesh(3)


@pytest.fixture
def registry(mesh: Mesh) -> Iterator[Registry]:
    """The registry of all nodes; the first one reads it, and is up."""
    a, b, c = mesh.nodes
    with answering(a.netns, b.entry() + c.entry()) as registry:
        falling_back(a, registry, "24h")
        a.up()
        yield registry


def falling_back(node: Node, registry: Registry, fallback: str | None) -> None:
    changes = {} if fallback is None else {"peers_fallback": f'"{fallback}"'}
    node.write_conf(peers=f'"{registry.url}"', **changes)


def lose_links(node: Node) -> None:
    """What a boot leaves of the links: nothing. The journal and what is beside it stay."""
    machine.remove_wireguard(node.tag)
    machine.remove_netns(node.target)


def kept(node: Node) -> Path:
    (path,) = node.directory.glob("journal.db.peers-*")
    return path


def grow_old(node: Node, hours: float) -> None:
    path = kept(node)
    then = path.stat().st_mtime_ns - int(hours * HOUR)
    os.utime(path, ns=(then, then))


def runs(node: Node) -> list[str]:
    return node.rait("log", "--oneline").out.splitlines()


def test_a_node_boots_without_its_registry(mesh: Mesh, registry: Registry) -> None:
    a, b, c = mesh.nodes
    links = a.links_to(b, c)
    before, inode = a.state(), kept(a).stat().st_ino
    assert a.up("--json").json["status"] == "unchanged"
    then = kept(a).stat()
    assert then.st_ino == inode, "an unchanged list is not written again"
    assert a.rait("plan").status == 0
    assert kept(a).stat().st_mtime_ns == then.st_mtime_ns, "a plan writes nothing"
    assert registry.answers == [200, 304, 304]

    registry.die()
    for arguments in (("plan",), ("up",), ("up",)):
        result = a.rait(*arguments, "--json")
        assert result.status == 3, result
        assert result.events == []
        assert "old (of " in result.json["old_peers_list"]
        assert "no connection" in result.json["old_peers_list"]
        assert result.json["old_peers_list"] in result.err
    assert (a.state(), len(runs(a))) == (before, 1)
    explained = a.rait("explain", a.link_to(b, "ip4"))
    assert explained.status == 0
    assert "the peers list is " in explained.err

    lose_links(a)
    grow_old(a, 3)
    falling_back(a, registry, None)
    assert a.rait("up").status == 1
    a.assert_has_exactly(set())
    falling_back(a, registry, "2h")
    result = a.rait("up")
    assert result.status == 1
    assert "3 hours old" in result.err
    assert "more than peers_fallback in rait.conf allows" in result.err
    a.assert_has_exactly(set())
    falling_back(a, registry, "24h")
    result = a.rait("up")
    assert result.status == 3, result
    assert "the peers list is 3 hours old" in result.err
    a.assert_has_exactly(links)
    b.up()
    assert not mesh.unanswered([(a, b)])
    assert "failed: peers list: the list of " in a.rait("log").out

    registry.start()
    registry.page = b.entry()
    result = a.up("--json")
    assert result.touched == a.links_to(c)
    a.assert_has_exactly(a.links_to(b))
    assert registry.answers == [200, 304, 304, 200]


def test_an_old_list_removes_nothing(mesh: Mesh, registry: Registry) -> None:
    a, b, c = mesh.nodes
    registry.page = b.entry()
    a.up()
    a.assert_has_exactly(a.links_to(b))
    a.knows(b, c)
    a.write_conf()
    a.up()
    before = a.state()
    registry.die()
    falling_back(a, registry, "always")
    for _ in range(2):
        result = a.rait("up", "--json")
        assert result.status == 3, result
        assert result.events == []
        assert {failed["link"] for failed in result.json["failed"]} == a.links_to(c)
    assert a.state() == before
    text = a.conf.read_text().replace("mtu = 1420", "mtu = 1380")
    second = text.index("transport {", text.index("transport {") + 1)
    a.write_conf(text=text[:second] + text[text.index("isolation {") :])
    result = a.rait("up", "--json")
    assert result.status == 3, result
    assert a.state() == before, "nothing is removed, whatever the reason"
    assert result.touched == {a.link_to(b, "ip4")}, "what stays gets its new settings"
    assert machine.links(a.target)[a.link_to(b, "ip4")]["mtu"] == 1380
    registry.start()
    falling_back(a, registry, "always")
    assert a.up("--json").touched == {*a.links_to(c), a.link_to(b, "ip4")}


def test_runs_that_fail_alike_by_an_old_list_are_counted_and_not_journaled_again(
    mesh: Mesh, registry: Registry
) -> None:
    """Each finds the list a little older."""
    a, b, _ = mesh.nodes
    lose_links(a)
    registry.die()
    with machine.socket_in(a.netns, socket.AF_INET, socket.SOCK_DGRAM) as holder:
        holder.bind(("0.0.0.0", b.ports["ip4"]))  # noqa: S104 - in the node's namespace
        assert a.rait("up").status == 3  # which makes the other links
        ages = set()
        while len(ages) < 2:
            result = a.rait("up", "--json")
            assert result.status == 3, result
            assert result.touched == {a.link_to(b, "ip4")}
            ages.add(result.json["old_peers_list"])
    assert len(runs(a)) == 3
    assert "repeated" in runs(a)[-1]


@pytest.mark.parametrize(
    ("status", "page"),
    [(404, ""), (503, ""), (200, "<html>"), (200, "[[Peers]]\n"), (200, "peers = {")],
)
def test_a_registry_that_is_broken_stands_in_nobodys_way(
    mesh: Mesh, registry: Registry, status: int, page: str
) -> None:
    a, b, c = mesh.nodes
    lose_links(a)
    good = kept(a).read_bytes()
    registry.status, registry.page = status, page
    falling_back(a, registry, None)
    assert a.rait("up").status == 1
    falling_back(a, registry, "24h")
    result = a.rait("up")
    assert result.status == 3, result
    a.assert_has_exactly(a.links_to(b, c))
    assert kept(a).read_bytes() == good


def test_what_is_kept_is_for_its_user_alone_and_shows_no_password(
    mesh: Mesh, registry: Registry
) -> None:
    a, _, _ = mesh.nodes
    path = kept(a)
    assert path.stat().st_mode & 0o777 == 0o600
    registry.die()
    result = a.rait("up", "-d")
    assert result.status == 3
    journal = a.journal.read_bytes()
    for word in ("password", "secret"):
        assert word not in result.out + result.err + path.name
        assert word.encode() not in path.read_bytes() + journal


def test_a_list_that_the_guard_stopped_is_not_kept(mesh: Mesh, registry: Registry) -> None:
    a, b, c = mesh.nodes
    registry.page = "peers = []\n"
    assert a.rait("up").status == 4
    registry.die()
    lose_links(a)
    assert a.rait("up").status == 3
    a.assert_has_exactly(a.links_to(b, c))


@pytest.mark.parametrize("harm", ["bytes", "mode", "link", "gone", "directory"])
def test_a_kept_list_that_was_harmed_counts_as_missing(
    mesh: Mesh, registry: Registry, harm: str
) -> None:
    a, b, _ = mesh.nodes
    path = kept(a)
    whole = path.read_bytes()
    if harm == "bytes":
        path.write_bytes(whole.replace(b.public_key.encode(), a.public_key.encode()))
    elif harm == "mode":
        path.chmod(0o644)
    elif harm == "gone":
        path.unlink()
    elif harm == "link":
        path.rename(a.directory / "elsewhere")
        path.symlink_to(a.directory / "elsewhere")
    else:
        path.unlink()
        path.mkdir()
    port = registry._port
    registry.die()
    before = a.state()
    result = a.rait("up")
    assert result.status == 1, result
    assert "no older list can stand in: " in result.err
    assert a.state() == before
    registry._port = port
    registry.start()
    result = a.up()
    assert registry.answers[-1] == 200, "the whole list again"
    if harm == "directory":
        assert "the peers list cannot be kept" in result.err
    else:
        assert path.is_file()
        assert not path.is_symlink()
        assert path.read_bytes().splitlines()[2:] == whole.splitlines()[2:]


def test_the_status_tells_how_old_the_list_is_and_downloads_none(
    mesh: Mesh, registry: Registry
) -> None:
    a, b, _ = mesh.nodes
    named = b.entry().replace("SendPort", 'Name = "gate"\nSendPort')
    registry.page = registry.page.replace(b.entry(), named)
    a.up()
    registry.die()
    grow_old(a, 3)
    asked = len(registry.answers)
    told = a.rait("status", "--json").json
    assert told["peers"] == {
        "age": pytest.approx(3 * 3600, abs=600),
        "too_old": False,
        "revision": 0,
    }
    peers = {link["name"]: link["peer"] for link in told["links"]}
    assert [peers[name] for name in sorted(a.links_to(b))] == ["gate", "gate"]
    assert "; peers list confirmed 3h ago; " in a.rait("status").out

    text = a.conf.read_text()
    for most, is_fault in (("4h", False), ("2h", True)):
        a.write_conf(text=f'{text}\nwatch {{\n  max_peers_age = "{most}"\n}}\n')
        checked = a.rait("status", "--check")
        assert ("the peers list is older than max_peers_age" in checked.out) == is_fault, checked
    kept(a).unlink()
    told = a.rait("status", "--json").json
    assert told["peers"] == {"age": None, "too_old": True, "revision": 0}
    assert len(registry.answers) == asked

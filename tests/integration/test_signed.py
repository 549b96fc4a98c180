"""Nodes whose list has to be signed: what is refused touches nothing, and no list comes back."""

from __future__ import annotations

import os
from collections.abc import Iterator
from hashlib import blake2b
from pathlib import Path

import pytest

from tests.integration import machine
from tests.integration.conftest import Nodes
from tests.integration.harness import Node
from tests.integration.registry import Registry
from tests.integration.watching import WATCH, StartWatch, causes
from tests.minisign import Signer

pytestmark = pytest.mark.userspace  # nothing here depends on the kernel


@pytest.fixture
def signer(tmp_path: Path) -> Signer:
    return Signer(tmp_path)


@pytest.fixture
def registry(nodes: Nodes) -> Iterator[Registry]:
    registry = Registry(nodes[0].netns)
    registry.start()
    try:
        yield registry
    finally:
        registry.die()


def sign(node: Node, signer: Signer, text: str, comment: str | None) -> None:
    path = node.peers
    path.write_text(text)
    signer.sign(path, comment)


def publish(registry: Registry, signer: Signer, text: str, comment: str) -> None:
    registry.signature = signer.text(signer.public.with_name("list.toml"), text, comment)
    registry.page = text


def runs(node: Node) -> list[str]:
    return node.rait("log", "--oneline").out.splitlines()


def test_a_list_in_a_file(nodes: Nodes, signer: Signer) -> None:
    a, b, c = nodes
    path = a.peers
    signature = path.with_name(f"{path.name}.minisig")
    both, one = b.entry() + c.entry(), b.entry()
    a.write_conf(peers_public_key=f'"{signer.key}"')

    result = a.rait("up")
    assert result.status == 1
    assert "peers.conf.minisig: there is no such file" in result.err
    assert "minisign -Sm LIST" in result.err
    assert a.interfaces() == {}

    sign(a, signer, both, "serial:5")
    a.up()
    a.assert_has_exactly(a.links_to(b, c))
    before = a.state()
    told = f"serial 5, signed by key {signer.number}"
    assert told in runs(a)[0]
    assert f"peers list {a.peers} with {told}" in a.rait("log", "show", "1").out
    assert a.rait("log", "--json").json["signed"]["number"] == 5
    explained = a.rait("explain", a.link_to(b, "ip4")).out
    assert f"peers list {a.peers} with {told}, sha256 " in explained
    assert f", by the peers list {a.peers} with {told}" in explained
    assert (a.up("--json").json["status"], len(runs(a))) == ("unchanged", 1)

    good = path.read_text(), signature.read_text()
    sign(a, signer, one, "serial:4")
    older = path.read_text(), signature.read_text()
    for text, signed in (
        (one, good[1]),
        (both, older[1]),
        older,
        (both, good[1][:-30]),
        (both, ""),
    ):
        path.write_text(text)
        signature.write_text(signed)
        for command in ("plan", "up"):
            result = a.rait(command)
            assert result.status == 1, result
            assert "peers.conf" in result.err
        assert (a.state(), len(runs(a))) == (before, 1)
    path.write_text(older[0])
    signature.write_text(older[1])
    state = a.directory / "state.json"
    state.write_text(a.rait("export-state").out)
    result = a.rait("plan", "--against", str(state))
    assert result.status == 1
    assert "it is older than the last list" in result.err
    assert a.rait("plan", "--accept-older", "--against", str(state)).status == 0
    result = a.rait("up", "--yes")
    assert result.status == 1
    assert f"it has serial 4, signed by key {signer.number}, and that one had {told}" in result.err

    assert a.rait("plan", "--accept-older").status == 0
    assert (a.state(), len(runs(a))) == (before, 1), "a plan accepts nothing"
    a.up("--accept-older", "--yes")
    a.assert_has_exactly(a.links_to(b))
    a.up()
    assert [told in run for run in runs(a)] == [True, False]
    path.write_text(good[0])
    signature.write_text(good[1])
    a.up()
    a.assert_has_exactly(a.links_to(b, c))


def test_a_new_list_that_changes_nothing_is_remembered(nodes: Nodes, signer: Signer) -> None:
    a, b, c = nodes
    a.write_conf(peers_public_key=f'["{signer.public}"]')
    text = b.entry() + c.entry()
    sign(a, signer, text, "serial:1")
    a.up()
    sign(a, signer, text + "# a remark\n", "serial:2")
    assert a.rait("plan").status == 0
    assert len(runs(a)) == 1
    before = a.state()
    for _ in range(2):
        assert a.up("--json").json["status"] == "unchanged"
        assert len(runs(a)) == 2
    assert "serial 2" in runs(a)[1]
    machine.remove_wireguard(a.tag)
    sign(a, signer, text, "serial:1")
    result = a.rait("up")
    assert result.status == 1
    assert "older than the last list" in result.err
    sign(a, signer, text, "serial:2")
    assert "but it is another list" in a.rait("up").err
    sign(a, signer, text, None)
    assert "older than the last list" in a.rait("up").err, "a timestamp is no serial"
    assert a.rait("log", "prune", "--keep", "1s").status == 0
    assert a.rait("up").status == 1
    sign(a, signer, text, "serial:3")
    a.up()
    assert a.state().keys() == before.keys()


def test_a_key_is_rotated(nodes: Nodes, signer: Signer, tmp_path: Path) -> None:
    a, b, c = nodes
    new = Signer(tmp_path, "new")
    a.write_conf(peers_public_key=f'"{signer.key}"')
    sign(a, signer, b.entry() + c.entry(), None)
    a.up()
    before = a.state()
    sign(a, new, b.entry() + c.entry(), None)
    result = a.rait("up")
    assert result.status == 1
    assert f"by key {new.number}, and only {signer.number} may sign" in result.err
    for keys in ((signer, new), (new,)):
        a.write_conf(peers_public_key=str([key.key for key in keys]).replace("'", '"'))
        a.up()
        assert a.state() == before
    assert new.number in runs(a)[-1]


def test_the_kept_list_stands_in_for_one_that_is_refused(
    nodes: Nodes, signer: Signer, registry: Registry
) -> None:
    a, b, c = nodes
    publish(registry, signer, b.entry() + c.entry(), "serial:2")
    settings = {"peers": f'"{registry.url}"', "peers_public_key": f'"{signer.key}"'}
    a.write_conf(peers_fallback='"24h"', **settings)
    a.up()
    before = a.state()
    assert "secret" not in a.rait("log", "show", "1").out

    def stands_in(says: str) -> None:
        result = a.rait("up")
        assert result.status == 3, result
        assert says in result.err
        assert "nothing is removed because of an old list" in result.err
        assert "password" not in result.err
        assert a.state() == before

    registry.page = b.entry()
    stands_in("only one of the two files is new yet")
    registry.signature = signer.text(signer.public.with_name("x"), c.entry(), "serial:9")
    stands_in("only one of the two files is new yet")
    registry.signature = ""
    stands_in("404 Not Found instead of 200 OK; the list has to be signed")
    registry.signature = "untrusted comment: " + "x" * 20000
    stands_in("larger than 16384 bytes")
    publish(registry, signer, b.entry(), "serial:1")
    stands_in("older than the last list")

    machine.remove_wireguard(a.tag)
    machine.remove_netns(a.target)
    (kept,) = a.directory.glob("journal*.peers-*")
    _change(kept, c.entry())
    result = a.rait("up")
    assert result.status == 1
    assert "no older list can stand in: the one that was kept is refused" in result.err
    a.assert_has_exactly(set())
    assert 304 not in registry.answers[-2:], "what was changed is not taken for what was sent"
    publish(registry, signer, b.entry() + c.entry(), "serial:2")
    a.up()
    assert a.state().keys() == before.keys()


def _change(kept: Path, unwanted: str) -> None:
    """Take an entry out of a kept list, as somebody would who knows how its digest is made."""
    _, _, content = kept.read_bytes().partition(b"\n")
    assert unwanted.encode() in content
    content = content.replace(unwanted.encode(), b"")
    whole = os.fsencode(kept.name) + b"\n" + content
    kept.write_bytes(blake2b(whole, digest_size=32).hexdigest().encode() + b"\n" + content)


def test_a_watch_waits_for_the_signature(
    nodes: Nodes, signer: Signer, registry: Registry, watch: StartWatch
) -> None:
    a, b, c = nodes
    publish(registry, signer, b.entry(), "serial:2")
    settings = {"peers": f'"{registry.url}"', "peers_public_key": f'"{signer.key}"'}
    a.write_conf(text=a.conf_hcl(**settings) + WATCH)
    watching = watch(a, exec_=True)
    watching.has(a.links_to(b))
    before = a.state()

    registry.page = b.entry() + c.entry()
    watching.says("only one of the two files is new yet")
    registry.asked(4)
    assert a.state() == before
    kept, lost = a.link_to(b, "ip4"), a.link_to(b, "ip6")
    machine.ip_batch([f"link del {lost}"], a.target)
    watching.has(a.links_to(b))
    publish(registry, signer, b.entry() + c.entry(), "serial:3")
    watching.has(a.links_to(b, c))

    publish(registry, signer, b.entry(), "serial:2")
    watching.says("older than the last list")
    machine.ip_batch([f"link del {lost}"], a.target)
    watching.has(a.links_to(b, c))
    assert a.state()[kept] == before[kept]

    assert a.rait("up", "--accept-older", "--yes").status == 0
    registry.asked(4)
    watching.has(a.links_to(b))
    assert watching.end().status == 0
    assert causes(a).count("peers list changed") <= 1  # none if a look has found it


def test_a_watch_sees_a_signature_in_a_file(
    nodes: Nodes, signer: Signer, watch: StartWatch
) -> None:
    a, b, c = nodes
    settings = {"peers_public_key": f'"{signer.public}"'}
    sign(a, signer, b.entry(), "serial:1")
    a.write_conf(text=a.conf_hcl(**settings) + WATCH)
    watching = watch(a)
    watching.has(a.links_to(b))
    a.peers.write_text(b.entry() + c.entry())
    watching.says("the signature is not one of this list")
    signer.sign(a.peers, "serial:2")
    watching.has(a.links_to(b, c))
    assert watching.end().status == 0

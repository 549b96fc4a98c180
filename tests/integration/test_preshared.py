"""Preshared keys and keepalive that policies set: on living links, whose sessions go on."""

from __future__ import annotations

import base64
import json
import secrets
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.integration import machine
from tests.integration.command import Result
from tests.integration.conftest import MakeMesh
from tests.integration.harness import LinkState, Mesh, Node
from tests.integration.test_secrets import process_texts, written_by_rait

pytestmark = [pytest.mark.userspace, pytest.mark.kernel]

INITIATION = 148
"""The bytes of a message that begins a handshake (WireGuard whitepaper, section 5.4.2)."""


def new_key() -> str:
    return base64.b64encode(secrets.token_bytes(32)).decode()


def write_key(path: Path, key: str) -> Path:
    path.write_text(key + "\n")
    path.chmod(0o600)
    return path


def with_policies(node: Node, *policies: str) -> None:
    """Write rait.conf with these policies, each as the lines in its block."""
    blocks = "".join(f"policy {{\n{policy}\n}}\n" for policy in policies)
    node.write_conf(text=node.conf_hcl() + blocks)


def sets_file(path: str | Path) -> str:
    return f"preshared_key_file = {json.dumps(str(path))}"


def of_peers(node: Node, what: str) -> set[str]:
    """What wg(8) tells of each peer of each link: ``preshared-keys`` or the like."""
    lines = machine.wg_all(what, node.target).splitlines()
    return {line.split("\t")[2] for line in lines if line.startswith(node.tag)}


def file_name(peer: Node) -> str:
    """The peer's key as a part of a file's name."""
    return peer.public_key.rstrip("=").replace("/", "_").replace("+", "-")


def same_sessions(node: Node, before: dict[str, LinkState]) -> bool:
    now = node.state()
    return now == before and all(link.handshake > 0 for link in (*before.values(), *now.values()))


def wait_for(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + machine.PATIENCE
    while not condition():
        assert time.monotonic() < deadline, "it did not come about"
        time.sleep(0.1)


def initiations(node: Node) -> int:
    """How many handshakes each link has begun at the least, where none has ended."""
    lines = machine.wg_all("transfer", node.target).splitlines()
    sent = [int(line.split("\t")[3]) for line in lines if line.startswith(node.tag)]
    return min(sent) // INITIATION


def test_a_preshared_key_comes_changes_and_goes_while_sessions_live_on(
    mesh: Mesh,
) -> None:
    _, b = mesh.nodes
    before = {node: node.state() for node in mesh.nodes}
    for key in (new_key(), new_key()):
        for node in mesh.nodes:
            file = write_key(node.directory / "psk", key)
            with_policies(node, sets_file(file.name))
            result = node.up("--json")
            assert [event["type"] for event in result.events] == ["PeerUpdated"] * 2
            assert of_peers(node, "preshared-keys") == {key}
            assert same_sessions(node, before[node]), "a session needs no preshared key"
            assert node.up("--json").events == []
            mesh.ping_all()
            assert same_sessions(node, before[node])
        b.down()
        b.up()  # and now each link needs a new handshake, which needs the preshared key
        mesh.ping_all()
        before = {node: node.state() for node in mesh.nodes}
    for node in mesh.nodes:
        node.write_conf()
        assert "preshared key removed" in node.up().out
        assert of_peers(node, "preshared-keys") == {"(none)"}
        assert same_sessions(node, before[node])
    b.down()
    b.up()
    mesh.ping_all()


def test_with_two_preshared_keys_there_is_no_new_session(mesh: Mesh) -> None:
    a, b = mesh.nodes
    keys = {a: new_key(), b: new_key()}
    for node, key in keys.items():
        write_key(node.directory / "psk", key)
        with_policies(node, sets_file("psk"), "keepalive = 1")
        node.up()
    b.down()
    b.up()
    # B begins handshakes by itself, for the sake of its keepalives.
    wait_for(lambda: initiations(b) >= 2)
    assert all(link.handshake == 0 for link in b.state().values())
    for node in mesh.nodes:
        assert node.up().out.startswith("rait up: nothing to do")
        assert of_peers(node, "preshared-keys") == {keys[node]}
    write_key(b.directory / "psk", keys[a])
    b.up()
    mesh.ping_all()


def test_keepalive_is_changed_in_place(mesh: Mesh) -> None:
    a, b = mesh.nodes
    before = a.state()
    for policies, told in ((["keepalive = 1"], "1"), (["keepalive = 25"], "25"), ([], "off")):
        with_policies(a, *policies)
        result = a.up("--json")
        assert [event["type"] for event in result.events] == ["PeerUpdated"] * 2
        assert of_peers(a, "persistent-keepalive") == {told}
        assert a.state() == before
        assert a.up("--json").events == []
    assert b.up("--json").events == []
    mesh.ping_all()


def test_what_somebody_else_set_in_their_place_is_mended(mesh: Mesh, tmp_path: Path) -> None:
    a, b = mesh.nodes
    key = new_key()
    write_key(a.directory / "psk", key)
    with_policies(a, sets_file("psk"), "keepalive = 20")
    a.up()
    link = a.link_to(b, "ip4")
    other = str(write_key(tmp_path / "other", new_key()))
    peer = ["peer", b.public_key]
    machine.wg("set", link, *peer, "preshared-key", other, netns=a.target)
    machine.wg("set", link, *peer, "persistent-keepalive", "3", netns=a.target)
    plan = a.rait("plan")
    assert plan.out.count("preshared key changed") == 2, "by somebody, and back"
    assert "keepalive 3 -> 20" in plan.out
    a.up()
    assert of_peers(a, "preshared-keys") == {key}
    assert of_peers(a, "persistent-keepalive") == {"20"}
    machine.wg("set", link, *peer, "preshared-key", "/dev/null", netns=a.target)
    assert "preshared key set" in a.up().out
    assert of_peers(a, "preshared-keys") == {key}


def test_each_peer_may_have_a_file_of_its_own(make_mesh: MakeMesh) -> None:
    mesh = make_mesh(3)
    a, b, c = mesh.nodes
    keys = {b: new_key(), c: new_key()}
    for node, key in keys.items():
        write_key(a.directory / f"{file_name(node)}.psk", key)
        write_key(node.directory / "psk", key)
        with_policies(node, sets_file("psk") + f'\nmatch {{ public_key = "{a.public_key}" }}')
    with_policies(a, sets_file("{public_key}.psk"))
    mesh.up()
    mesh.ping_all()
    assert of_peers(a, "preshared-keys") == set(keys.values())
    assert "(none)" in of_peers(b, "preshared-keys"), "to C"


def test_a_link_without_its_own_key_does_not_come_up_bare(make_mesh: MakeMesh) -> None:
    mesh = make_mesh(3)
    a, b, c = mesh.nodes
    file = write_key(a.directory / file_name(c), new_key())
    with_policies(a, sets_file("{public_key}"))
    result = a.rait("up")
    assert result.status == 3, result
    assert f"{a.link_to(b, 'ip4')}: {a.conf}:" in result.err
    assert f"{a.directory}/{file_name(b)}: there is no such file" in result.err
    a.assert_has_exactly(a.links_to(c))
    write_key(a.directory / file_name(b), new_key())
    a.up()
    before = a.state()
    file.unlink()
    result = a.rait("up")
    assert result.status == 3, result
    assert (a.state(), "(none)" in of_peers(a, "preshared-keys")) == (before, False), "as it was"
    with_policies(a)
    a.up()
    a.assert_has_exactly(a.links_to(b, c))


def test_without_a_file_that_is_of_all_nothing_is_touched(mesh: Mesh) -> None:
    a, _ = mesh.nodes
    before = a.state()
    for content, why in (
        (None, "there is no such file"),
        ("A" * 43 + "=", "all-zero key"),
        ("no key", "not a WireGuard key"),
        (f"{new_key()}\n{new_key()}", "not a WireGuard key"),
        (a.private_key, "this node's private key"),
        (a.public_key, "this node's public key"),
    ):
        if content is not None:
            write_key(a.directory / "psk", content)
        with_policies(a, sets_file("psk"), "keepalive = 9")
        result = a.rait("up")
        assert result.status == 2, result
        assert f"{a.conf}:" in result.err
        assert why in result.err
        assert content is None or content not in result.err
        assert a.state() == before
    assert a.rait("down").status == 0, "to remove links takes no preshared key"


def test_replay_and_rollback_set_a_key_that_a_file_still_has(mesh: Mesh) -> None:
    a, b = mesh.nodes
    key = new_key()
    for node in mesh.nodes:
        write_key(node.directory / f"{file_name(b if node is a else a)}.psk", key)
        with_policies(node, sets_file("{public_key}.psk"))
        node.up()
    a.down()
    assert a.rait("rollback").status == 0
    assert of_peers(a, "preshared-keys") == {key}
    mesh.ping_all()
    a.write_conf()
    a.up()
    assert of_peers(a, "preshared-keys") == {"(none)"}
    assert "cannot be brought back" in a.rait("rollback").err, "rait.conf names no file any more"
    with_policies(a, sets_file("{public_key}.psk"))
    assert a.rait("rollback").status == 0
    assert of_peers(a, "preshared-keys") == {key}


def test_a_new_private_key_leaves_preshared_keys_as_they_are(mesh: Mesh) -> None:
    """Their digests are keyed with it, so all of them change; nobody is blamed for that."""
    a, b = mesh.nodes
    key = new_key()
    for node in mesh.nodes:
        write_key(node.directory / "psk", key)
        with_policies(node, sets_file("psk"))
        node.up()
    a.private_key, a.public_key = machine.genkey()
    b.knows(a)
    b.up()
    with_policies(a, sets_file("psk"))
    result = a.up("--json")
    assert result.json["drift"] == []
    assert {event["type"] for event in result.events} == {"DeviceUpdated", "PeerUpdated"}
    assert a.up("--json").json["status"] == "unchanged"
    assert (of_peers(a, "preshared-keys"), of_peers(b, "preshared-keys")) == ({key}, {key})
    mesh.ping_all()


def test_a_preshared_key_is_in_its_file_and_with_wireguard_alone(make_mesh: MakeMesh) -> None:
    a, _ = make_mesh(2).nodes
    keys = [new_key(), new_key()]
    runs: list[tuple[str, ...]] = [("up",), ("up", "--json"), ("list",), ("list", "--json")]
    runs += [("log", "--json"), ("log",), ("export-state",), ("plan", "--json")]
    runs += [("down",), ("rollback",), ("replay", "--json")]
    seen: list[bytes] = []
    for key in keys:
        write_key(a.directory / "psk", key)
        # A command that prints all keys of its link, of whose output the journal keeps the end.
        dump = 'up_command = ["sh", "-c", "wg show $RAIT_LINK dump"]'
        with_policies(a, sets_file("psk"), dump)
        for arguments in runs:
            running = a.start(*arguments, "-d", exec_=True)
            while not running.ended():
                seen += process_texts()
            result: Result = running.wait()
            assert result.status == 0, (arguments, result)
            seen += [*process_texts(), result.out.encode(), result.err.encode()]
    assert of_peers(a, "preshared-keys") == {keys[1]}
    assert any(b"(left out)" in text and b"192.0.2.2:50001" in text for text in seen)
    (a.directory / "psk").unlink()
    seen += written_by_rait(a)
    for key in keys:
        raw = base64.b64decode(key)
        for spelt in (key.encode(), key.rstrip("=").encode(), raw.hex().encode(), raw):
            assert not any(spelt in text for text in seen)
    assert {link["peers"][0]["preshared_key"] for link in a.listed().values()} == {True}

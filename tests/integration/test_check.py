"""A registry that its nodes write, and what `rait check` says of it before they read it."""

from __future__ import annotations

import pytest

from tests.integration.conftest import MakeMesh
from tests.integration.harness import FAMILIES, Node

pytestmark = pytest.mark.userspace

NAME = 'gate ${x} %{y} \\ "é"'


def write_conf(node: Node, name: str) -> None:
    """A rait.conf that says where others reach the node, and who it is."""
    text = node.conf_hcl()
    for family in FAMILIES:
        port = f"  send_port = {node.ports[family]}\n"
        text = text.replace(port, f'{port}  address = "{node.addresses[family]}"\n')
    shown = name.replace("\\", "\\\\").replace('"', '\\"')
    shown = shown.replace("${", "$${").replace("%{", "%%{")
    node.write_conf(text=f'{text}name = "{shown}"\nremarks {{\n  of = "{shown}"\n}}\n')


@pytest.mark.parametrize("language", ["hcl", "toml"])
def test_nodes_that_publish_themselves_reach_each_other(make_mesh: MakeMesh, language: str) -> None:
    mesh = make_mesh(3)
    entries = []
    for number, node in enumerate(mesh.nodes):
        write_conf(node, f"{NAME} {number}")
        published = node.rait("pub", "--format", language)
        assert published.status == 0, published
        entries.append(published.out)
    registry = mesh.nodes[0].peers
    for node in mesh.nodes:
        node.write_peers(entries)
    checked = mesh.nodes[0].rait("check", str(registry))
    assert checked.status == 0, checked
    assert checked.out.splitlines()[-1].startswith("3 nodes: ")
    for node in mesh.nodes:
        assert "skipped" not in node.up().err
    mesh.ping_all()
    a, b, _ = mesh.nodes
    peer = a.listed()[a.link_to(b, "ip4")]["peers"][0]
    assert peer["name"] == f"{NAME} 1"
    assert b.rait("remarks", "of").out == f"{NAME} 1\n"


def test_a_check_is_clean_once_a_node_skips_nothing(make_mesh: MakeMesh) -> None:
    a, b, c = make_mesh(3).nodes
    taken = c.entry().replace(f"SendPort = {c.ports['ip4']}", f"SendPort = {b.ports['ip4']}")
    wrong = c.entry().replace(f"SendPort = {c.ports['ip6']}", "SendPort = 0")
    for entry, status in ((taken, 3), (wrong, 3), (c.entry(), 0)):
        a.write_peers([b.entry(), entry])
        checked = a.rait("check", "--json", str(a.peers)).json
        up = a.rait("up")
        assert up.status == status, up
        assert checked["errors"] == (1 if status else 0)
        assert bool(status) == ("skipped" in up.err)

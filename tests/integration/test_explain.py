"""``rait explain`` on links that puzzle their owner: each time, does it say why?"""

from __future__ import annotations

import pytest

from tests.integration import machine
from tests.integration.conftest import MakeMesh
from tests.integration.harness import Mesh, Node

pytestmark = pytest.mark.userspace  # nothing here depends on the kernel

POLICIES = """
policy {
  keepalive = 25
}
policy {
  match { name = "hub*" }
  mtu = 1300
  keepalive = 15
  addresses = ["10.77.0.1 peer 10.77.0.{remarks.number}/32"]
}
policy {
  match {
    remarks { role = "leaf" }
  }
  skip = true
}
"""


@pytest.fixture
def mesh(make_mesh: MakeMesh) -> Mesh:
    mesh = make_mesh(3)
    a, b, c = mesh.nodes
    a.write_conf(text=a.conf_hcl(name='"alpha"') + POLICIES)
    a.write_peers([named(b, "hub1", number=5), named(c, "quiet")])
    a.up()
    return mesh


def named(node: Node, name: str, **remarks: object) -> str:
    """The node's entry in the registry, with a name and remarks."""
    more = "".join(f'Remarks.{key} = "{value}"\n' for key, value in remarks.items())
    return node.entry().replace("[[Peers]]\n", f'[[Peers]]\nName = "{name}"\n{more}')


def explained(node: Node, what: str) -> str:
    result = node.rait("explain", what)
    assert result.status == 0, result
    return result.out


def row(text: str, setting: str) -> list[str]:
    """The columns of one setting in the table of the only link."""
    (line,) = [line.strip() for line in text.splitlines() if line.strip().startswith(setting)]
    return [column.strip() for column in line.split("  ") if column.strip()]


def line_of(node: Node, text: str) -> int:
    """The number of the only line of rait.conf with this text."""
    (number,) = [n for n, line in enumerate(node.conf.read_text().splitlines(), 1) if text in line]
    return number


def test_each_value_has_the_line_that_gave_it(mesh: Mesh) -> None:
    a, b, _ = mesh.nodes
    text = explained(a, a.link_to(b, "ip4"))
    assert f"peer hub1 ({b.public_key})" in text
    assert row(text, "keepalive")[1:3] == [
        "15 s",
        f"{a.conf}:{line_of(a, 'keepalive = 15')}: policy[1].keepalive",
    ]
    assert row(text, "mtu")[1:3] == ["1300", f"{a.conf}:{line_of(a, 'mtu = 1300')}: policy[1].mtu"]
    assert row(text, "ifgroup")[2] == f"{a.conf}:{line_of(a, 'ifgroup')}: isolation[0].ifgroup"
    assert row(text, "addresses")[1] == "10.77.0.1 peer 10.77.0.5/32"
    assert row(text, "listen port")[2] == f"{a.peers}:1: Peers[0]"
    assert row(text, "backend")[2].endswith(": backend")
    assert row(text, "up_command")[1:] == ["none", "-", "=", "-"]
    assert "rait up would change nothing" in text
    assert "last changed by run 1 (up)" in text


def test_a_transport_gives_what_no_policy_gives(mesh: Mesh) -> None:
    a, _, c = mesh.nodes
    text = explained(a, a.link_to(c, "ip6"))
    assert row(text, "fwmark")[2].endswith(": transport[1].fwmark")
    assert row(text, "mtu")[2].endswith(": transport[1].mtu")
    assert row(text, "keepalive")[2].endswith(": policy[0].keepalive")


def test_a_value_that_somebody_changed_stands_beside_the_wanted_one(mesh: Mesh) -> None:
    a, b, _ = mesh.nodes
    link = a.link_to(b, "ip4")
    machine.run(["ip", "link", "set", link, "mtu", "1290"], netns=a.target)
    text = explained(a, link)
    assert row(text, "mtu")[1] == "1300"
    assert row(text, "mtu")[3:] == ["=", "1290"]
    assert f"found: ~ {link} mtu 1300 -> 1290" in text
    assert f"rait up would do: ~ {link} mtu 1290 -> 1300" in text


def test_an_endpoint_that_roamed_is_shown_and_no_fault(mesh: Mesh) -> None:
    a, b, _ = mesh.nodes
    link = a.link_to(b, "ip4")
    machine.wg("set", link, "peer", b.public_key, "endpoint", "192.0.2.99:7", netns=a.target)
    text = explained(a, link)
    assert row(text, "endpoint")[4] == "192.0.2.99:7"
    assert row(text, "endpoint")[3] == "="


@pytest.mark.parametrize("how", ["name", "key", "beginning of the key"])
def test_a_peer_is_found_by_its_name_and_key(mesh: Mesh, how: str) -> None:
    a, b, _ = mesh.nodes
    what = {"name": "hub1", "key": b.public_key, "beginning of the key": b.public_key[:8]}[how]
    result = a.rait("explain", what, "--json").json
    assert [peer["public_key"] for peer in result["peers"]] == [b.public_key]
    assert {link["name"] for link in result["links"]} == a.links_to(b)
    assert result["peers"][0]["remarks"] == {"number": "5"}


def test_a_skipped_peer_has_the_line_that_skips_it(mesh: Mesh) -> None:
    a, b, c = mesh.nodes
    a.write_peers([named(b, "hub1", number=5), named(c, "quiet", role="leaf")])
    text = explained(a, "quiet")
    assert f"{a.conf}:{line_of(a, 'skip = true')}: policy[2].skip: this policy skips" in text
    assert f"rait up would do: - {a.link_to(c, 'ip4')}" in text
    assert a.rait("up", "--yes").status == 0
    assert "there is no link to it" in explained(a, "quiet")


def test_a_newcomer_without_a_link_learns_who_has_its_port(mesh: Mesh) -> None:
    a, b, c = mesh.nodes
    thief = b.entry().replace(b.public_key, machine.genkey()[1])
    a.write_peers([thief.replace("[[Peers]]\n", '[[Peers]]\nName = "late"\n'), *listed(b, c)])
    text = explained(a, "late")
    assert f"already that of peer {b.public_key}, which has the link" in text
    assert "there is no link to it" in text


def listed(b: Node, c: Node) -> tuple[str, str]:
    return named(b, "hub1", number=5), named(c, "quiet")


def test_an_entry_that_cannot_be_read_is_quoted_with_its_line(mesh: Mesh) -> None:
    a, b, c = mesh.nodes
    a.write_peers([named(b, "hub1", number=5), c.entry().replace("SendPort = 5", "SendPort = 95")])
    text = explained(a, c.public_key)
    assert "is not in the peers list, or its entry cannot be read" in text
    assert f"{a.peers}:" in text
    assert "must be a port" in text
    assert "left as it is" in text


def test_a_peer_that_left_is_said_to_lose_its_link(mesh: Mesh) -> None:
    a, b, c = mesh.nodes
    a.write_peers([named(b, "hub1", number=5)])
    text = explained(a, a.link_to(c, "ip4"))
    assert "is not in the peers list" in text
    assert row(text, "mtu")[1] == "-"
    assert f"rait up would do: - {a.link_to(c, 'ip4')}" in text


def test_a_name_that_another_interface_has_is_said(mesh: Mesh) -> None:
    a, b, _ = mesh.nodes
    link = a.link_to(b, "ip4")
    a.down()
    machine.run(["ip", "link", "add", link, "type", "bridge"], netns=a.target)
    assert "an interface of kind bridge already has this name" in explained(a, link)


def test_an_address_without_its_remark_and_a_name_without_an_address(mesh: Mesh) -> None:
    a, b, c = mesh.nodes
    hub = named(b, "hub2").replace(f'"{b.addresses["ip4"]}"', '"no-such-host.invalid"')
    a.write_peers([hub, named(c, "quiet")])
    text = explained(a, "hub2")
    assert "the registry has no remarks.number of this peer" in text
    assert '"no-such-host.invalid" has no ip4 address' in text


def test_this_node_and_a_missing_transport_are_named(mesh: Mesh) -> None:
    a, b, c = mesh.nodes
    conf = a.conf.read_text()
    start = conf.index("transport {", conf.index("transport {") + 1)
    a.write_conf(text=conf[:start] + conf[conf.index("isolation {") :])
    a.write_peers([named(a, "alpha"), *listed(b, c)])
    assert "this is the entry of this node itself" in explained(a, "alpha")
    assert "rait.conf has no transport for ip6" in explained(a, "quiet")


def test_what_there_is_not_is_a_clear_error_and_nothing_is_written(mesh: Mesh) -> None:
    a, *_ = mesh.nodes
    journal = a.journal.read_bytes()
    result = a.rait("explain", "nobody")
    assert result.status == 2, result
    assert '"nobody" is no link of this node, and no name or public key of a peer' in result.err
    assert a.journal.read_bytes() == journal

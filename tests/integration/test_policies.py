"""Policies of rait.conf, on living links: changed in place, with the session kept."""

from __future__ import annotations

import pytest

from tests.integration import machine
from tests.integration.conftest import MakeMesh
from tests.integration.harness import Handshake, Mesh, Node
from tests.integration.test_sources import conf_toml

pytestmark = [pytest.mark.userspace, pytest.mark.kernel]

HCL = """
policy {
  keepalive = 7
  mtu = 1300
}
policy {
  match {
    address_family = "ip6"
  }
  keepalive = 25
}
policy {
  match {
    name = ["core-*", "b"]
    remarks {
      place = ["ams*", "fra*"]
    }
  }
  fwmark = "0x37"
}
"""
TOML = """
[[policy]]
keepalive = 7
mtu = 1300

[[policy]]
match = { address_family = "ip6" }
keepalive = 25

[[policy]]
fwmark = 0x37
[policy.match]
name = ["core-*", "b"]
remarks = { place = ["ams*", "fra*"] }
"""

HUB = """
policy {
  skip = true
}
policy {
  match {
    name = "hub-*"
  }
  skip = false
}
"""


def named(node: Node, name: str, **remarks: str) -> str:
    """The entry of a node with a name and remarks; in the flat spelling, any of its entries may
    have them."""
    marks = "".join(f'{key} = "{value}"\n' for key, value in remarks.items())
    return f'{node.entry()}Name = "{name}"\n[Peers.Remarks]\n{marks}'


def configure(node: Node, policies: str) -> None:
    node.write_conf(text=node.conf_hcl() + policies)


def sessions(node: Node) -> dict[str, tuple[int, Handshake]]:
    """What a link loses if it is made again: its index, its last handshake and its counters."""
    return {name: (link.index, link.handshake) for name, link in node.state().items()}


def assert_kept(node: Node, before: dict[str, tuple[int, Handshake]]) -> None:
    after = sessions(node)
    assert after.keys() >= before.keys()
    for name, (index, handshake) in before.items():
        assert handshake, "there was a session to keep"
        assert after[name] == (index, handshake)


def settings(node: Node) -> dict[str, tuple[int, int, int]]:
    """The keepalive, fwmark and MTU of each link, as wg(8) and ip(8) tell them."""
    lines = machine.wg_all("persistent-keepalive", node.target).splitlines()
    keepalives = {name: value for name, _, value in (line.split("\t") for line in lines)}
    interfaces = node.interfaces()
    return {
        name: (
            0 if keepalives[name] == "off" else int(keepalives[name]),
            0 if state.fwmark == "off" else int(state.fwmark, 16),
            interfaces[name]["mtu"],
        )
        for name, state in node.state().items()
    }


def runs(node: Node) -> int:
    return len(node.rait("log", "--json").out.splitlines())


@pytest.mark.parametrize("language", ["hcl", "toml"])
def test_a_living_link_is_changed_in_place_and_back(mesh: Mesh, language: str) -> None:
    a, b = mesh.nodes
    link4, link6 = a.link_to(b, "ip4"), a.link_to(b, "ip6")
    default = {link4: (0, 54, 1420), link6: (0, 54, 1400)}
    before = sessions(a)
    a.write_peers([named(b, "b", place="fra2")])
    assert a.up("--json").json["status"] == "unchanged"

    text = a.conf_hcl() + HCL if language == "hcl" else conf_toml(a) + TOML
    a.write_conf(text=text)
    plan = a.rait("plan", "-d")
    assert plan.status == 0, plan
    assert "keepalive 0 -> 7" in plan.out
    assert "keepalive 0 -> 25" in plan.out
    assert "mtu 1420 -> 1300" in plan.out
    assert "fwmark 54 -> 55" in plan.out
    assert settings(a) == default, "a plan touches nothing"

    changed = a.up("--json")
    kinds = {"PeerUpdated", "LinkUpdated", "DeviceUpdated"}
    assert {event["type"] for event in changed.events} == kinds
    assert settings(a) == {link4: (7, 55, 1300), link6: (25, 55, 1300)}
    assert_kept(a, before)
    count = runs(a)
    assert a.up("--json").json["status"] == "unchanged"
    assert runs(a) == count, "with nothing to do, nothing is written"
    mesh.ping_all()

    assert a.rait("rollback").status == 0
    assert settings(a) == default
    assert_kept(a, before)
    configure(a, "")
    assert a.up("--json").json["status"] == "unchanged"
    mesh.ping_all()


def test_what_others_change_is_set_again(mesh: Mesh) -> None:
    a, b = mesh.nodes
    link = a.link_to(b, "ip4")
    configure(a, 'policy {\n  match { address_family = "ip4" }\n  keepalive = 9\n}\n')
    a.up()
    before = sessions(a)
    machine.wg("set", link, "peer", b.public_key, "persistent-keepalive", "33", netns=a.target)
    report = a.up("--json").json
    assert [event["type"] for event in report["drift"]] == ["PeerUpdated"]
    assert settings(a)[link][0] == 9
    assert_kept(a, before)


def test_a_skipped_peer_loses_its_link_and_no_other_suffers(make_mesh: MakeMesh) -> None:
    mesh = make_mesh(3)
    a, b, c = mesh.nodes
    a.write_peers([named(b, "edge-1"), named(c, "hub-1")])
    mesh.up()
    mesh.ping_all()
    before = {name: kept for name, kept in sessions(a).items() if name in a.links_to(c)}

    configure(a, HUB)
    plan = a.rait("plan", "--json")
    assert plan.status == 0, plan
    assert plan.touched == a.links_to(b)
    up = a.up("--json")
    assert {(e["type"], e["link"]) for e in up.events} == {
        ("LinkRemoved", name) for name in a.links_to(b)
    }
    assert up.json["warnings"] == []
    a.assert_has_exactly(a.links_to(c))
    assert_kept(a, before)
    assert a.up("--json").json["status"] == "unchanged"

    configure(a, "")
    assert a.up("--json").touched == a.links_to(b)
    assert_kept(a, before)
    mesh.ping_all()


def test_a_mistake_names_its_line_and_changes_nothing(mesh: Mesh) -> None:
    a, _ = mesh.nodes
    before = a.state()
    policy = 'policy {\n  mtu = 1300\n  match {\n    nme = "x"\n  }\n  keepalive = 70000\n}\n'
    configure(a, policy)
    line = len(a.conf_hcl().splitlines())
    result = a.rait("up")
    assert result.status == 2, result
    for told in (
        f"rait.conf:{line + 4}: policy[0].match[0].nme: unknown key; did you mean name?",
        f"rait.conf:{line + 6}: policy[0].keepalive: must be a number of seconds from 0 to 65535",
    ):
        assert told in result.err
    assert a.state() == before


def test_a_link_whose_entry_cannot_be_read_keeps_what_policies_gave_it(mesh: Mesh) -> None:
    a, b = mesh.nodes
    link4, link6 = a.link_to(b, "ip4"), a.link_to(b, "ip6")
    configure(a, "policy {\n  keepalive = 9\n  mtu = 1300\n}\n")
    a.up()
    before = sessions(a)
    a.write_peers([b.entry().replace('"ip4"', '"ip5"')])
    configure(a, "policy {\n  keepalive = 11\n}\n")
    result = a.rait("up")
    assert result.status == 3, result
    assert "left as it is, as the entry of its peer cannot be read" in result.err
    assert settings(a) == {link4: (9, 54, 1300), link6: (11, 54, 1400)}
    assert_kept(a, before)


def test_a_remark_that_makes_no_address_is_told_and_costs_the_address_alone(mesh: Mesh) -> None:
    a, b = mesh.nodes
    template = "172.20.0.1 peer {remarks.ip}"
    configure(
        a, f'policy {{\n  match {{ address_family = "ip4" }}\n  addresses = "{template}"\n}}\n'
    )
    line = len(a.conf_hcl().splitlines()) + 3
    before = sessions(a)
    for remark in ("172.20.0.2/8", "172.20.0.2 peer 172.20.0.3", "fd00::1", "nobody"):
        a.write_peers([named(b, "b", ip=remark)])
        result = a.rait("up")
        assert result.status == 3, result
        told = f'rait.conf:{line}: policy[0].addresses: the address "{template}" is left out'
        assert told in result.err
    assert "172.20" not in machine.run(["ip", "addr"], a.target)
    a.write_peers([named(b, "b", ip="172.20.0.2")])
    a.up()
    assert "inet 172.20.0.1 peer 172.20.0.2/32" in machine.run(["ip", "addr"], a.target)
    assert_kept(a, before)

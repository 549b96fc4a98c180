"""A peer that is reached over a link-local address has an endpoint with a zone, and keeps it."""

from __future__ import annotations

import pytest

from tests.integration import machine
from tests.integration.conftest import MakeMesh
from tests.integration.harness import FWMARK, Node
from tests.integration.strangers import link_of, strangers, sync, write_peers

pytestmark = pytest.mark.kernel

A, B = strangers(1, 2)


@pytest.fixture
def node(make_mesh: MakeMesh) -> Node:
    return make_mesh(1).nodes[0]


def endpoint_listed(node: Node, name: str) -> str:
    (peer,) = node.listed()[name]["peers"]
    return peer["endpoint"]


def test_an_endpoint_with_a_zone_is_shown_removed_and_brought_back(node: Node) -> None:
    """As WireGuard learns it when the peer moves there; set by hand, for no peer is there."""
    passive = A.entry.replace(f'Endpoint = "{A.address}"\n', "")
    node.write_peers([passive])
    node.up()
    name = link_of(node, A)
    index = machine.links(node.netns)["underlay"]["ifindex"]
    zoned = f"[fe80::7%{index}]:50007"
    machine.wg("set", name, "peer", A.public_key, "endpoint", zoned, netns=node.target)

    assert endpoint_listed(node, name) == zoned
    assert node.rait("plan", "--json").status == 0
    node.up()
    assert endpoint_listed(node, name) == zoned, "a peer without an address is waited for"

    node.write_conf(text=node.conf_hcl().replace(f"fwmark = {FWMARK}", "fwmark = 77"))
    node.up()
    assert endpoint_listed(node, name) == zoned

    write_peers(node, B)
    gone = node.up("--json", "--yes").json
    assert {event["type"] for event in gone["events"]} == {"LinkRemoved", "LinkAdded"}
    back = node.rait("rollback")
    assert back.status == 0, back
    assert set(node.listed()) == {name}
    sync(node, A)
    assert endpoint_listed(node, name) == f"{A.address}:{node.ports['ip4']}"

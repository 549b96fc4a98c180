"""Peers with host names, whose names fail and rotate under real sessions."""

from __future__ import annotations

import socket
from typing import Any

import pytest

from rait.adapters.config import resolve as module
from tests.integration.conftest import MakeMesh
from tests.integration.harness import Mesh, Node

pytestmark = pytest.mark.userspace

NAME = "b.example.org"
ELSEWHERE = {"ip4": "192.0.2.99", "ip6": "2001:db8::99"}
Names = dict[str, str]


@pytest.fixture
def names(monkeypatch: pytest.MonkeyPatch) -> Names:
    """What the name has in each family; nothing where it does not resolve. Forks look here too."""
    answers: Names = {}
    families = {socket.AF_INET: "ip4", socket.AF_INET6: "ip6"}

    def getaddrinfo(name: str, _: object, family: int, kind: int) -> list[Any]:
        assert name == NAME
        address = answers.get(families[socket.AddressFamily(family)])
        if address is None:
            raise socket.gaierror(socket.EAI_AGAIN, "Temporary failure in name resolution")
        return [(family, kind, 17, "", (address, 0))]

    monkeypatch.setattr(module.socket, "getaddrinfo", getaddrinfo)  # type: ignore[attr-defined]
    return answers


@pytest.fixture
def mesh(make_mesh: MakeMesh, names: Names) -> Mesh:
    """Two nodes with live sessions, of which the first finds the second by its name."""
    mesh = make_mesh(2)
    a, b = mesh.nodes
    names.update(b.addresses)
    a.write_peers([b.entry(dict.fromkeys(names, NAME))])
    mesh.up()
    mesh.ping_all()
    return mesh


def endpoints(node: Node) -> dict[str, str | None]:
    return {name: link.endpoint for name, link in node.state().items()}


def test_a_name_that_rotates_moves_no_live_session(mesh: Mesh, names: Names) -> None:
    a, b = mesh.nodes
    before = endpoints(a)
    for answer in (ELSEWHERE, b.addresses, ELSEWHERE):
        names.update(answer)
        assert a.up("--json").json["status"] == "unchanged"
    assert endpoints(a) == before
    mesh.ping_all()


def test_without_dns_links_come_up_where_they_last_were(mesh: Mesh, names: Names) -> None:
    """As after a restart, with a `down` before it."""
    a, _ = mesh.nodes
    before = endpoints(a)
    a.down()
    names.clear()
    result = a.up("--json")
    assert "has no ip4 address: Temporary failure in name resolution" in result.err
    assert endpoints(a) == before
    mesh.ping_all()
    assert a.up("--json").json["status"] == "unchanged"

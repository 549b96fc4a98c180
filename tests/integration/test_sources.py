"""Where configuration and peers may come from."""

from __future__ import annotations

import gzip
import http.server
import json
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.integration import machine
from tests.integration.conftest import MakeMesh
from tests.integration.harness import FAMILIES, FWMARK, IFGROUP, MTU, Mesh, Node

CUT = ".cut"

pytestmark = pytest.mark.userspace  # nothing here depends on the kernel


@pytest.fixture
def pair(make_mesh: MakeMesh) -> Mesh:
    return make_mesh(2)


@contextmanager
def served(netns: str, pages: dict[str, str]) -> Iterator[str]:
    """A web server on the namespace's loopback, and its address."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            page = pages.get(self.path)
            self.send_response(404 if page is None else 200)
            body = (page or "").encode()
            if self.path.endswith(CUT):
                # As long as announced, and yet not whole.
                body = gzip.compress(body)[:-8]
                self.send_header("Content-Encoding", "gzip")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler, bind_and_activate=False)
    server.socket.close()
    server.socket = machine.socket_in(netns, socket.AF_INET, socket.SOCK_STREAM)
    server.socket.bind(("127.0.0.1", 0))
    server.server_activate()
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.socket.getsockname()[1]}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def test_peers_from_standard_input(pair: Mesh) -> None:
    a, b = pair.nodes
    a.write_conf(peers='"-"')
    a.up(stdin=b.entry())
    a.assert_has_exactly(a.links_to(b))


def test_configuration_from_standard_input(pair: Mesh) -> None:
    a, b = pair.nodes
    text = a.conf_hcl()
    a.conf = "-"  # type: ignore[assignment]
    a.up(stdin=text)
    a.assert_has_exactly(a.links_to(b))


def test_peers_from_a_web_server(pair: Mesh) -> None:
    a, b = pair.nodes
    with served(a.netns, {"/peers.conf": b.entry()}) as url:
        a.write_conf(peers=f'"{url}/peers.conf"')
        a.up()
        a.assert_has_exactly(a.links_to(b))
        before = a.state()
        a.write_conf(peers=f'"{url}/missing"')
        missing = a.rait("up")
    assert missing.status == 1
    assert "404" in missing.err
    gone = a.rait("up")
    assert gone.status == 1
    assert a.state() == before


def test_a_list_that_is_cut_off_on_its_way_removes_nothing(pair: Mesh) -> None:
    a, b = pair.nodes
    with served(a.netns, {"/peers": b.entry(), f"/peers{CUT}": "peers = []\n"}) as url:
        a.write_conf(peers=f'"{url}/peers"')
        a.up()
        before = a.state()
        a.write_conf(peers=f'"{url}/peers{CUT}"')
        cut = a.rait("up")
    assert cut.status == 1
    assert f"{url}/peers{CUT}: the answer is cut off" in cut.err
    assert a.state() == before
    a.assert_has_exactly(a.links_to(b))


def nested_hcl(node: Node) -> str:
    """The node in a registry, in the nested spelling."""
    endpoints = "".join(
        f'  endpoint {{\n    address_family = "{family}"\n    send_port = {node.ports[family]}\n'
        f'    address = "{node.addresses[family]}"\n  }}\n'
        for family in FAMILIES
    )
    return (
        f'peers {{\n  public_key = "{node.public_key}"\n  name = "{node.tag}"\n{endpoints}'
        f'  remarks {{\n    operator = "somebody"\n  }}\n}}\n'
    )


def test_peers_in_nested_hcl(pair: Mesh) -> None:
    a, b = pair.nodes
    a.write_peers([nested_hcl(b)])
    b.write_peers([nested_hcl(a)])
    pair.up()
    a.assert_has_exactly(a.links_to(b))
    pair.ping_all()


def conf_toml(node: Node) -> str:
    quoted = {
        "private_key": node.private_key,
        "peers": str(node.peers),
        "journal": str(node.journal),
        "backend": node.mesh.backend,
    }
    lines = [f"{key} = {json.dumps(value)}" for key, value in quoted.items()]
    for family in FAMILIES:
        lines += ["[[transport]]", f'address_family = "{family}"', f"mtu = {MTU[family]}"]
        lines += [f"send_port = {node.ports[family]}", f'ifprefix = "{node.tag}{family[2]}"']
        lines.append(f"fwmark = {FWMARK}")
    lines += ["[isolation]", 'type = "netns"', f"ifgroup = {IFGROUP}", f'target = "{node.target}"']
    return "\n".join(lines) + "\n"


@pytest.mark.parametrize("name", ["rait.conf", "rait.toml"])
def test_configuration_in_toml(pair: Mesh, name: str) -> None:
    a, b = pair.nodes
    a.up()
    before = a.state()
    a.conf.unlink()  # else its links would be those of another configuration
    a.conf = a.directory / name
    a.write_conf(text=conf_toml(a))
    assert a.rait("up", "--json").json["status"] == "unchanged"
    assert a.state() == before
    assert set(before) == a.links_to(b)

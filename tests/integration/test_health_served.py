"""What a real `rait watch` serves of a real node, and what becomes of it when things go wrong."""

from __future__ import annotations

import json
import re
import socket
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from tests.integration import machine
from tests.integration.conftest import MakeMesh
from tests.integration.harness import Mesh, Node
from tests.integration.watching import StartWatch, until
from tests.tiers import need
from tests.unit.web import parted, rest

pytestmark = pytest.mark.userspace

ADDRESS = ("127.0.0.1", 9586)
"""In the namespace of a node, so that it is free."""


@pytest.fixture
def mesh(make_mesh: MakeMesh) -> Mesh:
    mesh = make_mesh(2)
    for node in mesh.nodes:
        machine.ip_batch(["link set lo up"], node.netns)
    a, b = mesh.nodes
    configure(a)
    b.up()
    return mesh


def configure(node: Node, port: int | None = ADDRESS[1], look: str = "1h") -> None:
    served = "" if port is None else f'metrics = "127.0.0.1:{port}"\n'
    node.write_conf(text=f'{node.conf_hcl()}watch {{\n  look = "{look}"\n  {served}}}\n')


def get(node: Node, path: str, port: int = ADDRESS[1]) -> tuple[int, str]:
    """The status and body that a node answers to itself."""
    with machine.socket_in(node.netns, socket.AF_INET, socket.SOCK_STREAM) as connection:
        connection.settimeout(machine.PATIENCE)
        connection.connect((ADDRESS[0], port))
        connection.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())
        status, _, body = parted(rest(connection))
    return status, body.decode()


@contextmanager
def taken(node: Node) -> Iterator[None]:
    """Another program has the port."""
    with machine.socket_in(node.netns, socket.AF_INET, socket.SOCK_STREAM) as other:
        other.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        other.bind(ADDRESS)
        other.listen()
        yield


def served(node: Node, port: int = ADDRESS[1]) -> bool:
    try:
        return bool(get(node, "/healthz", port))
    except (ConnectionError, IndexError):  # or closed, without an answer, as it ends
        return False


def metric(node: Node, series: str) -> float | None:
    found = re.search(rf"^{re.escape(series)} (\S+)$", get(node, "/metrics")[1], re.M)
    return None if found is None else float(found[1])


def test_it_shows_what_the_machine_has(mesh: Mesh, watch: StartWatch) -> None:
    a, b = mesh.nodes
    watching = watch(a)
    mesh.ping_all()
    until(lambda: get(a, "/healthz") == (200, "ok\n"))
    _, page = get(a, "/")
    assert all(link in page for link in a.links_to(b))
    links = json.loads(get(a, "/status.json")[1])["links"]
    assert {link["name"]: link["state"] for link in links} == dict.fromkeys(a.links_to(b), "live")
    assert metric(a, "rait_links_live") == metric(a, "rait_links_wanted") == 2
    assert re.search(r'rait_last_sync_info{cause="\w+",result="\w+"} 1', get(a, "/metrics")[1])
    assert metric(a, 'rait_events_total{kind="LinkAdded"}') == 2
    assert metric(a, 'rait_runs_total{outcome="done"}') == 1
    exposed = get(a, "/metrics")[1]
    checked = subprocess.run(
        [need("promtool", "prometheus"), "check", "metrics"],
        input=exposed,
        text=True,
        capture_output=True,
        check=False,
    )
    assert (checked.returncode, checked.stdout + checked.stderr) == (0, "")
    # A look later, a link is deleted by hand, which is an event more.
    gone = min(a.links_to(b))
    machine.ip_batch([f"link del {gone}"], a.target)
    until(lambda: metric(a, 'rait_events_total{kind="LinkAdded"}') == 3, watching.said)
    # For the sync, and for what it did itself, which leads to a look if it is told while it runs.
    assert re.search(r'cause="(link|look)"', get(a, "/metrics")[1])
    assert metric(a, "rait_last_sync_success") == 1
    text = a.rait("metrics").out
    assert "rait_links_wanted 2.0" in text
    assert "rait_last_sync" not in text
    watching.end()
    assert not served(a)


def test_a_port_in_use_ends_the_start_and_touches_nothing(mesh: Mesh) -> None:
    a, _ = mesh.nodes
    with taken(a):
        result = a.rait("watch")
    assert result.status == 1
    assert "127.0.0.1:9586: Address already in use" in result.err
    assert not a.leftovers()
    assert not machine.netns_exists(a.target)


def test_what_is_served_follows_the_configuration(mesh: Mesh, watch: StartWatch) -> None:
    a, _ = mesh.nodes
    watching = watch(a)
    assert served(a)
    configure(a, 9587)
    until(lambda: served(a, 9587), watching.said)
    assert not served(a)
    with taken(a):
        configure(a, ADDRESS[1], look="1s")
        watching.says("nothing can be served at 127.0.0.1:9586: Address already in use")
        assert not served(a, 9587)
    until(lambda: served(a), watching.said)
    watching.says("metrics and the health page are served again")
    configure(a, None)
    until(lambda: not served(a), watching.said)
    watching.end()


def test_a_thousand_who_say_nothing_hold_up_no_sync(mesh: Mesh, watch: StartWatch) -> None:
    a, b = mesh.nodes
    watching = watch(a)
    silent = []
    try:
        for _ in range(500):
            silent.append(machine.socket_in(a.netns, socket.AF_INET, socket.SOCK_STREAM))
            silent[-1].connect(ADDRESS)
        assert get(a, "/status.json")[0] == 200
        machine.ip_batch([f"link del {min(a.links_to(b))}"], a.target)
        watching.has(a.links_to(b))
    finally:
        for connection in silent:
            connection.close()
    watching.end()

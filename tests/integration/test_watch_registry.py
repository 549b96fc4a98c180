"""`rait watch` while its registry and its name server fail in every way, and change."""

from __future__ import annotations

import re
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest

from tests.integration import machine
from tests.integration.command import command, start_program
from tests.integration.conftest import Nodes
from tests.integration.harness import FAMILIES, Node
from tests.integration.registry import Mood, NameServer, Registry, answering
from tests.integration.watching import (
    WATCH,
    StartWatch,
    Watch,
    causes,
    has_causes,
    most_told,
    until,
)

pytestmark = pytest.mark.userspace

NAME = "b.example.org"


@pytest.fixture
def registry(nodes: Nodes) -> Iterator[Registry]:
    """The registry of the first node, with the second one."""
    a, b, _ = nodes
    with answering(a.netns, b.entry()) as registry:
        a.write_conf(text=a.conf_hcl(peers=f'"{registry.url}"') + WATCH)
        yield registry


def test_a_list_that_changes_is_synced(nodes: Nodes, registry: Registry, watch: StartWatch) -> None:
    a, b, c = nodes
    watching = watch(a, exec_=True)
    assert set(a.state()) == a.links_to(b)
    registry.page = b.entry() + c.entry()
    watching.has(a.links_to(b, c))
    registry.asked(2)
    assert 304 in registry.answers, "what is known is not sent again"
    assert watching.end().status == 0
    assert has_causes(a, "start", "peers list changed"), causes(a)


@pytest.mark.parametrize(
    ("status", "mood", "says"),
    [
        (500, "good", "answered 500"),
        (200, "cut", "transfer failed"),
        (200, "drip", "no whole answer within 20 seconds"),
        (200, "silent", "no whole answer within 20 seconds"),
    ],
)
def test_a_registry_that_fails_changes_nothing_and_holds_up_nothing(
    nodes: Nodes, registry: Registry, watch: StartWatch, status: int, mood: Mood, says: str
) -> None:
    a, b, c = nodes
    watching = watch(a, exec_=True)
    before, began = a.state(), time.monotonic()
    registry.status, registry.mood, registry.page = status, mood, c.entry() * 50
    registry.asked()
    name = a.link_to(b, "ip4")
    machine.ip_batch([f"link del {name}"], a.target)
    watching.has(a.links_to(b))
    watching.says(says)
    if mood in ("drip", "silent"):  # it is told when the registry had all the time that it gets
        mended = re.search(r"rait up \(.*\): 1 added", watching.said())
        assert mended is not None, watching.said()
        assert mended.start() < watching.said().index(says), "nobody waits for the registry"
    kept = a.link_to(b, "ip6")
    assert a.state()[kept] == before[kept]

    registry.die()
    registry.status, registry.mood, registry.page = 200, "good", b.entry() + c.entry()
    registry.start()
    watching.has(a.links_to(b, c))
    watching.says("the peers list can be fetched again")
    result = watching.end()
    assert result.status == 0
    assert result.err.count(says) <= most_told(time.monotonic() - began), "it is told once"
    assert a.state()[kept] == before[kept]


def test_a_registry_that_comes_and_goes_is_followed(
    nodes: Nodes, registry: Registry, watch: StartWatch
) -> None:
    a, b, c = nodes
    watching = watch(a, exec_=True)
    kept = a.links_to(b)
    before = a.state()
    for turn in range(4):
        registry.die()
        others = (b, c) if turn % 2 == 0 else (b,)
        registry.page = "".join(other.entry() for other in others)
        registry.start()
        watching.has(a.links_to(*others))
    assert {name: link for name, link in a.state().items() if name in kept} == before
    assert watching.end().status == 0
    assert has_causes(a, "start", *["peers list changed"] * 4), causes(a)


@pytest.mark.parametrize("page", ["<html>under construction</html>", ""])
def test_a_list_that_is_none_costs_no_link(
    nodes: Nodes, registry: Registry, watch: StartWatch, page: str
) -> None:
    a, b, c = nodes
    watching = watch(a, exec_=True)
    before = a.state()
    registry.page = page
    watching.says("peers.toml?...: the peers list is empty" if not page else "peers.toml?...:1")
    registry.asked(2)
    assert a.state() == before
    registry.page = b.entry() + c.entry()
    watching.has(a.links_to(b, c))
    assert watching.end().status == 0


def test_it_starts_without_a_registry_and_syncs_when_there_is_one(
    nodes: Nodes, registry: Registry, watch: StartWatch
) -> None:
    a, b, _ = nodes
    registry.die()
    watching = watch(a, synced=False, exec_=True)
    watching.says("no connection")
    assert a.interfaces() == {}
    registry.start()
    watching.has(a.links_to(b))
    assert watching.end().status == 0


@pytest.fixture
def names(nodes: Nodes) -> Iterator[NameServer]:
    """The name server of the first node, which finds the second by its name."""
    a, b, _ = nodes
    server = NameServer(a.netns, NAME)
    server.addresses = dict(b.addresses)
    a.write_peers([b.entry(dict.fromkeys(FAMILIES, NAME))])
    a.write_conf(text=a.conf_hcl() + WATCH)
    # `ip netns exec` mounts what is here over the files in /etc, for one program.
    own = Path("/etc/netns") / a.netns
    own.mkdir(parents=True)
    (own / "resolv.conf").write_text("nameserver 127.0.0.1\noptions timeout:1 attempts:1\n")
    (own / "nsswitch.conf").write_text("hosts: dns\n")
    try:
        with server.serving():
            yield server
    finally:
        for file in own.iterdir():
            file.unlink()
        own.rmdir()
        with suppress(OSError):
            own.parent.rmdir()  # unless others have theirs there


@pytest.fixture
def watching(nodes: Nodes, names: NameServer, watch: StartWatch) -> Watch:
    """A `rait watch` of the first node, which asks this name server."""
    a, _, _ = nodes
    assert names.addresses
    machine.run(["ip", "netns", "add", a.target])  # else only the program's own mounts have it
    words = ["ip", "netns", "exec", a.netns, *command(), "-c", str(a.conf), "watch", "--debug"]
    return watch(a, running=start_program(words, a.netns, "", a.mesh.directory))


def endpoints(node: Node) -> set[str]:
    return {link.endpoint.rpartition(":")[0].strip("[]") for link in node.state().values()}


def test_a_peer_that_moves_is_found_by_its_name(
    nodes: Nodes, names: NameServer, watching: Watch
) -> None:
    a, b, c = nodes
    assert endpoints(a) == set(b.addresses.values())
    names.addresses = dict(c.addresses)
    until(lambda: endpoints(a) == set(c.addresses.values()), watching.said)
    assert watching.end().status == 0
    why = {"addresses of host names changed", "look"}
    assert all(why & set(cause.split("; ")) for cause in causes(a)[1:]), causes(a)


@pytest.mark.parametrize("silent", [True, False])
def test_a_name_that_fails_keeps_its_address(
    nodes: Nodes, names: NameServer, watching: Watch, silent: bool
) -> None:
    a, b, c = nodes
    before = a.state()
    names.silent, names.addresses = silent, {}
    watching.says("it keeps the address that it had")
    name = a.link_to(b, "ip4")
    machine.ip_batch([f"link del {name}"], a.target)
    watching.has(a.links_to(b))
    assert endpoints(a) == set(b.addresses.values())
    kept = a.link_to(b, "ip6")
    assert a.state()[kept] == before[kept]
    names.silent, names.addresses = False, dict(c.addresses)
    until(lambda: endpoints(a) == set(c.addresses.values()), watching.said)
    watching.says("host names can be looked up again")
    assert watching.end().status == 0

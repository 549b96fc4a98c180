"""`rait watch` on the members of a real etcd: each change is followed, whatever fails meanwhile."""

from __future__ import annotations

import signal
import time
from collections.abc import Iterator

import pytest

from tests.integration.conftest import MakeMesh
from tests.integration.etcd import Cluster, Doors, doors
from tests.integration.harness import Node, Result
from tests.integration.test_sources import served
from tests.integration.watching import (
    WATCH,
    StartWatch,
    Watch,
    causes,
    has_causes,
    most_syncs,
    most_told,
    until,
)

pytestmark = pytest.mark.userspace

PREFIX = "/rait/peers"
Nodes = tuple[Node, Node, Node, Node]


def key(node: Node) -> str:
    return f"{PREFIX}/{node.public_key}"


class Registry:
    """The keys of the nodes, and how each node finds them."""

    def __init__(self, etcd: Cluster, doors: Doors) -> None:
        self.etcd = etcd
        self.doors = doors

    def put(self, *nodes: Node, lease: int = 0) -> None:
        for node in nodes:
            self.etcd.put(key(node), node.entry(), lease)

    def url(self, first: int = 0) -> str:
        """With the member of this index first, which is then the one that is followed."""
        hosts = self.doors.hosts.split(",")
        return self.etcd.url(PREFIX, ",".join(hosts[first:] + hosts[:first]))

    def configure(self, node: Node, first: int = 0, more: str = WATCH, **top: str) -> None:
        node.write_conf(text=node.conf_hcl(peers=f'"{self.url(first)}"', **top) + more)


@pytest.fixture
def nodes(make_mesh: MakeMesh) -> Nodes:
    a, b, c, d = make_mesh(4).nodes
    return a, b, c, d


@pytest.fixture
def registry(nodes: Nodes, etcd: Cluster) -> Iterator[Registry]:
    """What the first node finds on its loopback: its own entry, and those of two others."""
    a, b, c, _ = nodes
    with doors(etcd, a.netns) as ways:
        made = Registry(etcd, ways)
        made.put(a, b, c)
        made.configure(a)
        yield made


def links(node: Node, *others: Node) -> dict[str, int]:
    """The links to others with their indexes, which are new where a link is made again."""
    found = node.state()
    return {name: found[name].index for name in node.links_to(*others)}


def plan(node: Node) -> Result:
    """What is to be done, by etcd as it is now: status 0 if it is nothing, and 2 otherwise."""
    return node.rait("plan", "--detailed-exitcode", exec_=True)


def is_settled(node: Node) -> None:
    """Whoever reads etcd finds nothing to do, once the sync that makes it so has ended."""
    until(lambda: plan(node).status == 0, lambda: plan(node))


def follows(registry: Registry, node: Node, watching: Watch, others: set[Node]) -> None:
    """What is put and deleted is followed at once."""
    *_, last = sorted(others, key=lambda each: each.number)
    registry.etcd.delete(key(last))
    watching.has(node.links_to(*(others - {last})))
    registry.put(last)
    watching.has(node.links_to(*others))


def test_each_change_is_a_link(nodes: Nodes, registry: Registry, watch: StartWatch) -> None:
    a, b, c, d = nodes
    with doors(registry.etcd, b.netns) as others:
        Registry(registry.etcd, others).configure(b)
        on_a, on_b = watch(a, exec_=True), watch(b, exec_=True)
        kept = links(a, b, c)
        registry.put(d)
        on_a.has(a.links_to(b, c, d))
        on_b.has(b.links_to(a, c, d))
        registry.etcd.put(key(d), d.entry({"ip4": "192.0.2.99"}))
        name = a.link_to(d, "ip4")
        until(lambda: a.state()[name].endpoint.startswith("192.0.2.99:"), on_a.said)
        was = a.links_to(d)
        d.ports = {"ip4": 50099, "ip6": 51099}
        registry.put(d)
        on_a.has(a.links_to(b, c, d))
        on_b.has(b.links_to(a, c, d))
        assert not was & set(a.state())
        registry.etcd.delete(key(d))
        on_a.has(a.links_to(b, c))
        on_b.has(b.links_to(a, c))
        assert links(a, b, c) == kept, "no other link was made again"
        is_settled(a)
        assert on_a.end().status == on_b.end().status == 0
    assert has_causes(a, "start", *["peers list changed"] * 4), causes(a)


def test_a_burst_is_a_few_syncs(nodes: Nodes, registry: Registry, watch: StartWatch) -> None:
    a, b, c, d = nodes
    watching = watch(a, exec_=True)
    began = time.monotonic()
    for number in range(200):
        registry.etcd.put(key(d), d.entry({"ip4": f"192.0.2.{number}"}))
    registry.put(d)
    watching.has(a.links_to(b, c, d))
    name = a.link_to(d, "ip4")
    until(lambda: a.state()[name].endpoint.startswith(f"{d.addresses['ip4']}:"), watching.said)
    count = until(lambda: watching.syncs_for("peers list changed"), watching.said)
    assert count <= most_syncs(time.monotonic() - began), watching.syncs(1)
    is_settled(a)
    assert watching.end().status == 0


def test_members_that_fail_cost_nothing(
    nodes: Nodes, registry: Registry, watch: StartWatch
) -> None:
    a, b, c, d = nodes
    etcd = registry.etcd
    leader = etcd.leader
    registry.configure(a, first=etcd.members.index(leader))
    watching = watch(a, exec_=True)
    kept = links(a, b)
    leader.pause()
    registry.put(d)
    watching.has(a.links_to(b, c, d))
    etcd.heal()
    etcd.members[0].kill()
    follows(registry, a, watching, {b, c, d})
    registry.doors.drop()
    follows(registry, a, watching, {b, c, d})
    for member in etcd.members:
        member.kill()
    watching.running.signal(signal.SIGHUP)
    watching.says("rait: etcd://")
    etcd.heal()
    registry.put(c)
    etcd.delete(key(d))
    etcd.compact()
    watching.has(a.links_to(b, c))
    watching.says("the peers list can be fetched again")
    registry.put(d)
    watching.has(a.links_to(b, c, d))
    is_settled(a)
    assert links(a, b) == kept
    assert watching.end().status == 0


def test_leases_that_are_lost(nodes: Nodes, registry: Registry, watch: StartWatch) -> None:
    """One costs its own node's links, and many are stopped, at once or one after the other."""
    a, b, c, d = nodes
    leases = {node: registry.etcd.grant(3600) for node in (b, c, d)}
    for node, lease in leases.items():
        registry.put(node, lease=lease)
    watching = watch(a, exec_=True)
    watching.has(a.links_to(b, c, d))
    kept = links(a, c, d)
    registry.etcd.revoke(leases[b])
    watching.has(a.links_to(c, d))
    registry.etcd.revoke(leases[c])
    watching.says("stopped, with nothing touched")
    registry.etcd.revoke(leases[d])
    count = len(watching.syncs(1))
    watching.running.signal(signal.SIGHUP)
    watching.syncs(count + 1)
    watching.has(a.links_to(c, d))
    registry.put(b, c, d)
    watching.has(a.links_to(b, c, d))
    watching.says("all is as it should be again")
    assert links(a, c, d) == kept
    assert watching.end().status == 0


def test_without_any_key_nothing_is_removed(
    nodes: Nodes, registry: Registry, watch: StartWatch
) -> None:
    a, b, c, d = nodes
    watching = watch(a, exec_=True)
    before, began = a.state(), time.monotonic()
    registry.etcd.clear()
    watching.says("there is no key under this prefix")
    watching.running.signal(signal.SIGHUP)
    until(lambda: watching.syncs_for("SIGHUP"), watching.said)
    assert a.state() == before
    registry.put(a, b, c, d)
    watching.has(a.links_to(b, c, d))
    watching.says("the peers list can be fetched again")
    count = watching.said().count("there is no key under this prefix")
    assert count <= most_told(time.monotonic() - began)
    assert watching.end().status == 0


def test_it_boots_without_etcd(nodes: Nodes, registry: Registry, watch: StartWatch) -> None:
    a, b, c, d = nodes
    registry.configure(a, peers_fallback='"always"')
    a.up(exec_=True)
    before = a.state()
    for member in registry.etcd.members[:2]:
        member.kill()  # the last one has no majority
    watching = watch(a, exec_=True)
    watching.says("as there is no newer one")
    assert a.state() == before
    registry.etcd.heal()
    registry.put(d)
    watching.has(a.links_to(b, c, d))
    for member in registry.etcd.members:
        member.pause()
    result = watching.end()
    assert result.status == 0
    assert set(a.state()) == a.links_to(b, c, d)


def test_the_source_changes_its_kind(nodes: Nodes, registry: Registry, watch: StartWatch) -> None:
    a, b, c, d = nodes
    live = a.conf.read_text()
    a.knows(b)
    a.write_conf(text=a.conf_hcl() + WATCH)
    watching = watch(a, "--down-on-exit", exec_=True)
    pages = {"/peers": b.entry() + d.entry()}
    with served(a.netns, pages) as url:
        a.write_conf(text=live)
        watching.has(a.links_to(b, c))
        registry.put(d)
        watching.has(a.links_to(b, c, d))
        a.write_conf(text=a.conf_hcl(peers=f'"{url}/peers"') + WATCH)
        watching.has(a.links_to(b, d))
        registry.etcd.delete(key(d))
        pages["/peers"] += c.entry()
        watching.has(a.links_to(b, c, d))
        a.write_conf(text=live)
        watching.has(a.links_to(b, c))
        a.knows(b, c, d)
        a.write_conf(text=a.conf_hcl() + WATCH)
        watching.has(a.links_to(b, c, d))
        a.write_conf(text=live)
        registry.put(d)
        is_settled(a)
    assert watching.end().status == 0
    assert not a.leftovers()

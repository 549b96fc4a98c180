"""Nodes that put their own entries into etcd, and find each other there."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.integration import machine
from tests.integration.conftest import MakeMesh
from tests.integration.etcd import Cluster, RefusedError, cluster, doors
from tests.integration.harness import Node
from tests.integration.watching import StartWatch, until

pytestmark = pytest.mark.userspace

PREFIX = "/rait/peers"
LEASE = 15
"""Seconds, of which `rait watch` may be late by 10 without losing its entry."""

SPANS = {"poll": "1s", "names": "1h", "look": "1h"}


def publishing(node: Node, url: str, lease: str = f"{LEASE}s", **changes: str) -> str:
    """A rait.conf whose `rait watch` publishes the node, with addresses for both transports."""
    text = node.conf_hcl(peers=json.dumps(url), name=json.dumps(node.tag), **changes)
    for family, address in node.addresses.items():
        port = f"  send_port = {node.ports[family]}\n"
        text = text.replace(port, f'{port}  address = "{address}"\n')
    watch = "\n".join(f'  {name} = "{span}"' for name, span in SPANS.items())
    return f'{text}watch {{\n  publish = true\n  lease = "{lease}"\n{watch}\n}}\n'


@pytest.fixture
def nodes(make_mesh: MakeMesh, etcd: Cluster) -> Iterator[list[Node]]:
    """Three nodes that are to publish themselves into a registry that is empty."""
    etcd.clear()
    nodes = make_mesh(3).nodes
    with ExitStack() as open_doors:
        for node in nodes:
            hosts = open_doors.enter_context(doors(etcd, node.netns)).hosts
            node.write_conf(text=publishing(node, etcd.url(PREFIX, hosts)))
        yield nodes


@pytest.fixture
def node(nodes: list[Node]) -> Node:
    """The first of them."""
    return nodes[0]


def key_of(node: Node) -> str:
    return f"{PREFIX}/{node.public_key}"


def put(node: Node, *arguments: str) -> dict[str, object]:
    """What `rait pub --to` says as JSON; it must succeed."""
    result = node.rait("pub", *arguments, "--json")
    assert result.status == 0, result
    found: dict[str, object] = result.json
    return found


def wait_for_lease(etcd: Cluster) -> None:
    """Wait until a lease has ended that nobody keeps alive, a little longer than ours."""
    etcd.put_for(LEASE + 1, "/other/witness", "here")
    until(lambda: not etcd.keys("/other/"), etcd.logs)


def test_nodes_find_each_other_and_lose_who_dies(
    nodes: list[Node], etcd: Cluster, watch: StartWatch
) -> None:
    a, b, c = nodes
    watches = {node: watch(node, synced=False, exec_=True) for node in nodes}

    def meet() -> None:
        for node, watching in watches.items():
            watching.has(node.links_to(*(other for other in nodes if other is not node)))
        a.mesh.ping_all()

    meet()
    entries = etcd.keys(PREFIX)
    assert set(entries) == {key_of(node) for node in nodes}
    wait_for_lease(etcd)
    assert etcd.keys(PREFIX) == entries, "leases are kept alive without a write"
    # Whoever takes the port of another gets no link, and the other keeps its own.
    before = {name: state.peer for name, state in a.state().items()}
    stranger = f"{PREFIX}/{machine.genkey()[1]}"
    etcd.put(
        stranger,
        json.dumps(
            json.loads(entries[key_of(b)].value)["peers"][0]
            | {"public_key": stranger.removeprefix(f"{PREFIX}/"), "name": "stranger"}
        ),
    )
    watches[a].says("stranger")
    assert {name: state.peer for name, state in a.state().items()} == before
    etcd.delete(stranger)
    # Who stops is there again; who dies is dropped when its lease ends.
    assert watches[b].end().status == 0
    watches[b] = watch(b, exec_=True)
    watches[c].running.signal(signal.SIGKILL)
    watches[c].is_over = True
    watches[a].has(a.links_to(b))
    watches[b].has(b.links_to(a))
    assert set(etcd.keys(PREFIX)) == {key_of(a), key_of(b)}
    assert etcd.keys(PREFIX)[key_of(a)] == entries[key_of(a)]
    watches[c] = watch(c, synced=False, exec_=True)
    meet()
    assert set(etcd.keys(PREFIX)) == set(entries)


def test_what_stands_is_not_written_again(node: Node, etcd: Cluster) -> None:
    node.write_conf(text=node.conf.read_text().replace(f'"{LEASE}s"', '"1d"'))
    first = put(node, "--to")
    revision = first["revision"]
    assert first == {
        "entry": f"{node_url(node)}/{node.public_key}",
        "result": "put",
        "revision": revision,
        "lease": 86400,
    }
    found = etcd.keys(PREFIX)[key_of(node)]
    assert found.revision == revision
    assert found.lease
    assert found.value == node.rait("pub", "--json").out
    assert put(node, "--to") == {**first, "result": "unchanged"}
    assert etcd.revision == revision
    # Another lease, or none, is a change.
    assert put(node, "--to", "--lease", "1h")["lease"] == 3600
    node.write_conf(text=node.conf.read_text().replace("publish = true", "publish = false"))
    stays = put(node, "--to", node_url(node))
    assert (stays["result"], stays["lease"]) == ("put", None)
    assert etcd.keys(PREFIX)[key_of(node)].lease == 0
    assert put(node, "--to")["result"] == "unchanged"
    result = node.rait("pub", "--to", "--lease", "2h")
    assert result.out.endswith(f"put at revision {etcd.revision}, lease 7200 s\n")
    result = node.rait("pub", "--to", "--lease", "2h")
    assert "unchanged" in result.out
    assert "lease of 7200 s kept alive" in result.out
    assert put(node, "--to", "--withdraw")["result"] == "withdrawn"
    assert not etcd.keys(PREFIX)
    assert put(node, "--to", "--withdraw")["result"] == "absent"


def node_url(node: Node) -> str:
    return json.loads(next(x for x in node.conf.read_text().split("\n") if "peers" in x)[8:])


def test_who_replaces_what_others_wrote_says_so(node: Node, etcd: Cluster) -> None:
    revision = etcd.put(key_of(node), "{}")
    result = node.rait("pub", "--to")
    assert f"put at revision {revision + 1} in place of that of revision {revision}" in result.out


@pytest.mark.parametrize(
    ("old", "new", "says"),
    [
        ('"192.0.2.1"', '"127.0.0.1"', None),
        ("SELF", "remarks { note = SELF }", "hold the private key"),
        ("SELF", "remarks { note = BIG }", "larger than 16384 bytes"),
    ],
)
def test_what_is_wrong_is_not_put(
    node: Node, etcd: Cluster, old: str, new: str, says: str | None
) -> None:
    key, big = json.dumps(node.private_key), json.dumps("x" * 16384)
    new = new.replace("SELF", key).replace("BIG", big)
    text = node.conf.read_text()
    text = text.replace(old, new) if old in text else f"{text}{new}\n"
    node.write_conf(text=text)
    result = node.rait("pub", "--to")
    if says is None:
        assert result.status == 0
        assert "a loopback address" in result.err
    else:
        assert result.status != 0
        assert says in result.err
        assert not etcd.keys(PREFIX)


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--lease", "5s"], "add --to"),
        (["--withdraw"], "add --to"),
        (["--to", "/etc/peers.conf"], "only a registry in etcd takes entries"),
        (["--to", "etcd://127.0.0.1:1/"], "the prefix of the keys is missing"),
        (["--to", "etcd://127.0.0.1:1/p", "--lease", "1s"], "no span from 5s to 1d"),
        (["--to", "etcd://127.0.0.1:1/p", "--format", "toml"], "leave the rest out"),
        (["there.toml", "--to", "etcd://127.0.0.1:1/p"], "leave the rest out"),
        (["--to", "etcd://127.0.0.1:1/p"], "127.0.0.1:1: "),
    ],
)
def test_a_wrong_command_says_what_to_do(node: Node, arguments: list[str], says: str) -> None:
    result = node.rait("pub", *arguments)
    assert result.status in (1, 2)
    assert says in result.err


def test_peers_in_a_file_take_no_entries(node: Node) -> None:
    node.write_conf()
    result = node.rait("pub", "--to")
    assert result.status == 2
    assert "name one with --to" in result.err
    node.write_conf(text=node.conf.read_text() + "watch {\n  publish = true\n}\n")
    result = node.rait("watch")
    assert result.status == 2
    assert "publish: needs a registry that takes entries" in result.err


def test_who_is_in_the_registry_stays_there(node: Node, etcd: Cluster, watch: StartWatch) -> None:
    """By itself, whatever befalls the entry, the lease, rait.conf and etcd."""
    watching = watch(node, synced=False, exec_=True)
    entry = until(lambda: etcd.keys(PREFIX).get(key_of(node)), watching.said)
    # Lost, or overwritten by somebody: it is put right.
    etcd.revoke(entry.lease)
    until(lambda: etcd.keys(PREFIX).get(key_of(node)), watching.said)
    etcd.put(key_of(node), "{}")
    watching.says("somebody else wrote this node's entry")
    until(lambda: etcd.keys(PREFIX)[key_of(node)].value == entry.value, watching.said)
    # rait.conf says something else, and then something wrong.
    text = node.conf.read_text()
    node.write_conf(text=f'{text}remarks {{\n  city = "here"\n}}\n')
    until(lambda: "here" in etcd.keys(PREFIX)[key_of(node)].value, watching.said)
    found = etcd.keys(PREFIX)
    node.write_conf(text=f"{text}wrong = [\n")
    wait_for_lease(etcd)
    assert etcd.keys(PREFIX) == found
    # The members are away for less than the lease, and for longer.
    for member in etcd.members:
        member.kill()
    watching.says("this node's entry is not published")
    etcd.heal()
    watching.says("this node's entry is in the registry again")
    until(lambda: etcd.keys(PREFIX).get(key_of(node)), watching.said)
    result = node.rait("pub", "--to", "--withdraw")
    assert result.status == 2, "rait.conf is wrong still"
    node.write_conf(text=text)
    until(lambda: etcd.keys(PREFIX)[key_of(node)].value == entry.value, watching.said)
    result = node.rait("pub", "--to", "--withdraw")
    assert result.status == 1
    assert "stop it first" in result.err
    assert watching.end().status == 0
    assert key_of(node) in etcd.keys(PREFIX)


def test_a_new_key_is_published_before_the_old_entry_goes(
    nodes: list[Node], etcd: Cluster, watch: StartWatch
) -> None:
    a, b, c = nodes
    watches = {node: watch(node, synced=False, exec_=True) for node in nodes}
    for node, watching in watches.items():
        watching.has(node.links_to(*(other for other in nodes if other is not node)))
    former, old = key_of(a), a.public_key
    text = a.conf.read_text()
    private, a.public_key = machine.genkey()
    # All links of the node would lose their sessions, so the guard keeps the old key in use.
    a.write_conf(text=text.replace(a.private_key, private))
    until(lambda: key_of(a) in etcd.keys(PREFIX), watches[a].said)
    watches[a].says("--yes")
    wait_for_lease(etcd)
    assert former in etcd.keys(PREFIX), "the links have the old key still"
    assert {state.peer for name, state in b.state().items() if name in b.links_to(a)} == {old}
    assert a.rait("up", "--yes").status == 0
    watches[a].running.signal(signal.SIGHUP)
    until(lambda: former not in etcd.keys(PREFIX), watches[a].said)
    for node in (b, c):
        links = node.links_to(a)
        until(
            lambda node=node, links=links: (
                {state.peer for name, state in node.state().items() if name in links}
                == {a.public_key}
            ),
            watches[node].said,
        )
    a.mesh.ping_all()


@pytest.fixture(scope="module")
def guarded() -> Iterator[Cluster]:
    """A cluster with users, where each may read the list."""
    with cluster(size=1, quota=400_000) as found:
        found.enable_auth()
        yield found


def test_a_role_of_one_key_puts_that_key_alone(make_mesh: MakeMesh, guarded: Cluster) -> None:
    node, other = make_mesh(2).nodes
    guarded.add_user(node.tag, "secret", read=f"{PREFIX}/", readwrite=key_of(node))
    password = node.directory / "password"
    password.write_text("secret\n")
    with doors(guarded, node.netns) as found, doors(guarded, other.netns) as others:
        url = guarded.url(PREFIX, found.hosts, node.tag, password_file=password)
        node.write_conf(text=publishing(node, url, "1h"))
        assert put(node, "--to")["result"] == "put"
        other.write_conf(
            text=publishing(
                other, guarded.url(PREFIX, others.hosts, node.tag, password_file=password)
            )
        )
        result = other.rait("pub", "--to")
        assert result.status == 1
        assert f"role grant-permission ROLE readwrite {key_of(other)}" in result.err
        result = other.rait("pub", "--to", "--withdraw")
        assert result.out.endswith("there is no such entry\n")
        assert set(guarded.keys(PREFIX)) == {key_of(node)}
        password.write_text("wrong\n")
        result = node.rait("pub", "--to")
        assert result.status == 1
        assert "look at the user and at the password_file" in result.err


def test_a_new_key_that_the_role_lacks_costs_the_former_entry_nothing(
    make_mesh: MakeMesh, guarded: Cluster, watch: StartWatch
) -> None:
    (node,) = make_mesh(1).nodes
    former, (private, public) = key_of(node), machine.genkey()
    guarded.add_user(node.tag, "secret", read=f"{PREFIX}/", readwrite=former)
    password = node.directory / "password"
    password.write_text("secret\n")
    with doors(guarded, node.netns) as found:
        url = guarded.url(PREFIX, found.hosts, node.tag, password_file=password)
        text = publishing(node, url)
        node.write_conf(text=text)
        watching = watch(node, synced=False, exec_=True)
        until(lambda: former in guarded.keys(PREFIX), watching.said)
        node.write_conf(text=text.replace(node.private_key, private))
        watching.says(f"role grant-permission ROLE readwrite {PREFIX}/{public}")
        wait_for_lease(guarded)
        assert former in guarded.keys(PREFIX)
        guarded.allow(node.tag, "readwrite", f"{PREFIX}/{public}")
        until(lambda: former not in guarded.keys(PREFIX), watching.said)
        assert f"{PREFIX}/{public}" in guarded.keys(PREFIX)
        watching.says("this node's entry is in the registry again")
        assert watching.end().status == 0


def fill(etcd: Cluster) -> None:
    while True:
        etcd.put("/other/big", "x" * 16384)


def test_a_full_etcd_says_what_to_do(make_mesh: MakeMesh, tmp_path: Path) -> None:
    del tmp_path
    (node,) = make_mesh(1).nodes
    with cluster(size=1, quota=150_000) as small, doors(small, node.netns) as found:
        node.write_conf(text=publishing(node, small.url(PREFIX, found.hosts), "1h"))
        assert put(node, "--to")["result"] == "put"
        with pytest.raises(RefusedError, match="space exceeded"):
            fill(small)
        assert put(node, "--to")["result"] == "unchanged", "a lease is kept alive all the same"
        result = node.rait("pub", "--to", "--lease", "2h")
        assert result.status == 1
        assert "compact and defragment it" in result.err

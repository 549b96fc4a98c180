"""Every command on a list in etcd: what it does, which key it names, and what the journal says."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration import machine
from tests.integration.conftest import MakeMesh, Nodes
from tests.integration.etcd import Cluster, Doors, cluster, doors
from tests.integration.harness import Node
from tests.integration.test_secrets import process_texts, written_by_rait

pytestmark = pytest.mark.userspace  # nothing here depends on the kernel

PREFIX = "/rait/peers"
PASSWORD = "s3cret-of-gate"


@pytest.fixture
def way(etcd: Cluster, nodes: Nodes) -> Iterator[Doors]:
    """The way from the first node to the cluster."""
    with doors(etcd, nodes[0].netns) as found:
        yield found


def put(etcd: Cluster, node: Node, value: str = "") -> int:
    return etcd.put(f"{PREFIX}/{node.public_key}", value or named(node))


def named(node: Node) -> str:
    return f'{node.entry()}Name = "{node.tag}"\n'


def runs(node: Node) -> list[dict[str, Any]]:
    return [json.loads(line) for line in node.rait("log", "--json").out.splitlines()]


def test_each_command_says_where_the_list_is_from(etcd: Cluster, nodes: Nodes, way: Doors) -> None:
    a, b, c = nodes
    url = etcd.url(PREFIX, way.hosts)
    a.write_conf(peers=f'"{url}/"')
    for node in nodes:
        revision = put(etcd, node)
    assert a.rait("plan").status == 0
    a.up()
    a.assert_has_exactly(a.links_to(b, c))
    (run,) = runs(a)
    assert (run["source"], run["revision"]) == (url, revision)
    assert len(str(run["peers_digest"])) == 64
    which = f"{url} at revision {revision}"
    assert f"  peers list {which}\n" in a.rait("log", "show", "1").out
    assert f"({which})" in a.rait("log", "--oneline").out

    link = a.link_to(b, "ip4")
    explained = a.rait("explain", link).out
    assert f"peers list {which}, sha256 {run['peers_digest']}" in explained
    assert f"by the peers list {which}" in explained
    assert f"{url}/{b.public_key}: ip4 {b.addresses['ip4']}, SendPort " in explained
    told = a.rait("explain", "--json", b.tag).json
    assert (told["source"], told["revision"]) == (url, revision)
    status = a.rait("status", "--json").json
    assert status["peers"]["revision"] == status["last_change"]["revision"] == revision
    assert status["last_change"]["source"] == url
    assert f"by the peers list {which}" in a.rait("status").out
    (peer,) = a.listed()[link]["peers"]
    assert peer["name"] == b.tag, "without asking etcd"

    before = a.state(), runs(a)
    later = etcd.put("/elsewhere", "a new revision")
    assert a.up("--json").json["status"] == "unchanged"
    assert (a.state(), runs(a)) == before, "a new revision alone is nothing to write down"
    assert a.rait("explain", "--json", link).json["revision"] == later

    newest = etcd.delete(f"{PREFIX}/{c.public_key}")
    state = a.directory / "state.json"
    state.write_text(a.rait("export-state").out)
    against = a.rait("plan", "--json", "--against", str(state))
    assert against.touched == a.links_to(c)
    a.up("--yes")
    a.assert_has_exactly(a.links_to(b))
    assert runs(a)[1]["revision"] == newest
    assert a.rait("rollback", "1", "--dry-run", "--force").status == 0
    a.down()
    assert (runs(a)[2]["source"], "revision" in runs(a)[2]) == ("", False), "it reads no list"


def test_a_configuration_from_standard_input_or_in_toml(
    etcd: Cluster, nodes: Nodes, way: Doors
) -> None:
    a, b, _ = nodes
    revision = put(etcd, b)
    url = etcd.url(PREFIX, way.hosts)
    text = a.conf_hcl(peers=f'"{url}"')
    a.conf = Path("-")
    for _ in range(2):
        assert a.rait("up", stdin=text).status == 0
    listed = a.rait("list", "--json", stdin=text).json["links"]
    assert {link["peers"][0]["name"] for link in listed} == {b.tag}
    (run,) = [json.loads(line) for line in a.rait("log", "--json", stdin=text).out.splitlines()]
    assert (run["source"], run["revision"]) == (url, revision)

    # Another configuration on the same journal has its own runs, and a list of its own.
    a.conf = a.directory / "other.conf"
    toml = (
        f'private_key = "{a.private_key}"\npeers = "{url}"\njournal = "{a.journal}"\n'
        f'backend = "{a.mesh.backend}"\n[[transport]]\naddress_family = "ip4"\n'
        f'send_port = 40001\nmtu = 1420\nifprefix = "{a.tag}x"\n'
        f'[isolation]\nifgroup = 99\ntransit = ""\ntarget = "{a.target}"\n'
    )
    a.write_conf(text=toml)
    assert "local address" not in a.rait("plan").out
    (mine,) = a.rait("plan", "--json").touched
    assert mine == f"{a.tag}x{b.ports['ip4']}"
    assert runs(a) == []


WRONG = {
    "README": "these are the peers",
    "{other}/extra": "{{}}",
    "{c}": '{{"public_key": "{b}"}}',
    "{d}": "\x1b[2Jno entry",
    "{e}": "{private_e}",
    "{f}": '{{"endpoint": [{{"address_family": "ip4", "send_port": 99999}}]}}',
}


def test_a_wrong_key_costs_itself_alone_and_is_named(
    etcd: Cluster, nodes: Nodes, way: Doors
) -> None:
    a, b, c = nodes
    url = etcd.url(PREFIX, way.hosts)
    a.write_conf(peers=f'"{url}"')
    put(etcd, b)
    put(etcd, c)
    a.up()
    before = a.state()
    pairs = {name: machine.genkey() for name in "def"}
    words = {name: public for name, (_, public) in pairs.items()}
    words |= {"b": b.public_key, "c": c.public_key, "other": pairs["d"][1]}
    private = pairs["e"][0]
    for key, value in WRONG.items():
        written = value.format(**words, private_e=private)
        etcd.put(f"{PREFIX}/{key.format(**words)}", written)
    result = a.rait("up")
    assert result.status == 3
    assert a.state() == before, "its entry is in doubt, so the link of c stays"
    assert a.rait("plan", "--json").json["events"] == []
    checked = a.rait("check", url)
    for said in (result.err, checked.out):
        for text in (
            'the key "README" does not end in a public key alone',
            f"{url}/{words['c']}: ",
            "the public key in the value is not the one in the key",
            f"{url}/{words['d']}: ",
            f"{url}/{words['e']}: ",
            "the value holds the private key of this very node",
            f"{url}/{words['f']}: ",
            "99999",
        ):
            assert text in said, (text, said)
        assert private not in said
        assert "\x1b" not in said
        assert f"{url}:" not in said.replace(f"{url}: ", ""), "no line of a text nobody has seen"
    assert checked.status == 1
    assert f"{url}/{words['f']}: error: endpoint[0].send_port ({words['f']}): " in checked.out

    found = a.rait("check", "--format", "json", url).json
    assert {item["line"] for item in found["findings"]} == {None}
    assert [item["rule"] for item in found["findings"]].count("unreadable") == 5
    commands = a.rait("check", "--format", "github", url).out.splitlines()
    assert all(re.match("::(error|warning|notice) title=rait%3A ", line) for line in commands)
    assert any(f"::{url}/{words['d']}: " in line for line in commands)
    sarif = a.rait("check", "--format", "sarif", url).json["runs"][0]["results"]
    places = [place for item in sarif for place in item["locations"]]
    assert all("physicalLocation" not in place for place in places)
    names = {place["logicalLocations"][0]["fullyQualifiedName"] for place in places}
    assert names == {url, *(f"{url}/{words[name]}" for name in "bcdef")}
    verified = a.rait(
        "check", "--verify", "RWQUYJqzOdDScxGKkWuy7/bKAefK9K+MUKvNsVbv4w+10yOSurZfz+TH", url
    )
    assert "what is in etcd is not signed" in verified.out
    assert a.rait("remarks", "x").status != 0, "which is told without asking etcd"


def test_a_value_with_a_private_key_is_found(etcd: Cluster, nodes: Nodes, way: Doors) -> None:
    a, b, c = nodes
    url = etcd.url(PREFIX, way.hosts)
    put(etcd, b)
    put(
        etcd, c, named(c) + f'\n[[Peers]]\nPublicKey = "{c.public_key}"\nnote = "{c.private_key}"\n'
    )
    checked = a.rait("check", url)
    assert f"{url}/{c.public_key}: error: this is the private key of node {c.tag}" in checked.out
    assert checked.status == 1
    c.write_conf(peers=f'"{url}"')
    put(etcd, a)
    with doors(etcd, c.netns) as other:
        c.write_conf(peers=f'"{etcd.url(PREFIX, other.hosts)}"', peers_fallback='"always"')
        refused = c.rait("up")
    assert refused.status == 1
    assert f"{PREFIX}/{c.public_key}: the list holds this node's own private key" in refused.err
    assert c.interfaces() == {}


def test_a_fleet_plan_between_a_file_and_etcd(etcd: Cluster, nodes: Nodes, way: Doors) -> None:
    a, b, c = nodes
    url = etcd.url(PREFIX, way.hosts)
    for node in nodes:
        put(etcd, node)
    a.write_peers([named(b), named(c), named(a)])
    same = a.rait("fleet", "plan", str(a.peers), url)
    assert (same.status, same.out) == (0, "3 nodes: 3 pairs kept\n")
    etcd.delete(f"{PREFIX}/{c.public_key}")
    gone = a.rait("fleet", "plan", "--json", str(a.peers), url).json
    assert [pair["outcome"] for pair in gone["pairs"]] == ["removed", "removed"]
    back = a.rait("fleet", "plan", "--json", url, str(a.peers)).json
    assert [pair["outcome"] for pair in back["pairs"]] == ["made", "made"]
    port = a.rait("port", "--key", c.public_key, "--range", f"{b.ports['ip4']}-50010", url)
    assert port.status == 0
    taken = {each.ports[family] for each in (a, b) for family in ("ip4", "ip6")}
    assert int(port.out) not in taken


def test_an_old_list_stands_in_with_its_own_revision(
    etcd: Cluster, nodes: Nodes, way: Doors
) -> None:
    a, b, c = nodes
    url = etcd.url(PREFIX, way.hosts)
    a.write_conf(peers=f'"{url}"', peers_fallback='"1d"')
    put(etcd, b)
    revision = put(etcd, c)
    a.up()
    machine.remove_wireguard(a.tag)
    way.close()
    without = a.rait("up", "--yes")
    assert without.status == 3, without
    assert "nothing is removed because of an old list" in without.err + without.out
    a.assert_has_exactly(a.links_to(b, c))
    run = runs(a)[-1]
    assert (run["source"], run["revision"]) == (url, revision)
    (problem,) = run["problems"]
    assert problem["link"] == "peers list"
    assert "stood in: " in problem["error"]
    a.write_conf(peers=f'"{url}"')
    before = a.state()
    refused = a.rait("up")
    assert refused.status == 1
    assert f"peers: {url}: " in refused.err
    assert (a.state(), len(runs(a))) == (before, 2)


@pytest.fixture(scope="module")
def locked() -> Iterator[Cluster]:
    """A cluster with users."""
    with cluster(size=1) as made:
        made.enable_auth()
        made.add_user("gate", PASSWORD, read=f"{PREFIX}/")
        yield made


def test_a_password_is_nowhere_but_in_its_file(locked: Cluster, make_mesh: MakeMesh) -> None:
    a, b = make_mesh(2).nodes
    put(locked, b)
    file = a.directory.parent / "password"
    file.write_text(f"{PASSWORD}\n")
    file.chmod(0o600)
    with doors(locked, a.netns) as way:
        url = locked.url(PREFIX, way.hosts, user="gate", password_file=file)
        name = locked.url(PREFIX, way.hosts)
        a.write_conf(peers=f'"{url}"')
        said, seen = [], []
        running = a.start("up", "-d", exec_=True)
        while not running.ended():
            seen += process_texts()
        others = (("log", "show", "1"), ("explain", "-d", b.tag), ("status", "-d"))
        results = [running.wait(), *(a.rait(*arguments) for arguments in others)]
        assert [result.status for result in results] == [0] * 4, results
        said += [result.out + result.err for result in results]
        a.assert_has_exactly(a.links_to(b))
        (run,) = runs(a)
        assert run["source"] == name
        file.write_text("wrong\n")
        wrong = a.rait("up")
        assert wrong.status == 1
        assert "look at the user and at the password_file" in wrong.err
        said.append(wrong.err)
        a.write_conf(peers=f'"{locked.url(PREFIX, way.hosts, user=f"gate:{PASSWORD}")}"')
        for command in ("up", "plan", "list", "status", "check"):
            result = a.rait(
                command, *([url.replace("gate", f"gate:{PASSWORD}")] * (command == "check"))
            )
            said.append(result.out + result.err)
        assert "put the password into a file" in said[-1]
        assert all("gate@" not in text for text in said)
    texts = [*seen, *written_by_rait(a), *(text.encode() for text in said)]
    assert not [text for text in texts if PASSWORD.encode() in text]


def test_what_cannot_be_in_etcd_is_refused(nodes: Nodes) -> None:
    a = nodes[0]
    url = "etcd://127.0.0.1:1/rait"
    a.write_conf(journal=f'"{url}"')
    assert "journal: must be the path of a file" in a.rait("up").err
    text = a.conf_hcl().replace(f'private_key = "{a.private_key}"', f'private_key_file = "{url}"')
    a.write_conf(text=text)
    result = a.rait("up")
    assert (result.status, "no more than peers lists from etcd" in result.err) == (2, True)
    assert f"{a.conf}:1: private_key_file: {url}: " in result.err
    a.conf = url  # type: ignore[assignment]
    result = a.rait("up")
    assert (result.status, "no more than peers lists from etcd" in result.err) == (2, True)
    assert a.interfaces() == {}

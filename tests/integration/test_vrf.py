"""VRF isolation with real tunnels: overlay and underlay in routing tables of their own.

Each node is a namespace, as in the other tests, but links and underlay are both in it.
"""

from __future__ import annotations

import json
import subprocess
from typing import Any

import pytest

from tests.integration import machine
from tests.integration.command import start_fork
from tests.integration.conftest import MakeMesh
from tests.integration.harness import FAMILIES, FWMARK, IFGROUP, MTU, Mesh, Node
from tests.tiers import need

TARGET, TABLE = "mesh", 1100
TRANSIT, TRANSIT_TABLE = "under", 200
ACCEPT = "/proc/sys/net/ipv4/udp_l3mdev_accept"
PING_SIZE = 1000
kernel = pytest.mark.kernel


def write_vrf_conf(
    node: Node, *, target: str = TARGET, table: int = TABLE, transit: str = "", backend: str = ""
) -> None:
    """As TOML, which costs an emulated machine far less than HCL."""
    top = {
        "private_key": node.private_key,
        "peers": str(node.peers),
        "journal": str(node.journal),
        "backend": backend or node.mesh.backend,
    }
    isolation = {"type": "vrf", "target": target, "transit": transit}
    lines = toml(top)
    for family in FAMILIES:
        transport = {"address_family": family, "ifprefix": f"{node.tag}{family[2]}"}
        numbers = {"send_port": node.ports[family], "mtu": MTU[family], "fwmark": FWMARK}
        lines += ["[[transport]]", *toml(transport | numbers)]
    lines += ["[isolation]", *toml(isolation | {"ifgroup": IFGROUP, "table": table})]
    node.write_conf(text="\n".join(lines) + "\n")
    node.target = node.netns


def toml(values: dict[str, Any]) -> list[str]:
    return [f"{key} = {json.dumps(value)}" for key, value in values.items()]


def ip(node: Node, *arguments: str) -> str:
    return machine.run(["ip", *arguments], node.netns)


def ip_json(node: Node, *arguments: str) -> list[dict[str, Any]]:
    return [each for each in json.loads(ip(node, "-json", *arguments) or "[]") if each]


def vrfs(node: Node) -> dict[str, int]:
    return {
        name: link["linkinfo"]["info_data"]["table"]
        for name, link in machine.links(node.netns).items()
        if link.get("linkinfo", {}).get("info_kind") == "vrf"
    }


def members(node: Node, vrf: str) -> set[str]:
    return {name for name, link in machine.links(node.netns).items() if link.get("master") == vrf}


def rules(node: Node) -> list[str]:
    """The rules of both families that are about marks, as ip-rule(8) shows them."""
    shown = ip(node, "-4", "rule") + ip(node, "-6", "rule")
    return sorted(" ".join(line.split()) for line in shown.splitlines() if "fwmark" in line)


def routes(node: Node, table: int) -> list[str]:
    found = []
    for family in ("-4", "-6"):
        done = subprocess.run(
            ["ip", "-n", node.netns, family, "route", "show", "table", str(table)],
            capture_output=True,
            text=True,
            check=False,  # it fails for a table that has never been used
        )
        found += done.stdout.splitlines()
    return found


def pings(node: Node, vrf: str, address: str) -> bool:
    return machine.answers(node.netns, "-s", str(PING_SIZE), "-I", vrf, address)


def cannot_ping(node: Node, address: str) -> bool:
    command = ["ping", "-n", "-q", "-c", "1", "-W", "1", address]
    null = subprocess.DEVNULL
    return machine.start(command, node.netns, stdout=null, stderr=null).wait() != 0


@pytest.fixture
def pair(make_mesh: MakeMesh) -> Mesh:
    """Two nodes with VRF isolation and the underlay in the default table."""
    mesh = make_mesh(2)
    for node in mesh.nodes:
        write_vrf_conf(node)
    return mesh


@kernel
def test_links_live_in_the_vrf_and_carry_traffic(pair: Mesh) -> None:
    a, b = pair.nodes
    pair.up()
    for node, other in ((a, b), (b, a)):
        assert vrfs(node) == {TARGET: TABLE}
        assert "UP" in machine.links(node.netns)[TARGET]["flags"]
        assert members(node, TARGET) == node.links_to(other)
    pair.ping_all()
    for node, other in ((a, b), (b, a)):
        overlay(node, other)
    assert pings(a, TARGET, "10.77.0.2")
    assert pings(a, TARGET, "2001:db8:77::2")


def overlay(node: Node, other: Node) -> None:
    """Addresses of the overlay, and the routes that a routing daemon would make."""
    machine.ip_batch(
        [
            f"addr add 10.77.0.{node.number}/32 dev {TARGET}",
            f"addr add 2001:db8:77::{node.number}/128 dev {TARGET}",
            f"route add 10.77.0.{other.number} dev {node.link_to(other, 'ip4')} table {TABLE}",
            f"route add 2001:db8:77::{other.number} dev {node.link_to(other, 'ip6')} table {TABLE}",
        ],
        node.netns,
    )


@kernel
def test_a_second_up_does_nothing_and_down_leaves_nothing(pair: Mesh) -> None:
    node = pair.nodes[0]
    before = set(machine.links(node.netns))
    node.up()
    assert node.up("--json").events == []
    assert len(routes(node, TABLE)) >= 2
    node.down()
    assert set(machine.links(node.netns)) == before
    assert [route for route in routes(node, TABLE) if route] == []
    assert node.rait("down", "--json").events == []


@kernel
def test_what_the_overlay_has_no_route_for_does_not_leave_by_the_underlay(pair: Mesh) -> None:
    a, b = pair.nodes
    a.up()
    for family in FAMILIES:
        command = ["ip", "-n", a.netns, "route", "get", b.addresses[family], "vrf", TARGET]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode != 0 or done.stdout.startswith("unreachable"), done
        assert "dev underlay" in ip(a, "route", "get", b.addresses[family])


@kernel
def test_a_vrf_that_was_there_before_is_used_and_left(pair: Mesh) -> None:
    a, b = pair.nodes
    machine.ip_batch(
        [f"link add {TARGET} type vrf table {TABLE}", f"link set {TARGET} up"], a.netns
    )
    index = machine.links(a.netns)[TARGET]["ifindex"]
    assert not [e for e in a.up("--json").events if "vrf" in e]
    assert members(a, TARGET) == a.links_to(b)
    a.down()
    assert machine.links(a.netns)[TARGET]["ifindex"] == index
    assert members(a, TARGET) == set()


@kernel
def test_a_vrf_that_an_administrator_made_anew_is_used_and_left(pair: Mesh) -> None:
    a, b = pair.nodes
    a.up()
    machine.ip_batch(
        [
            f"link del {TARGET}",
            f"link add {TARGET} type vrf table {TABLE}",
            f"link set {TARGET} up",
        ],
        a.netns,
    )
    index = machine.links(a.netns)[TARGET]["ifindex"]
    a.up()
    assert members(a, TARGET) == a.links_to(b)
    a.down()
    assert machine.links(a.netns)[TARGET]["ifindex"] == index
    ip(a, "link", "del", TARGET)
    a.up()
    a.down()
    assert vrfs(a) == {}, "what rait makes in its place is rait's again"


@kernel
def test_run_elsewhere_rait_does_not_forget_its_vrf(pair: Mesh) -> None:
    a, b = pair.nodes
    a.up()
    for what in ("plan", "up", "down"):
        result = start_fork(b.netns, ["-c", str(a.conf), what], "", pair.directory).wait()
        assert result.status == 1, result
        assert "different network namespace" in result.err
    assert vrfs(a) == {TARGET: TABLE}
    a.down()
    assert vrfs(a) == {}


@kernel
def test_a_vrf_of_ours_stays_while_others_use_it(pair: Mesh) -> None:
    node = pair.nodes[0]
    node.up()
    machine.ip_batch(
        ["link add guest type veth peer name guest2", f"link set guest master {TARGET}"], node.netns
    )
    result = node.down()
    assert "guest" in result.err
    assert TARGET in result.err
    assert members(node, TARGET) == {"guest"}
    ip(node, "link", "set", "guest", "nomaster")
    node.down()
    assert vrfs(node) == {}
    assert "guest" in machine.links(node.netns)


@kernel
def test_a_vrf_with_another_table_is_an_error_before_anything_is_touched(pair: Mesh) -> None:
    node = pair.nodes[0]
    ip(node, "link", "add", TARGET, "type", "vrf", "table", "77")
    before = machine.links(node.netns)
    result = node.rait("up")
    assert result.status == 1
    assert "77" in result.err
    assert str(TABLE) in result.err
    assert machine.links(node.netns).keys() == before.keys()


@kernel
def test_an_interface_of_the_name_that_is_no_vrf_is_an_error(pair: Mesh) -> None:
    node = pair.nodes[0]
    ip(node, "link", "add", TARGET, "type", "bridge")
    before = machine.links(node.netns)
    result = node.rait("up")
    assert result.status == 1
    assert "bridge" in result.err
    assert machine.links(node.netns).keys() == before.keys()


@kernel
def test_a_vrf_of_ours_that_vanished_is_made_again(pair: Mesh) -> None:
    a, b = pair.nodes
    a.up()
    before = a.state()
    ip(a, "link", "del", TARGET)
    report = a.up("--json").json
    assert [e["type"] for e in report["drift"] if "vrf" in e] == ["VrfRemoved"]
    assert [e["type"] for e in report["events"] if "vrf" in e] == ["VrfAdded"]
    assert members(a, TARGET) == a.links_to(b)
    after = a.state()
    assert {name: link.index for name, link in after.items()} == {
        name: link.index for name, link in before.items()
    }
    assert all(link["address"] for link in a.listed().values())


@kernel
def test_another_target_moves_the_links(pair: Mesh) -> None:
    a, b = pair.nodes
    pair.up()
    pair.ping_all()
    before = a.state()
    write_vrf_conf(a, target="mesh2", table=TABLE + 1)
    shown = a.rait("plan").out
    assert f"master {TARGET} -> mesh2" in shown
    assert f"+ vrf mesh2 table {TABLE + 1}" in shown
    assert f"- vrf {TARGET} table {TABLE}" in shown
    a.up()
    assert vrfs(a) == {"mesh2": TABLE + 1}
    assert members(a, "mesh2") == a.links_to(b)
    assert {n: link.index for n, link in a.state().items()} == {
        n: link.index for n, link in before.items()
    }
    pair.ping_all()


@kernel
def test_from_netns_to_vrf_and_back_the_links_are_remade(make_mesh: MakeMesh) -> None:
    mesh = make_mesh(2)
    a, b = mesh.nodes
    mesh.up()
    in_netns = a.target
    netns_conf = a.conf.read_text()
    write_vrf_conf(a)
    assert "to be remade" in a.rait("plan").out
    a.up()
    assert set(machine.links(in_netns)) == {"lo"}
    assert members(a, TARGET) == a.links_to(b)
    mesh.ping_all()
    a.write_conf(text=netns_conf)
    a.up()
    assert vrfs(a) == {}
    assert a.links_to(b) <= set(machine.links(in_netns))
    a.target = in_netns
    mesh.ping_all()


@kernel
def test_a_move_to_another_vrf_and_one_to_vrfs_are_taken_back(make_mesh: MakeMesh) -> None:
    mesh = make_mesh(2)
    a, b = mesh.nodes
    mesh.up()
    in_netns = a.target
    write_vrf_conf(a)
    a.up("--confirm", "1h")
    assert members(a, TARGET) == a.links_to(b)
    assert a.rait("confirm", "--back").status == 0
    assert vrfs(a) == {}
    assert a.links_to(b) <= set(machine.links(in_netns))
    assert a.rait("up").status == 3
    a.up("--yes")
    mesh.ping_all()
    before = a.state()
    write_vrf_conf(a, target="mesh2", table=TABLE + 1)
    a.up("--confirm", "1h")
    assert members(a, "mesh2") == a.links_to(b)
    assert a.rait("confirm", "--back").status == 0
    assert vrfs(a) == {TARGET: TABLE}
    assert members(a, TARGET) == a.links_to(b)
    assert {n: link.index for n, link in a.state().items()} == {
        n: link.index for n, link in before.items()
    }


@pytest.fixture
def split(make_mesh: MakeMesh) -> Mesh:
    """Two nodes with the underlay in a VRF too, and no way out but for marked packets."""
    mesh = make_mesh(2)
    for node in mesh.nodes:
        ip(node, "link", "add", TRANSIT, "type", "vrf", "table", str(TRANSIT_TABLE))
        machine.ip_batch(
            [
                f"link set {TRANSIT} up",
                f"link set underlay master {TRANSIT}",
                f"addr replace {node.addresses['ip6']}/64 dev underlay nodad",
                "route add blackhole default",
                "route add blackhole ::/0",
            ],
            node.netns,
        )
        write_vrf_conf(node, transit=TRANSIT)
    return mesh


@kernel
def test_overlay_and_underlay_are_kept_apart_with_the_same_addresses_in_both(split: Mesh) -> None:
    a, b = split.nodes
    for node in split.nodes:
        machine.run(["sh", "-c", f"echo 1 > {ACCEPT}"], node.netns)
        result = node.up()
        assert "l3mdev" not in result.err
    split.ping_all()
    for node, other in ((a, b), (b, a)):
        machine.ip_batch(
            [f"addr add {node.addresses['ip4']}/32 dev {TARGET}"]
            + [f"addr add {node.addresses['ip6']}/128 dev {TARGET} nodad"]
            + [
                f"route add {other.addresses[f]} dev {node.link_to(other, f)} table {TABLE}"
                for f in FAMILIES
            ],
            node.netns,
        )
    for family in FAMILIES:
        before = transfer(a)
        assert pings(a, TARGET, b.addresses[family]), "over the tunnel"
        between = transfer(a)
        assert between[a.link_to(b, family)] - before[a.link_to(b, family)] >= PING_SIZE
        assert pings(a, TRANSIT, b.addresses[family]), "over the underlay"
        # Keepalives and the like are far smaller.
        assert all(sent - between[name] < PING_SIZE for name, sent in transfer(a).items())
        assert cannot_ping(a, b.addresses[family]), "no packet gets out without mark or VRF"
    split.ping_all()


def transfer(node: Node) -> dict[str, int]:
    """Bytes sent over each link."""
    lines = machine.wg_all("transfer", node.netns).splitlines()
    return {name: int(sent) for name, _, _, sent in map(str.split, lines)}


@kernel
def test_rules_send_marked_packets_to_the_transit_vrf(split: Mesh) -> None:
    a, b = split.nodes
    foreign = ["7: from all fwmark 0x36 lookup 77", "8: from all fwmark 0x99 lookup 200"]
    machine.ip_batch(["rule add pref 7 fwmark 54 lookup 77"], a.netns)
    ip(a, "-6", "rule", "add", "pref", "8", "fwmark", "0x99", "lookup", "200")
    a.up()
    made = [rule for rule in rules(a) if rule not in foreign]
    assert len(made) == 2, "one for each family"
    assert all(rule.startswith("900: from all fwmark 0x36 lookup") for rule in made)
    machine.ip_batch(["rule del pref 7"], a.netns)
    for family in FAMILIES:
        found = ip(a, "route", "get", b.addresses[family], "mark", str(FWMARK))
        assert "dev underlay" in found
    machine.ip_batch(["rule add pref 7 fwmark 54 lookup 77"], a.netns)
    assert a.up("--json").events == []
    a.down()
    assert rules(a) == sorted(foreign)
    assert vrfs(a) == {TRANSIT: TRANSIT_TABLE}


@kernel
def test_a_policy_changes_the_mark_of_a_living_link_and_its_rules(split: Mesh) -> None:
    a, b = split.nodes
    for node in split.nodes:
        machine.run(["sh", "-c", f"echo 1 > {ACCEPT}"], node.netns)
        node.up()
    split.ping_all()
    before, text = a.state(), a.conf.read_text()
    mark = '\n[[policy]]\nmatch = { address_family = "ip4" }\nfwmark = "0x37"\n'
    a.write_conf(text=text + mark)
    events = a.up("--json").events
    assert [e["type"] for e in events] == ["RuleAdded", "RuleAdded", "DeviceUpdated"]
    assert sum("fwmark 0x37" in rule for rule in rules(a)) == 2
    after = a.state()
    link = a.link_to(b, "ip4")
    assert after[link].fwmark == "0x37"
    assert {n: (s.index, s.handshake) for n, s in after.items()} == {
        n: (s.index, s.handshake) for n, s in before.items()
    }
    split.ping_all()
    assert a.up("--json").events == []

    a.write_conf(text=text)
    a.up()
    assert not any("fwmark 0x37" in rule for rule in rules(a))
    split.ping_all()


@kernel
def test_a_rule_that_was_there_is_neither_doubled_nor_removed(split: Mesh) -> None:
    node = split.nodes[0]
    machine.ip_batch([f"rule add pref 900 fwmark {FWMARK} lookup {TRANSIT_TABLE}"], node.netns)
    added = [e["rule"] for e in node.up("--json").events if "rule" in e]
    assert [rule["family"] for rule in added] == ["ip6"]
    assert len(rules(node)) == 2
    node.down()
    assert len(rules(node)) == 1


@kernel
def test_a_changed_transit_changes_rules_alone(split: Mesh) -> None:
    node = split.nodes[0]
    node.up()
    ip(node, "link", "add", "under2", "type", "vrf", "table", "201")
    write_vrf_conf(node, transit="under2")
    events = node.up("--json").events
    assert {e["type"] for e in events} == {"RuleAdded", "RuleRemoved"}
    assert all("lookup 201" in rule or "lookup under2" in rule for rule in rules(node))
    assert len(rules(node)) == 2


@kernel
def test_closed_sockets_are_warned_of_and_the_switch_left_alone(split: Mesh) -> None:
    node = split.nodes[0]
    result = node.up()
    assert "sysctl -w net.ipv4.udp_l3mdev_accept=1" in result.err
    assert machine.run(["cat", ACCEPT], node.netns).strip() == "0"
    machine.run(["sh", "-c", f"echo 1 > {ACCEPT}"], node.netns)
    assert "l3mdev" not in node.up().err


@kernel
def test_a_missing_transit_vrf_is_explained_and_nothing_touched(pair: Mesh) -> None:
    node = pair.nodes[0]
    write_vrf_conf(node, transit=TRANSIT)
    before = set(machine.links(node.netns))
    result = node.rait("up")
    assert result.status == 1
    assert f"ip link add {TRANSIT} type vrf table" in result.err
    assert set(machine.links(node.netns)) == before
    assert rules(node) == []


@kernel
def test_links_of_wireguard_go_live_in_the_vrf_too(pair: Mesh) -> None:
    need("wireguard-go", "wireguard-go")
    a, b = pair.nodes
    write_vrf_conf(a, backend="userspace")
    pair.up()
    assert members(a, TARGET) == a.links_to(b)
    pair.ping_all()
    a.down()
    assert vrfs(a) == {}
    assert machine.wireguard_processes(a.tag) == []


@pytest.mark.userspace
def test_a_kernel_without_vrfs_is_explained_and_nothing_left(pair: Mesh) -> None:
    node = pair.nodes[0]
    probe = ["unshare", "--net", "ip", "link", "add", "probe0", "type", "vrf", "table", "9"]
    if subprocess.run(probe, capture_output=True, check=False).returncode == 0:
        pytest.skip("this kernel has VRFs; the kernel tier tests them")
    before = set(machine.links(node.netns))
    planned = node.rait("plan")
    assert planned.status == 0
    assert f"+ vrf {TARGET} table {TABLE}" in planned.out
    assert f"warning: VRF {TARGET} cannot be made: this kernel has no VRF" in planned.err
    assert vrfs(node) == {}
    result = node.rait("up")
    assert result.status == 1
    assert "modprobe vrf" in result.err
    assert "CONFIG_NET_VRF" in result.err
    assert set(machine.links(node.netns)) == before
    assert machine.wireguard_processes(node.tag) == []


def add_policy(node: Node, family: str, **settings: Any) -> None:
    """A policy for the links of one address family."""
    match = ["[policy.match]", *toml({"address_family": family})]
    lines = [node.conf.read_text(), "[[policy]]", *toml(settings), *match]
    node.write_conf(text="\n".join(lines) + "\n")


@kernel
def test_an_mtu_follows_the_underlay_in_the_first_run_already(split: Mesh) -> None:
    """There are no rules yet, by which marked packets find the underlay's table."""
    node, far = split.nodes
    ip(node, "link", "set", "underlay", "mtu", "1400")
    for family in FAMILIES:
        add_policy(node, family, mtu="auto")
    assert rules(node) == []
    node.up()
    there = machine.links(node.netns)
    mtus = {family: there[node.link_to(far, family)]["mtu"] for family in FAMILIES}
    assert mtus == {"ip4": 1340, "ip6": 1320}
    assert node.up("--json").events == []


@kernel
def test_what_an_address_leads_to_is_in_the_table_of_the_vrf(pair: Mesh) -> None:
    node, far = pair.nodes
    link, before = node.link_to(far, "ip4"), node.conf.read_text()
    node.up()
    for addresses, wanted in (
        (["172.20.0.1/24", "fd00:20::1/64"], ["172.20.0.0/24", "fd00:20::/64"]),
        (["172.20.0.1 peer 172.20.0.2"], ["172.20.0.2"]),
    ):
        node.write_conf(text=before)
        add_policy(node, "ip4", addresses=addresses)
        node.up()
        shown = {route.split()[0] for route in routes(node, TABLE) if f"dev {link}" in route}
        assert {*wanted} <= shown
        assert "172.20" not in ip(node, "route") + ip(node, "-6", "route")
    node.write_conf(text=before)
    node.up()
    assert not [route for route in routes(node, TABLE) if "172.20" in route]

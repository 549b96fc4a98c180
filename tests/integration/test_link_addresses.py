"""Addresses that policies give to living links: the kernel has them, and sessions go on."""

from __future__ import annotations

import json
import random
import re
import time
from typing import Any

import pytest

from tests.integration import machine
from tests.integration.command import Result
from tests.integration.conftest import MakeMesh
from tests.integration.harness import Handshake, Mesh, Node

pytestmark = [pytest.mark.userspace, pytest.mark.kernel]


def give(node: Node, *policies: str) -> None:
    """Have rait.conf end with these policies."""
    blocks = (f"policy {{\n{policy}\n}}\n" for policy in policies if policy)
    node.write_conf(text=node.conf_hcl() + "".join(blocks))


def addressed(*addresses: str, match: str = "") -> str:
    return f"{match}\naddresses = {json.dumps(addresses)}" if addresses else ""


def there(node: Node, link: str) -> set[str]:
    """The addresses of a link, as ip(8) tells them."""
    text = machine.run(["ip", "-json", "addr", "show", "dev", link], node.target)
    (found,) = (each for each in json.loads(text) if each)
    return {
        f"{each['local']} peer {each['address']}/{each['prefixlen']}"
        if each.get("address")
        else f"{each['local']}/{each['prefixlen']}"
        for each in found["addr_info"]
    }


def ip(node: Node, *arguments: str) -> str:
    return machine.run(["ip", *arguments], node.target)


def sessions(node: Node) -> dict[str, tuple[int, Handshake]]:
    """When each link was made (its index) and its last handshake."""
    return {name: (link.index, link.handshake) for name, link in node.state().items()}


def assert_kept(node: Node, before: dict[str, tuple[int, Handshake]]) -> None:
    """Assert that no link was made again, and no session ended."""
    assert sessions(node) == before


def transferred(node: Node, link: str) -> int:
    _, received, sent = machine.wg("show", link, "transfer", netns=node.target).split()
    return int(received) + int(sent)


def changed(result: Result, link: str) -> list[list[str]]:
    """The addresses of the link before and after each event of a run with --json."""
    assert result.status == 0, result
    assert {event["type"] for event in result.events} <= {"LinkUpdated"}
    events = [event for event in result.events if event["link"] == link]
    return [[*e["before"]["addresses"], "->", *e["after"]["addresses"]] for e in events]


STEPS: list[tuple[str, ...]] = [
    ("172.20.0.1/24",),
    ("172.20.0.1 peer 172.20.0.2/32",),
    ("172.20.0.1 peer 172.20.0.3/32",),
    ("172.20.0.1/24", "172.20.0.1/25", "172.20.0.7/24"),
    ("172.20.0.7/24", "fd00::1/64"),
    # To the kernel, these are one address with what was there before.
    ("172.20.0.7 peer 172.20.0.9/24", "fd00::1/48"),
    ("fd00::1 peer fd00::2/128",),
    ("fd00::1 peer fd00::3/128", "fd00::4/128"),
    (),
]


def test_addresses_change_on_a_living_link(mesh: Mesh) -> None:
    near, far = mesh.nodes
    link, back = near.link_to(far, "ip4"), far.link_to(near, "ip4")
    (local,) = there(near, link)
    before, moved = sessions(near), transferred(near, link)
    address = local.partition("/")[0]
    told = near.directory / "ping"
    with told.open("w") as file:
        words = ["ping", "-6", "-n", "-i", "0.2", f"{address}%{back}"]
        ping = machine.start(words, far.target, stdout=file)
    try:
        for addresses in STEPS:
            give(near, addressed(*addresses))
            assert changed(near.rait("up", "--json"), link), addresses
            assert there(near, link) == {local, *addresses}
            assert near.rait("up", "--json").events == []
        give(near, "mtu = 1300")
        assert near.rait("up", "--json").touched == near.links_to(far)
        assert machine.answers(far.target, "-6", f"{address}%{back}")
    finally:
        ping.kill()
        ping.wait()
    answered = {int(number) for number in re.findall(r"icmp_seq=(\d+) ttl", told.read_text())}
    assert answered == set(range(1, max(answered) + 1))  # the last ones may be under way
    assert_kept(near, before)
    assert transferred(near, link) > moved


def test_a_chosen_link_local_address_takes_the_place_of_the_other(mesh: Mesh) -> None:
    near, far = mesh.nodes
    link, before = near.link_to(far, "ip4"), sessions(near)
    made_up = there(near, link)
    for chosen in ("fe80::53/64", "fe80::54/64"):
        give(near, addressed(chosen))
        assert near.rait("up", "--json").touched == near.links_to(far)
        assert there(near, link) == {chosen}
        assert near.rait("up", "--json").events == []
        assert near.listed()[link]["address"] == chosen
    assert not mesh.unanswered([(far, near)])
    give(near)
    near.up()
    assert there(near, link) == made_up
    assert_kept(near, before)


def test_both_ends_talk_over_the_addresses_that_the_registry_names(mesh: Mesh) -> None:
    for node, other in (mesh.nodes, mesh.nodes[::-1]):
        remarks = f'[Peers.Remarks]\nnumber = "{other.number}"\n'
        node.write_peers(
            f"{entry}{remarks}" for entry in re.split(r"(?=\[\[Peers)", other.entry()) if entry
        )
        numbered = f"172.20.0.{node.number} peer 172.20.0.{{remarks.number}}"
        give(node, addressed(numbered, match='match { address_family = "ip4" }'))
        node.up()
    near, far = mesh.nodes
    assert machine.answers(near.target, f"172.20.0.{far.number}")
    shown = near.rait("list").out
    assert "172.20.0.1 peer 172.20.0.2/32" in shown


def test_what_others_remove_comes_back_and_what_they_add_stays(mesh: Mesh) -> None:
    near, far = mesh.nodes
    link = near.link_to(far, "ip4")
    (local,) = there(near, link)
    own = ("172.20.0.1/24", "fd00::1/64")
    give(near, addressed(*own))
    near.up()
    # The last two share a subnet with ours, which came first.
    foreign = {"192.168.7.1/24", "fe80::77/64", "172.20.0.9/24", "fd00::9/64"}
    for address in foreign:
        ip(near, "addr", "add", address, "dev", link)
    assert near.rait("up", "--json").json["drift"] == []
    give(near)
    near.up()
    assert there(near, link) == {local, *foreign}
    give(near, addressed(*own))
    near.up()
    for address in own:
        ip(near, "addr", "del", address, "dev", link)
    result = near.rait("up", "--json")
    (noticed,) = result.json["drift"]
    assert (noticed["after"]["addresses"], noticed["left_by_unfinished_run"]) == ([], False)
    assert there(near, link) == {local, *own, *foreign}
    for addresses in ((), ("172.20.0.2/24",), ("172.20.0.9/24",)):
        give(near, addressed(*addresses))
        assert near.rait("up").status == 0
        assert there(near, link) == {local, *addresses, *foreign}


def test_a_link_that_was_down_has_all_of_its_addresses_again(mesh: Mesh) -> None:
    near, far = mesh.nodes
    link = near.link_to(far, "ip4")
    (local,) = there(near, link)
    own = {"172.20.0.1/24", "fd00::1/64", "fe80::53/64"}
    give(near, addressed(*own))
    near.up()
    ip(near, "link", "set", link, "down")
    assert there(near, link) == {"172.20.0.1/24"}
    near.up()
    assert there(near, link) == own
    assert near.rait("up", "--json").json["drift"] == []
    give(near)
    near.up()
    assert there(near, link) == {local}


def test_an_address_that_is_refused_fails_its_link_alone(mesh: Mesh) -> None:
    near, far = mesh.nodes
    bad, good = near.link_to(far, "ip4"), near.link_to(far, "ip6")
    give(near, addressed("10.0.0.1/24"))
    near.up()
    # The kernel lets no two addresses of a subnet have different scopes.
    ip(near, "addr", "add", "172.20.0.9/24", "dev", bad, "scope", "link")
    give(near, addressed("172.20.0.1/24", "fd00::1/64"))
    result = near.rait("up")
    assert result.status == 3
    assert re.search(f"{bad}: .*address 172.20.0.1/24: EINVAL", result.err)
    assert not re.search(f"{good}: ", result.err)
    # What goes does not go before what comes is there; what came is known.
    assert {"10.0.0.1/24", "fd00::1/64"} <= there(near, bad)
    assert {"172.20.0.1/24", "fd00::1/64"} <= there(near, good)
    give(near)
    near.up()
    assert [each for each in there(near, bad) if not each.startswith("fe80")] == ["172.20.0.9/24"]


def test_a_rollback_takes_addresses_back(mesh: Mesh) -> None:
    near, far = mesh.nodes
    link = near.link_to(far, "ip4")
    before, made = there(near, link), sessions(near)
    give(near, addressed("172.20.0.1/24", "fe80::53"))
    run: Any = near.rait("up", "--json").json["run"]
    ip(near, "addr", "add", "172.20.0.9/24", "dev", link)
    assert near.rait("rollback", str(run)).status == 0
    assert there(near, link) == before | {"172.20.0.9/24"}
    assert near.rait("rollback").status == 0
    assert there(near, link) == {"172.20.0.1/24", "fe80::53/64", "172.20.0.9/24"}
    assert_kept(near, made)
    shown = near.rait("log", "show", str(run)).out
    assert "-> none, addresses none -> 172.20.0.1/24 and fe80::53/64" in shown


def test_a_new_link_has_its_addresses_and_takes_them_along(make_mesh: MakeMesh) -> None:
    near, far = make_mesh(2).nodes
    give(near, addressed("172.20.0.1/32", "fd00::1/128", "fe80::53"))
    near.up()
    for link in near.links_to(far):
        assert there(near, link) == {"172.20.0.1/32", "fd00::1/128", "fe80::53/64"}
    assert near.rait("up", "--json").json["status"] == "unchanged"
    near.down()
    assert near.leftovers() == []


def test_a_killed_run_leaves_nothing_and_is_blamed_on_nobody(mesh: Mesh, tier: str) -> None:
    near, far = mesh.nodes
    link, before = near.link_to(far, "ip4"), sessions(near)
    ip(near, "addr", "add", "192.168.7.1/24", "dev", link)
    choices = [("172.20.0.1/24", "fe80::53/64"), ("172.20.0.1/25", "fd00::1/64", "fd00::2/64")]
    seed = random.SystemRandom().randrange(1 << 32)
    print(f"seed {seed}")
    rng = random.Random(seed)
    begin = time.monotonic()
    near.up()
    length = time.monotonic() - begin
    for number in range({"userspace": 16, "kernel": 4}[tier]):
        give(near, addressed(*choices[number % 2]))
        running = near.start("up")
        time.sleep(rng.uniform(0, 2 * length))
        running.kill()
        wanted = choices[(number + number // 2) % 2]
        give(near, addressed(*wanted))
        result = near.rait("up", "--json")
        assert result.status == 0, result
        assert all(event["left_by_unfinished_run"] for event in result.json["drift"]), result
        others = {each for each in there(near, link) if each not in wanted}
        assert {each for each in others if not each.startswith("fe80")} == {"192.168.7.1/24"}
        assert {*wanted} <= there(near, link)
        assert len([each for each in there(near, link) if each.startswith("fe80")]) == 1
    assert_kept(near, before)

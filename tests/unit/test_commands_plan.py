"""``rait plan``, ``--against`` a state above all, and what leaves this node with one."""

from __future__ import annotations

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from rait.adapters.netlink.socket import NetlinkSocket
from rait.commands.plan import without_strangers
from rait.domain.backend import Observation, ObservedLink
from rait.domain.change import Failure
from rait.domain.events import LinkAdded
from rait.domain.history import LastKnown
from rait.domain.ownership import Scope
from rait.domain.topology import Device, Endpoint, Link, LinkPeer, LinkSettings, Origin
from tests.unit.command_line import CONF, PEERS, PRIVATE, STATE, Rait, link, report

SCOPE = Scope(public_key="ours", netns="mesh", ifgroup=54)


def seen(name: str, *, group: int, key: str, netns: str = "mesh") -> ObservedLink:
    link = Link(
        name,
        Origin("kernel", netns),
        LinkSettings(1420, group),
        Device(key, 50001),
        (LinkPeer(f"the peer of {name} in {netns}", Endpoint("192.0.2.7", 50001)),),
    )
    return ObservedLink(link=link)


def test_an_exported_state_says_no_more_of_others_links_than_their_names() -> None:
    ours = seen("w50001", group=54, key="ours")
    foreign = seen("wg0", group=0, key="theirs")
    double = seen("w50001", group=0, key="theirs", netns="elsewhere")
    observation = Observation(
        now=0, links={"w50001": ours, "wg0": foreign}, doubles=(double,), others={"lo": ""}
    )
    exported = without_strangers(observation, LastKnown(), SCOPE)
    assert exported.links == {"w50001": ours}
    assert exported.doubles == ()
    assert exported.others == {"lo": "", "wg0": "wireguard"}


def test_an_exported_state_has_our_links_in_other_namespaces_too() -> None:
    ours = seen("w50001", group=54, key="ours")
    double = seen("w50001", group=54, key="ours", netns="former")
    memory = LastKnown()
    scope = Scope(public_key="ours", netns="former", ifgroup=54)
    observation = Observation(now=0, links={"w50001": ours}, doubles=(double,))
    assert without_strangers(observation, memory, scope).doubles == (double,)


def test_a_plan_against_a_state_touches_no_machine(
    rait: Rait, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a netlink socket was opened")

    monkeypatch.setattr(NetlinkSocket, "__init__", refuse)
    said = rait("plan", "--against", str(STATE), "--json")
    assert said.status == 0
    (mtu,) = json.loads(said.out)["events"]
    assert (mtu["link"], mtu["before"]["mtu"], mtu["after"]["mtu"]) == ("rait4x50223", 1280, 1420)
    assert not rait.journal.exists()


@pytest.mark.parametrize("kind", ["hcl", "toml"])
def test_a_plan_writes_nothing_not_even_a_cache(rait: Rait, kind: str) -> None:
    """In processes of their own, in which nothing was read before."""
    cache = rait.directory / "home" / "cache"
    cache.parent.mkdir(mode=0o700)
    hcl = (
        "peers {\n"
        f'  public_key = "{PEERS[50221][0]}"\n'
        '  endpoint {\n    address_family = "ip4"\n    send_port = 50221\n  }\n}\n'
    )
    if kind == "hcl":
        (rait.directory / "peers.conf").write_text(hcl)
    prologue = (
        "import sys\nfrom rait.adapters.config import caches\nassert caches._ROOT_CACHE\n"
        f"caches._ROOT_CACHE = {str(cache / 'rait')!r}\n"
    )
    planning = f"{prologue}from rait.cli import main\nsys.exit(main(sys.argv[1:]))\n"
    keeping = (
        f"{prologue}from rait.app.load import load_config, load_peers\n"
        "with caches.keeping():\n"
        "    load_peers(load_config(sys.argv[2], key_required=False))\n"
    )

    def run_in(script: str) -> None:
        done = subprocess.run(
            [sys.executable, "-c", script, "-c", str(rait.conf), "plan", "--against", str(STATE)],
            capture_output=True, text=True, check=False, timeout=300,
            env={**os.environ, "HOME": str(cache.parent), "XDG_CACHE_HOME": str(cache)},
        )  # fmt: skip
        assert done.returncode == 0, done

    before = everything(rait.directory)
    run_in(planning)
    assert everything(rait.directory) == before
    run_in(keeping)
    kept = everything(rait.directory)
    assert kept != before, "one that may write would have put something there"
    for file in cache.rglob("*.*"):
        file.unlink()
    before = everything(rait.directory)
    run_in(planning)
    assert everything(rait.directory) == before


def everything(directory: Path) -> dict[str, int]:
    return {str(path): path.lstat().st_mtime_ns for path in directory.rglob("*")}


def test_a_plan_against_a_state_shows_what_a_change_of_the_registry_does(rait: Rait) -> None:
    changed = PEERS | {50225: ("RkVEQ0JBQD8+PTw7Ojk4NzY1NDMyMTAvLi0sKyopKCc=", "192.0.2.25")}
    del changed[50224]
    changed[50221] = (PEERS[50221][0], "192.0.2.99")
    rait.write(CONF, changed)
    said = rait("plan", "--against", str(STATE))
    assert said.status == 0
    assert said.out.splitlines() == [
        "! ~ rait4x50223 mtu 1420 -> 1280 (since the last run, not by a run of this configuration)",
        f"- rait4x50224 peer {PEERS[50224][0]}",
        f"+ rait4x50225 port 50225 peer {changed[50225][0]} endpoint 192.0.2.25:50153",
        "~ rait4x50223 mtu 1280 -> 1420",
        f"~ rait4x50221 peer {PEERS[50221][0]} endpoint 192.0.2.12:50153 -> 192.0.2.99:50153",
        "rait plan: 1 to be added, 1 to be removed, 2 to be changed; 3 links wanted",
    ]


def test_a_plan_for_another_node_takes_the_preshared_keys_there_to_be_right(rait: Rait) -> None:
    """Their files are on that node; here a digest of it tells which peers have one."""
    policy = 'policy {\n  preshared_key_file = "/nowhere/{public_key}"\n}\n'
    rait.write(CONF + policy, PEERS)
    said = rait("plan", "--against", str(STATE))
    assert said.status == 0
    assert said.out.count("preshared key set") == len(PEERS)
    state = STATE.read_text().replace('"keepalive": 0', '"keepalive": 0, "psk_digest": "5e7d"')
    keyed = rait.directory / "state.json"
    keyed.write_text(state)
    assert "preshared" not in rait("plan", "--against", str(keyed)).out
    rait.write(CONF, PEERS)
    assert "preshared key removed" in rait("plan", "--against", str(keyed)).out


def test_detailed_statuses_tell_changes_from_none_and_from_errors(rait: Rait) -> None:
    def status(*arguments: str) -> int:
        return rait("plan", "--detailed-exitcode", *arguments).status

    assert status("--against", str(STATE)) == 2
    mended = json.loads(STATE.read_text())
    mended["observation"]["links"]["rait4x50223"]["link"]["settings"]["mtu"] = 1420
    state = rait.directory / "mended.json"
    state.write_text(json.dumps(mended))
    assert status("--against", str(state)) == 0
    assert status("--against", str(rait.directory / "nowhere.json")) == 1
    rait.conf.write_text("transport = 5")
    assert status("--against", str(state)) == 1


def test_a_plan_tells_that_up_would_stop(rait: Rait) -> None:
    rait.write(f"max_removals = 0\n{CONF}", {50221: PEERS[50221]})
    said = rait("plan", "--against", str(STATE))
    assert said.status == 0
    assert "`rait up` will stop" in said.err
    assert "rait4x50223, rait4x50224" in said.err


def test_a_plan_counts_what_a_run_that_was_cut_off_had_removed(rait: Rait) -> None:
    """As `up` does: that run never said what became of a link, and it is gone."""
    state = json.loads(STATE.read_text())
    link = state["memory"]["topology"]["links"]["rait4x50223"]
    state["memory"]["undecided"] = [{"type": "LinkRemoved", "link": link}]
    del state["observation"]["links"]["rait4x50223"]
    cut_off = rait.directory / "cut-off.json"
    cut_off.write_text(json.dumps(state))
    rait.write(f"max_removals = 1\n{CONF}", {50221: PEERS[50221]})
    said = rait("plan", "--against", str(cut_off))
    assert said.status == 0
    assert "`rait up` will stop" in said.err


@pytest.mark.parametrize("told", [0, 1])
def test_a_newcomer_does_not_take_a_link_that_a_run_made_which_was_cut_off(
    rait: Rait, told: int
) -> None:
    """Though the journal does not know whether the link, or its peer, came to be."""
    state = json.loads(STATE.read_text())
    links = state["memory"]["topology"]["links"]
    link = links.pop("rait4x50224")
    bare = link | {"peers": []}
    made = {"type": "LinkAdded", "link": bare}
    (peer,) = link["peers"]
    state["memory"]["undecided"] = [
        made,
        {"type": "PeerAdded", "name": "rait4x50224", "peer": peer},
    ][told:]
    (links if told else state["memory"].setdefault("pending", {}))["rait4x50224"] = bare
    cut_off = rait.directory / "cut-off.json"
    cut_off.write_text(json.dumps(state))
    newcomer = entry(50224, PublicKey='"RkVEQ0JBQD8+PTw7Ojk4NzY1NDMyMTAvLi0sKyopKCc="')
    entries(rait, newcomer, *(entry(port) for port in (50221, 50223, 50224)))
    said = rait("plan", "--against", str(cut_off))
    assert "which has the link (give one of the two another); skipped" in said.err
    changed = [line for line in said.out.splitlines() if not line.startswith("!")]
    assert not any("50224" in line for line in changed)


def test_a_name_that_does_not_resolve_is_told_with_its_line(
    rait: Rait, monkeypatch: pytest.MonkeyPatch
) -> None:
    def no_such_name(*_: object) -> None:
        raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")

    monkeypatch.setattr(socket, "getaddrinfo", no_such_name)
    rait.write(
        CONF, PEERS | {50225: ("RkVEQ0JBQD8+PTw7Ojk4NzY1NDMyMTAvLi0sKyopKCc=", "no.example")}
    )
    said = rait("plan", "--against", str(STATE))
    assert said.status == 0
    why = 'Peers[3]: "no.example" has no ip4 address: Name or service not known'
    assert said.err == f"rait: warning: {rait.directory}/peers.conf:19: {why}\n"


def entries(rait: Rait, *texts: str) -> None:
    (rait.directory / "peers.conf").write_text("\n".join(texts))


def entry(port: int, **changes: str) -> str:
    """The entry of one of PEERS as it is, but for what changes."""
    key, address = PEERS[port]
    fields = {
        "PublicKey": f'"{key}"',
        "SendPort": str(port),
        "Endpoint": f'"{address}"',
        "AddressFamily": '"ip4"',
    } | changes
    return "[[Peers]]\n" + "".join(f"{name} = {value}\n" for name, value in fields.items())


@pytest.mark.parametrize(
    "wrong",
    [
        {"SendPort": "0"},
        {"SendPort": "502240"},
        {"AddressFamily": '"inet"'},
        {"Endpoint": '"a..b"'},
        {"PublicKey": '"KCkqKywtLi8wMTIzNDU2Nzg5Ojs8PT4_QEFCQ0RFRkc="'},
        {"PublicKey": "7"},
    ],
)
def test_an_entry_that_cannot_be_read_leaves_its_link_and_shows_in_the_status(
    rait: Rait, wrong: dict[str, str]
) -> None:
    entries(rait, entry(50221), entry(50223), entry(50224, **wrong))
    said = rait("plan", "--against", str(STATE))
    assert said.status == 3
    assert "rait4x50224: left as it is" in said.err
    assert f"{rait.directory}/peers.conf:1" in said.err
    assert "- rait4x50224" not in said.out
    assert "1 to be left as it is; 3 links wanted" in said.out


@pytest.mark.parametrize("junk", ["[[Peers]]\nkey = 1\n", "[[Peers]]\n"])
def test_a_link_that_goes_with_an_entry_that_may_be_its_own_shows_in_the_status(
    rait: Rait, junk: str
) -> None:
    entries(rait, entry(50221), entry(50223), junk)
    said = rait("plan", "--against", str(STATE))
    assert said.status == 3
    assert "- rait4x50224" in said.out
    assert "link rait4x50224 loses its peer, and an entry that cannot be read" in said.err
    assert "peers.conf:13: Peers[2]: public_key is missing" in said.err
    entries(rait, entry(50221), entry(50223), entry(50224), junk)
    assert rait("plan", "--against", str(STATE)).status == 0


def test_a_link_that_a_limit_of_ours_costs_shows_in_the_status(rait: Rait) -> None:
    rait.write(f'port_range = "50000-50223"\n{CONF}', PEERS)
    said = rait("plan", "--against", str(STATE), "--json")
    assert said.status == 3
    result = json.loads(said.out)
    assert [e["link"] for e in result["events"] if e["type"] == "LinkRemoved"] == ["rait4x50224"]
    (loss,) = result["losses"]
    assert "rait4x50224" in loss
    assert "outside of port_range" in loss


@pytest.mark.parametrize("text", ["[[Peers]]\n", entry(50221, SendPort="0")])
def test_a_list_of_wrong_entries_alone_changes_nothing(rait: Rait, text: str) -> None:
    """There are but three links here, so the guard against removals is silent."""
    entries(rait, text)
    said = rait("plan", "--against", str(STATE))
    assert (said.status, said.out) == (1, "")
    assert "nothing is done" in said.err
    entries(rait, "peers = []")
    assert "3 to be removed" in rait("plan", "--against", str(STATE)).out


def test_more_links_than_max_links_change_nothing(rait: Rait) -> None:
    rait.write(f"max_links = 2\n{CONF}", PEERS)
    said = rait("plan", "--against", str(STATE))
    assert (said.status, said.out) == (1, "")
    assert "asks for 3 links" in said.err
    # Those that are left as they are count too, where new ones would come.
    more = entry(50221, SendPort="50229", PublicKey=f'"{PEERS[50221][0][::-1][1:]}="')
    rait.write(f"max_links = 3\n{CONF}", PEERS)
    entries(rait, entry(50221), entry(50223), entry(50224, SendPort="0"), more)
    said = rait("plan", "--against", str(STATE))
    assert (said.status, said.out) == (1, "")
    assert "there would be 4 links" in said.err


def test_our_private_key_in_the_list_is_not_shown(rait: Rait) -> None:
    for conf in (CONF, f'private_key = "{PRIVATE}"\n{CONF}'):
        rait.write(conf, PEERS | {50229: (PRIVATE, "192.0.2.9")})
        said = rait("plan", "--against", str(STATE))
        assert (said.status, said.out) == (1, "")
        assert PRIVATE not in said.err
        assert "peers.conf:" in said.err
        assert "own private key" in said.err


def test_a_target_that_changes_remakes_the_links(rait: Rait) -> None:
    rait.write(CONF.replace("raitns", "elsewhere"), PEERS)
    said = rait("plan", "--against", str(STATE), "--json")
    assert said.status == 0
    added = [e for e in json.loads(said.out)["events"] if e["type"] == "LinkAdded"]
    assert {e["state"]["origin"]["netns"] for e in added} == {"elsewhere"}
    assert len(added) == 3


@pytest.mark.parametrize(
    ("text", "word"),
    [("", "not a state"), ("{}", "not a state"), ("[1]", "not a state"),
     ("\udcff", "takes a state"), ("[" * 100_000, "not a state"),
     ('{"a":' * 100_000, "nested too deep"), ('{"format": "\\ud800"}', "not a state"),
     (STATE.read_text().replace("rait-state-1", "rait-state-9"), "rait-state-9")],
)  # fmt: skip
def test_what_is_no_state_is_refused_with_a_reason(rait: Rait, text: str, word: str) -> None:
    state = rait.directory / "state.json"
    state.write_text(text, errors="surrogateescape")
    said = rait("plan", "--against", str(state))
    assert said.status == 1
    assert str(state) in said.err
    assert word in said.err


def test_a_state_of_another_node_is_refused(rait: Rait) -> None:
    other = "6Hdk7WVaFdCjzGFMkpnp+1GhXG5Q4H07wNm29rSZ2Eg="
    rait.write(f'private_key = "{other}"\n{CONF}', PEERS)
    said = rait("plan", "--against", str(STATE))
    assert said.status == 2
    assert "5q1HDxrH29mQGy/CIhHtNEOn+6LRxh9HeJzQQeFTEVc=" in said.err
    assert other not in said.err
    rait.write(f'private_key = "{PRIVATE}"\n{CONF}', PEERS)
    assert rait("plan", "--against", str(STATE)).status == 0


@pytest.mark.parametrize("failed", [False, True])
def test_a_plan_that_cannot_be_carried_out_whole_is_no_success(
    rait: Rait, monkeypatch: pytest.MonkeyPatch, failed: bool
) -> None:
    failures = (Failure("babeld", "it does not run"),) if failed else ()
    planned = report(status="unchanged", failures=failures)
    monkeypatch.setattr("rait.app.desired.up", lambda *_, **__: planned)
    for command in (("plan",), ("up", "--dry-run")):
        assert rait(*command).status == (3 if failed else 0)
        assert rait(*command, "--detailed-exitcode").status == (1 if failed else 0)


def test_a_dry_run_has_the_detailed_statuses_of_a_plan(
    rait: Rait, monkeypatch: pytest.MonkeyPatch
) -> None:
    planned = report(LinkAdded(link("w1")), status="planned")
    monkeypatch.setattr("rait.app.desired.up", lambda *_, **__: planned)
    for command in (("plan",), ("up", "--dry-run")):
        assert rait(*command).status == 0
        assert rait(*command, "--detailed-exitcode").status == 2
    refused = rait("up", "--detailed-exitcode")
    assert refused.status == 1
    assert "--dry-run" in refused.err

"""``rait fleet plan``: what people and programs are told of a change of the registry."""

from __future__ import annotations

import base64
import io
import json
import sys
from pathlib import Path

import pytest

from rait.adapters.netlink.socket import NetlinkSocket
from rait.cli import main
from tests.minisign import QuickSigner


def key(number: int) -> str:
    return base64.b64encode(bytes([number]) * 32).decode()


def entry(number: int, *, port: int = 0, k: int = 0, name: str = "", nat: bool = False) -> str:
    address = "" if nat else f'Endpoint = "192.0.2.{number}"\n'
    return (
        f'[[Peers]]\nPublicKey = "{key(k or number)}"\nName = "{name or f"n{number}"}"\n'
        f'SendPort = {port or 50000 + number}\nAddressFamily = "ip4"\n{address}'
    )


OLD = [entry(number) for number in range(1, 6)]


class Told:
    """What one call printed, and its status."""

    def __init__(self, status: int, out: str, err: str) -> None:
        self.status, self.out, self.err = status, out, err
        self.lines = out.splitlines()


class Fleet:
    """Calls ``rait fleet plan`` on two lists."""

    def __init__(self, directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.directory = directory
        self._capsys = capsys

    def __call__(self, new: list[str], *arguments: str, old: list[str] = OLD) -> Told:
        for name, entries in (("old.toml", old), ("new.toml", new)):
            (self.directory / name).write_text("\n".join(entries) or "peers = []\n")
        self._capsys.readouterr()
        paths = [str(self.directory / name) for name in ("old.toml", "new.toml")]
        status = main(["fleet", "plan", *arguments, *paths])
        return Told(status, *self._capsys.readouterr())


@pytest.fixture
def fleet(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Fleet:
    return Fleet(tmp_path, capsys)


def test_a_list_that_says_what_it_said_changes_nothing(fleet: Fleet) -> None:
    told = fleet(OLD[::-1])
    assert (told.status, told.lines, told.err) == (0, ["5 nodes: 10 pairs kept"], "")


def test_no_machine_is_touched(fleet: Fleet, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("a netlink socket was opened")

    monkeypatch.setattr(NetlinkSocket, "__init__", refuse)
    assert fleet(OLD[:4]).status == 0


def test_two_nodes_with_one_sendport_lose_each_others_links_for_good(fleet: Fleet) -> None:
    told = fleet([*OLD[1:], entry(1, port=50002)])
    assert told.status == 5
    assert "interrupted: n1 and n3, for good" in told.lines
    assert any("n3 has no link to n1" in line for line in told.lines)
    assert "no order of nodes avoids this" in told.lines


def test_who_has_the_links_of_a_sendport_that_nodes_share_already_is_unknown(fleet: Fleet) -> None:
    shared = [entry(1), entry(2), entry(3, port=50001)]
    assert "SendPort: 50001 (ip4) of n1, n3. Which of them" in fleet(OLD[:3], old=shared).err
    assert fleet(shared, old=OLD[:3]).err == ""


def test_a_node_behind_nat_that_renumbers_is_gone_until_both_ends_know(fleet: Fleet) -> None:
    nat = entry(1, nat=True)
    told = fleet([entry(1, nat=True, port=50009), *OLD[1:]], old=[nat, *OLD[1:]])
    assert told.status == 5
    assert "interrupted: n1 and n2, from when one of them has synced until both have" in told.lines
    assert "n2 has no address of n1" in told.out


def test_a_key_rotated_at_one_end_only_breaks_all_pairs_of_the_node(fleet: Fleet) -> None:
    told = fleet([entry(1, k=99), *OLD[1:]])
    assert told.status == 5
    assert told.lines[0] == "5 nodes: 6 pairs kept, 4 interrupted"
    assert "n1 on the new version, n2 on the old: n2 has another key of n1" in told.out
    assert "stops: n1 would lose 4 of 4 sessions: needs --yes" in told.lines


def test_a_registry_cut_short_would_stop_at_every_guard(fleet: Fleet) -> None:
    told = fleet(OLD[:1])
    assert told.status == 0, "what goes on purpose is no interruption"
    assert told.lines[0] == "5 nodes: 0 pairs kept, 10 removed"
    assert sum(line.startswith("stops: ") for line in told.lines) == 5


def test_smaller_changes_are_named_if_they_interrupt_nobody(fleet: Fleet) -> None:
    told = fleet([entry(1, port=50011), entry(2, port=50012), *OLD[2:]])
    assert told.status == 5
    at = told.lines.index("no order of nodes avoids this; these smaller changes do:")
    assert told.lines[at + 1] == "  1. change n1 alone, and wait until all nodes have synced"


def test_one_node_can_be_asked_about(fleet: Fleet) -> None:
    renumbered = [entry(1, port=50011), *OLD[1:]]
    for what in ("n2", key(2)):
        told = fleet(renumbered, "--node", what)
        assert told.status == 0
        assert told.lines[0] == "n2: 2 events"
        assert told.lines[-1] == "  with n1: remade"
    assert fleet(OLD, "--node", "n4").lines == ["n4: nothing to do"]
    nobody = fleet(renumbered, "--node", "nobody")
    assert nobody.status == 2
    assert "no node of the fleet has this name or key" in nobody.err


def test_json_has_each_pair_and_event(fleet: Fleet) -> None:
    found = json.loads(fleet([entry(1, port=50011), *OLD[1:]], "--json").out)
    assert (found["nodes"], found["kept"], found["order"], found["steps"]) == (5, 6, [], None)
    assert found["pairs"][0]["nodes"] == ["n1", "n2"]
    assert found["pairs"][0]["traffic"] == {
        "old/old": "at once",
        "old/new": "once one end sends",
        "new/old": "once one end sends",
        "new/new": "once one end sends",
    }
    (own,) = [node for node in found["changes"] if node["name"] == "n1"]
    assert [event["type"] for event in own["events"]] == ["PeerUpdated"] * 4


def test_markdown_shows_names_as_they_are_and_calls_nobody(fleet: Fleet) -> None:
    evil = "a|b`c` @team <img>"
    told = fleet([entry(1, k=99, name=evil), *OLD[1:]], "--markdown")
    assert told.status == 5
    for mark in ("@team", "`c`", "<img>", "a|b"):
        assert mark not in told.out
    assert "&#64;team" in told.out


def test_the_nodes_own_configurations_count(fleet: Fleet) -> None:
    nodes = fleet.directory / "nodes"
    nodes.mkdir()
    conf = (
        'transport {\n  address_family = "ip4"\n  send_port = 50002\n  mtu = 1420\n'
        '  ifprefix = "own"\n}\npolicy {\n  match { name = "n1" }\n  skip = true\n}\n'
    )
    (nodes / "n2.conf").write_text(conf)
    told = fleet([entry(1, port=50011), *OLD[1:]], "--nodes", str(nodes), "--node", "n2")
    assert told.lines == ["n2: nothing to do"], "its policy skips the node that changes"
    (nodes / "also.conf").write_text(f'name = "n2"\n{conf}')
    twice = fleet(OLD, "--nodes", str(nodes))
    assert twice.status == 2
    assert "another file has the name" in twice.err
    empty = fleet(OLD, "--nodes", str(fleet.directory / "nothing"))
    assert empty.status == 2
    assert "there is no file *.conf" in empty.err


def test_a_configuration_changes_along_with_the_entry_of_its_node(fleet: Fleet) -> None:
    """Else one of the two versions would plan with a SendPort that its entry does not have."""
    directories = []
    for port in (50001, 50011):
        directory = fleet.directory / f"nodes{port}"
        directory.mkdir()
        (directory / "n1.conf").write_text(
            f'transport {{\n  address_family = "ip4"\n  send_port = {port}\n  mtu = 1420\n'
            '  ifprefix = "own"\n}\n'
        )
        directories += ["--nodes", str(directory)]
    renumbered = [entry(1, port=50011), *OLD[1:]]
    both = fleet(renumbered, *directories)
    assert (both.status, both.lines[0], both.err) == (0, "5 nodes: 6 pairs kept, 4 remade", "")
    one = fleet(renumbered, *directories[2:])
    (warning,) = one.err.splitlines()
    assert (
        "old.toml: n1: this node's own entry has SendPort 50001 (ip4), and rait.conf has" in warning
    )
    assert "give --nodes twice" in warning
    assert "for OLD, and for NEW" in fleet(OLD, *directories, *directories).err


def test_a_list_that_cannot_be_read_is_an_error_and_a_wrong_entry_a_warning(fleet: Fleet) -> None:
    wrong = fleet([*OLD, entry(6, port=99999)])
    assert wrong.status == 0
    assert "rait: warning: " in wrong.err
    assert "must be a port" in wrong.err
    assert fleet(["[[Peers]"]).status == 1
    assert main(["fleet", "plan", "-", "-"]) == 2


CONF = (
    'transport {\n  address_family = "ip4"\n  send_port = 50001\n  mtu = 1420\n'
    '  ifprefix = "w"\n}\n'
)


@pytest.fixture
def signers() -> tuple[QuickSigner, QuickSigner]:
    return QuickSigner(), QuickSigner(bytes([1]) * 32, b"87654321")


def signed(fleet: Fleet, signer: QuickSigner, old: int, new: int) -> None:
    for name, serial in (("old.toml", old), ("new.toml", new)):
        text = signer.text("\n".join(OLD), f"serial:{serial}")
        (fleet.directory / f"{name}.minisig").write_text(text)


def test_lists_are_verified(fleet: Fleet, signers: tuple[QuickSigner, QuickSigner]) -> None:
    signer, other = signers
    told = fleet(OLD, "--verify", signer.key)
    assert told.status == 1
    assert "old.toml.minisig: there is no such file" in told.err
    signed(fleet, signer, 1, 2)
    assert fleet(OLD, "--verify", other.key, "--verify", signer.key).status == 0
    assert "may sign" in fleet(OLD, "--verify", other.key).err
    changed = fleet([*OLD, entry(9)], "--verify", signer.key)
    assert (changed.status, changed.out) == (1, "")
    assert "new.toml.minisig: the signature is not one of this list" in changed.err
    signed(fleet, signer, 2, 1)
    told = fleet(OLD, "--verify", signer.key)
    assert "new.toml: the list is refused: it is older than the last list" in told.err
    assert fleet(OLD).status == 0, "unless somebody asks for it"


def test_the_keys_that_nodes_have_count(
    fleet: Fleet, signers: tuple[QuickSigner, QuickSigner]
) -> None:
    signer, other = signers
    nodes = fleet.directory / "nodes"
    nodes.mkdir()
    (nodes / "n1.conf").write_text(CONF + f'peers_public_key = "{signer.key}"\n')
    (nodes / "n2.conf").write_text(CONF)
    arguments = ("--nodes", str(nodes))
    assert "old.toml.minisig: there is no such file" in fleet(OLD, *arguments).err
    signed(fleet, signer, 1, 2)
    assert fleet(OLD, *arguments).status == 0
    (nodes / "n2.conf").write_text(CONF + f'peers_public_key = ["{other.key}"]\n')
    assert fleet(OLD, *arguments).status == 1, "each node must take it"
    (nodes / "n2.conf").write_text(CONF + 'peers_public_key = "missing.pub"\n')
    told = fleet(OLD, *arguments)
    assert told.status == 2
    assert "missing.pub: there is no such file; --verify KEY stands in" in told.err
    assert fleet(OLD, *arguments, "--verify", signer.key).status == 0


def test_standard_input_has_no_signature(
    fleet: Fleet, signers: tuple[QuickSigner, QuickSigner], monkeypatch: pytest.MonkeyPatch
) -> None:
    nodes = fleet.directory / "nodes"
    nodes.mkdir()
    (nodes / "n1.conf").write_text(CONF + f'peers_public_key = "{signers[0].key}"\n')
    fleet(OLD)
    signed(fleet, signers[0], 1, 2)

    def plan(*arguments: str) -> int:
        stdin = io.TextIOWrapper(io.BytesIO("\n".join(OLD).encode()))
        monkeypatch.setattr(sys, "stdin", stdin)
        return main(["fleet", "plan", *arguments, "-", str(fleet.directory / "new.toml")])

    assert plan("--nodes", str(nodes)) == 0
    assert plan("--verify", signers[0].key) == 1

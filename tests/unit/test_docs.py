"""The manual names every key that rait takes, and its first example is true."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from msgspec import Struct

from rait.adapters.config import formats
from rait.cli import main
from rait.domain.check import RULES
from rait.domain.config.decode_config import decode_config
from rait.domain.config.decoding import ALIASES
from rait.domain.config.schema import (
    DEFAULT_BABELD_PARAM,
    Babeld,
    Config,
    Isolation,
    Match,
    Peer,
    PeerEndpoint,
    Policy,
    Transport,
    Watch,
)
from rait.domain.plan import link_local
from tests.unit.command_line import PRIVATE

MANUAL = Path(__file__).parents[2] / "docs" / "configuration.md"
BLOCKS: dict[str, type[Struct]] = {
    "rait.conf": Config,
    "transport": Transport,
    "isolation": Isolation,
    "babeld": Babeld,
    "watch": Watch,
    "policy": Policy,
    "match": Match,
}
NESTED = {"transports", "isolation", "babeld", "watch", "policies", "match", "path"}
"""Fields that are blocks with sections of their own, and the one that is no key."""


def section(title: str) -> str:
    """The text under a heading of any level, up to the next heading."""
    found = re.search(rf"^#+ {re.escape(title)}$(.*?)(?=^#)", MANUAL.read_text(), re.M | re.S)
    assert found, f"{MANUAL.name} has no section {title}"
    return found[1]


def keys_told(title: str) -> set[str]:
    """The keys in the first column of a section's tables, and all that is said to be the same."""
    text = section(title)
    cells = re.findall(r"^\|([^|]*)\|", text, re.M)
    same = re.findall(r"`(\w+)` is the same key", text)
    return {key for cell in cells for key in re.findall(r"`(\w+)`", cell)} | set(same)


@pytest.mark.parametrize("title", BLOCKS)
def test_every_field_of_the_configuration_is_a_key_of_the_manual(title: str) -> None:
    fields = set(BLOCKS[title].__struct_fields__) - NESTED
    assert fields <= keys_told(title)


@pytest.mark.parametrize("title", BLOCKS)
def test_every_other_name_of_a_key_is_in_the_manual(title: str) -> None:
    fields = set(BLOCKS[title].__struct_fields__)
    others = {other for other, name in ALIASES.items() if name in fields}
    assert others - {"transport", "policy"} <= keys_told(title)
    assert set(ALIASES.values()) <= {f for kind in BLOCKS.values() for f in kind.__struct_fields__}


def test_every_field_of_a_peer_is_in_the_manual() -> None:
    told = keys_told("The list of peers")
    fields = {*Peer.__struct_fields__, *PeerEndpoint.__struct_fields__} - {"endpoints", "path"}
    assert fields <= told
    assert "endpoint" in told


def test_every_policy_in_the_manual_is_one() -> None:
    blocks = re.findall(r"^```hcl\n(policy \{.*?)^```", MANUAL.read_text(), re.M | re.S)
    assert len(blocks) > 4
    for text in blocks:
        transports = "".join(
            f'transport {{\n  address_family = "ip{n}"\n  send_port = {n}\n  mtu = 1400\n'
            f'  ifprefix = "r{n}x"\n}}\n'
            for n in (4, 6)
        )
        document = formats.parse(text + transports, "rait.conf")
        config, problems = decode_config(document.data, key_required=False)
        assert config is not None, problems
        assert not problems
        assert len(config.policies) == text.count("policy {")


def test_what_the_rotation_writes_into_configurations_is_right() -> None:
    page = (MANUAL.parent / "rotation.md").read_text()
    second, dear = re.findall(r"^ *```hcl\n(.*?)^ *```", page, re.M | re.S)
    config, problems = decode_config(formats.parse(second, "next.conf").data)
    assert [problem.path for problem in problems] == [("private_key",)], "which is yours to fill in"
    keyed = second.replace('"…"', f'"{"A" * 42}E="')
    config, problems = decode_config(formats.parse(keyed, "next.conf").data)
    assert config is not None, problems
    assert (problems, config.transports[0].dynamic_port) == ((), True)
    transports = keyed[keyed.index("transport") : keyed.index("isolation")]
    document = formats.parse(transports + dear, "rait.conf")
    config, problems = decode_config(document.data, key_required=False)
    assert config is not None, problems
    assert config.babeld.param == DEFAULT_BABELD_PARAM.replace("rxcost 32", "rxcost 1024")


def test_every_variable_of_the_environment_is_in_the_manual() -> None:
    used = re.compile(r"environ(?:\.get\(|\[)\"?([A-Z_]+)\"?")
    package = MANUAL.parents[1] / "rait"
    read = {
        name for path in package.rglob("*.py") for name in used.findall(path.read_text("utf-8"))
    }
    read -= {"PROGRAM_VARIABLE", "HELD_VARIABLE", "HOME", "PATH"}
    read |= {"WG_USERSPACE_IMPLEMENTATION", "RAIT_LOCK"}
    assert "RAIT_CONFIG" in read
    assert read <= keys_told("Environment")


def test_the_quick_start_shows_what_its_own_files_give(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    start = (MANUAL.parents[1] / "README.md").read_text().partition("## Quick start")[2]
    written = re.search(r"^cat > \S+ <<END\n(.*?)^END", start, re.M | re.S)
    entries = re.search(r"^```toml\n(.*?)\n\n(.*?)^```", start, re.M | re.S)
    assert written is not None
    assert entries is not None
    (tmp_path / "key").write_text(PRIVATE)
    conf = tmp_path / "rait.conf"
    conf.write_text(written[1].replace("/etc/rait/key", "key"))
    assert main(["-c", str(conf), "pub", "--format", "toml"]) == 0
    assert capsys.readouterr().out.strip() == entries[1]
    own, other = (re.search(r'^PublicKey = "(\S+)"', entry, re.M) for entry in entries.groups())
    assert own is not None
    assert other is not None
    address = link_local(other[1], own[1], "ip4").partition("/")[0]
    assert f"ping -c 1 {address}%rait4x20221" in start
    peers = tmp_path / "peers.conf"
    peers.write_text(f"{entries[1]}\n{entries[2]}")
    main(["check", "--json", str(peers)])
    found = json.loads(capsys.readouterr().out)["findings"]
    # The addresses are for documentation; nothing else is to be otherwise.
    assert {finding["rule"] for finding in found} == {"unreachable"}


def test_every_rule_of_a_check_is_in_the_page_for_registries() -> None:
    page = (MANUAL.parent / "registry.md").read_text()
    rows = dict(re.findall(r"^\| `([a-z-]+)` \| (error|warning|note) \|", page, re.M))
    assert rows == {name: rule.severity for name, rule in RULES.items()}

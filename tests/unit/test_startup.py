"""What a run loads that has nothing to do: no library that it does not need.

A run is started for each sync, and mostly finds nothing to do, so its start is most of what it
takes. Which modules it loads is held here, and `just bench --only host` measures the time.
"""

from __future__ import annotations

import subprocess
import sys
from inspect import get_annotations
from pathlib import Path
from typing import get_args

import pytest

from rait.domain.config.schema import Peer
from rait.domain.events import Event
from rait.domain.records import RunHeader, Snapshot
from rait.domain.topology import Link, Topology

PRIVATE = "KJJXmDtAXSrMGuIJVy/2eP65gXm1PTy7vCR/4O/vEEI="
PUBLIC = "5q1HDxrH29mQGy/CIhHtNEOn+6LRxh9HeJzQQeFTEVc="
HCL = f"""\
private_key = "{PRIVATE}"
peers = "peers.hcl"
journal = "journal.db"
transport {{
  address_family = "ip4"
  send_port = 50153
  mtu = 1420
  ifprefix = "raitstart"
}}
"""
PEERS_HCL = f"""\
peers {{
  public_key = "{PUBLIC}"
  endpoint {{
    address_family = "ip4"
    send_port = 50153
    address = "192.0.2.1"
  }}
}}
"""
TOML = f"""\
private_key = "{PRIVATE}"
peers = "peers.toml"
journal = "journal.db"

[[transport]]
address_family = "ip4"
send_port = 50153
mtu = 1420
ifprefix = "raitstart"
"""
PEERS_TOML = f"""\
[[Peers]]
PublicKey = "{PUBLIC}"
AddressFamily = "ip4"
SendPort = 50153
Endpoint = "192.0.2.1"
"""

PROLOGUE = """\
import sys

there = set(sys.modules)
from rait.__main__ import run
"""
# What the kernel is asked for, anybody may ask for: this needs no root and makes no link.
STAND_INS = """
import rait.commands
from rait.adapters import netns, privilege
from rait.adapters.config import caches
from rait.app import machine

cache = sys.argv.pop(1)
caches.cache_directory = lambda: cache
machine.Machine.choose = lambda *_: "kernel"
netns._raise_loopback = lambda _: None
privilege.may_change_networks = lambda: True
"""
EPILOGUE = """
status = run()
print(*sorted(set(sys.modules) - there))
sys.exit(status)
"""

UNNEEDED = {
    "anyio": "is for a process that stays",
    "copy": "loads weakref, and copies a session that looks elsewhere",
    "cryptography": "derives a public key that an earlier run derived already",
    "fnmatch": "is for policies with a glob",
    "gettext": "comes with translations, of which there are none",
    "h11": "serves the metrics",
    "hashlib": "loads OpenSSL",
    "httpx": "is for lists that come over the network",
    "inspect": "comes with typing_extensions",
    "ipaddress": "is for IPv6",
    "json": "is msgspec's",
    "locale": "comes with translations, of which there are none",
    "logging": "is not used",
    "pathlib": "is slow to import; paths are text",
    "platform": "tells uuid the name of the system",
    "prometheus_client": "makes metrics",
    "pyroute2": "is for VRFs, rules and namespaces that are to be made",
    "rait.app.status": "is for rait status and metrics",
    "rait.adapters.babeld": "is for sync = true",
    "rait.adapters.clock": "is for a change that is to be confirmed",
    "rait.adapters.config.formats": "reads a text that is not known yet",
    "rait.adapters.config.hcl": "reads a text that is not known yet",
    "rait.adapters.journal.appender": "writes to the journal",
    "rait.adapters.hooks": "runs commands of links",
    "rait.adapters.config.kept": "is for a list from a URL",
    "rait.adapters.config.resolve": "is for host names",
    "rait.adapters.netlink.underlay": 'is for mtu = "auto"',
    "rait.adapters.output": "is for files that are written",
    "rait.adapters.systemd": "starts programs that outlive the run",
    "rait.adapters.vrf": "is for VRFs",
    "rait.adapters.waiter": "waits for a confirmation",
    "rait.adapters.wireguard.userspace": "is for links of programs",
    "rait.app.execution": "carries out what there is to do",
    "rait.app.fallback": "is for a list from a URL",
    "rait.app.hooks": "runs commands of links",
    "rait.app.moments": "is for changes that are to be confirmed",
    "rait.app.preshared": "is for policies with preshared keys",
    "rait.app.trials": "is for changes that are to be confirmed",
    "rait.domain.confirm": "is for changes that are to be confirmed",
    "rait.domain.config.decode_config": "reads a text that is not known yet",
    "rait.domain.config.decode_peers": "reads a text that is not known yet",
    "rait.domain.config.decoding": "reads a text that is not known yet",
    "rait.domain.config.limits": "reads a text that is not known yet",
    "rait.domain.config.templates": "is for policies with addresses or preshared keys",
    "rait.domain.doubt": "is for entries that were skipped",
    "rait.domain.fallback": "is for a list from a URL",
    "rait.domain.rollback": "is for what is taken back",
    "rait.domain.spans": "is for questions about a time",
    "rait.domain.views": "is for links that are not as they were",
    "rait.domain.writes": "is for what is written to WireGuard",
    "rich": "draws on a terminal",
    "shutil": "loads libraries for archives",
    "signal": "guards a run that changes something",
    "shlex": "is for commands of links",
    "ssl": "is for lists that come over the network",
    "subprocess": "starts the program of a new link",
    "tempfile": "is not used",
    "threading": "is for names that are looked up, and links that are removed",
    "tomli": "reads a text that is not known yet",
    "typing_extensions": "has nothing that typing lacks for us",
    "urllib": "is for URLs",
}


@pytest.mark.parametrize("words", ["--help", "log --help", "log show 1 2", "rollback x"])
def test_what_argparse_says_without_gettext_is_what_it_says_with_it(words: str) -> None:
    script = "from rait.__main__ import run; import sys; sys.exit(run())"
    plain, translated = (
        subprocess.run(
            [sys.executable, "-c", first + script, *words.split()],
            capture_output=True,
            text=True,
            check=False,
            timeout=300,
        )
        for first in ("", "import gettext, argparse; ")
    )
    assert plain.stdout + plain.stderr
    assert (plain.returncode, plain.stdout, plain.stderr) == (
        translated.returncode, translated.stdout, translated.stderr,
    )  # fmt: skip


def loaded(script: str, *arguments: str) -> set[str]:
    """The modules that a process of its own loads for this command."""
    done = subprocess.run(
        [sys.executable, "-c", script, *arguments],
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done
    return set(done.stdout.splitlines()[-1].split())


@pytest.mark.parametrize("command", ["up", "plan"])
@pytest.mark.parametrize(
    ("form", "conf", "peers"), [("hcl", HCL, PEERS_HCL), ("toml", TOML, PEERS_TOML)]
)
def test_a_run_with_nothing_to_do_loads_nothing_that_it_does_not_need(
    tmp_path: Path, command: str, form: str, conf: str, peers: str
) -> None:
    cache = tmp_path / "cache"
    cache.mkdir()
    path = tmp_path / f"rait.{form}"
    path.write_text(conf)
    path.chmod(0o600)
    (tmp_path / f"peers.{form}").write_text(peers)
    script = PROLOGUE + STAND_INS + EPILOGUE
    first = loaded(script, str(cache), "-c", str(path), "up")
    assert first >= {"cryptography", "rait.adapters.config.formats"}, "else this shows nothing"
    again = loaded(script, str(cache), "-c", str(path), command)
    assert {name: why for name, why in UNNEEDED.items() if name in again} == {}


@pytest.mark.parametrize("words", ["--version", "--help", "up --help", "log verify --help"])
def test_help_and_version_load_no_command(words: str) -> None:
    unneeded = {
        "contextlib",
        "gettext",
        "msgspec",
        "rait.app",
        "rait.commands",
        "rait.domain",
        "typing",
    }
    assert not unneeded & loaded(PROLOGUE + EPILOGUE, *words.split())


def test_a_check_loads_nothing_of_a_node(tmp_path: Path) -> None:
    (tmp_path / "peers.toml").write_text(PEERS_TOML)
    unneeded = {"cryptography", "httpx", "pyroute2", "sqlite3", "threading", "rait.app.session"}
    unneeded |= {"rait.domain.plan", "rait.adapters.netns", "rait.app.load"}
    found = loaded(PROLOGUE + EPILOGUE, "check", str(tmp_path / "peers.toml"))
    assert not unneeded & found


@pytest.mark.parametrize("struct", [*get_args(Event), RunHeader, Snapshot, Topology, Link, Peer])
def test_what_is_decoded_at_the_start_has_no_annotation_that_is_text(struct: type) -> None:
    # msgspec would compile each one, which takes ten times as long as all else about it.
    annotations = [get_annotations(each) for each in struct.__mro__]
    assert any(annotations)
    assert not [a for each in annotations for a in each.values() if isinstance(a, str)]

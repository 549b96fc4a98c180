"""docs/etcd.md: its commands as they stand, and what it says of an attacker."""

from __future__ import annotations

import json
import re
import subprocess
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest

from tests.integration import machine
from tests.integration.command import command
from tests.integration.harness import Mesh
from tests.integration.watching import until
from tests.tiers import need

pytestmark = pytest.mark.userspace

PAGE = Path(__file__).parents[2] / "docs" / "etcd.md"
DIRECTORIES = ("/etc/default", "/etc/etcd", "/var/lib/etcd", "/etc/rait")
PREFIX = "/rait/peers"
MEMBERS = ("m1", "m2", "m3")

SYSTEMCTL = """\
#!/bin/bash
# What systemd does for a service: the environment of its file, and one process.
[ "$1" = start ] || [ ! -e {root}/pid ] || kill $(cat {root}/pid)
while kill -0 $(cat {root}/pid) 2> /dev/null; do sleep 0.05; done
[ "$1" = stop ] && exit
set -a
. {root}/etc/default/etcd
env -u ETCDCTL_USER {etcd} --heartbeat-interval 50 --election-timeout 2000 --logger zap \\
  --log-level error --bcrypt-cost 4 > {root}/log 2>&1 < /dev/null &
echo $! > {root}/pid
"""
"""etcdctl(1) fails where the members elect another leader meanwhile: so one has two seconds, on a
busy machine, before the others do without it."""


def blocks(kind: str) -> dict[str, list[str]]:
    """The code blocks of a kind, by the section that they are in."""
    found: dict[str, list[str]] = {}
    for section in PAGE.read_text().split("\n## ")[1:]:
        title, _, text = section.partition("\n")
        found[title] = re.findall(rf"^```{kind}\n(.*?)^```", text, re.M | re.S)
    return found


class Page:
    """The three members of the page in namespaces with its addresses, and a fourth for all else.

    Each machine has directories of its own.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.mesh = Mesh(4, "userspace", directory)
        self.sh, self.hcl = blocks("sh"), blocks("hcl")
        self.environment = ""

    def build(self) -> None:
        rait = " ".join(command())
        self.mesh.build()
        for name in (*MEMBERS, "gate", "other"):
            root = self.root(name)
            for path in DIRECTORIES:
                (root / path[1:]).mkdir(parents=True)
            (root / "bin").mkdir()
            programs = {"systemctl": SYSTEMCTL.format(root=root, etcd=need("etcd", "etcd-server"))}
            programs["rait"] = f'#!/bin/sh\nexec {rait} -c {root}/etc/rait/rait.conf "$@"\n'
            for program, text in programs.items():
                (root / "bin" / program).write_text(text)
                (root / "bin" / program).chmod(0o755)
        (self.directory / "admin").mkdir()

    def root(self, name: str) -> Path:
        return self.directory / name

    def remove(self) -> None:
        for name in MEMBERS:
            with_pid = self.root(name) / "pid"
            if with_pid.exists():
                subprocess.run(["kill", "-9", with_pid.read_text().strip()], check=False)
        self.mesh.remove()

    def run(self, script: str, name: str = "gate", *, fails: bool = False) -> str:
        """Run a script of the page, with the directories of this machine; gives all it says."""
        root = self.root(name)
        for path in DIRECTORIES:
            script = script.replace(path, f"{root}{path}")
        lines = f"export PATH={root}/bin:$PATH ETCDCTL_DIAL_TIMEOUT=60s\n"
        lines += f"export ETCDCTL_COMMAND_TIMEOUT=120s\ncd {self.directory}/admin\n"
        lines += f"{self.environment}\n"
        words = ["bash", "-euc", lines + script]
        process = machine.start(
            words,
            self.mesh.nodes[int(name[1]) - 1 if name in MEMBERS else 3].netns,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
        )
        out, _ = process.communicate()
        assert (process.returncode != 0) == fails, f"{script}\n{out}"
        return out

    def section(self, title: str, host: str = "gate", /, index: int = 0, **changes: str) -> str:
        """Run a block of a section."""
        script = self.sh[title][index]
        for variable, value in changes.items():
            script = re.sub(rf"^{variable}=\w+$", f"{variable}={value}", script, flags=re.M)
        return self.run(script, host)

    def members(self) -> None:
        for n in ("1", "2", "3"):
            self.run(f"cp *-ca.pem etcd{n}.* member{n}.* /etc/etcd", f"m{n}")
            self.section("The members", f"m{n}", n=n)
        self.ready()

    def ready(self) -> None:
        """Wait until all members agree, as an administrator does."""
        login = self.environment or self.sh["Users and roles"][0].split("umask")[0]
        check = f"{login}\netcdctl endpoint health --cluster && echo all-healthy || true"
        until(lambda: "all-healthy" in self.run(check), lambda: self.run(check))

    def node(self, name: str, port: int) -> None:
        """Make a node as the page makes one, with a name and a port of its own."""
        self.section("A node", name)
        self.section("A node", name, index=1, name=name)
        files = "clients-ca.pem rait-client.pem rait-client.key"
        self.run(f"cp {name}.password /etc/rait/password; cp {files} /etc/rait", name)
        text = self.hcl["A node"][0].replace("gate", name).replace("20101", f"{port}")
        text = text.replace("transport {", f'journal = "{self.root(name)}/journal"\ntransport {{')
        conf = self.root(name) / "etc/rait/rait.conf"
        conf.write_text(text.replace("/etc/rait", f"{self.root(name)}/etc/rait"))
        conf.chmod(0o600)

    def key(self, name: str) -> str:
        return self.run("rait pubkey < /etc/rait/key", name).strip()

    def as_user(self, name: str, script: str, *, fails: bool = False) -> str:
        """Run a script with all that a node has of etcd, and nothing else."""
        user = f'export ETCDCTL_USER="{name}:$(cat /etc/rait/password)"\n' if name else ""
        return self.run(f"unset ETCDCTL_USER\n{user}{script}", name or "gate", fails=fails)


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    """What there is at the end of the section about a node, with a second node."""
    page = Page(tmp_path_factory.mktemp("page"))
    try:
        page.build()
        page.section("The certificates")
        page.members()
        page.section("Users and roles")
        exports = [x for x in page.sh["Users and roles"][0].split("\n") if x.startswith("export")]
        page.environment = "umask 077\n" + "\n".join(exports)
        page.node("gate", 20101)
        page.node("other", 20102)
        yield page
    finally:
        page.remove()


def test_the_page_sets_up_a_registry(page: Page) -> None:
    page.run("rait pub --to", "other")
    said = page.section("A node", index=2)
    assert "put at revision" in said
    assert "2 nodes: nothing is wrong" in said or "2 nodes: " in said
    assert {f"{PREFIX}/{page.key(name)}" for name in ("gate", "other")} <= set(said.split())


def lease_of(page: Page, key: str) -> str:
    """The lease of a key, as etcdctl writes it."""
    return f"{json.loads(page.run(f'etcdctl get {key} -w json'))['kvs'][0]['lease']:x}"


def test_one_nodes_files_speak_of_that_node_alone(page: Page) -> None:
    gate, other = page.key("gate"), page.key("other")
    page.run("rait pub --to", "gate")
    page.run("rait pub --to", "other")
    denied = "permission denied"
    key = f"{PREFIX}/{other}"
    assert page.run(f"etcdctl get {key} --print-value-only", "gate").strip()
    read = page.as_user("gate", f"etcdctl get --prefix {PREFIX}/ --keys-only")
    assert {f"{PREFIX}/{gate}", key} <= set(read.split())
    for forbidden in (
        f"etcdctl put {key} bad",
        f"etcdctl del {key}",
        f"etcdctl del --prefix {PREFIX}/",
        f"etcdctl put {PREFIX}/0 bad",
        f"etcdctl put {PREFIX}/{gate}0 bad",
        "etcdctl put /other bad",
        "etcdctl get /other",
        "etcdctl get --prefix ''",
        "etcdctl user add mallory:x",
        "etcdctl role grant-permission gate readwrite --prefix=true /",
        "etcdctl auth disable",
        "ETCDCTL_ENDPOINTS=https://192.0.2.1:2379 etcdctl snapshot save stolen",
        "etcdctl defrag",
    ):
        assert denied in page.as_user("gate", forbidden, fails=True), forbidden
    lease = lease_of(page, key)
    assert denied in page.as_user("gate", f"etcdctl lease revoke {lease}", fails=True)
    assert denied in page.as_user(
        "gate", f"etcdctl put --lease={lease} {PREFIX}/{gate} bad", fails=True
    )
    # It can keep it alive, as the page says.
    assert "keepalived" in page.as_user("gate", f"etcdctl lease keep-alive --once {lease}")
    # What it writes of others under its own key is unreadable, and costs itself alone.
    entry = json.dumps({"public_key": other, "endpoint": []})
    for value in (entry, "nonsense"):
        page.as_user("gate", f"etcdctl put {PREFIX}/{gate} '{value}'")
        check = page.sh["A node"][2].split("\n")[1]
        said = page.run(check, "other", fails=True)
        assert f"{PREFIX}/{gate}: error: " in said
        assert "1 node: 1 error" in said
    # With a port of another it takes no link from it: `rait check` names both.
    conf = page.root("gate") / "etc/rait/rait.conf"
    text = conf.read_text()
    conf.write_text(text.replace("20101", "20102"))
    page.run("rait pub --to")
    said = page.run(check, "other", fails=True)
    assert "SendPort 20102" in said
    conf.write_text(text)
    # It may be large, up to a limit.
    fill = f"head -c SIZE /dev/zero | tr '\\0' x | etcdctl put {PREFIX}/{gate}"
    page.as_user("gate", fill.replace("SIZE", "20000"))
    assert "larger than 16384 bytes" in page.run(check, "other", fails=True)
    said = page.as_user("gate", fill.replace("SIZE", "40000"), fails=True)
    assert "request is too large" in said
    page.run("rait pub --to")
    assert "2 nodes" in page.run(check, "other")


def test_a_certificate_alone_reads_and_writes_nothing(page: Page) -> None:
    key = f"{PREFIX}/{page.key('gate')}"
    page.run("rait pub --to")
    for forbidden in (
        f"etcdctl get {key}",
        f"etcdctl put {key} bad",
        f"etcdctl del {key}",
        "etcdctl user list",
        "etcdctl member remove 1",
        f"etcdctl lease revoke {lease_of(page, key)}",
    ):
        said = page.as_user("", forbidden, fails=True)
        assert "permission denied" in said or "user name is empty" in said, (forbidden, said)
    assert "etcd1" in page.as_user("", "etcdctl member list")
    assert "granted" in page.as_user("", "etcdctl lease grant 60")
    assert "leases" in page.as_user("", "etcdctl lease list")
    assert "compacted" in page.as_user("", "etcdctl compact 5")
    assert "bad leader transferee" in page.as_user("", "etcdctl move-leader 1", fails=True)
    page.as_user("", "unset ETCDCTL_CERT ETCDCTL_KEY\netcdctl member list", fails=True)
    for name in ("rait-client", "etcd1"):
        assert "200 OK" not in page.run(ASK_AS_MEMBER.format(name=name), "m2")
    assert "200 OK" in page.run(ASK_AS_MEMBER.format(name="member1"), "m1")


ASK_AS_MEMBER = """\
printf 'GET /members HTTP/1.0\\r\\n\\r\\n' | timeout 60 openssl s_client -quiet \\
  -connect 192.0.2.1:2380 -cert {name}.pem -key {name}.key || true
"""


def test_a_backup_is_restored_and_space_is_made(page: Page) -> None:
    page.run("rait pub --to --lease 1h", "gate")
    page.section("Compaction, quota, monitoring")
    # A member of a busy machine may lose its leader at any time, and has one again soon.
    check = page.sh["Compaction, quota, monitoring"][1].strip()
    said = partial(page.run, f"{check} || true")
    until(lambda: said().count("is healthy") == 3, said)
    page.section("Backup and restore")
    page.run("rait pub --to --withdraw", "gate")
    # All members stop before one is restored, as they do on machines of their own.
    for n in ("1", "2", "3"):
        page.section("Backup and restore", f"m{n}", index=1, n=n)
    page.ready()
    assert page.run("rait pub --to --lease 1h", "gate").count("unchanged") == 1

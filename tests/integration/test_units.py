"""The units that rait ships, under a real systemd: rait.service, rait.timer, rait-watch.service.

They are run as they are shipped. What is added to them is what docs/systemd.md has a user add:
another rait.conf, another time between two syncs, and a file for what rait prints.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import rait
from tests.integration import machine
from tests.integration.routing import eventually
from tests.integration.strangers import Stranger, strangers
from tests.integration.systemd_boot import UNITS, Systemd, booted
from tests.integration.watching import until

pytestmark = pytest.mark.userspace

A, B = strangers(1, 2)
TARGET = "raitns"
SERVICE = """\
[Service]
Environment=RAIT_CONFIG={conf}
StandardOutput=append:{file}
StandardError=inherit
"""
TIMER = """\
[Timer]
OnBootSec=
OnBootSec=0
OnUnitInactiveSec=1
RandomizedDelaySec=0
"""


class Node:
    """A node whose rait is run by systemd alone."""

    def __init__(self, systemd: Systemd, backend: str, directory: Path) -> None:
        self.systemd = systemd
        self.backend = backend
        self.conf, self.peers = directory / "rait.conf", directory / "peers.conf"
        self.printed = directory / "printed"
        systemd.add("rait.service.d/test.conf", SERVICE.format(conf=self.conf, file=self.printed))
        systemd.add("rait.timer.d/test.conf", TIMER)
        self.write_conf()

    def write_conf(self, more: str = "") -> None:
        """As TOML, which costs an emulated machine far less than HCL."""
        self.conf.write_text(
            f'private_key = "{machine.genkey()[0]}"\npeers = "{self.peers}"\n'
            f'backend = "{self.backend}"\n[[transport]]\naddress_family = "ip4"\n'
            'send_port = 50001\nmtu = 1420\nifprefix = "raitunit"\n'
            f'[isolation]\ntype = "netns"\nifgroup = 54\ntransit = ""\ntarget = "{TARGET}"\n' + more
        )
        self.conf.chmod(0o600)

    def knows(self, *peers: Stranger) -> None:
        self.peers.write_text("\n".join(peer.entry for peer in peers))

    def links(self) -> dict[str, int]:
        """The links with their interface indexes, as ip(8) sees them outside of any unit."""
        # It fails while there is no namespace, and while one is being made.
        shown = self.systemd.start("ip", "-n", TARGET, "-json", "link")
        links = [link for link in json.loads(shown.stdout or "[]") if link]
        return {link["ifname"]: link["ifindex"] for link in links if link["ifname"] != "lo"}

    def served(self) -> dict[str, str]:
        """The scope of each link's program, by the name of the link; {} for the kernel's links."""
        return {
            words[1]: (Path("/proc") / str(pid) / "cgroup").read_text().splitlines()[-1]
            for pid, words in machine.processes().items()
            if words[0].endswith("wireguard-go")
            and words[1].startswith("raitunit")
            and self.systemd.has(pid)
        }

    def ended(self) -> list[str]:
        """How the last sync ended: state of the unit, result, exit status.

        Its job is done when it is about to clear up.
        """
        asked = ("rait.service", "ActiveState", "Result", "ExecMainStatus")
        return until(lambda: (found := self.systemd.show(*asked))[0] != "deactivating" and found)


def link_to(peer: Stranger) -> str:
    return f"raitunit{peer.send_port}"


@pytest.fixture
def systemd(tmp_path: Path) -> Iterator[Systemd]:
    with booted(tmp_path) as systemd:
        yield systemd


@pytest.fixture
def node(systemd: Systemd, tier: str, tmp_path: Path) -> Node:
    return Node(systemd, tier, tmp_path)


def test_systemd_finds_no_fault_with_the_units(systemd: Systemd) -> None:
    """Where it finds rait; the targets are Debian's."""
    units = [str(unit) for unit in UNITS.iterdir()]
    done = systemd.start("systemd-analyze", "verify", "--man=no", *units)
    assert (done.returncode, done.stdout + done.stderr) == (0, "")


@pytest.mark.kernel
def test_links_outlive_the_sync_that_made_them_and_the_next_leaves_them_alone(node: Node) -> None:
    node.knows(A, B)
    node.systemd.run("systemctl", "start", "rait.service")
    assert node.ended() == ["inactive", "success", "0"]
    links, served = node.links(), node.served()
    assert links.keys() == {link_to(A), link_to(B)}
    if node.backend == "userspace":
        assert served.keys() == links.keys()
        assert all(group.endswith(".scope") for group in served.values())
    assert node.systemd.run("stat", "-c", "%a %U", "/var/lib/rait").split() == ["700", "root"]
    assert "2 added" in node.printed.read_text()

    node.systemd.run("systemctl", "start", "rait.service")
    assert node.ended() == ["inactive", "success", "0"]
    assert (node.links(), node.served()) == (links, served)
    assert node.printed.read_text().endswith("nothing to do; 2 links\n")


SHIELDED = "[Service]\nProtectSystem=full\n"
DAEMON = f"""\
[Unit]
Wants=rait.service
After=rait.service

[Service]
Type=exec
NetworkNamespacePath=/run/netns/{TARGET}
ExecStart=sleep infinity
"""


@pytest.mark.kernel
def test_a_routing_daemon_starts_once_there_are_a_namespace_and_links(node: Node) -> None:
    """Also where the service has mounts of its own, as an administrator may want it to have.

    In the virtual machine systemd runs in a chroot, and can give no service mounts of its own.
    """
    node.knows(A)
    if node.backend == "userspace":
        node.systemd.add("rait.service.d/shielded.conf", SHIELDED)
    node.systemd.add("daemon.service", DAEMON)
    node.systemd.run("systemctl", "start", "daemon.service")
    (pid,) = node.systemd.show("daemon.service", "MainPID")
    text = node.systemd.run("nsenter", "-t", pid, "-n", "ip", "-json", "link")
    assert [link["ifname"] for link in json.loads(text)] == ["lo", link_to(A)]
    assert node.links().keys() == {link_to(A)}


@pytest.mark.kernel
def test_the_timer_syncs_again_and_again_also_after_a_sync_that_failed(node: Node) -> None:
    node.knows(A)
    node.systemd.run("systemctl", "start", "rait.timer")
    eventually(lambda: node.links().keys() == {link_to(A)}, "the first sync")
    links = node.links()

    node.peers.write_text("no list of peers")
    eventually(lambda: node.ended() == ["failed", "exit-code", "1"], "a sync fails, and is seen to")
    assert node.links() == links

    node.knows(A, B)
    eventually(lambda: node.links().keys() == {link_to(A), link_to(B)}, "a sync after that")
    assert node.links().items() >= links.items()
    eventually(lambda: node.ended()[1:] == ["success", "0"], "that it has failed is past")


TRY = "[Service]\nExecStart=\nExecStart=rait up --confirm {span}\n"


def test_a_change_that_a_service_made_is_taken_back_when_the_service_has_ended(node: Node) -> None:
    node.knows(A)
    node.systemd.run("systemctl", "start", "rait.service")
    node.knows(B)
    node.systemd.add("rait.service.d/try.conf", TRY.format(span="5s"))
    node.systemd.run("systemctl", "start", "rait.service")
    assert node.ended() == ["inactive", "success", "0"]
    assert "1 added, 1 removed" in node.printed.read_text()
    eventually(lambda: node.links().keys() == {link_to(A)}, "the change is taken back")


def test_a_sync_while_a_change_waits_is_no_failure(node: Node) -> None:
    node.knows(A)
    node.systemd.add("rait.service.d/try.conf", TRY.format(span="1d"))
    node.systemd.run("systemctl", "start", "rait.service")
    node.systemd.add("rait.service.d/try.conf", "")
    node.systemd.run("systemctl", "start", "rait.service")
    assert node.ended()[:2] == ["inactive", "success"]
    assert "waits for its confirmation" in node.printed.read_text()
    node.systemd.run("rait", "-c", str(node.conf), "confirm")
    node.systemd.run("systemctl", "start", "rait.service")
    assert node.ended() == ["inactive", "success", "0"]


WATCHING = "rait-watch.service"
SLOW = """\
[[policy]]
up_command = ["sh", "-c", "until [ -e {gate} ]; do sleep 0.05; done"]
"""


class Watched(Node):
    """A node that `rait watch` looks after. Its syncs do not end while the file ``gate`` is gone.

    Not in the virtual machine, as systemd can give no service mounts of its own there.
    """

    def __init__(self, systemd: Systemd, backend: str, directory: Path) -> None:
        super().__init__(systemd, backend, directory)
        settings = SERVICE.format(conf=self.conf, file=self.printed)
        # The service has a /tmp of its own. The test's files are in /tmp, and perhaps rait is too.
        seen = {directory, Path(sys.prefix), Path(rait.__file__).parents[1]}
        binds = "".join(f"BindReadOnlyPaths={path}\n" for path in seen)
        systemd.add(f"{WATCHING}.d/test.conf", f"{settings}{binds}")
        self.gate = directory / "gate"
        self.write_conf(SLOW.format(gate=self.gate))
        self.knows(A)

    def shown(self, *properties: str) -> list[str]:
        return self.systemd.show(WATCHING, *properties)

    def is_(self, state: str) -> bool:
        return self.shown("ActiveState") == [state]

    def pid(self) -> str:
        """Its process. On a busy machine it may be started again at any time by its watchdog."""
        return until(lambda: (found := self.shown("MainPID")[0]) != "0" and found)

    def start(self) -> None:
        self.gate.touch()
        self.systemd.run("systemctl", "start", WATCHING)


@pytest.fixture
def watched(systemd: Systemd, tier: str, tmp_path: Path) -> Watched:
    return Watched(systemd, tier, tmp_path)


def test_the_watch_is_active_once_its_first_sync_has_ended(watched: Watched) -> None:
    watched.systemd.run("systemctl", "start", "--no-block", WATCHING)
    eventually(lambda: watched.links().keys() == {link_to(A)}, "the link is made")
    assert watched.is_("activating")
    watched.gate.touch()
    eventually(lambda: watched.is_("active"), "it is ready")
    # On a busy machine another sync, with nothing to do, may have ended since.
    assert "1 added" in watched.printed.read_text()
    assert watched.shown("StatusText")[0].startswith("rait up: ")
    assert all(group.endswith(".scope") for group in watched.served().values())


def test_a_reload_is_over_when_its_sync_has_ended(watched: Watched) -> None:
    watched.start()
    watched.gate.unlink()
    watched.knows(A, B)
    eventually(lambda: watched.links().keys() == {link_to(A), link_to(B)}, "a sync by itself")
    watched.systemd.run("systemctl", "reload", "--no-block", WATCHING)
    eventually(lambda: watched.is_("reloading"), "it reloads")
    watched.gate.touch()
    eventually(lambda: watched.is_("active"), "the reload is over")
    assert watched.shown("StatusText") == ["rait up: nothing to do; 2 links"]


def test_links_outlive_the_watch(watched: Watched) -> None:
    watched.start()
    links, served = watched.links(), watched.served()
    assert links.keys() == served.keys() == {link_to(A)}
    watched.systemd.run("systemctl", "stop", WATCHING)
    assert watched.shown("ActiveState", "Result") == ["inactive", "success"]
    assert (watched.links(), watched.served()) == (links, served)


def test_a_stop_lets_a_sync_end_first_with_its_commands(watched: Watched) -> None:
    watched.start()
    watched.gate.unlink()
    watched.knows(A, B)
    eventually(lambda: watched.links().keys() == {link_to(A), link_to(B)}, "a sync that is slow")
    watched.systemd.run("systemctl", "stop", "--no-block", WATCHING)
    eventually(lambda: watched.is_("deactivating"), "it is to stop")
    watched.gate.touch()
    eventually(lambda: watched.is_("inactive"), "it has stopped")
    assert watched.shown("Result") == ["success"]
    last = watched.printed.read_text().splitlines()[-1]
    what = re.fullmatch(r"rait up \((.*)\): 1 added, 1 command called; 2 links wanted", last)
    assert what is not None, last
    assert what[1] in ("peers list changed", "look"), "a look that has just begun may find it"


def test_a_watch_that_hangs_is_started_again_and_the_links_stay(watched: Watched) -> None:
    watched.systemd.add(f"{WATCHING}.d/soon.conf", "[Service]\nWatchdogSec=5s\nRestartSec=0\n")
    watched.start()
    links, served = watched.links(), watched.served()
    pid = watched.pid()
    watched.systemd.run("kill", "-STOP", pid)
    eventually(lambda: watched.pid() != pid and watched.is_("active"), "a new one")
    assert (watched.links(), watched.served()) == (links, served)
    assert watched.shown("StatusText") == ["rait up: nothing to do; 1 link"]


def test_the_exposure_of_the_watch_is_no_more_than_the_manual_says() -> None:
    """By systemd-analyze(1), from 0 to 10."""
    manual = (UNITS.parents[1] / "docs" / "systemd.md").read_text()
    told = re.search(r"Overall exposure level for rait-watch.service: (\d+\.\d)", manual)
    assert told is not None
    threshold = f"--threshold={round(float(told[1]) * 10)}"
    unit = str(UNITS / WATCHING)
    machine.run(["systemd-analyze", "security", "--offline=yes", threshold, unit])

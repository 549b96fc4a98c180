"""Debian's systemd as the first process of namespaces of its own, for the units that rait ships.

It has its own processes, mounts, network, control groups, /run and /var/lib, as in a container.
Nothing else is started in it: the targets that units refer to are there, and are empty.
"""

from __future__ import annotations

import itertools
import os
import shlex
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from tests.integration import machine
from tests.integration.command import command
from tests.integration.routing import eventually

UNITS = Path(__file__).parents[2] / "packaging" / "systemd"
SYSTEMD = "/lib/systemd/systemd"
TARGETS = ("basic", "multi-user", "network-online", "nss-lookup", "shutdown", "sysinit", "timers")

# Units find `rait` on the path of systemd, and an administrator installs it there. The kernel's
# settings are those of the whole machine, and systemd would raise some; it would take the console
# from whoever has it.
BOOT = """
mount -t proc proc /proc
mount --bind /proc/sys /proc/sys
mount -o remount,bind,ro /proc/sys
mount --bind /dev/null /dev/console
mount -t sysfs -o ro sysfs /sys
mount -t cgroup2 cgroup2 /sys/fs/cgroup
mkdir /sys/fs/cgroup/{name}
echo $$ > /sys/fs/cgroup/{name}/cgroup.procs
for own in /run /var/lib /usr/local/sbin; do mount -t tmpfs tmpfs $own; done
cp {directory}/rait /usr/local/sbin/
mount --make-rshared /
exec env -i container=test SYSTEMD_UNIT_PATH={directory}/units \
    SYSTEMD_GENERATOR_PATH={directory} {systemd} --system --unit=basic.target
"""
CLEANUP = """
mount -t cgroup2 cgroup2 /sys/fs/cgroup
find /sys/fs/cgroup/{name} -depth -type d -exec rmdir {{}} +
"""

_boots = itertools.count(1)


class Systemd:
    """A systemd that runs, with rait's units as they are shipped in ``directory``/units."""

    def __init__(self, pid: int, directory: Path) -> None:
        self.pid = pid
        self.directory = directory

    def add(self, file: str, text: str) -> None:
        """Add a unit, or a file of settings to one (NAME.service.d/FILE.conf)."""
        path = self.directory / "units" / file
        path.parent.mkdir(exist_ok=True)
        path.write_text(text)
        self.run("systemctl", "daemon-reload")

    def start(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run a program inside, as a shell there would, to its end."""
        inside = ["nsenter", "-t", str(self.pid), "-r", "-w", "-m", "-u", "-i", "-n", "-p", "--"]
        return subprocess.run([*inside, *words], capture_output=True, text=True, check=False)

    def has(self, pid: int) -> bool:
        """Whether a process is one of its own; another run of the tests may have such ones too."""
        own = Path(f"/proc/{self.pid}/ns/pid").readlink()
        with suppress(OSError):  # it has ended
            return Path(f"/proc/{pid}/ns/pid").readlink() == own
        return False

    def run(self, *words: str) -> str:
        """Run a program inside, which must succeed, and give what it prints."""
        done = self.start(*words)
        assert done.returncode == 0, done
        return done.stdout

    def show(self, unit: str, *properties: str) -> list[str]:
        """Properties of a unit (systemctl(1), org.freedesktop.systemd1(5)), in this order."""
        text = self.run("systemctl", "show", unit, f"--property={','.join(properties)}")
        shown = dict(line.split("=", 1) for line in text.splitlines())
        return [shown[name] for name in properties]


@contextmanager
def booted(directory: Path) -> Iterator[Systemd]:
    """A systemd with the units of rait, none of which is started; all of it ends with the block."""
    (directory / "units").mkdir()
    for unit in UNITS.iterdir():
        (directory / "units" / unit.name).write_text(unit.read_text())
    for target in TARGETS:
        (directory / "units" / f"{target}.target").write_text("[Unit]\nDefaultDependencies=no\n")
    (directory / "rait").write_text(f'#!/bin/sh\nexec {shlex.join(command())} "$@"\n')
    (directory / "rait").chmod(0o755)
    name = f"rait-test-{os.getpid()}-{next(_boots)}"
    script = BOOT.format(name=name, directory=shlex.quote(str(directory)), systemd=SYSTEMD)
    unshare = ["unshare", "--mount", "--pid", "--net", "--ipc", "--uts"]
    process = machine.start([*unshare, "--fork", "--kill-child", "sh", "-eu", "-c", script])
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    try:
        eventually(lambda: process.poll() is not None or children.read_text(), "a first process")
        systemd = Systemd(int(children.read_text()), directory)
        eventually(
            # Before there is a systemd, systemctl may take us for a chroot, and end with status 0.
            lambda: systemd.start("systemctl", "is-active", "basic.target").stdout == "active\n",
            "systemd has booted",
        )
        yield systemd
    finally:
        for first in children.read_text().split():  # all others end with it
            os.kill(int(first), signal.SIGKILL)
        process.wait()
        subprocess.run(["unshare", "--mount", "sh", "-c", CLEANUP.format(name=name)], check=False)

"""When programs are to outlive the service of systemd that starts them, and when that is moot."""

from __future__ import annotations

import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from rait.adapters import systemd

SERVICE = "0::/system.slice/rait.service\n"
OLD = "2:memory:/\n1:name=systemd:/system.slice/rait.service\n"
CONTROL = "0::/system.slice/rait.service/.control\n"
OF_A_USER = "0::/user.slice/user-0.slice/user@0.service/app.slice/rait.service\n"
SESSION = "0::/user.slice/user-0.slice/session-1.scope\n"
SCOPE_OF_A_USER = "0::/user.slice/user-0.slice/user@0.service/app.slice/run-7.scope\n"
NO_UNIT = "0::/\n"


class Machine:
    """A machine on which systemd runs, and rait in some control group."""

    def __init__(self, directory: Path, patch: pytest.MonkeyPatch) -> None:
        self.booted, self.cgroup = directory / "booted", directory / "cgroup"
        self.booted.mkdir()
        self.runs = directory / "systemd-run"
        self.answer("exit 0")
        patch.setattr(systemd, "_BOOTED", str(self.booted))
        patch.setattr(systemd, "_CGROUP", str(self.cgroup))
        patch.setenv("PATH", str(directory))

    def answer(self, script: str) -> None:
        self.runs.write_text(f"#!/bin/sh\n{script}\n")
        self.runs.chmod(stat.S_IRWXU)


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Machine]:
    systemd.out_of_service.cache_clear()
    systemd.own_scope.cache_clear()
    yield Machine(tmp_path, monkeypatch)
    systemd.out_of_service.cache_clear()
    systemd.own_scope.cache_clear()


@pytest.mark.parametrize("group", [SERVICE, OLD, CONTROL, OF_A_USER])
def test_in_a_service_programs_get_a_scope(machine: Machine, group: str) -> None:
    machine.cgroup.write_text(group)
    first, *options = systemd.out_of_service()
    assert first == "systemd-run"
    assert "--scope" in options


@pytest.mark.parametrize("group", [SESSION, SCOPE_OF_A_USER, NO_UNIT])
def test_elsewhere_they_are_started_as_they_are(machine: Machine, group: str) -> None:
    machine.cgroup.write_text(group)
    machine.answer("kill $PPID")  # it is not asked at all
    assert systemd.out_of_service() == ()


def test_without_systemd_or_with_one_that_refuses_they_are_started_as_they_are(
    machine: Machine,
) -> None:
    machine.cgroup.write_text(SERVICE)
    machine.answer("echo Failed to connect to bus >&2; exit 1")
    assert systemd.out_of_service() == ()
    systemd.out_of_service.cache_clear()
    systemd.own_scope.cache_clear()
    machine.runs.unlink()
    assert systemd.out_of_service() == ()
    systemd.out_of_service.cache_clear()
    systemd.own_scope.cache_clear()
    machine.answer("exit 0")
    machine.booted.rmdir()
    assert systemd.out_of_service() == ()

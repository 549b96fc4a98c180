"""rait as a service that tells its manager how it is, against a socket of the test."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rait.adapters.systemd import ServiceManager


@contextmanager
def listening(address: str) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as own:
        own.bind(address.replace("@", "\0"))
        own.settimeout(10)
        yield own


@pytest.fixture(params=["path", "abstract"])
def address(request: pytest.FixtureRequest, tmp_path: Path) -> str:
    unique = f"rait-test-{os.getpid()}-{time.monotonic_ns()}"
    return str(tmp_path / "notify") if request.param == "path" else f"@{unique}"


def heard(own: socket.socket) -> list[str]:
    return own.recv(1 << 16).decode().split("\n")


def test_what_a_service_tells_in_its_life(address: str) -> None:
    with listening(address) as own:
        manager = ServiceManager({"NOTIFY_SOCKET": address})
        manager.status("reading rait.conf")
        assert heard(own) == ["STATUS=reading rait.conf"]
        manager.ready("3 links")
        assert heard(own) == ["READY=1", "STATUS=3 links"]
        before = time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        manager.reloading()
        first, stamp = heard(own)
        assert first == "RELOADING=1"
        key, _, usec = stamp.partition("=")
        assert key == "MONOTONIC_USEC"
        assert before <= int(usec) <= time.clock_gettime_ns(time.CLOCK_MONOTONIC) // 1000
        manager.alive()
        assert heard(own) == ["WATCHDOG=1"]
        manager.stopping()
        assert heard(own) == ["STOPPING=1"]


def test_children_do_not_inherit_what_the_manager_gave_us(address: str) -> None:
    program = (
        "import os, subprocess; from rait.adapters.systemd import ServiceManager;"
        "ServiceManager(); os.system('env')"
    )
    given = {"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "1000000", "WATCHDOG_PID": "1", "KEPT": "1"}
    done = subprocess.run(
        [sys.executable, "-c", program],
        env=os.environ | given,
        capture_output=True,
        text=True,
        check=True,
    )
    names = {line.partition("=")[0] for line in done.stdout.splitlines()}
    assert "KEPT" in names
    assert not names & {"NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID"}


@pytest.mark.parametrize("text", ["", "@", "relative", "vsock:2:1234", "/" + "long" * 50, "/a\0b"])
def test_where_nothing_can_listen_nothing_is_told(text: str) -> None:
    manager = ServiceManager({"NOTIFY_SOCKET": text} if text else {})
    manager.ready("")
    manager.alive()
    manager.stopping()


def test_a_manager_that_went_away_or_does_not_read_breaks_nothing(tmp_path: Path) -> None:
    address = str(tmp_path / "notify")
    manager = ServiceManager({"NOTIFY_SOCKET": address})
    manager.ready("nobody made the socket")
    with listening(address) as own:
        for _ in range(100_000):
            before = time.monotonic()
            manager.alive()
            if time.monotonic() - before > 0.3:
                break
        else:
            pytest.fail("the socket never filled up")
        assert heard(own) == ["WATCHDOG=1"]
    manager.ready("the socket is of nobody now")
    Path(address).unlink()
    with listening(address) as own:
        manager.ready("made again")
        assert heard(own) == ["READY=1", "STATUS=made again"]


@given(st.text() | st.text(st.characters(codec=None, categories=["Cc", "Cs", "Zl", "Zp", "Co"])))
def test_a_status_is_one_field_whatever_its_text(text: str) -> None:
    address = f"@rait-test-{os.getpid()}-{time.monotonic_ns()}"
    with listening(address) as own:
        ServiceManager({"NOTIFY_SOCKET": address}).status(text * 100)
        said = own.recv(1 << 16)
        assert said.startswith(b"STATUS=")
        assert b"\n" not in said
        assert len(said) < 4096
        said.decode()


@pytest.mark.parametrize(
    ("usec", "pid", "seconds"),
    [
        ("30000000", None, 30.0),
        ("30000000", str(os.getpid()), 30.0),
        ("30000000", "1", None),
        ("0", None, None),
        ("", None, None),
        ("-1", None, None),
        ("many", None, None),
    ],
)
def test_the_watchdog_is_ours_if_its_pid_is(
    usec: str, pid: str | None, seconds: float | None
) -> None:
    environment = {"NOTIFY_SOCKET": "@any", "WATCHDOG_USEC": usec}
    if pid is not None:
        environment["WATCHDOG_PID"] = pid
    assert ServiceManager(environment).watchdog == seconds
    assert not environment


def test_there_is_no_watchdog_without_a_socket() -> None:
    assert ServiceManager({"WATCHDOG_USEC": "30000000"}).watchdog is None

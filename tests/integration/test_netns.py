"""Namespaces that rait makes are those that ``ip netns`` knows, wherever rait was started."""

from __future__ import annotations

import os
import shlex
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from rait.adapters import netns, netns_search, syscalls
from rait.adapters.netns import NAMED, ensure_netns, find_netns, open_netns
from rait.adapters.netns_names import Doubt
from rait.domain.errors import MachineError
from tests.integration import machine

pytestmark = pytest.mark.userspace

PREFIX = f"rait-test-ns{os.getpid()}"
MAKE = "import sys; from rait.adapters.netns import ensure_netns; ensure_netns(sys.argv[1])"


@pytest.fixture
def names() -> Iterator[tuple[str, str]]:
    pair = (f"{PREFIX}-a", f"{PREFIX}-b")
    yield pair
    for name in pair:
        subprocess.run(["ip", "netns", "delete", name], check=False, capture_output=True)


def make(name: str, *prefix: str) -> None:
    subprocess.run([*prefix, sys.executable, "-c", MAKE, name], check=True, capture_output=True)


def loopback(name: str) -> str:
    command = ["ip", "-n", name, "-brief", "link", "show", "dev", "lo"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout


def test_a_namespace_is_made_as_ip_netns_does_with_lo_up(names: tuple[str, str]) -> None:
    make(names[0])
    assert "UP" in loopback(names[0])


def test_one_made_below_ip_netns_exec_is_seen_by_others(names: tuple[str, str]) -> None:
    subprocess.run(["ip", "netns", "add", names[0]], check=True)
    make(names[1], "ip", "netns", "exec", names[0])
    assert "UP" in loopback(names[1])


def test_its_file_is_there_when_the_namespace_is(
    names: tuple[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A busy kernel takes seconds to make one; meanwhile, the file would look like a leftover."""
    was_there: list[bool] = []
    unshare = syscalls.unshare

    def noting(what: int) -> None:
        unshare(what)
        if what == syscalls.CLONE_NEWNET:
            was_there.append(Path(NAMED, names[0]).exists())

    monkeypatch.setattr(syscalls, "unshare", noting)
    ensure_netns(names[0])
    assert was_there == [False]
    assert "UP" in loopback(names[0])


def test_one_that_is_there_is_left_as_it_is(names: tuple[str, str]) -> None:
    subprocess.run(["ip", "netns", "add", names[0]], check=True)
    subprocess.run(["ip", "-n", names[0], "link", "add", "v0", "type", "bridge"], check=True)
    make(names[0])
    subprocess.run(["ip", "-n", names[0], "link", "show", "dev", "v0"], check=True)


ODD = "mounts \\n\v\f\x1c\u0085\u2028here \udcff"


def test_where_others_mounted_something_under_an_odd_name(
    names: tuple[str, str], tmp_path: Path
) -> None:
    """A user may do so without root, by FUSE; the bytes are in mountinfo as they are."""
    point = tmp_path / ODD
    point.mkdir()
    script = f'mount -t tmpfs none {shlex.quote(str(point))} && exec "$@"'
    make(names[0], "unshare", "--mount", "--propagation", "slave", "sh", "-c", script, "sh")
    assert "UP" in loopback(names[0])


def test_one_that_was_left_half_made_is_made_whole(names: tuple[str, str]) -> None:
    """A kill between the two steps leaves an empty file, with nothing mounted on it."""
    Path(NAMED, names[0]).touch(mode=0)
    assert find_netns(names[0]) is None
    make(names[0])
    assert "UP" in loopback(names[0])
    with open_netns(names[0]) as made, open_netns("") as own:
        assert made.identity != own.identity


def test_a_file_that_others_have_a_namespace_on_is_not_taken_for_a_leftover(
    names: tuple[str, str],
) -> None:
    subprocess.run(["ip", "netns", "add", names[0]], check=True)
    path = shlex.quote(f"{NAMED}/{names[0]}")
    private = ["unshare", "--mount", "--propagation", "private", "sh", "-c"]
    done = subprocess.run(
        [*private, f'umount {path} && exec "$@"', "sh", sys.executable, "-c", MAKE, names[0]],
        check=False,
        capture_output=True,
        text=True,
    )
    assert done.returncode != 0
    assert "the file is a namespace only in the mounts of process" in done.stderr
    assert "nsenter -m -t" in done.stderr
    assert "ip netns delete" not in done.stderr, "that would take it from the process too"


def test_a_file_that_is_not_empty_is_left_alone(names: tuple[str, str]) -> None:
    Path(NAMED, names[0]).write_text("notes")
    try:
        with pytest.raises(MachineError, match="the file is no namespace"):
            find_netns(names[0])
    finally:
        Path(NAMED, names[0]).unlink()


def test_a_descriptor_of_the_first_namespace_shows_it_under_any_name(
    names: tuple[str, str],
) -> None:
    """In newer kernels (6.18), the machine's own namespace has an inode below all others."""
    subprocess.run(["ip", "netns", "attach", names[0], str(os.getpid())], check=True)
    with open_netns(names[0]) as first:
        subprocess.run(["ip", "netns", "delete", names[0]], check=True)
        with netns_search.Search(frozenset({first.identity})) as found:
            found.try_paths(_of_own_descriptors)
            assert list(found.namespaces) == [first.identity]


def _of_own_descriptors(doubt: Doubt) -> Iterator[str]:
    return (
        path
        for path in netns_search._descriptors(doubt)
        if path.startswith(f"/proc/{os.getpid()}/")
    )


NO_OPTION = 9999


@pytest.mark.parametrize("kernel", ["with cookies", "without cookies"])
def test_one_that_only_a_socket_refers_to_is_found(
    names: tuple[str, str], kernel: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Before Linux 5.14, a socket does not tell its namespace's cookie."""
    if kernel == "without cookies":
        monkeypatch.setattr(netns, "_SO_NETNS_COOKIE", NO_OPTION)
    subprocess.run(["ip", "netns", "add", names[0]], check=True)
    with open_netns(names[0]) as named:
        instance = named.instance
    with machine.socket_in(names[0], socket.AF_INET, socket.SOCK_DGRAM):
        subprocess.run(["ip", "netns", "delete", names[0]], check=True)
        with netns_search.search({instance}) as found:
            assert [ns.instance for ns in found.namespaces.values()] == [instance]

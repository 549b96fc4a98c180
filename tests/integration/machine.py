"""Network namespaces and processes for the tests; nothing here is about rait."""

from __future__ import annotations

import base64
import contextlib
import ctypes
import json
import os
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

CLONE_NEWNET = 0x40000000  # linux/sched.h
NETNS_DIR = Path("/run/netns")
UAPI_DIR = Path("/var/run/wireguard")

PATIENCE = 180
"""Seconds until what is to come about by itself is given up: an emulated machine, or one that is
busy with other things, is slow."""

_libc = ctypes.CDLL(None, use_errno=True)


def eventually(condition: Callable[[], object], what: str) -> None:
    """Wait for a condition to hold."""
    deadline = time.monotonic() + PATIENCE
    while not condition():
        assert time.monotonic() < deadline, f"did not come about: {what}"
        time.sleep(0.1)


def setns(path: Path | str) -> None:
    """Move the calling thread to a network namespace (setns(2))."""
    fd = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        if _libc.setns(fd, CLONE_NEWNET) != 0:
            raise OSError(ctypes.get_errno(), f"setns {path}")
    finally:
        os.close(fd)


@contextlib.contextmanager
def inside(netns: str) -> Iterator[None]:
    """Have this thread in the namespace for the block. Sockets made there stay there."""
    home = os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)
    try:
        setns(NETNS_DIR / netns)
        yield
    finally:
        setns(f"/proc/self/fd/{home}")
        os.close(home)


def start(command: list[str], netns: str | None = None, **options: Any) -> subprocess.Popen[str]:
    """Start a program inside the namespace.

    This thread goes there for the start, as Python forks the dear way if it is given a function
    to call in the child.
    """
    with inside(netns) if netns is not None else contextlib.nullcontext():
        # Other runs on this machine may have links whose names are no text, and `wg` shows all.
        return subprocess.Popen(command, text=True, errors="backslashreplace", **options)


def run(command: list[str], netns: str | None = None, stdin: str = "") -> str:
    """Run a program inside the namespace, which must succeed, and give what it prints."""
    pipe = subprocess.PIPE
    process = start(command, netns, stdin=pipe, stdout=pipe, stderr=pipe)
    out, err = process.communicate(stdin)
    assert process.returncode == 0, (
        f"{command} in {netns}: {process.returncode}\n{out}{err}\n{stdin}"
    )
    return out


def ip_batch(lines: Iterable[str], netns: str | None = None) -> None:
    """Many ip(8) commands at the price of one process."""
    run(["ip", "-batch", "-"], netns, stdin="\n".join(lines) + "\n")


def links(netns: str) -> dict[str, dict[str, Any]]:
    """The interfaces of a namespace by name, as ``ip -json -details link`` tells them."""
    text = run(["ip", "-json", "-details", "link"], netns)
    return {link["ifname"]: link for link in json.loads(text or "[]") if link}


def wg(*arguments: str, netns: str | None = None, stdin: str = "") -> str:
    return run(["wg", *arguments], netns, stdin=stdin).strip()


def wg_all(what: str, netns: str) -> str:
    """What wg(8) has of all links, as those of programs are in view from each namespace.

    One that ends meanwhile, as another run of the tests may end it, is missing, which is no error.
    """
    pipe, null = subprocess.PIPE, subprocess.DEVNULL
    return start(["wg", "show", "all", what], netns, stdout=pipe, stderr=null).communicate()[0]


def genkey() -> tuple[str, str]:
    """A new private key and its public one."""
    from cryptography.hazmat.primitives.asymmetric.x25519 import X25519PrivateKey

    key = X25519PrivateKey.generate()
    both = key.private_bytes_raw(), key.public_key().public_bytes_raw()
    return base64.b64encode(both[0]).decode(), base64.b64encode(both[1]).decode()


def processes() -> dict[int, list[str]]:
    """The command line of every process by its id."""
    found = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                words = (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")
                found[int(entry.name)] = words
    return found


def thread_states(pid: int) -> list[str]:
    """The state of each thread of a process (proc_pid_stat(5))."""
    states = []
    for each in Path(f"/proc/{pid}/task").glob("*/stat"):
        with contextlib.suppress(OSError):
            states.append(each.read_text().rpartition(")")[2].split()[0])
    return states


def has_ended(pid: int) -> bool:
    """Whether a process has let go of all that it had, as its sockets and its tun.

    Its arguments are gone before that, and its first thread may be a zombie while others go on.
    """
    return thread_states(pid) in ([], ["Z"])


def end(number: int, *pids: int) -> None:
    """Send processes a signal that ends them, and wait until they have ended."""
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)
    eventually(lambda: all(map(has_ended, pids)), f"processes {pids} have ended")


def stop(pid: int) -> None:
    """Stop a process, and wait until each of its threads is stopped, which takes a moment."""
    os.kill(pid, signal.SIGSTOP)
    eventually(lambda: set(thread_states(pid)) == {"T"}, f"process {pid} is stopped")


def wireguard_processes(tag: str) -> list[int]:
    """Userspace programs that serve an interface whose name starts with the tag."""
    return [
        pid
        for pid, words in processes().items()
        if words[0].endswith("wireguard-go") and any(word.startswith(tag) for word in words[1:])
    ]


def uapi_sockets(tag: str) -> list[str]:
    return sorted(path.stem for path in UAPI_DIR.glob(f"{tag}*.sock"))


def netns_exists(name: str) -> bool:
    return (NETNS_DIR / name).exists()


def remove_netns(name: str) -> None:
    """Remove a namespace that a test made, with the processes that are left in it."""
    path = NETNS_DIR / name
    if not path.exists():
        return
    inode = path.stat().st_ino
    inside = []
    for pid in processes():
        with contextlib.suppress(OSError):
            if pid != os.getpid() and Path(f"/proc/{pid}/ns/net").stat().st_ino == inode:
                inside.append(pid)
    end(signal.SIGKILL, *inside)
    subprocess.run(["ip", "netns", "del", name], check=False)


def remove_wireguard(tag: str) -> None:
    """End the userspace programs that a test left behind, and remove their sockets."""
    end(signal.SIGKILL, *wireguard_processes(tag))
    for name in uapi_sockets(tag):
        (UAPI_DIR / f"{name}.sock").unlink(missing_ok=True)


def start_ping(netns: str, *arguments: str) -> subprocess.Popen[str]:
    """Start a ping that ends with status 0 at the first answer, and keeps trying for long.

    A first handshake may have to be tried again after 5 s (WireGuard whitepaper, section 6.1),
    more than once where the machine is busy.
    """
    command = ["ping", "-n", "-q", "-i", "0.2", "-c", "1", "-w", str(PATIENCE), *arguments]
    return start(command, netns, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def answers(netns: str, *arguments: str) -> bool:
    """Whether a ping of ``start_ping`` is answered."""
    return start_ping(netns, *arguments).wait() == 0


def socket_in(netns: str, family: int, kind: int, protocol: int = 0) -> socket.socket:
    with inside(netns):
        return socket.socket(family, kind, protocol)

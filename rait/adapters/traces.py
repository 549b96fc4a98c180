"""What a WireGuard link shows of itself outside of the namespace that it lives in."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from rait.adapters import netns, uapi
from rait.adapters import userspace_process as programs
from rait.adapters.netns import Netns
from rait.domain.topology import Link

_TABLES = ("/proc/thread-self/net/udp", "/proc/thread-self/net/udp6")


def home_of(link: Link) -> Netns | None:
    """The namespace that a userspace link's tun is in, opened; None where nobody can tell.

    Its program tells: it keeps its tun wherever that is moved to.
    """
    if link.origin.backend != "userspace":
        return None
    try:
        with uapi.Client(link.name) as client:
            pid = client.pid
        with programs.Process(pid) as process:
            for descriptor, _ in tuns_of(pid):
                if (home := process.home_descriptor(descriptor)) is not None:
                    return netns.adopt(link.origin.netns, home)
    except (OSError, uapi.UapiError):
        return None
    return None


def tuns_of(pid: int) -> Iterator[tuple[int, str]]:
    """The tuns that a process holds: its descriptor of each, and the name it has now.

    Raises OSError.
    """
    for entry in Path(f"/proc/{pid}/fd").iterdir():
        try:
            if str(entry.readlink()) != programs.TUN:
                continue
            info = Path(f"/proc/{pid}/fdinfo/{entry.name}").read_bytes()
        except FileNotFoundError:
            continue
        names = [line[4:].strip() for line in info.splitlines() if line.startswith(b"iff:")]
        if names:
            yield int(entry.name), os.fsdecode(names[0])


def sign_of_life(link: Link, transit: Netns) -> str:
    """What tells that the link is there although its namespace cannot be found; "" if nothing.

    A program that serves it, or a socket that has its listen port in the transit namespace.
    """
    if link.origin.backend == "userspace":
        return _served(link.name)
    port = link.device.listen_port
    if not (port and link.settings.up and transit.is_open):
        return ""
    if link.origin.transit not in ("", transit.identity) or port not in _udp_ports(transit):
        return ""
    where = netns.describe(transit.spec)
    return f"its listen port {port} is still taken in {where}"


def _served(name: str) -> str:
    try:
        with uapi.Client(name) as client:
            return f"process {client.pid} still serves it"
    except (FileNotFoundError, ConnectionRefusedError):
        return ""
    except (OSError, uapi.UapiError) as error:
        return str(error)


def _udp_ports(transit: Netns) -> frozenset[int]:
    try:
        with netns.entered(transit):
            return frozenset(port for table in _TABLES for port in _ports_in(table))
    except OSError:
        return frozenset()


def _ports_in(table: str) -> Iterator[int]:
    """The local ports of a table of sockets (proc_pid_net(5)): the second field's, in hex."""
    for line in Path(table).read_text("utf-8").splitlines()[1:]:
        yield int(line.split()[1].rpartition(":")[2], 16)

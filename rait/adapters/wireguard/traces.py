"""Signs of a WireGuard link that can be seen from outside of the link's own namespace."""

from __future__ import annotations

from collections.abc import Iterator

from rait.adapters import netns
from rait.adapters.netns import Netns
from rait.adapters.wireguard import process, uapi
from rait.domain.topology import Link

_TABLES = ("/proc/thread-self/net/udp", "/proc/thread-self/net/udp6")


def home_of(link: Link) -> Netns | None:
    """The namespace of a userspace link's tun, opened; None if unknown, or for a kernel's link.

    The program that serves the link shows the way, as it keeps its tun open in whatever namespace
    the tun was moved to.
    """
    if link.origin.backend != "userspace":
        return None
    try:
        return next((home for home, _ in process.tuns_served(link.name, link.origin.netns)), None)
    except (OSError, uapi.UapiError):
        return None


def sign_of_life(link: Link, transit: Netns) -> str:
    """Why a link whose namespace cannot be found must still exist; "" if there is no such reason.

    Reasons are a program that serves the link, and a socket on the link's listen port in the
    transit namespace.
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
    except uapi.NOBODY:
        return ""
    except (OSError, uapi.UapiError) as error:
        return str(error)


def _udp_ports(transit: Netns) -> frozenset[int]:
    try:
        with netns.entered(transit.fd):
            return frozenset(port for table in _TABLES for port in _ports_in(table))
    except OSError:
        return frozenset()


def _ports_in(table: str) -> Iterator[int]:
    """The local ports in a table of sockets (proc_pid_net(5)): hex digits in the second field."""
    with open(table, encoding="utf-8") as file:
        for line in file.readlines()[1:]:
            yield int(line.split()[1].rpartition(":")[2], 16)

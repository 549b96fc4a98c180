"""Listen ports that are kept from programs that want any port.

A program opens its UDP socket when it starts, on a port of the kernel's choice: rait cannot tell it
the listen port of its link before. Without this module the kernel may choose the listen port of
another link that is about to be made (net.ipv4.ip_local_port_range holds 28,232 ports: of 64 links
with listen ports among these that come up at once, one would fail in every fourteenth run).
"""

from __future__ import annotations

import os
import socket
from collections.abc import Iterable
from contextlib import suppress
from itertools import islice

from rait.adapters.closing import Closing
from rait.adapters.netns import Netns, entered

_SHARE = 8
"""One in so many files that a process may have open can be for a port: by the usual limit of 1024,
there are enough for all links that are made at a time."""


class KeptPorts(Closing):
    """UDP ports of a network namespace that nobody else gets until they are let go, each by itself.

    A port that is taken is passed over: the link that wants it is told so when it is made. Where
    few files may be open, only the first ports are kept, as the programs need files more.
    """

    def __init__(self, ns: Netns, ports: Iterable[int]) -> None:
        self._sockets: dict[int, socket.socket] = {}
        with suppress(OSError), entered(ns.fd):
            files = os.sysconf("SC_OPEN_MAX")  # -1 where there is no limit (sysconf(3))
            most = None if files < 0 else files // _SHARE
            for port in islice(filter(None, ports), most):
                self._keep(port)

    def let_go(self, port: int) -> None:
        """Give a port free; harmless if it was not kept."""
        held = self._sockets.pop(port, None)
        if held is not None:
            held.close()

    def close(self) -> None:
        for port in list(self._sockets):
            self.let_go(port)

    def _keep(self, port: int) -> None:
        with suppress(OSError):
            self._sockets[port] = _bound(socket.AF_INET6, "::", port)
            return
        with suppress(OSError):  # a kernel without IPv6
            self._sockets[port] = _bound(socket.AF_INET, "", port)


def _bound(family: socket.AddressFamily, address: str, port: int) -> socket.socket:
    """A socket on a port of all addresses: with ``::``, of those of IPv4 too."""
    held = socket.socket(family, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
    try:
        if family == socket.AF_INET6:
            held.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        held.bind((address, port))
    except OSError:
        held.close()
        raise
    return held

"""The node's own configuration, after it was decoded and checked."""

from __future__ import annotations

import re
from typing import Literal

from msgspec import Struct

from rait.domain.topology import Family

SECOND = 1_000_000_000
"""In nanoseconds, as all spans and times of the journal are."""

DAY = 86400 * SECOND

DEFAULT_CONFIG = "/etc/rait/rait.conf"
DEFAULT_PEERS = "/etc/rait/peers.conf"
DEFAULT_JOURNAL = "/var/lib/rait/journal.db"
DEFAULT_JOURNAL_KEEP = 365 * DAY
DEFAULT_BABELD_PARAM = (
    "type tunnel link-quality true split-horizon false rxcost 32 "
    "hello-interval 20 max-rtt-penalty 1024 rtt-max 1024"
)

MIN_MTU = 1280
"""RFC 8200, section 5: the least MTU of a link that carries IPv6, which babeld needs."""

MAX_MTU = 65535 - 80
"""An IP packet's largest size less WireGuard's overhead over IPv6 (40 + 8 + 32 bytes)."""

MAX_IFNAME = 15
"""IFNAMSIZ (linux/if.h) less the closing NUL, in bytes."""


DEFAULT_MAX_LINKS = 4096
"""Some times more than rait was measured with, and fewer than a common machine can bear."""

PRIVATE_GROUPS = 0x7FFF0000
"""Interface groups from here on are rait's own: links on their way out are moved to them."""

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
_SPAN = r"(\d{1,9})([smhdw])"


def parse_span(text: str) -> int | None:
    """A span as ``30m``, ``12h``, ``90d`` or ``2w`` in nanoseconds, or None for other text."""
    match = re.fullmatch(_SPAN, text, re.ASCII)
    return None if match is None else int(match[1]) * _UNITS[match[2]] * SECOND


class Secret:
    """A private or preshared key, which no ``repr``, log line or encoder can show by accident."""

    __slots__ = ("_text",)

    def __init__(self, text: str) -> None:
        self._text = text

    def reveal(self) -> str:
        """The key in base64, for the one place that hands it to the kernel or the program."""
        return self._text

    def __repr__(self) -> str:
        return "Secret(...)"

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Secret) and self._text == other._text

    def __hash__(self) -> int:
        return hash(self._text)


NO_PSK = Secret("A" * 43 + "=")
"""The all-zero key: written as a peer's preshared key it takes away the one that is there."""


class Transport(Struct, frozen=True, kw_only=True):
    """One way to reach peers over the underlay; one link for each transport and peer endpoint.

    ``send_port`` is the destination port of every packet this node sends through the transport.
    ``mtu`` is in bytes. ``fwmark`` marks the encrypted packets; 0 is off. With ``dynamic_port``
    the kernel picks the listen ports.
    """

    address_family: Family
    send_port: int
    mtu: int
    ifprefix: str
    fwmark: int = 0
    dynamic_port: bool = False
    address: str | None = None
    bind_addr: str | None = None


class Isolation(Struct, frozen=True, kw_only=True):
    """What keeps overlay and underlay apart.

    For ``netns``, ``transit`` is where the UDP sockets live and ``target`` where the interfaces
    do: "" is the current namespace, digits a process id, anything else a name under /run/netns.
    For ``vrf``, ``target`` is the VRF interface that links are enslaved to, with routing table
    ``table``, and ``transit`` a VRF that carries the underlay.
    """

    type: Literal["netns", "vrf"] = "netns"
    ifgroup: int = 54
    transit: str = ""
    target: str = ""
    table: int | None = None


class Babeld(Struct, frozen=True, kw_only=True):
    """How to reach babeld's control socket and what to tell it of each interface."""

    socket_type: Literal["unix", "tcp"] = "unix"
    socket_addr: str = "/run/babeld.ctl"
    param: str = DEFAULT_BABELD_PARAM
    extra_cmd: str = ""
    sync: bool = False


class Config(Struct, frozen=True, kw_only=True):
    """One node's configuration. Exactly one of ``private_key`` and ``private_key_file`` is set.

    ``max_links`` and ``port_range``, pairs of a first and a last port, are the limits to what a
    peers list may ask for. An empty ``port_range`` allows each port. ``journal_keep`` is in
    nanoseconds, and None for ever.
    """

    private_key: Secret | None = None
    private_key_file: str | None = None
    transports: tuple[Transport, ...] = ()
    isolation: Isolation = Isolation()
    babeld: Babeld = Babeld()
    peers: str = DEFAULT_PEERS
    name: str | None = None
    remarks: dict[str, object] = {}
    backend: Literal["auto", "kernel", "userspace"] = "auto"
    journal: str = DEFAULT_JOURNAL
    journal_keep: int | None = DEFAULT_JOURNAL_KEEP
    max_removals: int | None = None
    max_links: int = DEFAULT_MAX_LINKS
    port_range: tuple[tuple[int, int], ...] = ()

"""What rait.conf and a peers list say, after they were decoded and checked.

The limits of what they say are in limits.py, which is loaded to decode a text.
"""

import re
from collections.abc import Mapping
from typing import Any, Literal

from msgspec import Struct

from rait.domain.topology import Family

SECOND = 1_000_000_000
"""In nanoseconds, as all spans and times of the journal are."""

DAY = 86400 * SECOND

MIN_LEASE = 5 * SECOND
"""etcd grants none that is shorter than its members take to elect a leader, and rait needs time."""

LIVE = ("etcd", "etcds")
"""The schemes of sources of peers lists that can be followed, and take entries."""

DEFAULT_PEERS = "/etc/rait/peers.conf"
DEFAULT_JOURNAL = "/var/lib/rait/journal.db"
DEFAULT_JOURNAL_KEEP = 365 * DAY

ALWAYS: Literal["always"] = "always"
Fallback = int | Literal["always"]
"""How old a list may be to stand in for the newest, in nanoseconds; "always" is for any age."""

DEFAULT_BABELD_PARAM = (
    "type tunnel link-quality true split-horizon false rxcost 32 "
    "hello-interval 20 max-rtt-penalty 1024 rtt-max 1024"
)
DEFAULT_MAX_LINKS = 4096
"""Four times the links that rait is measured with, and fewer than a common machine can bear."""

MIN_MTU = 1280
"""RFC 8200, section 5: the least MTU of a link that carries IPv6, which babeld needs."""

MAX_MTU = 65535 - 80
"""An IP packet's largest size less WireGuard's overhead over IPv6 (40 + 8 + 32 bytes)."""

MAX_IFNAME = 15
"""IFNAMSIZ (linux/if.h) less the closing NUL, in bytes."""

MAX_PREFIX = MAX_IFNAME - 5
"""The longest ifprefix, in bytes: it leaves five digits for the port."""

PRIVATE_GROUPS = 0x7FFF0000
"""Interface groups from here on are rait's own: links on their way out are moved to them."""

MAX_PORT = 65535

ADDRESS = 'an address as "192.0.2.1/24" or "192.0.2.1 peer 192.0.2.2"'

_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
_SPAN = r"(\d{1,9})([smhdw])"


def is_live(url: str) -> bool:
    """Whether the text behind a URL comes from a source that tells of changes by itself."""
    scheme, found, _ = url.partition("://")
    return bool(found) and scheme.lower() in LIVE


def parse_span(text: str) -> int | None:
    """Nanoseconds of a span as ``30m``, ``12h``, ``90d`` or ``2w``; None for any other text."""
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
"""The all-zero key: written as a peer's preshared key, it removes the one that is set."""

Psks = Mapping[tuple[str, str], Secret]
"""The preshared keys that a run can set, by the public key of the peer and their digest."""


class Transport(Struct, frozen=True, kw_only=True):
    """One way to reach peers over the underlay; one link for each transport and peer endpoint.

    ``send_port`` is the destination port of every packet this node sends through the transport.
    ``mtu`` is in bytes. ``fwmark`` marks the encrypted packets; 0 is off. ``keepalive`` is in
    seconds; 0 is off. With ``dynamic_port`` the kernel picks the listen ports.
    """

    address_family: Family
    send_port: int
    mtu: int
    ifprefix: str
    fwmark: int = 0
    keepalive: int = 0
    dynamic_port: bool = False
    address: str | None = None
    bind_addr: str | None = None

    def link_name(self, send_port: int) -> str:
        """The name of the link over this transport to a peer with this SendPort."""
        return f"{self.ifprefix}{send_port}"


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

    @property
    def target_netns(self) -> str:
        """The namespace that holds the links: in VRF isolation it is the current one."""
        return self.target if self.type == "netns" else ""

    @property
    def transit_netns(self) -> str:
        """The namespace of the underlay: in VRF isolation it is the current one."""
        return self.transit if self.type == "netns" else ""

    @property
    def target_vrf(self) -> str | None:
        """The VRF that links are enslaved to; None in netns isolation."""
        return self.target if self.type == "vrf" else None

    @property
    def transit_vrf(self) -> str:
        """The VRF that carries the underlay; "" if none does."""
        return self.transit if self.type == "vrf" else ""


class Babeld(Struct, frozen=True, kw_only=True):
    """How to reach babeld's control socket, and the parameters of each interface."""

    socket_type: Literal["unix", "tcp"] = "unix"
    socket_addr: str = "/run/babeld.ctl"
    param: str = DEFAULT_BABELD_PARAM
    extra_cmd: str = ""
    sync: bool = False


class Watch(Struct, frozen=True, kw_only=True):
    """How ``rait watch`` looks after this node. Spans of time are in nanoseconds.

    After ``poll``, a peers list is asked for again that comes from a URL; after ``names``, host
    names are looked up again; after ``look``, the machine is looked at again, as nobody tells of
    some changes. ``max_peers_age`` is how old a list may become before that is an error; None for
    any age. ``metrics`` is the ADDRESS:PORT at which metrics and the health page are served, None
    for nowhere. With ``publish``, this node's own entry is kept in the registry, which drops it
    when it heard nothing of the node for ``lease``.
    """

    poll: int = 60 * SECOND
    names: int = 60 * SECOND
    look: int = 60 * SECOND
    max_peers_age: int | None = None
    metrics: str | None = None
    publish: bool = False
    lease: int = 60 * SECOND


class Match(Struct, frozen=True, kw_only=True):
    """Which links a policy is for: those that fit each of these that is not empty.

    To fit, one of the several is enough. ``name`` and the values of ``remarks`` are globs
    (fnmatch(3)) for the peer's name and for its remark of that key; ``public_key`` are whole keys.
    """

    name: tuple[str, ...] = ()
    public_key: tuple[str, ...] = ()
    address_family: tuple[Family, ...] = ()
    remarks: Mapping[str, tuple[str, ...]] = {}


class Policy(Struct, frozen=True, kw_only=True):
    """What links get that ``match`` is for; a setting that is None is left to other policies.

    Of several policies that set one thing, the last wins. ``keepalive`` is in seconds, 0 for off.
    ``mtu`` is in bytes, or "auto": what the underlay takes towards the endpoint, less WireGuard's
    overhead. ``babeld_param`` replaces babeld's parameters, and ``babeld_param_add`` is added to
    them. ``addresses`` are as ip-address(8) has them, with ``{name}`` and ``{remarks.KEY}`` for
    what the registry says of the peer: see templates.py. ``preshared_key_file`` is "" for no
    preshared key, else as in templates.py. With ``skip``, the peer gets no link. The commands are
    argument lists, see LinkNotes. ``path`` leads to the block in rait.conf.
    """

    match: Match = Match()
    keepalive: int | None = None
    mtu: int | Literal["auto"] | None = None
    fwmark: int | None = None
    addresses: tuple[str, ...] | None = None
    preshared_key_file: str | None = None
    babeld_param: str | None = None
    babeld_param_add: str | None = None
    skip: bool | None = None
    up_command: tuple[str, ...] | None = None
    down_command: tuple[str, ...] | None = None
    command_netns: Literal["target", "current"] | None = None
    path: tuple[str | int, ...] = ()


POLICY_SETTINGS = tuple(n for n in Policy.__struct_fields__ if n not in ("match", "path"))


class Config(Struct, frozen=True, kw_only=True):
    """One node's configuration. At most one of ``private_key`` and ``private_key_file`` is set.

    ``max_links`` and ``port_range`` (pairs of a first and a last port; empty for all ports) limit
    what a peers list may ask for. ``journal_keep`` is in nanoseconds; None keeps all runs.
    ``peers_fallback`` is how old a kept list may be, in nanoseconds, to stand in for one from a URL
    that cannot be had; None lets none stand in. ``peers_public_key`` are the keys of minisign, or
    the paths of files with one, of which one has to have signed the list; none if it need not be
    signed. ``command_timeout`` is how many seconds a command
    of a policy may take.
    """

    private_key: Secret | None = None
    private_key_file: str | None = None
    transports: tuple[Transport, ...] = ()
    isolation: Isolation = Isolation()
    babeld: Babeld = Babeld()
    watch: Watch = Watch()
    peers: str = DEFAULT_PEERS
    peers_fallback: Fallback | None = None
    peers_public_key: tuple[str, ...] = ()
    name: str | None = None
    remarks: dict[str, Any] = {}
    backend: Literal["auto", "kernel", "userspace"] = "auto"
    journal: str = DEFAULT_JOURNAL
    journal_keep: int | None = DEFAULT_JOURNAL_KEEP
    max_removals: int | None = None
    max_links: int = DEFAULT_MAX_LINKS
    command_timeout: int = 10
    port_range: tuple[tuple[int, int], ...] = ()
    policies: tuple[Policy, ...] = ()


class PeerEndpoint(Struct, frozen=True, kw_only=True):
    """One address family in which a peer may be reached.

    ``send_port`` is the port that the peer sends to, so this node listens on it. ``address`` is an
    IP address or host name, or None for a peer that has to contact this node first. ``path`` leads
    to the entry in the peers document, for messages.
    """

    address_family: Family
    send_port: int
    address: str | None = None
    path: tuple[str | int, ...] = ()


class Peer(Struct, frozen=True, kw_only=True):
    """One other node. ``public_key`` is canonical base64 of 32 bytes.

    ``endpoints`` are in the order of the registry. There may be several of one family, of which
    only one gets a link. ``remarks`` are the pairs of key and value that the registry has of the
    node, as text, in the order of the keys.
    """

    public_key: str
    endpoints: tuple[PeerEndpoint, ...] = ()
    name: str | None = None
    remarks: tuple[tuple[str, str], ...] = ()

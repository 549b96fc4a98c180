"""The tunnels of one node, as an immutable value."""

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from msgspec import Meta, Struct, field, structs

Family = Literal["ip4", "ip6"]
BackendKind = Literal["kernel", "userspace"]

U16 = Annotated[int, Meta(ge=0, le=2**16 - 1)]
U32 = Annotated[int, Meta(ge=0, le=2**32 - 1)]
"""The range of the kernel's field: a stored number outside of it was damaged or forged."""

ANYWHERE = ("0.0.0.0/0", "::/0")
"""The allowed IPs of every link: routing is left to the routing daemon."""


def is_link_local(address: str) -> bool:
    """Whether an address, in canonical text, is of fe80::/10 (RFC 4291, section 2.4)."""
    # Of four digits: fe8::1 is 0fe8::1.
    return address[:3] in ("fe8", "fe9", "fea", "feb") and address[3:4] != ":"


class Endpoint(Struct, frozen=True, gc=False):
    """A UDP endpoint: an IP address as text (IPv6 without brackets) and a port.

    A link-local address that WireGuard learned has a zone, as ``fe80::1%3``: the index of an
    interface in the transit namespace, or its name where the index is unknown. Without its zone
    the address leads nowhere (RFC 4007, section 6).
    """

    address: str
    port: U16

    def __str__(self) -> str:
        host = f"[{self.address}]" if ":" in self.address else self.address
        return f"{host}:{self.port}"


class LinkPeer(Struct, frozen=True, gc=False):
    """The far side of a link. ``keepalive`` is in seconds, 0 is off (wg(8)).

    ``psk_digest`` stands for the preshared key, which never gets here, and is "" where there is
    none: see adapters/keys.py. Both ends of a link must have the same preshared key, or none.
    """

    public_key: str
    endpoint: Endpoint | None = None
    keepalive: U16 = 0
    allowed_ips: tuple[str, ...] = ANYWHERE
    psk_digest: str = ""


class Device(Struct, frozen=True, gc=False):
    """A link's WireGuard device. ``public_key`` stands for the private one, which never gets here.

    ``listen_port`` 0 is the kernel's choice and ``fwmark`` 0 is off (linux/wireguard.h).
    """

    public_key: str
    listen_port: U16 = 0
    fwmark: U32 = 0


class LinkSettings(Struct, frozen=True, gc=False):
    """What may be changed on a living interface.

    ``mtu`` is in bytes, ``group`` is the ifgroup, ``master`` the VRF that it is enslaved to, and
    ``address`` the IPv6 link-local address with its prefix length, as ``fe80::1/64``.
    ``addresses`` are those that policies add, sorted, in canonical text as ip-address(8) has it:
    ``172.20.0.1/24``, ``172.20.0.1 peer 172.20.0.2/32`` or ``fd00::1/64``. If a link-local one is
    among them, it stands in for ``address``, which is None then.
    """

    mtu: U32
    group: U32
    master: str | None = None
    up: bool = True
    address: str | None = None
    addresses: tuple[str, ...] = ()

    @property
    def all_addresses(self) -> tuple[str, ...]:
        """Every address of the interface, the link-local one first."""
        return self.addresses if self.address is None else (self.address, *self.addresses)


class Origin(Struct, frozen=True, gc=False):
    """How and where a link was made; only making the link again changes its origin.

    ``netns`` is the target namespace as the configuration spells it, and ``instance`` tells this
    namespace from any other that was ever spelt so: "" where it is still to be made, and in
    journals from before instances were recorded. ``transit`` identifies the instance of the
    namespace that holds the UDP socket: a WireGuard socket never leaves its namespace.
    """

    backend: BackendKind
    netns: str = ""
    transit: str = ""
    instance: str = ""

    def is_placed_by(self, other: Self) -> bool:
        """Whether the other origin is this one with its instance known, which was unknown."""
        return bool(other.instance) and structs.replace(other, instance="") == self

    def may_become(self, other: Self) -> bool:
        """Whether a link of this origin can get the other one without being made again."""
        return self == other or self.is_placed_by(other)


class LinkNotes(Struct, frozen=True, gc=False, omit_defaults=True):
    """What rait has to remember of a link, and the machine does not show.

    ``up_command`` and ``down_command`` are argument lists, run in the link's namespace or, with
    ``command_netns`` "current", where rait runs. ``peer_name`` and ``remarks`` (pairs of a key and
    a value) are those of the peer in the registry; the commands get them. ``babeld_param`` is ""
    where babeld gets the parameters of rait.conf.
    """

    up_command: tuple[str, ...] = ()
    down_command: tuple[str, ...] = ()
    command_netns: Literal["target", "current"] = "target"
    peer_name: str = ""
    remarks: tuple[tuple[str, str], ...] = ()
    babeld_param: str = ""


NO_NOTES = LinkNotes()


class Link(Struct, frozen=True, gc=False):
    """One tunnel. ``peers`` are in the order of their public keys; rait's own links have one."""

    name: str
    origin: Origin
    settings: LinkSettings
    device: Device
    peers: tuple[LinkPeer, ...] = ()
    notes: LinkNotes = NO_NOTES

    def peer(self, public_key: str) -> LinkPeer | None:
        """The peer with this key, or None."""
        return next((p for p in self.peers if p.public_key == public_key), None)

    def with_peers(self, peers: Mapping[str, LinkPeer]) -> Self:
        """This link with these peers, which are by public key, in the order that links have."""
        return structs.replace(self, peers=tuple(peers[key] for key in sorted(peers)))


class Rule(Struct, frozen=True, gc=False):
    """A policy routing rule (ip-rule(8)): packets with the mark are looked up in the table."""

    family: Family
    fwmark: U32
    table: U32
    priority: U32

    @property
    def name(self) -> str:
        """The rule in the words of ip-rule(8); no two rules share it."""
        return f"{self.family} pref {self.priority} fwmark {self.fwmark} lookup {self.table}"


class Topology(Struct, frozen=True):
    """All links of a node by name, and babeld's interfaces with the parameters they were given.

    ``vrfs`` (name to routing table) and ``rules`` (by name) are those that rait made in the
    namespace that it runs in, and no others.
    """

    links: Mapping[str, Link] = field(default_factory=dict)
    babel: Mapping[str, str] = field(default_factory=dict)
    vrfs: Mapping[str, U32] = field(default_factory=dict)
    rules: Mapping[str, Rule] = field(default_factory=dict)

    def tables(self) -> dict[str, dict[str, Any]]:
        """A copy of each table, by the name of its field, from which to make another topology."""
        return {table: dict(getattr(self, table)) for table in self.__struct_fields__}

    def with_parts_of(self, goal: Self, names: frozenset[str]) -> Self:
        """This topology, with each entry of these names as the goal has it."""
        tables = (
            {name: value for name, value in getattr(self, table).items() if name not in names}
            | {name: value for name, value in getattr(goal, table).items() if name in names}
            for table in self.__struct_fields__
        )
        return type(self)(*tables)


EMPTY = Topology()

"""What the value of each setting may be beyond its type, for msgspec to enforce, and that in words.

Error messages show the words. The settings are the fields of the structs in schema.py. A run that
knows rait.conf from the last time does without limits, which take longer to make than the structs.
"""

from collections.abc import Mapping
from typing import Annotated, Any, Literal

from msgspec import Meta, Struct

from rait.domain.config.schema import (
    ADDRESS,
    DAY,
    MAX_MTU,
    MAX_PORT,
    MIN_LEASE,
    MIN_MTU,
    PRIVATE_GROUPS,
    SECOND,
    Babeld,
    Config,
    Isolation,
    Match,
    Policy,
    Secret,
    Transport,
    Watch,
)
from rait.domain.topology import Family

MAX_KEEPALIVE = 65535
"""In seconds, as wg(8) takes it."""

PORT_RANGE = f'a port from 1 to {MAX_PORT}, a range as "1024-65535", or a list of these'
ADDRESSES = f'{ADDRESS}, a list of these, or "off"'
COMMAND = (
    'a list of texts: a program, by an absolute path or a name on PATH, and its arguments; or "off"'
)
SIGNERS = "a public key of minisign or the path of its file in quotes, or a list of these"
_MAX_U32 = 2**32 - 1


def _filled(what: str) -> Meta:
    """Refuse an empty text."""
    return Meta(min_length=1, description=f"{what} in quotes")


def _between(low: int, high: int, what: str, why: str = "") -> Meta:
    """Refuse a number out of a range, and put the range into the words."""
    return Meta(ge=low, le=high, description=f"{what} from {low} to {high}{why}")


_AUTO = f', or "auto" (babeld needs IPv6, whose least MTU is {MIN_MTU})'
_MTU_REASON = f" (babeld needs IPv6, whose least MTU is {MIN_MTU}; WireGuard adds up to 80 bytes)"
_GROUP_REASON = (
    " (0 is the group of all interfaces that were put in none, and the highest are for rait itself)"
)
_Family = Annotated[Family, Meta(description="ip4 or ip6")]
_Address = Annotated[str, Meta(description="an IP address or a host name in quotes")] | None
_Flag = Annotated[bool, Meta(description="true or false")]
_Text = Annotated[str, Meta(description="text in quotes")]
_Line = Annotated[str, _filled("one line of text")]
_Source = Annotated[str, _filled("a path or a URL")]
_Signer = Annotated[str, _filled("a public key of minisign or the path of its file")]
_Keepalive = Annotated[int, _between(0, MAX_KEEPALIVE, "a number of seconds", ', or "off"')]
_Mark = Annotated[int, _between(0, _MAX_U32, "a mark", ', or "off"')]
_Globs = Annotated[tuple[str, ...], Meta(description="a glob in quotes, or a list of these")]
_Command = Annotated[tuple[str, ...], Meta(description=COMMAND)]
_Span = Annotated[int, Meta(ge=1, description='a span of time as "90d" or "52w", or "forever"')]
_Interval = Annotated[
    int, Meta(ge=SECOND, le=DAY, description='a span of time from "1s" to "1d", as "60s" or "5m"')
]
_Lease = Annotated[
    int, Meta(ge=MIN_LEASE, le=DAY, description='a span of time from "5s" to "1d", as "60s"')
]
_Fallback = Annotated[
    Annotated[int, Meta(ge=1)] | Literal["always"],
    Meta(description='a span of time as "24h" or "7d", or "always"'),
]

LIMITS: Mapping[type[Struct], Mapping[str, Any]] = {
    Transport: {
        "address_family": _Family,
        "send_port": Annotated[int, _between(1, MAX_PORT, "a port", " (to which this node sends)")],
        "mtu": Annotated[int, _between(MIN_MTU, MAX_MTU, "a number of bytes", _MTU_REASON)],
        "ifprefix": Annotated[str, Meta(description="text in quotes (how interface names begin)")],
        "fwmark": _Mark,
        "keepalive": _Keepalive,
        "dynamic_port": _Flag,
        "address": _Address,
        "bind_addr": _Address,
    },
    Isolation: {
        "type": Annotated[Literal["netns", "vrf"], Meta(description="netns or vrf")],
        "ifgroup": Annotated[int, _between(1, PRIVATE_GROUPS - 1, "a group", _GROUP_REASON)],
        "transit": _Text,
        "target": _Text,
        "table": Annotated[int, _between(1, _MAX_U32, "the number of a routing table")] | None,
    },
    Babeld: {
        "socket_type": Annotated[Literal["unix", "tcp"], Meta(description="unix or tcp")],
        "socket_addr": _Line,
        "param": _Line,
        "extra_cmd": _Text,
        "sync": _Flag,
    },
    Watch: {
        "poll": _Interval,
        "names": _Interval,
        "look": _Interval,
        "max_peers_age": Annotated[int, Meta(ge=1, description='a span of time as "1d"')] | None,
        "metrics": Annotated[str, Meta(description='ADDRESS:PORT in quotes, as "127.0.0.1:9586"')]
        | None,
        "publish": _Flag,
        "lease": _Lease,
    },
    Match: {"name": _Globs},
    Policy: {
        "keepalive": _Keepalive | None,
        "mtu": Annotated[int, _between(MIN_MTU, MAX_MTU, "a number of bytes", _AUTO)]
        | Literal["auto"]
        | None,
        "fwmark": _Mark | None,
        "addresses": Annotated[tuple[str, ...], Meta(description=ADDRESSES)] | None,
        "preshared_key_file": Annotated[str, Meta(description='a path in quotes, or "off"')] | None,
        "babeld_param": _Line | None,
        "babeld_param_add": _Text | None,
        "skip": _Flag | None,
        "up_command": _Command | None,
        "down_command": _Command | None,
        "command_netns": Annotated[
            Literal["target", "current"], Meta(description="target or current")
        ]
        | None,
    },
    Config: {
        "private_key": Annotated[Secret, Meta(description="a key in base64")] | None,
        "private_key_file": _Source | None,
        "peers": _Source,
        "peers_fallback": _Fallback | None,
        "peers_public_key": Annotated[tuple[_Signer, ...], Meta(description=SIGNERS)],
        "name": _Line | None,
        "remarks": Annotated[dict[str, Any], Meta(description="a block")],
        "backend": Annotated[
            Literal["auto", "kernel", "userspace"], Meta(description="auto, kernel or userspace")
        ],
        "journal": Annotated[str, _filled("a path")],
        "journal_keep": _Span | None,
        "max_removals": Annotated[int, _between(0, _MAX_U32, "a whole number")] | None,
        "max_links": Annotated[int, _between(1, _MAX_U32, "a whole number")],
        "command_timeout": Annotated[int, _between(1, 3600, "a number of seconds")],
        "port_range": Annotated[tuple[tuple[int, int], ...], Meta(description=PORT_RANGE)],
    },
}
"""The type of each field that has limits or words, with these."""


class ListedEndpoint(Struct, frozen=True):
    """A PeerEndpoint as a peers list has it, with limits and words."""

    address_family: _Family
    send_port: Annotated[int, _between(1, MAX_PORT, "a port", " (to which the peer sends)")]
    address: _Address = None

"""VRFs and policy routing rules of the namespace that rait runs in (vrf.rst, ip-rule(8)).

What rait makes bears its own protocol number, as routing daemons mark what is theirs: the kernel
then removes no rule or route of anybody else that is the same but for that.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from struct import Struct

from rait.adapters.netlink import rtnl
from rait.adapters.netlink.socket import (
    NETLINK_ROUTE,
    NLM_F_CREATE,
    NLM_F_EXCL,
    MalformedError,
    NetlinkError,
    NetlinkSocket,
    Request,
    attribute,
    attributes,
)
from rait.adapters.netns import Netns, open_netns
from rait.domain.backend import Interface, ObservedVrf, Outcome
from rait.domain.errors import MachineError, RaitError
from rait.domain.events import Event, RuleAdded, RuleRemoved, VrfAdded, VrfRemoved
from rait.domain.topology import Family, Rule
from rait.domain.words import counted

# linux/rtnetlink.h, linux/fib_rules.h
RTM_NEWROUTE = 24
RTM_DELROUTE = 25
RTM_NEWRULE = 32
RTM_DELRULE = 33
RTM_GETRULE = 34
RTA_PRIORITY = 6
RTA_TABLE = 15
RTN_UNREACHABLE = 7
FRA_PRIORITY = 6
FRA_FWMARK = 10
FRA_SUPPRESS_IFGROUP = 13
FRA_SUPPRESS_PREFIXLEN = 14
FRA_TABLE = 15
FRA_FWMASK = 16
FRA_PAD = 18
FRA_PROTOCOL = 21
FR_ACT_TO_TBL = 1

PROTOCOL = 84
"""Marks rules and routes as made by rait; not among those that iproute2's rt_protos names."""

MARK = "made by rait"
"""The description (ifalias) of a VRF that rait made: one that others make has another, or none."""

LAST_METRIC = 4278198272
"""That of the route which ends a VRF's table, as vrf.rst has it: any other route wins over it."""

WHOLE_MASK = 0xFFFFFFFF
ACCEPT = Path("/proc/sys/net/ipv4/udp_l3mdev_accept")

NO_VRF = (
    "this kernel has no VRF: try `modprobe vrf`; it takes a kernel with CONFIG_NET_VRF, which "
    "Debian's linux-image-amd64 is and cloud kernels may not be. Or use netns isolation"
)

_RULE_HEADER = Struct("=BBBBBBBBI")
_ROUTE_HEADER = Struct("=BBBBBBBBI")
_U32 = Struct("=I")
_FAMILIES: dict[Family, int] = {"ip4": socket.AF_INET, "ip6": socket.AF_INET6}
_PLAIN = {FRA_PRIORITY, FRA_FWMARK, FRA_TABLE, FRA_FWMASK, FRA_PAD, FRA_PROTOCOL}
_SUPPRESSING = (FRA_SUPPRESS_IFGROUP, FRA_SUPPRESS_PREFIXLEN)
_PLAIN |= {*_SUPPRESSING}
_NO_FAMILY = (errno.EAFNOSUPPORT, errno.EOPNOTSUPP)
_NO_ROUTE = (errno.ESRCH, errno.ENOENT, *_NO_FAMILY)


class VrfMissingError(MachineError):
    """The kernel has no VRFs at all."""


def vrfs_among(interfaces: Iterable[Interface]) -> dict[str, ObservedVrf]:
    """The VRFs among all the interfaces of a namespace, by name."""
    everything = tuple(interfaces)
    return {
        vrf.name: ObservedVrf(
            vrf.table,
            tuple(sorted(each.name for each in everything if each.master == vrf.name)),
            vrf.alias == MARK,
        )
        for vrf in everything
        if vrf.table is not None
    }


def rules() -> tuple[dict[str, Rule], frozenset[str]]:
    """The rules that look marked packets up in a table, and no more, by name.

    With them come the names of those that rait did not make. Raises MachineError.
    """
    found: dict[str, Rule] = {}
    others: set[str] = set()
    with open_netns("") as here, NetlinkSocket(here, NETLINK_ROUTE) as via:
        for body in via.dump(list_rules()):
            rule = decode_rule(body)
            if rule is not None:
                found[rule.name] = rule
                if not _is_marked(body):
                    others.add(rule.name)
    return found, frozenset(others)


def _is_marked(rule: bytes) -> bool:
    return dict(attributes(rule, _RULE_HEADER.size)).get(FRA_PROTOCOL) == bytes([PROTOCOL])


def mark(names: Iterable[str]) -> None:
    """Mark VRFs as made by rait. Raises MachineError."""
    with open_netns("") as here, NetlinkSocket(here, NETLINK_ROUTE) as via:
        for name in names:
            _perform(via, rtnl.set_alias(name, MARK), (errno.ENODEV,))


def find(name: str) -> tuple[str, int | None] | None:
    """An interface's kind, and its table if it is a VRF; None where there is none of that name.

    Raises MachineError.
    """
    with open_netns("") as here, NetlinkSocket(here, NETLINK_ROUTE) as via:
        try:
            (body,) = via.ask(rtnl.get_link(name))
        except NetlinkError as error:
            if error.code == errno.ENODEV:
                return None
            raise
    _, _, found = rtnl.attributes_of_link(body)
    return rtnl.kind_of(found), rtnl.vrf_table(found)


def require(name: str) -> None:
    """Raise MachineError where a VRF of this name could not be made here, and say why.

    The kernel is asked for one without a table, which it refuses if it knows VRFs at all.
    """
    with open_netns("") as here, NetlinkSocket(here, NETLINK_ROUTE) as via:
        (error,) = via.perform([rtnl.new_vrf(name, None)])
    if error is None:
        raise MachineError(f"the kernel made a VRF {name} without a table; remove it")
    if error.code == errno.EOPNOTSUPP:
        raise VrfMissingError(f"VRF {name} cannot be made: {NO_VRF}")
    if error.code != errno.EINVAL:
        raise MachineError(f"VRF {name} cannot be made: {error}")


def missing(name: str) -> str | None:
    """Why no VRF could be made, if that is because the kernel has none; else None.

    As the question takes CAP_NET_ADMIN, None may also mean that we may not ask.
    """
    try:
        require(name)
    except VrfMissingError as error:
        return str(error)
    except MachineError:
        return None
    return None


def accepts_from_vrfs() -> bool:
    """Whether sockets that are bound to no VRF get what arrives through one.

    The switch is net.ipv4.udp_l3mdev_accept, for IPv6 as well; a kernel without VRFs has none.
    """
    try:
        return ACCEPT.read_text(encoding="ascii").strip() != "0"
    except OSError:
        return True


class VrfBackend:
    """Makes and removes VRFs and rules in the namespace that rait runs in."""

    def apply(self, events: Sequence[Event]) -> Iterator[Outcome]:
        """Carry out the events in order; one outcome each. What is gone already is removed."""
        with open_netns("") as here, NetlinkSocket(here, NETLINK_ROUTE) as via:
            for index, event in enumerate(events):
                try:
                    _carry_out(here, via, event)
                except RaitError as error:
                    yield Outcome(index, f"{_subject(event)}: {error}")
                else:
                    yield Outcome(index)


def _subject(event: Event) -> str:
    return f"VRF {event.name}" if isinstance(event, VrfAdded | VrfRemoved) else f"rule {event.name}"


def _carry_out(here: Netns, via: NetlinkSocket, event: Event) -> None:
    match event:
        case VrfAdded(name, table):
            _make(via, name, table)
        case VrfRemoved(name, table):
            _remove(here, via, name, table)
        case RuleAdded(rule):
            _perform(via, change_rule(RTM_NEWRULE, rule))
        case RuleRemoved(rule):
            _perform(via, change_rule(RTM_DELRULE, rule), (errno.ENOENT,))
        case _:
            raise MachineError(f"{type(event).__name__} is no change of VRFs")


def _make(via: NetlinkSocket, name: str, table: int) -> None:
    """Make and raise a VRF whose table ends in "unreachable": else what it has no route for would
    be looked up in the main table, and leave by the underlay.

    The table comes first, so a VRF that is there is whole, whatever cut its making off.
    """
    ended: list[Family] = []
    try:
        for family in _FAMILIES:
            if _end_table(via, family, table):
                ended.append(family)  # noqa: PERF401 - known even if the next one fails
        _make_marked(via, name, table)
    except MachineError:
        for family in ended:
            _perform(via, change_last_route(RTM_DELROUTE, family, table), _NO_ROUTE)
        raise


def _make_marked(via: NetlinkSocket, name: str, table: int) -> None:
    """The kernel takes no description for a link that is being made: it comes right after."""
    (error,) = via.perform([rtnl.new_vrf(name, table)])
    if error is not None:
        raise MachineError(NO_VRF) if error.code == errno.EOPNOTSUPP else error
    try:
        _perform(via, rtnl.set_alias(name, MARK))
    except MachineError:
        _perform(via, rtnl.delete_link(name), (errno.ENODEV,))
        raise


def _end_table(via: NetlinkSocket, family: Family, table: int) -> bool:
    """Add the route that ends a table; whether there was none, and the kernel has the family."""
    (error,) = via.perform([change_last_route(RTM_NEWROUTE, family, table)])
    if error is None:
        return True
    if error.code == errno.EEXIST or (family == "ip6" and error.code in _NO_FAMILY):
        return False
    raise error


def _remove(here: Netns, via: NetlinkSocket, name: str, table: int) -> None:
    interfaces = rtnl.interfaces(here)
    vrf = vrfs_among(interfaces.values()).get(name)
    if vrf is not None and vrf.table == table:
        if vrf.members:
            raise MachineError(f"it stays, as interfaces are in it: {', '.join(vrf.members)}")
        _perform(via, rtnl.delete_link(interfaces[name].index), (errno.ENODEV,))
    for family in _FAMILIES:
        request = change_last_route(RTM_DELROUTE, family, table)
        _perform(via, request, _NO_ROUTE)


def _perform(via: NetlinkSocket, request: Request, ignored: Sequence[int] = ()) -> None:
    (error,) = via.perform([request])
    if error is not None and error.code not in ignored:
        raise error


def list_rules() -> Request:
    """A dump of the rules of all address families."""
    return Request(RTM_GETRULE, 0, _rule_header(socket.AF_UNSPEC))


def change_rule(kind: int, rule: Rule) -> Request:
    """Add or delete a rule (``kind`` is RTM_NEWRULE or RTM_DELRULE)."""
    table = rule.table if rule.table < 256 else 0
    body = _rule_header(_FAMILIES[rule.family], table, FR_ACT_TO_TBL) + b"".join(
        (
            attribute(FRA_PRIORITY, _U32.pack(rule.priority)),
            attribute(FRA_FWMARK, _U32.pack(rule.fwmark)),
            attribute(FRA_FWMASK, _U32.pack(WHOLE_MASK)),
            attribute(FRA_TABLE, _U32.pack(rule.table)),
            attribute(FRA_PROTOCOL, bytes([PROTOCOL])),
        )
    )
    return Request(kind, NLM_F_CREATE | NLM_F_EXCL if kind == RTM_NEWRULE else 0, body)


def decode_rule(body: bytes) -> Rule | None:
    """A rule of the kind that rait makes, whoever made it, or None for any other.

    Raises MalformedError where lengths do not add up.
    """
    if len(body) < _RULE_HEADER.size:
        raise MalformedError(f"rtnetlink rule message with a body of {counted(len(body), 'byte')}")
    family, dst, src, tos, table, _, _, action, flags = _RULE_HEADER.unpack_from(body)
    found = dict(attributes(body, _RULE_HEADER.size))
    families = [name for name, number in _FAMILIES.items() if number == family]
    # Of the flags, FIB_RULE_INVERT is the only one that a rule can have that was added.
    if not families or dst or src or tos or flags or action != FR_ACT_TO_TBL:
        return None
    if not found.keys() <= _PLAIN or _u32(found, FRA_FWMASK, 0) != WHOLE_MASK:
        return None
    if any(_u32(found, kind, WHOLE_MASK) != WHOLE_MASK for kind in _SUPPRESSING):
        return None
    return Rule(
        families[0],
        _u32(found, FRA_FWMARK, 0),
        _u32(found, FRA_TABLE, table),
        _u32(found, FRA_PRIORITY, 0),
    )


def change_last_route(kind: int, family: Family, table: int) -> Request:
    """Add or delete the route that ends a table (RTM_NEWROUTE or RTM_DELROUTE)."""
    small = table if table < 256 else 0
    header = _ROUTE_HEADER.pack(_FAMILIES[family], 0, 0, 0, small, PROTOCOL, 0, RTN_UNREACHABLE, 0)
    body = (
        header
        + attribute(RTA_TABLE, _U32.pack(table))
        + attribute(RTA_PRIORITY, _U32.pack(LAST_METRIC))
    )
    return Request(kind, NLM_F_CREATE | NLM_F_EXCL if kind == RTM_NEWROUTE else 0, body)


def _rule_header(family: int, table: int = 0, action: int = 0) -> bytes:
    return _RULE_HEADER.pack(family, 0, 0, 0, table, 0, 0, action, 0)


def _u32(found: dict[int, bytes], kind: int, default: int) -> int:
    data = found.get(kind)
    if data is None:
        return default
    if len(data) != _U32.size:
        raise MalformedError(f"rtnetlink rule attribute {kind} of {counted(len(data), 'byte')}")
    number: int = _U32.unpack(data)[0]
    return number

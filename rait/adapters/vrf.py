"""VRFs and policy routing rules of the namespace that rait runs in (vrf.rst, ip-rule(8)).

Rules and routes of rait have a protocol number of their own, as those of routing daemons have: so a
request to delete one never deletes another's that is equal but for this number.

Every run of a node with a transit VRF reads the rules, so the lean codec does that. Changes are
rare, so pyroute2 makes them; it is imported for a change only, as its import takes longer than a
whole run with nothing to do.
"""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from struct import Struct
from typing import TYPE_CHECKING

from rait.adapters.netlink import rtnl
from rait.adapters.netlink.socket import (
    NETLINK_ROUTE,
    MalformedError,
    NetlinkError,
    NetlinkSocket,
    Request,
    attributes,
    number_in,
)
from rait.adapters.netns import open_netns
from rait.domain.backend import Outcome
from rait.domain.errors import MachineError, RaitError, VrfMissingError, counted
from rait.domain.events import Event, RuleAdded, RuleRemoved, VrfAdded, VrfRemoved
from rait.domain.topology import Family, Rule
from rait.domain.vrf import ACCEPT, FAMILIES, VRF_MARK, vrfs_among

if TYPE_CHECKING:
    from pyroute2 import IPRoute

# linux/rtnetlink.h, linux/fib_rules.h
RTM_GETRULE = 34
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
"""The protocol number of rait's rules and routes; no other program has it in iproute2's list."""

LAST_METRIC = 4278198272
"""The metric of the route that ends a VRF's table (vrf.rst): any other route goes before it."""

WHOLE_MASK = 0xFFFFFFFF

NO_VRF = (
    "this kernel has no VRF: try `modprobe vrf`. VRFs take a kernel with CONFIG_NET_VRF, which "
    "Debian's linux-image-amd64 has and cloud kernels may lack. Or use netns isolation"
)

_RULE_HEADER = Struct("=BBBBBBBBI")
_FAMILIES: Mapping[Family, int] = {"ip4": socket.AF_INET, "ip6": socket.AF_INET6}
_SUPPRESSING = (FRA_SUPPRESS_IFGROUP, FRA_SUPPRESS_PREFIXLEN)
_PLAIN = {FRA_PRIORITY, FRA_FWMARK, FRA_TABLE, FRA_FWMASK, FRA_PAD, FRA_PROTOCOL, *_SUPPRESSING}
_NO_FAMILY = (errno.EAFNOSUPPORT, errno.EOPNOTSUPP)
_NO_ROUTE = (errno.ESRCH, errno.ENOENT, *_NO_FAMILY)


def rules() -> tuple[dict[str, Rule], frozenset[str]]:
    """The rules that only look marked packets up in a table, by name; the names of others' rules.

    Those rules of the first that rait did not make are named in the second. Raises MachineError.
    """
    found: dict[str, Rule] = {}
    others: set[str] = set()
    with open_netns("") as here, NetlinkSocket(here, NETLINK_ROUTE) as via:
        for body in via.dump(Request(RTM_GETRULE, 0, bytes(_RULE_HEADER.size))):
            rule = decode_rule(body)
            if rule is not None:
                found[rule.name] = rule
                if not _is_marked(body):
                    others.add(rule.name)
    return found, frozenset(others)


def decode_rule(body: bytes) -> Rule | None:
    """A rule that only looks marked packets up in a table, whoever made it; None for any other.

    Raises MalformedError where lengths do not add up.
    """
    if len(body) < _RULE_HEADER.size:
        raise MalformedError(f"a rule has a body of {counted(len(body), 'byte')}")
    family, dst, src, tos, table, _, _, action, flags = _RULE_HEADER.unpack_from(body)
    found = dict(attributes(body, _RULE_HEADER.size))
    families = [name for name, number in _FAMILIES.items() if number == family]
    # The flags of a rule that was added can only be FIB_RULE_INVERT.
    if not families or dst or src or tos or flags or action != FR_ACT_TO_TBL:
        return None
    if not found.keys() <= _PLAIN or number_in(found, FRA_FWMASK, 0) != WHOLE_MASK:
        return None
    if any(number_in(found, kind, WHOLE_MASK) != WHOLE_MASK for kind in _SUPPRESSING):
        return None
    return Rule(
        families[0],
        number_in(found, FRA_FWMARK, 0),
        number_in(found, FRA_TABLE, table),
        number_in(found, FRA_PRIORITY, 0),
    )


def _is_marked(rule: bytes) -> bool:
    return dict(attributes(rule, _RULE_HEADER.size)).get(FRA_PROTOCOL) == bytes([PROTOCOL])


def find(name: str) -> rtnl.FoundInterface | None:
    """An interface of the namespace that rait runs in, or None. Raises MachineError."""
    with open_netns("") as here, NetlinkSocket(here, NETLINK_ROUTE) as via:
        return rtnl.find(via, name)


def accepts_from_vrfs() -> bool:
    """Whether sockets that are bound to no VRF get packets that arrive through one.

    A kernel without VRFs has no such switch; then the answer is yes.
    """
    try:
        with open(f"/proc/sys/{ACCEPT.replace('.', '/')}", encoding="ascii") as switch:
            return switch.read().strip() != "0"
    except OSError:
        return True


def require(name: str) -> None:
    """Raise MachineError, with the reason, where a VRF of this name cannot be made.

    If the kernel has no VRFs at all, that is VrfMissingError. To find out, rait asks the kernel for
    a VRF without a table, which a kernel with VRFs refuses (EINVAL). That takes CAP_NET_ADMIN.
    """
    try:
        with _changes() as route:
            _add_vrf(route, name)
    except VrfMissingError as error:
        raise VrfMissingError(f"VRF {name} cannot be made: {error}") from error
    except NetlinkError as error:
        if error.code != errno.EINVAL:
            raise MachineError(f"VRF {name} cannot be made: {error}") from error
    else:
        raise MachineError(f"the kernel made VRF {name} without a table; delete it")


def mark(names: Iterable[str]) -> None:
    """Mark VRFs as made by rait. Raises MachineError."""
    with _changes() as route:
        for name in names:
            _mark(route, name, errno.ENODEV)


def apply(events: Sequence[Event]) -> list[Outcome]:
    """Make and remove VRFs and rules, in order, and give one outcome for each event.

    Removing what is gone already is no error. Raises MachineError where the kernel cannot be
    reached at all.
    """
    outcomes = []
    with _changes() as route:
        for index, event in enumerate(events):
            try:
                _carry_out(route, event)
            except RaitError as error:
                what = "VRF" if isinstance(event, VrfAdded | VrfRemoved) else "rule"
                outcomes.append(Outcome(index, f"{what} {event.name}: {error}"))
            else:
                outcomes.append(Outcome(index))
    return outcomes


@contextmanager
def _changes() -> Iterator[IPRoute]:
    """A socket of pyroute2 in the namespace that rait runs in. Raises MachineError.

    pyroute2 runs its asyncio loop in this thread for the time of a request. It would start a thread
    or process for another namespace, but starts none for this one. Signals wait: an exception that
    a signal's handler raises within asyncio may be lost there, and the request that it interrupts
    may wait for ever.
    """
    from pyroute2 import IPRoute

    from rait.adapters import signals

    with signals.held(), _refusals(), IPRoute(ext_ack=True) as route:
        yield route


@contextmanager
def _refusals(*ignored: int) -> Iterator[None]:
    """Turn an error of pyroute2 into NetlinkError, unless its errno is ignored."""
    import pyroute2

    try:
        yield
    except pyroute2.NetlinkError as error:
        code, text = error.args
        if code not in ignored:
            raise NetlinkError(code, "" if text == os.strerror(code) else text) from error
    except OSError as error:
        raise NetlinkError(error.errno or 0, "pyroute2 could not talk to the kernel") from error


def _carry_out(route: IPRoute, event: Event) -> None:
    match event:
        case VrfAdded(name, table):
            _make(route, name, table)
        case VrfRemoved(name, table):
            _remove(route, name, table)
        case RuleAdded(rule):
            with _refusals():
                route.rule("add", **_rule_fields(rule))
        case RuleRemoved(rule):
            with _refusals(errno.ENOENT):
                route.rule("del", **_rule_fields(rule))
        case _:
            raise MachineError(f"{type(event).__name__} is no change of VRFs")


def _make(route: IPRoute, name: str, table: int) -> None:
    """Make and raise a VRF, with a last route "unreachable" in its table.

    Without that route, packets with no route in the table would be looked up in the main table, and
    leave by the underlay. The route comes first, so that a VRF never exists without it, whatever
    interrupts rait. The mark comes last, as the kernel takes no alias for an interface that it is
    about to make.
    """
    with ExitStack() as undo:
        for family in FAMILIES:
            if _end_table(route, family, table):
                undo.callback(_reopen_table, route, family, table)
        _add_vrf(route, name, vrf_table=table)
        undo.callback(_delete_link, route, ifname=name)
        _mark(route, name)
        undo.pop_all()


def _add_vrf(route: IPRoute, name: str, **table: int) -> None:
    try:
        with _refusals():
            route.link("add", ifname=name, kind="vrf", state="up", **table)
    except NetlinkError as error:
        if error.code == errno.EOPNOTSUPP:
            raise VrfMissingError(NO_VRF) from error
        raise


def _mark(route: IPRoute, name: str, *ignored: int) -> None:
    with _refusals(*ignored):
        route.link("set", ifname=name, ifalias=VRF_MARK)


def _delete_link(route: IPRoute, **which: int | str) -> None:
    with _refusals(errno.ENODEV):
        route.link("del", **which)


def _remove(route: IPRoute, name: str, table: int) -> None:
    with open_netns("") as here:
        interfaces = rtnl.interfaces(here)
    vrf = vrfs_among(interfaces.values()).get(name)
    if vrf is not None and vrf.table == table:
        if vrf.members:
            raise MachineError(f"it stays, as it has interfaces: {', '.join(vrf.members)}")
        _delete_link(route, index=interfaces[name].index)
    for family in FAMILIES:
        _reopen_table(route, family, table)


def _end_table(route: IPRoute, family: Family, table: int) -> bool:
    """Add the route that ends a table. False if it is there, or the kernel has no IPv6."""
    try:
        with _refusals():
            route.route("add", **_last_route_fields(family, table))
    except NetlinkError as error:
        if error.code == errno.EEXIST or (family == "ip6" and error.code in _NO_FAMILY):
            return False
        raise
    return True


def _reopen_table(route: IPRoute, family: Family, table: int) -> None:
    with _refusals(*_NO_ROUTE):
        route.route("del", **_last_route_fields(family, table))


def _rule_fields(rule: Rule) -> dict[str, int]:
    return {
        "family": _FAMILIES[rule.family],
        "priority": rule.priority,
        "fwmark": rule.fwmark,
        "fwmask": WHOLE_MASK,
        "table": rule.table,
        "action": FR_ACT_TO_TBL,
        "protocol": PROTOCOL,
    }


def _last_route_fields(family: Family, table: int) -> dict[str, int | str]:
    return {
        "family": _FAMILIES[family],
        "table": table,
        "priority": LAST_METRIC,
        "type": "unreachable",
        "proto": PROTOCOL,
    }

"""VRFs and policy routing rules of the namespace that rait runs in (vrf.rst, ip-rule(8)).

What rait makes bears its own protocol number, as routing daemons mark what is theirs: the kernel
then removes no rule or route of anybody else that is the same but for that.

Every run of a node with a transit VRF reads rules, so that is done with the lean codec. Changes are
rare: pyroute2 makes them, and is loaded when there are some, as loading it takes longer than a run
with nothing to do.
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
"""Marks rules and routes as made by rait; not among those that iproute2's rt_protos names."""

LAST_METRIC = 4278198272
"""That of the route which ends a VRF's table, as vrf.rst has it: any other route wins over it."""

WHOLE_MASK = 0xFFFFFFFF

NO_VRF = (
    "this kernel has no VRF: try `modprobe vrf`; it takes a kernel with CONFIG_NET_VRF, which "
    "Debian's linux-image-amd64 is and cloud kernels may not be. Or use netns isolation"
)

_RULE_HEADER = Struct("=BBBBBBBBI")
_FAMILIES: Mapping[Family, int] = {"ip4": socket.AF_INET, "ip6": socket.AF_INET6}
_SUPPRESSING = (FRA_SUPPRESS_IFGROUP, FRA_SUPPRESS_PREFIXLEN)
_PLAIN = {FRA_PRIORITY, FRA_FWMARK, FRA_TABLE, FRA_FWMASK, FRA_PAD, FRA_PROTOCOL, *_SUPPRESSING}
_NO_FAMILY = (errno.EAFNOSUPPORT, errno.EOPNOTSUPP)
_NO_ROUTE = (errno.ESRCH, errno.ENOENT, *_NO_FAMILY)


def rules() -> tuple[dict[str, Rule], frozenset[str]]:
    """The rules that look marked packets up in a table, and no more, by name.

    With them come the names of those that rait did not make. Raises MachineError.
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


def accepts_from_vrfs() -> bool:
    """Whether sockets that are bound to no VRF get what arrives through one.

    A kernel without VRFs has no such switch.
    """
    try:
        with open(f"/proc/sys/{ACCEPT.replace('.', '/')}", encoding="ascii") as switch:
            return switch.read().strip() != "0"
    except OSError:
        return True


@contextmanager
def _signals_held() -> Iterator[None]:
    """Let what would end rait wait for the end of the block, which is short.

    What a signal's handler raises within asyncio may be swallowed there, and the request that it
    interrupts may wait for ever. Handlers run in the main thread alone.
    """
    import signal
    import threading

    came: list[int] = []
    handlers = {}
    if threading.current_thread() is threading.main_thread():
        for number in (signal.SIGINT, signal.SIGTERM):
            if callable(handler := signal.getsignal(number)):
                handlers[number] = handler
                signal.signal(number, lambda which, _: came.append(which))
    try:
        yield
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)
        for which in came:
            signal.raise_signal(which)


@_signals_held()
def require(name: str) -> None:
    """Raise MachineError where a VRF of this name could not be made here, and say why.

    It is VrfMissingError where the kernel has no VRFs. To find out, the kernel is asked for one
    without a table, which it refuses if it has VRFs; who lacks CAP_NET_ADMIN may not ask.
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
        raise MachineError(f"the kernel made a VRF {name} without a table; remove it")


@_signals_held()
def mark(names: Iterable[str]) -> None:
    """Mark VRFs as made by rait. Raises MachineError."""
    with _changes() as route:
        for name in names:
            _mark(route, name, errno.ENODEV)


@_signals_held()
def apply(events: Sequence[Event]) -> list[Outcome]:
    """Make and remove VRFs and rules, in order; one outcome each. What is gone is removed.

    Raises MachineError where the kernel cannot be talked to at all.
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
    """A socket of pyroute2's in the namespace that rait runs in.

    Its asyncio loop runs in this thread, while a request lasts. It starts neither thread nor
    process, as it would if it were given a namespace. Raises MachineError.
    """
    from pyroute2 import IPRoute

    with _refusals(), IPRoute(ext_ack=True) as route:
        yield route


@contextmanager
def _refusals(*ignored: int) -> Iterator[None]:
    """Raise what pyroute2 raises as NetlinkError, but for these codes of errno."""
    import pyroute2

    try:
        yield
    except pyroute2.NetlinkError as error:
        code, said = error.args
        if code not in ignored:
            raise NetlinkError(code, "" if said == os.strerror(code) else said) from error
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
    """Make and raise a VRF whose table ends in "unreachable": else what it has no route for would
    be looked up in the main table, and leave by the underlay.

    The table comes first, so a VRF that is there is whole, whatever cut its making off. The kernel
    takes no description for a link that is being made: that comes right after.
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
            raise MachineError(f"it stays, as interfaces are in it: {', '.join(vrf.members)}")
        _delete_link(route, index=interfaces[name].index)
    for family in FAMILIES:
        _reopen_table(route, family, table)


def _end_table(route: IPRoute, family: Family, table: int) -> bool:
    """Add the route that ends a table; whether there was none, and the kernel has the family."""
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

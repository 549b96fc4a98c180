"""Which interfaces of a namespace were touched, by whomever: the kernel tells, by rtnetlink(7).

pyroute2 reads what the kernel tells. It would start a process to make a socket in another
namespace, so rait makes the socket; and of each message it decodes all, which takes 0.15 ms, so
rait takes out what it needs: on a host of containers, thousands of messages are of no interest.
"""

from __future__ import annotations

import select
import socket
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from functools import partial
from typing import Any, Literal

import anyio
from msgspec import Struct
from pyroute2 import IPRSocket

from rait.adapters import netns
from rait.adapters.closing import Closing
from rait.adapters.file_changes import FileChanges, taken
from rait.adapters.netlink import rtnl
from rait.adapters.netlink.socket import HEADER_SIZE, NETLINK_ROUTE, enlarge_buffers
from rait.adapters.netns import Netns
from rait.domain.errors import MachineError

# linux/rtnetlink.h
_RTMGRP_LINK, _RTMGRP_IPV4_IFADDR, _RTMGRP_IPV6_IFADDR = 0x1, 0x10, 0x100
_GROUPS = _RTMGRP_LINK | _RTMGRP_IPV4_IFADDR | _RTMGRP_IPV6_IFADDR
_MOST_AT_ONCE = 256
"""So many datagrams are read before others have their turn."""
_AGAIN = 2.0
"""So many seconds later rait looks again for a namespace that cannot be watched for."""


class Touch(Struct, frozen=True):
    """An interface was deleted or changed (made, too), or an address of it came or went."""

    kind: Literal["deleted", "changed", "address"]
    name: str
    index: int


Touches = tuple[Touch, ...] | None
"""In the order in which they happened. None: whatever there is may have been touched."""


class LinkChanges(Closing):
    """Tells which interfaces were touched in the namespace of a spelling. One thread may use it.

    Which namespace has the spelling may change at any time, and so may whether there is any.
    """

    def __init__(self, spec: str) -> None:
        """Raises MachineError for what cannot be a name, and where the kernel refuses to watch."""
        self._spec = spec
        self._names: frozenset[str] | None = None
        self._interfaces: dict[int, str] = {}
        self._identity = ""
        self._monitor: Any = None
        self._listening = ExitStack()
        with ExitStack() as opened:
            self._places = opened.enter_context(FileChanges())
            if spec and not netns.is_pid(spec):
                self._places.watch([netns.path_of(spec)])
            self._ready = opened.enter_context(select.epoll())
            self._ready.register(self._places, select.EPOLLIN)
            self._opened = opened.pop_all()
        self._follow()

    def close(self) -> None:
        self._leave()
        self._opened.close()

    def watch(self, names: Iterable[str]) -> None:
        """Tell from now on of interfaces of these names only. Until the first call, all count."""
        self._names = frozenset(names)

    async def changed(self) -> Touches:
        """Wait until interfaces were touched. None means that any may have been.

        So it is after messages were lost for want of room (netlink(7)), and when the spelling got
        another namespace, or lost it.
        """
        while True:
            with anyio.move_on_after(None if self._is_told else _AGAIN):
                return await taken(self._ready, self.take, ())

    def take(self) -> Touches:
        """What was touched since the last call, as ``changed`` gives it, or ()."""
        if (self._places.take() or not self._is_told) and self._follow():
            return None
        if self._monitor is None:
            return ()
        touches: list[Touch] = []
        try:
            for _ in range(_MOST_AT_ONCE):
                touches += (touch for each in self._monitor.get() for touch in each["touches"])
        except BlockingIOError:
            pass
        except (OSError, MachineError):
            # After lost messages there has to be another socket, as the manual of pyroute2 has it.
            self._leave()
            self._follow()
            return None
        return tuple(dict.fromkeys(touches))

    @property
    def _is_told(self) -> bool:
        """Whether something wakes us up when the spelling gets another namespace."""
        return self._monitor is not None and not netns.is_pid(self._spec)

    def _follow(self) -> bool:
        """Listen in the namespace that has the spelling now, and tell whether it is another one."""
        before = self._identity
        try:
            with netns.find_netns(self._spec) or netns.gone(self._spec) as ns:
                if ns.identity != before:
                    self._leave()
                    if ns.is_open:
                        self._enter(ns)
        except (OSError, MachineError):  # which a sync meets as well, and tells
            self._leave()
        return self._identity != before

    def _enter(self, ns: Netns) -> None:
        own = netns.socket_in(ns, socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_ROUTE)
        self._listening.enter_context(own)
        self._monitor = IPRSocket(use_socket=own)
        own.setblocking(False)
        enlarge_buffers(own)
        own.bind((0, _GROUPS))
        self._monitor.marshal.get_parser = lambda kind, *_: partial(self._parse, kind)
        self._interfaces = {each.index: name for name, each in rtnl.interfaces(ns).items()}
        self._ready.register(own, select.EPOLLIN)
        self._identity = ns.identity

    def _leave(self) -> None:
        """Close our socket, without which a namespace may end that nobody else has open."""
        self._listening.close()
        self._monitor, self._identity = None, ""

    def _parse(self, kind: int, data: bytes, offset: int, length: int) -> dict[str, Any] | None:
        """A message for pyroute2's reader; None for one that is of no interest."""
        body = data[offset + HEADER_SIZE : offset + length]
        touches = [
            t for t in self._touches(kind, body) if self._names is None or t.name in self._names
        ]
        return {"header": {"type": kind}, "touches": touches} if touches else None

    def _touches(self, kind: int, body: bytes) -> Iterator[Touch]:
        if kind in (rtnl.RTM_NEWADDR, rtnl.RTM_DELADDR):
            index, _ = rtnl.decode_address(body)
            if (name := self._interfaces.get(index)) is not None:
                yield Touch("address", name, index)
        # Of another family than 0 is what a bridge says of its ports.
        elif kind in (rtnl.RTM_NEWLINK, rtnl.RTM_DELLINK) and body[:1] == b"\0":
            index, name = rtnl.decode_name(body)
            before = self._interfaces.pop(index, name)
            if kind == rtnl.RTM_DELLINK or before != name:
                yield Touch("deleted", before, index)
            if kind == rtnl.RTM_NEWLINK:
                self._interfaces[index] = name
                yield Touch("changed", name, index)

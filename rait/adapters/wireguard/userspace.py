"""Links of WireGuard programs in userspace, for machines whose kernel has no WireGuard.

A program is started in the transit namespace, where its UDP socket stays; then its tun is moved to
the target namespace. wireguard-go notices a new mtu in its own namespace alone, so the mtu is set
before the move. One that changes later costs at most 15 bytes of padding in each packet.

Interfaces in two namespaces may share a name, but the whole machine shares the directory of the
programs' sockets: so two nodes on one machine need different ifprefixes.

A run that is killed may leave a link half made, which a later run finds and removes.
"""

from __future__ import annotations

import errno
import socket
import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from contextlib import nullcontext, suppress
from functools import partial
from typing import TYPE_CHECKING

from msgspec import structs

from rait.adapters.closing import on_error
from rait.adapters.keys import KeyPair
from rait.adapters.netlink import rtnl
from rait.adapters.netlink.socket import NetlinkError
from rait.adapters.netns import Namespaces, Netns, describe, entered, reason
from rait.adapters.wireguard import process as programs
from rait.adapters.wireguard import uapi
from rait.adapters.wireguard.sockets import (
    TUN,
    Sockets,
    check_is_for,
    first_update,
    name_is_taken,
    perform,
    port_is_taken,
    update_settings,
)
from rait.domain.backend import Interface, ObservedLink, UnreadLink, observed
from rait.domain.errors import MachineError, RaitError
from rait.domain.events import (
    DeviceUpdated,
    Event,
    LinkAdded,
    LinkRemoved,
    LinkUpdated,
    PeerEvent,
    PeerUpdated,
)
from rait.domain.topology import Endpoint, Link, LinkPeer, Origin

if TYPE_CHECKING:
    from rait.adapters.wireguard.ports import KeptPorts
    from rait.domain.writes import DeviceWrite

_AT_ONCE = 64
"""The number of programs that start at a time."""

_ENDING_SECONDS = 3.0
"""The time that a program has to end after it hung up in the middle of an answer, and that a tun
has to go after its program ended."""

_LEFTOVER_SECONDS = programs.START_SECONDS
"""The time that a program of a killed run has to answer: as long as one that we start."""

_POLL_SECONDS = 0.02

_Task = Generator[None, None, None]
"""Does a first part, yields until all others have done theirs, and goes on with the next part.

If the task is closed at a yield, it takes back what was begun. It raises RaitError or OSError.
"""


class UserspaceBackend:
    """Links of userspace programs with one key pair, whose UDP sockets are in ``transit``."""

    def __init__(self, transit: Sockets, key: KeyPair) -> None:
        self._transit = transit
        self._key = key
        self._made_as: dict[str, str] = {}

    def observe(
        self, via: Sockets, interfaces: Mapping[str, Interface]
    ) -> tuple[dict[str, ObservedLink], dict[str, UnreadLink]]:
        """See Backend. Raises MachineError if there is no way to look at any link.

        A tun is a WireGuard link if the program that holds it answers on the tun's socket, and is
        none if nobody listens there.
        """
        found: dict[str, ObservedLink] = {}
        unread: dict[str, UnreadLink] = {}
        for tun in interfaces.values():
            if tun.kind != TUN:
                continue
            try:
                link = self._link_of(tun, via.ns, tun.name)
            except (OSError, uapi.UapiError) as error:
                unread[tun.name] = UnreadLink(via.ns.spec, tun.group, _why_unread(tun, error))
            else:
                if link is not None:
                    found[tun.name] = link
        return found, unread

    def trace(self, link: Link, namespaces: Namespaces) -> ObservedLink | None:
        """A link that somebody moved or renamed, as it is now; None if it is gone or not ours.

        The link's program, which still listens under the name that the link was made with, leads
        to its tun. Raises OSError or RaitError where rait cannot tell.
        """
        for home, name in programs.tuns_served(link.name, link.origin.netns):
            ns = namespaces.keep(home)
            tun = rtnl.interfaces(ns).get(name)
            seen = None if tun is None else self._link_of(tun, ns, link.name)
            ours = ("", link.device.public_key, self._key.public)
            if seen is not None and seen.link.device.public_key in ours:
                self._made_as[name] = link.name
                return seen
        return None

    def home_of(self, link: Link) -> Netns | None:
        """The namespace of a link's tun, opened; None if unknown.

        The program that serves the link shows the way, as it keeps its tun open in whatever
        namespace the tun was moved to.
        """
        try:
            served = programs.tuns_served(link.name, link.origin.netns)
            return next((home for home, _ in served), None)
        except (OSError, uapi.UapiError):
            return None

    def sign_of_life(self, link: Link) -> str:
        """See Backend: a program that serves the link."""
        try:
            with uapi.Client(link.name) as client:
                return f"process {client.pid} still serves it"
        except uapi.NOBODY:
            return ""
        except (OSError, uapi.UapiError) as error:
            return str(error)

    def _link_of(self, tun: Interface, ns: Netns, made_as: str) -> ObservedLink | None:
        """The link of a tun; None if the tun is no WireGuard link.

        ``made_as`` is the name that the link was made with. Raises OSError or UapiError where rait
        cannot tell.
        """
        try:
            client = uapi.Client(made_as)
        except uapi.NOBODY:
            return None
        with client:
            held = programs.hold_owner(tun.name, client.pid, lambda o: o.is_home_in(ns))
            if held is None:
                return None
            with held:
                try:
                    state = client.get(self._key)
                except uapi.UapiError as error:
                    if held.ended(_ENDING_SECONDS):
                        return None
                    raise uapi.UapiError(
                        f"{error}; process {held.pid} serves it: let that process go on "
                        f"(`kill -CONT {held.pid}`), or end it (`kill -KILL {held.pid}`)"
                    ) from None
                transit = held.transit()
        if transit == self._transit.ns.identity:
            state = structs.replace(state, peers=tuple(map(self._numbered, state.peers)))
        origin = Origin("userspace", ns.spec, transit, ns.instance)
        return observed(tun, origin, state, renamed=made_as != tun.name)

    def _numbered(self, peer: LinkPeer) -> LinkPeer:
        """A peer with its endpoint's zone as the number of an interface, as the kernel has it."""
        address, _, zone = peer.endpoint.address.partition("%") if peer.endpoint else ("", "", "")
        if peer.endpoint is None or not zone or zone.isdecimal():
            return peer
        try:
            with entered(self._transit.ns.fd):
                index = socket.if_nametoindex(zone)
        except OSError:  # the interface is gone
            return peer
        endpoint = Endpoint(f"{address}%{index}", peer.endpoint.port)
        return structs.replace(peer, endpoint=endpoint)

    def apply(self, via: Sockets | None, events: Sequence[Event]) -> Iterator[str | None]:
        """See Backend. Programs of new links start together, those of old links end together."""
        if via is None or isinstance(events[0], LinkRemoved):
            names = [(event.name, self._made_as.get(event.name, event.name)) for event in events]
            yield from _side_by_side([_removal(name, made_as, via) for name, made_as in names])
        elif isinstance(events[0], LinkUpdated):
            updates = [event for event in events if isinstance(event, LinkUpdated)]
            errors = update_settings(via, TUN, updates)
            yield from (str(errors[e.name]) if e.name in errors else None for e in events)
        elif isinstance(events[0], LinkAdded):
            links = [event.link for event in events if isinstance(event, LinkAdded)]
            for start in range(0, len(links), _AT_ONCE):
                some = links[start : start + _AT_ONCE]
                yield from self._additions(some, via)
        else:
            writes = [e for e in events if isinstance(e, DeviceUpdated | PeerEvent)]
            yield from (_failure(partial(self._write, event)) for event in writes)

    def may_be_leftover(self, name: str) -> bool:
        """Whether a killed run left, or may have left, a half-made link of this name."""
        try:
            process = self._leftover(name)
        except RaitError:
            return True
        with process or nullcontext():
            return process is not None

    def end_leftover(self, name: str) -> bool:
        """Remove the half-made link of this name, and say whether there was one.

        Raises RaitError if its program does not end, or where rait cannot tell.
        """
        process = self._leftover(name)
        if process is None:
            return False
        with process:
            programs.end(name, process)
        return True

    def _leftover(self, name: str) -> programs.Process | None:
        """The process of a link that a killed run left half made in the transit namespace, or None.

        A program and its tun are such a link if both are in that namespace, the tun is in no group
        yet, and the device has our key or none. (A link whose tun is in the target namespace is not
        for this function: ``observe`` sees it.)

        If the run was killed right after it started the program, the program does not answer yet.
        So while a process holds the tun, this waits for its answer. A tun that no process holds is
        none of a program's, as those go with the program.

        The caller closes the process. Raises RaitError where rait cannot tell.
        """
        deadline = time.monotonic() + _LEFTOVER_SECONDS
        while True:
            public_key, pid = _key_and_process(name, self._key)
            if public_key not in (None, "", self._key.public):
                return None
            process = _holder(name, self._transit, pid)
            if process is None or public_key is not None:
                return process
            process.close()
            if time.monotonic() > deadline:
                return None
            time.sleep(_POLL_SECONDS)

    def _write(self, event: DeviceUpdated | PeerEvent) -> None:
        """Have the link's program write what an event changes. Raises RaitError."""
        from rait.domain.writes import NOTHING, write_of

        write = write_of(event, self._key.psks)
        secret = self._key.secret_of(write.public_key)
        with _client(event.name) as client:
            if isinstance(event, PeerUpdated):
                # A program ignores an update of a peer that it does not have, without an error.
                known = {peer.public_key for peer in client.get(self._key).peers}
                if event.before.public_key not in known:
                    raise RaitError(f"it has no peer {event.before.public_key}")
            rest = structs.replace(write, listen_port=None)
            if rest != NOTHING:
                client.set(rest, secret)
            if write.listen_port is not None:
                self._change_port(client, write.listen_port)

    def _change_port(self, client: uapi.Client, port: int) -> None:
        # Not the event's old port, which is 0 if the program chose the port.
        old = client.get(self._key).device.listen_port
        try:
            self._set_port(client, port)
        except RaitError:
            # The program closed its old socket before it failed to open the new one.
            with suppress(RaitError):
                client.listen_on(old)
            raise

    def _set_port(self, client: uapi.Client, port: int) -> None:
        """Have a program listen on a port, 0 for any. Raises RaitError if the port is taken."""
        try:
            client.listen_on(port)
        except uapi.RefusedError as error:
            if error.errno != errno.EADDRINUSE:
                raise
            raise RaitError(port_is_taken(port, self._transit.ns)) from error

    def _additions(self, links: Sequence[Link], target: Sockets) -> Iterator[str | None]:
        from rait.adapters.wireguard.ports import KeptPorts

        with KeptPorts(self._transit.ns, (link.device.listen_port for link in links)) as kept:
            beside = len(links) - 1
            tasks = [self._addition(link, target, kept, beside) for link in links]
            yield from _side_by_side(tasks, parts=3)

    def _addition(self, link: Link, target: Sockets, kept: KeptPorts, beside: int) -> _Task:
        """Start the program of a new link; make the link of what it brings; let it have its port.

        No port is let go before each program has a socket, and so looks for no port any more.
        """
        from rait.adapters.wireguard.start import SocketLostError, Start, StartError
        from rait.domain.writes import write_of

        name, transit = link.name, self._transit.ns
        check_is_for(link, transit, self._key)
        write = write_of(LinkAdded(link), self._key.psks)
        self._make_room(name)
        start = Start(name, transit, beside)
        with on_error(lambda: start.abort()):
            yield
            try:
                client = start.client(self._key)
            except StartError as error:
                # A program that a killed run started may have come up meanwhile.
                if not self.end_leftover(name) and not isinstance(error, SocketLostError):
                    raise
                start = Start(name, transit, beside)
                client = start.client(self._key)
            with client:
                self._set_up(link, write, client, target)
                yield
                self._connect(write, client, kept)

    def _make_room(self, name: str) -> None:
        """End a half-made link of this name. Raises RaitError if the name is taken otherwise."""
        transit = self._transit
        served, found = programs.listening(name), transit.find(name)
        if (served is None and found is None) or self.end_leftover(name):
            return
        # What was there may have ended meanwhile, and a tun goes a moment later than its program. A
        # persistent tun, which no process has to hold, stays.
        deadline = time.monotonic() + _ENDING_SECONDS
        while True:
            served, found = programs.listening(name), transit.find(name)
            if served is None and found is None:
                return
            may_go = served is None and found is not None and found.kind == TUN
            if not may_go or self._is_held(name) or time.monotonic() > deadline:
                break
            time.sleep(_POLL_SECONDS)
        # The program would take over a persistent tun of this name.
        if found is not None:
            raise RaitError(
                f"an interface of kind {found.kind or 'physical'} already has this name in "
                f"{describe(transit.ns.spec)}, where the link is made first; rename or delete that "
                "interface, or choose another ifprefix"
            )
        if served is not None:
            raise RaitError(
                f"process {served} serves {uapi.socket_path(name)} already, a path that the whole "
                f"machine shares: choose another ifprefix, or end that process (`kill {served}`)"
            )

    def _is_held(self, name: str) -> bool:
        """Whether a process holds a tun of this name, as ``_holder`` finds it. Raises RaitError."""
        with _holder(name, self._transit, 0) or nullcontext() as holder:
            return holder is not None

    def _set_up(self, link: Link, write: DeviceWrite, client: uapi.Client, target: Sockets) -> None:
        """Make a link, but for its port and peers, of a tun and the program that has made it."""
        name, wanted, transit = link.name, link.settings, self._transit
        found = transit.find(name)
        if found is None or found.kind != TUN:
            raise RaitError(f"there is no tun interface in {describe(transit.ns.spec)}")
        transit.rtnl.ask(rtnl.set_link(found.index, mtu=wanted.mtu))
        # The key goes in before the move, so that wherever a kill interrupts, the link is known as
        # ours.
        secret = self._key.secret_of(write.public_key)
        client.set(structs.replace(write, listen_port=None, peers=()), secret)
        try:
            transit.rtnl.ask(rtnl.move_link(found.index, target.ns.fd, wanted.mtu, wanted.group))
        except NetlinkError as error:
            if error.code != errno.EEXIST:
                raise
            raise RaitError(name_is_taken(target.ns)) from error
        for refused in update_settings(target, TUN, [first_update(link, None)]).values():
            raise refused
        if wanted.up:
            _await_bind(client, self._key)

    def _connect(self, write: DeviceWrite, client: uapi.Client, kept: KeptPorts) -> None:
        """Give a new link its port, and then its peers."""
        if write.listen_port is not None:
            kept.let_go(write.listen_port)
            self._set_port(client, write.listen_port)
        # Peers come last: a program sends to a new peer at once, and shall do so from its port.
        if write.peers:
            client.set(structs.replace(write, public_key=None, listen_port=None, fwmark=None))


def _why_unread(tun: Interface, error: OSError | uapi.UapiError) -> str:
    """Why a tun's link cannot be read. Raises MachineError if no other one could be read either."""
    if isinstance(error, uapi.UapiError):
        return str(error)
    if error.errno in (errno.EMFILE, errno.ENFILE):
        raise MachineError(f"cannot look at interface {tun.name}: {reason(error)}") from error
    return f"{uapi.socket_path(tun.name)}: {reason(error)}"


def _client(name: str) -> uapi.Client:
    try:
        return uapi.Client(name)
    except uapi.NOBODY:
        raise RaitError(
            f"no program serves {uapi.socket_path(name)}: it ended; run rait again to remake it"
        ) from None


def _side_by_side(tasks: Sequence[_Task], parts: int = 2) -> Iterator[str | None]:
    """Do one part of all tasks after the other. Gives for each task its error, or None.

    Tasks are closed at the end, even if the caller does not iterate that far.
    """
    try:
        errors: list[str | None] = [None] * len(tasks)
        for _ in range(parts - 1):
            errors = [e or _failure(partial(next, t)) for t, e in zip(tasks, errors, strict=True)]
        for task, error in zip(tasks, errors, strict=True):
            yield error or _failure(partial(next, task, None))
    finally:
        for task in tasks:
            task.close()


def _failure(action: Callable[[], object]) -> str | None:
    try:
        action()
    except RaitError as error:
        return str(error)
    except OSError as error:
        return reason(error)
    return None


def _removal(name: str, made_as: str, via: Sockets | None) -> _Task:
    """End the program of a link, and its tun with it; ``via`` is None if their namespace is gone.

    The program gets a signal, and its tun goes with it: programs end side by side, whereas the
    kernel deletes one tun after the other, with a grace period for each.
    """
    found = None if via is None else via.find(name)
    process = None
    if via is not None and found is not None:
        if found.kind != TUN:
            raise RaitError(f"it is of kind {found.kind or 'physical'} now, so it is left alone")
        process = _process_of(name, made_as, via.ns)
    with process or nullcontext():
        if process is not None:
            process.signal(programs.SIGTERM)
        yield
        if process is not None:
            programs.end(made_as, process, programs.END_SECONDS)
    if via is not None and found is not None:
        _delete_tun(name, via)
    programs.listening(made_as)


def _delete_tun(name: str, via: Sockets) -> None:
    """Delete a tun that is still there after its program has ended."""
    found = via.find(name)
    if found is not None and found.kind == TUN:
        deletion = rtnl.delete_link(found.index)
        for error in perform(via.rtnl, [name], lambda _: [deletion]).values():
            raise error


def _process_of(name: str, made_as: str, ns: Netns) -> programs.Process | None:
    """The process of the program that holds a tun; None if there is none.

    The program on the socket may hold the tun of a link in another namespace. None too where rait
    cannot tell: a program ends by itself when its tun is deleted.
    """
    try:
        with uapi.Client(made_as) as client:
            pid = client.pid
        return programs.hold_owner(name, pid, lambda owner: owner.is_home_in(ns))
    except (OSError, uapi.UapiError):
        return None


def _await_bind(client: uapi.Client, key: KeyPair) -> None:
    """Wait until the program has opened its UDP socket.

    Before that, a program takes any listen port without an error, even one that is not free.
    wireguard-go opens the socket at its start; others may wait for their tun to be up.
    """
    deadline = time.monotonic() + programs.START_SECONDS
    while not client.get(key).device.listen_port:
        if time.monotonic() > deadline:
            raise RaitError(f"its program opened no UDP socket within {programs.START_SECONDS:g} s")
        time.sleep(_POLL_SECONDS)


def _key_and_process(name: str, key: KeyPair) -> tuple[str | None, int]:
    """Public key ("" for none) and process of a link's program; None and 0 for no answer."""
    try:
        with uapi.Client(name) as client:
            return client.get(key).device.public_key, client.pid
    except (OSError, uapi.UapiError):
        return None, 0


def _holder(name: str, transit: Sockets, pid: int) -> programs.Process | None:
    """The process that holds the tun, if that is as programs make it: not moved, in no group."""
    tun = transit.find(name)
    if tun is None or tun.kind != TUN or tun.group != 0:
        return None
    home = transit.ns.identity
    try:
        # Where the kernel does not tell the tun's namespace, the program may be anybody's.
        return programs.hold_owner(name, pid, lambda owner: owner.transit == owner.home == home)
    except OSError as error:
        raise RaitError(f"cannot tell which process has the tun {name}: {reason(error)}") from error

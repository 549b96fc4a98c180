"""How one userspace link is made, and how half-made links of killed runs are found and removed."""

from __future__ import annotations

import errno
import time

from rait.adapters.closing import on_error
from rait.adapters.keys import KeyPair
from rait.adapters.netlink import rtnl
from rait.adapters.netlink.socket import NetlinkError
from rait.adapters.netns import Netns, describe, reason
from rait.adapters.wireguard import process as programs
from rait.adapters.wireguard import uapi
from rait.adapters.wireguard.sockets import (
    TUN,
    Sockets,
    check_is_for,
    first_update,
    name_is_taken,
    port_is_taken,
    update_settings,
)
from rait.domain.errors import RaitError
from rait.domain.events import LinkAdded
from rait.domain.topology import Link
from rait.domain.writes import NOTHING, DeviceWrite, write_of

_POLL_SECONDS = 0.02
_LEFTOVER_SECONDS = programs.START_SECONDS
"""The time that a program of a killed run has to answer: as long as one that we start."""


class Setup:
    """A new link, from the start of its program until it works."""

    def __init__(self, link: Link, key: KeyPair, transit: Sockets, target: Sockets) -> None:
        self._link = link
        self._key = key
        self._transit = transit
        self._target = target
        self._write = NOTHING
        self._start: programs.Start | None = None

    def begin(self) -> None:
        """Start the program, without waiting. Raises RaitError."""
        check_is_for(self._link, self._transit.ns, self._key)
        self._write = write_of(LinkAdded(self._link), self._key.psks)
        self._make_room()
        self._start = programs.Start(self._link.name, self._transit.ns)

    def finish(self) -> None:
        """Wait for the program and make the link. Raises RaitError; then nothing of it is left."""
        with on_error(self.close), self._client() as client:
            self._configure(client)
        self._start = None

    def close(self) -> None:
        """End the program, unless the link is finished."""
        if self._start is not None:
            self._start.abort()
            self._start = None

    def _make_room(self) -> None:
        """End a half-made link of this name. Raises RaitError if the name is taken otherwise."""
        name, transit = self._link.name, self._transit
        served = programs.listening(name)
        if not served and transit.find(name) is None:
            return
        if end_leftover(name, transit, self._key):
            return
        # The program would take over a persistent tun of this name.
        found = transit.find(name)
        if found is not None:
            raise RaitError(
                f"an interface of kind {found.kind or 'physical'} already has this name in "
                f"{describe(transit.ns.spec)}, where the link is made first; rename or delete that "
                "interface, or choose another ifprefix"
            )
        if served:
            raise RaitError(
                _with_our_key(name, self._key)
                or f"a program that is not ours serves {uapi.socket_path(name)} already, a path "
                "that the whole machine shares: end that program, or choose another ifprefix"
            )

    def _client(self) -> uapi.Client:
        if self._start is None:
            raise RaitError("its program was not started")
        try:
            return self._start.client(self._key)
        except programs.StartError:
            # A program that a killed run started may have come up meanwhile.
            if not end_leftover(self._link.name, self._transit, self._key):
                raise
        self._start = programs.Start(self._link.name, self._transit.ns)
        return self._start.client(self._key)

    def _configure(self, client: uapi.Client) -> None:
        name, wanted, write = self._link.name, self._link.settings, self._write
        found = self._transit.find(name)
        if found is None or found.kind != TUN:
            raise RaitError(f"there is no tun interface in {describe(self._transit.ns.spec)}")
        self._transit.rtnl.ask(rtnl.set_link(found.index, mtu=wanted.mtu))
        # The key goes in before the move, so that wherever a kill interrupts, the link is known as
        # ours.
        secret = self._key.secret_of(write.public_key)
        client.set(DeviceWrite(write.public_key, fwmark=write.fwmark), secret)
        self._move(found.index)
        for error in update_settings(self._target, TUN, [first_update(self._link, None)]).values():
            raise error
        if wanted.up:
            _await_bind(client, self._key)
        if write.listen_port is not None:
            set_port(client, write.listen_port, self._transit.ns)
        # Peers come last: a program sends to a new peer at once, and shall do so from its port.
        if write.peers:
            client.set(DeviceWrite(peers=write.peers))

    def _move(self, index: int) -> None:
        wanted, target = self._link.settings, self._target.ns
        try:
            self._transit.rtnl.ask(rtnl.move_link(index, target.fd, wanted.mtu, wanted.group))
        except NetlinkError as error:
            if error.code != errno.EEXIST:
                raise
            raise RaitError(name_is_taken(target)) from error


def _with_our_key(name: str, key: KeyPair) -> str:
    """What to do about a program that serves a link of this name with our key; "" for another key.

    Somebody moved or renamed the link, and the journal does not know of it, or rait would have
    found it by its last known place.
    """
    public_key, pid = _key_and_process(name, key)
    if public_key != key.public:
        return ""
    try:
        tuns = list(programs.tuns_served(name, ""))
    except (OSError, uapi.UapiError):
        return ""
    for home, _ in tuns:
        home.close()
    names = ", ".join(now for _, now in tuns) or "no tun"
    return (
        f"process {pid} serves it already, with our key and {names}, which somebody renamed or "
        f"moved to another namespace: end that process (`kill {pid}`)"
    )


def set_port(client: uapi.Client, port: int, transit: Netns) -> None:
    """Have the program listen on a port, 0 for any. Raises RaitError if the port is taken."""
    try:
        client.set(DeviceWrite(listen_port=port))
    except uapi.RefusedError as error:
        if error.errno != errno.EADDRINUSE:
            raise
        raise RaitError(port_is_taken(port, transit)) from error


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


def find_leftover(name: str, transit: Sockets, key: KeyPair) -> programs.Process | None:
    """The process of a link that a killed run left half made in the transit namespace, or None.

    A program and its tun are such a link if both are in that namespace, the tun is in no group yet,
    and the device has our key or none. (A link whose tun is in the target namespace is not for this
    function: ``observe`` sees it.)

    If the run was killed right after it started the program, the program does not answer yet. So
    while a process holds the tun, this waits for its answer. A tun that no process holds is none of
    a program's, as those go with the program.

    The caller closes the process. Raises RaitError where rait cannot tell.
    """
    deadline = time.monotonic() + _LEFTOVER_SECONDS
    while True:
        public_key, pid = _key_and_process(name, key)
        if public_key not in (None, "", key.public):
            return None
        process = _holder(name, transit, pid)
        if process is None or public_key is not None:
            return process
        process.close()
        if time.monotonic() > deadline:
            return None
        time.sleep(_POLL_SECONDS)


def end_leftover(name: str, transit: Sockets, key: KeyPair) -> bool:
    """Remove a link as ``find_leftover`` finds it, and say whether there was one.

    Raises RaitError if its program does not end.
    """
    process = find_leftover(name, transit, key)
    if process is None:
        return False
    with process:
        programs.end(name, process)
    return True


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
        held = programs.hold_owner(name, pid, lambda owner: owner.transit == owner.home == home)
    except OSError as error:
        raise RaitError(f"cannot tell which process has the tun {name}: {reason(error)}") from error
    return None if held is None else held[0]

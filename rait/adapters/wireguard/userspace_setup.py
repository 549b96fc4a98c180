"""How one userspace link is made, and the half-made ones that a killed run leaves over."""

from __future__ import annotations

import errno
import time

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
"""A program that a killed run started has as long to come up as one of ours."""


class Setup:
    """A new link, between the start of its program and the moment that it works."""

    def __init__(self, link: Link, key: KeyPair, transit: Sockets, target: Sockets) -> None:
        self._link = link
        self._key = key
        self._transit = transit
        self._target = target
        self._write = NOTHING
        self._start: programs.Start | None = None

    def begin(self) -> None:
        """Start the program and do not wait for it. Raises RaitError."""
        check_is_for(self._link, self._transit.ns, self._key)
        self._write = write_of(LinkAdded(self._link))
        self._make_room()
        self._start = programs.Start(self._link.name, self._transit.ns)

    def finish(self) -> None:
        """Make it the link that it is to be. Raises RaitError, and then nothing of it is left."""
        try:
            with self._client() as client:
                self._configure(client)
        except BaseException:
            self.close()
            raise
        self._start = None

    def close(self) -> None:
        """Take back what was begun and is not finished."""
        if self._start is not None:
            self._start.abort()
            self._start = None

    def _make_room(self) -> None:
        name, transit = self._link.name, self._transit
        served = programs.listening(name)
        if not served and transit.find(name) is None:
            return
        if end_leftover(name, transit, self._key):
            return
        # The program would take over a tun of this name that another one left to stay.
        found = transit.find(name)
        if found is not None:
            raise RaitError(
                f"an interface of kind {found.kind or 'physical'} already has this name in "
                f"{describe(transit.ns.spec)}, where the link is to be made; rename or remove it, "
                "or choose another ifprefix"
            )
        if served:
            raise RaitError(
                _with_our_key(name, self._key)
                or f"a program that is not ours serves {uapi.socket_path(name)} already, which is "
                "machine-wide: end that program, or choose another ifprefix"
            )

    def _client(self) -> uapi.Client:
        if self._start is None:
            raise RaitError("its program was not started")
        try:
            return self._start.client(self._key)
        except programs.StartError:
            # One that a killed run started may have come up at the same time.
            if not end_leftover(self._link.name, self._transit, self._key):
                raise
        self._start = programs.Start(self._link.name, self._transit.ns)
        return self._start.client(self._key)

    def _configure(self, client: uapi.Client) -> None:
        name, wanted, write = self._link.name, self._link.settings, self._write
        found = self._transit.find(name)
        if found is None or found.kind != TUN:
            raise RaitError(f"there is no tun interface in {describe(self._transit.ns.spec)}")
        self._transit.perform(rtnl.set_link(found.index, mtu=wanted.mtu))
        # With its key in before it moves, the link is known as ours wherever a kill interrupts.
        secret = self._key.secret_of(write.public_key)
        client.set(DeviceWrite(write.public_key, fwmark=write.fwmark), secret)
        self._move(found.index)
        for error in update_settings(self._target, TUN, [first_update(self._link, None)]).values():
            raise error
        if wanted.up:
            _await_bind(client, self._key)
        if write.listen_port is not None:
            set_port(client, write.listen_port, self._transit.ns)
        # Last, as a program greets a peer at once, which is to come from the port it listens on.
        if write.peers:
            client.set(DeviceWrite(peers=write.peers))

    def _move(self, index: int) -> None:
        wanted, target = self._link.settings, self._target.ns
        try:
            self._transit.perform(rtnl.move_link(index, target.fd, wanted.mtu, wanted.group))
        except NetlinkError as error:
            if error.code != errno.EEXIST:
                raise
            raise RaitError(name_is_taken(target)) from error


def _with_our_key(name: str, key: KeyPair) -> str:
    """What to do about a program that serves a link under this name with our own key.

    "" if it is somebody else's. The journal does not know of such a link, or it would have been
    found.
    """
    try:
        with uapi.Client(name) as client:
            pid, public_key = client.pid, client.get(key).device.public_key
        if public_key != key.public:
            return ""
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
    """Have the program listen on a port, 0 for any. Raises RaitError where it is taken."""
    try:
        client.set(DeviceWrite(listen_port=port))
    except uapi.RefusedError as error:
        if error.errno != errno.EADDRINUSE:
            raise
        raise RaitError(port_is_taken(port, transit)) from error


def _await_bind(client: uapi.Client, key: KeyPair) -> None:
    """Wait until the program has a UDP socket: before, it takes a port unseen that is not free.

    wireguard-go has one from its start on; a program that waits for its tun to be up may not.
    """
    deadline = time.monotonic() + programs.START_SECONDS
    while not client.get(key).device.listen_port:
        if time.monotonic() > deadline:
            raise RaitError(f"its program opened no UDP socket within {programs.START_SECONDS:g} s")
        time.sleep(_POLL_SECONDS)


def find_leftover(name: str, transit: Sockets, key: KeyPair) -> programs.Process | None:
    """The process of a link that a killed run left half made in the transit namespace.

    It is ours if the program and its tun are both there, the tun in no group yet, and the device
    has no key or our own. Once the tun is in the target namespace, ``observe`` sees the link.

    The run may have been killed a moment ago, right after it started the program, which does not
    answer yet: it is waited for, as nobody else can have that name until then. A tun that no
    process holds is not waited for, as those of programs go with them.

    The caller closes the process. Raises RaitError where one cannot tell.
    """
    deadline = time.monotonic() + _LEFTOVER_SECONDS
    while True:
        public_key, pid = _asked(name, key)
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
    """End such a link; whether there was one. Raises RaitError where it does not end."""
    process = find_leftover(name, transit, key)
    if process is None:
        return False
    with process:
        programs.end(name, process)
    return True


def _asked(name: str, key: KeyPair) -> tuple[str | None, int]:
    """Public key ("" for none) and process of the program that serves a link; None: no answer."""
    try:
        with uapi.Client(name) as client:
            return client.get(key).device.public_key, client.pid
    except (OSError, uapi.UapiError):
        return None, 0


def _holder(name: str, transit: Sockets, pid: int) -> programs.Process | None:
    """The process that holds a tun which is as programs make it: not moved, and in no group."""
    tun = transit.find(name)
    if tun is None or tun.kind != TUN or tun.group != 0:
        return None
    home = transit.ns.identity
    try:
        # Without a sure word on where the tun lives, the program might be anybody's.
        held = programs.hold_owner(name, pid, lambda owner: owner.transit == owner.home == home)
    except OSError as error:
        raise RaitError(f"cannot tell which process has the tun {name}: {reason(error)}") from error
    return None if held is None else held[0]

"""How one userspace link comes to be, and the half-made ones that a killed run leaves."""

from __future__ import annotations

import errno
import time
from binascii import a2b_base64
from collections.abc import Sequence

from rait.adapters import keys
from rait.adapters.netlink import rtnl
from rait.adapters.netlink.socket import NETLINK_ROUTE, NetlinkError, NetlinkSocket, Request
from rait.adapters.netns import Netns, describe, reason
from rait.adapters.wireguard import uapi
from rait.adapters.wireguard import userspace_process as programs
from rait.domain.config.schema import Secret
from rait.domain.errors import RaitError
from rait.domain.events import LinkAdded
from rait.domain.topology import Device, Link
from rait.domain.writes import DeviceWrite, write_of

TUN = "tun"
ANSWER_SECONDS = 5.0
"""For a program that we did not just start. On a busy machine it may wait for a processor, but
one that hangs holds up each run for so long."""

_POLL_SECONDS = 0.02
_STRAY_SECONDS = programs.START_SECONDS
"""A program that a killed run started has as long to come up as one of ours."""


class Key:
    """The node's key pair, as far as it is known."""

    def __init__(self, secret: Secret | None, public: str) -> None:
        self.secret = secret
        self.public = public

    def public_of(self, other: Secret | None) -> str:
        """The public key that belongs to what a device has; "" if it has none."""
        if other is None:
            return ""
        if self.secret is not None and uapi.clamped(self.secret) == uapi.clamped(other):
            return self.public
        return keys.public_key(other)

    def psk_digest(self, peer: str, psk: Secret | None) -> str:
        """What stands for the preshared key of the peer with this public key; see keys.py."""
        return "" if psk is None else keys.psk_digest(self.secret, peer, a2b_base64(psk.reveal()))

    def needed(self, device: Device) -> Secret:
        """The secret for a device that is to be made or given a key. Raises RaitError."""
        if self.secret is None:
            raise RaitError("there is no private key to give it")
        if device.public_key != self.public:
            raise RaitError(
                f"it is to have public key {device.public_key}, "
                f"but the private key at hand belongs to {self.public}"
            )
        return self.secret


class Place:
    """A namespace and the socket that changes its interfaces."""

    def __init__(self, ns: Netns) -> None:
        self.ns = ns
        self._rtnl = NetlinkSocket(ns, NETLINK_ROUTE)

    def close(self) -> None:
        """Close the socket; the namespace stays open."""
        self._rtnl.close()

    def perform(self, requests: Sequence[Request]) -> None:
        """Send the requests. Raises the NetlinkError of the first that failed."""
        for error in self._rtnl.perform(requests):
            if error is not None:
                raise error

    def find(self, name: str) -> tuple[int, str] | None:
        """Index and kind of an interface, or None where it does not exist."""
        try:
            (body,) = self._rtnl.ask(rtnl.get_link(name))
        except NetlinkError as error:
            if error.code == errno.ENODEV:
                return None
            raise
        index, _, found = rtnl.attributes_of_link(body)
        return index, rtnl.kind_of(found)

    def tun(self, name: str) -> int:
        """The index of a tun. Raises RaitError."""
        found = self.find(name)
        if found is None or found[1] != TUN:
            raise RaitError(f"there is no tun interface {name} in {describe(self.ns.spec)}")
        return found[0]

    def master(self, name: str | None) -> int | None:
        """The index of a VRF, None for None. Raises RaitError."""
        if name is None:
            return None
        found = self.find(name)
        if found is None:
            raise RaitError(f"VRF {name} does not exist in {describe(self.ns.spec)}")
        return found[0]


class Birth:
    """A new link, between the start of its program and the moment that it works."""

    def __init__(self, link: Link, key: Key, transit: Place) -> None:
        self._link = link
        self._key = key
        self._transit = transit
        self._start: programs.Start | None = None

    def begin(self) -> None:
        """Start the program and do not wait for it. Raises RaitError."""
        link, own = self._link, self._transit.ns.identity
        if link.origin.transit not in ("", own):
            raise RaitError(
                "its UDP socket belongs in another network namespace, which this run is not for"
            )
        self._key.needed(link.device)
        self._make_room()
        self._start = programs.Start(link.name, self._transit.ns)

    def finish(self, target: Place) -> None:
        """Make it the link that it is to be. Raises RaitError, and then nothing of it is left."""
        try:
            with self._client() as client:
                self._configure(client, target)
        except BaseException:
            self.abandon()
            raise
        self._start = None

    def abandon(self) -> None:
        """Take back what was begun; harmless after ``finish``."""
        if self._start is not None:
            self._start.abort()
            self._start = None

    def _make_room(self) -> None:
        name, transit = self._link.name, self._transit.ns
        served = programs.listening(name)
        if not served and self._transit.find(name) is None:
            return
        if end_half_born(name, transit, self._key):
            return
        # The program would take over a tun of this name that another one left to stay.
        found = self._transit.find(name)
        if found is not None:
            raise RaitError(
                f"an interface of kind {found[1] or 'physical'} already has this name in "
                f"{describe(transit.spec)}, where the link is to be made; rename or remove it, "
                "or choose another ifprefix"
            )
        if not served:
            return
        if (ours := _with_our_key(name, self._key)) is not None:
            raise RaitError(ours)
        raise RaitError(
            f"a program that is not ours serves {uapi.socket_path(name)} already, which is "
            "machine-wide: end that program, or choose another ifprefix"
        )

    def _client(self) -> uapi.Client:
        if self._start is None:
            raise RaitError("its program was not started")
        try:
            return self._start.client()
        except programs.StartError:
            # One that a killed run started may have come up at the same time.
            if not end_half_born(self._link.name, self._transit.ns, self._key):
                raise
        self._start = programs.Start(self._link.name, self._transit.ns)
        return self._start.client()

    def _configure(self, client: uapi.Client, target: Place) -> None:
        name, wanted, device = self._link.name, self._link.settings, self._link.device
        index = self._transit.tun(name)
        self._transit.perform([rtnl.set_link(index, mtu=wanted.mtu)])
        # With its key in before it moves, the link is known as ours wherever a kill interrupts.
        write = DeviceWrite(device.public_key, fwmark=device.fwmark or None)
        client.set(write, self._key.needed(device))
        self._move(index, target)
        index = target.tun(name)
        master = target.master(wanted.master)
        requests = [rtnl.no_generated_address(index)]
        if master is not None:
            requests.append(rtnl.set_link(index, master=master))
        if wanted.address is not None:
            requests.append(rtnl.add_address(index, wanted.address))
        if wanted.up:
            requests.append(rtnl.set_link(index, up=True))
        target.perform(requests)
        if wanted.up:
            _await_bind(client)
        if device.listen_port:
            set_port(client, name, device.listen_port, self._transit.ns)
        # Last, as a program greets a peer at once, which is to come from the port it listens on.
        if peers := write_of(LinkAdded(self._link)).peers:
            client.set(DeviceWrite(peers=peers))

    def _move(self, index: int, target: Place) -> None:
        wanted = self._link.settings
        try:
            self._transit.perform([rtnl.move_link(index, target.ns.fd, wanted.mtu, wanted.group)])
        except NetlinkError as error:
            if error.code != errno.EEXIST:
                raise
            raise RaitError(
                "an interface that is not ours has this name in "
                f"{describe(target.ns.spec)}; rename or remove that one, or choose another ifprefix"
            ) from error


def _with_our_key(name: str, key: Key) -> str | None:
    """What to do about a program that serves a link under this name with our own key.

    None if it is somebody else's. The journal does not know of such a link, or it would have been
    found.
    """
    from rait.adapters.wireguard import traces

    try:
        with uapi.Client(name, ANSWER_SECONDS) as client:
            pid, private_key = client.pid, client.get().private_key
        if private_key is None or key.public_of(private_key) != key.public:
            return None
        tuns = [(home, now) for home, now in traces.tuns_served(name, "")]
    except (OSError, uapi.UapiError):
        return None
    for home, _ in tuns:
        home.close()
    names = ", ".join(now for _, now in tuns) or "no tun"
    return (
        f"process {pid} serves it already, with our key and {names}, which somebody renamed or "
        f"moved to another namespace: end that process (`kill {pid}`)"
    )


def set_port(client: uapi.Client, name: str, port: int, transit: Netns) -> None:
    """Have the program listen on a port, 0 for any. Raises RaitError where it is taken."""
    try:
        client.set(DeviceWrite(listen_port=port))
    except uapi.RefusedError as error:
        if error.errno != errno.EADDRINUSE:
            raise
        from rait.adapters.wireguard.kernel_place import port_is_taken

        raise RaitError(port_is_taken(name, port, transit)) from error


def _await_bind(client: uapi.Client) -> None:
    """Wait until the program has a UDP socket: before, it takes a port unseen that is not free.

    wireguard-go has one from its start on; a program that waits for its tun to be up may not.
    """
    deadline = time.monotonic() + programs.START_SECONDS
    while not client.get().listen_port:
        if time.monotonic() > deadline:
            raise RaitError(f"its program opened no UDP socket within {programs.START_SECONDS:g} s")
        time.sleep(_POLL_SECONDS)


def half_born(name: str, transit: Netns, key: Key) -> programs.Process | None:
    """The process of a link that a killed run left in the transit namespace, if it is ours.

    It is if the program and its tun are both there, the tun in no group yet, and the device has
    no key or our own. The caller closes the process. Raises RaitError where one cannot tell.
    """
    answer = _asked(name)
    if answer is None or _is_of_another(answer, key) or not _unmoved(name, transit):
        return None
    return _holder(name, transit, answer[1])


def _asked(name: str) -> tuple[Secret | None, int] | None:
    """The private key and the process of the program that serves a link; None: none answers."""
    try:
        with uapi.Client(name, ANSWER_SECONDS) as client:
            return client.get().private_key, client.pid
    except (OSError, uapi.UapiError):
        return None


def _is_of_another(answer: tuple[Secret | None, int], key: Key) -> bool:
    private_key = answer[0]
    return private_key is not None and key.public_of(private_key) != key.public


def _unmoved(name: str, transit: Netns) -> bool:
    """Whether there is a tun that is as programs make it, and in no group yet."""
    tun = rtnl.interfaces(transit).get(name)
    return tun is not None and tun.kind == TUN and tun.group == 0


def _holder(name: str, transit: Netns, pid: int = 0) -> programs.Process | None:
    # Without a sure word on where the tun lives, the program might be anybody's.
    def is_unmoved(owner: programs.Owner) -> bool:
        return owner.transit == owner.home == transit.identity

    try:
        held = programs.hold_owner(name, pid, is_unmoved)
    except OSError as error:
        raise RaitError(f"cannot tell which process has the tun {name}: {reason(error)}") from error
    return None if held is None else held[0]


def _may_come_up(name: str, transit: Netns, key: Key) -> bool:
    answer = _asked(name)
    if answer is not None and _is_of_another(answer, key):
        return False
    return _unmoved(name, transit) and _is_held(name, transit)


def _is_held(name: str, transit: Netns) -> bool:
    process = _holder(name, transit)
    if process is None:
        return False
    process.close()
    return True


def awaited_half_born(name: str, transit: Netns, key: Key) -> programs.Process | None:
    """As ``half_born``, for a link whose run may have been killed a moment ago.

    Its program may have been started right before that, and not answer yet: it is waited for, as
    nobody else can have that name until then. A tun that no process holds is not of a program:
    theirs go with them. One that answers with the key of another stays so.
    """
    deadline = time.monotonic() + _STRAY_SECONDS
    process = half_born(name, transit, key)
    while process is None:
        if time.monotonic() > deadline or not _may_come_up(name, transit, key):
            return None
        time.sleep(_POLL_SECONDS)
        process = half_born(name, transit, key)
    return process


def end_half_born(name: str, transit: Netns, key: Key) -> bool:
    """End such a link; whether there was one. Raises RaitError where it does not end."""
    process = awaited_half_born(name, transit, key)
    if process is None:
        return False
    with process:
        programs.end(name, process)
    return True

"""The port to WireGuard: what rait asks of a kernel, or of a program that stands in for one."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Protocol, TypeVar

from msgspec import Struct, structs

from rait.domain.events import Event
from rait.domain.topology import Device, Link, LinkPeer, LinkSettings, Origin, Rule

REJECT_AFTER_SECONDS = 180
"""A session this old carries nothing any more (WireGuard whitepaper, section 6.1)."""


class ObservedLink(Struct, frozen=True, kw_only=True):
    """A WireGuard link as it is.

    ``link.origin.transit`` is "" where the machine cannot tell. ``link.settings.address`` is the
    first IPv6 link-local address, ``handshakes`` the unix time of the last handshake in seconds
    by peer key (0 for never), and the counters are bytes by peer key. One that was
    ``renamed`` is no good under its new name, as its program still listens under the former. One
    that is ``dead`` has no UDP socket any more, as the namespace that held it is gone.
    """

    link: Link
    handshakes: Mapping[str, int] = {}
    received: Mapping[str, int] = {}
    sent: Mapping[str, int] = {}
    renamed: bool = False
    dead: bool = False


class DeviceState(Struct, frozen=True):
    """A WireGuard device as it is, but for its private key.

    ``peers`` are in the order of their keys; times and counters are as in ObservedLink.
    """

    device: Device
    peers: tuple[LinkPeer, ...] = ()
    handshakes: Mapping[str, int] = {}
    received: Mapping[str, int] = {}
    sent: Mapping[str, int] = {}


class UnreadLink(Struct, frozen=True):
    """An interface that may be a WireGuard link, and could not be asked: ``why`` says why not."""

    netns: str
    group: int
    why: str


class ObservedVrf(Struct, frozen=True):
    """A VRF as it is: its routing table, and the names of the interfaces enslaved to it.

    ``marked`` tells that rait made it, and nobody has made one of the same name since.
    """

    table: int
    members: tuple[str, ...] = ()
    marked: bool = False


class Observation(Struct, frozen=True, kw_only=True):
    """All that a run needs to know of the machine, at unix time ``now`` in seconds.

    ``links`` are WireGuard links by name, ours or not, and ``unread`` are interfaces of which
    nobody can tell whether they are some. ``others`` maps the names of all other
    interfaces in the target namespace to their kind. ``vrfs`` by name and ``rules`` (only those
    that look marked packets up in a table, and no more) are of the namespace that rait runs in;
    they are there if the run was asked for them, and ``rules_of_others`` are the names of those
    that rait did not make. ``doubles`` are links in other namespaces, of a
    name that one of ``links`` has already, and ``lost`` the instances of namespaces in which there
    may be links of ours and that could not be looked at, each with the reason.
    """

    now: int
    links: Mapping[str, ObservedLink] = {}
    unread: Mapping[str, UnreadLink] = {}
    others: Mapping[str, str] = {}
    vrfs: Mapping[str, ObservedVrf] = {}
    rules: Mapping[str, Rule] = {}
    rules_of_others: frozenset[str] = frozenset()
    doubles: tuple[ObservedLink, ...] = ()
    lost: Mapping[str, str] = {}

    def named(self, name: str) -> Iterator[ObservedLink]:
        """All links of this name, in whatever namespace."""
        if (first := self.links.get(name)) is not None:
            yield first
        yield from (seen for seen in self.doubles if seen.link.name == name)

    def with_traced(
        self, found: Iterable[ObservedLink], unread: Mapping[str, UnreadLink]
    ) -> Observation:
        """This one with links that were found elsewhere, and those of which one cannot tell."""
        links = dict(self.links)
        doubles = [seen for seen in found if links.setdefault(seen.link.name, seen) is not seen]
        unread = {**unread, **self.unread}
        return structs.replace(self, links=links, doubles=(*self.doubles, *doubles), unread=unread)


class Interface(Struct, frozen=True, kw_only=True):
    """A network interface of any kind, as rtnetlink(7) tells it.

    ``kind`` is IFLA_INFO_KIND ("" for physical ones and lo), ``master`` the name of the interface
    it is enslaved to, ``address`` its first IPv6 link-local address as ``fe80::1/64``, and
    ``table`` and ``alias`` the routing table and the description of a VRF. ``carrier`` is only told
    of one that is up.
    """

    name: str
    index: int
    kind: str
    mtu: int
    group: int
    up: bool
    master: str | None = None
    address: str | None = None
    table: int | None = None
    alias: str = ""
    carrier: bool = True


def observed(
    interface: Interface,
    origin: Origin,
    state: DeviceState,
    *,
    renamed: bool = False,
    dead: bool = False,
) -> ObservedLink:
    """The link that an interface and its WireGuard device are."""
    i = interface
    settings = LinkSettings(i.mtu, i.group, i.master, i.up, i.address)
    return ObservedLink(
        link=Link(i.name, origin, settings, state.device, state.peers),
        handshakes=state.handshakes,
        received=state.received,
        sent=state.sent,
        renamed=renamed,
        dead=dead,
    )


class Outcome(Struct, frozen=True):
    """What became of the event at ``index`` of those applied; ``error`` is None if it is done."""

    index: int
    error: str | None = None


Namespace = TypeVar("Namespace", contravariant=True)
"""A network namespace, and whatever the adapters need to work in it."""


class Backend(Protocol[Namespace]):
    """Makes links of one kind; adapters/wireguard/ has two.

    Of what goes wrong it tells the bare reason: Machine names the link.
    """

    def observe(
        self, via: Namespace, interfaces: Mapping[str, Interface]
    ) -> tuple[Mapping[str, ObservedLink], Mapping[str, UnreadLink]]:
        """The links of this kind among a namespace's interfaces, whatever their group.

        With them come the interfaces of which it cannot tell whether they are some.
        """
        ...

    def apply(self, via: Namespace | None, events: Sequence[Event]) -> Iterable[str | None]:
        """Carry out events of one sort, each of a different link; why each failed, in order.

        All the links live in one namespace; it is None for links to remove that went with theirs.
        No event that fails stops those of other links. Of an update, only the fields that differ
        between its two states are written; see ``write_of``. A link that cannot be made whole is
        not left behind. Raises MachineError with what fails all events that it has not told of.
        """
        ...

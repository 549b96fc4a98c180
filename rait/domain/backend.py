"""The port to WireGuard: what rait observes of a machine, and what a backend has to do."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Protocol, TypeVar

from msgspec import Struct, structs

from rait.domain.events import Event
from rait.domain.topology import Device, Link, LinkPeer, LinkSettings, Origin, Rule

REJECT_AFTER_SECONDS = 180
"""A session this old carries nothing any more (WireGuard whitepaper, section 6.1)."""


class ObservedLink(Struct, frozen=True):
    """A WireGuard link as it is.

    ``link.origin.transit`` is "" where the machine cannot tell. ``link.settings.address`` is the
    first IPv6 link-local address, and ``link.settings.addresses`` are all others, whoever added
    them. By peer key, ``handshakes`` are the unix times of the last
    handshakes in seconds (0 for never), and ``received`` and ``sent`` are bytes. A ``renamed``
    link cannot be used, as its program still listens under the former name. A ``dead`` link has
    no UDP socket any more, as the namespace that held the socket is gone.
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
    """An interface that may be a WireGuard link, and could not be read; ``why`` has the reason."""

    netns: str
    group: int
    why: str


class ObservedVrf(Struct, frozen=True):
    """A VRF as it is: its routing table, and the names of the interfaces enslaved to it.

    ``marked``: it bears the mark of a VRF that rait made.
    """

    table: int
    members: tuple[str, ...] = ()
    marked: bool = False


class Observation(Struct, frozen=True, kw_only=True):
    """All that a run needs to know of the machine, at unix time ``now`` in seconds.

    ``links`` are WireGuard links by name, ours or not, and ``unread`` are interfaces that may be
    such links. ``others`` maps the names of all other interfaces in the target namespace to their
    kind. ``vrfs`` by name and ``rules`` are of the namespace that rait runs in, where the run needs
    them; rules that do more than look marked packets up in a table are left out, and
    ``rules_of_others`` are the names of the rules that rait did not make. ``doubles`` are links in
    other namespaces that share a name with one of ``links``. ``lost`` are the instances of
    namespaces that may hold links of ours and could not be looked at, each with the reason.
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

    def all_links(self) -> tuple[ObservedLink, ...]:
        """All WireGuard links, also those whose name another link has."""
        return (*self.links.values(), *self.doubles)

    def named(self, name: str) -> Iterator[ObservedLink]:
        """All links of this name, in whatever namespace."""
        if (first := self.links.get(name)) is not None:
            yield first
        yield from (seen for seen in self.doubles if seen.link.name == name)

    def with_traced(
        self, found: Iterable[ObservedLink], unread: Mapping[str, UnreadLink]
    ) -> Observation:
        """Add links that were found elsewhere, and interfaces that could not be read there."""
        links = dict(self.links)
        doubles = [seen for seen in found if links.setdefault(seen.link.name, seen) is not seen]
        unread = {**unread, **self.unread}
        return structs.replace(self, links=links, doubles=(*self.doubles, *doubles), unread=unread)


class Interface(Struct, frozen=True, kw_only=True):
    """A network interface of any kind, as rtnetlink(7) has it.

    ``kind`` is IFLA_INFO_KIND ("" for physical ones and lo), ``master`` the name of the interface
    that it is enslaved to, ``address`` its first IPv6 link-local address as ``fe80::1/64``,
    ``addresses`` all others, sorted, and ``table`` and ``alias`` the routing table and the
    description of a VRF. ``carrier`` has a
    meaning only for an interface that is up.
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
    addresses: tuple[str, ...] = ()


def observed(
    interface: Interface,
    origin: Origin,
    state: DeviceState,
    *,
    renamed: bool = False,
    dead: bool = False,
) -> ObservedLink:
    """Make one link of an interface and its WireGuard device."""
    i = interface
    settings = LinkSettings(i.mtu, i.group, i.master, i.up, i.address, i.addresses)
    return ObservedLink(
        link=Link(i.name, origin, settings, state.device, state.peers),
        handshakes=state.handshakes,
        received=state.received,
        sent=state.sent,
        renamed=renamed,
        dead=dead,
    )


class Outcome(Struct, frozen=True):
    """What became of the applied event at ``index``; ``error`` is None if it was done."""

    index: int
    error: str | None = None


Namespace = TypeVar("Namespace", contravariant=True)
"""A network namespace, and whatever the adapters need to work in it."""


class Backend(Protocol[Namespace]):
    """Makes links of one kind; adapters/wireguard/ has two.

    Reasons of failures do not name the link: Machine does.
    """

    def observe(
        self, via: Namespace, interfaces: Mapping[str, Interface]
    ) -> tuple[Mapping[str, ObservedLink], Mapping[str, UnreadLink]]:
        """The links of this kind among a namespace's interfaces, whatever their group.

        The second mapping has the interfaces that may be such links, and could not be read.
        """
        ...

    def sign_of_life(self, link: Link) -> str:
        """Why a link whose namespace cannot be found must still exist; "" for no such reason."""
        ...

    def apply(self, via: Namespace | None, events: Sequence[Event]) -> Iterable[str | None]:
        """Carry out events of one sort, each of a different link; why each failed, in order.

        A reason is None for an event that was done. All the links live in the namespace ``via``;
        it is None for links to remove whose namespace is gone. An event that fails stops no event
        of another link. An update writes only the fields that differ between its two states; see
        ``write_of``. A link that cannot be made whole is not left behind. Raises MachineError for
        a fault that fails all events for which no reason was given yet.
        """
        ...

"""Why a link is as it is: where each of its values comes from, and why a peer has no link.

For each setting of a link there are up to three values: the one that rait.conf and the registry
want, the one that the journal says was applied, and the one that the machine has. They may differ
for good reasons, as an endpoint does after its peer roamed.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from functools import partial
from typing import Literal

from msgspec import Struct, structs

from rait.domain.backend import Observation
from rait.domain.config.schema import Config, Peer, PeerEndpoint, Transport
from rait.domain.errors import Path, Problem
from rait.domain.history import LastKnown
from rait.domain.ownership import Stranger
from rait.domain.plan import Addresses, Plan
from rait.domain.policy import Policies, Resolved, link_local_among
from rait.domain.topology import Family, Link, LinkPeer


class Source(Struct, frozen=True):
    """Where a value comes from: a place in rait.conf, in the peers list, or ``text`` alone.

    A path in rait.conf names keys as the schema does, not as the file spells them. Where the file
    lacks the key, the value is the default.
    """

    document: Literal["rait.conf", "peers", ""]
    path: Path = ()
    text: str = ""


class Setting(Struct, frozen=True):
    """One setting of a link: as it is wanted and where that comes from, as applied, and as it is.

    None stands for no link. ``machine`` is "" for what the machine does not show.
    """

    name: str
    wanted: str | None
    source: str | None
    applied: str | None
    machine: str | None


class Route(Struct, frozen=True, kw_only=True):
    """One endpoint of a peer in the registry, over one transport if there is one of its family.

    ``link`` is the link that follows; if there is none, ``notes`` say why. They also say what is
    wrong with an endpoint that has a link. ``resolved`` are the IP addresses of a host name.
    """

    where: str
    address_family: Family
    send_port: int
    address: str | None
    resolved: tuple[str, ...] = ()
    transport: int | None = None
    link: str | None = None
    notes: tuple[str, ...] = ()


Locate = Callable[[Source], str]
"""Makes text of a source: FILE:LINE and the key."""

_Show = Callable[[Link], object]


def _far(show: Callable[[LinkPeer], object]) -> _Show:
    """Show something of the link's peer; of several peers, of each."""
    return lambda link: " ".join(str(show(peer)) for peer in link.peers)


def _link_local(link: Link) -> str | None:
    """The link-local address, whether rait made it up, or a policy gives it, or it is another's."""
    return link_local_among(link.settings.all_addresses)


_SHOWN: Mapping[str, _Show] = {
    "backend": lambda link: link.origin.backend,
    "netns": lambda link: link.origin.netns or "the current one",
    "vrf": lambda link: link.settings.master or "none",
    "ifgroup": lambda link: link.settings.group,
    "listen port": lambda link: link.device.listen_port or "dynamic",
    "fwmark": lambda link: link.device.fwmark or "off",
    "mtu": lambda link: link.settings.mtu,
    "link-local address": lambda link: _link_local(link) or "none",
    "addresses": lambda link: (
        ", ".join(a for a in link.settings.all_addresses if a != _link_local(link)) or "none"
    ),
    "peer": _far(lambda peer: peer.public_key),
    "endpoint": _far(lambda peer: peer.endpoint or "none"),
    "keepalive": _far(lambda peer: f"{peer.keepalive} s" if peer.keepalive else "off"),
    "preshared key": _far(lambda peer: "set" if peer.psk_digest else "none"),
    "babeld parameters": lambda link: link.notes.babeld_param or "those of rait.conf",
    "up_command": lambda link: " ".join(link.notes.up_command) or "none",
    "down_command": lambda link: " ".join(link.notes.down_command) or "none",
}

_ONLY_NOTED = ("babeld parameters", "up_command", "down_command")
"""What the machine does not show of a link."""


def settings_of(
    wanted: Link | None, applied: Link | None, seen: Link | None, sources: Mapping[str, str]
) -> tuple[Setting, ...]:
    """All settings of a link; ``sources`` say of each where the wanted value comes from."""

    def shown(name: str, link: Link | None) -> str | None:
        return None if link is None else str(_SHOWN[name](link))

    return tuple(
        Setting(
            name,
            shown(name, wanted),
            sources.get(name) if wanted is not None else None,
            shown(name, applied),
            "" if name in _ONLY_NOTED and seen is not None else shown(name, seen),
        )
        for name in _SHOWN
    )


def sources_of(config: Config, index: int, peer: Peer, where: str) -> dict[str, Source]:
    """Where each setting comes from, of the link over this transport of rait.conf to a peer.

    ``where`` is the place of the peer's endpoint in the registry.
    """
    transport = config.transports[index]
    resolved = Policies(config.policies).resolve(peer, transport.address_family)
    of_transport = partial(_conf, "transports", index)
    vrf = config.isolation.type == "vrf"
    registry = Source("", text=where)
    found = {
        "backend": _conf("backend"),
        "netns": _conf("isolation", "type" if vrf else "target"),
        "vrf": _conf("isolation", "target" if vrf else "type"),
        "ifgroup": _conf("isolation", "ifgroup"),
        "listen port": of_transport("dynamic_port") if transport.dynamic_port else registry,
        "link-local address": Source("", text="made of both keys"),
        "peer": registry,
        "endpoint": registry,
        "babeld parameters": _conf("babeld", "param"),
    }
    for name in _SHOWN:
        field = _FIELDS.get(name, name)
        if (given := _given(resolved, field)) is not None:
            found[name] = given
        elif field in Transport.__struct_fields__:
            found[name] = of_transport(field)
    if link_local_among(resolved.settings.addresses or ()):
        found["link-local address"] = found["addresses"]
    return found


_FIELDS = {"preshared key": "preshared_key_file", "babeld parameters": "babeld_param"}
"""The field of a policy that sets a setting, where it has another name than that."""


def _given(resolved: Resolved, field: str) -> Source | None:
    """The place in the policy that gave a setting, if one did."""
    for name in (field, f"{field}_add"):
        if name in resolved.givers:
            return Source("rait.conf", (*resolved.givers[name].path, name))
    return None


def _conf(*path: str | int) -> Source:
    return Source("rait.conf", path)


class Routes:
    """Explains the routes to peers, by the result of a plan.

    ``unresolved`` are the problems with host names.
    """

    def __init__(
        self,
        config: Config,
        own_key: str,
        plan: Plan,
        addresses: Addresses,
        unresolved: Iterable[Problem],
        locate: Locate,
    ) -> None:
        self._transports = config.transports
        self._own_key = own_key
        self._policies = Policies(config.policies)
        self._links = plan.topology.links
        self._problems = (*unresolved, *plan.problems)
        self._unready = {flaw.link: flaw for flaw in plan.flaws if flaw.link not in self._links}
        self._addresses = addresses
        self._locate = locate

    def to(self, peer: Peer) -> tuple[Route, ...]:
        """Each endpoint of a peer with each transport of its family, and what comes of it."""
        return tuple(route for each in peer.endpoints for route in self._over(peer, each))

    def _over(self, peer: Peer, endpoint: PeerEndpoint) -> Iterator[Route]:
        family = endpoint.address_family
        bare = Route(
            where=self._locate(Source("peers", endpoint.path)),
            address_family=family,
            send_port=endpoint.send_port,
            address=endpoint.address,
            resolved=self._addresses.get((endpoint.address or "", family), ()),
        )
        indexes = [i for i, t in enumerate(self._transports) if t.address_family == family]
        if not indexes:
            why = f"rait.conf has no transport for {family}"
            yield structs.replace(bare, notes=(why,))
        for index in indexes:
            name = self._transports[index].link_name(endpoint.send_port)
            link = self._links.get(name)
            has_link = link is not None and link.peer(peer.public_key) is not None
            yield structs.replace(
                bare,
                transport=index,
                link=name if has_link else None,
                notes=tuple(self._notes(peer, endpoint, name)),
            )

    def _notes(self, peer: Peer, endpoint: PeerEndpoint, name: str) -> Iterator[str]:
        if peer.public_key == self._own_key:
            yield "this is the entry of this node itself"
        resolved = self._policies.resolve(peer, endpoint.address_family)
        if resolved.settings.skip and (skip := _given(resolved, "skip")) is not None:
            yield f"{self._locate(skip)}: this policy skips the peer"
        said = [p for p in self._problems if p.path == endpoint.path and p.link in (None, name)]
        yield from (problem.message for problem in said)
        flaw = self._unready.get(name)
        if flaw is not None and all(problem.link is None for problem in said):
            yield f"{self._locate(Source('rait.conf', flaw.path))}: {flaw.message}"


def links_of_peer(key: str, known: LastKnown, observation: Observation) -> frozenset[str]:
    """The names of all links to the peer that the journal or the machine has."""
    links = (*known.links(), *(seen.link for seen in observation.all_links()))
    return frozenset(link.name for link in links if link.peer(key) is not None)


def obstacles(
    name: str, observation: Observation, problems: Iterable[Problem], strangers: Iterable[Stranger]
) -> Iterator[str]:
    """What stands in the way of a link, or why what has its name is none of ours."""
    said = [problem.message for problem in problems if problem.link == name]
    if said:
        yield from said
        return
    yield from (f"it is not ours: {each.why}" for each in strangers if each.link == name)
    if name in observation.unread:
        yield f"it cannot be read: {observation.unread[name].why}"
    if name in observation.others:
        yield f"it is no WireGuard link, but of kind {observation.others[name] or 'physical'}"

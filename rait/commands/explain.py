"""``rait explain``: why a link, or the lack of one, is as it is."""

from __future__ import annotations

from argparse import Namespace
from collections.abc import Iterator

from msgspec import Struct

from rait.app.desired import wanted_by
from rait.app.moments import written
from rait.app.options import Options
from rait.app.render import event_lines
from rait.app.session import Session, open_session
from rait.app.trials import standing
from rait.domain.config.keytext import shown
from rait.domain.config.schema import Peer
from rait.domain.errors import FEW, ConfigError
from rait.domain.explain import (
    Route,
    Routes,
    Setting,
    Source,
    links_of_peer,
    obstacles,
    settings_of,
    sources_of,
)
from rait.domain.history import done_events
from rait.domain.signed import Signed, which_list
from rait.domain.topology import Link
from rait.terminal import DONE, print_either, table, warn

_SHORTEST_KEY = 6
"""So many first characters of a public key may stand for it, if no other key begins so."""


class ExplainedPeer(Struct, frozen=True, kw_only=True):
    """A peer as the registry has it; ``problems`` are those of its entries that are skipped."""

    public_key: str
    name: str | None
    remarks: dict[str, str]
    is_in_registry: bool
    routes: tuple[Route, ...]
    problems: tuple[str, ...]


class ExplainedLink(Struct, frozen=True, kw_only=True):
    """A link: its settings, what is wrong, what others did, and what ``rait up`` would do.

    ``handshakes`` are unix times by public key, 0 for never.
    """

    name: str
    settings: tuple[Setting, ...]
    handshakes: dict[str, int]
    problems: tuple[str, ...]
    drift: tuple[str, ...]
    to_do: tuple[str, ...]
    last_run: str | None


class Explanation(Struct, frozen=True, omit_defaults=True):
    """All about one link, or about one peer and its links; and which peers list says so.

    ``digest`` is the SHA-256 of that list in hex; ``source`` and ``revision`` are as in RunHeader.
    """

    peers: tuple[ExplainedPeer, ...]
    links: tuple[ExplainedLink, ...]
    signed: Signed | None = None
    source: str = ""
    revision: int = 0
    digest: str = ""


def run(options: Options, arguments: Namespace) -> int:
    with open_session(options, "explain", read_only=True, peers=True) as session:
        explainer = _Explainer(session)
        explanation = explainer.explain(arguments.what)
        warn(*(f"warning: {line}" for line in standing(session, explainer.change)))
        if (old := session.registry.old) is not None:
            warn(old.told)
    print_either(explanation, _lines(explanation), as_json=arguments.json)
    return DONE


class _Explainer:
    """Explains links and peers of one session."""

    def __init__(self, session: Session) -> None:
        self._session = session
        wanted = wanted_by(session)
        registry = session.registry
        self._peers = {peer.public_key: peer for peer in registry.peers}
        self._doubts = registry.doubts
        self._describe = registry.document.describe
        self._routes = Routes(
            session.config,
            session.public_key,
            wanted.plan,
            registry.addresses,
            registry.unresolved,
            self._locate,
        )
        self._wanted = wanted.plan.topology.links
        self._observation = session.observation
        self.change = session.compare(wanted.goal)

    def explain(self, what: str) -> Explanation:
        """Explain the link of this name, or the peer of this name or public key.

        Raises ConfigError if there is no such link or peer.
        """
        known = self._session.known
        if what in self._names():
            names = {what}
            keys = {peer.public_key for link in self._links(what) for peer in link.peers}
            keys |= {key for key, peer in self._peers.items() if self._may_have(peer, what)}
        else:
            keys = self._keys(what)
            names = set().union(*(links_of_peer(key, known, self._observation) for key in keys))
            names |= {n for n, link in self._wanted.items() if any(map(link.peer, keys))}
        peers = [self._peer(key) for key in sorted(keys)]
        peers.sort(key=lambda peer: not any(route.link for route in peer.routes))
        links = tuple(self._link(name) for name in sorted(names))
        found = self._session.registry
        which = (found.signed, found.document.name, found.revision, found.digest())
        return Explanation(tuple(peers), links, *which)

    def _names(self) -> set[str]:
        """The names of all links that there are, were, or should be, and of other interfaces."""
        seen = self._observation
        problems = {problem.link for problem in self.change.problems if problem.link is not None}
        known = {link.name for link in self._session.known.links()}
        return {*self._wanted, *known, *seen.links, *seen.unread, *seen.others, *problems}

    def _links(self, name: str) -> Iterator[Link]:
        """The link of this name as it is wanted, as it was applied, and as it is."""
        found = self._observation.links.get(name)
        seen = None if found is None else found.link
        for link in (self._wanted.get(name), self._session.known.topology.links.get(name), seen):
            if link is not None:
                yield link

    def _may_have(self, peer: Peer, name: str) -> bool:
        """Whether the peer asks for a link of this name."""
        return any(
            transport.link_name(endpoint.send_port) == name
            for endpoint in peer.endpoints
            for transport in self._session.config.transports
            if transport.address_family == endpoint.address_family
        )

    def _keys(self, what: str) -> set[str]:
        """The public keys of the peers of this name, or with this key or beginning of a key."""
        links = (*self._session.known.links(), *(s.link for s in self._observation.all_links()))
        keys = {*self._peers, *(peer.public_key for link in links for peer in link.peers)}
        if what in keys:
            return {what}
        if named := {key for key, peer in self._peers.items() if peer.name == what}:
            return named
        begun = {key for key in keys if key.startswith(what)}
        if begun and len(what) >= _SHORTEST_KEY:
            return begun
        raise ConfigError(
            f"{shown(what)} is no link of this node, and no name or public key of a peer in "
            f"{self._session.registry.document.name}",
            *(self._describe(doubt.problem) for doubt in self._doubts[:FEW]),
        )

    def _peer(self, key: str) -> ExplainedPeer:
        peer = self._peers.get(key)
        skipped = (doubt for doubt in self._doubts if doubt.entry.public_key == key)
        return ExplainedPeer(
            public_key=key,
            name=None if peer is None else peer.name,
            remarks={} if peer is None else dict(peer.remarks),
            is_in_registry=peer is not None,
            routes=() if peer is None else self._routes.to(peer),
            problems=tuple(self._describe(doubt.problem) for doubt in skipped),
        )

    def _link(self, name: str) -> ExplainedLink:
        seen = self._observation.links.get(name)
        change = self.change
        return ExplainedLink(
            name=name,
            settings=settings_of(
                self._wanted.get(name),
                self._session.known.topology.links.get(name),
                None if seen is None else seen.link,
                self._sources(name),
            ),
            handshakes={} if seen is None else dict(seen.handshakes),
            problems=tuple(obstacles(name, self._observation, change.problems, change.strangers)),
            drift=tuple(event_lines([event for event in change.drift if event.name == name])),
            to_do=tuple(event_lines([event for event in change.events if event.name == name])),
            last_run=self._last_run(name),
        )

    def _sources(self, name: str) -> dict[str, str]:
        """Where each setting of a wanted link comes from."""
        link = self._wanted.get(name)
        peer = None if link is None else self._peers[link.peers[0].public_key]
        for route in () if peer is None else self._routes.to(peer):
            if route.link == name and route.transport is not None and peer is not None:
                found = sources_of(self._session.config, route.transport, peer, route.where)
                return {setting: self._locate(source) for setting, source in found.items()}
        return {}

    def _locate(self, source: Source) -> str:
        if source.document == "peers":
            return self._session.registry.document.location(source.path)
        if source.document == "":
            return source.text
        document = self._session.loaded.document()
        path = document.spelt(source.path)
        return "default" if path is None else document.location(path)

    def _last_run(self, name: str) -> str | None:
        """The last run that changed the link, in words."""
        for run in reversed(self._session.journal.runs(scope=self._session.name)):
            if any(event.name == name for event in done_events(run)):
                when = f"run {run.id} ({run.header.command}) at {written(run.header.started_at)}"
                which = run.header.peers_list
                return f"{when}, by the peers list {which}" if which else when
        return None


def _lines(explanation: Explanation) -> Iterator[str]:
    which = which_list(explanation.source, explanation.revision, explanation.signed)
    yield f"peers list {which}, sha256 {explanation.digest}"
    for peer in explanation.peers:
        yield from _peer_lines(peer)
    for link in explanation.links:
        yield ""
        yield from _link_lines(link)
    if not explanation.links:
        yield "there is no link to it, and rait up would make none"


def _peer_lines(peer: ExplainedPeer) -> Iterator[str]:
    yield f"peer {peer.name} ({peer.public_key})" if peer.name else f"peer {peer.public_key}"
    if not peer.is_in_registry:
        yield "  is not in the peers list, or its entry cannot be read"
    for key, value in peer.remarks.items():
        yield f"  remark {key} = {value}"
    for route in peer.routes:
        yield f"  {route.where}: {_route_text(route)}"
        yield from (f"    {note}" for note in route.notes)
    yield from (f"  {problem}" for problem in peer.problems)


def _route_text(route: Route) -> str:
    address = route.address or "without an address"
    if route.resolved and route.resolved != (route.address,):
        address += f" (which is {', '.join(route.resolved)})"
    link = f"link {route.link}" if route.link else "no link"
    return f"{route.address_family} {address}, SendPort {route.send_port}: {link}"


def _link_lines(link: ExplainedLink) -> Iterator[str]:
    yield f"link {link.name}"
    is_known = any(s.wanted or s.applied or s.machine for s in link.settings)
    head = ("SETTING", "WANTED", "FROM", "APPLIED", "MACHINE")
    rows = [
        (s.name, s.wanted or "-", s.source or "-", _beside(s, s.applied), _beside(s, s.machine))
        for s in link.settings
    ]
    yield from (f"  {line}" for line in (table([head, *rows]) if is_known else ()))
    for key, then in link.handshakes.items():
        when = written(then * 10**9) if then else "never"
        yield f"  last handshake with {key}: {when}"
    yield f"  last changed by {link.last_run}" if link.last_run else "  no run has changed it"
    yield from (f"  found: {line}" for line in link.drift)
    yield from (f"  problem: {problem}" for problem in link.problems)
    yield from (f"  rait up would do: {line}" for line in link.to_do)
    if not link.to_do:
        yield "  rait up would change nothing"


def _beside(setting: Setting, value: str | None) -> str:
    """A value in the table; = stands for the wanted one."""
    return "=" if value is not None and value == setting.wanted else value or "-"

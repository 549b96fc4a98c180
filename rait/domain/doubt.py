"""What becomes of live links whose entry in the registry was skipped.

Others write the registry, and a link must not go because somebody mistyped a port. So:

1. A peer whose entry cannot be read is unknown, and not gone. A link stays as it is, with its peer,
   while an unreadable entry has the peer's key or, where the key cannot be read, the port that the
   link is named after: also if a newcomer asks for that port.
2. Such a link keeps its listen port too: no other link gets the port.
3. The VRF that the link is in stays, and so do the rules for its fwmark if no other link has it.
4. rait names each link that loses its peer while a skipped entry is or may be that of the peer: the
   entry can be read but its link cannot be made, or nothing tells whose entry it is.
5. Where the whole list is an old one (fallback.py), nothing is removed, whatever the reason: a link
   that would be removed, made again or parted from a peer stays as it is, and so does each VRF and
   rule. New links are made, and links that stay get new settings, but no other endpoint while the
   session is alive.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

from msgspec import structs

from rait.domain.change import Change, Describe, Doubt, Doubts
from rait.domain.config.schema import Transport
from rait.domain.errors import Problem, SkippedEntry, few
from rait.domain.topology import EMPTY, Link, Topology
from rait.domain.vrf import with_needs_of

_BY_AN_OLD_LIST = "the peers list is old, and would remove it, make it again or take its peer"


def with_kept(change: Change) -> Change:
    """Keep the links that lack their preshared key, and those whose entry was skipped."""
    if change.goal.flaws:
        change = _keep_unready(change)
    doubts = change.goal.doubts
    return change if doubts is None else keep_doubtful(change, doubts)


def _keep_unready(change: Change) -> Change:
    """Keep each link for which there is no preshared key, although a policy wants one."""
    wanted = change.goal.topology or EMPTY
    unready = {flaw.link for flaw in change.goal.flaws} - wanted.links.keys()
    return _keep(change, [name for name in change.observed.links if name in unready])


def keep_doubtful(change: Change, doubts: Doubts) -> Change:
    """Keep the links that an unreadable entry may belong to, and name those that are lost.

    By an old list, keep all. If the links that stay make too many, there is an error that is of no
    link.
    """
    observed, desired = change.observed, change.desired
    is_losing = _loses_its_peer if doubts.old is None else _loses_anything
    losing = {
        name: link
        for name, link in observed.links.items()
        if is_losing(link, desired.links.get(name))
    }
    index = _Index(doubts.entries if losing else (), doubts.transports)
    kept = dict.fromkeys(losing, _BY_AN_OLD_LIST)
    if doubts.old is None:
        kept = _unread(losing, desired, index, doubts.describe)
    left = (Problem(f"left as it is, as {why}", "warning", (), n) for n, why in kept.items())
    change = _keep(structs.replace(change, problems=(*change.problems, *left)), kept)
    became, problems = change.desired, change.problems
    # Some of the others stay all the same, as a link that stays has the port they were to get.
    lost = {n: link for n, link in losing.items() if _loses_its_peer(link, became.links.get(n))}
    losses = _losses(lost, index, doubts.describe)
    if doubts.old is not None:
        vrfs, rules = {**became.vrfs, **observed.vrfs}, {**became.rules, **observed.rules}
        became = structs.replace(became, vrfs=vrfs, rules=rules)
    if len(became.links) > doubts.max_links and became.links.keys() - observed.links.keys():
        problems = (*problems, _too_many(len(became.links), doubts.max_links))
    return structs.replace(change, desired=became, problems=problems, losses=tuple(losses))


def _unread(
    losing: Mapping[str, Link], desired: Topology, index: _Index, describe: Describe
) -> dict[str, str]:
    """The links that stay, as an entry that cannot be read may be theirs, each with the reason."""
    kept = {}
    for name, link in losing.items():
        unread = index.of_peer(link) or index.of_port(link)
        if unread is not None:
            why = f"the entry of its peer cannot be read: {describe(unread.problem)}"
            if (newcomer := desired.links.get(name)) is not None and newcomer.peers:
                key = newcomer.peers[0].public_key
                why += f"; meanwhile peer {key}, which has its port, gets no link"
            kept[name] = why
    return kept


def _losses(losing: Mapping[str, Link], index: _Index, describe: Describe) -> list[str]:
    """A line for each link that loses its peer to a skipped entry, or may do so."""
    losses: list[str] = []
    unexplained: list[str] = []
    for name, link in losing.items():
        lost = index.of_peer(link, readable=True)
        if lost is None:
            unexplained.append(name)
        else:
            why = describe(lost.problem)
            losses.append(f"link {name} loses its peer, as the entry of the peer is skipped: {why}")
    if index.anyone and unexplained:
        losses.append(_perhaps(unexplained) + describe(index.anyone[0].problem))
    return losses


def _too_many(links: int, max_links: int) -> Problem:
    return Problem(
        f"there would be {links} links, counting those that stay as they are, but "
        f"max_links is {max_links}, so nothing is done. If the peers list is right, "
        "raise max_links in rait.conf"
    )


class _Index:
    """Finds the doubt about a link in one look-up: there may be very many of both."""

    def __init__(self, doubts: Sequence[Doubt], transports: Sequence[Transport]) -> None:
        self._transports = transports
        self._by_key: dict[tuple[str, bool], list[Doubt]] = {}
        self._by_name: dict[str, Doubt] = {}
        self.anyone: list[Doubt] = []
        for doubt in doubts:
            entry = doubt.entry
            if entry.public_key is not None:
                self._by_key.setdefault((entry.public_key, doubt.readable), []).append(doubt)
            elif entry.send_port is None:
                self.anyone.append(doubt)
            else:
                for prefix in self._prefixes(entry):
                    self._by_name.setdefault(f"{prefix}{entry.send_port}", doubt)

    def of_peer(self, link: Link, *, readable: bool = False) -> Doubt | None:
        """The skipped entry of the link's peer: an unreadable one, or one that is ``readable``."""
        keys = ((peer.public_key, readable) for peer in link.peers)
        doubts = (doubt for key in keys for doubt in self._by_key.get(key, ()))
        return next((d for d in doubts if self._fits(d.entry, link.name)), None)

    def of_port(self, link: Link) -> Doubt | None:
        """The entry without a readable key, with the port that the link is named after."""
        return self._by_name.get(link.name)

    def _fits(self, entry: SkippedEntry, name: str) -> bool:
        """Whether the link is of a transport that the entry may be for."""
        return any(
            name.startswith(prefix) and name[len(prefix) :].isdecimal()
            for prefix in self._prefixes(entry)
        )

    def _prefixes(self, entry: SkippedEntry) -> list[str]:
        return [
            transport.ifprefix
            for transport in self._transports
            if entry.family in (None, transport.address_family)
        ]


def _loses_its_peer(link: Link, desired: Link | None) -> bool:
    if desired is None:
        return True
    # rait's links have one peer. Where there are several, somebody added the others.
    return bool(link.peers) and not any(desired.peer(peer.public_key) for peer in link.peers)


def _loses_anything(link: Link, desired: Link | None) -> bool:
    if desired is None or not link.origin.may_become(desired.origin):
        return True
    return any(desired.peer(peer.public_key) is None for peer in link.peers)


def _perhaps(names: list[str]) -> str:
    unread = "an entry that cannot be read may be that of"
    if len(names) == 1:
        return f"link {names[0]} loses its peer, and {unread} this peer: "
    return f"{len(names)} links ({few(names)}) lose their peers, and {unread} one of them: "


def _keep(change: Change, kept: Iterable[str]) -> Change:
    """The change with these links as they are, and the VRFs and rules they need.

    The new problems are those of other links, whose ports they keep.
    """
    observed, standing, links = change.observed, set(kept), dict(change.desired.links)
    links |= {name: observed.links[name] for name in standing}
    problems = _yield_ports(observed.links, links, standing)
    staying = (observed.links[name] for name in standing)
    desired = structs.replace(with_needs_of(staying, observed, change.desired), links=links)
    return structs.replace(change, desired=desired, problems=(*change.problems, *problems))


def _yield_ports(
    observed: Mapping[str, Link], desired: dict[str, Link], standing: set[str]
) -> list[Problem]:
    """Leave out each link that would take the port of a link that stays.

    Such a link stays as it is itself, if it is there. Then it keeps its own port too, which yet
    another link may want: so this goes on until no port clashes.
    """
    problems = []
    ports = {desired[name].device.listen_port: name for name in standing}
    ports.pop(0, None)
    while ports:
        clashing = [
            (name, holder)
            for name, link in desired.items()
            if name not in standing and (holder := ports.get(link.device.listen_port)) is not None
        ]
        ports = {}
        for name, holder in clashing:
            why = f"it would listen on the port of {holder}, which is left as it is"
            problems.append(Problem(why, "error", (), name))
            old = observed.get(name)
            if old is None:
                del desired[name]
                continue
            desired[name] = old
            standing.add(name)
            if old.device.listen_port:
                ports[old.device.listen_port] = name
    return problems

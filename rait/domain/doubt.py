"""What becomes of live links whose entry in the registry was skipped.

The registry is written by others, and a link must not go because somebody mistyped a port. So:

1. What cannot be read is unknown, and not gone. A link stays as it is, with its peer, while an
   entry that cannot be read has its peer's key or, where the key cannot be read, the port that
   the link is named after.
2. A link that stays so keeps its listen port too: no other link gets it.
3. What it needs stays with it: the VRF that it is in, and the rules for a fwmark that no other link
   has any more.
4. rait names each link that loses its peer while an entry that was skipped is or may be that of
   the peer: the entry can be read but its link cannot be made, or nothing tells whose entry it is.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence

from msgspec import Struct, structs

from rait.domain.config.schema import Transport
from rait.domain.errors import Problem, SkippedEntry, few
from rait.domain.topology import Link, Topology
from rait.domain.vrf import isolation_of


class Doubt(Struct, frozen=True):
    """An entry that was skipped, and the problem with it.

    ``readable`` says that all of the entry could be read, but its link cannot be made.
    """

    entry: SkippedEntry
    problem: Problem
    readable: bool = False


Describe = Callable[[Problem], str]
"""Makes one line of a problem, with its place in the registry."""


class Doubts(Struct, frozen=True):
    """The entries of a registry that were skipped, and the transports of the links they may be for.

    With the links that stay for them there may be no new ones beyond ``max_links``.
    """

    entries: Sequence[Doubt]
    transports: Sequence[Transport]
    describe: Describe
    max_links: int


class Kept(Struct, frozen=True):
    """What is desired with the links in doubt, a warning for each, and a line for each loss."""

    desired: Topology
    problems: tuple[Problem, ...] = ()
    losses: tuple[str, ...] = ()


def doubts_of(problems: Iterable[Problem], *, readable: bool = False) -> tuple[Doubt, ...]:
    """The entries that these problems leave out."""
    return tuple(
        Doubt(entry, problem, readable) for problem in problems for entry in problem.skipped
    )


def keep_doubtful(observed: Topology, desired: Topology, doubts: Doubts) -> Kept:
    """Keep the links that an unreadable entry may belong to, and name those that are lost.

    If that makes too many links, there is an error of no link.
    """
    losing = {
        name: link
        for name, link in observed.links.items()
        if _loses_its_peer(link, desired.links.get(name))
    }
    kept: dict[str, str] = {}
    losses: list[str] = []
    if losing:
        kept, losses = _sort_out(losing, desired, doubts)
    became, problems = _with_kept(observed, desired, kept)
    if len(became.links) > doubts.max_links and became.links.keys() - observed.links.keys():
        problems.append(_too_many(len(became.links), doubts.max_links))
    return Kept(became, tuple(problems), tuple(losses))


def _sort_out(
    losing: Mapping[str, Link], desired: Topology, doubts: Doubts
) -> tuple[dict[str, str], list[str]]:
    """The links that stay, each with the reason, and a line for each loss of the others."""
    describe, index = doubts.describe, _Index(doubts.entries, doubts.transports)
    kept: dict[str, str] = {}
    losses: list[str] = []
    unexplained: list[str] = []
    for name, link in losing.items():
        perhaps = index.of_port(link)
        # If another peer gets the link, that peer's entry for the port can be read: then an
        # unreadable entry that has only the port does not keep the link.
        unread = index.of_peer(link) or (None if name in desired.links else perhaps)
        if unread is not None:
            kept[name] = describe(unread.problem)
        elif (lost := index.of_peer(link, readable=True)) is not None:
            why = describe(lost.problem)
            losses.append(f"link {name} loses its peer, as the entry of the peer is skipped: {why}")
        elif perhaps is not None:
            losses.append(_perhaps([name]) + describe(perhaps.problem))
        else:
            unexplained.append(name)
    if index.anyone and unexplained:
        losses.append(_perhaps(unexplained) + describe(index.anyone[0].problem))
    return kept, losses


def _too_many(links: int, max_links: int) -> Problem:
    return Problem(
        f"there would be {links} links, counting those whose entries cannot be read, but "
        f"max_links is {max_links}, so nothing is done. If the peers list is right, "
        "raise max_links in rait.conf"
    )


class _Index:
    """Finds the doubt about a link without a search through all: there may be very many of both."""

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
        """The entry of the link's peer: one that cannot be read, or whose link cannot be made."""
        keys = ((peer.public_key, readable) for peer in link.peers)
        doubts = (doubt for key in keys for doubt in self._by_key.get(key, ()))
        return next((d for d in doubts if self._fits(d.entry, link.name)), None)

    def of_port(self, link: Link) -> Doubt | None:
        """The entry whose key could not be read, with the port that the link is named after."""
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
    # Of several peers, those that are not rait's were added by somebody else.
    stays = desired is not None and any(desired.peer(peer.public_key) for peer in link.peers)
    return desired is None or bool(link.peers and not stays)


def _perhaps(names: list[str]) -> str:
    unread = "an entry that cannot be read may be that of"
    if len(names) == 1:
        return f"link {names[0]} loses its peer, and {unread} this peer: "
    return f"{len(names)} links ({few(names)}) lose their peers, and {unread} one of them: "


def _with_kept(
    observed: Topology, desired: Topology, kept: Mapping[str, str]
) -> tuple[Topology, list[Problem]]:
    """What is desired with these links as they are, and with what they need."""
    links = dict(desired.links)
    links |= {name: observed.links[name] for name in kept}
    problems = [
        Problem(
            f"left as it is, as the entry of its peer cannot be read: {why}",
            "warning",
            (),
            name,
        )
        for name, why in kept.items()
    ]
    standing = set(kept)
    problems += _yield_ports(observed.links, links, standing)
    staying = (observed.links[name] for name in standing)
    isolation = isolation_of(staying, observed, desired)
    became = structs.replace(desired, links=links, vrfs=isolation.vrfs, rules=isolation.rules)
    return became, problems


def _yield_ports(
    observed: Mapping[str, Link], desired: dict[str, Link], standing: set[str]
) -> list[Problem]:
    """Leave out each change that would take the port of a link that stays; its link stays, too."""
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

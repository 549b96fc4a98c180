"""Whose a link is: what of all that is observed this configuration may touch.

Links of one namespace may be of several configurations, which may even share a group and a key, of
other programs, and of people. The rules, in their order:

1. A link is *among ours* if it is in our group in our target, or in the group and namespace in
   which the journal knows a link of its name (the configuration has changed since), or in a group
   of links on their way out.
2. A link among ours that the journal has as another configuration's (``claimed``) is not ours,
   unless it is the very link that we made, with the key that we have now. With a former key it may
   be a link that another configuration has taken over since: one that was moved from this path.
3. Any other link among ours is ours if it has our key, or a key that was ours, or if the journal
   knows it by its name.
4. The rest are strangers: rait names them to the user, and leaves them alone.
5. A link that would be among ours but cannot be read, and a link that was made in a namespace that
   cannot be looked at, are ours and unknown: nothing is inferred of them.
6. Of two links of ours with one name neither is touched, as events know a link by its name.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping

from msgspec import Struct, structs

from rait.domain.backend import Observation, ObservedLink, UnreadLink
from rait.domain.config.schema import PRIVATE_GROUPS, Config
from rait.domain.errors import Problem
from rait.domain.events import LinkRemoved
from rait.domain.history import LastKnown
from rait.domain.topology import Link


class Scope(Struct, frozen=True):
    """Which links are this node's: those in its ifgroup in its target namespace, with its key.

    Several configurations may share the group and the namespace, so ``claimed`` maps each link
    that the journal has as another configuration's to that configuration. ``public_key`` is "" in
    a command that does not read the private key.
    """

    public_key: str
    netns: str
    ifgroup: int
    claimed: Mapping[str, str] = {}


def scope_of(config: Config, public_key: str) -> Scope:
    """What makes a link one of the node with this configuration and key."""
    target, group = config.isolation.target_netns, config.isolation.ifgroup
    return Scope(public_key=public_key, netns=target, ifgroup=group)


class Stranger(Struct, frozen=True):
    """A WireGuard link that is among ours and not ours, and why it is not.

    ``claimed``: the journal knows whose link it is.
    """

    link: str
    why: str
    claimed: bool


class Holdings(Struct, frozen=True):
    """The links of ours by name, and the strangers beside them.

    ``unknown`` are links of ours that cannot be read or told apart, each with the reason.
    """

    links: Mapping[str, ObservedLink]
    unknown: Mapping[str, str]
    strangers: tuple[Stranger, ...]


def holdings(observation: Observation, known: LastKnown, scope: Scope) -> Holdings:
    """Sort out what is ours, by the rules above."""
    unread = unread_of_ours(observation, known, scope)
    ours: dict[str, ObservedLink] = {}
    twice: dict[str, str] = {}
    for seen in observation.all_links():
        name = seen.link.name
        if name in unread or not is_ours(seen, known, scope):
            continue
        if name in ours:
            places = sorted(each.link.origin.instance for each in (ours[name], seen))
            twice[name] = (
                f"there are two links of this name, in the namespaces {' and '.join(places)}: "
                "remove the one that is not in the target"
            )
        ours.setdefault(name, seen)
    rest = (seen for name, seen in observation.links.items() if ours.get(name) is not seen)
    return Holdings(
        {name: seen for name, seen in ours.items() if name not in twice},
        unread | twice,
        strangers_among(rest, known, scope),
    )


def occupied(
    wanted: Mapping[str, Link], ours: Holdings, observation: Observation
) -> Iterator[Problem]:
    """A problem for each wanted link whose name something has that is not ours."""
    strangers = {stranger.link: stranger.why for stranger in ours.strangers}
    for name, link in wanted.items():
        there = ours.links.get(name)
        if name in ours.unknown or (there is not None and is_in_one_place(there.link, link)):
            continue
        kind = observation.others.get(name)
        foreign = observation.links.get(name)
        if foreign is not None and not is_in_one_place(foreign.link, link):
            foreign = None
        if foreign is not None and name in strangers:
            text = (
                f"a WireGuard interface that is not ours already has this name ({strangers[name]})"
                "; rename or remove it"
            )
        elif kind is not None:
            text = f"an interface of kind {kind or 'physical'} already has this name; rename it"
        elif foreign is not None:
            text = (
                f"a WireGuard interface of group {foreign.link.settings.group}, so not of ours, "
                "already has this name; rename it, or move it into our ifgroup"
            )
        else:
            continue
        yield Problem(f"{text}, or use another ifprefix", "error", (), name)


def with_found(known: LastKnown, observation: Observation, scope: Scope) -> LastKnown:
    """What is known or, where the journal knows no link at all, the links of ours that are there.

    A journal may be lost, or begun anew. The peers of our links have their ports all the same.
    """
    if known.topology.links:
        return known
    found = {name: seen.link for name, seen in holdings(observation, known, scope).links.items()}
    return structs.replace(known, topology=structs.replace(known.topology, links=found))


def is_ours(observed: ObservedLink, known: LastKnown, scope: Scope) -> bool:
    """Whether a WireGuard link may be touched."""
    return _is_among_ours(observed, known, scope) and not _why_not_ours(observed, known, scope)


def strangers_among(
    links: Iterable[ObservedLink], known: LastKnown, scope: Scope
) -> tuple[Stranger, ...]:
    """Those of the links that are among ours and not ours, with the reason for each."""
    found = [
        Stranger(seen.link.name, why, seen.link.name in scope.claimed)
        for seen in links
        if _is_among_ours(seen, known, scope) and (why := _why_not_ours(seen, known, scope))
    ]
    return tuple(sorted(found, key=lambda stranger: stranger.link))


def doubtful(observation: Observation, known: LastKnown, scope: Scope) -> dict[str, str]:
    """The links that another configuration may have made, as far as our own runs tell.

    In nearly all runs there are none. About these links the runs of others in the journal have to
    be asked. Each comes with the instance of the namespace that it is in, "" where that is
    unknown, or where several links have the name.
    """
    found: dict[str, str] = {}
    for seen in observation.all_links():
        name, instance = seen.link.name, seen.link.origin.instance
        if not _is_made_by_us(seen, known, scope) and _is_among_ours(seen, known, scope):
            found[name] = instance if name not in found else ""
    for name, unread in observation.unread.items():
        if name not in known.topology.links and _may_be_ours(name, unread, known, scope):
            found[name] = ""
    return found


def unread_of_ours(observation: Observation, known: LastKnown, scope: Scope) -> dict[str, str]:
    """The links that seem to be ours but cannot be read, each with the reason."""
    return {
        name: unread.why
        for name, unread in observation.unread.items()
        if name not in scope.claimed and _may_be_ours(name, unread, known, scope)
    } | {link.name: observation.lost[link.origin.instance] for link in _lost(observation, known)}


def is_in_place(link: Link, last: Link) -> bool:
    """Whether a link is in the namespace of one that the journal knows.

    Where the journal does not know the instance of that namespace, the spelling decides.
    """
    here, there = link.origin, last.origin
    return here.netns == there.netns and there.instance in ("", here.instance)


def is_in_one_place(one: Link, other: Link) -> bool:
    """Whether two links are in one instance of one namespace."""
    return (one.origin.netns, one.origin.instance) == (other.origin.netns, other.origin.instance)


def _known_as(name: str, netns: str, known: LastKnown) -> list[Link]:
    """The links that we made, or may have made, under this name in this namespace."""
    sources = (known.topology.links, known.leftover_links)
    found = (last for source in sources if (last := source.get(name)) is not None)
    return [last for last in found if last.origin.netns == netns]


def _is_made_by_us(observed: ObservedLink, known: LastKnown, scope: Scope) -> bool:
    """Whether we made a link of this name here, and this one has our key.

    Where our key is unknown, the one that we gave it will do. A link without a key may have been
    left half made by another configuration.
    """
    link, key = observed.link, observed.link.device.public_key
    return bool(key) and any(
        key == (scope.public_key or last.device.public_key) and is_in_place(link, last)
        for last in _known_as(link.name, link.origin.netns, known)
    )


def _is_among_ours(observed: ObservedLink, known: LastKnown, scope: Scope) -> bool:
    """Rule 1. Links on their way out are in a private group, whatever group they had before."""
    link, key = observed.link, observed.link.device.public_key
    group, is_in_target = link.settings.group, link.origin.netns == scope.netns
    if is_in_target and group == scope.ifgroup:
        return True
    is_leaving = group >= PRIVATE_GROUPS
    if is_leaving and is_in_target and key == scope.public_key:
        return True
    return any(
        (is_leaving or group == last.settings.group)
        and key in ("", last.device.public_key, scope.public_key)
        for last in _known_as(link.name, link.origin.netns, known)
    )


def _why_not_ours(observed: ObservedLink, known: LastKnown, scope: Scope) -> str:
    """Rules 2 to 4: why a link that is among ours is not ours; "" if it is."""
    link, key = observed.link, observed.link.device.public_key
    claimant = scope.claimed.get(link.name)
    # Where several links have the name, the claim is not about the one that we made.
    if claimant is not None and not _is_made_by_us(observed, known, scope):
        return f"made by another configuration, {claimant}, according to the journal"
    if scope.public_key in ("", key) or _known_as(link.name, link.origin.netns, known):
        return ""
    if not key:
        return "without a key, and the journal does not say that this configuration made it"
    if any(key == last.device.public_key for last in known.links()):
        return ""
    return f"public key {key} is neither this node's key nor a former one in the journal"


def _may_be_ours(name: str, unread: UnreadLink, known: LastKnown, scope: Scope) -> bool:
    if unread.netns == scope.netns and unread.group == scope.ifgroup:
        return True
    return any(last.settings.group == unread.group for last in _known_as(name, unread.netns, known))


def _lost(observation: Observation, known: LastKnown) -> Iterator[Link]:
    """The links that are, or may be, in a namespace that could not be looked at."""
    if not observation.lost:
        return
    # An unfinished run may have removed a link and made it again in a namespace that can be looked
    # at. Then the former link is not in the namespace that is out of reach.
    removed = {event.name for event in known.leftover if isinstance(event, LinkRemoved)}
    made_again = {
        name
        for name, new in known.leftover_links.items()
        if name in removed
        and any(is_in_one_place(seen.link, new) for seen in observation.named(name))
    }
    for link in (*known.leftover_links.values(), *known.topology.links.values()):
        if link.origin.instance in observation.lost and link.name not in made_again:
            yield link

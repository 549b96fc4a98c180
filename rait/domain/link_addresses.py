"""Which of a link's addresses are rait's: what others add to a link is not seen.

1. An address is ours if it is wanted, if the journal knows it, or if an unfinished run may have set
   it. So what rait sets and is not wanted any more goes, and what others add stays.
2. The link-local address that rait makes up (``LinkSettings.address``) is another matter: whichever
   is there is kept, as a user may want their own. Of several, the one that the journal knows is
   seen, else the wanted one, else the first.
3. Where a policy gives a link-local address, it is one of ``LinkSettings.addresses``, by rule 1.
   Then the one that rait had made up goes, and those of others stay.
"""

from __future__ import annotations

from collections.abc import Iterable

from msgspec import structs

from rait.domain.events import Event, LinkAdded, LinkUpdated
from rait.domain.topology import Link, LinkSettings, is_link_local
from rait.domain.vrf import FAMILIES


def own_settings(
    seen: Link, last: Link | None, wanted: Link | None, added: frozenset[str]
) -> LinkSettings:
    """The settings of a link with those addresses that are ours.

    ``last`` is the link as the journal knows it, and ``added`` are addresses that an unfinished run
    may have given to it.
    """
    nothing = structs.replace(seen.settings, address=None, addresses=())
    known = nothing if last is None else last.settings
    goal = nothing if wanted is None else wanted.settings
    there, ours = seen.settings.all_addresses, added.union(known.addresses, goal.addresses)
    rest = [each for each in there if is_link_local(each) and each not in ours]
    if gives_link_local(goal):
        rest = [each for each in rest if each in _made_up(seen)]
    best = (each for each in (known.address, goal.address, *rest) if each in rest)
    mine = tuple(sorted(ours.intersection(there)))
    return structs.replace(seen.settings, address=next(best, None), addresses=mine)


def gives_link_local(settings: LinkSettings) -> bool:
    """Whether a policy gives a link-local address, instead of the one that rait makes up."""
    return any(map(is_link_local, settings.addresses))


def given_by(events: Iterable[Event]) -> dict[str, frozenset[str]]:
    """The addresses that events give to each link, by its name."""
    found: dict[str, frozenset[str]] = {}
    for event in events:
        if isinstance(event, LinkAdded | LinkUpdated):
            after = event.after if isinstance(event, LinkUpdated) else event.link.settings
            found[event.name] = found.get(event.name, frozenset()).union(after.addresses)
    return found


def _made_up(link: Link) -> frozenset[str]:
    """The link-local addresses that rait makes up for a link with these keys."""
    from rait.domain.plan import link_local

    own = link.device.public_key
    return frozenset(link_local(own, peer.public_key, f) for peer in link.peers for f in FAMILIES)

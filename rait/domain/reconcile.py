"""What to do about what there is: all that rait decides about a node, as one pure function.

``reconcile`` gets what the machine shows, what a run wants, what the journal last knew and which
links are this node's. It gives a Change: the topology that there is of ours, the one that shall
be, and the events between the two. Every command goes through ``reconcile``. ``up`` wants the
planned topology, ``down`` none, ``replay`` and ``rollback`` one of the past, and ``babeld sync``
the links as they are. ``plan``, also for another node's exported state, only shows the Change.
After a run in which events failed, ``reconcile`` runs once more, as if that run were unfinished:
the leftover that it finds then is what the failed events did.

Theory of operation. ``diff`` is strict: whatever differs between two topologies is an event. But
not every difference is to be written, so both topologies are made to agree wherever nothing is to
be done. The steps, in their order:

1. *Ours* is sorted out from what is of others (ownership.py). A link of ours that cannot be read
   counts as the journal knows it, in both topologies.
2. *Occupied* names are found (ownership.py). Where something that is not ours has the name of a
   wanted link, the link cannot be, and a problem says why.
3. Each link of ours is put into the form in which diff shall see it (views.py). Its transit
   namespace is the one in the journal where the machine cannot tell. A port that the kernel chose
   is port 0. Notes are as the journal has them, and so is the digest of a preshared key that was
   made with another private key of ours. A link-local address that is there is kept, unless a
   policy gives one, and addresses that others added are not seen (own_settings). An endpoint
   differs only where the wanted one is not the one last applied, or where the session is dead
   (endpoints.py). A link that has to be made again takes its endpoint along, if no better one is
   known.
4. VRFs and rules come and go with the links that need them (vrf.py).
5. A link for which a policy wants a preshared key that is not to be had stays as it is, or is not
   made. A link whose entry in the peers list was skipped stays if the entry cannot be read, and all
   that there is stays while an old list stands in for the newest (doubt.py).
6. babeld's interfaces shall be the links that are up (babel.py). In a run that does not ask
   babeld, both topologies have the interfaces that the journal knows.
7. What differs from the journal's last knowledge is *drift*. The part of it that an unfinished run
   did is *leftover* (aftermath.py); others did the rest. Events of an unfinished run that cannot be
   looked at now either are *carried* on to the next run.
8. A rollback changes no other links than the run did that it takes back.
9. A preshared key of which the run has only the digest cannot be set, so it is not desired
   (preshared.py).
"""

from __future__ import annotations

from collections.abc import Container, Iterable
from typing import TYPE_CHECKING

from msgspec import structs

from rait.domain.backend import Observation, ObservedLink
from rait.domain.change import Change, Goal
from rait.domain.diff import diff
from rait.domain.errors import Problem
from rait.domain.events import Event, LinkAdded, LinkUpdated, PeerUpdated, ToBabeld
from rait.domain.history import LastKnown
from rait.domain.ownership import Holdings, Scope, holdings, is_in_place, occupied
from rait.domain.topology import EMPTY, Link
from rait.domain.vrf import reconcile_isolation, with_needs_of

if TYPE_CHECKING:
    from rait.domain.babel import BabeldState


def reconcile(
    observation: Observation,
    goal: Goal,
    known: LastKnown,
    scope: Scope,
    babeld: BabeldState | None = None,
) -> Change:
    """Decide what to do for what is observed to become what is wanted; see the steps above.

    ``babeld`` is None in a run that does not ask babeld.
    """
    ours = holdings(observation, known, scope)
    change = _compare(observation, goal, known, ours, scope.public_key)
    if goal.flaws or goal.doubts is not None:
        from rait.domain.doubt import with_kept

        change = with_kept(change)
    if babeld is not None:
        change = _with_babeld(change, babeld, scope.claimed)
    is_babeld_asked = babeld is not None and babeld.problem is None
    change = _with_drift(change, ours.unknown, is_babeld_asked)
    if goal.only is not None:
        change = _confined(change, goal.only)
    if any(peer.psk_digest for link in change.desired.links.values() for peer in link.peers):
        from rait.domain.preshared import with_known

        change = with_known(change)
    return structs.replace(change, events=diff(change.observed, change.desired))


def concerns_babeld(observation: Observation, goal: Goal, known: LastKnown, scope: Scope) -> bool:
    """Whether to ask babeld: not where there are no links of ours, there were none, and none is
    wanted."""
    if known.topology.babel or (goal.topology is not None and goal.topology.links):
        return True
    ours = holdings(observation, known, scope)
    return bool(ours.links or ours.unknown)


def _compare(
    observation: Observation, goal: Goal, known: LastKnown, ours: Holdings, own_key: str
) -> Change:
    """Steps 2 to 4: the links, VRFs and rules that there are, and those that shall be."""
    wanted = goal.topology or EMPTY
    found = occupied(wanted.links, ours, observation)
    problems = (*found, *(_unread(name, why) for name, why in ours.unknown.items()))
    links, desired_links = _link_views(observation, goal, known, ours, problems, own_key)
    there, desired, hints = reconcile_isolation(observation, wanted, known, desired_links, links)
    unread = (link for name, link in links.items() if name in ours.unknown)
    desired, babel = with_needs_of(unread, there, desired), known.topology.babel
    observed = structs.replace(there, links=links, babel=babel)
    desired = structs.replace(desired, links=desired_links, babel=babel)
    as_it_is = goal.topology is None
    return Change(
        observed=observed,
        desired=observed if as_it_is else desired,
        problems=() if as_it_is else (*hints, *goal.flaws, *problems),
        strangers=ours.strangers,
        dead=frozenset(name for name, seen in observation.links.items() if seen.dead),
        leftover_links=tuple(sorted(known.leftover_links.keys() - links.keys())),
        goal=goal,
        known=known,
    )


def _with_babeld(change: Change, babeld: BabeldState, claimed: Container[str]) -> Change:
    """Step 6. Where babeld could not be asked, the tunnels come and go all the same.

    The interfaces of ``claimed`` links are another configuration's, even if we had them before.
    """
    if babeld.problem is not None:
        return structs.replace(change, babeld_problem=babeld.problem)
    has, shall_have = babeld.compare(change.known.topology, change.desired.links)
    if not babeld.exclusive:
        has = {name: param for name, param in has.items() if name not in claimed}
    if change.goal.old is not None:
        shall_have = {**shall_have, **has}  # to change parameters, an interface has to go as well
    return structs.replace(
        change,
        observed=structs.replace(change.observed, babel=has),
        desired=structs.replace(change.desired, babel=shall_have),
        extra_cmd_owed=change.known.extra_cmd_owed,
    )


def _with_drift(change: Change, unknown: Container[str], is_babeld_asked: bool) -> Change:
    """Step 7; ``unknown`` are the links that cannot be looked at."""
    known = change.known
    if not known.leftover:  # as in nearly all runs, none of which pays for the import
        return structs.replace(change, drift=diff(known.topology, change.observed))
    from rait.domain.aftermath import told_apart

    leftover, others = told_apart(known.topology, change.observed, known.leftover)
    carried = tuple(
        event
        for event in known.leftover
        if (not is_babeld_asked if isinstance(event, ToBabeld) else event.name in unknown)
    )
    drift = (*leftover, *others)
    return structs.replace(change, drift=drift, leftover=frozenset(leftover), carried=carried)


def _confined(change: Change, only: frozenset[str]) -> Change:
    """Step 8. Leave each entry of another name as it is: a later run finds what changed there."""
    carried = frozenset(change.carried)
    return structs.replace(
        change,
        desired=change.observed.with_parts_of(change.desired, only),
        problems=tuple(p for p in change.problems if p.link is None or p.link in only),
        drift=tuple(event for event in change.drift if event.name in only),
        carried=tuple(
            event for event in change.known.leftover if event in carried or event.name not in only
        ),
    )


def _unread(name: str, why: str) -> Problem:
    return Problem(f"it cannot be read, so it is left as it is: {why}", "error", (), name)


def _link_views(
    observation: Observation,
    goal: Goal,
    known: LastKnown,
    ours: Holdings,
    problems: Iterable[Problem],
    own_key: str,
) -> tuple[dict[str, Link], dict[str, Link]]:
    """Step 3: the links that there are, and the links that shall be, by name."""
    impossible = {problem.link for problem in problems}
    observed = {name: link for name, link in known.topology.links.items() if name in ours.unknown}
    wanted = goal.topology.links if goal.topology is not None else {}
    desired = {name: link for name, link in wanted.items() if name not in impossible} | observed
    ports = {link.device.listen_port: name for name, link in desired.items()}
    given, psks = _addresses_given_by(known.leftover), _psks_given_by(known.leftover)
    # An address in an old list is no better than a name's: no reason to leave one that works.
    resolved = None if goal.old is None else True
    for name, seen in ours.links.items():
        last = _last(seen, known.topology.links.get(name))
        leftover, added = known.leftover_links.get(name), given.get(name, frozenset())
        want = desired.get(name)
        is_settled = leftover is None and not added
        if want is not None and want == last and is_settled and _is_as(seen.link, last):
            observed[name] = want  # as nearly all links are in nearly all runs
            continue
        from rait.domain.views import Pair  # here, as few links are another than they were

        pair = Pair(
            observed=seen,
            wanted=want,
            last=last,
            leftover=leftover,
            resolved=goal.names.get(name, resolved),
            own_key=own_key,
            added=added,
            psks=psks,
        )
        observed[name], become = pair.views(observation.now, ports)
        if become is not None:
            desired[name] = become
        elif name in impossible:
            desired[name] = observed[name]  # the link is elsewhere, and cannot come here
    return observed, desired


def _addresses_given_by(events: Iterable[Event]) -> dict[str, frozenset[str]]:
    """The addresses that events give to each link, by its name."""
    found: dict[str, frozenset[str]] = {}
    for event in events:
        if isinstance(event, LinkAdded | LinkUpdated):
            after = event.after if isinstance(event, LinkUpdated) else event.link.settings
            found[event.name] = found.get(event.name, frozenset()).union(after.addresses)
    return found


def _psks_given_by(events: Iterable[Event]) -> dict[tuple[str, str], str]:
    """The digests of preshared keys that events change, by link and peer."""
    return {
        (event.name, event.after.public_key): event.after.psk_digest
        for event in events
        if isinstance(event, PeerUpdated)
    }


def _last(observed: ObservedLink, link: Link | None) -> Link | None:
    """The link as the journal knows it, or None if that is another link of the name."""
    if link is None or not is_in_place(observed.link, link):
        return None
    return link if link.origin.backend == observed.link.origin.backend else None


def _is_as(seen: Link, last: Link) -> bool:
    """Whether all that can be seen of a link is as the journal knows it.

    Not every machine shows the transit namespace of a link.
    """
    return (
        structs.replace(seen, origin=last.origin, notes=last.notes) == last
        and seen.origin.instance == last.origin.instance
        and seen.origin.transit in ("", last.origin.transit)
    )

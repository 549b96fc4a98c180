"""Observe the machine: the target namespace, and wherever else the journal has links of ours.

The journal knows in which instance of a namespace each link lives. That instance may have lost its
name, or another instance may have the name now; the links in it live on. So ``_elsewhere`` goes
through the links of the journal by spelling and instance:

1. If the spelling still leads to the instance, it is looked at.
2. If the machine was restarted since, the instance is gone, and its links with it.
3. Else the instance is *missing*, and ``_look_for`` searches for it: first by the programs of its
   links, then among the namespaces of /run/netns and of all processes. The kernel destroys a
   namespace only some time after its last user is gone, so the search goes on for a few seconds
   while there are signs of a link.
4. A missing instance that was not found is *lost* if one of its links shows a sign of life, or if
   the search could not see everything: then its links are unknown. Otherwise it is gone.

At last ``observe`` traces links that are not where they were made, as somebody moved or renamed
them.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping

from msgspec import structs

from rait.adapters import netns
from rait.adapters.netns import Netns
from rait.app import isolation
from rait.app.machine import Machine
from rait.domain.backend import Observation
from rait.domain.errors import MachineError, few
from rait.domain.history import LastKnown
from rait.domain.ownership import is_in_place
from rait.domain.topology import Link

_CLEANUP_SECONDS = 3.0
"""How long a search goes on: the kernel destroys a namespace some time after its last user."""
_POLL_SECONDS = 0.1


def observe(
    machine: Machine,
    target: str,
    known: LastKnown,
    *,
    rules: bool = False,
    assume_gone: bool = False,
) -> Observation:
    """Look at the target, and wherever else the journal has links, VRFs or rules of ours.

    With ``assume_gone``, a namespace that cannot be found counts as destroyed. Raises MachineError.
    """
    namespaces = machine.namespaces
    here = namespaces.find(target)
    found, lost = _elsewhere(machine, here, known.links())
    elsewhere = list(found)
    if target and isolation.made_here(known) and all(ns.spec for ns in elsewhere):
        elsewhere.append(namespaces.open(""))
    observation = machine.observe(here, elsewhere, rules=rules)
    if lost and not assume_gone:
        observation = structs.replace(observation, lost=lost)
    made = known.topology.links.values()
    missing = [link for link in made if _is_missing(link, observation)]
    if not missing:
        return observation
    instances = {ns.instance for ns in (*elsewhere, here) if ns is not None}
    return observation.with_traced(*machine.trace(missing, instances))


def _is_missing(link: Link, observation: Observation) -> bool:
    """Whether a link of the journal is not where it was made, and may be elsewhere."""
    if link.name in observation.unread or link.origin.instance in observation.lost:
        return False
    if not is_of_this_boot(link):
        return False
    return not any(is_in_place(seen.link, link) for seen in observation.named(link.name))


def require_target(target: str, known: LastKnown) -> None:
    """Raise MachineError if the target cannot be found and the journal has links in it."""
    origins = {link.name: link.origin for link in known.links()}
    # A namespace whose instance is known is searched for in ``_elsewhere``.
    names = sorted(n for n, o in origins.items() if o.netns == target and not o.instance)
    if names and netns.lacks_process(target):
        raise MachineError(
            f"there is no process {target} any more, so its network namespace cannot be looked at. "
            f"Links that the journal has in it may still be there: {few(names)}. "
            "Set `target` in rait.conf to the id of another process in that namespace or, if the "
            "namespace is gone, to the namespace that you want links in"
        )


def _elsewhere(
    machine: Machine, here: Netns | None, links: Iterable[Link]
) -> tuple[Iterable[Netns], Mapping[str, str]]:
    """Find the namespaces besides the target in which these links were made; see the steps above.

    The second part of the answer has the instances that could not be looked at, each with the
    reason. Raises MachineError if a namespace must not be opened.
    """
    elsewhere: dict[tuple[str, str], Netns] = {}
    missing: dict[str, list[Link]] = {}
    by_namespace: dict[tuple[str, str], list[Link]] = {}
    for link in links:
        by_namespace.setdefault((link.origin.netns, link.origin.instance), []).append(link)
    for (spec, instance), there in by_namespace.items():
        found = machine.namespaces.find(spec, instance)
        if found is not None:
            elsewhere[found.spec, found.instance] = found
        elif is_of_this_boot(there[0]) and instance:
            missing.setdefault(instance, []).extend(there)
    lost: dict[str, str] = {}
    if missing:
        found_again, lost = _look_for(machine, missing)
        elsewhere |= {(ns.spec, instance): ns for instance, ns in found_again.items()}
    if here is not None:
        elsewhere.pop((here.spec, here.instance), None)
    return elsewhere.values(), lost


def is_of_this_boot(link: Link) -> bool:
    """Whether a link was made since the machine's last start, or may have been."""
    return not link.origin.instance or netns.is_of_this_boot(link.origin.instance)


def _look_for(
    machine: Machine, missing: Mapping[str, list[Link]]
) -> tuple[dict[str, Netns], dict[str, str]]:
    """Step 3: the namespaces found by instance, and why each of the lost ones may still exist."""
    from rait.adapters import netns_search

    deadline = time.monotonic() + _CLEANUP_SECONDS
    found: dict[str, Netns] = _homes(machine, missing)
    while True:
        rest = {instance: links for instance, links in missing.items() if instance not in found}
        result = netns_search.search(rest)
        for ns in result.namespaces.values():
            ns.spec = rest[ns.instance][0].origin.netns
            found[ns.instance] = machine.namespaces.keep(ns)
        lost = {
            instance: _lost_text(links, why)
            for instance, links in rest.items()
            if instance not in found and (why := result.unseen or _alive(machine, links))
        }
        if not lost or result.unseen or time.monotonic() > deadline:
            return found, lost
        time.sleep(_POLL_SECONDS)


def _homes(machine: Machine, missing: Mapping[str, list[Link]]) -> dict[str, Netns]:
    """The missing namespaces to which the program of one of their links leads."""
    found: dict[str, Netns] = {}
    for instance, links in missing.items():
        for link in links:
            home = machine.home_of(link)
            if home is not None and home.instance == instance:
                found[instance] = machine.namespaces.keep(home)
                break
            if home is not None:
                home.close()
    return found


def _alive(machine: Machine, links: Iterable[Link]) -> str:
    """A sign of life of one of these links, whose namespace was not found; or "".

    A link that somebody moved to another namespace says nothing about the one that it was in.
    """
    here = (link for link in links if not _is_elsewhere(machine, link))
    return next((why for link in here if (why := machine.sign_of_life(link))), "")


def _is_elsewhere(machine: Machine, link: Link) -> bool:
    home = machine.home_of(link)
    if home is None:
        return False
    with home:
        return home.instance != link.origin.instance


def _lost_text(links: list[Link], why: str) -> str:
    spec = links[0].origin.netns
    return (
        f"it was made in {netns.describe(spec)}, which is a different namespace now, and rait did "
        f"not find the former one: {why}. If you know that the former namespace is gone, and its "
        "links with it, run rait again with --assume-gone"
    )

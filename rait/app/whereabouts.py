"""Where to look for our links: the target namespace, and wherever else the journal has some.

The journal knows in which instance of a namespace a link lives. The instance may have lost its
name, or a different instance may have the name now. Then rait looks for the former one, as its
links may be alive.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping

from msgspec import Struct

from rait.adapters import netns
from rait.adapters.namespaces import Namespaces
from rait.adapters.netns import Netns
from rait.domain.topology import Link

_CLEANUP_SECONDS = 3.0
"""The kernel destroys a namespace some time after the last that referred to it is gone."""
_POLL_SECONDS = 0.1


class Whereabouts(Struct, frozen=True):
    """The namespaces to look at; ``target`` is None if it does not exist.

    ``lost`` has the instances that could not be looked at, each with the reason.
    """

    target: Netns | None
    elsewhere: tuple[Netns, ...]
    lost: Mapping[str, str]


def whereabouts(
    namespaces: Namespaces,
    target: str,
    links: Iterable[Link],
    transit: Netns,
    *,
    assume_gone: bool = False,
) -> Whereabouts:
    """Find the target, and the namespaces that hold these links, whose sockets are in ``transit``.

    With ``assume_gone``, a namespace that cannot be found counts as destroyed. Raises MachineError
    if a namespace must not be opened.
    """
    here = namespaces.find(target)
    elsewhere: dict[tuple[str, str], Netns] = {}
    missing: dict[str, list[Link]] = {}
    by_place: dict[tuple[str, str], list[Link]] = {}
    for link in links:
        by_place.setdefault((link.origin.netns, link.origin.instance), []).append(link)
    for (spec, instance), there in by_place.items():
        found = namespaces.find(spec, instance)
        if found is not None:
            elsewhere[found.spec, found.instance] = found
        elif is_of_this_boot(there[0]) and instance:
            missing.setdefault(instance, []).extend(there)
    lost: dict[str, str] = {}
    if missing:
        found_again, lost = _look_for(namespaces, missing, transit)
        elsewhere |= {(ns.spec, instance): ns for instance, ns in found_again.items()}
    if here is not None:
        elsewhere.pop((here.spec, here.instance), None)
    return Whereabouts(here, tuple(elsewhere.values()), {} if assume_gone else lost)


def is_of_this_boot(link: Link) -> bool:
    """Whether the link may be there still: none outlives a restart of the machine."""
    return not link.origin.instance or netns.boot_of(link.origin.instance) == netns.booted()


def _look_for(
    namespaces: Namespaces, missing: Mapping[str, list[Link]], transit: Netns
) -> tuple[dict[str, Netns], dict[str, str]]:
    """The namespaces that are found, and why each of the others may still exist."""
    from rait.adapters import netns_search

    deadline = time.monotonic() + _CLEANUP_SECONDS
    found: dict[str, Netns] = _homes(namespaces, missing)
    while True:
        rest = {instance: links for instance, links in missing.items() if instance not in found}
        result = netns_search.search({instance.partition("/")[2] for instance in rest})
        for identity, ns in result.namespaces.items():
            instance = f"{netns.booted()}/{identity}"
            ns.spec = rest[instance][0].origin.netns
            found[instance] = namespaces.keep(ns)
        lost = {
            instance: _told(links, why)
            for instance, links in rest.items()
            if instance not in found and (why := result.unseen or _alive(links, transit))
        }
        if not lost or result.unseen or time.monotonic() > deadline:
            return found, lost
        time.sleep(_POLL_SECONDS)


def _homes(namespaces: Namespaces, missing: Mapping[str, list[Link]]) -> dict[str, Netns]:
    """The missing namespaces that the program of one of their links leads to."""
    from rait.adapters.wireguard import traces

    found: dict[str, Netns] = {}
    for instance, links in missing.items():
        for link in links:
            home = traces.home_of(link)
            if home is not None and home.instance == instance:
                found[instance] = namespaces.keep(home)
                break
            if home is not None:
                home.close()
    return found


def _alive(links: Iterable[Link], transit: Netns) -> str:
    """The evidence that one of these links exists, though its namespace was not found; or ""."""
    from rait.adapters.wireguard import traces

    return next((why for link in links if (why := traces.sign_of_life(link, transit))), "")


def _told(links: list[Link], why: str) -> str:
    spec = links[0].origin.netns
    return (
        f"it was made in {netns.describe(spec)}, which is a different namespace now, and rait did "
        f"not find the former one: {why}. If you know that the former namespace is gone, and its "
        "links with it, run rait again with --assume-gone"
    )

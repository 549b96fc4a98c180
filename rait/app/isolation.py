"""VRF isolation in a run: the VRF that carries the underlay, and the kernel's support."""

from __future__ import annotations

from collections.abc import Iterable

from rait.adapters.netns import Namespaces, is_of_this_boot
from rait.domain.backend import Observation
from rait.domain.config.schema import Config
from rait.domain.errors import MachineError, VrfMissingError
from rait.domain.events import Event, VrfAdded
from rait.domain.history import LastKnown
from rait.domain.topology import Topology
from rait.domain.vrf import ACCEPT, has_transit, missing_transit


def transit_table(config: Config, seen: Observation | None = None) -> int | None:
    """The table of the VRF that carries the underlay, as ``seen`` or else as it is now.

    None if the underlay is in no VRF. Raises MachineError if the VRF is missing.
    """
    if not has_transit(config):
        return None
    name = config.isolation.transit
    if seen is not None:
        there, kind = seen.vrfs.get(name), seen.others.get(name)
        table = there.table if there is not None else None
    else:
        from rait.adapters import vrf

        found = vrf.find(name)
        table, kind = (found.table, found.kind) if found is not None else (None, None)
    if table is None:
        raise MachineError(missing_transit(name, kind))
    return table


def kernel_warnings(config: Config) -> list[str]:
    """A warning if a switch of the kernel keeps VRF isolation from working."""
    if not has_transit(config):
        return []
    from rait.adapters import vrf

    if vrf.accepts_from_vrfs():
        return []
    return [
        f"{ACCEPT} is 0, so WireGuard does not get the packets that arrive through VRF "
        f"{config.isolation.transit}, over IPv4 and over IPv6: its sockets are bound to no VRF. "
        f"Run `sysctl -w {ACCEPT}=1`, and `echo {ACCEPT}=1 > /etc/sysctl.d/90-rait.conf` to keep "
        "it so"
    ]


def require_vrfs(events: Iterable[Event]) -> None:
    """Raise MachineError where a VRF is to be made and the kernel has none."""
    for event in events:
        if isinstance(event, VrfAdded):
            from rait.adapters import vrf

            vrf.require(event.name)


def vrf_warnings(events: Iterable[Event]) -> list[str]:
    """A warning for a plan if a VRF is to be made and the kernel has none.

    A user who may not ask the kernel gets no warning.
    """
    try:
        require_vrfs(events)
    except VrfMissingError as error:
        return [str(error)]
    except MachineError:
        pass
    return []


def needs_rules(config: Config, known: LastKnown) -> bool:
    """Whether a run has to look at the policy routing rules."""
    return has_transit(config) or bool(known.topology.rules or known.leftover_rules)


def made_here(known: LastKnown) -> bool:
    """Whether there may be VRFs or rules of ours, which are in the namespace that rait runs in."""
    topology = known.topology
    return bool(topology.vrfs or topology.rules or known.leftover_vrfs or known.leftover_rules)


def home(config: Config, known: LastKnown, namespaces: Namespaces) -> str:
    """The instance of the namespace that rait runs in; "" if no VRFs or rules can be in it."""
    if config.isolation.target_vrf is None and not made_here(known):
        return ""
    return namespaces.open("").instance


def mark_ours(observed: Topology, known: LastKnown) -> None:
    """Mark VRFs of ours that an earlier rait or an unfinished run made without a mark.

    Raises MachineError.
    """
    unmarked = observed.vrfs.keys() & known.leftover_vrfs.keys() if known.home else observed.vrfs
    if unmarked:
        from rait.adapters import vrf

        vrf.mark(unmarked)


def require_home(known: LastKnown, namespaces: Namespaces) -> None:
    """Raise MachineError if our VRFs and rules are in another namespace than rait runs in."""
    if not known.home or not made_here(known) or not is_of_this_boot(known.home):
        return
    if namespaces.open("").instance == known.home:
        return
    from rait.adapters import netns_search

    found = netns_search.search({known.home})
    found.close()
    if not found.namespaces and not found.unseen:
        return  # the namespace is gone, and its VRFs and rules with it
    names = sorted((*known.topology.vrfs, *known.topology.rules))
    what = ", ".join(names) or "VRFs or rules"
    raise MachineError(
        f"rait made {what} in a different network namespace from the one it runs in now: run it "
        "there. If that namespace is gone, run rait again with --assume-gone"
    )

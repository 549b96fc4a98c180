"""``rait list``: our tunnels as they are now."""

from __future__ import annotations

from pathlib import Path

from msgspec import Struct

from rait.adapters import netns
from rait.adapters.journal_reader import JournalReader
from rait.app.inputs import configured
from rait.app.load import load_peers
from rait.app.report import Failure
from rait.app.session import Options, machine_of, observe, scope_name, scope_of, target_netns
from rait.domain.backend import ObservedLink
from rait.domain.history import Memory
from rait.domain.problem import MachineError, RaitError
from rait.domain.settle import is_ours, unread_of_ours


class Listing(Struct, frozen=True):
    """Our links in the order of their names, and the names that the registry gives to peers.

    ``unread`` are links of ours that could not be read.
    """

    links: tuple[ObservedLink, ...]
    names: dict[str, str]
    now: int
    unread: tuple[Failure, ...] = ()


def list_links(options: Options) -> Listing:
    """Observe our links; changes nothing and waits for nobody. Raises RaitError."""
    loaded = configured(options.config)
    config = loaded.config
    target = target_netns(config)
    scope = scope_of(config, "")
    memory = _memory(options, config.journal)
    if netns.lacks_process(target) and not memory.topology.links:
        raise MachineError(
            f"there is no process {target}, so its network namespace cannot be looked at: set "
            "`target` to the id of a process that is in it, or to a name"
        )
    with machine_of(config, None, "", needs_transit=False) as machine:
        observation = observe(machine, target, memory)
    unread = unread_of_ours(observation, memory, scope)
    seen = (*observation.links.values(), *observation.doubles)
    ours = (link for link in seen if is_ours(link, memory, scope))
    links = tuple(sorted(ours, key=lambda observed: observed.link.name))
    names: dict[str, str] = {}
    if config.peers != "-" and "://" not in config.peers:
        try:
            names = {p.public_key: p.name for p in load_peers(loaded).peers if p.name}
        except RaitError as error:
            options.debug(f"no names of peers: {error}")
    failures = tuple(
        Failure(name, f"it cannot be read: {why}") for name, why in sorted(unread.items())
    )
    return Listing(links, names, observation.now, failures)


def _memory(options: Options, journal: str) -> Memory:
    """What the journal knows, where it can be read: it tells where else links of ours may be."""
    if options.config == "-" or "://" in options.config:
        return Memory()  # its runs are filed under the key, which need not be there
    try:
        return JournalReader(Path(journal)).memory(scope_name(options.config, ""))
    except RaitError as error:
        options.debug(f"the journal does not help to find links: {error}")
        return Memory()

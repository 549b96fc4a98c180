"""``rait list``: our tunnels as they are now."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from msgspec import Struct, structs

from rait.adapters import netns
from rait.adapters.journal.reader import JournalReader
from rait.app.inputs import configured
from rait.app.load import Loaded, load_peers, load_secret
from rait.app.report import Failure
from rait.app.scopes import claimed_by_others, filed_under, has_no_path, scope_name
from rait.app.session import machine_of, observe, scope_of, target_netns
from rait.app.turn import Options
from rait.domain.backend import ObservedLink
from rait.domain.errors import MachineError, RaitError
from rait.domain.history import LastKnown
from rait.domain.reconcile import doubtful, is_ours, unread_of_ours


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
    doubts = doubtful(observation, memory, scope)
    claimed = _claimed(options, loaded, doubts) if doubts else {}
    scope = structs.replace(scope, claimed=claimed)
    unread = unread_of_ours(observation, memory, scope)
    seen = (*observation.links.values(), *observation.doubles)
    ours = (link for link in seen if is_ours(link, memory, scope))
    links = tuple(sorted(ours, key=lambda observed: observed.link.name))
    titles: dict[str, str] = {}
    if config.peers != "-" and "://" not in config.peers:
        try:
            titles = {p.public_key: p.name for p in load_peers(loaded).peers if p.name}
        except RaitError as error:
            options.debug(f"no names of peers: {error}")
    failures = tuple(
        Failure(name, f"it cannot be read: {why}") for name, why in sorted(unread.items())
    )
    return Listing(links, titles, observation.now, failures)


def _memory(options: Options, journal: str) -> LastKnown:
    """What the journal knows, if it can be read: where else our links may be."""
    if options.config == "-" or "://" in options.config:
        return LastKnown()  # its runs are filed under the key, which need not be there
    try:
        reader = JournalReader(Path(journal))
        return reader.last_known(filed_under(reader, scope_name(options.config, "")))
    except RaitError as error:
        options.debug(f"the journal does not help to find links: {error}")
        return LastKnown()


def _claimed(options: Options, loaded: Loaded, seen: Mapping[str, str]) -> dict[str, str]:
    """The links that the journal knows as another configuration's.

    None where it cannot be read: what there is is listed all the same.
    """
    url = options.config
    try:
        key = load_secret(loaded)[1] if has_no_path(url) else ""
        journal = Path(loaded.config.journal)
        name = filed_under(JournalReader(journal), scope_name(url, key))
        return claimed_by_others(url, journal, name, seen)
    except RaitError as error:
        options.debug(f"the journal cannot tell whose links these are: {error}")
        return {}

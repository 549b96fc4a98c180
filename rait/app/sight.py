"""What commands that only show things see: our links, and what the journal knows of them.

They need neither the lock nor the private key, and wait for nobody.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from msgspec import Struct, structs

from rait.adapters import netns
from rait.adapters.config import source
from rait.adapters.keys import KeyPair
from rait.app.load import Loaded, load_peers
from rait.app.options import Options
from rait.app.scopes import claimed_by_others, journal_of
from rait.app.session import machine_of
from rait.app.stopped import stopped
from rait.app.trials import mention
from rait.app.whereabouts import observe
from rait.domain.backend import Observation
from rait.domain.errors import MachineError, RaitError
from rait.domain.history import LastKnown
from rait.domain.ownership import Scope, doubtful, scope_of
from rait.domain.records import RunRecord

if TYPE_CHECKING:
    from rait.adapters.config.kept import Kept


class Memory(Struct, frozen=True):
    """What the journal knows of our links, and the last run in it.

    ``problem`` says why the journal cannot be read, "" if it can.
    """

    known: LastKnown = LastKnown()
    last: RunRecord | None = None
    problem: str = ""

    @property
    def public_key(self) -> str:
        """That of the node at the last run, "" if there was none."""
        return self.last.header.public_key if self.last is not None else ""


def remembered(options: Options, loaded: Loaded) -> Memory:
    """What the journal knows of our links; nothing if it cannot be read."""
    try:
        reader, name = journal_of(options, loaded)
        return Memory(*reader.memory(name))
    except RaitError as error:
        options.debug(f"the journal does not help to find links: {error}")
        return Memory(problem=str(error))


def waiting(options: Options, loaded: Loaded, memory: Memory) -> tuple[str, ...]:
    """Lines about a change that waits: for its confirmation, or as it was stopped or failed."""
    stops = stopped(options, loaded, memory.public_key)
    return (*mention(memory.known.trial, options.config), *stops)


def kept_peers(options: Options, loaded: Loaded, public_key: str) -> Kept | None:
    """The last good peers list, if it comes from a URL and was kept. Nothing is downloaded."""
    if not source.is_remote(loaded.config.peers):
        return None
    from rait.app.fallback import kept_list  # here, as few lists come from a URL

    return kept_list(loaded, public_key, options.config)


def look(
    options: Options, loaded: Loaded, known: LastKnown, public_key: str = ""
) -> tuple[Observation, Scope]:
    """Observe our links, and change nothing; the scope says which of all are ours.

    ``public_key`` is ours, "" if it is unknown. Raises MachineError.
    """
    config = loaded.config
    target = config.isolation.target_netns
    scope = scope_of(config, public_key)
    if netns.lacks_process(target) and not known.topology.links:
        raise MachineError(
            f"there is no process {target}, so its network namespace cannot be looked at: set "
            "`target` to the id of a process that is in it, or to a name"
        )
    with machine_of(config, KeyPair(None, ""), needs_transit=False) as machine:
        observation = observe(machine, target, known)
    doubts = doubtful(observation, known, scope)
    claimed = _claimed(options, loaded, doubts) if doubts else {}
    return observation, structs.replace(scope, claimed=claimed)


def _claimed(options: Options, loaded: Loaded, seen: Mapping[str, str]) -> dict[str, str]:
    """The links that the journal has as another configuration's; none if it cannot be read."""
    try:
        return claimed_by_others(options.config, *journal_of(options, loaded), seen)
    except RaitError as error:
        options.debug(f"the journal cannot tell whose links these are: {error}")
        return {}


def names_of_peers(options: Options, loaded: Loaded, kept: Kept | None) -> dict[str, str] | None:
    """The name of each peer by its key, "" for none; None if the peers list is not at hand.

    Nothing is downloaded: of a list from a URL it is the last good one, ``kept``.
    """
    url = loaded.config.peers
    if kept is None and not source.is_path(url):
        return None
    read = source.read if kept is None else kept.reading(url)
    try:
        peers = load_peers(loaded, read=read).peers
    except RaitError as error:
        options.debug(f"no names of peers: {error}")
        return None
    return {peer.public_key: peer.name or "" for peer in peers}

"""What commands that only show things see: our links, and what the journal knows of them.

They need neither the lock nor the private key, and wait for nobody.
"""

from __future__ import annotations

from collections.abc import Mapping

from msgspec import Struct, structs

from rait.adapters import netns
from rait.adapters.journal.reader import JournalReader
from rait.app.load import Loaded, load_secret
from rait.app.options import Options
from rait.app.scopes import claimed_by_others, filed_under, goes_by_key, scope_name
from rait.app.session import machine_of
from rait.app.whereabouts import observe
from rait.domain.backend import Observation
from rait.domain.errors import MachineError, RaitError
from rait.domain.history import LastKnown
from rait.domain.ownership import Scope, doubtful, scope_of
from rait.domain.records import RunRecord


class Memory(Struct, frozen=True):
    """What the journal knows of our links, and the last run in it.

    ``problem`` says why the journal cannot be read, "" if it can.
    """

    known: LastKnown = LastKnown()
    last: RunRecord | None = None
    problem: str = ""


def remembered(options: Options, loaded: Loaded) -> Memory:
    """What the journal knows of our links; nothing if it cannot be read."""
    url = options.config
    try:
        # A configuration without a path is filed under its key, which need not be there.
        key = load_secret(loaded)[1] if goes_by_key(url) else ""
        reader = JournalReader(loaded.config.journal)
        return Memory(*reader.memory(filed_under(reader, scope_name(url, key))))
    except RaitError as error:
        options.debug(f"the journal does not help to find links: {error}")
        return Memory(problem=str(error))


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
    with machine_of(config, None, "", needs_transit=False) as machine:
        observation = observe(machine, target, known)
    doubts = doubtful(observation, known, scope)
    claimed = _claimed(options, loaded, doubts) if doubts else {}
    return observation, structs.replace(scope, claimed=claimed)


def _claimed(options: Options, loaded: Loaded, seen: Mapping[str, str]) -> dict[str, str]:
    """The links that the journal has as another configuration's; none if it cannot be read."""
    url = options.config
    try:
        key = load_secret(loaded)[1] if goes_by_key(url) else ""
        journal = loaded.config.journal
        name = filed_under(JournalReader(journal), scope_name(url, key))
        return claimed_by_others(url, journal, name, seen)
    except RaitError as error:
        options.debug(f"the journal cannot tell whose links these are: {error}")
        return {}

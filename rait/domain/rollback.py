"""What one run did, and what has to be so that it can be taken back."""

from __future__ import annotations

from collections.abc import Iterable

from msgspec import Struct

from rait.domain.errors import ConfigError
from rait.domain.events import Event, LinkPlaced, ToBabeld, inverted, replay
from rait.domain.history import done_events
from rait.domain.records import RunRecord
from rait.domain.topology import BackendKind, Link, Origin, Topology


class Conflict(Struct, frozen=True):
    """A later run that touched a link which is to be taken back.

    ``noticed``: the run did nothing to the link itself, but found that others had changed it.
    """

    link: str
    run: int
    command: str
    noticed: bool = False


def conflicts(run: RunRecord, later: Iterable[RunRecord]) -> tuple[Conflict, ...]:
    """The later runs that touched links of this run, or noticed a change of one.

    Events for babeld do not count: babeld follows the links.
    """
    names = touched(run)
    found: list[Conflict] = []
    for other in later:
        if other.id > run.id:
            changed = _shaped(done_events(other))
            clashes = sorted(_shaped(event for _, event in other.happened()) & names)
            command = other.header.command
            found += (Conflict(name, other.id, command, name not in changed) for name in clashes)
    return tuple(found)


def only_told_babeld(run: RunRecord) -> bool:
    """Whether the run changed nothing but babeld's interfaces, or nothing at all."""
    return not _shaped(done_events(run))


def touched(run: RunRecord) -> frozenset[str]:
    """The names of the links, VRFs and rules that the run itself changed."""
    return frozenset(event.name for event in done_events(run))


def undo(now: Topology, run: RunRecord, after: Topology) -> Topology:
    """``now`` without what the run did; ``after`` is the topology right after the run.

    Each link that the run touched becomes what it was before the run, whatever has happened to it
    since. Raises MismatchError if ``after`` is of another run.
    """
    before = replay(after, inverted(done_events(run)))
    return now.with_parts_of(before, touched(run))


def require_own_key(own_key: str, run_key: str, links: Iterable[Link], what: str) -> None:
    """Raise ConfigError for links that had another private key: their peers would not know us.

    ``run_key`` is not enough to know: a run that changes the key is made under the new key. For the
    message, ``what`` says what is to be brought back.
    """
    for public_key in (run_key, *(link.device.public_key for link in links)):
        if public_key not in ("", own_key):
            raise ConfigError(
                f"{what} was made under another key: public key {public_key}, and the "
                f"configuration's private key is of {own_key}. The journal holds no "
                "private keys; put the old one back into the configuration to restore it"
            )


def require_own_setup(run: RunRecord, after: Topology, backend: BackendKind, transit: str) -> None:
    """Raise ConfigError for a run that made links again because transit or backend had changed.

    rait.conf alone decides over these two, so a rollback would leave the links as the run made
    them. A move to another target can be taken back. ``after`` is the topology right after the
    run; raises MismatchError if it is of another run.
    """
    before = replay(after, inverted(done_events(run))).links
    pairs = (
        (name, before[name].origin, after.links[name].origin)
        for name in sorted(touched(run) & before.keys() & after.links.keys())
    )
    made_again = [pair for pair in pairs if _setup(pair[1]) != _setup(pair[2])]
    for name, old, new in made_again:
        if _setup(old) != (backend, transit):
            what = "transit namespace" if old.transit != new.transit else "backend"
            number = len(made_again)
            links = f"the link {name}" if number == 1 else f"{number} links, {name} among them,"
            raise ConfigError(
                f"run {run.id} made {links} again, because the "
                f"{what} had changed. rait.conf sets it, and a rollback does not change rait.conf; "
                f"nothing was touched. Change the {what} back in rait.conf, and run `rait up`"
            )


def _setup(origin: Origin) -> tuple[BackendKind, str]:
    return origin.backend, origin.transit


def _shaped(events: Iterable[Event]) -> frozenset[str]:
    return frozenset(e.name for e in events if not isinstance(e, ToBabeld | LinkPlaced))

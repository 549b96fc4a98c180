"""Bringing links back that the journal knows from before: what replay and rollback share."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

from msgspec import structs

from rait.adapters import netns
from rait.app.execution import Change, stopped
from rait.app.report import Report
from rait.app.session import Session
from rait.domain.diff import diff
from rait.domain.errors import ConfigError
from rait.domain.events import LinkAdded
from rait.domain.history import without_unknown_psks
from rait.domain.topology import Link

if TYPE_CHECKING:
    from rait.adapters.journal.store import Journal
    from rait.app.routing import Routing


def carry_out(
    command: str,
    session: Session,
    journal: Journal,
    change: Change,
    routing: Routing | None,
    assume_yes: bool,
) -> Report:
    if not assume_yes and (stop := stopped(command, change, session.removal(change))):
        return stop
    return session.carry_out(
        command,
        change,
        journal,
        prepare=_targets_of(change),
        routing=routing,
        accepted=assume_yes,
    )


def with_known_psks(change: Change) -> Change:
    """The change without preshared keys that cannot be brought back; it still does the rest."""
    before, after = change.settled.observed, change.settled.desired
    links, problems = without_unknown_psks(before.links, after.links)
    after = structs.replace(after, links=links)
    problems = (*change.settled.problems, *problems)
    settled = structs.replace(change.settled, desired=after, problems=problems)
    return structs.replace(change, settled=settled, events=diff(before, after))


def born_today(links: Mapping[str, Link], session: Session) -> dict[str, Link]:
    """The links as they would be made now.

    A restart of the machine gives namespaces new identities, and may bring another backend;
    neither is a reason to remake what is already there, or to refuse.
    """
    kind = session.machine.choose(session.config.backend)
    return {
        name: structs.replace(link, origin=session.origin(kind, link.origin.netns))
        for name, link in links.items()
    }


def check_keys(session: Session, run_key: str, links: Mapping[str, Link], what: str) -> None:
    """Refuse to bring links back that had another key: their peers would not know this node.

    The run alone does not tell: one that changes the key is itself made under the new one.
    """
    for public_key in (run_key, *(link.device.public_key for link in links.values())):
        if public_key not in ("", session.public_key):
            raise ConfigError(
                f"{what} was made under another key: public key {public_key}, and the "
                f"configuration's private key is of {session.public_key}. The journal holds no "
                "private keys; put the old one back into the configuration to restore it"
            )


def _targets_of(change: Change) -> Callable[[], None]:
    """Makes the namespaces that hold the links: they may be of an earlier configuration."""
    names = {event.link.origin.netns for event in change.events if isinstance(event, LinkAdded)}

    def ensure() -> None:
        for name in sorted(names):
            netns.ensure_netns(name).close()

    return ensure

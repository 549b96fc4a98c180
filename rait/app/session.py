"""One run of rait against this machine: its configuration, lock, journal and WireGuard."""

from __future__ import annotations

import time
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from functools import cache, cached_property
from typing import TYPE_CHECKING, Literal

from msgspec import structs

from rait.adapters import netns
from rait.adapters.config import caches
from rait.adapters.journal.reader import JournalReader
from rait.adapters.journal.store import Journal
from rait.adapters.keys import KeyPair
from rait.app import isolation
from rait.app.inputs import Inputs, Preparation, prepared
from rait.app.load import LoadedPeers
from rait.app.machine import Machine
from rait.app.options import Options
from rait.app.scopes import claimed_by_others, filed_under, scope_name
from rait.app.whereabouts import observe, require_target
from rait.domain.backend import Observation
from rait.domain.change import Change, Goal
from rait.domain.config.schema import Config
from rait.domain.errors import MachineError, counted
from rait.domain.events import LinkRemoved
from rait.domain.history import LastKnown, as_made_now
from rait.domain.ownership import Scope, doubtful, scope_of, with_found
from rait.domain.reconcile import concerns_babeld, reconcile
from rait.domain.topology import BackendKind, Link, Origin, Topology

if TYPE_CHECKING:
    from rait.app.routing import Routing
    from rait.domain.guard import Losses


Babeld = Literal["never", "synced", "explicit", "exclusive"]
"""When a run talks to babeld: never; if rait.conf has ``sync = true``; because the user asked for
it; because the user asked to flush the interfaces of others too."""


class Session:
    """One run: its inputs, this machine and the journal; see ``open_session``.

    ``routing`` is the connection to babeld, None in a run that does not talk to babeld.
    """

    def __init__(
        self,
        options: Options,
        inputs: Inputs,
        machine: Machine,
        journal: JournalReader,
        routing: Routing | None,
    ) -> None:
        self.options = options
        self.loaded = inputs.loaded
        self.public_key = inputs.key.public
        self.machine = machine
        self.journal = journal
        self.routing = routing
        self.spelt = scope_name(options.config, inputs.key.public)
        self.name = filed_under(journal, self.spelt)
        self.inputs = inputs
        machine.key.psks.update(inputs.preshared.psks)

    @property
    def registry(self) -> LoadedPeers:
        """The other nodes, in a session that was opened with ``peers``."""
        assert self.inputs.registry is not None  # noqa: S101 - a mistake of ours, not of the user
        return self.inputs.registry

    @property
    def config(self) -> Config:
        return self.loaded.config

    @property
    def target(self) -> str:
        """The namespace in which the links live, as the configuration spells it."""
        return self.config.isolation.target_netns

    @property
    def scope(self) -> Scope:
        """Which links are ours."""
        return scope_of(self.config, self.public_key)

    def origin(self, kind: BackendKind, target: str) -> Origin:
        """The origin of a link of this kind that would be made now in this target namespace."""
        return Origin(kind, target, self.machine.transit, self.machine.instance_of(target))

    def as_made_now(self, topology: Topology, *, of_own_kind: bool = False) -> Topology:
        """The topology with its links as they would be made now: as rait.conf has it, or each of
        its own kind.
        """
        origin = cache(self.origin)
        kind = None if of_own_kind else self.machine.choose(self.config.backend)
        return as_made_now(topology, lambda old: origin(kind or old.backend, old.netns))

    @cached_property
    def known(self) -> LastKnown:
        """What the journal knows of our links before this run. Raises RaitError."""
        return self.journal.last_known(self.name)

    def known_or_found(self) -> LastKnown:
        """What the journal knows; if it knows no link, what the machine has. Raises RaitError."""
        known = self.known
        if known.topology.links:
            return known
        return with_found(known, self.observation, self.scope_among(self.observation, known))

    @cached_property
    def observation(self) -> Observation:
        """What the machine has before this run touches it. Raises MachineError, see ``observe``."""
        if removed := [e.name for e in self.known.leftover if isinstance(e, LinkRemoved)]:
            from rait.adapters.wireguard.process import await_ends  # here, as few runs are killed

            await_ends(removed)
        return self.observe(self.known)

    def forget(self) -> None:
        """Look anew at the journal and the machine, as this process has changed them."""
        self.__dict__.pop("known", None)
        self.__dict__.pop("observation", None)

    def observe(self, known: LastKnown) -> Observation:
        """Look at the target, and at each other namespace in which the journal has links of ours.

        Raises MachineError where the journal has links in a target that cannot be found.
        """
        require_target(self.target, known)
        if not self.options.assume_gone:
            isolation.require_home(known, self.machine.namespaces)
        return observe(
            self.machine,
            self.target,
            known,
            rules=isolation.needs_rules(self.config, known),
            assume_gone=self.options.assume_gone,
        )

    def scope_among(self, observation: Observation, known: LastKnown) -> Scope:
        """The scope, with the observed links that other configurations claim. Raises RaitError."""
        scope = self.scope
        seen = doubtful(observation, known, scope)
        if not seen:
            return scope
        claimed = claimed_by_others(self.options.config, self.journal, self.name, seen)
        return structs.replace(scope, claimed=claimed)

    def compare(self, goal: Goal) -> Change:
        """Look at the machine, and find what to do for the goal. Changes nothing.

        Raises MachineError where nothing may be touched at all.
        """
        change = self.decide(self.observation, self._with_psks(goal), self.known, self.routing)
        if change.refusal is not None:
            raise MachineError(change.refusal)
        return change

    def _with_psks(self, goal: Goal) -> Goal:
        """The goal with the preshared keys that can be set; a past topology has their digests."""
        past = goal.topology.links.values() if goal.topology is not None else ()
        wanted = {(p.public_key, p.psk_digest) for link in past for p in link.peers if p.psk_digest}
        if wanted <= goal.psks:
            return goal
        from rait.app.preshared import find_preshared

        found = find_preshared(self.loaded, self.machine.key, wanted)
        self.machine.key.psks.update(found)
        return structs.replace(goal, psks=frozenset(found))

    def lacking_psks(self, links: Iterable[Link]) -> list[str]:
        """The links with a preshared key that no file has, so that it could not be set again."""
        topology = Topology({link.name: link for link in links})
        found = self._with_psks(Goal(topology)).psks
        return [
            link.name
            for link in topology.links.values()
            if any(p.psk_digest and (p.public_key, p.psk_digest) not in found for p in link.peers)
        ]

    def recent_losses(self) -> Losses:
        """The sessions that runs of the last WINDOW_HOURS ended, for the guard.

        Where the clock is behind the journal's last entry, as it was set back or not set yet, the
        hours count from that entry.
        """
        from rait.domain.guard import WINDOW_HOURS, recent_losses

        now = max(time.time_ns(), self.journal.last_begun())
        since = now - WINDOW_HOURS * 3600 * 10**9
        return recent_losses(self.journal.runs(since=since, scope=self.name))

    def decide(
        self, observation: Observation, goal: Goal, known: LastKnown, routing: Routing | None
    ) -> Change:
        """What to do for the goal by this observation and what babeld says. Raises RaitError."""
        scope = self.scope_among(observation, known)
        babeld = None
        if routing is not None and (
            goal.topology is None or concerns_babeld(observation, goal, known, scope)
        ):
            babeld = routing.look()
        change = reconcile(observation, goal, known, scope, babeld)
        self.options.debug(
            f"observed {counted(len(observation.links), 'WireGuard link')}, "
            f"{len(change.observed.links)} of them ours"
        )
        return change


@contextmanager
def open_session(
    options: Options,
    command: str,
    *,
    read_only: bool = False,
    needs_transit: bool = True,
    peers: bool = False,
    babeld: Babeld = "synced",
) -> Iterator[Session]:
    """Gather the inputs of a command, take the lock, and open the journal and the machine.

    A ``read_only`` session takes no lock, waits for nobody and writes nothing. Unless the command
    ``needs_transit``, the transit namespace may be gone: links can be removed without it. With
    ``peers``, the session has the registry. Raises ConfigError, SourceError or MachineError before
    anything is touched.
    """
    preparation = Preparation(options, peers=peers)
    with ExitStack() as stack:
        if read_only:
            inputs = preparation.complete(preparation.configuration())
        else:
            stack.enter_context(caches.keeping())
            inputs = stack.enter_context(prepared(options, f"rait {command}", preparation))
        how = {"read_only": read_only, "needs_transit": needs_transit}
        yield stack.enter_context(session_on(options, inputs, babeld=babeld, **how))


@contextmanager
def session_on(
    options: Options,
    inputs: Inputs,
    *,
    read_only: bool = False,
    needs_transit: bool = True,
    babeld: Babeld = "synced",
) -> Iterator[Session]:
    """Open the journal and the machine as ``open_session`` does, with the lock held by the caller.

    Raises MachineError.
    """
    with ExitStack() as stack:
        config = inputs.loaded.config
        machine = stack.enter_context(machine_of(config, inputs.key, needs_transit=needs_transit))
        journal = JournalReader(config.journal)
        if not read_only:
            journal = stack.enter_context(Journal.open(config.journal))
        routing = _routing(config, babeld)
        if routing is not None:
            stack.callback(routing.client.close)
        yield Session(options, inputs, machine, journal, routing)


def _routing(config: Config, babeld: Babeld) -> Routing | None:
    if babeld == "never" or (babeld == "synced" and not config.babeld.sync):
        return None
    from rait.app.routing import Routing

    return Routing(config, exclusive=babeld == "exclusive")


def machine_of(config: Config, key: KeyPair, *, needs_transit: bool) -> Machine:
    """The machine as seen from the transit namespace.

    Raises MachineError if that namespace is needed and missing.
    """
    transit = config.isolation.transit_netns
    found = netns.open_netns(transit) if needs_transit else netns.find_netns(transit)
    return Machine(found or netns.gone(transit), key)

"""One run of rait against this machine: its configuration, lock, journal and WireGuard."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from functools import cache, cached_property, partial
from typing import TYPE_CHECKING, Any, Literal

from msgspec import structs

from rait import __version__
from rait.adapters import netns
from rait.adapters.config import cache_file
from rait.adapters.journal.reader import JournalReader
from rait.adapters.journal.store import Journal
from rait.adapters.keys import KeyPair
from rait.adapters.netns import Netns
from rait.app import isolation
from rait.app.inputs import Inputs, Preparation, Registry, lock_path, prepared
from rait.app.machine import Machine
from rait.app.options import Options
from rait.app.report import Report, carried_out, planned, stopped
from rait.app.scopes import claimed_by_others, filed_under, scope_name
from rait.app.whereabouts import is_of_this_boot, observe, require_target
from rait.domain.backend import Observation
from rait.domain.change import NO_RESULTS, Change, Goal, verdict
from rait.domain.config.schema import Config
from rait.domain.errors import MachineError, RaitError, counted
from rait.domain.events import Event, LinkAdded, ToBabeld
from rait.domain.history import LastKnown, as_made_now
from rait.domain.hooks import Call, CallResult
from rait.domain.ownership import Scope, doubtful, scope_of, with_found
from rait.domain.reconcile import concerns_babeld, reconcile
from rait.domain.records import Instant, RunHeader, RunStatus
from rait.domain.topology import EMPTY, BackendKind, Link, Origin, Topology

if TYPE_CHECKING:
    from rait.adapters.journal.store import Run
    from rait.app.execution import Execution
    from rait.app.routing import Routing
    from rait.domain.guard import Losses, Removal


Babeld = Literal["never", "synced", "explicit", "exclusive"]
"""When a run talks to babeld: never; if rait.conf has ``sync = true``; because the user asked for
it; because the user asked to flush the interfaces of others too."""


Confirm = Callable[["Session", Change], Instant]
"""Arranges that a change is taken back at the instant that it gives, unless somebody confirms it.

Raises RaitError if that cannot be; then the change is not made.
"""


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
        self.public_key = inputs.public_key
        self.machine = machine
        self.journal = journal
        self.routing = routing
        self.spelt = scope_name(options.config, inputs.public_key)
        self.name = filed_under(journal, self.spelt)
        self._registry = inputs.registry
        self.preshared = inputs.preshared
        machine.key.psks.update(inputs.preshared.psks)

    @property
    def registry(self) -> Registry:
        """The other nodes, in a session that was opened with ``peers``."""
        assert self._registry is not None  # noqa: S101 - a mistake of ours, not of the user
        return self._registry

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
        change = self._decide(self.observation, self._with_psks(goal), self.known, self.routing)
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

    def _decide(
        self, observation: Observation, goal: Goal, known: LastKnown, routing: Routing | None
    ) -> Change:
        scope = self.scope_among(observation, known)
        babeld = None
        if routing is not None and (
            routing.explicit or concerns_babeld(observation, goal, known, scope)
        ):
            babeld = routing.look()
        change = reconcile(observation, goal, known, scope, babeld)
        self.options.debug(
            f"observed {counted(len(observation.links), 'WireGuard link')}, "
            f"{len(change.observed.links)} of them ours"
        )
        return change

    def conclude(
        self,
        command: str,
        change: Change,
        *,
        makes_target: bool = False,
        warnings: Sequence[str] = (),
        accepted: bool = False,
        confirm: Confirm | None = None,
        takes_back: int = 0,
        always: bool = False,
    ) -> Report:
        """Carry the change out; in a read-only session only report what would be done.

        First make the namespaces that new links need (the target in any case if ``makes_target``),
        so that the journal can say in which instance each link is made. Unless the user
        ``accepted`` whatever the run costs, the guard stops a run that costs too much. With
        ``confirm``, the run is to be confirmed; that is called right before anything is touched.
        ``takes_back`` is as in RunHeader, and ``always`` journals a run that has nothing to do too.
        Raises MachineError, with nothing touched, where a link's namespace can be neither found nor
        made.
        """
        if not isinstance(self.journal, Journal):
            require_places(change.events)
            return planned(command, change, self._removal(change), warnings)
        if not accepted and (cost := self._removal(change)) is not None:
            return stopped(command, change, cost, warnings)
        confirm_by = confirm(self, change) if confirm is not None and change.events else None
        change = self._prepared(change, makes_target)
        told = {"accepted": accepted, "confirm_by": confirm_by, "takes_back": takes_back}
        header = partial(self._header, command, change, **told)
        report = self._carry_out(self.journal, command, change, warnings, header, always)
        return report if confirm is None else self._with_deadline(report)

    def _carry_out(
        self,
        journal: Journal,
        command: str,
        change: Change,
        warnings: Sequence[str],
        header: Callable[[], RunHeader],
        always: bool,
    ) -> Report:
        """Journal the events, carry them out, and journal the outcomes.

        A run with nothing to do and no drift leaves no trace in the journal. A run that fails just
        as the last one did is only counted there.
        """
        leaves_trace = always or bool(
            change.events or change.drift or change.leftover_links or change.calls(())
        )
        if not (leaves_trace or change.extra_cmd_owed):
            judged = verdict(change, babeld_alone=self._is_about_babeld)
            return carried_out(command, change, NO_RESULTS, judged, warnings)
        execution = self._execution(change)
        run: Run | None = None
        if leaves_trace:
            run = journal.begin(header(), change.drift, change.events)
            execution.perform(run)
            # A run that only repeats an earlier one has the number of that one by now.
            warnings = (*warnings, *self._prune(journal, run.id))
        elif execution.send_extra_cmd():
            run = journal.begin(header(), (), ())
            run.finish("done", extra_cmd="sent")
        report = carried_out(command, change, execution.results, execution.verdict, warnings)
        if run is None:
            return report
        return structs.replace(report, run=run.id, extra_cmd_sent=not leaves_trace)

    @property
    def _is_about_babeld(self) -> bool:
        return self.routing is not None and self.routing.explicit

    def _execution(self, change: Change) -> Execution:
        from rait.app.execution import Execution

        return Execution(
            self.machine,
            change,
            self.routing,
            self.options.debug,
            look_again=partial(self._look_again, change),
            make_calls=self._make_calls,
            babeld_alone=self._is_about_babeld,
        )

    def _make_calls(self, calls: Sequence[Call]) -> Generator[CallResult, None, None]:
        from rait.app.hooks import make

        namespaces, seconds = self.machine.namespaces, self.config.command_timeout
        lock = lock_path(self.config.journal)
        return make(calls, namespaces, seconds, lock, self.public_key)

    def _removal(self, change: Change) -> Removal | None:
        if not change.events:
            return None
        from rait.domain.guard import excessive_removal

        return excessive_removal(change, self.config.max_removals, self.recent_losses)

    def _prepared(self, change: Change, makes_target: bool) -> Change:
        """Make the namespaces, and complete the change with what is only known then."""
        require_places(change.events)
        specs = {e.link.origin.netns for e in change.events if isinstance(e, LinkAdded)}
        for spec in sorted(specs | {self.target} if makes_target else specs):
            netns.ensure_netns(spec)
        change = change.placed({spec: self.machine.instance_of(spec) for spec in specs})
        isolation.mark_ours(change.observed, change.known)
        leftover_links = self.machine.leftovers(change.leftover_links)
        return structs.replace(change, leftover_links=leftover_links)

    def _prune(self, journal: Journal, newest: int) -> Iterator[str]:
        """Drop runs older than ``journal_keep``; a warning if that fails."""
        keep = self.config.journal_keep
        if keep is None:
            return
        try:
            pruning = journal.prune_old(keep, newest)
        except RaitError as error:
            yield f"old runs stay in the journal: {error}"
        else:
            self.options.debug(f"{counted(pruning.runs, 'old run')} pruned from the journal")

    def _look_again(
        self, change: Change, topology: Topology, failed: Sequence[Event]
    ) -> tuple[tuple[Event, ...], tuple[Event, ...]]:
        """Observe what failed events did all the same, and for which of them that stays unknown.

        ``topology`` is what is known after the events that happened. If the machine cannot be
        looked at, all failed events are unsure.
        """
        from rait.domain.aftermath import known_after_failures

        known = known_after_failures(change.known, topology, failed)
        routing = self.routing if any(isinstance(e, ToBabeld) for e in failed) else None
        try:
            seen = self._decide(self.observe(known), change.goal, known, routing)
        except (RaitError, OSError) as error:
            self.options.debug(f"the machine could not be looked at again: {error}")
            return (), known.leftover
        # A half-made link may have no interface in the target yet, but a program in the transit
        # namespace.
        missing = [
            name
            for name in seen.leftover_links
            if known.leftover_links[name].origin.backend == "userspace"
        ]
        hidden, carried = frozenset(self.machine.leftovers(missing)), frozenset(seen.carried)
        unsure = (e for e in known.leftover if e in carried or e.name in hidden)
        half_done = (event for event in seen.drift if event in seen.leftover)
        return tuple(half_done), tuple(unsure)

    def _with_deadline(self, report: Report) -> Report:
        """The report of a run that was to be confirmed, if it turned out to need that."""
        self.forget()
        trial = self.known.trial
        if trial is not None and trial.header.confirm_by is not None and trial.run == report.run:
            return structs.replace(report, confirm_by=trial.header.confirm_by.at)
        nothing = "nothing was changed, so there is nothing to confirm"
        return structs.replace(report, warnings=(*report.warnings, nothing))

    def record(
        self,
        command: str,
        status: RunStatus = "done",
        problems: Mapping[str, str] | None = None,
        **settings: Any,
    ) -> None:
        """Journal a run that does nothing to the machine, with these settings in its header."""
        assert isinstance(self.journal, Journal)  # noqa: S101 - a mistake of ours, not of the user
        known = self.known
        nothing = Change(observed=EMPTY, desired=EMPTY, known=known, carried=known.leftover)
        header = structs.replace(self._header(command, nothing, **settings), home="")
        self.journal.begin(header, (), ()).finish(status, problems)

    def seen_from(self, transit: Netns) -> Session:
        """This session with the machine seen from another transit namespace."""
        import copy  # here, as only what is taken back needs it

        other = copy.copy(self)
        other.forget()
        other.machine = self.machine.seen_from(transit)
        return other

    def _header(self, command: str, change: Change, **settings: Any) -> RunHeader:
        hidden = {name for name, link in change.known.leftover_links.items() if self._is_away(link)}
        hidden = {*change.leftover_links, *(hidden - change.observed.links.keys())}
        carried = frozenset(change.carried)
        peers = self._registry.peers if self._registry is not None else None
        return RunHeader(
            scope=self.name,
            command=command,
            version=__version__,
            uid=os.getuid(),
            started_at=time.time_ns(),
            public_key=self.public_key,
            config_digest=self.loaded.digest(),
            peers_digest=peers.digest() if peers is not None else "",
            source=peers.document.name if peers is not None else "",
            revision=peers.revision if peers is not None else 0,
            leftover_noticed=tuple(
                index for index, event in enumerate(change.drift) if event in change.leftover
            ),
            carried=tuple(
                event for event in change.known.leftover if event in carried or event.name in hidden
            ),
            leftover_links=change.leftover_links,
            home=isolation.home(self.config, change.known, self.machine.namespaces),
            spelt=self.spelt if self.spelt != self.name else "",
            cause=self.options.cause,
            signed=peers.signed if peers is not None else None,
            **settings,
        )

    def _is_away(self, link: Link) -> bool:
        """Whether a half-made link would be in a namespace where this run does not look."""
        if link.origin.backend == "kernel" or not is_of_this_boot(link):
            return False
        here = self.machine.namespace.is_open and self.machine.transit
        return link.origin.transit not in ("", here)


def require_places(events: Sequence[Event]) -> None:
    """Raise MachineError if links are to be made in a namespace that cannot be opened."""
    for spec in sorted({e.link.origin.netns for e in events if isinstance(e, LinkAdded)}):
        if netns.lacks_process(spec):
            raise MachineError(
                f"there is no process {spec}, so no network namespace to make links in: set "
                "`target` to the id of a running process in that namespace, or to a name"
            )


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
            stack.enter_context(cache_file.keeping())
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
        config, key = inputs.loaded.config, KeyPair(inputs.secret, inputs.public_key)
        machine = stack.enter_context(machine_of(config, key, needs_transit=needs_transit))
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

    return Routing(config, explicit=babeld != "synced", exclusive=babeld == "exclusive")


def machine_of(config: Config, key: KeyPair, *, needs_transit: bool) -> Machine:
    """The machine as seen from the transit namespace.

    Raises MachineError if that namespace is needed and missing.
    """
    transit = config.isolation.transit_netns
    found = netns.open_netns(transit) if needs_transit else netns.find_netns(transit)
    return Machine(found or netns.gone(transit), key)

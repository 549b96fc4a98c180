"""One run of rait against this machine: its configuration, lock, journal and WireGuard."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

from msgspec import structs

from rait import __version__
from rait.adapters import netns
from rait.adapters.config import cache_file
from rait.adapters.journal.reader import JournalReader
from rait.adapters.journal.store import Journal
from rait.app import isolation
from rait.app.execution import Aftermath, Change, Execution, report_on
from rait.app.inputs import Inputs, Preparation, Registry, transit_netns
from rait.app.machine import Machine
from rait.app.options import Options
from rait.app.report import Report
from rait.app.scopes import claimed_by_others, filed_under, scope_name
from rait.app.turn import prepared
from rait.app.whereabouts import Whereabouts, is_of_this_boot, whereabouts
from rait.domain.backend import Observation
from rait.domain.config.schema import Config, Secret
from rait.domain.diff import diff
from rait.domain.doubt import Describe, Doubt, judge
from rait.domain.endpoints import NO_NAMES, Names
from rait.domain.errors import MachineError, RaitError, counted, few
from rait.domain.events import Event, LinkAdded, ToBabeld, may_be_half_done
from rait.domain.guard import (
    WINDOW_HOURS,
    Losses,
    Removal,
    losses_of,
    merged,
    recent_losses,
)
from rait.domain.history import LastKnown
from rait.domain.reconcile import Scope, Settled, doubtful, placed, reconcile, unread_of_ours
from rait.domain.records import RunHeader
from rait.domain.topology import EMPTY, BackendKind, Link, Origin, Topology

if TYPE_CHECKING:
    from rait.app.routing import Routing


class Session:
    """A node's configuration at work; see ``read_write``."""

    def __init__(
        self, options: Options, inputs: Inputs, machine: Machine, journal: JournalReader
    ) -> None:
        self.options = options
        self.loaded = inputs.loaded
        self.secret = inputs.secret
        self.public_key = inputs.public_key
        self.machine = machine
        self.spelt = scope_name(options.config, inputs.public_key)
        self.name = filed_under(journal, self.spelt)
        self._registry = inputs.registry

    @property
    def registry(self) -> Registry:
        """The other nodes, for a command that asked for ``peers``."""
        assert self._registry is not None  # noqa: S101 - a mistake of ours, not of the user
        return self._registry

    @property
    def config(self) -> Config:
        return self.loaded.config

    @property
    def target(self) -> str:
        """The namespace in which the links live, as the configuration spells it."""
        return target_netns(self.config)

    @property
    def scope(self) -> Scope:
        """Which links are ours."""
        return scope_of(self.config, self.public_key)

    def origin(self, kind: BackendKind, target: str | None = None) -> Origin:
        """How a link of this kind is born now, in our target or in another one."""
        spec = self.target if target is None else target
        return Origin(kind, spec, self.machine.transit, self.machine.instance_of(spec))

    @property
    def journal_path(self) -> str:
        return self.config.journal

    def observe(self, memory: LastKnown) -> Observation:
        """What there is in the target, and wherever else the journal says that we have links.

        Raises MachineError where the journal knows links in a target that cannot be found.
        """
        _require_target(self.target, memory)
        if not self.options.assume_gone:
            isolation.require_home(memory, self.machine.namespaces)
        return observe(
            self.machine,
            self.target,
            memory,
            rules=isolation.needs_rules(self.config, memory),
            assume_gone=self.options.assume_gone,
        )

    def scope_among(self, observation: Observation, memory: LastKnown) -> Scope:
        """Which links are ours, with those that other configurations claim. Raises RaitError."""
        scope = self.scope
        seen = doubtful(observation, memory, scope)
        if not seen:
            return scope
        claimed = claimed_by_others(self.options.config, self.journal_path, self.name, seen)
        return structs.replace(scope, claimed=claimed)

    def compare(
        self,
        desired: Topology | None,
        memory: LastKnown,
        routing: Routing | None = None,
        doubts: Sequence[Doubt] = (),
        names: Names = NO_NAMES,
    ) -> Change:
        """Look at the machine, and find what to do for it to be as desired. Changes nothing.

        Where nothing is desired (None), links stay as they are, and those in doubt stay too;
        ``names`` are those of the plan. With ``routing``, babeld's interfaces shall be the links.
        Raises MachineError where nothing may be touched at all.
        """
        observation, settled = self._look(desired, memory, names)
        if desired is None:
            settled = Settled(settled.observed, settled.observed, strangers=settled.strangers)
        losses: tuple[str, ...] = ()
        if doubts:
            settled, losses = judged(settled, doubts, self.config, self.registry.peers.describe)
        refuse(settled)
        self.options.debug(
            f"observed {counted(len(observation.links), 'WireGuard link')}, "
            f"{len(settled.observed.links)} of them ours"
        )
        told = routing is not None and _concerns_babeld(settled, memory, routing)
        problem: str | None = None
        if routing is not None and told:
            settled, problem = _with_routing(settled, memory, routing)
        left, others = _noticed(memory, settled.observed)
        strays = tuple(sorted(memory.leftover_links.keys() - settled.observed.links.keys()))
        return Change(
            settled=settled,
            routing_problem=problem,
            extra_cmd_owed=told and problem is None and memory.extra_cmd_owed,
            events=diff(settled.observed, settled.desired),
            drift=(*left, *others),
            left=frozenset(left),
            dead=dead_among(observation),
            memory=memory,
            desired=desired,
            names=names,
            strays=strays,
            carried=self._carried(observation, memory, strays, babeld=told and problem is None),
            losses=losses,
        )

    def removal(self, change: Change) -> Removal | None:
        """What the change would cost that it must not without being asked for, or None."""
        earlier = losses_of(change.left)
        return change.removal(
            self.config.max_removals, lambda: merged(self.recent_losses(), earlier)
        )

    def recent_losses(self) -> Losses:
        """The links that runs of the last hours cost their sessions; see the guard.

        A clock that was set back, or not set yet, is behind the journal: its last entry is now.
        """
        journal = JournalReader(self.journal_path)
        now = max(time.time_ns(), journal.last_at())
        since = now - WINDOW_HOURS * 3600 * 10**9
        return recent_losses(journal.runs(since=since, scope=self.name))

    def _look(
        self, desired: Topology | None, memory: LastKnown, names: Names
    ) -> tuple[Observation, Settled]:
        observation = self.observe(memory)
        scope = self.scope_among(observation, memory)
        return observation, reconcile(observation, desired or EMPTY, memory, scope, names)

    def _carried(
        self, observation: Observation, memory: LastKnown, strays: Sequence[str], *, babeld: bool
    ) -> tuple[Event, ...]:
        """What earlier runs may have done that cannot be looked at now either."""
        if not memory.leftover:
            return ()
        hidden = set(unread_of_ours(observation, memory, self.scope))
        hidden |= {name for name in strays if self._is_born_elsewhere(memory.leftover_links[name])}
        return tuple(
            event
            for event in memory.leftover
            if (not babeld if isinstance(event, ToBabeld) else event.name in hidden)
        )

    def _is_born_elsewhere(self, link: Link) -> bool:
        """Whether a link that is half made would be in a namespace where this run does not look."""
        if link.origin.backend == "kernel" or not is_of_this_boot(link):
            return False
        here = self.machine.namespace.is_open and self.machine.transit
        return link.origin.transit not in ("", here)

    def carry_out(
        self,
        command: str,
        change: Change,
        journal: Journal,
        *,
        peers_digest: Callable[[], str] = str,
        prepare: Callable[[], None] | None = None,
        routing: Routing | None = None,
        warnings: Sequence[str] = (),
        accepted: bool = False,
    ) -> Report:
        """Journal what shall happen, do it, and journal what became of it.

        ``prepare`` makes the namespaces that the links need, so that the journal can say in which
        instance of one each new link is made. A run with nothing to do and nothing new to tell
        leaves no trace in the journal, and one that fails just as the last one did is counted
        there. ``accepted`` says that the user asked for whatever it costs. Raises MachineError,
        with nothing touched, where there is no place for the links.
        """
        require_places(change.events)
        if prepare is not None:
            prepare()
            change = self._placed(change)
        change = structs.replace(change, strays=self.machine.strays(change.strays))
        execution = Execution(
            self.machine,
            change,
            routing,
            self.options.debug,
            look_again=lambda known, failed: self._look_again(change, known, failed, routing),
        )
        run_id: int | None = None
        isolation.mark_known(change.settled.observed, change.memory)
        header = partial(self._header, command, peers_digest, change, accepted=accepted)
        if change.events or change.drift or change.strays:
            run = journal.begin(header(), change.drift, change.events)
            execution.perform(run)
            run_id = run.id  # now it is known if it only repeats an earlier one
            warnings = (*warnings, *self._prune(journal, run_id))
        resent = run_id is None and change.extra_cmd_owed and execution.send_extra_cmd()
        if resent:
            run = journal.begin(header(), (), ())
            run_id = run.id
            run.finish("done", extra_cmd="sent")
        report = report_on(command, execution.status, change, warnings)
        return structs.replace(
            report,
            run=run_id,
            failures=execution.failures,
            errors=execution.errors,
            half_done=execution.half_done,
            ended=execution.ended,
            extra_cmd_sent=resent,
        )

    def _placed(self, change: Change) -> Change:
        """The change with each new link in the instance of its namespace that there is now."""
        if all(e.link.origin.instance for e in change.events if isinstance(e, LinkAdded)):
            return change
        specs = {e.link.origin.netns for e in change.events if isinstance(e, LinkAdded)}
        instances = {spec: self.machine.instance_of(spec) for spec in specs}
        settled, events = placed(change.settled, change.events, instances)
        return structs.replace(change, settled=settled, events=events)

    def _prune(self, journal: Journal, newest: int) -> Iterator[str]:
        """Drop what is older than ``journal_keep``; why not, where that cannot be."""
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
        self, change: Change, known: Topology, failed: Sequence[Event], routing: Routing | None
    ) -> Aftermath:
        """What became of the links of events that failed, and of babeld's interfaces if need be."""
        from rait.domain.aftermath import half_done, memory_for_a_second_look

        memory = memory_for_a_second_look(change.memory, known, failed)
        asked = routing if any(isinstance(event, ToBabeld) for event in failed) else None
        unsure = [event for event in failed if may_be_half_done(event)]
        try:
            observation, settled = self._look(change.desired, memory, change.names)
        except (RaitError, OSError) as error:
            self.options.debug(f"the machine could not be looked at again: {error}")
            return Aftermath((), tuple(unsure))
        problem: str | None = None
        if asked is not None:
            after = change.settled.desired
            settled = Settled(settled.observed, after)
            settled, problem = _with_routing(settled, memory, asked)
        hidden = self._hidden(observation, memory, failed)
        unsure = [
            event
            for event in unsure
            if (problem is not None if isinstance(event, ToBabeld) else event.name in hidden)
        ]
        looked = [event for event in failed if event not in unsure]
        return Aftermath(half_done(known, settled.observed, looked), tuple(unsure))

    def _hidden(
        self, observation: Observation, memory: LastKnown, failed: Sequence[Event]
    ) -> frozenset[str]:
        """The links that nobody can look at now, or that are still on their way to the target."""
        unread = unread_of_ours(observation, memory, self.scope)
        made = {
            event.name
            for event in failed
            if isinstance(event, LinkAdded) and event.link.origin.backend == "userspace"
        }
        return frozenset(unread).union(self.machine.strays(sorted(made - observation.links.keys())))

    def _header(
        self, command: str, peers_digest: Callable[[], str], change: Change, *, accepted: bool
    ) -> RunHeader:
        strays = (e for e in change.memory.leftover if e.name in change.strays)
        return RunHeader(
            scope=self.name,
            command=command,
            version=__version__,
            uid=os.getuid(),
            started_at=time.time_ns(),
            public_key=self.public_key,
            config_digest=self.loaded.digest(),
            peers_digest=peers_digest(),
            leftover_noticed=tuple(
                i for i, event in enumerate(change.drift) if event in change.left
            ),
            carried=(*change.carried, *(e for e in strays if e not in change.carried)),
            leftover_links=change.strays,
            accepted=accepted,
            home=isolation.home(self.config, change.memory, self.machine.namespaces),
            spelt=self.spelt if self.spelt != self.name else "",
        )


def dead_among(observation: Observation) -> frozenset[str]:
    """The links that have no session to lose."""
    return frozenset(name for name, seen in observation.links.items() if seen.dead)


def _noticed(memory: LastKnown, seen: Topology) -> tuple[tuple[Event, ...], tuple[Event, ...]]:
    """What changed since the last run: what earlier runs did without telling, and what others did.

    Nearly no run has anything of the first kind, and none of these pays for the import.
    """
    if not memory.leftover:
        return (), diff(memory.topology, seen)
    from rait.domain.aftermath import told_apart

    return told_apart(memory.topology, seen, memory.leftover)


def _concerns_babeld(settled: Settled, memory: LastKnown, routing: Routing) -> bool:
    """babeld is left in peace where there are no links, nor were any."""
    some = settled.observed.links or settled.desired.links or memory.topology.babel
    return routing.asked or bool(some)


def _with_routing(
    settled: Settled, memory: LastKnown, routing: Routing
) -> tuple[Settled, str | None]:
    """Without babeld the tunnels still come and go; what is the matter is for the report."""
    try:
        before, after = routing.compare(settled.observed, settled.desired, memory.topology)
    except RaitError as error:
        return settled, str(error)
    return structs.replace(settled, observed=before, desired=after), None


def judged(
    settled: Settled, doubts: Sequence[Doubt], config: Config, describe: Describe
) -> tuple[Settled, tuple[str, ...]]:
    """Let the links in doubt stay; also what to tell of those that go all the same.

    Raises MachineError where that, with what is new, makes more links than there may be.
    """
    verdict = judge(settled, doubts, config.transports, describe)
    before, after = verdict.settled.observed.links, verdict.settled.desired.links
    if len(after) > config.max_links and after.keys() - before.keys():
        raise MachineError(
            f"there would be {len(after)} links, counting those whose entries cannot be read, but "
            f"max_links is {config.max_links}, so nothing is done. If the peers list is right, "
            "raise max_links in rait.conf"
        )
    return verdict.settled, verdict.losses


def refuse(settled: Settled) -> None:
    """Raise MachineError for what forbids to touch anything at all."""
    for problem in settled.problems:
        if problem.link is None and problem.severity == "error":
            raise MachineError(problem.message)


def require_places(events: Sequence[Event]) -> None:
    """Raise MachineError if links are to be made in a namespace that cannot be opened."""
    for spec in sorted({e.link.origin.netns for e in events if isinstance(e, LinkAdded)}):
        if netns.lacks_process(spec):
            raise MachineError(
                f"there is no process {spec}, so no network namespace to make links in: set "
                "`target` to the id of a running process in that namespace, or to a name"
            )


def _require_target(target: str, memory: LastKnown) -> None:
    links = (*memory.topology.links.values(), *memory.leftover_links.values())
    origins = {link.name: link.origin for link in links}
    # Where the instance is known, it is looked for elsewhere.
    names = sorted(n for n, o in origins.items() if o.netns == target and not o.instance)
    if names and netns.lacks_process(target):
        raise MachineError(
            f"there is no process {target} any more, so its network namespace cannot be looked at. "
            f"Links that the journal has in it may still be there: {few(names)}. "
            "Set `target` in rait.conf to the id of another process in that namespace or, if the "
            "namespace is gone, to the namespace that you want links in"
        )


@contextmanager
def read_write(
    options: Options, command: str, *, needs_transit: bool = True, peers: bool = False
) -> Iterator[tuple[Session, Journal]]:
    """Gather what the command acts upon, wait for our turn, and open journal and machine.

    Unless it ``needs_transit``, that namespace may be gone: enough to remove links. With
    ``peers``, the session has the registry. Raises ConfigError, SourceError or MachineError before
    anything is touched.
    """
    preparation = Preparation(options.config, options.debug, peers=peers, keep=True)
    with (
        prepared(options, f"rait {command}", preparation) as inputs,
        _machine_for(inputs, needs_transit=needs_transit) as machine,
        Journal.open(inputs.loaded.config.journal) as journal,
    ):
        yield Session(options, inputs, machine, journal), journal


@contextmanager
def routing_of(
    session: Session, *, asked: bool = True, exclusive: bool = False
) -> Iterator[Routing]:
    """A talk with babeld, for as long as the block lasts; see Routing."""
    from rait.app.routing import Routing

    routing = Routing(session.config, session.target, asked=asked, exclusive=exclusive)
    try:
        yield routing
    finally:
        routing.close()


@contextmanager
def synced_routing(session: Session) -> Iterator[Routing | None]:
    """The same if babeld is to hear of each change (``sync = true``), else None."""
    if not session.config.babeld.sync:
        yield None
        return
    with routing_of(session, asked=False) as routing:
        yield routing


@contextmanager
def read_only(options: Options, *, peers: bool = False) -> Iterator[Session]:
    """A session for looking only: it takes no lock and writes nothing.

    With ``peers``, it has the registry. Raises as ``read_write``.
    """
    preparation = Preparation(options.config, options.debug, peers=peers)
    with cache_file.left_alone():
        inputs = preparation.complete(preparation.configuration())
        with _machine_for(inputs) as machine:
            journal = JournalReader(inputs.loaded.config.journal)
            yield Session(options, inputs, machine, journal)


def _machine_for(inputs: Inputs, *, needs_transit: bool = True) -> Machine:
    config = inputs.loaded.config
    return machine_of(config, inputs.secret, inputs.public_key, needs_transit=needs_transit)


def machine_of(
    config: Config, secret: Secret | None, public_key: str, *, needs_transit: bool = True
) -> Machine:
    """The machine as seen from the transit namespace.

    Raises MachineError if that is missing, where it is needed.
    """
    transit = transit_netns(config)
    found = netns.open_netns(transit) if needs_transit else netns.find_netns(transit)
    return Machine(found or netns.gone(transit), secret, public_key)


def target_netns(config: Config) -> str:
    """The namespace that holds the links: in VRF isolation it is the current one."""
    return config.isolation.target if config.isolation.type == "netns" else ""


def scope_of(config: Config, public_key: str) -> Scope:
    """Which links belong to the node with this configuration and key."""
    group = config.isolation.ifgroup
    return Scope(public_key=public_key, netns=target_netns(config), ifgroup=group)


def observe(
    machine: Machine,
    target: str,
    memory: LastKnown,
    *,
    rules: bool = False,
    assume_gone: bool = False,
) -> Observation:
    """Look at the target, and wherever else the journal says that we have links, VRFs or rules.

    Raises MachineError.
    """
    links = (*memory.topology.links.values(), *memory.leftover_links.values())
    places = whereabouts(
        machine.namespaces, target, links, machine.namespace, assume_gone=assume_gone
    )
    elsewhere = list(places.elsewhere)
    if target and isolation.made_here(memory) and all(ns.spec for ns in elsewhere):
        elsewhere.append(machine.namespaces.open(""))
    observation = machine.observe(places.target, elsewhere, rules=rules)
    known = memory.topology.links.values()
    missing = [link for link in known if _is_missing(link, observation, places)]
    if missing:
        instances = {ns.instance for ns in (*elsewhere, places.target) if ns is not None}
        found, unread = machine.trace(missing, instances)
        observation = observation.with_traced(found, unread)
    return structs.replace(observation, lost=places.lost) if places.lost else observation


def _is_missing(link: Link, observation: Observation, places: Whereabouts) -> bool:
    """Whether a link that was there is not where it was, and may be elsewhere."""
    instance = link.origin.instance
    if link.name in observation.unread or instance in places.lost or not is_of_this_boot(link):
        return False
    return not any(
        seen.link.origin.netns == link.origin.netns and instance in ("", seen.link.origin.instance)
        for seen in observation.named(link.name)
    )

"""Changes that are taken back unless somebody confirms them; domain/confirm.py has the rules."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Any

from msgspec import structs

from rait.adapters.config.source import STDIN, is_path
from rait.adapters.journal.reader import JournalReader
from rait.adapters.lock import HeldError, Stamp, stamp
from rait.app.conclude import Confirm, Report, conclude, record
from rait.app.inputs import Inputs, Preparation, lock_path, locked
from rait.app.moments import written
from rait.app.options import Options
from rait.app.scopes import confirm_line, filed_under, normal, scope_name
from rait.app.session import Session, open_session, session_on
from rait.app.whereabouts import is_of_this_boot
from rait.domain.change import Change, Goal
from rait.domain.config.schema import DAY, SECOND, parse_span
from rait.domain.confirm import BACK, OVERDUE, TrialState, rejects, state_of
from rait.domain.errors import (
    ConfigError,
    HistoryError,
    MachineError,
    PendingError,
    RaitError,
    SourceError,
    few,
)
from rait.domain.history import require_own_key
from rait.domain.records import Instant, Trial
from rait.domain.topology import Topology

if TYPE_CHECKING:
    from rait.adapters.waiter import Waiter

LEAST_SPAN, LONGEST_SPAN = 3 * SECOND, DAY
POLL_SECONDS = 0.5
RETRY_SECONDS = 5.0
"""How long the waiter waits before it tries once more, if a change could not be taken back."""


@contextmanager
def open_settled(options: Options, command: str, **how: Any) -> Iterator[Session]:
    """A session of a command that changes something, as ``open_session`` gives it.

    Raises PendingError while an earlier change waits for its confirmation. If the time of that
    change is over, it is taken back first.
    """
    with ExitStack() as stack:
        try:
            session = stack.enter_context(open_session(options, command, **how))
        except HeldError:
            raise
        except (SourceError, MachineError):
            # What the change cut off may be the very server that has the peers list.
            if not how.get("read_only"):
                _settle_at_least(options, command)
            raise
        if not how.get("read_only"):
            settle(session)
        yield session


def _settle_at_least(options: Options, command: str) -> None:
    """Settle without all that only the command itself needs; whatever fails is told already."""
    with (
        suppress(SourceError, MachineError),
        open_session(options, command, needs_transit=False) as session,
    ):
        settle(session)


def settle(session: Session) -> None:
    """Take back what is overdue. Raises PendingError for what is pending."""
    trial = session.known.trial
    if trial is None:
        return
    state = _state(trial)
    if state == "pending":
        raise PendingError(
            f"{_pending(trial)}, and nothing else is changed before. "
            f"`{confirm_line(session.options.config)}` keeps it, and with --back takes it back now"
        )
    if state == "overdue":
        report = take_back(session, trial, OVERDUE)
        session.options.notice(
            f"run {trial.run} ({trial.header.command}) was not confirmed by {_deadline(trial)}, so "
            f"run {report.run} took it back ({report.status})"
        )


def take_back(session: Session, trial: Trial, command: str) -> Report:
    """Make the links what they were before the run on trial. Raises RaitError."""
    with _as_before(session, trial, command) as (there, goal):
        change = there.compare(goal)
        report = conclude(there, command, change, accepted=True, takes_back=trial.run, always=True)
    session.forget()
    return report


def hold(session: Session, trial: Trial, command: str, warnings: Sequence[str]) -> Report:
    """Have the links as they were before the run that was taken back, and say so."""
    warnings = (*warnings, _held(trial))
    with _as_before(session, trial, command) as (there, goal):
        change = there.compare(goal)
        report = conclude(there, command, change, warnings=warnings, takes_back=trial.run)
    return structs.replace(report, held=True)


def held_by(session: Session, change: Change) -> Trial | None:
    """The run that was taken back, or is overdue, if `rait up` would do the same once more."""
    trial = session.known.trial
    if trial is None or _state(trial) not in ("overdue", "taken back"):
        return None
    digests = session.loaded.digest(), session.registry.peers.digest()
    before = session.as_made_now(trial.before, of_own_kind=True)
    return trial if rejects(trial, *digests, before, change.desired) else None


def mention(trial: Trial | None, config: str) -> tuple[str, ...]:
    """A line for commands that only show things, if some run waits for its confirmation."""
    if trial is None:
        return ()
    state = _state(trial)
    if state == "pending":
        return (f"{_pending(trial)}; `{confirm_line(config)}` keeps it",)
    if state == "overdue":
        return (f"run {trial.run} was not confirmed by {_deadline(trial)}: it is to be taken back",)
    return ()


def standing(session: Session, change: Change) -> tuple[str, ...]:
    """A line for commands that show what `rait up` would do, if it would not make the change."""
    trial = held_by(session, change)
    if trial is not None and change.events:
        return (_held(trial),)
    return mention(session.known.trial, session.options.config)


@contextmanager
def confirmation(options: Options, span: str | None, *, dry_run: bool) -> Iterator[Confirm | None]:
    """What ``conclude`` takes for a run that is to be confirmed within the span.

    None for a run without one. Raises ConfigError where there can be none.
    """
    if span is None:
        yield None
        return
    if dry_run:
        raise ConfigError("--confirm is for a run that changes something")
    nanoseconds = parse_span(span)
    if nanoseconds is None or not LEAST_SPAN <= nanoseconds <= LONGEST_SPAN:
        raise ConfigError("--confirm takes a span from 3s to 1d, as 30s, 2m or 1h")
    if options.config == STDIN:
        raise ConfigError("--confirm needs a configuration that can be read again, so not from -")
    started: list[Waiter] = []
    try:
        yield partial(_begin, nanoseconds, started)
    finally:
        for waiter in started:
            waiter.release()


def _begin(span: int, started: list[Waiter], session: Session, change: Change) -> Instant:
    """Start the waiter for a change that is about to be made. Raises RaitError."""
    from rait.adapters import clock
    from rait.adapters.waiter import Waiter

    _require_keys(session, change)
    config = session.options.config
    started.append(Waiter(normal(config) if is_path(config) else config))
    return clock.later(clock.now(), span)


def _require_keys(session: Session, change: Change) -> None:
    """Raise ConfigError for a change that could not be taken back, as nobody has the keys."""
    links = change.observed.links
    try:
        require_own_key(session.public_key, "", links.values(), "what there is now")
    except ConfigError as error:
        raise ConfigError(f"{error}; or make this change without --confirm") from None
    changed = {event.name for event in change.events} & links.keys()
    if lacking := session.lacking_psks(links[name] for name in sorted(changed)):
        raise ConfigError(
            f"the preshared keys of links that would change could not be taken back: {few(lacking)}"
            ". No file that rait.conf names has the keys that there are now, and the journal holds "
            "none; nothing was touched. Make this change without --confirm"
        )


@contextmanager
def _as_before(session: Session, trial: Trial, command: str) -> Iterator[tuple[Session, Goal]]:
    """The goal to have the links as before the run on trial, and a session that can reach it.

    That run may have moved the links' sockets to another namespace, where rait.conf has them now.
    Links are made again of the kind that they were, and in the namespace of their sockets if that
    is still there. Raises ConfigError if they had another private key.
    """
    _require_key(session, trial, command)
    with _transit_of(session, trial.before) as there:
        yield there, Goal(there.as_made_now(trial.before, of_own_kind=True))


def _require_key(session: Session, trial: Trial, command: str) -> None:
    """Raise ConfigError if the links had a key that rait no longer has.

    Nobody can take the run back then, so the journal says that this failed.
    """
    what = f"what there was before run {trial.run}"
    try:
        require_own_key(session.public_key, "", trial.before.links.values(), what)
    except ConfigError as error:
        if not trial.taken_back:
            name = next(iter(trial.before.links))
            record(session, command, "failed", {name: str(error)}, takes_back=trial.run)
        raise


@contextmanager
def _transit_of(session: Session, before: Topology) -> Iterator[Session]:
    """The session, seen from the namespace in which most of these links had their sockets."""
    links = [link for link in before.links.values() if link.origin.transit]
    counts = Counter(link.origin.transit for link in links if is_of_this_boot(link))
    transit = next((transit for transit, _ in counts.most_common(1)), session.machine.transit)
    if transit == session.machine.transit:
        yield session
        return
    from rait.adapters import netns_search

    with netns_search.search([f"/{transit}"]) as found:
        if transit not in found.namespaces:
            yield session
            return
        there = session.seen_from(found.namespaces[transit])
        with there.machine:
            yield there


def confirm(options: Options, *, back: bool = False) -> tuple[Trial, Report | None]:
    """Confirm what is pending, or with ``back`` take it back at once.

    Gives the run, and the report if it was taken back, also because the time was over. Raises
    HistoryError if nothing is pending.
    """
    with open_session(options, "confirm", needs_transit=False) as session:
        trial = session.known.trial
        state = _state(trial)
        if trial is None or state == "none":
            raise HistoryError("there is nothing to confirm: no change waits for it")
        if state == "taken back":
            when = written(trial.taken_back_at)
            raise HistoryError(
                f"it is too late: run {trial.run} was taken back by run {trial.taken_back}, {when}"
            )
        if back or state == "overdue":
            command = BACK if state == "pending" else OVERDUE
            return trial, take_back(session, trial, command)
        record(session, "confirm", confirms=trial.run)
        return trial, None


def wait(options: Options) -> None:
    """Be the waiter: when a change's time is over, take it back, unless somebody confirmed it.

    The configuration is read before the change is made, so it may be gone or wrong by then.
    """
    from rait.adapters import waiter

    preparation = Preparation(options)
    inputs = preparation.complete(preparation.configuration())
    config = inputs.loaded.config
    config = structs.replace(config, journal=normal(config.journal))
    inputs = structs.replace(inputs, loaded=structs.replace(inputs.loaded, config=config))
    waiter.get_ready()
    while True:
        try:
            return _wait(options, inputs)
        except RaitError:
            # Nobody is there to read it, and another try may do better: a disk has space again.
            time.sleep(RETRY_SECONDS)


def _wait(options: Options, inputs: Inputs) -> None:
    journal = JournalReader(inputs.loaded.config.journal)
    lock, trial = lock_path(journal.path), None
    seen: Stamp = ()
    while True:
        if (now := stamp(lock)) != seen:
            scope = filed_under(journal, scope_name(options.config, inputs.public_key))
            trial, seen = journal.last_known(scope).trial, now
        state = _state(trial)
        if state in ("none", "taken back"):
            return
        if state == "overdue":
            break
        # Not until the time, as the clock of sleeping stands still while the machine sleeps.
        time.sleep(POLL_SECONDS)
    with (
        locked(options, lock, "rait confirm"),
        session_on(options, inputs, needs_transit=False) as session,
    ):
        settle(session)


def _state(trial: Trial | None) -> TrialState:
    if trial is None:
        return "none"
    from rait.adapters import clock  # here, as few runs are to be confirmed

    return state_of(trial, clock.now())


def _pending(trial: Trial) -> str:
    header = trial.header
    return (
        f"run {trial.run} ({header.command}, by uid {header.uid}, {written(header.started_at)}) "
        f"waits for its confirmation until {_deadline(trial)}"
    )


def _deadline(trial: Trial) -> str:
    return written(trial.header.confirm_by.at) if trial.header.confirm_by is not None else ""


def _held(trial: Trial) -> str:
    changed = trial.config_before != trial.header.config_digest
    what = "rait.conf" if changed else "the peers list"
    when = f" at {written(trial.taken_back_at)}" if trial.taken_back else ""
    return (
        f"run {trial.run} was not confirmed and taken back{when}, and {what} still asks for the "
        f"same, so the links stay as they were before it. Mend {what}; or try again with "
        "`rait up --confirm 2m`; or go on for good with `rait up --yes`"
    )

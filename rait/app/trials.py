"""Changes that are taken back unless somebody confirms them; domain/confirm.py has the rules."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from functools import partial
from typing import TYPE_CHECKING, Any

from msgspec import structs

from rait.adapters.config.source import STDIN, is_path
from rait.app.conclude import Confirm, Report, conclude, record
from rait.app.machine import Machine
from rait.app.moments import written
from rait.app.options import Options
from rait.app.scopes import confirm_line, normal
from rait.app.session import Session, open_session
from rait.app.whereabouts import is_of_this_boot
from rait.domain.change import Change, Goal
from rait.domain.config.schema import DAY, SECOND, parse_span
from rait.domain.confirm import OVERDUE, TrialState, rejects, state_of
from rait.domain.errors import (
    ConfigError,
    MachineError,
    PendingError,
    SourceError,
    UnmakeableError,
    few,
)
from rait.domain.records import Instant, Trial
from rait.domain.rollback import require_own_key
from rait.domain.topology import Topology

if TYPE_CHECKING:
    from rait.adapters.waiter import Waiter

LEAST_SPAN, LONGEST_SPAN = 3 * SECOND, DAY


def settle_at_least(options: Options, command: str) -> None:
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
    state = trial_state(trial)
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
    report = _make_as_before(session, trial, command, accepted=True, always=True)
    session.forget()
    return report


def hold(session: Session, trial: Trial, command: str, warnings: Sequence[str]) -> Report:
    """Have the links as they were before the run that was taken back, and say so."""
    try:
        report = _make_as_before(session, trial, command, warnings=(*warnings, _held(trial)))
    except UnmakeableError as error:
        raise MachineError(str(error), _held(trial)) from None
    return structs.replace(report, held=True)


def is_held_by(session: Session, trial: Trial, change: Change) -> bool:
    """Whether `rait up` would do once more what was taken back, or is overdue."""
    if trial_state(trial) not in ("overdue", "taken back"):
        return False
    digests = session.loaded.digest(), session.registry.digest()
    before = session.as_made_now(trial.before, of_own_kind=True)
    return rejects(trial, *digests, before, change.desired)


def mention(trial: Trial | None, config: str) -> tuple[str, ...]:
    """A line for commands that only show things, if some run waits for its confirmation."""
    if trial is None:
        return ()
    state = trial_state(trial)
    if state == "pending":
        return (f"{_pending(trial)}; `{confirm_line(config)}` keeps it",)
    if state == "overdue":
        return (f"run {trial.run} was not confirmed by {_deadline(trial)}: it is to be taken back",)
    return ()


def to_confirm(report: Report, config: str) -> str:
    """What to type for a run to stay."""
    until, command = written(report.confirm_by), confirm_line(config)
    return f"rait {report.command}: to be taken back at {until}, unless you run `{command}`"


def standing(session: Session, change: Change) -> tuple[str, ...]:
    """A line for commands that show what `rait up` would do, if it would not make the change."""
    trial = session.known.trial
    if trial is not None and change.events and is_held_by(session, trial, change):
        return (_held(trial),)
    return mention(trial, session.options.config)


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


def _make_as_before(session: Session, trial: Trial, command: str, **how: Any) -> Report:
    """Make the links what they were before the run on trial; ``how`` is for ``conclude``.

    That run may have moved the links' sockets to another namespace, where rait.conf has them now.
    Links are made again of the kind that they were, and in the namespace of their sockets if that
    is still there. Raises ConfigError if they had a private key that rait no longer has, and
    UnmakeableError. Nobody can take the run back then, and it must not stand in the way for ever:
    so the journal says that taking it back failed.
    """
    before = trial.before
    try:
        what = f"what there was before run {trial.run}"
        require_own_key(session.public_key, "", before.links.values(), what)
        with _transit_of(session, before) as there:
            change = there.compare(Goal(there.as_made_now(before, of_own_kind=True)))
            return conclude(there, command, change, takes_back=trial.run, **how)
    except (ConfigError, UnmakeableError) as error:
        if not trial.taken_back:
            name = next(iter((*before.links, *before.vrfs)))
            record(session, command, "failed", {name: str(error)}, takes_back=trial.run)
        raise


@contextmanager
def _transit_of(session: Session, before: Topology) -> Iterator[Session]:
    """The session, seen from the namespace in which these links had their sockets."""
    made = (link for link in before.links.values() if is_of_this_boot(link))
    transits = (link.origin.transit for link in made if link.origin.transit)
    transit = next(transits, session.machine.transit)
    if transit == session.machine.transit:
        yield session
        return
    from rait.adapters import netns_search

    with netns_search.search([f"/{transit}"]) as found:
        if transit not in found.namespaces:
            yield session
            return
        with Machine(found.namespaces[transit], session.machine.key) as machine:
            yield Session(
                session.options, session.inputs, machine, session.journal, session.routing
            )


def trial_state(trial: Trial | None) -> TrialState:
    """Whether a run waits for its confirmation now, as ``state_of``."""
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

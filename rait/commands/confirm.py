"""``rait confirm``: keep a change that was made with ``--confirm``, or take it back at once.

With ``--wait`` it is the waiter: the process that takes the change back when its time is over.
"""

from __future__ import annotations

import time
from argparse import Namespace
from itertools import count

from msgspec import structs

from rait.adapters import waiter
from rait.adapters.journal.reader import JournalReader
from rait.adapters.lock import Stamp, stamp
from rait.app.conclude import record
from rait.app.inputs import Inputs, Preparation, lock_path, locked
from rait.app.moments import written
from rait.app.options import Options
from rait.app.render import done_already, print_report
from rait.app.scopes import filed_under, normal, scope_name
from rait.app.session import open_session, session_on
from rait.app.trials import settle, take_back, trial_state
from rait.domain.confirm import BACK, OVERDUE
from rait.domain.errands import grown
from rait.domain.errors import ConfigError, HistoryError
from rait.terminal import DONE, FAILED, print_either, warn

POLL_SECONDS = 0.5
FIRST_RETRY, LONGEST_RETRY = 5.0, 600.0
"""If a change could not be taken back, the waiter tries once more so many seconds later at first,
then at growing intervals, and at last at the second."""


def run(options: Options, arguments: Namespace) -> int:
    back = arguments.back
    if arguments.wait:
        if back:
            raise ConfigError("--wait and --back exclude each other")
        _wait(options)
        return DONE
    with open_session(options, "confirm", needs_transit=False) as session:
        trial = session.known.trial
        state = trial_state(trial)
        if trial is None or state == "none":
            raise HistoryError("there is nothing to confirm: no change waits for it")
        if state == "taken back":
            when = written(trial.taken_back_at)
            raise HistoryError(
                f"it is too late: run {trial.run} was taken back by run {trial.taken_back}, {when}"
            )
        report = None
        if back or state == "overdue":
            report = take_back(session, trial, BACK if state == "pending" else OVERDUE)
        else:
            record(session, "confirm", confirms=trial.run)
    if report is not None:
        status = print_report(report, arguments)
        if back:
            return status
        warn(f"it came too late: run {trial.run} is taken back, and not confirmed")
        return FAILED
    with done_already():
        line = f"rait confirm: run {trial.run} ({trial.header.command}) is confirmed"
        value = {"command": "confirm", "confirmed": trial.run}
        print_either(value, [line], as_json=arguments.json)
    return DONE


def _wait(options: Options) -> None:
    """Be the waiter: when a change's time is over, take it back, unless somebody confirmed it.

    The configuration is read before the change is made, so it may be gone or wrong by then.
    """
    preparation = Preparation(options)
    inputs = preparation.complete(preparation.configuration())
    config = inputs.loaded.config
    config = structs.replace(config, journal=normal(config.journal))
    inputs = structs.replace(inputs, loaded=structs.replace(inputs.loaded, config=config))
    waiter.get_ready()
    for failures in count(1):
        try:
            _take_back_in_time(options, inputs)
        except Exception:  # noqa: BLE001 - nobody is there to read it, whatever it is
            # Another try may do better: a disk has space again.
            time.sleep(min(grown(FIRST_RETRY, failures), LONGEST_RETRY))
        else:
            return


def _take_back_in_time(options: Options, inputs: Inputs) -> None:
    journal = JournalReader(inputs.loaded.config.journal)
    lock, trial = lock_path(journal.path), None
    seen: Stamp = ()
    while True:
        if (now := stamp(lock)) != seen:
            scope = filed_under(journal, scope_name(options.config, inputs.key.public))
            trial, seen = journal.last_known(scope).trial, now
        state = trial_state(trial)
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

"""The lock beside the journal: waiting for it, and reading the inputs while another run has it."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress

from msgspec import Struct, structs

from rait.adapters import privilege
from rait.adapters.journal.file import check_is_journal
from rait.adapters.lock import HeldError, Stamp, hold, stamp
from rait.app.inputs import Inputs, Preparation
from rait.app.load import Loaded
from rait.app.options import Options
from rait.domain.errors import ConfigError, MachineError

PATIENCE_SECONDS = 1.0
"""How long rait waits for another rait before it says so."""

ROUNDS = 3
"""So many times, at the most, a run gathers its inputs; the last time under the lock."""


@contextmanager
def prepared(options: Options, what: str, preparation: Preparation) -> Iterator[Inputs]:
    """Gather the inputs and hold the lock; the inputs are no older than the lock.

    The inputs are gathered without the lock, so that no other run waits for a download, a long list
    or a name that does not resolve. If the inputs are old when this run gets the lock, it gives the
    lock back and gathers them again. The last time it gathers them under the lock, so that there is
    an end. The lock belongs to the journal that the configuration names, so with a changed
    configuration it may be another lock.
    """
    left = options.lock_seconds
    for last in (False,) * (ROUNDS - 1) + (True,):
        loaded = preparation.configuration()
        privilege.require(what)
        path = _lock_of(loaded)
        before = stamp(path)
        if before is None:
            # No lock is to be made beside what is no journal. Opening a journal checks it anyway.
            check_is_journal(loaded.config.journal)
        inputs = preparation.complete(loaded)
        began = time.monotonic()
        with locked(structs.replace(options, lock_seconds=left), path, what) as turn:
            left = max(0.0, left - (time.monotonic() - began))
            if preparation.stands(disturbed=turn.waited or turn.stamp != before):
                yield inputs
                return
            options.debug("what was read may have changed since: reading all of it again")
            if last:
                loaded = preparation.configuration()
                if _lock_of(loaded) == path:
                    yield preparation.complete(loaded, names_again=False)
                    return
    raise MachineError(
        f"{loaded.source}: `journal` names a different file each time rait reads it, so rait "
        "cannot tell which lock to take; nothing was touched. Set `journal` to one path"
    )


def _lock_of(loaded: Loaded) -> str:
    """The lock to take for a configuration. Raises ConfigError if its commands must not be run."""
    if loaded.distrust:
        raise ConfigError(loaded.distrust)
    return lock_path(loaded.config.journal)


class Turn(Struct, frozen=True):
    """How this run got the lock: whether it ``waited`` for another run, and the lock's stamp."""

    waited: bool
    stamp: Stamp


@contextmanager
def locked(options: Options, path: str, what: str) -> Iterator[Turn]:
    """Hold the lock as ``hold`` does; after a second, tell the user which command has it."""
    with ExitStack() as held:
        yield _turn_in(held, options, path, what)


def _turn_in(held: ExitStack, options: Options, path: str, what: str) -> Turn:
    with suppress(HeldError):
        return Turn(waited=False, stamp=held.enter_context(hold(path, what, 0)))
    soon = min(PATIENCE_SECONDS, options.lock_seconds)
    left = options.lock_seconds - soon
    try:
        found = held.enter_context(hold(path, what, soon))
    except HeldError as error:
        if not left:
            raise
        options.notice(f"{error.holder}; waiting for it, up to {left:g} s more")
        found = held.enter_context(hold(path, what, left))
    return Turn(waited=True, stamp=found)


def lock_path(journal: str) -> str:
    """The path of the lock that all writers of a journal share.

    The lock is beside the journal; if the journal's path is a symbolic link, beside the file that
    the link leads to, as others may name that file by another path.
    """
    return os.path.realpath(journal) + ".lock"

"""What is told of a `rait up` that did not come to its work, until another one or a `down` ends.

The guard stopped it, or it failed, as its peers list or a key could not be read. Such a run touches
nothing, so the journal has nothing of it. Yet it is why a change did not come: so a line about it
is kept in a file beside the journal, for `rait status`.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager

from rait.app.conclude import Report
from rait.app.load import Loaded, configured
from rait.app.options import Options
from rait.app.scopes import beside, goes_by_key
from rait.app.session import Session
from rait.domain.errors import PendingError, RaitError
from rait.terminal import bounded

_MOST = 64 * 1024
_MOST_OF_A_REASON = 2000


def note(session: Session, report: Report) -> None:
    """Keep a line about a run that was stopped; any other ends what is told of an earlier one.

    Nothing depends on it, so that it cannot be kept is no failure of the run.
    """
    options = session.options
    try:
        # Without its working directory, a run does not know the whole path of its rait.conf.
        path = beside(session.config.journal, "stopped", options.config, session.public_key)
        if report.status == "stopped":
            from rait.app.render import removal_text  # here, as few runs are stopped

            assert report.removal is not None  # noqa: S101 - a mistake of ours, not of the user
            _keep(path, f"was {removal_text(report, report.removal)}")
        elif os.path.lexists(path):
            os.unlink(path)
    except OSError as error:
        options.debug(f"what is told of a stopped run cannot be kept: {error.strerror}")


@contextmanager
def failure_noted(options: Options) -> Iterator[None]:
    """Keep a line about a `rait up` that fails; it fails as it would without that.

    One whose rait.conf is wrong is not told of: `rait status` cannot read that file either. Nor is
    one whose rait.conf has no path, as that cannot be read again.
    """
    try:
        yield
    except PendingError:
        raise  # `rait status` says itself what is waited for
    except RaitError as error:
        try:
            _note_failure(options, error)
        except (RaitError, OSError, ValueError) as why:
            options.debug(f"that this run failed cannot be kept for `rait status`: {why}")
        raise


def _note_failure(options: Options, error: RaitError) -> None:
    from rait.adapters.journal.file import check_is_journal

    if goes_by_key(options.config) or not os.path.isfile(options.config):
        return
    loaded = configured(options.config)
    journal = loaded.config.journal
    if loaded.distrust:
        return  # a file is made where no stranger says
    check_is_journal(journal)
    path = beside(journal, "stopped", options.config, "")
    os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)  # as the lock would
    more = f" (and {len(error.args) - 1} more)" if len(error.args) > 1 else ""
    reason = bounded(str(error.args[0]), _MOST_OF_A_REASON)
    _keep(path, f"failed: {reason}{more}. `rait plan` says whether that is mended")


def _keep(path: str, what: str) -> None:
    from rait.adapters.output import replace_file  # here, as few runs are stopped
    from rait.app.moments import written

    line = f"the `rait up` of {written(time.time_ns())} {what}"
    replace_file(path, line.encode(), new=f"{path}.new", mode=0o600)


def stopped(options: Options, loaded: Loaded, public_key: str) -> Iterator[str]:
    """The line about the last `rait up`, if the guard stopped it, or if it failed."""
    from rait.adapters.output import read_own_file  # here, as a run with nothing to do reads none

    try:
        path = beside(loaded.config.journal, "stopped", options.config, public_key)
        yield read_own_file(path, _MOST)[0].decode()
    except (OSError, ValueError) as error:
        options.debug(f"no run is known that was stopped: {error}")

"""What is told of a `rait up` that the guard stopped, until another one or a `rait down` ends.

Such a run touches nothing, so the journal has nothing of it. Yet it is why a change did not come:
so a line about it is kept in a file beside the journal, for `rait status`.
"""

from __future__ import annotations

import os
import time
from collections.abc import Iterator

from rait.app.conclude import Report
from rait.app.load import Loaded
from rait.app.options import Options
from rait.app.scopes import beside
from rait.app.session import Session

_MOST = 64 * 1024


def note(session: Session, report: Report) -> None:
    """Keep a line about a run that was stopped; any other ends what is told of an earlier one.

    Nothing depends on it, so that it cannot be kept is no failure of the run.
    """
    options = session.options
    try:
        # Without its working directory, a run does not know the whole path of its rait.conf.
        path = beside(session.config.journal, "stopped", options.config, session.public_key)
        if report.status == "stopped":
            _keep(path, report)
        elif os.path.lexists(path):
            os.unlink(path)
    except OSError as error:
        options.debug(f"what is told of a stopped run cannot be kept: {error.strerror}")


def _keep(path: str, report: Report) -> None:
    # Here, as few runs are stopped.
    from rait.adapters.output import replace_file
    from rait.app.moments import written
    from rait.app.render import removal_text

    assert report.removal is not None  # noqa: S101 - a mistake of ours, not of the user
    why = removal_text(report, report.removal)
    line = f"the `rait {report.command}` of {written(time.time_ns())} was {why}"
    replace_file(path, line.encode(), new=f"{path}.new", mode=0o600)


def stopped(options: Options, loaded: Loaded, public_key: str) -> Iterator[str]:
    """The line about the last `rait up`, if the guard stopped it."""
    from rait.adapters.output import read_own_file  # here, as a run with nothing to do reads none

    try:
        path = beside(loaded.config.journal, "stopped", options.config, public_key)
        yield read_own_file(path, _MOST)[0].decode()
    except (OSError, ValueError) as error:
        options.debug(f"no run is known that was stopped: {error}")

"""``rait down``: remove our tunnels, and nothing else."""

from __future__ import annotations

from rait.app.report import Report
from rait.app.session import Options, opened
from rait.domain.topology import EMPTY


def down(options: Options) -> Report:
    """Remove all links of ours; where there are none, do nothing.

    Raises RaitError, with nothing touched, where the configuration cannot be had.
    """
    with opened(options, "down") as (session, journal):
        change = session.compare(EMPTY, journal.memory(session.name))
        return session.carry_out("down", change, journal, warnings=session.loaded.warnings)

"""``rait down``: remove our tunnels, and nothing else."""

from __future__ import annotations

from rait.app.report import Report
from rait.app.session import Options, opened, synced_routing
from rait.domain.topology import EMPTY


def down(options: Options) -> Report:
    """Remove all links of ours; where there are none, do nothing.

    They live in the target namespace, so they can go when the transit one is gone.

    Raises RaitError, with nothing touched, where the configuration cannot be had.
    """
    with (
        opened(options, "down", needs_transit=False) as (session, journal),
        synced_routing(session) as routing,
    ):
        change = session.compare(EMPTY, journal.memory(session.name), routing)
        return session.carry_out(
            "down", change, journal, routing=routing, warnings=session.loaded.warnings
        )

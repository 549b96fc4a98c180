"""``rait down``: remove our tunnels, and nothing else."""

from __future__ import annotations

from argparse import Namespace

from msgspec import structs

from rait.app.options import Options
from rait.app.render import print_report
from rait.app.trials import open_settled
from rait.domain.errors import Problem
from rait.domain.ownership import Stranger
from rait.domain.reconcile import Goal
from rait.domain.topology import EMPTY


def run(options: Options, arguments: Namespace) -> int:
    # The links live in the target namespace, so they can go when the transit one is gone.
    with open_settled(options, "down", needs_transit=False) as session:
        change = session.compare(Goal(EMPTY))
        unclaimed = [_left(s) for s in change.strangers if not s.claimed]
        change = structs.replace(change, problems=(*change.problems, *unclaimed))
        warnings = session.loaded.warnings
        report = session.conclude("down", change, warnings=warnings, accepted=True)
    return print_report(report, arguments)


def _left(stranger: Stranger) -> Problem:
    """A warning that a link of our group stays: its key is not ours, and nobody claims it."""
    text = (
        f"it is left alone: {stranger.why}. If it is a leftover, remove it "
        f"(`ip link del {stranger.link}` in its namespace); if not, set another ifgroup for it"
    )
    return Problem(text, "warning", (), stranger.link)

"""What `rait watch` counts of its syncs, for the metrics."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping

from msgspec import Struct

from rait.app.conclude import Report
from rait.domain.watch_events import Kind, Outcome


class LastSync(Struct, frozen=True, kw_only=True):
    """The last sync, whether it had something to do or not.

    It ended at unix time ``at`` and took ``seconds``. ``outcome`` is how it ended and ``cause`` why
    it began.
    """

    at: float
    seconds: float
    outcome: Outcome
    cause: Kind

    @property
    def success(self) -> bool:
        """Whether all is as it should be."""
        return self.outcome in ("unchanged", "done")


class Tally(Struct, frozen=True):
    """All syncs since `rait watch` began.

    ``events`` counts events that happened, by their kind, and ``runs`` the runs of these syncs that
    the journal has, by how they ended. A run that only repeats an earlier one in vain is not one of
    its own there. ``run`` is the last of them.
    """

    last: LastSync | None = None
    events: Mapping[str, int] = {}
    runs: Mapping[str, int] = {}
    run: int | None = None

    def synced(self, last: LastSync, report: Report | None = None) -> Tally:
        """The tally with one more sync. There is no report if the sync could not begin."""
        if report is None or report.run in (None, self.run):
            return Tally(last, self.events, self.runs, self.run)
        happened = (*report.results.happened, *report.results.half_done)
        kinds = Counter(type(event).__name__ for event in happened)
        return Tally(
            last,
            Counter(self.events) + kinds,
            Counter(self.runs) + Counter((report.status,)),
            report.run,
        )

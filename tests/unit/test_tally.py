"""What `rait watch` counts of its syncs."""

from __future__ import annotations

import pytest

from rait.app.tally import LastSync, Tally
from rait.domain.events import LinkAdded, LinkRemoved, PeerAdded
from rait.domain.topology import LinkPeer
from rait.domain.watch_events import Outcome
from tests.unit.command_line import link, report

W1, W2 = link("w1"), link("w2")


def sync(outcome: Outcome = "done") -> LastSync:
    return LastSync(at=1.0, seconds=0.1, outcome=outcome, cause="file")


def test_events_that_happened_are_counted_by_kind_and_runs_by_outcome() -> None:
    events = LinkAdded(W1), LinkAdded(W2), LinkRemoved(W1)
    first = report(*events, run=1, errors={1: "no"}, half_done=(PeerAdded("w2", LinkPeer("k")),))
    tally = Tally().synced(sync("partial"), first)
    assert tally.events == {"LinkAdded": 1, "LinkRemoved": 1, "PeerAdded": 1}
    assert tally.runs == {"done": 1}
    tally = tally.synced(sync(), report(LinkAdded(W2), run=2))
    assert tally.events == {"LinkAdded": 2, "LinkRemoved": 1, "PeerAdded": 1}
    assert tally.runs == {"done": 2}


def test_a_sync_without_a_run_of_its_own_is_the_last_one_and_counts_as_no_run() -> None:
    before = Tally().synced(sync(), report(LinkAdded(W1), run=1))
    for nothing in (None, report(), report(LinkAdded(W1), run=1)):
        after = before.synced(sync("failed"), nothing)
        assert (after.events, after.runs) == (before.events, before.runs)
        assert after.last == sync("failed")


@pytest.mark.parametrize(
    ("outcome", "success"),
    [("unchanged", True), ("done", True), ("partial", False), ("pending", False)],
)
def test_a_sync_is_a_success_if_all_is_as_it_should_be(outcome: Outcome, success: bool) -> None:
    assert sync(outcome).success is success

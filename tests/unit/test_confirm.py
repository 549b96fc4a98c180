"""Runs that are taken back unless somebody confirms them: what the journal says of them."""

from __future__ import annotations

import pytest
from msgspec import structs

from rait.app.options import Options
from rait.app.trials import confirmation, mention
from rait.domain.backend import Outcome
from rait.domain.confirm import rejects, state_of
from rait.domain.errors import ConfigError
from rait.domain.events import (
    BabelInterfaceAdded,
    LinkAdded,
    LinkRemoved,
    LinkUpdated,
    VrfRemoved,
)
from rait.domain.history import fold, last_known
from rait.domain.records import Instant, RunHeader, RunRecord, Snapshot, Trial
from rait.domain.topology import EMPTY, Device, Link, LinkSettings, Origin, Topology

SPAN = 120
A, B, C = (
    Link(name, Origin("kernel"), LinkSettings(1420, 54), Device("key", port))
    for name, port in (("rait4x1", 1), ("rait4x2", 2), ("rait4x3", 3))
)
BEFORE = Topology({A.name: A})
START = Snapshot(topology=BEFORE, config_digest="old")
BY = Instant(at=SPAN, boot="this", clock=SPAN)


def at(clock: int, *, boot: str = "this", wall: int = 0) -> Instant:
    return Instant(at=wall, boot=boot, clock=clock)


def run(number: int, *intended: object, **settings: object) -> RunRecord:
    """A run that did all of these events, with these settings in its header or in itself."""
    own = {key: settings.pop(key) for key in ("noticed", "status", "outcomes") if key in settings}
    header = RunHeader(
        **{
            "scope": "here", "command": "up", "version": "", "uid": 0, "started_at": number,
            "public_key": "key", "config_digest": "new", "peers_digest": "peers",
        } | settings
    )  # fmt: skip
    outcomes = {index: Outcome(index) for index in range(len(intended))}
    return RunRecord(
        **{
            "id": number, "last_id": number + 9, "header": header, "intended": intended,
            "outcomes": outcomes, "status": "done",
        } | own
    )  # fmt: skip


REMOVAL = run(10, LinkRemoved(A), LinkAdded(B), confirm_by=BY)


def trial_of(*runs: RunRecord) -> Trial | None:
    return last_known(START, runs).trial


def states(*runs: RunRecord, now: Instant = at(5)) -> str:  # noqa: B008
    return state_of(trial_of(*runs), now)


def test_without_a_deadline_there_is_nothing_to_confirm() -> None:
    assert states(run(10, LinkRemoved(A))) == "none"


def test_a_change_waits_until_its_time_by_the_clock_that_nobody_sets() -> None:
    assert states(REMOVAL, now=at(SPAN - 1)) == "pending"
    assert states(REMOVAL, now=at(SPAN - 1, wall=10**18)) == "pending"
    assert states(REMOVAL, now=at(SPAN)) == "overdue"
    assert states(REMOVAL, now=at(SPAN, wall=-(10**18))) == "overdue"


def test_a_restart_ends_the_time() -> None:
    assert states(REMOVAL, now=at(1, boot="next")) == "overdue"


def test_a_run_that_changed_nothing_leaves_nothing_to_confirm() -> None:
    failed = {0: Outcome(0, "no")}
    nothing = run(10, LinkRemoved(A), confirm_by=BY, outcomes=failed, status="failed")
    assert states(nothing) == "none"
    assert states(structs.replace(nothing, status=None)) == "pending", "it may have been cut off"
    assert states(structs.replace(nothing, unsure=(0,))) == "pending"
    assert states(structs.replace(nothing, half_done={12: LinkRemoved(A)})) == "pending"


def test_who_confirms_settles_it_and_who_confirms_another_does_not() -> None:
    assert states(REMOVAL, run(20, confirms=10)) == "none"
    assert states(REMOVAL, run(20, confirms=11)) == "pending"
    assert states(REMOVAL, run(20, takes_back=9)) == "pending"


def test_it_is_taken_back_when_the_run_that_does_so_has_ended() -> None:
    back = run(20, LinkAdded(A), LinkRemoved(B), takes_back=10)
    assert states(REMOVAL, structs.replace(back, status=None)) == "overdue"
    assert states(REMOVAL, structs.replace(back, status="partial")) == "taken back"
    again = structs.replace(back, id=30, last_id=35)
    trial = trial_of(REMOVAL, structs.replace(back, status=None), run(30, takes_back=10))
    assert (trial.taken_back, trial.taken_back_at) == (30, 30)
    trial = trial_of(REMOVAL, back, structs.replace(again, intended=(), outcomes={}))
    assert trial.taken_back == 20, "a run that holds the links later is not the one"


def test_what_there_was_before_is_kept_with_what_others_had_done() -> None:
    by_hand = structs.replace(A, settings=structs.replace(A.settings, mtu=1300))
    noticed = (LinkUpdated(A.name, A.settings, by_hand.settings),)
    done = run(10, LinkRemoved(by_hand), confirm_by=BY, noticed=noticed)
    assert trial_of(done).before == Topology({A.name: by_hand})


def test_a_link_that_was_lost_belongs_to_what_there_was_before() -> None:
    lost = run(10, LinkAdded(B), confirm_by=BY, noticed=(LinkRemoved(A),))
    assert trial_of(lost).before.links == {A.name: A}
    ours = run(10, LinkAdded(B), confirm_by=BY, noticed=(LinkRemoved(A),), leftover_noticed=(0,))
    assert trial_of(ours).before.links == {}, "an earlier run of ours had removed it"


def test_a_link_that_was_lost_brings_back_the_vrf_that_it_was_in() -> None:
    known = Snapshot(topology=Topology({A.name: A}, vrfs={"blue": 7}))
    lost = (LinkRemoved(A), VrfRemoved("blue", 7))
    trial = last_known(known, [run(10, LinkAdded(B), confirm_by=BY, noticed=lost)]).trial
    assert trial.before == known.topology
    ours = run(10, LinkAdded(B), confirm_by=BY, noticed=lost[1:], leftover_noticed=(0,))
    assert last_known(known, [ours]).trial.before == Topology({A.name: A})


def test_a_link_that_others_made_again_stays_as_they_made_it() -> None:
    theirs = structs.replace(A, device=Device("key", 9))
    noticed = (LinkRemoved(A), LinkAdded(theirs))
    trial = trial_of(run(10, LinkRemoved(theirs), confirm_by=BY, noticed=noticed))
    assert trial.before == Topology({A.name: theirs})


def test_a_run_of_an_older_rait_does_not_end_the_wait() -> None:
    assert states(REMOVAL, run(20, LinkAdded(A))) == "pending"


def test_a_snapshot_keeps_what_waits() -> None:
    there = fold(START, [REMOVAL])
    assert fold(there, []).trial == there.trial
    assert last_known(there, [run(20, confirms=10)]).trial is None


BACK = run(20, LinkRemoved(B), LinkAdded(A), takes_back=10)


@pytest.mark.parametrize(
    ("config", "peers", "held"),
    [("new", "peers", True), ("new", "others", True), ("newer", "peers", False)],
)
def test_a_rejected_configuration_is_held_until_it_changes(
    config: str, peers: str, held: bool
) -> None:
    assert rejects(trial_of(REMOVAL, BACK), config, peers, BEFORE, BEFORE) == held


@pytest.mark.parametrize(
    ("config", "peers", "held"),
    [("old", "peers", True), ("old", "others", False), ("new", "peers", False)],
)
def test_a_rejected_peers_list_is_held_until_it_or_the_configuration_changes(
    config: str, peers: str, held: bool
) -> None:
    done = run(10, LinkRemoved(A), confirm_by=BY, config_digest="old")
    trial = trial_of(done, run(20, LinkAdded(A), takes_back=10))
    assert rejects(trial, config, peers, BEFORE, BEFORE) == held


def test_an_entry_that_others_add_to_a_rejected_list_does_not_end_the_hold() -> None:
    done = run(10, LinkRemoved(A), LinkAdded(B), confirm_by=BY, config_digest="old")
    trial = trial_of(done, run(20, LinkAdded(A), LinkRemoved(B), takes_back=10))
    moved = structs.replace(B, origin=Origin("kernel", instance="of the next boot"))
    for desired, held in (
        ([moved], True),
        ([moved, C], True),
        ([A, moved], False),
        ([A], False),
        ([], False),
        ([structs.replace(B, device=Device("key", 9))], False),
    ):
        wanted = Topology({link.name: link for link in desired})
        assert rejects(trial, "old", "newer", BEFORE, wanted) == held, desired


def test_what_babeld_was_told_is_no_part_of_what_a_list_asks_for() -> None:
    told = BabelInterfaceAdded(B.name, "")
    done = run(10, LinkAdded(B), told, confirm_by=BY, config_digest="old")
    trial = trial_of(done, run(20, LinkRemoved(B), takes_back=10))
    assert rejects(trial, "old", "newer", BEFORE, Topology({A.name: A, B.name: B}))
    alone = run(10, told, confirm_by=BY, config_digest="old")
    trial = trial_of(alone, run(20, takes_back=10))
    assert not rejects(trial, "old", "newer", BEFORE, Topology({A.name: A, B.name: B}))


def test_what_other_commands_did_is_nothing_that_up_does_again() -> None:
    done = run(10, LinkRemoved(A), confirm_by=BY, command="replay", peers_digest="")
    trial = trial_of(done, run(20, LinkAdded(A), takes_back=10))
    assert not rejects(trial, "new", "", BEFORE, EMPTY)


def test_a_second_try_of_a_rejected_configuration_is_rejected_as_such() -> None:
    again = run(30, LinkRemoved(A), confirm_by=BY)
    back = run(40, LinkAdded(A), takes_back=30)
    trial = trial_of(run(10, LinkRemoved(A), confirm_by=BY), run(20, LinkAdded(A), takes_back=10),
                     again, back)  # fmt: skip
    assert (trial.run, trial.config_before) == (30, "old")
    assert rejects(trial, "new", "others", BEFORE, BEFORE)


def test_the_configuration_in_force_is_that_of_the_last_run_that_read_one() -> None:
    read, none = run(1, config_digest="newer"), run(5, config_digest="")
    assert trial_of(read, none, REMOVAL).config_before == "newer"
    assert fold(START, [read, none]).config_digest == "newer"
    assert fold(START, [none]).config_digest == "old"


def test_a_later_up_ends_the_memory_and_down_does_not() -> None:
    down = run(30, LinkRemoved(A), command="down", peers_digest="")
    assert states(REMOVAL, BACK, down) == "taken back"
    assert states(REMOVAL, BACK, run(30, LinkRemoved(A), config_digest="newer")) == "none"
    failed = run(30, LinkRemoved(A), outcomes={0: Outcome(0, "no")}, status="failed")
    assert states(REMOVAL, BACK, failed) == "taken back"


HERE = Options(config="rait.conf")


@pytest.mark.parametrize("span", ["3s", "2m", "24h", "1d"])
def test_a_change_may_wait_from_three_seconds_to_a_day(span: str) -> None:
    with confirmation(HERE, span, dry_run=False) as begin:
        assert begin is not None


@pytest.mark.parametrize(
    ("options", "span", "dry_run", "says"),
    [
        *((HERE, span, False, "a span from 3s to 1d") for span in ("2s", "86401s", "2d", "soon")),
        (HERE, "2m", True, "a run that changes something"),
        (structs.replace(HERE, config="-"), "2m", False, "so not from -"),
    ],
)
def test_what_cannot_be_confirmed_is_told(
    options: Options, span: str, dry_run: bool, says: str
) -> None:
    with pytest.raises(ConfigError, match=says), confirmation(options, span, dry_run=dry_run):
        pass
    with confirmation(options, None, dry_run=dry_run) as begin:
        assert begin is None


def test_who_only_looks_is_told_of_a_change_that_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    waits, back = trial_of(REMOVAL), trial_of(REMOVAL, BACK)
    monkeypatch.setattr("rait.adapters.clock.now", lambda: at(SPAN - 1))
    (line,) = mention(waits, "rait.conf")
    assert line.endswith("confirm` keeps it")
    assert mention(None, "rait.conf") == mention(back, "rait.conf") == ()
    monkeypatch.setattr("rait.adapters.clock.now", lambda: at(SPAN))
    (line,) = mention(waits, "rait.conf")
    assert line.endswith("it is to be taken back")
    assert mention(back, "rait.conf") == ()

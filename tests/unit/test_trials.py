"""A change that is to be confirmed, from its run to the run that keeps it or takes it back."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from rait.adapters import clock
from rait.domain.config.schema import SECOND
from rait.domain.errors import MachineError
from tests.unit.command_line import PEERS, Rait, Said
from tests.unit.played import ALL, CONF, Played

FEW = dict(list(PEERS.items())[:1])
KEPT = [f"rait4x{port}" for port in FEW]
OTHER_KEY = "YLGPzk0Wq4zV6JHOTtlZWYN3Tg5gCa7U8Yk5UsfVLW4="


class Waiters:
    """The processes that were started to take a change back, and those that were let go."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.started: list[str] = []
        self.released = 0
        monkeypatch.setattr("rait.adapters.waiter.Waiter", self._start)

    def _start(self, conf: str) -> Waiters:
        self.started.append(conf)
        return self

    def release(self) -> None:
        self.released += 1


@pytest.fixture
def waiters(monkeypatch: pytest.MonkeyPatch) -> Waiters:
    return Waiters(monkeypatch)


@pytest.fixture
def pass_time(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    def later(seconds: int) -> None:
        then = clock.later(clock.now(), seconds * SECOND)
        monkeypatch.setattr(clock, "now", lambda: then)

    return later


@pytest.fixture
def pending(rait: Rait, kernel: Played, waiters: Waiters) -> Rait:
    """Two of three links are removed, unless somebody confirms that."""
    rait("up")
    rait.write(CONF, FEW)
    said = rait("up", "--confirm", "2m")
    assert (said.status, kernel.names) == (0, KEPT)
    assert "to be taken back at" in said.out
    assert (waiters.started, waiters.released) == ([str(rait.conf)], 1)
    return rait


def test_while_it_waits_nothing_else_is_changed_and_all_say_so(
    pending: Rait, kernel: Played
) -> None:
    for command in (["up"], ["down"], ["up", "--yes"]):
        said = pending(*command)
        assert (said.status, kernel.names) == (5, KEPT)
        assert "and nothing else is changed before" in said.err
    for command in (["plan"], ["status"]):
        said = pending(*command)
        assert said.status == 0
        assert "waits for its confirmation until" in said.err
        assert f"`rait -c {pending.conf} confirm` keeps it" in said.err


def test_it_is_taken_back_at_once_if_someone_wants_that(pending: Rait, kernel: Played) -> None:
    said = pending("confirm", "--back")
    assert (said.status, kernel.names) == (0, ALL)
    assert "rait confirm --back: 2 added; 3 links wanted" in said.out


def test_who_confirms_it_has_it_for_good(
    pending: Rait, kernel: Played, pass_time: Callable[[int], None]
) -> None:
    assert pending("confirm").status == 0
    pass_time(1000)
    assert pending("up").status == 0
    assert kernel.names == KEPT


def test_overdue_it_is_told_by_who_looks_and_taken_back_by_who_changes(
    pending: Rait, kernel: Played, pass_time: Callable[[int], None]
) -> None:
    pass_time(121)
    for command in (["plan"], ["status"]):
        assert "was not confirmed by" in pending(*command).err
        assert kernel.names == KEPT
    said = pending("down")
    assert "run 7 (up) was not confirmed by" in said.err
    assert "took it back (done)" in said.err
    assert kernel.names == []


def holds(said: Said, what: str) -> None:
    assert said.status == 3
    assert f"and {what} still asks for the same, so the links stay as they were" in said.err


def test_what_was_taken_back_is_not_done_again_until_the_user_says_so(
    pending: Rait, kernel: Played, waiters: Waiters
) -> None:
    pending("confirm", "--back")
    for command in (["plan"], ["up"]):
        holds(pending(*command), "the peers list")
        assert kernel.names == ALL
    said = pending("up", "--confirm", "2m")
    assert (said.status, kernel.names, len(waiters.started)) == (0, KEPT, 2)
    pending("confirm", "--back")
    assert pending("up", "--yes").status == 0
    assert kernel.names == KEPT


def test_neither_the_change_nor_its_end_is_for_a_rollback(
    rait: Rait, kernel: Played, waiters: Waiters
) -> None:
    rait("up", "--confirm", "2m")
    rait("confirm", "--back")
    assert (kernel.names, waiters.released) == ([], 1)
    assert rait("rollback").err == "rait: no run of this configuration changed anything\n"


def test_a_mended_list_is_done(pending: Rait, kernel: Played) -> None:
    pending("confirm", "--back")
    port, another = list(PEERS.items())[1]
    pending.write(CONF, FEW | {port: another})
    assert pending("up").status == 0
    assert kernel.names == ALL[:2]


def test_what_somebody_does_to_the_links_is_put_right_while_they_are_held(
    pending: Rait, kernel: Played
) -> None:
    pending("confirm", "--back")
    del kernel.wires[ALL[2]]
    holds(pending("up"), "the peers list")
    assert kernel.names == ALL


def test_if_rait_conf_asked_for_it_that_is_what_to_mend(
    rait: Rait, kernel: Played, waiters: Waiters
) -> None:
    rait("up")
    rait.write(CONF.replace("1420", "1400"), PEERS)
    rait("up", "--confirm", "2m")
    rait("confirm", "--back")
    holds(rait("up"), "rait.conf")
    assert {wire.link.settings.mtu for wire in kernel.wires.values()} == {1420}
    assert waiters.started


def test_a_run_with_nothing_to_do_needs_no_confirmation(
    rait: Rait, kernel: Played, waiters: Waiters
) -> None:
    rait("up")
    said = rait("up", "--confirm", "2m")
    assert (said.status, waiters.started, kernel.names) == (0, [], ALL)
    assert "nothing was changed, so there is nothing to confirm" in said.err
    assert rait("up").err == ""


def test_a_run_that_failed_needs_no_confirmation(
    rait: Rait, kernel: Played, waiters: Waiters
) -> None:
    kernel.refused = dict.fromkeys(ALL, "no room")
    said = rait("up", "--confirm", "2m")
    assert (said.status, waiters.released) == (1, 1)
    assert "so there is nothing to confirm" in said.err
    kernel.refused = {}
    assert rait("up").status == 0


def test_a_change_of_the_private_key_cannot_be_taken_back_and_is_not_begun(
    rait: Rait, kernel: Played, waiters: Waiters
) -> None:
    rait("up")
    before = dict(kernel.wires)
    rait.write(CONF.replace(CONF.split('"')[1], OTHER_KEY), PEERS)
    said = rait("up", "--yes", "--confirm", "2m")
    assert (said.status, waiters.started, kernel.wires) == (2, [], before)
    assert "make this change without --confirm" in said.err


def test_a_preshared_key_that_no_file_has_any_more_cannot_be_taken_back(
    rait: Rait, kernel: Played, waiters: Waiters
) -> None:
    key = rait.directory / "psk"
    conf = CONF + f'policy {{\n  preshared_key_file = "{key}"\n}}\n'
    rait.write(conf, PEERS)
    for psk in (OTHER_KEY, PEERS[50221][0]):
        key.write_text(psk)
        key.chmod(0o600)
        said = rait("up", *(["--confirm", "2m"] if kernel.names else []))
    assert (said.status, waiters.started) == (2, [])
    assert f"could not be taken back: {', '.join(ALL)}. No file" in said.err
    rait.write(conf.replace("1420", "1400"), PEERS)
    key.write_text(OTHER_KEY)
    assert rait("up", "--confirm", "2m").status == 0, "the file has the keys"


def test_what_cut_off_the_peers_list_is_taken_back_without_it(
    pending: Rait, kernel: Played, pass_time: Callable[[int], None]
) -> None:
    pass_time(121)
    (pending.directory / "peers.conf").unlink()
    said = pending("up")
    assert (said.status, kernel.names) == (1, ALL)
    assert "took it back (done)" in said.err
    assert "peers.conf: there is no such file" in said.err


def test_a_run_that_cannot_be_taken_back_with_this_key_says_so_in_the_journal(
    pending: Rait, kernel: Played, pass_time: Callable[[int], None]
) -> None:
    pass_time(121)
    pending.write(CONF.replace(CONF.split('"')[1], OTHER_KEY), FEW)
    said = pending("up")
    assert (said.status, kernel.names) == (2, KEPT)
    assert "what there was before run 7" in said.err
    assert "failed" in pending("log").out


def test_a_waiter_that_cannot_be_had_leaves_all_as_it_was(
    rait: Rait, kernel: Played, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: str) -> None:
        raise MachineError("no process can be started")

    rait("up")
    monkeypatch.setattr("rait.adapters.waiter.Waiter", refuse)
    rait.write(CONF, FEW)
    assert rait("up", "--confirm", "2m").status == 1
    assert kernel.names == ALL


class Sleep:
    """Time that passes while the waiter sleeps, and what happens meanwhile."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, pass_time: Callable[[int], None]) -> None:
        self.happens: list[Callable[[], object]] = []
        self.naps = 0
        self._pass_time = pass_time
        monkeypatch.setattr("rait.commands.confirm.time.sleep", self)
        monkeypatch.setattr("rait.adapters.waiter.get_ready", lambda: None)

    def __call__(self, _: float) -> None:
        self.naps += 1
        if self.happens:
            self.happens.pop(0)()
        else:
            self._pass_time(50)


@pytest.fixture
def sleep(monkeypatch: pytest.MonkeyPatch, pass_time: Callable[[int], None]) -> Sleep:
    return Sleep(monkeypatch, pass_time)


def test_the_waiter_takes_a_change_back_when_its_time_is_over(
    pending: Rait, kernel: Played, sleep: Sleep
) -> None:
    assert pending("confirm", "--wait").status == 0
    assert (kernel.names, sleep.naps) == (ALL, 3)


def test_the_waiter_ends_when_somebody_confirms(
    pending: Rait, kernel: Played, sleep: Sleep
) -> None:
    sleep.happens.append(lambda: pending("confirm"))
    assert pending("confirm", "--wait").status == 0
    assert (kernel.names, sleep.naps) == (KEPT, 1)


def test_the_waiter_tries_again_when_it_cannot_take_a_change_back(
    pending: Rait, kernel: Played, sleep: Sleep, pass_time: Callable[[int], None]
) -> None:
    def mend() -> None:
        pending.journal.with_suffix(".away").rename(pending.journal)

    def hide() -> None:
        pass_time(200)
        pending.journal.rename(pending.journal.with_suffix(".away"))
        pending.journal.write_text("no journal" * 999)

    sleep.happens += [hide, mend]
    assert pending("confirm", "--wait").status == 0
    assert kernel.names == ALL

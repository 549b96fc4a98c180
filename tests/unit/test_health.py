"""What `rait watch` serves: each address, what is shared, and what happens when a look fails."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager

import pytest
from anyio.from_thread import start_blocking_portal
from msgspec import structs

from rait.app import health as module
from rait.app.health import Health
from rait.app.metrics import OPENMETRICS, TEXT
from rait.app.tally import LastSync
from rait.domain.change import Failure
from rait.domain.errors import MachineError
from rait.domain.events import BabelInterfaceAdded, LinkAdded, LinkRemoved
from rait.domain.status import Status
from tests.unit.command_line import link, report
from tests.unit.test_commands_status import ALL, LIVE
from tests.unit.web import SECONDS, get

WELL = structs.replace(ALL, links=(LIVE,))
SYNC = LastSync(at=1.0, seconds=0.1, outcome="done", cause="file")


class Machine:
    """What looks at the machine, and counts how often it does."""

    def __init__(self, status: Status = ALL) -> None:
        self.status = status
        self.problem: Exception | None = None
        self.looks = 0
        self.failures: Mapping[str, str] | None = None
        self.lets_look = threading.Event()
        self.lets_look.set()

    def read(self, failures: Mapping[str, str] | None) -> Status:
        self.looks += 1
        self.failures = failures
        assert self.lets_look.wait(SECONDS)
        if self.problem is not None:
            raise self.problem
        return self.status


@contextmanager
def served(machine: Machine) -> Iterator[tuple[Health, int, Callable[..., object]]]:
    """A server, its port, and what calls its methods in its own thread."""
    health = Health(machine.read)
    health.listen("127.0.0.1:0")
    assert health._listener is not None
    with start_blocking_portal() as portal:
        task = portal.start_task_soon(health.run)
        try:
            yield health, health._listener.getsockname()[1], portal.call
        finally:
            machine.lets_look.set()
            task.cancel()


def text(port: int, path: str, *fields: str) -> tuple[int, str]:
    status, _, body = get(port, path, *fields)
    return status, body.decode()


def test_all_is_served() -> None:
    with served(Machine()) as (health, port, call):
        call(health.synced, SYNC, report(run=1))
        status, fields, body = get(port, "/")
        assert (status, fields["content-type"]) == (200, "text/html; charset=utf-8")
        assert b"rait on" in body
        assert "sha256" in fields["content-security-policy"]
        status, metrics = text(port, "/metrics")
        assert status == 200
        assert 'rait_last_sync_info{cause="file",result="done"} 1.0' in metrics
        status, fields, body = get(port, "/status.json")
        assert (status, fields["content-type"]) == (200, "application/json")
        assert [link["name"] for link in json.loads(body)["links"]] == [
            "w1",
            "w2",
            "w3",
            "w4",
            "w5",
        ]
        assert text(port, "/elsewhere")[0] == 404


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        ("*/*", TEXT),
        ("text/plain;version=0.0.4;q=0.5", TEXT),
        ("application/openmetrics-text;version=1.0.0;q=0.6,text/plain;q=0.2", OPENMETRICS),
        ("application/openmetrics-text; version=; escaping", OPENMETRICS),
        (",;=,,", TEXT),
    ],
)
def test_who_takes_openmetrics_gets_it(accept: str, expected: str) -> None:
    with served(Machine()) as (_, port, _call):
        _, fields, body = get(port, "/metrics", f"Accept: {accept}")
    assert fields["content-type"] == expected
    assert body.endswith(b"# EOF\n") == (expected == OPENMETRICS)


def test_healthz_is_as_status_check() -> None:
    machine = Machine()
    with served(machine) as (_, port, _call):
        status, lines = text(port, "/healthz")
        assert status == 503
        assert "w4 is missing: there is no such interface\n" in lines
        assert "w5" not in lines
    machine.status = WELL
    with served(machine) as (_, port, _call):
        assert text(port, "/healthz") == (200, "ok\n")


def test_what_cannot_be_looked_at_is_said_everywhere() -> None:
    machine = Machine()
    machine.problem = MachineError("no <permission>")
    with served(machine) as (_, port, _call):
        status, page = text(port, "/")
        assert status == 503
        assert "no &lt;permission&gt;" in page
        assert text(port, "/healthz") == (503, "the links cannot be looked at: no <permission>\n")
        assert text(port, "/status.json")[0] == 503
        status, metrics = text(port, "/metrics")
        assert status == 200
        assert "rait_up 0.0" in metrics
        assert "rait_link" not in metrics


def test_a_fault_of_ours_is_told_once_and_ends_nothing(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "SHARED_SECONDS", 0.0)
    machine = Machine()
    machine.problem = ValueError("oh")
    with served(machine) as (_, port, _call):
        for _ in range(3):
            assert text(port, "/healthz")[0] == 503
        machine.problem = None
        assert text(port, "/status.json")[0] == 200
    assert capsys.readouterr().err.count("ValueError: oh") == 1


def test_all_that_is_asked_at_once_is_one_look(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SHARED_SECONDS", SECONDS)
    machine = Machine()
    with served(machine) as (_, port, _call), ThreadPoolExecutor(16) as threads:
        machine.lets_look.clear()
        asked = [threads.submit(text, port, path) for path in ("/", "/metrics", "/healthz") * 5]
        while machine.looks == 0:
            time.sleep(0.01)
        machine.lets_look.set()
        assert {each.result()[0] for each in asked} == {200, 503}
    assert machine.looks == 1


def test_later_there_is_another_look(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SHARED_SECONDS", 0.0)
    machine = Machine(WELL)
    with served(machine) as (_, port, _call):
        assert text(port, "/healthz")[0] == 200
        machine.status = ALL
        assert text(port, "/healthz")[0] == 503


def test_a_look_that_hangs_is_waited_for_and_not_begun_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "LOOK_SECONDS", 0.1)
    machine = Machine(WELL)
    machine.lets_look.clear()
    with served(machine) as (_, port, _call):
        for _ in range(3):
            assert "takes longer than" in text(port, "/healthz")[1]
            assert "rait_up 0.0" in text(port, "/metrics")[1]
        assert machine.looks == 1
        assert text(port, "/elsewhere")[0] == 404  # nothing else waits for it
        machine.lets_look.set()
        deadline = time.monotonic() + SECONDS
        while text(port, "/healthz")[0] != 200:
            assert time.monotonic() < deadline


def test_links_that_the_last_sync_failed_to_make_are_looked_at_as_failed() -> None:
    machine = Machine()
    failed = report(
        LinkAdded(link("w9")),
        BabelInterfaceAdded("w1", ""),
        LinkRemoved(link("w2")),
        status="partial",
        failures=(
            Failure("w9", "no room"),
            Failure("w8", "no port"),
            Failure("w1", "babeld says no"),
            Failure("w2", "no permission"),
            Failure("w3", "its entry cannot be read", kept=True),
            Failure("babeld", "there is none"),
            Failure("peers list", "it is old"),
        ),
    )
    with served(machine) as (health, port, call):
        call(health.synced, SYNC, failed)
        call(health.synced, structs.replace(SYNC, outcome="pending"), None)
        assert text(port, "/status.json")[0] == 200
    assert machine.failures == {"w9": "no room", "w8": "no port"}


def test_it_moves_when_the_configuration_says_so() -> None:
    with served(Machine()) as (health, port, call):
        assert text(port, "/elsewhere")[0] == 404
        call(health.listen, "127.0.0.1:0")  # as it was
        assert text(port, "/elsewhere")[0] == 404
        call(health.listen, "localhost:0")
        moved = health._listener.getsockname()[1]
        assert text(moved, "/elsewhere")[0] == 404
        with pytest.raises(ConnectionError):
            get(port, "/")
        call(health.listen, None)
        with pytest.raises(ConnectionError):
            get(moved, "/")
        call(health.listen, f"127.0.0.1:{port}")
        assert text(port, "/elsewhere")[0] == 404
        call(health.listen, f"127.0.0.1:{port}")  # as it was, so nothing is bound again
        assert text(port, "/elsewhere")[0] == 404


def test_at_the_end_nobody_is_kept_waiting() -> None:
    with served(Machine()) as (_, port, _call):
        assert text(port, "/elsewhere")[0] == 404
    with pytest.raises(ConnectionError):
        get(port, "/")


def test_a_port_that_another_program_has_is_tried_again() -> None:
    with served(Machine()) as (_, taken, _call), served(Machine()) as (health, port, call):
        with pytest.raises(MachineError, match=f"127.0.0.1:{taken}"):
            call(health.listen, f"127.0.0.1:{taken}")
        with pytest.raises(MachineError):
            call(health.listen, f"127.0.0.1:{taken}")
        call(health.listen, f"127.0.0.1:{port}")
        assert text(port, "/elsewhere")[0] == 404


def test_elsewhere_than_on_loopback_the_log_warns(capsys: pytest.CaptureFixture[str]) -> None:
    health = Health(Machine().read)
    health.listen("0.0.0.0:0")
    health.listen(None)
    assert "whoever can reach it can read who the peers are" in capsys.readouterr().err
    health.listen("[::1]:0")
    health.listen(None)
    assert capsys.readouterr().err == ""

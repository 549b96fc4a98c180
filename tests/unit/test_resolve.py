"""Names become addresses of the wanted family, in time or not at all."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from rait.adapters.config import resolve as module
from rait.adapters.config.resolve import LookUp, resolve
from rait.adapters.netns import Netns, open_netns
from rait.domain.config.hosts import Addresses, Host
from rait.domain.errors import Problem

HERE = Netns("", -1, "")
_INET = {socket.AF_INET: ("192.0.2.9", "192.0.2.10"), socket.AF_INET6: ("2001:db8::1",)}


def _fake(monkeypatch: pytest.MonkeyPatch, answer: Any) -> list[str]:
    asked: list[str] = []

    def getaddrinfo(name: str, _: object, family: int, kind: int) -> list[Any]:
        asked.append(name)
        return [(family, kind, 17, "", (text, 0)) for text in answer(name, family)]

    monkeypatch.setattr(module.socket, "getaddrinfo", getaddrinfo)  # type: ignore[attr-defined]
    return asked


def looked_up(
    hosts: list[Host], transit: Netns, timeout: float
) -> tuple[Addresses, tuple[Problem, ...]]:
    answer = resolve(hosts, transit, timeout)
    assert answer.unasked == frozenset()
    return answer.addresses, answer.problems


def test_literals_need_no_look_up(monkeypatch):
    asked = _fake(monkeypatch, lambda *_: ())
    hosts = [("192.0.2.1", "ip4"), ("2001:db8:0::1", "ip6"), ("192.0.2.1", "ip6")]
    assert resolve(hosts, HERE, 1) == LookUp(
        {("192.0.2.1", "ip4"): ("192.0.2.1",), ("2001:db8:0::1", "ip6"): ("2001:db8::1",)}
    )
    assert asked == []


def test_names_resolve_in_their_family(monkeypatch):
    asked = _fake(monkeypatch, lambda _, family: _INET[family])
    hosts = [("a.example", "ip4"), ("a.example", "ip6"), ("a.example", "ip4")]
    found, problems = looked_up(hosts, HERE, 10)
    assert found == {
        ("a.example", "ip4"): ("192.0.2.10", "192.0.2.9"),
        ("a.example", "ip6"): ("2001:db8::1",),
    }
    assert problems == ()
    assert len(asked) == 2


def test_localhost_for_real():
    found, problems = looked_up([("localhost", "ip4")], HERE, 10)
    assert found == {("localhost", "ip4"): ("127.0.0.1",)}
    assert problems == ()


def test_a_name_that_fails_is_a_warning_and_the_others_stand(monkeypatch):
    def answer(name: str, family: int) -> tuple[str, ...]:
        if name == "bad.example":
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return _INET[family]

    _fake(monkeypatch, answer)
    found, (problem,) = looked_up([("bad.example", "ip4"), ("a.example", "ip6")], HERE, 10)
    assert list(found) == [("a.example", "ip6")]
    assert problem.severity == "warning"
    assert problem.message == '"bad.example" has no ip4 address: Name or service not known'


@pytest.mark.parametrize(
    ("family", "none"),
    [("ip4", "0.0.0.0"), ("ip4", "224.0.0.1"), ("ip6", "::"), ("ip6", "ff02::1")],  # noqa: S104
)
def test_an_address_that_no_host_has_is_no_answer(monkeypatch, family, none):
    """A list may not hold it, so a name in the list may not lead to it either."""
    _fake(monkeypatch, lambda name, f: (none, *(_INET[f] if name == "a.example" else ())))
    found, (problem,) = looked_up([("bad.example", family), ("a.example", family)], HERE, 60)
    assert none not in found["a.example", family]
    assert found.keys() == {("a.example", family)}
    assert f"{none} is not the address of a host" in problem.message


def test_a_name_without_addresses_is_a_warning(monkeypatch):
    _fake(monkeypatch, lambda *_: ())
    found, (problem,) = looked_up([("a.example", "ip4")], HERE, 10)
    assert found == {}
    assert "no ip4 address" in problem.message


def test_names_are_looked_up_at_the_same_time(monkeypatch):
    # Each look-up ends only once all have begun.
    barrier = threading.Barrier(20)

    def answer(_: str, family: int) -> tuple[str, ...]:
        barrier.wait(100)
        return _INET[family]

    _fake(monkeypatch, answer)
    hosts = [(f"n{number}.example", "ip4") for number in range(20)]
    found, problems = looked_up(hosts, HERE, 120)
    assert len(found) == 20
    assert problems == ()


def test_what_hangs_is_given_up(monkeypatch):
    release = threading.Event()

    def answer(name: str, family: int) -> tuple[str, ...]:
        if name == "slow.example":
            release.wait(30)
        return _INET[family]

    _fake(monkeypatch, answer)
    try:
        found, (problem,) = looked_up([("slow.example", "ip4"), ("a.example", "ip4")], HERE, 2)
    finally:
        release.set()
    assert list(found) == [("a.example", "ip4")]
    assert problem.message == '"slow.example" has no ip4 address: no answer within 2 seconds'


def hang(release: threading.Event) -> Any:
    """Names that begin with "dead" get no answer until the test ends."""

    def answer(name: str, family: int) -> tuple[str, ...]:
        if name.startswith("dead"):
            release.wait(60)
        return _INET[family]

    return answer


@pytest.fixture
def release() -> Iterator[threading.Event]:
    event = threading.Event()
    yield event
    event.set()


def named(kind: str, count: int) -> list[Host]:
    return [(f"{kind}{number}.example", "ip4") for number in range(count)]


@pytest.mark.parametrize("dead", [300])
def test_dead_names_starve_no_others(monkeypatch, release, dead):
    _fake(monkeypatch, hang(release))
    good = named("good", 200)
    answer = resolve([*named("dead", dead), *good], HERE, 10)
    assert list(answer.addresses.keys() - set(good)) == []
    assert answer.addresses.keys() == set(good)
    assert len(answer.problems) == dead
    assert answer.unasked == frozenset()


def test_a_dead_name_takes_its_own_time_and_no_more(monkeypatch, release):
    _fake(monkeypatch, hang(release))
    monkeypatch.setattr(module, "NAME_SECONDS", 2)
    answer = resolve([("dead.example", "ip4"), ("good.example", "ip4")], HERE, 3600)
    assert list(answer.addresses) == [("good.example", "ip4")]
    (problem,) = answer.problems
    assert problem.message == '"dead.example" has no ip4 address: no answer within 2 seconds'


def test_who_was_not_asked_for_want_of_time_is_told_apart(monkeypatch, release):
    _fake(monkeypatch, hang(release))
    monkeypatch.setattr(module, "MOST_THREADS", 8)
    dead, good = named("dead", 8), named("good", 3)
    answer = resolve([*dead, *good], HERE, 2)
    assert answer.unasked == set(good)
    assert "next run looks it up before them" in answer.problems[-1].message
    assert len(resolve([*good, *dead], HERE, 2).addresses) == 3


def test_what_still_hangs_of_earlier_calls_counts(monkeypatch, release):
    """Each has a socket, so that a daemon would run out of open files."""
    _fake(monkeypatch, hang(release))
    monkeypatch.setattr(module, "MOST_THREADS", 20)
    monkeypatch.setattr(module, "WORKERS", 4)
    before = threading.active_count()
    for _ in range(2):
        answer = resolve([*named("good", 9), *named("dead", 60)], HERE, 2)
        assert answer.addresses.keys() == set(named("good", 9))
    assert threading.active_count() <= before + 20 + 4


def test_no_more_names_are_asked_at_a_time_than_there_are_workers(monkeypatch):
    monkeypatch.setattr(module, "WORKERS", 4)
    under_way, most = set(), []
    lock = threading.Lock()

    def answer(name: str, family: int) -> tuple[str, ...]:
        with lock:
            under_way.add(name)
            most.append(len(under_way))
        with lock:
            under_way.remove(name)
        return _INET[family]

    _fake(monkeypatch, answer)
    assert len(resolve(named("n", 100), HERE, 60).addresses) == 100
    assert max(most) <= 4


def test_a_system_that_has_no_thread_for_us_is_a_warning(monkeypatch):
    def start(_: object) -> None:
        raise RuntimeError("can't start new thread")

    monkeypatch.setattr(threading.Thread, "start", start)
    answer = resolve(named("n", 2), HERE, 60)
    assert answer.addresses == {}
    assert "not let rait start a thread" in answer.problems[0].message
    assert len(answer.problems) == 2


_HANGING = """
import socket, threading
from rait.adapters.netns import Netns
from rait.adapters.config.resolve import resolve
socket.getaddrinfo = lambda *_: threading.Event().wait()
answer = resolve([("a.example", "ip4")], Netns("", -1, ""), 0.2)
print(answer.addresses, len(answer.problems))
"""


def test_the_process_ends_although_a_look_up_hangs():
    done = subprocess.run(
        [sys.executable, "-c", _HANGING], capture_output=True, text=True, timeout=300, check=False
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "{} 1\n", "")


@pytest.fixture
def elsewhere() -> Iterator[int]:
    """The id of a process in a network namespace of its own, which ends with it."""
    script = "echo here; exec sleep 60"
    command = ["unshare", "--net", "sh", "-c", script]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout is not None
            if process.stdout.readline() != "here\n":
                pytest.skip("this user may not make a network namespace")
            yield process.pid
        finally:
            process.kill()


def test_names_are_looked_up_in_the_transit_namespace(monkeypatch, elsewhere):
    seen = []

    def answer(_: str, family: int) -> tuple[str, ...]:
        seen.append(Path("/proc/thread-self/ns/net").readlink())
        return _INET[family]

    _fake(monkeypatch, answer)
    with open_netns(str(elsewhere)) as transit:
        resolve([("a.example", "ip4")], transit, 10)
    assert seen == [Path(f"/proc/{elsewhere}/ns/net").readlink()]
    assert seen != [Path("/proc/thread-self/ns/net").readlink()]


def test_a_namespace_that_cannot_be_entered_is_a_warning():
    found, (problem,) = looked_up([("localhost", "ip4")], Netns("gone", -1, ""), 10)
    assert found == {}
    assert problem.message.startswith('"localhost" has no ip4 address: ')

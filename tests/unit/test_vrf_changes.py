"""What rait.adapters.vrf makes of what the kernel refuses; pyroute2's socket is played."""

from __future__ import annotations

import contextlib
import errno
import signal
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pyroute2
import pytest

from rait.adapters import vrf
from rait.adapters.netlink import rtnl
from rait.domain.backend import Interface, Outcome
from rait.domain.errors import MachineError, VrfMissingError
from rait.domain.events import BabelInterfaceFlushed, RuleAdded, RuleRemoved, VrfAdded, VrfRemoved
from rait.domain.topology import Rule
from rait.domain.vrf import VRF_MARK

RULE = Rule("ip4", 54, 200, 900)
Answer = Callable[[str, str, dict[str, Any]], int]


class FakeRoute:
    """Refuses what ``answer`` has a code of errno for; ``done`` is what it did not refuse."""

    def __init__(self, answer: Answer, text: str | None) -> None:
        self.answer = answer
        self.text = text
        self.done: list[tuple[str, str, object]] = []

    def __getattr__(self, what: str) -> Callable[..., None]:
        def call(command: str, **fields: Any) -> None:
            code = self.answer(what, command, fields)
            if code:
                raise pyroute2.NetlinkError(code, self.text)
            name = fields.get("ifname", fields.get("index", fields.get("family")))
            self.done.append((what, command, name))

        return call


@pytest.fixture
def play(monkeypatch: pytest.MonkeyPatch) -> Callable[..., FakeRoute]:
    def make(answer: Answer, text: str | None = None) -> FakeRoute:
        fake = FakeRoute(answer, text)
        monkeypatch.setattr(pyroute2, "IPRoute", lambda **_: contextlib.nullcontext(fake))
        return fake

    return make


def refusing(what: str, command: str, code: int) -> Answer:
    return lambda w, c, _: code if (w, c) == (what, command) else 0


def error_of(event: Any) -> str:
    (outcome,) = vrf.apply([event])
    assert outcome.error is not None
    return outcome.error


def test_a_refusal_is_told_in_the_kernels_words_if_it_has_some(play) -> None:
    play(refusing("rule", "add", errno.EEXIST))
    assert error_of(RuleAdded(RULE)) == f"rule {RULE.name}: EEXIST (File exists)"
    play(refusing("rule", "add", errno.EINVAL), "Invalid table id")
    expected = f"rule {RULE.name}: EINVAL (Invalid argument): Invalid table id"
    assert error_of(RuleAdded(RULE)) == expected
    play(refusing("rule", "add", errno.EPERM))
    assert "rait must run as root" in error_of(RuleAdded(RULE))


def test_one_refusal_stops_no_other_event(play) -> None:
    play(refusing("rule", "add", errno.EEXIST))
    outcomes = vrf.apply([RuleAdded(RULE), RuleRemoved(RULE)])
    assert [(each.index, each.error is None) for each in outcomes] == [(0, False), (1, True)]


def test_what_is_gone_is_removed(play) -> None:
    play(lambda what, *_: {"rule": errno.ENOENT, "route": errno.ESRCH}[what])
    events = RuleRemoved(RULE), VrfRemoved("not-there", 77)
    assert vrf.apply(events) == [Outcome(0), Outcome(1)]
    play(refusing("rule", "del", errno.EBUSY))
    assert "EBUSY" in error_of(RuleRemoved(RULE))


def test_a_vrf_that_cannot_be_made_leaves_the_table_as_it_was(play) -> None:
    fake = play(refusing("link", "add", errno.EEXIST))
    assert error_of(VrfAdded("mesh", 77)) == "VRF mesh: EEXIST (File exists)"
    added, removed = (("add", 2), ("add", 10)), (("del", 10), ("del", 2))
    assert fake.done == [("route", *each) for each in (*added, *removed)]
    fake = play(
        lambda *call: errno.EEXIST if call[1] == "add" and call[2].get("family") != 10 else 0
    )
    assert "EEXIST" in error_of(VrfAdded("mesh", 77))
    assert fake.done == [("route", "add", 10), ("route", "del", 10)], "the other was there before"


def test_a_vrf_that_cannot_be_marked_is_removed_again(play) -> None:
    fake = play(refusing("link", "set", errno.ENOMEM))
    assert "ENOMEM" in error_of(VrfAdded("mesh", 77))
    assert [each[:2] for each in fake.done[2:]] == [
        ("link", "add"),
        ("link", "del"),
        ("route", "del"),
        ("route", "del"),
    ]


def there(monkeypatch: pytest.MonkeyPatch, table: int, *members: str) -> None:
    """Play that VRF mesh is there, with this table and these interfaces in it."""
    common = {"mtu": 1500, "group": 0, "up": True}
    mesh = Interface(name="mesh", index=7, kind="vrf", table=table, **common)
    others = [Interface(name=m, index=8, kind="veth", master="mesh", **common) for m in members]
    found = {each.name: each for each in (mesh, *others)}
    monkeypatch.setattr(rtnl, "interfaces", lambda _: found)


def test_a_vrf_goes_by_its_number_and_its_table_after_it(play, monkeypatch) -> None:
    there(monkeypatch, 77)
    fake = play(lambda *_: 0)
    assert vrf.apply([VrfRemoved("mesh", 77)]) == [Outcome(0)]
    assert fake.done == [("link", "del", 7), ("route", "del", 2), ("route", "del", 10)]
    play(refusing("link", "del", errno.ENODEV))
    assert vrf.apply([VrfRemoved("mesh", 77)]) == [Outcome(0)], "it went meanwhile"


def test_a_vrf_with_another_table_is_anothers(play, monkeypatch) -> None:
    there(monkeypatch, 78, "guest")
    fake = play(lambda *_: 0)
    assert vrf.apply([VrfRemoved("mesh", 77)]) == [Outcome(0)]
    assert ("link", "del", 7) not in fake.done


def test_a_vrf_with_interfaces_in_it_stays(play, monkeypatch) -> None:
    there(monkeypatch, 77, "guest")
    fake = play(lambda *_: 0)
    expected = "VRF mesh: it stays, as it has interfaces: guest"
    assert error_of(VrfRemoved("mesh", 77)) == expected
    assert fake.done == []


def test_what_marks_rules_and_routes_as_ours_stays_what_it_was() -> None:
    """Else a later rait would take for others' what an earlier one made."""
    assert (vrf.PROTOCOL, vrf.LAST_METRIC, VRF_MARK) == (84, 4278198272, "made by rait")


def test_an_interface_is_found_by_its_name() -> None:
    assert vrf.find("lo") == rtnl.FoundInterface(1, "", 0)
    assert vrf.find("not-there") is None
    with pytest.raises(MachineError, match="ERANGE"):
        vrf.find("a-name-of-more-than-15-bytes")


@pytest.mark.parametrize("code", [errno.EAFNOSUPPORT, errno.EOPNOTSUPP])
def test_a_machine_without_ipv6_gets_a_vrf_all_the_same(play, code: int) -> None:
    fake = play(lambda *call: code if call[2].get("family") == 10 else 0)
    assert vrf.apply([VrfAdded("mesh", 77)]) == [Outcome(0)]
    assert [each[:2] for each in fake.done] == [("route", "add"), ("link", "add"), ("link", "set")]
    play(lambda *call: code if call[2].get("family") == 2 else 0)
    assert "VRF mesh" in error_of(VrfAdded("mesh", 77)), "there is no machine without IPv4"


def test_a_kernel_without_vrfs_is_told_of(play) -> None:
    play(refusing("link", "add", errno.EOPNOTSUPP), "Unknown device type")
    assert error_of(VrfAdded("mesh", 77)) == f"VRF mesh: {vrf.NO_VRF}"
    with pytest.raises(VrfMissingError, match="modprobe vrf"):
        vrf.require("mesh")


def test_a_kernel_with_vrfs_refuses_one_without_a_table(play) -> None:
    play(refusing("link", "add", errno.EINVAL), "VRF table id is missing")
    vrf.require("mesh")
    play(refusing("link", "add", errno.EPERM))
    with pytest.raises(MachineError, match="VRF mesh cannot be made: EPERM") as caught:
        vrf.require("mesh")
    assert not isinstance(caught.value, VrfMissingError)
    play(lambda *_: 0)
    with pytest.raises(MachineError, match="without a table"):
        vrf.require("mesh")


def test_those_that_are_gone_are_not_marked(play) -> None:
    fake = play(lambda *call: errno.ENODEV if call[2]["ifname"] == "not-there" else 0)
    vrf.mark(["not-there", "mesh"])
    assert fake.done == [("link", "set", "mesh")]
    play(refusing("link", "set", errno.EPERM))
    with pytest.raises(MachineError):
        vrf.mark(["mesh"])


def test_a_socket_that_fails_is_told_as_any_other_trouble(monkeypatch) -> None:
    def none_left(**_: object) -> None:
        raise OSError(errno.EMFILE, "Too many open files")

    monkeypatch.setattr(pyroute2, "IPRoute", none_left)
    with pytest.raises(MachineError, match="EMFILE"):
        vrf.mark(["mesh"])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_waits_for_the_end_of_the_changes(play, number: int) -> None:
    """Within asyncio, what its handler raises might be swallowed, and the run wait for ever."""

    class EndedError(BaseException):
        pass

    def end(*_: object) -> None:
        raise EndedError

    def answer(*_: object) -> int:
        signal.raise_signal(number)
        return 0

    fake = play(answer)
    before = signal.signal(number, end)
    try:
        with pytest.raises(EndedError):
            vrf.apply([RuleAdded(RULE), RuleRemoved(RULE)])
        assert signal.getsignal(number) is end
    finally:
        signal.signal(number, before)
    assert fake.done == [("rule", "add", 2), ("rule", "del", 2)]


def test_in_another_thread_changes_are_made_all_the_same(play) -> None:
    play(lambda *_: 0)
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(vrf.apply, [RuleAdded(RULE)]).result() == [Outcome(0)]


def test_an_event_of_another_kind_is_refused(play) -> None:
    play(lambda *_: 0)
    assert "no change of VRFs" in error_of(BabelInterfaceFlushed("w1", ""))


def test_pyroute2_is_not_loaded_with_rait() -> None:
    """It takes longer to load than a run with nothing to do; `rait watch` loads it once."""
    code = (
        "import importlib, pkgutil, sys, rait\n"
        "for module in pkgutil.walk_packages(rait.__path__, 'rait.'):\n"
        "    if not module.name.endswith(('__main__', 'link_changes', '.watch')):\n"
        "        importlib.import_module(module.name)\n"
        "print('rait.adapters.vrf' in sys.modules, 'pyroute2' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "True False\n"

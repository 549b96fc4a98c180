"""Interfaces are touched with ip(8), in namespaces of the test's own."""

from __future__ import annotations

import os
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from threading import Timer

import anyio
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rait.adapters.link_changes import LinkChanges, Touch, Touches
from rait.adapters.netlink import rtnl
from rait.adapters.netns import entered, open_netns
from tests.integration import machine

pytestmark = pytest.mark.userspace

NAMES = (f"rait-test-lc{os.getpid()}a", f"rait-test-lc{os.getpid()}b")


def make(name: str) -> None:
    subprocess.run(["ip", "netns", "add", name], check=True)


@pytest.fixture
def empty() -> Iterator[str]:
    """The name of a namespace that there is not."""
    yield NAMES[0]
    for name in NAMES:
        machine.remove_netns(name)


@pytest.fixture
def ns(empty: str) -> str:
    make(empty)
    return empty


def pair(ns: str, name: str) -> None:
    machine.ip_batch([f"link add {name} type veth peer name {name}x"], ns)


def first_of(links: LinkChanges) -> Touches:
    """What is told, with some time to come."""

    async def wait() -> Touches:
        with anyio.fail_after(60):
            return await links.changed()

    return anyio.run(wait)


def told(links: LinkChanges, until: Callable[[Touches], bool]) -> Touches:
    """All that is told until it is enough."""
    found: Touches = ()
    while not until(found):
        touches = first_of(links)
        assert touches is not None, "messages were lost, or there is another namespace"
        found += touches
    return found


def kinds(touches: Touches, name: str) -> list[str]:
    return [touch.kind for touch in touches if touch.name == name]


def has(kind: str, name: str) -> Callable[[Touches], bool]:
    return lambda touches: kind in kinds(touches, name)


def test_what_happens_to_an_interface_is_told_with_its_name(ns: str) -> None:
    with LinkChanges(ns) as links:
        pair(ns, "wg1")
        made = next(t for t in told(links, has("changed", "wg1")) if t.name == "wg1")
        for address in ("192.0.2.1/24", "2001:db8::1/64"):
            machine.ip_batch([f"addr add {address} dev wg1"], ns)
            assert set(kinds(told(links, has("address", "wg1")), "wg1")) == {"address"}
        machine.ip_batch(["link set wg1 mtu 1280"], ns)
        told(links, has("changed", "wg1"))
        machine.ip_batch(["link del wg1"], ns)
        found = told(links, has("deleted", "wg1"))
        assert Touch("deleted", "wg1", made.index) in found
        assert links.take() == ()


def test_an_interface_that_gets_another_name_or_namespace_is_deleted(ns: str) -> None:
    make(NAMES[1])
    pair(ns, "wg1")
    with LinkChanges(ns) as links:
        machine.ip_batch(["link set wg1 name stolen"], ns)
        found = told(links, has("changed", "stolen"))
        assert kinds(found, "wg1") == ["deleted"]
        machine.ip_batch([f"link set stolen netns {NAMES[1]}"], ns)
        told(links, has("deleted", "stolen"))


def test_a_port_that_leaves_its_bridge_is_not_deleted(ns: str) -> None:
    pair(ns, "wg1")
    machine.ip_batch(["link add br0 type bridge", "link set wg1 master br0"], ns)
    with LinkChanges(ns) as links:
        machine.ip_batch(["link set wg1 nomaster", "link set wg1 mtu 1280", "link del br0"], ns)
        assert "deleted" not in kinds(told(links, has("deleted", "br0")), "wg1")


def test_only_interfaces_that_count_are_told(ns: str) -> None:
    with LinkChanges(ns) as links:
        links.watch(["wg1"])
        for number in range(20):
            pair(ns, f"veth{number}")
            machine.ip_batch([f"addr add 192.0.2.{number}/32 dev veth{number}"], ns)
            machine.ip_batch([f"link del veth{number}"], ns)
        assert links.take() == ()
        pair(ns, "wg1")
        assert {touch.name for touch in told(links, has("changed", "wg1"))} == {"wg1"}


def test_when_messages_are_lost_whatever_there_is_may_have_been_touched(ns: str) -> None:
    pair(ns, "wg1")
    with LinkChanges(ns) as links:
        links.watch([])
        while links.take() is not None:
            machine.ip_batch([f"link set wg1 mtu {1300 + n % 2}" for n in range(10_000)], ns)
        links.watch(["wg1"])
        machine.ip_batch(["link set wg1 up"], ns)
        told(links, has("changed", "wg1"))


def test_a_namespace_that_is_made_later_and_replaced_is_followed(empty: str) -> None:
    with LinkChanges(empty) as links:
        assert links.take() == ()
        for number in range(3):
            make(empty)
            assert first_of(links) is None
            pair(empty, f"wg{number}")
            told(links, has("changed", f"wg{number}"))
            before = time.monotonic()
            machine.remove_netns(empty)
            assert first_of(links) is None
            assert time.monotonic() - before < 30
        assert links.take() == ()


def test_who_listens_does_not_keep_a_namespace_that_is_deleted(ns: str) -> None:
    """When a namespace ends, so do its interfaces, with their other halves in other namespaces."""
    make(NAMES[1])
    machine.ip_batch([f"link add wg1 type veth peer name far netns {NAMES[1]}"], ns)
    with LinkChanges(ns) as links:
        machine.remove_netns(ns)
        assert first_of(links) is None
        deadline = time.monotonic() + 60
        while "far" in machine.links(NAMES[1]):
            assert time.monotonic() < deadline, "the namespace lives on"
            time.sleep(0.05)


def test_a_namespace_of_a_process_ends_with_it(ns: str) -> None:
    with subprocess.Popen(["ip", "netns", "exec", ns, "sleep", "600"]) as process:
        try:
            inside = str(Path(f"/run/netns/{ns}").stat().st_ino)
            while inside not in str(Path(f"/proc/{process.pid}/ns/net").readlink()):
                time.sleep(0.01)
            with LinkChanges(str(process.pid)) as links:
                pair(ns, "wg1")
                told(links, has("changed", "wg1"))
                Timer(0.2, process.kill).start()
                assert first_of(links) is None
        finally:
            process.kill()


def test_the_current_namespace(ns: str) -> None:
    with open_netns(ns) as here, entered(here.fd):
        links = LinkChanges("")
    with links:
        pair(ns, "wg1")
        told(links, has("changed", "wg1"))


def test_neither_a_thread_nor_a_process_nor_a_descriptor_stays(ns: str) -> None:
    def alive() -> set[str]:
        """Threads of other tests may end meanwhile, and close what they had open."""
        found = set()
        for task in Path("/proc/self/task").iterdir():
            with suppress(OSError):
                found |= {task.name, *(task / "children").read_text().split()}
        return found

    def is_open() -> set[str]:
        found = set()
        for file in Path("/proc/self/fd").iterdir():
            with suppress(OSError):
                found.add(f"{file} {file.readlink()}")
        return {each for each in found if " /proc/" not in each}

    before, at_first = alive(), is_open()
    with LinkChanges(ns) as links:
        assert is_open() - at_first, "there is something to be left"
        assert not alive() - before
        for _ in range(3):
            machine.remove_netns(ns)
            assert links.take() is None
            make(ns)
            assert links.take() is None
        assert not alive() - before
    assert not is_open() - at_first


LINKS = ("wg1", "wg2")
some_link = st.sampled_from(LINKS)
commands = st.one_of(
    st.builds("link add {} type veth".format, some_link),
    st.builds("link del {}".format, some_link),
    st.builds("link set {} name {}".format, some_link, st.sampled_from((*LINKS, "other"))),
    st.builds("link set other name {}".format, some_link),
    st.builds("link set {} {}".format, some_link, st.sampled_from(("up", "down", "mtu 1280"))),
    st.builds(
        "addr {} {}/64 dev {}".format,
        st.sampled_from(("add", "del")),
        st.sampled_from(("192.0.2.1", "fe80::1")),
        some_link,
    ),
)


@settings(max_examples=30, deadline=None)
@given(st.lists(commands, max_size=8))
def test_each_change_that_an_observer_sees_is_told(batch: list[str]) -> None:
    name = NAMES[0]
    make(name)
    try:
        with open_netns(name) as here, LinkChanges(name) as links:
            links.watch(LINKS)
            before = rtnl.interfaces(here)
            for command in batch:
                subprocess.run(
                    ["ip", "-n", name, *command.split()], check=False, capture_output=True
                )
                names = {touch.name for touch in links.take() or ()}
                now = rtnl.interfaces(here)
                changed = {link for link in LINKS if before.get(link) != now.get(link)}
                assert changed <= names, f"{command} changed {changed}, told were {names}"
                before = now
    finally:
        machine.remove_netns(name)

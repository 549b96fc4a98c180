"""`rait watch` from its start to its end, on a played machine and with played senses."""

from __future__ import annotations

import os
import socket
import threading
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from signal import SIGHUP, SIGTERM
from typing import Any, NoReturn

import anyio
import pytest

from rait.adapters.config import source, web
from rait.adapters.config.remote import News, Version
from rait.adapters.link_changes import Touch, Touches
from rait.app import watch as module
from rait.app.options import Options
from rait.domain.errors import ConfigError, MachineError, RaitError, SourceError
from tests.unit.command_line import PEERS, Rait
from tests.unit.played import ALL, CONF, Played
from tests.unit.test_publishing import OLD, Registry
from tests.unit.test_publishing import URL as REGISTRY
from tests.unit.web import get

PATIENCE = 120.0
FEW = dict(list(PEERS.items())[:1])
FIRST, SECOND, THIRD = ALL
URL = "https://example.org/peers"


class Links:
    """What tells of touched links: a test does. ``names`` are those that it is to tell of."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.told: deque[Touches] = deque()
        self.names: frozenset[str] = frozenset()
        monkeypatch.setattr(module, "LinkChanges", lambda _: self)

    def __enter__(self) -> Links:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def watch(self, names: frozenset[str]) -> None:
        self.names = names

    def take(self) -> Touches:
        return ()

    async def changed(self) -> Touches:
        while not self.told:
            await anyio.sleep(0.01)
        return self.told.popleft()


class Watching:
    """A `rait watch` in a thread of its own."""

    def __init__(self, rait: Rait, capsys: pytest.CaptureFixture[str], **how: bool) -> None:
        self.errors: list[RaitError] = []
        self.ended_well: bool | None = None
        self.signals: deque[int] = deque()
        self._rait = rait
        self._capsys = capsys
        self._said = ""
        self._thread = threading.Thread(target=self._run, kwargs=how)
        self._thread.start()

    def _run(self, **how: bool) -> None:
        try:
            self.ended_well = module.watch(Options(config=str(self._rait.conf)), **how)
        except RaitError as error:
            self.errors.append(error)

    def until(self, is_so: Callable[[], object]) -> None:
        deadline = time.monotonic() + PATIENCE
        while not is_so():
            assert self._thread.is_alive(), self.said
            assert time.monotonic() < deadline, self.said
            time.sleep(0.01)

    def until_said(self, text: str, times: int = 1) -> None:
        self.until(lambda: self.said.count(text) >= times)

    @property
    def said(self) -> str:
        self._said += self._capsys.readouterr().err
        return self._said

    def end(self) -> None:
        self.signals.append(SIGTERM)
        self._thread.join(PATIENCE)
        assert not self._thread.is_alive()


Start = Callable[..., Watching]


@pytest.fixture
def links(monkeypatch: pytest.MonkeyPatch) -> Links:
    return Links(monkeypatch)


@pytest.fixture
def start(
    rait: Rait,
    kernel: Played,
    links: Links,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Start]:
    """Starts a watch of rait.conf, and ends it."""
    started: list[Watching] = []

    @contextmanager
    def receiver(*_: object) -> Iterator[AsyncIterator[int]]:
        async def signals() -> AsyncIterator[int]:
            while True:
                while not (started and started[-1].signals):
                    await anyio.sleep(0.01)
                yield started[-1].signals.popleft()

        yield signals()

    def begin(**how: bool) -> Watching:
        started.append(Watching(rait, capsys, **how))
        return started[-1]

    assert not kernel.names
    assert not links.names
    monkeypatch.setattr(anyio, "open_signal_receiver", receiver)
    monkeypatch.setattr(module, "lose_what_nobody_reads", lambda: None)
    monkeypatch.setattr(module, "_tidy", lambda: None)
    yield begin
    for each in started:
        each.end()


def with_watch(settings: str, conf: str = CONF) -> str:
    return f"{conf}watch {{\n  {settings}\n}}\n"


def test_it_makes_the_links_and_follows_the_list_and_leaves_them_at_the_end(
    rait: Rait, kernel: Played, start: Start
) -> None:
    watch = start()
    watch.until(lambda: kernel.names == ALL)
    watch.until_said("rait up (start): 3 added; 3 links wanted")
    peers = rait.directory / "peers.conf"
    peers.write_text(peers.read_text().split("\n\n")[0])
    watch.until(lambda: kernel.names == [FIRST])
    watch.until_said("rait up (peers list changed): 2 removed; 1 link wanted")
    rait.conf.write_text(CONF.replace("1420", "1400"))
    watch.until(lambda: kernel.wires[FIRST].link.settings.mtu == 1400)
    watch.until_said("rait up (rait.conf changed): 1 changed; 1 link wanted")
    watch.end()
    assert (watch.ended_well, kernel.names) == (True, [FIRST])
    assert "nothing to do" not in watch.said


@pytest.mark.parametrize("fails", [False, True])
def test_at_the_end_the_links_may_go(kernel: Played, start: Start, fails: bool) -> None:
    watch = start(down_on_exit=True)
    watch.until(lambda: kernel.names == ALL)
    watch.until_said("rait up (start)")
    kernel.refused = {FIRST: "busy"} if fails else {}
    watch.end()
    assert (watch.ended_well, kernel.names) == (not fails, [FIRST] if fails else [])
    assert ("busy" in watch.said) == fails
    assert "rait down: " in watch.said


def test_a_rait_conf_that_became_wrong_is_told_and_changes_nothing(
    rait: Rait, kernel: Played, links: Links, start: Start
) -> None:
    watch = start()
    watch.until(lambda: kernel.names == ALL)
    rait.write(CONF.replace("1420", "12"), FEW)
    watch.until_said("transport[0].mtu")
    assert kernel.names == ALL
    assert links.names.issuperset(ALL), "and they are still looked after"
    rait.write(CONF, FEW)
    watch.until(lambda: kernel.names == [FIRST])


def test_a_link_that_is_touched_is_looked_at_at_once(
    kernel: Played, links: Links, start: Start
) -> None:
    watch = start()
    watch.until(lambda: links.names.issuperset(ALL))
    del kernel.wires[FIRST]
    links.told.append((Touch("deleted", FIRST, 1), Touch("changed", SECOND, 2)))
    watch.until(lambda: kernel.names == ALL)
    watch.until_said(f"(link deleted: {FIRST}; link changed: {SECOND})")
    kernel.change_settings(THIRD, mtu=1280)
    links.told.append(None)
    watch.until(lambda: kernel.wires[THIRD].link.settings.mtu == 1420)
    watch.until_said("(links may have changed)")


def test_sighup_reads_all_anew(kernel: Played, start: Start) -> None:
    watch = start()
    watch.until(lambda: kernel.names == ALL)
    watch.until_said("rait up (start)")
    kernel.change_settings(FIRST, mtu=1280)
    watch.signals.append(SIGHUP)
    watch.until(lambda: kernel.wires[FIRST].link.settings.mtu == 1420)
    watch.until_said("(SIGHUP")


def test_what_failed_is_told_and_tried_again_at_the_next_look(
    rait: Rait, kernel: Played, start: Start
) -> None:
    kernel.refused = {FIRST: "no room"}
    rait.write(with_watch('look = "1s"'), PEERS)
    watch = start()
    watch.until_said(f"{FIRST}: no room")
    kernel.refused = {}
    watch.until(lambda: kernel.names == ALL)
    watch.until_said("rait up (look): 1 added; 3 links wanted")


def test_a_fault_of_rait_is_told_and_ends_nothing(
    kernel: Played, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail() -> NoReturn:
        raise ZeroDivisionError("oh")

    with monkeypatch.context() as patch:
        patch.setattr(kernel, "observe", fail)
        watch = start()
        watch.until_said("this is a fault of rait: ZeroDivisionError('oh')")
    watch.until(lambda: kernel.names == ALL)


def test_what_the_guard_stops_waits_for_the_user(rait: Rait, kernel: Played, start: Start) -> None:
    rait.write(CONF + "max_removals = 1\n", PEERS)
    watch = start()
    watch.until(lambda: kernel.names == ALL)
    watch.until_said("rait up (start)")
    rait.write(CONF + "max_removals = 1\n", FEW)
    watch.until_said("it would remove 2 of 3 links")
    assert kernel.names == ALL


def test_another_watch_of_this_rait_conf_is_refused(
    rait: Rait, kernel: Played, start: Start
) -> None:
    watch = start()
    watch.until(lambda: kernel.names == ALL)
    with pytest.raises(MachineError, match="is looked after already"):
        module.watch(Options(config=str(rait.conf)))


def test_a_rait_conf_or_an_input_that_cannot_be_watched_is_refused(
    rait: Rait, kernel: Played, tmp_path: Path
) -> None:
    for conf in ("-", "https://example.org/rait.conf", str(tmp_path), os.devnull):
        with pytest.raises(ConfigError, match=r"needs a rait\.conf that is a file"):
            module.watch(Options(config=conf))
    rait.write(CONF.replace("peers.conf", "-"), {})
    with pytest.raises(ConfigError, match=r"rait.conf:2: peers: cannot be - "):
        module.watch(Options(config=str(rait.conf)))
    assert kernel.names == []


class Server:
    """Has the peers list, or is out of reach."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
        self.text = text
        self.problem = ""
        self.asked = 0
        monkeypatch.setattr(web, "fetch", self.fetch)

    def fetch(self, url: str, *_: object) -> News:
        self.asked += 1
        if self.problem:
            raise SourceError(f"{url}: {self.problem}")
        return News(self.text, Version(url, self.text), time.time_ns())


@pytest.fixture
def server(rait: Rait, monkeypatch: pytest.MonkeyPatch) -> Server:
    server = Server(monkeypatch, (rait.directory / "peers.conf").read_text())
    rait.write(with_watch('poll = "1s"', CONF.replace("peers.conf", URL)), FEW)
    return server


def test_a_list_from_a_url_is_asked_for_again_and_again(
    rait: Rait, kernel: Played, start: Start, server: Server
) -> None:
    watch = start()
    watch.until(lambda: kernel.names == ALL)
    server.text = (rait.directory / "peers.conf").read_text()
    watch.until(lambda: kernel.names == [FIRST])
    watch.until_said("(peers list")
    server.problem = "no connection"
    watch.until_said(f"{URL}: no connection")
    assert kernel.names == [FIRST]
    before = server.asked
    server.problem = ""
    watch.until(lambda: server.asked > before)


def test_a_list_that_nobody_confirms_is_told_of(
    rait: Rait, kernel: Played, start: Start, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    rait.write(
        with_watch('poll = "1s"\n  max_peers_age = "1h"', CONF.replace("peers.conf", URL)), FEW
    )
    rait("up")
    server.problem = "no connection"
    now = time.time_ns() + 3601 * 10**9
    monkeypatch.setattr("time.time_ns", lambda: now)
    rait.conf.write_text(rait.conf.read_text() + 'peers_fallback = "always"\n')
    watch = start()
    watch.until_said("older than max_peers_age: no server has confirmed it since 20")
    assert kernel.names == ALL


def test_the_health_page_comes_and_goes_with_rait_conf(
    rait: Rait, kernel: Played, start: Start
) -> None:
    watch = start()
    watch.until(lambda: kernel.names == ALL)
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        rait.write(with_watch(f'metrics = "127.0.0.1:{port}"'), PEERS)
        watch.until_said(f"127.0.0.1:{port}")
    watch.signals.append(SIGHUP)

    def is_served() -> bool:
        try:
            return get(port, "/metrics")[0] == 200
        except (OSError, IndexError):  # or closed, without an answer, as it ends
            return False

    watch.until(is_served)
    assert b'rait_runs_total{outcome="done"} 1.0' in get(port, "/metrics")[2]
    rait.write(CONF, PEERS)
    watch.until(lambda: not is_served())


@contextmanager
def service_manager(path: str) -> Iterator[list[str]]:
    """What the service manager hears at this path; it reads at once, so that nothing is lost."""
    heard: list[str] = []

    def listen() -> None:
        while (text := manager.recv(65536)) != b"the end":
            heard.append(text.decode())

    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(path)
        thread = threading.Thread(target=listen)
        thread.start()
        try:
            yield heard
        finally:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as own:
                own.sendto(b"the end", path)
            thread.join(PATIENCE)


def test_the_service_manager_hears_how_it_is(
    rait: Rait, kernel: Played, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = str(rait.directory / "notify")
    monkeypatch.setenv("NOTIFY_SOCKET", path)
    monkeypatch.setenv("WATCHDOG_USEC", "100000")
    with service_manager(path) as heard:
        watch = start()
        watch.until(lambda: "READY=1\nSTATUS=rait up: 3 added; 3 links wanted" in heard)
        watch.until(lambda: heard.count("WATCHDOG=1") > 2)
        watch.signals.append(SIGHUP)
        watch.until(lambda: any(text.startswith("RELOADING=1") for text in heard))
        watch.until(lambda: sum(text.startswith("READY=1") for text in heard) == 2)
        kernel.refused = dict.fromkeys(ALL, "no room")
        rait.conf.write_text(CONF.replace("1420", "1400"))
        watch.until(lambda: any(f"STATUS={FIRST}: no room" in text for text in heard))
        watch.end()
    assert "STOPPING=1" in heard


def test_names_of_hosts_are_looked_up_again(
    rait: Rait, kernel: Played, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    address = "192.0.2.1"

    def look_up(_: Any) -> tuple[tuple[str, ...], str]:
        return ((address,), "") if address else ((), "it does not resolve")

    monkeypatch.setattr("rait.adapters.config.resolve._look_up", look_up)
    rait.write(with_watch('names = "1s"'), {50221: (PEERS[50221][0], "a.example")})
    watch = start()

    def endpoint() -> str:
        return str(kernel.wires[FIRST].link.peers[0].endpoint) if kernel.wires else ""

    watch.until(lambda: endpoint() == "192.0.2.1:50153")
    address = "192.0.2.2"
    watch.until(lambda: endpoint() == "192.0.2.2:50153")
    address = ""
    watch.until_said("it does not resolve; it keeps the address that it had")
    assert endpoint() == "192.0.2.2:50153"


def test_it_keeps_its_own_entry_in_the_registry_that_it_follows(
    rait: Rait, kernel: Played, links: Links, start: Start, monkeypatch: pytest.MonkeyPatch
) -> None:
    registry, text = Registry(monkeypatch), (rait.directory / "peers.conf").read_text()

    async def follow(url: str, tell: Callable[[News], None]) -> None:
        tell(News(text, Version(url, revision=1), time.time_ns()))
        await anyio.sleep(3600)

    monkeypatch.setattr(source, "follow", follow)
    conf = CONF.replace("peers.conf", REGISTRY) + 'name = "gate"\n'
    conf = conf.replace("  mtu", '  address = "a.example.net"\n  mtu')
    publish = 'publish = true\n  lease = "1d"'
    rait.write(with_watch(publish, conf), {})
    watch = start()
    watch.until(lambda: kernel.names == ALL)
    watch.until(lambda: registry.names() == {OLD: "gate"})
    registry.entries.clear()
    links.told.append(None)  # so there is a sync, and the list has no entry of this node
    watch.until(lambda: registry.names() == {OLD: "gate"})
    rait.conf.write_text(with_watch(publish, conf.replace("gate", "door")))
    watch.until(lambda: registry.names() == {OLD: "door"})

"""The client against Debian's babeld."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from rait.adapters import babeld as module
from rait.adapters.babeld import (
    BabeldClient,
    BabeldError,
    BabeldRefusedError,
)
from rait.domain.babel import BabelInterface
from rait.domain.config.schema import DEFAULT_BABELD_PARAM
from rait.domain.config.schema import Babeld as Settings
from rait.domain.events import BabelInterfaceAdded
from tests.babeld_model import babel_events
from tests.integration import machine
from tests.integration.routing import Babeld, eventually, loopback, namespaces, route, veth, way
from tests.tiers import need

pytestmark = pytest.mark.userspace

QUICK = f"{DEFAULT_BABELD_PARAM} hello-interval 1"


@pytest.fixture(autouse=True)
def _installed() -> None:
    need("babeld", "babeld")


@pytest.fixture
def netns() -> Iterator[str]:
    with namespaces(1) as (name,):
        veth(name, "rait4x50001", name, "rait4x50002")
        yield name


@pytest.fixture
def babeld(netns: str, tmp_path: Path) -> Iterator[Babeld]:
    daemon = Babeld(netns, tmp_path)
    yield daemon
    daemon.stop()


@pytest.fixture
def client(babeld: Babeld) -> Iterator[BabeldClient]:
    with closing(BabeldClient(Settings(socket_addr=babeld.socket))) as client:
        yield client


def names(client: BabeldClient) -> set[str]:
    return {interface.name for interface in ours(client)}


def ours(client: BabeldClient) -> list[BabelInterface]:
    return [interface for interface in client.interfaces() if interface.name != "lo"]


def test_babeld_is_greeted_and_asked(client: BabeldClient) -> None:
    assert [interface.name for interface in client.interfaces()] == ["lo"]


def test_add_and_flush(client: BabeldClient) -> None:
    client.add("rait4x50001", DEFAULT_BABELD_PARAM)
    client.add("rait4x50002", "type tunnel")
    assert names(client) == {"rait4x50001", "rait4x50002"}
    client.flush("rait4x50001")
    client.flush("rait4x50001")
    assert names(client) == {"rait4x50002"}


def test_an_interface_comes_up_with_its_address(client: BabeldClient, netns: str) -> None:
    client.add("rait4x50001", "type tunnel")
    eventually(lambda: all(i.up for i in ours(client)), "babeld sees the interface up")
    (interface,) = ours(client)
    assert interface.ipv6 is not None
    assert interface.ipv6.startswith("fe80::")
    machine.ip_batch(["link set rait4x50001 down"], netns)
    eventually(lambda: not any(i.up for i in ours(client)), "babeld sees it down")


def test_an_interface_need_not_be_there(client: BabeldClient) -> None:
    client.add("rait4x50009", "type tunnel")
    (interface,) = ours(client)
    assert interface.name == "rait4x50009"
    assert not interface.up


def test_an_interface_made_again_is_found_again(client: BabeldClient, netns: str) -> None:
    client.add("rait4x50001", "type tunnel")
    eventually(lambda: all(i.up for i in ours(client)), "up at first")
    machine.ip_batch(["link del rait4x50001"], netns)
    eventually(lambda: not any(i.up for i in ours(client)), "gone")
    veth(netns, "rait4x50001", netns, "rait4x50002")
    eventually(lambda: all(i.up for i in ours(client)), "up again")


@pytest.mark.parametrize(
    "param", ["type bogus", "rxcost -1", "channel 300", "hello-interval soon", "nonsense"]
)
def test_wrong_parameters_are_named(client: BabeldClient, param: str) -> None:
    with pytest.raises(BabeldRefusedError, match=f"interface rait4x50001 {param}.*'bad'"):
        client.add("rait4x50001", param)
    client.add("rait4x50001", "")


def test_commands_of_other_kinds(client: BabeldClient) -> None:
    client.command("default type tunnel")
    client.command("monitor")
    client.add("rait4x50001", "")  # babeld tells of it before it answers
    client.command("unmonitor")
    client.command("default type wired")
    client.command("quit")
    with pytest.raises(BabeldRefusedError, match="'random-id true'"):
        client.command("random-id true")


def test_an_open_quote_never_gets_to_babeld_which_it_would_crash(
    client: BabeldClient, babeld: Babeld
) -> None:
    with pytest.raises(BabeldError, match="never closed"):
        client.command('interface "rait4x50001')
    assert names(client) == set()
    assert babeld.process.poll() is None


def test_a_read_only_socket(netns: str, tmp_path: Path) -> None:
    babeld = Babeld(netns, tmp_path, writable=False)
    with closing(BabeldClient(Settings(socket_addr=babeld.socket))) as client:
        assert [interface.name for interface in client.interfaces()] == ["lo"]
        with pytest.raises(BabeldRefusedError, match="read-only: start babeld with `-G`"):
            client.add("rait4x50002", "")
        with pytest.raises(BabeldRefusedError, match="read-only"):
            client.flush("lo")
        assert [interface.name for interface in client.interfaces()] == ["lo"]
    babeld.stop()


def test_tcp_is_in_babelds_own_namespace(netns: str, tmp_path: Path) -> None:
    log, state = tmp_path / "log", tmp_path / "state"
    command = ["babeld", "-I", "", "-L", str(log), "-S", str(state), "-G", "33123", "lo"]
    process = machine.start(command, netns)
    settings = Settings(socket_type="tcp", socket_addr="33123")

    def inside(family: int) -> socket.socket:
        return machine.socket_in(netns, family, socket.SOCK_STREAM)

    def listens() -> bool:
        with inside(socket.AF_INET6) as probe:
            return probe.connect_ex(("::1", 33123)) == 0

    eventually(listens, "babeld listens on TCP")
    with closing(BabeldClient(settings, inside)) as client:
        client.add("rait4x50001", "")
        assert names(client) == {"rait4x50001"}
    process.terminate()
    process.wait()
    with (
        closing(BabeldClient(settings, inside)) as client,
        pytest.raises(BabeldError, match="babeld -G 33123"),
    ):
        client.interfaces()


def test_a_babeld_that_was_killed(client: BabeldClient, babeld: Babeld) -> None:
    babeld.process.kill()
    babeld.process.wait()
    with pytest.raises(BabeldError, match="does not run any more"):
        client.interfaces()


def test_all_its_connections_taken(
    client: BabeldClient, babeld: Babeld, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = [socket.socket(socket.AF_UNIX) for _ in range(4)]
    for each in taken:
        each.connect(babeld.socket)
        each.recv(10)
    with monkeypatch.context() as hasty:
        hasty.setattr(module, "ANSWER_SECONDS", 0.5)
        with pytest.raises(BabeldError, match="serves four control connections at a time"):
            BabeldClient(Settings(socket_addr=babeld.socket)).interfaces()
    for each in taken:
        each.close()
    assert names(client) == set()


def test_a_second_sync_sends_nothing_and_foreign_ones_survive(client: BabeldClient) -> None:
    client.add("rait4x50007", "")
    wanted = dict.fromkeys(("rait4x50001", "rait4x50002"), DEFAULT_BABELD_PARAM)
    remembered: dict[str, str] = {}

    def plan(*, exclusive: bool = False) -> tuple[object, ...]:
        events = babel_events(
            [interface.name for interface in client.interfaces()],
            remembered,
            wanted,
            exclusive=exclusive,
        )
        for event in events:
            if isinstance(event, BabelInterfaceAdded):
                client.add(event.name, event.param)
            else:
                client.flush(event.name)
        return events

    assert len(plan()) == 3
    assert {interface.name for interface in client.interfaces()} == {"lo", *wanted}
    assert plan() == ()
    assert len(plan(exclusive=True)) == 1
    assert {interface.name for interface in client.interfaces()} == set(wanted)


def test_routes_come_and_go_with_the_interface(tmp_path: Path) -> None:
    with namespaces(2) as (a, b):
        veth(a, "rait4x50002", b, "rait4x50001")
        machine.ip_batch([f"addr add {loopback(2)}/128 dev lo"], b)
        machine.ip_batch(["addr add 2001:db8:eeee::2/128 dev lo"], b)
        first, second = Babeld(a, tmp_path), Babeld(b, tmp_path)
        with (
            closing(BabeldClient(Settings(socket_addr=first.socket))) as on_a,
            closing(BabeldClient(Settings(socket_addr=second.socket))) as on_b,
        ):
            on_a.add("rait4x50002", QUICK)
            on_b.add("rait4x50001", QUICK)
            eventually(lambda: way(a, loopback(2)) == "rait4x50002", "a route to b's prefix")
            assert not route(a, "2001:db8:eeee::2"), "what the configuration does not announce"
            on_a.flush("rait4x50002")
            # babeld keeps the neighbour, and its memory of the interface, for a while
            assert names(on_a) == set()
            eventually(lambda: not route(a, loopback(2)), "the route is gone")
            on_a.add("rait4x50002", QUICK)
            eventually(lambda: way(a, loopback(2)) == "rait4x50002", "the route is back")
        first.stop()
        second.stop()

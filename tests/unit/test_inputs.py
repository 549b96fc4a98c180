"""What a run acts upon is no older than its lock, and nobody waits while it is gathered."""

from __future__ import annotations

import fcntl
import io
import os
import re
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest
from msgspec import Struct, structs

from rait.adapters.lock import HeldError, hold
from rait.app import inputs as module
from rait.app.inputs import Inputs, Preparation, prepared
from rait.app.options import Options
from rait.domain.config.schema import Config, Match, Peer, PeerEndpoint, Policy, Transport
from rait.domain.errors import ConfigError, MachineError, SourceError
from rait.domain.signed import Signed
from tests.minisign import QuickSigner

OLD_KEY = "KJJXmDtAXSrMGuIJVy/2eP65gXm1PTy7vCR/4O/vEEI="
NEW_KEY = "YLGPzk0Wq4zV6JHOTtlZWYN3Tg5gCa7U8Yk5UsfVLW4="
CONF = """\
private_key_file = "key"
peers = "peers.toml"
journal = "journal.db"
isolation {
  type = "netns"
  ifgroup = 54
}
transport {
  address_family = "ip4"
  send_port = 50153
  mtu = 1420
  ifprefix = "rait4x"
}
"""
PEER = """\
[[Peers]]
PublicKey = "+Y23l1qr9oEM4WlqPvp4IG2TPXdNCa11twipDvOHT3w="
SendPort = {port}
AddressFamily = "ip4"
"""
PATIENCE = 60.0
Edit = Callable[[], None]


class Node(Struct):
    """The files of a node, and what happens while its run gathers them."""

    directory: Path

    @property
    def conf(self) -> Path:
        return self.directory / "rait.conf"

    def write(self, name: str, text: str) -> Edit:
        def edit() -> None:
            path = self.directory / name
            path.write_text(text)
            path.chmod(0o600)

        return edit

    def lock(self, journal: str = "journal.db") -> Path:
        return self.directory / f"{journal}.lock"

    @contextmanager
    def run(self, *edits: Edit, url: str = "", lock_seconds: float = PATIENCE) -> Iterator[Inputs]:
        """A run that wants peers; when all is read, the first edit happens, and so on each time."""
        left = list(edits)

        def debug(line: str) -> None:
            if "peer from" in line and left:
                left.pop(0)()

        options = Options(config=url or str(self.conf), debug=debug, lock_seconds=lock_seconds)
        preparation = Preparation(options, peers=True)
        with prepared(options, "rait up", preparation) as found:
            yield found


@pytest.fixture
def node(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Node:
    # To look into a namespace takes root, and no name is looked up here.
    monkeypatch.setattr(module.netns, "open_netns", module.netns.gone)  # type: ignore[attr-defined]
    node = Node(tmp_path)
    node.write("rait.conf", CONF)()
    node.write("key", OLD_KEY)()
    node.write("peers.toml", PEER.format(port=50221))()
    return node


def ports(found: Inputs) -> list[int]:
    assert found.registry is not None
    return [peer.endpoints[0].send_port for peer in found.registry.peers]


def test_what_nobody_changed_is_gathered_once(node: Node) -> None:
    gathered: list[None] = []

    def note() -> None:
        gathered.append(None)

    with node.run(note, note) as found:
        assert ports(found) == [50221]
    assert len(gathered) == 1


@pytest.mark.parametrize(
    ("name", "text", "seen"),
    [
        ("rait.conf", CONF.replace("1420", "1300"), lambda f: f.loaded.config.transports[0].mtu),
        ("key", NEW_KEY, lambda f: f.key.secret.reveal() == NEW_KEY),
        ("peers.toml", PEER.format(port=50222), ports),
    ],
)
def test_a_file_that_changes_before_the_lock_is_ours_counts_as_it_is_then(
    node: Node, name: str, text: str, seen: Callable[[Inputs], object]
) -> None:
    with node.run(node.write(name, text)) as found:
        then = seen(found)
    with node.run() as found:
        assert seen(found) == then
    assert then in (1300, True, [50222])


def test_who_waited_acts_upon_what_was_written_meanwhile(node: Node) -> None:
    waits = threading.Event()
    options = Options(config=str(node.conf), notice=lambda _: waits.set(), lock_seconds=PATIENCE)
    seen: list[int] = []

    def run() -> None:
        with prepared(options, "rait down", Preparation(options)) as found:
            seen.append(found.loaded.config.transports[0].mtu)

    with hold(node.lock(), "rait up", 0):
        thread = threading.Thread(target=run)
        thread.start()
        assert waits.wait(PATIENCE)
        node.write("rait.conf", CONF.replace("1420", "1300"))()
    thread.join(PATIENCE)
    assert seen == [1300]


def test_a_configuration_that_became_wrong_while_one_waited_changes_nothing(node: Node) -> None:
    wrong = node.write("rait.conf", CONF.replace("1420", "12"))
    with pytest.raises(ConfigError, match=r"transport\[0\]\.mtu"), node.run(wrong):
        pass


def test_the_lock_is_that_of_the_journal_named_last(node: Node) -> None:
    with node.run(node.write("rait.conf", CONF.replace("journal.db", "other.db"))) as found:
        assert found.loaded.config.journal == str(node.directory / "other.db")
        with hold(node.lock(), "rait up", 0):
            pass
        with pytest.raises(HeldError), hold(node.lock("other.db"), "rait up", 0):
            pass


def test_files_that_change_at_each_reading_are_read_under_the_lock_in_the_end(node: Node) -> None:
    edits = [node.write("peers.toml", PEER.format(port=port)) for port in range(50300, 50303)]
    held: list[Path] = []

    def under_the_lock() -> None:
        with pytest.raises(HeldError), hold(node.lock(), "rait up", 0):
            pass
        held.append(node.lock())

    with node.run(*edits, under_the_lock) as found:
        assert ports(found) == [50302]
    assert held


def test_a_journal_that_is_another_one_each_time_is_an_error(node: Node) -> None:
    flips = [
        node.write("rait.conf", CONF.replace("journal.db", f"{number}.db")) for number in range(9)
    ]
    expected = pytest.raises(MachineError, match="`journal` names a different file each time")
    with expected, node.run(*flips):
        pass


def test_standard_input_is_read_once(node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    node.write("rait.conf", CONF.replace('"peers.toml"', '"-"'))()
    stdin = io.TextIOWrapper(io.BytesIO(PEER.format(port=50221).encode()))
    monkeypatch.setattr(sys, "stdin", stdin)
    with node.run(node.write("key", NEW_KEY)) as found:
        assert ports(found) == [50221]
        assert found.key.secret.reveal() == NEW_KEY


def test_a_pipe_of_the_shell_is_read_once(node: Node) -> None:
    reader, writer = os.pipe()
    with os.fdopen(writer, "w") as file:
        file.write(re.sub('= "(peers|key|journal)', rf'= "{node.directory}/\1', CONF))
    try:
        with node.run(node.write("key", NEW_KEY), url=f"/dev/fd/{reader}") as found:
            assert ports(found) == [50221]
            assert found.key.secret.reveal() == NEW_KEY
    finally:
        os.close(reader)


def is_free(lock: Path) -> bool:
    """Whether nobody holds the lock; it is not touched, as ``hold`` would."""
    if not lock.exists():
        return True
    with lock.open() as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
    return True


class Lists(ThreadingHTTPServer):
    """Serves the list of the day, and notes whether the lock was free at the time."""

    def __init__(self, lock: Path) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.lock = lock
        self.port = 50221
        self.free: list[bool] = []


class Answer(BaseHTTPRequestHandler):
    server: Lists

    def do_GET(self) -> None:
        self.server.free.append(is_free(self.server.lock))
        body = PEER.format(port=self.server.port).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def lists(node: Node) -> Iterator[Lists]:
    with Lists(node.lock()) as server:
        url = f"http://127.0.0.1:{server.server_port}/peers.toml"
        node.write("rait.conf", CONF.replace("peers.toml", url))()
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        yield server
        server.shutdown()
        thread.join()


def test_a_download_holds_no_lock_and_happens_once(node: Node, lists: Lists) -> None:
    for _ in range(2):
        with node.run() as found:
            assert ports(found) == [50221]
            assert not is_free(node.lock())
    assert lists.free == [True, True]


def test_a_list_that_was_fetched_before_another_run_is_fetched_again(
    node: Node, lists: Lists
) -> None:
    def another_run() -> None:
        lists.port = 50222
        with hold(node.lock(), "rait up", 0):
            pass

    def after_the_fetch(line: str) -> None:
        if "peer from" in line and len(lists.free) == 1:
            another_run()

    options = Options(config=str(node.conf), debug=after_the_fetch, lock_seconds=PATIENCE)
    preparation = Preparation(options, peers=True)
    with prepared(options, "rait up", preparation) as found:
        assert ports(found) == [50222]
    assert lists.free == [True, True]


def test_a_signed_list_is_verified_again_after_another_run(
    node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That run may have accepted a newer list than the one that was the last."""
    signer = QuickSigner()
    text = PEER.format(port=50221)
    node.write("peers.toml.minisig", signer.text(text, "serial:1"))()
    node.write("rait.conf", f'peers_public_key = "{signer.key}"\n' + node.conf.read_text())()
    newer = Signed("K", "serial", 2)
    accepted: list[Signed | None] = [None, newer]

    def another_run(line: str) -> None:
        if "peer from" in line:
            with hold(node.lock(), "rait up", 0):
                pass

    options = Options(config=str(node.conf), debug=another_run, lock_seconds=PATIENCE)
    monkeypatch.setattr(module, "last_signed", lambda *_: accepted.pop(0))
    preparation = Preparation(options, peers=True)
    with (
        pytest.raises(SourceError, match=r"serial 1, signed by .* that one had serial 2"),
        prepared(options, "rait up", preparation),
    ):
        pass
    assert not accepted


def test_the_names_of_peers_that_policies_skip_are_not_looked_up() -> None:
    transport = Transport(address_family="ip4", send_port=1, mtu=1400, ifprefix="r")
    peers = [
        Peer(
            public_key=key,
            endpoints=(
                PeerEndpoint(address_family="ip4", send_port=2, address=f"{key}.example"),
                PeerEndpoint(address_family="ip6", send_port=2, address=f"{key}.example"),
            ),
        )
        for key in ("one", "other")
    ]
    everyone = Config(transports=(transport,))
    assert module.hosts_of(everyone, peers).keys() == {
        ("one.example", "ip4"),
        ("other.example", "ip4"),
    }
    few = structs.replace(
        everyone, policies=(Policy(match=Match(public_key=("other",)), skip=True),)
    )
    assert module.hosts_of(few, peers).keys() == {("one.example", "ip4")}

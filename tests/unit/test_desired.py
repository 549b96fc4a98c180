"""What `rait up` and `rait down` do with the links that there are, run by run."""

from __future__ import annotations

import time
from typing import NoReturn

import pytest
from msgspec import structs

from rait.adapters.config import web
from rait.adapters.config.remote import News, Version
from rait.adapters.keys import public_key
from rait.domain.config.schema import Secret
from rait.domain.errors import MachineError, SourceError
from tests.minisign import QuickSigner
from tests.unit.command_line import PEERS, PRIVATE, Rait
from tests.unit.played import ALL, CONF, Played

URL = "https://example.org/peers"
OWN = public_key(Secret(PRIVATE))
OTHER_KEY = "YLGPzk0Wq4zV6JHOTtlZWYN3Tg5gCa7U8Yk5UsfVLW4="
NOTHING = "rait up: nothing to do; 3 links\n"


def ports(kernel: Played) -> dict[str, int]:
    return {name: wire.link.device.listen_port for name, wire in kernel.wires.items()}


def test_a_dry_run_shows_and_does_nothing(rait: Rait, kernel: Played) -> None:
    said = rait("up", "--dry-run")
    assert said == rait("plan")
    assert said.out.endswith("rait plan: 3 to be added; 3 links wanted\n")
    assert (kernel.names, kernel.made, rait.journal.exists()) == ([], [], False)


def test_links_come_change_and_go_as_the_list_says(rait: Rait, kernel: Played) -> None:
    assert rait("up").status == 0
    assert ports(kernel) == {f"rait4x{port}": port for port in PEERS}
    assert rait("up").out == NOTHING
    port, (key, _) = list(PEERS.items())[1]
    rait.write(CONF, {port: (key, "192.0.2.99")})
    said = rait("up")
    assert said.out.endswith("rait up: 2 removed, 1 changed; 1 link wanted\n")
    assert rait("down").status == 0
    assert kernel.names == []


def test_without_its_journal_rait_finds_its_links_by_their_key(rait: Rait, kernel: Played) -> None:
    rait("up")
    before = dict(kernel.wires)
    rait.journal.unlink()
    said = rait("up")
    assert (said.status, kernel.wires) == (0, before)
    assert said.out.endswith(NOTHING)
    assert rait("up").out == NOTHING


def test_what_others_did_is_told_and_put_right(rait: Rait, kernel: Played) -> None:
    rait("up")
    del kernel.wires[ALL[0]]
    kernel.change_settings(ALL[1], mtu=1280)
    said = rait("up")
    assert said.status == 0
    assert said.out.count("since the last run, not by a run of this configuration") == 2
    assert said.out.endswith("rait up: 1 added, 1 changed; 3 links wanted\n")
    assert rait("up").out == NOTHING


def test_a_link_of_another_configuration_is_left_to_it(rait: Rait, kernel: Played) -> None:
    rait("up")
    other = rait.directory / "other.conf"
    other.write_text(CONF.replace('"rait4x"', '"other"').replace("50153", "50154"))
    other.chmod(0o600)
    before = dict(kernel.wires)
    said = rait("-c", str(other), "down")
    assert (said.status, kernel.wires) == (0, before)
    assert rait("up").out == NOTHING


def test_a_list_that_cannot_be_read_touches_nothing(rait: Rait, kernel: Played) -> None:
    rait("up")
    (rait.directory / "peers.conf").write_text("peers = 7")
    for command in ("up", "plan"):
        said = rait(command)
        assert (said.status, kernel.names, said.out) == (1, ALL, "")


def test_where_no_entry_of_another_node_can_be_used_rait_check_is_named(
    rait: Rait, kernel: Played
) -> None:
    rait.write(CONF, {50221: (PEERS[50221][0], "192.0.2.12"), 50153: (OWN, "192.0.2.1")})
    peers = rait.directory / "peers.conf"
    peers.write_text(peers.read_text().replace("SendPort = 50221", "SendPrt = 50221"))
    said = rait("up")
    assert (said.status, kernel.names) == (1, [])
    assert "send_port is missing" in said.err
    assert "so nothing is done; `rait check`" in said.err
    assert "but send_port is one" in rait("check", str(peers)).out


def test_after_down_no_link_is_wanted_whatever_stays(rait: Rait, kernel: Played) -> None:
    rait("up")
    rait.journal.unlink()
    wire = kernel.wires[ALL[0]]
    device = structs.replace(wire.link.device, public_key=OTHER_KEY)
    kernel.wires[ALL[0]] = structs.replace(wire, link=structs.replace(wire.link, device=device))
    assert rait("down").out.endswith("rait down: 2 removed, 1 left as it is\n")
    assert rait("down").out == "rait down: 1 left as it is\n"
    kernel.unread[ALL[0]] = "it hangs"
    assert rait("down").out == "rait down: 1 failed\n"
    assert kernel.names == ALL[:1]


@pytest.mark.usefixtures("kernel")
@pytest.mark.parametrize("is_first", [True, False])
def test_the_status_tells_of_a_run_that_failed_until_the_next_one_ends(
    rait: Rait, is_first: bool
) -> None:
    if not is_first:
        rait("up")
    peers = rait.directory / "peers.conf"
    right = peers.read_text()
    peers.write_text("peers = 7")
    why = rait("plan").err.removeprefix("rait: ").strip()
    assert why not in rait("status").err, "a plan is no run"
    rait("up")
    peers.write_text(right)
    for command in ("status", "list"):
        said = rait(command)
        assert said.status == 0
        assert f"failed: {why}. `rait plan` says whether that is mended\n" in said.err
    rait("up")
    assert "failed" not in rait("status").err


@pytest.mark.usefixtures("kernel")
def test_a_run_that_failed_is_told_of_with_one_of_all_its_lines(
    rait: Rait, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object, **__: object) -> NoReturn:
        raise MachineError("no\nrait: all is well \udcff", "nor this")

    rait("up")
    monkeypatch.setattr("rait.app.desired.conclude", fail)
    assert rait("up").status == 1
    said = rait("status").err
    assert "failed: no\\u000arait: all is well \\udcff (and 1 more). `rait plan`" in said


@pytest.mark.usefixtures("kernel")
def test_nothing_is_kept_beside_what_is_no_journal_or_where_a_stranger_says(rait: Rait) -> None:
    rait.write(CONF + 'policy {\n  up_command = ["true"]\n}\n', PEERS)
    rait.conf.chmod(0o666)
    assert rait("up").status == 2
    rait.write(CONF, PEERS)
    rait.journal.write_text("this is no journal")
    assert rait("up").status == 1
    assert list(rait.directory.glob("journal.db.*")) == []


def test_the_link_of_an_entry_that_cannot_be_read_stays(rait: Rait, kernel: Played) -> None:
    rait("up")
    peers = rait.directory / "peers.conf"
    peers.write_text(peers.read_text().replace("SendPort = 50223", 'SendPort = "none"'))
    said = rait("up")
    assert (said.status, kernel.names) == (3, ALL)
    assert said.err.count(f"{ALL[1]}: left as it is") == said.err.count("left as it is") == 1
    rait.write(CONF, {port: peer for port, peer in PEERS.items() if port != 50223})
    rait("up")
    assert kernel.names == [ALL[0], ALL[2]], "one that is not in the list goes"


class Server:
    """Has the peers list, or is out of reach."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, text: str) -> None:
        self.text = text
        self.is_up = True
        monkeypatch.setattr(web, "fetch", self.fetch)

    def fetch(self, url: str, *_: object) -> News:
        if not self.is_up:
            raise SourceError(f"{url}: no connection")
        return News(self.text, Version(url, self.text), time.time_ns())


@pytest.fixture
def server(rait: Rait, kernel: Played, monkeypatch: pytest.MonkeyPatch) -> Server:
    """rait.conf has the URL of the list, and an old list may stand in."""
    server = Server(monkeypatch, (rait.directory / "peers.conf").read_text())
    rait.write(CONF.replace("peers.conf", URL) + 'peers_fallback = "always"\n', PEERS)
    assert kernel.names == []
    return server


def test_a_list_from_a_url_stands_in_when_the_url_fails(
    rait: Rait, kernel: Played, server: Server
) -> None:
    server.is_up = False
    assert rait("up").status == 1, "none was kept yet"
    server.is_up = True
    assert rait("up").status == 0
    server.is_up = False
    kernel.wires.clear()
    assert rait("plan", "--detailed-exitcode").status == 1
    said = rait("up")
    assert (said.status, kernel.names) == (3, ALL)
    assert "no connection" in said.err


def test_the_status_tells_how_old_the_list_from_a_url_is(rait: Rait, server: Server) -> None:
    assert "peers list of unknown age; " in rait("status").out
    rait("up")
    assert server.is_up
    now = time.time_ns() + 5 * 86400 * 10**9
    rait.conf.write_text(rait.conf.read_text() + 'watch {\n  max_peers_age = "4d"\n}\n')
    assert "too old" not in rait("status").out
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("time.time_ns", lambda: now)
        assert "peers list confirmed 5d ago (too old)" in rait("status").out


def test_a_plan_and_a_run_that_was_stopped_keep_no_list(
    rait: Rait, kernel: Played, server: Server
) -> None:
    rait("plan")
    server.is_up = False
    assert rait("up").status == 1
    server.is_up = True
    rait.conf.write_text(rait.conf.read_text() + "max_removals = 0\n")
    rait("up")
    server.text = server.text.split("\n\n")[0]
    assert rait("up").status == 4
    server.is_up = False
    assert rait("up").status == 3
    assert kernel.names == ALL


def test_a_list_that_cannot_be_kept_is_told_to_who_relies_on_that(
    rait: Rait, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_: object) -> NoReturn:
        raise OSError(28, "No space left on device")

    assert server.is_up
    monkeypatch.setattr("rait.adapters.config.kept.PeersList.keep", refuse)
    problem = "the peers list cannot be kept for when its URL fails: No space left on device"
    said = rait("up")
    assert (said.status, problem in said.err) == (0, True)
    rait.conf.write_text(rait.conf.read_text().replace('peers_fallback = "always"', ""))
    assert problem not in rait("up").err
    assert problem in rait("-d", "up").err


def test_another_private_key_makes_all_links_anew_in_place(rait: Rait, kernel: Played) -> None:
    rait("up")
    rait.write(CONF.replace(CONF.split('"')[1], OTHER_KEY), PEERS)
    assert rait("up", "--yes").status == 0
    keys = {wire.link.device.public_key for wire in kernel.wires.values()}
    assert (kernel.names, len(keys)) == (ALL, 1)
    assert rait("up").out == NOTHING


def test_a_link_that_another_key_has_is_no_link_of_ours(rait: Rait, kernel: Played) -> None:
    rait("up")
    wire = kernel.wires[ALL[0]]
    device = structs.replace(wire.link.device, public_key="theirs")
    link = structs.replace(wire.link, name="wg9", device=device)
    kernel.wires["wg9"] = structs.replace(wire, link=link)
    assert "wg9" not in rait("status").out
    rait("up")
    rait("down")
    assert kernel.names == ["wg9"]


def test_a_signed_list_that_is_older_is_for_who_accepts_it(rait: Rait, kernel: Played) -> None:
    signer, peers = QuickSigner(), rait.directory / "peers.conf"
    signature = rait.directory / "peers.conf.minisig"
    rait.write(f'peers_public_key = "{signer.key}"\n{CONF}', PEERS)
    for serial, arguments, status in ((2, (), 0), (1, (), 1), (1, ("--accept-older",), 0)):
        signature.write_text(signer.text(peers.read_text(), f"serial:{serial}"))
        said = rait("up", *arguments)
        assert (said.status, kernel.names) == (status, ALL)
        assert ("the list is refused" in said.err) == (status == 1)

"""The userspace protocol's text, and talking it over a socket."""

from __future__ import annotations

import base64
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from rait.adapters.keys import KeyPair, public_key
from rait.adapters.wireguard import uapi
from rait.adapters.wireguard.uapi import (
    RefusedError,
    UapiError,
    decode_get,
    decode_set,
    encode_set,
)
from rait.domain.backend import DeviceState
from rait.domain.config.schema import NO_PSK, Secret
from rait.domain.topology import Device, Endpoint, LinkPeer
from rait.domain.writes import DeviceWrite, PeerWrite

SECRET = "KJJXmDtAXSrMGuIJVy/2eP65gXm1PTy7vCR/4O/vEEI="
SECRET_HEX = "289257983b405d2acc1ae209572ff678feb98179b53d3cbbbc247fe0efef1042"
KEY = "+Y23l1qr9oEM4WlqPvp4IG2TPXdNCa11twipDvOHT3w="
OWN = KeyPair(Secret(SECRET), "ours")
PSK = bytes(range(32))
KEY_HEX = "f98db7975aabf6810ce1696a3efa78206d933d774d09ad75b708a90ef3874f7c"

ANSWER = f"""private_key={SECRET_HEX}
listen_port=50221
fwmark=54
public_key={KEY_HEX}
preshared_key={"0" * 64}
protocol_version=1
endpoint=[2001:db8::1]:50153
last_handshake_time_sec=1700000000
last_handshake_time_nsec=5
tx_bytes=38333
rx_bytes=2224
persistent_keepalive_interval=111
allowed_ip=::/0
allowed_ip=0.0.0.0/0
errno=0

""".encode()


def test_an_answer_is_read_whole() -> None:
    assert decode_get(ANSWER, OWN) == DeviceState(
        Device("ours", 50221, 54),
        (LinkPeer(KEY, Endpoint("2001:db8::1", 50153), 111),),
        handshakes={KEY: 1700000000},
        received={KEY: 2224},
        sent={KEY: 38333},
    )


def test_a_device_with_another_key_is_told_by_its_public_key() -> None:
    other = bytes(range(1, 33))
    state = decode_get(f"private_key={other.hex()}\nerrno=0\n\n".encode(), OWN)
    assert state.device.public_key == public_key(Secret(base64.b64encode(other).decode()))


def test_a_bare_device() -> None:
    assert decode_get(b"errno=0\n\n", OWN) == DeviceState(Device(""))
    no_key = f"private_key={'0' * 64}\nerrno=0\n\n".encode()
    assert decode_get(no_key, OWN) == DeviceState(Device(""))


def test_keys_unknown_here_are_passed_over() -> None:
    state = decode_get(b"colour=blue\nlisten_port=1\nerrno=0\n\n", OWN)
    assert state == DeviceState(Device("", 1))


def test_a_change_is_written_in_the_protocols_words() -> None:
    change = DeviceWrite(
        public_key="ours",
        listen_port=0,
        fwmark=54,
        peers=(
            PeerWrite(
                public_key=KEY,
                update_only=True,
                endpoint=Endpoint("2001:db8::1", 50153),
                keepalive=0,
                allowed_ips=("0.0.0.0/0", "::/0"),
            ),
        ),
    )

    assert encode_set(change, Secret(SECRET)).decode().split("\n") == [
        "set=1",
        f"private_key={SECRET_HEX}",
        "listen_port=0",
        "fwmark=54",
        f"public_key={KEY_HEX}",
        "update_only=true",
        "endpoint=[2001:db8::1]:50153",
        "persistent_keepalive_interval=0",
        "replace_allowed_ips=true",
        "allowed_ip=0.0.0.0/0",
        "allowed_ip=::/0",
        "",
        "",
    ]


def test_what_does_not_change_is_not_written() -> None:
    assert encode_set(DeviceWrite()) == b"set=1\n\n"
    peer = PeerWrite(public_key=KEY)
    assert encode_set(DeviceWrite(peers=(peer,))) == f"set=1\npublic_key={KEY_HEX}\n\n".encode()


def test_a_peer_is_removed_by_its_key() -> None:
    request = encode_set(DeviceWrite(peers=(PeerWrite(public_key=KEY, remove=True),)))

    assert request == f"set=1\npublic_key={KEY_HEX}\nremove=true\n\n".encode()


def test_a_program_is_told_to_forget_a_preshared_key() -> None:
    change = DeviceWrite(peers=(PeerWrite(KEY, update_only=True, psk=NO_PSK),))
    assert f"preshared_key={'0' * 64}" in encode_set(change).decode().splitlines()


def test_a_program_that_tells_one_is_understood_and_it_is_not_shown() -> None:
    answer = f"public_key={KEY_HEX}\npreshared_key={PSK.hex()}\nerrno=0\n\n"
    state = decode_get(answer.encode(), OWN)
    assert state.peers[0].psk_digest == OWN.psk_digest(KEY, PSK)
    assert PSK.hex() not in repr(state)
    assert base64.b64encode(PSK).decode() not in repr(state)


@pytest.mark.parametrize(
    "answer",
    [
        b"",
        b"\n\n",
        b"errno=0\n",
        b"listen_port=1\n\n",
        b"errno=0\nlisten_port=1\n\n",
        b"errno=\n\n",
        b"errno=zero\n\n",
        b"errno=99999999999999\n\n",
        b"listen_port\nerrno=0\n\n",
        b"=1\nerrno=0\n\n",
        b"listen_port=-1\nerrno=0\n\n",
        b"listen_port=65536\nerrno=0\n\n",
        b"fwmark=0x36\nerrno=0\n\n",
        b"errno=0\nerrno=0\n\n",
        b"private_key=12\nerrno=0\n\n",
        b"public_key=" + b"x" * 64 + b"\nerrno=0\n\n",
        b"public_key=" + b" f" * 32 + b"\nerrno=0\n\n",
        f"public_key={KEY_HEX}\nendpoint=nonsense\nerrno=0\n\n".encode(),
        f"public_key={KEY_HEX}\nendpoint=::1:7\nerrno=0\n\n".encode(),
        f"public_key={KEY_HEX}\nendpoint=[10.0.0.1]:7\nerrno=0\n\n".encode(),
        f"public_key={KEY_HEX}\nendpoint=10.0.0.1:65536\nerrno=0\n\n".encode(),
        f"public_key={KEY_HEX}\nallowed_ip=10.0.0.1/8\nerrno=0\n\n".encode(),
        b"caf\xc3\xa9=1\nerrno=0\n\n",
    ],
)
def test_a_malformed_answer_is_an_error(answer: bytes) -> None:
    with pytest.raises(UapiError):
        decode_get(answer, OWN)


@pytest.mark.parametrize(
    "bad", ["private_key=" + SECRET_HEX[:-1], SECRET_HEX, "x=1\n" + SECRET_HEX]
)
def test_a_malformed_private_key_is_not_quoted(bad: str) -> None:
    with pytest.raises(UapiError) as caught:
        decode_get(f"{bad}\nerrno=0\n\n".encode(), OWN)

    assert SECRET_HEX[:16] not in str(caught.value)
    assert SECRET_HEX[:16] not in repr(caught.value.__context__)


def test_an_errno_is_told_by_name() -> None:
    with pytest.raises(RefusedError) as caught:
        decode_set(b"errno=-98\n\n")

    assert caught.value.errno == 98
    assert "EADDRINUSE" in str(caught.value)


def test_the_answer_to_a_change_holds_nothing_else() -> None:
    decode_set(b"errno=0\n\n")
    with pytest.raises(UapiError):
        decode_set(b"listen_port=1\nerrno=0\n\n")


def test_a_key_that_is_none_is_not_sent_nor_quoted() -> None:
    for text in ("", "AAAA", "no base64!", SECRET + "AAAA"):
        with pytest.raises(UapiError) as caught:
            encode_set(DeviceWrite(public_key="ours"), Secret(text))
        assert not text or text not in str(caught.value)


@pytest.mark.parametrize(
    "change",
    [
        PeerWrite(public_key=KEY, endpoint=Endpoint("192.0.2.1:5\nprivate_key=00", 5)),
        PeerWrite(public_key=KEY, allowed_ips=("::/0\nremove=true",)),
    ],
)
def test_no_value_becomes_a_line_of_its_own(change: PeerWrite) -> None:
    with pytest.raises(UapiError, match="line feed"):
        encode_set(DeviceWrite(peers=(change,)))


@pytest.mark.parametrize("name", ["", "a/b", "../x", "a\0b"])
def test_a_name_leads_nowhere_else(name: str) -> None:
    with pytest.raises(UapiError):
        uapi.socket_path(name)


class Program:
    """Something that answers each connection's first request with the same bytes."""

    def __init__(self, path: Path) -> None:
        self.requests: list[bytes] = []
        self._socket = socket.socket(socket.AF_UNIX)
        self._socket.bind(str(path))
        self._socket.listen()
        self._done = threading.Event()

    def serve(self, answer: bytes, *, hang: bool = False) -> None:
        threading.Thread(target=self._serve, args=(answer, hang), daemon=True).start()

    def _serve(self, answer: bytes, hang: bool) -> None:
        connection, _ = self._socket.accept()
        with connection:
            self.requests.append(connection.recv(65536))
            connection.sendall(answer)
            if hang:
                self._done.wait(60)

    def close(self) -> None:
        self._done.set()
        self._socket.close()


@pytest.fixture
def program(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Program]:
    monkeypatch.setattr(uapi, "DIRECTORY", str(tmp_path))
    program = Program(tmp_path / "wg9.sock")
    yield program
    program.close()


def test_a_client_asks_and_tells(program: Program) -> None:
    program.serve(ANSWER)
    with uapi.Client("wg9") as client:
        assert client.pid == os.getpid()
        assert client.get(OWN) == decode_get(ANSWER, OWN)
    program.serve(b"errno=0\n\n")
    with uapi.Client("wg9") as client:
        client.set(DeviceWrite(fwmark=7))

    assert program.requests == [b"get=1\n\n", b"set=1\nfwmark=7\n\n"]


def test_a_refusal_names_the_link(program: Program) -> None:
    program.serve(b"errno=-98\n\n")

    with uapi.Client("wg9") as client, pytest.raises(RefusedError, match=r"wg9.*EADDRINUSE"):
        client.set(DeviceWrite(listen_port=7))


def test_a_program_that_hangs_is_given_up(
    program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uapi, "ANSWER_SECONDS", 0.1)
    program.serve(b"listen_port=1\n", hang=True)

    with uapi.Client("wg9") as client, pytest.raises(UapiError, match=r"0\.1 s"):
        client.get(OWN)


def test_an_answer_that_came_while_rait_itself_was_stopped_is_read(
    program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As by Ctrl-Z, for a minute."""
    read = uapi.Client._answer

    def read_later(client: uapi.Client, deadline: float) -> bytes:
        client._socket.recv(1, socket.MSG_PEEK)
        return read(client, deadline - 60)

    monkeypatch.setattr(uapi.Client, "_answer", read_later)
    program.serve(ANSWER)

    with uapi.Client("wg9") as client:
        assert client.get(OWN) == decode_get(ANSWER, OWN)

    program.serve(b"listen_port=1\n", hang=True)
    with uapi.Client("wg9") as client, pytest.raises(UapiError, match="no answer within 5 s"):
        client.get(OWN)


def test_a_program_that_hangs_up_is_an_error(program: Program) -> None:
    program.serve(b"listen_port=1\n")

    with uapi.Client("wg9") as client, pytest.raises(UapiError, match=r"wg9\.sock.*hung up"):
        client.get(OWN)


def test_an_endless_answer_is_given_up(program: Program, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uapi, "MAX_ANSWER", 1000)
    program.serve(b"x=1\n" * 5000, hang=True)

    with uapi.Client("wg9") as client, pytest.raises(UapiError, match="1000 bytes"):
        client.get(OWN)


def test_nobody_listens(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(uapi, "DIRECTORY", str(tmp_path))

    with pytest.raises(FileNotFoundError):
        uapi.Client("wg9")


def test_another_users_program_gets_no_key(
    program: Program, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(uapi, "TRUSTED_USERS", frozenset())
    monkeypatch.setattr(os, "geteuid", lambda: 4242)

    with pytest.raises(UapiError, match=r"belongs to user"):
        uapi.Client("wg9")

    assert program.requests == []

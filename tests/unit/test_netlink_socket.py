"""What our netlink socket makes of a kernel's answers, well-formed or not."""

from __future__ import annotations

import errno
import os
import struct
from collections.abc import Callable

import pytest

from rait.adapters import netns
from rait.adapters.netlink import rtnl
from rait.adapters.netlink import socket as netlink
from rait.adapters.netlink.socket import (
    NLM_F_DUMP_INTR,
    NLMSG_DONE,
    NLMSG_ERROR,
    MalformedError,
    NetlinkError,
    NetlinkSocket,
    Request,
    decode,
)

HEADER = struct.Struct("=IHHII")
GET = Request(18, 0, b"")
Kernel = Callable[[list[netlink.Reply]], list[bytes]]


def message(kind: int, sequence: int, body: bytes, flags: int = 0) -> bytes:
    return HEADER.pack(16 + len(body), kind, flags, sequence, 0) + body + b"\0" * (-len(body) % 4)


def error(sequence: int, code: int, text: str = "") -> bytes:
    body = struct.pack("=i", -code) + HEADER.pack(16, 16, 0, sequence, 0)
    flags = 0
    if text:
        flags = netlink.NLM_F_ACK_TLVS
        body += netlink.attribute(netlink.NLMSGERR_ATTR_MSG, text.encode() + b"\0")
    return message(NLMSG_ERROR, sequence, body, flags)


class FakeSocket:
    """Answers each datagram that is sent with those that ``kernel`` says."""

    room = 8 << 20

    def __init__(self, kernel: Kernel) -> None:
        self.kernel = kernel
        self.answers: list[bytes] = []
        self.datagrams = 0
        self.messages = 0

    def send(self, data: bytes) -> int:
        self.datagrams += 1
        sent = decode(data)
        self.messages += len(sent)
        self.answers += self.kernel(sent)
        return len(data)

    def recv_into(self, buffer: bytearray, _size: int, _flags: int) -> int:
        if not self.answers:
            raise OSError(errno.ENOBUFS, "no buffer space")
        answer = self.answers.pop(0)
        buffer[: len(answer)] = answer
        return len(answer)

    def fileno(self) -> int:
        return -1

    def setsockopt(self, *_: object) -> None: ...

    def getsockopt(self, *_: object) -> int:
        return self.room

    def bind(self, _: object) -> None: ...
    def close(self) -> None: ...


@pytest.fixture
def connect(
    monkeypatch: pytest.MonkeyPatch,
) -> Callable[[Kernel], tuple[NetlinkSocket, FakeSocket]]:
    def make(kernel: Kernel) -> tuple[NetlinkSocket, FakeSocket]:
        fake = FakeSocket(kernel)
        monkeypatch.setattr(netns, "socket_in", lambda *_: fake)
        return NetlinkSocket(netns.Netns("", -1, "1"), 0), fake

    return make


def test_each_error_finds_its_request_and_one_ack_closes_a_batch(connect) -> None:
    def kernel(requests: list[netlink.Reply]) -> list[bytes]:
        answers = []
        for request in requests:
            if request.body == b"bad!":
                answers.append(error(request.sequence, errno.EEXIST, "already there"))
            elif request.flags & netlink.NLM_F_ACK:
                answers.append(error(request.sequence, 0))
        return answers

    via, fake = connect(kernel)
    wanted = [Request(16, 0, b"bad!" if number % 50 == 7 else b"good") for number in range(300)]
    results = via.perform(wanted)
    assert [number for number, each in enumerate(results) if each] == [7, 57, 107, 157, 207, 257]
    assert str(results[57]) == "EEXIST (File exists): already there"
    assert fake.datagrams < 10
    assert fake.messages == 300


def test_questions_travel_together_and_each_gets_its_answer(connect) -> None:
    def kernel(requests: list[netlink.Reply]) -> list[bytes]:
        answers = []
        for request in requests:
            if request.body == b"none":
                answers.append(error(request.sequence, errno.ENETUNREACH))
            else:
                answers.append(message(24, request.sequence, request.body * 2))
            if request.flags & netlink.NLM_F_ACK and request.body != b"none":
                answers.append(error(request.sequence, 0))
        return answers

    via, fake = connect(kernel)
    bodies = [b"none" if number % 3 == 0 else b"%04d" % number for number in range(200)]
    answers = via.ask_each([Request(26, 0, body) for body in bodies])
    for body, answer in zip(bodies, answers, strict=True):
        if body == b"none":
            assert isinstance(answer, NetlinkError)
        else:
            assert answer == [body * 2]
    assert fake.datagrams == 2
    assert via.ask_each([]) == []


def test_the_last_request_of_a_batch_may_fail_too(connect) -> None:
    via, _ = connect(lambda requests: [error(requests[-1].sequence, errno.EBUSY)])
    results = via.perform([GET, GET])
    assert results[0] is None
    assert results[1] is not None
    assert results[1].code == errno.EBUSY


def test_answers_to_someone_else_are_passed_over(connect) -> None:
    via, _ = connect(
        lambda requests: [
            error(requests[0].sequence + 77, errno.EBUSY),
            message(16, 12345, b"a notification!!"),
            error(requests[-1].sequence, 0),
        ]
    )
    assert via.perform([GET]) == [None]


def test_a_dump_goes_on_over_datagrams(connect) -> None:
    def kernel(requests: list[netlink.Reply]) -> list[bytes]:
        number = requests[0].sequence
        return [
            message(16, number, b"one!") + message(16, number, b"two!"),
            message(16, number, b"six!") + message(NLMSG_DONE, number, bytes(4)),
        ]

    via, _ = connect(kernel)
    assert via.dump(GET) == [b"one!", b"two!", b"six!"]


def test_a_dump_that_was_interrupted_is_taken_again(connect) -> None:
    tries = 0

    def kernel(requests: list[netlink.Reply]) -> list[bytes]:
        nonlocal tries
        tries += 1
        number = requests[0].sequence
        flags = NLM_F_DUMP_INTR if tries == 1 else 0
        body = b"old!" if tries == 1 else b"new!"
        return [message(16, number, body, flags), message(NLMSG_DONE, number, bytes(4))]

    via, _ = connect(kernel)
    assert via.dump(GET) == [b"new!"]


def test_a_dump_that_never_settles_ends_in_an_error(connect) -> None:
    via, _ = connect(
        lambda requests: [message(NLMSG_DONE, requests[0].sequence, bytes(4), NLM_F_DUMP_INTR)]
    )
    with pytest.raises(NetlinkError, match="changed again and again"):
        via.dump(GET)


def test_a_dump_may_end_in_an_error_within_its_done_message(connect) -> None:
    via, _ = connect(
        lambda requests: [
            message(NLMSG_DONE, requests[0].sequence, struct.pack("=i", -errno.ENODEV))
        ]
    )
    with pytest.raises(NetlinkError, match="ENODEV"):
        via.dump(GET)


def dumped(request: netlink.Reply) -> bytes:
    """What a kernel gives for a dump that fits one datagram: the request's body, and the end."""
    number = request.sequence
    return message(16, number, request.body) + message(NLMSG_DONE, number, bytes(4))


def dumps(count: int) -> list[Request]:
    return [Request(18, 0, struct.pack("=I", i)) for i in range(count)]


def test_short_dumps_travel_together(connect) -> None:
    via, fake = connect(lambda requests: [dumped(request) for request in requests])
    wanted = dumps(100)
    assert via.dump_each(wanted) == [[request.body] for request in wanted]
    assert fake.datagrams < 5


def test_short_dumps_do_not_overrun_a_small_buffer(connect, monkeypatch) -> None:
    monkeypatch.setattr(FakeSocket, "room", 200 << 10)

    def kernel(requests: list[netlink.Reply]) -> list[bytes]:
        assert len(requests) <= 3
        return [dumped(request) for request in requests]

    via, _ = connect(kernel)
    assert len(via.dump_each(dumps(10))) == 10


def test_a_dump_that_is_refused_does_not_stop_the_others(connect) -> None:
    def kernel(requests: list[netlink.Reply]) -> list[bytes]:
        gone = struct.pack("=I", 1)
        return [error(r.sequence, errno.ENODEV) if r.body == gone else dumped(r) for r in requests]

    via, _ = connect(kernel)
    first, second, third = via.dump_each(dumps(3))
    assert (first, third) == ([struct.pack("=I", 0)], [struct.pack("=I", 2)])
    assert isinstance(second, NetlinkError)
    assert second.code == errno.ENODEV


def test_dumps_behind_a_long_one_are_taken_by_themselves(connect) -> None:
    def kernel(requests: list[netlink.Reply]) -> list[bytes]:
        first, *others = requests
        busy = [error(request.sequence, errno.EBUSY) for request in others]
        return [message(16, first.sequence, b"more"), *busy, dumped(first)]

    via, _ = connect(kernel)
    wanted = dumps(3)
    assert via.dump_each(wanted) == [[b"more", request.body] for request in wanted]


def test_a_dump_among_others_that_was_interrupted_is_taken_again(connect) -> None:
    tries: list[int] = []

    def kernel(requests: list[netlink.Reply]) -> list[bytes]:
        tries.append(len(requests))
        first, *others = requests
        if len(tries) > 1:
            return [dumped(request) for request in requests]
        old = message(16, first.sequence, b"old!", NLM_F_DUMP_INTR)
        end = message(NLMSG_DONE, first.sequence, bytes(4))
        return [old + end, *(dumped(request) for request in others)]

    via, _ = connect(kernel)
    wanted = dumps(3)
    assert via.dump_each(wanted) == [[request.body] for request in wanted]
    assert tries == [3, 1]


def test_dropped_answers_say_what_to_do(connect) -> None:
    via, _ = connect(lambda _: [])
    with pytest.raises(NetlinkError, match=r"net\.core\.rmem_max"):
        via.perform([GET])


@pytest.mark.parametrize(
    "data",
    [
        b"\0" * 15,
        HEADER.pack(15, 2, 0, 1, 0),
        HEADER.pack(17, 2, 0, 1, 0),
        HEADER.pack(0, 2, 0, 1, 0),
        HEADER.pack(16, 3, 0, 1, 0) + b"\1",
    ],
)
def test_messages_whose_lengths_lie_are_refused(data: bytes) -> None:
    with pytest.raises(MalformedError):
        decode(data)


@pytest.mark.parametrize("data", [b"\3\0\1\0", b"\0\0\0\0", b"\x09\0\1\0abcd", b"\xff\xff\1\0"])
def test_attributes_whose_lengths_lie_are_refused(data: bytes) -> None:
    with pytest.raises(MalformedError):
        list(netlink.attributes(data))


def test_an_error_message_without_a_number_is_refused(connect) -> None:
    via, _ = connect(lambda requests: [message(NLMSG_ERROR, requests[0].sequence, b"\1\2")])
    with pytest.raises(MalformedError):
        via.perform([GET])


def test_an_attribute_longer_than_its_length_field_is_refused() -> None:
    with pytest.raises(ValueError, match="65540"):
        netlink.attribute(1, bytes(65536))


def test_a_real_kernel_answers() -> None:
    with netns.open_netns("") as here, NetlinkSocket(here, netlink.NETLINK_ROUTE) as via:
        assert len(via.dump(Request(18, 0, bytes(16)))) >= 1
        missing = Request(
            18, 0, bytes(16) + netlink.attribute(3, f"no{os.getpid()}".encode() + b"\0")
        )
        with pytest.raises(NetlinkError) as caught:
            via.ask(missing)
        assert caught.value.code == errno.ENODEV


def test_a_real_kernel_answers_dumps_that_it_takes_one_at_a_time() -> None:
    wanted = [rtnl.list_links(), rtnl.list_addresses()] * 3
    with netns.open_netns("") as here, NetlinkSocket(here, 0) as via:
        alone = [[rtnl_index(body) for body in via.dump(request)] for request in wanted]
        each = via.dump_each(wanted)
        assert [[rtnl_index(body) for body in bodies] for bodies in each] == alone
        assert alone[0]


def rtnl_index(body: bytes) -> int:
    """Of an interface; both kinds of messages have it in this place."""
    return struct.unpack_from("=i", body, 4)[0]

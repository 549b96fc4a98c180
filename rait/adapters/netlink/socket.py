"""netlink(7): messages, attributes, and a socket that sends many messages at once.

A lean codec for the few messages that rait sends for each link. pyroute2 does what is rare, and the
property tests compare this codec with it. No length in a message is trusted before it is checked.

Batching works because the kernel handles the messages of one datagram in order. Of a batch of
changes, only the last message asks for an ACK (``perform``): the kernel answers each message that
failed anyhow, so the ACK closes the batch, and what was not answered succeeded. Dumps are sent
together too (``dump_each``), each answered under its own sequence number.
"""

from __future__ import annotations

import errno
import os
import socket
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from itertools import count
from struct import Struct
from typing import TypeVar

from msgspec import Struct as Record

from rait.adapters import netns
from rait.adapters.closing import Closing, on_error
from rait.domain.errors import MachineError, counted

# linux/netlink.h
NLM_F_REQUEST = 0x1
NLM_F_ACK = 0x4
NLM_F_DUMP_INTR = 0x10
NLM_F_DUMP = 0x300
NLM_F_REPLACE = 0x100
NLM_F_EXCL = 0x200
NLM_F_CREATE = 0x400
NLM_F_ACK_TLVS = 0x200
NLMSG_ERROR = 2
NLMSG_DONE = 3
NLMSGERR_ATTR_MSG = 1
NLA_F_NESTED = 0x8000
NLA_TYPE_MASK = 0x3FFF
NETLINK_ROUTE = 0
NETLINK_GENERIC = 16
# linux/genetlink.h
GENL_ID_CTRL = 16
CTRL_CMD_GETFAMILY = 3
CTRL_ATTR_FAMILY_ID = 1
CTRL_ATTR_FAMILY_NAME = 2
_SOL_NETLINK = 270
_NETLINK_CAP_ACK = 10
_NETLINK_EXT_ACK = 11
_SO_SNDBUFFORCE = 32
_SO_RCVBUFFORCE = 33

T = TypeVar("T")

_HEADER = Struct("=IHHII")
_ATTRIBUTE = Struct("=HH")
_INT = Struct("=i")
_U16 = Struct("=H")
_U32 = Struct("=I")
GENL = Struct("=BBH")
HEADER_SIZE = _HEADER.size
ERROR_HEADER_END = _INT.size + HEADER_SIZE

_SOCKET_BUFFER = 4 << 20
_RECEIVE_BUFFER = 128 << 10
"""More than a datagram of a dump has: the kernel keeps those to 32 KiB (af_netlink.c)."""
_BATCH_BYTES = 48 << 10
_BATCH_MESSAGES = 128
_DUMP_ATTEMPTS = 10
_DUMPS_AT_ONCE = 32
_DUMP_CHARGE = 64 << 10
"""The most that one datagram of a dump takes of the socket's buffer while it waits there."""


class Request(Record, frozen=True, gc=False):
    """A message to the kernel without its header: type, flags besides NLM_F_REQUEST, and body.

    ``gone`` is the errno that says that what is to be deleted is gone already, 0 if none does.
    ``about`` is what a message about the error of this one request has to name.
    """

    kind: int
    flags: int
    body: bytes
    gone: int = 0
    about: str = ""


class Reply(Record, frozen=True, gc=False):
    """A message from the kernel."""

    kind: int
    flags: int
    sequence: int
    body: bytes


class NetlinkError(MachineError):
    """The kernel refused a request: ``code`` is the errno. The message ends in ``detail``."""

    def __init__(self, code: int, detail: str = "") -> None:
        self.code = code
        name = errno.errorcode.get(code, f"error {code}")
        if code == errno.EPERM and not detail:
            detail = "rait must run as root, or with CAP_NET_ADMIN and CAP_SYS_ADMIN"
        super().__init__(f"{name} ({os.strerror(code)})" + (f": {detail}" if detail else ""))


class MalformedError(MachineError):
    """The kernel sent a message that is not as netlink(7) has it; ``found`` is what is wrong."""

    def __init__(self, found: str) -> None:
        super().__init__(f"rait cannot read the kernel's netlink answer: {found}")


def attribute(kind: int, data: bytes) -> bytes:
    """An attribute with its padding. Raises ValueError for one of more than 65535 bytes."""
    size = _ATTRIBUTE.size + len(data)
    if size > 0xFFFF:
        raise ValueError(f"netlink attribute {kind} would be {counted(size, 'byte')} long")
    return _ATTRIBUTE.pack(size, kind) + data + b"\0" * (-size % 4)


def number(kind: int, value: int) -> bytes:
    """An attribute whose value is an unsigned number of 32 bits."""
    return attribute(kind, _U32.pack(value))


def nested(kind: int, attributes: Iterable[bytes]) -> bytes:
    """An attribute whose value is attributes."""
    return attribute(kind | NLA_F_NESTED, b"".join(attributes))


def attributes(data: bytes, offset: int = 0) -> Iterator[tuple[int, bytes]]:
    """The attributes in ``data`` from ``offset`` on: type without flags, and value.

    Raises MalformedError where it comes to lengths that do not add up.
    """
    end = len(data)
    while offset + 4 <= end:
        size, kind = _ATTRIBUTE.unpack_from(data, offset)
        if size < 4 or offset + size > end:
            raise MalformedError(
                f"an attribute of {counted(size, 'byte')} is in {counted(end - offset, 'byte')}"
            )
        yield kind & NLA_TYPE_MASK, data[offset + 4 : offset + size]
        offset += (size + 3) & ~3


def number_in(found: Mapping[int, bytes], kind: int, default: int) -> int:
    """An attribute's number of 32 bits. Raises MalformedError for a value of another length."""
    data = found.get(kind)
    if data is None:
        return default
    if len(data) != _U32.size:
        raise MalformedError(f"attribute {kind} has a value of {counted(len(data), 'byte')}")
    value: int = _U32.unpack(data)[0]
    return value


def encode(request: Request, sequence: int, flags: int = 0) -> bytes:
    """The whole message, padded so that another may follow in one datagram."""
    size = HEADER_SIZE + len(request.body)
    flags |= NLM_F_REQUEST | request.flags
    header = _HEADER.pack(size, request.kind, flags, sequence, 0)
    return header + request.body + b"\0" * (-size % 4)


def decode(data: bytes) -> list[Reply]:
    """The messages in a datagram. Raises MalformedError where lengths do not add up."""
    found = []
    offset, end = 0, len(data)
    while offset < end:
        if end - offset < HEADER_SIZE:
            raise MalformedError(f"a message has only {counted(end - offset, 'byte')}")
        size, kind, flags, sequence, _ = _HEADER.unpack_from(data, offset)
        if size < HEADER_SIZE or offset + size > end:
            raise MalformedError(
                f"a message of {counted(size, 'byte')} is in {counted(end - offset, 'byte')}"
            )
        found.append(Reply(kind, flags, sequence, data[offset + HEADER_SIZE : offset + size]))
        offset += (size + 3) & ~3
    return found


def failure(reply: Reply) -> NetlinkError | None:
    """The error in an NLMSG_ERROR or NLMSG_DONE message; None for success."""
    body = reply.body
    if len(body) < _INT.size:
        if reply.kind == NLMSG_DONE:
            return None
        raise MalformedError(f"an error message has a body of {counted(len(body), 'byte')}")
    code = -_INT.unpack_from(body)[0]
    if code == 0:
        return None
    return NetlinkError(code, _extended_text(reply) if reply.flags & NLM_F_ACK_TLVS else "")


def _extended_text(reply: Reply) -> str:
    """The kernel's own text for an error (NLMSGERR_ATTR_MSG), "" if there is none."""
    # Before the attributes of an error comes the header of its request (NETLINK_CAP_ACK).
    start = ERROR_HEADER_END if reply.kind == NLMSG_ERROR else _INT.size
    for kind, data in attributes(reply.body, start):
        if kind == NLMSGERR_ATTR_MSG:
            return data.rstrip(b"\0").decode(errors="replace")
    return ""


class NetlinkSocket(Closing):
    """A netlink socket in one network namespace. Two threads must not use it at once."""

    def __init__(self, ns: netns.Netns, protocol: int) -> None:
        self._sequence = 0
        self._buffer = bytearray(_RECEIVE_BUFFER)
        self._view = memoryview(self._buffer)
        self._socket = netns.socket_in(ns, socket.AF_NETLINK, socket.SOCK_RAW, protocol)
        own = self._socket
        with on_error(own.close):
            enlarge_buffers(own)
            own.setsockopt(_SOL_NETLINK, _NETLINK_CAP_ACK, 1)
            own.setsockopt(_SOL_NETLINK, _NETLINK_EXT_ACK, 1)
            room = own.getsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF) // _DUMP_CHARGE
            self._dumps_at_once = max(1, min(room, _DUMPS_AT_ONCE))
            own.bind((0, 0))

    def close(self) -> None:
        self._socket.close()

    def perform(self, requests: Sequence[Request]) -> list[NetlinkError | None]:
        """Send the requests in few datagrams. Gives the error or None of each, in order."""
        answers = self.ask_each(requests)
        return [each if isinstance(each, NetlinkError) else None for each in answers]

    def ask(self, request: Request) -> list[bytes]:
        """The bodies of the answers to a request that is no dump. Raises NetlinkError."""
        (answer,) = self.ask_each([request])
        if isinstance(answer, NetlinkError):
            raise answer
        return answer

    def ask_each(self, requests: Sequence[Request]) -> list[list[bytes] | NetlinkError]:
        """Send requests that are no dumps in few datagrams.

        Gives for each, in order, the bodies of its answers, or its error.
        """
        answers: list[list[bytes] | NetlinkError] = []
        for batch in chunks(requests, _length, _BATCH_BYTES, _BATCH_MESSAGES):
            answers += self._ask_batch(batch)
        return answers

    def _ask_batch(self, batch: Sequence[Request]) -> list[list[bytes] | NetlinkError]:
        first = self._begin(batch, [0] * (len(batch) - 1) + [NLM_F_ACK])
        bodies: list[list[bytes]] = [[] for _ in batch]
        errors: dict[int, NetlinkError] = {}
        while True:
            for reply in self._receive():
                index = reply.sequence - first
                if not 0 <= index < len(batch):
                    continue
                if reply.kind != NLMSG_ERROR:
                    bodies[index].append(reply.body)
                    continue
                error = failure(reply)
                if error is not None:
                    errors[index] = error
                if index == len(batch) - 1:
                    return [errors.get(i, body) for i, body in enumerate(bodies)]

    def dump(self, request: Request) -> list[bytes]:
        """The bodies of all messages of one consistent dump. Raises NetlinkError."""
        (result,) = self.dump_each([request])
        if isinstance(result, NetlinkError):
            raise result
        return result

    def dump_each(self, requests: Sequence[Request]) -> list[list[bytes] | NetlinkError]:
        """Many dumps: for each request, in order, the bodies of its messages or its error.

        A dump that fits one datagram is over before the kernel looks at the next request, so short
        dumps travel together. While a longer one goes on, the kernel refuses those behind it
        (EBUSY: a socket has one dump at a time). A refused dump is tried again by itself, and so is
        one during which what it lists was changed (NLM_F_DUMP_INTR).
        """
        results: list[list[bytes] | NetlinkError] = []
        for start in range(0, len(requests), self._dumps_at_once):
            batch = requests[start : start + self._dumps_at_once]
            for request, result in zip(batch, self._dump_together(batch), strict=True):
                results.append(self._retried(request, result))
        return results

    def _retried(
        self, request: Request, result: list[bytes] | NetlinkError | None
    ) -> list[bytes] | NetlinkError:
        """The result of a dump, tried again by itself while it was refused or interrupted."""
        for _ in range(_DUMP_ATTEMPTS):
            busy = isinstance(result, NetlinkError) and result.code == errno.EBUSY
            if result is not None and not busy:
                return result
            (result,) = self._dump_together([request])
        changed = "the list changed again and again while it was read"
        return NetlinkError(errno.EINTR, changed) if result is None else result

    def _dump_together(self, batch: Sequence[Request]) -> list[list[bytes] | NetlinkError | None]:
        """Try each dump once; None for one during which what it lists was changed."""
        first = self._begin(batch, [NLM_F_DUMP] * len(batch))
        bodies: list[list[bytes]] = [[] for _ in batch]
        results: list[list[bytes] | NetlinkError | None] = [None] * len(batch)
        interrupted: set[int] = set()
        unanswered = set(range(len(batch)))
        while unanswered:
            for reply in self._receive():
                index = reply.sequence - first
                if index not in unanswered:
                    continue
                if reply.flags & NLM_F_DUMP_INTR:
                    interrupted.add(index)
                if reply.kind in (NLMSG_DONE, NLMSG_ERROR):
                    unanswered.discard(index)
                    whole = None if index in interrupted else bodies[index]
                    results[index] = failure(reply) or whole
                else:
                    bodies[index].append(reply.body)
        return results

    def _begin(self, batch: Sequence[Request], flags: Sequence[int]) -> int:
        """Send requests, each with flags of its own; the sequence number of the first."""
        first = self._sequence + 1
        self._sequence += len(batch)
        self._send(list(map(encode, batch, count(first), flags)))
        return first

    def _send(self, messages: Sequence[bytes]) -> None:
        try:
            self._socket.send(b"".join(messages))
        except OSError as error:
            raise NetlinkError(error.errno or 0, "a message could not be sent") from error

    def _receive(self) -> list[Reply]:
        try:
            size = self._socket.recv_into(self._buffer, 0, socket.MSG_TRUNC)
        except OSError as error:
            detail = "an answer could not be received"
            if error.errno == errno.ENOBUFS:
                detail = (
                    "answers were lost, as the socket's buffer is full: raise net.core.rmem_max"
                )
            raise NetlinkError(error.errno or 0, detail) from error
        if size > _RECEIVE_BUFFER:
            raise MalformedError(
                f"a datagram of {counted(size, 'byte')} does not fit {_RECEIVE_BUFFER}"
            )
        return decode(bytes(self._view[:size]))


def find_family(generic: NetlinkSocket, name: str) -> int:
    """The number of a generic netlink family. The kernel loads its module for the answer.

    Raises NetlinkError with ENOENT where there is no such family.
    """
    body = GENL.pack(CTRL_CMD_GETFAMILY, 1, 0)
    body += attribute(CTRL_ATTR_FAMILY_NAME, name.encode() + b"\0")
    for answer in generic.ask(Request(GENL_ID_CTRL, 0, body)):
        found = dict(attributes(answer, GENL.size)).get(CTRL_ATTR_FAMILY_ID, b"")
        if len(found) == _U16.size:
            number: int = _U16.unpack(found)[0]
            return number
    raise MalformedError(f"it has no number for the family {name}")


def enlarge_buffers(own: socket.socket) -> None:
    """Give a socket room for many messages: as root, more than net.core.rmem_max."""
    for force, plain in (
        (_SO_SNDBUFFORCE, socket.SO_SNDBUF),
        (_SO_RCVBUFFORCE, socket.SO_RCVBUF),
    ):
        try:
            own.setsockopt(socket.SOL_SOCKET, force, _SOCKET_BUFFER)
        except PermissionError:
            own.setsockopt(socket.SOL_SOCKET, plain, _SOCKET_BUFFER)


def chunks(
    items: Iterable[T], size: Callable[[T], int], most_bytes: int, most_items: int = sys.maxsize
) -> Iterator[list[T]]:
    """The items in order, in chunks within these limits; a chunk has at least one item."""
    chunk: list[T] = []
    total = 0
    for item in items:
        length = size(item)
        if chunk and (total + length > most_bytes or len(chunk) == most_items):
            yield chunk
            chunk, total = [], 0
        chunk.append(item)
        total += length
    if chunk:
        yield chunk


def _length(request: Request) -> int:
    return HEADER_SIZE + len(request.body) + 3  # padding at most

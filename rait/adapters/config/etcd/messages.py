"""The messages of etcd's JSON gateway that rait reads.

They are the JSON form of Protocol Buffers: bytes are base64, and numbers of 64 bits are text, so
they are decoded without ``strict``. What has its default is left out by etcd.
(api/etcdserverpb/rpc.proto and api/mvccpb/kv.proto of etcd)
"""

from __future__ import annotations

from typing import Annotated, Any, TypeVar

import msgspec
from msgspec import Meta, Struct

Message = TypeVar("Message")
Number = Annotated[int, Meta(ge=0, le=2**63 - 1)]
"""What can be sent back."""
Token = Annotated[str, Meta(pattern=r"\A[!-~]{1,8192}\Z")]
"""What can be sent back as a field of HTTP."""


class Header(Struct, frozen=True):
    cluster_id: int = 0
    member_id: int = 0
    revision: Number = 0


class KeyValue(Struct, frozen=True, gc=False):
    """``lease`` is 0 where the key has none. Of a deletion there is no value."""

    key: bytes
    value: bytes = b""
    mod_revision: Number = 0
    lease: Number = 0


class Range(Struct, frozen=True):
    """``count`` is of all keys in the range, also where the request filters ``kvs``."""

    header: Header
    kvs: tuple[KeyValue, ...] = ()
    count: Number = 0


class Committed(Struct, frozen=True):
    """The end of a transaction; unless it ``succeeded``, a comparison of it did not hold."""

    header: Header
    succeeded: bool = False


class Authenticated(Struct, frozen=True):
    token: Token


class Lease(Struct, frozen=True):
    """``TTL`` is 0 where there is no such lease any more."""

    ID: Number = 0
    TTL: int = 0
    grantedTTL: int = 0  # noqa: N815 - as etcd spells it


class Event(Struct, frozen=True, gc=False):
    kv: KeyValue
    type: str = "PUT"


class Changes(Struct, frozen=True):
    """``compact_revision`` is not 0 where what was asked for is gone already."""

    header: Header = Header()
    created: bool = False
    canceled: bool = False
    cancel_reason: str = ""
    compact_revision: Number = 0
    events: tuple[Event, ...] = ()


class Failure(Struct, frozen=True):
    """What went wrong; ``code`` is one of gRPC."""

    error: str = ""
    message: str = ""
    code: int = 0
    grpc_code: int = 0


class Streamed(Struct, frozen=True):
    """One message of a stream."""

    result: Changes | None = None
    error: Failure | None = None


class StreamedLease(Struct, frozen=True):
    result: Lease | None = None
    error: Failure | None = None


def decoded(kind: type[Message], raw: bytes | bytearray) -> Message:
    """A message of this kind. Raises msgspec.MsgspecError and UnicodeError for what is none."""
    return msgspec.json.decode(raw, type=kind, strict=False)


def encoded(message: dict[str, Any]) -> bytes:
    return msgspec.json.encode(message)

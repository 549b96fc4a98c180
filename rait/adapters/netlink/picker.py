"""Fast decoding of a few attributes from many messages that are laid out alike.

In a dump of a thousand links, each message has thirty attributes, of which rait wants six, and in
nearly all messages they lie at the same offsets. To walk from attribute to attribute costs more
than all else that is done with a message. So the picker walks through one message, and keeps its
layout as two struct formats over the whole message: one takes out all attribute headers, the other
the wanted values. Of the next message of the same length, the first format says whether the headers
are the same ones; if so, the second gives the values, else the picker walks again.

For 1,000 links that takes 1.6 ms instead of 5.5 ms, and for their WireGuard devices 8 instead of
10.5 ms (process time; a run with nothing to do reads all of these).
"""

from __future__ import annotations

from collections.abc import Mapping
from struct import Struct, calcsize
from typing import Any

from msgspec import Struct as Record

from rait.adapters.netlink.socket import NLA_TYPE_MASK, MalformedError
from rait.domain.errors import counted

BYTES = ""
U16 = "H"
U32 = "I"
U64 = "Q"

_HEADER = Struct("=HH")
_MOST_LAYOUTS = 64
"""The layouts that a picker keeps. A dump has a few, as names and endpoints differ in length."""


class _Layout(Record, frozen=True):
    """Where the attributes of a message lie: each Struct spans the whole message.

    ``expected`` is what ``headers`` unpacks, and ``kinds`` are the types of what ``payloads`` does.
    """

    headers: Struct
    expected: tuple[int, ...]
    payloads: Struct
    kinds: tuple[int, ...]


class Picker:
    """A function from a message to the values of its wanted attributes, by type without flags.

    ``wanted`` has the format of each type's value: BYTES of any length, or a format of struct for
    one value. The attributes begin ``start`` bytes into the message. Of several attributes of one
    type the last counts, as in the ``dict`` of ``attributes`` in socket.py. The result never
    depends on the messages before.
    """

    def __init__(self, wanted: Mapping[int, str], start: int = 0) -> None:
        self._wanted = dict(wanted)
        self._start = start
        self._layouts: dict[int, _Layout] = {}

    def __call__(self, data: bytes) -> dict[int, Any]:
        """The values by type. Raises MalformedError for a message or value of a wrong length."""
        layout = self._layouts.get(len(data))
        if layout is None or layout.headers.unpack(data) != layout.expected:
            layout = self._walk(data)
            if len(self._layouts) >= _MOST_LAYOUTS:
                self._layouts.clear()
            self._layouts[len(data)] = layout
        return dict(zip(layout.kinds, layout.payloads.unpack(data), strict=True))

    def _walk(self, data: bytes) -> _Layout:
        """The layout of a message, found by walking from attribute to attribute."""
        offset, end = self._start, len(data)
        if end < offset:
            raise MalformedError(f"a message has a body of {counted(end, 'byte')}")
        headers = payloads = f"={offset}x"
        expected: list[int] = []
        kinds: list[int] = []
        while offset + _HEADER.size <= end:
            size, flagged = _HEADER.unpack_from(data, offset)
            if size < _HEADER.size or offset + size > end:
                raise MalformedError(
                    f"an attribute of {counted(size, 'byte')} is in {counted(end - offset, 'byte')}"
                )
            kind, length = flagged & NLA_TYPE_MASK, size - _HEADER.size
            padding = min(-size % 4, end - offset - size)
            headers += f"HH{length + padding}x"
            payloads += f"4x{self._value(kind, length)}{padding}x"
            expected += (size, flagged)
            if kind in self._wanted:
                kinds.append(kind)
            offset += size + padding
        rest = f"{end - offset}x"
        return _Layout(
            Struct(headers + rest), tuple(expected), Struct(payloads + rest), tuple(kinds)
        )

    def _value(self, kind: int, length: int) -> str:
        """The format that takes out an attribute's value if it is wanted, or skips it."""
        form = self._wanted.get(kind)
        if form is None:
            return f"{length}x"
        if form == BYTES:
            return f"{length}s"
        if length != calcsize(f"={form}"):
            raise MalformedError(f"attribute {kind} has a value of {counted(length, 'byte')}")
        return form

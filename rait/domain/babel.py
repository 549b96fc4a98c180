"""babeld's control protocol as a machine without I/O, and what a sync has to tell babeld.

The protocol is that of babeld(8), sections "Local Configuration Protocol" and "Configuration File
Format". babeld greets with a banner that ends in ``ok``. Each command is a line; its answer is any
number of data lines and then ``ok``, ``no`` with a reason, or ``bad``.

The rules of this module:

1. One command at a time: babeld mixes up the answers to pipelined ones.
2. Nothing is believed of the bytes: any bytes give an answer or a BabeldError, in bounded memory.
3. Nothing reaches babeld that could be read as two commands, or that is known to crash it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Literal

from msgspec import Struct

from rait.domain.config.schema import MAX_IFNAME
from rait.domain.errors import RaitError

MAX_COMMAND = 1024
"""Bytes of a command with its newline (LOCAL_BUFSIZE of babeld): it hangs up on longer ones."""

INTERFACE_LINE = "add interface "
"""How each line begins that tells of an interface in the answer to ``dump``."""

NO_SUCH_INTERFACE = "No such interface"
"""babeld's reason for refusing to flush an interface that it does not have."""

_NOT_IN_A_NAME = frozenset('/:"#\\')
_DATA = (b"add ", b"change ", b"flush ")
_CONTROL = bytes([*range(32), 127])
_SHOWN = 80


class BabeldError(RaitError):
    """babeld could not be reached, was not understood, or did not do as told."""


class BabeldRefusedError(BabeldError):
    """babeld answered a command with ``no`` or ``bad``."""


class Limits(Struct, frozen=True, kw_only=True):
    """How much is taken from babeld before it is thought to be broken, in bytes.

    babeld writes lines of less than 512 bytes. An answer to ``dump`` holds a line for each route
    of each neighbour, so it may be long.
    """

    line: int = 4096
    answer: int = 64 * 1024 * 1024


class Banner(Struct, frozen=True):
    """What babeld says of itself on connection."""

    protocol: str
    version: str = ""
    host: str = ""
    router_id: str = ""


class Answer(Struct, frozen=True):
    """A complete answer. ``lines`` are the data lines that were asked to be kept.

    ``closed`` is the end of the connection, where that was asked for by ``quit``.
    """

    verdict: Literal["ok", "no", "bad", "closed"]
    reason: str = ""
    lines: tuple[str, ...] = ()


class BabelInterface(Struct, frozen=True):
    """An interface that babeld has. It is not ``up`` either where the machine has none such."""

    name: str
    up: bool
    ipv6: str | None = None
    ipv4: str | None = None


class Conversation:
    """The client's side of one connection: bytes in, answers out.

    Feed ``receive`` what the socket gives and ask ``next_answer`` until it is not None; the first
    answer is the banner's, and from then on ``banner`` is set. A conversation that has raised
    cannot go on.
    """

    def __init__(self, limits: Limits = Limits()) -> None:  # noqa: B008 (immutable)
        self.banner: Banner | None = None
        self._limits = limits
        self._buffer = bytearray()
        self._scanned = 0
        self._answer_size = 0
        self._lines: list[str] = []
        self._keep = ""
        self._command: str | None = None
        self._ended = False

    @property
    def waiting(self) -> bool:
        """Whether babeld owes us its banner or an answer."""
        return self.banner is None or self._command is not None

    @property
    def subject(self) -> str:
        """What babeld is to say next, for messages."""
        return "its banner" if self._command is None else f"the answer to {quoted(self._command)}"

    def send(self, command: str, keep: str = "") -> bytes:
        """The bytes to send for a command.

        Only data lines of its answer that begin with ``keep`` are kept, and checked. Raises
        BabeldError for a command that must not be sent, and if babeld said something that nobody
        had asked for.
        """
        if self.waiting:
            raise BabeldError(f"{quoted(command)} was to be sent before {self.subject} had come")
        line = encode_command(command)
        self._expect_no_answer_in_advance()
        self._command, self._keep = command, keep
        return line

    def receive(self, data: bytes) -> None:
        """Take bytes that babeld sent."""
        self._buffer += data

    def receive_end(self) -> None:
        """Take note that babeld sends no more."""
        self._ended = True

    def next_answer(self) -> Answer | None:
        """The answer that is owed, or None if it is not complete yet.

        Raises BabeldError if what came is not babeld's protocol, or too much, or cut short.
        """
        while self.waiting and (line := self._next_line()) is not None:
            if (answer := self._take(line)) is not None:
                return answer
        if self.waiting and self._ended:
            return self._answer_at_end()
        return None

    def _next_line(self) -> bytes | None:
        # The search goes on where it stopped: a stream of single bytes must not cost its square.
        end = self._buffer.find(b"\n", self._scanned)
        length = end if end >= 0 else len(self._buffer)
        if length > self._limits.line:
            raise BabeldError(
                f"babeld sent a line of over {self._limits.line} bytes in {self.subject}; "
                "is it babeld that listens there?"
            )
        if end < 0:
            self._scanned = len(self._buffer)
            return None
        raw = bytes(self._buffer[:end])
        del self._buffer[: end + 1]
        self._scanned = 0
        self._answer_size += len(raw) + 1
        if self._answer_size > self._limits.answer:
            raise BabeldError(
                f"babeld sent over {self._limits.answer} bytes for {self.subject}, without an end"
            )
        return raw

    def _take(self, raw: bytes) -> Answer | None:
        if raw.startswith(_DATA) and not raw.startswith(self._keep.encode()):
            # Not looked at, for babeld 1.12.1 may print freed memory there: the interface of a
            # neighbour that outlived the flush of that interface (jech/babeld#124).
            return None
        line = _text(raw, self.subject)
        if self.banner is None and not self._lines and not line.startswith("BABEL "):
            raise BabeldError(
                f"what listens there is not babeld: it greets with {quoted(line)}, not 'BABEL …'"
            )
        verdict, _, reason = line.partition(" ")
        if line in ("ok", "bad") or verdict == "no":
            return self._conclude(line, verdict, reason)
        if line.startswith(self._keep):
            self._lines.append(line)
        return None

    def _conclude(self, line: str, verdict: str, reason: str) -> Answer:
        if self.banner is None:
            if verdict != "ok":
                raise BabeldError(f"babeld turned us away: its banner ends in {quoted(line)}")
            self.banner = _banner(self._lines)
        if verdict == "no":
            answer = Answer("no", reason, tuple(self._lines))
        else:
            answer = Answer("ok" if verdict == "ok" else "bad", "", tuple(self._lines))
        self._reset()
        return answer

    def _reset(self) -> None:
        self._lines, self._keep, self._command = [], "", None
        self._answer_size = 0

    def _answer_at_end(self) -> Answer:
        if self._command is not None and self._command.split()[:1] == ["quit"]:
            self._reset()
            return Answer("closed")
        raise BabeldError(
            f"babeld closed the connection before {self.subject} was complete"
            + (f", in mid-line after {bytes(self._buffer[-_SHOWN:])!r}" if self._buffer else "")
        )

    def _expect_no_answer_in_advance(self) -> None:
        # Data lines may come unasked, after `monitor`; an answer may not.
        *lines, _ = bytes(self._buffer).split(b"\n")
        for line in lines:
            if line in (b"ok", b"bad") or line.split(b" ")[0] == b"no":
                raise BabeldError(f"babeld sent an answer that nobody had asked for: {line!r}")


def encode_command(command: str) -> bytes:
    """A command as the line to send. Raises BabeldError for one that must not be sent."""
    if not command.isprintable():
        raise BabeldError(
            f"a command for babeld is one line without control characters, not {quoted(command)}"
        )
    if _ends_in_quotes(command):
        # babeld 1.12.1 frees an uninitialised pointer then, and crashes.
        raise BabeldError(f'a quote (") is never closed in the babeld command {quoted(command)}')
    line = command.encode() + b"\n"
    if len(line) > MAX_COMMAND:
        raise BabeldError(
            f"the babeld command {quoted(command)} is {len(line)} bytes long, "
            f"but babeld takes {MAX_COMMAND} at most"
        )
    return line


def add_command(name: str, param: str) -> str:
    """The command for babeld to speak on an interface. Raises BabeldError for a name that is none.

    babeld takes a name that no interface has, and speaks once there is one.
    """
    _check_name(name)
    return f"interface {name} {param}" if param else f"interface {name}"


def flush_command(name: str) -> str:
    """The command for babeld to forget an interface; raises BabeldError as ``add_command``."""
    _check_name(name)
    return f"flush interface {name}"


def extra_commands(text: str) -> tuple[str, ...]:
    """The commands in ``extra_cmd``: one a line; blank lines and comments (#) are left out."""
    lines = (line.strip() for line in text.splitlines())
    return tuple(line for line in lines if line and not line.startswith("#"))


def is_interface_name(name: str) -> bool:
    """Whether Linux could have an interface of this name (dev_valid_name in net/core/dev.c), and
    babeld could be told of it unquoted, which ``flush interface`` needs."""
    return (
        0 < len(name.encode(errors="replace")) <= MAX_IFNAME
        and name not in (".", "..")
        and name.isprintable()
        and not any(char.isspace() or char in _NOT_IN_A_NAME for char in name)
    )


def is_ours(name: str, ifprefixes: Iterable[str], remembered: Iterable[str]) -> bool:
    """Whether an interface in babeld is one that rait may flush.

    That is one named as our transports name their links, by prefix and a port (1 to 65535), or
    one that the journal remembers.
    """
    return name in remembered or any(
        name.startswith(prefix) and _is_port(name[len(prefix) :]) for prefix in ifprefixes
    )


def interfaces_from_dump(lines: Iterable[str]) -> tuple[BabelInterface, ...]:
    """The interfaces among the lines of an answer to ``dump``, in babeld's order.

    Raises BabeldError for an interface's line that is not understood.
    """
    return tuple(_interface(line) for line in lines if line.startswith(INTERFACE_LINE))


def believed(
    present: Iterable[str], remembered: Mapping[str, str], wanted: Mapping[str, str]
) -> dict[str, str]:
    """The parameters that the interfaces which babeld has are believed to have.

    babeld does not tell them. What the journal remembers of an interface counts, or else what is
    wanted of it: it may be of babeld's own configuration file. Of others nothing is known ("").
    """
    return {name: remembered.get(name, wanted.get(name, "")) for name in present}


def tracked(
    current: Mapping[str, str],
    wanted: Mapping[str, str],
    *,
    ours: Callable[[str], bool],
    exclusive: bool = False,
) -> dict[str, str]:
    """Of what babeld has, the interfaces that may be changed; the others are left alone.

    ``current`` is what ``believed`` gives. What differs from ``wanted`` among these is to be
    flushed and added (diff.py): an add alone would leave the old value of each parameter that the
    new ones do not name. With ``exclusive`` others' interfaces count as well, as far as babeld can
    be told their names.
    """
    return {
        name: param
        for name, param in current.items()
        if (name in wanted or exclusive or ours(name)) and is_interface_name(name)
    }


def quoted(text: str) -> str:
    """Text from or for babeld as it may stand in a message: short, and no control characters."""
    return repr(text if len(text) <= _SHOWN else text[:_SHOWN] + "…")


def _check_name(name: str) -> None:
    if not is_interface_name(name):
        raise BabeldError(f"{quoted(name)} is no interface name that babeld could be told")


def _ends_in_quotes(command: str) -> bool:
    inside = escaped = False
    for char in command:
        if escaped:
            escaped = False
        elif char == "\\":
            escaped = inside
        elif char == '"':
            inside = not inside
    return inside


def _is_port(text: str) -> bool:
    return (
        text.isascii()
        and text.isdigit()
        and len(text) <= 5
        and text[0] != "0"
        and int(text) <= 65535
    )


def _text(raw: bytes, subject: str) -> str:
    # Foreign interfaces may bear any bytes in their names, so only control bytes are refused.
    if len(raw.translate(None, _CONTROL)) != len(raw):
        shown = raw if len(raw) <= _SHOWN else raw[:_SHOWN] + b"..."
        raise BabeldError(f"babeld sent bytes that are no text in {subject}: {shown!r}")
    return raw.decode(errors="backslashreplace")


def _banner(lines: list[str]) -> Banner:
    said = dict(line.partition(" ")[::2] for line in reversed(lines))
    return Banner(
        protocol=said.get("BABEL", ""),
        version=said.get("version", ""),
        host=said.get("host", ""),
        router_id=said.get("my-id", ""),
    )


def _interface(line: str) -> BabelInterface:
    name, _, state = line.removeprefix(INTERFACE_LINE).partition(" up ")
    up, *pairs = state.split(" ")
    if up not in ("true", "false"):
        raise BabeldError(f"babeld describes an interface in an unknown way: {quoted(line)}")
    said = dict(zip(pairs[::2], pairs[1::2], strict=False))
    return BabelInterface(name, up == "true", said.get("ipv6"), said.get("ipv4"))

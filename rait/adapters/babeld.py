"""A client of babeld's control socket, which is a unix socket or a TCP port.

The protocol is that of babeld(8), sections "Local Configuration Protocol" and "Configuration File
Format". babeld greets with a banner that ends in ``ok``. Each command is a line; its answer is any
number of data lines and then ``ok``, ``no`` with a reason, or ``bad``.

The rules of this module:

1. One command at a time: babeld mixes up the answers to pipelined ones.
2. Whatever bytes arrive, they give an answer or a BabeldError, in bounded memory and time.
3. Nothing is sent that babeld could read as two commands, or that is known to crash babeld.
"""

from __future__ import annotations

import os
import socket
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress

from msgspec import Struct

from rait.adapters.closing import on_error
from rait.domain.babel import BabelInterface, BabelNeighbour, is_interface_name
from rait.domain.config.schema import Babeld
from rait.domain.errors import RaitError

ANSWER_SECONDS = 10.0
"""The time for one answer of babeld's, connecting included."""

TOTAL_SECONDS = 60.0
"""The time for all answers of babeld's in one run. The time between two questions, in which links
are made, does not count."""

MOST_BYTES = 64 * 1024 * 1024
"""The longest answer: the one to ``dump`` has a line for each route of each neighbour."""

MAX_COMMAND = 1024
"""Bytes of a command with its newline: babeld hangs up on a longer one (its LOCAL_BUFSIZE)."""

_INTERFACE_LINE = "add interface "
"""Begins each line about an interface in the answer to ``dump``."""

_NEIGHBOUR_LINE = b"add neighbour "
"""Begins each line about a neighbour in the answer to ``dump``."""

_NO_SUCH_INTERFACE = "no No such interface"
"""babeld's answer to a flush of an interface that it does not have."""

_BANNER = "its banner"
_DATA = (b"add ", b"change ", b"flush ")
_CONTROL = bytes([*range(32), 127])
_SHOWN = 80
_CHUNK = 65536
_MAX_UNIX_PATH = 107
"""sizeof(sun_path) less its NUL (unix(7)), in bytes."""

_Address = str | tuple[object, ...]
MakeSocket = Callable[[int], socket.socket]
"""Makes a stream socket of the given address family."""


class BabeldError(RaitError):
    """babeld cannot be reached, does not speak its protocol, or refused a command."""


class BabeldRefusedError(BabeldError):
    """babeld answered a command with ``no`` or ``bad``."""


class Answer(Struct, frozen=True):
    """One answer of babeld's.

    ``verdict`` is its last line: ``ok``, ``no`` with a reason, or ``bad``. ``lines`` are its lines
    about interfaces, and ``neighbours`` those about neighbours, which may hold any bytes.
    """

    verdict: str
    lines: tuple[str, ...] = ()
    neighbours: tuple[bytes, ...] = ()


class BabeldClient:
    """A client for the time of one run. Every method raises BabeldError, in bounded time.

    A question for interfaces has a connection of its own, and all commands share another: so a
    malformed answer on one of them never spoils the other. Call ``interfaces`` before the first
    ``flush``: after a flush, babeld 1.12.1 prints freed memory in a ``dump`` (jech/babeld#124).

    ``make_socket`` makes sockets in babeld's network namespace, where its TCP port listens. A unix
    socket is reached from any namespace. ``seconds`` is the time for all answers, TOTAL_SECONDS
    unless it is given.
    """

    def __init__(
        self,
        babeld: Babeld,
        make_socket: MakeSocket = socket.socket,
        seconds: float | None = None,
    ) -> None:
        self._babeld = babeld
        self._make_socket = make_socket
        self._left = self._seconds = TOTAL_SECONDS if seconds is None else seconds
        self._commands: Connection | None = None

    def close(self) -> None:
        """Close the connection. The client can still be used, within the rest of its time."""
        if self._commands is not None:
            self._commands.close()
            self._commands = None

    def interfaces(self) -> tuple[BabelInterface, ...]:
        """The interfaces that babeld has, in babeld's order."""
        return tuple(map(parse_interface, self._dump().lines))

    def neighbours(self) -> tuple[BabelNeighbour, ...]:
        """The neighbours that babeld has, but for those that it describes in an unknown way."""
        return tuple(filter(None, map(parse_neighbour, self._dump().neighbours)))

    def _dump(self) -> Answer:
        with self._talking() as until, closing(self._connect(until)) as connection:
            answer = connection.ask("dump", until)
        if answer.verdict != "ok":
            raise _refused("dump", answer, self._babeld)
        return answer

    def add(self, name: str, param: str) -> None:
        """Have babeld speak on an interface, which need not exist yet."""
        self.command(f"interface {_checked(name)} {param}".rstrip(" "))

    def flush(self, name: str) -> None:
        """Have babeld forget an interface. One that babeld does not have is no error."""
        command = f"flush interface {_checked(name)}"
        answer = self._ask(command)
        if answer.verdict != _NO_SUCH_INTERFACE:
            self._expect_ok(command, answer)

    def command(self, text: str) -> None:
        """Send one command.

        Raises BabeldRefusedError, which names the command, if babeld does not take it.
        """
        self._expect_ok(text, self._ask(text))

    def _ask(self, command: str) -> Answer:
        encode_command(command)  # raises for one that must not be sent, before anything connects
        with self._talking() as until:
            if self._commands is None:
                self._commands = self._connect(until)
            with on_error(self.close):  # the rest of the answer may still come on this connection
                answer = self._commands.ask(command, until)
        if _quits(command):
            self.close()
        return answer

    def _expect_ok(self, command: str, answer: Answer) -> None:
        if answer.verdict != "ok":
            raise _refused(command, answer, self._babeld)

    @contextmanager
    def _talking(self) -> Iterator[float]:
        """Count the block's time; gives the monotonic time by which babeld must have answered."""
        if self._left <= 0:
            raise BabeldError(
                f"babeld at {self._babeld.socket_addr} took more than {TOTAL_SECONDS:g} s for the "
                "commands of this run, so rait sends it no more of them"
            )
        began = time.monotonic()
        try:
            yield began + min(ANSWER_SECONDS, self._seconds)
        finally:
            self._left -= time.monotonic() - began

    def _connect(self, until: float) -> Connection:
        family, address = _address_of(self._babeld)
        connected = self._make_socket(family)
        connection = Connection(connected, self._babeld.socket_addr)
        with on_error(connection.close):
            try:
                connected.settimeout(max(until - time.monotonic(), 0.001))
                connected.connect(address)
                connection.greet(until)
            except OSError as error:
                raise _unreachable(self._babeld, error) from error
        return connection


class Connection:
    """One connected socket. Do not use it any more after a method has raised.

    Methods raise BabeldError if an answer is not in babeld's protocol, too long, cut short, or not
    complete by ``until``, a time of the monotonic clock.
    """

    def __init__(self, connected: socket.socket, where: str) -> None:
        self._socket = connected
        self._where = where
        self._buffer = bytearray()
        self._until = 0.0

    def close(self) -> None:
        self._socket.close()

    def greet(self, until: float) -> None:
        self._until = until
        for raw in self._lines(_BANNER):
            greeting = _text(raw, _BANNER)
            if not greeting.startswith("BABEL "):
                raise BabeldError(
                    f"what listens there is not babeld: it greets with {quoted(greeting)}, "
                    "not 'BABEL …'"
                )
            break
        answer = self._answer(_BANNER)
        if answer.verdict != "ok":
            raise BabeldError(f"babeld turned us away: its banner ends in {quoted(answer.verdict)}")

    def ask(self, command: str, until: float) -> Answer:
        """Send a command and read its answer, which for ``quit`` is the end of the connection."""
        self._until = until
        line, subject = encode_command(command), f"the answer to {quoted(command)}"
        self._expect_no_answer_in_advance()
        # If babeld hung up, its last words may still wait to be read.
        with suppress(ConnectionError), self._waiting(subject):
            self._socket.sendall(line)
        return self._answer(subject, may_end=_quits(command))

    def _answer(self, subject: str, *, may_end: bool = False) -> Answer:
        lines: list[str] = []
        neighbours: list[bytes] = []
        for raw in self._lines(subject):
            if raw.startswith(_DATA) and not raw.startswith(_INTERFACE_LINE.encode()):
                # Not decoded: babeld 1.12.1 may print freed memory in a neighbour's line, if the
                # neighbour outlived the flush of its interface (jech/babeld#124).
                if raw.startswith(_NEIGHBOUR_LINE):
                    neighbours.append(raw)
                continue
            line = _text(raw, subject)
            if _is_verdict(line):
                return Answer(line, tuple(lines), tuple(neighbours))
            if line.startswith(_INTERFACE_LINE):
                lines.append(line)
        if may_end:
            return Answer("ok")
        rest = f", in mid-line after {bytes(self._buffer[-_SHOWN:])!r}" if self._buffer else ""
        raise BabeldError(f"babeld closed the connection before {subject} was complete{rest}")

    def _lines(self, subject: str) -> Iterator[bytes]:
        """Lines from babeld without their newlines, until babeld hangs up."""
        size = scanned = 0
        while True:
            # Search on from where the last search stopped: else, an answer that comes byte by byte
            # would take time that grows with the square of its length.
            end = self._buffer.find(b"\n", scanned)
            size += (end + 1 or len(self._buffer)) - scanned
            if size > MOST_BYTES:
                raise BabeldError(
                    f"babeld sent more than {MOST_BYTES} bytes for {subject}, and no end; "
                    "check that it is babeld that listens there"
                )
            if end >= 0:
                line = bytes(self._buffer[:end])
                del self._buffer[: end + 1]
                scanned = 0
                yield line
                continue
            scanned = len(self._buffer)
            data = b""
            with suppress(ConnectionError), self._waiting(subject):
                data = self._socket.recv(_CHUNK)
            if not data:
                return
            self._buffer += data

    @contextmanager
    def _waiting(self, subject: str) -> Iterator[None]:
        """Let the block wait for babeld until the deadline, and explain what goes wrong.

        A ConnectionError passes as it is: babeld hung up. The deadline is one for the whole answer,
        so that a byte now and then does not hold up the run.
        """
        left = self._until - time.monotonic()
        try:
            if left <= 0:
                raise TimeoutError
            self._socket.settimeout(left)
            yield
        except ConnectionError:
            raise
        except TimeoutError:
            text = f"babeld at {self._where} did not send {subject} within {ANSWER_SECONDS:g} s"
            if subject == _BANNER:
                text += "; babeld serves four control connections at a time: check whether other "
                text += "programs hold them"
            raise BabeldError(text) from None
        except OSError as error:
            raise BabeldError(
                f"the connection to babeld at {self._where} broke before {subject}: "
                f"{error.strerror or error}"
            ) from error

    def _expect_no_answer_in_advance(self) -> None:
        # After `monitor`, babeld sends data lines by itself, but never a verdict.
        for line in self._buffer.decode(errors="replace").split("\n")[:-1]:
            if _is_verdict(line):
                raise BabeldError(
                    f"babeld sent the answer {quoted(line)} before rait sent a command"
                )


def encode_command(command: str) -> bytes:
    """The line to send for a command. Raises BabeldError for one that must not be sent."""
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


def parse_interface(line: str) -> BabelInterface:
    """The interface in a line of the answer to ``dump``. Raises BabeldError if it is malformed."""
    name, _, state = line.removeprefix(_INTERFACE_LINE).partition(" up ")
    up, *pairs = state.split(" ")
    if up not in ("true", "false"):
        raise BabeldError(f"babeld describes an interface in an unknown way: {quoted(line)}")
    fields = dict(zip(pairs[::2], pairs[1::2], strict=False))
    return BabelInterface(name, up == "true", fields.get("ipv6"), fields.get("ipv4"))


def parse_neighbour(line: bytes) -> BabelNeighbour | None:
    """The neighbour in a line of the answer to ``dump``; None if it is malformed.

    Of an interface that was flushed, the line may hold freed memory in place of its name.
    """
    try:
        words = line.decode("ascii").split(" ")[3:]  # after "add neighbour", and its id
        fields = dict(zip(words[::2], words[1::2], strict=True))
        reach = int(fields["reach"], 16)
        rxcost, txcost, cost = (int(fields[name]) for name in ("rxcost", "txcost", "cost"))
        rtt = float(fields["rtt"]) if "rtt" in fields else None
        numbers = (rxcost, txcost, cost, rtt or 0)
        name, address = _checked(fields["if"]), fields["address"]
        is_known = 0 <= reach <= 0xFFFF and all(0 <= each < 2**32 for each in numbers)
        if not is_known or not address.isprintable():
            return None
        return BabelNeighbour(name, address, reach, rxcost, txcost, cost, rtt)
    except (ValueError, KeyError, BabeldError):
        return None


def parse_tcp_address(text: str) -> tuple[str, int]:
    """Address and port from ``[::1]:port``, ``127.0.0.1:port``, or a port on ::1 alone.

    No name is looked up; ``localhost`` stands for ::1. Raises BabeldError for any other text.
    """
    host, colon, port = text.rpartition(":")
    if not colon or host == "localhost":
        host = "::1"  # where babeld listens, and nowhere else (1.12.1)
    elif host.startswith("[") and host.endswith("]"):
        host = host[1:-1]
    elif ":" in host:
        host = ""
    if not host or not (port.isascii() and port.isdigit() and 0 < int(port[:6]) <= 65535):
        raise _no_tcp_address(text)
    return host, int(port)


def quoted(text: str) -> str:
    """A text from or for babeld in quotes, short and without control characters, for a message."""
    return repr(text if len(text) <= _SHOWN else text[:_SHOWN] + "…")


def _checked(name: str) -> str:
    if not is_interface_name(name):
        raise BabeldError(f"{quoted(name)} is no interface name that babeld can read")
    return name


def _is_verdict(line: str) -> bool:
    return line in ("ok", "bad") or line.split(" ")[0] == "no"


def _quits(command: str) -> bool:
    """Whether babeld answers a command by closing the connection."""
    return command.split()[:1] == ["quit"]


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


def _text(raw: bytes, subject: str) -> str:
    # The name of another's interface may hold any bytes, so only control bytes are refused.
    if len(raw.translate(None, _CONTROL)) != len(raw):
        shown = raw if len(raw) <= _SHOWN else raw[:_SHOWN] + b"..."
        raise BabeldError(f"babeld sent bytes that are no text in {subject}: {shown!r}")
    return raw.decode(errors="backslashreplace")


def _address_of(babeld: Babeld) -> tuple[int, _Address]:
    where = babeld.socket_addr
    if babeld.socket_type == "unix":
        if not 0 < len(os.fsencode(where)) <= _MAX_UNIX_PATH or "\0" in where:
            raise BabeldError(
                f"{quoted(where)} is no unix socket's path: "
                f"such a path has 1 to {_MAX_UNIX_PATH} bytes; set socket_addr in the babeld block"
            )
        return socket.AF_UNIX, where
    host, port = parse_tcp_address(where)
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
    except (OSError, UnicodeError):
        raise _no_tcp_address(where) from None
    family, _, _, _, address = found[0]
    return family, address


def _no_tcp_address(text: str) -> BabeldError:
    return BabeldError(
        f"{quoted(text)} is no TCP address of babeld; set socket_addr in the babeld block to "
        'babeld\'s port, as "33123", or to an IP address and port, as "[::1]:33123"'
    )


def _unreachable(babeld: Babeld, error: OSError) -> BabeldError:
    where = babeld.socket_addr
    option = f"`babeld -G {where}`"
    match error:
        case FileNotFoundError():
            return BabeldError(
                f"there is no babeld control socket at {where}: start babeld as {option}, or set "
                f"`local-path-readwrite {where}` in babeld.conf and start babeld again"
            )
        case TimeoutError():
            why = f"nobody accepted the connection within {ANSWER_SECONDS:g} s"
        case BlockingIOError():
            why = "too many programs wait for it; babeld serves four connections at a time"
        case PermissionError():
            why = "permission denied; run rait as root, or as a user who may write to the socket"
        case ConnectionRefusedError() if babeld.socket_type == "tcp":
            why = f"nobody listens there; start babeld as `babeld -G {parse_tcp_address(where)[1]}`"
            why += ". babeld listens on ::1 of the network namespace that it runs in"
        case ConnectionRefusedError() if _is_socket(where):
            why = "babeld does not run any more and left the file behind; "
            why += f"remove the file, then start babeld (as {option})"
        case ConnectionRefusedError():
            why = "it is not a socket; set socket_addr in the babeld block"
        case _:
            why = error.strerror or str(error)
    return BabeldError(f"babeld's control socket {where} cannot be used: {why}")


def _is_socket(path: str) -> bool:
    try:
        return stat.S_ISSOCK(os.stat(path).st_mode)
    except OSError:
        return True  # it was one, and is gone meanwhile


def _refused(command: str, answer: Answer, babeld: Babeld) -> BabeldRefusedError:
    meaning = ""
    if answer.verdict == "bad":
        meaning = "; see babeld(8) for its run-time commands. It answers so to any change if its "
        meaning += "control socket is read-only: start babeld with `-G` in place of `-g`, or use "
        meaning += "local-path-readwrite or local-port-readwrite in babeld.conf"
    return BabeldRefusedError(
        f"babeld at {babeld.socket_addr} refused the command {quoted(command)}: "
        f"it answered {quoted(answer.verdict)}{meaning}"
    )

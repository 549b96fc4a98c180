"""babeld's control socket, by unix path or TCP; the protocol itself is rait.domain.babel."""

from __future__ import annotations

import os
import socket
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType

from msgspec import Struct

from rait.domain.babel import (
    INTERFACE_LINE,
    NO_SUCH_INTERFACE,
    Answer,
    BabeldError,
    BabeldRefusedError,
    BabelInterface,
    Banner,
    Conversation,
    Limits,
    add_command,
    encode_command,
    flush_command,
    interfaces_from_dump,
    quoted,
)
from rait.domain.config.schema import Babeld

_CHUNK = 65536
_MAX_UNIX_PATH = 107
"""sizeof(sun_path) less its NUL (unix(7)), in bytes."""

_PROBE = "flush interface rait-no-such-interface"
"""Changes nothing: no interface has so long a name. babeld answers ``no`` where it may be written
to and ``bad`` where it may only be read (babeld 1.12.1)."""

_Address = str | tuple[object, ...]
MakeSocket = Callable[[int], socket.socket]
"""Makes a stream socket of the given address family."""


class BabeldUnreachableError(BabeldError):
    """Nobody serves the control socket, or we may not use it."""


class BabeldReadOnlyError(BabeldRefusedError):
    """The control socket answers questions but takes no changes."""


class Timeouts(Struct, frozen=True, kw_only=True):
    """In seconds: to connect, for each whole answer, and for all that one client asks.

    The time between two questions counts for none of them: links are made in it.
    """

    connect: float = 5.0
    answer: float = 10.0
    total: float = 60.0


def _stream_socket(family: int) -> socket.socket:
    return socket.socket(family, socket.SOCK_STREAM)


class BabeldClient:
    """One run's talk with babeld. Every method raises BabeldError, within the timeouts.

    Interfaces are asked for on a connection of their own, and commands share another, so that an
    answer gone wrong never spoils the other. Ask before the first flush: babeld 1.12.1 prints
    freed memory in a ``dump`` that comes after one (jech/babeld#124).
    babeld's TCP socket listens in babeld's own network namespace: ``make_socket`` makes the
    sockets there. A unix socket is reached from any namespace.
    """

    def __init__(
        self,
        babeld: Babeld,
        *,
        timeouts: Timeouts = Timeouts(),  # noqa: B008 (immutable)
        limits: Limits = Limits(),  # noqa: B008 (immutable)
        make_socket: MakeSocket = _stream_socket,
    ) -> None:
        self._babeld = babeld
        self._timeouts = timeouts
        self._limits = limits
        self._make_socket = make_socket
        self._left = timeouts.total
        self._commands: _Connection | None = None
        self.banner: Banner | None = None

    def __enter__(self) -> BabeldClient:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection; the client may be used again, with what is left of its time."""
        if self._commands is not None:
            self._commands.close()
            self._commands = None

    def interfaces(self) -> tuple[BabelInterface, ...]:
        """The interfaces that babeld has."""
        with self._talking() as deadline:
            connection = self._connect(deadline)
            try:
                answer = connection.ask("dump", deadline, keep=INTERFACE_LINE)
            finally:
                connection.close()
        if answer.verdict != "ok":
            raise _refused("dump", answer, self._babeld)
        return interfaces_from_dump(answer.lines)

    def add(self, name: str, param: str) -> None:
        """Have babeld speak on an interface. It need not exist yet."""
        self.command(add_command(name, param))

    def flush(self, name: str) -> bool:
        """Have babeld forget an interface; False if it had no such interface."""
        command = flush_command(name)
        answer = self._ask(command)
        if answer.verdict == "no" and answer.reason == NO_SUCH_INTERFACE:
            return False
        self._expect_ok(command, answer)
        return True

    def command(self, text: str) -> tuple[str, ...]:
        """Send one command and give the data lines of its answer.

        Raises BabeldRefusedError, which names the command, if babeld does not take it, and
        BabeldReadOnlyError if that is because the socket takes no changes.
        """
        answer = self._ask(text)
        self._expect_ok(text, answer)
        return answer.lines

    def _ask(self, command: str) -> Answer:
        encode_command(command)
        with self._talking() as deadline:
            if self._commands is None:
                self._commands = self._connect(deadline)
            try:
                answer = self._commands.ask(command, deadline)
            except BaseException:
                self.close()  # what would come next on this connection is anybody's guess
                raise
        if answer.verdict == "closed":
            self.close()
        return answer

    def _expect_ok(self, command: str, answer: Answer) -> None:
        if answer.verdict in ("ok", "closed"):
            return
        if answer.verdict == "bad" and self._is_read_only():
            raise _read_only(command, self._babeld)
        raise _refused(command, answer, self._babeld)

    def _is_read_only(self) -> bool:
        try:
            return self._ask(_PROBE).verdict == "bad"
        except BabeldError:
            return False  # the refused command is what the user has to hear of

    @contextmanager
    def _talking(self) -> Iterator[float]:
        """The moment by which all has to be said."""
        began = time.monotonic()
        try:
            yield began + self._left
        finally:
            self._left -= time.monotonic() - began

    def _connect(self, deadline: float) -> _Connection:
        connected = _open(self._babeld, self._timeouts, deadline, self._make_socket)
        connection = _Connection(
            connected, self._babeld, self._timeouts, Conversation(self._limits)
        )
        try:
            connection.greet(deadline)
        except BaseException:
            connection.close()
            raise
        self.banner = connection.banner
        return connection


class _Connection:
    """One connected socket and the conversation over it."""

    def __init__(
        self,
        connected: socket.socket,
        babeld: Babeld,
        timeouts: Timeouts,
        conversation: Conversation,
    ) -> None:
        self._socket = connected
        self._babeld = babeld
        self._timeouts = timeouts
        self._conversation = conversation

    def close(self) -> None:
        self._socket.close()

    @property
    def banner(self) -> Banner | None:
        return self._conversation.banner

    def greet(self, deadline: float) -> None:
        """Read the banner."""
        self._read(deadline, time.monotonic() + self._timeouts.answer)

    def ask(self, command: str, deadline: float, keep: str = "") -> Answer:
        until = time.monotonic() + self._timeouts.answer
        line = self._conversation.send(command, keep)
        try:
            self._allow(min(deadline, until))
            self._socket.sendall(line)
        except TimeoutError:
            raise self._too_late(deadline) from None
        except (BrokenPipeError, ConnectionError):
            pass  # it hung up; what it said before is still to be read
        except OSError as error:
            raise self._broken(error) from error
        return self._read(deadline, until)

    def _read(self, deadline: float, until: float) -> Answer:
        # A deadline for the whole answer: a byte now and then must not hold up the run.
        while (answer := self._conversation.next_answer()) is None:
            try:
                self._allow(min(deadline, until))
                data = self._socket.recv(_CHUNK)
            except TimeoutError:
                raise self._too_late(deadline) from None
            except ConnectionError:
                data = b""
            except OSError as error:
                raise self._broken(error) from error
            if data:
                self._conversation.receive(data)
            else:
                self._conversation.receive_end()
        return answer

    def _allow(self, until: float) -> None:
        left = until - time.monotonic()
        if left <= 0:
            raise TimeoutError
        self._socket.settimeout(left)

    def _too_late(self, deadline: float) -> BabeldError:
        waited = (
            f"{self._timeouts.total:g} s for everything asked of it"
            if time.monotonic() >= deadline
            else f"{self._timeouts.answer:g} s"
        )
        hint = (
            "; it serves four control connections at a time: is another program holding them?"
            if self._conversation.banner is None
            else ""
        )
        return BabeldError(
            f"babeld at {self._babeld.socket_addr} did not send {self._conversation.subject} "
            f"within {waited}{hint}"
        )

    def _broken(self, error: OSError) -> BabeldError:
        return BabeldError(
            f"the connection to babeld at {self._babeld.socket_addr} broke before "
            f"{self._conversation.subject}: {error.strerror or error}"
        )


def _open(
    babeld: Babeld, timeouts: Timeouts, deadline: float, make_socket: MakeSocket
) -> socket.socket:
    until = min(deadline, time.monotonic() + timeouts.connect)
    failure: OSError | None = None
    for family, address in _addresses(babeld):
        left = until - time.monotonic()
        if left <= 0:
            failure = failure or TimeoutError()
            break
        connecting = make_socket(family)
        try:
            connecting.settimeout(left)
            connecting.connect(address)
        except OSError as error:
            connecting.close()
            failure = error
        except BaseException:
            connecting.close()
            raise
        else:
            return connecting
    raise _unreachable(babeld, failure, timeouts) from failure


def _addresses(babeld: Babeld) -> list[tuple[int, _Address]]:
    if babeld.socket_type == "unix":
        if not 0 < len(os.fsencode(babeld.socket_addr)) <= _MAX_UNIX_PATH or (
            "\0" in babeld.socket_addr
        ):
            raise BabeldUnreachableError(
                f"{quoted(babeld.socket_addr)} can be no unix socket's path: "
                f"it must have 1 to {_MAX_UNIX_PATH} bytes; set socket_addr in the babeld block"
            )
        return [(socket.AF_UNIX, babeld.socket_addr)]
    host, port = parse_tcp_address(babeld.socket_addr)
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
    except (OSError, UnicodeError):
        raise _no_tcp_address(babeld.socket_addr) from None
    return [(family, address) for family, _, _, _, address in found]


def parse_tcp_address(text: str) -> tuple[str, int]:
    """Address and port from ``[::1]:port``, ``127.0.0.1:port``, or a port on babeld's own ::1.

    Names are not looked up, save ``localhost``. Raises BabeldUnreachableError for anything else.
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


def _no_tcp_address(text: str) -> BabeldUnreachableError:
    return BabeldUnreachableError(
        f"{quoted(text)} is no TCP address of babeld's; set socket_addr in the babeld block to "
        'its port, as "33123", or to an IP address and port, as "[::1]:33123"'
    )


def _unreachable(
    babeld: Babeld, error: OSError | None, timeouts: Timeouts
) -> BabeldUnreachableError:
    where = babeld.socket_addr
    what = f"babeld's control socket {where} cannot be used: "
    option = f"`babeld -G {where}`"
    if isinstance(error, FileNotFoundError):
        what = f"there is no babeld control socket at {where}: start it as {option}, or set "
        what += f"`local-path-readwrite {where}` in babeld.conf and start babeld again"
    elif isinstance(error, TimeoutError):
        what += f"nobody took the connection within {timeouts.connect:g} s"
    elif isinstance(error, BlockingIOError):
        what += "too many others wait for it; babeld serves four control connections at a time"
    elif isinstance(error, PermissionError):
        what += "permission denied; run rait as root, or as a user who may write to the socket"
    elif isinstance(error, ConnectionRefusedError) and babeld.socket_type == "unix":
        if _is_socket(where):
            what += "babeld does not run any more and left it behind; "
            what += f"remove the file, then start babeld (as {option})"
        else:
            what += "it is not a socket; set socket_addr in the babeld block"
    elif isinstance(error, ConnectionRefusedError):
        port = parse_tcp_address(where)[1]
        what += f"nobody listens there; start babeld as `babeld -G {port}`. It listens on ::1 of "
        what += "the network namespace that it runs in"
    else:
        what += (error.strerror or str(error)) if error is not None else "no address to connect to"
    return BabeldUnreachableError(what)


def _is_socket(path: str) -> bool:
    try:
        return stat.S_ISSOCK(Path(path).stat().st_mode)
    except OSError:
        return True  # gone in the meantime: it was one


def _read_only(command: str, babeld: Babeld) -> BabeldReadOnlyError:
    way, option = ("path", "-G PATH") if babeld.socket_type == "unix" else ("port", "-G PORT")
    return BabeldReadOnlyError(
        f"babeld refused {quoted(command)}: its control socket {babeld.socket_addr} is read-only; "
        f"start babeld with `{option}` in place of `{option.lower()[:2]}{option[2:]}`, or use "
        f"`local-{way}-readwrite` in place of `local-{way}` in babeld.conf"
    )


def _refused(command: str, answer: Answer, babeld: Babeld) -> BabeldRefusedError:
    said = f"{answer.verdict} {answer.reason}".rstrip()
    meaning = "; see babeld(8) for what it takes at run time" if answer.verdict == "bad" else ""
    return BabeldRefusedError(
        f"babeld at {babeld.socket_addr} refused the command {quoted(command)}: "
        f"it answered {quoted(said)}{meaning}"
    )

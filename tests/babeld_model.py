"""babeld's side of a connection, and what a sync would tell it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from rait.adapters.babeld import Connection
from rait.domain.babel import BabeldState
from rait.domain.diff import diff
from rait.domain.events import Event
from rait.domain.topology import Device, Link, LinkNotes, LinkSettings, Origin, Topology

BANNER = b"BABEL 1.0\nversion babeld-1.12.1\nhost a\nmy-id 60:96:2a:d9:a5:63:32:d9\nok\n"
NEVER = float("inf")


class Pieces:
    """A socket from which these pieces come, and then the end."""

    def __init__(self, pieces: Iterable[bytes]) -> None:
        self.pieces = [piece for piece in pieces if piece]
        self.sent: list[bytes] = []

    def recv(self, _: int) -> bytes:
        return self.pieces.pop(0) if self.pieces else b""

    def sendall(self, data: bytes) -> None:
        self.sent.append(data)

    def connect(self, address: object) -> None:
        pass

    def settimeout(self, seconds: float) -> None:
        assert seconds > 0

    def close(self) -> None:
        pass


def connection(*pieces: bytes) -> tuple[Connection, Pieces]:
    """A connection over which these pieces come, and its socket."""
    socket = Pieces(pieces)
    return Connection(socket, "/run/babeld.ctl"), socket  # type: ignore[arg-type]


def babel_events(
    present: Iterable[str],
    remembered: Mapping[str, str],
    wanted: Mapping[str, str],
    *,
    exclusive: bool = False,
) -> tuple[Event, ...]:
    """The events that make babeld's interfaces the wanted ones, as far as they are ours."""
    state = BabeldState(tuple(present), ifprefixes=("rait4x", "rait6x"), exclusive=exclusive)
    links = {
        name: Link(
            name,
            Origin("kernel"),
            LinkSettings(1420, 54),
            Device("own"),
            notes=LinkNotes(babeld_param=param),
        )
        for name, param in wanted.items()
    }
    managed, shall_have = state.compare(Topology(babel=remembered), links)
    return diff(Topology(babel=managed), Topology(babel=shall_have))

"""babeld, as a run sees it: what it has, and carrying out what it shall be told."""

from __future__ import annotations

import socket
from collections.abc import Iterator, Sequence

from msgspec import structs

from rait.adapters import netns
from rait.adapters.babeld import BabeldClient
from rait.domain.babeld import BabelInterface, believed, extra_commands, is_ours, tracked
from rait.domain.backend import Outcome
from rait.domain.config import Config
from rait.domain.events import BabelInterfaceAdded, BabelInterfaceFlushed, Event
from rait.domain.problem import MachineError, RaitError
from rait.domain.topology import Topology


class Routing:
    """One run's talk with babeld.

    ``target`` is the namespace in which babeld runs, and ``asked`` says that the user asked for a
    sync, where else babeld is left in peace if there are no links, nor were any.
    """

    def __init__(
        self, config: Config, target: str, *, asked: bool = True, exclusive: bool = False
    ) -> None:
        self.asked = asked
        self._babeld = config.babeld
        self._ifprefixes = tuple(transport.ifprefix for transport in config.transports)
        self._target = target
        self._exclusive = exclusive
        self._client = BabeldClient(config.babeld, make_socket=self._socket)

    def interfaces(self) -> tuple[BabelInterface, ...]:
        """The interfaces that babeld has. Raises BabeldError."""
        return self._client.interfaces()

    def is_ours(self, name: str, memory: Topology) -> bool:
        """Whether an interface in babeld is one that we may flush."""
        # Others' interfaces are in the journal too, with no parameters, where they were to be
        # flushed and babeld did not do it: that makes none of them ours.
        told = {known for known, param in memory.babel.items() if param}
        return is_ours(name, self._ifprefixes, memory.links.keys() | told)

    def compare(
        self, before: Topology, after: Topology, memory: Topology
    ) -> tuple[Topology, Topology]:
        """Both topologies with babeld's interfaces: what it has, and what it shall have.

        Raises BabeldError where babeld cannot be asked.
        """
        wanted = {
            name: self._babeld.param for name, link in after.links.items() if link.settings.up
        }
        present = [interface.name for interface in self.interfaces()]
        current = tracked(
            believed(present, memory.babel, wanted),
            wanted,
            ours=lambda name: self.is_ours(name, memory),
            exclusive=self._exclusive,
        )
        return structs.replace(before, babel=current), structs.replace(after, babel=wanted)

    def apply(self, events: Sequence[Event], broken: set[str]) -> Iterator[Outcome]:
        """Tell babeld of each event; ``broken`` are links that could not be made in this run."""
        for index, event in enumerate(events):
            error: str | None = None
            if isinstance(event, BabelInterfaceAdded) and event.name in broken:
                error = "babeld was not told of it, as the link could not be made"
            else:
                try:
                    self._carry_out(event)
                except RaitError as problem:
                    error = str(problem)
            yield Outcome(index, error)

    def finish(self) -> None:
        """Send ``extra_cmd``, a line at a time. Raises BabeldError, naming the command refused."""
        for command in extra_commands(self._babeld.extra_cmd):
            self._client.command(command)

    def close(self) -> None:
        """Close the connection, if there is one."""
        self._client.close()

    def _carry_out(self, event: Event) -> None:
        if isinstance(event, BabelInterfaceAdded):
            self._client.add(event.name, event.param)
        elif isinstance(event, BabelInterfaceFlushed):
            self._client.flush(event.name)

    def _socket(self, family: int) -> socket.socket:
        if family == socket.AF_UNIX:
            return socket.socket(family, socket.SOCK_STREAM)
        space = netns.find_netns(self._target)
        if space is None:
            where = netns.describe(self._target)
            raise MachineError(f"babeld's TCP socket is looked for in {where}, which is not there")
        with space:
            return netns.socket_in(space, family, socket.SOCK_STREAM)

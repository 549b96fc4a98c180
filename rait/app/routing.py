"""babeld in a run: read its interfaces, and carry out the events that change them."""

from __future__ import annotations

import socket
from collections.abc import Iterator, Sequence

from rait.adapters import netns
from rait.adapters.babeld import BabeldClient, BabeldRefusedError
from rait.domain.babel import (
    BabeldState,
    extra_commands,
    is_ours,
    remembered_interfaces,
)
from rait.domain.backend import Outcome
from rait.domain.config.schema import Config
from rait.domain.errors import MachineError, RaitError
from rait.domain.events import BabelInterfaceAdded, BabelInterfaceFlushed, Event
from rait.domain.topology import Topology

UNMADE = "babeld was not given this interface, as the link could not be made"


class Routing:
    """One run's connection to babeld. Parameters that babeld refused once are not tried again.

    babeld runs in the target namespace. ``exclusive``: interfaces of others are flushed too.
    ``seconds`` is as in BabeldClient. ``client`` is to be closed.
    """

    def __init__(
        self,
        config: Config,
        *,
        exclusive: bool = False,
        seconds: float | None = None,
    ) -> None:
        self._babeld = config.babeld
        self._ifprefixes = tuple(transport.ifprefix for transport in config.transports)
        self._target = config.isolation.target_netns
        self._exclusive = exclusive
        self.client = BabeldClient(config.babeld, self._socket, seconds)
        self._taken: set[str] = set()
        self._refused: dict[str, str] = {}

    def is_ours(self, name: str, known: Topology) -> bool:
        """Whether an interface in babeld is one that we may flush."""
        return is_ours(name, self._ifprefixes, remembered_interfaces(known))

    def look(self) -> BabeldState:
        """Read babeld's interfaces; where that fails, the answer has the reason."""
        present: tuple[str, ...] = ()
        problem = None
        try:
            present = tuple(interface.name for interface in self.client.interfaces())
        except RaitError as error:
            problem = str(error)
        return BabeldState(
            present=present,
            problem=problem,
            param=self._babeld.param,
            ifprefixes=self._ifprefixes,
            exclusive=self._exclusive,
        )

    def apply(self, events: Sequence[Event], broken: set[str]) -> Iterator[Outcome]:
        """Carry out each event; ``broken`` are links that could not be made in this run."""
        index = 0
        while index < len(events):
            for error in self._carry_out(events[index : index + 2], broken):
                yield Outcome(index, error)
                index += 1

    @property
    def has_extra_cmd(self) -> bool:
        """Whether there is an ``extra_cmd`` to send."""
        return bool(extra_commands(self._babeld.extra_cmd))

    def finish(self) -> None:
        """Send ``extra_cmd``, a line at a time. Raises BabeldError, naming a refused command."""
        for command in extra_commands(self._babeld.extra_cmd):
            self.client.command(command)

    def _carry_out(self, events: Sequence[Event], broken: set[str]) -> tuple[str | None, ...]:
        """Carry out the first event, or the first two if they flush and add one interface.

        Returns a reason for each of these events: why it failed, or None.
        """
        match events:
            case [BabelInterfaceFlushed(name, old), BabelInterfaceAdded(again, new)] if (
                name == again
            ):
                unmade = name in broken
                return (_kept(UNMADE), UNMADE) if unmade else self._change(name, old, new)
            case [BabelInterfaceAdded(name, param), *_]:
                return (UNMADE if name in broken else self._add(name, param),)
            case [event, *_]:
                return (self._flush(event.name),)
        return ()

    def _change(self, name: str, old: str, new: str) -> tuple[str | None, str | None]:
        """Flush the interface and add it, or do neither.

        New parameters are tried once before the flush: babeld takes an ``interface`` command about
        an interface that it has as a change of the named parameters, and one that it refuses
        changes nothing (1.12.1). So a mistake in the parameters costs no interface its routes.
        """
        if new not in self._taken and (error := self._add(name, new)) is not None:
            return _kept(error), error
        if (error := self._flush(name)) is not None:
            return error, "babeld was not given the new parameters, as the flush before that failed"
        if (error := self._add(name, new)) is None:
            return None, None
        if new in self._refused and self._add(name, old) is None:
            return f"given back to babeld as it was: {error}", error
        return None, error

    def _add(self, name: str, param: str) -> str | None:
        if param in self._refused:
            first = self._refused[param]
            why = f"as it refused the same parameters for {first}"
            return f"babeld was not given this interface, {why}"
        try:
            self.client.add(name, param)
        except BabeldRefusedError as error:
            self._refused[param] = name
            self._taken.discard(param)
            return str(error)
        except RaitError as error:
            return str(error)
        self._taken.add(param)
        return None

    def _flush(self, name: str) -> str | None:
        try:
            self.client.flush(name)
        except RaitError as error:
            return str(error)
        return None

    def _socket(self, family: int) -> socket.socket:
        if family == socket.AF_UNIX:
            return socket.socket(family)
        space = netns.find_netns(self._target)
        if space is None:
            where = netns.describe(self._target)
            raise MachineError(f"babeld's TCP socket is looked for in {where}, which is not there")
        with space:
            return netns.socket_in(space, family, socket.SOCK_STREAM)


def _kept(error: str) -> str:
    """Why an interface was not flushed: adding it with the new parameters would fail."""
    return f"babeld keeps it as it is: {error}"

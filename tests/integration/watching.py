"""A `rait watch` of a node of the mesh, as tests start, hear and end it."""

from __future__ import annotations

import json
import re
import signal
import time
from collections.abc import Callable
from typing import Any

from rait.domain.troubles import FIRST_SECONDS
from rait.domain.watch import QUIET
from tests.integration import machine
from tests.integration.command import Result, Running
from tests.integration.harness import Node

WATCH = 'watch {\n  poll = "1s"\n  names = "1s"\n  look = "1h"\n}\n'


def until(is_so: Callable[[], Any], what: Callable[[], object] = str) -> Any:
    """Wait for a condition, and give it."""
    deadline = time.monotonic() + machine.PATIENCE
    while not (found := is_so()):
        assert time.monotonic() < deadline, what()
        time.sleep(0.02)
    return found


class Watch:
    """A `rait watch` of a node.

    It is ``running`` already, or is started. With ``exec_`` it shares no open file with the test,
    as the socket of a server that is to die.
    """

    def __init__(
        self,
        node: Node,
        *arguments: str,
        synced: bool = True,
        exec_: bool = False,
        running: Running | None = None,
    ) -> None:
        self.node = node
        self.is_over = False
        self.running = running or node.start("watch", *arguments, "--debug", exec_=exec_)
        if synced:
            self.syncs(1)

    def said(self) -> str:
        return self.running.said()

    def syncs(self, count: int) -> list[str]:
        """The causes of the syncs, of which there are to be so many at least."""

        def found() -> list[str]:
            assert not self.running.ended(), self.said()
            return re.findall(r"rait up \((.*?)\): ", self.said())

        return until(lambda: len(found()) >= count and found(), self.said)

    def syncs_for(self, cause: str) -> int:
        """How many syncs there were for a cause, alone or with others."""
        return sum(cause in each for each in self.syncs(1))

    def says(self, text: str) -> None:
        until(lambda: text in self.said(), self.said)

    def has(self, names: set[str]) -> None:
        until(lambda: self._links() == names, self.said)

    def _links(self) -> set[str]:
        """The links that have their peer, which they get last; none while there is no namespace."""
        try:
            if not self.node.interfaces():
                return set()
            return {name for name, link in self.node.state().items() if link.peer}
        except OSError:
            return set()

    def end(self, number: int = signal.SIGTERM) -> Result:
        if not self.running.ended():
            self.running.signal(number)
        until(self.running.ended, self.said)
        self.is_over = True
        result = self.running.wait()
        assert "Traceback" not in result.err, result.err
        assert self.node.private_key not in result.out + result.err
        return result


StartWatch = Callable[..., Watch]


def has_causes(node: Node, *wanted: str) -> bool:
    """Whether the journal has these causes, in this order.

    A look that has just begun may be what finds a change, and is its cause then. A sync may also be
    one for a link that rait has just made, of which the kernel tells late.
    """
    found = causes(node)
    both = zip(found, wanted, strict=False)
    return len(found) == len(wanted) and all(
        has == "look" or wants in has.split("; ") for has, wants in both
    )


def most_syncs(seconds: float) -> float:
    """So many syncs there may be in a burst of changes that lasts so long.

    The second one and those after it wait until nothing changes for the second QUIET. A busy
    machine can keep rait, or whoever makes the changes, for longer at any time.
    """
    return 2 + seconds / QUIET[1]


def most_told(seconds: float) -> int:
    """So often a trouble may be told that has lasted so long: what goes on is told once.

    It is told again at growing intervals, of which a busy machine may see the first.
    """
    times, interval = 1, FIRST_SECONDS
    while seconds >= interval:
        seconds -= interval
        times, interval = times + 1, 2 * interval
    return times


def causes(node: Node) -> list[str]:
    """The causes that the journal has."""
    return [json.loads(line)["cause"] for line in node.rait("log", "--json").out.splitlines()]

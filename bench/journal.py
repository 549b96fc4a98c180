"""How long the journal takes for a run of many events: to write it down, and to fold it again.

Usage: python bench/journal.py [--json PATH]
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from rait.adapters.journal.store import Journal
from rait.domain.backend import Outcome
from rait.domain.events import Event, LinkAdded, PeerAdded
from rait.domain.records import RunHeader
from rait.domain.topology import Device, Endpoint, Link, LinkPeer, LinkSettings, Origin

EVENTS = 10_000
SCOPE = "bench"
T = TypeVar("T")


def events() -> tuple[Event, ...]:
    """Half of them add a link, and half its peer."""
    found: list[Event] = []
    for number in range(EVENTS // 2):
        link = Link(
            f"rait4x{number}",
            Origin("kernel", "raitns", "4026531840:1"),
            LinkSettings(1420, 54, None, True, f"fe80::{number:x}/64"),
            Device("A" * 43 + "=", number, 54),
        )
        peer = LinkPeer(f"{number:043}=", Endpoint("192.0.2.1", 50153))
        found += [LinkAdded(link), PeerAdded(link.name, peer)]
    return tuple(found)


def measure(directory: Path) -> dict[str, float]:
    """Seconds by the name of the step."""
    seconds: dict[str, float] = {}

    def timed(name: str, step: Callable[[], T]) -> T:
        start = time.perf_counter()
        result = step()
        seconds[name] = time.perf_counter() - start
        return result

    intended = events()
    header = RunHeader(
        scope=SCOPE, command="bench", version="0", uid=0, started_at=time.time_ns(), public_key="k"
    )
    with Journal.open(directory / "journal.db") as journal:
        run = timed("begin (append 10,000)", lambda: journal.begin(header, (), intended))
        timed("record outcomes", lambda: run.record(map(Outcome, range(len(intended)))))
        memory = timed("memory (fold 10,000)", lambda: journal.last_known(SCOPE))
        assert len(memory.topology.links) == EVENTS // 2  # noqa: S101
        seconds["total, appended and folded"] = sum(seconds.values())
        timed("verify", journal.verify)
        timed("finish, with a snapshot", lambda: run.finish("done"))
        timed("memory from the snapshot", lambda: journal.last_known(SCOPE))
    return seconds


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--json", type=Path, metavar="PATH")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as directory:
        seconds = measure(Path(directory))
    for name, value in seconds.items():
        print(f"{name:32}{value:8.3f} s")
    if arguments.json:
        arguments.json.write_text(json.dumps({"events": EVENTS, "seconds": seconds}, indent=2))


if __name__ == "__main__":
    main()

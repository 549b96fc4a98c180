"""rait and the floor, side by side, on a machine whose kernel has WireGuard.

Usage, as root: kernel.py --links 10,100,1000 --repeat 5

Each sample is a line of JSON after MARK, so that a machine that is stopped early has told what it
knew; bench/run.py reads them. Configuration and peers are TOML.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import measure
import node

MARK = "@sample "
ONE_SOCKET_LINKS = 100
"""Up to here the floor removes a group from one socket; for more that takes minutes."""


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--links", default="10,100,1000")
    parser.add_argument("--repeat", type=int, default=5)
    arguments = parser.parse_args()
    counts = [int(text) for text in arguments.links.split(",")]
    # The file systems of a virtual machine are not those of a machine: this one is memory.
    with tempfile.TemporaryDirectory(dir="/run") as directory:
        for _ in range(arguments.repeat):
            for sample in starts(Path(directory)):
                tell(0, sample)
        for count in counts:
            for _ in range(arguments.repeat):
                for sample in one_round(Path(directory), count):
                    tell(count, sample)


def tell(links: int, sample: dict[str, Any]) -> None:
    sample.pop("out", None)
    print(MARK + json.dumps({"links": links, **sample}), flush=True)


def starts(directory: Path) -> Iterator[dict[str, Any]]:
    """What it costs to start: Python alone, rait alone, and a run without any peers, in HCL."""
    yield {"what": "python", **measure.run([measure.PYTHON, "-c", "pass"])}
    yield {"what": "version", **measure.rait(["--version"], directory)}
    yield start(directory, "hcl")


def start(directory: Path, form: str) -> dict[str, Any]:
    """A run without any peers."""
    with Node(directory, 0, form) as empty:
        empty.rait("up")
        return {"what": f"empty {form}", **empty.rait("up")}


def one_round(directory: Path, count: int) -> Iterator[dict[str, Any]]:
    """The floor, a run without peers, then all that is asked of rait: each once, in turn."""
    sockets = 1 if count <= ONE_SOCKET_LINKS else 16
    yield {"what": "floor", **measure.told(directory, "floor.py", count, "--sockets", sockets)}
    yield start(directory, "toml")
    with Node(directory, count, "toml") as here:
        yield {"what": "up", **here.rait("up")}
        here.expect(count)
        yield {"what": "nothing", **here.rait("up")}
        yield {"what": "sync", **here.syncs()}
        node.write_peers(directory, "toml", count, changed=1)
        yield {"what": "changed", **here.rait("up")}
        yield {"what": "down", **here.rait("down")}
        here.expect(0)


class Node:
    """A node with a namespace and a journal of its own; it leaves nothing behind."""

    def __init__(self, directory: Path, count: int, form: str) -> None:
        self._directory = directory
        self._count = count
        self._target = f"bench{os.getpid()}n{time.monotonic_ns()}"
        self._config = node.write_config(directory, form, prefix="bench", target=self._target)
        node.write_peers(directory, form, count)

    def __enter__(self) -> Node:
        return self

    def __exit__(self, *_: object) -> None:
        subprocess.run(["ip", "netns", "delete", self._target], check=False)
        for file in self._directory.glob("journal.db*"):
            file.unlink()

    def rait(self, command: str) -> dict[str, Any]:
        return measure.rait(["-c", str(self._config), command], self._directory)

    def syncs(self) -> dict[str, Any]:
        """Syncs with nothing to do, in one process."""
        arguments = self._config, self._count, "--syncs", 10
        part = measure.told(self._directory, "syncs.py", *arguments)
        names = {"wall": "nothing, wall", "cpu": "nothing, cpu", "memory": "memory, MB"}
        return {figure: part[name] for figure, name in names.items()}

    def expect(self, count: int) -> None:
        """Raise RuntimeError unless there are so many links."""
        command = ["ip", "-n", self._target, "-o", "link", "show", "type", "wireguard"]
        listing = subprocess.run(command, check=True, capture_output=True, text=True).stdout
        if listing.count("\n") != count:
            raise RuntimeError(f"{listing.count(chr(10))} links are there, not {count}")


if __name__ == "__main__":
    main()

"""`rait watch` beside what it costs: idle, and when a peer's entry in the list changes.

Usage: watching.py CONFIG COUNT [--changes N] [--idle SECONDS]

CONFIG is a rait.conf as bench/node.py writes it. The kernel's netlink is played (played_kernel.py),
all else is real: the namespaces, the files, inotify, the journal. Prints JSON: seconds from the
write of the list to the last netlink message that it caused, median and longest; processor seconds
for it, median; the share of a processor that rait takes while nothing happens; memory, and how much
more it is than after the first change.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import statistics
import threading
import time
from pathlib import Path

import node
import syncs
from played_kernel import PlayedKernel

from rait import cli

CALM = 1.5
"""Seconds without a netlink message, after which a sync is over and the next change no burst."""

IDLE = 60.0
"""Seconds, in which there is one look at the machine, as nobody tells of all that may change."""


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("config", type=Path)
    parser.add_argument("count", type=int)
    parser.add_argument("--changes", type=int, default=20)
    parser.add_argument("--idle", type=float, default=IDLE)
    arguments = parser.parse_args()
    kernel = syncs.played(str(arguments.config))
    threading.Thread(target=observe, args=(kernel, arguments), daemon=True).start()
    cli.main(["-c", str(arguments.config), "watch"])


def observe(kernel: PlayedKernel, arguments: argparse.Namespace) -> None:
    """Change the list again and again, then leave rait idle, and tell what was seen."""
    try:
        calm(kernel, 0.0)
        node.write_peers(arguments.config.parent, "toml", arguments.count, 1)
        calm(kernel, time.perf_counter())
        at_first = syncs.size()
        latencies, cpu = [], []
        for number in range(arguments.changes):
            before = time.process_time()
            began = time.perf_counter()
            node.write_peers(arguments.config.parent, "toml", arguments.count, number % 2)
            latencies.append(calm(kernel, began) - began)
            cpu.append(time.process_time() - before)
        before = time.process_time()
        time.sleep(arguments.idle)
        idle = (time.process_time() - before) / arguments.idle
        memory, descriptors = syncs.size()
        found = {
            "write to last message": statistics.median(latencies),
            "write to last message, longest": max(latencies),
            "processor for it": statistics.median(cpu),
            "idle, share of a processor": idle,
            "memory, MB": memory,
            "grown, MB": memory - at_first[0],
            "grown, descriptors": descriptors - at_first[1],
        }
        print(json.dumps(found), flush=True)
    finally:
        os.kill(os.getpid(), signal.SIGTERM)


def calm(kernel: PlayedKernel, began: float) -> float:
    """When the last message was sent, once there was one since, and then none for a while."""
    while kernel.last_sent <= began or time.perf_counter() - kernel.last_sent < CALM:
        time.sleep(CALM / 10)
    return kernel.last_sent


if __name__ == "__main__":
    main()

"""Syncs in one process, as in `rait watch`: what start-up does not count in.

Usage: syncs.py CONFIG COUNT [--played] [--syncs N]

CONFIG is a rait.conf as bench/node.py writes it, with a peers list of COUNT peers beside it. Makes
the links if they are not there, and then syncs N times with nothing to do, and N times with another
endpoint for one of the peers. Then looks N times, as for metrics. Prints JSON: medians of processor
and wall seconds, and by how much memory and descriptors have grown over all. With --played, netlink
leads to played_kernel.py.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from pathlib import Path

import measure  # noqa: F401 - finds rait
import node
from played_kernel import PlayedKernel

from rait.adapters import keys
from rait.app import desired
from rait.app.load import load_config, load_key
from rait.app.options import Options
from rait.app.status import StatusReader

FIRST = 5
"""Syncs before the measured ones: the first loads modules."""


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("config", type=Path)
    parser.add_argument("count", type=int)
    parser.add_argument("--played", action="store_true")
    parser.add_argument("--syncs", type=int, default=500)
    arguments = parser.parse_args()
    options = Options(config=str(arguments.config))
    if arguments.played:
        played(options.config)
    for changed in [*range(2), *[0] * FIRST]:
        sync(options, arguments.count, changed)
    before = size()
    found: dict[str, float] = {}
    for what in ("nothing", "changed"):
        changes = (what == "changed" and i % 2 == 0 for i in range(arguments.syncs))
        samples = [sync(options, arguments.count, int(each)) for each in changes]
        cpu, wall = zip(*samples, strict=True)
        found[f"{what}, cpu"] = statistics.median(cpu)
        found[f"{what}, wall"] = statistics.median(wall)
    reader = StatusReader(options)
    looks = [look(reader, arguments.count) for _ in range(arguments.syncs)]
    found["look, cpu"] = statistics.median(looks)
    memory, descriptors = size()
    found |= {"memory, MB": memory, "grown, MB": memory - before[0]}
    print(json.dumps({**found, "grown, descriptors": descriptors - before[1]}))


def played(config: str) -> PlayedKernel:
    """Play the kernel of the node with this configuration."""
    key = load_key(load_config(config))
    # Loads what is loaded only if other nodes of this machine have pushed our cache files out.
    keys.public_key(keys.new_private_key())
    kernel = PlayedKernel(key.public)
    kernel.install()
    return kernel


def sync(options: Options, count: int, changed: int) -> tuple[float, float]:
    """One sync with this list of peers: processor and wall seconds."""
    node.write_peers(Path(options.config).parent, "toml", count, changed)
    cpu, wall = time.process_time(), time.perf_counter()
    report = desired.up(options)
    if report.status not in ("done", "unchanged") or report.links != count:
        raise RuntimeError(f"{report.status}: {report.failures[:3]}")
    return time.process_time() - cpu, time.perf_counter() - wall


def look(reader: StatusReader, count: int) -> float:
    """One look, as for metrics: processor seconds."""
    cpu = time.process_time()
    status = reader.read()
    if len(status.links) != count:
        raise RuntimeError(f"{len(status.links)} links are seen")
    return time.process_time() - cpu


def size() -> tuple[float, int]:
    """This process: its memory in MB, and its open descriptors."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    descriptors = sum(1 for _ in Path("/proc/self/fd").iterdir())
    return pages * os.sysconf("SC_PAGESIZE") / 2**20, descriptors


if __name__ == "__main__":
    main()

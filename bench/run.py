#!/usr/bin/env python3
"""The benchmark: what rait takes, beside what the kernel takes, and whether the targets are met.

Usage, as root: run.py [--links 10,100,1000] [--repeat 5] [--only kernel|host] [--out DIRECTORY]

Prints Markdown tables and writes all samples to DIRECTORY/bench.json. The kernel's part runs in a
virtual machine, or right here with --here if this machine's kernel has WireGuard. Times in an
emulated machine are many times those of a real one: what counts is rait beside the floor.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

BENCH = Path(__file__).resolve().parent
sys.path[:0] = [str(BENCH), str(BENCH.parent), str(BENCH.parent / "scripts")]

import host  # noqa: E402
import kernel  # noqa: E402
import report  # noqa: E402
import virtual_machine  # noqa: E402

HOURS = 3600.0


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--links", default="10,100,1000", help="numbers of links (%(default)s)")
    parser.add_argument("--repeat", type=int, default=5, help="samples of each (%(default)s)")
    parser.add_argument("--only", choices=("kernel", "host"), help="this part alone")
    parser.add_argument("--here", action="store_true", help="no virtual machine")
    parser.add_argument("--timeout", type=float, default=3 * HOURS, help="of the machine, seconds")
    parser.add_argument("--out", type=Path, default=BENCH / "out", metavar="DIRECTORY")
    arguments = parser.parse_args()
    start = time.monotonic()
    found: dict[str, Any] = {"machine": machine(), "repeat": arguments.repeat}
    if arguments.only != "kernel":
        found["host"] = host.all_parts(arguments.repeat)
    if arguments.only != "host":
        found["kernel"] = in_kernel(arguments)
    found["seconds"] = time.monotonic() - start
    arguments.out.mkdir(parents=True, exist_ok=True)
    (arguments.out / "bench.json").write_text(json.dumps(found, indent=1))
    print(report.markdown(found))
    return 0


def machine() -> dict[str, Any]:
    """What the figures are of."""
    processors = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace")
    models = [line.partition(": ")[2] for line in processors.splitlines() if "model name" in line]
    return {
        "processor": models[0] if models else platform.machine(),
        "count": os.cpu_count(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "load": os.getloadavg()[0],
        "emulated": not virtual_machine.has_kvm(),
    }


def in_kernel(arguments: argparse.Namespace) -> list[dict[str, Any]]:
    """The samples that kernel.py took."""
    command = [sys.executable, str(BENCH / "kernel.py")]
    command += ["--links", arguments.links, "--repeat", str(arguments.repeat)]
    samples: list[dict[str, Any]] = []

    def note(line: str) -> None:
        if line.startswith(kernel.MARK):
            samples.append(json.loads(line.removeprefix(kernel.MARK)))
            sample = samples[-1]
            line = f"{sample['links']} links: {sample['what']}\n"
        print(line, end="", file=sys.stderr, flush=True)

    if arguments.here:
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
            for line in process.stdout or ():
                note(line)
        status: int | None = process.returncode
    else:
        subprocess.run([sys.executable, "-m", "compileall", "-q", str(BENCH)], check=True)
        try:
            status = virtual_machine.run(command, ("wireguard",), arguments.timeout, note)
        except virtual_machine.BootError as error:
            print(f"THE KERNEL'S PART DID NOT RUN: {error}", file=sys.stderr)
            return []
    if status != 0:
        print(f"THE KERNEL'S PART ENDED EARLY: status {status}", file=sys.stderr)
    return samples


if __name__ == "__main__":
    sys.exit(main())

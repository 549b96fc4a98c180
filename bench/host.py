"""What can be measured without a kernel that has WireGuard: the parts of rait by themselves.

All figures are processor seconds, medians of several.
"""

from __future__ import annotations

import gc
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import journal
import measure
import node

from rait.adapters.config import caches, formats
from rait.app.load import load_config, load_peers
from rait.domain.config.decode_config import decode_config
from rait.domain.config.decode_peers import decode_peers
from rait.domain.diff import diff
from rait.domain.plan import Node, plan
from rait.domain.topology import EMPTY, Origin

COUNTS = (1000, 10_000, 50_000)
LINKS = 100
FLEETS = ((1000, 10), (10_000, 10), (1000, 1000))
"""How many nodes, and how many of them get another address."""

COMMANDS: dict[str, list[str]] = {
    "rait --version": ["--version"],
    "rait --help": ["--help"],
    "rait up --help": ["up", "--help"],
    "rait up, no peers": ["up"],
    "rait down, no links": ["down"],
    "rait list, no links": ["list"],
    "rait status, no links": ["status"],
    "rait plan, no peers": ["plan"],
    "rait log, empty": ["log"],
    "rait babeld --help": ["babeld", "--help"],
}


def all_parts(repeat: int) -> dict[str, Any]:
    """Everything, by part."""
    # The environment may keep Python from doing so by itself, and then each start would compile.
    subprocess.run([sys.executable, "-m", "compileall", "-q", "rait", "bench"], cwd=measure.REPO)
    gc.set_threshold(100_000)  # as rait/__main__.py has it
    with tempfile.TemporaryDirectory() as name:
        directory = Path(name)
        found: dict[str, Any] = {
            # First, before this process grows: its memory counts for those that it starts.
            "fleet": fleet(directory, repeat),
            "starts": starts(directory, repeat),
            "loading": loading(directory, repeat),
            "planning": planning(directory, repeat),
            "journal": journal.measure(directory),
            "syncs": played(directory, "syncs.py", "--played"),
            "watch": played(directory, "watching.py"),
        }
        if shutil.which("etcd"):
            found["etcd"] = measure.told(directory, "etcd.py")
        else:
            print("ETCD'S PART DID NOT RUN: install etcd-server", file=sys.stderr)
        why_not = userspace_is_missing()
        if why_not:
            print(f"THE USERSPACE PART DID NOT RUN: {why_not}", file=sys.stderr)
        else:
            found["breakdown"] = breakdown(directory, repeat)
    return found


def starts(directory: Path, repeat: int) -> dict[str, float]:
    """Processor seconds from start to end of each command, with a TOML configuration."""
    target = f"bench{os.getpid()}"
    config = node.write_config(directory, "toml", prefix="bench", target=target)
    node.write_peers(directory, "toml", 0)
    samples: dict[str, list[float]] = {}
    bare = ["-c", "pass"]
    rait = str(measure.BENCH / "program.py")
    try:
        measure.run([measure.PYTHON, rait, "-c", str(config), "up"], directory)
        for _ in range(repeat):
            runs = {"python -c pass": bare}
            runs |= {
                name: [rait, "-c", str(config), *arguments] for name, arguments in COMMANDS.items()
            }
            for name, arguments in runs.items():
                found = measure.run([measure.PYTHON, *arguments], directory)
                samples.setdefault(name, []).append(found["cpu"])
    finally:
        subprocess.run(["ip", "netns", "delete", target], check=False)
    return {name: statistics.median(values) for name, values in samples.items()}


def loading(directory: Path, repeat: int) -> dict[str, float]:
    """Reading, parsing and decoding, with the libraries loaded already."""
    seconds = {}
    for form in ("toml", "hcl"):
        config = node.write_config(directory, form, prefix="bench", target="bench")
        _parsed(config)  # loads the library
        seconds[f"rait.conf, {form}"] = clock(partial(load_config, str(config)), repeat)
        for count in COUNTS if form == "toml" else COUNTS[:1]:
            peers = node.write_peers(directory, form, count)
            label = f"{count} peers, {form}"
            seconds[label] = clock(partial(_parsed, peers), repeat)
            loaded = load_config(str(config))
            with caches.keeping():
                load_peers(loaded)
            known = partial(load_peers, loaded)
            seconds[f"{label}, known from the last time"] = clock(known, repeat)
    return seconds


def _parsed(path: Path) -> object:
    data = formats.parse(path.read_text(), path.name).data
    return decode_peers(data) if path.name.startswith("peers") else decode_config(data)


def planning(directory: Path, repeat: int) -> dict[str, dict[str, float]]:
    """Planning, and coming to it from nothing, from one peer's difference, and from itself."""
    config_path = node.write_config(directory, "toml", prefix="bench", target="bench")
    config = load_config(str(config_path)).config
    here = Node(public_key=node.key("us"), origin=Origin("kernel", "bench", "1"))
    found = {}
    for count in COUNTS:
        peers, moved = (
            decode_peers(formats.parse(path.read_text(), path.name).data)[0]
            for path in (node.write_peers(directory, "toml", count, changed) for changed in (0, 1))
        )
        planned = plan(config, here, peers).topology
        other = plan(config, here, moved).topology
        found[str(count)] = {
            "plan": clock(partial(plan, config, here, peers), repeat),
            "diff from nothing": clock(partial(diff, EMPTY, planned), repeat),
            "diff of one peer": clock(partial(diff, other, planned), repeat),
            "diff, nothing to do": clock(partial(diff, planned, planned), repeat),
        }
    return found


def fleet(directory: Path, repeat: int) -> dict[str, dict[str, float]]:
    """``rait fleet plan`` as a process: processor seconds and memory in MB."""
    found = {}
    for count, changed in FLEETS:
        old = node.write_peers(directory, "toml", count).rename(directory / "old.toml")
        new = node.write_peers(directory, "toml", count, changed)
        command = [measure.PYTHON, str(measure.BENCH / "program.py"), "fleet", "plan", old, new]
        # Nodes that move at once interrupt each other, with status 5.
        runs = (measure.run(list(map(str, command)), directory, (0, 5)) for _ in range(repeat))
        samples = list(runs)
        found[f"{count} nodes, {changed} changed"] = {
            "processor s": statistics.median(sample["cpu"] for sample in samples),
            "memory, MB": statistics.median(sample["memory"] for sample in samples),
        }
    return found


def played(directory: Path, script: str, *arguments: str) -> dict[str, float]:
    """What a script tells of one process with 100 links of a kernel that is played."""
    target = f"bench{os.getpid()}played"
    config = node.write_config(directory, "toml", prefix="bench", target=target)
    node.write_peers(directory, "toml", LINKS)
    try:
        return measure.told(directory, script, config, LINKS, *arguments)
    finally:
        subprocess.run(["ip", "netns", "delete", target], check=False)
        for file in directory.glob("journal.db*"):
            file.unlink()


def breakdown(directory: Path, repeat: int) -> dict[str, dict[str, float]]:
    """``rait up`` with nothing to do and ten peers, on wireguard-go, by part and in all."""
    found = {}
    for form in ("toml", "hcl"):
        target, transit = (f"bench{os.getpid()}{form}{end}" for end in ("", "transit"))
        prefix = f"b{os.getpid()}{form[0]}"
        config = node.write_config(directory, form, prefix=prefix, target=target, transit=transit)
        node.write_peers(directory, form, 10)
        rait = [measure.PYTHON, str(measure.BENCH / "program.py"), "-c", str(config)]
        # Of our own, as the ports may be taken in the current one.
        subprocess.run(["ip", "netns", "add", transit], check=True)
        try:
            measure.run([*rait, "up"], directory)
            whole, samples = [], []
            for _ in range(repeat):
                # rait keeps few files for the whole machine: others may have pushed ours out.
                measure.run([*rait, "up"], directory)
                whole.append(measure.run([*rait, "up"], directory)["cpu"])
                samples.append(measure.told(directory, "breakdown.py", "-c", config, "up"))
        finally:
            measure.run([*rait, "down"], directory)
            for namespace in (target, transit):
                subprocess.run(["ip", "netns", "delete", namespace], check=False)
        found[form] = {part: statistics.median(s[part] for s in samples) for part in samples[0]}
        found[form]["process"] = statistics.median(whole)
    return found


def userspace_is_missing() -> str:
    """Why there can be no userspace links here, or ""."""
    if os.geteuid() != 0:
        return "it takes root"
    from rait.adapters.wireguard import process

    return process.why_not()


def clock(step: Callable[[], object], repeat: int) -> float:
    """The median processor seconds of a step."""
    samples = []
    for _ in range(repeat):
        start = time.process_time()
        step()
        samples.append(time.process_time() - start)
    return statistics.median(samples)

"""A registry of 10,000 entries in three members of Debian's etcd: to read it, and to see a change.

Usage: etcd.py [COUNT]

The members are on this machine, and so take of the same processors. Prints JSON, in seconds on the
wall unless said: `rait plan` as a process; its reading alone, which is one request, and with all
that is decoded; and, by one who follows it, from the begin of a put to the new list, and to its
peers, each the median and the longest of 20.
"""

from __future__ import annotations

import json
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import measure
import node

sys.path.insert(0, str(measure.REPO))

from rait.adapters.config import formats, source
from rait.app.load import load_config, load_peers
from rait.domain.config.decode_peers import decode_peers
from tests.integration.etcd import Cluster, cluster, raw
from tests.integration.following import following

PREFIX = "/rait/peers"
AT_ONCE = 100
"""Keys in one transaction: etcd allows 128."""

CHANGES = 20


def entry(number: int, port: int = 0) -> tuple[str, str]:
    key = node.key(f"peer {number}")
    found = {
        "public_key": key,
        "name": f"node{number}",
        "address_family": "ip4",
        "send_port": port or node.FIRST_PORT + number,
        "endpoint": f"10.2.{number >> 8}.{number & 255}",
    }
    return f"{PREFIX}/{key}", json.dumps(found)


def fill(etcd: Cluster, count: int) -> None:
    for first in range(0, count, AT_ONCE):
        entries = (entry(number) for number in range(first, min(first + AT_ONCE, count)))
        puts = [{"request_put": {"key": raw(key), "value": raw(text)}} for key, text in entries]
        etcd.call("/v3/kv/txn", {"success": puts})


def clock(step: Callable[[], object], repeat: int = 5) -> dict[str, float]:
    samples = []
    for _ in range(repeat):
        before, began = time.process_time(), time.perf_counter()
        step()
        samples.append((time.perf_counter() - began, time.process_time() - before))
    wall, cpu = (statistics.median(each) for each in zip(*samples, strict=True))
    return {"": wall, ", processor": cpu}


def changes(etcd: Cluster, url: str, count: int) -> dict[str, float]:
    """How long it takes until a follower has the list with a change, and until it has the peers."""
    told, decoded = [], []
    with following([url]) as (follower,):
        follower.has(lambda found: len(found) == count)
        for number in range(CHANGES):
            seen, began = len(follower.told), time.perf_counter()
            etcd.put(*entry(number, 9000 + number))
            while len(follower.told) == seen:
                time.sleep(0.001)
            told.append(time.perf_counter() - began)
            peers, problems, *_ = decode_peers(formats.parse(follower.text, url).data)
            decoded.append(time.perf_counter() - began)
            if len(peers) != count:
                raise RuntimeError(f"not all entries are good: {problems[:3]}")
    return {
        "put to list": statistics.median(told),
        "put to list, longest": max(told),
        "put to peers": statistics.median(decoded),
        "put to peers, longest": max(decoded),
    }


def main() -> None:
    count = int(sys.argv[1]) if len(sys.argv) > 1 else 10_000
    with cluster() as etcd, tempfile.TemporaryDirectory() as name:
        fill(etcd, count)
        url, directory = etcd.url(PREFIX), Path(name)
        config = node.write_config(directory, "toml", prefix="bench", target="")
        config.write_text(config.read_text().replace("peers.toml", url))
        plan = [measure.PYTHON, str(measure.BENCH / "program.py"), "-c", str(config), "plan"]
        run = measure.run(plan, directory, (0, 1, 2, 3))
        found = {"rait plan": run["wall"], "rait plan, processor": run["cpu"]}
        steps: dict[str, Callable[[], object]] = {
            "read": lambda: source.read(url),
            "read and decode": lambda: load_peers(load_config(str(config))),
        }
        for what, step in steps.items():
            found |= {f"{what}{kind}": seconds for kind, seconds in clock(step).items()}
        print(json.dumps(found | changes(etcd, url, count)))


if __name__ == "__main__":
    main()

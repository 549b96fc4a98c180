"""Carries out tasks, each in a process of its own, and says what time and memory each took.

A line of JSON in, one out. The processes are forked from this one, which has all libraries loaded,
so that what they take is what the input costs. Whatever an input does, it ends: the processes may
not have more than ``MOST_SECONDS`` and ``MOST_BYTES``.
"""

from __future__ import annotations

import json
import os
import resource
import sys
import traceback
from typing import Any

# Loaded before the first fork, or each process would pay for them.
import tomli  # noqa: F401

from rait.adapters.config import caches, source
from rait.app.load import load_config, load_peers
from rait.app.options import Options
from rait.commands.plan import plan_against
from rait.domain.errors import RaitError

MOST_SECONDS = 30
MOST_BYTES = 3 * 1024**3


def main() -> None:
    for line in sys.stdin:
        reading, writing = os.pipe()
        child = os.fork()
        if child == 0:
            os.close(reading)
            with os.fdopen(writing, "w") as out:
                json.dump(_measured(json.loads(line)), out)
                out.flush()
                os._exit(0)
        os.close(writing)
        with os.fdopen(reading) as found:
            answer = found.read()
        _, status = os.waitpid(child, 0)
        print(answer or json.dumps({"crash": f"ended with {status}"}), flush=True)


def _measured(task: dict[str, Any]) -> dict[str, Any]:
    seconds, kilobytes = _used()
    resource.setrlimit(resource.RLIMIT_CPU, (MOST_SECONDS, MOST_SECONDS))
    resource.setrlimit(resource.RLIMIT_AS, (MOST_BYTES, MOST_BYTES))
    try:
        found = next(do(**task) for name, do in _TASKS.items() if name in task)
    except RaitError as error:
        found = {"error": str(error)}
    except BaseException:  # noqa: BLE001 - a bug or a bound, either of which the test shows
        found = {"crash": traceback.format_exc()}
    now_seconds, now_kilobytes = _used()
    used = {"seconds": now_seconds - seconds, "megabytes": (now_kilobytes - kilobytes) / 1024}
    return found | used


def _used() -> tuple[float, int]:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime, used.ru_maxrss


def _read(url: str, timeout: float) -> dict[str, Any]:
    source.TIMEOUT = timeout
    return {"text": source.read(url)}


def _load(conf: str, cache: str) -> dict[str, Any]:
    caches.cache_directory = lambda: cache
    with caches.keeping():
        loaded = load_config(conf)
        peers = load_peers(loaded)
    return {"peers": len(peers.peers), "warnings": [*loaded.warnings, *peers.warnings]}


def _plan(against: str, conf: str) -> dict[str, Any]:
    report = plan_against(Options(config=conf), against)
    return {"links": report.links}


_TASKS = {"url": _read, "cache": _load, "against": _plan}
"""What to do, by the argument that tells."""


if __name__ == "__main__":
    main()

"""Where the time of one command goes: processor seconds by part, as JSON.

Usage: breakdown.py [ARGUMENT OF rait...]

It is rait itself, with a clock around the functions that do each part.
"""

from __future__ import annotations

import gc
import importlib
import json
import sys
import time

START = time.process_time()  # what the interpreter took before it came here

PARTS = (
    ("configuration", "rait.app.inputs", "configured"),
    ("private key", "rait.app.inputs", "load_key"),
    ("journal", "rait.app.session", "Journal.open"),
    ("journal", "rait.adapters.journal.reader", "JournalReader.last_known"),
    ("journal", "rait.adapters.journal.store", "Journal.close"),
    ("peers", "rait.app.inputs", "load_registry"),
    ("names", "rait.app.inputs", "_with_addresses"),
    ("backend", "rait.app.machine", "Machine.choose"),
    ("observe", "rait.app.machine", "Machine.observe"),
    ("plan", "rait.app.desired", "plan"),
    ("reconcile", "rait.app.session", "reconcile"),
)


def main() -> int:
    seconds = {"python": START}
    from rait import cli

    gc.set_threshold(100_000)  # as rait/__main__.py has it
    importlib.import_module("rait.commands.up")
    seconds["imports"] = time.process_time() - START
    for part, module, name in PARTS:
        _clocked(seconds, part, module, name)
    sys.stdout = sys.stderr
    status = cli.main(sys.argv[1:])
    sys.stdout = sys.__stdout__
    total = time.process_time()
    seconds["other"] = total - sum(seconds.values())
    print(json.dumps({**seconds, "total": total}))
    return status


def _clocked(seconds: dict[str, float], part: str, module: str, name: str) -> None:
    owner: object = importlib.import_module(module)
    *classes, attribute = name.split(".")
    for each in classes:
        owner = getattr(owner, each)
    function = getattr(owner, attribute)

    def clocked(*arguments: object, **named: object) -> object:
        start = time.process_time()
        try:
            return function(*arguments, **named)
        finally:
            seconds[part] = seconds.get(part, 0.0) + time.process_time() - start

    setattr(owner, attribute, clocked)


if __name__ == "__main__":
    sys.exit(main())

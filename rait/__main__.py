"""The program ``rait``, which is also ``python -m rait``."""

import gc
import sys

from rait.cli import main

_OBJECTS_BETWEEN_COLLECTIONS = 100_000


def run() -> int:
    """Run one command of ``sys.argv``, for a process that does nothing else; the exit status."""
    # A run is short, and looking for garbage in cycles, which it makes little of, would cost a
    # tenth of it. At its end the interpreter would look through everything once more.
    gc.set_threshold(_OBJECTS_BETWEEN_COLLECTIONS)
    try:
        return main()
    finally:
        gc.freeze()


if __name__ == "__main__":
    sys.exit(run())

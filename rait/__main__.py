"""The program ``rait``, which is also ``python -m rait``."""

from __future__ import annotations

import gc
import os

TYPE_CHECKING = False
if TYPE_CHECKING:
    from typing import NoReturn

_OBJECTS_BETWEEN_COLLECTIONS = 100_000
_STDERR = 2


def main() -> NoReturn:
    """Run one command of ``sys.argv``, and end the process."""
    status = run()
    # Nothing is left to be written: whatever was told was flushed then. The interpreter would now
    # free each object by itself, which takes a tenth of a short run.
    os._exit(status)


def run() -> int:
    """Run one command of ``sys.argv``, for a process that does nothing else; the exit status."""
    # A run is short, and looking for garbage in cycles, which it makes little of, would cost a
    # tenth of it.
    gc.set_threshold(_OBJECTS_BETWEEN_COLLECTIONS)
    try:
        _occupy_standard_files()
        from rait import cli  # here, for whoever interrupts while it is read

        return cli.main()
    except KeyboardInterrupt:
        return 1
    except Exception:  # noqa: BLE001 - whatever it is, its text reaches the terminal clean
        from rait.terminal import warn_of_crash

        warn_of_crash()
        return 1


def _occupy_standard_files() -> None:
    """Keep the journal from becoming standard output where we were started with that closed."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= _STDERR:
        pass
    os.close(descriptor)


if __name__ == "__main__":
    main()

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
    # All output was flushed when it was printed. A normal end would free each object by itself,
    # which takes a tenth of a short run.
    os._exit(status)


def run() -> int:
    """Run one command of ``sys.argv``, for a process that does nothing else; the exit status."""
    # A run is short and makes little garbage in cycles; to look for it would take a tenth of a run.
    gc.set_threshold(_OBJECTS_BETWEEN_COLLECTIONS)
    try:
        _occupy_standard_files()
        from rait import cli  # here, so that Ctrl-C while it is imported ends in order

        return cli.main()
    except KeyboardInterrupt:
        return 1
    except Exception:  # noqa: BLE001 - whatever it is, its text reaches the terminal clean
        from rait.terminal import warn_of_crash

        warn_of_crash()
        return 1


def _occupy_standard_files() -> None:
    """Open closed standard files, so that the journal's file does not become one of them."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= _STDERR:
        pass
    os.close(descriptor)


if __name__ == "__main__":
    main()

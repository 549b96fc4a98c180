"""The program ``rait``, which is also ``python -m rait``."""

import gc
import os
import sys

_OBJECTS_BETWEEN_COLLECTIONS = 100_000
_STDERR = 2


def run() -> int:
    """Run one command of ``sys.argv``, for a process that does nothing else; the exit status."""
    # A run is short, and looking for garbage in cycles, which it makes little of, would cost a
    # tenth of it. At its end the interpreter would look through everything once more.
    gc.set_threshold(_OBJECTS_BETWEEN_COLLECTIONS)
    try:
        _occupy_standard_files()
        from rait.cli import main  # here, for whoever interrupts while it is read

        return main()
    except KeyboardInterrupt:
        return 1
    except Exception:  # noqa: BLE001 - whatever it is, its text reaches the terminal clean
        from rait.terminal import complain_of_crash

        complain_of_crash()
        return 1
    finally:
        gc.freeze()


def _occupy_standard_files() -> None:
    """Keep the journal from becoming standard output where we were started with that closed."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= _STDERR:
        pass
    os.close(descriptor)


if __name__ == "__main__":
    sys.exit(run())

"""One module a command: its options, its use case and its output.

A module is imported when its command runs, or to show its help. Its ``declare`` says what the
command is, and no command imports another.
"""

import sys

if not {"msgspec", "typing_extensions"} & sys.modules.keys():
    # Where typing_extensions is installed, as it is beside httpx, msgspec loads it, and with it
    # inspect, ast and tokenize: a tenth of a run with nothing to do. All that rait's types need is
    # in typing itself, which msgspec takes if that import fails, as it does for None.
    sys.modules["typing_extensions"] = None  # type: ignore[assignment]
    import msgspec  # noqa: F401

    del sys.modules["typing_extensions"]

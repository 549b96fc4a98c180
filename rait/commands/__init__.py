"""One module a command: its use case and its output.

A module is imported when its command runs; rait/usage.py has its options and its help, and names
the function that runs it. No command imports another.
"""

import os
import sys
from types import SimpleNamespace

if not {"msgspec", "typing_extensions", "platform"} & sys.modules.keys():
    # Where typing_extensions is installed, as it is beside httpx, msgspec loads it, and with it
    # inspect, ast and tokenize: a tenth of a run with nothing to do. All that rait's types need is
    # in typing itself, which msgspec takes if that import fails, as it does for None.
    sys.modules["typing_extensions"] = None  # type: ignore[assignment]
    # msgspec loads uuid, which loads platform only to ask for the name of the system.
    sys.modules["platform"] = SimpleNamespace(  # type: ignore[assignment]
        system=lambda: os.uname().sysname
    )
    import msgspec  # noqa: F401

    del sys.modules["typing_extensions"], sys.modules["platform"]

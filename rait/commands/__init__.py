"""One module a command: its use case and its output.

A module is imported when its command runs; rait/usage.py has its options and its help, and names
the function that runs it. No command imports another.
"""

import os
import sys
from importlib import import_module
from types import SimpleNamespace


class _Later:
    """Stands for a module in sys.modules until something of it is used, and then loads it."""

    __spec__ = None

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, attribute: str) -> object:
        found: object = sys.modules.get(self._name)
        if found is self:
            sys.modules.pop(self._name, None)
        return getattr(import_module(self._name), attribute)


# msgspec and socket import these for functions that a run with nothing to do does not call.
for _name in ("array", "msgspec.inspect", "msgspec.toml", "msgspec.yaml", "selectors", "textwrap"):
    sys.modules.setdefault(_name, _Later(_name))  # type: ignore[arg-type]

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

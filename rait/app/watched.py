"""Who looks after a rait.conf: `rait watch` holds locks by which all others see that it does."""

from __future__ import annotations

import os
from contextlib import ExitStack

from rait.adapters.config.source import display_name, is_path
from rait.adapters.lock import HeldError, Stamp, hold, holder, stamp
from rait.app.scopes import normal
from rait.domain.digests import blake2b
from rait.domain.errors import MachineError

_SECONDS = 1.0
"""So long a watch waits for whoever just looks whether there is one."""


def _names(conf: str) -> list[str]:
    """The ends of the names of a rait.conf's locks: of its path, and of where that leads now."""
    paths = dict.fromkeys((normal(conf), os.path.realpath(conf)))
    digests = (blake2b(os.fsencode(path), digest_size=8).hexdigest() for path in paths)
    return [f".watch-{digest}" for digest in digests]


class Claim(ExitStack):
    """The claim to be the only `rait watch` of a rait.conf."""

    def __init__(self, conf: str) -> None:
        super().__init__()
        self._conf = conf
        self._names = _names(conf)
        self._held: dict[str, Stamp] = {}

    def extend(self, journal: str) -> None:
        """Claim it beside this journal too, and anew where a lock's file was removed.

        Raises MachineError if another watch has it.
        """
        for path in (os.path.realpath(journal) + name for name in self._names):
            if path in self._held and self._held[path] == _file(path):
                continue
            try:
                self.enter_context(hold(path, "rait watch", _SECONDS))
            except HeldError as error:
                raise MachineError(
                    f"{display_name(self._conf)} is looked after already: {error.holder}"
                ) from None
            self._held[path] = _file(path)


def _file(path: str) -> Stamp:
    """Which file is at a path, whatever its times are."""
    found = stamp(path)
    return found and found[:2]


def require_unwatched(conf: str, journal: str, command: str) -> None:
    """Raise MachineError if a `rait watch` would undo at once what this command does."""
    if not is_path(conf):
        return
    for name in _names(conf):
        if (who := holder(os.path.realpath(journal) + name)) is not None:
            raise MachineError(
                f"{who} looks after {display_name(conf)}, and would undo `{command}` at once, so "
                "nothing was touched; stop it first (`systemctl stop rait-watch`, or kill it)"
            )

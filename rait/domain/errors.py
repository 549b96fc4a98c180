"""What can be wrong, as values that a person can act upon, and how messages count and list."""

from collections.abc import Sequence
from typing import Literal

from msgspec import Struct

from rait.domain.topology import Family

Severity = Literal["error", "warning"]
Path = tuple[str | int, ...]
"""Where in a document: keys and zero-based indexes, as ``("transport", 1, "mtu")``."""

MORE_PROCESSES = "raise the limit of processes (`ulimit -u`, or TasksMax= of a systemd service)"
NO_THREAD = f"the system does not let rait start a thread; {MORE_PROCESSES}"

FEW = 5
"""How many names of a list a message has; the list may have thousands."""


class SkippedEntry(Struct, frozen=True):
    """An entry of the registry, or one endpoint in it, that was skipped.

    ``send_port`` is the port that the peer sends to. A field that could not be read is None.
    """

    public_key: str | None = None
    family: Family | None = None
    send_port: int | None = None


class Problem(Struct, frozen=True):
    """One finding about the input or about a link.

    ``path`` leads to the key in its document; an adapter that still has the text turns the path
    into a line. ``link`` names the link that cannot be, if any. ``skipped`` are the entries of the
    registry that are left out because of the problem.
    """

    message: str
    severity: Severity = "error"
    path: Path = ()
    link: str | None = None
    skipped: tuple[SkippedEntry, ...] = ()


class RaitError(Exception):
    """Base of all errors that rait explains to its user; the text is the explanation.

    Each argument is one line of it.
    """

    def __str__(self) -> str:
        return "\n".join(map(str, self.args))


class ConfigError(RaitError):
    """Our own configuration is wrong; nothing was touched (exit status 2)."""


class SourceError(RaitError):
    """A file or URL could not be read or does not parse (exit status 1 for peers, 2 for config)."""


class MachineError(RaitError):
    """The machine refused something that the whole run needs (exit status 1)."""


class UnmakeableError(MachineError):
    """What a run is to make cannot be made on this machine as it is, however often it is tried."""


class VrfMissingError(UnmakeableError):
    """The kernel has no VRFs at all."""


class PendingError(RaitError):
    """A change waits for its confirmation, so nothing else was touched (exit status 5)."""


class HistoryError(RaitError):
    """The journal does not have the wanted run or event, or has one that this rait cannot read."""


def port_taken(port: int, family: Family, whose: str) -> str:
    """Why an endpoint with this SendPort gets no link, as `rait up` and `rait check` say it."""
    return f"SendPort {port} ({family}) is already that of {whose}"


def counted(number: int, what: str, several: str = "") -> str:
    """``1 link``, ``2 links``; ``several`` is a plural that is not made by an s."""
    return f"{number} {what if number == 1 else several or f'{what}s'}"


def few(names: Sequence[str], most: int = FEW) -> str:
    """The first of the names, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(names[:most]) + more

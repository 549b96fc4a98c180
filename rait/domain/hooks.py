"""The commands that are to be run when links come, change and go: which calls of them are due.

The rules of this module:

1. A link that came, or that changed in place, is due a call of its up_command; a link that went, of
   the down_command that its notes had. A link that was made again is due both, in this order.
2. Only events that a run of ours brought about count. What others did calls nothing.
3. A call is owed from its event on, until the journal has a result of it. Whether the command
   failed makes no difference. So a call that a killed run may not have made is made by a later run:
   a command is called at least once for each event, and twice if rait was killed while it ran.
4. A link has at most one call of its up_command to come, whatever happened to it. A link that is
   gone has none.

A change that a command is told nothing of calls nothing: an endpoint (it follows the peer as it
roams, without rait as well), babeld's parameters, another down_command, the instance of a namespace
that has become known.
"""

import re
from collections.abc import Container, Mapping, Sequence
from typing import Literal

from msgspec import Struct, structs

from rait.domain.config.keytext import MORE_THAN_A_KEY, without_keys_but
from rait.domain.events import (
    DeviceUpdated,
    Event,
    LinkAdded,
    LinkRemoved,
    LinkUpdated,
    NotesUpdated,
    PeerAdded,
    PeerRemoved,
    PeerUpdated,
)
from rait.domain.topology import Link, LinkNotes

LAST_LINES = 5
LINE_LENGTH = 200
"""So many lines of a command's output, of so many characters, are kept: the last ones."""

_REMARK_KEY = r"[A-Za-z0-9_.-]+"

UpEvent = Literal["added", "changed"]
CallEvent = Literal["added", "changed", "removed"]


class Owed(Struct, frozen=True, omit_defaults=True):
    """The calls to come: of the up_command by link, and of the down_command of links that went."""

    up: Mapping[str, UpEvent] = {}
    down: tuple[Link, ...] = ()


class CallResult(Struct, frozen=True, omit_defaults=True):
    """What became of a call: ``error`` says why it failed, None if it did not.

    ``status`` is the command's exit status, None if it has none: it could not be run, or a signal
    ended it. ``lines`` are the last ones that it printed.
    """

    link: str
    event: CallEvent
    command: tuple[str, ...]
    status: int | None = None
    error: str | None = None
    lines: tuple[str, ...] = ()


class Call(Struct, frozen=True):
    """A command to run for what happened to a link."""

    event: CallEvent
    link: Link

    @property
    def command(self) -> tuple[str, ...]:
        notes = self.link.notes
        return notes.down_command if self.event == "removed" else notes.up_command

    def result(
        self, status: int | None = None, error: str | None = None, lines: Sequence[str] = ()
    ) -> CallResult:
        """The result of this call; without arguments, of a call that was not made yet."""
        name = self.link.name
        return CallResult(name, self.event, self.command, status, error, tuple(lines))


class Ledger:
    """Follows which calls are owed, while events happen and calls end.

    ``owed`` is what was owed before, and ``links`` are those that there were then.
    """

    def __init__(self, owed: Owed, links: Mapping[str, Link]) -> None:
        self._up = dict(owed.up)
        self._down = list(owed.down)
        self._links = links
        self._noted: dict[str, LinkNotes] = {}

    @property
    def owed(self) -> Owed:
        """The calls to come."""
        return Owed(self._up, tuple(self._down))

    def happened(self, event: Event, *, ours: bool = True) -> None:
        """Take note of an event, which a run of ours brought about, or somebody else did."""
        name = event.name
        match event:
            case LinkAdded(link):
                self._note(name, link.notes)
            case NotesUpdated(_, _, notes):
                self._note(name, notes)
            case LinkRemoved(link):
                self._note(name, LinkNotes())
                if ours and link.notes.down_command and link not in self._down:
                    self._down.append(link)
        if ours and self._has_command(name) and _is_told(event):
            self._up.setdefault(name, "added" if isinstance(event, LinkAdded) else "changed")

    def ended(self, result: CallResult) -> None:
        """Take note of a call that has ended."""
        if result.event != "removed":
            self._up.pop(result.link, None)
            return
        gone = (position for position, link in enumerate(self._down) if link.name == result.link)
        if (first := next(gone, None)) is not None:
            del self._down[first]

    def _note(self, name: str, notes: LinkNotes) -> None:
        self._noted[name] = notes
        if not notes.up_command:
            self._up.pop(name, None)

    def _has_command(self, name: str) -> bool:
        if name in self._noted:
            return bool(self._noted[name].up_command)
        return name in self._links and bool(self._links[name].notes.up_command)


def due(owed: Owed, links: Mapping[str, Link], held: Container[str]) -> tuple[Call, ...]:
    """The calls to make now, those of one link in their order.

    The up_command of a link that is ``held`` waits, as the link is not as it should be.
    """
    ups = ((name, event) for name, event in owed.up.items() if name in links and name not in held)
    return (
        *(Call("removed", link) for link in owed.down),
        *(Call(event, links[name]) for name, event in ups),
    )


def environment(call: Call) -> dict[str, str]:
    """What a command gets to know of its call, as variables of its environment.

    Others write the peer's name and remarks (bounded by config/remarks.py): so each remark is in a
    variable whose name begins with RAIT_REMARK_, whatever the remark's key is.
    """
    link = call.link
    found = {
        "RAIT_EVENT": call.event,
        "RAIT_LINK": link.name,
        "RAIT_PEER": link.peers[0].public_key if link.peers else "",
        "RAIT_PEER_NAME": link.notes.peer_name,
        "RAIT_NETNS": link.origin.netns,
    }
    for key, value in link.notes.remarks:
        if re.fullmatch(_REMARK_KEY, key):
            found.setdefault(f"RAIT_REMARK_{re.sub('[.-]', '_', key).upper()}", value)
    return found


def last_lines(
    output: bytes, public_keys: Container[str], *, is_cut: bool = False
) -> tuple[str, ...]:
    """The last lines of an output, each cut to a bearable length, without keys.

    Keys that are known to be public stay. ``is_cut``: the output is the end of a longer one.
    """
    text = without_keys_but(public_keys, output.decode(errors="replace"))
    if is_cut:
        text = text[MORE_THAN_A_KEY:]  # it may begin with a part of a key
    lines = [line.rstrip() for line in text.splitlines() if line.strip()]
    return tuple(
        line if len(line) <= LINE_LENGTH else f"{line[:LINE_LENGTH]}…"
        for line in lines[-LAST_LINES:]
    )


def _is_told(event: Event) -> bool:
    """Whether an event of a link that is there is one to call its up_command for."""
    match event:
        case LinkAdded() | LinkUpdated() | DeviceUpdated() | PeerAdded() | PeerRemoved():
            return True
        case PeerUpdated(_, before, after):
            return structs.replace(before, endpoint=after.endpoint) != after
        case NotesUpdated(_, before, after):
            same = {"down_command": before.down_command, "babeld_param": before.babeld_param}
            return structs.replace(after, **same) != before
        case _:
            return False

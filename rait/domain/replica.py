"""What a registry of many keys holds, as far as this node was told.

It is read once, at a revision, and from then on each change is told with the revision that it made.
A revision is of the whole registry: it grows with each write, and what one write changed is told at
once. What was told already is told again after a reconnect, and changes nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec
from msgspec import Struct

from rait.domain.config.decoding import key_id

_BEGIN, _BETWEEN, _END = '{"peers": [\n', ",\n", "\n]}\n"
_KEY = key_id("public_key")


class Change(Struct, frozen=True):
    """What the change of a key made of its entry: its line of the list, or None for none."""

    key: str
    line: str | None
    revision: int


class Replica(Struct, frozen=True):
    """The entries at a revision of the registry ``cluster``: the line of each key in the list.

    ``revisions`` has the revision that wrote each key last.
    """

    cluster: int
    revision: int
    lines: Mapping[str, str]
    revisions: Mapping[str, int] = {}

    @property
    def text(self) -> str:
        """The peers list in JSON, a line for each key, in the order of the keys."""
        return f"{_BEGIN}{_BETWEEN.join(line for _, line in sorted(self.lines.items()))}{_END}"

    def told(self, changes: tuple[Change, ...], revision: int = 0) -> Replica:
        """The replica after these changes; without any, all up to ``revision`` is known."""
        lines, revisions = dict(self.lines), dict(self.revisions)
        newest = self.revision if changes else max(self.revision, revision)
        for change in changes:
            if change.revision <= self.revision:
                continue
            newest = max(newest, change.revision)
            if change.line is None:
                lines.pop(change.key, None)
                revisions.pop(change.key, None)
            else:
                lines[change.key] = change.line
                revisions[change.key] = change.revision
        return Replica(self.cluster, newest, lines, revisions)

    def is_past_of(self, cluster: int, count: int, newest: Change | None) -> bool:
        """Whether a registry that goes on from here had ``count`` keys, and wrote ``newest`` last.

        One that was restored from a backup may have the same name, and after some writes it has the
        same revisions again, with other changes. Where as many other keys were deleted, and nothing
        else that lasts was written, this does not tell.
        """
        if cluster != self.cluster or count != len(self.lines):
            return False
        if newest is None:
            return count == 0
        last = max(self.revisions.values(), default=0)
        is_known = self.lines.get(newest.key) == newest.line
        return is_known and self.revisions.get(newest.key) == newest.revision == last


def key_at(lines: Sequence[str], line: int) -> str:
    """The public key of the entry in a line (from 1) of a list that ``text`` gave; "" for none.

    ``lines`` are those of the list.
    """
    if not 1 < line < len(lines) - 1 or f"{lines[0]}\n" != _BEGIN:
        return ""
    entries: list[dict[str, object]] = msgspec.json.decode(f"[{lines[line - 1].rstrip(',')}]")
    values = (value for entry in entries for key, value in entry.items() if key_id(key) == _KEY)
    return next(map(str, values), "")

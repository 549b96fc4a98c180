"""``rait log``: what the journal tells of runs, whether it is whole, and making it shorter."""

from __future__ import annotations

import re
import time
from collections.abc import Collection, Iterator
from pathlib import Path

from msgspec import Struct

from rait.adapters.config.source import display_name, is_path
from rait.adapters.journal.prune import Pruning
from rait.adapters.journal.reader import JournalReader
from rait.adapters.journal.store import Journal
from rait.app.inputs import configured
from rait.app.load import load_secret
from rait.app.scopes import filed_under, scope_name, spellings
from rait.app.turn import Options, lock_path, locked
from rait.domain.config.keytext import canonical_key, is_key, without_whole_keys
from rait.domain.errors import ConfigError, MachineError
from rait.domain.history import RunRecord, VerifyReport
from rait.domain.words import counted

POLL_SECONDS = 0.5

_HASH = re.compile(r"[0-9A-Fa-f]{64}")


class Query(Struct, frozen=True, kw_only=True):
    """Which runs to tell of: from a time on (unix, in nanoseconds), of a link, peer or number."""

    since: int | None = None
    link: str | None = None
    peer: str | None = None
    run: int | None = None


class Place(Struct, frozen=True):
    """A journal, and which node's runs in it: ``name`` is what it files them under.

    ``scopes`` are that name and other spellings of it under which there are runs, or None if
    everyone's runs are asked for.
    """

    path: Path
    name: str
    scopes: tuple[str, ...] | None


def place(options: Options, journal: str | None = None, everyone: bool = False) -> Place:
    """The journal that the configuration names, or the one at a path given. Raises RaitError."""
    if journal is not None:
        return Place(_named(journal), "", None)
    loaded = configured(options.config)
    is_path = options.config != "-" and "://" not in options.config
    key = "" if is_path or everyone else load_secret(loaded)[1]
    path = Path(loaded.config.journal)
    spelt = scope_name(options.config, key)
    if everyone:
        return Place(path, spelt, None)
    reader = JournalReader(path)
    known = spellings(reader, spelt)
    # With the name itself, as `log -f` may begin before its first run.
    return Place(path, filed_under(reader, spelt), tuple(dict.fromkeys((spelt, *known))))


def others(where: Place) -> str:
    """How many runs of other configurations there are; "" for none. Raises RaitError."""
    if where.scopes is None:
        return ""
    return others_text(JournalReader(where.path), where.scopes)


def others_text(journal: JournalReader, own: Collection[str]) -> str:
    """How many runs there are of other scopes than our own; "" for none. Raises RaitError."""
    counts = {scope: n for scope, n in journal.run_counts().items() if scope not in own}
    runs = sum(counts.values())
    if not runs:
        return ""
    whose = "another configuration" if len(counts) == 1 else f"{len(counts)} other configurations"
    shows = "shows it" if runs == 1 else "shows them"
    return f"the journal has {counted(runs, 'run')} of {whose}: `rait log --all` {shows}"


def has_runs(where: Place) -> bool:
    """Whether there is any run of this configuration. Raises RaitError."""
    counts = JournalReader(where.path).run_counts()
    return any(where.scopes is None or scope in where.scopes for scope in counts)


def _named(journal: str) -> Path:
    """The path that ``--journal`` gives, of a journal that is there."""
    if is_key(journal):
        raise ConfigError("--journal takes the path of a journal, and this is a key (not shown)")
    if not is_path(journal):
        raise ConfigError(
            f"--journal takes the path of a journal, and {display_name(journal)} is not a path"
        )
    path = Path(journal)
    reason = JournalReader(path).absence()
    if reason:
        raise MachineError(f"there is no journal {display_name(journal)}: {reason}")
    return path


def peer_key(text: str) -> str:
    """The public key that ``--peer`` gives, as the journal spells it. Raises ConfigError."""
    try:
        return canonical_key(text)
    except ValueError as error:
        raise ConfigError(
            f"--peer {error}; `rait list` and `rait log` show the keys of peers"
        ) from None


def runs(where: Place, query: Query) -> tuple[RunRecord, ...]:
    """The runs asked for, oldest first. Raises RaitError."""
    journal = JournalReader(where.path)
    if query.run is not None:
        run = journal.run(query.run)
        return (run,) if _is_asked(run, query) else ()
    return journal.runs(since=query.since, link=query.link, peer=query.peer, scope=where.scopes)


def follow(where: Place, query: Query) -> Iterator[RunRecord]:
    """The runs asked for, and then each later one when it has ended, for ever.

    A run that was cut off comes when the next one begins. Raises RaitError.
    """
    told = 0
    while True:
        found = runs(where, query)
        for position, run in enumerate(found):
            ended = run.status is not None or position < len(found) - 1
            if run.id > told and ended:
                told = run.id
                yield run
        if query.run is not None and (told or not found):
            return
        time.sleep(POLL_SECONDS)


def _last_seen(run: RunRecord) -> int:
    """When the run, or what repeated it last, was."""
    until = run.repeated.until if run.repeated is not None else 0
    return max(run.header.started_at, run.recorded_at or 0, until)


def _is_asked(run: RunRecord, query: Query) -> bool:
    return (
        (query.since is None or _last_seen(run) >= query.since)
        and (query.link is None or run.touches_link(query.link))
        and (query.peer is None or run.touches_peer(query.peer))
    )


def verify(where: Place, expect_head: str | None) -> VerifyReport:
    """Examine the whole journal. Raises MachineError if it cannot be read.

    Raises ConfigError if ``expect_head`` is no head at all.
    """
    if expect_head is not None and not _HASH.fullmatch(expect_head.strip()):
        given = without_whole_keys(repr(expect_head))
        raise ConfigError(
            f"--expect-head: {given} is no head; give the 64 hexadecimal digits that "
            "`rait log verify` printed after `head`"
        )
    return JournalReader(where.path).verify(expect_head)


def is_absent(where: Place) -> bool:
    """Whether there is no journal yet. Raises MachineError if that cannot be told."""
    return bool(JournalReader(where.path).absence())


def prune(options: Options, where: Place, keep: int) -> Pruning:
    """Drop runs that ended more than ``keep`` nanoseconds ago. Raises RaitError.

    Where there is no journal yet, none is made.
    """
    if JournalReader(where.path).absence():
        return Pruning()
    Journal.check(where.path)
    with (
        locked(options, lock_path(where.path), "rait log prune"),
        Journal.open(where.path) as journal,
    ):
        return journal.prune(time.time_ns() - keep)

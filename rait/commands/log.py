"""``rait log``: show the runs in the journal, verify that it is whole, and prune it."""

from __future__ import annotations

import re
import time
from argparse import Namespace
from collections.abc import Iterator
from contextlib import suppress
from typing import TYPE_CHECKING

import msgspec
from msgspec import Struct, structs

from rait.adapters.journal.file import check_is_journal
from rait.adapters.journal.reader import JournalReader
from rait.adapters.journal.verify import VerifyReport
from rait.app.inputs import lock_path, locked
from rait.app.load import configured
from rait.app.moments import moment, span, written
from rait.app.options import Options, require_path
from rait.app.render import (
    HALF_DONE,
    HALF_MADE,
    LEFT,
    NOT_OURS,
    call_text,
    describe,
    done_already,
    event_object,
    noticed_object,
)
from rait.app.scopes import journal_of, key_of_scope, others_text, scope_name, spellings
from rait.domain.config.keytext import canonical_key, without_whole_keys
from rait.domain.confirm import OVERDUE
from rait.domain.errors import ConfigError, MachineError, counted
from rait.domain.events import Event, LinkPlaced, peers_named
from rait.domain.records import RunRecord
from rait.domain.signed import which_list
from rait.terminal import DONE, FAILED, print_json, print_result, to_json

if TYPE_CHECKING:
    from rait.adapters.journal.appender import Pruning

POLL_SECONDS = 0.5

_SHORT = 12
"""How many digits of a digest a headline shows."""

_HASH = re.compile(r"[0-9A-Fa-f]{64}")


def run(options: Options, arguments: Namespace) -> int:
    query = _query(arguments)
    journal = _journal(options, arguments)
    if arguments.follow:
        with suppress(KeyboardInterrupt):  # that is how one ends it
            for record in _follow(journal, query):
                _show(record, query, arguments)
        return DONE
    found = _runs(journal, query)
    for record in found:
        _show(record, query, arguments)
    if not found and not arguments.json:
        print_result(_no_runs(journal))
    return DONE


def run_show(options: Options, arguments: Namespace) -> int:
    record = JournalReader(_journal(options, arguments).path).run(arguments.number)
    if arguments.json:
        print_result(run_json(record, Query()))
    else:
        print_result(*run_whole(record))
    return DONE


def run_verify(options: Options, arguments: Namespace) -> int:
    journal, head = _journal(options, arguments), arguments.expect_head
    if head is not None and not _HASH.fullmatch(head.strip()):
        given = without_whole_keys(repr(head))
        raise ConfigError(
            f"--expect-head: {given} is no head; give the 64 hexadecimal digits that "
            "`rait log verify` printed after `head`"
        )
    report = JournalReader(journal.path).verify(head)
    if arguments.json:
        print_json(report)
    elif report.ok and not report.entries and JournalReader(journal.path).absence():
        print_result(
            f"rait log verify: there is no journal {journal.path} yet, so nothing was examined",
            "(if there was one, it is gone, which only --expect-head would notice)",
        )
    else:
        print_result(*verification_lines(report))
    return DONE if report.ok else FAILED


def run_prune(options: Options, arguments: Namespace) -> int:
    pruning = _prune(options, _journal(options, arguments), span(arguments.keep))
    with done_already():
        if arguments.json:
            print_json({"runs": pruning.runs, "entries": pruning.entries})
        else:
            print_result(pruning_text(pruning))
    return DONE


class Query(Struct, frozen=True, kw_only=True):
    """Which runs to show: from a time on (unix, in nanoseconds), of a link, peer or number."""

    since: int | None = None
    link: str | None = None
    peer: str | None = None
    number: int | None = None

    def wants_event(self, event: Event) -> bool:
        if self.link is not None and event.name != self.link:
            return False
        return self.peer is None or self.peer in peers_named(event)

    def wants_run(self, run: RunRecord) -> bool:
        is_recent = self.since is None or _last_seen(run) >= self.since
        return is_recent and run.touches(self.link, self.peer)


def _last_seen(run: RunRecord) -> int:
    """When the run began, or its last repetition ended."""
    until = run.repeated.until if run.repeated is not None else 0
    return max(run.header.started_at, run.recorded_at or 0, until)


def _query(arguments: Namespace) -> Query:
    since = moment(arguments.since, time.time_ns()) if arguments.since else None
    try:
        peer = None if arguments.peer is None else canonical_key(arguments.peer)
    except ValueError as error:
        raise ConfigError(
            f"--peer {error}; `rait list` and `rait log` show the keys of peers"
        ) from None
    return Query(since=since, link=arguments.link, peer=peer, number=arguments.number)


class JournalRef(Struct, frozen=True):
    """A journal, and the scope ``name`` under which it files the runs of one configuration.

    ``scopes`` are that name and other spellings of the path under which there are runs; None
    stands for the runs of all configurations.
    """

    path: str
    name: str
    scopes: tuple[str, ...] | None


def _journal(options: Options, arguments: Namespace) -> JournalRef:
    """The journal that ``--journal`` names, which must be there, or that of the configuration."""
    path = arguments.journal
    if path is not None:
        name = require_path("--journal", "a journal", path)
        if reason := JournalReader(path).absence():
            raise MachineError(f"there is no journal {name}: {reason}")
        return JournalRef(path, "", None)
    loaded = configured(options.config)
    if arguments.all:
        return JournalRef(loaded.config.journal, "", None)
    spelt = scope_name(options.config, key_of_scope(options, loaded))
    reader, name = journal_of(options, loaded)
    known = spellings(reader, reader.scopes(), spelt)
    # With the name itself, as `log -f` may begin before its first run.
    return JournalRef(reader.path, name, tuple(dict.fromkeys((spelt, *known))))


def _runs(journal: JournalRef, query: Query) -> tuple[RunRecord, ...]:
    """The runs that the query wants, oldest first. Raises RaitError."""
    reader = JournalReader(journal.path)
    if query.number is not None:
        run = reader.run(query.number)
        return (run,) if query.wants_run(run) else ()
    return reader.runs(since=query.since, link=query.link, peer=query.peer, scope=journal.scopes)


def _follow(journal: JournalRef, query: Query) -> Iterator[RunRecord]:
    """The runs that the query wants, and then each later one when it has ended, for ever.

    An unfinished run comes when the next one begins. Raises RaitError.
    """
    last = 0
    while True:
        found = _runs(journal, query)
        for position, run in enumerate(found):
            ended = run.status is not None or position < len(found) - 1
            if run.id > last and ended:
                last = run.id
                yield run
        if query.number is not None and (last or not found):
            return
        time.sleep(POLL_SECONDS)


def _no_runs(journal: JournalRef) -> str:
    """The text for no runs found, with how many other configurations have, if any."""
    reader = JournalReader(journal.path)
    if journal.scopes is None or reader.run_counts().keys() & set(journal.scopes):
        return "no runs"
    others = others_text(reader, journal.scopes)
    return f"no runs of this configuration ({journal.name}); {others}" if others else "no runs"


def _show(run: RunRecord, query: Query, arguments: Namespace) -> None:
    if arguments.json:
        print_result(run_json(run, query))
    else:
        print_result(*run_lines(run, query, brief=arguments.oneline))


def _prune(options: Options, journal: JournalRef, keep: int) -> Pruning:
    """Drop runs that ended more than ``keep`` nanoseconds ago. Raises RaitError.

    Where there is no journal yet, none is made.
    """
    from rait.adapters.journal.appender import Pruning
    from rait.adapters.journal.store import Journal

    if JournalReader(journal.path).absence():
        return Pruning()
    check_is_journal(journal.path)
    with (
        locked(options, lock_path(journal.path), "rait log prune"),
        Journal.open(journal.path) as store,
    ):
        return store.prune(time.time_ns() - keep)


def run_lines(run: RunRecord, query: Query, *, brief: bool) -> list[str]:
    """A run, and those of its events that the query wants."""
    head, more = _headline(run), (*_trial(run), *_repeats(run))
    if brief:
        return ["  ".join([head, *more])]
    lines = [line for _, event, line in _events(run) if query.wants_event(event)]
    if query.peer is None:
        lines += _endings(run, query.link)
    return [head, *(f"  {line}" for line in (*lines, *more))]


def run_whole(run: RunRecord) -> list[str]:
    """Everything that the journal has of a run, with the number of each event."""
    header = run.header
    lines = [
        f"configuration {header.scope}" + (f" (as {header.spelt})" if header.spelt else ""),
        f"sha256 of rait.conf {header.config_digest or 'unknown'}",
        f"sha256 of peers {header.peers_digest or 'not read'}",
        f"public key {header.public_key}",
    ]
    if header.peers_list:
        lines.append(f"peers list {header.peers_list}")
    if header.accepted:
        lines.append("accepted however many sessions it ended: the guard starts a new count here")
    if run.finished_at is not None:
        lines.append(f"finished {written(run.finished_at)}")
    lines += [f"event {number}: {line}" for number, _, line in _events(run)]
    lines += (*_endings(run, None), *_trial(run), *_repeats(run), *_last_digests(run))
    return [_headline(run), *(f"  {line}" for line in lines)]


def run_json(run: RunRecord, query: Query) -> str:
    """A run and those of its events that the query wants, as one line of JSON.

    Times are unix time in nanoseconds, and the counts are of the whole run.
    """
    header = msgspec.to_builtins(run.header)
    for internal in ("left", "carried", "strays", "confirm_by", "confirms", "takes_back"):
        header.pop(internal)
    for rare in ("signed", "revision"):
        if not header[rare]:
            header.pop(rare)
    value = {
        "run": run.id,
        **header,
        "recorded_at": run.recorded_at,
        "finished_at": run.finished_at,
        "status": run.status or "unfinished",
        "done": run.done,
        "failed": run.failed,
        "unknown": run.unknown,
        **_event_objects(run, query),
        "ended": list(run.ended),
        "calls": [structs.asdict(call) for call in run.calls if query.link in (None, call.link)],
        "problems": [{"link": link, "error": error} for link, error in run.problems.items()],
        "extra_cmd": run.extra_cmd,
        "repeated": run.repeated.count if run.repeated is not None else 0,
        "repeated_until": run.repeated.until if run.repeated is not None else None,
        "retried_at": run.retried_at,
        **_trial_object(run),
    }
    return to_json(value, indent=0)


def _event_objects(run: RunRecord, query: Query) -> dict[str, list[dict[str, object]]]:
    left = run.header.leftover_noticed
    return {
        "noticed": [
            {"event": run.noticed_id(index), **noticed_object(event, index in left)}
            for index, event in enumerate(run.noticed)
            if query.wants_event(event)
        ],
        "events": [
            {"event": run.intended_id(index), **event_object(event), **_outcome(run, index)}
            for index, event in enumerate(run.intended)
            if query.wants_event(event)
        ],
        "half_done": [
            {"event": number, **event_object(event)}
            for number, event in run.half_done.items()
            if query.wants_event(event)
        ],
    }


def verification_lines(report: VerifyReport) -> list[str]:
    """What ``rait log verify`` found."""
    pruned = f", {report.dropped} pruned before them" if report.dropped else ""
    entries = _entries(report.entries)
    if report.ok:
        verb = "is" if report.entries == 1 else "are"
        return [f"rait log verify: {entries} {verb} sound{pruned}", f"head {report.head}"]
    if report.entries or report.head:
        return [f"rait log verify: {report.why}", f"sound up to here: {entries}{pruned}"]
    return [
        f"rait log verify: {report.why}",
        "the entries were not examined: only a sound head tells where they begin and end",
    ]


def pruning_text(pruning: Pruning) -> str:
    """What ``rait log prune`` did."""
    return f"rait log prune: {counted(pruning.runs, 'run')} dropped, {_entries(pruning.entries)}"


def _entries(number: int) -> str:
    return counted(number, "entry", "entries")


def _headline(run: RunRecord) -> str:
    header = run.header
    counts = {
        "done": run.done,
        "failed": run.failed,
        "half done": len(run.half_done),
        "unknown": run.unknown,
        "noticed": len(run.noticed),
        "failed of the commands": sum(call.error is not None for call in run.calls),
    }
    shown = [f"{number} {what}" for what, number in counts.items() if number or what == "done"]
    words = [f"run {run.id}", written(header.started_at)]
    if run.clock_was_unset and run.recorded_at is not None:
        words.append(f"(the clock was not set: after {written(run.recorded_at)})")
    words += [
        header.command + (f" ({header.cause})" if header.cause else ""),
        run.status or "never finished",
        f"({', '.join(shown)})",
        f"uid {header.uid}",
        f"rait {header.version}",
        f"config {header.config_digest[:_SHORT]}",
    ]
    words += [f"peers {header.peers_digest[:_SHORT]}"] if header.peers_digest else []
    words += [f"({header.peers_list})"] if header.peers_list else []
    return "  ".join(words)


def _events(run: RunRecord) -> Iterator[tuple[int, Event, str]]:
    """Each event with its number, and a line that says what became of it."""
    for index, event in enumerate(run.noticed):
        whose = LEFT if index in run.header.leftover_noticed else NOT_OURS
        why = "recorded" if isinstance(event, LinkPlaced) else f"noticed: {whose}"
        yield run.noticed_id(index), event, f"{describe(event)} ({why})"
    for index, event in enumerate(run.intended):
        outcome = ": ".join(_outcome(run, index).values())
        suffix = "" if outcome == "done" else f" ({outcome})"
        yield run.intended_id(index), event, f"{describe(event)}{suffix}"
    for number, event in run.half_done.items():
        yield number, event, f"{describe(event)} ({HALF_DONE})"


def _endings(run: RunRecord, link: str | None) -> Iterator[str]:
    """Lines about a run's half-made links, calls, problems and extra_cmd, which are no events."""
    for name in run.header.leftover_links:
        if link in (None, name):
            ended = "" if name in run.ended else " (not known to have ended)"
            yield f"- {name} ({HALF_MADE}){ended}"
    for call in run.calls:
        if link in (None, call.link):
            yield f"> {call.link} {call_text(call)}"
            yield from (f"  | {line}" for line in call.lines)
    for name, error in run.problems.items():
        if link in (None, name):
            yield f"failed: {name}: {error}"
    if run.extra_cmd == "sent" and link is None and not run.intended:
        yield "extra_cmd sent to babeld, which had not taken it before"


def _trial(run: RunRecord) -> Iterator[str]:
    """What became of a run that was to be confirmed, and which one a run confirmed or took back."""
    header = run.header
    if header.confirms:
        yield f"confirms run {header.confirms}"
    if header.takes_back:
        yield f"makes the links what they were before run {header.takes_back}"
    if header.confirm_by is None:
        return
    until = f"to be confirmed until {written(header.confirm_by.at)}"
    if run.settled_by is None:
        yield until
        return
    number, end = run.settled_by
    how = "confirmed" if end.confirms else "taken back"
    whose = "" if end.command == OVERDUE else f" by uid {end.uid}"
    yield f"{until}: {how}{whose or ' by itself'} at {written(end.started_at)} (run {number})"


def _trial_object(run: RunRecord) -> dict[str, object]:
    """What ``_trial`` says, as fields for JSON. Most runs have none of them."""
    header = run.header
    value: dict[str, object] = {}
    if header.confirm_by is not None:
        value["confirm_by"] = header.confirm_by.at
    if run.settled_by is not None:
        number, end = run.settled_by
        how = "confirmed" if end.confirms else "taken_back"
        value[how] = {"run": number, "uid": end.uid, "at": end.started_at}
    fields = {"confirms": header.confirms, "takes_back": header.takes_back}
    return value | {name: number for name, number in fields.items() if number}


def _repeats(run: RunRecord) -> Iterator[str]:
    """How often later runs repeated this run in vain."""
    if run.repeated is not None:
        times = "once" if run.repeated.count == 1 else f"{run.repeated.count:,} times"
        yield f"repeated {times} until {written(run.repeated.until)}"
    if run.retried_at is not None:
        since = written(run.retried_at)
        yield f"repeated since {since} by a run that is under way or never finished"


def _last_digests(run: RunRecord) -> Iterator[str]:
    """The digests of what the last repetition read, if the run itself read something else."""
    if run.repeated is None:
        return
    last, header = run.repeated, run.header
    if last.config_digest != header.config_digest:
        yield f"the last time with sha256 of rait.conf {last.config_digest or 'unknown'}"
    if last.peers_digest != header.peers_digest:
        yield f"the last time with sha256 of peers {last.peers_digest or 'not read'}"
    if last.source and (last.source, last.revision) != (header.source, header.revision):
        which = which_list(last.source, last.revision, header.signed)
        yield f"the last time with peers list {which}"


def _outcome(run: RunRecord, index: int) -> dict[str, str]:
    outcome = run.outcomes.get(index)
    if outcome is None:
        return {"outcome": "unknown"}
    if outcome.error is None:
        return {"outcome": "done"}
    return {"outcome": "failed", "error": outcome.error}

"""Runs of the journal as lines for people, and as JSON lines for programs."""

from __future__ import annotations

from collections.abc import Iterator

import msgspec

from rait.app.history import Query
from rait.app.moments import written
from rait.app.render import (
    HALF_DONE,
    HALF_MADE,
    LEFT,
    NOT_OURS,
    describe,
    event_object,
    json_line,
    noticed_object,
    to_json,
)
from rait.domain.events import Event, LinkPlaced, peers_named
from rait.domain.history import RunRecord, VerifyReport
from rait.domain.words import counted

TYPE_CHECKING = False
if TYPE_CHECKING:
    from pathlib import Path

    from rait.adapters.journal.prune import Pruning

UNFINISHED = "never finished"
_SHORT = 12
"""How many digits of a digest a headline shows."""


def run_lines(run: RunRecord, query: Query, *, brief: bool) -> list[str]:
    """A run and its events, or only those events that were asked for."""
    head = _headline(run)
    if brief:
        return ["  ".join([head, *_repeats(run)])]
    lines = [line for _, event, line in _events(run) if _asked(event, query)]
    if query.peer is None:
        lines += _endings(run, query.link)
    return [head, *lines, *(f"  {line}" for line in _repeats(run))]


def run_whole(run: RunRecord) -> list[str]:
    """All that the journal has of a run, with the number of each event."""
    header = run.header
    lines = [
        _headline(run),
        f"  configuration {header.scope}" + (f" (as {header.spelt})" if header.spelt else ""),
        f"  sha256 of rait.conf {header.config_digest or 'unknown'}",
        f"  sha256 of peers {header.peers_digest or 'not read'}",
        f"  public key {header.public_key}",
    ]
    if header.accepted:
        lines.append("  accepted however many sessions it costs: the guard begins a new count here")
    if run.finished_at is not None:
        lines.append(f"  finished {written(run.finished_at)}")
    lines += [f"  event {number}:{line[1:]}" for number, _, line in _events(run)]
    lines += _endings(run, None)
    lines += [f"  {line}" for line in (*_repeats(run), *_last_digests(run))]
    return lines


def run_json(run: RunRecord, query: Query | None = None) -> str:
    """A run and its events as one line of JSON, or only those events that were asked for.

    Times are unix time in nanoseconds, and the counts are of the whole run.
    """
    header = msgspec.to_builtins(run.header)
    left = header.pop("left")
    for internal in ("carried", "strays"):
        header.pop(internal)
    value = {
        "run": run.id,
        **header,
        "recorded_at": run.recorded_at,
        "finished_at": run.finished_at,
        "status": run.status or "unfinished",
        "done": run.done,
        "failed": run.failed,
        "unknown": run.unknown,
        "noticed": [
            {"event": run.noticed_id(index), **noticed_object(event, index in left)}
            for index, event in enumerate(run.noticed)
            if query is None or _asked(event, query)
        ],
        "events": [
            {"event": run.intended_id(index), **event_object(event), **_outcome(run, index)}
            for index, event in enumerate(run.intended)
            if query is None or _asked(event, query)
        ],
        "half_done": [
            {"event": number, **event_object(event)}
            for number, event in run.half_done.items()
            if query is None or _asked(event, query)
        ],
        "ended": list(run.ended),
        "problems": [{"link": link, "error": error} for link, error in run.problems.items()],
        "extra_cmd": run.extra_cmd,
        "repeated": run.repeated.count if run.repeated is not None else 0,
        "repeated_until": run.repeated.until if run.repeated is not None else None,
        "retried_at": run.retried_at,
    }
    return json_line(value).decode()


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


def nothing_to_verify(path: Path) -> list[str]:
    """What ``rait log verify`` says where there is no journal yet."""
    return [
        f"rait log verify: there is no journal {path} yet, so nothing was examined",
        "(if there was one, it is gone: --expect-head tells)",
    ]


def pruning_text(pruning: Pruning) -> str:
    """What ``rait log prune`` did."""
    return f"rait log prune: {counted(pruning.runs, 'run')} dropped, {_entries(pruning.entries)}"


def verification_json(report: VerifyReport) -> str:
    """What ``rait log verify`` found, as one JSON object."""
    return to_json(msgspec.to_builtins(report))


def _entries(number: int) -> str:
    return counted(number, "entry", "entries")


def _doubt(run: RunRecord) -> Iterator[str]:
    if run.clock_was_unset and run.recorded_at is not None:
        yield f"(the clock was not set: after {written(run.recorded_at)})"


def _headline(run: RunRecord) -> str:
    header = run.header
    counts = [f"{run.done} done"]
    counts += [f"{run.failed} failed"] if run.failed else []
    counts += [f"{len(run.half_done)} half done"] if run.half_done else []
    counts += [f"{run.unknown} unknown"] if run.unknown else []
    counts += [f"{len(run.noticed)} noticed"] if run.noticed else []
    words = [
        f"run {run.id}",
        written(header.started_at),
        *_doubt(run),
        header.command,
        run.status or UNFINISHED,
        f"({', '.join(counts)})",
        f"uid {header.uid}",
        f"rait {header.version}",
        f"config {header.config_digest[:_SHORT]}",
    ]
    words += [f"peers {header.peers_digest[:_SHORT]}"] if header.peers_digest else []
    return "  ".join(words)


def _events(run: RunRecord) -> Iterator[tuple[int, Event, str]]:
    for index, event in enumerate(run.noticed):
        whose = LEFT if index in run.header.leftover_noticed else NOT_OURS
        why = "recorded" if isinstance(event, LinkPlaced) else f"noticed: {whose}"
        yield run.noticed_id(index), event, f"  {describe(event)} ({why})"
    for index, event in enumerate(run.intended):
        outcome = _outcome(run, index)
        suffix = "" if outcome["outcome"] == "done" else f" ({outcome['outcome']})"
        if outcome.get("error"):
            suffix = f" (failed: {outcome['error']})"
        yield run.intended_id(index), event, f"  {describe(event)}{suffix}"
    for number, event in run.half_done.items():
        yield number, event, f"  {describe(event)} ({HALF_DONE})"


def _endings(run: RunRecord, link: str | None) -> Iterator[str]:
    """What else became of the run: what is of none of its events."""
    for name in run.header.leftover_links:
        if link in (None, name):
            ended = "" if name in run.ended else " (not known to have ended)"
            yield f"  - {name} ({HALF_MADE}){ended}"
    for name, error in run.problems.items():
        if link in (None, name):
            yield f"  failed: {name}: {error}"
    if run.extra_cmd == "sent" and link is None and not run.intended:
        yield "  extra_cmd sent to babeld, which had not taken it before"


def _repeats(run: RunRecord) -> Iterator[str]:
    """How often later runs did just the same in vain."""
    if run.repeated is not None:
        times = "once" if run.repeated.count == 1 else f"{run.repeated.count:,} times"
        yield f"repeated {times} until {written(run.repeated.until)}"
    if run.retried_at is not None:
        yield f"repeated since {written(run.retried_at)} by a run under way, or that never finished"


def _last_digests(run: RunRecord) -> Iterator[str]:
    """What the last repetition had read, where that was not what the run itself had."""
    if run.repeated is None:
        return
    last, header = run.repeated, run.header
    if last.config_digest != header.config_digest:
        yield f"the last time with sha256 of rait.conf {last.config_digest or 'unknown'}"
    if last.peers_digest != header.peers_digest:
        yield f"the last time with sha256 of peers {last.peers_digest or 'not read'}"


def _outcome(run: RunRecord, index: int) -> dict[str, str]:
    outcome = run.outcomes.get(index)
    if outcome is None:
        return {"outcome": "unknown"}
    if outcome.error is None:
        return {"outcome": "done"}
    return {"outcome": "failed", "error": outcome.error}


def _asked(event: Event, query: Query) -> bool:
    if query.link is not None and event.name != query.link:
        return False
    return query.peer is None or query.peer in peers_named(event)

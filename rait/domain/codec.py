"""The journal's payloads as JSON bytes: the same value always gives the same bytes."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal, get_args

import msgspec
from msgspec import Struct, structs

from rait.domain.backend import Outcome
from rait.domain.chain import Entry, Value
from rait.domain.events import Event
from rait.domain.history import (
    ExtraCmd,
    HistoryError,
    Repeated,
    RunHeader,
    RunRecord,
    Snapshot,
    Status,
)

Kind = Literal[
    "run_started",
    "noticed",
    "intended",
    "outcomes",
    "half_done",
    "run_finished",
    "repeated",
    "snapshot",
    "pruned",
    "named",
]
KINDS: tuple[Kind, ...] = get_args(Kind)


class Finished(Struct, frozen=True, omit_defaults=True):
    """The end of a run; see RunRecord."""

    status: Status
    problems: Mapping[str, str] = {}
    extra_cmd: ExtraCmd | None = None
    unsure: tuple[int, ...] = ()
    ended: tuple[str, ...] = ()


class Pruned(Struct, frozen=True):
    """The first ``dropped`` entries went; the last of them had the hash ``anchor``, in hex."""

    dropped: int
    anchor: str


class Named(Struct, frozen=True):
    """The scope's configuration is spelt like this too."""

    path: str


class Attempt(Struct, frozen=True):
    """A run that may turn out to repeat the one before it, and what became of its events so far."""

    header: RunHeader
    outcomes: tuple[Outcome, ...] = ()


class Repeats(Struct, frozen=True):
    """What repeats the run of this number, its scope's last one; see journal_repeats.py."""

    run: int
    total: Repeated = Repeated()
    attempt: Attempt | None = None


Payload = RunHeader | Event | tuple[Outcome, ...] | Finished | Repeated | Snapshot | Pruned | Named

_encoder = msgspec.json.Encoder(order="deterministic")
_repeats = msgspec.json.Decoder(Repeats)
_event = msgspec.json.Decoder(Event)
_decoders: dict[str, msgspec.json.Decoder[Payload]] = {
    "run_started": msgspec.json.Decoder(RunHeader),
    "noticed": _event,
    "intended": _event,
    "outcomes": msgspec.json.Decoder(tuple[Outcome, ...]),
    "half_done": _event,
    "run_finished": msgspec.json.Decoder(Finished),
    "repeated": msgspec.json.Decoder(Repeated),
    "snapshot": msgspec.json.Decoder(Snapshot),
    "pruned": msgspec.json.Decoder(Pruned),
    "named": msgspec.json.Decoder(Named),
}


# SQLite keeps whatever is put into a column, so the payload need not be bytes.
_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, TypeError, RecursionError)


def encode(payload: Payload) -> bytes:
    """The bytes that stand for the payload. A Secret is not a payload and raises TypeError."""
    if isinstance(payload, RunHeader):
        payload = structs.replace(payload, command=_storable(payload.command))
    elif isinstance(payload, tuple):
        payload = tuple(_storable_outcome(outcome) for outcome in payload)
    elif isinstance(payload, Finished) and payload.problems:
        problems = {link: _storable(error) for link, error in payload.problems.items()}
        payload = structs.replace(payload, problems=problems)
    return _encoder.encode(payload)


def decode(entry: Entry) -> Payload:
    """What an entry holds. Raises HistoryError for what a later rait wrote, or for damage."""
    decoder = _decoders.get(entry.kind)
    if decoder is None:
        raise HistoryError(
            f"entry {entry.id} of the journal is a {entry.kind!r}, which this rait does not know: "
            "a later rait wrote it (so upgrade rait), or it is damaged, which `rait log verify` "
            "can tell"
        )
    try:
        return decoder.decode(entry.payload)
    except _UNREADABLE as error:
        raise HistoryError(
            f"entry {entry.id} ({entry.kind}) of the journal cannot be read: {error}; a later "
            "rait wrote it, or it is damaged, which `rait log verify` can tell"
        ) from None


def encode_repeats(repeats: Repeats) -> bytes:
    """The bytes that stand for what repeats a run."""
    attempt = repeats.attempt
    if attempt is not None:
        header = structs.replace(attempt.header, command=_storable(attempt.header.command))
        outcomes = tuple(_storable_outcome(outcome) for outcome in attempt.outcomes)
        repeats = structs.replace(repeats, attempt=Attempt(header, outcomes))
    return _encoder.encode(repeats)


def decode_repeats(payload: bytes, scope: str) -> Repeats:
    """What ``encode_repeats`` made bytes of. Raises HistoryError for anything else."""
    try:
        return _repeats.decode(payload)
    except _UNREADABLE as error:
        raise damage(f"what repeats the last run of {scope} cannot be read: {error}") from None


def gather(entries: Iterable[Entry]) -> tuple[RunRecord, ...]:
    """The runs that the entries, in order, tell of; the last ones may lack their ends.

    Raises HistoryError as ``decode`` does, and for a run of which something is missing.
    """
    drafts: dict[int, _Draft] = {}
    for entry in entries:
        payload = decode(entry)
        if isinstance(payload, RunHeader):
            drafts[entry.id] = _Draft(entry.id, entry.id, payload, time_of(entry))
        elif isinstance(payload, Repeated):
            # It may stand after a snapshot that sums up the run itself.
            if entry.run in drafts:
                drafts[entry.run].repeated = payload
        elif not isinstance(payload, (Snapshot, Pruned, Named)):
            if entry.run not in drafts:
                raise damage(f"entry {entry.id} of the journal is of no run that it holds")
            drafts[entry.run].add(entry, payload)
    return tuple(draft.record() for draft in drafts.values())


class _Draft(Struct):
    """A run while its entries are being gathered."""

    id: int
    last_id: int
    header: RunHeader
    recorded_at: int
    noticed: list[Event] = []
    intended: list[Event] = []
    outcomes: dict[int, Outcome] = {}
    half_done: dict[int, Event] = {}
    finished: Finished | None = None
    finished_at: int | None = None
    repeated: Repeated | None = None

    def add(self, entry: Entry, payload: Event | tuple[Outcome, ...] | Finished) -> None:
        self.last_id = entry.id
        if isinstance(payload, Finished):
            self.finished, self.finished_at = payload, time_of(entry)
        elif isinstance(payload, tuple):
            self._add_outcomes(entry, payload)
        elif entry.kind == "half_done":
            self.half_done[entry.id] = payload
        else:
            self._add_event(entry, payload)

    def _add_outcomes(self, entry: Entry, outcomes: tuple[Outcome, ...]) -> None:
        if not all(0 <= outcome.index < len(self.intended) for outcome in outcomes):
            raise damage(
                f"entry {entry.id} of the journal names an event that run {self.id} does not have"
            )
        self.outcomes |= {outcome.index: outcome for outcome in outcomes}

    def _add_event(self, entry: Entry, event: Event) -> None:
        # A run's events follow its first entry without gaps; see RunRecord.noticed_id.
        expected = self.id + 1 + len(self.noticed) + len(self.intended)
        if entry.id != expected:
            raise damage(f"entry {expected} of the journal, an event of run {self.id}, is missing")
        (self.noticed if entry.kind == "noticed" else self.intended).append(event)

    def record(self) -> RunRecord:
        return RunRecord(
            id=self.id,
            last_id=self.last_id,
            header=self.header,
            recorded_at=self.recorded_at,
            noticed=tuple(self.noticed),
            intended=tuple(self.intended),
            outcomes=self.outcomes,
            status=self.finished.status if self.finished else None,
            finished_at=self.finished_at,
            problems=self.finished.problems if self.finished else {},
            extra_cmd=self.finished.extra_cmd if self.finished else None,
            repeated=self.repeated,
            half_done=self.half_done,
            unsure=self.finished.unsure if self.finished else (),
            ended=self.finished.ended if self.finished else (),
        )


def time_of(entry: Entry) -> int:
    """When the entry was written. Raises HistoryError where it has no time."""
    at: Value = entry.at  # whatever SQLite has there
    if not isinstance(at, int):
        raise damage(f"entry {entry.id} of the journal has no time")
    return at


def damage(what: str) -> HistoryError:
    """The error for what no rait wrote so; ``what`` says what that is."""
    return HistoryError(f"{what}; the journal was damaged, and `rait log verify` tells where")


def _storable_outcome(outcome: Outcome) -> Outcome:
    if outcome.error is None or outcome.error.isascii():
        return outcome
    return structs.replace(outcome, error=_storable(outcome.error))


def _storable(text: str) -> str:
    """Arguments and errors of the system may hold bytes that are no text; JSON may not."""
    return text.encode("utf-8", "backslashreplace").decode()

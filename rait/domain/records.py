"""What the journal stores, as JSON in a chain of entries, and the runs that it reads from them.

The rules of this module:

1. An entry is never changed. Each has a hash that covers its columns and the hash before it.
2. A hash is SHA-256 over fields that are tagged with type and length, so that no two rows of
   different values can be spelt alike.
3. The same value always gives the same bytes, and no private key can be among them.
4. What an earlier rait stored is read for ever: a field gets a default, and keeps its JSON name.
5. What cannot be read is an error that names the entry, never a guess.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import cache
from typing import Annotated, Any, Literal, Self

import msgspec
from msgspec import Meta, Struct, field, structs

from rait.domain.backend import Outcome
from rait.domain.digests import fast_sha256, sha256
from rait.domain.endpoints import Departed
from rait.domain.errors import HistoryError
from rait.domain.events import Event, links_added, may_be_half_done, peers_named
from rait.domain.hooks import CallResult, Owed
from rait.domain.signed import Signed, which_list
from rait.domain.topology import EMPTY, Link, Topology

GENESIS = bytes(32)
"""What stands before the first entry."""

FIRST_JOURNAL = 1_735_689_600 * 10**9
"""The first of January 2025: rait wrote no journal before, so an earlier clock is not set."""

Value = int | str | bytes | float | None
"""What SQLite may give back for a column, as a column takes values of any type."""

RunStatus = Literal["done", "partial", "failed"]
"""How a run ended: all is as it should be, some of it, or none; see domain/change.py."""

BABELD: Literal["babeld"] = "babeld"
"""The name of babeld where a problem names a link, or an event its backend."""

PEERS_LIST = "peers list"
"""The name of the peers list where a problem names a link; no interface has a name with a space."""

ExtraCmd = Literal["sent", "owed"]
"""What became of ``extra_cmd`` in a run: babeld took it, or it is still to be sent."""


class Entry(Struct, frozen=True):
    """One row of the journal, less its hash.

    ``id`` counts from 1 without gaps. ``run`` is the number of the entry that began the run; in a
    snapshot, that of the last entry that it sums up; 0 in an entry of no run. ``at`` is unix time
    in nanoseconds, and ``payload`` JSON (see ``encode``).
    """

    id: int
    run: int
    kind: str
    scope: str
    at: int
    payload: bytes


class Head(Struct, frozen=True):
    """Where the chain begins and ends, so that neither end can be cut off unseen.

    ``version`` is the schema's. ``dropped`` entries were pruned from the front, the last of which
    had the hash ``anchor``; then come ``count`` entries, the last of which has ``hash``.
    ``repeats`` is the hash of the rows that count repeated runs, empty where there are none.
    """

    version: int
    dropped: int = 0
    anchor: bytes = GENESIS
    count: int = 0
    hash: bytes = GENESIS
    repeats: bytes = b""

    @property
    def last_id(self) -> int:
        """The number of the last entry."""
        return self.dropped + self.count


class Instant(Struct, frozen=True):
    """A point in time, by two clocks.

    ``at`` is unix time in nanoseconds, for people: that clock may be set at any time. ``clock`` is
    CLOCK_BOOTTIME in nanoseconds (clock_gettime(2)), which nobody sets and which goes on while the
    machine sleeps, in the boot with the id ``boot`` (random(4)).
    """

    at: int
    boot: str
    clock: int

    def is_over(self, now: Self) -> bool:
        """Whether this instant is past. An instant of another boot is: who knows how long ago."""
        return self.boot != now.boot or self.clock <= now.clock


class RunHeader(Struct, frozen=True, kw_only=True):
    """The first entry of a run: who runs what, on which inputs.

    ``scope`` keeps apart the meshes that share one journal, ``started_at`` is unix time in
    nanoseconds, and the digests are SHA-256 in hex of the configuration and peers as read
    ("" where there was none). A time out of SQLite's range is no time that a run wrote.
    ``leftover_noticed`` are the indexes of the noticed events that an earlier, unfinished run had
    done. ``accepted``: the user accepted whatever the run costs (``--yes``, or ``rait down``), so
    the guard begins a new count. ``carried`` are events of earlier runs of which neither those nor
    this run could find out what became. ``leftover_links`` are links that an earlier run left half
    made, and that this run ends before all else. ``spelt`` is the path of the configuration as this
    run was given it, if that differs from the scope. ``home`` is the instance of the network
    namespace that the run was in, where VRFs and rules are; a run that records it has marked the
    VRFs that it made or knew. ``confirm_by``: the run is to be taken back if nobody has confirmed
    it by then. ``confirms`` is the run that this one confirms, and ``takes_back`` the run whose
    links this one makes what they were before it; 0 for none. ``cause`` is why `rait watch` began
    the run, "" for a run that somebody asked for. ``signed`` is the signed peers list that the run
    acted on, None if it needed no list, or the list no signature. ``source`` is where the list came
    from, as messages show it ("" for no list), and ``revision`` that of etcd, 0 for other sources.
    """

    scope: str
    command: str
    version: str
    uid: int
    started_at: Annotated[int, Meta(ge=-(2**63), le=2**63 - 1)]
    public_key: str
    config_digest: str = ""
    peers_digest: str = ""
    leftover_noticed: tuple[int, ...] = field(default=(), name="left")
    accepted: bool = False
    carried: tuple[Event, ...] = ()
    leftover_links: tuple[str, ...] = field(default=(), name="strays")
    spelt: str = ""
    home: str = ""
    confirm_by: Instant | None = None
    confirms: int = 0
    takes_back: int = 0
    cause: str = ""
    signed: Signed | None = None
    source: str = ""
    revision: int = 0

    @property
    def peers_list(self) -> str:
        """Which peers list the run acted on, in words; "" for none."""
        return which_list(self.source, self.revision, self.signed)


class Trial(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A run that is to be confirmed, or that was taken back because nobody did.

    ``run`` and ``header`` are those of the run, ``before`` is what there was right before it,
    ``did`` are its events for links, and ``config_before`` is the digest of the rait.conf that was
    in force ("" if unknown). ``taken_back`` is the number of the run that took this one back, 0
    while there is none, and ``taken_back_at`` when that run began (unix time in nanoseconds).
    ``begun``: some run has begun to take this one back, and has not ended.
    """

    run: int
    header: RunHeader
    before: Topology
    did: tuple[Event, ...] = ()
    config_before: str = ""
    taken_back: int = 0
    taken_back_at: int = 0
    begun: bool = False


class Finished(Struct, frozen=True, omit_defaults=True):
    """The end of a run; see RunRecord."""

    status: RunStatus
    problems: Mapping[str, str] = {}
    extra_cmd: ExtraCmd | None = None
    unsure: tuple[int, ...] = ()
    ended: tuple[str, ...] = ()


class Repeated(Struct, frozen=True):
    """How often later runs repeated a run: equal events, outcomes and problems, nothing happened.

    The last repetition ended at ``until`` (unix time in nanoseconds), and had read a configuration
    and peers with these digests; ``source`` and ``revision`` are as in RunHeader.
    """

    count: int = 0
    until: int = 0
    config_digest: str = ""
    peers_digest: str = ""
    source: str = ""
    revision: int = 0


class Attempt(Struct, frozen=True):
    """A run that may turn out to repeat the one before it.

    Earlier versions stored outcomes in it: as they are those of events that failed, it is enough
    to know that the events may be half done.
    """

    header: RunHeader


class Repeats(Struct, frozen=True):
    """The repetitions of run ``run``, its scope's last one; see adapters/journal/store.py."""

    run: int
    total: Repeated = Repeated()
    attempt: Attempt | None = None


class Known(Struct, frozen=True, kw_only=True):
    """What the journal knows of one scope.

    ``topology`` folds all events known to have happened. ``leftover`` are intended events that may
    have happened, or may be half done, as their run is unfinished or could not find out.
    ``extra_cmd_owed``: babeld's interfaces were changed, and babeld has not taken ``extra_cmd``
    since. ``departed`` are endpoints that outlive their links, and ``home`` is that of the last run
    that recorded one (see RunHeader), "" if none did. ``calls_owed`` are calls of commands for
    links that no run has the result of (hooks.py). ``trial`` is the run that is to be confirmed, or
    was taken back (see confirm.py), if any. ``signed`` is the signed peers list that a run acted on
    last, if any did.
    """

    topology: Topology = EMPTY
    leftover: tuple[Event, ...] = field(default=(), name="undecided")
    extra_cmd_owed: bool = False
    departed: Departed = {}
    home: str = ""
    calls_owed: Owed = Owed()
    trial: Trial | None = None
    signed: Signed | None = None


class Snapshot(Known, frozen=True, kw_only=True):
    """What is known of a scope after an entry.

    ``public_key`` is that of the run that last shaped the topology ("" for none), and
    ``config_digest`` that of the last run but those on trial.
    """

    public_key: str = ""
    config_digest: str = ""


class Pruned(Struct, frozen=True):
    """The first ``dropped`` entries went; the last of them had the hash ``anchor``, in hex."""

    dropped: int
    anchor: str


class Named(Struct, frozen=True):
    """Another path under which the scope's configuration was given."""

    path: str


TYPES: Mapping[str, Any] = {
    "run_started": RunHeader,
    "noticed": Event,
    "intended": Event,
    "outcomes": tuple[Outcome, ...],
    "half_done": Event,
    "called": CallResult,
    "run_finished": Finished,
    "repeated": Repeated,
    "snapshot": Snapshot,
    "pruned": Pruned,
    "named": Named,
}
"""The kinds of entries, and the type of each kind's payload."""


_MAY_DIFFER = ("started_at", "config_digest", "peers_digest", "spelt", "source", "revision")
"""What the header of a run may have of its own that repeats another."""


class RunRecord(Struct, frozen=True, kw_only=True):
    """One run as the journal has it.

    ``id`` is the number of the run's first entry and ``last_id`` of its last. ``outcomes`` are by
    index into ``intended``, in the order in which they came in. ``status`` and ``finished_at``
    (unix time in nanoseconds) are None while the run is under way, and for ever after a crash.
    ``problems`` say, by link or for "babeld", what went wrong that is of no intended event.
    ``half_done``, by the numbers of their entries, are events that failed ones had brought about
    all the same, as the run saw when it looked at the machine again; ``unsure`` are the indexes of
    failed events of which that look could not tell. ``ended`` are those of
    ``header.leftover_links`` that the run ended. ``calls`` are the results of the commands that the
    run called for links, in the order in which they came in. ``repeated`` counts later runs that
    repeated this one in vain, and ``retried_at`` is when a repetition began that has not ended.
    ``recorded_at`` is the time of the first entry, which is never before that of the entry before
    it. ``settled_by`` is the first run, with its header, that confirmed this one or took it back.
    """

    id: int
    last_id: int
    header: RunHeader
    noticed: tuple[Event, ...] = ()
    intended: tuple[Event, ...] = ()
    outcomes: Mapping[int, Outcome] = {}
    status: RunStatus | None = None
    finished_at: int | None = None
    problems: Mapping[str, str] = {}
    extra_cmd: ExtraCmd | None = None
    repeated: Repeated | None = None
    retried_at: int | None = None
    recorded_at: int | None = None
    half_done: Mapping[int, Event] = {}
    unsure: tuple[int, ...] = ()
    ended: tuple[str, ...] = ()
    calls: tuple[CallResult, ...] = ()
    settled_by: tuple[int, RunHeader] | None = None

    def noticed_id(self, index: int) -> int:
        """The number of the entry that holds the noticed event of this index.

        A run's events follow its first entry: first the noticed ones, then the intended ones.
        """
        return self.id + 1 + index

    def intended_id(self, index: int) -> int:
        """The number of the entry that holds the intended event of this index."""
        return self.id + 1 + len(self.noticed) + index

    @property
    def done(self) -> int:
        """How many of the intended events happened."""
        return sum(outcome.error is None for outcome in self.outcomes.values())

    @property
    def failed(self) -> int:
        """How many of the intended events failed."""
        return len(self.outcomes) - self.done

    @property
    def unknown(self) -> int:
        """How many of the intended events have no outcome."""
        return len(self.intended) - len(self.outcomes)

    @property
    def clock_was_unset(self) -> bool:
        """Whether the clock showed a time before all journals, unlike that of earlier entries."""
        return self.header.started_at < FIRST_JOURNAL <= (self.recorded_at or 0)

    def may_be_repeated_by(self, header: RunHeader, intended: tuple[Event, ...]) -> bool:
        """Whether a run that noticed nothing may turn out to repeat this one.

        It may if this run noticed nothing either, nothing happened in it, and both intend the same
        events for the same command. The digests and revisions of what they read may differ.
        """
        ended = self.status is not None and self.failed == len(self.intended)
        told = self.calls or self.extra_cmd == "sent"
        changed = self.noticed or self.half_done or self.ended or told
        own = self.header
        return (
            ended
            and not changed
            and self.intended == intended
            and own == structs.replace(header, **{name: getattr(own, name) for name in _MAY_DIFFER})
        )

    def touches(self, link: str | None = None, peer: str | None = None) -> bool:
        """Whether events of this run are about the link and a peer with the public key.

        None stands for any link, and for any peer.
        """
        events = (*self.noticed, *self.intended, *self.half_done.values())
        named = {*self.header.leftover_links, *(call.link for call in self.calls)}
        named.update(event.name for event in events)
        return (link is None or link in named) and (
            peer is None or any(peer in peers_named(event) for event in events)
        )

    def happened(self) -> Iterator[tuple[int, Event]]:
        """The events known to have happened, in order, each with the number of its entry."""
        for index, event in enumerate(self.noticed):
            yield self.noticed_id(index), event
        first = self.intended_id(0)
        for outcome in self.outcomes.values():
            if outcome.error is None:
                yield first + outcome.index, self.intended[outcome.index]
        yield from self.half_done.items()

    def leftover(self) -> Iterator[Event]:
        """The events that may have happened, or may be half done, as the run did not find out.

        In an unfinished run these are all events but those that are done. Events of earlier runs
        that this one carried on are among them.
        """
        ended, unsure = frozenset(self.ended), frozenset(self.unsure)
        yield from (event for event in self.header.carried if event.name not in ended)
        for index, event in enumerate(self.intended):
            outcome = self.outcomes.get(index)
            if self.status is not None:
                if index in unsure:
                    yield event
            elif outcome is None or (outcome.error is not None and may_be_half_done(event)):
                yield event

    def leftover_links(self) -> Mapping[str, Link]:
        """The links that may have been made, by leftover events."""
        return links_added(self.leftover())


def entry_hash(before: bytes, entry: Entry) -> bytes:
    """The hash of an entry that follows one with the hash ``before``."""
    return row_hash(before, structs.astuple(entry))


def seal(head: Head) -> bytes:
    """The hash that covers the head itself."""
    columns: tuple[Value, ...] = (head.version, head.dropped, head.anchor, head.count, head.hash)
    # A journal of version 1 had no repeats, so a head without any is sealed as it was there.
    return sha256(
        _spelt_row(b"head", (*columns, head.repeats) if head.repeats else columns)
    ).digest()


def repeats_hash(rows: Iterable[tuple[Value, ...]]) -> bytes:
    """The hash of the rows that count repeated runs, in order; empty where there are none."""
    hashes = [row_hash(b"repeats", tuple(row)) for row in rows]
    return fast_sha256()(b"".join(hashes)).digest() if hashes else b""


def row_hash(before: bytes, columns: tuple[Value, ...]) -> bytes:
    """The hash of a row's columns as SQLite gives them, whatever their types."""
    return fast_sha256()(_spelt_row(before, columns)).digest()


def _spelt_row(before: bytes, columns: tuple[Value, ...]) -> bytes:
    return b"".join([_spelt(before), *map(_spelt, columns)])


def _spelt(value: Value) -> bytes:
    if isinstance(value, bytes):
        return b"b%d:%b" % (len(value), value)
    if isinstance(value, str):
        # Text that is not UTF-8 must not pass for other text, nor stop the verification.
        raw = value.encode("utf-8", "surrogateescape")
        return b"s%d:%b" % (len(raw), raw)
    raw = repr(value).encode()
    return b"%b%d:%b" % (type(value).__name__[:1].encode(), len(raw), raw)


_encoder = msgspec.json.Encoder(order="deterministic")

# SQLite keeps whatever is put into a column, so the payload need not be bytes.
_UNREADABLE = (msgspec.DecodeError, UnicodeDecodeError, TypeError, RecursionError)


@cache
def _decoder(payload: Any) -> msgspec.json.Decoder[Any]:
    """The decoder of a payload of this type: to make one takes a while, and few types are read."""
    return msgspec.json.Decoder(payload)


def encode(payload: object) -> bytes:
    """The bytes that stand for a payload, or Repeats. A Secret is neither and raises TypeError."""
    try:
        return _encoder.encode(payload)
    except UnicodeEncodeError:
        # Arguments and errors of the system may hold bytes that are no text, which JSON cannot.
        return msgspec.json.encode(as_text(msgspec.to_builtins(payload, order="deterministic")))


def as_text(value: object) -> object:
    """A value for JSON, with all bytes in it that are no text spelt out as ``\\udcXX``."""
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    if isinstance(value, dict):
        return {as_text(key): as_text(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [as_text(item) for item in value]
    return value


def decode(entry: Entry) -> Any:
    """The payload of an entry. Raises HistoryError if a later rait wrote it, or for damage."""
    if entry.kind not in TYPES:
        raise HistoryError(
            f"entry {entry.id} of the journal is a {entry.kind!r}, which this rait does not know: "
            "a later rait wrote it (so upgrade rait), or it is damaged, which `rait log verify` "
            "can tell"
        )
    try:
        return _decoder(TYPES[entry.kind]).decode(entry.payload)
    except _UNREADABLE as error:
        run = "" if entry.kind == "snapshot" or not entry.run else f" (run {entry.run})"
        raise HistoryError(
            f"entry {entry.id} ({entry.kind}) of the journal{run} cannot be read: {error}; a later "
            "rait wrote it, or it is damaged, which `rait log verify` can tell"
        ) from None


def decode_repeats(payload: bytes, scope: str) -> Repeats:
    """The repetitions of the scope's last run. Raises HistoryError for damage."""
    try:
        repeats: Repeats = _decoder(Repeats).decode(payload)
    except _UNREADABLE as error:
        raise damage(f"the count of repeated runs of {scope} cannot be read: {error}") from None
    return repeats


def time_of(entry: Entry) -> int:
    """When the entry was written. Raises HistoryError where it has no time."""
    at: Value = entry.at  # whatever SQLite has there
    if not isinstance(at, int):
        raise damage(f"entry {entry.id} of the journal has no time")
    return at


def damage(what: str) -> HistoryError:
    """The error for a journal that no rait wrote so; ``what`` says what is wrong."""
    return HistoryError(f"{what}; the journal was damaged, and `rait log verify` tells where")


def gather(entries: Iterable[Entry]) -> tuple[RunRecord, ...]:
    """The runs that these entries, in order, record; the last ones may lack their ends.

    Raises HistoryError for an entry that cannot be decoded, and for a run with a missing entry.
    """
    found: dict[int, list[tuple[Entry, Any]]] = {}
    for entry in entries:
        payload = decode(entry)
        if isinstance(payload, RunHeader):
            found[entry.id] = [(entry, payload)]
        elif isinstance(payload, (Snapshot, Pruned, Named)):
            continue
        elif entry.run in found:
            found[entry.run].append((entry, payload))
        # The count of a run's repetitions may come after a snapshot that sums up the run itself.
        elif not isinstance(payload, Repeated):
            raise damage(f"entry {entry.id} of the journal is of no run that it holds")
    return tuple(_run_of(entries) for entries in found.values())


def _run_of(entries: Sequence[tuple[Entry, Any]]) -> RunRecord:
    """The run that these entries record, each with its payload; the first one is the header."""
    first, header = entries[0]
    last_id = first.id
    events: dict[str, list[Event]] = {"noticed": [], "intended": []}
    outcomes, half_done = dict[int, Outcome](), dict[int, Event]()
    calls: list[CallResult] = []
    ending: dict[str, Any] = {}
    repeated: Repeated | None = None
    for entry, payload in entries[1:]:
        kind = entry.kind
        if kind == "repeated":
            repeated = payload
            continue
        last_id = entry.id
        if kind in events:
            _require_next(entry, 1 + len(events["noticed"]) + len(events["intended"]))
            events[kind].append(payload)
        elif kind == "outcomes":
            outcomes |= _by_index(entry, payload, len(events["intended"]))
        elif kind == "half_done":
            half_done[entry.id] = payload
        elif kind == "called":
            calls.append(payload)
        else:
            ending = {"finished_at": time_of(entry), **structs.asdict(payload)}
    return RunRecord(
        id=first.id,
        last_id=last_id,
        header=header,
        recorded_at=time_of(first),
        noticed=tuple(events["noticed"]),
        intended=tuple(events["intended"]),
        outcomes=outcomes,
        half_done=half_done,
        calls=tuple(calls),
        repeated=repeated,
        **ending,
    )


def _require_next(entry: Entry, place: int) -> None:
    """A run's events follow its first entry without gaps; see RunRecord.noticed_id."""
    if entry.id != (expected := entry.run + place):
        raise damage(f"entry {expected} of the journal, an event of run {entry.run}, is missing")


def _by_index(entry: Entry, outcomes: tuple[Outcome, ...], intended: int) -> dict[int, Outcome]:
    if not all(0 <= outcome.index < intended for outcome in outcomes):
        raise damage(
            f"entry {entry.id} of the journal names an event that run {entry.run} does not have"
        )
    return {outcome.index: outcome for outcome in outcomes}

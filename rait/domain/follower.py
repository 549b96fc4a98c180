"""How a registry of many keys is followed: events in, actions out, and time as a value.

1. All is read once. From then on one member tells of the changes since. Where it fails, the next
   one has its turn, and goes on if it had at the known revision what is known: a registry that was
   restored from a backup may have the same name, and be past it with another history.
2. All is read anew where the changes since are gone (compacted), where a member does not tell of
   them, and where the registry is another one, or as it was once.
3. At each heartbeat the member is asked whether it has told all. That is seen from the number of
   keys and the newest revision among them: a key that is deleted is one less, and one that is put
   has a newer revision. The terms of elections tell nothing: a member that the others sent a
   snapshot says an old one until the next write.
4. Following ends where etcd refuses, and where nothing was heard for PATIENCE seconds.
"""

from __future__ import annotations

from typing import Literal

from msgspec import Struct, structs

from rait.domain.replica import Change, Replica

PATIENCE = 10.0
"""Seconds without a word, after which following ends if each member was asked."""


class Ask(Struct, frozen=True):
    """Ask for all keys; for the newest one at the known ``revision`` (past); for the changes since;
    after a heartbeat, for the revision; for a key that is newer than the known revision.
    """

    what: Literal["all", "past", "changes", "revision", "newer"]
    revision: int = 0


class Tell(Struct, frozen=True):
    """Tell this list, or confirm it where it is not new."""

    replica: Replica
    is_new: bool


class Leave(Struct, frozen=True):
    """End this turn, and let the next member have its in a moment; with ``error``, end all."""

    error: str = ""


class Turn(Struct, frozen=True):
    """A member has its turn: its name, for messages."""

    member: str


class Listed(Struct, frozen=True):
    """All keys, and the member that gave them: another one, if that of the turn had no answer."""

    replica: Replica
    member: str


class Told(Struct, frozen=True):
    """The member tells of changes; None: those that were asked for are compacted."""

    changes: tuple[Change, ...] | None


class Answered(Struct, frozen=True):
    """What the registry is now, the number of its keys, and the one asked for if there is one.

    The revision in ``ask`` is the one that was known when it was asked.
    """

    ask: Ask
    cluster: int
    revision: int
    count: int
    newest: Change | None


class Failed(Struct, frozen=True):
    """The member has no answer, or tells no more; or ``is_refusal``: no member will."""

    ask: Ask
    why: str
    is_refusal: bool = False


Action = Ask | Tell | Leave
Event = Turn | Listed | Told | Answered | Failed


class State(Struct, frozen=True, kw_only=True):
    """What is known of the registry ``name``, which has so many ``members``, and whose turn it is.

    Something was heard at ``heard_at`` last, and ``failures`` turns ended since, the last one for
    ``why``. At the last heartbeat, changes since the revision ``owed`` were still to be told.
    """

    name: str
    members: int
    heard_at: float
    replica: Replica = Replica(0, 0, {})
    must_read: bool = True
    member: str = ""
    failures: int = 0
    why: str = ""
    owed: int = -1


_Stepped = tuple[State, tuple[Action, ...]]


def step(state: State, event: Event, now: float) -> _Stepped:
    """What is to be done about an event, and the state after it; ``now`` is in seconds."""
    known = state.replica
    match event:
        case Turn(member):
            first = Ask("all") if state.must_read else Ask("past", known.revision)
            return structs.replace(state, member=member, owed=-1), (first,)
        case _ if not state.member:  # its turn is over
            return state, ()
        case Listed(replica, member):
            state = structs.replace(state, member=member, must_read=False)
            state, told = _heard(state, replica, now)
            return state, (*told, *_listen(replica))
        case Told(None):
            return _left(structs.replace(state, must_read=True), now, state.why)
        case Told(changes):
            return _heard(state, known.told(changes), now) if changes else (state, ())
        case Answered():
            return _answered(state, event, now)
        case Failed(Ask("past"), _, True):  # this revision is compacted, or still to come
            return state, (Ask("all"),)
        case Failed(Ask("all" | "changes"), why, True):
            return structs.replace(state, member=""), (Leave(why),)
        case Failed(_, why):
            return _left(state, now, f"{state.member}: {why}")


def _listen(known: Replica) -> tuple[Action, ...]:
    return Ask("changes", known.revision), Ask("revision")


def _heard(state: State, replica: Replica, now: float) -> _Stepped:
    before = state.replica
    is_new = (replica.cluster, replica.lines) != (before.cluster, before.lines)
    state = structs.replace(state, replica=replica, heard_at=now, failures=0)
    return state, (Tell(replica, is_new),)


def _answered(state: State, answer: Answered, now: float) -> _Stepped:
    known, what, asked = state.replica, answer.ask.what, answer.ask.revision
    told: tuple[Action, ...] = ()
    is_newest, owed = answer.revision == asked, -1
    if what == "past":
        if not known.is_past_of(answer.cluster, answer.count, answer.newest):
            return state, (Ask("all"),)
        return state, (*((Tell(known, False),) if is_newest else ()), *_listen(known))
    if answer.cluster != known.cluster or answer.revision < asked:
        return _silent(state, now)
    if known.revision == asked:  # else it has told of changes since
        if what == "revision" and not is_newest:
            return state, (Ask("newer", asked),)
        if is_newest or (answer.newest is None and answer.count == len(known.lines)):
            state, told = _heard(state, known.told((), answer.revision), now)
        elif state.owed == asked:
            return _silent(state, now)
        else:
            owed = asked  # it may be about to tell
    return structs.replace(state, owed=owed), (*told, Ask("revision"))


def _silent(state: State, now: float) -> _Stepped:
    state = structs.replace(state, must_read=True)
    return _left(state, now, f"{state.member}: it does not tell of changes")


def _left(state: State, now: float, why: str) -> _Stepped:
    failures = state.failures + 1
    is_end = now > state.heard_at + PATIENCE and failures >= state.members
    error = f"{state.name}: no member tells of changes: {why}" if is_end else ""
    return structs.replace(state, member="", failures=failures, why=why), (Leave(error),)

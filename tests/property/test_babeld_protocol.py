"""Laws of the conversation with babeld and of what a sync tells it."""

from __future__ import annotations

import re
from itertools import pairwise

from hypothesis import given
from hypothesis import strategies as st

from rait.domain.babel import (
    INTERFACE_LINE,
    Answer,
    BabeldError,
    Conversation,
    Limits,
    add_command,
    believed,
    encode_command,
    flush_command,
    interfaces_from_dump,
    is_interface_name,
    is_ours,
)
from rait.domain.events import BabelInterfaceAdded, BabelInterfaceFlushed, replay
from rait.domain.topology import Topology
from tests.babel_sync import babel_events

BANNER = b"BABEL 1.0\nversion babeld-1.12.1\nhost a\nmy-id 60:96:2a:d9:a5:63:32:d9\nok\n"
LIMITS = Limits(line=64, answer=512)

fragments = st.sampled_from(
    [
        b"BABEL 1.0\n",
        b"ok\n",
        b"no\n",
        b"no such\n",
        b"bad\n",
        b"add interface v0 up true\n",
        b"\n",
        b"\r\n",
        b"\x00",
        b"x" * 70,
    ]
)
streams = st.lists(fragments | st.binary(max_size=40), max_size=30).map(b"".join)
names = st.sampled_from(["rait4x1", "rait4x2", "rait6x1", "rait6x65535", "lo", "eth0", "old"])
params = st.sampled_from(["", "type tunnel", "type tunnel rxcost 96"])
babels = st.dictionaries(names, params)


def split(data: bytes, cuts: list[int]) -> list[bytes]:
    places = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return [data[a:b] for a, b in pairwise(places)]


def converse(pieces: list[bytes], command: str | None) -> Answer | str | None:
    """The first answer, or what the error says, or None for one that never gets complete."""
    conversation = Conversation(LIMITS)
    if command is not None:
        conversation.receive(BANNER)
        conversation.next_answer()
        conversation.send(command)
    try:
        for piece in pieces:
            conversation.receive(piece)
            if (answer := conversation.next_answer()) is not None:
                return answer
        conversation.receive_end()
        return conversation.next_answer()
    except BabeldError as error:
        return str(error)


@given(streams, st.lists(st.integers(min_value=0)), st.sampled_from([None, "dump", "quit"]))
def test_any_bytes_in_any_pieces_give_one_answer_or_our_error(
    data: bytes, cuts: list[int], command: str | None
) -> None:
    whole = converse([data], command)
    assert converse(split(data, cuts), command) == whole
    assert whole is not None


@given(st.binary(max_size=200))
def test_an_error_is_one_printable_line(data: bytes) -> None:
    outcome = converse([data], None)
    assert not isinstance(outcome, str) or outcome.isprintable()


@given(st.text(max_size=30) | st.text(alphabet=' "\\#\nabc', max_size=30))
def test_what_is_sent_is_one_line_with_its_quotes_closed(command: str) -> None:
    try:
        line = encode_command(command)
    except BabeldError:
        return
    assert line == command.encode() + b"\n"
    assert not re.search(rb"[\x00-\x1f\x7f]", line[:-1])
    assert re.sub(rb'"(?:[^"\\]|\\.)*"', b"", line).count(b'"') == 0


class ModelBabeld:
    """As much of babeld as the client's commands can see of it (babeld 1.12.1)."""

    def __init__(self, interfaces: dict[str, str]) -> None:
        self.interfaces = dict(interfaces)

    def answer(self, line: bytes) -> bytes:
        word, *rest = line.decode().removesuffix("\n").split(" ", 2)
        if word == "dump":
            told = [f"add interface {name} up false\n" for name in self.interfaces]
            return "".join([*told, "add route 1 prefix ::/0\n", "ok\n"]).encode()
        if word == "interface":
            self.interfaces[rest[0]] = rest[1] if len(rest) > 1 else ""
            return b"ok\n"
        if word == "flush":
            known = self.interfaces.pop(rest[1], None) is not None
            return b"ok\n" if known else b"no No such interface\n"
        return b"bad\n"


@given(babels, babels, babels, st.booleans(), st.lists(st.integers(min_value=0), max_size=8))
def test_a_sync_with_a_model_of_babeld_ends_as_wanted(
    present: dict[str, str],
    remembered: dict[str, str],
    wanted: dict[str, str],
    exclusive: bool,
    cuts: list[int],
) -> None:
    babeld = ModelBabeld(present)
    conversation = Conversation()
    conversation.receive(BANNER)
    conversation.next_answer()

    def ask(command: str, keep: str = "") -> Answer:
        for piece in split(babeld.answer(conversation.send(command, keep)), cuts):
            conversation.receive(piece)
        answer = conversation.next_answer()
        assert answer is not None
        return answer

    def ours(name: str) -> bool:
        return is_ours(name, ("rait4x", "rait6x"), remembered)

    def sync() -> list[str]:
        has = [i.name for i in interfaces_from_dump(ask("dump", INTERFACE_LINE).lines)]
        current = believed(has, remembered, wanted)
        events = babel_events(current, wanted, ours=ours, exclusive=exclusive)
        after = replay(Topology({}, current), events).babel
        for event in events:
            if isinstance(event, BabelInterfaceAdded):
                assert ask(add_command(event.name, event.param)).verdict == "ok"
            else:
                assert ask(flush_command(event.name)).verdict == "ok"
        remembered.clear()
        remembered.update(after)
        assert set(after) == set(babeld.interfaces)
        return [event.name for event in events]

    before = dict(babeld.interfaces)
    known = dict(remembered)
    foreign = {n for n in before if n not in wanted and not is_ours(n, ("rait4x", "rait6x"), known)}
    sync()
    assert set(babeld.interfaces) == set(wanted) | (set() if exclusive else foreign)
    for name, param in wanted.items():
        if name in known or name not in before:
            # unless babeld had it with other parameters than the journal believed
            assert babeld.interfaces[name] == param or before.get(name) != known.get(name)
    remembered_ours = {name: param for name, param in remembered.items() if name in wanted}
    remembered.clear()
    remembered.update(remembered_ours)
    assert sync() == []


@given(babels, babels, st.booleans())
def test_a_diff_replays_to_what_is_wanted_and_a_second_one_is_empty(
    current: dict[str, str], wanted: dict[str, str], exclusive: bool
) -> None:
    def ours(name: str) -> bool:
        return name.startswith("rait")

    events = babel_events(current, wanted, ours=ours, exclusive=exclusive)
    after = replay(Topology({}, current), events).babel
    left_alone = {} if exclusive else {n: p for n, p in current.items() if not ours(n)}
    assert after == {**left_alone, **wanted}
    assert babel_events(after, wanted, ours=ours, exclusive=exclusive) == ()
    touched = [event.name for event in events if isinstance(event, BabelInterfaceFlushed)]
    assert exclusive or all(ours(name) or name in wanted for name in touched)


@given(st.text(max_size=20))
def test_every_name_that_is_let_through_stays_one_word(name: str) -> None:
    if is_interface_name(name):
        assert add_command(name, "rxcost 32").split() == ["interface", name, "rxcost", "32"]
        assert flush_command(name).split() == ["flush", "interface", name]

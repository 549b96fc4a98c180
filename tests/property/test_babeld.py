"""Laws of the conversation with babeld and of what a sync tells it."""

from __future__ import annotations

import re
from contextlib import suppress
from itertools import pairwise
from unittest import mock

from hypothesis import given
from hypothesis import strategies as st

from rait.adapters import babeld as module
from rait.adapters.babeld import (
    Answer,
    BabeldClient,
    BabeldError,
    encode_command,
    parse_neighbour,
)
from rait.domain.babel import is_interface_name, is_ours
from rait.domain.config.schema import Babeld
from rait.domain.events import BabelInterfaceAdded, BabelInterfaceFlushed, replay
from rait.domain.topology import Topology
from tests.babeld_model import BANNER, NEVER, Pieces, babel_events, connection

LIMIT = 512
"""Bytes of an answer."""

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
    """The first answer, None for a banner, or what the error says."""
    opening = [] if command is None else [BANNER]
    babeld, _ = connection(*opening, *pieces)
    try:
        with mock.patch.object(module, "MOST_BYTES", LIMIT):
            babeld.greet(NEVER)
            return None if command is None else babeld.ask(command, NEVER)
    except BabeldError as error:
        return str(error)


@given(streams, st.lists(st.integers(min_value=0)), st.sampled_from([None, "dump", "quit"]))
def test_any_bytes_in_any_pieces_give_one_answer_or_our_error(
    data: bytes, cuts: list[int], command: str | None
) -> None:
    assert converse(split(data, cuts), command) == converse([data], command)


@given(st.binary(max_size=200))
def test_an_error_is_one_printable_line(data: bytes) -> None:
    outcome = converse([data], None)
    assert not isinstance(outcome, str) or outcome.isprintable()


words = st.sampled_from(
    b"if v0 address fe80::1 reach ffff 1ffff rxcost txcost cost 96 -1 4294967296 1e9 rtt 0.5 nan "
    b"inf \x01 \xff".split(b" ")
)
told = st.lists(words | st.binary(max_size=5), max_size=16)
whole = st.permutations(
    [b"if v0", b"address fe80::1", b"reach ffff", b"rxcost 32", b"txcost 96", b"cost 128"]
)


@given(told | st.tuples(whole, told).map(lambda both: [*both[0], *both[1]]))
def test_a_neighbour_is_told_in_a_known_way_or_not_at_all(words: list[bytes]) -> None:
    found = parse_neighbour(b" ".join([b"add neighbour 55d", *words]))
    if found is not None:
        assert is_interface_name(found.interface)
        assert found.address.isascii()
        assert found.address.isprintable()
        assert 0 <= found.reach <= 0xFFFF
        numbers = (found.rxcost, found.txcost, found.cost, found.rtt or 0)
        assert all(0 <= number < 2**32 for number in numbers)


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
    """As much of babeld as the client's commands can see of it (babeld 1.12.1).

    Its answers come in pieces, cut at ``cuts``.
    """

    def __init__(self, interfaces: dict[str, str], cuts: list[int]) -> None:
        self.interfaces = dict(interfaces)
        self.cuts = cuts

    def socket(self, _: int) -> ModelSocket:
        return ModelSocket(self)

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


class Recorder(Pieces):
    """A connection over which each command is taken."""

    def __init__(self) -> None:
        super().__init__([BANNER])

    def sendall(self, data: bytes) -> None:
        super().sendall(data)
        self.pieces.append(b"ok\n")


class ModelSocket(Pieces):
    """A connection to the model."""

    def __init__(self, babeld: ModelBabeld) -> None:
        super().__init__([BANNER])
        self.babeld = babeld

    def sendall(self, data: bytes) -> None:
        self.pieces += filter(None, split(self.babeld.answer(data), self.babeld.cuts))


@given(babels, babels, babels, st.booleans(), st.lists(st.integers(min_value=0), max_size=8))
def test_a_sync_with_a_model_of_babeld_ends_as_wanted(
    present: dict[str, str],
    remembered: dict[str, str],
    wanted: dict[str, str],
    exclusive: bool,
    cuts: list[int],
) -> None:
    babeld = ModelBabeld(present, cuts)
    client = BabeldClient(Babeld(), babeld.socket)  # type: ignore[arg-type]

    def sync() -> list[str]:
        has = [interface.name for interface in client.interfaces()]
        current = {name: remembered.get(name, wanted.get(name, "")) for name in has}
        events = babel_events(has, remembered, wanted, exclusive=exclusive)
        after = replay(Topology({}, current), events).babel
        for event in events:
            if isinstance(event, BabelInterfaceAdded):
                client.add(event.name, event.param)
            else:
                client.flush(event.name)
        remembered.clear()
        remembered.update(after)
        assert set(after) == set(babeld.interfaces)
        return [event.name for event in events]

    before = dict(babeld.interfaces)
    known = dict(remembered)
    ours = {name for name, param in known.items() if param}
    foreign = {n for n in before if n not in wanted and not is_ours(n, ("rait4x", "rait6x"), ours)}
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
        return name.startswith("rait") or bool(current.get(name))

    events = babel_events(current, current, wanted, exclusive=exclusive)
    after = replay(Topology({}, current), events).babel
    left_alone = {} if exclusive else {n: p for n, p in current.items() if not ours(n)}
    assert after == {**left_alone, **wanted}
    assert babel_events(after, after, wanted, exclusive=exclusive) == ()
    touched = [event.name for event in events if isinstance(event, BabelInterfaceFlushed)]
    assert exclusive or all(ours(name) or name in wanted for name in touched)


@given(st.text(max_size=20))
def test_every_name_that_is_let_through_stays_one_word(name: str) -> None:
    socket = Recorder()
    client = BabeldClient(Babeld(), lambda _: socket)  # type: ignore[arg-type,return-value]
    with suppress(BabeldError):
        client.add(name, "rxcost 32")
    with suppress(BabeldError):
        client.flush(name)
    add, flush = f"interface {name} rxcost 32\n", f"flush interface {name}\n"
    assert socket.sent == ([add.encode(), flush.encode()] if is_interface_name(name) else [])
    assert not socket.sent or name.split() == [name]
